#pragma once

// File: proxy/server_info.h
//
// What a node's INFO says of the server that it runs.

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "proxy/messages.h"

namespace proxy {

// The value of "name:value" in the text of INFO; empty if it is missing or not a plain word.
std::string InfoField(absl::string_view info, absl::string_view name);

// Family and version, out of the reply to INFO server; nothing if the node does not say (no right
// to INFO, for one).
absl::optional<ServerInfo> ReadServerInfo(absl::string_view info_frame);

}  // namespace proxy
