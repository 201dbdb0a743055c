// What the oracle holds against the proxy when a write runs late, and what it does not.

#include "tests/sim/oracle.h"

#include <ostream>
#include <string>

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

class OracleTest : public testing::TestWithParam<Kind> {
 protected:
  OracleTest() : world_(Options()), client_(world_.Connect()) {
    world_.RunUntil([this] { return world_.stats()->control()->topology_ready.Get() == 1; });
    world_.RunUntilIdle();
  }

  World& world() { return world_; }
  Oracle& oracle() { return *world_.oracle(); }
  FakeCluster& cluster() { return *world_.cluster(); }
  FakeNode& Owner() { return *cluster().NodeOf(GetParam().key); }

  std::string ReplyTo(absl::string_view request) {
    client_->TakeReceived();
    client_->Send(request);
    world_.RunUntil([this] { return !client_->received().empty(); });
    return client_->TakeReceived();
  }
  // A write that the oracle knows of, as it does of its reply.
  uint64_t Issue() {
    return oracle().OnIssue(client_->number(), GetParam().op, {GetParam().key}, false, "");
  }
  std::string Write() {
    const uint64_t id = Issue();
    const std::string reply =
        ReplyTo(Command({GetParam().name, GetParam().key, absl::StrCat(id, GetParam().end)}));
    oracle().OnReply(id, reply);
    return reply;
  }
  // The second of three writes lies unread at a node that hangs. Its slot is with another one
  // meanwhile, and back before the proxy, which does not run, can end what lies there.
  void WriteThriceTheSecondLate() {
    FakeNode& hangs = Owner();
    Write();
    hangs.SetHung(true);
    EXPECT_EQ(Write(), kTimeout);
    cluster().FailOver(cluster().ReplicasOf(hangs.number())[0], false);
    Write();
    world_.Stall(kSecond);
    hangs.SetHung(false);
    cluster().SpreadNews();
    cluster().FailOver(hangs.number(), false);
    world_.RunFor(3 * kSecond);
    EXPECT_EQ(&Owner(), &hangs);
    EXPECT_EQ(ReplyTo(absl::StrCat(GetParam().read, "\r\n")), GetParam().value);
    EXPECT_EQ(world_.failure(), "");
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
  ReplyTo(Command({"RESTORE", GetParam().key, "0", GetParam().without_third, "REPLACE"}));
  oracle().CheckFinalState();
  EXPECT_THAT(world().failure(), HasSubstr("acknowledged"));
}

TEST_P(OracleTest, NoWriteRunsLateWhereItsSlotHasStayed) {
  Execution execution;
  execution.node = Owner().number();
  execution.key = cluster().keys()->Intern(GetParam().key);
  execution.write = true;
  const uint64_t late = Issue();
  oracle().OnReply(late, kTimeout);
  execution.id = Issue();
  oracle().OnExecuted(execution);
  EXPECT_EQ(world().failure(), "");
  execution.id = late;
  oracle().OnExecuted(execution);
  EXPECT_THAT(world().failure(), HasSubstr("executed after the client's 2th"));
}

INSTANTIATE_TEST_SUITE_P(Kinds, OracleTest, testing::ValuesIn(kKinds),
                         [](const auto& kind) { return std::string(kind.param.name); });

}  // namespace
}  // namespace sim
