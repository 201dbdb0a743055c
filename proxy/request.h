#pragma once

// File: proxy/request.h
//
// One request in flight: its bytes, where it is, and its reply. Made by a client when a frame is
// complete; on a backend while its reply is owed; back in the client's queue until all earlier
// replies are out. One worker's thread.
//
//   kNew ─┬─▶ kQueued ─▶ kSent ─┬─▶ kReady
//         └─▶ kWaiting ◀────────┘   (redirected, or its backend was lost before it was handed over)
//   kWaiting ─▶ kQueued, kReady (its time is up)      kQueued ─▶ kWaiting

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/attributes.h"
#include "absl/base/macros.h"
#include "absl/base/optimization.h"
#include "absl/time/time.h"
#include "cluster/command_table.h"
#include "cluster/slot.h"
#include "cluster/split.h"
#include "io/slice.h"
#include "proxy/blocking.h"
#include "proxy/procedure.h"
#include "proxy/transaction.h"
#include "resp/encoder.h"

namespace proxy {

class Backend;
class Client;
struct Request;
struct ScriptRepair;

// Less than this is copied: that costs less than another part of a send (measured), and the receive
// buffer is free at once. More is sent from where it lies.
constexpr size_t kCopyBytes = 1 << 10;
// Replies beyond this are received call by call, and streamed to a client that waits for them.
constexpr uint64_t kLargeReplyBytes = 64 << 10;

// How much waits for one node to which there is no connection.
struct WaitingCount {
  uint32_t requests = 0;
  uint64_t bytes = 0;
};

// A request's place among those that wait for a node (L13).
class WaitingPlace {
 public:
  static constexpr uint32_t kRequestsMax = 10000;
  static constexpr uint64_t kBytesMax = 64 << 20;

  WaitingPlace() = default;
  ~WaitingPlace() { Leave(); }
  WaitingPlace(const WaitingPlace&) = delete;
  WaitingPlace& operator=(const WaitingPlace&) = delete;

  // Takes one in `count`, for a place in another one if there was that. False: no room. However
  // large it is, one has room.
  bool Take(const std::shared_ptr<WaitingCount>& count, uint64_t bytes) {
    if (count_ == count) return true;
    Leave();
    if (count->requests >= kRequestsMax) return false;
    if (count->requests > 0 && count->bytes + bytes > kBytesMax) return false;
    count_ = count;
    bytes_ = bytes;
    ++count_->requests;
    count_->bytes += bytes_;
    return true;
  }
  void Leave() {
    if (count_ == nullptr) return;
    --count_->requests;
    count_->bytes -= bytes_;
    count_.reset();
  }

 private:
  std::shared_ptr<WaitingCount> count_;  // null: has none
  uint64_t bytes_ = 0;
};

// Why a request waits, and until when. Only for those that do: the rare path.
struct Hold {
  absl::Time deadline = absl::InfiniteFuture();  // then it is answered with `error`
  absl::Time not_before = absl::InfinitePast();  // backoff
  // Waits for its slot's node, as this topology (Worker::topology_number) has it: another one ends
  // `not_before`. 0: waits for something else.
  uint64_t for_topology = 0;
  absl::Duration backoff = absl::ZeroDuration();  // the last one
  uint64_t refresh_ask = 0;    // waits until the worker's asks up to this number are answered
  bool refused = false;        // a node refused it (redirection, TRYAGAIN, …): see the slot gate
  bool ask = false;            // go to `target_id` with ASKING
  absl::Time ask_at;           // when it was told so
  uint64_t redirected_in = 0;  // the topology (Worker::topology_number) of that time
  bool redirected = false;     // go to `target_id`, whatever the topology says
  std::string target_id;       // node id, if known
  std::string target_host;     // where the redirection pointed, if the node is not known yet
  uint16_t target_port = 0;
  std::string refused_by;  // id of the node that refused it
  // A script's redirection is followed only when the cluster's own view confirms it.
  bool confirm = false;
  bool confirm_moving = false;  // TRYAGAIN: the slot must be moving
  // Waits until its node has the script; null: for something else.
  std::shared_ptr<const ScriptRepair> repair;
  uint8_t repairs = 0;  // so far
  std::string error;    // line for the client when the time is up, without '-' and CRLF
  WaitingPlace place;   // until it is handed over

