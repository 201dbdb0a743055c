#include "proxy/client.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cluster/router.h"
#include "proxy/args.h"
#include "proxy/blocking_read.h"
#include "proxy/client_queries.h"
#include "proxy/local_commands.h"
#include "proxy/monitors.h"
#include "proxy/split_request.h"
#include "proxy/subscriber.h"
#include "proxy/tracker.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

// Pieces of a frame that is not small are referenced from a quarter of that on.
constexpr size_t kCopyPieceBytes = kCopyBytes / 4;
// A frame that still lacks more than this is received into memory of its own.
constexpr size_t kLargeRequestBytes = 64 << 10;
// Output that the client has not taken: no new requests from here on (L7) …
constexpr size_t kOutputPauseBytes = 1 << 20;
// … nor more of a large reply, until it has come down to this.
constexpr size_t kOutputResumeBytes = kOutputPauseBytes / 2;
// Above this for kSlowReaderTime: closed.
constexpr size_t kSlowReaderBytes = 32 << 20;
constexpr absl::Duration kSlowReaderTime = absl::Seconds(60);
// Of clients with subscriptions, as the servers have it for them (client-output-buffer-limit); and
// of monitors, which the servers let fall behind without a limit.
constexpr size_t kSubscriberOutputBytesMax = 32 << 20;
constexpr size_t kSlowSubscriberBytes = 8 << 20;
// Input that is not scanned yet: reading pauses (L5).
constexpr size_t kInputPauseBytes = 256 << 10;
constexpr size_t kUnauthenticatedInputMax = 64 << 10;
constexpr size_t kUnauthenticatedOutputMax = 4 << 10;
constexpr uint8_t kAuthFailuresMax = 10;
constexpr absl::Duration kLingerTime = absl::Seconds(1);

// Each reply counts a sixteenth; more than this is never expected of one.
constexpr uint64_t kUsualReplyBytesMax = 64 << 20;

uint32_t UsualReplyBytes(uint32_t so_far, uint64_t reply) {
  const auto last = static_cast<uint32_t>(std::min(reply, kUsualReplyBytesMax));
  return so_far - so_far / 16 + last / 16;
}

// Argument 1 is its only key, whose slot is all that it needs; it takes no time.
bool IsOfOneKey(const cluster::CommandSpec& command, int64_t arg_count) {
  if ((command.flags & cluster::kFlagSlow) != 0) return false;
  if (command.serve == cluster::Serve::kOneSlot) return command.single_first_key;
  return command.serve == cluster::Serve::kSplit && command.split == cluster::Split::kKeys &&
         arg_count == 2;
}

absl::string_view ArgAt(absl::string_view frame, const resp::ArgPosition& position) {
  return absl::string_view(frame.data() + position.offset, position.length);
}

constexpr absl::string_view kNoAuth = "NOAUTH Authentication required.";
constexpr absl::string_view kOutOfMemory = "OOM proxy memory limit (not executed)";

}  // namespace

Client::Client(Worker* worker, uint32_t index, uint32_t generation)
    : worker_(worker),
      index_(index),
      generation_(generation),
      connection_(worker->ring()),
      timer_(worker->timers(), &Client::TimerFired, this),
      arena_(worker->client_blocks()),
      output_arena_(worker->client_blocks()) {}

Client::~Client() { ABSL_ASSERT(head_ == nullptr); }

void Client::Become(State next) {
  ABSL_ASSERT(next != state_);
  ABSL_ASSERT(next != State::kFree || state_ == State::kClosing);
  ABSL_ASSERT(next != State::kLingering || state_ == State::kDraining);
  state_ = next;
}

void Client::Open(io::Fd fd) {
  Become(State::kOpen);
  id_ = worker_->NextClientId();
  opened_at_ = last_input_ = worker_->now();
  authenticated_ = worker_->config().password.empty();
  io::Connection::Options options;
  options.party = static_cast<uint8_t>(Party::kClient);
  options.index = index_;
  options.generation = generation_;
  options.group = io::BufferGroup::kClients;
  if (worker_->config().zero_copy_send) {
    options.zero_copy_bytes_min = worker_->config().zero_copy_bytes_min;
  }
  connection_.Open(fd, options);
  connection_.StartRecv();
  StartTimer();
}

// --- input

void Client::OnRecv(io::Completion* completion) {
  io::Slice data;
  const io::Connection::RecvEvent event = connection_.OnRecv(completion, &data);
  switch (state_) {
    case State::kFree:
      return;
    case State::kClosing:
      return EndIfDone();
    case State::kLingering:
      if (event == io::Connection::RecvEvent::kEnd || event == io::Connection::RecvEvent::kError) {
        BeginClose();
      }
      return;
    case State::kOpen:
    case State::kDraining:
      break;
  }
  switch (event) {
    case io::Connection::RecvEvent::kNothing:
      return;
    case io::Connection::RecvEvent::kError:
      return BeginClose();
    case io::Connection::RecvEvent::kEnd:
      // Half-closed: what it has asked is still answered.
      input_ended_ = true;
      worker_->MarkDirty(this);
      return BeginDrain();
    case io::Connection::RecvEvent::kData:
      break;
  }
  if (stop_after_this_) return;
  last_input_ = worker_->now();
  input_bytes_ += data.size();
  input_.push_back(std::move(data));
  worker_->MarkDirty(this);
  if (!runnable) TakeRequests();
}

bool Client::MayTake() {
  if ((state_ != State::kOpen && state_ != State::kDraining) || stop_after_this_) return false;
  if (waiting_for_room_ || answer_first_ != nullptr || held_back_ != HeldBack::kNo) return false;
  // Replies on their way can't be stopped: they count as if they were here.
  const uint64_t expected = uint64_t{unanswered_} * usual_reply_bytes_;
  if (connection_.unsent_bytes() + reply_bytes_ + expected >= kOutputPauseBytes) return false;
  const uint32_t most = worker_->config().requests_per_client_max;
  if (unanswered_ >= most) throttled_ = true;
  if (throttled_ && unanswered_ <= most / 2) throttled_ = false;
  return !throttled_;
}

