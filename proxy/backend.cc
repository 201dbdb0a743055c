#include "proxy/backend.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proxy/backend_pool.h"
#include "proxy/client.h"
#include "proxy/forging.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

constexpr absl::string_view kAsking = "*1\r\n$6\r\nASKING\r\n";
constexpr absl::string_view kPing = "*1\r\n$4\r\nPING\r\n";
constexpr absl::string_view kExec = "*1\r\n$4\r\nEXEC\r\n";
// A blocking command's own timeout, or the news that its slot has left, and so much more (L11).
constexpr absl::Duration kBlockedGrace = absl::Seconds(1);
// Each reply of a handshake is quick or the node is not well.
constexpr absl::Duration kHandshakeReplyTimeoutMax = absl::Seconds(1);
// What waits for a connection may be answered so much later than its wait is over.
constexpr absl::Duration kHoldTimerStep = absl::Milliseconds(5);
constexpr size_t kHandshakeFrameBytesMax = 64 << 10;
// While so much of a reply is to come, what is not sent yet goes on another connection. Less is
// here about as soon as that would be open.
constexpr uint64_t kFreshConnectionBytes = 4 << 20;

constexpr absl::string_view kTimeoutError = "ERR proxy: backend timeout (outcome unknown)";
constexpr absl::string_view kProtocolError = "ERR proxy: backend protocol error (outcome unknown)";

// True for a refusal that says nothing about the connection: the user lacks the right, or the node
// is still loading its data, or busy with a script (which only another connection can end).
bool IsTolerableRefusal(absl::string_view line) {
  return absl::StartsWith(line, "NOPERM") || absl::StartsWith(line, "LOADING") ||
         absl::StartsWith(line, "BUSY ");
}

Forging ForgingBy(const Request& request) {
  return request.is_burst ? request.transaction->burst->forging : ForgingOf(*request.command);
}

}  // namespace

Backend::Backend(Worker* worker, uint32_t index, uint32_t generation)
    : worker_(worker),
      index_(index),
      generation_(generation),
      connection_(worker->ring()),
      timer_(worker->timers(), &Backend::TimerFired, this),
      hold_timer_(worker->timers(), &Backend::HoldTimerFired, this),
      arena_(worker->backend_blocks()) {}

void Backend::Become(State next) {
  ABSL_ASSERT(next != state_);
  ABSL_ASSERT(state_ != State::kClosing || next == State::kFree);
  if (state_ == State::kOpen || state_ == State::kRetired) {
    if (next != State::kRetired) worker_->stats()->backend_open.Sub(1);
  } else if (next == State::kOpen) {
    worker_->stats()->backend_open.Add(1);
  }
  state_ = next;
  worker_->RaiseRouteEpoch();
}

void Backend::Start(NodeBackends* node, const Options& options) {
  ABSL_ASSERT(state_ == State::kFree);
  node_ = node;
  options_ = options;
  ++node_->backends;
  worker_->stats()->backend_connects.Add(1);
  Become(State::kConnecting);
  auto fd = worker_->ring()->OpenSocket(*node->endpoint);
  if (!fd.ok()) return Fail(Failure::kConnect, fd.status().message());
  io::Connection::Options connection_options;
  connection_options.party = static_cast<uint8_t>(Party::kBackend);
  connection_options.index = index_;
  connection_options.generation = generation_;
  connection_options.group = io::BufferGroup::kBackends;
  if (worker_->config().zero_copy_send) {
    connection_options.zero_copy_bytes_min = worker_->config().zero_copy_bytes_min;
  }
  connection_.Open(*fd, connection_options);
  connection_.Connect(*node->endpoint);
  timer_.Set(worker_->now() + worker_->config().connect_timeout);
}

void Backend::OnConnect(const io::Completion& completion) {
  const int result = connection_.OnConnected(completion);
  if (state_ == State::kClosing) return Settle();
  if (result < 0) return Fail(Failure::kConnect, strerror(-result));
  Become(State::kHandshake);
  SendHandshake();
  connection_.StartRecv();
  connection_.Flush();
}

// --- handshake: no request is written before all of its replies have matched.

