#pragma once

// File: proxy/tracking.h
//
// Tells a worker's clients which keys have changed that they may have in a cache of their own
// (CLIENT TRACKING). While one of them tracks, the worker has one connection to each primary
// (proxy/subscriber_link.h) on which the node tells of every key that changes there, whoever
// changes it; what each client has read, or which prefixes it wants to hear of, lies here.
//
// A client must not keep a value that has changed:
//  - A key is noted before its read is sent, and a change is told behind the replies that its
//    client is owed when it comes (Client::OnInvalidated): an older value can't come later.
//  - Reads of clients that track go to primaries: a replica might answer with what was there before
//    a change that was told of already.
//  - When such a connection is lost or opens, and when a slot changes its owner, a change may have
//    been missed: all clients are told that everything may have changed, as a server does on
//    FLUSHALL.
//  - While the owner of a slot has no such connection, what is read there is told of as if it had
//    changed as soon as its reply is out.
//
// One worker's thread. A client that redirects may name one of another worker: control passes on
// what that is to be told.

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cluster/slot.h"
#include "cluster/topology.h"
#include "io/ring.h"
#include "io/timers.h"
#include "proxy/messages.h"
#include "proxy/subscriber_links.h"
#include "proxy/tracking_table.h"

namespace proxy {

class Client;
class Worker;

// As it stands behind "invalidate".
std::string ArrayOfKeys(absl::Span<const absl::string_view> keys);

class Tracking final : public SubscriberLink::Observer {
 public:
  explicit Tracking(Worker* worker);
  ~Tracking();
  Tracking(const Tracking&) = delete;
  Tracking& operator=(const Tracking&) = delete;

  // --- for clients (proxy/client_tracking.cc)
  // Every change of a key is told of: tracking may begin.
  bool ready() const { return covers_all_; }
  // Connects. The client is told by OnTrackingReady, or OnTrackingRefused when that takes too long.
  void Await(const Client& client);
  void StopAwaiting(const Client& client);
  // The client tracks from here on. Returns the number of its session.
  uint32_t Begin(Client* client);
  void End(const Client& client);
  void AddPrefix(absl::string_view prefix, const Client& client);
  void RemovePrefix(absl::string_view prefix, const Client& client);
  // Changes of keys in that slot are told of at present.
  bool Covers(cluster::Slot slot) const;
  // The client is told when the key changes. False: it can't be, there is no memory for that.
  bool Note(const Client& client, absl::string_view key);
  // The client that `source` redirects to is told: `value` is what stands behind "invalidate".
  void Redirect(Client* source, std::string value);

  // --- for the worker
  void OnTopology();
  void OnCompletion(io::Completion* completion) { links_.OnCompletion(completion); }
  // The worker's mailbox has something redirected.
  void OnRedirected();
  // Once a turn.
  void Flush() {
    if (work_left()) FlushWork();
  }
  bool work_left() const { return links_.dirty() || table_.has_to_free() || table_.over_limits(); }
  // Ends all connections; nobody tracks any more.
  void Close();
  bool closed() const { return links_.all_idle(); }

 private:
  struct Waiter {
    uint32_t client_index = 0;
    uint32_t client_generation = 0;
    absl::Time deadline;
  };
  using ClientIndexes = absl::btree_set<uint32_t>;

  // --- SubscriberLink::Observer
  void OnLinkOpen(SubscriberLink* link) override;
  void OnLinkLost(SubscriberLink* link) override;
  void OnInvalidated(SubscriberLink* link, absl::Span<const absl::string_view> keys) override;
  void OnAllInvalidated(SubscriberLink* link) override;
  void MarkDirty(SubscriberLink* link) override { links_.MarkDirty(link); }

  bool used() const { return sessions_ > 0 || !waiters_.empty(); }
  void SettleLinks();
  void UpdateCoverage();
  void OnUnusedIfSo();
  void Tell(absl::string_view key, const TrackingTable::Readers& readers);
  void TellPrefixes(absl::Span<const absl::string_view> keys);
  void InvalidateAll();
  void ShrinkTable();
  void ChargeTable();
  void GiveRedirected(const RedirectedInvalidation& redirected);
  Client* FindById(uint64_t id);
  void SetWaiterTimer();
  void OnWaiterTimer();
  void FlushWork();
  static void WaiterTimerFired(void* self) { static_cast<Tracking*>(self)->OnWaiterTimer(); }

  Worker* const worker_;
  TrackingTable table_;
  size_t table_charged_ = 0;      // what the worker counts for it
  std::vector<Client*> clients_;  // those that track, by their index; null: that one does not
  size_t sessions_ = 0;           // how many they are
  uint32_t last_session_ = 0;
  absl::btree_map<std::string, ClientIndexes> prefixes_;
  std::deque<Waiter> waiters_;  // in the order of their deadlines
  io::Timer waiter_timer_;

  SubscriberLinks links_;
  bool covers_all_ = false;
  std::shared_ptr<const cluster::Topology> topology_;  // the last one that was looked at
  // Where the clients are whose ids somebody asked for. 0 as generation: it is gone.
  struct Place {
    uint32_t index = 0;
    uint32_t generation = 0;
    bool there = false;
  };
  absl::flat_hash_map<uint64_t, Place> places_;
  bool closed_ = false;
};

}  // namespace proxy
