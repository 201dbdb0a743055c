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
  NodeAddress address;   // where to connect
  std::string hostname;  // as announced; may be empty
  bool is_primary = false;
  bool failed = false;        // flag "fail"
  bool maybe_failed = false;  // flag "fail?"
  bool link_up = false;
  NodeIndex primary = kNoNode;  // of a replica
  uint64_t config_epoch = 0;
};

struct Shard {
  NodeIndex primary = kNoNode;
  std::vector<NodeIndex> replicas;  // those that are not failed
};

// A slot on the move, as the node that gave this view says of itself.
struct MovingSlot {
  Slot slot = 0;
  std::string other_id;    // migrating: the target; importing: the source
  bool importing = false;
};

class Topology {
 public:
  // Parses and validates the text of a CLUSTER NODES reply (the bulk's content). `asked` is the
  // address the reply came from: it stands in for an empty host. Nodes without an address, in
  // handshake, and unknown flags are tolerated. Errors: nothing parsable, no node that serves a
  // slot, overlapping or impossible slots, …, with the offending text.
  static absl::StatusOr<std::shared_ptr<const Topology>> FromNodesReply(absl::string_view reply,
                                                                        const NodeAddress& asked);

  // Null: no node serves the slot.
  const Shard* ShardFor(Slot slot) const {
    const uint16_t shard = slot_to_shard_[slot];
    return shard == kNoShard ? nullptr : &shards_[shard];
  }
  absl::Span<const Node> nodes() const { return nodes_; }
  const Node& node(NodeIndex index) const { return nodes_[index]; }
  absl::Span<const Shard> shards() const { return shards_; }
  // kNoNode if there is none.
  NodeIndex FindById(absl::string_view id) const;
  // By address or announced host name, with the port; kNoNode if there is none.
  NodeIndex FindByAddress(absl::string_view host, uint16_t port) const;

  // Slots that some node serves.
  int covered_slots() const { return covered_slots_; }
  // The greatest config epoch of the nodes.
  uint64_t max_config_epoch() const { return max_config_epoch_; }
  // The config epoch of the slot's owner; 0 if none.
  uint64_t EpochOf(Slot slot) const;
  // The node that gave this view ("myself"), and the slots it is moving.
  NodeIndex source() const { return source_; }
  absl::Span<const MovingSlot> moving_slots() const { return moving_slots_; }
  // The moving mark of the slot, or null.
  const MovingSlot* FindMoving(Slot slot) const;
  // Same nodes (ids, addresses, roles, failed flags) and same slots: nothing to publish.
  bool SameRouting(const Topology& other) const;

 private:
  static constexpr uint16_t kNoShard = 0xffff;
  Topology() = default;

  std::vector<Node> nodes_;
  std::vector<Shard> shards_;
  std::array<uint16_t, kSlotCount> slot_to_shard_;
  absl::flat_hash_map<std::string, NodeIndex> by_id_;
  absl::flat_hash_map<std::string, NodeIndex> by_address_;  // "host:port"
  std::vector<MovingSlot> moving_slots_;
  int covered_slots_ = 0;
  uint64_t max_config_epoch_ = 0;
  NodeIndex source_ = kNoNode;
};

}  // namespace cluster
