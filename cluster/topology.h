#pragma once

// File: cluster/topology.h
//
// One view of the cluster: its nodes, and which shard serves each slot. Immutable: a newer view
// replaces it, so that whoever holds one sees a consistent picture. Shared between threads.

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cluster/slot.h"

namespace cluster {

struct NodeAddress {
  std::string host;  // an address literal or a name
  uint16_t port = 0;
  friend bool operator==(const NodeAddress& a, const NodeAddress& b) {
    return a.port == b.port && a.host == b.host;
  }
};

using NodeIndex = uint16_t;
constexpr NodeIndex kNoNode = 0xffff;

struct Node {
  std::string id;        // 40 hexadecimal digits
  NodeAddress address;   // where to connect; port 0: not known, see usable()
  std::string hostname;  // as announced; may be empty
  bool is_primary = false;
  bool failed = false;        // flag "fail"
  bool maybe_failed = false;  // flag "fail?"
  bool link_up = false;
  NodeIndex primary = kNoNode;  // of a replica
  uint64_t config_epoch = 0;

  // Whether there is an address to connect to. False for "noaddr", port 0 and host "?": such a node
  // is listed, but serves no slot and is found by id only.
  bool usable() const { return address.port != 0; }
};

struct Shard {
  NodeIndex primary = kNoNode;
  std::vector<NodeIndex> replicas;  // those that are usable and not failed
};

// A slot on the move, as the node that gave this view says of itself.
struct MovingSlot {
  Slot slot = 0;
  std::string other_id;  // migrating: the target; importing: the source
  bool importing = false;
};

class Topology {
 public:
  // Parses and validates the text of a CLUSTER NODES reply (the bulk's content). `asked` is the
  // address the reply came from: it stands in for an empty host. Nodes without an address, replicas
  // of an unknown primary, and unknown flags are tolerated; nodes in handshake, whose id is not yet
  // their own, are left out. A slot that two primaries claim is the one's with the higher config
  // epoch (the servers' own rule), see overlapping_slots(). Nodes are sorted by id, whatever the
  // order of the lines. Errors: no node, no slot served, a malformed line, an id twice, impossible
  // slots, …, with at most 64 escaped bytes of the offending text.
  static absl::StatusOr<std::shared_ptr<const Topology>> FromNodesReply(absl::string_view reply,
                                                                        const NodeAddress& asked);

  // Null: no node serves the slot.
  const Shard* ShardFor(Slot slot) const {
    const uint16_t shard = slot_to_shard_[slot];
    return shard == kNoShard ? nullptr : &shards_[shard];
  }
  // The id of the slot's primary; empty if no node serves the slot.
  absl::string_view OwnerId(Slot slot) const {
    const Shard* shard = ShardFor(slot);
    return shard == nullptr ? absl::string_view() : nodes_[shard->primary].id;
  }
  // Its number among shards(); none of them (too large) if no node serves the slot.
  size_t ShardNumberFor(Slot slot) const { return slot_to_shard_[slot]; }
  // Asks the processor for the slot's entry: the table is read all over, and large.
  void PrefetchShard(Slot slot) const { __builtin_prefetch(&slot_to_shard_[slot]); }
  absl::Span<const Node> nodes() const { return nodes_; }
  const Node& node(NodeIndex index) const { return nodes_[index]; }
  // One per primary that serves a slot, in the order of the nodes.
  absl::Span<const Shard> shards() const { return shards_; }
  // kNoNode if there is none.
  NodeIndex FindById(absl::string_view id) const;
  // By address or announced host name, with the port; kNoNode if there is none.
  NodeIndex FindByAddress(absl::string_view host, uint16_t port) const;

  // Slots that some node serves.
  int covered_slots() const { return covered_slots_; }
  // Claims of a slot that another primary claims too.
  int overlapping_slots() const { return overlapping_slots_; }
  // The greatest config epoch of the nodes.
  uint64_t max_config_epoch() const { return max_config_epoch_; }
  // The config epoch of the slot's owner; 0 if none.
  uint64_t EpochOf(Slot slot) const;
  // The node that gave this view ("myself"), and the slots it is moving.
  NodeIndex source() const { return source_; }
  absl::Span<const MovingSlot> moving_slots() const { return moving_slots_; }
  // The moving mark of the slot, or null.
  const MovingSlot* FindMoving(Slot slot) const;
  // Same nodes (ids, addresses, roles, failed flags) and same slots: nothing to publish. What
  // differs between the nodes that were asked (links, "fail?", moving slots) does not count.
  bool SameRouting(const Topology& other) const;

 private:
  static constexpr uint16_t kNoShard = 0xffff;
  class Builder;
  Topology() = default;

  std::vector<Node> nodes_;  // sorted by id
  std::vector<Shard> shards_;
  std::array<uint16_t, kSlotCount> slot_to_shard_;
  absl::flat_hash_map<std::string, NodeIndex> by_address_;  // "host:port"
  std::vector<MovingSlot> moving_slots_;
  int covered_slots_ = 0;
  int overlapping_slots_ = 0;
  uint64_t max_config_epoch_ = 0;
  NodeIndex source_ = kNoNode;
};

}  // namespace cluster
