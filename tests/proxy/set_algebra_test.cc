#include "proxy/set_algebra.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "proxy/cross_slot.h"

namespace proxy {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

using Members = std::vector<ScoredMember>;

struct Operand {
  Members members;
  double weight = 1;
};

std::string Combined(SetOperation operation, Aggregate aggregate,
                     const std::vector<Operand>& operands) {
  std::vector<uint64_t> sizes;
  for (const Operand& operand : operands) sizes.push_back(operand.members.size());
  SetCombination combination(operation, aggregate);
  for (const uint32_t i : OrderOfOperands(operation, sizes)) {
    combination.Add(operands[i].members, operands[i].weight);
  }
  const uint64_t size = combination.size();
  const Members result = combination.TakeSorted();
  EXPECT_EQ(result.size(), size);
  return absl::StrJoin(result, " ", [](std::string* out, const ScoredMember& member) {
    absl::StrAppend(out, member.name, "=", ScoreText(member.score, true));
  });
}

// Known answers of redis-server 7.0.
TEST(SetAlgebraTest, ScoresAreAggregatedAsTheServersDo) {
  const Members a = {{"x", 1}, {"y", 2}};
  const Members b = {{"y", 3}, {"z", kInf}};
  const Members c = {{"y", -kInf}, {"z", -kInf}};
  struct Case {
    const char* name;
    SetOperation operation;
    Aggregate aggregate;
    std::vector<Operand> operands;
    std::string result;
  };
  const std::vector<Case> cases = {
      {"union", SetOperation::kUnion, Aggregate::kSum, {{a}, {b}}, "x=1 y=5 z=inf"},
      {"weights", SetOperation::kUnion, Aggregate::kSum, {{a, 2}, {b, -1}}, "z=-inf y=1 x=2"},
      {"min", SetOperation::kUnion, Aggregate::kMin, {{a}, {b}}, "x=1 y=2 z=inf"},
      {"max", SetOperation::kUnion, Aggregate::kMax, {{a}, {b}}, "x=1 y=3 z=inf"},
      {"inf and -inf are 0", SetOperation::kUnion, Aggregate::kSum, {{b}, {c}}, "y=-inf z=0"},
      {"inf times 0 is 0", SetOperation::kUnion, Aggregate::kSum, {{b, 0}}, "y=0 z=0"},
      {"intersection", SetOperation::kInter, Aggregate::kSum, {{a}, {b}}, "y=5"},
      {"difference", SetOperation::kDiff, Aggregate::kSum, {{a}, {b}}, "x=1"},
      {"of none", SetOperation::kInter, Aggregate::kSum, {{a}, {{}}}, ""},
      {"from none", SetOperation::kDiff, Aggregate::kSum, {{{}}, {a}}, ""},
      {"of itself", SetOperation::kInter, Aggregate::kSum, {{a, 1}, {a, 10}}, "x=11 y=22"},
      {"minus itself", SetOperation::kDiff, Aggregate::kSum, {{a}, {a}}, ""},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    EXPECT_EQ(Combined(test.operation, test.aggregate, test.operands), test.result);
  }
}

TEST(SetAlgebraTest, EqualScoresAreInTheOrderOfTheBytes) {
  EXPECT_EQ(Combined(SetOperation::kUnion, Aggregate::kSum,
                     {{{{"b", 1}, {"\xff", 1}, {"", 1}, {"B", 1}, {"ba", 1}, {"a", -1}}}}),
            "a=-1 =1 B=1 b=1 ba=1 \xff=1");
}

TEST(SetAlgebraTest, TheSmallestOperandIsFirstButForADifference) {
  EXPECT_EQ(OrderOfOperands(SetOperation::kUnion, {3, 1, 3, 0, 1}),
            (std::vector<uint32_t>{3, 1, 4, 0, 2}));
  EXPECT_EQ(OrderOfOperands(SetOperation::kDiff, {3, 1, 2}), (std::vector<uint32_t>{0, 1, 2}));
}

TEST(SetAlgebraTest, WhatStaysEmptyIsKnown) {
  SetCombination inter(SetOperation::kInter, Aggregate::kSum);
  EXPECT_FALSE(inter.stays_empty());
  inter.Add(Members{{"a"}}, 1);
  EXPECT_FALSE(inter.stays_empty());
  inter.Add(Members{{"b"}}, 1);
  EXPECT_TRUE(inter.stays_empty());
  SetCombination all(SetOperation::kUnion, Aggregate::kSum);
  all.Add({}, 1);
  EXPECT_FALSE(all.stays_empty());
}

// Against the definitions, on random operands with whole scores, whose sums are exact.
TEST(SetAlgebraTest, ResultsAreThoseOfTheDefinitions) {
  std::vector<std::string> names;
  for (int i = 0; i < 12; ++i) names.push_back(absl::StrCat("m", i));
  std::mt19937 random(3);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<uint32_t>(n)); };
  for (int round = 0; round < 3000; ++round) {
    const auto operation = static_cast<SetOperation>(below(3));
    const auto aggregate = static_cast<Aggregate>(below(3));
    std::vector<Operand> operands(static_cast<size_t>(1 + below(4)));
    for (Operand& operand : operands) {
      operand.weight = operation == SetOperation::kDiff ? 1 : below(7) - 3;
      std::vector<std::string> shuffled = names;
      std::shuffle(shuffled.begin(), shuffled.end(), random);
      const int size = below(static_cast<int>(names.size()) + 1);
      for (const std::string& name : names) {
        const bool in =
            std::find(shuffled.begin(), shuffled.begin() + size, name) != shuffled.begin() + size;
        if (in) operand.members.push_back({name, static_cast<double>(below(100) - 50)});
      }
    }
    std::set<std::pair<double, std::string>> expected;
    for (const std::string& name : names) {
      std::vector<double> scores;  // where it is
      for (const Operand& operand : operands) {
        for (const ScoredMember& member : operand.members) {
          if (member.name == name) scores.push_back(member.score * operand.weight);
        }
      }
      const Members& first = operands[0].members;
      const bool in_first =
          std::any_of(first.begin(), first.end(),
                      [&](const ScoredMember& member) { return member.name == name; });
      bool in = !scores.empty();
      if (operation == SetOperation::kInter) in = scores.size() == operands.size();
      if (operation == SetOperation::kDiff) in = in_first && scores.size() == 1;
      if (!in) continue;
      double score = scores[0];
      for (size_t i = 1; i < scores.size(); ++i) {
        score = aggregate == Aggregate::kSum   ? score + scores[i]
                : aggregate == Aggregate::kMin ? std::min(score, scores[i])
                                               : std::max(score, scores[i]);
      }
      expected.emplace(score + 0.0, name);  // no -0
    }
    std::vector<uint64_t> sizes;
    for (const Operand& operand : operands) sizes.push_back(operand.members.size());
    SetCombination combination(operation, aggregate);
    for (const uint32_t i : OrderOfOperands(operation, sizes)) {
      combination.Add(operands[i].members, operands[i].weight);
    }
    const Members result = combination.TakeSorted();
    ASSERT_EQ(result.size(), expected.size()) << round;
    size_t at = 0;
    for (const auto& [score, name] : expected) {
      ASSERT_EQ(result[at].name, name) << round;
      ASSERT_EQ(result[at++].score, score) << round;
    }
  }
}

