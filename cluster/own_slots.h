#pragma once

// File: cluster/own_slots.h
//
// What a node says of its own slots in its CLUSTER NODES reply: which it serves, and which are on
// the move. Cheaper than a whole topology, and the only place where moves are told.

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cluster/nodes_reply.h"
#include "cluster/slot.h"
#include "cluster/topology.h"

namespace cluster {

class OwnSlots {
 public:
  // Looks at the line of the node that replied ("myself") only. An error if there is none.
  static absl::StatusOr<OwnSlots> FromNodesReply(absl::string_view reply);

  // It serves the slot.
  bool Owns(Slot slot) const;
  // The mark of a slot on the move, or null.
  const MovingSlot* FindMoving(Slot slot) const;
  // It has, or gets, keys of a slot that nobody else can tell of, where `topology` says that it
  // serves none: it imports one, or has one since a later epoch than the owner that the topology
  // knows.
  bool HasMoreThan(const Topology& topology) const;
  // A node that gets a slot from another takes a new one, greater than the other's: while it stays
  // the same, a slot that the node has cannot have left it and come back.
  uint64_t config_epoch() const { return config_epoch_; }

 private:
  std::vector<internal::SlotRange> slots_;
  std::vector<MovingSlot> moving_;
  uint64_t config_epoch_ = 0;
};

}  // namespace cluster