void Backend::SendHandshake() {
  const Config& config = worker_->config();
  handshake_ = std::make_unique<NodeHandshake>();
  NodeHandshake& handshake = *handshake_;
  handshake.AddAuth(config.backend_username, config.backend_password);
  if (options_.session.protocol == resp::Protocol::kResp3) handshake.AddRequired({"HELLO", "3"});
  name_ = absl::StrCat(worker_->instance_name(), "-", index_, "-", generation_);
  handshake.Add({"CLIENT", "SETNAME", name_}, [this](absl::string_view frame) {
    if (resp::IsErrorFrame(frame)) name_.clear();
    return absl::OkStatus();
  });
  handshake.Add({"CLIENT", "ID"}, [this](absl::string_view frame) {
    if (!resp::ParseInteger(frame, &client_id_)) client_id_ = 0;
    return absl::OkStatus();
  });
  handshake.AddMyId(node_->id, &IsTolerableRefusal);
  handshake.Add({"INFO", "server"}, [this](absl::string_view frame) {
    worker_->backends()->NoteInfo(node_, frame);
    return absl::OkStatus();
  });
  if (options_.session.database != 0) {
    const std::string database = absl::StrCat(options_.session.database);
    handshake.Add({"SELECT", database}, [database](absl::string_view frame) {
      if (!resp::IsErrorFrame(frame)) return absl::OkStatus();
      return absl::OutOfRangeError(
          absl::StrCat("SELECT ", database, ": ", resp::ErrorLineOf(frame)));
    });
  }
  if (options_.read_only) {
    handshake.AddRequired({"READONLY"});
  } else {
    // A user without the right to MULTI would run the commands of a burst one by one.
    handshake.Add({"MULTI"}, [this](absl::string_view frame) {
      may_multi_ = !resp::IsErrorFrame(frame);
      return absl::OkStatus();
    });
    handshake.Add({"DISCARD"}, [this](absl::string_view frame) {
      if (!resp::IsErrorFrame(frame) || !may_multi_) return absl::OkStatus();
      return absl::UnavailableError(absl::StrCat("DISCARD refused: ", resp::ErrorLineOf(frame)));
    });
  }
  // What an earlier connection to this node may still hold unread must not run after what this one
  // will have had acknowledged.
  fences_seen_ = node_->fences;
  for (const OldConnection& old : node_->old_connections) {
    handshake.Add({"CLIENT", "LIST", "ID", absl::StrCat(old.client_id)},
                  [this, old](absl::string_view frame) {
                    OnFenceList(old, frame);
                    return absl::OkStatus();
                  });
  }
  connection_.Send(io::CopyToHeap(handshake.TakeCommands()));
  AwaitHandshakeReply();
}

void Backend::AwaitHandshakeReply() {
  timer_.Set(worker_->now() + std::min(kHandshakeReplyTimeoutMax, worker_->config().reply_timeout));
}

void Backend::TakeHandshake(const io::Slice& data) {
  absl::string_view bytes = data.bytes();
  while (!bytes.empty() && state_ == State::kHandshake) {
    const resp::ScanResult result = scanner_.Scan(bytes);
    if (result.status == resp::ScanStatus::kError) {
      return Fail(Failure::kHandshake, scanner_.error());
    }
    if (handshake_frame_.size() + result.consumed > kHandshakeFrameBytesMax) {
      return Fail(Failure::kHandshake, "reply too long");
    }
    handshake_frame_.append(bytes.data(), result.consumed);
    bytes.remove_prefix(result.consumed);
    if (result.status == resp::ScanStatus::kNeedMore) return;
    const std::string frame = std::exchange(handshake_frame_, {});
    const absl::Status status = handshake_->TakeReply(frame);
    if (absl::IsNotFound(status)) worker_->HintRefresh("");
    if (absl::IsPermissionDenied(status)) worker_->stats()->backend_auth_failures.Add(1);
    if (absl::IsOutOfRange(status)) {
      refusal_ = absl::StrCat("ERR proxy: ", status.message(), " (not executed)");
      return Fail(Failure::kDatabase, std::string(status.message()));
    }
    if (!status.ok()) {
      return Fail(absl::IsPermissionDenied(status) ? Failure::kAuth : Failure::kHandshake,
                  std::string(status.message()));
    }
    if (state_ != State::kHandshake) continue;
    if (handshake_->done()) {
      FinishHandshake();
    } else {
      AwaitHandshakeReply();
    }
  }
  if (!bytes.empty() && state_ != State::kClosing) Fail(Failure::kProtocol, "surplus reply");
}

