#pragma once

// File: proxy/client_line.h
//
// What CLIENT LIST and CLIENT INFO tell of one client: the servers' fields in their order. What a
// proxy has no number for is 0, or left out where a reader would miss nothing.

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "cluster/command_table.h"
#include "proxy/tracking_state.h"
#include "resp/encoder.h"

namespace proxy {

struct ServerInfo;

struct ClientFacts {
  uint64_t id = 0;
  std::string address;        // its end of the connection
  std::string local_address;  // our end
  int fd = -1;
  std::string name;
  std::string library_name;
  std::string library_version;
  absl::Duration age;
  absl::Duration idle;  // since its last input
  // What its flags tell.
  bool monitor = false;
  bool subscribed = false;
  bool queueing = false;  // between MULTI and EXEC
  bool blocked = false;
  bool watch_lost = false;  // EXEC will answer null
  bool ending = false;      // when its replies are out
  bool no_evict = false;
  bool no_touch = false;

  TrackingState tracking;

  uint32_t database = 0;
  size_t channels = 0;
  size_t patterns = 0;
  size_t shard_channels = 0;
  size_t queued_commands = 0;
  uint64_t queued_bytes = 0;
  size_t watched_keys = 0;
  uint64_t input_bytes = 0;   // not taken yet
  uint64_t output_bytes = 0;  // not sent yet
  uint64_t held_bytes = 0;    // all that it is charged for
  bool sending = false;
  const cluster::CommandSpec* last_command = nullptr;  // null: there is none, or nobody knows it
  resp::Protocol protocol = resp::Protocol::kResp2;
};

// Appends the line without its end.
void AppendClientLine(const ClientFacts& facts, const ServerInfo& server, std::string* out);

}  // namespace proxy
