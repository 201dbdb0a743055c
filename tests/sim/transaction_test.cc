// Transactions in scenarios: what of MULTI, EXEC and WATCH only time, order and faults can show.

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "tests/sim/scenario.h"

namespace sim {
namespace {

using testing::AnyOf;
using testing::ElementsAre;
using testing::EndsWith;
using testing::IsEmpty;

class TransactionTest : public ScenarioTest {
 protected:
  // MULTI, the commands, EXEC in one write; the replies but for those of the queueing.
  std::string AskBlock(SimClient* client, std::vector<absl::string_view> commands,
                       Nanos limit = 60 * kSecond) {
    SendBlock(client, commands);
    const std::string queued = absl::StrCat("+OK\r\n", Repeated("+QUEUED\r\n", commands.size()));
    world().RunUntil(
        [&] {
          return client->received().size() > queued.size() &&
                 Complete(absl::string_view(client->received()).substr(queued.size()));
        },
        limit);
    std::string received = client->TakeReceived();
    EXPECT_EQ(received.substr(0, queued.size()), queued);
    return received.substr(std::min(received.size(), queued.size()));
  }
  void SendBlock(SimClient* client, std::vector<absl::string_view> commands) {
    client->TakeReceived();
    client->SendCommand("MULTI");
    for (const absl::string_view command : commands) client->SendCommand(command);
    client->SendCommand("EXEC");
  }
  // {t}a and {t}b are v1 and v2, and their slot moves, which has taken `moved` over so far.
  void MoveHalf(SimClient* client, absl::string_view moved) {
    Ask(client, "SET {t}a v1");
    Ask(client, "SET {t}b v2");
    cluster().BeginMigration(cluster::SlotOf(moved), OtherThan(NodeOf(moved).number()));
    cluster().MigrateKey(cluster().keys()->Intern(moved));
  }
  static std::string Repeated(absl::string_view text, size_t times) {
    return sim::Repeated(text, static_cast<int>(times));
  }
};

TEST_F(TransactionTest, ABlockFollowsItsSlotWhichMovedBeforeExec) {
  SimClient* client = world().Connect();
  Ask(client, "SET {t}a v1");
  const int from = NodeOf("{t}a").number();
  cluster().options()->gossip_min = cluster().options()->gossip_max = 5 * kSecond;
  cluster().BeginMigration(cluster::SlotOf("{t}a"), OtherThan(from));
  cluster().EndMigration(cluster::SlotOf("{t}a"));
  cluster().node(from)->journal().clear();
  // The proxy does not know it yet; the node refuses to queue, or does not know either and sends
  // away by EXEC.
  cluster().SpreadNews();
  ClearJournals();
  EXPECT_EQ(AskBlock(client, {"INCR {t}n", "INCR {t}n"}), "*2\r\n:1\r\n:2\r\n");
  EXPECT_THAT(Journal(""), ElementsAre("EXEC", "INCR {t}n", "INCR {t}n"));
}

TEST_F(TransactionTest, AskingGoesOnceBeforeMulti) {
  SimClient* client = world().Connect();
  Ask(client, "SET {t}a v1");
  const int from = NodeOf("{t}a").number();
  cluster().BeginMigration(cluster::SlotOf("{t}a"), OtherThan(from));
  cluster().MigrateAllKeys(cluster::SlotOf("{t}a"));
  ClearJournals();
  EXPECT_EQ(AskBlock(client, {"GET {t}a", "SET {t}a v2"}), "*2\r\n$2\r\nv1\r\n+OK\r\n");
  EXPECT_THAT(Journal(""), ElementsAre("ASKING", "EXEC", "GET {t}a", "SET {t}a"));
}

TEST_F(TransactionTest, ABlockWithKeysOnBothSidesWaitsForTheEndOfTheMove) {
  SimClient* client = world().Connect();
  const cluster::Slot slot = cluster::SlotOf("{t}a");
  MoveHalf(client, "{t}a");
  SendBlock(client, {"GET {t}a", "GET {t}b"});
  world().RunFor(kSecond);
  EXPECT_EQ(client->received(), "+OK\r\n+QUEUED\r\n+QUEUED\r\n");
  cluster().EndMigration(slot);
  world().RunFor(2 * kSecond);
  EXPECT_EQ(client->TakeReceived(), "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$2\r\nv1\r\n$2\r\nv2\r\n");
}

// At the node that its slot moves to, it would lie unread while the client's later command runs
// where that key still is, and run when that has arrived, too.
TEST_F(TransactionTest, ABlockWithKeysOnBothSidesDoesNotRunAfterALaterCommand) {
  const cluster::Slot slot = cluster::SlotOf("{t}a");
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Make({.seed = seed});
    SimClient* client = world().Connect();
    const int to = OtherThan(NodeOf("{t}a").number());
    MoveHalf(client, "{t}a");
    Ask(client, "GET {t}a");  // the connection to the target is open
    cluster().node(to)->SetHung(true);
    SendBlock(client, {"SET {t}a early", "SET {t}b early"});
    world().RunFor(10 * kMillisecond);
    client->SendCommand("SET {t}b late");
    world().RunFor(15 * kSecond);
    EXPECT_THAT(client->TakeReceived(), EndsWith("\r\n+OK\r\n"));
    cluster().EndMigration(slot);
    cluster().node(to)->SetHung(false);
    world().RunFor(2 * kSecond);
    EXPECT_EQ(Ask(client, "GET {t}b"), "$4\r\nlate\r\n");
  }
}

// Which each node queues, wherever the keys are.
TEST_F(TransactionTest, ABlockFollowsAskThoughACommandOfItHasNoKeys) {
  SimClient* client = world().Connect();
  Ask(client, "SET {t}a v1");
  const int from = NodeOf("{t}a").number();
  const int to = OtherThan(from);
  cluster().BeginMigration(cluster::SlotOf("{t}a"), to);
  cluster().MigrateAllKeys(cluster::SlotOf("{t}a"));
  for (const int node : {from, to}) cluster().node(node)->AnswerNext("PUBLISH", "+QUEUED\r\n");
  EXPECT_EQ(AskBlock(client, {"PUBLISH c x", "GET {t}a"}), "*1\r\n$2\r\nv1\r\n");
}

TEST_F(TransactionTest, ABlockThatMayHaveRunIsNotSentAgain) {
  SimClient* client = world().Connect();
  Ask(client, "SET {t}n 0");
  NodeOf("{t}n").HoldReplies(true);
  SendBlock(client, {"INCR {t}n"});
  world().RunFor(kSecond);
  NodeOf("{t}n").HoldReplies(false);
  NodeOf("{t}n").DropConnections();
  world().RunFor(2 * kSecond);
  EXPECT_EQ(client->TakeReceived(), absl::StrCat("+OK\r\n+QUEUED\r\n", kLost));
  EXPECT_EQ(Ask(client, "GET {t}n"), "$1\r\n1\r\n");
}

TEST_F(TransactionTest, ABlockThatWasNotSentWaitsForItsNode) {
  SimClient* client = world().Connect();
  const int number = NodeOf("{t}n").number();
  cluster().node(number)->Kill();
  SendBlock(client, {"INCR {t}n"});
  world().RunFor(kSecond);
  EXPECT_EQ(client->received(), "+OK\r\n+QUEUED\r\n");
  cluster().Restart(number, false);
  world().RunFor(2 * kSecond);
  EXPECT_EQ(client->TakeReceived(), "+OK\r\n+QUEUED\r\n*1\r\n:1\r\n");
}

TEST_F(TransactionTest, AReplyCutAtAnyByteIsNoReply) {
  SimClient* client = world().Connect();
  const absl::string_view reply = "*1\r\n:7\r\n";
  for (const absl::string_view command : {"MULTI", "INCR", "EXEC"}) {
    const absl::string_view whole = command == "EXEC" ? reply : "+QUEUED\r\n";
    for (size_t cut = 0; cut < whole.size(); ++cut) {
      Ask(client, "GET {t}n");  // the connection is open
      NodeOf("{t}n").AnswerNext(command, std::string(whole.substr(0, cut)));
      SendBlock(client, {"INCR {t}n"});
      world().RunFor(100 * kMillisecond);
      NodeOf("{t}n").DropConnections();
      world().RunFor(kSecond);
      // Of MULTI and the command, the next reply follows at once.
      EXPECT_THAT(client->TakeReceived(), AnyOf(absl::StrCat("+OK\r\n+QUEUED\r\n", kLost),
                                                absl::StrCat("+OK\r\n+QUEUED\r\n", kGarbled)))
          << command << " " << cut;
    }
  }
}

TEST_F(TransactionTest, AUserWithoutTheRightToMultiRunsNothing) {
  NodeOf("{t}n").AnswerNext("MULTI", "-NOPERM this user has no permissions to run 'multi'\r\n");
  NodeOf("{t}n").AnswerNext("DISCARD", "-ERR DISCARD without MULTI\r\n");
  SimClient* client = world().Connect();
  EXPECT_EQ(AskBlock(client, {"INCR {t}n", "INCR {t}n"}), "-ERR EXEC without MULTI\r\n");
  EXPECT_THAT(Journal("INCR"), IsEmpty());
  EXPECT_EQ(Ask(client, "GET {t}n"), "$-1\r\n");
}

TEST_F(TransactionTest, AWatchedSlotThatMovesIsAsIfAKeyHadChanged) {
  SimClient* client = world().Connect();
  Ask(client, "SET {t}a v1");
  EXPECT_EQ(Ask(client, "WATCH {t}a"), "+OK\r\n");
  const int from = NodeOf("{t}a").number();
  cluster().BeginMigration(cluster::SlotOf("{t}a"), OtherThan(from));
  cluster().EndMigration(cluster::SlotOf("{t}a"));
  cluster().SpreadNews();
  EXPECT_EQ(AskBlock(client, {"SET {t}a v2"}), "*-1\r\n");
  // Tried again, it is done.
  EXPECT_EQ(Ask(client, "WATCH {t}a"), "+OK\r\n");
  EXPECT_EQ(AskBlock(client, {"SET {t}a v2"}), "*1\r\n+OK\r\n");
}

TEST_F(TransactionTest, AWatchLoopSucceedsWhileItsSlotIsHalfMoved) {
  SimClient* client = world().Connect();
  Ask(client, "SET {t}a v1");
  cluster().BeginMigration(cluster::SlotOf("{t}a"), OtherThan(NodeOf("{t}a").number()));
  cluster().MigrateAllKeys(cluster::SlotOf("{t}a"));
  EXPECT_EQ(Ask(client, "WATCH {t}a"), "+OK\r\n");
  EXPECT_EQ(Ask(client, "GET {t}a"), "$2\r\nv1\r\n");
  EXPECT_EQ(AskBlock(client, {"SET {t}a v2"}), "*1\r\n+OK\r\n");
  EXPECT_EQ(Ask(client, "WATCH {t}a"), "+OK\r\n");
  SimClient* other = world().Connect();
  Ask(other, "SET {t}a v3");
  EXPECT_EQ(AskBlock(client, {"SET {t}a v4"}), "*-1\r\n");
  EXPECT_EQ(Ask(client, "GET {t}a"), "$2\r\nv3\r\n");
}

// The watched key is at the node that its slot moves to. That would take any command after ASKING,
// also on a key that it does not have yet.
TEST_F(TransactionTest, AWatchedBlockDoesNotRunWhereAnotherKeyOfItIsNot) {
  SimClient* client = world().Connect();
  const cluster::Slot slot = cluster::SlotOf("{t}a");
  MoveHalf(client, "{t}a");
  EXPECT_EQ(Ask(client, "WATCH {t}a"), "+OK\r\n");
  EXPECT_EQ(AskBlock(client, {"GET {t}b"}), "*-1\r\n");
  EXPECT_EQ(Ask(client, "WATCH {t}a"), "+OK\r\n");
  EXPECT_EQ(AskBlock(client, {"SET {t}b v3"}), "*-1\r\n");
  EXPECT_EQ(Ask(client, "GET {t}b"), "$2\r\nv2\r\n");
  // With what is watched, it may; and with all, when they are together again.
  EXPECT_EQ(Ask(client, "WATCH {t}a"), "+OK\r\n");
  EXPECT_EQ(AskBlock(client, {"SET {t}a v3"}), "*1\r\n+OK\r\n");
  cluster().MigrateAllKeys(slot);
  EXPECT_EQ(Ask(client, "WATCH {t}a {t}b"), "+OK\r\n");
  EXPECT_EQ(AskBlock(client, {"SET {t}a v4", "GET {t}b"}), "*2\r\n+OK\r\n$2\r\nv2\r\n");
  cluster().EndMigration(slot);
  cluster().SpreadNews();
  EXPECT_EQ(Ask(client, "WATCH {t}a"), "+OK\r\n");
  EXPECT_EQ(AskBlock(client, {"SET {t}b v5"}), "*1\r\n+OK\r\n");
}

// Then it is not known what it may concern.
TEST_F(TransactionTest, AWatchOfManyMovedKeysEndsInNull) {
  SimClient* client = world().Connect();
  const cluster::Slot slot = cluster::SlotOf("{t}a");
  cluster().BeginMigration(slot, OtherThan(NodeOf("{t}a").number()));
  std::string watch = "WATCH {t}a";
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&watch, " {t}a");
  EXPECT_EQ(Ask(client, watch), "+OK\r\n");
  EXPECT_EQ(AskBlock(client, {"SET {t}a v1"}), "*-1\r\n");
}

