#pragma once

// File: tools/latency/schedule.h
//
// When each request of an open loop is to be sent: number n at begin + n / rate, whatever became of
// those before. Each time is computed from n, so nothing adds up.

#include <cmath>
#include <cstdint>

namespace latency {

class Schedule {
 public:
  Schedule() = default;
  // `rate`: requests a second, more than 0. Times are in ns of one clock.
  Schedule(double rate, int64_t begin_ns) : gap_ns_(1e9L / rate), begin_ns_(begin_ns) {}

  int64_t TimeOf(uint64_t n) const {
    return begin_ns_ + static_cast<int64_t>(std::floor(static_cast<long double>(n) * gap_ns_));
  }
  // How many requests are due by then: the n with TimeOf(n) <= now_ns.
  uint64_t DueBy(int64_t now_ns) const {
    if (now_ns < begin_ns_) return 0;
    auto n = static_cast<uint64_t>(static_cast<long double>(now_ns - begin_ns_) / gap_ns_);
    while (TimeOf(n) <= now_ns) ++n;
    while (n > 0 && TimeOf(n - 1) > now_ns) --n;
    return n;
  }

 private:
  long double gap_ns_ = 1;
  int64_t begin_ns_ = 0;
};

}  // namespace latency
