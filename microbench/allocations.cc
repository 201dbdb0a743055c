#include "microbench/allocations.h"

#include <execinfo.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <new>

namespace microbench {
namespace {

constexpr int kTraceDepth = 24;

thread_local bool counting = false;
thread_local uint64_t counted = 0;

// Without allocating, but for what backtrace() does at its first call.
void Trace() {
  static int64_t left = [] {
    const char* text = getenv("COUNT_ALLOCATIONS_TRACE");
    return text == nullptr ? 0 : strtoll(text, nullptr, 10);
  }();
  if (left <= 0) return;
  --left;
  counting = false;
  void* frames[kTraceDepth];
  const int depth = backtrace(frames, kTraceDepth);
  backtrace_symbols_fd(frames, depth, STDERR_FILENO);
  static_cast<void>(write(STDERR_FILENO, "\n", 1) < 0);
  counting = true;
}

void* Allocate(size_t bytes, size_t alignment) {
  if (counting) {
    ++counted;
    Trace();
  }
  if (bytes == 0) bytes = 1;
  if (alignment <= __STDCPP_DEFAULT_NEW_ALIGNMENT__) return malloc(bytes);
  return aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

void* AllocateOrThrow(size_t bytes, size_t alignment) {
  void* memory = Allocate(bytes, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

uint64_t CountedAllocations() { return counted; }

AllocationCounting::AllocationCounting(Switch to) : before_(counting) {
  counting = to == Switch::kOn;
}

AllocationCounting::~AllocationCounting() { counting = before_; }

}  // namespace microbench

// The replaceable forms; those for arrays and without exceptions call these two in libstdc++, but a
// sanitizer's own would not.
void* operator new(size_t bytes) {
  return microbench::AllocateOrThrow(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new[](size_t bytes) {
  return microbench::AllocateOrThrow(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  return microbench::Allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept {
  return microbench::Allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(size_t bytes, std::align_val_t alignment) {
  return microbench::AllocateOrThrow(bytes, static_cast<size_t>(alignment));
}
void* operator new[](size_t bytes, std::align_val_t alignment) {
  return microbench::AllocateOrThrow(bytes, static_cast<size_t>(alignment));
}
void* operator new(size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return microbench::Allocate(bytes, static_cast<size_t>(alignment));
}
void* operator new[](size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return microbench::Allocate(bytes, static_cast<size_t>(alignment));
}

void operator delete(void* memory) noexcept { free(memory); }
void operator delete[](void* memory) noexcept { free(memory); }
void operator delete(void* memory, size_t) noexcept { free(memory); }
void operator delete[](void* memory, size_t) noexcept { free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { free(memory); }
void operator delete(void* memory, std::align_val_t, const std::nothrow_t&) noexcept {
  free(memory);
}
void operator delete[](void* memory, std::align_val_t, const std::nothrow_t&) noexcept {
  free(memory);
}
