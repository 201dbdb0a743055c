#pragma once

// File: proxy/pending_ring.h
//
// The requests whose replies one backend connection owes, in the order they were sent.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/base/attributes.h"
#include "absl/base/macros.h"
#include "absl/time/time.h"

namespace proxy {

struct Request;

// First in, first out; 256 entries at first, doubling up to kEntriesMax.
class PendingRing {
 public:
  static constexpr size_t kEntriesMax = 65536;

  // Half a cache line: thousands are owed at a time.
  struct Entry {
    Request* request = nullptr;  // null: the reply to an ASKING, or to a PING of ours
    uint64_t end = 0;            // offset in the connection's output, behind its last byte
    absl::Time sent_at;          // when its bytes were given to the connection
  };
  static_assert(sizeof(Entry) == 32);

  bool empty() const { return size_ == 0; }
  bool full() const { return size_ == kEntriesMax; }
  size_t size() const { return size_; }
  Entry& front() {
    ABSL_ASSERT(size_ > 0);
    return entries_[head_];
  }
  Entry& back() { return at(size_ - 1); }
  // Offset of the front entry's first byte.
  uint64_t front_begin() const { return begin_; }
  // The i-th from the front.
  Entry& at(size_t i) { return entries_[(head_ + i) & (entries_.size() - 1)]; }

  // `begin`: offset of its first byte, which follows the last one of the entry before it.
  void Push(const Entry& entry, uint64_t begin) {
    ABSL_ASSERT(!full());
    ABSL_ASSERT(empty() || begin == at(size_ - 1).end);
    if (empty()) begin_ = begin;
    if (size_ == entries_.size()) Grow();
    entries_[(head_ + size_) & (entries_.size() - 1)] = entry;
    ++size_;
  }
  void Pop() {
    ABSL_ASSERT(size_ > 0);
    begin_ = entries_[head_].end;
    head_ = (head_ + 1) & (entries_.size() - 1);
    --size_;
  }

 private:
  ABSL_ATTRIBUTE_NOINLINE void Grow() {
    std::vector<Entry> larger(entries_.empty() ? 256 : entries_.size() * 2);
    for (size_t i = 0; i < size_; ++i) larger[i] = at(i);
    entries_.swap(larger);
    head_ = 0;
  }

  std::vector<Entry> entries_;  // a power of two
  size_t head_ = 0;
  size_t size_ = 0;
  uint64_t begin_ = 0;
};

}  // namespace proxy
