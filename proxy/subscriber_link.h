#pragma once

// File: proxy/subscriber_link.h
//
// One worker's connection to one node for what the node tells by itself: the messages of its
// subscriptions, or the keys that change there. Speaks RESP3, so that messages are told from
// replies by their type. Connects again by itself while it is wanted; its owner is told when it is
// open and when it is lost, and asks anew. A node that says nothing is asked by PING, and given up
// when it stays silent for the reply deadline.
//
//   kIdle ─Want, may connect▶ kConnecting ─connected▶ kHandshake ─all replies matched▶ kOpen
//   any but kIdle ─error, Stop▶ kClosing ─last completion▶ kIdle (again, if it is wanted)

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "io/buffer_pool.h"
#include "io/connection.h"
#include "io/timers.h"
#include "proxy/node_handshake.h"
#include "proxy/subscription_table.h"
#include "resp/scanner.h"

namespace proxy {

struct NodeBackends;
class Worker;

class SubscriberLink {
 public:
  enum class State : uint8_t { kIdle, kConnecting, kHandshake, kOpen, kClosing };
  // kInvalidations: the node is asked to tell of all keys that change before the link is open.
  enum class Purpose : uint8_t { kSubscriptions, kInvalidations };

  // What the owner is told. None may destroy the link.
  class Observer {
   public:
    virtual void OnLinkOpen(SubscriberLink* link) = 0;
    // It was open; nothing that was asked is confirmed any more.
    virtual void OnLinkLost(SubscriberLink* link) = 0;
    // The node has done what Subscribe or Unsubscribe with that number asked for.
    virtual void OnConfirmed(SubscriberLink*, TopicKind, absl::string_view /*name*/,
                             uint64_t /*number*/, bool /*subscribed*/) {}
    // It refused; `line` is the error without '-' and CRLF.
    virtual void OnRefused(SubscriberLink*, TopicKind, absl::string_view /*name*/,
                           uint64_t /*number*/, bool /*subscribing*/, absl::string_view /*line*/) {}
    // The node has ended the subscription by itself.
    virtual void OnDropped(SubscriberLink*, TopicKind, absl::string_view /*name*/) {}
    // A message for the channel. `name` is what was subscribed to; `frame` is the whole push.
    virtual void OnPublished(SubscriberLink*, TopicKind, absl::string_view /*name*/,
                             absl::string_view /*channel*/, const io::Rope& /*frame*/) {}
    // These keys have changed; or: all may have.
    virtual void OnInvalidated(SubscriberLink*, absl::Span<const absl::string_view> /*keys*/) {}
    virtual void OnAllInvalidated(SubscriberLink*) {}
    virtual void MarkDirty(SubscriberLink* link) = 0;

   protected:
    ~Observer() = default;
  };

  // All outlive it. `index` names it in completions (of Party::kSubscriber or kTracking).
  SubscriberLink(Worker* worker, Observer* observer, Purpose purpose, uint32_t index,
                 uint32_t generation, std::string node_id);
  ~SubscriberLink();
  SubscriberLink(const SubscriberLink&) = delete;
  SubscriberLink& operator=(const SubscriberLink&) = delete;

  // Connects, and keeps connected, until Stop.
  void Want();
  void Stop();
  // Nothing is subscribed to here: it stops soon, unless it is wanted again.
  void OnUnused();
  // Where the node is may have changed.
  void OnTopology();

  // Asks the node. Only while open. Returns the number that the confirmation comes with.
  uint64_t Subscribe(TopicKind kind, absl::string_view name);
  uint64_t Unsubscribe(TopicKind kind, absl::string_view name);
  // Gives what was asked to the kernel. Called once a turn if dirty.
  void Flush();

  void OnCompletion(io::Completion* completion);

  bool open() const { return state_ == State::kOpen; }
  bool idle() const { return state_ == State::kIdle; }
  bool wanted() const { return wanted_; }
  const std::string& node_id() const { return node_id_; }
  uint32_t index() const { return index_; }
  uint32_t generation() const { return generation_; }
  bool dirty = false;  // on the owner's list for this turn

 private:
  enum class Op : uint8_t { kSubscribe, kUnsubscribe, kPing };
  struct Expected {
    Op op;
    TopicKind kind;
    std::string name;
    uint64_t number;
    absl::Time sent_at;
  };

  void Become(State next);
  void Connect();
  void OnConnect(const io::Completion& completion);
  void OnRecv(io::Completion* completion);
  void SendHandshake();
  void OnHandshakeFrame(absl::string_view frame);
  void TakeData(const io::Slice& data);
  void KeepPartial(io::Slice piece);
  void ClearPartial();
  void OnFrame(const io::Rope& frame);
  void OnPush(const io::Rope& frame);
  void OnInvalidation(absl::string_view frame);
  void OnErrorReply(const io::Rope& frame);
  uint64_t Ask(Op op, TopicKind kind, absl::string_view name);
  void Ping();
  absl::Duration PingInterval() const;
  void ArmTimer();
  void OnTimer();
  static void TimerFired(void* self) { static_cast<SubscriberLink*>(self)->OnTimer(); }
  enum class Failure : uint8_t { kConnect, kHandshake, kLost, kSilent, kProtocol };
  void Fail(Failure failure, absl::string_view why);
  void BeginClose();
  void EndIfClosed();

  Worker* const worker_;
  Observer* const observer_;
  const Purpose purpose_;
  const uint32_t index_;
  const std::string node_id_;
  State state_ = State::kIdle;
  bool wanted_ = false;
  uint32_t generation_;
  NodeBackends* node_ = nullptr;  // while not kIdle
  io::Endpoint endpoint_;         // where it was connected to
  io::Connection connection_;
  io::Timer timer_;  // connect, handshake, silence; kIdle: the next attempt
  io::Arena arena_;
  resp::ReplyScanner scanner_;
  io::Rope partial_;                          // of a frame that is not complete
  size_t partial_charged_ = 0;                // what the worker counts for it
  std::unique_ptr<NodeHandshake> handshake_;  // while kHandshake
  std::deque<Expected> expected_;             // replies still awaited
  uint64_t last_number_ = 0;
  absl::Time heard_at_;
  absl::Time unused_since_ = absl::InfiniteFuture();
};

}  // namespace proxy
