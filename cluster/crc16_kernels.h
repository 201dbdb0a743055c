#pragma once

// File: cluster/crc16_kernels.h
//
// Three ways to compute CRC16/XMODEM; slot.cc chooses. All give the same value for any bytes; the
// byte table is the plain one that tests hold the others against.

#include <array>
#include <cstddef>
#include <cstdint>

namespace cluster::internal {

constexpr uint16_t kCrc16Polynomial = 0x1021;

// kCrc16Tables[k][b]: the checksum of byte b followed by k zero bytes.
using Crc16Tables = std::array<std::array<uint16_t, 256>, 8>;

constexpr Crc16Tables MakeCrc16Tables() {
  Crc16Tables tables{};
  for (int byte = 0; byte < 256; ++byte) {
    auto crc = static_cast<uint16_t>(byte << 8);
    for (int bit = 0; bit < 8; ++bit) {
      const bool carry = (crc & 0x8000) != 0;
      crc = static_cast<uint16_t>(crc << 1);
      if (carry) crc ^= kCrc16Polynomial;
    }
    tables[0][byte] = crc;
  }
  for (int k = 1; k < 8; ++k) {
    for (int byte = 0; byte < 256; ++byte) {
      const uint16_t crc = tables[k - 1][byte];
      tables[k][byte] = static_cast<uint16_t>((crc << 8) ^ tables[0][crc >> 8]);
    }
  }
  return tables;
}

inline constexpr Crc16Tables kCrc16Tables = MakeCrc16Tables();

// One look-up a byte.
uint16_t Crc16ByByte(const char* bytes, size_t size);

// Eight look-ups for eight bytes, which do not wait for each other.
inline uint16_t Crc16BySlices(const char* bytes, size_t size) {
  const auto& t = kCrc16Tables;
  const auto* p = reinterpret_cast<const uint8_t*>(bytes);
  uint32_t crc = 0;
  for (; size >= 8; size -= 8, p += 8) {
    crc = t[7][p[0] ^ (crc >> 8)] ^ t[6][p[1] ^ (crc & 0xff)] ^ t[5][p[2]] ^ t[4][p[3]] ^
          t[3][p[4]] ^ t[2][p[5]] ^ t[1][p[6]] ^ t[0][p[7]];
  }
  if (size >= 4) {
    crc = t[3][p[0] ^ (crc >> 8)] ^ t[2][p[1] ^ (crc & 0xff)] ^ t[1][p[2]] ^ t[0][p[3]];
    size -= 4;
    p += 4;
  }
  for (; size > 0; --size, ++p) crc = ((crc << 8) & 0xff00) ^ t[0][(crc >> 8) ^ *p];
  return static_cast<uint16_t>(crc);
}

// Carry-less multiplication, 16 bytes a step. Needs CanFoldCrc16() and at least kCrc16FoldMin
// bytes: below, tables are faster.
constexpr size_t kCrc16FoldMin = 8;
bool CanFoldCrc16();
uint16_t Crc16ByFolding(const char* bytes, size_t size);

}  // namespace cluster::internal
