// Scenarios in a simulated world, by name. Each ends with a shutdown, after which nothing of the
// proxy may be left.

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/sim/scenario.h"
#include "tests/sim/world.h"

namespace sim {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class SimTest : public ScenarioTest {
 protected:
  // A GET of `a` is on its way to the slot's new node, with an ASK, but that one takes a while to
  // connect to; meanwhile the slot's move ends. Returns where the slot was and where it is.
  std::pair<int, int> AskThatWaits(SimClient* client) {
    Ask(client, "SET a x");
    const cluster::Slot slot = cluster::SlotOf("a");
    const int first = NodeOf("a").number();
    const int second = OtherThan(first);
    cluster().BeginMigration(slot, second);
    cluster().MigrateAllKeys(slot);
    world().net()->faults()->connect_slow = 1;
    world().net()->faults()->connect_slow_min = 150 * kMillisecond;
    world().net()->faults()->connect_slow_max = 200 * kMillisecond;
    client->TakeReceived();
    client->SendCommand("GET a");
    world().RunFor(2 * kMillisecond);
    world().net()->faults()->connect_slow = 0;
    cluster().EndMigration(slot);
    return {first, second};
  }
};

// --- pipelines

TEST_F(SimTest, APipelineOverAllNodesIsAnsweredInOrder) {
  SimClient* client = world().Connect();
  for (absl::string_view key : {"a", "b", "c"}) {
    client->SendCommand(absl::StrCat("SET ", key, " of-", key));
  }
  client->SendCommand("PING");
  for (absl::string_view key : {"c", "b", "a"}) client->SendCommand(absl::StrCat("GET ", key));
  world().RunUntilIdle();
  EXPECT_EQ(client->received(),
            "+OK\r\n+OK\r\n+OK\r\n+PONG\r\n$4\r\nof-c\r\n$4\r\nof-b\r\n$4\r\nof-a\r\n");
}

TEST_F(SimTest, RepliesWaitForTheSlowestNodeBeforeThem) {
  SimClient* client = world().Connect();
  NodeOf("a").HoldReplies(true);
  client->SendCommand("GET a");
  client->SendCommand("GET b");
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), "");
  EXPECT_THAT(Journal("GET b"), ElementsAre("GET b"));
  NodeOf("a").HoldReplies(false);
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), "$-1\r\n$-1\r\n");
}

TEST_F(SimTest, AReplyDoesNotWaitForOnesThatDoNotCome) {
  SimClient* client = world().Connect();
  ASSERT_NE(&NodeOf("a"), &NodeOf("b"));
  EXPECT_EQ(Ask(client, "GET a"), "$-1\r\n");
  NodeOf("b").SetHung(true);
  client->TakeReceived();
  client->Send("GET a\r\nGET b\r\n");
  world().RunFor(2 * kMillisecond);
  EXPECT_EQ(client->received(), "$-1\r\n");
  NodeOf("b").SetHung(false);
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), "$-1\r\n$-1\r\n");
}

TEST_F(SimTest, CommandsByTheByteGiveTheSameReplies) {
  SimClient* client = world().Connect();
  const std::string text = Command({"SET", "a", "x\r\ny"}) + Command({"GET", "a"}) + "PING\r\n" +
                           Command({"MSET", "b", "", "c", "z"}) + Command({"MGET", "b", "c", "d"});
  for (const char c : text) {
    client->Send(absl::string_view(&c, 1));
    world().RunFor(50 * kMicrosecond);
  }
  world().RunUntilIdle();
  EXPECT_EQ(client->received(),
            "+OK\r\n$4\r\nx\r\ny\r\n+PONG\r\n+OK\r\n*3\r\n$0\r\n\r\n$1\r\nz\r\n$-1\r\n");
}

TEST_F(SimTest, AHalfClosedClientGetsAllItsRepliesAndThenTheEnd) {
  SimClient* client = world().Connect();
  NodeOf("a").HoldReplies(true);
  for (int i = 0; i < 20; ++i) client->SendCommand("INCR a");
  world().RunFor(kMillisecond);
  client->HalfClose();
  world().RunFor(100 * kMillisecond);
  EXPECT_FALSE(client->ended());
  NodeOf("a").HoldReplies(false);
  world().RunUntilIdle();
  EXPECT_TRUE(client->ended());
  EXPECT_FALSE(client->was_reset());
  EXPECT_THAT(client->received(), testing::EndsWith(":20\r\n"));
}

// A late reply of a client that has gone must be dropped, not given to the next.
TEST_F(SimTest, AClientThatLeavesAtAnyByteDisturbsNobody) {
  const std::string pipeline = Command({"SET", "a", "theirs"}) + Command({"GET", "a"}) +
                               Command({"GET", "b"}) + Command({"MGET", "a", "b", "c"});
  SimClient* other = world().Connect();
  for (size_t bytes = 0; bytes <= pipeline.size(); bytes += 3) {
    SCOPED_TRACE(bytes);
    SimClient* client = world().Connect();
    NodeOf("a").HoldReplies(true);
    client->Send(pipeline.substr(0, bytes));
    other->SendCommand("GET d");
    world().RunFor(kMillisecond);
    if (bytes % 2 == 0) {
      client->Abort();
    } else {
      client->Close();
    }
    world().RunFor(kMillisecond);
    NodeOf("a").HoldReplies(false);
    world().RunFor(kMillisecond);
    ASSERT_EQ(other->TakeReceived(), "$-1\r\n");
  }
  world().RunUntilIdle();
  EXPECT_EQ(world().stats()->Sum(&proxy::WorkerStats::clients_open), 1u);
  EXPECT_EQ(world().stats()->Sum(&proxy::WorkerStats::requests_in_flight), 0u);
}

TEST_F(SimTest, AClientThatDoesNotReadStopsBeingRead) {
  SimClient* client = world().Connect();
  Ask(client, absl::StrCat("SET a ", std::string(100000, 'x')));
  client->PauseReading(true);
  for (int i = 0; i < 2000; ++i) {
    client->SendCommand("GET a");
    world().RunFor(kMillisecond);
  }
  // 1 MiB of output, what the sockets hold, and one batch beyond it.
  const uint64_t executed = Journal("GET a").size();
  EXPECT_LT(executed, 100u);
  EXPECT_LT(world().stats()->Sum(&proxy::WorkerStats::charged_bytes), 8u << 20);
  SimClient* other = world().Connect();
  EXPECT_EQ(Ask(other, "GET b"), "$-1\r\n");
  client->PauseReading(false);
  world().RunUntilIdle();
  EXPECT_EQ(client->received().size(), 2000u * (100000 + 11));
}

