#pragma once

// File: tests/sim/fake_node_parts.h
//
// What the parts of FakeNode share (tests/sim/fake_node*.cc); for them only.

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "tests/sim/fake_node.h"
#include "tests/sim/sim_net.h"

namespace sim {

// --- replies

inline std::string Bulk(absl::string_view bytes) {
  return absl::StrCat("$", bytes.size(), "\r\n", bytes, "\r\n");
}
inline std::string Integer(int64_t value) { return absl::StrCat(":", value, "\r\n"); }
inline std::string Null(bool resp3) { return resp3 ? "_\r\n" : "$-1\r\n"; }
inline std::string ErrorLine(absl::string_view line) { return absl::StrCat("-", line, "\r\n"); }

// Where the keys of a data command are, and whether it writes.
struct CommandShape {
  absl::string_view name;
  bool write;
  int first_key;
  int keys_step;  // 0: one key
  bool all;       // keys up to the last argument
};
// Null: it is no data command.
const CommandShape* FindShape(absl::string_view name);

struct FakeNode::Connection final : Stream::Observer {
  FakeNode* node;
  Stream* stream;  // null: closed
  uint64_t client_id;
  std::string name;
  bool resp3 = false;
  bool readonly = false;
  bool asking = false;
  bool authenticated = false;
  bool tracking = false;  // is told of all changes
  bool ready = false;     // on the node's list
  bool had_data = false;  // a data command has come
  Nanos not_before = 0;   // not looked at
  bool queueing = false;  // after MULTI
  bool abort = false;     // a command could not be queued
  std::vector<std::vector<std::string>> queued;
  std::vector<std::pair<uint32_t, ValuePtr>> watched;  // keys, and what was there
  std::set<std::string> topics;  // that it is subscribed to, as in FakeNode::Subscribers
  ByteQueue input;
  ByteQueue output;

  void OnStream(Stream*) override { node->Ready(this); }
};

}  // namespace sim
