#pragma once

// File: tests/sim/random.h
//
// The simulation's only source of chance: a small generator with a seed (xoshiro256++), the same
// on every machine. One thread.

#include <cstdint>

#include "absl/base/macros.h"

namespace sim {

class Random {
 public:
  explicit Random(uint64_t seed) {
    for (uint64_t& word : state_) {  // splitmix64
      seed += 0x9e3779b97f4a7c15;
      uint64_t z = seed;
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
      z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
      word = z ^ (z >> 31);
    }
  }

  uint64_t Next() {
    const uint64_t result = Rotate(state_[0] + state_[3], 23) + state_[0];
    const uint64_t t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = Rotate(state_[3], 45);
    return result;
  }
  // Uniform in [0, n), n > 0.
  uint64_t Below(uint64_t n) {
    ABSL_ASSERT(n > 0);
    return static_cast<uint64_t>((static_cast<unsigned __int128>(Next()) * n) >> 64);
  }
  // Uniform in [low, high].
  int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(Below(static_cast<uint64_t>(high - low) + 1));
  }
  // Between low and high (both at least 1), each power of two as likely as the next.
  uint64_t Magnitude(uint64_t low, uint64_t high) {
    int low_bits = 0, high_bits = 0;
    while (low >> (low_bits + 1) != 0) ++low_bits;
    while (high >> (high_bits + 1) != 0) ++high_bits;
    const int64_t bits = Between(low_bits, high_bits);
    const uint64_t value = (uint64_t{1} << bits) + Below(uint64_t{1} << bits);
    return value < low ? low : value > high ? high : value;
  }
  // True with probability p. Draws nothing if p is 0: a fault that is off changes nothing.
  bool Chance(double p) {
    if (p <= 0) return false;
    return static_cast<double>(Next() >> 11) * 0x1p-53 < p;
  }

 private:
  static uint64_t Rotate(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }
  uint64_t state_[4];
};

}  // namespace sim
