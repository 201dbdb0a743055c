#include "cluster/router.h"

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace cluster {
namespace {

using Args = std::vector<absl::string_view>;

// --- the servers' texts

// A literal's bytes, zeros among them.
template <size_t kSize>
std::string Bytes(const char (&literal)[kSize]) {
  return std::string(literal, kSize - 1);
}

struct ErrorText {
  std::vector<std::string> request;
  std::string error;
};

const std::vector<ErrorText>& ErrorTexts() {
  static const auto* texts = new std::vector<ErrorText>{
#include "tests/cluster/error_texts_data.inc"
  };
  return *texts;
}

TEST(RouterTest, RefusalsHaveTheServersTexts) {
  ASSERT_GT(ErrorTexts().size(), 40u);
  for (const auto& [request, error] : ErrorTexts()) {
    SCOPED_TRACE(absl::CHexEscape(error));
    const Args args(request.begin(), request.end());
    const CommandSpec* command = nullptr;
    const auto arg_count = static_cast<int64_t>(args.size());
    std::string ours;
    switch (LookUpCommand(args[0], args.size() > 1 ? args[1] : "", arg_count, &command)) {
      case Lookup::kFound:
        FAIL() << "the request is accepted";
      case Lookup::kUnknownCommand:
        EXPECT_EQ(command, nullptr);
        ours = UnknownCommandError(args);
        break;
      case Lookup::kUnknownSubcommand:
        ours = UnknownSubcommandError(*command, args[1]);
        break;
      case Lookup::kWrongArity:
        ours = WrongArityError(*command);
        break;
    }
    EXPECT_EQ(absl::CHexEscape(ours), absl::CHexEscape(error));
    EXPECT_EQ(ours.find_first_of("\r\n"), std::string::npos);
  }
}

TEST(RouterTest, ACommandIsFoundWithItsContainerResolved) {
  struct Case {
    std::string name;
    Args args;
    absl::string_view container;
    absl::string_view command;
  };
  const Case cases[] = {
      {"command", {"gEt", "k"}, "", "GET"},
      {"subcommand", {"client", "SetName", "me"}, "CLIENT", "SETNAME"},
      {"a container that runs alone", {"command"}, "", "COMMAND"},
      {"same name as a command", {"config", "get", "x"}, "CONFIG", "GET"},
      {"a command's argument is no subcommand", {"get", "setname"}, "", "GET"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const CommandSpec* command = nullptr;
    ASSERT_EQ(LookUpCommand(c.args[0], c.args.size() > 1 ? c.args[1] : "",
                            static_cast<int64_t>(c.args.size()), &command),
              Lookup::kFound);
    EXPECT_EQ(command->container, c.container);
    EXPECT_EQ(command->name, c.command);
  }
}

TEST(RouterTest, AnUnknownSubcommandComesWithItsContainer) {
  const CommandSpec* command = nullptr;
  EXPECT_EQ(LookUpCommand("object", "nothing", 3, &command), Lookup::kUnknownSubcommand);
  ASSERT_NE(command, nullptr);
  EXPECT_EQ(command->name, "OBJECT");
}

TEST(RouterTest, WhatIsNotSupportedIsNamedInFull) {
  EXPECT_EQ(NotSupportedError(*FindCommand("SHUTDOWN")),
            "ERR proxy: command 'shutdown' is not supported");
  EXPECT_EQ(NotSupportedError(*FindSubcommand(*FindCommand("CLIENT"), "NO-EVICT")),
            "ERR proxy: command 'client|no-evict' is not supported");
}

// --- the slot

TEST(RouterTest, KeysShareASlotOrCross) {
  const Args args = {"X", "{a}1", "no key {b}", "{a}2", "a", "b"};
  Slot slot = 1;
  EXPECT_TRUE(CommonSlot(args, {}, &slot));
  EXPECT_EQ(slot, 0);
  EXPECT_TRUE(CommonSlot(args, {1}, &slot));
  EXPECT_EQ(slot, SlotOf("a"));
  EXPECT_TRUE(CommonSlot(args, {1, 3, 4}, &slot));
  EXPECT_EQ(slot, SlotOf("a"));
  EXPECT_FALSE(CommonSlot(args, {1, 3, 5}, &slot));
  EXPECT_FALSE(CommonSlot(args, {5, 1}, &slot));
}

// --- the node

// Nodes 0 … n of one shard: the first is its primary. Slot 16383 is nobody's.
std::shared_ptr<const Topology> OneShard(int replica_count) {
  std::string text =
      absl::StrCat(std::string(40, '0'), " 10.0.0.1:7000@17000 master - 0 0 1 connected 0-16382\n");
  for (int i = 1; i <= replica_count; ++i) {
    absl::StrAppend(&text, std::string(40, static_cast<char>('0' + i)), " 10.0.0.", i + 1,
                    ":7000@17000 slave ", std::string(40, '0'), " 0 0 1 connected\n");
  }
  return *Topology::FromNodesReply(text, {"10.0.0.1", 7000});
}

TEST(RouterTest, ReadsGoToThePrimaryUnlessReplicasArePreferred) {
  const auto topology = OneShard(2);
  EXPECT_EQ(ChooseReadNode(*topology, 0, ReadPrefer::kPrimary, 1, {}, {}), 0);
  EXPECT_EQ(ChooseReadNode(*OneShard(0), 0, ReadPrefer::kReplica, 1, {}, {}), 0);
  for (const ReadPrefer prefer :
       {ReadPrefer::kPrimary, ReadPrefer::kReplica, ReadPrefer::kSameZoneReplica}) {
    EXPECT_EQ(ChooseReadNode(*topology, 16383, prefer, 0, {}, {}), kNoNode);
  }
}

TEST(RouterTest, ReadsTakeTurnsOnTheUsableReplicas) {
  struct Case {
    std::string name;
    std::vector<uint8_t> usable;
    std::vector<NodeIndex> turns;  // 0, 1, 2, …
  };
  const Case cases[] = {
      {"all", {}, {1, 2, 3, 1, 2, 3}},
      {"all named", {1, 1, 1, 1}, {1, 2, 3, 1}},
      {"one is not", {1, 1, 0, 1}, {1, 3, 3, 1}},
      {"only one is", {1, 0, 1, 0}, {2, 2, 2, 2}},
      {"none", {1, 0, 0, 0}, {0, 0, 0}},
      {"none, nor the primary", {0, 0, 0, 0}, {0, 0, 0}},
      {"a list that is too short", {1, 1}, {1, 1, 1}},
  };
  const auto topology = OneShard(3);
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    std::array<bool, 4> usable{};
    for (size_t i = 0; i < c.usable.size(); ++i) usable[i] = c.usable[i] != 0;
    const absl::Span<const bool> span(usable.data(), c.usable.size());
    for (uint32_t turn = 0; turn < c.turns.size(); ++turn) {
      EXPECT_EQ(ChooseReadNode(*topology, 9, ReadPrefer::kReplica, turn, span, {}), c.turns[turn])
          << turn;
    }
  }
}

TEST(RouterTest, ReadsPreferTheirZoneAndFallBackToAnyReplica) {
  const auto topology = OneShard(3);
  const std::array<bool, 4> zone = {true, false, true, false};
  const std::array<bool, 4> not_2 = {true, true, false, true};
  const std::array<bool, 4> none = {true, false, false, false};
  const auto choose = [&](uint32_t turn, absl::Span<const bool> usable,
                          absl::Span<const bool> same_zone) {
    return ChooseReadNode(*topology, 9, ReadPrefer::kSameZoneReplica, turn, usable, same_zone);
  };
  EXPECT_EQ(choose(0, {}, zone), 2);
  EXPECT_EQ(choose(2, {}, zone), 2);
  EXPECT_EQ(choose(0, not_2, zone), 1);
  EXPECT_EQ(choose(1, not_2, zone), 3);
  EXPECT_EQ(choose(0, none, zone), 0);
  EXPECT_EQ(choose(1, {}, {}), 2);  // no zone is known
}

TEST(RouterTest, ATurnNearItsGreatestValueIsATurn) {
  EXPECT_EQ(ChooseReadNode(*OneShard(3), 9, ReadPrefer::kReplica, 0xffffffff, {}, {}),
            0xffffffff % 3 + 1);
}

}  // namespace
}  // namespace cluster