void Client::TakeRequests() {
  // Several times in a turn, maybe: as often as it gets input.
  if (budget_turn_ != worker_->stats()->turns.Get()) {
    budget_turn_ = worker_->stats()->turns.Get();
    requests_left_ = kRequestsPerTurn;
    bytes_left_ = kBytesPerTurn;
  }
  resp::RequestLimits limits;
  limits.args_max = worker_->config().args_max;
  limits.bulk_bytes_max = worker_->config().bulk_bytes_max;
  while (HasInput() && MayTake()) {
    if (requests_left_ == 0 || bytes_left_ == 0) {
      worker_->MarkRunnable(this);
      break;
    }
    limits.authenticated = authenticated_;
    if (scanner_.idle() && TakeQuickly(limits)) continue;
    io::Slice& chunk = input_[input_head_];
    const resp::ScanResult result = scanner_.Scan(chunk.bytes(), limits);
    if (result.status == resp::ScanStatus::kError) {
      OnProtocolError(scanner_.error());
      break;
    }
    input_bytes_ -= result.consumed;
    bytes_left_ -= std::min(bytes_left_, result.consumed);
    io::Slice piece;
    if (result.consumed < chunk.size()) {
      piece = chunk.Sub(0, result.consumed);
      chunk.RemovePrefix(result.consumed);
    } else {
      piece = std::move(chunk);
      PopInput();
    }
    if (result.status == resp::ScanStatus::kNeedMore) {
      KeepPartial(piece);
    } else {
      --requests_left_;
      TakeFrame(std::move(piece));
    }
  }
  if (stop_after_this_) BeginDrain();
}

bool Client::QuickWayOpen() const {
  return worker_->cluster() != nullptr && waiting == 0 && database_ == 0 &&
         (in_flight == 0 || plain_epoch == worker_->route_epoch()) &&
         worker_->config().read_prefer == cluster::ReadPrefer::kPrimary;
}

void Client::NoteGivenQuickly(uint32_t count, const cluster::SlotGroups& written) {
  if (in_flight == 0) plain_epoch = worker_->route_epoch();
  in_flight += count;
  if (written.empty()) return;
  NoteWrite(worker_->now());
  written_.Add(written);
}

// How many requests may be taken in a row without asking again what is asked of each one in MayTake
// and TakeArray. 0: something is to be looked at for each. MayTake has been asked.
uint64_t Client::QuickRequestsMax() {
  const bool special = !authenticated_ || reply_mode_ != ReplyMode::kOn || gets_pushes_ ||
                       IsQueueing() || worker_->attentive() ||
                       worker_->config().commands.blocks_one_key_commands();
  if (special || worker_->MemoryExhausted() || !QuickWayOpen()) return 0;
  const uint64_t expected = uint64_t{unanswered_} * usual_reply_bytes_;
  const uint64_t room = kOutputPauseBytes - connection_.unsent_bytes() - reply_bytes_ - expected;
  return std::min({(room - 1) / std::max(uint32_t{1}, usual_reply_bytes_) + 1,
                   static_cast<uint64_t>(requests_left_),
                   uint64_t{worker_->config().requests_per_client_max - unanswered_},
                   worker_->RequestsBeforeSample()});
}

// Takes requests while they are of the common kind: small and whole, of one key, for a connection
// that is open and takes them at once. False: the next one, which may be taken, is of another kind
// or not whole.
bool Client::TakeQuickly(const resp::RequestLimits& limits) {
  const uint64_t most = QuickRequestsMax();
  if (most == 0) return false;
  const cluster::Topology& topology = *worker_->cluster()->topology;
  const absl::Span<Backend* const> backends = worker_->backends()->OpenPrimaries(protocol_);
  const absl::Time now = worker_->now();
  Request* last = tail_;
  const cluster::CommandSpec* command = nullptr;  // of the last one
  uint64_t taken = 0;
  size_t bytes = 0;
  cluster::SlotGroups written;
  bool other = false;
  while (taken < most && bytes < bytes_left_ && HasInput()) {
    io::Slice& chunk = input_[input_head_];
    other = true;
    // With ten arguments or more it is rarely one of these, and dear to scan twice.
    if (chunk.size() < 3 || chunk.data()[2] != '\r') break;
    const size_t size = scanner_.TakeWhole(chunk.bytes(), limits);
    if (size == 0 || size >= kCopyBytes || scanner_.arg_count() < 2) break;
    const absl::string_view frame(chunk.data(), size);
    const cluster::CommandSpec* const found = cluster::FindCommand(ArgAt(frame, scanner_.arg(0)));
    if (found == nullptr || !IsOfOneKey(*found, scanner_.arg_count()) ||
        !cluster::ArityAccepts(*found, scanner_.arg_count())) {
      break;
    }
    const cluster::Slot slot = cluster::SlotOf(ArgAt(frame, scanner_.arg(1)));
    const size_t shard = topology.ShardNumberFor(slot);
    Backend* const backend = shard < backends.size() ? backends[shard] : nullptr;
    if (backend == nullptr || !backend->MayGiveQuickly()) break;
    other = false;
    command = found;
    Request* const request = worker_->requests()->Take();
    request->client = this;
    request->command = found;
    request->charged = size;
    request->protocol = protocol_;
    request->slot = slot;
    request->read = found->is_read_only();
    if (!request->read) written.Add(slot);
    backend->GiveQuickly(request, frame, now);
    if (!backend->dirty) worker_->MarkDirty(backend);
    (last == nullptr ? head_ : last->next) = request;
    last = request;
    ++taken;
    bytes += size;
    if (size < chunk.size()) {
      chunk.RemovePrefix(size);
    } else {
      PopInput();
    }
  }
  if (taken > 0) {
    tail_ = last;
    last_command_ = command;
    requests_left_ -= static_cast<int>(taken);
    bytes_left_ -= std::min(bytes_left_, bytes);
    input_bytes_ -= bytes;
    request_bytes_ += bytes;
    unanswered_ += static_cast<uint32_t>(taken);
    NoteGivenQuickly(static_cast<uint32_t>(taken), written);
    worker_->NoteQuickRequests(taken, bytes);
  }
  return !other;
}

