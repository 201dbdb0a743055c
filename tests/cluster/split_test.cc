#include "cluster/split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace cluster {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(SplitTest, KeysAreGroupedBySlotInTheOrderOfTheirFirst) {
  SplitPlanner planner;
  SplitPlan plan;
  planner.Plan(std::vector<Slot>{7, 3, 7, 16383, 3, 7}, &plan);
  ASSERT_EQ(plan.fragments.size(), 3u);
  EXPECT_EQ(plan.fragments[0].slot, 7);
  EXPECT_THAT(plan.KeysOf(plan.fragments[0]), ElementsAre(0, 2, 5));
  EXPECT_EQ(plan.fragments[1].slot, 3);
  EXPECT_THAT(plan.KeysOf(plan.fragments[1]), ElementsAre(1, 4));
  EXPECT_EQ(plan.fragments[2].slot, 16383);
  EXPECT_THAT(plan.KeysOf(plan.fragments[2]), ElementsAre(3));
  EXPECT_THAT(plan.fragment_of_key, ElementsAre(0, 1, 0, 2, 1, 0));
}

TEST(SplitTest, NoKeysGiveNoFragments) {
  SplitPlanner planner;
  SplitPlan plan;
  planner.Plan(std::vector<Slot>{1}, &plan);
  planner.Plan({}, &plan);
  EXPECT_THAT(plan.fragments, IsEmpty());
  EXPECT_THAT(plan.fragment_of_key, IsEmpty());
}

// Few keys are searched, many are looked up, and one plan serves requests of both kinds in turn.
TEST(SplitTest, EveryKeyIsInTheFragmentOfItsSlotOnceWhateverThePlanHeldBefore) {
  std::mt19937 random(1);
  SplitPlanner planner;
  SplitPlan plan;
  for (int round = 0; round < 300; ++round) {
    const size_t key_count = random() % (round % 3 == 0 ? 3000 : 40);
    const uint32_t slot_count = round % 2 == 0 ? kSlotCount : 5;
    std::vector<Slot> slots(key_count);
    for (Slot& slot : slots) slot = static_cast<Slot>(random() % slot_count);
    planner.Plan(slots, &plan);

    ASSERT_EQ(plan.fragment_of_key.size(), key_count);
    size_t keys_seen = 0;
    uint32_t last_first = 0;
    for (size_t f = 0; f < plan.fragments.size(); ++f) {
      const SplitFragment& fragment = plan.fragments[f];
      const absl::Span<const uint32_t> keys = plan.KeysOf(fragment);
      ASSERT_FALSE(keys.empty());
      ASSERT_TRUE(f == 0 || keys.front() > last_first);
      last_first = keys.front();
      keys_seen += keys.size();
      for (size_t i = 0; i < keys.size(); ++i) {
        const uint32_t key = keys[i];
        ASSERT_TRUE(i == 0 || key > keys[i - 1]);
        ASSERT_EQ(slots[key], fragment.slot);
        ASSERT_EQ(plan.fragment_of_key[key], f);
      }
      for (size_t g = 0; g < f && key_count < 100; ++g) {
        ASSERT_NE(plan.fragments[g].slot, fragment.slot);
      }
    }
    ASSERT_EQ(keys_seen, key_count);
  }
}

TEST(SplitTest, AllSlotsAtOnce) {
  std::vector<Slot> slots;
  for (int slot = kSlotCount - 1; slot >= 0; --slot) slots.push_back(static_cast<Slot>(slot));
  SplitPlanner planner;
  SplitPlan plan;
  planner.Plan(slots, &plan);
  ASSERT_EQ(plan.fragments.size(), static_cast<size_t>(kSlotCount));
  EXPECT_EQ(plan.fragments.back().slot, 0);
  EXPECT_THAT(plan.KeysOf(plan.fragments.back()), ElementsAre(kSlotCount - 1));
}

struct Part {
  std::string reply;
  bool may_have_run = true;
};

struct MergeCase {
  std::string name;
  Merge merge;
  std::vector<Part> parts;
  std::string reply;
};

