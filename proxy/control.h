#pragma once

// File: proxy/control.h
//
// The thread beside the data path: accepts connections and hands each to the worker with the
// fewest, runs the topology refresh, takes signals, leads the drain. Has a ring and the same turn
// as a worker; calls nothing that blocks.
//
//   kServing ─SIGTERM, SIGINT▶ kDraining ─all workers drained▶ kDone
//   kDraining ─drain limit▶ forced (exit 1) ─all workers drained▶ kDone;  ─second signal▶ kDone at
//   once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "io/ring.h"
#include "io/timers.h"
#include "proxy/config.h"
#include "proxy/log.h"
#include "proxy/messages.h"
#include "proxy/resolver.h"
#include "proxy/stats.h"
#include "proxy/topology_refresh.h"

namespace proxy {

class Control {
 public:
  // All outlive control, but the ring and the resolver, which it owns.
  struct Environment {
    std::unique_ptr<io::Ring> ring;
    std::shared_ptr<const Config> config;
    std::unique_ptr<Resolver> resolver;
    ControlMail* mail = nullptr;           // from all workers
    std::vector<WorkerMail*> worker_mail;  // by worker
    StatsRegistry* stats = nullptr;
    LogSink* log = nullptr;
    uint64_t random_seed = 1;
  };

  explicit Control(Environment environment);
  ~Control();
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  // Opens the listeners. Error: one line naming the address and the reason; nothing is left open.
  absl::Status Listen();
  // "127.0.0.1:8088 unix:/run/x": where it listens, with the ports that the system chose.
  std::string ListenAddresses();
  // Starts to accept and to ask for the topology.
  void Start();
  // Turns until the end; returns the exit code: 0, or 1 if clients had to be cut off.
  int Run();
  // One turn; waits at most `limit`. False: all is over.
  bool Turn(absl::Duration limit);
  int exit_code() const { return exit_code_; }

 private:
  enum class State : uint8_t { kServing, kDraining, kForced, kDone };
  struct Listener {
    io::Fd fd = -1;
    bool armed = false;     // an accept is with the ring
    std::string unix_path;  // removed at the end
  };

  void Handle(io::Completion* completion);
  void OnAccept(const io::Completion& completion);
  void OnMessage(const io::Completion& message);
  void HandOver(io::Fd fd);
  void Refuse(io::Fd fd);
  void OnSignal(int signal);
  void BeginDrain();
  void FinishDrain();
  void PostToAll(MessageKind kind);

  std::unique_ptr<io::Ring> ring_;
  const std::shared_ptr<const Config> config_;
  std::unique_ptr<Resolver> resolver_;
  ControlMail* const mail_;
  const std::vector<WorkerMail*> worker_mail_;
  StatsRegistry* const stats_;
  io::Timers timers_;
  absl::Time now_;
  Log log_;
  std::unique_ptr<TopologyRefresh> refresh_;

  State state_ = State::kServing;
  std::vector<Listener> listeners_;
  std::vector<uint32_t> clients_;  // by worker: handed over minus closed
  std::vector<io::Completion> batch_;
  int exit_code_ = 0;
};

}  // namespace proxy
