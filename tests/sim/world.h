#pragma once

// File: tests/sim/world.h
//
// A whole world in one thread: a real proxy (control and workers) on simulated rings, a model
// cluster, clients, and what goes wrong, all from one seed. Runs event by event; the first broken
// promise is in failure().
//
//   World world({.seed = 7});
//   SimClient* client = world.Connect();
//   client->SendCommand("GET a");
//   world.RunUntilIdle();

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "proxy/config.h"
#include "proxy/control.h"
#include "proxy/messages.h"
#include "proxy/monitor_mail.h"
#include "proxy/script_table.h"
#include "proxy/stats.h"
#include "proxy/subscription_table.h"
#include "proxy/worker.h"
#include "tests/sim/fake_cluster.h"
#include "tests/sim/oracle.h"
#include "tests/sim/sim_client.h"
#include "tests/sim/sim_net.h"
#include "tests/sim/sim_ring.h"

namespace sim {

struct WorldOptions {
  uint64_t seed = 1;
  FaultOptions faults = {};
  FakeCluster::Options cluster = {};
  uint32_t workers = 2;
  SimRing::Options ring = {};
  std::function<void(proxy::Config*)> configure = nullptr;  // further settings
  // Startup nodes by name: a resolver is asked.
  bool names = false;
};

class World {
 public:
  explicit World(const WorldOptions& options);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  SimNet* net() { return &net_; }
  Random* random() { return net_.random(); }
  FakeCluster* cluster() { return &cluster_; }
  Oracle* oracle() { return &oracle_; }
  proxy::StatsRegistry* stats() { return &stats_; }
  proxy::ScriptTable* scripts() { return &script_table_; }
  const proxy::Config& config() const { return *config_; }
  Nanos now() const { return net_.now(); }
  const io::Endpoint& address() const { return config_->listen[0]; }
  // Lines that the proxy has logged, the last 10,000.
  const std::deque<std::string>& log() const;

  // A client driven by hand.
  SimClient* Connect() { return Connect(ClientProfile()); }
  SimClient* Connect(const ClientProfile& profile);
  const std::vector<std::unique_ptr<SimClient>>& clients() const { return clients_; }

  // --- running. Each stops at the first failure.
  void RunFor(Nanos duration);
  // False: it did not happen within `limit`.
  bool RunUntil(const std::function<bool()>& done, Nanos limit = 60 * kSecond);
  // Until nothing is to happen for `quiet`.
  void RunUntilIdle(Nanos quiet = 300 * kMillisecond);
  // SIGTERM. Clients may be cut off from here on.
  void BeginShutdown();
  // The same, if that has not begun, and on until the proxy has ended. Then nothing of it is left:
  // else a failure.
  void Shutdown();

  // The proxy's process does not run for so long.
  void Stall(Nanos duration);
  void EndStall();
  // What breaks no single promise at once: memory, queues. Called now and then by the runs.
  void CheckBounds();

  // For the report of a failure.
  std::string DescribeState();
  const std::string& failure() const { return net_.failure(); }
  uint64_t trace_hash() const { return net_.trace_hash(); }

 private:
  class LogSink;
  class Resolver;
  // Control or a worker, and when it has its next turn.
  struct Party {
    Party(World* of, SimRing* with, std::function<bool()> what);
    static void Fired(void* self);
    World* const world;
    SimRing* const ring;
    const std::function<bool()> turn;
    Alarm alarm;
    Nanos busy_until = 0;
    bool done = false;
  };

  std::shared_ptr<const proxy::Config> MakeConfig(const WorldOptions& options);
  void RunParty(Party* party);
  void CheckLeftovers();
  void CheckTopology(size_t worker);

  SimNet net_;
  Oracle oracle_;
  FakeCluster cluster_;
  std::unique_ptr<LogSink> log_;
  std::shared_ptr<const proxy::Config> config_;
  SimProcess process_;
  proxy::StatsRegistry stats_;
  proxy::ControlMail control_mail_;
  proxy::SubscriptionTable subscription_table_;
  proxy::ScriptTable script_table_;
  proxy::MonitorMail monitor_mail_;
  std::vector<std::unique_ptr<proxy::WorkerMail>> worker_mail_;
  std::vector<std::unique_ptr<proxy::Worker>> workers_;
  std::unique_ptr<proxy::Control> control_;
  std::vector<std::unique_ptr<Party>> parties_;  // control, then the workers
  std::vector<std::unique_ptr<SimClient>> clients_;
  uint64_t next_check_ = 0;
  // By worker: the last topology that was looked at.
  std::vector<std::shared_ptr<const cluster::Topology>> topologies_;
  Nanos stalled_until_ = 0;
  bool shut_down_ = false;
};

}  // namespace sim
