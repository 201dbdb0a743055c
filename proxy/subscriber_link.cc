#include "proxy/subscriber_link.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cluster/redirection.h"
#include "cluster/slot.h"
#include "proxy/backend_pool.h"
#include "proxy/worker.h"
#include "resp/encoder.h"
#include "resp/views.h"

namespace proxy {
namespace {

constexpr uint32_t kGenerationMask = 0xffffff;  // what a token holds of it
// Frames that lack more are received into memory of their own.
constexpr size_t kLargeFrameBytes = 64 << 10;
constexpr absl::Duration kHandshakeTimeoutMax = absl::Seconds(1);
// A silent node is asked so often within the reply deadline.
constexpr int kPingsPerDeadline = 4;
// A connection that nothing is subscribed at is kept for so long.
constexpr absl::Duration kUnusedTime = absl::Seconds(10);

struct Names {
  absl::string_view subscribe, unsubscribe, message;
  absl::string_view subscribed, unsubscribed;
};
constexpr Names kNames[kTopicKinds] = {
    {"SUBSCRIBE", "UNSUBSCRIBE", "message", "subscribe", "unsubscribe"},
    {"PSUBSCRIBE", "PUNSUBSCRIBE", "pmessage", "psubscribe", "punsubscribe"},
    {"SSUBSCRIBE", "SUNSUBSCRIBE", "smessage", "ssubscribe", "sunsubscribe"},
};

const Names& NamesOf(TopicKind kind) { return kNames[static_cast<size_t>(kind)]; }

}  // namespace

SubscriberLink::SubscriberLink(Worker* worker, Observer* observer, Purpose purpose, uint32_t index,
                               uint32_t generation, std::string node_id)
    : worker_(worker),
      observer_(observer),
      purpose_(purpose),
      index_(index),
      node_id_(std::move(node_id)),
      generation_(generation),
      connection_(worker->ring()),
      timer_(worker->timers(), &SubscriberLink::TimerFired, this),
      arena_(worker->backend_blocks()) {}

SubscriberLink::~SubscriberLink() { ClearPartial(); }

void SubscriberLink::Become(State next) {
  ABSL_ASSERT(next != state_);
  ABSL_ASSERT(state_ != State::kClosing || next == State::kIdle);
  WorkerStats* const stats = worker_->stats();
  Counter* const open =
      purpose_ == Purpose::kSubscriptions ? &stats->subscriber_links : &stats->tracking_links;
  if (state_ == State::kOpen) open->Sub(1);
  if (next == State::kOpen) open->Add(1);
  state_ = next;
}

// --- connecting

void SubscriberLink::Want() {
  unused_since_ = absl::InfiniteFuture();
  if (wanted_) return;
  wanted_ = true;
  if (state_ == State::kIdle) Connect();
}

void SubscriberLink::Stop() {
  wanted_ = false;
  timer_.Stop();
  if (state_ != State::kIdle && state_ != State::kClosing) BeginClose();
}

void SubscriberLink::OnUnused() {
  unused_since_ = worker_->now();
  if (state_ != State::kOpen) Stop();
}

void SubscriberLink::OnTopology() {
  if (state_ == State::kIdle) {
    if (wanted_) Connect();
    return;
  }
  if (state_ == State::kClosing || !node_->endpoint.has_value()) return;
  // The node has moved: at its old address there may be another one soon.
  if (!(*node_->endpoint == endpoint_)) BeginClose();
  EndIfClosed();
}

void SubscriberLink::Connect() {
  NodeBackends* const node = worker_->backends()->FindById(node_id_);
  // Without one, another topology tells where it is, or that it is not wanted any more.
  if (node == nullptr || !node->in_topology || !node->endpoint.has_value()) return timer_.Stop();
  absl::Time not_before;
  if (!worker_->backends()->BeginConnect(node, &not_before)) return timer_.Set(not_before);
  node_ = node;
  ++node_->backends;
  worker_->stats()->backend_connects.Add(1);
  generation_ = (generation_ + 1) & kGenerationMask;
  endpoint_ = *node->endpoint;
  Become(State::kConnecting);
  const absl::StatusOr<io::Fd> fd = worker_->ring()->OpenSocket(endpoint_);
  if (!fd.ok()) return Fail(Failure::kConnect, fd.status().message());
  io::Connection::Options options;
  options.party = static_cast<uint8_t>(purpose_ == Purpose::kSubscriptions ? Party::kSubscriber
                                                                           : Party::kTracking);
  options.index = index_;
  options.generation = generation_;
  options.group = io::BufferGroup::kBackends;
  connection_.Open(*fd, options);
  connection_.Connect(endpoint_);
  timer_.Set(worker_->now() + worker_->config().connect_timeout);
}

void SubscriberLink::OnConnect(const io::Completion& completion) {
  const int result = connection_.OnConnected(completion);
  if (state_ == State::kClosing) return;
  if (result < 0) return Fail(Failure::kConnect, strerror(-result));
  Become(State::kHandshake);
  timer_.Set(worker_->now() + std::min(kHandshakeTimeoutMax, worker_->config().reply_timeout));
  SendHandshake();
  connection_.StartRecv();
  connection_.Flush();
}

void SubscriberLink::SendHandshake() {
  const Config& config = worker_->config();
  const bool tracks = purpose_ == Purpose::kInvalidations;
  handshake_ = std::make_unique<NodeHandshake>();
  handshake_->AddAuth(config.backend_username, config.backend_password);
  handshake_->AddRequired({"HELLO", "3"});
  handshake_->Add(
      {"CLIENT", "SETNAME", absl::StrCat(worker_->instance_name(), tracks ? "-track" : "-sub")});
  handshake_->AddMyId(node_id_,
                      [](absl::string_view line) { return absl::StartsWith(line, "NOPERM"); });
  // The last: what comes behind its reply is what the node tells of.
  if (tracks) handshake_->AddRequired({"CLIENT", "TRACKING", "ON", "BCAST"});
  connection_.Send(io::CopyToHeap(handshake_->TakeCommands()));
}

void SubscriberLink::OnHandshakeFrame(absl::string_view frame) {
  const absl::Status status = handshake_->TakeReply(frame);
  if (absl::IsNotFound(status)) worker_->HintRefresh("");
  if (absl::IsPermissionDenied(status)) worker_->stats()->backend_auth_failures.Add(1);
  if (!status.ok()) return Fail(Failure::kHandshake, std::string(status.message()));
  if (!handshake_->done()) return;
  handshake_.reset();
  Become(State::kOpen);
  heard_at_ = worker_->now();
  timer_.Stop();
  ArmTimer();
  worker_->backends()->OnOpen(node_);
  observer_->OnLinkOpen(this);
}

// --- asking

uint64_t SubscriberLink::Subscribe(TopicKind kind, absl::string_view name) {
  return Ask(Op::kSubscribe, kind, name);
}

uint64_t SubscriberLink::Unsubscribe(TopicKind kind, absl::string_view name) {
  return Ask(Op::kUnsubscribe, kind, name);
}

uint64_t SubscriberLink::Ask(Op op, TopicKind kind, absl::string_view name) {
  ABSL_ASSERT(open());
  const Names& names = NamesOf(kind);
  std::string text;
  resp::AppendCommand({op == Op::kSubscribe ? names.subscribe : names.unsubscribe, name}, &text);
  connection_.Send(arena_.Copy(text));
  expected_.push_back({op, kind, std::string(name), ++last_number_, worker_->now()});
  ArmTimer();
  observer_->MarkDirty(this);
  return last_number_;
}

void SubscriberLink::Ping() {
  connection_.Send(io::Slice::Static("*1\r\n$4\r\nPING\r\n"));
  expected_.push_back({Op::kPing, TopicKind::kChannel, "", ++last_number_, worker_->now()});
  observer_->MarkDirty(this);
}

void SubscriberLink::Flush() {
  dirty = false;
  if (state_ != State::kHandshake && state_ != State::kOpen) return;
  connection_.Flush(io::Notice::kQuiet);
  if (connection_.send_idle()) arena_.Release();
}

// --- what comes

void SubscriberLink::OnCompletion(io::Completion* completion) {
  if (completion->token.generation() != generation_ || idle()) {
    return worker_->stats()->late_completions.Add(1);
  }
  switch (completion->token.kind()) {
    case io::OpKind::kConnect:
      OnConnect(*completion);
      break;
    case io::OpKind::kRecv:
      OnRecv(completion);
      break;
    case io::OpKind::kSend: {
      const io::Connection::SendEvent event = connection_.OnSent(*completion);
      worker_->stats()->sends.Add(1);
      if (state_ == State::kClosing) break;
      if (event == io::Connection::SendEvent::kError) {
        Fail(Failure::kLost, strerror(connection_.error()));
      } else {
        observer_->MarkDirty(this);
      }
      break;
    }
    default:
      connection_.OnControl(*completion);
      break;
  }
  EndIfClosed();
}

void SubscriberLink::OnRecv(io::Completion* completion) {
  io::Slice data;
  const io::Connection::RecvEvent event = connection_.OnRecv(completion, &data);
  if (state_ == State::kClosing) return;
  switch (event) {
    case io::Connection::RecvEvent::kNothing:
      return;
    case io::Connection::RecvEvent::kData:
      heard_at_ = worker_->now();
      return TakeData(data);
    case io::Connection::RecvEvent::kEnd:
      return Fail(Failure::kLost, "closed by the node");
    case io::Connection::RecvEvent::kError:
      return Fail(Failure::kLost, strerror(connection_.error()));
  }
}

void SubscriberLink::TakeData(const io::Slice& data) {
  size_t at = 0;
  while (at < data.size() && (state_ == State::kHandshake || state_ == State::kOpen)) {
    const resp::ScanResult result = scanner_.Scan(data.bytes().substr(at));
    if (result.status == resp::ScanStatus::kError) {
      return Fail(Failure::kProtocol, scanner_.error());
    }
    io::Slice piece = data.Sub(at, result.consumed);
    at += result.consumed;
    if (result.status == resp::ScanStatus::kNeedMore) return KeepPartial(std::move(piece));
    if (partial_.empty()) {
      OnFrame(io::Rope(std::move(piece)));
    } else {
      partial_.Append(std::move(piece));
      const io::Rope frame = std::move(partial_);
      ClearPartial();
      OnFrame(frame);
    }
  }
}

void SubscriberLink::KeepPartial(io::Slice piece) {
  if (piece.buffer() && piece.buffer()->scarce) piece = io::CopyToHeap(piece.bytes());
  partial_charged_ += piece.size();
  worker_->Charge(static_cast<int64_t>(piece.size()));
  partial_.Append(std::move(piece));
  if (scanner_.bytes_missing() > kLargeFrameBytes) {
    connection_.ExpectLarge(scanner_.bytes_missing());
  }
}

void SubscriberLink::ClearPartial() {
  partial_.Clear();
  if (partial_charged_ > 0) worker_->Charge(-static_cast<int64_t>(partial_charged_));
  partial_charged_ = 0;
}

void SubscriberLink::OnFrame(const io::Rope& frame) {
  if (state_ == State::kHandshake) return OnHandshakeFrame(frame.Flatten());
  switch (scanner_.type()) {
    case '>':
      return OnPush(frame);
    case '-':
    case '!':
      return OnErrorReply(frame);
    case '+':
      if (!expected_.empty() && expected_.front().op == Op::kPing) {
        return expected_.pop_front();
      }
      [[fallthrough]];
    default:
      return Fail(Failure::kProtocol, "a reply that nobody awaits");
  }
}

void SubscriberLink::OnInvalidation(absl::string_view frame) {
  const std::vector<absl::string_view> elements = resp::ElementsOf(frame);
  absl::string_view what;
  if (elements.size() != 2 || !resp::ParseText(elements[0], &what) || what != "invalidate") {
    return Fail(Failure::kProtocol, "a push of an unknown kind");
  }
  if (elements[1][0] == '_' || absl::StartsWith(elements[1], "*-1")) {
    return observer_->OnAllInvalidated(this);
  }
  std::vector<absl::string_view> keys = resp::ElementsOf(elements[1]);
  for (absl::string_view& key : keys) {
    if (!resp::ParseText(key, &key)) return Fail(Failure::kProtocol, "a push of an unknown form");
  }
  observer_->OnInvalidated(this, keys);
}

void SubscriberLink::OnPush(const io::Rope& frame) {
  if (purpose_ == Purpose::kInvalidations) {
    const absl::Span<const io::Slice> slices = frame.slices();
    return OnInvalidation(slices.size() == 1 ? slices[0].bytes()
                                             : absl::string_view(frame.Flatten()));
  }
  const auto pieces = frame.Views();
  resp::ElementReader reader(pieces);
  std::string element_scratch[3];
  absl::string_view elements[3];  // what it is; the channel or pattern; for a pattern: the channel
  const int64_t count = reader.count();
  for (int i = 0; i < 3 && i < count; ++i) {
    resp::ArgPosition position;
    // A message's own text may be large, and is not needed.
    if (i == 2 && count != 4) break;
    if (!reader.Next(&position) ||
        !resp::ParseText(resp::ViewAt(pieces, position, &element_scratch[i]), &elements[i])) {
      return Fail(Failure::kProtocol, "a push of an unknown form");
    }
  }
  for (size_t i = 0; i < kTopicKinds; ++i) {
    const TopicKind kind = static_cast<TopicKind>(i);
    const Names& names = NamesOf(kind);
    if (elements[0] == names.message) {
      if (count != (kind == TopicKind::kPattern ? 4 : 3)) break;
      const absl::string_view channel = count == 4 ? elements[2] : elements[1];
      return observer_->OnPublished(this, kind, elements[1], channel, frame);
    }
    const bool subscribed = elements[0] == names.subscribed;
    if (!subscribed && elements[0] != names.unsubscribed) continue;
    const Op op = subscribed ? Op::kSubscribe : Op::kUnsubscribe;
    if (!expected_.empty() && expected_.front().op == op && expected_.front().kind == kind &&
        expected_.front().name == elements[1]) {
      const Expected done = std::move(expected_.front());
      expected_.pop_front();
      return observer_->OnConfirmed(this, kind, done.name, done.number, subscribed);
    }
    // A node that has lost the slot of a shard channel says so.
    if (kind == TopicKind::kShardChannel && !subscribed) {
      return observer_->OnDropped(this, kind, elements[1]);
    }
    return Fail(Failure::kProtocol, "a confirmation that nobody awaits");
  }
  Fail(Failure::kProtocol, "a push of an unknown kind");
}

void SubscriberLink::OnErrorReply(const io::Rope& frame) {
  const std::string text = frame.Flatten();
  const cluster::ErrorReply error = cluster::ParseErrorReply(resp::ErrorLineOf(text));
  if (error.kind == cluster::ErrorKind::kMoved &&
      (expected_.empty() || expected_.front().kind != TopicKind::kShardChannel ||
       cluster::SlotOf(expected_.front().name) != error.slot)) {
    // A SUNSUBSCRIBE met the node's own word that the subscription is over, which was taken for its
    // confirmation: this is the reply to it.
    return;
  }
  if (expected_.empty()) return Fail(Failure::kProtocol, "an error that nobody awaits");
  const Expected refused = std::move(expected_.front());
  expected_.pop_front();
  if (refused.op == Op::kPing) return Fail(Failure::kLost, resp::ErrorLineOf(text));
  observer_->OnRefused(this, refused.kind, refused.name, refused.number,
                       refused.op == Op::kSubscribe, resp::ErrorLineOf(text));
}

// --- time

absl::Duration SubscriberLink::PingInterval() const {
  return worker_->config().reply_timeout / kPingsPerDeadline;
}

void SubscriberLink::ArmTimer() {
  if (state_ != State::kOpen || timer_.armed()) return;
  timer_.Set(worker_->now() + PingInterval());
}

void SubscriberLink::OnTimer() {
  switch (state_) {
    case State::kIdle:
      if (wanted_) Connect();
      return;
    case State::kConnecting:
      return Fail(Failure::kConnect, "no connection in time");
    case State::kHandshake:
      return Fail(Failure::kHandshake, "no handshake reply in time");
    case State::kOpen: {
      const absl::Time now = worker_->now();
      if (unused_since_ + kUnusedTime <= now) return Stop();
      // What was sent after the node's last word counts from then on.
      if (!expected_.empty() && std::max(expected_.front().sent_at, heard_at_) +
                                        worker_->config().reply_timeout - PingInterval() <=
                                    now) {
        worker_->stats()->backend_timeouts.Add(1);
        return Fail(Failure::kSilent, "no reply in time");
      }
      if (expected_.empty() && heard_at_ + PingInterval() <= now) Ping();
      return ArmTimer();
    }
    case State::kClosing:
      return;
  }
}

// --- the end

void SubscriberLink::Fail(Failure failure, absl::string_view why) {
  if (state_ == State::kClosing || state_ == State::kIdle) return;
  const bool connecting = failure == Failure::kConnect || state_ == State::kHandshake;
  WorkerStats* const stats = worker_->stats();
  worker_->log()->WarnEvery(
      purpose_ == Purpose::kSubscriptions ? "subscriptions" : "invalidations",
      absl::StrCat(connecting ? "cannot connect for " : "lost the connection for ",
                   purpose_ == Purpose::kSubscriptions ? "subscriptions" : "invalidations", " to",
                   " node ", node_->address.host, ":", node_->address.port, ": ",
                   EscapeForLog(why)));
  if (connecting) {
    stats->backend_connect_failures.Add(1);
    worker_->backends()->OnConnectFailed(node_);
  } else {
    if (failure == Failure::kProtocol) stats->backend_protocol_errors.Add(1);
    stats->backend_lost.Add(1);
    worker_->backends()->OnLost(node_);
    if (failure == Failure::kSilent) worker_->backends()->OnConnectFailed(node_);
  }
  worker_->HintRefresh("");
  BeginClose();
  EndIfClosed();
}

void SubscriberLink::BeginClose() {
  const bool was_open = state_ == State::kOpen;
  timer_.Stop();
  Become(State::kClosing);
  handshake_.reset();
  expected_.clear();
  ClearPartial();
  scanner_ = resp::ReplyScanner();
  if (connection_.state() == io::Connection::State::kOpen) connection_.BeginClose();
  if (was_open) observer_->OnLinkLost(this);
}

void SubscriberLink::EndIfClosed() {
  if (state_ != State::kClosing || !connection_.closed()) return;
  arena_.Release();
  NodeBackends* const node = std::exchange(node_, nullptr);
  Become(State::kIdle);
  worker_->backends()->OnBackendFreed(node, false);
  // Not at once: whoever closed it is still at work. A failed connect is spaced by its node.
  if (wanted_) timer_.Set(worker_->now());
}

}  // namespace proxy
