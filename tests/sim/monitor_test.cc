// MONITOR in scenarios with several workers: what of it only time, order and faults can show.

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "tests/sim/scenario.h"

namespace sim {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr uint32_t kWorkers = 3;

class MonitorTest : public ScenarioTest {
 protected:
  MonitorTest() { Make({}, kWorkers); }

  SimClient* Connect() {
    SimClient* const client = world().Connect();
    Ask(client, "PING");
    return client;
  }
  SimClient* Watcher() {
    SimClient* const client = Connect();
    EXPECT_EQ(Ask(client, "MONITOR"), "+OK\r\n");
    return client;
  }
  // The commands of the lines that came, without times and addresses.
  std::vector<std::string> Shown(SimClient* watcher) {
    world().RunUntilIdle();
    std::vector<std::string> commands;
    for (const absl::string_view line :
         absl::StrSplit(watcher->TakeReceived(), "\r\n", absl::SkipEmpty())) {
      const size_t end = line.find("] ");
      EXPECT_TRUE(line[0] == '+' && end != absl::string_view::npos) << line;
      if (end != absl::string_view::npos) commands.emplace_back(line.substr(end + 2));
    }
    return commands;
  }
  uint64_t Sum(proxy::Counter proxy::WorkerStats::*member) { return world().stats()->Sum(member); }
};

TEST_F(MonitorTest, AllThatClientsOfAllWorkersSendAfterTheReplyIsShownOnceAndInOrder) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    WorldOptions options;
    options.seed = seed;
    Make(options, kWorkers);
    std::vector<SimClient*> clients;
    for (int i = 0; i < 6; ++i) clients.push_back(Connect());
    SimClient* const watcher = Watcher();
    std::vector<std::vector<std::string>> expected(clients.size());
    for (int round = 0; round < 20; ++round) {
      for (size_t i = 0; i < clients.size(); ++i) {
        clients[i]->Send(Command({"SET", absl::StrCat("k", i), absl::StrCat("v", round)}));
        expected[i].push_back(absl::StrCat("\"SET\" \"k", i, "\" \"v", round, "\""));
      }
      if (round % 3 == 0) world().RunFor(kMillisecond);
    }
    std::vector<std::string> shown = Shown(watcher);
    EXPECT_EQ(shown.size(), 120u);
    for (size_t i = 0; i < clients.size(); ++i) {
      std::vector<std::string> of_client;
      for (const std::string& line : shown) {
        if (absl::StrContains(line, absl::StrCat("\"k", i, "\""))) of_client.push_back(line);
      }
      EXPECT_EQ(of_client, expected[i]);
    }
  }
}

TEST_F(MonitorTest, WhenTheLastOneHasGoneNothingIsMadeForThemAnyMore) {
  std::vector<SimClient*> clients;
  for (int i = 0; i < 6; ++i) clients.push_back(Connect());
  SimClient* const first = Watcher();
  SimClient* const second = Watcher();
  SimClient* const third = Watcher();
  EXPECT_EQ(Sum(&proxy::WorkerStats::monitors), 3u);
  world().RunUntilIdle();
  EXPECT_EQ(Ask(first, "RESET"), "+RESET\r\n");
  second->Abort();
  world().RunUntilIdle();
  for (SimClient* client : clients) Ask(client, "ECHO seen");
  EXPECT_THAT(Shown(third), testing::Contains("\"ECHO\" \"seen\"").Times(6));
  EXPECT_EQ(first->received(), "");
  third->SendCommand("QUIT");
  world().RunUntilIdle();
  EXPECT_TRUE(third->ended());
  EXPECT_EQ(Sum(&proxy::WorkerStats::monitors), 0u);
  const uint64_t lines = Sum(&proxy::WorkerStats::monitor_lines);
  for (SimClient* client : clients) Ask(client, "ECHO unseen");
  EXPECT_EQ(Sum(&proxy::WorkerStats::monitor_lines), lines);
  EXPECT_EQ(Ask(first, "SET a v"), "+OK\r\n");  // it may again
}

