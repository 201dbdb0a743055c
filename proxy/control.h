#pragma once

// File: proxy/control.h
//
// The thread beside the data path: accepts connections and hands each to the worker with the
// fewest, runs the topology refresh, takes signals, leads the drain. Has a ring and the same turn
// as a worker; calls nothing that blocks.
//
//   kServing ─SIGTERM, SIGINT▶ kDraining ─all workers drained▶ kEnding ─last completion▶ kDone
//   kDraining ─drain limit▶ kForced (exit 1) ─all workers drained▶ kEnding
//   kDraining, kForced, kEnding ─another signal, or stuck▶ kDone at once (exit 1)

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "io/ring.h"
#include "io/timers.h"
#include "proxy/config.h"
#include "proxy/function_repair.h"
#include "proxy/log.h"
#include "proxy/messages.h"
#include "proxy/query_relay.h"
#include "proxy/refusals.h"
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
  // It ended without the workers: they still run and can't be waited for. The process must exit at
  // once.
  bool abrupt() const { return abrupt_; }

 private:
  enum class State : uint8_t { kServing, kDraining, kForced, kEnding, kDone };
  struct Listener {
    io::Fd fd = -1;          // owned while not -1
    bool armed = false;      // an accept is with the ring
    bool canceling = false;  // so is its cancel, or was
    bool closing = false;    // so is the close
    std::string unix_path;   // removed at the end
    dev_t unix_device = 0;   // what the path named when it was made
    ino_t unix_inode = 0;
  };
  // A message to a worker that could not be delivered for want of memory.
  struct Undelivered {
    uint32_t worker;
    MessageKind kind;
  };

  void Become(State next);
  void Handle(io::Completion* completion);
  void OnListener(const io::Completion& completion);
  void OnAccept(uint32_t index, const io::Completion& completion);
  void OnAcceptFailed(uint32_t index, int error);
  void ArmAccept(uint32_t index);
  void ArmAccepts();
  void OnMessage(const io::Completion& message);
  void OnClientsClosed(uint32_t worker, uint32_t count);
  void HandOver(io::Fd fd);
  void OnHandedOver(const io::Completion& completion);
  void CloseFd(io::Fd fd);
  bool HaveReserve();
  void DropReserve();
  void OnSignal(int signal);
  void BeginDrain();
  void CloseListeners();
  void CloseListenersNow();
  bool ListenersClosed() const;
  void RemoveUnixPath(const Listener& listener);
  void PostDrainIfReady();
  void OnDrained(uint32_t cut_off);
  void OnDrainTimer();
  void EndAbruptly();
  bool Idle() const;
  void Publish(const std::shared_ptr<const ClusterState>& state);
  void Answer(uint32_t worker, RefreshResult result);
  void Post(uint32_t worker, MessageKind kind);
  void OnPosted(const io::Completion& completion);
  void PostToAll(MessageKind kind);
  void PassOnRedirected();
  static void AcceptTimerFired(void* self) { static_cast<Control*>(self)->ArmAccepts(); }
  static void DrainTimerFired(void* self) { static_cast<Control*>(self)->OnDrainTimer(); }
  static void PostTimerFired(void* self);

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
  std::unique_ptr<FunctionRepair> functions_;
  Refusals refusals_;
  QueryRelay queries_;

  State state_ = State::kServing;
  std::vector<Listener> listeners_;
  io::Timer accept_timer_;         // listeners whose accept failed are armed again
  io::Fd reserve_ = -1;            // given up for a client to be refused when descriptors run out
  std::vector<uint32_t> clients_;  // by worker: handed over minus closed
  uint64_t clients_total_ = 0;     // their sum
  size_t handovers_ = 0;           // descriptors posted and not acknowledged yet
  size_t operations_ = 0;          // other posts, cancels and closes with the ring

  std::vector<Undelivered> undelivered_;
  io::Timer post_timer_;   // they are posted again
  io::Timer drain_timer_;  // the drain limit, then that of the forced end
  bool drain_posted_ = false;
  size_t drained_ = 0;    // workers that have reported, or are gone
  uint64_t cut_off_ = 0;  // clients, as the workers report
  std::vector<io::Completion> batch_;
  int exit_code_ = 0;
  bool abrupt_ = false;
};

}  // namespace proxy
