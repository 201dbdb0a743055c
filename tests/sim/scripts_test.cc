// Scripts that nodes lack: what only order, time and faults can show. The fake nodes' scripts are
// "set" and "get" of their first key, and "fail <error>" after a set.

#include <string>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "gmock/gmock.h"
#include "proxy/sha1.h"
#include "tests/sim/scenario.h"

namespace sim {
namespace {

using testing::ElementsAre;
using testing::EndsWith;
using testing::IsEmpty;
using testing::StartsWith;

constexpr absl::string_view kNoScript = "-NOSCRIPT No matching script.\r\n";

size_t Replies(absl::string_view bytes) {
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
  EXPECT_EQ(Journal("EVALSHA").size(), 6u);
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
  world().RunFor(kMillisecond);  // else it may be sent on an old connection, before that ends
  cluster().Restart(number, false);
  cluster().SpreadNews();  // a script is not called again after CLUSTERDOWN
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

// The servers send what a script says of its failure as it is.
class ForgingScriptsTest : public ScriptsTest {
 protected:
  ForgingScriptsTest() {
    WorldOptions options;
    options.cluster.valkey_version = "8.0.1";
    Make(options);
  }
};

TEST_F(ForgingScriptsTest, ScriptsAreKnownToNodesAsElsewhere) {
  ASSERT_NE(&NodeOf("a"), &NodeOf(kElsewhere));
  SimClient* client = world().Connect();
  EXPECT_EQ(Ask(client, "EVAL set 1 a x"), "+OK\r\n");
  EXPECT_EQ(AskFrame(client, EvalSha("set", kElsewhere, "y")), "+OK\r\n");
  EXPECT_EQ(Ask(client, "GET b"), "$1\r\ny\r\n");
  const std::string pipeline = EvalSha("set", "a", "p") + EvalSha("set", "a", "q") +
                               Command({"SET", "a", "r"}) + EvalSha("set", "a", "s") +
                               Command({"GET", "a"});
  EXPECT_EQ(AskFrame(client, pipeline, 5), "+OK\r\n+OK\r\n+OK\r\n+OK\r\n$1\r\ns\r\n");
  const std::string block =
      Command({"MULTI"}) + EvalSha("set", "b", "y") + Command({"GET", "b"}) + Command({"EXEC"});
  const std::string replies = "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n$1\r\ny\r\n";
  EXPECT_EQ(AskFrame(client, block, 4), replies);
  EXPECT_EQ(AskFrame(client, Command({"WATCH", "b"}) + block, 5), "+OK\r\n" + replies);
  // Past the proxy: each connection is given it again after a while, and when the node lacks it.
  NodeOf("a").scripts()->clear();
  EXPECT_EQ(AskFrame(client, EvalSha("set", "a", "t")), "+OK\r\n");
  const int number = NodeOf("a").number();
  cluster().node(number)->Kill();
  world().RunFor(kMillisecond);
  cluster().Restart(number, false);
  cluster().SpreadNews();
  EXPECT_EQ(AskFrame(client, EvalSha("set", "a", "u")), "+OK\r\n");
  EXPECT_EQ(AskFrame(client, EvalSha("get", "a", "u")), kNoScript);
}

// Valkey 8.0.1 sends what a script says of its failure as it is: behind a line end it looks like
// the reply to the next request.
TEST_F(ForgingScriptsTest, WhatAScriptSaysOfItsFailureIsNobodyElses) {
  const absl::string_view kTexts[] = {
      "\r\n+OK",     "\r\n:1",     "\r\n$3\r\nabc", "\r\n*2",   "\r\n$5000",
      "\r\n$1\r\ny", "\r\n-ERR x", "\r\nno reply",  "\r\n\r\n", "\r\n+a\r\n+b\r\n+c",
      "\nx",         "\rx"};
  uint64_t seed = 0;
  for (const absl::string_view text : kTexts) {
    SCOPED_TRACE(absl::CEscape(text));
    WorldOptions options;
    options.seed = ++seed;
    options.faults.partial_transfer = options.faults.short_receive = 0.5;
    options.cluster.valkey_version = "8.0.1";
    Make(options);
    // The first ones meet a node of which nothing is known yet.
    SimClient* liar = world().Connect();
    SimClient* others[] = {world().Connect(), world().Connect(), world().Connect()};
    const bool one_line = absl::StrContains(text, "\r\n");
    const std::string reply = one_line ? "-ERR q\r\n" : std::string(kGarbled);
    const std::string block = Command({"MULTI"}) +
                              Command({"EVAL", absl::StrCat("fail ERR q", text), "1", "a", "x"}) +
                              Command({"EVAL", "set", "1", "a", "x"}) + Command({"EXEC"});
    for (int turn = 0; turn < 10; ++turn) {
      liar->Send(Repeated(Command({"EVAL", absl::StrCat("fail ERR q", text), "1", "a", "x"}), 2));
      for (SimClient* other : others) other->SendCommand("GET {a}none");
      world().RunUntil([&] { return Replies(liar->received()) == 2; });
      EXPECT_EQ(liar->TakeReceived(), Repeated(reply, 2));
      liar->Send(block);
      for (SimClient* other : others) other->SendCommand("GET {a}none");
      for (SimClient* other : others) {
        world().RunUntil([&] { return Replies(other->received()) == 2; });
        EXPECT_EQ(other->TakeReceived(), "$-1\r\n$-1\r\n");
      }
      // The block may wait for more of what it was told of.
      world().RunUntil([&] { return Replies(liar->received()) == 4; });
      EXPECT_THAT(liar->TakeReceived(), StartsWith("+OK\r\n+QUEUED\r\n+QUEUED\r\n"));
    }
  }
}

TEST_F(ForgingScriptsTest, ScriptsShareAConnectionWhereTheyCannotForge) {
  for (const absl::string_view version : {"8.0.1", "8.0.7"}) {
    WorldOptions options;
    options.cluster.valkey_version = std::string(version);
    Make(options);
    std::vector<SimClient*> clients;
    for (int i = 0; i < 20; ++i) clients.push_back(world().Connect());
    EXPECT_EQ(Ask(clients[0], "SET a x"), "+OK\r\n");
    const auto open = [&] { return world().stats()->Sum(&proxy::WorkerStats::backend_open); };
    const uint64_t before = open();
    for (SimClient* client : clients) client->SendCommand("EVAL set 1 a x");
    world().RunUntil([&] { return clients.back()->received() == "+OK\r\n"; });
    world().RunFor(kSecond);
    for (SimClient* client : clients) EXPECT_THAT(client->received(), EndsWith("+OK\r\n"));
    EXPECT_EQ(open() == before, version == "8.0.7") << version;
  }
}

// As many as --private-connections: the others wait for one.
TEST_F(ForgingScriptsTest, ScriptsOnPrivateConnectionsAreBounded) {
  WorldOptions options;
  options.cluster.valkey_version = "8.0.1";
  options.configure = [](proxy::Config* config) { config->private_connections_max = 3; };
  Make(options);
  std::vector<SimClient*> clients;
  for (int i = 0; i < 40; ++i) clients.push_back(world().Connect());
  EXPECT_EQ(Ask(clients[0], "SET a x"), "+OK\r\n");
  clients[0]->TakeReceived();
  const auto open = [&] { return world().stats()->Sum(&proxy::WorkerStats::backend_open); };
  const uint64_t before = open();
  for (SimClient* client : clients) client->SendCommand("EVAL set 1 a x");
  const auto all_have = [&] {
    EXPECT_LE(open(), before + 3);
    return absl::c_all_of(clients, [](SimClient* client) { return !client->received().empty(); });
  };
  EXPECT_TRUE(world().RunUntil(all_have));
  for (SimClient* client : clients) EXPECT_EQ(client->received(), "+OK\r\n");
}

}  // namespace
}  // namespace sim