TEST_F(MonitorTest, TheAskerMayGoBeforeTheAnswer) {
  SimClient* const stays = Connect();
  for (int i = 0; i < 20; ++i) {
    SimClient* const goes = Connect();
    goes->SendCommand("MONITOR");
    world().RunFor(i * 20 * kMicrosecond);
    goes->Abort();
  }
  world().RunUntilIdle();
  EXPECT_EQ(Sum(&proxy::WorkerStats::monitors), 0u);
  const uint64_t lines = Sum(&proxy::WorkerStats::monitor_lines);
  Ask(stays, "PING");
  EXPECT_EQ(Sum(&proxy::WorkerStats::monitor_lines), lines);
}

TEST_F(MonitorTest, EarlierRepliesComeBeforeItBegins) {
  SimClient* const client = Connect();
  Ask(client, "SET a v");
  NodeOf("a").HoldReplies(true);
  client->SendCommand("GET a");
  client->SendCommand("MONITOR");
  client->SendCommand("ECHO x");
  SimClient* const other = Connect();
  EXPECT_EQ(client->received(), "");
  NodeOf("a").HoldReplies(false);
  world().RunUntilIdle();
  Ask(other, "PING");
  world().RunUntilIdle();
  const std::string received = client->TakeReceived();
  EXPECT_TRUE(absl::StartsWith(received, "$1\r\nv\r\n+OK\r\n$1\r\nx\r\n+")) << received;
  EXPECT_TRUE(absl::EndsWith(received, "\"PING\"\r\n")) << received;
}

TEST_F(MonitorTest, ASlowOneIsClosedAndCountedAndNobodyElse) {
  WorldOptions options;
  options.configure = [](proxy::Config* config) { config->memory_limit_bytes = 1 << 30; };
  Make(options, kWorkers);
  SimClient* const quick = Watcher();
  std::vector<SimClient*> slow;
  for (uint32_t i = 0; i < kWorkers; ++i) slow.push_back(Watcher());
  for (SimClient* client : slow) client->PauseReading(true);
  SimClient* const client = Connect();
  const std::string text(1 << 20, 'x');
  for (int i = 0; i < 40; ++i) {
    client->Send(Command({"SET", "a", text}));
    world().RunUntilIdle(20 * kMillisecond);
  }
  world().RunFor(kSecond);
  EXPECT_EQ(Sum(&proxy::WorkerStats::slow_monitor_closed), kWorkers);
  EXPECT_EQ(Sum(&proxy::WorkerStats::slow_client_closed), 0u);
  EXPECT_FALSE(quick->ended());
  EXPECT_EQ(quick->received().size() / (1 << 20), 40u);
  quick->TakeReceived();
  EXPECT_EQ(Ask(client, "PING"), "+PONG\r\n");
}

// More than can be shown: they are closed rather than shown less than there was.
TEST_F(MonitorTest, ACommandThatIsTooLongEndsThem) {
  WorldOptions options;
  options.configure = [](proxy::Config* config) { config->memory_limit_bytes = 1 << 30; };
  Make(options, kWorkers);
  std::vector<SimClient*> watchers;
  for (uint32_t i = 0; i < kWorkers; ++i) watchers.push_back(Watcher());
  SimClient* const client = Connect();
  client->Send(Command({"SET", "a", std::string(40 << 20, 'x')}));
  world().RunFor(2 * kSecond);
  EXPECT_EQ(client->TakeReceived(), "+OK\r\n");
  for (SimClient* watcher : watchers) EXPECT_TRUE(watcher->ended() || watcher->was_reset());
  EXPECT_EQ(Sum(&proxy::WorkerStats::slow_monitor_closed), kWorkers);
}

