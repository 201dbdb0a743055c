#pragma once

// File: proxy/client.h
//
// One client connection: its input cut into requests, its requests in order, its replies out in the
// same order, and what the client has told about itself. Owned by its worker.
//
//   kFree ─Open▶ kOpen ─QUIT, bad input, end of input, drain▶ kDraining ─replies sent▶ kLingering
//   kLingering (write side shut, input dropped) ─end of input, 1 s▶ kClosing ─last completion▶
//   kFree kOpen, kDraining, kLingering ─I/O error▶ kClosing

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "io/buffer_pool.h"
#include "io/connection.h"
#include "io/timers.h"
#include "proxy/request.h"
#include "proxy/transaction.h"
#include "resp/encoder.h"
#include "resp/scanner.h"
#include "resp/views.h"

namespace proxy {

struct ClientAnswer;
struct ClientFacts;
struct ClientQuery;
struct Monitor;
struct FaceShare;
class Subscriber;
struct Topic;
struct Tracker;
class Worker;

class Client {
 public:
  enum class State : uint8_t { kFree, kOpen, kDraining, kLingering, kClosing };

  // A client takes at most so much of one turn.
  static constexpr int kRequestsPerTurn = 256;
  static constexpr size_t kBytesPerTurn = 256 << 10;

  Client(Worker* worker, uint32_t index, uint32_t generation);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Takes the accepted descriptor and starts to receive.
  void Open(io::Fd fd);

  void OnRecv(io::Completion* completion);
  void OnSend(const io::Completion& completion);
  void OnControl(const io::Completion& completion);

  // Cuts requests out of the input that is here, within the turn's budget. Called by the worker for
  // clients on its run list.
  void TakeRequests();
  // Sends what is ready. Called once a turn if dirty.
  void Flush();

  // Answers what it has taken, sends it, and ends. Complete requests in its input are still taken.
  void BeginDrain();
  // Ends at once; what is unanswered is given up.
  void BeginClose();

  // --- replies, from backends and the proxy itself
  // More of the request's reply. `buffer` holds `piece`. Complete ends the reply, which has
  // `whole_bytes` in all, as far as that is known.
  void OnReplyPiece(Request* request, const io::BufferRef& buffer, absl::string_view piece,
                    bool complete, uint64_t whole_bytes);
  // The bytes of a request, to be kept: copied where that is better.
  io::Rope KeepFrame(const io::Rope& frame);
  // The whole reply, made by the proxy.
  void Answer(Request* request, absl::string_view reply);
  void AnswerRope(Request* request, io::Rope reply);
  void AnswerError(Request* request, absl::string_view line);
  // --- subscriptions (proxy/subscriptions.h)
  // A message in the client's protocol. It goes between two replies.
  void OnPublished(const io::Rope& message);
  void OnTopicReady(uint64_t command);
  void OnTopicRefused(uint64_t command, absl::string_view line);
  void OnTopicPlace(const Topic& topic, size_t place);
  // Null: it has none.
  const Subscriber* subscriber() const { return subscriber_.get(); }
  // --- tracking (proxy/tracking.h): proxy/client_tracking.cc
  // It is told which keys have changed, or another client in its place.
  bool tracks() const { return gets_pushes_ && TracksKeys(); }
  uint32_t tracking_session() const;
  int64_t tracking_redirect() const;  // that client's id; 0: there is none
  void OnTrackingReady();
  void OnTrackingRefused(absl::string_view line);
  // `value`: the array of the keys. It is told behind the replies that are owed now.
  void OnInvalidated(absl::string_view value);
  void OnAllInvalidated();
  // Another client has it told in its place.
  void OnRedirected(absl::string_view value);
  void OnRedirectTargetGone(uint64_t target);

  // What has come of its reply is not for the client.
  void DropReply(Request* request);