// ZADD and ZRANGE WITHSCORES of redis-server 7.0.15 and valkey-server 8.0.1.
TEST(ScoreTextTest, ScoresAreWrittenAsTheServersDo) {
  struct Case {
    double score;
    const char* before;
    const char* since;
  };
  const Case cases[] = {
      {0, "0", "0"},
      {-0.0, "-0", "-0"},
      {kInf, "inf", "inf"},
      {-kInf, "-inf", "-inf"},
      {3, "3", "3"},
      {-3.5, "-3.5", "-3.5"},
      {0.1, "0.10000000000000001", "0.1"},
      {0.1 + 0.2, "0.30000000000000004", "0.30000000000000004"},
      {1.5e-7, "1.4999999999999999e-07", "1.5e-7"},
      {1e-5, "1.0000000000000001e-05", "0.00001"},
      {0.000123456, "0.00012345600000000001", "1.23456e-4"},
      {3e10, "30000000000", "30000000000"},
      {123456.789e10, "1234567890000000", "1234567890000000"},
      {1e17, "1e+17", "100000000000000000"},
      {123456789012345678.0, "1.2345678901234568e+17", "123456789012345680"},
      {4611686018427387904.0, "4.6116860184273879e+18", "4611686018427387904"},
      {73786976294838206000.0, "7.3786976294838206e+19", "73786976294838210000"},
      {1e20, "1e+20", "1e+20"},
      {1e21, "1e+21", "1e+21"},
      {5e-324, "4.9406564584124654e-324", "5e-324"},
      {1.7976931348623157e308, "1.7976931348623157e+308", "1.7976931348623157e+308"},
  };
  for (const Case& test : cases) {
    EXPECT_EQ(ScoreText(test.score, true), test.before);
    EXPECT_EQ(ScoreText(test.score, false), test.since);
  }
}

