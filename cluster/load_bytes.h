#pragma once

// File: cluster/load_bytes.h
//
// Bytes as words, the first byte lowest, without reading a byte that is not there.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/base/config.h"

#if !defined(ABSL_IS_LITTLE_ENDIAN)
#error "the words' byte order is that of little-endian machines"
#endif

namespace cluster::internal {

// Eight bytes.
inline uint64_t Load64(const char* p) {
  uint64_t word;
  std::memcpy(&word, p, sizeof(word));
  return word;
}

// 0 to 7 bytes, the rest zero, without a loop.
inline uint64_t LoadUpTo7(const char* p, size_t size) {
  if (size >= 4) {
    uint32_t low;
    uint32_t high;  // overlaps with low
    std::memcpy(&low, p, 4);
    std::memcpy(&high, p + size - 4, 4);
    return low | uint64_t{high} << ((size - 4) * 8);
  }
  if (size == 0) return 0;
  const uint64_t first = static_cast<uint8_t>(p[0]);
  const uint64_t middle = static_cast<uint8_t>(p[size / 2]);
  const uint64_t last = static_cast<uint8_t>(p[size - 1]);
  return first | middle << (size / 2 * 8) | last << ((size - 1) * 8);
}

}  // namespace cluster::internal
