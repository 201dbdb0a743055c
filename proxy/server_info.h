#pragma once

// File: proxy/server_info.h
//
// What a node's INFO says of the server that it runs.

#include <array>
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

// Major, minor, patch: to compare.
using ServerVersion = std::array<int, 3>;

// "7.2.4"; what is missing behind the first number is -1: "7.2" is before all others of its line.
// Nothing for what is no version, as that of a build of a branch.
absl::optional<ServerVersion> ParseServerVersion(absl::string_view text);

// Redis of that version or a later one, or of none that can be read; of Valkey: no.
bool IsRedisSince(const ServerInfo& server, int major, int minor);
// Valkey 9, or later: a cluster may have several databases.
bool HasDatabases(const ServerInfo& server);
// Redis older than 7.2: several texts changed there, and Valkey has the newer ones.
bool IsBeforeRedis72(const ServerInfo& server);

}  // namespace proxy
