// What the oracle holds against the proxy when a write runs late, and what it does not.

#include "tests/sim/oracle.h"

#include <ostream>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/sim/scenario.h"
#include "tests/sim/world.h"

namespace sim {
namespace {

using ::testing::HasSubstr;

struct Kind {
  const char* name;  // of its command
  Op op;
  const char* key;
  const char* end;  // behind the id in what it writes
  // When the second of three writes has run last.
  const char* read;
  const char* value;
  const char* without_third;  // as DUMP would tell it
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }
constexpr Kind kKinds[] = {
    {"SET", Op::kSet, "s", "", "GET s", "$1\r\n2\r\n", "text 1"},
    {"APPEND", Op::kAppend, "a", ";", "GET a", "$6\r\n1;3;2;\r\n", "text 1;2;"},
    {"RPUSH", Op::kPush, "l", "", "LRANGE l 0 -1", "*3\r\n$1\r\n1\r\n$1\r\n3\r\n$1\r\n2\r\n",
     "list 1\n2"}};

// Why the node can't be told to end what lies there.
struct Trouble {
  const char* name;
  void (*begin)(FakeNode* node);
  void (*end)(FakeNode* node);
};
void PrintTo(const Trouble& trouble, std::ostream* out) { *out << trouble.name; }
constexpr Trouble kTroubles[] = {
    {"Hung", [](FakeNode* node) { node->SetHung(true); },
     [](FakeNode* node) { node->SetHung(false); }},
    {"Slow", [](FakeNode* node) { node->set_service_time(12 * kSecond, 12 * kSecond); },
     [](FakeNode* node) { node->set_service_time(kMicrosecond, kMicrosecond); }},
    {"CutOff", [](FakeNode* node) { node->SetCutOff(true); },
     [](FakeNode* node) { node->SetCutOff(false); }}};

class OracleTest : public testing::TestWithParam<std::tuple<Kind, Trouble>> {
 protected:
  OracleTest() : world_(Options()), client_(world_.Connect()) {
    world_.RunUntil([this] { return world_.stats()->control()->topology_ready.Get() == 1; });
    world_.RunUntilIdle();
  }

  World& world() { return world_; }
  Oracle& oracle() { return *world_.oracle(); }
  FakeCluster& cluster() { return *world_.cluster(); }
  static const Kind& kind() { return std::get<0>(GetParam()); }
  static const Trouble& trouble() { return std::get<1>(GetParam()); }
  FakeNode& Owner() { return *cluster().NodeOf(kind().key); }

  std::string ReplyTo(absl::string_view request) {
    client_->TakeReceived();
    client_->Send(request);
    world_.RunUntil([this] { return !client_->received().empty(); });
    return client_->TakeReceived();
  }
  // A write that the oracle knows of, as it does of its reply.
  uint64_t Issue() {
    return oracle().OnIssue(client_->number(), kind().op, {kind().key}, false, "");
  }
  std::string Write() {
    const uint64_t id = Issue();
    const std::string reply =
        ReplyTo(Command({kind().name, kind().key, absl::StrCat(id, kind().end)}));
    if (!reply.empty()) oracle().OnReply(id, reply);  // empty: the world has failed
    return reply;
  }
  // The second of three writes lies unread at a node in trouble. Its slot is with another one
  // meanwhile, for a long time, and back before the proxy, which does not run, can end what lies
  // there.
  void WriteThriceTheSecondLate() {
    FakeNode& troubled = Owner();
    Write();
    trouble().begin(&troubled);
    EXPECT_EQ(Write(), kTimeout);
    cluster().FailOver(cluster().ReplicasOf(troubled.number())[0], false);
    Write();
    world_.RunFor(10 * kSecond);
    world_.Stall(2 * kSecond);
    trouble().end(&troubled);
    cluster().SpreadNews();
    cluster().FailOver(troubled.number(), false);
    world_.RunFor(4 * kSecond);
    EXPECT_EQ(&Owner(), &troubled);
    EXPECT_EQ(ReplyTo(absl::StrCat(kind().read, "\r\n")), kind().value);
    EXPECT_EQ(world_.failure(), "");
  }
  // The second of two writes runs first, at that node, and then the first one, whose client knows
  // nothing of it.
  void ExpectFaultIfLate(Execution late, int node_of_later) {
    late.id = Issue();
    late.key = cluster().keys()->Intern(kind().key);
    late.write = true;
    oracle().OnReply(late.id, kTimeout);
    Execution later = late;
    later.id = Issue();
    later.node = node_of_later;
    later.left_behind = false;
    oracle().OnExecuted(later);
    EXPECT_EQ(world().failure(), "");
    oracle().OnExecuted(late);
    EXPECT_THAT(world().failure(), HasSubstr("executed after the client's 2th"));
  }
  void RefuseOften(absl::string_view how, Nanos between, bool asked) {
    const uint64_t id = Issue();
    for (int i = 0; i < 20; ++i) {
      oracle().OnRefused(id, asked, absl::StrCat(how, " 1 10.0.0.1:7000"));
      world_.RunFor(between);
    }
  }

 private:
  static WorldOptions Options() {
    WorldOptions options;
    options.workers = 1;
    options.configure = [](proxy::Config* config) { config->reply_timeout = absl::Seconds(1); };
    return options;
  }

