#include "proxy/function_repair.h"

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/proxy/control_part_test.h"
#include "tests/proxy/fake_node.h"

namespace proxy {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// A node with libraries; its dump is their names with commas between them.
struct Member {
  explicit Member(char its_letter) : letter(its_letter) {
    node.script = [this](const FakeNode::Args& args) { return Reply(args); };
  }
  std::string Reply(const FakeNode::Args& args) {
    if (args[0] != "FUNCTION" || refuses) return "-ERR unknown command\r\n";
    asked.push_back(args[1]);
    if (before_reply) before_reply(args[1]);
    if (args[1] == "LIST") {
      std::string reply = absl::StrCat("*", libraries.size(), "\r\n");
      for (const std::string& name : libraries) {
        absl::StrAppend(&reply, "*4\r\n", Bulk("library_name"), Bulk(name), Bulk("engine"),
                        Bulk("LUA"));
      }
      return reply;
    }
    if (args[1] == "DUMP") return Bulk(absl::StrJoin(libraries, ","));
    if (args[1] == "RESTORE") {
      if (!libraries.empty()) return "-ERR Library already exists\r\n";
      size_t begin = 0;
      for (size_t end; begin < args[2].size(); begin = end + 1) {
        end = std::min(args[2].find(',', begin), args[2].size());
        libraries.insert(args[2].substr(begin, end - begin));
      }
      return "+OK\r\n";
    }
    if (args[1] == "DELETE") {
      return libraries.erase(args[2]) > 0 ? "+OK\r\n" : "-ERR Library not found\r\n";
    }
    return "-ERR unknown subcommand\r\n";
  }

  const char letter;
  FakeNode node;
  std::set<std::string> libraries;
  std::vector<std::string> asked;
  bool refuses = false;
  std::function<void(const std::string& subcommand)> before_reply;
};

class FunctionRepairTest : public ControlPartTest {
 protected:
  FunctionRepairTest() : ControlPartTest(LogLevel::kInfo, absl::Milliseconds(60)) {
    for (const char letter : {'a', 'b', 'c', 'd'}) {
      members_.push_back(std::make_unique<Member>(letter));
    }
  }
  void SetUp() override {
    ControlPartTest::SetUp();
    if (ring_ != nullptr) repair_ = std::make_unique<FunctionRepair>(Context());
  }
  void TearDown() override {
    if (repair_ == nullptr) return;
    repair_->Stop();
    EXPECT_TRUE(RunUntil([&] { return repair_->idle(); }));
    EXPECT_EQ(timers_.size(), 0u);
  }

  Member& a() { return *members_[0]; }
  Member& b() { return *members_[1]; }
  Member& c() { return *members_[2]; }
  Member& joiner() { return *members_[3]; }

  // Primaries a, b and c; with the new node, or without.
  void Publish(bool with_new, absl::string_view flags = "master") {
    std::string text;
    auto state = std::make_shared<ClusterState>();
    const char* const slots[] = {" 0-5460", " 5461-10922", " 10923-16383", ""};
    for (size_t i = 0; i < (with_new ? 4u : 3u); ++i) {
      const Member& member = *members_[i];
      const bool is_new = i == 3;
      absl::StrAppend(&text, std::string(40, member.letter), " ", member.node.host(), ":",
                      member.node.port(), "@17000 ", i == 0 ? "myself," : "",
                      is_new ? flags : "master", " ",
                      is_new && flags != "master" ? std::string(40, 'a') : "-", " 0 0 ", i + 1,
                      " connected", slots[i], "\n");
      state->endpoints.push_back(member.node.endpoint());
    }
    auto topology = cluster::Topology::FromNodesReply(text, {"127.0.0.1", 1});
    ASSERT_TRUE(topology.ok()) << topology.status();
    state->topology = *topology;
    repair_->OnTopology(std::move(state));
  }
  void PumpNodes() override {
    for (const auto& member : members_) member->node.Pump();
  }
  void OnCompletion(io::Completion* completion) override {
    if (completion->token.party() == static_cast<uint8_t>(Party::kFunctions)) {
      repair_->OnCompletion(completion);
    }
  }