  // --- its requests
  // Calls fn for each unanswered request in order; of a split request: for its unanswered
  // fragments.
  template <typename Fn>
  void ForEachUnanswered(Fn fn) {
    for (Request* request = head_; request != nullptr; request = request->next) {
      if (request->answered()) continue;
      if (request->fragments == nullptr) {
        if (request->state != Request::State::kNew) fn(request);
        continue;
      }
      // By index: fn may add fragments.
      for (size_t i = 0; i < request->fragments->requests.size(); ++i) {
        Request* fragment = request->fragments->requests[i];
        if (!fragment->answered() && fragment->state != Request::State::kNew) fn(fragment);
      }
    }
  }
  uint32_t unanswered() const { return unanswered_; }
  // Bytes of the request's reply, and all before it, that the client has not taken yet.
  size_t Backlog(const Request& request) const;

  // --- what it told about itself
  struct Identity {
    std::string name;
    std::string library_name;
    std::string library_version;
    bool no_evict = false;  // CLIENT NO-EVICT and NO-TOUCH, as they were set
    bool no_touch = false;
  };
  uint64_t id() const { return id_; }
  Identity* identity();
  const Identity& identity_or_empty() const;
  resp::Protocol protocol() const { return protocol_; }
  void set_protocol(resp::Protocol protocol);
  bool authenticated() const { return authenticated_; }
  void set_authenticated(bool yes);
  void NoteAuthFailure();
  std::string PeerName() const;
  std::string LocalName() const;
  // What it is told of the whole cluster (proxy/cluster_face.h).
  FaceShare face_share() const;
  absl::Time opened_at() const { return opened_at_; }
  io::Fd fd() const { return connection_.fd(); }
  // No more requests are taken after the one being answered.
  void StopAfterThis() { stop_after_this_ = true; }
  void ResetSession();
  // CLIENT UNBLOCK: what it waits for ends, with an error or as if its time were up. False: it does
  // not wait.
  bool Unblock(bool error);
  // --- administration: proxy/client_admin.cc
  ClientFacts Describe() const;
  // It is one of those that the query means.
  bool Matches(const ClientQuery& query) const;
  // The query that it asked (ClientQueries::Ask) is answered, or nobody answered it in time.
  void OnQueryAnswered(const ClientQuery& query, ClientAnswer answer);
  void OnQueryFailed();
  void OnPauseEnded();
  // --- MONITOR (proxy/monitors.h): proxy/client_monitor.cc
  // Lines of commands. They go between two replies.
  void OnMonitorLines(const io::Rope& lines);
  // Those that had to wait for a reply's end, if that is over.
  void SendHeldLines();
  // It does not take what it is sent.
  void CloseSlow();
  // Its keys are not watched any more; UnwatchAndDiscard: nor is anything queued.
  void Unwatch();
  void UnwatchAndDiscard();
  // A write of this client, or a script, went out or was answered: its reads stay on primaries for
  // a while.
  void NoteWrite(absl::Time now) { last_write_ = now; }
  absl::Time last_write() const { return last_write_; }
  // Of all that went out: these were written to.
  cluster::SlotGroups* written() { return &written_; }
  // That its commands run in. Changes while nothing is unanswered.
  uint32_t database() const { return database_; }

  // The quick way is open for its requests: what goes to the primary of its slot finds the slot
  // gate (proxy/dispatcher.h) open, and only there it goes.
  bool QuickWayOpen() const;
  // So many requests of one key, or fragments, were given to nodes the quick way; `written` has the
  // slots of those that write.
  void NoteGivenQuickly(uint32_t count, const cluster::SlotGroups& written);

  // --- the slot gate's short cut (proxy/dispatcher.h)
  uint64_t plain_epoch = 0;  // all its requests in flight went to shared primaries in this epoch
  uint32_t in_flight = 0;    // kQueued or kSent
  uint32_t waiting = 0;      // kWaiting
  absl::Time wake_at = absl::InfiniteFuture();  // a waiting request has something to do then
  bool on_waiting_list = false;
  bool on_memory_list = false;
  bool wake_wanted = false;  // on the worker's list for this turn

