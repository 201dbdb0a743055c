#include "proxy/forging.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "proxy/server_info.h"

namespace proxy {
namespace {

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
  // What can't be read is older than all.
  const ServerVersion version = ParseServerVersion(server.version).value_or(ServerVersion{});
  if (!server.valkey) return version < ServerVersion{7, 0, 0};
  constexpr ServerVersion kMended[] = {{7, 2, 12}, {8, 0, 7}, {8, 1, 6}, {9, 0, 2}};
  // The first one of its line, or any line after the last.
  return std::none_of(std::begin(kMended), std::end(kMended), [&](const ServerVersion& mended) {
    const bool same_line = version[0] == mended[0] && version[1] == mended[1];
    return same_line ? version >= mended : mended == kMended[3] && version > mended;
  });
}

}  // namespace proxy