void Client::PopInput() {
  input_[input_head_] = io::Slice();
  if (++input_head_ < input_.size()) return;
  input_.clear();
  input_head_ = 0;
}

void Client::ClearInput() {
  input_.clear();
  input_head_ = 0;
  input_bytes_ = 0;
  partial_.Clear();
}

void Client::KeepPartial(const io::Slice& piece) {
  const size_t expected = scanner_.frame_bytes() + scanner_.bytes_missing();
  AppendPiece(piece.buffer(), piece.bytes(), expected >= 4 * kCopyBytes, &partial_);
  if (!authenticated_ && partial_.size() > kUnauthenticatedInputMax) return BeginClose();
  if (scanner_.bytes_missing() > input_bytes_ + kLargeRequestBytes) {
    connection_.ExpectLarge(scanner_.bytes_missing() - input_bytes_);
  }
}

io::Rope Client::KeepFrame(const io::Rope& frame) {
  io::Rope kept;
  const bool small = frame.size() < kCopyBytes;
  for (const io::Slice& slice : frame.slices()) {
    const bool copy = small || (slice.buffer() && slice.buffer()->scarce && worker_->BuffersLow());
    if (copy) worker_->stats()->payload_bytes_copied.Add(slice.size());
    kept.Append(copy ? arena_.Copy(slice.bytes()) : slice);
  }
  return kept;
}

// The bytes, with a share of their buffer, or copied where that is better.
io::Slice Client::KeepBytes(const io::BufferRef& buffer, absl::string_view piece,
                            bool part_of_large) {
  const size_t copy_below = part_of_large ? kCopyPieceBytes : kCopyBytes;
  const bool copy =
      piece.size() < copy_below || !buffer || (buffer->scarce && worker_->BuffersLow());
  if (!copy) return io::Slice(buffer, piece);
  worker_->stats()->payload_bytes_copied.Add(piece.size());
  return arena_.Copy(piece);
}

// More of a message that arrives in pieces. Two small ones are brought together if they are not
// neighbours already: several slices would be memory from the heap, and a copy for each look at
// what lies across their border.
void Client::AppendPiece(const io::BufferRef& buffer, absl::string_view piece, bool part_of_large,
                         io::Rope* message) {
  io::Slice kept = KeepBytes(buffer, piece, part_of_large);
  const size_t bytes = message->size() + kept.size();
  if (message->slices().size() == 1 && bytes < kCopyBytes &&
      !message->slices()[0].IsFollowedBy(kept)) {
    const io::Slice first = message->slices()[0];
    worker_->stats()->payload_bytes_copied.Add(first.size());
    char* out = arena_.Reserve(bytes);
    memcpy(out, first.data(), first.size());
    memcpy(out + first.size(), kept.data(), kept.size());
    message->Clear();
    kept = arena_.Commit(bytes);
  }
  message->Append(std::move(kept));
}

void Client::TakeFrame(io::Slice last_piece) {
  if (scanner_.arg_count() == 0) {
    partial_.Clear();
    return;
  }
  if (partial_.empty() && !scanner_.is_inline()) {
    const absl::string_view bytes = last_piece.bytes();
    return TakeArray(resp::Pieces(&bytes, 1), io::Rope(std::move(last_piece)), scanner_);
  }
  io::Rope frame = std::move(partial_);
  // A last small piece is as good as copied: only large frames keep references.
  AppendPiece(last_piece.buffer(), last_piece.bytes(), frame.size() >= kCopyBytes, &frame);
  if (scanner_.is_inline()) return TakeInline(frame.Flatten());
  TakeArray(frame.Views(), frame, scanner_);
}

// An inline command goes on as the array it means.
void Client::TakeInline(std::string line) {
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
  std::vector<std::string> args;
  if (!resp::SplitInline(line, &args)) {
    return OnProtocolError("Protocol error: unbalanced quotes in request");
  }
  if (args.empty()) return;
  const std::vector<absl::string_view> views(args.begin(), args.end());
  std::string array;
  resp::AppendCommand(views, &array);
  io::Rope frame;
  frame.Append(arena_.Copy(array));
  resp::RequestScanner scanned;
  resp::RequestLimits limits;
  limits.args_max = static_cast<int64_t>(args.size());
  const resp::ScanResult result = scanned.Scan(array, limits);
  ABSL_ASSERT(result.status == resp::ScanStatus::kComplete);
  (void)result;
  TakeArray(frame.Views(), frame, scanned);
}

