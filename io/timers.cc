#include "io/timers.h"

#include <algorithm>
#include <utility>

#include "absl/base/macros.h"

namespace io {
namespace {

// Marks an index into late_ instead of heap_.
constexpr size_t kLateBit = ~(~size_t{0} >> 1);

}  // namespace

void Timer::Set(absl::Time when) {
  Stop();
  when_ = when;
  timers_->Insert(this);
}

void Timer::Stop() {
  if (armed()) timers_->Remove(this);
}

void Timers::Advance(absl::Time now) {
  ABSL_ASSERT(!advancing_);
  advancing_ = true;
  limit_ = now;
  while (!heap_.empty() && heap_[0]->when_ <= now) {
    Timer* const timer = heap_[0];
    Remove(timer);
    // The callback may set, stop or destroy this and any other timer.
    timer->callback_(timer->context_);
  }
  advancing_ = false;
  // In the order they were set: their sequence numbers decide between equal deadlines.
  for (Timer* timer : std::exchange(late_, {})) AddToHeap(timer);
}

absl::Time Timers::next() const {
  absl::Time earliest = heap_.empty() ? absl::InfiniteFuture() : heap_[0]->when_;
  for (const Timer* timer : late_) earliest = std::min(earliest, timer->when_);
  return earliest;
}

void Timers::Postpone(absl::Duration by) {
  ABSL_ASSERT(by >= absl::ZeroDuration());
  for (Timer* timer : heap_) timer->when_ += by;
  for (Timer* timer : late_) timer->when_ += by;
  // Different deadlines may have become equal, by rounding or at infinity.
  for (size_t i = heap_.size() / 2; i-- > 0;) SiftDown(i);
}

void Timers::Insert(Timer* timer) {
  timer->sequence_ = next_sequence_++;
  if (advancing_ && timer->when_ <= limit_) {
    timer->heap_index_ = late_.size() | kLateBit;
    late_.push_back(timer);
  } else {
    AddToHeap(timer);
  }
}

void Timers::AddToHeap(Timer* timer) {
  timer->heap_index_ = heap_.size();
  heap_.push_back(timer);
  SiftUp(timer->heap_index_);
}

void Timers::Remove(Timer* timer) {
  const bool late = (timer->heap_index_ & kLateBit) != 0;
  const size_t index = timer->heap_index_ & ~kLateBit;
  std::vector<Timer*>& from = late ? late_ : heap_;
  ABSL_ASSERT(from[index] == timer);
  timer->heap_index_ = Timer::kNotArmed;
  Timer* const last = from.back();
  from.pop_back();
  if (last == timer) return;
  from[index] = last;
  last->heap_index_ = late ? index | kLateBit : index;
  if (late) return;
  SiftUp(index);
  SiftDown(last->heap_index_);
}

void Timers::SiftUp(size_t index) {
  Timer* const timer = heap_[index];
  while (index > 0) {
    const size_t parent = (index - 1) / 2;
    if (!Before(timer, heap_[parent])) break;
    heap_[index] = heap_[parent];
    heap_[index]->heap_index_ = index;
    index = parent;
  }
  heap_[index] = timer;
  timer->heap_index_ = index;
}

void Timers::SiftDown(size_t index) {
  Timer* const timer = heap_[index];
  while (true) {
    size_t child = 2 * index + 1;
    if (child >= heap_.size()) break;
    if (child + 1 < heap_.size() && Before(heap_[child + 1], heap_[child])) ++child;
    if (!Before(heap_[child], timer)) break;
    heap_[index] = heap_[child];
    heap_[index]->heap_index_ = index;
    index = child;
  }
  heap_[index] = timer;
  timer->heap_index_ = index;
}

bool Timers::Before(const Timer* a, const Timer* b) {
  return a->when_ != b->when_ ? a->when_ < b->when_ : a->sequence_ < b->sequence_;
}

}  // namespace io