TEST(MergedStatusTest, PartsBecomeOneReply) {
  const std::string protocol = "ERR proxy: backend protocol error";
  const MergeCase cases[] = {
      {"sum", Merge::kSum, {{":2\r\n"}, {":0\r\n"}, {":40\r\n"}}, ":42\r\n"},
      {"sum of one", Merge::kSum, {{":1\r\n"}}, ":1\r\n"},
      {"all ok", Merge::kAllSucceeded, {{"+OK\r\n"}, {"+OK\r\n"}}, "+OK\r\n"},
      // semantics.md, "split over slots".
      {"one failed, others ran",
       Merge::kAllSucceeded,
       {{"+OK\r\n"}, {"-OOM command not allowed when used memory > 'maxmemory'.\r\n", false}},
       "-ERR proxy: partly executed, OOM command not allowed when used memory > 'maxmemory'."
       " (outcome unknown)\r\n"},
      {"the suffix is replaced: unknown",
       Merge::kSum,
       {{"-ERR proxy: backend timeout (outcome unknown)\r\n"}, {":1\r\n"}},
       "-ERR proxy: partly executed, ERR proxy: backend timeout (outcome unknown)\r\n"},
      {"the suffix is replaced: not executed",
       Merge::kSum,
       {{":1\r\n"},
        {"-CLUSTERDOWN proxy: slot 5 has no reachable owner (not executed)\r\n", false}},
       "-ERR proxy: partly executed, CLUSTERDOWN proxy: slot 5 has no reachable owner"
       " (outcome unknown)\r\n"},
      {"none ran",
       Merge::kAllSucceeded,
       {{"-CLUSTERDOWN proxy: slot 5 has no reachable owner (not executed)\r\n", false},
        {"-CLUSTERDOWN proxy: slot 6 has no reachable owner (not executed)\r\n", false}},
       "-CLUSTERDOWN proxy: slot 5 has no reachable owner (not executed)\r\n"},
      {"the first error counts, whoever ran",
       Merge::kAllSucceeded,
       {{"-A one\r\n", false}, {"-B two\r\n", true}},
       "-ERR proxy: partly executed, A one (outcome unknown)\r\n"},
      {"only the last suffix goes",
       Merge::kSum,
       {{"-ERR (outcome unknown) (not executed)\r\n"}},
       "-ERR proxy: partly executed, ERR (outcome unknown) (outcome unknown)\r\n"},
      {"a status that is not OK",
       Merge::kAllSucceeded,
       {{"+QUEUED\r\n"}},
       "-ERR proxy: partly executed, " + protocol + " (outcome unknown)\r\n"},
      {"a number for a status",
       Merge::kAllSucceeded,
       {{":1\r\n"}},
       "-ERR proxy: partly executed, " + protocol + " (outcome unknown)\r\n"},
      {"a status for a number",
       Merge::kSum,
       {{"+OK\r\n"}},
       "-ERR proxy: partly executed, " + protocol + " (outcome unknown)\r\n"},
      {"a sum that overflows",
       Merge::kSum,
       {{":9223372036854775807\r\n"}, {":1\r\n"}},
       "-ERR proxy: partly executed, " + protocol + " (outcome unknown)\r\n"},
      {"an empty error is one", Merge::kSum, {{"-\r\n", false}}, "-ERR\r\n"},
  };
  for (const MergeCase& c : cases) {
    SCOPED_TRACE(c.name);
    MergedStatus merged(c.merge);
    for (const Part& part : c.parts) merged.Add(part.reply, part.may_have_run);
    EXPECT_EQ(merged.Reply(), c.reply);
    EXPECT_EQ(merged.failed(), c.reply.front() == '-');
  }
}

TEST(MergedStatusTest, AnArrayIsTheFormOfARepliesInKeyOrder) {
  MergedStatus merged(Merge::kInKeyOrder);
  merged.Add("*1\r\n$1\r\na\r\n", true);
  EXPECT_FALSE(merged.failed());
  merged.Add("-LOADING x\r\n", false);
  EXPECT_TRUE(merged.failed());
  EXPECT_EQ(merged.Reply(), "-ERR proxy: partly executed, LOADING x (outcome unknown)\r\n");
}

}  // namespace
}  // namespace cluster