TEST_F(TransactionTest, AWatchThatIsLostKeepsNoConnection) {
  Make({.configure = [](proxy::Config* config) { config->private_connections_max = 2; }});
  SimClient* client = world().Connect();
  MoveHalf(client, "{t}b");
  for (int i = 0; i < 5; ++i) {
    // The second one is refused where the first one was not, …
    EXPECT_EQ(Ask(client, "WATCH {t}a"), "+OK\r\n");
    EXPECT_EQ(Ask(client, "WATCH {t}b"), "+OK\r\n");
    EXPECT_EQ(AskBlock(client, {"SET {t}a v3"}), "*-1\r\n");
    // … and here the block is not sent at all.
    EXPECT_EQ(Ask(client, "WATCH {t}b"), "+OK\r\n");
    EXPECT_EQ(AskBlock(client, {"SET {t}a v3"}), "*-1\r\n");
  }
  EXPECT_EQ(Ask(client, "GET {t}a"), "$2\r\nv1\r\n");
}

TEST_F(TransactionTest, AWatchOnABrokenConnectionIsLost) {
  SimClient* client = world().Connect();
  Ask(client, "SET {t}a v1");
  EXPECT_EQ(Ask(client, "WATCH {t}a"), "+OK\r\n");
  NodeOf("{t}a").DropConnections();
  world().RunUntilIdle();
  EXPECT_EQ(Ask(client, "WATCH {t}b"), "+OK\r\n");
  EXPECT_EQ(AskBlock(client, {"SET {t}a v2"}), "*-1\r\n");
  EXPECT_EQ(Ask(client, "GET {t}a"), "$2\r\nv1\r\n");
}

