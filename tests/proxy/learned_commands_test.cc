#include "proxy/learned_commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace proxy {
namespace {

using cluster::Lookup;
using cluster::Serve;
using testing::ElementsAre;
using testing::IsEmpty;

std::string Bulk(absl::string_view text) {
  return absl::StrCat("$", text.size(), "\r\n", text, "\r\n");
}
std::string Array(const std::vector<std::string>& elements) {
  return absl::StrCat("*", elements.size(), "\r\n", absl::StrJoin(elements, ""));
}
std::string Words(const std::vector<std::string>& words) {
  std::vector<std::string> elements;
  for (const std::string& word : words) elements.push_back(absl::StrCat("+", word, "\r\n"));
  return Array(elements);
}
std::string Number(int number) { return absl::StrCat(":", number, "\r\n"); }

std::string KeySpec(const std::string& begin, const std::string& find) {
  return Array({Bulk("flags"), Words({"RW", "access"}), Bulk("begin_search"), begin,
                Bulk("find_keys"), find});
}
std::string Index(int index) {
  return Array({Bulk("type"), Bulk("index"), Bulk("spec"), Array({Bulk("index"), Number(index)})});
}
std::string Keyword(const std::string& word, int from) {
  return Array({Bulk("type"), Bulk("keyword"), Bulk("spec"),
                Array({Bulk("keyword"), Bulk(word), Bulk("startfrom"), Number(from)})});
}
std::string Range(int last, int step) {
  return Array({Bulk("type"), Bulk("range"), Bulk("spec"),
                Array({Bulk("lastkey"), Number(last), Bulk("keystep"), Number(step), Bulk("limit"),
                       Number(0)})});
}
std::string KeyNum() {
  return Array({Bulk("type"), Bulk("keynum"), Bulk("spec"),
                Array({Bulk("keynumidx"), Number(0), Bulk("firstkey"), Number(1), Bulk("keystep"),
                       Number(1)})});
}
std::string Unknown() { return Array({Bulk("type"), Bulk("unknown"), Bulk("spec"), Array({})}); }

struct Row {
  std::string name;
  int arity = -2;
  std::vector<std::string> flags = {};
  std::vector<std::string> key_specs = {};
  std::vector<std::string> tips = {};
  std::vector<std::string> subcommands = {};
};
std::string Told(const Row& row) {
  return Array({Bulk(row.name), Number(row.arity), Words(row.flags), Number(0), Number(0),
                Number(0), Words({"@module"}), Words(row.tips), Array(row.key_specs),
                Array(row.subcommands)});
}
std::string FirstKey() { return KeySpec(Index(1), Range(0, 1)); }

std::shared_ptr<const cluster::Topology> TopologyOf(const std::vector<char>& nodes) {
  std::string text;
  for (const char letter : nodes) {
    absl::StrAppend(&text, std::string(40, letter), " 127.0.0.1:700", int{letter - 'a'}, "@17000 ",
                    letter == nodes[0] ? "myself," : "", "master - 0 0 ", int{letter - 'a' + 1},
                    " connected", letter == nodes[0] ? " 0-16383" : "", "\n");
  }
  auto topology = cluster::Topology::FromNodesReply(text, {"127.0.0.1", 7000});
  EXPECT_TRUE(topology.ok()) << topology.status();
  return *topology;
}

class LearnedCommandsTest : public testing::Test {
 protected:
  // What node 'a' says.
  void Learn(const std::vector<std::string>& commands, char node = 'a') {
    learner_.Learn(std::string(40, node), "7.4.0", Array(commands), now_);
    learned_ = learner_.Of(*topology_);
  }
  const cluster::CommandSpec* Find(absl::string_view name, absl::string_view subcommand = "",
                                   int64_t arg_count = 2) {
    const cluster::CommandSpec* command = nullptr;
    lookup_ = cluster::LookUpCommand(name, subcommand, arg_count, &command);
    if (lookup_ != Lookup::kUnknownCommand && lookup_ != Lookup::kUnknownSubcommand) return command;
    lookup_ = LookUpLearned(learned_.get(), lookup_, name, subcommand, arg_count, &command);
    return lookup_ == Lookup::kUnknownCommand ? nullptr : command;
  }
  std::vector<uint32_t> Keys(const std::vector<absl::string_view>& args) {
    std::vector<uint32_t> keys;
    const cluster::CommandSpec* const command =
        Find(args[0], args[1], static_cast<int64_t>(args.size()));
    if (command != nullptr) cluster::FindKeyIndexes(*command, args, &keys);
    return keys;
  }

