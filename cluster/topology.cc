#include "cluster/topology.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "cluster/nodes_reply.h"

namespace cluster {

namespace {

// "host:port" without a heap allocation, for look-ups on the data path.
class AddressKey {
 public:
  AddressKey(absl::string_view host, uint16_t port) {
    if (host.size() > internal::kHostBytesMax) return;
    char* end = std::copy(host.begin(), host.end(), bytes_.data());
    *end++ = ':';
    end = std::to_chars(end, bytes_.data() + bytes_.size(), port).ptr;
    size_ = static_cast<size_t>(end - bytes_.data());
  }
  // Empty if the host is too long to be one.
  absl::string_view view() const { return {bytes_.data(), size_}; }

 private:
  std::array<char, internal::kHostBytesMax + 6> bytes_;
  size_t size_ = 0;
};

}  // namespace

// Puts a view together from its lines, step by step.
class Topology::Builder {
 public:
  explicit Builder(std::vector<internal::NodeLine> lines)
      : lines_(std::move(lines)), topology_(new Topology) {
    topology_->slot_to_shard_.fill(kNoShard);
  }

  absl::StatusOr<std::shared_ptr<const Topology>> Build() {
    if (absl::Status status = TakeNodes(); !status.ok()) return status;
    LinkReplicas();
    IndexAddresses();
    ChooseOwners();
    MakeShards();
    if (topology_->covered_slots_ == 0) {
      return absl::InvalidArgumentError("CLUSTER NODES: no node serves a slot");
    }
    return std::shared_ptr<const Topology>(std::move(topology_));
  }

 private:
  absl::Status TakeNodes();
  void LinkReplicas();
  void IndexAddresses();
  void AddAddress(absl::string_view host, NodeIndex index);
  void ChooseOwners();
  void MakeShards();

