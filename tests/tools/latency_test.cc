#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <ctime>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cluster/slot.h"
#include "io/socket.h"
#include "resp/scanner.h"
#include "resp/views.h"
#include "tools/latency/histogram.h"
#include "tools/latency/options.h"
#include "tools/latency/process.h"
#include "tools/latency/report.h"
#include "tools/latency/schedule.h"
#include "tools/latency/workload.h"

namespace latency {
namespace {

// --- Histogram

TEST(HistogramTest, QuantilesAreThoseOfTheSortedValuesWithinOnePercent) {
  Random random(7);
  Histogram histogram;
  std::vector<int64_t> values;
  for (int i = 0; i < 20000; ++i) {
    // Of all magnitudes from 1 to 2^39.
    values.push_back(static_cast<int64_t>(std::pow(2, random.Share() * 39)));
    histogram.Record(values.back());
  }
  std::sort(values.begin(), values.end());
  for (const double share : {0.0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 0.99999, 1.0}) {
    SCOPED_TRACE(share);
    const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(values.size())));
    const auto exact = static_cast<double>(values[std::max<size_t>(rank, 1) - 1]);
    const auto found = static_cast<double>(histogram.Quantile(share));
    EXPECT_GE(found, exact);
    EXPECT_LE(found, exact * 1.01 + 1);
  }
  EXPECT_EQ(histogram.count(), values.size());
  EXPECT_EQ(histogram.max(), values.back());
  EXPECT_EQ(histogram.Quantile(1), values.back());
}

TEST(HistogramTest, SmallValuesAreExact) {
  for (int64_t value = 0; value < 256; ++value) {
    Histogram histogram;
    histogram.Record(value);
    histogram.Record(1000000);
    EXPECT_EQ(histogram.Quantile(0.5), value);
  }
}

TEST(HistogramTest, NothingRecordedIsZero) {
  const Histogram histogram;
  EXPECT_EQ(histogram.Quantile(0.5), 0);
  EXPECT_EQ(histogram.max(), 0);
  EXPECT_EQ(histogram.mean(), 0);
}

TEST(HistogramTest, WhatIsBeyondItsRangeCountsAndShowsAsTheLargest) {
  Histogram histogram;
  histogram.Record(-5);
  histogram.Record(Histogram::kValueMax);
  histogram.Record(INT64_MAX);
  EXPECT_EQ(histogram.count(), 3u);
  EXPECT_EQ(histogram.Quantile(0.3), 0);
  EXPECT_EQ(histogram.Quantile(1), INT64_MAX);
  EXPECT_EQ(histogram.max(), INT64_MAX);
}

TEST(HistogramTest, MergedIsAsIfRecordedInOne) {
  Random random(3);
  Histogram parts[2];
  Histogram whole;
  for (int i = 0; i < 5000; ++i) {
    const auto value = static_cast<int64_t>(random.Below(1000000));
    parts[i % 2].Record(value);
    whole.Record(value);
  }
  parts[0].Merge(parts[1]);
  EXPECT_EQ(parts[0].count(), whole.count());
  EXPECT_EQ(parts[0].max(), whole.max());
  EXPECT_DOUBLE_EQ(parts[0].mean(), whole.mean());
  for (const double share : {0.1, 0.5, 0.99}) {
    EXPECT_EQ(parts[0].Quantile(share), whole.Quantile(share));
  }
  whole.Clear();
  EXPECT_EQ(whole.count(), 0u);
  EXPECT_EQ(whole.Quantile(0.9), 0);
}

// --- Schedule

TEST(ScheduleTest, DueAreThoseWhoseTimeHasCome) {
  for (const double rate : {0.5, 3.0, 7000.0, 999999.0, 12345678.9}) {
    SCOPED_TRACE(rate);
    const Schedule schedule(rate, 1000);
    EXPECT_EQ(schedule.DueBy(999), 0u);
    EXPECT_EQ(schedule.DueBy(1000), 1u);
    for (const uint64_t n : {uint64_t{1}, uint64_t{2}, uint64_t{12345}, uint64_t{1000000000}}) {
      const int64_t time = schedule.TimeOf(n);
      EXPECT_GT(schedule.DueBy(time), n);
      EXPECT_LE(schedule.DueBy(time - 1), n);
    }
  }
}

