// Scripts that nodes lack: what only order, time and faults can show. The fake nodes' scripts are
// "set" and "get" of their first key, and "fail <error>" after a set.

#include <string>

#include "absl/strings/ascii.h"
#include "gmock/gmock.h"
#include "proxy/sha1.h"
#include "tests/sim/scenario.h"

namespace sim {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr absl::string_view kNoScript = "-NOSCRIPT No matching script.\r\n";

class ScriptsTest : public ScenarioTest {
 protected:
  // Keys of two shards: the first of these lies in another one than "a".
  static constexpr absl::string_view kElsewhere = "b";

  static std::string EvalSha(absl::string_view script, absl::string_view key,
                             absl::string_view value) {
    return Command({"EVALSHA", proxy::Sha1Hex(script), "1", key, value});
  }
  std::string AskFrame(SimClient* client, absl::string_view frame, size_t replies = 1) {
    client->TakeReceived();
    client->Send(frame);
    world().RunUntil([&] { return Replies(client->received()) >= replies; }, 60 * kSecond);
    return client->TakeReceived();
  }
  static size_t Replies(absl::string_view bytes) {
    size_t count = 0;
    while (!bytes.empty()) {
      resp::ReplyScanner scanner;
      const resp::ScanResult result = scanner.Scan(bytes);
      if (result.status != resp::ScanStatus::kComplete) break;
      bytes.remove_prefix(result.consumed);
      ++count;
    }
    return count;
  }
  uint64_t repairs() { return world().stats()->Sum(&proxy::WorkerStats::script_repairs); }
  uint64_t AskedNodes(absl::string_view command) {
    uint64_t sum = 0;
    for (int i = 0; i < cluster().size(); ++i) sum += cluster().node(i)->commands(command);
    return sum;
  }
};

TEST_F(ScriptsTest, WhatEvalBroughtToOneNodeIsGivenToAnother) {
  ASSERT_NE(&NodeOf("a"), &NodeOf(kElsewhere));
  SimClient* client = world().Connect();
  EXPECT_EQ(Ask(client, "EVAL set 1 a x"), "+OK\r\n");
  EXPECT_EQ(AskFrame(client, EvalSha("set", kElsewhere, "y")), "+OK\r\n");
  EXPECT_EQ(Ask(client, "GET b"), "$1\r\ny\r\n");
  EXPECT_THAT(Journal("EVALSHA"), ElementsAre("!EVALSHA b", "EVALSHA b"));
  EXPECT_EQ(repairs(), 1u);
  EXPECT_EQ(AskFrame(client, EvalSha("set", kElsewhere, "z")), "+OK\r\n");
  EXPECT_EQ(repairs(), 1u);
}

TEST_F(ScriptsTest, WhatNobodyKnowsIsRefusedAsAServerRefusesIt) {
  SimClient* client = world().Connect();
  EXPECT_EQ(AskFrame(client, EvalSha("set", "a", "x")), kNoScript);
  EXPECT_EQ(AskedNodes("SCRIPT EXISTS"), 0u);
  // As it is spelled, and whatever is no name at all.
  EXPECT_EQ(Ask(client, "EVAL set 1 b x"), "+OK\r\n");
  EXPECT_EQ(AskFrame(client, Command({"EVALSHA", "nonsense", "1", "a", "x"})), kNoScript);
  EXPECT_EQ(AskFrame(client, Command({"evalsha", absl::AsciiStrToUpper(proxy::Sha1Hex("set")), "1",
                                      "a", "x"})),
            "+OK\r\n");
}

TEST_F(ScriptsTest, AScriptThatSaysNoScriptItselfRunsOnce) {
  const std::string forging = "fail NOSCRIPT No matching script.";
  SimClient* client = world().Connect();
  client->Send(Command({"EVAL", forging, "1", "a", "x"}));
  world().RunUntilIdle();
  EXPECT_EQ(client->TakeReceived(), kNoScript);
  EXPECT_EQ(AskFrame(client, EvalSha(forging, "a", "y")), kNoScript);
  EXPECT_THAT(Journal("EVALSHA"), ElementsAre("EVALSHA a"));
  EXPECT_EQ(NodeOf("a").commands("SCRIPT EXISTS"), 1u);
  EXPECT_EQ(Ask(client, "GET a"), "$1\r\ny\r\n");
}

// The write before it was refused, and would go again.
TEST_F(ScriptsTest, AWriteDoesNotRunAfterAScriptThatSaysItWasRedirected) {
  const int slot = cluster::SlotOf("a");
  for (const std::string& forged :
       {absl::StrCat("MOVED ", slot, " 127.0.0.1:1"), absl::StrCat("ASK ", slot, " 127.0.0.1:1"),
        std::string("TRYAGAIN Multiple keys request during rehashing of slot")}) {
    for (uint64_t seed = 1; seed <= 10; ++seed) {
      SCOPED_TRACE(absl::StrCat(forged, ", seed ", seed));
      Make({.seed = seed});
      SimClient* client = world().Connect();
      NodeOf("a").AnswerNext("SET", "-TRYAGAIN Multiple keys request during rehashing of slot\r\n");
      AskFrame(client,
               Command({"SET", "a", "p"}) + Command({"EVAL", "fail " + forged, "1", "a", "x"}), 2);
      EXPECT_EQ(Ask(client, "GET a"), "$1\r\nx\r\n");
    }
  }
}

TEST_F(ScriptsTest, APipelineOnOneKeyKeepsItsOrder) {
  SimClient* client = world().Connect();
  EXPECT_EQ(Ask(client, "EVAL set 1 b x"), "+OK\r\n");
  const std::string pipeline = EvalSha("set", "a", "p") + EvalSha("set", "a", "q") +
                               EvalSha("set", "a", "r") + Command({"GET", "a"});
  EXPECT_EQ(AskFrame(client, pipeline, 4), "+OK\r\n+OK\r\n+OK\r\n$1\r\nr\r\n");
  EXPECT_THAT(Journal("EVALSHA").size(), 6u);
  EXPECT_EQ(repairs(), 1u);
}

// As with redirections: a read between two writes can't be repeated, and must not see the future.
TEST_F(ScriptsTest, WhatALaterReadOrWriteHasOvertakenIsNotSentAgain) {
  SimClient* client = world().Connect();
  EXPECT_EQ(Ask(client, "EVAL set 1 b x"), "+OK\r\n");
  const std::string pipeline = EvalSha("set", "a", "p") + Command({"SET", "a", "q"});
  EXPECT_EQ(AskFrame(client, pipeline, 2), absl::StrCat(kNoScript, "+OK\r\n"));
  EXPECT_EQ(Ask(client, "GET a"), "$1\r\nq\r\n");
  NodeOf("a").scripts()->clear();
  const std::string read_between =
      EvalSha("set", "a", "r") + Command({"GET", "a"}) + EvalSha("set", "a", "s");
  EXPECT_EQ(AskFrame(client, read_between, 3), absl::StrCat(kNoScript, "$1\r\nq\r\n+OK\r\n"));
}

TEST_F(ScriptsTest, ANodeThatComesBackHasTheScriptsBeforeItsFirstCall) {
  SimClient* client = world().Connect();
  EXPECT_EQ(Ask(client, "SCRIPT LOAD set"), absl::StrCat("$40\r\n", proxy::Sha1Hex("set"), "\r\n"));
  const int number = NodeOf("a").number();
  cluster().node(number)->Kill();
  cluster().Restart(number, false);
  EXPECT_EQ(AskFrame(client, EvalSha("set", "a", "x")), "+OK\r\n");
  EXPECT_THAT(Journal("EVALSHA"), ElementsAre("EVALSHA a"));
  EXPECT_EQ(repairs(), 0u);
}

TEST_F(ScriptsTest, APromotedReplicaHasTheScriptsBeforeItsFirstCall) {
  SimClient* client = world().Connect();
  Ask(client, "SCRIPT LOAD set");
  const int number = NodeOf("a").number();
  const int replica = cluster().ReplicasOf(number)[0];
  cluster().node(replica)->Kill();
  cluster().Restart(replica, false);
  world().RunFor(kSecond);
  cluster().node(number)->Kill();
  cluster().FailOver(replica, false);
  cluster().SpreadNews();
  world().RunFor(kSecond);
  EXPECT_EQ(AskFrame(client, EvalSha("set", "a", "x")), "+OK\r\n");
  EXPECT_EQ(&NodeOf("a"), cluster().node(replica));
  EXPECT_EQ(repairs(), 0u);
}

TEST_F(ScriptsTest, ANodeThatLostItsScriptsIsGivenThemAgain) {
  SimClient* client = world().Connect();
  Ask(client, "SCRIPT LOAD set");
  EXPECT_EQ(AskFrame(client, EvalSha("set", "a", "x")), "+OK\r\n");
  NodeOf("a").scripts()->clear();
  EXPECT_EQ(AskFrame(client, EvalSha("set", "a", "y")), "+OK\r\n");
  EXPECT_EQ(repairs(), 1u);
}

TEST_F(ScriptsTest, TheTargetOfAMoveIsGivenTheScriptAndAskedAgain) {
  SimClient* client = world().Connect();
  EXPECT_EQ(Ask(client, "EVAL set 1 a x"), "+OK\r\n");
  const cluster::Slot slot = cluster::SlotOf("a");
  cluster().BeginMigration(slot, OtherThan(NodeOf("a").number()));
  cluster().MigrateAllKeys(slot);
  ClearJournals();
  EXPECT_EQ(AskFrame(client, EvalSha("set", "a", "y")), "+OK\r\n");
  EXPECT_THAT(Journal(""), testing::UnorderedElementsAre("!EVALSHA a", "ASKING", "!EVALSHA a",
                                                         "ASKING", "EVALSHA a"));
  cluster().EndMigration(slot);
  EXPECT_EQ(Ask(client, "GET a"), "$1\r\ny\r\n");
}

TEST_F(ScriptsTest, ATransactionsScriptsAreGivenBeforeIt) {
  SimClient* client = world().Connect();
  EXPECT_EQ(Ask(client, "EVAL set 1 b x"), "+OK\r\n");
  Ask(client, "SET a x");
  const std::string block =
      Command({"MULTI"}) + EvalSha("set", "a", "y") + Command({"GET", "a"}) + Command({"EXEC"});
  const std::string replies = "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n$1\r\ny\r\n";
  EXPECT_EQ(AskFrame(client, block, 4), replies);
  EXPECT_EQ(AskFrame(client, block, 4), replies);
  EXPECT_EQ(NodeOf("a").commands("SCRIPT LOAD"), 1u);
  // After WATCH it goes on another connection.
  NodeOf("a").scripts()->clear();
  EXPECT_EQ(AskFrame(client, Command({"WATCH", "a"}) + block, 5), "+OK\r\n" + replies);
  // Past the proxy: noticed after a while.
  NodeOf("a").scripts()->clear();
  world().RunFor(11 * kSecond);
  EXPECT_EQ(AskFrame(client, block, 4), replies);
}

TEST_F(ScriptsTest, ScriptFlushIsForGood) {
  SimClient* client = world().Connect();
  EXPECT_EQ(Ask(client, "EVAL set 1 a x"), "+OK\r\n");
  Ask(client, "SCRIPT LOAD get");
  EXPECT_EQ(Ask(client, "SCRIPT FLUSH"), "+OK\r\n");
  EXPECT_EQ(AskFrame(client, EvalSha("set", "a", "x")), kNoScript);
  EXPECT_EQ(AskFrame(client, EvalSha("get", "a", "x")), kNoScript);
  // The same text is known again with the next EVAL.
  EXPECT_EQ(Ask(client, "EVAL set 1 a x"), "+OK\r\n");
  EXPECT_EQ(AskFrame(client, EvalSha("set", kElsewhere, "x")), "+OK\r\n");
}

TEST_F(ScriptsTest, ARefusalOfWhichNothingMoreIsKnownIsPassedOn) {
  SimClient* client = world().Connect();
  EXPECT_EQ(Ask(client, "EVAL set 1 b x"), "+OK\r\n");
  Ask(client, "SET a x");
  NodeOf("a").AnswerNext("SCRIPT", "-LOADING Redis is loading the dataset in memory\r\n");
  EXPECT_EQ(AskFrame(client, EvalSha("set", "a", "y")), kNoScript);
  NodeOf("a").scripts()->clear();
  NodeOf("a").AnswerNext("SCRIPT", "-NOPERM this user has no permissions\r\n");
  EXPECT_EQ(AskFrame(client, EvalSha("set", "a", "y")), kNoScript);
  EXPECT_EQ(Ask(client, "GET a"), "$1\r\nx\r\n");
}

TEST_F(ScriptsTest, AScriptThatTheNodeDoesNotTakeIsRefusedAsBefore) {
  SimClient* client = world().Connect();
  EXPECT_EQ(Ask(client, "EVAL set 1 b x"), "+OK\r\n");
  NodeOf("a").AnswerNext("SCRIPT", "*1\r\n:0\r\n");
  NodeOf("a").AnswerNext("SCRIPT", "-ERR Error compiling script\r\n");
  EXPECT_EQ(AskFrame(client, EvalSha("set", "a", "y")), kNoScript);
}

// The connection ends when the node has said that it lacks the script.
TEST_F(ScriptsTest, ACallThatIsKnownNotToHaveRunOutlivesItsConnection) {
  SimClient* client = world().Connect();
  EXPECT_EQ(Ask(client, "EVAL set 1 b x"), "+OK\r\n");
  Ask(client, "SET a x");
  client->TakeReceived();
  client->Send(EvalSha("set", "a", "y"));
  world().RunUntil([&] { return repairs() > 0; }, kSecond);
  const std::string lacks = "*1\r\n:0\r\n";
  NodeOf("a").CutReplyAfter(lacks.size());
  world().RunFor(2 * kSecond);
  EXPECT_EQ(client->TakeReceived(), "+OK\r\n");
  EXPECT_EQ(world().stats()->Sum(&proxy::WorkerStats::backend_lost), 1u);
  EXPECT_EQ(Ask(client, "GET a"), "$1\r\ny\r\n");
}

TEST_F(ScriptsTest, ClientsOfBothProtocolsAndThoseThatLeaveShareRepairs) {
  SimClient* first = world().Connect();
  SimClient* second = world().Connect();
  SimClient* leaver = world().Connect();
  EXPECT_EQ(Ask(first, "EVAL set 1 b x"), "+OK\r\n");
  Ask(second, "HELLO 3");
  Ask(first, "SET a x");
  Ask(second, "SET a x");
  second->TakeReceived();
  first->Send(EvalSha("set", "a", "p"));
  leaver->Send(EvalSha("set", "a", "q"));
  world().RunUntil([&] { return repairs() > 0; }, kSecond);
  leaver->Close();
  EXPECT_EQ(AskFrame(second, EvalSha("set", "a", "r")), "+OK\r\n");
  world().RunUntilIdle();
  EXPECT_EQ(first->TakeReceived(), "+OK\r\n");
}

}  // namespace
}  // namespace sim
