#pragma once

// File: proxy/forging.h
//
// Error replies that hold more than one line. Servers send some texts of clients in errors as they
// are, line ends and all; what follows a line end looks like the reply to the next request on the
// connection. So such requests go on private connections, and what may have forged something ends
// its connection.
//   - What a script says of its failure: Valkey before 7.2.12, 8.0.7, 8.1.6 and 9.0.2
//     (CVE-2025-67733).
//   - The first line of a script if it begins with "#!": its parts are taken out of quotes, in
//   which
//     "\r\n" is a line end, and stand in errors as they are (Redis 7.0 to 8.2, all Valkeys up to
//     9.0: redis/redis#15496, valkey-io/valkey#4122).

#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cluster/command_table.h"
#include "proxy/messages.h"

namespace proxy {

// Who sends such an error.
enum class Forging : uint8_t { kNobody, kSomeServers, kAnyServer };

// By the command alone.
inline Forging ForgingOf(const cluster::CommandSpec& command) {
  const bool may =
      command.is_script() || (!command.container.empty() &&
                              (command.container == "SCRIPT" || command.container == "FUNCTION"));
  return may ? Forging::kSomeServers : Forging::kNobody;
}
// It has the text of a script as its first argument.
inline bool HasScriptText(const cluster::CommandSpec& command) {
  return command.is_script() && absl::StartsWith(command.name, "EVAL") &&
         !absl::StartsWith(command.name, "EVALSHA");
}
// By that text, too; the first one of `args` is the command's name.
Forging ForgingOf(const cluster::CommandSpec& command, absl::Span<const absl::string_view> args);

// The server sends what scripts say of their failure as it is. Those of unknown versions do.
bool IsForgedByScripts(const ServerInfo& server);

}  // namespace proxy
