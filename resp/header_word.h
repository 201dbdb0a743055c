#pragma once

// File: resp/header_word.h
//
// Reads the number of a header line that lies in memory as a whole, from eight bytes at once. Most
// lengths have one or two digits; these cases are told apart by a mask each, which is faster than a
// loop over digits and than arithmetic without branches (both were measured). What these functions
// do not accept may still be a good header: HeaderNumber decides.

#include <bit>
#include <cstdint>
#include <cstring>

namespace resp {

// Eight bytes at p, the first one lowest.
inline uint64_t LoadWord(const char* p) {
  uint64_t word;
  std::memcpy(&word, p, sizeof(word));
  if constexpr (std::endian::native == std::endian::big) word = __builtin_bswap64(word);
  return word;
}

inline bool IsCrlf(const char* p) { return p[0] == '\r' && p[1] == '\n'; }

struct WordNumber {
  uint32_t value;
  uint32_t bytes;  // digits and line end; 0 if there is no such number
};

// The number of up to three digits that `word` begins with, and its line end.
inline WordNumber ReadShortNumber(uint64_t word) {
  constexpr uint64_t kCrlf = 0x0a0d;
  constexpr uint64_t kTwoBytes = 0xffff;
  const uint32_t first = static_cast<uint32_t>(word & 0xff) - '0';
  if (((word >> 8) & kTwoBytes) == kCrlf) {
    return first <= 9 ? WordNumber{first, 3} : WordNumber{0, 0};
  }
  const uint32_t second = static_cast<uint32_t>((word >> 8) & 0xff) - '0';
  if (first - 1 > 8 || second > 9) return {0, 0};
  if (((word >> 16) & kTwoBytes) == kCrlf) return {first * 10 + second, 4};
  const uint32_t third = static_cast<uint32_t>((word >> 16) & 0xff) - '0';
  if (third > 9 || ((word >> 24) & kTwoBytes) != kCrlf) return {0, 0};
  return {first * 100 + second * 10 + third, 5};
}

// The same for one to six digits, without branches on their number.
inline WordNumber ReadNumber(uint64_t word) {
  constexpr uint64_t kOnes = 0x0101010101010101;
  constexpr uint64_t kHighBits = 0x8080808080808080;
  // The lowest bit that is set here lies in the lowest byte that is CR.
  const uint64_t not_cr = word ^ (kOnes * '\r');
  const uint64_t cr_bits = (not_cr - kOnes) & ~not_cr & kHighBits;
  if (cr_bits == 0) return {0, 0};
  const uint32_t digits = static_cast<uint32_t>(std::countr_zero(cr_bits)) / 8;
  if (digits - 1 > 5 || ((word >> (8 * digits + 8)) & 0xff) != '\n') return {0, 0};
  if (digits > 1 && (word & 0xff) == '0') return {0, 0};
  // The digits' values, the last one highest, zeros before the first.
  uint64_t values = (word - kOnes * '0') << (64 - 8 * digits);
  if (((values | (values + kOnes * 0x76)) & kHighBits) != 0) return {0, 0};
  // Pairs, then all of them: the first pair of four has weight 10^6.
  values = values * 10 + (values >> 8);
  constexpr uint64_t kPairs = 0x000000ff000000ff;
  constexpr uint64_t kWeights0 = 100 + (uint64_t{1000000} << 32);
  constexpr uint64_t kWeights1 = 1 + (uint64_t{10000} << 32);
  values = ((values & kPairs) * kWeights0 + ((values >> 16) & kPairs) * kWeights1) >> 32;
  return {static_cast<uint32_t>(values), digits + 2};
}

// How most requests begin, in one word: "*<count>\r\n$<length>\r\n", both of one digit. count is 0
// if `word` is something else.
struct ShortHead {
  uint32_t count;
  uint32_t length;
};

inline ShortHead ReadShortHead(uint64_t word) {
  constexpr uint64_t kHead = 0x0a0d30240a0d302a;  // both digits 0
  const uint64_t digits = word ^ kHead;
  const uint32_t count = static_cast<uint32_t>(digits >> 8) & 0xf;
  const uint32_t length = static_cast<uint32_t>(digits >> 40) & 0xf;
  constexpr uint64_t kDigits = 0x00000f0000000f00;
  if ((digits & ~kDigits) != 0 || count > 9 || length > 9) return {0, 0};
  return {count, length};
}

// Reads the line end of a body and the bulk header after it, "\r\n$<n>\r\n"; bytes is the length of
// all of that. Touches kNextLengthReach bytes at p. The digits are loaded once more by themselves:
// the next place depends on their sum, and this way it does not wait for the word to be taken
// apart.
constexpr uint64_t kNextLengthReach = 3 + sizeof(uint64_t);
inline WordNumber ReadNextLength(const char* p) {
  constexpr uint64_t kOneMask = 0x0000ffff00ffffff, kOneDigit = 0x00000a0d00240a0d;
  constexpr uint64_t kTwoMask = 0x00ffff0000ffffff, kTwoDigits = 0x000a0d0000240a0d;
  constexpr uint64_t kThreeMask = 0xffff000000ffffff, kThreeDigits = 0x0a0d000000240a0d;
  constexpr uint32_t kZero = '0';
  const uint64_t word = LoadWord(p);
  const uint32_t first = static_cast<unsigned char>(p[3]);
  if ((word & kTwoMask) == kTwoDigits) {
    const uint32_t second = static_cast<unsigned char>(p[4]);
    if (first - kZero - 1 > 8 || second - kZero > 9) return {0, 0};
    return {first * 10 + second - 11 * kZero, 7};
  }
  if ((word & kOneMask) == kOneDigit) {
    return first - kZero <= 9 ? WordNumber{first - kZero, 6} : WordNumber{0, 0};
  }
  if ((word & kThreeMask) == kThreeDigits) {
    const uint32_t second = static_cast<unsigned char>(p[4]);
    const uint32_t third = static_cast<unsigned char>(p[5]);
    if (first - kZero - 1 > 8 || second - kZero > 9 || third - kZero > 9) return {0, 0};
    return {first * 100 + second * 10 + third - 111 * kZero, 8};
  }
  if ((word & 0xffffff) != (kTwoDigits & 0xffffff)) return {0, 0};
  WordNumber number = ReadNumber(LoadWord(p + 3));
  if (number.bytes != 0) number.bytes += 3;
  return number;
}

}  // namespace resp