// What it asks of every request, QuickRequestsMax asks for a run of them.
void Client::TakeArray(const resp::Pieces& pieces, const io::Rope& frame,
                       const resp::RequestScanner& scanned) {
  WorkerStats* stats = worker_->stats();
  stats->requests.Add(1);
  if (ABSL_PREDICT_FALSE(reply_mode_ != ReplyMode::kOn) && WaitsForReplyMode(pieces, frame)) return;
  const absl::string_view first = resp::ViewAt(pieces, scanned.arg(0), worker_->text_scratch(0));
  absl::string_view second;
  if (scanned.arg_count() > 1) {
    second = resp::ViewAt(pieces, scanned.arg(1), worker_->text_scratch(1));
  }
  const cluster::CommandSpec* command = nullptr;
  switch (worker_->LookUp(first, second, scanned.arg_count(), &command)) {
    case cluster::Lookup::kUnknownCommand: {
      // What browsers and other servers' clients send: the servers close without a word.
      if (absl::EqualsIgnoreCase(first, "post") || absl::EqualsIgnoreCase(first, "host:")) {
        stats->protocol_errors.Add(1);
        return BeginClose();
      }
      ArgList args(pieces);
      return RejectNew(nullptr, cluster::UnknownCommandError(args.views()));
    }
    case cluster::Lookup::kUnknownSubcommand:
      return RejectNew(nullptr, cluster::UnknownSubcommandError(*command, second));
    case cluster::Lookup::kWrongArity:
      if (LacksOnlyAValue(*command, scanned.arg_count())) {
        if (IsQueueing()) break;
        // The servers find it out when they run it.
        if (authenticated_ && worker_->attentive() && !MayBegin(*command, pieces, frame)) return;
      }
      return RejectNew(command, cluster::WrongArityError(*command));
    case cluster::Lookup::kFound:
      break;
  }
  if (!authenticated_ && (command->flags & cluster::kFlagNoAuth) == 0)
    return RejectNew(command, kNoAuth);
  if (ABSL_PREDICT_FALSE(worker_->config().commands.any_blocked()) &&
      worker_->config().commands.IsBlocked(*command)) {
    stats->refused_requests.Add(1);
    return RejectNew(command, cluster::BlockedError(*command));
  }
  if (ABSL_PREDICT_FALSE(gets_pushes_) && TakeAsSubscriber(*command, pieces)) return;
  last_command_ = command;
  if (ABSL_PREDICT_FALSE(worker_->attentive()) && !MayBegin(*command, pieces, frame)) return;
  if (ABSL_PREDICT_FALSE(tracks())) NoteReads(*command, pieces);
  if (ABSL_PREDICT_FALSE(IsQueueing()) && !ActsInTransaction(*command)) {
    return QueueCommand(*command, pieces, frame);
  }
  switch (command->serve) {
    case cluster::Serve::kLocal: {
      ArgList args(pieces);
      if (TakeLocalInSteps(*command, args, frame)) return;
      stats->local_requests.Add(1);
      std::string reply;
      ServeLocal(this, *command, args.views(), &reply);
      return AnswerNew(reply);
    }
    case cluster::Serve::kTransaction:
      return TakeTransaction(*command, pieces, frame);
    case cluster::Serve::kClients:
      return TakeAdministration(*command, pieces, frame);
    case cluster::Serve::kRefused:
      if (TakeAllowed(*command, frame)) return;
      stats->refused_requests.Add(1);
      return AnswerNewError(cluster::NotSupportedError(*command));
    case cluster::Serve::kBySlot:
    case cluster::Serve::kKeyless:
    case cluster::Serve::kOneSlot:
    case cluster::Serve::kSplit:
    case cluster::Serve::kWholeCluster:
    case cluster::Serve::kPublish:
    case cluster::Serve::kPubSubCount:
    case cluster::Serve::kPubSub:
      break;
  }
  if (worker_->MemoryExhausted() &&
      !(command->serve == cluster::Serve::kPubSub && Subscriber::Frees(*command))) {
    return AnswerNewError(kOutOfMemory);
  }
  switch (command->serve) {
    case cluster::Serve::kSplit:
      return TakeSplit(*command, pieces, frame);
    case cluster::Serve::kWholeCluster:
      return TakeWholeCluster(*command, pieces, frame);
    case cluster::Serve::kPublish:
      return TakePublish(*command, second, frame);
    case cluster::Serve::kPubSubCount:
      return TakePubSubCount(*command, pieces, frame);
    case cluster::Serve::kPubSub:
      return TakeSubscription(*command, pieces, frame);
    default:
      return TakeOneSlot(*command, second, pieces, frame);
  }
}

// `second` is the argument behind the command's name.
void Client::TakeOneSlot(const cluster::CommandSpec& command, absl::string_view second,
                         const resp::Pieces& pieces, const io::Rope& frame) {
  if (command.single_first_key) {
    return StartOneSlot(command, cluster::SlotOf(second), false, frame);
  }
  if (command.serve == cluster::Serve::kKeyless) {
    return StartOneSlot(command, 0, false, frame);
  }
  const ArgList args(pieces);
  if (command.serve == cluster::Serve::kBySlot) {
    return StartOneSlot(command, cluster::SlotArgument(args.views()[2]), false, frame);
  }
  if (ABSL_PREDICT_FALSE(command.is_script())) NoteScript(command, args.views());
  std::vector<uint32_t> keys;
  // An impossible number of keys: no node runs it, and the one it goes to says why.
  if (cluster::FindKeyIndexes(command, args.views(), &keys) == cluster::KeySearch::kInvalid) {
    keys.clear();
  }
  cluster::Slot slot = 0;
  if (!cluster::CommonSlot(args.views(), keys, &slot)) {
    return TakeOverSlots(command, args.views(), keys, frame);
  }
  const auto timeout = cluster::FindBlockingTimeout(command, args.views());
  if (timeout.has_value()) {
    if (auto resolved = MakeTailRead(command, args.views(), keys, slot, worker_->now())) {
      return StartProcedure(NewRequest(command, frame.size()), std::move(resolved));
    }
    return StartBlocking(command, slot,
                         MakeBlock(*timeout, args.views()[timeout->arg], worker_->now()), frame);
  }
  StartOneSlot(command, slot, keys.empty(), frame);
}

void Client::StartOneSlot(const cluster::CommandSpec& command, cluster::Slot slot, bool barrier,
                          const io::Rope& frame) {
  if (const ClusterState* cluster = worker_->cluster(); cluster != nullptr) {
    cluster->topology->PrefetchShard(slot);
  }
  Request* request = NewRequest(command, frame.size());
  request->slot = slot;
  request->barrier = barrier;
  if (!worker_->dispatcher()->Start(request, frame)) waiting_for_room_ = true;
}

