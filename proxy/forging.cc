#include "proxy/forging.h"

#include <algorithm>
#include <array>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace proxy {
namespace {

using Version = std::array<int, 3>;

// {0, 0, 0} for what is no version.
Version ParseVersion(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, '.');
  Version version = {};
  if (parts.size() != version.size()) return {};
  for (size_t i = 0; i < version.size(); ++i) {
    if (!absl::SimpleAtoi(parts[i], &version[i])) return {};
  }
  return version;
}

// Quotes in the line of a shebang, or what is no text at all.
bool HasOddShebang(absl::string_view script) {
  if (!absl::StartsWith(script, "#!")) return false;
  const absl::string_view line = script.substr(0, script.find('\n'));
  return std::any_of(line.begin(), line.end(), [](char c) {
    return c == '"' || c == '\'' || static_cast<unsigned char>(c) < ' ';
  });
}

}  // namespace

Forging ForgingOf(const cluster::CommandSpec& command, absl::Span<const absl::string_view> args) {
  const bool odd = HasScriptText(command) && args.size() > 1 && HasOddShebang(args[1]);
  return odd ? Forging::kAnyServer : ForgingOf(command);
}

bool IsForgedByScripts(const ServerInfo& server) {
  const Version version = ParseVersion(server.version);
  if (!server.valkey) return version < Version{7, 0, 0};
  constexpr Version kMended[] = {{7, 2, 12}, {8, 0, 7}, {8, 1, 6}, {9, 0, 2}};
  // The first one of its line, or any line after the last.
  return std::none_of(std::begin(kMended), std::end(kMended), [&](const Version& mended) {
    const bool same_line = version[0] == mended[0] && version[1] == mended[1];
    return same_line ? version >= mended : mended == kMended[3] && version > mended;
  });
}

}  // namespace proxy
