#pragma once

// File: microbench/worker_rig.h
//
// One real worker on a simulated ring, with a model cluster of three primaries, clients that send a
// fixed pipeline and wait for its replies, and no control thread. Tells what is the worker's own
// from what is the simulator's: time and allocations count within a turn of the worker, but not
// within its calls of the ring (which stand for the kernel, the network and the nodes).

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proxy/config.h"
#include "proxy/messages.h"
#include "proxy/stats.h"
#include "proxy/worker.h"
#include "tests/sim/fake_cluster.h"
#include "tests/sim/sim_net.h"
#include "tests/sim/sim_ring.h"

namespace microbench {

struct WorkerRigOptions {
  int clients = 16;
  uint64_t log_every_n = 0;  // access lines: each is a string or two
};

class WorkerRig {
 public:
  // What the worker has done and used, from its making on.
  struct Usage {
    uint64_t requests = 0;
    uint64_t turns = 0;
    uint64_t allocations = 0;
    absl::Duration time;  // of the turns, without the calls of the ring
  };

  explicit WorkerRig(const WorkerRigOptions& options);
  ~WorkerRig();
  WorkerRig(const WorkerRig&) = delete;
  WorkerRig& operator=(const WorkerRig&) = delete;

  // From the next round on client `i` sends these bytes, `requests` whole requests.
  void SetPipeline(int i, std::string bytes, uint32_t requests);
  // Every client sends its pipeline and has all its replies. False: something failed, see
  // failure().
  bool Round();
  // Rounds whose allocations do not count: they connect, and make what is reused.
  bool WarmUp(int rounds);
  // Client i's replies of the last round.
  const std::string& replies(int i) const;
  const Usage& usage() const { return usage_; }
  const std::string& failure() const { return net_.failure(); }

 private:
  class Client;
  class Nodes;
  class NoLog;
  class MeteredRing;

  void Tell(proxy::MessageKind kind, uint32_t value);
  void ConnectClients(int count);
  void Turn();

  sim::SimNet net_;
  std::unique_ptr<Nodes> nodes_;
  sim::SimProcess process_;
  std::unique_ptr<NoLog> log_;
  std::shared_ptr<const proxy::Config> config_;
  proxy::StatsRegistry stats_;
  proxy::WorkerMail mail_;
  proxy::ControlMail control_mail_;
  MeteredRing* ring_ = nullptr;  // the worker's
  std::unique_ptr<proxy::Worker> worker_;
  std::vector<std::unique_ptr<Client>> clients_;
  bool warming_up_ = false;
  Usage usage_;
};

}  // namespace microbench