TEST_F(TransactionTest, AWatchWhoseReplyIsCutIsSentAgain) {
  SimClient* client = world().Connect();
  for (size_t cut = 0; cut < 5; ++cut) {
    NodeOf("{t}a").AnswerNext("WATCH", std::string("+OK\r\n").substr(0, cut));
    client->TakeReceived();
    client->SendCommand("WATCH {t}a");
    world().RunFor(100 * kMillisecond);
    NodeOf("{t}a").DropConnections();
    world().RunFor(kSecond);
    EXPECT_EQ(client->TakeReceived(), "+OK\r\n") << cut;
    EXPECT_EQ(AskBlock(client, {"SET {t}a v1"}), "*1\r\n+OK\r\n");
  }
}

TEST_F(TransactionTest, AWatchOnAHungNodeIsGivenUpInTime) {
  SimClient* client = world().Connect();
  Ask(client, "SET {t}a v1");
  EXPECT_EQ(Ask(client, "WATCH {t}a"), "+OK\r\n");
  NodeOf("{t}a").SetHung(true);
  EXPECT_EQ(AskBlock(client, {"SET {t}a v2"}, 12 * kSecond), kTimeout);
  NodeOf("{t}a").SetHung(false);
  world().RunFor(2 * kSecond);
  EXPECT_EQ(AskBlock(client, {"SET {t}a v3"}), "*1\r\n+OK\r\n");
}

