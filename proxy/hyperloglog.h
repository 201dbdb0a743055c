#pragma once

// File: proxy/hyperloglog.h
//
// What a HyperLogLog value of the servers says (PFADD makes them, GET gives them): its registers,
// and how many elements several such values together have seen. Pure: values in, values out.

#include <array>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace proxy {

class HyperLogLog {
 public:
  enum class Outcome : uint8_t {
    kOk,
    kNotOne,     // of another content
    kCorrupted,  // its registers can't be read
  };
  // Takes in a value; one that is not kOk leaves it as good as unusable.
  [[nodiscard]] Outcome Merge(absl::string_view value);
  // The estimate of how many different elements there are, as PFCOUNT of several keys gives it.
  uint64_t Count() const;

 private:
  static constexpr uint32_t kRegisters = 1 << 14;
  static constexpr uint32_t kRegisterMax = 51;  // 64 bits of a hash, less 14, and one

  bool MergeDense(absl::string_view registers);
  bool MergeSparse(absl::string_view runs);
  void Raise(uint32_t begin, uint32_t end, uint8_t value);

  std::array<uint8_t, kRegisters> registers_ = {};
};

}  // namespace proxy
