#pragma once

// File: cluster/slot.h
//
// Hash slots (Redis Cluster specification, "Key distribution model" and "Hash tags").

#include <cstdint>

#include "absl/strings/string_view.h"

namespace cluster {

using Slot = uint16_t;  // 0 … 16383
constexpr int kSlotCount = 16384;

// CRC16/XMODEM: polynomial 0x1021, initial value 0, not reflected.
uint16_t Crc16(absl::string_view bytes);

// The slot of a key: CRC16 of its hash tag (what stands between the first '{' and the first '}'
// after it, unless empty) or of the whole key, modulo 16384.
Slot SlotOf(absl::string_view key);

// Which slots there were, in 64 groups of 256 neighbours: tells too many, never too few.
class SlotGroups {
 public:
  void Add(Slot slot) { groups_ |= uint64_t{1} << (slot / kGroupSlots); }
  void Add(const SlotGroups& other) { groups_ |= other.groups_; }
  void AddAll() { groups_ = ~uint64_t{0}; }
  bool empty() const { return groups_ == 0; }
  bool MayHave(Slot slot) const { return (groups_ >> (slot / kGroupSlots) & 1) != 0; }

 private:
  static constexpr int kGroupSlots = kSlotCount / 64;
  uint64_t groups_ = 0;
};

}  // namespace cluster