// --cross-slot split. "a", "b" and "c" are in three shards.
class CrossSlotTransactionTest : public TransactionTest {
 protected:
  CrossSlotTransactionTest() {
    Make({.configure = [](proxy::Config* config) {
      config->cross_slot = proxy::CrossSlot::kSplit;
    }});
  }
  // Its connections are open.
  SimClient* Connected() {
    SimClient* client = world().Connect();
    for (const absl::string_view key : {"a", "b", "c"}) {
      EXPECT_EQ(Ask(client, absl::StrCat("SET ", key, " 0")), "+OK\r\n");
    }
    ClearJournals();
    return client;
  }
  uint64_t Partly() { return world().stats()->Sum(&proxy::WorkerStats::cross_slot_partly); }
};

TEST_F(CrossSlotTransactionTest, RepliesComeInTheOrderOfTheCommands) {
  SimClient* client = Connected();
  EXPECT_EQ(AskBlock(client, {"INCR a", "INCR b", "PING", "INCR a", "INCR c", "INCR b"}),
            "*6\r\n:1\r\n:1\r\n+PONG\r\n:2\r\n:1\r\n:2\r\n");
  EXPECT_EQ(Journal("EXEC").size(), 3u);
  EXPECT_EQ(world().stats()->Sum(&proxy::WorkerStats::cross_slot_transactions), 1u);
  EXPECT_EQ(Partly(), 0u);
}