  // An ASK is good for now: later the slot may have moved on, and its target may be importing it
  // once more, without the key. The slot's owner is asked again then.
  bool AskIsStale(absl::Time now) const { return ask && ask_at + absl::Milliseconds(100) < now; }

  // L10: waiting and trying again.
  static constexpr absl::Duration kBackoffMin = absl::Milliseconds(10);
  static constexpr absl::Duration kBackoffMax = absl::Milliseconds(160);
  absl::Duration NextBackoff() {
    return backoff = std::clamp(backoff * 2, kBackoffMin, kBackoffMax);
  }
};

// The fragments of a split request, or the requests of a procedure's step.
struct Fragments {
  cluster::SplitPlan plan;
  std::vector<Request*> requests;  // one a fragment; owned while the parent is
  uint32_t unanswered = 0;
  bool keys_with_values = false;
  std::unique_ptr<Procedure> procedure;  // null: a split request
  size_t procedure_bytes = 0;            // what it keeps, as its client is charged for it
  uint64_t asked = 0;                    // PUBLISH, PUBSUB: SubscriptionTable::moment() of then
};

// What a request needs its connection to a node to be.
struct BackendSession {
  resp::Protocol protocol = resp::Protocol::kResp2;
  uint32_t database = 0;
  bool operator==(const BackendSession& other) const {
    return protocol == other.protocol && database == other.database;
  }
};

// What every request has: two cache lines. Thousands of requests are in flight at a time, more than
// the nearest caches hold: see Prefetch.
struct RequestCore {
  enum class State : uint8_t { kNew, kWaiting, kQueued, kSent, kReady };

  State state = State::kNew;
  uint8_t redirections = 0;         // followed so far
  bool read = false;                // may be served by a replica
  bool force_primary = false;       // a replica could not serve it
  bool read_retried = false;        // the one repetition of a read is used up
  bool read_only_retried = false;   // so is the one after READONLY
  bool handed_over = false;         // some byte of it may have reached a node
  bool asking = false;              // goes with ASKING before it
  bool streaming = false;           // part of its reply has left for the client
  bool has_partial_reply = false;   // see Request
  bool sampled = false;             // gets an access line
  bool private_connection = false;  // too large for a shared connection
  bool barrier = false;   // has no slot of its own: waits for all earlier ones of its client
  bool is_burst = false;  // MULTI … EXEC: see Request::transaction
  bool watched = false;   // goes on the connection of its client's watch: see Request::transaction
  bool is_blocking = false;                          // may wait at its node: see Request::block
  resp::Protocol protocol = resp::Protocol::kResp2;  // of its client when it was made
  bool is_script_repair = false;                     // the proxy's own: has no client
  cluster::Slot slot = 0;
  uint32_t fragment = 0;  // its number in `parent`
  const cluster::CommandSpec* command = nullptr;
  Client* client = nullptr;    // null: the client has gone, the reply is dropped
  Backend* backend = nullptr;  // kQueued, kSent
  Request* next = nullptr;     // in its client's queue
  std::unique_ptr<Hold> hold;

  // What is sent, kept until the reply is whole. kReady: what of the reply has not left.
  io::Rope bytes;
  size_t charged = 0;         // bytes of the request that its client is charged for
  uint64_t reply_bytes = 0;   // of the whole reply so far
  Request* parent = nullptr;  // of a fragment
  std::unique_ptr<Fragments> fragments;

  bool is_fragment() const { return parent != nullptr; }
  bool answered() const { return state == State::kReady; }
  // On a connection.
  bool is_out() const { return state == State::kQueued || state == State::kSent; }
  // A script's redirection that the cluster's view has not confirmed: it may have run and forged
  // it.
  bool is_unconfirmed() const {
    return state == State::kWaiting && hold != nullptr && (hold->confirm || hold->confirm_moving);
  }
};

struct alignas(64) Request : RequestCore {
  // What few requests need: that line stays untouched by the others.
  io::Rope partial_reply;  // if has_partial_reply: what of an incomplete reply has not left
  absl::Time arrived;      // if sampled
  std::unique_ptr<TransactionPart> transaction;  // if is_burst or watched
  std::unique_ptr<Block> block;                  // if is_blocking