  World world_;
  SimClient* const client_;
};

TEST_P(OracleTest, AWriteMayRunLateWhereItsSlotHasComeBack) {
  WriteThriceTheSecondLate();
  Write();
  oracle().CheckFinalState();
  EXPECT_EQ(world().failure(), "");
}

TEST_P(OracleTest, WhatHasRunBeforeALateWriteIsNotLost) {
  WriteThriceTheSecondLate();
  ReplyTo(Command({"RESTORE", kind().key, "0", kind().without_third, "REPLACE"}));
  oracle().CheckFinalState();
  EXPECT_THAT(world().failure(), HasSubstr("acknowledged"));
}

TEST_P(OracleTest, NoWriteRunsLateWhereALaterOneHasRun) {
  Execution late;
  late.node = Owner().number();
  late.left_behind = true;
  ExpectFaultIfLate(late, late.node);
}

TEST_P(OracleTest, NoWriteRunsLateThatCouldHaveBeenEnded) {
  Execution late;
  late.node = Owner().number();
  ExpectFaultIfLate(late, cluster().ReplicasOf(late.node)[0]);
}

// The client has not read its reply yet, which must say that nothing is known.
TEST_P(OracleTest, AWriteThatRunsLateIsNotAcknowledged) {
  Execution late;
  late.id = Issue();
  late.node = Owner().number();
  late.key = cluster().keys()->Intern(kind().key);
  late.write = true;
  Execution later = late;
  later.id = Issue();
  later.node = cluster().ReplicasOf(late.node)[0];
  oracle().OnExecuted(later);
  late.left_behind = true;
  late.reply = kind().op == Op::kSet ? "+OK\r\n" : ":1\r\n";
  oracle().OnExecuted(late);
  EXPECT_EQ(world().failure(), "");
  oracle().OnReply(late.id, late.reply);
  EXPECT_THAT(world().failure(), HasSubstr("the reply is not the node's"));
}

// However long the trouble was: then there has been time enough.
TEST_P(OracleTest, ANodeCanBeToldSomeTimeAfterItsTrouble) {
  world().RunFor(20 * kSecond);
  const Nanos since = world().now();
  world().RunFor(kSecond);
  for (int i = 0; i < 2; ++i) {
    trouble().begin(&Owner());
    world().RunFor(20 * kSecond);
    EXPECT_FALSE(Owner().CouldBeTold(since));
    trouble().end(&Owner());
    world().RunFor(5 * kSecond);
    EXPECT_FALSE(Owner().CouldBeTold(since));
  }
  world().RunFor(kSecond);
  EXPECT_TRUE(Owner().CouldBeTold(since));
  trouble().begin(&Owner());
  world().RunFor(kSecond);
  EXPECT_TRUE(Owner().CouldBeTold(since));
  EXPECT_FALSE(Owner().CouldBeTold(world().now()));
}

class NoScriptTest : public testing::Test {
 protected:
  NoScriptTest() : client_(world_.Connect()) {
    world_.RunUntil([this] { return world_.stats()->control()->topology_ready.Get() == 1; });
    world_.RunUntilIdle();
  }

  // Of a call, which is refused. `meanwhile`: a node is given a script that it did not have.
  void Refuse(bool meanwhile) {
    Oracle& oracle = *world_.oracle();
    oracle.set_errors_allowed(false);
    const uint64_t id = oracle.OnIssue(client_->number(), Op::kEval, {"s"}, false, "");
    if (meanwhile) {
      client_->Send(Command({"EVAL", "get", "1", "x"}));
      world_.RunUntil([this] { return !client_->received().empty(); });
    }
    oracle.OnReply(id, "-NOSCRIPT No matching script.\r\n");
  }

  World world_{WorldOptions()};
  SimClient* const client_;
};

TEST_F(NoScriptTest, ARefusalNeedsACause) {
  Refuse(/*meanwhile=*/false);
  EXPECT_THAT(world_.failure(), HasSubstr("error without a cause"));
}

TEST_F(NoScriptTest, ThatANodeWasGivenAScriptMeanwhileIsOne) {
  Refuse(/*meanwhile=*/true);
  EXPECT_EQ(world_.failure(), "");
}

// The owner is asked again when nobody has followed it in time.
TEST_P(OracleTest, AnAskThatNobodyFollowedInTimeIsNoRedirection) {
  RefuseOften("ASK", kAskIsStale + 1, false);
  EXPECT_EQ(world().failure(), "");
}

TEST_P(OracleTest, AnAskThatMayBeFollowedStillIsARedirection) {
  RefuseOften("ASK", kAskIsStale, false);
  EXPECT_THAT(world().failure(), HasSubstr("redirected too often"));
}

TEST_P(OracleTest, AnAskThatWasFollowedIsARedirectionHoweverLate) {
  RefuseOften("ASK", kSecond, true);
  EXPECT_THAT(world().failure(), HasSubstr("redirected too often"));
}

TEST_P(OracleTest, AMovedIsARedirectionHoweverLate) {
  RefuseOften("MOVED", kSecond, false);
  EXPECT_THAT(world().failure(), HasSubstr("redirected too often"));
}

INSTANTIATE_TEST_SUITE_P(Kinds, OracleTest,
                         testing::Combine(testing::ValuesIn(kKinds), testing::ValuesIn(kTroubles)),
                         [](const auto& tried) {
                           return absl::StrCat(std::get<0>(tried.param).name,
                                               std::get<1>(tried.param).name);
                         });

}  // namespace
}  // namespace sim
