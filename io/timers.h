#pragma once

// File: io/timers.h
//
// Deadlines in order. Time moves only when the owner says so (Advance), which makes every use
// deterministic. One thread.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"

namespace io {

class Timers;

// One deadline, embedded in its owner. Destroying it stops it. Set, stop and set again at will,
// also from within its own callback.
class Timer {
 public:
  using Callback = void (*)(void* context);
  Timer(Timers* timers, Callback callback, void* context)
      : timers_(timers), callback_(callback), context_(context) {}
  ~Timer() { Stop(); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // Replaces an earlier deadline.
  void Set(absl::Time when);
  void Stop();
  bool armed() const { return heap_index_ != kNotArmed; }
  absl::Time when() const { return when_; }

 private:
  friend class Timers;
  static constexpr size_t kNotArmed = ~size_t{0};
  Timers* const timers_;
  const Callback callback_;
  void* const context_;
  absl::Time when_;
  uint64_t sequence_ = 0;  // equal deadlines fire in the order they were set
  size_t heap_index_ = kNotArmed;
};

class Timers {
 public:
  Timers() = default;
  Timers(const Timers&) = delete;
  Timers& operator=(const Timers&) = delete;

  // Runs the callbacks of all deadlines at or before `now`, in order. A timer set by a callback to
  // a time at or before `now` runs in the next Advance.
  void Advance(absl::Time now);
  // The earliest deadline, or InfiniteFuture.
  absl::Time next() const;
  size_t size() const { return heap_.size() + late_.size(); }
  // Moves every deadline later by `by`: the process did not run in that time.
  void Postpone(absl::Duration by);

 private:
  friend class Timer;
  void Insert(Timer* timer);
  void AddToHeap(Timer* timer);
  void Remove(Timer* timer);
  void SiftUp(size_t index);
  void SiftDown(size_t index);
  static bool Before(const Timer* a, const Timer* b);

  std::vector<Timer*> heap_;
  std::vector<Timer*> late_;  // set by callbacks to a time that this Advance has reached
  bool advancing_ = false;
  absl::Time limit_;  // of the Advance that runs
  uint64_t next_sequence_ = 0;
};

}  // namespace io
