#include "proxy/tracking_table.h"

#include <algorithm>
#include <utility>

#include "absl/base/macros.h"
#include "absl/hash/hash.h"

namespace proxy {
namespace {

// What a key takes beside its own bytes: the entry and its place among the hashes (about).
constexpr size_t kEntryBytes = 160;
constexpr size_t kFreedAtOnce = 1000;

}  // namespace

TrackingTable::~TrackingTable() {
  Clear();
  while (has_to_free()) FreeSome();
}

size_t TrackingTable::BytesOf(const Entry& entry) {
  const size_t readers = entry.readers.capacity() > 2 ? entry.readers.capacity() : 0;
  return kEntryBytes + entry.key.capacity() + readers * sizeof(Reader);
}

size_t TrackingTable::HashOf(absl::string_view key) { return absl::Hash<absl::string_view>()(key); }

TrackingTable::Entry* TrackingTable::Find(size_t hash, absl::string_view key) const {
  const auto it = by_hash_.find(hash);
  if (it == by_hash_.end()) return nullptr;
  Entry* entry = it->second;
  while (entry != nullptr && entry->key != key) entry = entry->same_hash;
  return entry;
}

void TrackingTable::Note(absl::string_view key, Reader reader) {
  const size_t hash = HashOf(key);
  Entry* entry = Find(hash, key);
  if (entry == nullptr) {
    entry = new Entry;
    entry->key = std::string(key);
    entry->older = newest_;
    (newest_ == nullptr ? oldest_ : newest_->newer) = entry;
    newest_ = entry;
    Entry*& first = by_hash_[hash];
    if (first != nullptr) ++collisions_;
    entry->same_hash = std::exchange(first, entry);
    bytes_ += BytesOf(*entry);
  }
  Readers& readers = entry->readers;
  const auto at =
      std::lower_bound(readers.begin(), readers.end(), reader,
                       [](const Reader& a, const Reader& b) { return a.client < b.client; });
  if (at != readers.end() && at->client == reader.client) {
    at->session = reader.session;
    return;
  }
  bytes_ -= BytesOf(*entry);
  readers.insert(at, reader);
  bytes_ += BytesOf(*entry);
  ++items_;
}

TrackingTable::Readers TrackingTable::Take(absl::string_view key) {
  const size_t hash = HashOf(key);
  Entry* const entry = Find(hash, key);
  return entry == nullptr ? Readers() : Remove(hash, entry);
}

TrackingTable::Readers TrackingTable::TakeOldest(std::string* key) {
  ABSL_ASSERT(oldest_ != nullptr);
  *key = oldest_->key;
  return Remove(HashOf(*key), oldest_);
}

TrackingTable::Readers TrackingTable::Remove(size_t hash, Entry* entry) {
  const auto it = by_hash_.find(hash);
  Entry** link = &it->second;
  if (*link != entry || entry->same_hash != nullptr) --collisions_;
  while (*link != entry) link = &(*link)->same_hash;
  *link = entry->same_hash;
  if (it->second == nullptr) by_hash_.erase(it);
  (entry->older == nullptr ? oldest_ : entry->older->newer) = entry->newer;
  (entry->newer == nullptr ? newest_ : entry->newer->older) = entry->older;
  items_ -= entry->readers.size();
  bytes_ -= BytesOf(*entry);
  Readers readers = std::move(entry->readers);
  delete entry;
  return readers;
}

void TrackingTable::Clear() {
  if (oldest_ == nullptr) return;
  newest_->newer = doomed_;
  doomed_ = oldest_;
  doomed_bytes_ += std::exchange(bytes_, 0);
  oldest_ = newest_ = nullptr;
  items_ = collisions_ = 0;
  by_hash_ = {};
}

void TrackingTable::FreeSome() {
  for (size_t i = 0; i < kFreedAtOnce && doomed_ != nullptr; ++i) {
    Entry* const entry = doomed_;
    doomed_ = entry->newer;
    doomed_bytes_ -= BytesOf(*entry);
    delete entry;
  }
}

}  // namespace proxy
