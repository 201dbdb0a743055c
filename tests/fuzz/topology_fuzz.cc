// A CLUSTER NODES reply: any bytes are a view or an error; a view keeps what its callers rely on,
// whatever the order of its lines.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "cluster/topology.h"

namespace cluster {
namespace {

void Require(bool holds) {
  if (!holds) std::abort();
}

void CheckError(const absl::Status& status) {
  Require(status.message().size() < 128);
  for (const char c : status.message()) Require(c >= ' ' && c <= '~');
}

void CheckNodes(const Topology& topology) {
  for (size_t i = 0; i < topology.nodes().size(); ++i) {
    const Node& node = topology.nodes()[i];
    Require(topology.FindById(node.id) == i);
    Require(node.id.size() == 40);
    Require(node.primary == kNoNode || node.primary < topology.nodes().size());
    if (node.usable()) {
      const NodeIndex found = topology.FindByAddress(node.address.host, node.address.port);
      // Another node of the same address may have it.
      Require(found != kNoNode && topology.node(found).usable());
    }
  }
}

void CheckSlots(const Topology& topology) {
  int covered = 0;
  for (int slot = 0; slot < kSlotCount; ++slot) {
    const Shard* shard = topology.ShardFor(static_cast<Slot>(slot));
    if (shard == nullptr) continue;
    ++covered;
    const Node& primary = topology.node(shard->primary);
    Require(primary.is_primary && primary.usable());
    Require(topology.EpochOf(static_cast<Slot>(slot)) == primary.config_epoch);
    Require(primary.config_epoch <= topology.max_config_epoch());
  }
  Require(covered > 0 && covered == topology.covered_slots());
  for (const Shard& shard : topology.shards()) {
    for (const NodeIndex replica : shard.replicas) {
      Require(topology.node(replica).usable() && !topology.node(replica).failed);
      Require(topology.node(replica).primary == shard.primary);
    }
  }
  for (const MovingSlot& moving : topology.moving_slots()) {
    Require(topology.FindMoving(moving.slot) != nullptr);
  }
}

}  // namespace
}  // namespace cluster

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using cluster::Topology;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const cluster::NodeAddress asked = {"10.0.0.1", 7000};
  const auto topology = Topology::FromNodesReply(text, asked);

  std::vector<absl::string_view> lines = absl::StrSplit(text, '\n');
  const std::string reversed = absl::StrJoin(lines.rbegin(), lines.rend(), "\n");
  const auto other_order = Topology::FromNodesReply(reversed, asked);
  cluster::Require(topology.ok() == other_order.ok());
  if (!topology.ok()) {
    cluster::CheckError(topology.status());
    return 0;
  }
  cluster::CheckNodes(**topology);
  cluster::CheckSlots(**topology);
  cluster::Require((*topology)->SameRouting(**other_order));
  return 0;
}