TEST_F(MonitorTest, AWatchedBlockIsShownWhenItHasRun) {
  SimClient* const watcher = Watcher();
  SimClient* const client = Connect();
  SimClient* const other = Connect();
  const auto run = [&](bool changed) {
    Ask(client, "WATCH {t}a");
    if (changed) Ask(other, "SET {t}a other");
    Ask(client, "MULTI");
    Ask(client, "SET {t}a v");
    Ask(client, "PING");
    Shown(watcher);
    // In one pipeline: what follows is not shown before it.
    client->SendCommand("EXEC");
    client->SendCommand("ECHO after");
    return Shown(watcher);
  };
  EXPECT_THAT(run(false),
              ElementsAre("\"SET\" \"{t}a\" \"v\"", "\"PING\"", "\"EXEC\"", "\"ECHO\" \"after\""));
  EXPECT_THAT(run(true), ElementsAre("\"EXEC\"", "\"ECHO\" \"after\""));
}

TEST_F(MonitorTest, APauseDoesNotStopItIfItTracksEither) {
  SimClient* const watcher = Connect();
  Ask(watcher, "HELLO 3");
  EXPECT_EQ(Ask(watcher, "CLIENT TRACKING ON"), "+OK\r\n");
  EXPECT_EQ(Ask(watcher, "MONITOR"), "+OK\r\n");
  SimClient* const client = Connect();
  EXPECT_EQ(Ask(client, "CLIENT PAUSE 2000"), "+OK\r\n");
  world().RunFor(100 * kMillisecond);
  watcher->TakeReceived();
  watcher->SendCommand("ECHO mine");
  world().RunFor(100 * kMillisecond);
  EXPECT_TRUE(absl::StartsWith(watcher->received(), "$4\r\nmine\r\n+")) << watcher->received();
}

TEST_F(MonitorTest, APauseDoesNotStopItAndWhatIsPausedIsShownWhenItRuns) {
  SimClient* const watcher = Watcher();
  SimClient* const client = Connect();
  EXPECT_EQ(Ask(client, "CLIENT PAUSE 2000"), "+OK\r\n");
  Shown(watcher);
  client->SendCommand("SET a v");
  world().RunFor(kSecond);
  EXPECT_EQ(watcher->received(), "");
  watcher->SendCommand("ECHO mine");
  world().RunFor(100 * kMillisecond);
  EXPECT_TRUE(absl::StartsWith(watcher->received(), "$4\r\nmine\r\n+")) << watcher->received();
  watcher->TakeReceived();
  world().RunFor(2 * kSecond);
  EXPECT_THAT(Shown(watcher), ElementsAre("\"SET\" \"a\" \"v\""));
}

// Redirected, sent again, split: one line each.
TEST_F(MonitorTest, WhatTheProxyDoesWithACommandIsNotShown) {
  SimClient* const client = Connect();
  for (absl::string_view key : {"{t}a", "b", "c"}) Ask(client, absl::StrCat("SET ", key, " v"));
  SimClient* const watcher = Watcher();
  const int from = NodeOf("{t}a").number();
  cluster().BeginMigration(cluster::SlotOf("{t}a"), OtherThan(from));
  cluster().MigrateAllKeys(cluster::SlotOf("{t}a"));
  EXPECT_EQ(Ask(client, "GET {t}a"), "$1\r\nv\r\n");
  EXPECT_EQ(Ask(client, "DEL {t}a b c"), ":3\r\n");
  EXPECT_THAT(Shown(watcher), ElementsAre("\"GET\" \"{t}a\"", "\"DEL\" \"{t}a\" \"b\" \"c\""));
}

TEST_F(MonitorTest, ADrainEndsThem) {
  SimClient* const watcher = Watcher();
  std::vector<SimClient*> late;
  for (int i = 0; i < 6; ++i) late.push_back(Connect());
  for (SimClient* client : late) {
    client->SendCommand("MONITOR");
    world().RunFor(200 * kMicrosecond);
  }
  world().BeginShutdown();
  world().RunFor(3 * kSecond);
  EXPECT_TRUE(watcher->ended());
  for (SimClient* client : late) EXPECT_TRUE(client->ended());
}

}  // namespace
}  // namespace sim