TEST(ScoreTextTest, EveryTextReadsBackAsTheScore) {
  std::mt19937_64 random(5);
  for (int i = 0; i < 100000; ++i) {
    const uint64_t bits = random();
    double score = 0;
    memcpy(&score, &bits, sizeof(score));
    if (!std::isfinite(score)) continue;
    for (const bool before : {true, false}) {
      double back = 0;
      const std::string text = ScoreText(score, before);
      ASSERT_TRUE(ParseServerDouble(text, &back)) << text;
      ASSERT_EQ(back, score) << text;
    }
  }
}

TEST(ServerDoubleTest, TakesWhatTheServersTake) {
  double value = 0;
  for (const auto& [text, wanted] : std::vector<std::pair<std::string, double>>{{"1", 1},
                                                                                {"-2.5", -2.5},
                                                                                {"+3", 3},
                                                                                {"1e3", 1000},
                                                                                {"inf", kInf},
                                                                                {"-INF", -kInf},
                                                                                {"+infinity", kInf},
                                                                                {"0x10", 16},
                                                                                {".5", 0.5}}) {
    EXPECT_TRUE(ParseServerDouble(text, &value)) << text;
    EXPECT_EQ(value, wanted) << text;
  }
  for (const absl::string_view text :
       {"", " 1", "1 ", "x", "1x", "nan", "-nan", "1e400", "-1e400", "1e-400"}) {
    EXPECT_FALSE(ParseServerDouble(text, &value)) << text;
  }
  EXPECT_FALSE(ParseServerDouble(absl::string_view("1\0", 2), &value));
}

// What the table says of --cross-slot split is what the code does.
TEST(OverSlotsTest, EveryCommandOfTheTableHasItsProcedure) {
  const std::map<std::string, std::vector<absl::string_view>> rest = {
      {"SINTERCARD", {"2", "a", "b"}},  {"ZUNION", {"2", "a", "b"}},
      {"ZINTER", {"2", "a", "b"}},      {"ZDIFF", {"2", "a", "b"}},
      {"ZINTERCARD", {"2", "a", "b"}},  {"ZUNIONSTORE", {"c", "2", "a", "b"}},
      {"ZINTERSTORE", {"c", "1", "a"}}, {"ZDIFFSTORE", {"c", "2", "a", "b", "OPTION"}},
      {"SUNIONSTORE", {"c", "a", "b"}},
  };
  size_t flagged = 0;
  for (const cluster::CommandSpec& command : cluster::AllCommands()) {
    std::vector<absl::string_view> args = {command.name};
    const auto it = rest.find(std::string(command.name));
    const std::vector<absl::string_view> others =
        it == rest.end() ? std::vector<absl::string_view>{"a", "b"} : it->second;
    args.insert(args.end(), others.begin(), others.end());
    std::vector<uint32_t> keys;
    if (cluster::FindKeyIndexes(command, args, &keys) != cluster::KeySearch::kOk) continue;
    const bool over_slots = (command.flags & cluster::kFlagOverSlots) != 0;
    if (keys.size() < 2) {
      EXPECT_FALSE(over_slots) << command.name;
      continue;
    }
    flagged += over_slots ? 1 : 0;
    EXPECT_EQ(MakeOverSlots(nullptr, command, args, keys) != nullptr, over_slots) << command.name;
  }
  EXPECT_EQ(flagged, 18u);
}

}  // namespace
}  // namespace proxy
