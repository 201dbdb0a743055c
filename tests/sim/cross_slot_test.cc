// --cross-slot split: commands over slots in scenarios; what of them time, order and faults show.

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "tests/sim/scenario.h"

namespace sim {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

constexpr absl::string_view kCrossSlot =
    "-CROSSSLOT Keys in request don't hash to the same slot\r\n";
constexpr absl::string_view kTooLarge =
    "-ERR proxy: over slots: more than --cross-slot-max-bytes (not executed)\r\n";
constexpr absl::string_view kWrongType =
    "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";

std::string Bulk(absl::string_view text) {
  return absl::StrCat("$", text.size(), "\r\n", text, "\r\n");
}

// "a", "b" and "c" are in three shards.
class CrossSlotTest : public ScenarioTest {
 protected:
  CrossSlotTest() { MakeWith(64 << 10); }
  void MakeWith(uint64_t bytes_max) {
    Make({.configure = [bytes_max](proxy::Config* config) {
      config->cross_slot = proxy::CrossSlot::kSplit;
      config->cross_slot_bytes_max = bytes_max;
    }});
  }
  // Its connections are open.
  SimClient* Connected() {
    SimClient* client = world().Connect();
    for (const absl::string_view key : {"{a}0", "{b}0", "{c}0"}) Ask(client, Get(key));
    ClearJournals();
    return client;
  }
  static std::string Get(absl::string_view key) { return absl::StrCat("GET ", key); }
  uint64_t Partly() { return world().stats()->Sum(&proxy::WorkerStats::cross_slot_partly); }
  uint64_t Served() { return world().stats()->Sum(&proxy::WorkerStats::cross_slot_requests); }
  // What has come by the time that everybody has had enough of it.
  std::string Received(SimClient* client, Nanos after = 2 * kSecond) {
    world().RunFor(after);
    return client->TakeReceived();
  }
};

// --- sets

TEST_F(CrossSlotTest, SetsAreCombined) {
  SimClient* client = Connected();
  Ask(client, "SADD a 1 2 3");
  Ask(client, "SADD b 2 3 4");
  Ask(client, "SADD c 3 4 5 6");
  EXPECT_EQ(Ask(client, "SUNION a b none"), "*4\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n$1\r\n4\r\n");
  EXPECT_EQ(Ask(client, "SINTER a b c"), "*1\r\n$1\r\n3\r\n");
  EXPECT_EQ(Ask(client, "SDIFF a b a{x}"), "*1\r\n$1\r\n1\r\n");
  EXPECT_EQ(Ask(client, "SDIFF a b a"), "*0\r\n");
  EXPECT_EQ(Ask(client, "SINTERCARD 2 a b"), ":2\r\n");
  EXPECT_EQ(Ask(client, "SINTERCARD 2 a b LIMIT 1"), ":1\r\n");
  EXPECT_EQ(Ask(client, "ZUNION 2 a b WITHSCORES"),
            "*8\r\n$1\r\n1\r\n$1\r\n1\r\n$1\r\n4\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n2\r\n"
            "$1\r\n3\r\n$1\r\n2\r\n");
  EXPECT_EQ(Ask(client, "SUNIONSTORE b a c"), ":6\r\n");
  EXPECT_EQ(Ask(client, "SCARD b"), ":6\r\n");
  EXPECT_EQ(Ask(client, "SINTERSTORE b a none"), ":0\r\n");
  EXPECT_EQ(Ask(client, "EXISTS b"), ":0\r\n");
  EXPECT_EQ(Served(), 9u);
  EXPECT_EQ(Partly(), 0u);
}

TEST_F(CrossSlotTest, Resp3HasSetsAndDoubles) {
  SimClient* client = Connected();
  Ask(client, "HELLO 3");
  world().RunUntilIdle();
  Ask(client, "SADD a 1 2");
  EXPECT_EQ(Ask(client, "SUNION a b"), "~2\r\n$1\r\n1\r\n$1\r\n2\r\n");
  EXPECT_EQ(Ask(client, "SINTER a b"), "~0\r\n");
  EXPECT_EQ(Ask(client, "ZINTER 2 a a{b} WITHSCORES"), "*0\r\n");
  EXPECT_EQ(Ask(client, "ZUNION 2 a b WITHSCORES"),
            "*2\r\n*2\r\n$1\r\n1\r\n,1\r\n*2\r\n$1\r\n2\r\n,1\r\n");
}

TEST_F(CrossSlotTest, AKeyOfAnotherTypeIsToldWhateverElseIsMissing) {
  SimClient* client = Connected();
  Ask(client, "SET b text");
  EXPECT_EQ(Ask(client, "SINTER a b"), kWrongType);
  EXPECT_EQ(Ask(client, "SUNION a b"), kWrongType);
  EXPECT_EQ(Ask(client, "ZDIFF 2 a b"), kWrongType);
  EXPECT_EQ(Ask(client, "ZUNION 2 a b WEIGHTS x"), kWrongType);
  EXPECT_THAT(Journal("SMEMBERS"), IsEmpty());
}

TEST_F(CrossSlotTest, WithoutTheOptionAllIsRefused) {
  Make({});
  SimClient* client = Connected();
  for (const absl::string_view command :
       {"SUNION a b", "SINTERCARD 2 a b", "ZUNION 2 a b", "PFCOUNT a b", "RENAME a b",
        "RENAMENX a b", "COPY a b", "SUNIONSTORE a b c"}) {
    EXPECT_EQ(Ask(client, command), kCrossSlot) << command;
  }
  EXPECT_EQ(Served(), 0u);
}

TEST_F(CrossSlotTest, WhatIsNotServedIsRefusedWithIt) {
  SimClient* client = Connected();
  for (const absl::string_view command :
       {"MSETNX a 1 b 2", "SMOVE a b x", "LMOVE a b LEFT LEFT", "RPOPLPUSH a b",
        "ZRANGESTORE a b 0 1", "PFMERGE a b", "BITOP AND a b c", "WATCH a b"}) {
    EXPECT_EQ(Ask(client, command), kCrossSlot) << command;
  }
  EXPECT_EQ(Served(), 0u);
}

TEST_F(CrossSlotTest, ASetIsFoundWhereItsSlotHasMoved) {
  SimClient* client = Connected();
  Ask(client, "SADD a 1");
  Ask(client, "SADD b 2");
  const cluster::Slot slot = cluster::SlotOf("b");
  cluster().BeginMigration(slot, OtherThan(NodeOf("b").number()));
  cluster().MigrateAllKeys(slot);
  EXPECT_EQ(Ask(client, "SUNION a b"), "*2\r\n$1\r\n1\r\n$1\r\n2\r\n");
  cluster().EndMigration(slot);
  EXPECT_EQ(Ask(client, "SUNION a b"), "*2\r\n$1\r\n1\r\n$1\r\n2\r\n");
}

TEST_F(CrossSlotTest, ASlotThatMovesBetweenTheStepsIsFollowed) {
  SimClient* client = Connected();
  Ask(client, "SADD a 1");
  Ask(client, "SADD b 2");
  NodeOf("a").HoldReplies(true);
  client->SendCommand("SUNION a b");
  world().RunFor(50 * kMillisecond);
  EXPECT_EQ(Journal("SCARD").size(), 2u);
  const cluster::Slot slot = cluster::SlotOf("b");
  FakeNode& source = NodeOf("a");
  cluster().BeginMigration(slot, OtherThan(NodeOf("b").number()));
  cluster().MigrateAllKeys(slot);
  cluster().EndMigration(slot);
  source.HoldReplies(false);
  EXPECT_EQ(Received(client), "*2\r\n$1\r\n1\r\n$1\r\n2\r\n");
}

TEST_F(CrossSlotTest, AReadWhoseConnectionBreaksRunsOnceMore) {
  SimClient* client = Connected();
  Ask(client, "SADD a 1");
  Ask(client, "SADD b 2");
  NodeOf("b").HoldReplies(true);
  client->SendCommand("SUNION a b");
  world().RunFor(50 * kMillisecond);
  NodeOf("b").DropConnections();
  NodeOf("b").HoldReplies(false);
  EXPECT_EQ(Received(client), "*2\r\n$1\r\n1\r\n$1\r\n2\r\n");
}

TEST_F(CrossSlotTest, ANodeThatIsAwayIsAnErrorInTime) {
  SimClient* client = Connected();
  Ask(client, "SADD a 1");
  const int number = NodeOf("b").number();
  cluster().node(number)->Kill();
  client->SendCommand("SUNION a b");
  const std::string received = Received(client, 11 * kSecond);
  EXPECT_THAT(received, testing::StartsWith("-"));
  EXPECT_THAT(received, testing::EndsWith(")\r\n"));
}

TEST_F(CrossSlotTest, AStoreThatIsLostIsUnknownAndNothingElse) {
  SimClient* client = Connected();
  Ask(client, "SADD a 1");
  Ask(client, "SADD b 2");
  NodeOf("c").HoldReplies(true);
  client->SendCommand("SUNIONSTORE c a b");
  world().RunFor(100 * kMillisecond);
  NodeOf("c").DropConnections();
  NodeOf("c").HoldReplies(false);
  EXPECT_EQ(Received(client), kLost);
  EXPECT_EQ(Ask(client, "SCARD c"), ":2\r\n");
}

TEST_F(CrossSlotTest, MoreMembersThanMayBeHeldAreNotFetched) {
  SimClient* client = Connected();
  std::string add = "SADD a";
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&add, " ", i);
  EXPECT_EQ(Ask(client, add), ":1000\r\n");
  Ask(client, "SADD b 1");
  EXPECT_EQ(Ask(client, "SUNION a b"), kTooLarge);
  EXPECT_EQ(Ask(client, "SDIFF a b"), kTooLarge);
  EXPECT_THAT(Journal("SMEMBERS"), IsEmpty());
  EXPECT_EQ(Ask(client, "SINTER a none"), "*0\r\n");
  // A few are looked for in many.
  Ask(client, "SADD b x 2");
  EXPECT_EQ(Ask(client, "SINTER a b"), "*2\r\n$1\r\n1\r\n$1\r\n2\r\n");
  EXPECT_EQ(Ask(client, "SDIFF b a"), "*1\r\n$1\r\nx\r\n");
  EXPECT_EQ(Ask(client, "SDIFF b a b"), "*0\r\n");
  EXPECT_EQ(Ask(client, "ZINTER 3 b a b WEIGHTS 2 3 4 WITHSCORES"),
            "*4\r\n$1\r\n1\r\n$1\r\n9\r\n$1\r\n2\r\n$1\r\n9\r\n");
  EXPECT_THAT(Journal("SMEMBERS a"), IsEmpty());
}

