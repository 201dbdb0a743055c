#include "proxy/stats.h"

#include <unistd.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace proxy {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

// The format's sample lines: name with labels → value. Checks that each has its HELP and TYPE.
std::map<std::string, double> Samples(const std::string& text) {
  std::map<std::string, double> samples;
  std::string helped;
  std::string typed;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> words = absl::StrSplit(line, absl::MaxSplits(' ', 3));
    if (words[0] == "#") {
      (words[1] == "HELP" ? helped : typed) = words[2];
      if (words[1] == "TYPE") {
        EXPECT_THAT(words[3], MatchesRegex("counter|gauge"));
        // The convention of Prometheus; these two are known by their short names.
        if (!absl::StartsWith(words[2], "rcproxy_payload_bytes_")) {
          EXPECT_EQ(words[3] == "counter", absl::EndsWith(words[2], "_total")) << line;
        }
      } else {
        EXPECT_FALSE(words[3].empty());
      }
      continue;
    }
    const std::string name = words[0].substr(0, words[0].find('{'));
    EXPECT_EQ(name, helped);
    EXPECT_EQ(name, typed);
    EXPECT_THAT(name, MatchesRegex("[a-z_]+"));
    double value = -1;
    EXPECT_TRUE(absl::SimpleAtod(words[1], &value)) << line;
    EXPECT_TRUE(samples.emplace(words[0], value).second) << "twice: " << line;
  }
  return samples;
}

TEST(StatsTest, WorkersAreSummed) {
  StatsRegistry stats(3);
  for (uint32_t i = 0; i < 3; ++i) {
    stats.worker(i)->requests.Add(10 + i);
    stats.worker(i)->clients_open.Set(5);
    stats.worker(i)->clients_open.Sub(i);
  }
  EXPECT_EQ(stats.Sum(&WorkerStats::requests), 33u);
  const std::map<std::string, double> samples = Samples(stats.PrometheusText(7));
  EXPECT_EQ(samples.at("rcproxy_requests_total"), 33);
  EXPECT_EQ(samples.at("rcproxy_clients"), 12);
  EXPECT_EQ(samples.at("rcproxy_workers"), 3);
  EXPECT_EQ(samples.at("rcproxy_log_lines_dropped_total"), 7);
  EXPECT_EQ(samples.at("rcproxy_build_info{version=\"0.1.0\"}"), 1);
}

TEST(StatsTest, EveryNumberIsThereUnderItsName) {
  StatsRegistry stats(2);
  std::map<std::string, double> expected;
  uint64_t n = 1;
#define RCPROXY_SET(member, name, kind, help) \
  stats.worker(0)->member.Set(n * 100);       \
  stats.worker(1)->member.Set(n);             \
  expected["rcproxy_" name] = 101.0 * static_cast<double>(n++);
  RCPROXY_WORKER_STATS(RCPROXY_SET)
#undef RCPROXY_SET
#define RCPROXY_SET(member, name, kind, help) \
  stats.control()->member.Set(n);             \
  expected["rcproxy_" name] = static_cast<double>(n++);
  RCPROXY_CONTROL_STATS(RCPROXY_SET)
#undef RCPROXY_SET
  const std::map<std::string, double> samples = Samples(stats.PrometheusText(0));
  for (const auto& [name, value] : expected) {
    ASSERT_EQ(samples.count(name), 1u) << name;
    EXPECT_EQ(samples.at(name), value) << name;
  }
}

TEST(StatsTest, LargeCountersKeepTheirDigits) {
  StatsRegistry stats(1);
  stats.worker(0)->payload_bytes_forwarded.Set(9007199254740991);  // 2^53 - 1
  EXPECT_THAT(stats.PrometheusText(0),
              HasSubstr("rcproxy_payload_bytes_forwarded 9007199254740991\n"));
}

// A reader may see a gauge's decrement on one worker before its increment on another.
TEST(StatsTest, AGaugeIsNeverBelowZero) {
  StatsRegistry stats(2);
  stats.worker(0)->requests_in_flight.Sub(2);
  stats.worker(1)->requests_in_flight.Add(1);
  EXPECT_EQ(Samples(stats.PrometheusText(0)).at("rcproxy_requests_in_flight"), 0);
}

TEST(StatsTest, TheProcessIsDescribed) {
  const StatsRegistry stats(1);
  const std::map<std::string, double> before = Samples(stats.PrometheusText(0));
  EXPECT_GT(before.at("process_resident_memory_bytes"), 1 << 20);
  EXPECT_GT(before.at("process_virtual_memory_bytes"), before.at("process_resident_memory_bytes"));
  EXPECT_GE(before.at("process_cpu_seconds_total"), 0);
  const double age = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()) -
                     before.at("process_start_time_seconds");
  EXPECT_GT(age, -5);
  EXPECT_LT(age, 3600);
  const int fd = dup(STDIN_FILENO);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(Samples(stats.PrometheusText(0)).at("process_open_fds"),
            before.at("process_open_fds") + 1);
  close(fd);
}

}  // namespace
}  // namespace proxy
