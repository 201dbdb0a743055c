#pragma once

// File: microbench/rates.h
//
// What every benchmark here reports: items a second, bytes a second where bytes make sense, and
// what the thread took from the heap for an item ("allocs_per_item").

#include <benchmark/benchmark.h>

#include <cstdint>

#include "microbench/allocations.h"

namespace microbench {

// Made right before the benchmark's loop, when all that is reused has its size.
class Rates {
 public:
  explicit Rates(benchmark::State* state)
      : state_(state), before_(CountedAllocations()), counting_(AllocationCounting::Switch::kOn) {}

  // Right after the loop; what one iteration has done.
  void Report(int64_t items, int64_t bytes = 0) {
    const uint64_t allocations = CountedAllocations() - before_;
    const auto iterations = static_cast<int64_t>(state_->iterations());
    state_->SetItemsProcessed(iterations * items);
    if (bytes > 0) state_->SetBytesProcessed(iterations * bytes);
    state_->counters["allocs_per_item"] =
        static_cast<double>(allocations) / static_cast<double>(iterations * items);
  }

 private:
  benchmark::State* const state_;
  const uint64_t before_;
  const AllocationCounting counting_;
};

}  // namespace microbench