  State state() const { return state_; }
  // The descriptor is closed. It is there only for as long as the kernel may still send bytes that
  // it did not copy.
  bool settled() const { return state_ == State::kClosing && connection_.fd() < 0; }
  uint32_t index() const { return index_; }
  uint32_t generation() const { return generation_; }
  size_t held_bytes() const { return charged_; }
  // Bookkeeping for the worker's lists of this turn.
  bool dirty = false;
  bool runnable = false;
  // Its last request, which found its backend full, has gone out.
  void OnRoom() { waiting_for_room_ = false; }
  // Its procedure, if it has one whose step is answered and nothing before it is unanswered, makes
  // its next step.
  void MoveProcedureOn();
  Worker* worker() const { return worker_; }
  // Small copies that live as long as this client's requests and replies.
  io::Arena* arena() { return &arena_; }

 private:
  // Its input waits, the front command included.
  enum class HeldBack : uint8_t { kNo, kUntilAnswered, kUntilPauseEnds };
  // By its command, which waits for what comes.
  enum class Blocked : uint8_t { kNo, kForEver, kWithTimeout };
  // CLIENT REPLY: of all its unanswered requests. From kOff on, they get no replies.
  enum class ReplyMode : uint8_t { kOn, kSkipNext, kOff, kSkipping };

  void Become(State next);
  bool HasInput() const { return input_head_ < input_.size(); }
  bool MayTake();
  uint64_t QuickRequestsMax();
  bool TakeQuickly(const resp::RequestLimits& limits);
  bool EndsQuickly(const Request& request, absl::string_view reply) const;
  void TakeQuickReply(Request* request, absl::string_view reply);
  void KeepQuickReply(Request* request, absl::string_view reply);
  void FinishFragments(Request* parent);
  void OnAnyReplyPiece(Request* request, const io::BufferRef& buffer, absl::string_view piece,
                       bool complete, uint64_t whole_bytes);
  void PopInput();
  void ClearInput();
  void KeepPartial(const io::Slice& piece);
  void TakeFrame(io::Slice last_piece);
  void TakeInline(std::string line);
  void TakeArray(const resp::Pieces& pieces, const io::Rope& frame,
                 const resp::RequestScanner& scanned);
  bool SelectsOther(const cluster::CommandSpec& command, const ArgList& args) const;
  bool TakeLocalInSteps(const cluster::CommandSpec& command, const ArgList& args,
                        const io::Rope& frame);
  bool TakeSelect(const cluster::CommandSpec& command, const ArgList& args, const io::Rope& frame);
  void TakeOneSlot(const cluster::CommandSpec& command, absl::string_view second,
                   const resp::Pieces& pieces, const io::Rope& frame);
  void TakeSplit(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                 const io::Rope& frame);
  void StartOneSlot(const cluster::CommandSpec& command, cluster::Slot slot, bool barrier,
                    const io::Rope& frame);
  // EVAL brings a text, EVALSHA calls one.
  void NoteScript(const cluster::CommandSpec& command, absl::Span<const absl::string_view> args);
  // --- transactions: proxy/client_transaction.cc
  static bool ActsInTransaction(const cluster::CommandSpec& command);
  static bool LacksOnlyAValue(const cluster::CommandSpec& command, int64_t arg_count);
  bool IsQueueing() const { return transaction_ != nullptr && transaction_->queueing(); }
  Transaction* EnsureTransaction();
  std::shared_ptr<Watch> EndWatch();
  // The command can't be queued, or can't be answered otherwise.
  void RejectNew(const cluster::CommandSpec* command, absl::string_view line);
  void TakeTransaction(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                       const io::Rope& frame);
  void TakeWatch(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                 const io::Rope& frame);
  void TakeExec(const cluster::CommandSpec& command);
  void TakeExecOverSlots(const cluster::CommandSpec& command);
  void RefuseQueued(const cluster::CommandSpec& command);
  void QueueCommand(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                    const io::Rope& frame);
  bool QueueSplit(const cluster::CommandSpec& command, const ArgList& args);
  Request* NewTransactionRequest(const cluster::CommandSpec& command, cluster::Slot slot,
                                 size_t bytes);
  void OnBurstReply(Request* request, io::Rope reply);
  void RunLocalCommands(Request* request);
  bool AskInTransaction(const cluster::CommandSpec& command,
                        absl::Span<const absl::string_view> args, std::string* reply);
  void OnLocalReply(Request* request, io::Rope reply, bool ends_client);

