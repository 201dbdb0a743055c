#pragma once

// File: proxy/monitor_line.h
//
// How MONITOR shows a command: as the servers do, byte for byte. Pure.

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cluster/command_table.h"

namespace proxy {

// False: the servers never show it ("administrative commands are considered too dangerous").
bool IsShownToMonitors(const cluster::CommandSpec& command);

// `"SET" "k" "a\nb"`: the arguments, with the command's name as it was sent; passwords hidden.
std::string QuoteForMonitors(const cluster::CommandSpec& command,
                             absl::Span<const absl::string_view> args);

// Appends the whole line. `address` is the client's end of its connection; that of a client on a
// Unix socket: the socket's path.
void AppendMonitorLine(absl::Time now, uint32_t database, absl::string_view address,
                       absl::string_view quoted, std::string* out);

}  // namespace proxy
