#pragma once

// File: proxy/wait_parts.h
//
// What WAIT and WAITAOF have in common: the primaries that they ask, and how.

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "cluster/command_table.h"
#include "cluster/slot.h"
#include "cluster/topology.h"
#include "io/slice.h"
#include "proxy/procedure.h"

namespace proxy {

inline constexpr absl::string_view kWaitUnstable =
    "CLUSTERDOWN proxy: the cluster's nodes keep changing (not executed)";
// What the servers say when the primary that a client waits at is one no more: nobody can tell
// whether its successor has the writes.
inline constexpr absl::string_view kWaitDemoted =
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)";

// The numbers of the shards that have slots which the client has written to; of all, if it has
// written nothing: then their replicas are counted only.
std::vector<size_t> ShardsToWaitFor(const cluster::Topology& topology,
                                    const cluster::SlotGroups& written);

struct WaitPrimary {
  std::string node_id;
  std::string node_name;
  cluster::Slot number = 0;  // see Ask::slot
};

// `number` of those that are asked.
WaitPrimary WaitPrimaryOf(const cluster::Topology& topology, size_t shard, size_t number);

// Asks the node as long as it is a primary.
Ask AskPrimary(const WaitPrimary& primary, const cluster::CommandSpec& command, io::Rope frame);

// Has the primary ask its replicas how far they are; they say so of themselves once a second only.
// It does so for who waits: here a connection of its own, for a millisecond, for more replicas than
// there are. The reply does not matter.
Ask PromptReplicas(const WaitPrimary& primary);

}  // namespace proxy
