// Requests that the proxy answers by asking several nodes: their order among others, and what
// happens when nodes fail or change while they are under way.

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/sim/scenario.h"
#include "tests/sim/world.h"

namespace sim {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class WholeClusterTest : public ScenarioTest {
 protected:
  // "a", "b" and "c" are in three shards. The connections that whole-cluster commands take are open
  // afterwards.
  void SetAll(SimClient* client) {
    ASSERT_EQ(Ask(client, "FLUSHALL"), "+OK\r\n");
    for (absl::string_view key : {"a", "b", "c"}) {
      ASSERT_EQ(Ask(client, absl::StrCat("SET ", key, " v")), "+OK\r\n");
    }
  }
  uint64_t Commands(absl::string_view name) {
    uint64_t sum = 0;
    for (int i = 0; i < cluster().size(); ++i) sum += cluster().node(i)->commands(name);
    return sum;
  }
};

TEST_F(WholeClusterTest, EveryPrimaryIsAskedAndTheRepliesBecomeOne) {
  SimClient* client = world().Connect();
  SetAll(client);
  EXPECT_EQ(Ask(client, "DBSIZE"), ":3\r\n");
  EXPECT_THAT(Ask(client, "KEYS *"), StartsWith("*3\r\n$1\r\n"));
  EXPECT_EQ(Ask(client, "FLUSHALL"), "+OK\r\n");
  EXPECT_EQ(Ask(client, "KEYS *"), "*0\r\n");
  EXPECT_EQ(Commands("DBSIZE"), 3u);
}

TEST_F(WholeClusterTest, WaitsForAllBeforeItAndIsWaitedForByAllBehindIt) {
  SimClient* client = world().Connect();
  SetAll(client);
  ClearJournals();
  client->TakeReceived();
  NodeOf("a").HoldReplies(true);
  for (absl::string_view words : {"SET a w", "FLUSHALL", "SET b w", "DBSIZE"}) {
    client->SendCommand(words);
  }
  world().RunFor(10 * kMillisecond);
  EXPECT_THAT(Journal("FLUSHALL"), ElementsAre());
  EXPECT_THAT(Journal("SET b"), ElementsAre());
  NodeOf("a").HoldReplies(false);
  NodeOf("b").HoldReplies(true);
  world().RunFor(10 * kMillisecond);
  EXPECT_EQ(Journal("FLUSHALL").size(), 3u);
  EXPECT_THAT(Journal("SET b"), ElementsAre());
  NodeOf("b").HoldReplies(false);
  const std::string wanted = "+OK\r\n+OK\r\n+OK\r\n:1\r\n";
  world().RunUntil([&] { return client->received() == wanted; });
  EXPECT_EQ(client->received(), wanted);
}

TEST_F(WholeClusterTest, OthersDoNotWaitForIt) {
  SimClient* slow = world().Connect();
  SimClient* other = world().Connect();
  SetAll(slow);
  NodeOf("a").set_service_time(kSecond, kSecond);
  slow->SendCommand("KEYS *");
  world().RunFor(10 * kMillisecond);
  EXPECT_EQ(Ask(other, "GET b", 10 * kMillisecond), "$1\r\nv\r\n");
}

TEST_F(WholeClusterTest, APrimaryThatWasReplacedBeforeItWasAskedIsNotWaitedFor) {
  SimClient* client = world().Connect();
  SetAll(client);
  world().RunFor(kSecond);
  const int old = NodeOf("a").number();
  const int replica = cluster().ReplicasOf(old)[0];
  cluster().node(old)->Kill();
  world().RunFor(10 * kMillisecond);
  ClearJournals();
  client->SendCommand("FLUSHALL");
  world().RunFor(kSecond);
  EXPECT_EQ(client->received(), "");
  cluster().FailOver(replica, false);
  world().RunUntil([&] { return !client->received().empty(); });
  EXPECT_EQ(client->TakeReceived(), "+OK\r\n");
  // Each of the three once, however often it was planned.
  EXPECT_EQ(Journal("FLUSHALL").size(), 3u);
  EXPECT_EQ(Ask(client, "DBSIZE"), ":0\r\n");
}

TEST_F(WholeClusterTest, APrimaryThatIsAReplicaByNowIsNotTakenAtItsWord) {
  SimClient* client = world().Connect();
  SetAll(client);
  world().RunFor(kSecond);
  const int old = NodeOf("a").number();
  const int replica = cluster().ReplicasOf(old)[0];
  cluster().options()->gossip_min = cluster().options()->gossip_max = kSecond;
  cluster().SwitchOver(replica);
  ClearJournals();
  EXPECT_EQ(Ask(client, "FLUSHALL"), "+OK\r\n");
  EXPECT_GT(cluster().node(old)->journal().size(), 0u);
  EXPECT_EQ(cluster().node(replica)->journal().size(), 1u);
  EXPECT_EQ(Ask(client, "DBSIZE"), ":0\r\n");
}

TEST_F(WholeClusterTest, ANodeThatIsLostInTheMiddleIsNamedAndNothingIsGivenOfTheOthers) {
  SimClient* client = world().Connect();
  SetAll(client);
  FakeNode& node = NodeOf("a");
  node.HoldReplies(true);
  client->TakeReceived();
  client->SendCommand("FLUSHALL");
  world().RunFor(10 * kMillisecond);
  node.Kill();
  world().RunUntil([&] { return !client->received().empty(); });
  EXPECT_EQ(client->TakeReceived(),
            absl::StrCat("-ERR proxy: partly executed, node ", node.HostPort(),
                         ": backend connection lost (outcome unknown)\r\n"));
}

TEST_F(WholeClusterTest, AReadIsRepeatedAndThenFailsAsAWhole) {
  SimClient* client = world().Connect();
  SetAll(client);
  FakeNode& node = NodeOf("a");
  node.HoldReplies(true);
  client->TakeReceived();
  client->SendCommand("DBSIZE");
  world().RunFor(10 * kMillisecond);
  node.DropConnections();
  node.HoldReplies(false);
  world().RunUntil([&] { return !client->received().empty(); });
  EXPECT_EQ(client->TakeReceived(), ":3\r\n");
  node.Kill();
  EXPECT_EQ(Ask(client, "KEYS *"), absl::StrCat("-CLUSTERDOWN proxy: node ", node.HostPort(),
                                                ": not reachable (outcome unknown)\r\n"));
}

TEST_F(WholeClusterTest, ANodeThatLoadsItsDataIsWaitedFor) {
  SimClient* client = world().Connect();
  SetAll(client);
  NodeOf("a").set_loading(true);
  client->TakeReceived();
  client->SendCommand("DBSIZE");
  world().RunFor(kSecond);
  EXPECT_EQ(client->received(), "");
  NodeOf("a").set_loading(false);
  world().RunUntil([&] { return !client->received().empty(); });
  EXPECT_EQ(client->TakeReceived(), ":3\r\n");
}

TEST_F(WholeClusterTest, WithoutAnOwnerForEverySlotNothingIsAskedAndNothingChanged) {
  SimClient* client = world().Connect();
  SetAll(client);
  cluster().Uncover(cluster::SlotOf("a"));
  cluster().SpreadNews();
  world().RunFor(30 * kSecond);
  ClearJournals();
  EXPECT_EQ(Ask(client, "FLUSHALL"),
            "-CLUSTERDOWN proxy: slot 15495 has no reachable owner (not executed)\r\n");
  EXPECT_THAT(Journal("FLUSHALL"), ElementsAre());
}

TEST_F(WholeClusterTest, AClientThatLeavesInTheMiddleLeavesNothingBehind) {
  SimClient* client = world().Connect();
  SetAll(client);
  for (absl::string_view words : {"FLUSHALL", "KEYS *", "DBSIZE"}) {
    SimClient* leaver = world().Connect();
    NodeOf("a").HoldReplies(true);
    leaver->SendCommand(words);
    world().RunFor(10 * kMillisecond);
    leaver->Close();
    world().RunFor(10 * kMillisecond);
    NodeOf("a").HoldReplies(false);
  }
  EXPECT_EQ(Ask(client, "DBSIZE"), ":0\r\n");
}

TEST_F(WholeClusterTest, AReplyOverTheClientsLimitEndsAsOthersDo) {
  Make({.configure = [](proxy::Config* config) { config->client_output_bytes_max = 100000; }});
  SimClient* client = world().Connect();
  for (int i = 0; i < 1200; ++i) {
    client->Send(Command({"SET", absl::StrCat(std::string(100, 'k'), i), "v"}));
  }
  world().RunUntil([&] { return client->received().size() == 1200 * 5; });
  client->SendCommand("KEYS *");
  world().RunFor(kSecond);
  EXPECT_EQ(world().stats()->Sum(&proxy::WorkerStats::slow_client_closed), 1u);
  EXPECT_EQ(world().stats()->Sum(&proxy::WorkerStats::charged_bytes), 0u);
}

}  // namespace
}  // namespace sim