TEST(ScheduleTest, NothingAddsUpOverADay) {
  const Schedule schedule(30000, 0);
  EXPECT_EQ(schedule.TimeOf(uint64_t{30000} * 86400), int64_t{86400} * 1000000000);
  EXPECT_EQ(schedule.DueBy(int64_t{86400} * 1000000000 - 1), uint64_t{30000} * 86400);
}

// --- Workload

class StringSink final : public Workload::Sink {
 public:
  std::string* text() override { return &bytes; }
  void AddLarge(io::Slice slice) override { bytes.append(slice.data(), slice.size()); }
  std::string bytes;
};

std::vector<std::string> ArgumentsOf(absl::string_view frame) {
  std::vector<std::string> arguments;
  const resp::Pieces pieces(&frame, 1);
  resp::ArgReader reader(pieces);
  resp::ArgPosition position;
  std::string scratch;
  while (reader.Next(&position)) {
    arguments.emplace_back(resp::ViewAt(pieces, position, &scratch));
  }
  return arguments;
}

// The commands of one request, as a server sees them.
std::vector<std::vector<std::string>> CommandsOf(absl::string_view bytes) {
  std::vector<std::vector<std::string>> commands;
  resp::RequestScanner scanner;
  while (!bytes.empty()) {
    const resp::ScanResult result = scanner.Scan(bytes, resp::RequestLimits());
    EXPECT_EQ(result.status, resp::ScanStatus::kComplete);
    if (result.status != resp::ScanStatus::kComplete) return commands;
    commands.push_back(ArgumentsOf(bytes.substr(0, result.consumed)));
    bytes.remove_prefix(result.consumed);
  }
  return commands;
}

std::string Bulk(absl::string_view text) {
  return absl::StrCat("$", text.size(), "\r\n", text, "\r\n");
}

WorkloadOptions SmallOptions(absl::string_view mix) {
  WorkloadOptions options;
  options.mix = *ParseMix(mix);
  options.keys = 50;
  return options;
}

std::vector<KeySequence> SequencesFor(const WorkloadOptions& options) {
  return *MakeSequences(options, 1, [](uint32_t) { return 0; });
}

struct Judgement {
  Verdict verdict;
  Tally tally;
  std::string why;
};

Judgement JudgeReply(const Workload& workload, const KeySequence& keys, absl::string_view frame,
                     bool apart = false) {
  Judgement judgement;
  judgement.verdict =
      workload.Judge(workload.ops()[0], keys, 0, apart, 0, frame, &judgement.tally, &judgement.why);
  return judgement;
}

TEST(ParseMixTest, TakesRequestsWithWeights) {
  const std::vector<Op> mix = *ParseMix("get:80,set,mget10:3,mset100,del,del5:2,incr,ping");
  std::vector<std::string> texts;
  for (const Op& op : mix) {
    texts.push_back(absl::StrCat(static_cast<int>(op.type), "/", op.keys, "/", op.weight));
  }
  EXPECT_THAT(texts, testing::ElementsAre("0/1/80", "1/1/1", "2/10/3", "3/100/1", "4/1/1", "4/5/2",
                                          "5/1/1", "6/0/1"));
}

TEST(ParseMixTest, RefusesWhatItDoesNotKnow) {
  for (const char* text : {"", ",", "get,", "gett", "get10", "mget", "mget0", "mget99999", "get:0",
                           "get:", "get:x", "get:-1", "mget10x", "10"}) {
    EXPECT_FALSE(ParseMix(text).ok()) << text;
  }
}

