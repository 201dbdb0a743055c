#include "cluster/slot.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "absl/strings/escaping.h"
#include "cluster/crc16_kernels.h"

namespace cluster {
namespace {

struct KeySlot {
  std::string key;
  Slot slot;
};

TEST(SlotTest, TheChecksumIsXmodem) {
  // Redis Cluster specification, appendix A.
  EXPECT_EQ(Crc16("123456789"), 0x31c3);
  EXPECT_EQ(Crc16(""), 0);
}

TEST(SlotTest, KeysHaveTheSlotsThatAServerTells) {
  using std::string_literals::operator""s;
  // CLUSTER KEYSLOT of redis-server 7.0.15.
  const KeySlot cases[] = {
      {"", 0},
      {"a", 15495},
      {"foo", 12182},
      {"bar", 5061},
      {"somekey", 11058},
      {"123456789", 12739},
      {"0123456789abcdef", 10405},
      {"0123456789abcdefg", 1383},
      {"key:000000000042", 7803},
      {std::string(64, 'x'), 4856},
      {std::string(1000, 'x'), 3195},
      {"\0"s, 0},
      {"\xff\xfe", 3374},
      {"\r\n", 5910},
  };
  for (const auto& [key, slot] : cases) {
    SCOPED_TRACE(absl::CHexEscape(key));
    EXPECT_EQ(SlotOf(key), slot);
  }
}

TEST(SlotTest, OnlyTheFirstHashTagIsHashedAndOnlyIfItIsNotEmpty) {
  using std::string_literals::operator""s;
  // CLUSTER KEYSLOT of redis-server 7.0.15; the forms are those of the specification, "Hash tags".
  const KeySlot cases[] = {
      {"foo{hash_tag}", 2515},
      {"bar{hash_tag}", 2515},
      {"hash_tag", 2515},
      {"{user1000}.following", 3443},
      {"user1000", 3443},
      {"{}", 15257},
      {"{}{a}", 13650},
      {"{}a", 10875},
      {"a{b", 13340},
      {"a{b}", 3300},
      {"{a", 10276},
      {"a}", 5921},
      {"}{", 12793},
      {"{a}{b}", 15495},
      {"foo{}{bar}", 8363},
      {"foo{{bar}}zap", 4015},
      {"{bar", 4015},
      {"foo{bar}{zap}", 5061},
      {"foo}bar{baz}", 4813},
      {"{\0}x"s, 0},
      {std::string(15, 'x') + "{y}", 12222},
      {std::string(16, 'x') + "{y}", 12222},
      {"{" + std::string(40, 'x') + "}z", 4318},
      {"{}" + std::string(30, 'x'), 15149},
  };
  for (const auto& [key, slot] : cases) {
    SCOPED_TRACE(absl::CHexEscape(key));
    EXPECT_EQ(SlotOf(key), slot);
  }
}

TEST(SlotTest, AHashTagIsFoundAtEveryPlaceOfKeysOfEveryLength) {
  const Slot slot_of_t = SlotOf("t");
  for (size_t size = 3; size < 100; ++size) {
    for (size_t at = 0; at + 3 <= size; ++at) {
      std::string key(size, 'k');
      key.replace(at, 3, "{t}");
      ASSERT_EQ(SlotOf(key), slot_of_t) << key;
    }
  }
}

TEST(SlotTest, AllKernelsGiveTheChecksumOfTheByteTable) {
  std::mt19937 random(1);
  for (size_t size = 0; size < 600; ++size) {
    for (int round = 0; round < 30; ++round) {
      // Behind an offset, so that loads are not aligned; with an end of its own, so that a
      // sanitizer sees a load past it.
      const size_t offset = random() % 16;
      std::vector<char> bytes(offset + size);
      for (char& c : bytes) c = static_cast<char>(round == 0 ? 0xff : random());
      const char* data = bytes.data() + offset;
      const uint16_t expected = internal::Crc16ByByte(data, size);
      ASSERT_EQ(internal::Crc16BySlices(data, size), expected) << size;
      if (internal::CanFoldCrc16() && size >= internal::kCrc16FoldMin) {
        ASSERT_EQ(internal::Crc16ByFolding(data, size), expected) << size;
      }
      ASSERT_EQ(Crc16(absl::string_view(data, size)), expected) << size;
    }
  }
}

}  // namespace
}  // namespace cluster