TEST_F(CrossSlotTransactionTest, OneSlotIsOneBurstAsWithoutTheOption) {
  SimClient* client = Connected();
  EXPECT_EQ(AskBlock(client, {"INCR a", "INCR {a}2"}), "*2\r\n:1\r\n:1\r\n");
  EXPECT_EQ(Journal("EXEC").size(), 1u);
  EXPECT_EQ(world().stats()->Sum(&proxy::WorkerStats::cross_slot_transactions), 0u);
}

TEST_F(CrossSlotTransactionTest, CommandsOverSlotsAreSplit) {
  SimClient* client = Connected();
  EXPECT_EQ(AskBlock(client, {"MSET a x b y c z", "MGET c a none b a", "DEL a b c none", "GET a"}),
            "*4\r\n+OK\r\n*5\r\n$1\r\nz\r\n$1\r\nx\r\n$-1\r\n$1\r\ny\r\n$1\r\nx\r\n:3\r\n$-1\r\n");
}

TEST_F(CrossSlotTransactionTest, PartsRunInTheOrderOfTheirFirstCommands) {
  SimClient* client = Connected();
  NodeOf("b").HoldReplies(true);
  SendBlock(client, {"INCR a", "INCR b", "INCR c", "INCR a"});
  world().RunFor(100 * kMillisecond);
  EXPECT_EQ(Journal("INCR a").size(), 2u);
  EXPECT_EQ(Journal("INCR b").size(), 1u);
  EXPECT_THAT(Journal("INCR c"), IsEmpty());
  NodeOf("b").HoldReplies(false);
  world().RunFor(100 * kMillisecond);
  EXPECT_EQ(client->TakeReceived(),
            absl::StrCat("+OK\r\n", Repeated("+QUEUED\r\n", 4), "*4\r\n:1\r\n:1\r\n:1\r\n:2\r\n"));
}

TEST_F(CrossSlotTransactionTest, OthersOfTheSameClientWaitForAllParts) {
  SimClient* client = Connected();
  NodeOf("b").HoldReplies(true);
  SendBlock(client, {"INCR a", "INCR b", "INCR c"});
  client->SendCommand("INCR c");
  world().RunFor(100 * kMillisecond);
  EXPECT_THAT(Journal("INCR c"), IsEmpty());
  NodeOf("b").HoldReplies(false);
  world().RunFor(100 * kMillisecond);
  EXPECT_EQ(client->TakeReceived(),
            absl::StrCat("+OK\r\n", Repeated("+QUEUED\r\n", 3), "*3\r\n:1\r\n:1\r\n:1\r\n:2\r\n"));
}