// --- redirections

TEST_F(SimTest, AMovedSlotIsFollowedInOrder) {
  SimClient* client = world().Connect();
  Ask(client, "SET a before");
  const int from = NodeOf("a").number();
  const cluster::Slot slot = cluster::SlotOf("a");
  // Thirty on the way to the old owner when the slot moves.
  cluster().node(from)->SetHung(true);
  for (int i = 0; i < 30; ++i) client->SendCommand(absl::StrCat("APPEND a .", "x"));
  world().RunFor(kMillisecond);
  cluster().MoveSlots({slot}, OtherThan(from));
  cluster().node(from)->SetHung(false);
  for (int i = 0; i < 30; ++i) client->SendCommand("APPEND a .y");
  world().RunUntilIdle();
  EXPECT_EQ(Ask(client, "GET a"),
            absl::StrCat("$126\r\nbefore", Repeated(".x", 30), Repeated(".y", 30), "\r\n"));
  EXPECT_EQ(world().stats()->Sum(&proxy::WorkerStats::proxy_errors), 0u);
}

TEST_F(SimTest, AskingStandsDirectlyBeforeEachCommandThatNeedsIt) {
  SimClient* client = world().Connect();
  const int from = NodeOf("a").number();
  const int to = OtherThan(from);
  cluster().BeginMigration(cluster::SlotOf("a"), to);
  ClearJournals();
  for (int i = 0; i < 50; ++i) client->SendCommand("INCR a");
  SimClient* other = world().Connect();
  for (int i = 0; i < 50; ++i) other->SendCommand("INCR {a}2");
  world().RunUntilIdle();
  std::string expected;
  for (int i = 1; i <= 50; ++i) absl::StrAppend(&expected, ":", i, "\r\n");
  EXPECT_EQ(client->received(), expected);
  EXPECT_EQ(other->received(), expected);
  const std::vector<std::string>& journal = cluster().node(to)->journal();
  ASSERT_EQ(journal.size(), 200u);
  for (size_t i = 0; i < journal.size(); i += 2) {
    EXPECT_EQ(journal[i], "ASKING");
    EXPECT_THAT(journal[i + 1], StartsWith("INCR "));
  }
}

TEST_F(SimTest, ASlotHeldHalfMigratedForAMinuteCostsNoError) {
  world().oracle()->set_errors_allowed(false);
  const int from = cluster().OwnerOf(cluster::SlotOf("t1"));
  ClientProfile profile;
  profile.commands = 20000;
  profile.depth = 50;
  profile.tags = {"t1"};
  profile.keys = 20;
  profile.multi_key = 0;
  profile.pause = 0.5;
  profile.pause_max = 5 * kMillisecond;
  SimClient* first = world().Connect(profile);
  SimClient* second = world().Connect(profile);
  world().RunFor(kSecond);
  cluster().BeginMigration(cluster::SlotOf("t1"), OtherThan(from));
  for (uint32_t key = 0; key < cluster().keys()->size(); key += 2) cluster().MigrateKey(key);
  const uint64_t refreshes = world().stats()->control()->refreshes.Get();
  world().RunFor(60 * kSecond);
  EXPECT_LE(world().stats()->control()->refreshes.Get() - refreshes, 5 * 60u);
  EXPECT_GT(first->answered() + second->answered(), 10000u);
  EXPECT_GT(world().stats()->Sum(&proxy::WorkerStats::asked), 1000u);
  cluster().EndMigration(cluster::SlotOf("t1"));
  for (SimClient* client : {first, second}) client->FinishUp();
  world().RunUntil([&] { return first->done() && second->done(); }, 600 * kSecond);
  EXPECT_EQ(world().oracle()->error_count(), 0u);
  world().oracle()->CheckFinalState();
}

TEST_F(SimTest, KeysOfOneRequestOnBothSidesOfAMovingSlotAreServedOneByOne) {
  SimClient* client = world().Connect();
  Ask(client, "MSET {a}1 one {a}2 two {a}3 three");
  cluster().BeginMigration(cluster::SlotOf("a"), OtherThan(NodeOf("a").number()));
  cluster().MigrateKey(cluster().keys()->Intern("{a}2"));
  EXPECT_EQ(Ask(client, "MGET {a}1 {a}2 {a}3 {a}4"),
            "*4\r\n$3\r\none\r\n$3\r\ntwo\r\n$5\r\nthree\r\n$-1\r\n");
  EXPECT_EQ(Ask(client, "MSET {a}1 I {a}2 II {a}4 IV"), "+OK\r\n");
  EXPECT_EQ(Ask(client, "DEL {a}1 {a}2 {a}3 {a}4 {a}5"), ":4\r\n");
  EXPECT_EQ(world().stats()->Sum(&proxy::WorkerStats::proxy_errors), 0u);
}

// Their part of the request is made into parts of one key when the others are under way.
TEST_F(SimTest, ValuesStayInTheOrderOfTheirKeysWhenAPartIsSplitOnceMore) {
  SimClient* client = world().Connect();
  for (const absl::string_view key : {"{a}1", "b", "{a}2", "d"}) {
    EXPECT_EQ(Ask(client, absl::StrCat("SET ", key, " of:", key)), "+OK\r\n");
  }
  NodeOf("a").AnswerNext("MGET", "-TRYAGAIN Multiple keys request during rehashing of slot\r\n");
  EXPECT_EQ(Ask(client, "MGET {a}1 b {a}2 d"),
            "*4\r\n$7\r\nof:{a}1\r\n$4\r\nof:b\r\n$7\r\nof:{a}2\r\n$4\r\nof:d\r\n");
}

TEST_F(SimTest, ARedirectionToAnUnknownNodeIsNeverFollowed) {
  class Stranger final : public Listener::Observer {
   public:
    void OnAcceptable(Listener*) override { ++visitors; }
    int visitors = 0;
  } stranger;
  const io::Endpoint address = *io::Endpoint::FromIp("10.66.6.6", 6379);
  auto listener = world().net()->Listen(address, 10, &stranger);
  SimClient* client = world().Connect();
  for (int i = 0; i < 100; ++i) {
    NodeOf("a").AnswerNext("GET", "-MOVED 15495 10.66.6.6:6379\r\n");
  }
  const Nanos begin = world().now();
  EXPECT_THAT(Ask(client, "GET a"),
              AnyOf("-CLUSTERDOWN proxy: redirect to unknown node (not executed)\r\n",
                    "-ERR proxy: too many redirections (not executed)\r\n"));
  EXPECT_LE(world().now() - begin, 6 * kSecond);
  EXPECT_EQ(stranger.visitors, 0);
  EXPECT_EQ(Ask(client, "GET b"), "$-1\r\n");
}

