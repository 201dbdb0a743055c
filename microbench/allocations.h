#pragma once

// File: microbench/allocations.h
//
// Counts what a thread takes from the heap. A program that links this has a global `operator new`
// (all forms) that counts where counting is switched on; nothing of ours takes memory from the heap
// in another way. Under a sanitizer the memory still comes from its malloc.
//
// With COUNT_ALLOCATIONS_TRACE=n in the environment the first n counted ones print where they were
// made (addresses for addr2line).

#include <cstdint>

namespace microbench {

// Counted allocations of this thread so far.
uint64_t CountedAllocations();

// While it lives, allocations of this thread count, or do not. They nest: what was before it comes
// back with its end.
class AllocationCounting {
 public:
  enum class Switch : uint8_t { kOff, kOn };
  explicit AllocationCounting(Switch to);
  ~AllocationCounting();
  AllocationCounting(const AllocationCounting&) = delete;
  AllocationCounting& operator=(const AllocationCounting&) = delete;

 private:
  const bool before_;
};

}  // namespace microbench
