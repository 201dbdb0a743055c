#pragma once

// File: proxy/set_command.h
//
// What the commands that combine sets and sorted sets say, and how keys' contents are read from
// nodes' replies. Pure: values in, values out.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cluster/command_table.h"
#include "proxy/set_algebra.h"

namespace proxy {

struct SetCommand {
  enum class Result : uint8_t { kMembers, kCount, kStore };

  absl::string_view name;
  SetOperation operation;
  bool sorted;  // of sorted sets, and of sets as such
  Result result;
};

// Null: it is none of these.
const SetCommand* FindSetCommand(const cluster::CommandSpec& command);

// What follows the keys.
struct SetOptions {
  std::vector<double> weights;  // one a key
  Aggregate aggregate = Aggregate::kSum;
  bool with_scores = false;
  uint64_t limit = std::numeric_limits<uint64_t>::max();
};

// False: the servers refuse that. `args`: what is behind the keys.
bool ParseSetOptions(const SetCommand& command, absl::Span<const absl::string_view> args,
                     size_t key_count, SetOptions* options);

// The score at the begin of `bytes`, which it is taken from: a bulk string, or in RESP3 a double.
bool TakeScore(absl::string_view* bytes, ScoredMember* member);

// What SMEMBERS, or ZRANGE WITHSCORES, has replied: the members are views into it.
bool ParseMembers(absl::string_view reply, bool scores, std::vector<ScoredMember>* members);

}  // namespace proxy