// What the node says of the old connection: it is ended there if it is there.
void Backend::OnFenceList(const OldConnection& old, absl::string_view frame) {
  absl::string_view list;
  const bool error = resp::IsErrorFrame(frame);
  if (error) WarnOfFence("look for", resp::ErrorLineOf(frame));
  const bool there = !error && !old.name.empty() && resp::ParseText(frame, &list) &&
                     absl::StrContains(list, absl::StrCat(" name=", old.name, " "));
  if (!there) return worker_->backends()->OnFenced(node_, old);
  handshake_->Add({"CLIENT", "KILL", "ID", absl::StrCat(old.client_id)},
                  [this, old](absl::string_view reply) {
                    if (resp::IsErrorFrame(reply)) WarnOfFence("end", resp::ErrorLineOf(reply));
                    worker_->backends()->OnFenced(node_, old);
                    return absl::OkStatus();
                  });
  connection_.Send(io::CopyToHeap(handshake_->TakeCommands()));
  connection_.Flush();
}

void Backend::WarnOfFence(absl::string_view what, absl::string_view line) {
  worker_->log()->WarnEvery(
      "fence", absl::StrCat("cannot ", what, " an old connection at node ", node_->address.host,
                            ":", node_->address.port, ": ", line));
}

void Backend::FinishHandshake() {
  timer_.Stop();
  handshake_.reset();
  Become(State::kOpen);
  worker_->backends()->OnOpen(node_);
  if (!options_.is_private) worker_->script_repairs()->GiveAll(this);
  worker_->MarkDirty(this);
  worker_->WakeAllWaiting();
}

// --- requests out

bool Backend::HasRoom(size_t bytes) const {
  if (state_ == State::kOpen) return owed() < PendingRing::kEntriesMax;
  // L13, too; however large it is, one has room.
  return unsent_.empty() || (unsent_.size() < WaitingPlace::kRequestsMax &&
                             unsent_bytes_ + bytes <= WaitingPlace::kBytesMax);
}

io::Slice Backend::CopyRequest(const io::Rope& frame) {
  char* out = arena_.Reserve(frame.size());
  for (const io::Slice& slice : frame.slices()) {
    memcpy(out, slice.data(), slice.size());
    out += slice.size();
  }
  return arena_.Commit(frame.size());
}

// A script, for a node of which nothing was known when the way was chosen.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline bool Backend::MustGoApart(const Request& request) const {
  return ABSL_PREDICT_FALSE(node_->forges) && !options_.is_private && !request.is_script_repair &&
         ForgingBy(request) != Forging::kNobody;
}

ABSL_ATTRIBUTE_ALWAYS_INLINE inline void Backend::GiveOrQueue(Request* request) {
  if (unsent_.empty() && MayGive() && !MustGoApart(*request)) {
    Give(request);
  } else {
    Queue(request);
  }
  worker_->MarkDirty(this);
}

void Backend::Queue(Request* request) {
  unsent_.Push(request);
  unsent_bytes_ += request->bytes.size();
  if (request->hold == nullptr || request->client == nullptr) return;
  const absl::Time deadline = request->hold->deadline;
  if (deadline == absl::InfiniteFuture()) return;
  // Each time, all that wait are looked at.
  const absl::Time when = std::max(deadline, worker_->now() + kHoldTimerStep);
  if (!hold_timer_.armed() || when < hold_timer_.when()) hold_timer_.Set(when);
}

void Backend::Enqueue(Request* request) {
  ABSL_ASSERT(usable());
  request->state = Request::State::kQueued;
  request->backend = this;
  ++request->client->in_flight;
  GiveOrQueue(request);
}

void Backend::EnqueueOwn(Request* request) {
  ABSL_ASSERT(usable() && request->client == nullptr);
  request->state = Request::State::kQueued;
  request->backend = this;
  GiveOrQueue(request);
}