TEST(WorkloadTest, WhatItWritesItFindsRight) {
  for (const uint32_t bytes : {8u, 9u, 64u, 1031u, 1032u, 70000u}) {
    SCOPED_TRACE(bytes);
    WorkloadOptions options = SmallOptions("mset10");
    options.value_bytes_min = options.value_bytes_max = bytes;
    const std::vector<KeySequence> keys = SequencesFor(options);
    const Workload writer(options);
    options.mix = *ParseMix("mget10");
    const Workload reader(options);
    Random random(1);
    StringSink sink;
    EXPECT_EQ(writer.Write(writer.ops()[0], keys[0], 0, false, &random, &sink), 1u);
    const auto commands = CommandsOf(sink.bytes);
    ASSERT_EQ(commands.size(), 1u);
    ASSERT_EQ(commands[0].size(), 21u);
    EXPECT_EQ(commands[0][0], "MSET");
    std::map<std::string, std::string> store;
    for (size_t i = 1; i < 21; i += 2) {
      EXPECT_EQ(commands[0][i + 1].size(), bytes);
      store[commands[0][i]] = commands[0][i + 1];
    }
    sink.bytes.clear();
    reader.Write(reader.ops()[0], keys[0], 0, false, &random, &sink);
    std::string reply = "*10\r\n";
    const auto asked = CommandsOf(sink.bytes);
    ASSERT_EQ(asked[0].size(), 11u);
    for (size_t i = 1; i < 11; ++i) reply += Bulk(store.at(asked[0][i]));
    const Judgement judgement = JudgeReply(reader, keys[0], reply);
    EXPECT_EQ(judgement.verdict, Verdict::kRight) << judgement.why;
    EXPECT_EQ(judgement.tally.hits, 10u);
  }
}

TEST(WorkloadTest, EveryChangedByteOfAValueIsFound) {
  WorkloadOptions options = SmallOptions("get");
  options.value_bytes_min = options.value_bytes_max = 100;
  const std::vector<KeySequence> keys = SequencesFor(options);
  const Workload workload(options);
  Random random(1);
  StringSink sink;
  workload.WriteFill(keys[0].at(0), &random, &sink);
  const std::string value = CommandsOf(sink.bytes)[0][2];
  EXPECT_EQ(JudgeReply(workload, keys[0], Bulk(value)).verdict, Verdict::kRight);
  for (size_t i = 0; i < value.size(); ++i) {
    std::string changed = value;
    changed[i] ^= 1;
    EXPECT_EQ(JudgeReply(workload, keys[0], Bulk(changed)).verdict, Verdict::kWrong) << i;
  }
  EXPECT_EQ(JudgeReply(workload, keys[0], Bulk(value + "A")).verdict, Verdict::kWrong);
  EXPECT_EQ(JudgeReply(workload, keys[0], Bulk(value.substr(1))).verdict, Verdict::kWrong);
}