TEST_F(CrossSlotTransactionTest, APartFollowsItsSlot) {
  SimClient* client = Connected();
  const cluster::Slot slot = cluster::SlotOf("b");
  cluster().BeginMigration(slot, OtherThan(NodeOf("b").number()));
  cluster().MigrateAllKeys(slot);
  EXPECT_EQ(AskBlock(client, {"INCR a", "INCR b"}), "*2\r\n:1\r\n:1\r\n");
  cluster().EndMigration(slot);
  EXPECT_EQ(AskBlock(client, {"INCR a", "INCR b"}), "*2\r\n:2\r\n:2\r\n");
}

TEST_F(CrossSlotTransactionTest, ALostPartIsToldWithWhatHasRun) {
  SimClient* client = Connected();
  NodeOf("b").HoldReplies(true);
  SendBlock(client, {"INCR a", "INCR b", "INCR c", "INCR a", "MGET a c"});
  world().RunFor(100 * kMillisecond);
  NodeOf("b").HoldReplies(false);
  NodeOf("b").DropConnections();
  world().RunFor(kSecond);
  EXPECT_EQ(client->TakeReceived(),
            absl::StrCat("+OK\r\n", Repeated("+QUEUED\r\n", 5),
                         "-ERR proxy: partly executed, ran: 1,4, in part: 5, unknown: 2, not: 3,"
                         " backend connection lost (outcome unknown)\r\n"));
  EXPECT_THAT(Journal("INCR c"), IsEmpty());
  EXPECT_EQ(Partly(), 1u);
}

TEST_F(CrossSlotTransactionTest, AReplyCutAtAnyByteIsNoReply) {
  SimClient* client = Connected();
  const absl::string_view reply = "*1\r\n:7\r\n";
  for (size_t cut = 0; cut < reply.size(); ++cut) {
    Ask(client, "GET b");
    NodeOf("b").AnswerNext("EXEC", std::string(reply.substr(0, cut)));
    SendBlock(client, {"INCR a", "INCR b", "INCR c"});
    world().RunFor(100 * kMillisecond);
    NodeOf("b").DropConnections();
    world().RunFor(kSecond);
    EXPECT_EQ(client->TakeReceived(),
              absl::StrCat("+OK\r\n", Repeated("+QUEUED\r\n", 3),
                           "-ERR proxy: partly executed, ran: 1, unknown: 2, not: 3,"
                           " backend connection lost (outcome unknown)\r\n"))
        << cut;
  }
}

// A long reply of a part was not kept for a client without replies; the part seemed to have failed,
// and the others did not run.
TEST_F(CrossSlotTransactionTest, AllPartsRunForAClientWithoutReplies) {
  SimClient* client = Connected();
  Ask(client, absl::StrCat("SET a ", std::string(400 << 10, 'x')));
  client->SendCommand("CLIENT REPLY OFF");
  SendBlock(client, {"GET a", "INCR b"});
  client->SendCommand("CLIENT REPLY ON");
  world().RunFor(kSecond);
  EXPECT_EQ(client->TakeReceived(), "+OK\r\n");
  EXPECT_EQ(Ask(client, "GET b"), "$1\r\n1\r\n");
}

TEST_F(CrossSlotTransactionTest, AnErrorOfTheFirstPartIsTheWholes) {
  SimClient* client = Connected();
  NodeOf("a").AnswerNext("EXEC",
                         "-EXECABORT Transaction discarded because of previous errors.\r\n");
  EXPECT_EQ(AskBlock(client, {"INCR a", "INCR b"}),
            "-EXECABORT Transaction discarded because of previous errors.\r\n");
  EXPECT_THAT(Journal("INCR b"), IsEmpty());
  // The fake node still queues there.
  NodeOf("a").DropConnections();
  world().RunUntilIdle();
  NodeOf("b").AnswerNext("EXEC",
                         "-EXECABORT Transaction discarded because of previous errors.\r\n");
  EXPECT_EQ(AskBlock(client, {"INCR a", "INCR b", "INCR c"}),
            "-ERR proxy: partly executed, ran: 1, not: 2-3, EXECABORT Transaction discarded because"
            " of previous errors. (outcome unknown)\r\n");
  EXPECT_EQ(Partly(), 1u);
}

