#include "proxy/sha1.h"

#include <array>
#include <cstdint>
#include <cstring>

namespace proxy {
namespace {

constexpr size_t kBlockBytes = 64;

class Sha1 {
 public:
  void Add(absl::string_view bytes) {
    for (; bytes.size() >= kBlockBytes; bytes.remove_prefix(kBlockBytes)) AddBlock(bytes.data());
    rest_ = bytes;
  }
  // The end: pads the rest with a one bit, zeros and the length in bits.
  std::array<uint32_t, 5> Finish(uint64_t total_bytes) {
    char last[2 * kBlockBytes] = {};
    memcpy(last, rest_.data(), rest_.size());
    last[rest_.size()] = static_cast<char>(0x80);
    const size_t size = rest_.size() + 9 <= kBlockBytes ? kBlockBytes : 2 * kBlockBytes;
    for (size_t i = 0; i < 8; ++i) {
      last[size - 1 - i] = static_cast<char>(total_bytes * 8 >> (8 * i));
    }
    for (size_t at = 0; at < size; at += kBlockBytes) AddBlock(last + at);
    return state_;
  }

 private:
  static uint32_t RotateLeft(uint32_t word, int n) { return word << n | word >> (32 - n); }

  void AddBlock(const char* block) {
    uint32_t words[80];
    for (size_t i = 0; i < 16; ++i) {
      words[i] = 0;
      for (size_t k = 0; k < 4; ++k)
        words[i] = words[i] << 8 | static_cast<uint8_t>(block[4 * i + k]);
    }
    for (size_t i = 16; i < 80; ++i) {
      words[i] = RotateLeft(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1);
    }
    auto [a, b, c, d, e] = state_;
    for (size_t i = 0; i < 80; ++i) {
      uint32_t mixed = 0;
      if (i < 20) {
        mixed = ((b & c) | (~b & d)) + 0x5a827999;
      } else if (i < 40) {
        mixed = (b ^ c ^ d) + 0x6ed9eba1;
      } else if (i < 60) {
        mixed = ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc;
      } else {
        mixed = (b ^ c ^ d) + 0xca62c1d6;
      }
      const uint32_t next = RotateLeft(a, 5) + mixed + e + words[i];
      e = d;
      d = c;
      c = RotateLeft(b, 30);
      b = a;
      a = next;
    }
    state_[0] += a;
    state_[1] += b;
    state_[2] += c;
    state_[3] += d;
    state_[4] += e;
  }

  std::array<uint32_t, 5> state_ = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
  absl::string_view rest_;
};

}  // namespace

std::string Sha1Hex(absl::string_view text) {
  Sha1 sha1;
  sha1.Add(text);
  std::string hex;
  for (const uint32_t word : sha1.Finish(text.size())) {
    for (int shift = 28; shift >= 0; shift -= 4)
      hex.push_back("0123456789abcdef"[word >> shift & 15]);
  }
  return hex;
}

}  // namespace proxy
