#pragma once

// File: proxy/worker.h
//
// One thread of the data path: its ring, its clients, its connections to the nodes, its statistics.
// Shares nothing with other workers but immutable snapshots. A turn: submit and wait; handle each
// completion; timers; flush every connection that was touched, once.

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/optimization.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "cluster/router.h"
#include "io/buffer_pool.h"
#include "io/ring.h"
#include "io/timers.h"
#include "proxy/backend.h"
#include "proxy/backend_pool.h"
#include "proxy/client.h"
#include "proxy/client_queries.h"
#include "proxy/config.h"
#include "proxy/dispatcher.h"
#include "proxy/learned_commands.h"
#include "proxy/log.h"
#include "proxy/messages.h"
#include "proxy/monitor_mail.h"
#include "proxy/monitors.h"
#include "proxy/request.h"
#include "proxy/script_repairs.h"
#include "proxy/script_table.h"
#include "proxy/stats.h"
#include "proxy/subscription_table.h"
#include "proxy/subscriptions.h"
#include "proxy/tracking.h"

namespace proxy {

class Worker {
 public:
  // What a worker is given; all of it outlives the worker, but the ring, which it owns.
  struct Environment {
    uint32_t index = 0;
    std::unique_ptr<io::Ring> ring;
    std::shared_ptr<const Config> config;
    WorkerMail* mail = nullptr;
    ControlMail* control_mail = nullptr;
    WorkerStats* stats = nullptr;
    LogSink* log = nullptr;
    uint64_t random_seed = 1;
    // Sums over all workers, for the proxy's own INFO.
    const StatsRegistry* all_stats = nullptr;
    // Of all workers; null: this is the only one.
    SubscriptionTable* subscription_table = nullptr;
    ScriptTable* script_table = nullptr;  // the same
    MonitorMail* monitor_mail = nullptr;  // the same
  };

  explicit Worker(Environment environment);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Turns until drained.
  void Run();
  // One turn; waits at most `limit`. False: drained, there is nothing left to do.
  bool Turn(absl::Duration limit);

  // --- for clients and backends
  io::Ring* ring() { return ring_.get(); }
  io::Timers* timers() { return &timers_; }
  io::BlockPool* backend_blocks() { return &backend_blocks_; }
  io::BlockPool* client_blocks() { return &client_blocks_; }
  RequestPool* requests() { return &requests_; }
  cluster::SplitPlanner* split_planner() { return &split_planner_; }
  // For whoever needs a list of slots for a moment.
  std::vector<cluster::Slot>* slot_scratch() { return &slot_scratch_; }
  // For the first (0) and second argument of a request, where they do not lie in one piece.
  // Until the end of the turn.
  std::string* text_scratch(size_t i) { return &text_scratch_[i]; }
  Dispatcher* dispatcher() { return &dispatcher_; }
  BackendPool* backends() { return &backend_pool_; }
  Subscriptions* subscriptions() { return &subscriptions_; }
  Tracking* tracking() { return &tracking_; }
  ScriptRepairs* script_repairs() { return &script_repairs_; }
  EvalRecorder* eval_recorder() { return &eval_recorder_; }
  ClientQueries* client_queries() { return &client_queries_; }
  Monitors* monitors() { return &monitors_; }
  WorkerMail* mail() { return mail_; }
  void SendQuery(const ClientQuery& query);
  void SendAnswer(ClientAnswer answer);
  void SendRedirected(RedirectedInvalidation redirected);
  void PostToWorker(uint32_t worker, MessageKind kind);
  // Commands are looked at before they begin (Client::MayBegin): clients are paused, or somebody
  // watches what they send.
  bool attentive() const { return attentive_; }
  void UpdateAttentive() { attentive_ = client_queries_.paused() || monitors_.watched(); }
  const Config& config() const { return *config_; }
  const ClusterState* cluster() const { return cluster_.get(); }  // null until a topology is there
  // What the nodes say of themselves, or what is assumed until they have.
  const ServerInfo& server() const;
  // What the nodes have beyond the table of commands; null: nothing.
  const LearnedCommands* learned() const {
    return cluster_ == nullptr ? nullptr : cluster_->learned.get();
  }
  // A command of the table, or one that was learned.
  cluster::Lookup LookUp(absl::string_view first, absl::string_view second, int64_t arg_count,
                         const cluster::CommandSpec** command) const {
    const cluster::Lookup lookup = cluster::LookUpCommand(first, second, arg_count, command);
    if (ABSL_PREDICT_TRUE(lookup != cluster::Lookup::kUnknownCommand &&
                          lookup != cluster::Lookup::kUnknownSubcommand)) {
      return lookup;
    }
    return LookUpLearned(learned(), lookup, first, second, arg_count, command);
  }
  // Counts the topologies taken over.
  uint64_t topology_number() const { return topology_number_; }
  WorkerStats* stats() { return stats_; }
  Log* log() { return &log_; }
  const StatsRegistry* all_stats() const { return all_stats_; }
  absl::Time now() const { return now_; }
  // A node begins to answer what was sent to it at `sent_at`: how long that takes bounds
  // --batch-wait.
  void NoteRoundTrip(absl::Time sent_at) {
    if (ABSL_PREDICT_FALSE(config_->batch_wait > absl::ZeroDuration())) AdaptBatchWait(sent_at);
  }
  uint32_t index() const { return index_; }
  uint64_t NextClientId() { return MakeClientId(++last_client_id_, index_, config_->workers); }
  bool IsOwnClientId(uint64_t id) const { return WorkerOfClient(id, config_->workers) == index_; }
  // Uniform in [0, n).
  uint64_t Random(uint64_t n) { return n == 0 ? 0 : random_() % n; }
  // `d` ± 25 %.
  absl::Duration Jitter(absl::Duration d);
  const std::string& instance_name() const { return instance_name_; }
  bool draining() const { return draining_; }