TEST_F(CrossSlotTest, LongMembersAreGivenUpAsTheyCome) {
  SimClient* client = Connected();
  const std::string longer(400 << 10, 'x');
  EXPECT_EQ(Ask(client, absl::StrCat("SADD a ", longer)), ":1\r\n");
  Ask(client, "SADD b 1");
  world().RunUntilIdle();
  uint64_t most = 0;
  client->SendCommand("SUNION a b");
  world().RunUntil([&] {
    most = std::max(most, world().stats()->Sum(&proxy::WorkerStats::charged_bytes));
    return Complete(client->received());
  });
  EXPECT_EQ(client->TakeReceived(), kTooLarge);
  EXPECT_LT(most, 200u << 10);
  // What was dropped is nobody's: the next replies are right.
  EXPECT_EQ(Ask(client, "SCARD a"), ":1\r\n");
  EXPECT_EQ(Ask(client, "COPY a b REPLACE"), kTooLarge);
  EXPECT_EQ(Ask(client, "RENAME a b"), kTooLarge);
  EXPECT_EQ(Ask(client, "SCARD a"), ":1\r\n");
}

TEST_F(CrossSlotTest, WhatIsTooMuchTogetherIsFetchedOneByOne) {
  SimClient* client = Connected();
  const std::string part(25 << 10, 'x');
  for (const absl::string_view key : {"a", "b", "c"}) {
    EXPECT_EQ(Ask(client, absl::StrCat("SADD ", key, " ", part, key, " same")), ":2\r\n");
  }
  EXPECT_EQ(Ask(client, "SINTER a b c"), "*1\r\n$4\r\nsame\r\n");
  EXPECT_EQ(Ask(client, "SUNION a b c"), kTooLarge);
}