void Backend::GiveOwn(Request* request) {
  ABSL_ASSERT(state_ == State::kOpen && request->client == nullptr);
  request->backend = this;
  Give(request);
}

GivenScripts* Backend::given_scripts() {
  if (given_scripts_ == nullptr) given_scripts_ = std::make_unique<GivenScripts>();
  return given_scripts_.get();
}

bool Backend::MayGive() const {
  return (state_ == State::kOpen || state_ == State::kRetired) && HasRoomToGive();
}

// Gives the request to the connection, which sends it with its next Flush.
void Backend::Give(Request* request) {
  if (request->asking) {
    // ASKING covers only the next command on its connection, so the two go out together.
    Expect(nullptr, kAsking.size(), worker_->now());
    connection_.Send(io::Slice::Static(kAsking));
  }
  if (ABSL_PREDICT_FALSE(request->is_burst)) {
    GiveBurst(request);
  } else {
    Expect(request, request->bytes.size(), worker_->now());
    connection_.Send(request->bytes);
  }
  request->state = Request::State::kSent;
  request->handed_over = true;
  if (request->hold != nullptr) request->hold->place.Leave();
  if ((request->command->flags & cluster::kFlagSlow) != 0) ++node_->slow_outstanding;
  worker_->stats()->backend_requests.Add(1);
  worker_->stats()->payload_bytes_forwarded.Add(request->bytes.size());
}

void Backend::GiveBurst(Request* request) {
  Burst* const burst = request->transaction->burst.get();
  if (may_multi_) {
    burst->Begin();
    Expect(request, request->bytes.size(), worker_->now());
    return connection_.Send(request->bytes);
  }
  burst->BeginRefused();
  Expect(request, kExec.size(), worker_->now());
  connection_.Send(io::Slice::Static(kExec));
}

void Backend::Flush() {
  dirty = false;
  if (state_ == State::kHandshake) return connection_.Flush();
  if (state_ != State::kOpen && state_ != State::kRetired) return;
  bool dropped = false;
  while (!unsent_.empty() && MayGive()) {
    Request* request = unsent_.front();
    if (unsent_.size() > Request::kAhead) Request::Prefetch(unsent_.begin()[Request::kAhead]);
    const bool apart = MustGoApart(*request);
    const bool stale =  // the connection took too long to open
        request->asking && request->hold != nullptr && request->hold->AskIsStale(worker_->now());
    if (request->client != nullptr && (apart || stale)) {
      if (apart) request->private_connection = true;
      GiveBack([request](const Request& other) { return &other == request; });
      if (request->is_blocking) EndLease();
      dropped = true;
      continue;
    }
    unsent_.Pop();
    unsent_bytes_ -= request->bytes.size();
    // Its client left before it was handed over.
    if (request->client == nullptr && !request->is_script_repair) {
      worker_->requests()->Give(request);
      dropped = true;
      continue;
    }
    Give(request);
  }
  if (unsent_.empty() && connection_.send_idle()) arena_.Release();
  connection_.Flush(io::Notice::kQuiet);
  ArmDeadline();
  if (dropped && owed() == 0) return AfterReply();
  if (state_ == State::kRetired && owed() == 0) Fail(Failure::kRetired, "");
}

// Of those that were not given to the connection: what is meant, and what must not overtake it,
// finds another way. False: there was nothing.
bool Backend::GiveBack(absl::FunctionRef<bool(const Request&)> which) {
  absl::flat_hash_set<std::pair<const Client*, cluster::Slot>> before;
  Fifo<Request*> unsent;
  unsent.Swap(&unsent_);
  unsent_bytes_ = 0;
  for (Request* request : unsent) {
    const std::pair<const Client*, cluster::Slot> place(request->client, request->slot);
    if (request->client != nullptr && (before.contains(place) || which(*request))) {
      before.insert(place);
      SettleOne(request, false, false);
    } else {
      Queue(request);
    }
  }
  return !before.empty();
}

void Backend::OnSend(const io::Completion& completion) {
  const io::Connection::SendEvent event = connection_.OnSent(completion);
  worker_->stats()->sends.Add(1);
  if (state_ == State::kClosing) return Settle();
  if (event == io::Connection::SendEvent::kError) {
    return Fail(state_ == State::kHandshake ? Failure::kHandshake : Failure::kLost,
                strerror(connection_.error()));
  }
  worker_->MarkDirty(this);
}

