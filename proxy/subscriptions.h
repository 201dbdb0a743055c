#pragma once

// File: proxy/subscriptions.h
//
// What one worker's clients are subscribed to, and where. A channel has one home: the owner of its
// slot, hashed as a key is; a pattern likewise. Whatever the number of its subscribers, a worker
// has one subscription for it there (proxy/subscriber_link.h), and copies a message once. What can
// match the events of keys, which each node tells its own subscribers only, is subscribed to at all
// primaries; of the other messages, which the nodes pass on to each other, those from one of them
// count.
//
// When a home changes, the subscription is made at the new one before the old one is ended. What
// the new one sends meanwhile is held until the old one has sent its last, so that the order stays,
// and then given on without what the old one has given already. Messages take a while from node to
// node: for as long, what is given on is noted before the new one is asked, the old one is kept
// after the new one has confirmed, and what the new one sends is compared after the old one is
// left.
//
// One worker's thread; the counts of all workers lie in SubscriptionTable.

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "cluster/slot.h"
#include "io/buffer_pool.h"
#include "io/ring.h"
#include "io/timers.h"
#include "proxy/subscriber_links.h"
#include "proxy/subscription_table.h"

namespace proxy {

class Client;
class Worker;

// One channel or pattern. Owned by Subscriptions.
struct Topic {
  // Its subscription at one node.
  struct Place {
    enum class State : uint8_t { kUnsent, kAsked, kConfirmed, kLeaving };
    SubscriberLink* link = nullptr;
    State state = State::kUnsent;
    uint64_t number = 0;   // of the last command for it
    bool counted = false;  // in SubscriptionTable: the node has it
  };
  // From one home to the next.
  struct Move {
    struct Held {
      absl::Time at;
      io::Rope frame;
    };
    SubscriberLink* to = nullptr;
    // When the new home is asked.
    absl::Time ask_at;
    // When the old home is left: a while after the new one has confirmed.
    absl::Time leave_at = absl::InfiniteFuture();
    std::vector<Held> held;  // what the new one has sent
    size_t held_bytes = 0;
  };
  // What was given on while the home changed. Two nodes send the same message at about the same
  // time; the same text at another time is another message.
  class Given {
   public:
    void Note(const SubscriberLink* by, absl::Time at, const io::Rope& frame);
    // Another node's has been given on; that stands for this one only.
    bool Take(const SubscriberLink* by, absl::Time at, const io::Rope& frame);
    // No message that was noted comes from a node any more.
    absl::Time until = absl::InfiniteFuture();

   private:
    struct Entry {
      absl::Time at;
      const SubscriberLink* by;
    };
    absl::btree_multimap<uint64_t, Entry> entries_;  // by hash
  };
  struct Waiter {
    uint32_t client_index = 0;
    uint32_t client_generation = 0;
    uint64_t command = 0;  // Subscriber's own number for it
  };

  uint64_t id = 0;  // the same order in each run
  TopicKind kind = TopicKind::kChannel;
  std::string name;
  cluster::Slot slot = 0;
  bool everywhere = false;  // may match the events of keys

  std::vector<Client*> subscribers;
  std::vector<Waiter> waiters;
  std::vector<Place> places;
  SubscriberLink* home = nullptr;  // whose messages count; null: it is being looked for
  bool ready = false;              // confirmed where it has to be
  std::unique_ptr<Move> move;
  std::unique_ptr<Given> given;  // null: no home has changed lately
  std::string moved_to;  // a node that a MOVED named: the home until there is another topology
  absl::Time retry_at = absl::InfinitePast();  // not asked again before
  absl::Duration backoff = absl::ZeroDuration();
  absl::Time unused_since = absl::InfiniteFuture();
  bool attended = false;  // on the list of those that are looked at again, …
  absl::Time attend_at;   // … then

  bool used() const { return !subscribers.empty() || !waiters.empty(); }
};

class Subscriptions final : public SubscriberLink::Observer {
 public:
  // Both outlive it.
  Subscriptions(Worker* worker, SubscriptionTable* table);
  ~Subscriptions();
  Subscriptions(const Subscriptions&) = delete;
  Subscriptions& operator=(const Subscriptions&) = delete;