  void MarkDirty(Client* client);
  void MarkDirty(Backend* backend);
  // The client has input left over: it goes on the run list.
  void MarkRunnable(Client* client);
  // The client's waiting requests are looked at before this turn ends.
  void WakeClient(Client* client);
  void WakeClient(uint32_t index, uint32_t generation);
  void WakeAllWaiting();
  void NoteWaiting(Client* client);

  Backend* NewBackend();
  // Clients and backends that are there, if only to wait for the kernel.
  size_t connections_left() const { return clients_open_ + backends_alive_; }
  // Null: there is none (any more).
  Backend* FindBackend(uint32_t index, uint32_t generation) const;
  void FreeBackend(Backend* backend);
  template <typename Fn>
  void ForEachBackend(Fn fn) {
    for (size_t i = 0; i < backends_.size(); ++i) {
      if (backends_[i] != nullptr) fn(backends_[i].get());
    }
  }
  void FreeClient(Client* client);
  template <typename Fn>
  void ForEachClient(Fn fn) {
    for (size_t i = 0; i < clients_.size(); ++i) {
      if (clients_[i] != nullptr) fn(clients_[i].get());
    }
  }
  // Null: it is gone.
  Client* FindClient(uint32_t index, uint32_t generation);

  // The route epoch: raised whenever a slot may lead to another connection than before.
  uint64_t route_epoch() const { return route_epoch_; }
  void RaiseRouteEpoch() { ++route_epoch_; }

  // Asks control for a view of the cluster; the node with that id is asked first. Returns the
  // number to compare with refresh_answered().
  uint64_t AskRefresh(absl::string_view first_node_id);
  // The same, when no later check depends on it: at most one such ask is out at a time.
  void HintRefresh(absl::string_view first_node_id);
  uint64_t refresh_answered() const { return refresh_answered_; }
  // The view that answered an ask (which is answered); null: nobody could be asked.
  const cluster::Topology* ViewFor(uint64_t ask) const;

  // --- memory
  void Charge(int64_t delta);
  // Share of the worker's memory limit in use.
  // Takes no new requests that would hold memory.
  bool MemoryExhausted() const { return charged_ >= memory_exhausted_; }
  // Clients that hold much may read on.
  bool MemoryEasy() const;
  // While memory is tight the one that holds most still reads on: it is the nearest to being done.
  bool IsLargestHolder(const Client* client) const { return client == largest_holder_; }
  // It stopped reading for want of memory; it is looked at again when there is some.
  void WaitForMemory(Client* client);
  // Receive buffers are running low: what may stay long is copied out of them.
  bool BuffersLow() const { return buffers_low_; }
  bool SampleAccessLine();
  // So many requests get no access line.
  uint64_t RequestsBeforeSample() const {
    return config_->log_every_n == 0 ? ~uint64_t{0} : config_->log_every_n - 1 - commands_;
  }
  // So many of these were given to nodes, together of so many bytes.
  void NoteQuickRequests(uint64_t requests, uint64_t bytes) {
    commands_ += config_->log_every_n == 0 ? 0 : requests;
    stats_->requests.Add(requests);
    stats_->requests_in_flight.Add(requests);
    stats_->backend_requests.Add(requests);
    stats_->payload_bytes_copied.Add(bytes);
    stats_->payload_bytes_forwarded.Add(bytes);
  }