// --- replies in

void Backend::OnRecv(io::Completion* completion) {
  io::Slice data;
  const io::Connection::RecvEvent event = connection_.OnRecv(completion, &data);
  if (state_ == State::kClosing) return Settle();
  switch (event) {
    case io::Connection::RecvEvent::kNothing:
      return;
    case io::Connection::RecvEvent::kData:
      if (state_ == State::kHandshake) return TakeHandshake(data);
      return TakeReplies(std::move(data));
    case io::Connection::RecvEvent::kEnd:
      return Fail(state_ == State::kHandshake ? Failure::kHandshake : Failure::kLost,
                  "closed by the node");
    case io::Connection::RecvEvent::kError:
      return Fail(state_ == State::kHandshake ? Failure::kHandshake : Failure::kLost,
                  strerror(connection_.error()));
  }
}

void Backend::TakeReplies(io::Slice data) {
  if (!options_.is_private && !pending_.empty()) worker_->NoteRoundTrip(pending_.front().sent_at);
  absl::string_view bytes = data.bytes();
  while (!bytes.empty()) {
    if (pending_.empty()) return Fail(Failure::kProtocol, "a reply that nobody awaits");
    const PendingRing::Entry& front = pending_.front();
    if (front.end > connection_.submitted_bytes() && !IsPartlySent(front)) {
      return Fail(Failure::kProtocol, "a reply before its request was sent");
    }
    const resp::ScanResult result = scanner_.Scan(bytes);
    if (result.status == resp::ScanStatus::kError)
      return Fail(Failure::kProtocol, scanner_.error());
    if (scanner_.type() == '>') return Fail(Failure::kProtocol, "a push on a shared connection");
    const absl::string_view piece = bytes.substr(0, result.consumed);
    bytes.remove_prefix(result.consumed);
    const bool complete = result.status == resp::ScanStatus::kComplete;
    Request* request = front.request;
    if (pending_.size() > Request::kAhead) Request::Prefetch(pending_.at(Request::kAhead).request);
    if (request == nullptr) {
      if (!complete) continue;
      const bool pong = front.end == ping_end_;
      pending_.Pop();  // the +OK to ASKING; an error there shows in the next reply
      if (pong) OnPong(scanner_.type());
      continue;
    }
    if (ABSL_PREDICT_FALSE(request->is_burst) &&
        request->transaction->burst->TakeQueueReply(piece, complete)) {
      NotePiece(front);
      continue;
    }
    if (complete) {
      const bool slow = (request->command->flags & cluster::kFlagSlow) != 0;
      const bool in_pieces = front.end == piece_of_;
      worker_->stats()->backend_replies.Add(1);
      pending_.Pop();
      if (ABSL_PREDICT_FALSE(slow || in_pieces)) OnLongReplyEnd(*request);
    } else {
      NotePiece(front);
      const uint64_t missing = scanner_.bytes_missing();
      if (missing > kLargeReplyBytes) connection_.ExpectLarge(missing);
      if (missing > kFreshConnectionBytes && !options_.is_private) Retire();
    }
    const bool ends =
        ABSL_PREDICT_FALSE(options_.is_private) && complete && MayHaveForged(*request);
    if (request->client != nullptr) {
      request->client->OnReplyPiece(request, data.buffer(), piece, complete,
                                    scanner_.frame_bytes() + scanner_.bytes_missing());
      if (state_ == State::kClosing) return;
    } else if (request->is_script_repair) {
      worker_->script_repairs()->OnReplyPiece(request, piece, complete);
    } else if (complete) {
      worker_->requests()->Give(request);
    }
    if (ends) return Fail(Failure::kRetired, "");  // whatever is left of it is nobody's
  }
  AfterReply();
}

// Of the request whose reply is complete: there may be more behind it.
bool Backend::MayHaveForged(const Request& request) const {
  const Forging forging = ForgingBy(request);
  if (forging == Forging::kNobody) return false;
  if (!request.is_burst) return scanner_.type() == '-';
  // EXEC's array may have errors anywhere in it, and have ended in one of them.
  return forging == Forging::kAnyServer || node_->forges;
}