void Client::TakeSplit(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                       const io::Rope& frame) {
  const ArgList args(pieces);
  const bool pairs = command.split == cluster::Split::kKeyValuePairs;
  if (pairs && args.views().size() % 2 == 0) {
    return AnswerNewError(cluster::WrongArityError(command));
  }
  std::unique_ptr<Fragments> fragments = worker_->requests()->TakeFragments();
  fragments->keys_with_values = pairs;
  std::vector<cluster::Slot>* slots = worker_->slot_scratch();
  slots->clear();
  for (size_t i = 1; i < args.views().size(); i += pairs ? 2 : 1) {
    slots->push_back(cluster::SlotOf(args.views()[i]));
  }
  worker_->split_planner()->Plan(*slots, &fragments->plan);
  if (fragments->plan.fragments.size() == 1) {
    worker_->requests()->GiveFragments(std::move(fragments));
    return StartOneSlot(command, slots->front(), false, frame);
  }
  Request* parent = NewRequest(command, frame.size());
  parent->fragments = std::move(fragments);
  worker_->stats()->split_requests.Add(1);
  if (!StartFragments(worker_, parent, args, frame)) waiting_for_room_ = true;
}

Request* Client::NewRequest(const cluster::CommandSpec& command, size_t bytes) {
  Request* request = worker_->requests()->Take();
  request->client = this;
  request->command = &command;
  request->charged = bytes;
  request_bytes_ += bytes;
  request->protocol = protocol_;
  if (worker_->SampleAccessLine()) {
    request->sampled = true;
    request->arrived = worker_->now();
  }
  if (tail_ == nullptr) {
    head_ = request;
  } else {
    tail_->next = request;
  }
  tail_ = request;
  ++unanswered_;
  worker_->stats()->requests_in_flight.Add(1);
  return request;
}

void Client::AnswerNew(absl::string_view reply) {
  if (state_ == State::kClosing) return;
  if (head_ == nullptr) {
    if (ABSL_PREDICT_FALSE(muted())) return;
    connection_.Send(arena_.Copy(reply));
    worker_->MarkDirty(this);
  } else {
    static const cluster::CommandSpec kLocalReply = {};
    Request* request = NewRequest(kLocalReply, 0);
    request->sampled = false;
    Answer(request, reply);
  }
  if (!authenticated_ && connection_.unsent_bytes() > kUnauthenticatedOutputMax) BeginClose();
}

void Client::AnswerNewError(absl::string_view line) {
  std::string reply;
  resp::Encoder(protocol_, &reply).Error(line);
  worker_->stats()->proxy_errors.Add(1);
  AnswerNew(reply);
}

void Client::OnProtocolError(absl::string_view error) {
  worker_->stats()->protocol_errors.Add(1);
  AnswerNewError(absl::StrCat("ERR ", error));
  stop_after_this_ = true;
  BeginDrain();
}

// --- replies

void Client::OnReplyPiece(Request* request, const io::BufferRef& buffer, absl::string_view piece,
                          bool complete, uint64_t whole_bytes) {
  if (complete && ABSL_PREDICT_TRUE(EndsQuickly(*request, piece))) {
    TakeQuickReply(request, piece);
  } else {
    OnAnyReplyPiece(request, buffer, piece, complete, whole_bytes);
  }
}

// A small reply that came as a whole and is what the client gets: nothing is to be looked at.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline bool Client::EndsQuickly(const Request& request,
                                                             absl::string_view reply) const {
  const bool special = request.hold != nullptr || request.has_partial_reply || request.streaming ||
                       request.sampled || request.is_burst || request.private_connection;
  const bool special_client = waiting > 0 || answer_first_ != nullptr || procedure_ || muted() ||
                              gets_pushes_ || monitor_ != nullptr || held_back_ != HeldBack::kNo;
  return reply.size() < kCopyBytes && *reply.data() != '-' && !special && !special_client;
}

// What OnAnyReplyPiece and Finish do, for such a one.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline void Client::TakeQuickReply(Request* request,
                                                                absl::string_view reply) {
  WorkerStats* const stats = worker_->stats();
  stats->payload_bytes_forwarded.Add(reply.size());
  stats->payload_bytes_copied.Add(reply.size());
  --in_flight;
  if (!request->command->is_read_only()) NoteWrite(worker_->now());
  if (Request* const parent = request->parent; parent != nullptr) {
    KeepQuickReply(request, reply);
    if (--parent->fragments->unanswered == 0) FinishFragments(parent);
    return;
  }
  --unanswered_;
  stats->requests_in_flight.Sub(1);
  request_bytes_ -= request->charged;
  usual_reply_bytes_ = UsualReplyBytes(usual_reply_bytes_, reply.size());
  if (!dirty) worker_->MarkDirty(this);
  if (request != head_) return KeepQuickReply(request, reply);
  connection_.SendCopy(reply, &output_arena_);
  head_ = request->next;
  worker_->requests()->GivePlain(request);
  if (head_ == nullptr) {
    tail_ = nullptr;
  } else if (head_->answered()) {
    SendReadyPrefix();
  } else {
    ResumeFront();
  }
}

// For its turn.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline void Client::KeepQuickReply(Request* request,
                                                                absl::string_view reply) {
  request->backend = nullptr;
  request->charged = 0;
  request->reply_bytes = reply.size();
  request->state = Request::State::kReady;
  reply_bytes_ += reply.size();
  request->bytes = io::Rope(arena_.Copy(reply));
}

