#include "cluster/crc16_kernels.h"

#include "absl/base/macros.h"
#include "cluster/load_bytes.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace cluster::internal {

uint16_t Crc16ByByte(const char* bytes, size_t size) {
  uint16_t crc = 0;
  for (size_t i = 0; i < size; ++i) {
    const auto byte = static_cast<uint8_t>(bytes[i]);
    crc = static_cast<uint16_t>((crc << 8) ^ kCrc16Tables[0][(crc >> 8) ^ byte]);
  }
  return crc;
}

#if defined(__x86_64__)

namespace {

constexpr uint64_t kPolynomial = 0x10000 | kCrc16Polynomial;  // with its leading term

// x^n mod P.
constexpr uint64_t PowerOfX(int n) {
  uint64_t value = 1;
  for (int i = 0; i < n; ++i) {
    value <<= 1;
    if ((value & 0x10000) != 0) value ^= kPolynomial;
  }
  return value;
}

// The quotient of x^64 and P, of degree 48.
constexpr uint64_t QuotientOfX64() {
  uint64_t quotient = 0;
  uint64_t rest = 1;  // of the division so far; its next lower term is brought down at each step
  for (int i = 0; i < 64; ++i) {
    rest <<= 1;
    quotient <<= 1;
    if ((rest & 0x10000) != 0) {
      rest ^= kPolynomial;
      quotient |= 1;
    }
  }
  return quotient;
}

constexpr uint64_t kX64 = PowerOfX(64);
constexpr uint64_t kX80 = PowerOfX(80);
constexpr uint64_t kX128 = PowerOfX(128);
constexpr uint64_t kX192 = PowerOfX(192);
constexpr uint64_t kQuotient = QuotientOfX64();

// Loading 16 bytes at kHeadShuffle + 16 - n gives the shuffle that reverses the first n bytes of a
// vector into its low end and clears the rest.
alignas(16) constexpr int8_t kHeadShuffle[32] = {15, 14, 13, 12, 11, 10, 9,  8,  7,  6,  5,
                                                 4,  3,  2,  1,  0,  -1, -1, -1, -1, -1, -1,
                                                 -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

inline __m128i Load(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

// The first 1 … 16 of 16 bytes, reversed.
__attribute__((target("ssse3"))) inline __m128i LoadHead(const char* p, size_t head) {
  return _mm_shuffle_epi8(Load(p), Load(kHeadShuffle + 16 - head));
}

// 8 … 15 bytes, reversed: two words that overlap.
inline __m128i LoadShort(const char* p, size_t size) {
  const uint64_t first = __builtin_bswap64(Load64(p));
  const uint64_t last = __builtin_bswap64(Load64(p + size - 8));
  // What of the first word is not in the last one: size - 8 bytes. In two shifts, since one of 64
  // bits is undefined.
  const uint64_t high = first >> 8 >> ((15 - size) * 8);
  return _mm_set_epi64x(static_cast<int64_t>(high), static_cast<int64_t>(last));
}

}  // namespace

bool CanFoldCrc16() {
  return __builtin_cpu_supports("pclmul") != 0 && __builtin_cpu_supports("ssse3") != 0;
}

// The bytes are a polynomial over GF(2), first byte highest; the checksum is that times x^16 mod P.
// After Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction"
// (Intel, 2009), for 16 bits and without reflection.
__attribute__((target("pclmul,ssse3"))) uint16_t Crc16ByFolding(const char* bytes, size_t size) {
  ABSL_ASSERT(size >= kCrc16FoldMin);
  const __m128i reverse = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  // The odd bytes come first, as the low end of a block whose missing bytes are zero: zeros in
  // front change nothing.
  const size_t head = (size - 1) % 16 + 1;  // 1 … 16
  __m128i rest = size < 16 ? LoadShort(bytes, size) : LoadHead(bytes, head);
  // rest · x^128 + next, where x^128 and x^192 are taken mod P for the two halves.
  const __m128i fold = _mm_set_epi64x(kX192, kX128);
  for (size_t i = head; i < size; i += 16) {
    const __m128i next = _mm_shuffle_epi8(Load(bytes + i), reverse);
    rest = _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(rest, fold, 0x11),
                                       _mm_clmulepi64_si128(rest, fold, 0x00)),
                         next);
  }
  // rest · x^16 → 80 bits → 64 bits.
  const __m128i down = _mm_set_epi64x(kX64, kX80);
  const __m128i low = _mm_move_epi64(rest);
  __m128i sum = _mm_xor_si128(_mm_clmulepi64_si128(rest, down, 0x01), _mm_slli_si128(low, 2));
  sum = _mm_xor_si128(sum, _mm_clmulepi64_si128(sum, down, 0x11));
  // Barrett: the quotient by P is (sum / x^16) · (x^64 / P) / x^48, exactly.
  const __m128i barrett = _mm_set_epi64x(kPolynomial, kQuotient);
  const __m128i high = _mm_srli_epi64(sum, 16);
  const __m128i product = _mm_clmulepi64_si128(high, barrett, 0x00);
  const __m128i quotient = _mm_srli_si128(product, 6);
  const __m128i remainder = _mm_xor_si128(sum, _mm_clmulepi64_si128(quotient, barrett, 0x10));
  return static_cast<uint16_t>(_mm_cvtsi128_si32(remainder));
}

#else

bool CanFoldCrc16() { return false; }
uint16_t Crc16ByFolding(const char* bytes, size_t size) { return Crc16BySlices(bytes, size); }

#endif

}  // namespace cluster::internal
