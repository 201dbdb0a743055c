#include "proxy/control.h"

#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "absl/base/macros.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"

namespace proxy {
namespace {

constexpr size_t kBatch = 256;
constexpr absl::Duration kWaitMax = absl::Seconds(1);
// After a turn that was late by more than this, the deadlines move by as much.
constexpr absl::Duration kStall = absl::Seconds(1);
constexpr absl::Duration kAcceptAgainAfter = absl::Milliseconds(100);
constexpr absl::Duration kPostAgainAfter = absl::Milliseconds(10);
// For what can't take long any more: workers that were told to close at once, last completions.
constexpr absl::Duration kEndingMax = absl::Seconds(2);

constexpr absl::string_view kTooManyClients = "-ERR max number of clients reached\r\n";

io::OpToken Token(io::OpKind kind, Party party, uint32_t index, uint32_t generation = 0) {
  return io::OpToken(kind, static_cast<uint8_t>(party), index, generation);
}

// A message may well be delivered a moment later.
bool IsTransient(int error) {
  return error == EAGAIN || error == ENOMEM || error == ENOBUFS || error == EOVERFLOW ||
         error == EINTR || error == EBUSY;
}

}  // namespace

Control::Control(Environment environment)
    : ring_(std::move(environment.ring)),
      config_(std::move(environment.config)),
      resolver_(std::move(environment.resolver)),
      mail_(environment.mail),
      worker_mail_(std::move(environment.worker_mail)),
      stats_(environment.stats),
      now_(ring_->Now()),
      log_(environment.log, &now_),
      refusals_(ring_.get(), &timers_, static_cast<uint8_t>(Party::kClient)),
      queries_(worker_mail_, [this](uint32_t worker, MessageKind kind) { Post(worker, kind); }),
      accept_timer_(&timers_, &Control::AcceptTimerFired, this),
      clients_(worker_mail_.size(), 0),
      post_timer_(&timers_, &Control::PostTimerFired, this),
      drain_timer_(&timers_, &Control::DrainTimerFired, this),
      batch_(kBatch) {
  const ControlContext context{.ring = ring_.get(),
                               .timers = &timers_,
                               .now = &now_,
                               .config = config_.get(),
                               .stats = stats_->control(),
                               .log = &log_};
  TopologyRefresh::Environment refresh{context};
  refresh.resolver = resolver_.get();
  refresh.random_seed = environment.random_seed;
  refresh.publish = [this](const std::shared_ptr<const ClusterState>& state) { Publish(state); };
  refresh.answer = [this](uint32_t worker, RefreshResult result) {
    Answer(worker, std::move(result));
  };
  refresh_ = std::make_unique<TopologyRefresh>(std::move(refresh));
  functions_ = std::make_unique<FunctionRepair>(context);
}

Control::~Control() {
  if (!abrupt_) CloseListenersNow();
  DropReserve();
}

void Control::Become(State next) {
  ABSL_ASSERT(next > state_);
  state_ = next;
}

absl::Status Control::Listen() {
  for (const io::Endpoint& address : config_->listen) {
    const absl::StatusOr<io::Fd> fd = ring_->Listen(address, io::ListenOptions());
    if (!fd.ok()) {
      CloseListenersNow();
      return fd.status();
    }
    Listener& listener = listeners_.emplace_back();
    listener.fd = *fd;
    if (!address.is_unix()) continue;
    listener.unix_path = address.unix_path();
    struct stat made = {};
    if (stat(listener.unix_path.c_str(), &made) == 0) {
      listener.unix_device = made.st_dev;
      listener.unix_inode = made.st_ino;
    }
  }
  return absl::OkStatus();
}

std::string Control::ListenAddresses() {
  std::string text;
  for (const Listener& listener : listeners_) {
    if (!text.empty()) text += ' ';
    text += listener.unix_path.empty() ? ring_->LocalName(listener.fd)
                                       : absl::StrCat("unix:", listener.unix_path);
  }
  return text;
}

void Control::Start() {
  HaveReserve();
  ArmAccepts();
  refresh_->Start();
}

int Control::Run() {
  while (Turn(kWaitMax)) {
  }
  return exit_code_;
}

bool Control::Turn(absl::Duration limit) {
  if (state_ == State::kDone) return false;
  limit = std::clamp(timers_.next() - now_, absl::ZeroDuration(), limit);
  const size_t completions = ring_->SubmitAndWait(limit, absl::MakeSpan(batch_));
  const absl::Duration late = ring_->Now() - now_ - limit;
  now_ = ring_->Now();
  if (late > kStall) timers_.Postpone(late);
  for (size_t i = 0; i < completions; ++i) {
    Handle(&batch_[i]);
    batch_[i].data = io::Slice();
  }
  timers_.Advance(now_);
  if (state_ == State::kDraining || state_ == State::kForced) PostDrainIfReady();
  if (state_ == State::kEnding) {
    CloseListeners();
    if (Idle()) Become(State::kDone);
  }
  return state_ != State::kDone;
}

void Control::Handle(io::Completion* completion) {
  if (completion->token.kind() == io::OpKind::kMessage) return OnMessage(*completion);
  switch (static_cast<Party>(completion->token.party())) {
    case Party::kListener:
      return OnListener(*completion);
    case Party::kClient:
      return refusals_.OnCompletion(completion);
    case Party::kRefresh:
      return refresh_->OnCompletion(completion);
    case Party::kFunctions:
      return functions_->OnCompletion(completion);
    case Party::kHandover:
      return OnHandedOver(*completion);
    default:
      --operations_;
      if (completion->token.kind() == io::OpKind::kPost) OnPosted(*completion);
      return;
  }
}

// --- accepting

void Control::ArmAccept(uint32_t index) {
  listeners_[index].armed = true;
  ring_->Accept(Token(io::OpKind::kAccept, Party::kListener, index), listeners_[index].fd);
}

void Control::ArmAccepts() {
  for (uint32_t i = 0; i < listeners_.size(); ++i) {
    if (!listeners_[i].armed) ArmAccept(i);
  }
}

void Control::OnListener(const io::Completion& completion) {
  const uint32_t index = completion.token.index();
  Listener& listener = listeners_[index];
  switch (completion.token.kind()) {
    case io::OpKind::kAccept:
      return OnAccept(index, completion);
    case io::OpKind::kClose:
      --operations_;
      listener.closing = false;
      if (completion.result != -ECANCELED) listener.fd = -1;
      return;
    default:
      --operations_;  // of a cancel: the accept ends by itself, whatever came of it
      return;
  }
}

void Control::OnAccept(uint32_t index, const io::Completion& completion) {
  listeners_[index].armed = completion.more;
  const int result = completion.result;
  if (state_ != State::kServing) {
    if (result >= 0) CloseFd(result);
    return;
  }
  if (result < 0) return OnAcceptFailed(index, -result);
  if (!listeners_[index].armed) ArmAccept(index);
  if (!HaveReserve()) {
    // It was accepted with the reserve.
    stats_->control()->clients_over_limit.Add(1);
    refusals_.Refuse(now_, result, kTooManyClients, Refusals::Ending::kAtOnce);
  } else if (clients_total_ >= config_->clients_max) {
    stats_->control()->clients_over_limit.Add(1);
    log_.WarnEvery("clients", absl::StrCat("max number of clients reached (", config_->clients_max,
                                           "): refusing"));
    refusals_.Refuse(now_, result, kTooManyClients, Refusals::Ending::kLinger);
  } else {
    HandOver(result);
  }
}

void Control::OnAcceptFailed(uint32_t index, int error) {
  stats_->control()->accept_failures.Add(1);
  if (error == ECONNABORTED || error == EINTR) return ArmAccept(index);  // that client has gone
  const bool short_of_descriptors = error == EMFILE || error == ENFILE;
  log_.WarnEvery("accept", absl::StrCat("cannot accept clients: ", strerror(error)));
  if (short_of_descriptors && reserve_ >= 0) {
    // With one descriptor free, the next client is accepted, told and closed.
    DropReserve();
    return ArmAccept(index);
  }
  // Not at once: without a free descriptor an accept fails even when nobody comes.
  if (!accept_timer_.armed()) accept_timer_.Set(now_ + kAcceptAgainAfter);
}

// False: descriptors have run out.
bool Control::HaveReserve() {
  if (reserve_ < 0) reserve_ = eventfd(0, EFD_CLOEXEC);
  return reserve_ >= 0 || (errno != EMFILE && errno != ENFILE);
}

void Control::DropReserve() {
  if (reserve_ >= 0) close(std::exchange(reserve_, -1));
}

void Control::CloseFd(io::Fd fd) {
  ++operations_;
  ring_->Close(Token(io::OpKind::kClose, Party::kNobody, 0), fd);
}

// --- workers

void Control::HandOver(io::Fd fd) {
  const auto fewest = std::min_element(clients_.begin(), clients_.end());
  const auto worker = static_cast<uint32_t>(fewest - clients_.begin());
  ++clients_[worker];
  ++clients_total_;
  ++handovers_;
  io::Message message;
  message.kind = static_cast<uint8_t>(MessageKind::kAdoptClient);
  message.value = static_cast<uint32_t>(fd);
  ring_->Post(Token(io::OpKind::kPost, Party::kHandover, message.value, worker), WorkerRing(worker),
              message);
}

void Control::OnHandedOver(const io::Completion& completion) {
  --handovers_;
  if (completion.result >= 0) return;  // it is the worker's
  log_.WarnEvery("handover",
                 absl::StrCat("cannot hand a client to a worker: ", strerror(-completion.result)));
  CloseFd(static_cast<io::Fd>(completion.token.index()));
  OnClientsClosed(completion.token.generation(), 1);
}

void Control::OnClientsClosed(uint32_t worker, uint32_t count) {
  const auto take = [&](uint32_t from) {
    const uint32_t taken = std::min(count, clients_[from]);
    clients_[from] -= taken;
    clients_total_ -= taken;
    count -= taken;
  };
  if (worker < clients_.size()) take(worker);
  // Nothing is left of it if the worker has told its own number. If not, the balance suffers, but
  // never the sum: the limit is measured by it.
  for (uint32_t other = 0; count > 0 && other < clients_.size(); ++other) take(other);
}

void Control::Publish(const std::shared_ptr<const ClusterState>& state) {
  for (WorkerMail* mail : worker_mail_) mail->states.Put(state);
  PostToAll(MessageKind::kClusterState);
  functions_->OnTopology(state);
}

void Control::Answer(uint32_t worker, RefreshResult result) {
  worker_mail_[worker]->refreshes.Put(std::move(result));
  Post(worker, MessageKind::kRefreshDone);
}

void Control::PassOnRedirected() {
  const auto workers = static_cast<uint32_t>(worker_mail_.size());
  while (absl::optional<RedirectedInvalidation> redirected = mail_->redirected.Take()) {
    const uint64_t to = redirected->target_is_gone ? redirected->source : redirected->target;
    const uint32_t worker = WorkerOfClient(to, workers);
    worker_mail_[worker]->redirected.Put(*std::move(redirected));
    Post(worker, MessageKind::kRedirectedInvalidation);
  }
}

void Control::PostToAll(MessageKind kind) {
  for (uint32_t worker = 0; worker < worker_mail_.size(); ++worker) Post(worker, kind);
}

void Control::Post(uint32_t worker, MessageKind kind) {
  ++operations_;
  io::Message message;
  message.kind = static_cast<uint8_t>(kind);
  ring_->Post(Token(io::OpKind::kPost, Party::kNobody, worker, message.kind), WorkerRing(worker),
              message);
}

void Control::OnPosted(const io::Completion& completion) {
  if (completion.result >= 0 || state_ >= State::kEnding) return;
  const uint32_t worker = completion.token.index();
  const auto kind = static_cast<MessageKind>(completion.token.generation());
  if (IsTransient(-completion.result)) {
    undelivered_.push_back({worker, kind});
    if (!post_timer_.armed()) post_timer_.Set(now_ + kPostAgainAfter);
    return;
  }
  // There is nobody to wait for.
  queries_.OnWorkerGone(worker);
  if (kind == MessageKind::kDrain) OnDrained(0);
}

void Control::PostTimerFired(void* self) {
  auto* const control = static_cast<Control*>(self);
  for (const Undelivered& message : std::exchange(control->undelivered_, {})) {
    control->Post(message.worker, message.kind);
  }
}

void Control::OnMessage(const io::Completion& message) {
  const auto value = static_cast<uint32_t>(message.result);
  switch (static_cast<MessageKind>(message.message_kind)) {
    case MessageKind::kClientsClosed: {
      const ClientsClosed closed = UnpackClientsClosed(value);
      return OnClientsClosed(closed.worker, closed.count);
    }
    case MessageKind::kRefreshWanted:
      while (absl::optional<RefreshAsk> ask = mail_->asks.Take()) refresh_->OnAsk(*std::move(ask));
      return;
    case MessageKind::kDrained:
      while (absl::optional<uint32_t> ended = mail_->ended.Take()) queries_.OnWorkerGone(*ended);
      return OnDrained(value);
    case MessageKind::kQueryAsked:
      while (absl::optional<ClientQuery> query = mail_->queries.Take()) {
        queries_.OnQuery(*std::move(query));
      }
      return;
    case MessageKind::kInvalidationRedirected:
      return PassOnRedirected();
    case MessageKind::kQueryAnswered:
      while (absl::optional<ClientAnswer> answer = mail_->answers.Take()) {
        queries_.OnAnswer(*std::move(answer));
      }
      return;
    case MessageKind::kSignal:
      return OnSignal(static_cast<int>(value));
    case MessageKind::kResolved:
      return refresh_->OnResolved();
    default:
      return;
  }
}

// --- the end

void Control::OnSignal(int signal) {
  switch (signal) {
    case SIGTERM:
    case SIGINT:
      if (state_ == State::kServing) return BeginDrain();
      log_.Warn("second signal: exiting at once");
      return EndAbruptly();
    case SIGHUP:
      return log_.Warn("reload is not supported yet");
    default:
      return;
  }
}

void Control::BeginDrain() {
  Become(State::kDraining);
  stats_->control()->draining.Set(1);
  log_.Info(absl::StrCat("draining: ", clients_total_, " clients, at most ",
                         absl::FormatDuration(config_->drain_timeout)));
  accept_timer_.Stop();
  for (const Listener& listener : listeners_) RemoveUnixPath(listener);
  drain_timer_.Set(now_ + config_->drain_timeout);
  CloseListeners();
}

// Takes each listener a step further: cancel its accept; when that has ended, close it.
void Control::CloseListeners() {
  for (uint32_t i = 0; i < listeners_.size(); ++i) {
    Listener& listener = listeners_[i];
    if (listener.fd < 0 || listener.closing) continue;
    if (!listener.armed) {
      ++operations_;
      listener.closing = true;
      ring_->Close(Token(io::OpKind::kClose, Party::kListener, i), listener.fd);
    } else if (!listener.canceling) {
      ++operations_;
      listener.canceling = true;
      ring_->Cancel(Token(io::OpKind::kCancel, Party::kListener, i),
                    Token(io::OpKind::kAccept, Party::kListener, i));
    }
  }
}

bool Control::ListenersClosed() const {
  return std::all_of(listeners_.begin(), listeners_.end(),
                     [](const Listener& listener) { return listener.fd < 0; });
}

// Outside of turns: nothing has begun, or all is over.
void Control::CloseListenersNow() {
  for (const Listener& listener : listeners_) {
    if (listener.fd >= 0) RemoveUnixPath(listener);
  }
  if (state_ == State::kServing) Become(State::kEnding);
  constexpr int kTurnsMax = 100;
  for (int i = 0; i < kTurnsMax && !ListenersClosed(); ++i) {
    CloseListeners();
    const size_t completions = ring_->SubmitAndWait(absl::Milliseconds(10), absl::MakeSpan(batch_));
    for (size_t k = 0; k < completions; ++k) {
      if (static_cast<Party>(batch_[k].token.party()) == Party::kListener) OnListener(batch_[k]);
      batch_[k].data = io::Slice();
    }
  }
}

// Unless another process listens there by now.
void Control::RemoveUnixPath(const Listener& listener) {
  struct stat now = {};
  if (listener.unix_path.empty() || stat(listener.unix_path.c_str(), &now) != 0) return;
  if (now.st_dev == listener.unix_device && now.st_ino == listener.unix_inode) {
    unlink(listener.unix_path.c_str());
  }
}

// Workers are told when no client can come to them any more.
void Control::PostDrainIfReady() {
  if (drain_posted_) return;
  CloseListeners();
  if (!ListenersClosed() || handovers_ > 0) return;
  drain_posted_ = true;
  PostToAll(MessageKind::kDrain);
}

void Control::OnDrained(uint32_t cut_off) {
  ++drained_;
  cut_off_ += cut_off;
  if (drained_ < worker_mail_.size() || state_ >= State::kEnding) return;
  if (cut_off_ > 0) exit_code_ = 1;
  if (exit_code_ != 0) {
    log_.Warn(absl::StrCat("drain limit passed: ", cut_off_, " clients cut off"));
  } else {
    log_.Info("drained");
  }
  Become(State::kEnding);
  refresh_->Stop();
  functions_->Stop();
  refusals_.CloseAll();
  undelivered_.clear();
  post_timer_.Stop();
  drain_timer_.Set(now_ + kEndingMax);
}

void Control::OnDrainTimer() {
  if (state_ != State::kDraining) {
    log_.Error(state_ == State::kForced ? "workers do not end: exiting at once"
                                        : "operations do not end: exiting at once");
    return EndAbruptly();
  }
  Become(State::kForced);
  exit_code_ = 1;
  drain_posted_ = true;  // this says it too
  PostToAll(MessageKind::kForceClose);
  drain_timer_.Set(now_ + kEndingMax);
}

void Control::EndAbruptly() {
  abrupt_ = true;
  exit_code_ = 1;
  if (state_ != State::kDone) Become(State::kDone);
}

bool Control::Idle() const {
  return ListenersClosed() && operations_ == 0 && handovers_ == 0 && refresh_->idle() &&
         functions_->idle() && refusals_.idle();
}

}  // namespace proxy
