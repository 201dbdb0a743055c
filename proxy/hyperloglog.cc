#include "proxy/hyperloglog.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/match.h"

namespace proxy {
namespace {

// "HYLL", the encoding, three bytes of nothing, eight of the last count.
constexpr absl::string_view kMagic = "HYLL";
constexpr size_t kEncodingAt = 4;
constexpr size_t kHeaderBytes = 16;
constexpr uint8_t kDense = 0;
constexpr uint8_t kSparse = 1;
constexpr uint32_t kRegisterBits = 6;

// The two series of O. Ertl, "New cardinality estimation algorithms for HyperLogLog sketches"
// (2017), equations (13) and (21): what the registers that are still 0, and those that are at their
// end, contribute. Both are summed until nothing changes.
double Sigma(double x) {
  if (x == 1) return std::numeric_limits<double>::infinity();
  double sum = x;
  double weight = 1;
  for (double before = -1; before != sum;) {
    x *= x;
    before = sum;
    sum += x * weight;
    weight += weight;
  }
  return sum;
}

double Tau(double x) {
  if (x == 0 || x == 1) return 0;
  double sum = 1 - x;
  double weight = 1;
  for (double before = -1; before != sum;) {
    x = std::sqrt(x);
    before = sum;
    weight *= 0.5;
    sum -= (1 - x) * (1 - x) * weight;
  }
  return sum / 3;
}

}  // namespace

HyperLogLog::Outcome HyperLogLog::Merge(absl::string_view value) {
  if (value.size() < kHeaderBytes || !absl::StartsWith(value, kMagic)) return Outcome::kNotOne;
  const auto encoding = static_cast<uint8_t>(value[kEncodingAt]);
  const absl::string_view body = value.substr(kHeaderBytes);
  if (encoding == kDense) return MergeDense(body) ? Outcome::kOk : Outcome::kNotOne;
  if (encoding != kSparse) return Outcome::kNotOne;
  return MergeSparse(body) ? Outcome::kOk : Outcome::kCorrupted;
}

// Six bits each, the lowest first.
bool HyperLogLog::MergeDense(absl::string_view registers) {
  if (registers.size() != kRegisters * kRegisterBits / 8) return false;
  uint32_t bits = 0;
  uint32_t count = 0;
  uint32_t at = 0;
  for (const char byte : registers) {
    bits |= static_cast<uint32_t>(static_cast<uint8_t>(byte)) << count;
    for (count += 8; count >= kRegisterBits; count -= kRegisterBits) {
      uint8_t& own = registers_[at++];
      own = std::max(own, static_cast<uint8_t>(bits & 63));
      bits >>= kRegisterBits;
    }
  }
  return true;
}

// Runs of equal registers: 00llllll of zeros, 01llllll llllllll of many zeros, 1vvvvvll of a value.
bool HyperLogLog::MergeSparse(absl::string_view runs) {
  uint32_t at = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    const auto byte = static_cast<uint8_t>(runs[i]);
    uint32_t length = 0;
    uint8_t value = 0;
    if ((byte & 0x80) != 0) {
      length = (byte & 3u) + 1;
      value = static_cast<uint8_t>(((byte >> 2) & 31) + 1);
    } else if ((byte & 0x40) == 0) {
      length = (byte & 63u) + 1;
    } else {
      if (++i == runs.size()) return false;
      length = ((byte & 63u) << 8 | static_cast<uint8_t>(runs[i])) + 1;
    }
    if (length > kRegisters - at) return false;
    Raise(at, at + length, value);
    at += length;
  }
  return at == kRegisters;
}

void HyperLogLog::Raise(uint32_t begin, uint32_t end, uint8_t value) {
  for (uint32_t i = begin; i < end; ++i) registers_[i] = std::max(registers_[i], value);
}

uint64_t HyperLogLog::Count() const {
  std::array<uint32_t, 64> histogram = {};
  for (const uint8_t value : registers_) ++histogram[value];
  const double registers = kRegisters;
  double z = registers * Tau((registers - histogram[kRegisterMax]) / registers);
  for (uint32_t value = kRegisterMax - 1; value >= 1; --value) {
    z += histogram[value];
    z *= 0.5;
  }
  z += registers * Sigma(histogram[0] / registers);
  constexpr double kAlpha = 0.721347520444481703680;  // 1 / (2 ln 2)
  return static_cast<uint64_t>(std::llround(kAlpha * registers * registers / z));
}

}  // namespace proxy
