#pragma once

// File: proxy/tracker.h
//
// What one client needs to be told which keys have changed (proxy/tracking.h). There is one for
// each client that tracks, or asks to. The parts of it that act are in proxy/client_tracking.cc.

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/optional.h"
#include "proxy/request.h"
#include "proxy/tracking_state.h"

namespace proxy {

struct Tracker {
  // What a prefix takes beside its own bytes, here and in the worker (about).
  static constexpr size_t kPrefixBytes = 128;

  TrackingState state;
  uint32_t session = 0;  // Tracking's number for it
  // CLIENT TRACKING that is under way: its request is the client's `answer_first_`.
  absl::optional<TrackingCommand> command;
  // The client has not done anything since it was told that all may have changed.
  bool clean = false;

  // Keys that commands read which are queued for EXEC.
  std::vector<std::string> queued_keys;
  // Keys that were read where nothing tells of changes at present: they are told of as if they had
  // changed, behind the replies.
  std::vector<std::string> unwatched_keys;

  // What another client is to be told when the replies are out that this one was owed when it came.
  struct Redirected {
    std::vector<std::string> values;  // as they stand in the message
    size_t bytes = 0;
  };
  const Request* behind = nullptr;  // the last of those requests; null: nothing waits
  Redirected waiting;               // for `behind`
  Redirected more;                  // came later: waits for later ones

  size_t key_bytes = 0;  // of queued_keys and unwatched_keys
  // What it takes, to be charged to the client.
  size_t charge() const { return key_bytes + waiting.bytes + more.bytes + prefix_bytes; }
  size_t prefix_bytes = 0;

  void AddKey(std::vector<std::string>* keys, absl::string_view key) {
    key_bytes += key.size() + sizeof(std::string);
    keys->emplace_back(key);
  }
  std::vector<std::string> TakeKeys(std::vector<std::string>* keys) {
    for (const std::string& key : *keys) key_bytes -= key.size() + sizeof(std::string);
    return std::exchange(*keys, {});
  }
};

}  // namespace proxy