void Backend::AfterReply() {
  if (!waiters_.empty() && owed() < PendingRing::kEntriesMax / 2) WakeWaiters();
  if (owed() == 0) {
    if (options_.is_private && !leased_ && state_ == State::kOpen) {
      worker_->backends()->GiveBack(this);
    }
    if (state_ == State::kRetired) Fail(Failure::kRetired, "");
  } else if (state_ == State::kRetired || !unsent_.empty()) {
    worker_->MarkDirty(this);
  }
}

// The first replies to a burst may come before its end has left.
bool Backend::IsPartlySent(const PendingRing::Entry& front) const {
  return front.request != nullptr && front.request->is_burst &&
         pending_.front_begin() < connection_.submitted_bytes();
}

void Backend::Lease() {
  ABSL_ASSERT(options_.is_private && !leased_);
  leased_ = true;
  worker_->backends()->NoteLease(1);
}

void Backend::EndLease() {
  if (!std::exchange(leased_, false)) return;
  worker_->backends()->NoteLease(-1);
}

void Backend::CheckAuthentication() {
  if (state_ != State::kOpen || ping_end_ != 0 || pending_.full()) return;
  Expect(nullptr, kPing.size(), worker_->now());
  ping_end_ = pending_.back().end;
  connection_.Send(io::Slice::Static(kPing));
  worker_->MarkDirty(this);
}

void Backend::OnPong(char type) {
  ping_end_ = 0;
  if (type != '-') return;
  worker_->log()->WarnEvery("auth",
                            absl::StrCat("node ", node_->address.host, ":", node_->address.port,
                                         " takes a connection for unauthenticated: another one"),
                            Log::kLongInterval);
  if (state_ == State::kOpen) Retire();
}

void Backend::OnSlowReader() {
  if (state_ == State::kOpen) Retire();
  if (AloneWithReply()) connection_.PauseRecv();
}

void Backend::ResumeReplies() {
  NotePiece(pending_.front());
  connection_.StartRecv();
  ArmDeadline();
}

void Backend::AddWaiter(uint32_t client_index, uint32_t client_generation) {
  waiters_.push_back({client_index, client_generation});
}

void Backend::WakeWaiters() {
  for (const Waiter& waiter : waiters_) worker_->WakeClient(waiter.index, waiter.generation);
  waiters_.clear();
}

// --- time

absl::Duration Backend::ReplyTimeout() const {
  return node_->slow_outstanding > 0 ? worker_->config().slow_reply_timeout
                                     : worker_->config().reply_timeout;
}

void Backend::ArmDeadline() {
  if (pending_.empty() || timer_.armed() || state_ == State::kClosing) return;
  SetDeadline(FrontDeadline());
}

// The timer may be early for the front entry (it is looked at again then), never late: whatever
// comes to the front after one with more time, a slow command or a block, has at least so much.
void Backend::SetDeadline(absl::Time deadline) {
  timer_.Set(std::min(deadline, worker_->now() + worker_->config().reply_timeout));
}

void Backend::NotePiece(const PendingRing::Entry& front) {
  piece_at_ = worker_->now();
  piece_of_ = front.end;
}

// Of a slow command, or in pieces. Behind a slow one everybody has the whole time from now; behind
// pieces only who has none left: they are no time for others.
void Backend::OnLongReplyEnd(const Request& request) {
  const bool slow = (request.command->flags & cluster::kFlagSlow) != 0;
  if (slow) --node_->slow_outstanding;
  const bool late = !pending_.empty() && FrontDeadline() <= worker_->now();
  if (slow || late) turn_at_ = worker_->now();
  timer_.Stop();
  ArmDeadline();
}

absl::Time Backend::FrontDeadline() {
  const PendingRing::Entry& front = pending_.front();
  if (ABSL_PREDICT_FALSE(options_.is_private) && blocked() != nullptr) {
    const Block& block = *front.request->block;
    return std::min(block.until, block.moved_at) + kBlockedGrace;
  }
  absl::Time since = std::max(front.sent_at, turn_at_);
  if (front.end == piece_of_) since = std::max(since, piece_at_);
  return since + ReplyTimeout();
}

