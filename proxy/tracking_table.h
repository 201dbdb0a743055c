#pragma once

// File: proxy/tracking_table.h
//
// Which of a worker's clients have read which keys, and so have to be told when one changes
// (CLIENT TRACKING). A key is in it until it is told of, or until the table is too large: then
// those that were noted longest ago are told of. Of clients that have gone, or have ended their
// tracking, nothing is searched for: their sessions are over, and what is left of them goes as all
// does.

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/strings/string_view.h"

namespace proxy {

class TrackingTable {
 public:
  struct Reader {
    uint32_t client = 0;   // its index
    uint32_t session = 0;  // which of those that clients with that index had
    friend bool operator==(const Reader& a, const Reader& b) {
      return a.client == b.client && a.session == b.session;
    }
  };
  using Readers = absl::InlinedVector<Reader, 2>;  // by client
  struct Limits {
    size_t items = 0;  // a key and one of its readers
    size_t bytes = 0;
  };

  explicit TrackingTable(const Limits& limits) : limits_(limits) {}
  ~TrackingTable();
  TrackingTable(const TrackingTable&) = delete;
  TrackingTable& operator=(const TrackingTable&) = delete;

  void Note(absl::string_view key, Reader reader);
  // Who has read the key; it is not in the table any more.
  Readers Take(absl::string_view key);
  // Whoever has noted something calls TakeOldest until this is false.
  bool over_limits() const { return items_ > limits_.items || bytes_ > limits_.bytes; }
  // The key that was noted longest ago. There is one.
  Readers TakeOldest(std::string* key);

  // All keys go. A large table is not freed at once, but by and by: FreeSome.
  void Clear();
  bool has_to_free() const { return doomed_ != nullptr; }
  void FreeSome();

  size_t keys() const { return by_hash_.size() + collisions_; }
  size_t items() const { return items_; }
  // With what is still to be freed.
  size_t bytes() const { return bytes_ + doomed_bytes_; }

 private:
  struct Entry {
    Entry* older = nullptr;
    Entry* newer = nullptr;
    Entry* same_hash = nullptr;
    Readers readers;
    std::string key;
  };
  static size_t BytesOf(const Entry& entry);
  static size_t HashOf(absl::string_view key);
  Entry* Find(size_t hash, absl::string_view key) const;
  Readers Remove(size_t hash, Entry* entry);

  const Limits limits_;
  // Numbers only: the table grows without a look at what it refers to.
  absl::flat_hash_map<size_t, Entry*> by_hash_;
  size_t collisions_ = 0;  // keys that are not the first of their hash
  Entry* oldest_ = nullptr;
  Entry* newest_ = nullptr;
  size_t items_ = 0;
  size_t bytes_ = 0;
  Entry* doomed_ = nullptr;  // linked by `newer`
  size_t doomed_bytes_ = 0;
};

}  // namespace proxy