  std::vector<std::unique_ptr<Member>> members_;
  std::unique_ptr<FunctionRepair> repair_;
};

TEST_F(FunctionRepairTest, APrimaryThatJoinsWithoutLibrariesIsGivenThem) {
  for (const auto& member : members_) member->libraries = {"x", "y"};
  joiner().libraries.clear();
  Publish(false);
  Skip(absl::Seconds(30));
  for (const auto& member : members_) EXPECT_THAT(member->asked, IsEmpty());
  Publish(true);
  Skip(absl::Seconds(30));
  EXPECT_THAT(joiner().libraries, ElementsAre("x", "y"));
  EXPECT_THAT(joiner().asked, ElementsAre("LIST", "RESTORE"));
  EXPECT_THAT(lines_.lines, Contains(HasSubstr("has joined without the function libraries x, y")));
  EXPECT_EQ(stats_.functions_given.Get(), 1u);
  // Each node is looked at once.
  joiner().libraries.clear();
  Publish(false);
  Publish(true);
  Skip(absl::Seconds(30));
  EXPECT_THAT(joiner().libraries, IsEmpty());
}

TEST_F(FunctionRepairTest, WhatIsDeletedWhileItIsGivenIsDeletedThereToo) {
  for (const auto& member : members_) member->libraries = {"x", "y"};
  joiner().libraries.clear();
  // FUNCTION DELETE x reaches the new node just before it is given x, and the others then.
  joiner().before_reply = [&](const std::string& subcommand) {
    if (subcommand != "RESTORE") return;
    for (Member* member : {&a(), &b(), &c()}) member->libraries.erase("x");
  };
  Publish(false);
  Publish(true);
  Skip(absl::Seconds(30));
  EXPECT_THAT(joiner().libraries, ElementsAre("y"));
  EXPECT_THAT(joiner().asked, ElementsAre("LIST", "RESTORE", "DELETE"));
}

TEST_F(FunctionRepairTest, OneThatHasOthersIsOnlyToldOf) {
  for (const auto& member : members_) member->libraries = {"x", "y"};
  joiner().libraries = {"x", "z"};
  Publish(false);
  Publish(true);
  Skip(absl::Seconds(30));
  EXPECT_THAT(joiner().libraries, ElementsAre("x", "z"));
  EXPECT_THAT(joiner().asked, ElementsAre("LIST"));
  EXPECT_THAT(lines_.lines, ElementsAre(HasSubstr("without the function libraries y")));
}

TEST_F(FunctionRepairTest, WhileTheOthersDifferNothingIsGiven) {
  a().libraries = b().libraries = {"x"};
  Publish(false);
  Publish(true);
  Skip(absl::Seconds(5));
  EXPECT_THAT(joiner().libraries, IsEmpty());
  EXPECT_THAT(joiner().asked, Not(IsEmpty()));
  c().libraries = {"x"};
  Skip(absl::Seconds(10));
  EXPECT_THAT(joiner().libraries, ElementsAre("x"));
}

TEST_F(FunctionRepairTest, NothingIsDoneWhereNothingIsMissing) {
  Publish(false);
  Publish(true);
  Skip(absl::Seconds(30));
  EXPECT_THAT(joiner().asked, ElementsAre("LIST"));
  EXPECT_THAT(lines_.lines, IsEmpty());
}

TEST_F(FunctionRepairTest, ReplicasAndNodesThatRefuseAreLeftAlone) {
  for (const auto& member : members_) member->libraries = {"x"};
  joiner().libraries.clear();
  joiner().refuses = true;
  Publish(false);
  Publish(true);
  Skip(absl::Seconds(30));
  EXPECT_THAT(a().asked, IsEmpty());
}

TEST_F(FunctionRepairTest, ANewReplicaIsNotAsked) {
  for (const auto& member : members_) member->libraries = {"x"};
  joiner().libraries.clear();
  Publish(false);
  Publish(true, "slave");
  Skip(absl::Seconds(30));
  EXPECT_THAT(joiner().asked, IsEmpty());
}

TEST_F(FunctionRepairTest, ANodeThatCantBeReachedIsTriedAgainAndGivenUp) {
  for (const auto& member : members_) member->libraries = {"x"};
  joiner().libraries.clear();
  joiner().node.Down();
  Publish(false);
  Publish(true);
  Skip(absl::Seconds(6));
  joiner().node.Up();
  Skip(absl::Seconds(10));
  EXPECT_THAT(joiner().libraries, ElementsAre("x"));
  EXPECT_EQ(stats_.functions_given.Get(), 1u);
}

}  // namespace
}  // namespace proxy