TEST_F(SimTest, ANodeThatSendsAwayOnceIsAskedAgain) {
  SimClient* client = world().Connect();
  // Empty host: its own address.
  NodeOf("a").AnswerNext("GET",
                         absl::StrCat("-MOVED 15495 :", NodeOf("a").address().port(), "\r\n"));
  EXPECT_EQ(Ask(client, "GET a"), "$-1\r\n");
}

TEST_F(SimTest, AnOwnerWithoutANameIsFoundByAskingForTheTopology) {
  SimClient* client = world().Connect();
  Ask(client, "SET a x");
  FakeNode& from = NodeOf("a");
  cluster().MoveSlots({cluster::SlotOf("a")}, OtherThan(from.number()));
  from.AnswerNext("GET", "-MOVED 15495 ?:7001\r\n");
  EXPECT_EQ(Ask(client, "GET a"), "$1\r\nx\r\n");
}

TEST_F(SimTest, TwoNodesThatSendToEachOtherEndWithAnError) {
  SimClient* client = world().Connect();
  FakeNode& owner = NodeOf("a");
  FakeNode& other = *cluster().node(OtherThan(owner.number()));
  for (int i = 0; i < 20; ++i) {
    owner.AnswerNext("INCR", absl::StrCat("-MOVED 15495 ", other.HostPort(), "\r\n"));
    other.AnswerNext("INCR", absl::StrCat("-MOVED 15495 ", owner.HostPort(), "\r\n"));
  }
  const Nanos begin = world().now();
  EXPECT_EQ(Ask(client, "INCR a"), "-ERR proxy: too many redirections (not executed)\r\n");
  EXPECT_LE(world().now() - begin, 5 * kSecond);
}

TEST_F(SimTest, AMalformedRedirectionIsAnError) {
  SimClient* client = world().Connect();
  for (absl::string_view line : {"MOVED 15495", "MOVED 15495 10.0.0.1", "MOVED 15495 10.0.0.1:0",
                                 "MOVED 15495 10.0.0.1:65536", "MOVED 16384 10.0.0.2:7001",
                                 "MOVED 1 10.0.0.2:7001", "ASK x 10.0.0.2:7001"}) {
    SCOPED_TRACE(line);
    NodeOf("a").AnswerNext("SET", absl::StrCat("-", line, "\r\n"));
    EXPECT_EQ(Ask(client, "SET a x"), "-ERR proxy: malformed redirection (outcome unknown)\r\n");
  }
}

TEST_F(SimTest, AScriptCannotForgeARedirection) {
  SimClient* client = world().Connect();
  const std::string other = cluster().node(OtherThan(NodeOf("a").number()))->HostPort();
  for (const std::string& line :
       {absl::StrCat("MOVED 15495 ", other), absl::StrCat("ASK 15495 ", other),
        std::string("MOVED 15495 10.0.0.66:6379")}) {
    SCOPED_TRACE(line);
    ClearJournals();
    client->Send(Command({"EVAL", "fail " + line, "1", "a", "x"}));
    world().RunUntil([&] { return !client->received().empty(); });
    EXPECT_EQ(client->TakeReceived(),
              "-ERR proxy: redirection not confirmed (outcome unknown)\r\n");
    EXPECT_THAT(Journal("EVAL"), ElementsAre("EVAL a"));
  }
}

// An ASK is good for now. Held until a connection was open, it went to a node that was importing
// the slot once more, from somebody else, and ran there on nothing.
TEST_F(SimTest, AnAskThatHadToWaitIsAskedForAgain) {
  SimClient* client = world().Connect();
  const cluster::Slot slot = cluster::SlotOf("a");
  const auto [first, second] = AskThatWaits(client);
  cluster().MoveSlots({slot}, first);
  cluster().SpreadNews();
  cluster().BeginMigration(slot, second);
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), "$1\r\nx\r\n");
}

// It waits behind another one for longer than an ASK is good for, and the owner is asked again each
// time. Nothing was followed.
TEST_F(SimTest, AnAskThatNobodyFollowedIsNoRedirection) {
  SimClient* client = world().Connect();
  Ask(client, "SET {a}1 x");
  Ask(client, "SET {a}2 x");
  const cluster::Slot slot = cluster::SlotOf("a");
  const int from = cluster().OwnerOf(slot);
  cluster().BeginMigration(slot, OtherThan(from));
  cluster().MigrateKey(cluster().keys()->Intern("{a}1"));
  const std::string try_again = "TRYAGAIN Multiple keys request during rehashing of slot";
  client->Send(absl::StrCat(Command({"EVAL", "fail " + try_again, "1", "{a}1", "y"}),
                            Command({"INCR", "{a}3"})));
  world().RunFor(4 * kSecond);
  EXPECT_EQ(client->received(), "");
  EXPECT_GT(std::count(cluster().node(from)->journal().begin(),
                       cluster().node(from)->journal().end(), "!INCR {a}3"),
            6);
  cluster().EndMigration(slot);
  cluster().SpreadNews();
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), absl::StrCat("-", try_again, "\r\n:1\r\n"));
}

// What waited behind it on that connection was sent all the same.
TEST_F(SimTest, NobodyOvertakesAnAskThatHadToWait) {
  SimClient* client = world().Connect();
  AskThatWaits(client);
  cluster().SpreadNews();
  for (int i = 0; i < 10; ++i) client->SendCommand("APPEND a y");
  client->SendCommand("GET a");
  world().RunUntilIdle();
  EXPECT_THAT(client->received(), StartsWith("$1\r\nx\r\n:2\r\n:3\r\n"));
  EXPECT_THAT(client->received(), testing::EndsWith(":11\r\n$11\r\nxyyyyyyyyyy\r\n"));
}

// A true ASK was not confirmed when the slot had arrived before anybody was asked.
TEST_F(SimTest, AScriptFollowsAnAskThoughTheSlotHasArrivedMeanwhile) {
  SimClient* client = world().Connect();
  const cluster::Slot slot = cluster::SlotOf("a");
  cluster().options()->gossip_min = cluster().options()->gossip_max = 20 * kMillisecond;
  cluster().BeginMigration(slot, OtherThan(NodeOf("a").number()));
  Ask(client, "GET a");
  client->SendCommand("EVAL set 1 a x");
  world().RunFor(kMillisecond);
  cluster().EndMigration(slot);
  client->TakeReceived();
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), "+OK\r\n");
  EXPECT_THAT(Journal("EVAL"), testing::UnorderedElementsAre("!EVAL a", "EVAL a"));
}