  // --- for clients (proxy/subscriber.h)
  // The topic; new ones begin to be subscribed to. Stays only while somebody uses it: Await or Add
  // in the same turn.
  Topic* Find(TopicKind kind, absl::string_view name);
  // Tells the client (Client::OnTopicReady, OnTopicRefused) when it is confirmed.
  void Await(Topic* topic, const Client& client, uint64_t command);
  void StopAwaiting(TopicKind kind, absl::string_view name, const Client& client);
  // Its messages go to the client from here on. Returns its place, for Remove.
  size_t Add(Topic* topic, Client* client);
  // The last one takes the place: its client is told by OnTopicPlace.
  void Remove(Topic* topic, size_t place);
  // Why a topic is not confirmed, as an error line.
  std::string WhyNot(TopicKind kind, absl::string_view name);
  SubscriptionTable* table() { return table_; }

  // --- for the worker
  void OnTopology();
  void OnCompletion(io::Completion* completion) { links_.OnCompletion(completion); }
  // Once a turn.
  void Flush() {
    if (links_.dirty()) links_.Flush();
  }
  bool work_left() const { return links_.dirty(); }
  // Ends all connections; nobody is subscribed any more.
  void Close();
  bool closed() const { return links_.all_idle(); }

  size_t topics(TopicKind kind) const { return topics_[static_cast<size_t>(kind)].size(); }

 private:
  using Topics = absl::btree_map<std::string, std::unique_ptr<Topic>>;
  using TopicsById = absl::btree_map<uint64_t, Topic*>;

  // --- SubscriberLink::Observer
  void OnLinkOpen(SubscriberLink* link) override;
  void OnLinkLost(SubscriberLink* link) override;
  void OnConfirmed(SubscriberLink* link, TopicKind kind, absl::string_view name, uint64_t number,
                   bool subscribed) override;
  void OnRefused(SubscriberLink* link, TopicKind kind, absl::string_view name, uint64_t number,
                 bool subscribing, absl::string_view line) override;
  void OnDropped(SubscriberLink* link, TopicKind kind, absl::string_view name) override;
  void OnPublished(SubscriberLink* link, TopicKind kind, absl::string_view name,
                   absl::string_view channel, const io::Rope& frame) override;
  void MarkDirty(SubscriberLink* link) override { links_.MarkDirty(link); }

  Topic* FindExisting(TopicKind kind, absl::string_view name);
  SubscriberLink* LinkTo(absl::string_view node_id);
  // That have a place there.
  TopicsById& TopicsAt(const SubscriberLink* link) { return topics_at_[link->index()]; }
  // The ids of the nodes that it should be subscribed to at, its home first.
  std::vector<std::string> WantedNodes(const Topic& topic) const;
  void Settle(Topic* topic);
  void SettleUsed(Topic* topic);
  void LeaveUnwanted(Topic* topic, const std::vector<std::string>& wanted);
  void AskPlace(Topic* topic, Topic::Place* place);
  void Leave(Topic* topic, Topic::Place* place);
  void DropPlaces(Topic* topic);
  void SetCounted(Topic* topic, Topic::Place* place, bool counted);
  void BeginMove(Topic* topic, SubscriberLink* to);
  void MoveOn(Topic* topic);
  void EndMove(Topic* topic);
  void GiveOn(Topic* topic, const SubscriberLink* by, absl::Time at, const io::Rope& frame);
  void BecomeReady(Topic* topic);
  void RetryLater(Topic* topic);
  void Attend(Topic* topic, absl::Time when);
  void AttendDue();
  void DeleteIfGone(Topic* topic);
  void Deliver(const Topic& topic, const io::Rope& frame);
  io::Rope CopyForMany(const io::Rope& frame, char type, io::Arena* arena);
  void ReleaseArenas();
  static void AttendTimerFired(void* self) { static_cast<Subscriptions*>(self)->AttendDue(); }

  Worker* const worker_;
  SubscriptionTable* const table_;
  std::array<Topics, kTopicKinds> topics_;
  SubscriberLinks links_;
  std::deque<TopicsById> topics_at_;  // by the link's index
  std::vector<Topic*> attended_;
  absl::Time attended_at_ = absl::InfinitePast();  // the last time
  io::Timer attend_timer_;
  io::Arena push_arena_;   // copies of messages, as RESP3 clients get them
  io::Arena array_arena_;  // as RESP2 clients do
  uint64_t last_id_ = 0;
  bool closed_ = false;
};

// Whether some text that begins with `prefix` matches the pattern.
bool PatternMayMatchPrefix(absl::string_view pattern, absl::string_view prefix);

}  // namespace proxy
