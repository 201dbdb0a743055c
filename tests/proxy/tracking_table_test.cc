// What clients have read (proxy/tracking_table.h).

#include "proxy/tracking_table.h"

#include <map>
#include <random>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace proxy {
namespace {

using Reader = TrackingTable::Reader;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr TrackingTable::Limits kNoLimits = {1000000, 1 << 30};

TEST(TrackingTableTest, AKeyIsThereUntilItIsTaken) {
  TrackingTable table(kNoLimits);
  table.Note("a", {7, 1});
  table.Note("b", {7, 1});
  table.Note("a", {3, 1});
  table.Note("a", {7, 1});
  EXPECT_EQ(table.keys(), 2u);
  EXPECT_EQ(table.items(), 3u);
  EXPECT_THAT(table.Take("a"), ElementsAre(Reader{3, 1}, Reader{7, 1}));
  EXPECT_THAT(table.Take("a"), IsEmpty());
  EXPECT_THAT(table.Take("c"), IsEmpty());
  EXPECT_THAT(table.Take("b"), ElementsAre(Reader{7, 1}));
  EXPECT_EQ(table.keys(), 0u);
  EXPECT_EQ(table.items(), 0u);
  EXPECT_EQ(table.bytes(), 0u);
}

TEST(TrackingTableTest, ALaterSessionOfAClientStandsForAnEarlierOne) {
  TrackingTable table(kNoLimits);
  table.Note("a", {7, 1});
  table.Note("a", {7, 2});
  EXPECT_EQ(table.items(), 1u);
  EXPECT_THAT(table.Take("a"), ElementsAre(Reader{7, 2}));
}

TEST(TrackingTableTest, TheKeysNotedLongestAgoGoFirst) {
  TrackingTable table({.items = 3, .bytes = 1 << 20});
  for (const char* key : {"a", "b", "c"}) table.Note(key, {1, 1});
  EXPECT_FALSE(table.over_limits());
  table.Note("a", {2, 1});
  ASSERT_TRUE(table.over_limits());
  std::string key;
  EXPECT_THAT(table.TakeOldest(&key), ElementsAre(Reader{1, 1}, Reader{2, 1}));
  EXPECT_EQ(key, "a");
  EXPECT_FALSE(table.over_limits());
  table.Take("b");
  EXPECT_THAT(table.TakeOldest(&key), ElementsAre(Reader{1, 1}));
  EXPECT_EQ(key, "c");
}

TEST(TrackingTableTest, LongKeysAndManyReadersCountByTheirBytes) {
  TrackingTable table({.items = 1000000, .bytes = 100000});
  const std::string key(60000, 'k');
  table.Note(key, {1, 1});
  EXPECT_FALSE(table.over_limits());
  table.Note(absl::StrCat(key, "2"), {1, 1});
  EXPECT_TRUE(table.over_limits());
  table.Take(key);
  EXPECT_FALSE(table.over_limits());
  for (uint32_t client = 0; client < 20000; ++client) table.Note("a", {client, 1});
  EXPECT_TRUE(table.over_limits());
}

TEST(TrackingTableTest, ALargeTableIsFreedByAndBy) {
  TrackingTable table(kNoLimits);
  for (int i = 0; i < 2500; ++i) table.Note(absl::StrCat("k", i), {1, 1});
  const size_t bytes = table.bytes();
  table.Clear();
  EXPECT_EQ(table.keys(), 0u);
  EXPECT_EQ(table.items(), 0u);
  EXPECT_EQ(table.bytes(), bytes);
  EXPECT_THAT(table.Take("k1"), IsEmpty());
  table.Note("k1", {2, 1});
  int steps = 0;
  for (; table.has_to_free(); ++steps) table.FreeSome();
  EXPECT_EQ(steps, 3);
  EXPECT_LT(table.bytes(), bytes / 100);
  EXPECT_THAT(table.Take("k1"), ElementsAre(Reader{2, 1}));
  EXPECT_EQ(table.bytes(), 0u);
}

TEST(TrackingTableTest, AgreesWithAModel) {
  std::mt19937_64 random(1);
  TrackingTable table(kNoLimits);
  std::map<std::string, std::map<uint32_t, uint32_t>> model;
  for (int step = 0; step < 20000; ++step) {
    const std::string key = absl::StrCat("k", random() % 200);
    if (random() % 3 == 0) {
      std::map<uint32_t, uint32_t> readers;
      for (const Reader& reader : table.Take(key)) {
        readers[reader.client] = reader.session;
      }
      ASSERT_EQ(readers, (std::exchange(model[key], {})));
    } else if (random() % 2000 == 0) {
      table.Clear();
      table.FreeSome();
      model.clear();
    } else {
      const Reader reader = {static_cast<uint32_t>(random() % 10),
                             static_cast<uint32_t>(random() % 3)};
      table.Note(key, reader);
      model[key][reader.client] = reader.session;
    }
  }
  size_t items = 0;
  for (const auto& [key, readers] : model) items += readers.size();
  EXPECT_EQ(table.items(), items);
}

}  // namespace
}  // namespace proxy