// It was held for all of its time, though the cluster had changed and said who the owner was.
TEST_F(SimTest, ARedirectionToAnAddressThatIsNoMoreIsForgottenWithTheTopology) {
  SimClient* client = world().Connect();
  NodeOf("a").AnswerNext("INCR", "-MOVED 15495 10.0.9.9:7001\r\n");
  client->SendCommand("INCR a");
  world().RunFor(kSecond);
  EXPECT_EQ(client->received(), "");
  cluster().MoveSlots({cluster::SlotOf("b")}, OtherThan(NodeOf("b").number()));
  const Nanos begin = world().now();
  client->SendCommand("GET b");
  world().RunUntil([&] { return !client->received().empty(); });
  EXPECT_EQ(client->received(), ":1\r\n$-1\r\n");
  EXPECT_LE(world().now() - begin, 500 * kMillisecond);
}

// A refused command ran after a later one of its key, whose reply was lost.
TEST_F(SimTest, WhatMayHaveRunOvertakesWhatWasRefused) {
  SimClient* client = world().Connect();
  Ask(client, "GET a");
  FakeNode& node = NodeOf("a");
  node.set_service_time(50 * kMillisecond, 50 * kMillisecond);
  node.AnswerNext("INCR", "-TRYAGAIN Multiple keys request during rehashing of slot\r\n");
  client->TakeReceived();
  client->SendCommand("INCR a");
  client->SendCommand("SET a x");
  world().RunUntil([&] { return world().stats()->Sum(&proxy::WorkerStats::try_again) == 1; });
  node.CutReplyAfter(1);
  world().RunFor(200 * kMillisecond);  // not held until its time is up
  EXPECT_THAT(client->received(), StartsWith("-ERR proxy: overtaken by a later command on the same "
                                             "key (not executed)\r\n"));
  EXPECT_THAT(client->received(), testing::EndsWith(kLost));
  EXPECT_THAT(Journal("INCR"), ElementsAre());
}

// A read that ran before a refused command of its key made that one fail.
TEST_F(SimTest, AReadThatOvertookARefusedCommandRunsAgain) {
  SimClient* client = world().Connect();
  Ask(client, "MSET {a}1 x {a}2 y");
  for (const char* name : {"MGET", "MSET"}) {
    NodeOf("a").AnswerNext(name, "-TRYAGAIN Multiple keys request during rehashing of slot\r\n");
  }
  client->TakeReceived();
  client->SendCommand("MGET {a}1 {a}2");
  client->SendCommand("GET {a}1");
  world().RunUntilIdle();
  EXPECT_EQ(client->TakeReceived(), "*2\r\n$1\r\nx\r\n$1\r\ny\r\n$1\r\nx\r\n");
  EXPECT_THAT(Journal("GET"), ElementsAre("GET {a}1", "MGET {a}1", "MGET {a}2", "GET {a}1"));
  client->SendCommand("MSET {a}1 z {a}2 z");
  client->SendCommand("MGET {a}2 {a}1");
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), "+OK\r\n*2\r\n$1\r\nz\r\n$1\r\nz\r\n");
}

// The end of one request made later ones "overtaken" by it.
TEST_F(SimTest, NobodyIsOvertakenByAnEarlierCommand) {
  SimClient* client = world().Connect();
  const std::string other = cluster().node(OtherThan(NodeOf("a").number()))->HostPort();
  NodeOf("a").AnswerNext("GET", "-TRYAGAIN Multiple keys request during rehashing of slot\r\n");
  client->Send(Command({"EVAL", "fail MOVED 15495 " + other, "1", "a", "x"}));
  client->SendCommand("GET a");
  world().RunUntilIdle();
  EXPECT_EQ(client->received(),
            "-ERR proxy: redirection not confirmed (outcome unknown)\r\n$1\r\nx\r\n");
}

// --- states of the cluster

TEST_F(SimTest, AClusterThatIsDownForASecondCostsNoError) {
  SimClient* client = world().Connect();
  NodeOf("a").set_cluster_down(true);
  client->SendCommand("INCR a");
  world().RunFor(kSecond);
  EXPECT_EQ(client->received(), "");
  NodeOf("a").set_cluster_down(false);
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), ":1\r\n");
}

TEST_F(SimTest, WhatIsNotWaitedOutIsToldInTheServersWords) {
  SimClient* client = world().Connect();
  NodeOf("a").set_cluster_down(true);
  Nanos begin = world().now();
  EXPECT_EQ(Ask(client, "INCR a"), "-CLUSTERDOWN The cluster is down\r\n");
  EXPECT_GE(world().now() - begin, 4900 * kMillisecond);
  EXPECT_LE(world().now() - begin, 5500 * kMillisecond);
  NodeOf("a").set_cluster_down(false);
  NodeOf("a").set_loading(true);
  EXPECT_EQ(Ask(client, "GET a"), "-LOADING Redis is loading the dataset in memory\r\n");
  // Of a script it says nothing: at once.
  begin = world().now();
  EXPECT_EQ(Ask(client, "EVAL set 1 a x"), "-LOADING Redis is loading the dataset in memory\r\n");
  EXPECT_LE(world().now() - begin, 100 * kMillisecond);
}

TEST_F(SimTest, SlotsThatNobodyServesAreTheOnlyOnesThatFail) {
  SimClient* client = world().Connect();
  cluster().Uncover(cluster::SlotOf("a"));
  const Nanos begin = world().now();
  EXPECT_THAT(Ask(client, "SET a x"),
              AnyOf("-CLUSTERDOWN proxy: slot 15495 has no reachable owner (not executed)\r\n",
                    "-CLUSTERDOWN Hash slot not served\r\n"));
  EXPECT_LE(world().now() - begin, 6 * kSecond);
  EXPECT_EQ(Ask(client, "SET d x"), "+OK\r\n");
  EXPECT_EQ(Ask(client, "PING"), "+PONG\r\n");
  EXPECT_EQ(Journal("SET a").size(), Journal("!SET a").size());
}

