#include "proxy/monitor_line.h"

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace proxy {
namespace {

constexpr absl::string_view kHidden = "(redacted)";

// The servers' sdscatrepr.
void AppendQuoted(absl::string_view arg, std::string* out) {
  constexpr char kDigits[] = "0123456789abcdef";
  out->push_back('"');
  for (const char c : arg) {
    const auto byte = static_cast<unsigned char>(c);
    switch (c) {
      case '\\':
      case '"':
        out->push_back('\\');
        out->push_back(c);
        break;
      case '\n':
        out->append("\\n");
        break;
      case '\r':
        out->append("\\r");
        break;
      case '\t':
        out->append("\\t");
        break;
      case '\a':
        out->append("\\a");
        break;
      case '\b':
        out->append("\\b");
        break;
      default:
        if (byte >= 0x20 && byte < 0x7f) {
          out->push_back(c);
        } else {
          const char hex[] = {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
          out->append(hex, sizeof(hex));
        }
    }
  }
  out->push_back('"');
}

// By number. The servers show a password where they refuse the command before they look at it; here
// it is hidden always.
std::vector<bool> HiddenArgs(const cluster::CommandSpec& command,
                             absl::Span<const absl::string_view> args) {
  std::vector<bool> hidden(args.size(), false);
  if (!command.container.empty()) return hidden;
  if (command.name == "AUTH") hidden.assign(args.size(), true);
  if (command.name == "HELLO") {
    for (size_t i = 2; i < args.size(); ++i) {
      if (absl::EqualsIgnoreCase(args[i], "SETNAME")) {
        ++i;
      } else if (absl::EqualsIgnoreCase(args[i], "AUTH")) {
        for (size_t end = i + 2; i < end && i + 1 < args.size();) hidden[++i] = true;
      }
    }
  }
  hidden[0] = false;
  return hidden;
}

}  // namespace

bool IsShownToMonitors(const cluster::CommandSpec& command) {
  return (command.flags & cluster::kFlagAdmin) == 0;
}

std::string QuoteForMonitors(const cluster::CommandSpec& command,
                             absl::Span<const absl::string_view> args) {
  const std::vector<bool> hidden = HiddenArgs(command, args);
  std::string text;
  for (size_t i = 0; i < args.size(); ++i) {
    if (i > 0) text.push_back(' ');
    AppendQuoted(hidden[i] ? kHidden : args[i], &text);
  }
  return text;
}

void AppendMonitorLine(absl::Time now, uint32_t database, absl::string_view address,
                       absl::string_view quoted, std::string* out) {
  const int64_t now_us = absl::ToUnixMicros(now);
  absl::StrAppendFormat(out, "+%d.%06d [%d ", now_us / 1000000, now_us % 1000000, database);
  absl::StrAppend(out, absl::StartsWith(address, "/") ? "unix:" : "", address, "] ", quoted,
                  "\r\n");
}

}  // namespace proxy
