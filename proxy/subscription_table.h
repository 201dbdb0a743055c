#pragma once

// File: proxy/subscription_table.h
//
// How often each channel and pattern is subscribed to, over all workers: by clients, and by the
// workers' own connections at each node. PUBLISH and PUBSUB need it: a node counts a worker's
// connection once, whatever stands behind it.
//
// Shared by all workers under one mutex, for the moment of a look-up: messages between the workers
// would keep a copy of all names in each of them, and a PUBLISH right after a SUBSCRIBE on another
// worker would see an old one. It is touched where subscriptions come and go and where PUBLISH is
// answered; while there are none, PUBLISH looks at two atomic numbers only.
//
// A worker's subscription that ends while a question is on its way may still be in the node's
// reply: the table remembers what ended of late, and a look-up says when its question was asked.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace proxy {

// What can be subscribed to.
enum class TopicKind : uint8_t { kChannel, kPattern, kShardChannel };
constexpr size_t kTopicKinds = 3;

class SubscriptionTable {
 public:
  SubscriptionTable() = default;
  SubscriptionTable(const SubscriptionTable&) = delete;
  SubscriptionTable& operator=(const SubscriptionTable&) = delete;

  // One more or less (±1) of the clients, or of the workers' connections at that node.
  void AddClient(TopicKind kind, absl::string_view name, int delta);
  void AddPlace(TopicKind kind, absl::string_view name, absl::string_view node_id, int delta);

  // The moment at which a question to the nodes is asked: how many places had ended before it.
  uint64_t moment() const { return ended_places_.load(std::memory_order_relaxed); }

  // Who gets a message.
  struct Receivers {
    uint64_t clients = 0;      // of this proxy
    uint64_t connections = 0;  // of its workers, which that node counts
  };
  // Of a message to the channel (kChannel: and to the patterns that match it) at that node. Here
  // and below: places at the node now, or at any time since that moment.
  Receivers Of(TopicKind kind, absl::string_view channel, absl::string_view node_id,
               uint64_t since) const;

  struct Entry {
    std::string name;
    uint64_t clients = 0;
  };
  // Those that match the pattern, or all, in the order of their names.
  std::vector<Entry> List(TopicKind kind, absl::optional<absl::string_view> pattern) const;
  Entry Find(TopicKind kind, absl::string_view name) const;
  // How many names some worker is subscribed to at that node.
  uint64_t NamesAt(TopicKind kind, absl::string_view node_id, uint64_t since) const;
  // How many workers are subscribed to it at that node.
  uint64_t PlacesAt(TopicKind kind, absl::string_view name, absl::string_view node_id,
                    uint64_t since) const;

 private:
  struct Counts {
    uint64_t clients = 0;
    absl::btree_map<std::string, uint64_t> places;  // by node id
    bool empty() const { return clients == 0 && places.empty(); }
  };
  using Names = absl::btree_map<std::string, Counts>;
  struct EndedPlace {
    TopicKind kind;
    std::string name;
    std::string node_id;
  };
  // Of more at a time, which end as their connection does, the node hears as soon as we do.
  static constexpr size_t kEndedPlacesMax = 1024;

  template <typename Change>
  void Update(TopicKind kind, absl::string_view name, Change change);
  // Calls found(place) for what ended at that node since then. Under the mutex.
  template <typename Found>
  void ForEachEnded(TopicKind kind, absl::string_view node_id, uint64_t since, Found found) const;
  static void AddTo(const Counts& counts, absl::string_view node_id, Receivers* receivers);

  std::atomic<size_t> size_{0};            // of all names
  std::atomic<uint64_t> ended_places_{0};  // so far
  mutable std::mutex mutex_;
  std::array<Names, kTopicKinds> names_;
  std::deque<EndedPlace> ended_;  // the last ones
};

}  // namespace proxy