TEST_F(SimTest, ErrorsThatAreTheCommandsOwnArePassedOn) {
  SimClient* client = world().Connect();
  for (absl::string_view line :
       {"BUSY Redis is busy running a script.", "OOM command not allowed", "WRONGTYPE x",
        "NOREPLICAS Not enough good replicas to write.", "NOPERM this user has no permissions",
        "MISCONF Redis is configured", "ERR", "-10001", ""}) {
    SCOPED_TRACE(line);
    NodeOf("a").AnswerNext("SET", absl::StrCat("-", line, "\r\n"));
    client->SendCommand("SET a x");
    world().RunUntilIdle();
    EXPECT_EQ(client->TakeReceived(), absl::StrCat("-", line, "\r\n"));
  }
  EXPECT_EQ(world().stats()->Sum(&proxy::WorkerStats::backend_lost), 0u);
}

// --- connections that end

TEST_F(SimTest, ALostConnectionLeavesTheOutcomeOfWritesUnknownAndRepeatsReads) {
  SimClient* client = world().Connect();
  FakeNode& node = NodeOf("a");
  Ask(client, "GET {a}");
  node.HoldReplies(true);
  client->SendCommand("INCR a");
  client->SendCommand("GET d");
  client->SendCommand("INCR b");
  client->TakeReceived();
  world().RunUntilIdle(50 * kMillisecond);
  node.DropConnections();
  node.HoldReplies(false);
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), absl::StrCat(kLost, "$-1\r\n:1\r\n"));
  EXPECT_THAT(Journal("INCR a"), ElementsAre("INCR a"));
  EXPECT_THAT(Journal("GET d"), ElementsAre("GET d", "GET d"));
}

TEST_F(SimTest, AReadIsNotRepeatedAfterALaterWriteOfItsSlot) {
  SimClient* client = world().Connect();
  Ask(client, "GET {a}");
  client->TakeReceived();
  NodeOf("a").HoldReplies(true);
  client->SendCommand("GET a");
  client->SendCommand("SET a x");
  world().RunUntilIdle(50 * kMillisecond);
  NodeOf("a").DropConnections();
  NodeOf("a").HoldReplies(false);
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), absl::StrCat(kLost, kLost));
}

TEST_F(SimTest, AHungNodeIsGivenUpInTimeAndOthersNeverWait) {
  SimClient* client = world().Connect();
  SimClient* other = world().Connect();
  Ask(client, "SET a x");
  NodeOf("a").SetHung(true);
  const Nanos begin = world().now();
  client->SendCommand("INCR a2{a}");
  world().RunFor(kMillisecond);
  EXPECT_EQ(Ask(other, "GET b"), "$-1\r\n");
  EXPECT_LE(world().now() - begin, 10 * kMillisecond);
  EXPECT_EQ(Ask(client, "PING", 10 * kSecond), absl::StrCat(kTimeout, "+PONG\r\n"));
  EXPECT_GE(world().now() - begin, 5 * kSecond);
  EXPECT_LE(world().now() - begin, 5100 * kMillisecond);
}

// What a hung node has not read yet must not run after what came later and was acknowledged.
TEST_F(SimTest, NothingUnreadRunsAfterALaterAcknowledgedCommand) {
  for (int round = 0; round < 10; ++round) {
    SCOPED_TRACE(round);
    SimClient* client = world().Connect();
    Ask(client, "SET a first");
    NodeOf("a").SetHung(true);
    EXPECT_EQ(Ask(client, "SET a older"), kTimeout);
    client->SendCommand("SET a newer");
    world().RunFor(300 * kMillisecond);
    NodeOf("a").SetHung(false);
    world().RunUntilIdle();
    EXPECT_EQ(client->TakeReceived(), "+OK\r\n");
    EXPECT_EQ(Ask(client, "GET a"), "$5\r\nnewer\r\n");
    client->Close();
  }
}

TEST_F(SimTest, AFenceIsNotLookedForAtANodeThatHasNoAddress) {
  Make({.cluster = {.lost_node = true}});
  SimClient* client = world().Connect();
  Ask(client, "SET a x");
  NodeOf("a").HoldReplies(true);
  client->SendCommand("SET a y");
  world().RunFor(kMillisecond);
  NodeOf("a").DropConnections();
  NodeOf("a").HoldReplies(false);
  world().RunFor(kSecond);
  EXPECT_EQ(client->TakeReceived(), kLost);
  EXPECT_EQ(Ask(client, "GET a"), "$1\r\ny\r\n");
}

TEST_F(SimTest, AConnectionOfItsOwnIsKeptWhenItsClientLeavesBeforeItOpens) {
  const std::string large = Command({"SET", "a", std::string(3 << 19, 'x')});
  for (int round = 0; round < 3; ++round) {
    SimClient* leaves = world().Connect();
    NodeOf("a").SetHung(true);
    leaves->Send(large);
    world().RunFor(100 * kMillisecond);
    leaves->Abort();
    world().RunFor(kMillisecond);
    NodeOf("a").SetHung(false);
    world().RunUntilIdle();
  }
  SimClient* client = world().Connect();
  const size_t connections = NodeOf("a").connections();
  client->Send(large);
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), "+OK\r\n");
  EXPECT_EQ(NodeOf("a").connections(), connections);
  EXPECT_LE(connections, 2u);
}

TEST_F(SimTest, ARequestOfAnySizeMayBeTheFirstOnItsConnection) {
  SimClient* client = world().Connect();
  client->Send(Command({"SET", "a", std::string(65 << 20, 'x')}));
  ASSERT_TRUE(world().RunUntil([&] { return !client->received().empty(); }));
  EXPECT_EQ(client->received(), "+OK\r\n");
}

// Its other connection had been there all the time.
TEST_F(SimTest, ANodeThatOnceRefusedAConnectionIsNotTakenForGone) {
  SimClient* two = world().Connect();
  SimClient* three = world().Connect();
  SimClient* leaves = world().Connect();
  Ask(leaves, "HELLO 3");
  Ask(three, "HELLO 3");
  Ask(two, "SET a x");
  world().net()->faults()->connect_refused = 1;
  leaves->SendCommand("GET a");
  world().RunFor(100 * kMillisecond);
  leaves->Abort();
  world().RunFor(kSecond);
  world().net()->faults()->connect_refused = 0;
  world().RunFor(10 * kSecond);
  NodeOf("a").DropConnections();
  world().RunFor(kMillisecond);
  two->SendCommand("GET a");
  three->SendCommand("GET a");
  world().RunUntilIdle();
  EXPECT_EQ(two->received(), "$1\r\nx\r\n");
  EXPECT_EQ(three->received(), "$1\r\nx\r\n");
}