TEST_F(CrossSlotTransactionTest, ANodeThatIsAwayIsWaitedForInTime) {
  SimClient* client = Connected();
  const int number = NodeOf("b").number();
  cluster().node(number)->Kill();
  SendBlock(client, {"INCR a", "INCR b", "INCR c"});
  world().RunFor(kSecond);
  EXPECT_EQ(Journal("INCR a").size(), 1u);
  world().RunFor(10 * kSecond);
  const std::string received = client->TakeReceived();
  EXPECT_THAT(received, testing::HasSubstr("-ERR proxy: partly executed, ran: 1, not: 2-3, "));
  EXPECT_THAT(received, testing::EndsWith(" (outcome unknown)\r\n"));
}

TEST_F(CrossSlotTransactionTest, TheWatchedSlotGoesFirstAndDecides) {
  SimClient* client = Connected();
  SimClient* other = world().Connect();
  EXPECT_EQ(Ask(client, "WATCH c"), "+OK\r\n");
  Ask(other, "SET c 0");
  EXPECT_EQ(AskBlock(client, {"INCR a", "INCR c"}), "*-1\r\n");
  EXPECT_EQ(Ask(client, "WATCH c"), "+OK\r\n");
  Ask(other, "SET c 0");
  EXPECT_EQ(AskBlock(client, {"INCR a", "INCR b"}), "*-1\r\n");
  EXPECT_EQ(Ask(client, "WATCH c"), "+OK\r\n");
  EXPECT_EQ(AskBlock(client, {"INCR a"}), "*1\r\n:1\r\n");
  EXPECT_EQ(Ask(client, "WATCH c"), "+OK\r\n");
  EXPECT_EQ(AskBlock(client, {"INCR a", "INCR c", "INCR a"}), "*3\r\n:2\r\n:1\r\n:3\r\n");
  // Watching is over.
  Ask(other, "SET c 0");
  EXPECT_EQ(AskBlock(client, {"INCR a", "INCR c"}), "*2\r\n:4\r\n:1\r\n");
  EXPECT_EQ(Ask(client, "WATCH a"), "+OK\r\n");
  EXPECT_EQ(Ask(client, "WATCH b"), "-CROSSSLOT Keys in request don't hash to the same slot\r\n");
}

TEST_F(CrossSlotTransactionTest, AClientThatLeavesInTheMiddleLeavesNothingBehind) {
  SimClient* client = Connected();
  for (const absl::string_view held : {"a", "b", "c"}) {
    SimClient* leaver = world().Connect();
    EXPECT_EQ(Ask(leaver, "WATCH a"), "+OK\r\n");
    NodeOf(held).HoldReplies(true);
    SendBlock(leaver, {"INCR b", "INCR c", "INCR a"});
    world().RunFor(10 * kMillisecond);
    leaver->Close();
    world().RunFor(10 * kMillisecond);
    NodeOf(held).HoldReplies(false);
  }
  // Also while what it sent before is not answered, so that the parts have not begun.
  SimClient* leaver = world().Connect();
  EXPECT_EQ(Ask(leaver, "WATCH a"), "+OK\r\n");
  NodeOf("c").HoldReplies(true);
  leaver->SendCommand("INCR c");
  SendBlock(leaver, {"INCR b", "INCR a"});
  world().RunFor(10 * kMillisecond);
  leaver->Abort();
  world().RunFor(10 * kMillisecond);
  NodeOf("c").HoldReplies(false);
  EXPECT_EQ(Ask(client, "PING"), "+PONG\r\n");
  world().RunFor(kSecond);
  EXPECT_EQ(world().stats()->Sum(&proxy::WorkerStats::charged_bytes), 0u);
}

}  // namespace
}  // namespace sim
