#include "proxy/worker.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"

namespace proxy {
namespace {

constexpr size_t kBatch = 512;
// Request copies of backends lie in blocks of this size; those of clients in smaller ones, because
// there may be many of them.
constexpr size_t kBackendBlockBytes = 32 << 10;
constexpr size_t kClientBlockBytes = 4 << 10;
constexpr size_t kIdleBlocksMax = 1024;
// A turn that took longer: the process did not run, and nobody is to blame for a late reply.
constexpr absl::Duration kStall = absl::Seconds(1);
constexpr absl::Duration kWaitMax = absl::Seconds(10);
constexpr absl::Duration kRoundTripMax = absl::Milliseconds(10);
// L8, in shares of the memory limit.
constexpr double kMemoryEasy = 0.80;
constexpr double kMemoryNoNewClients = 0.90;
constexpr double kMemoryExhausted = 0.95;
// Views of the cluster that are kept for those who asked for one.
constexpr size_t kViewsMax = 64;

uint64_t Share(double share, uint64_t bytes) {
  return static_cast<uint64_t>(share * static_cast<double>(bytes));
}

constexpr uint32_t kGenerationMask = 0xffffff;  // what an OpToken holds

io::OpToken PostToken() {
  return io::OpToken(io::OpKind::kPost, static_cast<uint8_t>(Party::kNobody), 0, 0);
}
io::OpToken LastPostToken() {
  return io::OpToken(io::OpKind::kPost, static_cast<uint8_t>(Party::kHandover), 0, 0);
}

template <typename T>
T* Find(const std::vector<std::unique_ptr<T>>& table, uint32_t index, uint32_t generation) {
  if (index >= table.size()) return nullptr;
  T* found = table[index].get();
  return found != nullptr && found->generation() == generation ? found : nullptr;
}

// A free index of a table, with a generation that its last user did not have.
template <typename T>
uint32_t TakeIndex(std::vector<std::unique_ptr<T>>* table, std::vector<uint32_t>* generations,
                   std::vector<uint32_t>* free) {
  if (free->empty()) {
    table->emplace_back();
    generations->push_back(0);
    free->push_back(static_cast<uint32_t>(table->size() - 1));
  }
  const uint32_t index = free->back();
  free->pop_back();
  (*generations)[index] = ((*generations)[index] + 1) & kGenerationMask;
  return index;
}

// Whoever is marked by these flushes has the next turn, which comes at once: behind a quiet send,
// which has no completion to wake anybody, nothing is left for later.
template <typename Owner>
void FlushList(std::vector<Owner*>* dirty) {
  const size_t n = dirty->size();
  for (size_t i = 0; i < n; ++i) (*dirty)[i]->Flush();
  dirty->erase(dirty->begin(), dirty->begin() + static_cast<ptrdiff_t>(n));
}

}  // namespace

Worker::Worker(Environment environment)
    : ring_(std::move(environment.ring)),
      config_(std::move(environment.config)),
      mail_(environment.mail),
      control_mail_(environment.control_mail),
      stats_(environment.stats),
      all_stats_(environment.all_stats),
      index_(environment.index),
      memory_limit_(std::max<uint64_t>(1, config_->memory_limit_bytes / config_->workers)),
      memory_exhausted_(Share(kMemoryExhausted, memory_limit_)),
      random_(environment.random_seed),
      now_(ring_->Now()),
      log_(environment.log, &now_),
      backend_blocks_(kBackendBlockBytes, kIdleBlocksMax),
      client_blocks_(kClientBlockBytes, kIdleBlocksMax),
      dispatcher_(this),
      backend_pool_(this),
      own_table_(environment.subscription_table == nullptr ? std::make_unique<SubscriptionTable>()
                                                           : nullptr),
      subscriptions_(this,
                     own_table_ != nullptr ? own_table_.get() : environment.subscription_table),
      tracking_(this),
      own_scripts_(environment.script_table == nullptr ? std::make_unique<ScriptTable>() : nullptr),
      script_repairs_(this,
                      own_scripts_ != nullptr ? own_scripts_.get() : environment.script_table),
      eval_recorder_(script_repairs_.table()),
      client_queries_(this),
      monitors_(this, environment.monitor_mail),
      wake_timer_(&timers_, &Worker::WakeTimerFired, this),
      batch_(kBatch) {
  instance_name_ =
      absl::StrCat("rcproxy-", absl::Hex(random_() & 0xffffffff, absl::kZeroPad8), "-w", index_);
}

Worker::~Worker() = default;

void Worker::Run() {
  while (Turn(kWaitMax)) {
  }
}

bool Worker::Turn(absl::Duration limit) {
  if (finished_) return false;
  const bool work_left = !run_list_.empty() || !wake_list_.empty() || !dirty_clients_.empty() ||
                         !dirty_backends_.empty() || subscriptions_.work_left() ||
                         tracking_.work_left();
  if (work_left) {
    limit = absl::ZeroDuration();
  } else {
    limit = std::clamp(timers_.next() - now_, absl::ZeroDuration(), limit);
  }
  const size_t completions = ring_->SubmitAndWait(limit, absl::MakeSpan(batch_));
  const absl::Duration late = ring_->Now() - now_ - limit;
  now_ = ring_->Now();
  if (late > kStall) timers_.Postpone(late);
  stats_->turns.Add(1);
  stats_->completions.Add(completions);
  buffers_low_ = ring_->FreeBufferShare(io::BufferGroup::kClients) < 0.5 ||
                 ring_->FreeBufferShare(io::BufferGroup::kBackends) < 0.5;
  asked_this_turn_.clear();
  RunClients();
  for (size_t i = 0; i < completions; ++i) {
    Handle(&batch_[i]);
    batch_[i].data = io::Slice();
  }
  WakeClients();
  timers_.Advance(now_);
  WakeClients();
  FlushAll();
  EaseMemory();
  TrimScratch();
  FreeGone();
  ReportGone();
  CheckDrained();
  return !finished_;
}

void Worker::AdaptBatchWait(absl::Time sent_at) {
  // So that one late answer does not weigh.
  const absl::Duration sample = std::min(now_ - sent_at, kRoundTripMax);
  round_trip_ += (sample - round_trip_) / 16;
  ring_->SetGatherTime(std::min(round_trip_ / 3, config_->batch_wait));
}

// --- completions

void Worker::Handle(io::Completion* completion) {
  const io::OpToken token = completion->token;
  if (token.kind() == io::OpKind::kMessage) return OnMessage(*completion);
  switch (static_cast<Party>(token.party())) {
    case Party::kClient: {
      Client* client = Find(clients_, token.index(), token.generation());
      if (client == nullptr) break;
      switch (token.kind()) {
        case io::OpKind::kRecv:
          return client->OnRecv(completion);
        case io::OpKind::kSend:
          return client->OnSend(*completion);
        default:
          return client->OnControl(*completion);
      }
    }
    case Party::kBackend: {
      Backend* backend = Find(backends_, token.index(), token.generation());
      if (backend == nullptr) break;
      switch (token.kind()) {
        case io::OpKind::kConnect:
          return backend->OnConnect(*completion);
        case io::OpKind::kRecv:
          return backend->OnRecv(completion);
        case io::OpKind::kSend:
          return backend->OnSend(*completion);
        default:
          return backend->OnControl(*completion);
      }
    }
    case Party::kSubscriber:
      return subscriptions_.OnCompletion(completion);
    case Party::kTracking:
      return tracking_.OnCompletion(completion);
    case Party::kHandover:
      finished_ = true;  // the report of the drain is delivered, or nobody is there to take it
      return;
    default:
      return;  // posts and closes that nobody waits for
  }
  stats_->late_completions.Add(1);
}

void Worker::OnMessage(const io::Completion& message) {
  switch (static_cast<MessageKind>(message.message_kind)) {
    case MessageKind::kAdoptClient:
      return AdoptClient(message.result);
    case MessageKind::kClusterState:
      return AdoptCluster();
    case MessageKind::kRefreshDone:
      return TakeRefreshResults();
    case MessageKind::kDrain:
      return BeginDrain();
    case MessageKind::kForceClose:
      return ForceClose();
    case MessageKind::kClientQuery:
      return client_queries_.OnQueries();
    case MessageKind::kClientAnswer:
      return client_queries_.OnAnswers();
    case MessageKind::kRedirectedInvalidation:
      return tracking_.OnRedirected();
    case MessageKind::kMonitorLines:
      return monitors_.OnLines();
    default:
      return;
  }
}

void Worker::AdoptClient(io::Fd fd) {
  if (draining_ || charged_ >= Share(kMemoryNoNewClients, memory_limit_)) {
    if (!draining_) stats_->clients_refused_for_memory.Add(1);
    ring_->Close(io::OpToken(io::OpKind::kClose, static_cast<uint8_t>(Party::kNobody), 0, 0), fd);
    ++gone_unreported_;
    return;
  }
  const uint32_t index = TakeIndex(&clients_, &client_generations_, &free_clients_);
  clients_[index] = std::make_unique<Client>(this, index, client_generations_[index]);
  ++clients_open_;
  stats_->clients_accepted.Add(1);
  stats_->clients_open.Set(clients_open_);
  clients_[index]->Open(fd);
}

void Worker::FreeClient(Client* client) {
  gone_clients_.push_back(client->index());
  --clients_open_;
  ++gone_unreported_;
  stats_->clients_open.Set(clients_open_);
}

Backend* Worker::NewBackend() {
  const uint32_t index = TakeIndex(&backends_, &backend_generations_, &free_backends_);
  backends_[index] = std::make_unique<Backend>(this, index, backend_generations_[index]);
  ++backends_alive_;
  return backends_[index].get();
}

Backend* Worker::FindBackend(uint32_t index, uint32_t generation) const {
  return Find(backends_, index, generation);
}

void Worker::FreeBackend(Backend* backend) {
  gone_backends_.push_back(backend->index());
  --backends_alive_;
}

// What closed in this turn is freed at its end, when nobody up the stack holds a pointer to it.
void Worker::FreeGone() {
  if (!gone_clients_.empty()) {
    const auto purge = [](std::vector<Client*>* list) {
      list->erase(std::remove_if(
                      list->begin(), list->end(),
                      [](const Client* client) { return client->state() == Client::State::kFree; }),
                  list->end());
    };
    purge(&dirty_clients_);
    purge(&run_list_);
    purge(&wake_list_);
    purge(&waiting_list_);
    purge(&memory_waiters_);
    for (const uint32_t index : gone_clients_) {
      if (largest_holder_ == clients_[index].get()) largest_holder_ = nullptr;
      clients_[index].reset();
      free_clients_.push_back(index);
    }
    gone_clients_.clear();
  }
  if (!gone_backends_.empty()) {
    dirty_backends_.erase(std::remove_if(dirty_backends_.begin(), dirty_backends_.end(),
                                         [](const Backend* backend) {
                                           return backend->state() == Backend::State::kFree;
                                         }),
                          dirty_backends_.end());
    for (const uint32_t index : gone_backends_) {
      backends_[index].reset();
      free_backends_.push_back(index);
    }
    gone_backends_.clear();
  }
}

void Worker::ReportGone() {
  if (gone_unreported_ == 0) return;
  PostToControl(MessageKind::kClientsClosed,
                PackClientsClosed({index_, std::exchange(gone_unreported_, 0)}));
}

void Worker::SendQuery(const ClientQuery& query) {
  control_mail_->queries.Put(query);
  PostToControl(MessageKind::kQueryAsked);
}

void Worker::SendAnswer(ClientAnswer answer) {
  control_mail_->answers.Put(std::move(answer));
  PostToControl(MessageKind::kQueryAnswered);
}

void Worker::SendRedirected(RedirectedInvalidation redirected) {
  control_mail_->redirected.Put(std::move(redirected));
  PostToControl(MessageKind::kInvalidationRedirected);
}

void Worker::PostToWorker(uint32_t worker, MessageKind kind) { Post(WorkerRing(worker), kind, 0); }

void Worker::PostToControl(MessageKind kind, uint64_t value) { Post(kControlRing, kind, value); }

void Worker::Post(io::RingId ring, MessageKind kind, uint64_t value) {
  io::Message message;
  message.kind = static_cast<uint8_t>(kind);
  message.value = value;
  ring_->Post(PostToken(), ring, message);
}

// --- lists of this turn

void Worker::MarkDirty(Client* client) {
  if (client->dirty) return;
  client->dirty = true;
  dirty_clients_.push_back(client);
}

void Worker::MarkDirty(Backend* backend) {
  if (backend->dirty) return;
  backend->dirty = true;
  dirty_backends_.push_back(backend);
}

void Worker::MarkRunnable(Client* client) {
  if (client->runnable) return;
  client->runnable = true;
  run_list_.push_back(client);
}

// Before new input: what came first is served first.
void Worker::RunClients() {
  at_hand_.swap(run_list_);
  for (Client* client : at_hand_) {
    client->runnable = false;
    client->TakeRequests();
    MarkDirty(client);
  }
  at_hand_.clear();
}

void Worker::WakeClient(Client* client) {
  if (client->wake_wanted) return;
  client->wake_wanted = true;
  wake_list_.push_back(client);
}

void Worker::WakeClient(uint32_t index, uint32_t generation) {
  Client* client = Find(clients_, index, generation);
  if (client != nullptr) WakeClient(client);
}

Client* Worker::FindClient(uint32_t index, uint32_t generation) {
  return Find(clients_, index, generation);
}

void Worker::NoteWaiting(Client* client) {
  if (client->on_waiting_list) return;
  client->on_waiting_list = true;
  waiting_list_.push_back(client);
}

void Worker::WakeAllWaiting() {
  for (Client* client : waiting_list_) WakeClient(client);
}

void Worker::WakeClients() {
  if (wake_list_.empty()) return;
  at_hand_.swap(wake_list_);
  for (Client* client : at_hand_) {
    client->wake_wanted = false;
    dispatcher_.Wake(client);
    if (client->waiting > 0 &&
        client->wake_at < (wake_timer_.armed() ? wake_timer_.when() : absl::InfiniteFuture())) {
      wake_timer_.Set(client->wake_at);
    }
  }
  at_hand_.clear();
}

void Worker::WakeTimerFired(void* self) {
  Worker* worker = static_cast<Worker*>(self);
  absl::Time next = absl::InfiniteFuture();
  std::vector<Client*>& list = worker->waiting_list_;
  size_t kept = 0;
  for (Client* client : list) {
    if (client->waiting == 0) {
      client->on_waiting_list = false;
      continue;
    }
    list[kept++] = client;
    if (client->wake_at <= worker->now_) {
      worker->WakeClient(client);
    } else {
      next = std::min(next, client->wake_at);
    }
  }
  list.resize(kept);
  if (next != absl::InfiniteFuture()) worker->wake_timer_.Set(next);
}

// Flushing may mark others; what is marked too late for this pass has its turn in the next.
void Worker::FlushAll() {
  subscriptions_.Flush();
  tracking_.Flush();
  monitors_.Flush();
  FlushList(&dirty_backends_);
  FlushList(&dirty_clients_);
}

// --- the cluster

void Worker::AdoptCluster() {
  bool any = false;
  while (auto state = mail_->states.Take()) {
    cluster_ = std::move(*state);
    any = true;
  }
  if (!any) return;
  ++topology_number_;
  backend_pool_.Adopt(*cluster_);
  subscriptions_.OnTopology();
  tracking_.OnTopology();
  stats_->topology_swaps.Add(1);
  WakeAllWaiting();
}

uint64_t Worker::AskRefresh(absl::string_view first_node_id) {
  // A refresh begins in a later turn: all that ask for the same in this one can share it.
  for (const auto& [id, sequence] : asked_this_turn_) {
    if (id == first_node_id) return sequence;
  }
  ++refresh_asked_;
  asked_this_turn_.emplace_back(std::string(first_node_id), refresh_asked_);
  RefreshAsk ask;
  ask.worker = index_;
  ask.sequence = refresh_asked_;
  ask.first_node_id = std::string(first_node_id);
  control_mail_->asks.Put(std::move(ask));
  PostToControl(MessageKind::kRefreshWanted);
  return refresh_asked_;
}

void Worker::HintRefresh(absl::string_view first_node_id) {
  if (draining_ || refresh_hint_ > refresh_answered_) return;
  refresh_hint_ = AskRefresh(first_node_id);
}

void Worker::TakeRefreshResults() {
  bool any = false;
  while (auto result = mail_->refreshes.Take()) {
    refresh_answered_ = std::max(refresh_answered_, result->sequence);
    views_.push_back(std::move(*result));
    if (views_.size() > kViewsMax) views_.pop_front();
    any = true;
  }
  if (any) WakeAllWaiting();
}

const ServerInfo& Worker::server() const {
  static const ServerInfo kNotKnownYet;
  return cluster_ == nullptr ? kNotKnownYet : cluster_->server;
}

const cluster::Topology* Worker::ViewFor(uint64_t ask) const {
  for (const RefreshResult& result : views_) {
    if (result.sequence >= ask) return result.view.get();
  }
  return nullptr;
}

absl::Duration Worker::Jitter(absl::Duration d) { return d * (75 + Random(51)) / 100; }

bool Worker::SampleAccessLine() {
  if (config_->log_every_n == 0 || ++commands_ < config_->log_every_n) return false;
  commands_ = 0;
  return log_.wants(LogLevel::kInfo);
}

// --- memory

void Worker::Charge(int64_t delta) {
  charged_ += static_cast<uint64_t>(delta);
  stats_->charged_bytes.Set(charged_);
}

bool Worker::MemoryEasy() const { return charged_ < Share(kMemoryEasy, memory_limit_); }

// A name or a key of any size may have been there.
void Worker::TrimScratch() {
  for (std::string& text : text_scratch_) {
    if (text.capacity() > kTextScratchBytesMax) text = std::string();
  }
}

void Worker::WaitForMemory(Client* client) {
  if (client->on_memory_list) return;
  client->on_memory_list = true;
  memory_waiters_.push_back(client);
}

void Worker::EaseMemory() {
  if (MemoryEasy()) {
    largest_holder_ = nullptr;
    for (Client* client : memory_waiters_) {
      client->on_memory_list = false;
      MarkDirty(client);
    }
    memory_waiters_.clear();
    return;
  }
  Client* largest = nullptr;
  for (const std::unique_ptr<Client>& client : clients_) {
    if (client == nullptr) continue;
    if (largest == nullptr || client->held_bytes() > largest->held_bytes()) largest = client.get();
  }
  if (largest == nullptr) return;
  if (charged_ >= memory_limit_) {
    log_.WarnEvery("memory",
                   absl::StrCat("memory limit reached: closing the client that holds most, ",
                                largest->held_bytes(), " bytes"));
    stats_->memory_closed.Add(1);
    return largest->BeginClose();
  }
  if (largest != largest_holder_) {
    largest_holder_ = largest;
    MarkDirty(largest);
  }
}

// --- the end

void Worker::BeginDrain() {
  if (draining_) return;
  draining_ = true;
  client_queries_.EndPause();
  for (size_t i = 0; i < clients_.size(); ++i) {
    if (clients_[i] != nullptr) clients_[i]->BeginDrain();
  }
}

void Worker::ForceClose() {
  BeginDrain();
  for (size_t i = 0; i < clients_.size(); ++i) {
    if (clients_[i] == nullptr || clients_[i]->state() >= Client::State::kLingering) continue;
    ++cut_off_;
    clients_[i]->BeginClose();
  }
  for (size_t i = 0; i < backends_.size(); ++i) {
    if (backends_[i] != nullptr) backends_[i]->Fail(Backend::Failure::kRetired, "");
  }
  subscriptions_.Close();
  tracking_.Close();
}

// What the kernel still sends without a copy is not waited for: to a peer that takes nothing any
// more that would be half a minute.
void Worker::CheckDrained() {
  const auto settled = [](const auto& each) { return each == nullptr || each->settled(); };
  if (!draining_ || reported_ || !absl::c_all_of(clients_, settled)) return;
  backend_pool_.Close();
  subscriptions_.Close();
  tracking_.Close();
  for (size_t i = 0; i < backends_.size(); ++i) {
    if (backends_[i] != nullptr && backends_[i]->usable()) backends_[i]->Retire();
  }
  if (!absl::c_all_of(backends_, settled)) return;
  if (!subscriptions_.closed() || !tracking_.closed()) return;
  reported_ = true;
  wake_timer_.Stop();
  client_queries_.Close();
  control_mail_->ended.Put(index_);
  io::Message message;
  message.kind = static_cast<uint8_t>(MessageKind::kDrained);
  message.value = cut_off_;
  ring_->Post(LastPostToken(), kControlRing, message);
}

}  // namespace proxy