// Where it looks for more than a small whole reply, EndsQuickly must say no.
void Client::OnAnyReplyPiece(Request* request, const io::BufferRef& buffer, absl::string_view piece,
                             bool complete, uint64_t whole_bytes) {
  bool large = whole_bytes > kLargeReplyBytes;
  const bool part_of_large = whole_bytes >= 4 * kCopyBytes;
  worker_->stats()->payload_bytes_forwarded.Add(piece.size());
  request->reply_bytes += piece.size();
  Backend* const backend = request->backend;
  if (complete) {
    request->backend = nullptr;
    --in_flight;
    if (!request->command->is_read_only()) NoteWrite(worker_->now());
    if (waiting > 0) worker_->WakeClient(this);
  }
  const bool spliced = request->is_burst && !request->transaction->burst->local().empty();
  if (spliced) large = false;  // as a whole
  if (complete && ABSL_PREDICT_FALSE(request->private_connection)) {
    EndLease(request, backend, piece);
  }
  if (!request->streaming) {
    const char* const begin =
        request->has_partial_reply ? request->partial_reply.slices()[0].data() : piece.data();
    const bool error = *begin == '-';
    if (error && complete) return OnErrorReply(request, backend, piece);
    if (error) large = false;  // an error is looked at as a whole
    if (complete && waiting > 0) {
      if (worker_->dispatcher()->RunsAgain(request)) return DropReply(request);
      worker_->dispatcher()->NoteMayHaveRun(request);
    }
  }
  if (request == head_ && (complete || large) && !spliced && ABSL_PREDICT_TRUE(!muted())) {
    // It is its turn: the bytes leave as they come.
    if (request->has_partial_reply) connection_.Send(TakePartialReply(request));
    connection_.Send(KeepBytes(buffer, piece, part_of_large));
    request->streaming = true;
    if (complete) {
      request->bytes.Clear();
      return Finish(request);
    }
  } else if (complete) {
    request->bytes = TakePartialReply(request);
    AppendPiece(buffer, piece, part_of_large, &request->bytes);
    if (spliced) return OnBurstReply(request, std::move(request->bytes));
    return Finish(request);
  } else {
    // Nobody wants more of it than tells an error.
    if (request->has_partial_reply && *request->partial_reply.slices()[0].data() != '-' &&
        !WantsMore(*request)) {
      return;
    }
    AppendPiece(buffer, piece, part_of_large, &request->partial_reply);
    request->has_partial_reply = true;
    reply_bytes_ += piece.size();
  }
  worker_->MarkDirty(this);
  // Only the front one waits for its client: the others' replies are needed to get there.
  if (request == head_ && Backlog(*request) > kOutputPauseBytes) backend->OnSlowReader();
}

// Of a reply that comes in pieces.
bool Client::WantsMore(const Request& request) const {
  if (request.ask() == nullptr) return !muted();
  return reply_bytes_ <= request.parent->fragments->procedure->reply_bytes_max();
}

// The reply of a request with a connection of its own: that is free for others.
void Client::EndLease(Request* request, Backend* backend, absl::string_view last_piece) {
  if (request->is_blocking) backend->EndLease();
  if (!request->watched || !request->is_burst) return;
  if (ABSL_PREDICT_FALSE(!request->transaction->unshown.empty())) {
    const absl::string_view first =
        request->has_partial_reply ? request->partial_reply.slices()[0].bytes() : last_piece;
    // An error may become another reply.
    if (request->streaming || first[0] != '-') {
      ShowWatchedBlock(request, request->streaming ? "*1" : first);
    }
  }
  request->transaction->watch->Release(*worker_, !request->transaction->burst->refused());
}

// The last piece of an error reply. It may ask for something to be done instead of being passed on.
void Client::OnErrorReply(Request* request, Backend* backend, absl::string_view last_piece) {
  std::string text = TakePartialReply(request).Flatten();
  text.append(last_piece.data(), last_piece.size());
  request->reply_bytes = 0;
  const absl::string_view line = absl::string_view(text).substr(1, text.size() - 3);
  if (worker_->dispatcher()->OnErrorReply(request, backend, line)) return;
  if (worker_->dispatcher()->RunsAgain(request)) return;
  worker_->dispatcher()->NoteMayHaveRun(request);
  Answer(request, text);
}

io::Rope Client::TakePartialReply(Request* request) {
  if (!request->has_partial_reply) return io::Rope();
  request->has_partial_reply = false;
  reply_bytes_ -= request->partial_reply.size();
  return std::move(request->partial_reply);
}

void Client::DropReply(Request* request) {
  TakePartialReply(request);
  request->reply_bytes = 0;
}

size_t Client::Backlog(const Request& request) const {
  return connection_.unsent_bytes() +
         (request.has_partial_reply ? request.partial_reply.size() : 0);
}

void Client::Answer(Request* request, absl::string_view reply) {
  io::Rope rope;
  rope.Append(arena_.Copy(reply));
  AnswerRope(request, std::move(rope));
}

void Client::AnswerError(Request* request, absl::string_view line) {
  std::string reply;
  resp::Encoder(protocol_, &reply).Error(line);
  worker_->stats()->proxy_errors.Add(1);
  Answer(request, reply);
}

void Client::AnswerRope(Request* request, io::Rope reply) {
  if (state_ == State::kClosing) return;
  ABSL_ASSERT(!request->streaming);
  if (ABSL_PREDICT_FALSE(request->is_burst) && !reply.empty()) {
    ShowWatchedBlock(request, reply.slices()[0].bytes());
  }
  DropReply(request);
  request->reply_bytes = reply.size();
  request->bytes = std::move(reply);
  Finish(request);
}

// The request's reply is whole: `bytes` has what of it is not on its way to the client.
void Client::Finish(Request* request) {
  ABSL_ASSERT(request->state != Request::State::kReady);
  request->state = Request::State::kReady;
  request->hold.reset();
  reply_bytes_ += request->bytes.size();
  if (request->parent != nullptr) {
    Request* parent = request->parent;
    if (--parent->fragments->unanswered == 0) FinishFragments(parent);
    return;
  }
  if (request == answer_first_) {
    answer_first_ = nullptr;
    NoteUnblocked();
  }
  --unanswered_;
  if (procedure_ && unanswered_ == 1) worker_->WakeClient(this);
  request_bytes_ -= std::exchange(request->charged, 0);
  usual_reply_bytes_ = UsualReplyBytes(usual_reply_bytes_, request->reply_bytes);
  worker_->stats()->requests_in_flight.Sub(1);
  worker_->MarkDirty(this);
  if (request == head_) SendReadyPrefix();
}

