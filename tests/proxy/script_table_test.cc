#include "proxy/script_table.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "proxy/sha1.h"

namespace proxy {
namespace {

using Origin = ScriptTable::Origin;

void Add(ScriptTable* table, const std::string& text, Origin origin) {
  table->Add(Sha1Hex(text), text, origin);
}
bool Has(ScriptTable* table, const std::string& text) {
  const auto found = table->Find(Sha1Hex(text));
  return found != nullptr && *found == text;
}

// FIPS 180-2, appendix A.
TEST(Sha1Test, GivesTheStandardsDigestsInLowerCase) {
  EXPECT_EQ(Sha1Hex(""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
  EXPECT_EQ(Sha1Hex("abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
}

TEST(ScriptTableTest, FindsWhatWasAddedByItsNameInAnyCase) {
  ScriptTable table;
  EXPECT_FALSE(Has(&table, "return 1"));
  Add(&table, "return 1", Origin::kRun);
  EXPECT_TRUE(Has(&table, "return 1"));
  EXPECT_NE(table.Find(absl::AsciiStrToUpper(Sha1Hex("return 1"))), nullptr);
  EXPECT_EQ(table.Find("return 1"), nullptr);
  EXPECT_EQ(table.scripts(), 1u);
  EXPECT_EQ(table.bytes(), 8u);
  table.Clear();
  EXPECT_FALSE(Has(&table, "return 1"));
  EXPECT_EQ(table.bytes(), 0u);
  EXPECT_EQ(table.clears(), 1u);
}

TEST(ScriptTableTest, WhatWasOnlyRunGoesFirstAndTheOldestOfThat) {
  ScriptTable table;
  Add(&table, "loaded", Origin::kLoaded);
  Add(&table, "called", Origin::kRun);
  EXPECT_TRUE(Has(&table, "called"));
  for (size_t i = 0; i < ScriptTable::kOnlyRunMax + 10; ++i) {
    Add(&table, absl::StrCat("run ", i), Origin::kRun);
    Add(&table, "run 0", Origin::kRun);  // in use all the time
  }
  EXPECT_EQ(table.scripts(), ScriptTable::kOnlyRunMax + 2);
  EXPECT_TRUE(Has(&table, "loaded"));
  EXPECT_TRUE(Has(&table, "called"));
  EXPECT_TRUE(Has(&table, "run 0"));
  EXPECT_FALSE(Has(&table, "run 1"));
}

TEST(ScriptTableTest, KeepsNoMoreBytesThanItsLimit) {
  ScriptTable table;
  const std::string much(ScriptTable::kTextBytesMax - 8, 'x');
  for (size_t i = 0; i < 40; ++i) Add(&table, absl::StrCat(much, i), Origin::kLoaded);
  EXPECT_LE(table.bytes(), ScriptTable::kBytesMax);
  EXPECT_TRUE(Has(&table, absl::StrCat(much, 39)));
  EXPECT_FALSE(Has(&table, absl::StrCat(much, 0)));
  Add(&table, std::string(ScriptTable::kTextBytesMax + 1, 'x'), Origin::kLoaded);
  EXPECT_TRUE(Has(&table, absl::StrCat(much, 39)));
}

TEST(ScriptTableTest, TellsThoseThatAreCalledByNameTheLastUsedFirst) {
  ScriptTable table;
  for (const char* text : {"one", "two", "three"}) Add(&table, text, Origin::kLoaded);
  Add(&table, "run", Origin::kRun);
  Add(&table, "one", Origin::kRun);
  const auto names = [&](size_t bytes_max, size_t count_max) {
    std::string texts;
    for (const auto& known : table.CalledByName(bytes_max, count_max)) {
      EXPECT_EQ(known.name, Sha1Hex(*known.text));
      absl::StrAppend(&texts, *known.text, " ");
    }
    return texts;
  };
  EXPECT_EQ(names(100, 100), "one three two ");
  EXPECT_EQ(names(100, 2), "one three ");
  EXPECT_EQ(names(8, 100), "one three ");
  EXPECT_EQ(names(7, 100), "one ");
}

TEST(EvalRecorderTest, TellsOfEachTextOnceInAWhile) {
  ScriptTable table;
  EvalRecorder recorder(&table);
  absl::Time now = absl::UnixEpoch();
  recorder.Note("return 1", now);
  EXPECT_TRUE(Has(&table, "return 1"));
  // Another text of the same size.
  recorder.Note("return 2", now);
  EXPECT_TRUE(Has(&table, "return 2"));
  table.Clear();
  recorder.Note("return 1", now);
  EXPECT_TRUE(Has(&table, "return 1"));
  for (const size_t size : {0, 1, 7, 8, 31, 32, 33, 64, 1000}) {
    const std::string text(size, 'y');
    recorder.Note(text, now);
    EXPECT_TRUE(Has(&table, text)) << size;
    if (size == 0) continue;
    std::string other = text;
    other.back() = 'z';
    recorder.Note(other, now);
    EXPECT_TRUE(Has(&table, other)) << size;
  }
}

TEST(EvalRecorderTest, TextsThatAreAlwaysNewCostSoMuchAtMost) {
  ScriptTable table;
  EvalRecorder recorder(&table);
  absl::Time now = absl::UnixEpoch();
  for (int i = 0; i < 5000; ++i) recorder.Note(absl::StrCat("return ", i), now);
  EXPECT_EQ(table.scripts(), 500u);
  now += absl::Seconds(1);
  for (int i = 5000; i < 10000; ++i) recorder.Note(absl::StrCat("return ", i), now);
  EXPECT_EQ(table.scripts(), 600u);
  // What was learned is not new.
  now += absl::Seconds(60);
  for (int i = 0; i < 5000; ++i) recorder.Note("return 9999", now);
  recorder.Note("return 1", now);
  EXPECT_TRUE(Has(&table, "return 1"));
}

}  // namespace
}  // namespace proxy