Request* Backend::blocked() {
  if (!options_.is_private || pending_.empty()) return nullptr;
  Request* const front = pending_.front().request;
  return front != nullptr && front->is_blocking ? front : nullptr;
}

void Backend::OnOwnerChanged() {
  Block* const block = blocked()->block.get();
  if (block->moved_at == absl::InfiniteFuture()) block->moved_at = worker_->now();
  timer_.Stop();
  ArmDeadline();
}

bool Backend::SendUnblock(int64_t client_id, bool error) {
  if (state_ != State::kOpen || pending_.full()) return false;
  std::string text;
  resp::AppendCommand({"CLIENT", "UNBLOCK", absl::StrCat(client_id), error ? "ERROR" : "TIMEOUT"},
                      &text);
  Expect(nullptr, text.size(), worker_->now());
  connection_.Send(io::CopyToHeap(text));
  worker_->MarkDirty(this);
  return true;
}

void Backend::OnTimer() {
  switch (state_) {
    case State::kConnecting:
      return Fail(Failure::kConnect, "no connection in time");
    case State::kHandshake:
      return Fail(Failure::kHandshake, "no handshake reply in time");
    case State::kOpen:
    case State::kRetired: {
      if (pending_.empty() || connection_.recv_paused()) return;
      const absl::Time deadline = FrontDeadline();
      if (deadline > worker_->now()) return SetDeadline(deadline);
      worker_->stats()->backend_timeouts.Add(1);
      return Fail(Failure::kTimeout, "no reply in time");
    }
    case State::kFree:
    case State::kClosing:
      return;
  }
}

// Somebody's wait for the cluster is over before the connection could take the request.
void Backend::OnHoldTimer() {
  const bool any = GiveBack([this](const Request& request) {
    return request.hold != nullptr && request.hold->deadline <= worker_->now();
  });
  if (!any) return;
  WakeWaiters();
  if (options_.is_private) Retire();  // it was for that request
}

// --- the end

void Backend::Retire() {
  if (state_ != State::kOpen) {
    if (state_ < State::kOpen && state_ != State::kFree) Fail(Failure::kRetired, "");
    return;
  }
  Become(State::kRetired);
  worker_->backends()->Forget(this);
  // What was not given to the connection finds another one.
  worker_->MarkDirty(this);
  SettleUnsent();
}

void Backend::Fail(Failure failure, absl::string_view why) {
  if (state_ == State::kClosing || state_ == State::kFree) return;
  failure_ = failure;
  timer_.Stop();
  hold_timer_.Stop();
  EndLease();
  Become(State::kClosing);
  worker_->backends()->Forget(this);
  WorkerStats* stats = worker_->stats();
  const auto describe = [&](absl::string_view what) {
    return absl::StrCat(what, " node ", node_->address.host, ":", node_->address.port, ": ",
                        EscapeForLog(why), ", ", pending_.size(), " requests sent, ",
                        unsent_.size(), " not");
  };
  switch (failure) {
    case Failure::kNone:
    case Failure::kRetired:
      FenceOff();
      break;
    case Failure::kConnect:
    case Failure::kHandshake:
    case Failure::kAuth:
      stats->backend_connect_failures.Add(1);
      worker_->log()->WarnEvery(
          failure == Failure::kAuth ? "auth" : "connect",
          describe(failure == Failure::kConnect ? "cannot connect to" : "handshake failed with"),
          failure == Failure::kAuth ? Log::kLongInterval : Log::kInterval);
      worker_->backends()->OnConnectFailed(node_);
      break;
    case Failure::kDatabase:
      stats->backend_connect_failures.Add(1);
      worker_->log()->WarnEvery("database", describe("refused by"));
      worker_->backends()->OnLost(node_);
      break;
    case Failure::kProtocol:
      stats->backend_protocol_errors.Add(1);
      [[fallthrough]];
    case Failure::kLost:
    case Failure::kTimeout:
      stats->backend_lost.Add(1);
      worker_->log()->WarnEvery("lost", describe("lost connection to"));
      FenceOff();
      worker_->backends()->OnLost(node_);
      if (failure == Failure::kTimeout) worker_->backends()->OnConnectFailed(node_);
      break;
  }
  if (failure != Failure::kRetired) worker_->HintRefresh("");
  WakeWaiters();
  handshake_.reset();
  if (connection_.state() == io::Connection::State::kOpen) connection_.BeginClose();
  if (connection_.closed()) Settle();
}

