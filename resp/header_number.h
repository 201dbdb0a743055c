#pragma once

// File: resp/header_number.h
//
// The number of a header line, taken byte by byte, so that the line may be split anywhere. What
// counts as a number is what the servers' string2ll takes: an optional minus, no plus, no leading
// zeros, no
// "-0", within int64.

#include <cstdint>
#include <limits>

namespace resp {

class HeaderNumber {
 public:
  void Clear() { *this = HeaderNumber(); }

  // False if no number goes on with this byte. More digits than an int64 has are taken, so that a
  // caller can tell a bad number from an endless one; Get() fails then.
  bool Add(char c) {
    if (c == '-') {
      if (signed_ || digits_ > 0) return false;
      signed_ = negative_ = true;
      return true;
    }
    const unsigned digit = static_cast<unsigned char>(c) - unsigned{'0'};
    if (digit > 9) return false;
    if (digits_ > 0 && magnitude_ == 0) return false;  // a leading zero
    if (digit == 0 && digits_ == 0 && negative_) return false;
    if (digits_ < kDigitsMax) magnitude_ = magnitude_ * 10 + digit;
    if (digits_ <= kDigitsMax) ++digits_;
    return true;
  }
  // A plus before the first digit; only some reply types may have it.
  bool AddPlus() {
    if (signed_ || digits_ > 0) return false;
    return signed_ = true;
  }

  bool has_digits() const { return digits_ > 0; }
  // False if there are no digits or the value does not fit.
  bool Get(int64_t* value) const {
    constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
    if (digits_ == 0 || digits_ > kDigitsMax || magnitude_ > kMax + (negative_ ? 1 : 0)) {
      return false;
    }
    *value = static_cast<int64_t>(negative_ ? ~magnitude_ + 1 : magnitude_);
    return true;
  }

 private:
  static constexpr int kDigitsMax = 19;  // so many always fit into 64 bits
  uint64_t magnitude_ = 0;
  uint8_t digits_ = 0;  // kDigitsMax + 1 stands for any larger number
  bool signed_ = false;
  bool negative_ = false;
};

}  // namespace resp