// All of them are answered.
void Client::FinishFragments(Request* parent) {
  if (parent->fragments->procedure != nullptr) return worker_->WakeClient(this);
  io::Rope merged = MergeReplies(worker_, this, parent);
  for (Request* fragment : parent->fragments->requests) {
    reply_bytes_ -= fragment->bytes.size();
    worker_->requests()->Give(fragment);
  }
  worker_->requests()->GiveFragments(std::move(parent->fragments));
  AnswerRope(parent, std::move(merged));
}

void Client::SendReadyPrefix() {
  while (head_ != nullptr && head_->answered()) {
    Request* request = head_;
    if (request->sampled) LogAccess(*request);
    reply_bytes_ -= request->bytes.size();
    if (ABSL_PREDICT_TRUE(!muted()) || request->command->serve == cluster::Serve::kPubSub) {
      SendKept(&request->bytes);
    }
    head_ = request->next;
    if (head_ == nullptr) tail_ = nullptr;
    worker_->requests()->Give(request);
  }
  if (ABSL_PREDICT_FALSE(held_back_ != HeldBack::kNo) && head_ == nullptr) {
    EndHoldBack(HeldBack::kUntilAnswered);
  }
  if (subscriber_ != nullptr) ServeSubscriber();
  ResumeFront();
}

// A reply that was kept for its turn. A small one is copied once more: that costs less than another
// part of a send.
void Client::SendKept(io::Rope* reply) {
  const io::Slice* const only = reply->only_slice();
  if (only != nullptr && !only->empty() && only->size() < kCopyPieceBytes) {
    worker_->stats()->payload_bytes_copied.Add(only->size());
    connection_.SendCopy(only->bytes(), &output_arena_);
  } else {
    connection_.Send(std::move(*reply));
  }
}

// The backend of the front request's reply may wait for us.
void Client::ResumeFront() {
  if (head_ == nullptr || head_->backend == nullptr || !head_->backend->replies_paused()) return;
  if (connection_.unsent_bytes() <= kOutputResumeBytes) head_->backend->ResumeReplies();
}

void Client::LogAccess(const Request& request) {
  // The key and its values are the application's; the line says what and how long.
  worker_->log()->Info(absl::StrCat(
      "access client=", id_, " command=", request.command->container,
      request.command->container.empty() ? "" : "|", request.command->name, " slot=", request.slot,
      " redirections=", int{request.redirections}, " us=",
      absl::ToInt64Microseconds(worker_->now() - request.arrived), " bytes=", request.reply_bytes));
}

void Client::OnSend(const io::Completion& completion) {
  const io::Connection::SendEvent event = connection_.OnSent(completion);
  worker_->stats()->sends.Add(1);
  if (state_ == State::kClosing) return EndIfDone();
  if (event == io::Connection::SendEvent::kError) return BeginClose();
  ResumeFront();
  worker_->MarkDirty(this);
}

void Client::Flush() {
  dirty = false;
  if (state_ == State::kClosing || state_ == State::kFree) return;
  // Who is to be closed waits for the end of what is sent, and so do others where memory is short.
  const bool quiet = state_ == State::kOpen && worker_->MemoryEasy();
  connection_.Flush(quiet ? io::Notice::kQuiet : io::Notice::kWakes);
  if (HasInput() && !runnable && MayTake()) worker_->MarkRunnable(this);
  ControlReading();
  if (head_ == nullptr && connection_.send_idle() && partial_.empty()) {
    arena_.Release();
    output_arena_.Release();
  }
  if (ABSL_PREDICT_FALSE(gets_pushes_)) {
    if (subscriber_ != nullptr && subscriber_->idle()) LeaveTopics();
    if (tracker_ != nullptr) FlushTracking();
  }
  UpdateCharge();
  EndIfDone();
}

// Reads on only if what it has can be dealt with (L5 to L8).
void Client::ControlReading() {
  if (state_ != State::kOpen) return;
  const bool stuck = HasInput() && !runnable;
  const bool memory_tight =
      !worker_->MemoryEasy() && charged_ > kLargeRequestBytes && !worker_->IsLargestHolder(this);
  if (stuck || memory_tight || input_bytes_ > kInputPauseBytes) {
    if (!connection_.recv_paused()) connection_.PauseRecv();
    if (memory_tight) worker_->WaitForMemory(this);
    if (!stuck) return;
    // It may take long: the receive buffers are needed by others.
    for (size_t i = input_head_; i < input_.size(); ++i) {
      if (!input_[i].buffer() || !input_[i].buffer()->scarce) continue;
      worker_->stats()->payload_bytes_copied.Add(input_[i].size());
      input_[i] = io::CopyToHeap(input_[i].bytes());
    }
  } else if (connection_.recv_paused()) {
    connection_.StartRecv();
  }
}

void Client::UpdateCharge() {
  const size_t output = connection_.unsent_bytes() - connection_.quiet_bytes() + reply_bytes_;
  size_t held = input_bytes_ + partial_.size() + request_bytes_ + output;
  size_t most = worker_->config().client_output_bytes_max;
  size_t slow = kSlowReaderBytes;
  if (ABSL_PREDICT_FALSE(gets_pushes_)) {
    if (tracker_ != nullptr) held += tracker_->charge();
    if (subscriber_ != nullptr) held += subscriber_->charge();
    if (subscriber_ != nullptr && subscriber_->subscriptions() > 0) {
      most = std::min(most, kSubscriberOutputBytesMax);
      slow = kSlowSubscriberBytes;
    }
  }
  if (ABSL_PREDICT_FALSE(monitor_ != nullptr)) {
    most = std::min(most, kSubscriberOutputBytesMax);
    slow = kSlowSubscriberBytes;
  }
  if (held != charged_) {
    worker_->Charge(static_cast<int64_t>(held) - static_cast<int64_t>(charged_));
    charged_ = held;
  }
  if (output > most) return CloseSlow();
  if (output <= slow) {
    slow_since_ = absl::InfiniteFuture();
  } else if (slow_since_ == absl::InfiniteFuture()) {
    slow_since_ = worker_->now();
    if (!timer_.armed()) timer_.Set(slow_since_ + kSlowReaderTime);
  }
}