 private:
  static constexpr size_t kTextScratchBytesMax = 4 << 10;

  void AdaptBatchWait(absl::Time sent_at);
  void Handle(io::Completion* completion);
  void OnMessage(const io::Completion& message);
  void AdoptClient(io::Fd fd);
  void AdoptCluster();
  void TakeRefreshResults();
  void RunClients();
  void WakeClients();
  void FlushAll();
  void EaseMemory();
  void TrimScratch();
  void BeginDrain();
  void ForceClose();
  void ReportGone();
  void CheckDrained();
  void PostToControl(MessageKind kind, uint64_t value = 0);
  void Post(io::RingId ring, MessageKind kind, uint64_t value);
  void FreeGone();

  std::unique_ptr<io::Ring> ring_;
  const std::shared_ptr<const Config> config_;
  WorkerMail* const mail_;
  ControlMail* const control_mail_;
  WorkerStats* const stats_;
  const StatsRegistry* const all_stats_;
  const uint32_t index_;
  const uint64_t memory_limit_;      // bytes, this worker's share
  const uint64_t memory_exhausted_;  // bytes
  std::mt19937_64 random_;
  std::string instance_name_;

  absl::Time now_;
  // A moving average over the nodes' answers.
  absl::Duration round_trip_ = absl::ZeroDuration();
  Log log_;
  io::Timers timers_;
  io::BlockPool backend_blocks_;
  io::BlockPool client_blocks_;
  RequestPool requests_;
  cluster::SplitPlanner split_planner_;
  std::vector<cluster::Slot> slot_scratch_;
  std::array<std::string, 2> text_scratch_;
  Dispatcher dispatcher_;
  BackendPool backend_pool_;
  const std::unique_ptr<SubscriptionTable> own_table_;  // null: it was given one
  Subscriptions subscriptions_;
  Tracking tracking_;
  const std::unique_ptr<ScriptTable> own_scripts_;  // null: it was given one
  ScriptRepairs script_repairs_;
  EvalRecorder eval_recorder_;
  ClientQueries client_queries_;
  Monitors monitors_;
  std::shared_ptr<const ClusterState> cluster_;
  uint64_t topology_number_ = 0;

  std::vector<std::unique_ptr<Client>> clients_;  // by index; null: free
  std::vector<uint32_t> client_generations_;
  std::vector<uint32_t> free_clients_;
  std::vector<std::unique_ptr<Backend>> backends_;  // by index; null: free
  std::vector<uint32_t> backend_generations_;
  std::vector<uint32_t> free_backends_;
  std::vector<uint32_t> gone_clients_;  // closed in this turn; freed at its end
  std::vector<uint32_t> gone_backends_;
  uint32_t clients_open_ = 0;
  uint32_t backends_alive_ = 0;
  uint32_t gone_unreported_ = 0;
  uint32_t cut_off_ = 0;

  std::vector<Client*> dirty_clients_;
  std::vector<Backend*> dirty_backends_;
  std::vector<Client*> run_list_;
  std::vector<Client*> wake_list_;
  std::vector<Client*> at_hand_;  // those of one of the two whose turn it is
  std::vector<Client*> waiting_list_;
  io::Timer wake_timer_;
  static void WakeTimerFired(void* self);

  uint64_t route_epoch_ = 1;
  uint64_t refresh_asked_ = 0;
  uint64_t refresh_answered_ = 0;
  uint64_t refresh_hint_ = 0;        // the last ask made by HintRefresh
  std::deque<RefreshResult> views_;  // the latest answers, in order
  std::vector<std::pair<std::string, uint64_t>> asked_this_turn_;  // node id, number
  uint64_t charged_ = 0;
  uint64_t last_client_id_ = 0;
  uint64_t commands_ = 0;
  bool attentive_ = false;
  bool draining_ = false;
  bool reported_ = false;  // the drain's report is on its way
  bool finished_ = false;
  bool buffers_low_ = false;
  const Client* largest_holder_ = nullptr;  // looked for while memory is tight
  std::vector<Client*> memory_waiters_;
  std::vector<io::Completion> batch_;
};

}  // namespace proxy
