#pragma once

// File: proxy/topology_refresh.h
//
// When to ask for the cluster's topology, whom, and whether to believe it. Runs on the control
// thread; the workers get what it publishes as an immutable snapshot.
//
// One refresh at a time. It asks one node after another (the node that a redirection came from
// first, then learned nodes and configured startup nodes in turn, names resolved anew) until one
// gives a valid view. A view with less coverage or older epochs than the current one is taken only
// if a second node says the same. At most five refreshes a second; without demand, one every 10 s ±
// 20 % and never two within --slots-reload-interval unless somebody waits for it.

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "cluster/topology.h"
#include "io/ring.h"
#include "io/timers.h"
#include "proxy/config.h"
#include "proxy/log.h"
#include "proxy/messages.h"
#include "proxy/node_query.h"
#include "proxy/resolver.h"
#include "proxy/stats.h"

namespace proxy {

class TopologyRefresh {
 public:
  struct Environment {
    io::Ring* ring = nullptr;
    io::Timers* timers = nullptr;
    const absl::Time* now = nullptr;  // of this turn
    const Config* config = nullptr;
    Resolver* resolver = nullptr;
    ControlStats* stats = nullptr;
    Log* log = nullptr;
    uint64_t random_seed = 1;
    // A new state for all workers.
    std::function<void(std::shared_ptr<const ClusterState>)> publish;
    // The answer to all asks of one worker up to a number.
    std::function<void(uint32_t worker, RefreshResult)> answer;
  };

  explicit TopologyRefresh(Environment environment);
  TopologyRefresh(const TopologyRefresh&) = delete;
  TopologyRefresh& operator=(const TopologyRefresh&) = delete;

  // Begins the first refresh.
  void Start();
  // A worker waits for a view begun from now on.
  void OnAsk(RefreshAsk ask);
  // The resolver has results.
  void OnResolved();
  // Completions of party kRefresh.
  void OnCompletion(io::Completion* completion);
  // No more refreshes; done when idle().
  void Stop();
  bool idle() const;

  // (private members: see topology_refresh.cc's comments)
 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace proxy