TEST_F(CrossSlotTest, ASetThatBecomesAnotherTypeIsLookedAtAnew) {
  SimClient* client = Connected();
  SimClient* other = world().Connect();
  Ask(client, "SADD a 1");
  Ask(client, "SADD b 2");
  NodeOf("a").HoldReplies(true);
  client->SendCommand("SUNION a b");
  world().RunFor(50 * kMillisecond);
  Ask(other, "SET b text");
  NodeOf("a").HoldReplies(false);
  EXPECT_EQ(Received(client), kWrongType);
  EXPECT_EQ(Journal("SCARD b").size(), 2u);
}

TEST_F(CrossSlotTest, SoIsOneThatIsAskedForSomeMembersOnly) {
  SimClient* client = Connected();
  SimClient* other = world().Connect();
  Ask(client, "SADD a 1");
  Ask(client, "SADD b 1 2 3 4");
  ClearJournals();
  NodeOf("b").HoldReplies(true);
  client->SendCommand("SINTER a b");
  world().RunFor(50 * kMillisecond);
  NodeOf("a").HoldReplies(true);
  NodeOf("b").HoldReplies(false);
  world().RunFor(50 * kMillisecond);
  EXPECT_EQ(Journal("SMEMBERS a").size(), 1u);
  Ask(other, "SET b text");
  NodeOf("a").HoldReplies(false);
  EXPECT_EQ(Received(client), kWrongType);
  EXPECT_EQ(Journal("SMISMEMBER b").size(), 1u);
  EXPECT_EQ(Journal("SCARD b").size(), 2u);
}