  // Has nothing but its bytes that is to be freed.
  bool IsPlain() const {
    return hold == nullptr && fragments == nullptr && !has_partial_reply && !is_burst && !watched &&
           !is_blocking;
  }
  // As new. Out of line: most are plain.
  ABSL_ATTRIBUTE_NOINLINE void Reset() {
    DropPartialReply();
    if (is_burst || watched) transaction.reset();
    if (is_blocking) block.reset();
    this->RequestCore::~RequestCore();
    new (static_cast<RequestCore*>(this)) RequestCore;
  }
  // The same for one that IsPlain.
  void ResetPlain() {
    ABSL_ASSERT(IsPlain());
    bytes.Clear();
    new (static_cast<RequestCore*>(this)) RequestCore;
  }
  // What it asks on behalf of a procedure; null: it is none of its requests.
  Ask* ask() const {
    if (parent == nullptr || parent->fragments->procedure == nullptr) return nullptr;
    return &parent->fragments->procedure->asks[fragment];
  }
  void DropPartialReply() {
    if (!has_partial_reply) return;
    has_partial_reply = false;
    partial_reply.Clear();
  }

  // Asks the processor for the memory of a request that is looked at soon: of one that comes so
  // many later in a list.
  static constexpr size_t kAhead = 4;
  static void Prefetch(const Request* request) {
    if (request == nullptr) return;
    const char* line = reinterpret_cast<const char*>(request);
    __builtin_prefetch(line, 1);
    __builtin_prefetch(line + 64, 1);
  }
};
static_assert(sizeof(RequestCore) == 128);

// Recycles requests: none is allocated in the common case.
class RequestPool {
 public:
  RequestPool() = default;
  ~RequestPool() {
    for (Request* request : free_) delete request;
  }
  RequestPool(const RequestPool&) = delete;
  RequestPool& operator=(const RequestPool&) = delete;

  Request* Take() {
    ++in_use_;
    if (free_.empty()) return New();
    Request* request = free_.back();
    free_.pop_back();
    if (!free_.empty()) Request::Prefetch(free_.back());
    return request;
  }
  void Give(Request* request) {
    if (ABSL_PREDICT_FALSE(!request->IsPlain())) request->Reset();
    GivePlain(request);
  }
  // One that IsPlain.
  void GivePlain(Request* request) {
    --in_use_;
    if (ABSL_PREDICT_FALSE(free_.size() >= kIdleMax)) return Delete(request);
    request->ResetPlain();
    free_.push_back(request);
  }
  size_t in_use() const { return in_use_; }

  std::unique_ptr<Fragments> TakeFragments() {
    if (free_fragments_.empty()) return std::make_unique<Fragments>();
    std::unique_ptr<Fragments> fragments = std::move(free_fragments_.back());
    free_fragments_.pop_back();
    return fragments;
  }
  void GiveFragments(std::unique_ptr<Fragments> fragments) {
    if (free_fragments_.size() >= kIdleFragmentsMax) return;
    if (fragments->plan.keys.capacity() > kIdleKeysMax) return;
    fragments->plan.Clear();
    fragments->requests.clear();
    fragments->unanswered = 0;
    fragments->procedure.reset();
    fragments->procedure_bytes = 0;
    free_fragments_.push_back(std::move(fragments));
  }

 private:
  // Out of line: neither is common.
  ABSL_ATTRIBUTE_NOINLINE static Request* New() { return new Request; }
  ABSL_ATTRIBUTE_NOINLINE static void Delete(Request* request) { delete request; }

  static constexpr size_t kIdleMax = 16384;
  static constexpr size_t kIdleFragmentsMax = 256;
  static constexpr size_t kIdleKeysMax = 1024;  // of one
  std::vector<Request*> free_;
  std::vector<std::unique_ptr<Fragments>> free_fragments_;
  size_t in_use_ = 0;
};

}  // namespace proxy
