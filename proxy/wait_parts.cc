#include "proxy/wait_parts.h"

#include <utility>

namespace proxy {

std::vector<size_t> ShardsToWaitFor(const cluster::Topology& topology,
                                    const cluster::SlotGroups& written) {
  std::vector<bool> wanted(topology.shards().size(), written.empty());
  for (int slot = 0; slot < cluster::kSlotCount; ++slot) {
    const size_t shard = topology.ShardNumberFor(static_cast<cluster::Slot>(slot));
    if (shard < wanted.size() && written.MayHave(static_cast<cluster::Slot>(slot))) {
      wanted[shard] = true;
    }
  }
  std::vector<size_t> shards;
  for (size_t shard = 0; shard < wanted.size(); ++shard) {
    if (wanted[shard]) shards.push_back(shard);
  }
  return shards;
}

WaitPrimary WaitPrimaryOf(const cluster::Topology& topology, size_t shard, size_t number) {
  const cluster::NodeIndex node = topology.shards()[shard].primary;
  return {topology.node(node).id, NodeName(topology, node),
          static_cast<cluster::Slot>(number % cluster::kSlotCount)};
}

Ask AskPrimary(const WaitPrimary& primary, const cluster::CommandSpec& command, io::Rope frame) {
  Ask ask;
  ask.to = Ask::To::kPrimary;
  ask.slot = primary.number;
  ask.node_id = primary.node_id;
  ask.node_name = primary.node_name;
  ask.command = &command;
  ask.frame = std::move(frame);
  return ask;
}

Ask PromptReplicas(const WaitPrimary& primary) {
  // On a connection of its own: see Dispatcher::StartAsk.
  static const cluster::CommandSpec* const kCommand = [] {
    auto* command = new cluster::CommandSpec(AsRead(*cluster::FindCommand("WAIT")));
    command->flags |= cluster::kFlagAllowBusy;
    return command;
  }();
  constexpr absl::string_view kMoreThanThereAre = "2147483647";
  return AskPrimary(primary, *kCommand, MakeFrame({"WAIT", kMoreThanThereAre, "1"}));
}

}  // namespace proxy
