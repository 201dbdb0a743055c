#pragma once

// File: tests/sim/alarms.h
//
// Virtual time and what happens when. An `Alarm` is embedded in its owner and runs a callback at
// its time; alarms for the same instant run in the order they were set. One thread.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/base/macros.h"

namespace sim {

// Of virtual time; the world begins at 0.
using Nanos = int64_t;
constexpr Nanos kMicrosecond = 1000;
constexpr Nanos kMillisecond = 1000 * kMicrosecond;
constexpr Nanos kSecond = 1000 * kMillisecond;
constexpr Nanos kNever = INT64_MAX;

class Alarms;

// Destroying it stops it.
class Alarm {
 public:
  using Callback = void (*)(void* context);
  Alarm(Alarms* alarms, Callback callback, void* context)
      : alarms_(alarms), callback_(callback), context_(context) {}
  ~Alarm() { Stop(); }
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;

  // Replaces an earlier time.
  inline void Set(Nanos when);
  // Set, unless it is to ring before that anyway.
  void SetNoLaterThan(Nanos when) {
    if (!armed() || when < when_) Set(when);
  }
  inline void Stop();
  bool armed() const { return index_ != kNotArmed; }
  Nanos when() const { return when_; }

 private:
  friend class Alarms;
  static constexpr size_t kNotArmed = ~size_t{0};
  Alarms* const alarms_;
  const Callback callback_;
  void* const context_;
  Nanos when_ = 0;
  uint64_t order_ = 0;
  size_t index_ = kNotArmed;
};

class Alarms {
 public:
  Alarms() = default;
  Alarms(const Alarms&) = delete;
  Alarms& operator=(const Alarms&) = delete;

  Nanos now() const { return now_; }
  // When the next alarm rings; kNever if none is set.
  Nanos next() const { return heap_.empty() ? kNever : heap_[0]->when_; }
  // Moves the time to the next alarm and runs it. False: there is none.
  bool RunNext() {
    if (heap_.empty()) return false;
    Alarm* const alarm = heap_[0];
    if (alarm->when_ > now_) now_ = alarm->when_;
    Remove(alarm);
    alarm->callback_(alarm->context_);  // may destroy it
    return true;
  }
  // Moves the time on; no alarm is due before.
  void AdvanceTo(Nanos when) {
    ABSL_ASSERT(when <= next());
    if (when > now_) now_ = when;
  }

 private:
  friend class Alarm;

  static bool Before(const Alarm* a, const Alarm* b) {
    return a->when_ != b->when_ ? a->when_ < b->when_ : a->order_ < b->order_;
  }
  void Place(size_t index, Alarm* alarm) {
    heap_[index] = alarm;
    alarm->index_ = index;
  }
  void Up(size_t index) {
    Alarm* const alarm = heap_[index];
    while (index > 0 && Before(alarm, heap_[(index - 1) / 2])) {
      Place(index, heap_[(index - 1) / 2]);
      index = (index - 1) / 2;
    }
    Place(index, alarm);
  }
  void Down(size_t index) {
    Alarm* const alarm = heap_[index];
    while (2 * index + 1 < heap_.size()) {
      size_t child = 2 * index + 1;
      if (child + 1 < heap_.size() && Before(heap_[child + 1], heap_[child])) ++child;
      if (!Before(heap_[child], alarm)) break;
      Place(index, heap_[child]);
      index = child;
    }
    Place(index, alarm);
  }
  void Insert(Alarm* alarm) {
    alarm->order_ = next_order_++;
    if (!alarm->armed()) {
      heap_.push_back(alarm);
      return Up(heap_.size() - 1);
    }
    const size_t index = alarm->index_;
    Up(index);
    if (alarm->index_ == index) Down(index);
  }
  void Remove(Alarm* alarm) {
    const size_t index = alarm->index_;
    alarm->index_ = Alarm::kNotArmed;
    Alarm* const last = heap_.back();
    heap_.pop_back();
    if (last == alarm) return;
    Place(index, last);
    Up(index);
    Down(last->index_);
  }

  Nanos now_ = 0;
  std::vector<Alarm*> heap_;
  uint64_t next_order_ = 0;
};

// A time in the past means: as soon as may be.
inline void Alarm::Set(Nanos when) {
  when_ = when < alarms_->now_ ? alarms_->now_ : when;
  alarms_->Insert(this);
}

inline void Alarm::Stop() {
  if (armed()) alarms_->Remove(this);
}

}  // namespace sim
