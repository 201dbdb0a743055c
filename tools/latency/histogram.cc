#include "tools/latency/histogram.h"

#include <algorithm>
#include <cmath>

#include "absl/numeric/bits.h"

namespace latency {

Histogram::Histogram() : counts_(BucketOf(kValueMax) + 1) {}

// Row 0 has the values of up to kPrecisionBits bits; each further row those of one bit more,
// without their last bits.
size_t Histogram::BucketOf(int64_t value) {
  const auto bits = static_cast<uint64_t>(value);
  const int shift = std::max(static_cast<int>(absl::bit_width(bits)) - kPrecisionBits - 1, 0);
  return (static_cast<size_t>(shift) << kPrecisionBits) + static_cast<size_t>(bits >> shift);
}

int64_t Histogram::LastValueOf(size_t bucket) {
  const size_t row = bucket >> kPrecisionBits;
  const size_t shift = row > 0 ? row - 1 : 0;
  return static_cast<int64_t>((bucket - (shift << kPrecisionBits) + 1) << shift) - 1;
}

void Histogram::Record(int64_t value) {
  value = std::max<int64_t>(value, 0);
  ++counts_[BucketOf(std::min(value, kValueMax))];
  ++count_;
  max_ = std::max(max_, value);
  sum_ += static_cast<double>(value);
}

void Histogram::Merge(const Histogram& other) {
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  count_ += other.count_;
  max_ = std::max(max_, other.max_);
  sum_ += other.sum_;
}

void Histogram::Clear() {
  std::fill(counts_.begin(), counts_.end(), 0);
  count_ = 0;
  max_ = 0;
  sum_ = 0;
}

double Histogram::mean() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }

int64_t Histogram::Quantile(double share) const {
  if (count_ == 0) return 0;
  const double exact = std::ceil(share * static_cast<double>(count_));
  const uint64_t wanted =
      std::min(count_, std::max<uint64_t>(1, static_cast<uint64_t>(std::max(exact, 0.0))));
  uint64_t passed = 0;
  for (size_t bucket = 0; bucket + 1 < counts_.size(); ++bucket) {
    passed += counts_[bucket];
    if (passed >= wanted) return std::min(LastValueOf(bucket), max_);
  }
  return max_;  // the last bucket has all that is larger too
}

}  // namespace latency