TEST_F(CrossSlotTest, OthersOfTheSameClientWait) {
  SimClient* client = Connected();
  Ask(client, "SADD a 1");
  NodeOf("b").HoldReplies(true);
  client->SendCommand("SUNIONSTORE c a b");
  client->SendCommand("SCARD c");
  world().RunFor(100 * kMillisecond);
  EXPECT_THAT(Journal("SCARD c"), IsEmpty());
  NodeOf("b").HoldReplies(false);
  EXPECT_EQ(Received(client), ":1\r\n:1\r\n");
}

// --- RENAME, RENAMENX, COPY

TEST_F(CrossSlotTest, AValueMoves) {
  SimClient* client = Connected();
  EXPECT_EQ(Ask(client, "RENAME a b"), "-ERR no such key\r\n");
  EXPECT_EQ(Ask(client, "RENAMENX a b"), "-ERR no such key\r\n");
  EXPECT_EQ(Ask(client, "COPY a b"), ":0\r\n");
  Ask(client, "SET a v1");
  EXPECT_EQ(Ask(client, "COPY a b"), ":1\r\n");
  EXPECT_EQ(Ask(client, "GET a"), Bulk("v1"));
  Ask(client, "SET a v2");
  EXPECT_EQ(Ask(client, "COPY a b"), ":0\r\n");
  EXPECT_EQ(Ask(client, "RENAMENX a b"), ":0\r\n");
  EXPECT_EQ(Ask(client, "GET b"), Bulk("v1"));
  EXPECT_EQ(Ask(client, "COPY a b REPLACE"), ":1\r\n");
  EXPECT_EQ(Ask(client, "GET b"), Bulk("v2"));
  Ask(client, "SET a v3");
  EXPECT_EQ(Ask(client, "RENAME a b"), "+OK\r\n");
  EXPECT_EQ(Ask(client, "GET b"), Bulk("v3"));
  EXPECT_EQ(Ask(client, "GET a"), "$-1\r\n");
  EXPECT_EQ(Ask(client, "RENAMENX b c"), ":1\r\n");
  EXPECT_EQ(Ask(client, "MGET a b c"), absl::StrCat("*3\r\n$-1\r\n$-1\r\n", Bulk("v3")));
  EXPECT_EQ(Partly(), 0u);
  EXPECT_EQ(Served(), 9u);
}

TEST_F(CrossSlotTest, TheSourceGoesOnlyWhenTheDestinationIsThere) {
  SimClient* client = Connected();
  Ask(client, "SET a v1");
  ClearJournals();
  NodeOf("b").HoldReplies(true);
  client->SendCommand("RENAME a b");
  client->SendCommand("GET a");
  client->SendCommand("GET b");
  world().RunFor(100 * kMillisecond);
  EXPECT_EQ(Journal("RESTORE b").size(), 1u);
  EXPECT_THAT(Journal("UNLINK"), IsEmpty());
  EXPECT_THAT(Journal("GET"), IsEmpty());
  NodeOf("b").HoldReplies(false);
  EXPECT_EQ(Received(client), absl::StrCat("+OK\r\n$-1\r\n", Bulk("v1")));
}

TEST_F(CrossSlotTest, AChangeOfTheSourceMeanwhileIsNotLost) {
  SimClient* client = Connected();
  SimClient* other = world().Connect();
  for (const absl::string_view rename : {"RENAME a b", "RENAMENX a b"}) {
    Ask(client, "DEL a b");
    Ask(client, "SET a v1");
    ClearJournals();
    NodeOf("b").HoldReplies(true);
    client->SendCommand(rename);
    world().RunFor(100 * kMillisecond);
    Ask(other, "SET a v2");
    NodeOf("b").HoldReplies(false);
    EXPECT_EQ(Received(client), rename == "RENAME a b" ? "+OK\r\n" : ":1\r\n");
    EXPECT_EQ(Ask(client, "MGET a b"), absl::StrCat("*2\r\n$-1\r\n", Bulk("v2")));
    EXPECT_EQ(Journal("RESTORE b").size(), 2u);
  }
}