void Client::CloseSlow() {
  WorkerStats* const stats = worker_->stats();
  const bool subscribed = subscriber_ != nullptr && subscriber_->subscriptions() > 0;
  if (monitor_ != nullptr) {
    stats->slow_monitor_closed.Add(1);
  } else {
    (subscribed ? stats->slow_subscriber_closed : stats->slow_client_closed).Add(1);
  }
  BeginClose();
}

// --- the end

void Client::BeginDrain() {
  if (state_ != State::kOpen) return;
  // The servers end it, too, when the client does not send any more.
  if (answer_first_ != nullptr && answer_first_->is_blocking) return BeginClose();
  EndWait(Procedure::End::kClose);
  Become(State::kDraining);
  timer_.Stop();
  if (stop_after_this_) ClearInput();
  if (!connection_.recv_paused()) connection_.PauseRecv();
  worker_->MarkDirty(this);
}

void Client::EndIfDone() {
  if (state_ == State::kDraining) {
    if (head_ != nullptr || runnable || !connection_.send_idle()) return;
    if (held_back_ != HeldBack::kNo && !stop_after_this_) return;
    if (input_ended_) return BeginClose();
    Become(State::kLingering);
    connection_.ShutdownWrite();
    // Unread input would turn the close into a reset that throws the last replies away.
    connection_.StartRecv();
    timer_.Set(worker_->now() + kLingerTime);
  } else if (state_ == State::kClosing && connection_.closed()) {
    Become(State::kFree);
    worker_->FreeClient(this);
  }
}

void Client::BeginClose() {
  if (state_ == State::kClosing || state_ == State::kFree) return;
  Become(State::kClosing);
  timer_.Stop();
  LeaveTopics();
  EndTracking();
  LeaveMonitor();
  DropRequests();
  UnwatchAndDiscard();
  ClearInput();
  connection_.BeginClose();
  request_bytes_ = reply_bytes_ = 0;
  worker_->Charge(-static_cast<int64_t>(charged_));
  charged_ = 0;
  EndIfDone();
}

void Client::DropRequests() {
  NoteUnblocked();
  while (head_ != nullptr) {
    Request* request = head_;
    head_ = request->next;
    if (!request->answered()) worker_->stats()->requests_in_flight.Sub(1);
    if (request->fragments != nullptr) {
      for (Request* fragment : request->fragments->requests) DropRequest(fragment);
      request->fragments.reset();
      worker_->requests()->Give(request);
      continue;
    }
    DropRequest(request);
  }
  tail_ = answer_first_ = nullptr;
  unanswered_ = 0;
  procedure_ = false;
  in_flight = waiting = 0;
}

// A request on a backend becomes an orphan: its reply is dropped there.
void Client::DropRequest(Request* request) {
  if (!request->is_out()) {
    if (request->state == Request::State::kWaiting) worker_->stats()->held_requests.Sub(1);
    worker_->requests()->Give(request);
    return;
  }
  Backend* backend = request->backend;
  request->client = nullptr;
  request->parent = nullptr;
  request->DropPartialReply();
  // Its connection takes nothing more, and closes with the reply.
  if (request->watched) return request->transaction->watch->Release(*worker_, false);
  // The node ends its wait.
  if (request->is_blocking) return backend->Fail(Backend::Failure::kRetired, "");
  // The rest of a large reply that only this client waits for is not worth reading.
  if (backend != nullptr && backend->AloneWithReply())
    backend->Fail(Backend::Failure::kRetired, "");
}

void Client::OnControl(const io::Completion& completion) {
  connection_.OnControl(completion);
  EndIfDone();
}

void Client::StartTimer() {
  if (!authenticated_) {
    timer_.Set(worker_->now() + worker_->config().auth_timeout);
  }
}

void Client::OnTimer() {
  if (state_ == State::kLingering) return BeginClose();
  if (state_ != State::kOpen && state_ != State::kDraining) return;
  if (!authenticated_) return BeginClose();
  if (slow_since_ == absl::InfiniteFuture()) return;
  if (worker_->now() < slow_since_ + kSlowReaderTime) {
    return timer_.Set(slow_since_ + kSlowReaderTime);
  }
  CloseSlow();
}

// --- identity

Client::Identity* Client::identity() {
  if (identity_ == nullptr) identity_ = std::make_unique<Identity>();
  return identity_.get();
}

const Client::Identity& Client::identity_or_empty() const {
  static const Identity kEmpty;
  return identity_ == nullptr ? kEmpty : *identity_;
}

void Client::set_protocol(resp::Protocol protocol) {
  if (protocol == protocol_) return;
  protocol_ = protocol;
  plain_epoch = 0;  // other connections from here on
}

void Client::set_authenticated(bool yes) {
  authenticated_ = yes;
  if (yes) {
    auth_failures_ = 0;
    timer_.Stop();
  } else {
    StartTimer();
  }
}

void Client::NoteAuthFailure() {
  worker_->stats()->auth_failures.Add(1);
  if (++auth_failures_ < kAuthFailuresMax) return;
  stop_after_this_ = true;
  BeginDrain();
}

void Client::ResetSession() {
  UnwatchAndDiscard();
  LeaveTopics();
  EndTracking();
  LeaveMonitor();
  identity_.reset();
  if (reply_mode_ == ReplyMode::kOff) reply_mode_ = ReplyMode::kOn;
  set_protocol(resp::Protocol::kResp2);
  if (!worker_->config().password.empty()) set_authenticated(false);
  database_ = 0;
}

std::string Client::PeerName() const { return worker_->ring()->PeerName(connection_.fd()); }
std::string Client::LocalName() const { return worker_->ring()->LocalName(connection_.fd()); }

}  // namespace proxy
