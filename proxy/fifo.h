#pragma once

// File: proxy/fifo.h
//
// A queue that keeps its memory: once it has room for more than twice its greatest length, nothing
// is allocated. (std::deque takes and frees a block every few entries.)

#include <cstddef>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/base/macros.h"

namespace proxy {

template <typename T>
class Fifo {
  static_assert(std::is_trivially_copyable_v<T>);  // what has gone stays in memory for a while

 public:
  bool empty() const { return head_ == entries_.size(); }
  size_t size() const { return entries_.size() - head_; }
  T& front() {
    ABSL_ASSERT(!empty());
    return entries_[head_];
  }

  void Push(T entry) {
    // The room of those that have gone rather than more memory.
    if (entries_.size() == entries_.capacity() && head_ > entries_.size() / 2) {
      entries_.erase(entries_.begin(), begin());
      head_ = 0;
    }
    entries_.push_back(std::move(entry));
  }
  void Pop() {
    ABSL_ASSERT(!empty());
    if (++head_ < entries_.size()) return;
    entries_.clear();
    head_ = 0;
  }
  void Swap(Fifo* other) {
    entries_.swap(other->entries_);
    std::swap(head_, other->head_);
  }

  // From the first in.
  auto begin() { return entries_.begin() + static_cast<std::ptrdiff_t>(head_); }
  auto end() { return entries_.end(); }

 private:
  std::vector<T> entries_;  // [head_, end) are in the queue
  size_t head_ = 0;
};

}  // namespace proxy
