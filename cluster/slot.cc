#include "cluster/slot.h"

#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "absl/base/optimization.h"
#include "cluster/crc16_kernels.h"
#include "cluster/load_bytes.h"

namespace cluster {

namespace {

// Asked once. Until then it is false (zero initialisation), which is slower but right: so other
// static objects may hash keys too.
const bool kFold = internal::CanFoldCrc16();

inline uint16_t Crc16Inline(const char* bytes, size_t size) {
  if (size >= internal::kCrc16FoldMin && ABSL_PREDICT_TRUE(kFold)) {
    return internal::Crc16ByFolding(bytes, size);
  }
  return internal::Crc16BySlices(bytes, size);
}

// Not 0 if one of the eight bytes is '{'. (x - 1) & ~x & 0x80 is exact for the lowest zero byte,
// and only existence is asked.
inline uint64_t HasBrace(uint64_t word) {
  constexpr uint64_t kOnes = 0x0101010101010101;
  const uint64_t x = word ^ (kOnes * '{');
  return (x - kOnes) & ~x & (kOnes * 0x80);
}

// Most keys have no hash tag: this says so without a call, by words that may overlap.
inline bool ContainsBrace(const char* p, size_t size) {
  if (size < 8) return HasBrace(internal::LoadUpTo7(p, size)) != 0;
#if defined(__SSE2__)
  if (size >= 16) {
    const __m128i brace = _mm_set1_epi8('{');
    const auto equal = [&](const char* at) {
      return _mm_cmpeq_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)), brace);
    };
    __m128i found = equal(p + size - 16);
    for (size_t i = 0; i + 16 < size; i += 16) found = _mm_or_si128(found, equal(p + i));
    return _mm_movemask_epi8(found) != 0;
  }
#endif
  uint64_t found = HasBrace(internal::Load64(p + size - 8));
  for (size_t i = 0; i + 8 < size; i += 8) found |= HasBrace(internal::Load64(p + i));
  return found != 0;
}

// What of the key is hashed, for a key with a '{'.
absl::string_view HashedPart(absl::string_view key) {
  const auto* open = static_cast<const char*>(std::memchr(key.data(), '{', key.size()));
  const char* const end = key.data() + key.size();
  const char* const tag = open + 1;
  const auto* close =
      static_cast<const char*>(std::memchr(tag, '}', static_cast<size_t>(end - tag)));
  if (close == nullptr || close == tag) return key;
  return absl::string_view(tag, static_cast<size_t>(close - tag));
}

}  // namespace

uint16_t Crc16(absl::string_view bytes) { return Crc16Inline(bytes.data(), bytes.size()); }

Slot SlotOf(absl::string_view key) {
  if (ABSL_PREDICT_FALSE(ContainsBrace(key.data(), key.size()))) key = HashedPart(key);
  return Crc16Inline(key.data(), key.size()) % kSlotCount;
}

}  // namespace cluster