// The value is longer than what the node's socket takes at once: the rest comes after the resumed
// node has looked at its other connections.
TEST_F(SimTest, NothingUnreadRunsAfterWhatAnotherOpenConnectionHadAcknowledged) {
  WorldOptions options;
  options.faults.send_buffer_min = options.faults.send_buffer_max = 4 << 20;
  options.configure = [](proxy::Config* config) { config->reply_timeout = absl::Seconds(1); };
  Make(options);
  SimClient* client = world().Connect();
  Ask(client, "SET a first");
  const std::string large = Command({"SET", "a", std::string(3 << 19, 'x')});
  for (const bool hung : {false, true}) {
    NodeOf("a").SetHung(hung);
    client->Send(large);  // goes by a connection of its own
    ASSERT_TRUE(world().RunUntil([&] { return !client->received().empty(); }));
    EXPECT_EQ(client->TakeReceived(), hung ? kTimeout : "+OK\r\n");
  }
  client->SendCommand("SET a newer");
  NodeOf("a").SetHung(false);
  world().RunUntilIdle();
  EXPECT_EQ(client->TakeReceived(), "+OK\r\n");
  EXPECT_EQ(Ask(client, "GET a"), "$5\r\nnewer\r\n");
}

TEST_F(SimTest, AReplyCutAtAnyByteIsNoReply) {
  SimClient* client = world().Connect();
  Ask(client, "SET a value");
  const std::string whole = "$5\r\nvalue\r\n";
  for (size_t bytes = 1; bytes < whole.size(); ++bytes) {
    SCOPED_TRACE(bytes);
    NodeOf("a").CutReplyAfter(bytes);
    EXPECT_EQ(Ask(client, "GET a"), whole) << "a read runs once more";
    NodeOf("a").CutReplyAfter(std::min<size_t>(bytes, 4));
    EXPECT_EQ(Ask(client, "SET a value"), kLost);
  }
}

TEST_F(SimTest, GarbledRepliesEndTheConnectionAndReachNobody) {
  SimClient* client = world().Connect();
  for (absl::string_view garbage :
       {"?what\r\n", "$-2\r\n", "$3\r\nabcd\r\n", "*99999999999\r\n", ":12a\r\n", "+OK\n\n",
        ">2\r\n$3\r\nfoo\r\n$3\r\nbar\r\n", "$9223372036854775808\r\n"}) {
    SCOPED_TRACE(garbage);
    NodeOf("a").HoldReplies(true);
    NodeOf("a").AnswerNext("SET", std::string(garbage));
    client->SendCommand("SET a x");
    client->SendCommand("INCR d");
    client->SendCommand("SET b y");
    world().RunFor(kMillisecond);
    NodeOf("a").HoldReplies(false);
    world().RunUntilIdle();
    EXPECT_EQ(client->TakeReceived(), absl::StrCat(kGarbled, kLost, "+OK\r\n"));
  }
}

TEST_F(SimTest, AReplyThatNobodyAwaitsEndsTheConnection) {
  SimClient* client = world().Connect();
  for (absl::string_view surplus : {"+OK\r\n", "$1\r\nx\r\n", ">1\r\n+x\r\n", "\r\n"}) {
    SCOPED_TRACE(surplus);
    Ask(client, "SET a x");
    const uint64_t lost = world().stats()->Sum(&proxy::WorkerStats::backend_lost);
    NodeOf("a").SendUnasked(surplus);
    world().RunUntilIdle();
    EXPECT_EQ(world().stats()->Sum(&proxy::WorkerStats::backend_lost), lost + 1);
    EXPECT_EQ(Ask(client, "GET a"), "$1\r\nx\r\n");
  }
}

TEST_F(SimTest, AnIdleConnectionThatTheNodeClosesIsReplacedUnnoticed) {
  SimClient* client = world().Connect();
  Ask(client, "SET a x");
  NodeOf("a").DropConnections();
  world().RunUntilIdle();
  EXPECT_EQ(Ask(client, "GET a"), "$1\r\nx\r\n");
  EXPECT_EQ(world().stats()->Sum(&proxy::WorkerStats::proxy_errors), 0u);
}

TEST_F(SimTest, NoCommandIsWrittenBeforeTheHandshakeIsAnswered) {
  SimClient* client = world().Connect();
  NodeOf("a").HoldReplies(true);
  client->SendCommand("SET a x");
  world().RunFor(500 * kMillisecond);
  EXPECT_EQ(NodeOf("a").commands("CLUSTER MYID"), 1u);
  EXPECT_THAT(Journal("SET"), ElementsAre());
  NodeOf("a").HoldReplies(false);
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), "+OK\r\n");
}

// --- receive buffers

// Each has sent the half of a request: whoever waits for the other half must not need what they
// hold.
TEST_F(SimTest, HalfRequestsOfManyClientsDoNotKeepAllBuffers) {
  Make({.ring = {.client_buffers = 4, .backend_buffers = 4, .buffer_bytes = 8192}});
  std::vector<SimClient*> clients;
  for (int i = 0; i < 12; ++i) clients.push_back(world().Connect());
  world().RunUntilIdle(10 * kMillisecond);
  const std::string request = Command({"SET", "a", std::string(20000, 'x')});
  for (size_t done = 0; done < request.size(); done += 7000) {
    world().Stall(kMillisecond);  // so that all have arrived when the worker looks
    for (SimClient* client : clients) client->Send(request.substr(done, 7000));
    world().RunFor(5 * kMillisecond);
  }
  world().RunUntilIdle();
  for (SimClient* client : clients) EXPECT_EQ(client->received(), "+OK\r\n");
}

// Replies that wait for an earlier one must not keep the buffers which that one needs.
TEST_F(SimTest, RepliesThatWaitDoNotKeepAllBuffers) {
  Make({.ring = {.client_buffers = 4, .backend_buffers = 4, .buffer_bytes = 4096}});
  SimClient* client = world().Connect();
  for (absl::string_view key : {"a", "b", "c"}) {
    Ask(client, absl::StrCat("SET ", key, " ", std::string(6000, 'x')));
  }
  client->TakeReceived();
  NodeOf("a").HoldReplies(true);
  client->SendCommand("GET a");
  for (int i = 0; i < 20; ++i) client->SendCommand(i % 2 == 0 ? "GET b" : "GET c");
  world().RunFor(100 * kMillisecond);
  EXPECT_EQ(client->received(), "");
  NodeOf("a").HoldReplies(false);
  world().RunUntilIdle();
  EXPECT_EQ(client->received().size(), 21u * (6000 + 9));
}

