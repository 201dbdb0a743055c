#pragma once

// File: tools/latency/histogram.h
//
// Counts of values in buckets whose width grows with the value, as HdrHistogram has them: fixed
// memory, nothing allocated by Record, an error below 1 %. One thread.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace latency {

class Histogram {
 public:
  // Each power of two has 2^7 buckets; values below 2^8 have one each.
  static constexpr int kPrecisionBits = 7;
  // Larger values count as this one (18 minutes, in ns); max() is exact all the same.
  static constexpr int64_t kValueMax = (int64_t{1} << 40) - 1;

  Histogram();

  // Negative values count as 0.
  void Record(int64_t value);
  void Merge(const Histogram& other);
  void Clear();

  uint64_t count() const { return count_; }
  // 0 if there is none.
  int64_t max() const { return max_; }
  double mean() const;
  // The value that at least this share (0..1) of all values do not exceed: the end of its bucket,
  // or the largest value if that is less. 0 if there is none.
  int64_t Quantile(double share) const;

 private:
  static size_t BucketOf(int64_t value);
  static int64_t LastValueOf(size_t bucket);

  std::vector<uint64_t> counts_;  // never resized
  uint64_t count_ = 0;
  int64_t max_ = 0;
  double sum_ = 0;
};

}  // namespace latency
