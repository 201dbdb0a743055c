#pragma once

// File: cluster/nodes_reply.h
//
// Reads the lines of a CLUSTER NODES reply, one by one; topology.cc makes a view of them.

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cluster/slot.h"
#include "cluster/topology.h"

namespace cluster::internal {

constexpr size_t kHostBytesMax = 255;  // the longest name of RFC 1035

struct SlotRange {
  Slot first = 0;
  Slot last = 0;
};

// One line, before nodes refer to each other by index. Views point into the reply.
struct NodeLine {
  Node node;
  absl::string_view primary_id;  // empty: none
  bool is_source = false;
  bool in_handshake = false;
  std::vector<SlotRange> slots;
  std::vector<MovingSlot> moving;
};

// The lines sorted by id, each id once; without those of nodes in handshake, whose id is not yet
// their own. `asked` stands in for an empty host.
absl::StatusOr<std::vector<NodeLine>> ParseNodesReply(absl::string_view reply,
                                                      const NodeAddress& asked);

// The line of the node that replied, alone.
absl::StatusOr<NodeLine> ParseSourceLine(absl::string_view reply);

// "CLUSTER NODES: <what>: '<text>'" with at most 64 escaped bytes of the text.
absl::Status BadNodesReply(absl::string_view what, absl::string_view text);

}  // namespace cluster::internal