  CommandLearner learner_;
  std::shared_ptr<const cluster::Topology> topology_ = TopologyOf({'a', 'b'});
  std::shared_ptr<const LearnedCommands> learned_;
  Lookup lookup_ = Lookup::kFound;
  absl::Time now_ = absl::UnixEpoch();
};

TEST_F(LearnedCommandsTest, WhatTheTableHasIsNotLearned) {
  Learn({Told({"get", 5, {"admin"}, {}}),
         Told({"xgroup", -2, {}, {}, {}, {Told({"xgroup|create", 9})}})});
  EXPECT_EQ(learned_, nullptr);
  EXPECT_EQ(Find("get")->arity, 2);
  EXPECT_EQ(Find("nothing"), nullptr);
}

TEST_F(LearnedCommandsTest, KeysAreFoundByTheNodesSpecifications) {
  Learn({Told({"json.set", -4, {"write", "denyoom", "module"}, {FirstKey()}}),
         Told({"mod.many", -3, {"readonly"}, {KeySpec(Index(2), Range(-1, 2))}}),
         Told({"mod.word",
               -3,
               {"readonly", "movablekeys"},
               {KeySpec(Keyword("STREAMS", 1), Range(0, 1))}}),
         Told({"mod.count",
               -3,
               {"write", "movablekeys"},
               {KeySpec(Index(1), KeyNum()), FirstKey()}})});
  EXPECT_EQ(Find("JSON.Set")->serve, Serve::kOneSlot);
  EXPECT_TRUE(Find("json.set")->single_first_key);
  EXPECT_TRUE(Find("json.set")->is_write());
  EXPECT_THAT(Keys({"json.set", "k", "$", "1"}), ElementsAre(1));
  EXPECT_THAT(Keys({"mod.many", "x", "a", "x", "b", "x"}), ElementsAre(2, 4));
  EXPECT_FALSE(Find("mod.many")->single_first_key);
  EXPECT_THAT(Keys({"mod.word", "x", "streams", "a"}), ElementsAre(3));
  EXPECT_THAT(Keys({"mod.count", "2", "a", "b", "c"}), ElementsAre(2, 3, 1));
  EXPECT_EQ(Find("json.set", "k", 3), &learned_->Find("", "JSON.SET")->spec);
  EXPECT_EQ(lookup_, Lookup::kWrongArity);
}

TEST_F(LearnedCommandsTest, FlagsDecideWhatMayGoOnASharedConnection) {
  for (const char* flag :
       {"admin", "pubsub", "noscript", "blocking", "no_multi", "no_auth", "allow_busy", "asking"}) {
    Learn({Told({"mod.x", -2, {"readonly", flag}, {FirstKey()}})});
    EXPECT_EQ(Find("mod.x")->serve, Serve::kRefused) << flag;
  }
  Learn({Told({"mod.x", -2, {"readonly", "fast", "loading", "stale", "made_up"}, {FirstKey()}})});
  EXPECT_EQ(Find("mod.x")->serve, Serve::kOneSlot);
}

TEST_F(LearnedCommandsTest, WithoutKeysThePoliciesDecide) {
  const auto serve = [&](std::vector<std::string> flags, std::vector<std::string> tips,
                         std::vector<std::string> key_specs = {}) {
    Learn({Told({"mod.x", -1, std::move(flags), std::move(key_specs), std::move(tips)})});
    return Find("mod.x")->serve;
  };
  EXPECT_EQ(serve({"readonly"}, {}), Serve::kKeyless);
  EXPECT_EQ(serve({}, {}), Serve::kKeyless);
  EXPECT_EQ(serve({"write"}, {}), Serve::kRefused);
  EXPECT_EQ(serve({"write"}, {"request_policy:all_shards", "response_policy:all_succeeded"}),
            Serve::kWholeCluster);
  EXPECT_EQ(serve({"readonly"}, {"request_policy:all_shards", "response_policy:agg_sum"}),
            Serve::kWholeCluster);
  EXPECT_EQ(serve({"readonly"}, {"request_policy:all_shards", "response_policy:agg_max"}),
            Serve::kRefused);
  EXPECT_EQ(serve({"readonly"}, {"request_policy:special"}), Serve::kRefused);
  // Nobody says where they are.
  EXPECT_EQ(serve({"readonly", "movablekeys"}, {}), Serve::kRefused);
  EXPECT_EQ(serve({"readonly"}, {}, {KeySpec(Unknown(), Unknown())}), Serve::kRefused);
  EXPECT_EQ(serve({"readonly"}, {}, {FirstKey(), KeySpec(Unknown(), Unknown())}), Serve::kOneSlot);
}

TEST_F(LearnedCommandsTest, SubcommandsOfOldAndNewContainers) {
  Learn({Told({"graph",
               -2,
               {},
               {},
               {},
               {Told({"graph|get", 3, {"readonly"}, {KeySpec(Index(2), Range(0, 1))}})}}),
         Told({"xinfo",
               -2,
               {},
               {},
               {},
               {Told({"xinfo|more", 3, {"readonly"}, {KeySpec(Index(2), Range(0, 1))}})}})});
  EXPECT_THAT(Keys({"GRAPH", "Get", "k"}), ElementsAre(2));
  EXPECT_THAT(Keys({"xinfo", "MORE", "k"}), ElementsAre(2));
  EXPECT_EQ(Find("graph", "none", 2)->name, "GRAPH");
  EXPECT_EQ(lookup_, Lookup::kUnknownSubcommand);
  EXPECT_EQ(Find("xinfo", "none", 2)->name, "XINFO");
  EXPECT_EQ(lookup_, Lookup::kUnknownSubcommand);
  Find("graph", "", 1);
  EXPECT_EQ(lookup_, Lookup::kWrongArity);
}

TEST_F(LearnedCommandsTest, OnlyNodesOfTheTopologyCount) {
  Learn({Told({"mod.a", 2, {"readonly"}, {FirstKey()}})});
  Learn({Told({"mod.b", 2, {"readonly"}, {FirstKey()}})}, 'b');
  EXPECT_EQ(learned_->all().size(), 2u);
  const auto before = learned_;
  Learn({Told({"mod.b", 2, {"readonly"}, {FirstKey()}})}, 'b');
  EXPECT_EQ(learned_, before);
  const cluster::CommandSpec* const kept = Find("mod.b");
  topology_ = TopologyOf({'a'});
  learned_ = learner_.Of(*topology_);
  EXPECT_NE(Find("mod.a"), nullptr);
  EXPECT_EQ(Find("mod.b"), nullptr);
  EXPECT_EQ(kept->name, "MOD.B");  // requests may still point there
  topology_ = TopologyOf({'b'});
  learned_ = learner_.Of(*topology_);
  EXPECT_EQ(Find("mod.b"), kept);
}

TEST_F(LearnedCommandsTest, OfTwoVersionsTheOneThatNeedsMoreCareCounts) {
  Learn({Told({"mod.x", 2, {"readonly"}, {FirstKey()}})});
  Learn({Told({"mod.x", 2, {"write"}, {FirstKey()}})}, 'b');
  EXPECT_TRUE(Find("mod.x")->is_write());
  Learn({Told({"mod.x", 2, {"blocking"}, {FirstKey()}})}, 'b');
  EXPECT_EQ(Find("mod.x")->serve, Serve::kRefused);
}

TEST_F(LearnedCommandsTest, AsksWhoHasNotToldYetOrIsOfAnotherVersionNow) {
  const std::string id(40, 'a');
  EXPECT_TRUE(learner_.Wants(id, now_));
  Learn({});
  EXPECT_FALSE(learner_.Wants(id, now_));
  learner_.NoteVersion(id, "7.4.0");
  EXPECT_FALSE(learner_.Wants(id, now_));
  learner_.NoteVersion(id, "8.0.0");
  EXPECT_TRUE(learner_.Wants(id, now_));
  Learn({});
  EXPECT_FALSE(learner_.Wants(id, now_ + absl::Minutes(9)));
  EXPECT_TRUE(learner_.Wants(id, now_ + absl::Minutes(11)));
}

TEST_F(LearnedCommandsTest, WhatIsNoReplyTeachesNothing) {
  const std::string whole = Array({Told({"mod.x", -2, {"readonly"}, {FirstKey()}})});
  for (const std::string& reply :
       {std::string("-NOPERM no\r\n"), std::string("$3\r\nabc\r\n"), std::string("*0\r\n"),
        std::string("*-1\r\n"), Array({Number(1), Array({}), Array({Bulk("x")}), Bulk("x")}),
        Array({Array({Bulk("mod.x"), Bulk("2"), Array({}), Number(0), Number(0), Number(0)})}),
        Array({Told({"mod x", -2, {"readonly"}, {FirstKey()}})}),
        Array({Told({std::string(65, 'x'), -2, {"readonly"}, {FirstKey()}})}),
        Array({Told({"mod.x", 0, {"readonly"}, {FirstKey()}})}),
        Array({Told({"mod.x", 99999, {"readonly"}, {FirstKey()}})}),
        Array({Told({"mod.x", -2, {"readonly"}, {KeySpec(Index(0), Range(0, 1))}})}),
        Array({Told({"mod.x", -2, {"readonly"}, {KeySpec(Index(1), Range(0, 0))}})}),
        Array({Told({"mod.x", -2, {"readonly"}, {KeySpec(Bulk("x"), Range(0, 0))}})}),
        Array({Told({"mod.x", -2, {}, std::vector<std::string>(17, FirstKey())})})}) {
    learner_.Learn(std::string(40, 'a'), "7.4.0", reply, now_);
    EXPECT_EQ(learner_.Of(*topology_), nullptr) << reply;
  }
  learner_.Learn(std::string(40, 'a'), "7.4.0", whole, now_);
  EXPECT_NE(learner_.Of(*topology_), nullptr);
}

// Servers before key specifications.
TEST_F(LearnedCommandsTest, PositionsOfKeysDoWhereThereIsNothingElse) {
  Learn(
      {Array({Bulk("mod.x"), Number(-2), Words({"readonly"}), Number(1), Number(-1), Number(2)})});
  EXPECT_THAT(Keys({"mod.x", "a", "x", "b", "x"}), ElementsAre(1, 3));
}

TEST_F(LearnedCommandsTest, ThereAreNeverMoreThanTheLimit) {
  std::vector<std::string> many;
  for (size_t i = 0; i < CommandLearner::kOfOneNodeMax + 10; ++i) {
    many.push_back(Told({absl::StrCat("mod.", i), 2, {"readonly"}, {FirstKey()}}));
  }
  Learn(many);
  EXPECT_EQ(learned_->all().size(), CommandLearner::kOfOneNodeMax);
  for (int turn = 0; turn < 10; ++turn) {
    for (size_t i = 0; i < many.size(); ++i) {
      many[i] = Told({absl::StrCat("mod.", turn, ".", i), 2, {"readonly"}, {FirstKey()}});
    }
    Learn(many);
  }
  // What is beyond all limits is not known.
  EXPECT_EQ(learned_, nullptr);
}

}  // namespace
}  // namespace proxy
