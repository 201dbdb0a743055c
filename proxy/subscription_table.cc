#include "proxy/subscription_table.h"

#include <algorithm>
#include <set>

#include "absl/base/macros.h"
#include "proxy/glob.h"

namespace proxy {

template <typename Change>
void SubscriptionTable::Update(TopicKind kind, absl::string_view name, Change change) {
  std::lock_guard<std::mutex> lock(mutex_);
  Names& names = names_[static_cast<size_t>(kind)];
  const auto [it, is_new] = names.try_emplace(std::string(name));
  change(&it->second);
  const bool gone = it->second.empty();
  if (gone) names.erase(it);
  if (is_new && !gone) {
    size_.fetch_add(1, std::memory_order_relaxed);
  } else if (!is_new && gone) {
    size_.fetch_sub(1, std::memory_order_relaxed);
  }
}

void SubscriptionTable::AddClient(TopicKind kind, absl::string_view name, int delta) {
  Update(kind, name, [delta](Counts* counts) {
    ABSL_ASSERT(delta > 0 || counts->clients > 0);
    counts->clients += static_cast<uint64_t>(static_cast<int64_t>(delta));
  });
}

void SubscriptionTable::AddPlace(TopicKind kind, absl::string_view name, absl::string_view node_id,
                                 int delta) {
  Update(kind, name, [&](Counts* counts) {
    const auto it = counts->places.try_emplace(std::string(node_id), 0).first;
    ABSL_ASSERT(delta > 0 || it->second > 0);
    it->second += static_cast<uint64_t>(static_cast<int64_t>(delta));
    if (it->second == 0) counts->places.erase(it);
    if (delta > 0) return;
    if (ended_.size() == kEndedPlacesMax) ended_.pop_front();
    ended_.push_back({kind, std::string(name), std::string(node_id)});
    ended_places_.fetch_add(1, std::memory_order_relaxed);
  });
}

template <typename Found>
void SubscriptionTable::ForEachEnded(TopicKind kind, absl::string_view node_id, uint64_t since,
                                     Found found) const {
  const uint64_t count = std::min<uint64_t>(moment() - since, ended_.size());
  for (uint64_t i = 1; i <= count; ++i) {
    const EndedPlace& place = ended_[ended_.size() - i];
    if (place.kind == kind && place.node_id == node_id) found(place);
  }
}

void SubscriptionTable::AddTo(const Counts& counts, absl::string_view node_id,
                              Receivers* receivers) {
  receivers->clients += counts.clients;
  const auto at = counts.places.find(node_id);
  if (at != counts.places.end()) receivers->connections += at->second;
}

SubscriptionTable::Receivers SubscriptionTable::Of(TopicKind kind, absl::string_view channel,
                                                   absl::string_view node_id,
                                                   uint64_t since) const {
  Receivers receivers;
  if (size_.load(std::memory_order_relaxed) == 0 && moment() == since) return receivers;
  std::lock_guard<std::mutex> lock(mutex_);
  ForEachEnded(kind, node_id, since, [&](const EndedPlace& place) {
    if (place.name == channel) ++receivers.connections;
  });
  const Names& names = names_[static_cast<size_t>(kind)];
  const auto it = names.find(channel);
  if (it != names.end()) AddTo(it->second, node_id, &receivers);
  if (kind != TopicKind::kChannel) return receivers;
  for (const auto& [pattern, counts] : names_[static_cast<size_t>(TopicKind::kPattern)]) {
    if (GlobMatches(pattern, channel, GlobCase::kSensitive)) AddTo(counts, node_id, &receivers);
  }
  ForEachEnded(TopicKind::kPattern, node_id, since, [&](const EndedPlace& place) {
    if (GlobMatches(place.name, channel, GlobCase::kSensitive)) ++receivers.connections;
  });
  return receivers;
}

std::vector<SubscriptionTable::Entry> SubscriptionTable::List(
    TopicKind kind, absl::optional<absl::string_view> pattern) const {
  std::vector<Entry> entries;
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [name, counts] : names_[static_cast<size_t>(kind)]) {
    if (pattern.has_value() && !GlobMatches(*pattern, name, GlobCase::kSensitive)) continue;
    entries.push_back({name, counts.clients});
  }
  return entries;
}

SubscriptionTable::Entry SubscriptionTable::Find(TopicKind kind, absl::string_view name) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const Names& names = names_[static_cast<size_t>(kind)];
  const auto it = names.find(name);
  return {std::string(name), it == names.end() ? 0 : it->second.clients};
}

uint64_t SubscriptionTable::PlacesAt(TopicKind kind, absl::string_view name,
                                     absl::string_view node_id, uint64_t since) const {
  uint64_t count = 0;
  std::lock_guard<std::mutex> lock(mutex_);
  ForEachEnded(kind, node_id, since, [&](const EndedPlace& place) {
    if (place.name == name) ++count;
  });
  const Names& names = names_[static_cast<size_t>(kind)];
  const auto it = names.find(name);
  if (it == names.end()) return count;
  const auto at = it->second.places.find(node_id);
  return at == it->second.places.end() ? count : count + at->second;
}

uint64_t SubscriptionTable::NamesAt(TopicKind kind, absl::string_view node_id,
                                    uint64_t since) const {
  std::set<absl::string_view> found;
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [name, counts] : names_[static_cast<size_t>(kind)]) {
    if (counts.places.contains(node_id)) found.insert(name);
  }
  ForEachEnded(kind, node_id, since, [&](const EndedPlace& place) { found.insert(place.name); });
  return found.size();
}

}  // namespace proxy