  std::vector<internal::NodeLine> lines_;  // by node index
  std::shared_ptr<Topology> topology_;
  std::array<NodeIndex, kSlotCount> owners_;
};

absl::Status Topology::Builder::TakeNodes() {
  Topology& topology = *topology_;
  topology.nodes_.reserve(lines_.size());
  for (internal::NodeLine& line : lines_) {
    const auto index = static_cast<NodeIndex>(topology.nodes_.size());
    if (line.is_source) {
      if (topology.source_ != kNoNode)
        return internal::BadNodesReply("two nodes are myself", line.node.id);
      topology.source_ = index;
      topology.moving_slots_ = std::move(line.moving);
    }
    topology.max_config_epoch_ = std::max(topology.max_config_epoch_, line.node.config_epoch);
    topology.nodes_.push_back(std::move(line.node));
  }
  std::sort(topology.moving_slots_.begin(), topology.moving_slots_.end(),
            [](const MovingSlot& a, const MovingSlot& b) { return a.slot < b.slot; });
  return absl::OkStatus();
}

void Topology::Builder::LinkReplicas() {
  for (size_t i = 0; i < lines_.size(); ++i) {
    Node& node = topology_->nodes_[i];
    if (!node.is_primary) node.primary = topology_->FindById(lines_[i].primary_id);
  }
}

void Topology::Builder::IndexAddresses() {
  for (size_t i = 0; i < topology_->nodes_.size(); ++i) {
    const Node& node = topology_->nodes_[i];
    if (!node.usable()) continue;
    const auto index = static_cast<NodeIndex>(i);
    AddAddress(node.address.host, index);
    if (!node.hostname.empty() && node.hostname != node.address.host) {
      AddAddress(node.hostname, index);
    }
  }
}

// A node that was replaced by another at the same address stays listed as failed until it is
// forgotten: the one that is alive has the address.
void Topology::Builder::AddAddress(absl::string_view host, NodeIndex index) {
  const Node& node = topology_->nodes_[index];
  const AddressKey key(host, node.address.port);
  const auto [entry, inserted] = topology_->by_address_.try_emplace(std::string(key.view()), index);
  if (!inserted && topology_->nodes_[entry->second].failed && !node.failed) entry->second = index;
}

void Topology::Builder::ChooseOwners() {
  owners_.fill(kNoNode);
  for (size_t i = 0; i < lines_.size(); ++i) {
    const Node& node = topology_->nodes_[i];
    if (!node.is_primary || !node.usable()) continue;
    for (const internal::SlotRange& range : lines_[i].slots) {
      for (size_t slot = range.first; slot <= range.last; ++slot) {
        NodeIndex& owner = owners_[slot];
        if (owner != kNoNode && owner != i) ++topology_->overlapping_slots_;
        if (owner == kNoNode || topology_->nodes_[owner].config_epoch < node.config_epoch) {
          owner = static_cast<NodeIndex>(i);
        }
      }
    }
  }
}

void Topology::Builder::MakeShards() {
  Topology& topology = *topology_;
  std::vector<bool> owns(topology.nodes_.size(), false);
  for (const NodeIndex owner : owners_) {
    if (owner != kNoNode) owns[owner] = true;
  }
  std::vector<uint16_t> shard_of_node(topology.nodes_.size(), kNoShard);
  for (size_t i = 0; i < owns.size(); ++i) {
    if (!owns[i]) continue;
    shard_of_node[i] = static_cast<uint16_t>(topology.shards_.size());
    topology.shards_.emplace_back().primary = static_cast<NodeIndex>(i);
  }
  for (size_t i = 0; i < topology.nodes_.size(); ++i) {
    const Node& node = topology.nodes_[i];
    if (node.primary == kNoNode || node.failed || !node.usable()) continue;
    const uint16_t shard = shard_of_node[node.primary];
    if (shard != kNoShard) topology.shards_[shard].replicas.push_back(static_cast<NodeIndex>(i));
  }
  for (size_t slot = 0; slot < owners_.size(); ++slot) {
    if (owners_[slot] == kNoNode) continue;
    topology.slot_to_shard_[slot] = shard_of_node[owners_[slot]];
    ++topology.covered_slots_;
  }
}

absl::StatusOr<std::shared_ptr<const Topology>> Topology::FromNodesReply(absl::string_view reply,
                                                                         const NodeAddress& asked) {
  absl::StatusOr<std::vector<internal::NodeLine>> lines = internal::ParseNodesReply(reply, asked);
  if (!lines.ok()) return lines.status();
  return Builder(*std::move(lines)).Build();
}

NodeIndex Topology::FindById(absl::string_view id) const {
  const auto found =
      std::lower_bound(nodes_.begin(), nodes_.end(), id,
                       [](const Node& node, absl::string_view wanted) { return node.id < wanted; });
  if (found == nodes_.end() || found->id != id) return kNoNode;
  return static_cast<NodeIndex>(found - nodes_.begin());
}

NodeIndex Topology::FindByAddress(absl::string_view host, uint16_t port) const {
  const auto found = by_address_.find(AddressKey(host, port).view());
  return found == by_address_.end() ? kNoNode : found->second;
}

uint64_t Topology::EpochOf(Slot slot) const {
  const Shard* shard = ShardFor(slot);
  return shard == nullptr ? 0 : nodes_[shard->primary].config_epoch;
}

const MovingSlot* Topology::FindMoving(Slot slot) const {
  const auto found =
      std::lower_bound(moving_slots_.begin(), moving_slots_.end(), slot,
                       [](const MovingSlot& moving, Slot wanted) { return moving.slot < wanted; });
  return found == moving_slots_.end() || found->slot != slot ? nullptr : &*found;
}

bool Topology::SameRouting(const Topology& other) const {
  // Nodes and shards are sorted, so equal views are equal element by element.
  const auto same_node = [](const Node& a, const Node& b) {
    return a.id == b.id && a.address == b.address && a.hostname == b.hostname &&
           a.is_primary == b.is_primary && a.failed == b.failed && a.primary == b.primary;
  };
  const auto same_shard = [](const Shard& a, const Shard& b) {
    return a.primary == b.primary && a.replicas == b.replicas;
  };
  return slot_to_shard_ == other.slot_to_shard_ &&
         std::equal(nodes_.begin(), nodes_.end(), other.nodes_.begin(), other.nodes_.end(),
                    same_node) &&
         std::equal(shards_.begin(), shards_.end(), other.shards_.begin(), other.shards_.end(),
                    same_shard);
}

}  // namespace cluster