  // --- administration: proxy/client_admin.cc
  void TakeAdministration(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                          const io::Rope& frame);
  bool MakeQuery(const cluster::CommandSpec& command, absl::Span<const absl::string_view> args,
                 ClientQuery* query, std::string* error);
  void TakeReplyMode(absl::Span<const absl::string_view> args, const io::Rope& frame);
  bool WaitsForReplyMode(const resp::Pieces& pieces, const io::Rope& frame);
  bool WaitsForPause(const cluster::CommandSpec& command, const io::Rope& frame);
  void HoldBack(const io::Rope& frame, HeldBack until);
  void EndHoldBack(HeldBack until);
  bool muted() const { return reply_mode_ >= ReplyMode::kOff; }

  // --- monitors: proxy/client_monitor.cc
  bool MayBegin(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                const io::Rope& frame);
  void Show(const cluster::CommandSpec& command, const resp::Pieces& pieces);
  void ShowBlock(const cluster::CommandSpec& exec, absl::Span<const absl::string_view> args);
  void ShowWatchedBlock(Request* request, absl::string_view reply);
  void TakeMonitor(const cluster::CommandSpec& command, const io::Rope& frame);
  void OnMonitorAnswered(bool shown);
  void LeaveMonitor();

  void TakeWholeCluster(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                        const io::Rope& frame);
  bool TakeAllowed(const cluster::CommandSpec& command, const io::Rope& frame);
  void TakePublish(const cluster::CommandSpec& command, absl::string_view channel,
                   const io::Rope& frame);
  void TakePubSubCount(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                       const io::Rope& frame);
  void TakeSubscription(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                        const io::Rope& frame);
  bool TakeAsSubscriber(const cluster::CommandSpec& command, const resp::Pieces& pieces);
  // --- tracking: proxy/client_tracking.cc
  bool TracksKeys() const;
  void TakeTracking(const cluster::CommandSpec& command, absl::Span<const absl::string_view> args);
  void TakeCaching(absl::string_view word);
  void OnRedirectTargetFound(bool found);
  void CarryOutTracking(const cluster::CommandSpec& command);
  void BeginTracking();
  void EndTracking();
  void AnswerTracking(std::string error);
  void NoteReads(const cluster::CommandSpec& command, const resp::Pieces& pieces);
  void NoteRejected(const cluster::CommandSpec* command);
  void NoteRead(absl::string_view key);
  void Invalidate(const cluster::CommandSpec& kind, absl::string_view value);
  const Request* LastOwed() const;
  void PushBehind(const cluster::CommandSpec& kind, absl::string_view push);
  void PushNow(absl::string_view push);
  void SendPush(absl::string_view push);
  void InsertPush(const cluster::CommandSpec& kind, Request* before, absl::string_view push);
  void GiveRedirected();
  void FlushTracking();
  void SendBetweenReplies(const io::Rope& bytes, io::Rope* held);
  void SendHeld(io::Rope* held);
  void ServeSubscriber();
  void LeaveTopics();
  // The last in the queue; `bytes` of it are kept until it ends.
  Request* NewRequest(const cluster::CommandSpec& command, size_t bytes);
  void AnswerNew(absl::string_view reply);
  void AnswerNewError(absl::string_view line);
  void OnProtocolError(absl::string_view error);
  void TakeOverSlots(const cluster::CommandSpec& command, absl::Span<const absl::string_view> args,
                     absl::Span<const uint32_t> keys, const io::Rope& frame);
  void TakePopOverSlots(const cluster::CommandSpec& command,
                        absl::Span<const absl::string_view> args, absl::Span<const uint32_t> keys,
                        const io::Rope& frame);
  void StartProcedure(Request* request, std::unique_ptr<Procedure> procedure);
  bool EndWait(Procedure::End end);
  void BlockInstead(Request* request, Step* step);
  void BlockRequest(Request* request, cluster::Slot slot, std::unique_ptr<Block> block,
                    const io::Rope& frame);
  void NoteBlocked(absl::Time until);
  void NoteUnblocked();
  void StartBlocking(const cluster::CommandSpec& command, cluster::Slot slot, Block block,
                     const io::Rope& frame);
  void EndLease(Request* request, Backend* backend, absl::string_view last_piece);
  void OnErrorReply(Request* request, Backend* backend, absl::string_view last_piece);
  io::Slice KeepBytes(const io::BufferRef& buffer, absl::string_view piece, bool part_of_large);
  void AppendPiece(const io::BufferRef& buffer, absl::string_view piece, bool part_of_large,
                   io::Rope* message);
  bool WantsMore(const Request& request) const;
  io::Rope TakePartialReply(Request* request);
  void Finish(Request* request);
  void SendReadyPrefix();
  void SendKept(io::Rope* reply);
  void ResumeFront();
  void LogAccess(const Request& request);
  void EndIfDone();
  void DropRequests();
  void DropRequest(Request* request);
  void ControlReading();
  void UpdateCharge();
  void StartTimer();
  void OnTimer();
  static void TimerFired(void* self) { static_cast<Client*>(self)->OnTimer(); }

