// The part of Client (proxy/client.h) that concerns CLIENT TRACKING and CLIENT CACHING: what is
// noted of its commands, and what it is told of changes (proxy/tracking.h).

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proxy/args.h"
#include "proxy/client.h"
#include "proxy/client_queries.h"
#include "proxy/subscriber.h"
#include "proxy/tracker.h"
#include "proxy/worker.h"
#include "resp/encoder.h"

namespace proxy {
namespace {

constexpr absl::string_view kOk = "+OK\r\n";
constexpr absl::string_view kPushBegin = ">2\r\n$10\r\ninvalidate\r\n";
constexpr absl::string_view kMessageBegin =
    "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n";
// Of what waits to be told to another client. More: it is told that all may have changed.
constexpr size_t kRedirectedBytesMax = 1 << 20;

// What stands in the queue between replies: bytes that are no reply. Sent also when replies are not
// (CLIENT REPLY), as the messages of subscriptions are.
cluster::CommandSpec PushSpec() {
  cluster::CommandSpec spec;
  spec.serve = cluster::Serve::kPubSub;
  return spec;
}
const cluster::CommandSpec kKeysPush = PushSpec();     // tells of keys
const cluster::CommandSpec kAllPush = PushSpec();      // ends with: all may have changed
const cluster::CommandSpec kMessagePush = PushSpec();  // something else

bool IsPush(const Request& request) {
  return request.command == &kKeysPush || request.command == &kAllPush ||
         request.command == &kMessagePush;
}

// It may take any time, and what it reads it has read when that begins.
bool MayWaitLong(const Request& request) {
  return (request.command->flags & cluster::kFlagBlocking) != 0;
}

bool Is(const cluster::CommandSpec& command, absl::string_view name) {
  return command.container.empty() && command.name == name;
}

// In the place of the array of keys: all may have changed.
absl::string_view AllKeys(resp::Protocol protocol) {
  return protocol == resp::Protocol::kResp3 ? "_\r\n" : "$-1\r\n";
}

}  // namespace

// --- the commands

bool Client::TracksKeys() const { return tracker_ != nullptr && tracker_->state.on; }
uint32_t Client::tracking_session() const { return tracker_->session; }
int64_t Client::tracking_redirect() const { return tracker_->state.redirect; }

void Client::TakeTracking(const cluster::CommandSpec& command,
                          absl::Span<const absl::string_view> args) {
  if (tracker_ == nullptr) tracker_ = std::make_unique<Tracker>();
  gets_pushes_ = true;
  tracker_->command = ParseTracking(args);
  if (!tracker_->command->redirect.has_value()) return CarryOutTracking(command);
  ClientQuery query;
  query.kind = ClientQuery::Kind::kFind;
  query.filter.ids = std::vector<int64_t>{*tracker_->command->redirect};
  answer_first_ = NewRequest(command, 0);
  worker_->client_queries()->Ask(this, std::move(query));
}

void Client::OnRedirectTargetFound(bool found) {
  if (!found) return AnswerTracking(std::string(kNoRedirectTarget));
  CarryOutTracking(*answer_first_->command);
}

void Client::CarryOutTracking(const cluster::CommandSpec& command) {
  const TrackingCommand& wanted = *tracker_->command;
  std::string error = wanted.error;
  if (error.empty() && wanted.on) error = WhyNotTracking(wanted, tracker_->state);
  if (!error.empty()) return AnswerTracking(std::move(error));
  if (!wanted.on) {
    Request* const request = answer_first_;
    EndTracking();
    return request == nullptr ? AnswerNew(kOk) : Answer(request, kOk);
  }
  if (tracker_->state.on || worker_->tracking()->ready()) return BeginTracking();
  if (answer_first_ == nullptr) answer_first_ = NewRequest(command, 0);
  worker_->tracking()->Await(*this);
}

void Client::OnTrackingReady() { BeginTracking(); }

void Client::OnTrackingRefused(absl::string_view line) { AnswerTracking(std::string(line)); }

void Client::BeginTracking() {
  TrackingState& state = tracker_->state;
  const bool begins = !state.on;
  SwitchTrackingOn(*tracker_->command, &state);
  if (begins) tracker_->session = worker_->tracking()->Begin(this);
  tracker_->clean = false;
  tracker_->prefix_bytes = 0;
  for (const std::string& prefix : state.prefixes) {
    worker_->tracking()->AddPrefix(prefix, *this);
    tracker_->prefix_bytes += Tracker::kPrefixBytes + prefix.size();
  }
  AnswerTracking("");
}

// The command has had its effect, or has none.
void Client::AnswerTracking(std::string error) {
  tracker_->command.reset();
  if (!tracker_->state.on) EndTracking();
  Request* const request = answer_first_;
  if (error.empty()) {
    request == nullptr ? AnswerNew(kOk) : Answer(request, kOk);
  } else {
    request == nullptr ? AnswerNewError(error) : AnswerError(request, error);
  }
}

void Client::EndTracking() {
  if (tracker_ == nullptr) return;
  if (tracker_->command.has_value()) worker_->tracking()->StopAwaiting(*this);
  if (tracker_->state.on) {
    for (const std::string& prefix : tracker_->state.prefixes) {
      worker_->tracking()->RemovePrefix(prefix, *this);
    }
    worker_->tracking()->End(*this);
  }
  tracker_.reset();
  gets_pushes_ = subscriber_ != nullptr;
}

void Client::TakeCaching(absl::string_view word) {
  static const TrackingState kOff;
  TrackingState state = tracker_ == nullptr ? kOff : tracker_->state;
  const absl::string_view error = SetCaching(word, &state);
  if (!error.empty()) return AnswerNewError(error);
  tracker_->state.caching = true;
  AnswerNew(kOk);
}

// --- what it does

// Scripts say which keys they may read, not which they do.
void Client::NoteReads(const cluster::CommandSpec& command, const resp::Pieces& pieces) {
  TrackingState* const state = &tracker_->state;
  tracker_->clean = false;
  GiveRedirected();
  const bool queueing = IsQueueing();
  const bool acts = ActsInTransaction(command);
  if (queueing && acts) {
    // What was queued is read when EXEC is sent.
    const bool runs = Is(command, "EXEC") && !transaction_->aborted();
    if (runs || Is(command, "DISCARD") || Is(command, "EXEC") || Is(command, "RESET")) {
      for (const std::string& key : tracker_->TakeKeys(&tracker_->queued_keys)) {
        if (runs) NoteRead(key);
      }
      state->caching = false;
    }
    return;
  }
  const bool reads = (command.is_read_only() || command.is_script()) &&
                     (command.flags & cluster::kFlagPubSub) == 0;
  const bool told_anyway = state->broadcast && !worker_->tracking()->ready();
  if (reads && (state->Notes() || told_anyway)) {
    const ArgList args(pieces);
    std::vector<uint32_t> indexes;
    if (cluster::FindKeyIndexes(command, args.views(), &indexes) == cluster::KeySearch::kOk) {
      for (const uint32_t index : indexes) {
        const absl::string_view key = args.views()[index];
        if (queueing) {
          tracker_->AddKey(&tracker_->queued_keys, key);
        } else {
          NoteRead(key);
        }
      }
    }
  }
  // CLIENT CACHING is for the next command that is none of CLIENT, and for all of a transaction.
  if (!queueing && command.container != "CLIENT" && !Is(command, "MULTI")) state->caching = false;
}

void Client::NoteRejected(const cluster::CommandSpec* command) {
  GiveRedirected();
  if (IsQueueing() || (command != nullptr && command->container == "CLIENT")) return;
  tracker_->state.caching = false;
}

// The key is about to be read.
void Client::NoteRead(absl::string_view key) {
  Tracking* const tracking = worker_->tracking();
  const bool covered = tracking->ready() || tracking->Covers(cluster::SlotOf(key));
  if (tracker_->state.broadcast) {
    if (covered || !tracker_->state.HasPrefixOf(key)) return;
  } else if (covered && tracking->Note(*this, key)) {
    return;
  }
  tracker_->AddKey(&tracker_->unwatched_keys, key);
  worker_->MarkDirty(this);
}

// --- what it is told

void Client::OnInvalidated(absl::string_view value) { Invalidate(kKeysPush, value); }

void Client::OnAllInvalidated() {
  if (tracker_->clean) return;
  Invalidate(kAllPush, AllKeys(protocol_));
  // Before the reply of what may wait long.
  tracker_->clean = answer_first_ == nullptr || !MayWaitLong(*answer_first_);
}

void Client::Invalidate(const cluster::CommandSpec& kind, absl::string_view value) {
  if (state_ != State::kOpen && state_ != State::kDraining) return;
  if (tracker_->state.redirect == 0) {
    if (protocol_ == resp::Protocol::kResp3) PushBehind(kind, absl::StrCat(kPushBegin, value));
    return;
  }
  GiveRedirected();
  const Request* const owed = LastOwed();
  if (owed == nullptr) return worker_->tracking()->Redirect(this, std::string(value));
  if (tracker_->behind == nullptr) tracker_->behind = owed;
  Tracker::Redirected* to = owed == tracker_->behind ? &tracker_->waiting : &tracker_->more;
  if (tracker_->waiting.bytes + tracker_->more.bytes > kRedirectedBytesMax) {
    tracker_->waiting = tracker_->more = {};
    value = AllKeys(protocol_);
  }
  to->values.emplace_back(value);
  to->bytes += value.size() + sizeof(std::string);
  worker_->MarkDirty(this);
}

// The last request whose reply stands before what it is told now. Null: there is none.
const Request* Client::LastOwed() const {
  if (answer_first_ == nullptr || !MayWaitLong(*answer_first_)) return tail_;
  const Request* last = nullptr;
  for (const Request* each = head_; each != answer_first_; each = each->next) last = each;
  return last;
}

void Client::GiveRedirected() {
  while (tracker_->behind != nullptr) {
    for (const Request* each = head_; each != nullptr; each = each->next) {
      if (each == tracker_->behind) return;
    }
    const Tracker::Redirected due =
        std::exchange(tracker_->waiting, std::exchange(tracker_->more, {}));
    tracker_->behind = tracker_->waiting.values.empty() ? nullptr : LastOwed();
    for (const std::string& value : due.values) worker_->tracking()->Redirect(this, value);
    if (tracker_->behind != nullptr) return;
    const Tracker::Redirected rest = std::exchange(tracker_->waiting, {});
    for (const std::string& value : rest.values) worker_->tracking()->Redirect(this, value);
  }
}

void Client::OnRedirected(absl::string_view value) {
  if (protocol_ == resp::Protocol::kResp3) return PushNow(absl::StrCat(kPushBegin, value));
  if (subscriber_ == nullptr || subscriber_->subscriptions() == 0) return;
  PushNow(absl::StrCat(kMessageBegin, value));
}

void Client::OnRedirectTargetGone(uint64_t target) {
  if (!TracksKeys() || tracker_->state.redirect != static_cast<int64_t>(target)) return;
  tracker_->state.broken_redirect = true;
  if (protocol_ != resp::Protocol::kResp3) return;
  PushNow(absl::StrCat(">2\r\n$21\r\ntracking-redir-broken\r\n:", target, "\r\n"));
}

// Behind the replies that are owed.
void Client::PushBehind(const cluster::CommandSpec& kind, absl::string_view push) {
  Request* const waits =
      answer_first_ != nullptr && MayWaitLong(*answer_first_) ? answer_first_ : nullptr;
  if (head_ == nullptr || (head_ == waits && !waits->streaming)) return SendPush(push);
  InsertPush(kind, head_ == waits ? nullptr : waits, push);
}

// Between two replies.
void Client::PushNow(absl::string_view push) {
  if (head_ == nullptr || !head_->streaming) return SendPush(push);
  Request* before = head_->next;
  while (before != nullptr && IsPush(*before)) before = before->next;
  InsertPush(kMessagePush, before, push);
}

void Client::SendPush(absl::string_view push) {
  connection_.Send(push.size() < kCopyBytes ? arena_.Copy(push) : io::CopyToHeap(push));
  worker_->MarkDirty(this);
}

// Puts it into the queue; before null: at the end.
void Client::InsertPush(const cluster::CommandSpec& kind, Request* before, absl::string_view push) {
  Request* last = tail_;
  if (before != nullptr) {
    for (last = head_; last->next != before;) last = last->next;
  }
  io::Slice bytes = push.size() < kCopyBytes ? arena_.Copy(push) : io::CopyToHeap(push);
  worker_->MarkDirty(this);
  if (IsPush(*last)) {
    // It has asked for nothing since that.
    if (last->command == &kAllPush && &kind != &kMessagePush) return;
    if (&kind == &kAllPush) last->command = &kAllPush;
    reply_bytes_ += bytes.size();
    last->bytes.Append(std::move(bytes));
    return;
  }
  Request* const request = worker_->requests()->Take();
  request->client = this;
  request->command = &kind;
  request->state = Request::State::kReady;
  reply_bytes_ += bytes.size();
  request->bytes = io::Rope(std::move(bytes));
  request->next = before;
  last->next = request;
  if (before == nullptr) tail_ = request;
}

// Once a turn.
void Client::FlushTracking() {
  for (const std::string& key : tracker_->TakeKeys(&tracker_->unwatched_keys)) {
    Invalidate(kKeysPush, ArrayOfKeys({key}));
  }
  GiveRedirected();
}

}  // namespace proxy