TEST(WorkloadTest, RepliesOfAnotherKindAreWrong) {
  struct Case {
    const char* mix;
    std::string frame;
    Verdict verdict;
  };
  const Case cases[] = {
      {"get", "$-1\r\n", Verdict::kWrong},  // it was filled
      {"get", "_\r\n", Verdict::kWrong},
      {"get:1,del:1", "$-1\r\n", Verdict::kRight},
      {"get:1,del:1", "_\r\n", Verdict::kRight},
      {"get", ":1\r\n", Verdict::kWrong},
      {"get", "+OK\r\n", Verdict::kWrong},
      {"get", "*1\r\n$-1\r\n", Verdict::kWrong},
      {"get", "-ERR no\r\n", Verdict::kError},
      {"get", "!6\r\nERR no\r\n", Verdict::kError},
      {"mget2,del", "*2\r\n$-1\r\n_\r\n", Verdict::kRight},
      {"mget2,del", "*3\r\n$-1\r\n$-1\r\n$-1\r\n", Verdict::kWrong},
      {"mget2,del", "*1\r\n$-1\r\n", Verdict::kWrong},
      {"mget2,del", "*2\r\n$-1\r\n:1\r\n", Verdict::kWrong},
      {"mget2,del", "*-1\r\n", Verdict::kWrong},
      {"mget2,del", "$2\r\nxx\r\n", Verdict::kWrong},
      {"set", "+OK\r\n", Verdict::kRight},
      {"set", "$2\r\nOK\r\n", Verdict::kWrong},
      {"mset2", "+OK\r\n", Verdict::kRight},
      {"mset2", ":1\r\n", Verdict::kWrong},
      {"incr", ":7\r\n", Verdict::kRight},
      {"incr", ":0\r\n", Verdict::kWrong},
      {"incr", "+7\r\n", Verdict::kWrong},
      {"del3", ":3\r\n", Verdict::kRight},
      {"del3", ":0\r\n", Verdict::kRight},
      {"del3", ":4\r\n", Verdict::kWrong},
      {"del3", ":-1\r\n", Verdict::kWrong},
      {"ping", "+PONG\r\n", Verdict::kRight},
      {"ping", "+OK\r\n", Verdict::kWrong},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(absl::StrCat(one.mix, " ", one.frame));
    const WorkloadOptions options = SmallOptions(one.mix);
    const Workload workload(options);
    const Judgement judgement = JudgeReply(workload, SequencesFor(options)[0], one.frame);
    EXPECT_EQ(judgement.verdict, one.verdict);
    EXPECT_EQ(judgement.why.empty(), one.verdict != Verdict::kWrong);
  }
}

TEST(WorkloadTest, ApartEachKeyHasItsCommand) {
  for (const auto& [mix, name] :
       std::map<std::string, std::string>{{"mget3", "GET"}, {"mset3", "SET"}, {"del3", "DEL"}}) {
    SCOPED_TRACE(mix);
    const WorkloadOptions options = SmallOptions(mix);
    const std::vector<KeySequence> keys = SequencesFor(options);
    const Workload workload(options);
    Random random(1);
    StringSink sink;
    EXPECT_EQ(workload.Write(workload.ops()[0], keys[0], 0, true, &random, &sink), 3u);
    const auto commands = CommandsOf(sink.bytes);
    ASSERT_EQ(commands.size(), 3u);
    for (uint32_t i = 0; i < 3; ++i) {
      EXPECT_EQ(commands[i][0], name);
      EXPECT_EQ(commands[i][1], KeyName(keys[0].at(i)));
    }
  }
}

TEST(WorkloadTest, ErrorsOfOneKindAreOne) {
  EXPECT_EQ(KindOfError("-ERR slot 123 of 9\r\n"), "ERR slot # of #");
  EXPECT_EQ(KindOfError("-ERR slot 7 of 1234\r\n"), "ERR slot # of #");
  EXPECT_EQ(KindOfError("!10\r\nERR slot 7\r\n"), "ERR slot #");
}

// --- MakeSequences

std::map<uint32_t, double> SharesIn(const KeySequence& keys) {
  std::map<uint32_t, double> shares;
  for (uint32_t i = 0; i < 1 << 16; ++i) shares[keys.at(i)] += 0x1p-16;
  return shares;
}