  Worker* const worker_;
  const uint32_t index_;
  const uint32_t generation_;
  State state_ = State::kFree;
  io::Connection connection_;
  io::Timer timer_;  // authentication, linger, slow reader
  io::Arena arena_;
  io::Arena output_arena_;  // of small replies on their way, so that they are neighbours
  resp::RequestScanner scanner_;
  std::vector<io::Slice> input_;  // received, not scanned yet, in order
  size_t input_head_ = 0;
  size_t input_bytes_ = 0;
  io::Rope partial_;          // scanned bytes of an incomplete frame
  bool input_ended_ = false;  // half-closed by the client
  bool stop_after_this_ = false;
  bool gets_pushes_ = false;       // has a subscriber_ or a tracker_
  bool waiting_for_room_ = false;  // its last request waits for room on a backend
  bool procedure_ = false;         // its last request is one: nothing is taken before its end
  bool throttled_ = false;         // too many requests unanswered
  HeldBack held_back_ = HeldBack::kNo;
  ReplyMode reply_mode_ = ReplyMode::kOn;
  Blocked blocked_ = Blocked::kNo;
  uint64_t budget_turn_ = 0;  // the turn that these are for:
  int requests_left_ = 0;
  size_t bytes_left_ = 0;

  Request* head_ = nullptr;  // oldest; replies leave in this order
  Request* tail_ = nullptr;
  Request* answer_first_ = nullptr;  // no request is taken until this one is answered
  uint32_t unanswered_ = 0;          // requests in the queue that are not answered
  size_t request_bytes_ = 0;         // of requests in the queue
  size_t reply_bytes_ = 0;           // stored replies that may not leave yet
  // Size of the replies so far, the recent ones above all: tells what the unanswered will bring.
  uint32_t usual_reply_bytes_ = 16 << 10;
  size_t charged_ = 0;  // what the worker counts for this client

  const cluster::CommandSpec* last_command_ = nullptr;
  absl::Time last_input_;
  uint64_t id_ = 0;
  absl::Time opened_at_;
  absl::Time last_write_ = absl::InfinitePast();
  cluster::SlotGroups written_;
  uint32_t database_ = 0;
  absl::Time slow_since_ = absl::InfiniteFuture();
  std::unique_ptr<Identity> identity_;
  std::unique_ptr<Transaction> transaction_;  // null: it never had one
  std::unique_ptr<Subscriber> subscriber_;    // null: has no subscriptions and asks for none
  std::unique_ptr<Tracker> tracker_;          // null: does not track, and does not ask to
  std::unique_ptr<Monitor> monitor_;          // null: is none and does not ask to be one
  resp::Protocol protocol_ = resp::Protocol::kResp2;
  bool authenticated_ = true;
  uint8_t auth_failures_ = 0;
};

}  // namespace proxy
