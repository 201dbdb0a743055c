#pragma once

// File: proxy/pending_ring.h
//
// The requests whose replies one backend connection owes, in the order they were sent.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/base/macros.h"
#include "absl/time/time.h"

namespace proxy {

struct Request;

// First in, first out; 256 entries at first, doubling up to kEntriesMax.
class PendingRing {
 public:
  static constexpr size_t kEntriesMax = 65536;

  struct Entry {
    Request* request = nullptr;  // null: the reply to an ASKING, or to a PING of ours
    bool ping = false;
    uint64_t begin = 0;  // offsets of its bytes in the connection's output
    uint64_t end = 0;
    absl::Time sent_at;  // when its bytes were given to the connection
  };

  bool empty() const { return size_ == 0; }
  bool full() const { return size_ == kEntriesMax; }
  size_t size() const { return size_; }
  Entry& front() {
    ABSL_ASSERT(size_ > 0);
    return entries_[head_];
  }
  // The i-th from the front.
  Entry& at(size_t i) { return entries_[(head_ + i) & (entries_.size() - 1)]; }

  void Push(const Entry& entry) {
    ABSL_ASSERT(!full());
    if (size_ == entries_.size()) Grow();
    entries_[(head_ + size_) & (entries_.size() - 1)] = entry;
    ++size_;
  }
  void Pop() {
    ABSL_ASSERT(size_ > 0);
    head_ = (head_ + 1) & (entries_.size() - 1);
    --size_;
  }

 private:
  void Grow() {
    std::vector<Entry> larger(entries_.empty() ? 256 : entries_.size() * 2);
    for (size_t i = 0; i < size_; ++i) larger[i] = at(i);
    entries_.swap(larger);
    head_ = 0;
  }

  std::vector<Entry> entries_;  // a power of two
  size_t head_ = 0;
  size_t size_ = 0;
};

}  // namespace proxy