TEST_F(CrossSlotTest, ASourceThatOthersDeleteMeanwhileHasMoved) {
  SimClient* client = Connected();
  SimClient* other = world().Connect();
  Ask(client, "SET a v1");
  NodeOf("b").HoldReplies(true);
  client->SendCommand("RENAME a b");
  world().RunFor(100 * kMillisecond);
  Ask(other, "DEL a");
  NodeOf("b").HoldReplies(false);
  EXPECT_EQ(Received(client), "+OK\r\n");
  EXPECT_EQ(Ask(client, "MGET a b"), absl::StrCat("*2\r\n$-1\r\n", Bulk("v1")));
}

TEST_F(CrossSlotTest, ALostRestoreKeepsTheSource) {
  SimClient* client = Connected();
  Ask(client, "SET a v1");
  for (const absl::string_view command : {"RENAME a b", "COPY a b REPLACE"}) {
    NodeOf("b").HoldReplies(true);
    client->SendCommand(command);
    world().RunFor(100 * kMillisecond);
    NodeOf("b").DropConnections();
    NodeOf("b").HoldReplies(false);
    EXPECT_EQ(Received(client), absl::StrCat("-ERR proxy: new key unknown, ",
                                             command[0] == 'R' ? "old key kept, " : "",
                                             "backend connection lost (outcome unknown)\r\n"));
  }
  EXPECT_EQ(Ask(client, "GET a"), Bulk("v1"));
  EXPECT_EQ(Partly(), 2u);
}

TEST_F(CrossSlotTest, ALostDeletionSaysThatTheDestinationIsThere) {
  SimClient* client = Connected();
  Ask(client, "SET a v1");
  NodeOf("b").HoldReplies(true);
  client->SendCommand("RENAME a b");
  world().RunFor(100 * kMillisecond);
  NodeOf("a").HoldReplies(true);
  NodeOf("b").HoldReplies(false);
  world().RunFor(100 * kMillisecond);
  EXPECT_EQ(Journal("UNLINK a").size(), 1u);
  NodeOf("a").DropConnections();
  NodeOf("a").HoldReplies(false);
  EXPECT_EQ(Received(client),
            "-ERR proxy: partly executed, new key written, old key unknown, backend connection lost"
            " (outcome unknown)\r\n");
  EXPECT_EQ(Ask(client, "GET b"), Bulk("v1"));
  EXPECT_EQ(Partly(), 1u);
}

TEST_F(CrossSlotTest, ALostConnectionOfTheWatchBeforeTheDeletionBeginsAnew) {
  SimClient* client = Connected();
  Ask(client, "SET a v1");
  NodeOf("b").HoldReplies(true);
  client->SendCommand("RENAME a b");
  world().RunFor(100 * kMillisecond);
  NodeOf("a").DropConnections();
  world().RunFor(100 * kMillisecond);
  NodeOf("b").HoldReplies(false);
  EXPECT_EQ(Received(client), "+OK\r\n");
  EXPECT_EQ(Ask(client, "MGET a b"), absl::StrCat("*2\r\n$-1\r\n", Bulk("v1")));
  EXPECT_EQ(Journal("RESTORE b").size(), 2u);
}

TEST_F(CrossSlotTest, ALostReadHasDoneNothing) {
  SimClient* client = Connected();
  Ask(client, "SET a v1");
  NodeOf("a").HoldReplies(true);
  client->SendCommand("COPY a b");
  world().RunFor(100 * kMillisecond);
  NodeOf("a").DropConnections();
  NodeOf("a").HoldReplies(false);
  EXPECT_EQ(Received(client), "-ERR proxy: backend connection lost (not executed)\r\n");
  EXPECT_EQ(Ask(client, "EXISTS b"), ":0\r\n");
  EXPECT_EQ(Partly(), 0u);
}

TEST_F(CrossSlotTest, AnErrorOfTheDestinationsNodeIsTheWholes) {
  SimClient* client = Connected();
  Ask(client, "SET a v1");
  const absl::string_view error = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";
  NodeOf("b").AnswerNext("RESTORE", std::string(error));
  EXPECT_EQ(Ask(client, "RENAME a b"), error);
  EXPECT_EQ(Ask(client, "GET a"), Bulk("v1"));
  EXPECT_EQ(Partly(), 0u);
}

