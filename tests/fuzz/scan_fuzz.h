#pragma once

// File: tests/fuzz/scan_fuzz.h
//
// What the fuzz targets of the two scanners share: which ways of cutting an input are tried.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/resp/scan_checks.h"

namespace resp {

inline void Expect(const std::string& difference) {
  if (difference.empty()) return;
  std::fprintf(stderr, "%s\n", difference.c_str());
  std::abort();
}

// Runs check(next, depth) on the whole input and on one other way to cut it, chosen by `how`: one
// cut at `seed`, chunks of random sizes made from `seed`, or, where the stream is short, byte by
// byte with a comparison after each byte (which takes quadratic time).
template <typename Check>
void CheckInChunks(uint8_t how, uint8_t seed, size_t stream_bytes, const Check& check) {
  Expect(check(WholeInput(), Depth::kFrames));
  if (how % 4 == 0) return Expect(check(CutAt(seed), Depth::kFrames));
  if (how % 4 == 1 && stream_bytes <= 64) return Expect(check(Bytewise(), Depth::kEveryChunk));
  // A linear congruence is chaos enough.
  uint32_t state = seed;
  const uint32_t most = 1 + how / 4;
  const auto next = [&state, most] {
    state = state * 1664525 + 1013904223;
    return size_t{1} + (state >> 16) % most;
  };
  Expect(check(next, Depth::kFrames));
}

}  // namespace resp
