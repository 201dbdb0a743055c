#pragma once

// File: proxy/backend.h
//
// One connection to a node: connect, handshake, requests out, replies in, end. Shared by all
// clients of its worker (one node, one protocol version, primary or replica reads), or private to
// one request that is too large to share. Replies belong to requests strictly in order; what does
// not match ends the connection, it is never guessed.
//
//   kFree ─Start▶ kConnecting ─connected▶ kHandshake ─all replies matched▶ kOpen
//   kOpen ─Retire▶ kRetired (takes no new requests) ─nothing owed▶ kClosing
//   any ─Fail▶ kClosing ─last completion▶ kFree (what it owed is settled)

#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "io/buffer_pool.h"
#include "io/connection.h"
#include "io/timers.h"
#include "proxy/fifo.h"
#include "proxy/node_handshake.h"
#include "proxy/pending_ring.h"
#include "proxy/request.h"
#include "proxy/script_repairs.h"
#include "resp/encoder.h"
#include "resp/scanner.h"

namespace proxy {

struct NodeBackends;
class Worker;

// A connection that may still hold unread requests at its node; its replacement ends it there
// first.
struct OldConnection {
  int64_t client_id = 0;  // at the node
  std::string name;       // as set there: the id is only trusted together with it
};

class Backend {
 public:
  enum class State : uint8_t { kFree, kConnecting, kHandshake, kOpen, kRetired, kClosing };

  // What ended a connection; decides the error of the requests that were handed over.
  enum class Failure : uint8_t {
    kNone,
    kConnect,    // could not connect in time, or was refused
    kHandshake,  // the node refused or garbled the handshake
    kAuth,       // it refused the password
    kDatabase,   // it refused SELECT: nothing is wrong with the node
    kLost,       // reset or closed by the node
    kTimeout,    // no reply in time
    kProtocol,   // bytes that are not a reply, or a reply that nobody awaits
    kRetired,    // ours: nothing is owed any more
  };

  struct Options {
    BackendSession session;
    bool read_only = false;  // sends READONLY: for reads from a replica
    bool is_private = false;
  };

  Backend(Worker* worker, uint32_t index, uint32_t generation);
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  // Begins to connect. The node outlives the backend.
  void Start(NodeBackends* node, const Options& options);

  // True if a request of that many bytes may be queued now.
  bool HasRoom(size_t bytes) const;
  // Takes a request whose `bytes` are set. It is sent with the next Flush once the connection is
  // open.
  void Enqueue(Request* request);
  // The same for a request of the proxy's own.
  void EnqueueOwn(Request* request);
  // … before all others, when the connection has just opened.
  void GiveOwn(Request* request);
  // The quick way of a small request of a client (Client::TakeQuickly): whether one may be given to
  // the connection at once, and that with a copy of its bytes. Client::in_flight, the statistics
  // and Worker::MarkDirty are the caller's.
  bool MayGiveQuickly() const {
    return state_ == State::kOpen && unsent_.empty() && HasRoomToGive();
  }
  void GiveQuickly(Request* request, absl::string_view frame, absl::Time now) {
    memcpy(ReserveQuickly(frame.size()), frame.data(), frame.size());
    GiveReserved(request, frame.size(), now);
  }
  // The same in two steps: room for the bytes, and the request with those that were written there.
  char* ReserveQuickly(size_t bytes) { return arena_.Reserve(bytes); }
  void GiveReserved(Request* request, size_t bytes, absl::Time now) {
    request->state = Request::State::kSent;
    request->backend = this;
    request->handed_over = true;
    Expect(request, bytes, now);
    request->bytes = io::Rope(arena_.Commit(bytes));
    connection_.Send(*request->bytes.only_slice());
  }
  // Copies a small request's bytes, adjacent to the one before.
  io::Slice CopyRequest(const io::Rope& frame);

  // Gives what is queued to the kernel. Called once a turn if dirty.
  void Flush();
  // Takes no new requests; closes when it owes nothing.
  void Retire();
  void Fail(Failure failure, absl::string_view why);

  void OnConnect(const io::Completion& completion);
  void OnRecv(io::Completion* completion);
  void OnSend(const io::Completion& completion);
  void OnControl(const io::Completion& completion);

  // The client of the reply being received does not keep pace with it. New requests find another
  // connection; once nobody else waits behind that reply, it is read at the client's pace.
  void OnSlowReader();
  // Nobody waits behind the reply being received, and nobody will.
  bool AloneWithReply() const {
    return state_ == State::kRetired && pending_.size() == 1 && unsent_.empty();
  }
  void ResumeReplies();
  bool replies_paused() const { return AloneWithReply() && connection_.recv_paused(); }

  // A private connection stays with one client until the lease ends.
  void Lease();
  void EndLease();

  // The request that may wait at the node for whatever it wants; null: none does.
  Request* blocked();
  // The blocked request's slot has another owner. The node may say so, soon.
  void OnOwnerChanged();
  // Asks the node to end what the connection with that id waits for: with an error, or as if its
  // time were up. False: it can't be asked now.
  bool SendUnblock(int64_t client_id, bool error);
  int64_t client_id() const { return client_id_; }
  // The scripts that were sent to the node on this connection (proxy/script_repairs.h).
  GivenScripts* given_scripts();