TEST_F(CrossSlotTest, ADestinationThatIsAwayKeepsTheSource) {
  SimClient* client = Connected();
  Ask(client, "SET a v1");
  cluster().node(NodeOf("b").number())->Kill();
  client->SendCommand("RENAME a b");
  EXPECT_THAT(Received(client, 11 * kSecond), HasSubstr("(not executed)\r\n"));
  EXPECT_EQ(Ask(client, "GET a"), Bulk("v1"));
}

TEST_F(CrossSlotTest, ASourceInAMovingSlotIsFollowed) {
  SimClient* client = Connected();
  Ask(client, "SET a v1");
  const cluster::Slot slot = cluster::SlotOf("a");
  const int from = NodeOf("a").number();
  cluster().BeginMigration(slot, OtherThan(from));
  cluster().MigrateAllKeys(slot);
  EXPECT_EQ(Ask(client, "RENAME a {b}1"), "+OK\r\n");
  EXPECT_EQ(Ask(client, "GET {b}1"), Bulk("v1"));
  EXPECT_EQ(Ask(client, "RENAME {b}1 a"), "+OK\r\n");
  EXPECT_EQ(Ask(client, "GET a"), Bulk("v1"));
  cluster().EndMigration(slot);
  EXPECT_EQ(Ask(client, "RENAME a {b}2"), "+OK\r\n");
  EXPECT_EQ(Ask(client, "MGET a {b}1 {b}2"), absl::StrCat("*3\r\n$-1\r\n$-1\r\n", Bulk("v1")));
}

TEST_F(CrossSlotTest, ASourceThatMovesInTheMiddleIsStillTheOnlyOne) {
  SimClient* client = Connected();
  Ask(client, "SET a v1");
  NodeOf("b").HoldReplies(true);
  client->SendCommand("RENAME a b");
  world().RunFor(100 * kMillisecond);
  FakeNode& destination = NodeOf("b");
  const cluster::Slot slot = cluster::SlotOf("a");
  cluster().BeginMigration(slot, NodeOf("c").number());
  cluster().MigrateAllKeys(slot);
  cluster().EndMigration(slot);
  destination.HoldReplies(false);
  EXPECT_EQ(Received(client, 5 * kSecond), "+OK\r\n");
  EXPECT_EQ(Ask(client, "MGET a b"), absl::StrCat("*2\r\n$-1\r\n", Bulk("v1")));
}

// A client that wants no replies has no room for long ones: but its procedures need them.
TEST_F(CrossSlotTest, ALongValueMovesForAClientWithoutReplies) {
  MakeWith(64 << 20);
  SimClient* client = Connected();
  const std::string longer(400 << 10, 'x');
  Ask(client, absl::StrCat("SET a ", longer));
  client->SendCommand("CLIENT REPLY OFF");
  client->SendCommand("RENAME a b");
  world().RunFor(kSecond);
  client->SendCommand("CLIENT REPLY ON");
  EXPECT_EQ(Received(client), "+OK\r\n");
  EXPECT_EQ(Ask(client, "STRLEN b"), absl::StrCat(":", longer.size(), "\r\n"));
  EXPECT_EQ(Ask(client, "EXISTS a"), ":0\r\n");
}

TEST_F(CrossSlotTest, AClientThatLeavesInTheMiddleLeavesNothingBehind) {
  SimClient* client = Connected();
  Ask(client, "SET a v1");
  Ask(client, "SADD c 1");
  for (const absl::string_view command : {"RENAME a b", "COPY a b", "SUNION c b"}) {
    for (const absl::string_view held : {"a", "b", "c"}) {
      SimClient* leaver = world().Connect();
      Ask(leaver, "PING");
      NodeOf(held).HoldReplies(true);
      leaver->SendCommand(command);
      world().RunFor(50 * kMillisecond);
      leaver->Abort();
      world().RunFor(50 * kMillisecond);
      NodeOf(held).HoldReplies(false);
      world().RunFor(50 * kMillisecond);
      Ask(client, "DEL b");
      Ask(client, "SET a v1");
    }
  }
  world().RunFor(kSecond);
  EXPECT_EQ(world().stats()->Sum(&proxy::WorkerStats::charged_bytes), 0u);
}

}  // namespace
}  // namespace sim
