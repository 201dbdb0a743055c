#include "proxy/hyperloglog.h"

#include <algorithm>
#include <random>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace proxy {
namespace {

using Outcome = HyperLogLog::Outcome;

// GET of a redis-server 7.0 after PFADD of a, b and c; and of c, d, e, f and g.
const std::string kThree =
    absl::HexStringToBytes("48594c4c01000000000000000000008060f38050b1844bfb80425a");
const std::string kFive =
    absl::HexStringToBytes("48594c4c010000000000000000000080466d80560c80443c8438805a3f8044c9");

std::string Dense(const std::string& registers) {
  std::string packed(registers.size() * 6 / 8, '\0');
  for (size_t i = 0; i < registers.size() * 6; ++i) {
    if ((registers[i / 6] >> (i % 6) & 1) != 0) {
      packed[i / 8] = static_cast<char>(packed[i / 8] | 1 << (i % 8));
    }
  }
  return absl::StrCat("HYLL", std::string(12, '\0'), packed);
}

std::string Sparse(const std::string& registers) {
  std::string runs = absl::StrCat("HYLL\x01", std::string(11, '\0'));
  for (size_t i = 0; i < registers.size();) {
    size_t end = i;
    while (end < registers.size() && registers[end] == registers[i]) ++end;
    const int value = registers[i];
    size_t length = end - i;
    if (value != 0) length = std::min<size_t>(length, 4);
    if (value != 0) {
      runs.push_back(static_cast<char>(0x80 | (value - 1) << 2 | (length - 1)));
    } else if (length <= 64) {
      runs.push_back(static_cast<char>(length - 1));
    } else {
      runs.push_back(static_cast<char>(0x40 | (length - 1) >> 8));
      runs.push_back(static_cast<char>((length - 1) & 255));
    }
    i += length;
  }
  return runs;
}

// What PFADD makes of so many different elements.
std::string Registers(uint64_t elements, std::mt19937_64* random) {
  std::string registers(1 << 14, '\0');
  for (uint64_t i = 0; i < elements; ++i) {
    const uint64_t hash = (*random)();
    const auto count = static_cast<char>(__builtin_ctzll(hash >> 14 | uint64_t{1} << 50) + 1);
    char& own = registers[hash & ((1 << 14) - 1)];
    own = std::max(own, count);
  }
  return registers;
}

TEST(HyperLogLogTest, ValuesOfAServerAreCounted) {
  HyperLogLog both;
  EXPECT_EQ(both.Count(), 0u);
  ASSERT_EQ(both.Merge(kThree), Outcome::kOk);
  EXPECT_EQ(both.Count(), 3u);
  ASSERT_EQ(both.Merge(kFive), Outcome::kOk);
  EXPECT_EQ(both.Count(), 7u);
  ASSERT_EQ(both.Merge(kThree), Outcome::kOk);
  EXPECT_EQ(both.Count(), 7u);
}

TEST(HyperLogLogTest, DenseAndSparseSayTheSame) {
  std::mt19937_64 random(7);
  for (const uint64_t elements : {0, 1, 100, 5000}) {
    const std::string registers = Registers(elements, &random);
    HyperLogLog dense, sparse;
    ASSERT_EQ(dense.Merge(Dense(registers)), Outcome::kOk);
    ASSERT_EQ(sparse.Merge(Sparse(registers)), Outcome::kOk);
    EXPECT_EQ(dense.Count(), sparse.Count());
    EXPECT_NEAR(static_cast<double>(dense.Count()), static_cast<double>(elements),
                static_cast<double>(elements) * 0.03);
  }
}

TEST(HyperLogLogTest, TheOrderOfMergesDoesNotMatterNorDoRepetitions) {
  std::mt19937_64 random(11);
  const std::string a = Dense(Registers(100000, &random));
  const std::string b = Sparse(Registers(300, &random));
  HyperLogLog ab, baa;
  ASSERT_EQ(ab.Merge(a), Outcome::kOk);
  ASSERT_EQ(ab.Merge(b), Outcome::kOk);
  for (const std::string& value : {b, a, a}) ASSERT_EQ(baa.Merge(value), Outcome::kOk);
  EXPECT_EQ(ab.Count(), baa.Count());
  EXPECT_NEAR(static_cast<double>(ab.Count()), 100300.0, 3000.0);
}

TEST(HyperLogLogTest, FullRegistersAreCounted) {
  HyperLogLog full;
  ASSERT_EQ(full.Merge(Dense(std::string(1 << 14, '\x33'))), Outcome::kOk);
  EXPECT_GT(full.Count(), uint64_t{1} << 60);
}

TEST(HyperLogLogTest, OtherContentsAreRefused) {
  const std::string dense = Dense(std::string(1 << 14, '\x01'));
  for (const std::string& value :
       {std::string(), std::string("HYLL"), std::string("text that is long enough"),
        dense.substr(0, dense.size() - 1), dense + "x",
        absl::StrCat("HYLL\x02", std::string(11, '\0'), "\x7f\xff")}) {
    HyperLogLog log;
    EXPECT_EQ(log.Merge(value), Outcome::kNotOne) << absl::CHexEscape(value.substr(0, 20));
  }
}

TEST(HyperLogLogTest, RunsThatDoNotFitAreCorrupted) {
  for (size_t size = 16; size < kThree.size(); ++size) {
    HyperLogLog log;
    EXPECT_EQ(log.Merge(kThree.substr(0, size)), Outcome::kCorrupted) << size;
  }
  for (const absl::string_view more : {absl::string_view("\x00", 1), absl::string_view("\x80")}) {
    HyperLogLog log;
    EXPECT_EQ(log.Merge(absl::StrCat(kThree, more)), Outcome::kCorrupted);
  }
}

}  // namespace
}  // namespace proxy