  // Waits for room; woken (Worker::WakeClient) when the backend is half empty.
  void AddWaiter(uint32_t client_index, uint32_t client_generation);

  State state() const { return state_; }
  bool usable() const { return state_ < State::kRetired && state_ != State::kFree; }
  // What it owed is settled, and the descriptor closed. It is there only for as long as the kernel
  // may still send bytes that it did not copy.
  bool settled() const { return state_ == State::kClosing && connection_.fd() < 0; }
  // Its handshake ends, or has ended, all old connections that the node has by now.
  bool fenced() const;
  const Options& options() const { return options_; }
  NodeBackends* node() const { return node_; }
  uint32_t index() const { return index_; }
  uint32_t generation() const { return generation_; }
  size_t owed() const { return pending_.size() + unsent_.size(); }
  // A command's reply says that this connection is not authenticated: the proxy sees for itself,
  // and if that is true, takes another connection.
  void CheckAuthentication();
  bool dirty = false;  // on the worker's list for this turn

 private:
  // Requests are given to the connection only while less than this waits there: what was not given
  // to it can still be taken back.
  static constexpr size_t kGivenBytesMax = 1 << 20;

  void Become(State next);
  void SendHandshake();
  void AwaitHandshakeReply();
  void OnFenceList(const OldConnection& old, absl::string_view frame);
  void WarnOfFence(absl::string_view what, absl::string_view line);
  void FinishHandshake();
  void TakeReplies(io::Slice data);
  void TakeHandshake(const io::Slice& data);
  bool MayHaveForged(const Request& request) const;
  void AfterReply();
  void WakeWaiters();
  void OnPong(char type);
  void FenceOff();
  void GiveOrQueue(Request* request);
  void Queue(Request* request);
  // Two entries: a request may come with an ASKING.
  bool HasRoomToGive() const {
    return pending_.size() + 2 <= PendingRing::kEntriesMax &&
           connection_.unsent_bytes() < kGivenBytesMax;
  }
  bool MustGoApart(const Request& request) const;
  bool MayGive() const;
  void Give(Request* request);
  void GiveBurst(Request* request);
  bool GiveBack(absl::FunctionRef<bool(const Request&)> which);
  // A reply to so many bytes, which are sent next.
  void Expect(Request* request, size_t bytes, absl::Time now) {
    const uint64_t begin = connection_.sent_bytes() + connection_.unsent_bytes();
    pending_.Push({request, begin + bytes, now}, begin);
  }
  bool IsPartlySent(const PendingRing::Entry& front) const;
  void Settle();
  void SettleUnsent();
  void SettleOne(Request* request, bool handed_over, bool head);
  absl::Duration ReplyTimeout() const;
  void NotePiece(const PendingRing::Entry& front);
  void OnLongReplyEnd(const Request& request);
  absl::Time FrontDeadline();
  void ArmDeadline();
  void SetDeadline(absl::Time deadline);
  void OnTimer();
  static void TimerFired(void* self) { static_cast<Backend*>(self)->OnTimer(); }
  void OnHoldTimer();
  static void HoldTimerFired(void* self) { static_cast<Backend*>(self)->OnHoldTimer(); }

  Worker* const worker_;
  const uint32_t index_;
  const uint32_t generation_;
  State state_ = State::kFree;
  Failure failure_ = Failure::kNone;
  NodeBackends* node_ = nullptr;
  Options options_;
  io::Connection connection_;
  io::Timer timer_;       // connect, handshake, or the front entry's deadline
  io::Timer hold_timer_;  // the first of those by when what is in unsent_ may wait no longer
  io::Arena arena_;       // bytes of small requests
  resp::ReplyScanner scanner_;

  PendingRing pending_;    // given to the connection; replies come in this order
  Fifo<Request*> unsent_;  // not given to it yet
  size_t unsent_bytes_ = 0;
  // A reply that comes in pieces moves on: the time of its last piece, and the end of its request.
  absl::Time piece_at_;
  uint64_t piece_of_ = 0;
  absl::Time turn_at_;  // until then, what is owed now waited for a reply that took its time
  struct Waiter {
    uint32_t index, generation;
  };
  std::vector<Waiter> waiters_;

  std::unique_ptr<NodeHandshake> handshake_;  // while kHandshake
  std::string refusal_;                       // kDatabase: the error for its requests
  std::string handshake_frame_;               // a reply to it in pieces
  uint64_t fences_seen_ = 0;                  // NodeBackends::fences when the handshake was sent
  uint64_t ping_end_ = 0;                     // of the PING of ours that is out; 0: none is
  int64_t client_id_ = 0;                     // ours at the node
  bool may_multi_ = false;                    // the node lets us: it has said so in the handshake
  bool leased_ = false;
  std::unique_ptr<GivenScripts> given_scripts_;  // null: none
  std::string name_;                             // ours at the node
};

}  // namespace proxy