// The node may still hold requests of this connection unread.
void Backend::FenceOff() {
  // A node ends what nobody waits for when the connection closes.
  if (blocked() != nullptr && blocked()->client == nullptr) return;
  const bool any = !pending_.empty() && pending_.front_begin() < connection_.submitted_bytes();
  if (client_id_ == 0 || !any) return;
  worker_->backends()->Fence(node_, {client_id_, name_});
}

bool Backend::fenced() const {
  return state_ == State::kConnecting || fences_seen_ == node_->fences;
}

void Backend::OnControl(const io::Completion& completion) {
  connection_.OnControl(completion);
  if (state_ == State::kClosing) Settle();
}

// Once the descriptor is closed, it is known what was handed over. Of zero-copy sends, notices may
// be to come still: for as long as the node does not take the bytes, which is nothing to wait for.
void Backend::Settle() {
  if (state_ != State::kClosing || connection_.fd() >= 0) return;
  const uint64_t handed_over = connection_.sent_bytes();
  // Of all, before the first is looked at: what was not handed over is in nobody's way.
  uint64_t begin = pending_.empty() ? 0 : pending_.front_begin();
  for (size_t i = 0; i < pending_.size(); ++i) {
    const PendingRing::Entry& entry = pending_.at(i);
    if (entry.request != nullptr && begin >= handed_over) entry.request->handed_over = false;
    begin = entry.end;
  }
  bool head = true;
  for (; !pending_.empty(); pending_.Pop()) {
    Request* request = pending_.front().request;
    if (request == nullptr) continue;
    if ((request->command->flags & cluster::kFlagSlow) != 0) --node_->slow_outstanding;
    SettleOne(request, pending_.front_begin() < handed_over, head);
    head = false;
  }
  SettleUnsent();
  arena_.Release();
  if (!connection_.closed()) return;
  NodeBackends* const node = node_;
  const bool is_private = options_.is_private;
  Become(State::kFree);
  worker_->FreeBackend(this);
  worker_->backends()->OnBackendFreed(node, is_private);
}

void Backend::SettleUnsent() {
  Fifo<Request*> unsent;
  unsent.Swap(&unsent_);
  unsent_bytes_ = 0;
  for (Request* request : unsent) SettleOne(request, false, false);
}

void Backend::SettleOne(Request* request, bool handed_over, bool head) {
  request->backend = nullptr;
  request->asking = false;
  Client* client = request->client;
  if (client == nullptr) {
    if (request->is_script_repair) return worker_->script_repairs()->OnLost(request);
    return worker_->requests()->Give(request);
  }
  --client->in_flight;
  if (failure_ == Failure::kDatabase) return client->AnswerError(request, refusal_);
  // What a WATCH watched, if it did, is not watched any more; and who waits at a node that does not
  // own the slot any more gets nothing there: it is as if they had not been sent.
  const bool moved = request->is_blocking && request->block->moved_at != absl::InfiniteFuture();
  if ((request->watched && !request->is_burst) || moved) {
    client->DropReply(request);
    handed_over = false;
  }
  if (moved) request->hold.reset();  // so the wait for another node begins here
  if (!handed_over) {
    request->handed_over = false;
    return worker_->dispatcher()->OnNotHandedOver(request);
  }
  if (request->streaming) {
    // Part of the reply is with the client: it can't be completed, and nothing else may follow it.
    request->state = Request::State::kNew;  // not on a backend any more
    return client->BeginClose();
  }
  if (failure_ != Failure::kProtocol && worker_->dispatcher()->MayRepeat(*request)) {
    client->DropReply(request);
    return worker_->dispatcher()->Repeat(request);
  }
  absl::string_view error = kConnectionLostError;
  if (failure_ == Failure::kTimeout) error = kTimeoutError;
  if (failure_ == Failure::kProtocol && head) error = kProtocolError;
  worker_->dispatcher()->AnswerUnknown(request, error);
}

}  // namespace proxy