// --- failures of nodes

TEST_F(SimTest, WhatWasNotSentWaitsForTheFailover) {
  SimClient* client = world().Connect();
  Ask(client, "SET a x");
  const int primary = NodeOf("a").number();
  const int replica = cluster().ReplicasOf(primary)[0];
  cluster().node(primary)->Kill();
  world().RunUntilIdle(10 * kMillisecond);
  client->SendCommand("GET a");
  client->SendCommand("INCR d");
  world().RunFor(2 * kSecond);
  EXPECT_EQ(client->received(), "");
  cluster().FailOver(replica, false);
  cluster().SpreadNews();
  const Nanos begin = world().now();
  world().RunUntil([&] { return client->received().size() > 8; });
  EXPECT_EQ(client->received(), "$1\r\nx\r\n:1\r\n");
  EXPECT_LE(world().now() - begin, 2 * kSecond);
}

TEST_F(SimTest, ANodeThatIsUnreachableDelaysOnlyItsOwn) {
  SimClient* client = world().Connect();
  world().net()->SetUnreachable(NodeOf("a").address(), true);
  const Nanos begin = world().now();
  client->SendCommand("GET a");
  SimClient* other = world().Connect();
  EXPECT_EQ(Ask(other, "GET b"), "$-1\r\n");
  EXPECT_LE(world().now() - begin, 10 * kMillisecond);
  world().RunUntil([&] { return !client->received().empty(); });
  EXPECT_EQ(client->received(),
            "-CLUSTERDOWN proxy: slot 15495 has no reachable owner (not executed)\r\n");
  EXPECT_LE(world().now() - begin, 6 * kSecond);
  world().net()->SetUnreachable(NodeOf("a").address(), false);
  world().RunFor(2 * kSecond);
  client->TakeReceived();
  EXPECT_EQ(Ask(client, "GET a"), "$-1\r\n");
}

// A request without a slot of its own waited for ever: nothing woke it when those before it were
// answered because their time was up.
TEST_F(SimTest, ARequestWithoutASlotGoesWhenThoseBeforeItHaveRunOutOfTime) {
  SimClient* client = world().Connect();
  world().net()->SetUnreachable(NodeOf("a").address(), true);
  client->SendCommand("GET a");
  client->SendCommand("EVAL get 0 b");
  world().RunFor(8 * kSecond);
  EXPECT_THAT(
      client->received(),
      StartsWith(
          "-CLUSTERDOWN proxy: slot 15495 has no reachable owner (not executed)\r\n$-1\r\n"));
}

TEST_F(SimTest, AClusterThatCameBackAtNewAddressesIsFoundByItsNames) {
  Make({.names = true});
  SimClient* client = world().Connect();
  Ask(client, "SET a x");
  for (int i = 0; i < cluster().size(); ++i) cluster().node(i)->Kill();
  world().RunFor(20 * kSecond);
  for (int i = 0; i < cluster().size(); ++i) cluster().Restart(i, true);
  cluster().SpreadNews();
  const Nanos begin = world().now();
  std::string reply;
  while (world().now() - begin < 3 * kSecond && !absl::StartsWith(reply, "$")) {
    reply = Ask(client, "GET a");
  }
  EXPECT_EQ(reply, "$1\r\nx\r\n");
  EXPECT_LE(world().now() - begin, 3 * kSecond);
}

TEST_F(SimTest, AStrangerAtTheAddressOfANodeGetsNoCommands) {
  SimClient* client = world().Connect();
  FakeNode& node = NodeOf("a");
  const io::Endpoint address = node.address();
  const int added = cluster().AddNode();
  world().RunUntilIdle();
  cluster().node(added)->Kill();
  node.Kill();
  cluster().node(added)->Start(address);
  client->SendCommand("SET a x");
  world().RunFor(3 * kSecond);
  EXPECT_GE(cluster().node(added)->commands("CLUSTER MYID"), 1u);
  EXPECT_THAT(cluster().node(added)->journal(), ElementsAre());
  cluster().node(added)->Kill();
  node.Start(address);
  world().RunFor(kSecond + kSecond / 2);
  EXPECT_EQ(client->received(), "+OK\r\n");
}

TEST_F(SimTest, ReadsGoToReplicasAndBackToThePrimaryInNeed) {
  Make({.configure = [](proxy::Config* config) {
    config->read_prefer = cluster::ReadPrefer::kReplica;
  }});
  SimClient* writer = world().Connect();
  Ask(writer, "SET a x");
  world().RunFor(2 * kSecond);
  SimClient* reader = world().Connect();
  ClearJournals();
  EXPECT_EQ(Ask(reader, "GET a"), "$1\r\nx\r\n");
  EXPECT_THAT(NodeOf("a").journal(), ElementsAre());
  for (const int replica : cluster().ReplicasOf(NodeOf("a").number())) {
    cluster().node(replica)->set_primary_down(true);
  }
  EXPECT_EQ(Ask(reader, "GET a"), "$1\r\nx\r\n");
  EXPECT_THAT(NodeOf("a").journal(), ElementsAre("GET a"));
}

TEST_F(SimTest, ReadsGoToReplicasInTheProxysZone) {
  WorldOptions options;
  options.cluster.replicas = 3;
  options.configure = [](proxy::Config* config) {
    config->read_prefer = cluster::ReadPrefer::kSameZoneReplica;
    config->zone = "here";
  };
  Make(options);
  SimClient* client = world().Connect();
  ASSERT_EQ(Ask(client, "SET a x"), "+OK\r\n");
  world().RunFor(2 * kSecond);
  const std::vector<int> replicas = cluster().ReplicasOf(NodeOf("a").number());
  ASSERT_EQ(replicas.size(), 3u);
  for (const int replica : replicas) {
    cluster().node(replica)->set_zone(replica == replicas[1] ? "here" : "there");
  }
  const auto gets = [&](int node) {
    const auto& journal = cluster().node(node)->journal();
    return std::count(journal.begin(), journal.end(), "GET a");
  };
  // Which zone a node is in is known from the first time that it is connected to.
  for (int i = 0; i < 20; ++i) ASSERT_EQ(Ask(client, "GET a"), "$1\r\nx\r\n");
  ClearJournals();
  for (int i = 0; i < 20; ++i) ASSERT_EQ(Ask(client, "GET a"), "$1\r\nx\r\n");
  EXPECT_EQ(gets(replicas[1]), 20);
  // Nobody in the zone: others serve.
  cluster().node(replicas[1])->set_primary_down(true);
  cluster().node(replicas[1])->Kill();
  for (int i = 0; i < 20; ++i) ASSERT_EQ(Ask(client, "GET a"), "$1\r\nx\r\n");
  EXPECT_GT(gets(replicas[0]) + gets(replicas[2]), 10);
}