TEST(MakeSequencesTest, KeysAreDistributedAsAsked) {
  WorkloadOptions options = SmallOptions("get");
  options.keys = 1000;
  auto shares = SharesIn(SequencesFor(options)[0]);
  EXPECT_EQ(shares.size(), 1000u);
  for (const auto& [key, share] : shares) EXPECT_NEAR(share, 0.001, 0.0006) << key;

  options.distribution = Distribution::kHot;
  shares = SharesIn(SequencesFor(options)[0]);
  EXPECT_NEAR(shares[0], 0.5, 0.02);
  EXPECT_EQ(shares.size(), 1000u);

  options.distribution = Distribution::kZipf;
  shares = SharesIn(SequencesFor(options)[0]);
  std::vector<double> sorted;
  double zeta = 0;
  for (const auto& [key, share] : shares) sorted.push_back(share);
  std::sort(sorted.rbegin(), sorted.rend());
  for (int i = 1; i <= 1000; ++i) zeta += std::pow(i, -0.99);
  EXPECT_NEAR(sorted[0], 1 / zeta, 0.01);
  EXPECT_NEAR(sorted[1], std::pow(2, -0.99) / zeta, 0.01);
  EXPECT_NEAR(sorted[9], std::pow(10, -0.99) / zeta, 0.005);
  EXPECT_GT(sorted.size(), 900u);
}

TEST(MakeSequencesTest, EachPartHasItsOwnKeysOnly) {
  WorkloadOptions options = SmallOptions("get");
  options.keys = 1000;
  for (const Distribution distribution :
       {Distribution::kUniform, Distribution::kZipf, Distribution::kHot}) {
    options.distribution = distribution;
    // A third of the slots belongs to nobody.
    const auto part_of = [](uint32_t key) { return cluster::SlotOf(KeyName(key)) % 3 - 1; };
    const std::vector<KeySequence> parts = *MakeSequences(options, 2, part_of);
    ASSERT_EQ(parts.size(), 2u);
    for (int part = 0; part < 2; ++part) {
      for (const auto& [key, share] : SharesIn(parts[static_cast<size_t>(part)])) {
        EXPECT_EQ(part_of(key), part);
      }
    }
  }
  EXPECT_FALSE(MakeSequences(options, 2, [](uint32_t) { return 1; }).ok());
}

// --- processes

TEST(ProcessTest, FindsWhoListensAndWhatItUses) {
  const io::Fd listener = *io::OpenListener(*io::Endpoint::Parse("127.0.0.1:0"), {});
  const io::Endpoint address = *io::Endpoint::Parse(io::LocalNameOf(listener));
  EXPECT_THAT(ListenersOf(address), testing::ElementsAre(getpid()));
  close(listener);
  EXPECT_THAT(ListenersOf(address), testing::IsEmpty());

  const pid_t self[] = {getpid()};
  const CpuReading before = CpuReading::Of(self);
  const clock_t end = std::clock() + CLOCKS_PER_SEC / 10;
  while (std::clock() < end) {
  }
  const double seconds = CpuReading::Of(self).SecondsSince(before);
  EXPECT_GE(seconds, 0.08);
  EXPECT_LE(seconds, 5.0);
  EXPECT_TRUE(std::isnan(CpuReading::Of({}).SecondsSince(CpuReading::Of({}))));
}

TEST(ProcessTest, AnyAddressCoversALoopbackOne) {
  for (const char* any : {"0.0.0.0:0", "[::]:0"}) {
    SCOPED_TRACE(any);
    const auto listener = io::OpenListener(*io::Endpoint::Parse(any), {});
    if (!listener.ok()) continue;  // a machine without IPv6
    const uint16_t port = io::Endpoint::Parse(io::LocalNameOf(*listener))->port();
    EXPECT_THAT(ListenersOf(*io::Endpoint::FromIp("127.0.0.1", port)),
                testing::ElementsAre(getpid()));
    close(*listener);
  }
}

// --- SpreadOf

TEST(SpreadOfTest, GivesMedianLeastAndMost) {
  const Spread odd = SpreadOf({3, 1, NAN, 2});
  EXPECT_EQ(odd.median, 2);
  EXPECT_EQ(odd.least, 1);
  EXPECT_EQ(odd.most, 3);
  EXPECT_EQ(SpreadOf({4, 1, 2, 3}).median, 2.5);
  EXPECT_TRUE(std::isnan(SpreadOf({NAN}).median));
  EXPECT_TRUE(std::isnan(SpreadOf({}).most));
}

}  // namespace
}  // namespace latency
