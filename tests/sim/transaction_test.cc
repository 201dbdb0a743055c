// Transactions in scenarios: what of MULTI, EXEC and WATCH only time, order and faults can show.

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "tests/sim/scenario.h"

namespace sim {
namespace {

using testing::AnyOf;
using testing::ElementsAre;
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
  Ask(client, "SET {t}a v1");
  Ask(client, "SET {t}b v2");
  const cluster::Slot slot = cluster::SlotOf("{t}a");
  cluster().BeginMigration(slot, OtherThan(NodeOf("{t}a").number()));
  cluster().MigrateKey(cluster().keys()->Intern("{t}a"));
  SendBlock(client, {"GET {t}a", "GET {t}b"});
  world().RunFor(kSecond);
  EXPECT_EQ(client->received(), "+OK\r\n+QUEUED\r\n+QUEUED\r\n");
  cluster().EndMigration(slot);
  world().RunFor(2 * kSecond);
  EXPECT_EQ(client->TakeReceived(), "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$2\r\nv1\r\n$2\r\nv2\r\n");
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

}  // namespace
}  // namespace sim