// Scripts were no writes, and a write's time was that of its sending: reads went to replicas that
// had not got it yet.
TEST_F(SimTest, AClientReadsWhatItHasWritten) {
  WorldOptions options;
  options.configure = [](proxy::Config* config) {
    config->read_prefer = cluster::ReadPrefer::kReplica;
  };
  options.cluster.replication_min = options.cluster.replication_max = 500 * kMillisecond;
  Make(options);
  SimClient* client = world().Connect();
  EXPECT_EQ(Ask(client, "EVAL set 1 a x"), "+OK\r\n");
  EXPECT_EQ(Ask(client, "GET a"), "$1\r\nx\r\n");
  NodeOf("a").set_service_time(2 * kSecond, 2 * kSecond);
  client->SendCommand("PING");
  client->SendCommand("INCR {a}");
  EXPECT_EQ(Ask(client, "SET a y"), "+PONG\r\n");
  world().RunUntil([&] { return absl::EndsWith(client->received(), "+OK\r\n"); });
  NodeOf("a").set_service_time(kMicrosecond, kMicrosecond);
  EXPECT_EQ(Ask(client, "GET a"), "$1\r\ny\r\n");
}

TEST_F(SimTest, APasswordTheNodesRefuseIsNotShownToClients) {
  Make({.cluster = {.password = "right"}});
  SimClient* client = world().Connect();
  EXPECT_EQ(Ask(client, "SET a x"), "+OK\r\n");
  cluster().options()->password = "changed";
  for (int i = 0; i < cluster().size(); ++i) cluster().node(i)->DropConnections();
  world().RunUntilIdle(10 * kMillisecond);
  EXPECT_EQ(Ask(client, "SET a x"),
            "-CLUSTERDOWN proxy: slot 15495 has no reachable owner (not executed)\r\n");
  for (const std::string& line : world().log()) {
    EXPECT_THAT(line, testing::Not(HasSubstr("right")));
  }
}

// --- the proxy itself

TEST_F(SimTest, ADrainAnswersWhatIsThere) {
  SimClient* client = world().Connect();
  NodeOf("a").HoldReplies(true);
  client->SendCommand("INCR a");
  client->SendCommand("INCR b");
  world().RunFor(kMillisecond);
  Alarm release(
      world().net()->alarms(), [](void* node) { static_cast<FakeNode*>(node)->HoldReplies(false); },
      &NodeOf("a"));
  release.Set(world().now() + kSecond);
  world().Shutdown();
  EXPECT_EQ(client->received(), ":1\r\n:1\r\n");
  EXPECT_TRUE(client->ended());
}

TEST_F(SimTest, AfterTheProcessStoodStillNobodyIsBlamed) {
  SimClient* client = world().Connect();
  Ask(client, "SET a x");
  NodeOf("a").HoldReplies(true);
  client->SendCommand("GET a");
  world().RunFor(kMillisecond);
  world().Stall(20 * kSecond);
  NodeOf("a").HoldReplies(false);
  world().RunFor(21 * kSecond);
  EXPECT_EQ(client->received(), "$1\r\nx\r\n");
  EXPECT_EQ(world().stats()->Sum(&proxy::WorkerStats::backend_timeouts), 0u);
}

// --- many workers

struct Work {
  double completions = 0;  // of the ring, a request
  double sends = 0;
  double turns = 0;
};

// Of each of so many workers, with 8 clients each that send pipelines.
std::vector<Work> WorkOf(uint32_t workers) {
  constexpr int kClientsEach = 8;
  constexpr int kDepth = 16;
  constexpr int kRounds = 50;
  WorldOptions options;
  options.workers = workers;
  World world(options);
  world.RunUntil([&] { return world.stats()->control()->topology_ready.Get() == 1; });
  std::vector<SimClient*> clients;
  for (uint32_t i = 0; i < workers * kClientsEach; ++i) clients.push_back(world.Connect());
  world.RunUntilIdle();
  const auto round = [&] {
    for (SimClient* client : clients) {
      std::string pipeline;
      for (int i = 0; i < kDepth; ++i) absl::StrAppend(&pipeline, "GET k", i, "\r\n");
      client->Send(pipeline);
    }
    world.RunUntilIdle();
    for (SimClient* client : clients) {
      EXPECT_EQ(client->TakeReceived(), Repeated("$-1\r\n", kDepth));
    }
  };
  round();  // opens the connections to the nodes
  std::vector<Work> before, work;
  const auto count = [&](std::vector<Work>* out) {
    for (uint32_t i = 0; i < workers; ++i) {
      const proxy::WorkerStats& stats = *world.stats()->worker(i);
      out->push_back({static_cast<double>(stats.completions.Get()),
                      static_cast<double>(stats.sends.Get()),
                      static_cast<double>(stats.turns.Get())});
      EXPECT_EQ(stats.clients_open.Get(), uint64_t{kClientsEach});
    }
  };
  count(&before);
  for (int i = 0; i < kRounds; ++i) round();
  count(&work);
  constexpr double kRequests = kClientsEach * kDepth * kRounds;
  for (uint32_t i = 0; i < workers; ++i) {
    work[i].completions = (work[i].completions - before[i].completions) / kRequests;
    work[i].sends = (work[i].sends - before[i].sends) / kRequests;
    work[i].turns = (work[i].turns - before[i].turns) / kRequests;
  }
  world.Shutdown();
  EXPECT_EQ(world.failure(), "");
  return work;
}

TEST(ManyWorkersTest, AWorkersWorkForARequestDoesNotDependOnTheirNumber) {
  const Work alone = WorkOf(1)[0];
  EXPECT_GT(alone.completions, 0);
  for (const uint32_t workers : {2u, 8u}) {
    for (const Work& work : WorkOf(workers)) {
      EXPECT_NEAR(work.completions / alone.completions, 1, 0.15) << workers;
      EXPECT_NEAR(work.sends / alone.sends, 1, 0.15) << workers;
      EXPECT_NEAR(work.turns / alone.turns, 1, 0.25) << workers;
    }
  }
}

}  // namespace
}  // namespace sim
