// Where the keys of requests are (the second half of command_table.h).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cluster/command_table.h"
#include "cluster/router.h"

namespace cluster {
namespace {

using ::testing::ElementsAreArray;
using ::testing::IsEmpty;

using Args = std::vector<absl::string_view>;

const CommandSpec& CommandOf(const Args& args) {
  const CommandSpec* command = nullptr;
  // Arity aside: some examples are short of arguments on purpose.
  (void)LookUpCommand(args[0], args.size() > 1 ? args[1] : "", static_cast<int64_t>(args.size()),
                      &command);
  return *command;
}

struct KeyExample {
  std::string request;
  std::vector<uint32_t> keys;
};

const std::vector<KeyExample>& KeyExamples() {
  static const auto* examples = new std::vector<KeyExample>{
#include "tests/cluster/key_examples_data.inc"
  };
  return *examples;
}

void Check(const KeyExample& example) {
  SCOPED_TRACE(example.request);
  const Args args = absl::StrSplit(example.request, ' ');
  std::vector<uint32_t> keys = {99};
  EXPECT_EQ(FindKeyIndexes(CommandOf(args), args, &keys), KeySearch::kOk);
  EXPECT_THAT(keys, ElementsAreArray(example.keys));
}

TEST(KeySearchTest, KeysAreWhereTheServersSayTheyAre) {
  for (const KeyExample& example : KeyExamples()) Check(example);
}

TEST(KeySearchTest, ThereIsAnExampleOfEachCommandWithKeys) {
  std::set<const CommandSpec*> seen;
  for (const KeyExample& example : KeyExamples()) {
    seen.insert(&CommandOf(absl::StrSplit(example.request, ' ')));
  }
  for (const CommandSpec& command : AllCommands()) {
    const bool is_served = command.serve == Serve::kOneSlot || command.serve == Serve::kSplit;
    if (!is_served || command.name == "SPUBLISH") continue;  // its channel is not a key
    EXPECT_TRUE(seen.count(&command) != 0) << command.container << " " << command.name;
  }
}

TEST(KeySearchTest, TheSingleFirstKeyIsWhatTheSearchFinds) {
  std::vector<uint32_t> keys;
  const Args args(10, "1");
  int count = 0;
  for (const CommandSpec& command : AllCommands()) {
    if (!command.single_first_key) continue;
    ++count;
    EXPECT_EQ(FindKeyIndexes(command, args, &keys), KeySearch::kOk);
    EXPECT_THAT(keys, ElementsAreArray({1})) << command.name;
  }
  EXPECT_GT(count, 100);
}

// Where COMMAND GETKEYS answers by the specifications, but a server in cluster mode routes by other
// keys (checked with keys of two slots: CROSSSLOT or not, redis-server 7.0.15 and
// valkey-server 8.0.1).
TEST(KeySearchTest, KeysAreThoseThatTheServersRouteBy) {
  const KeyExample cases[] = {
      {"GEORADIUS a 0 0 1 m STORE b STOREDIST c", {1, 9}},
      {"GEORADIUS a 0 0 1 m STOREDIST b STORE c", {1, 9}},
      {"GEORADIUS a 0 0 1 m STORE b STORE c", {1, 9}},
      {"GEORADIUS a 0 0 1 m STORE STORE STORE c", {1, 9}},
      {"GEORADIUSBYMEMBER a m 1 m STORE b STOREDIST c", {1, 8}},
      {"SORT a STORE BY STORE b", {1, 3}},
      {"XREAD COUNT STREAMS STREAMS a b 0 0", {4, 5}},
      {"XREAD COUNT 1 BLOCK STREAMS STREAMS a 0", {6}},
      {"PFMERGE a", {1}},
      {"EVAL script 1 a b", {3}},
  };
  for (const KeyExample& c : cases) Check(c);
}

// The node answers with an error of its own; the request must not crash us on its way there.
TEST(KeySearchTest, RequestsThatAreCutShortHaveTheKeysThatAreThere) {
  const KeyExample cases[] = {
      {"XREAD STREAMS", {}},
      {"XREAD STREAMS a b 0", {}},
      {"XREAD FOO STREAMS a 0", {}},
      {"XREAD COUNT", {}},
      {"XREADGROUP GROUP g", {}},
      {"SORT a STORE", {1}},
      {"SORT a LIMIT 0", {1}},
      {"GEORADIUS a 0 0 1 m STORE", {1}},
      {"GET", {}},
      {"LCS a", {}},
      {"BLPOP a", {}},
      {"SUNSUBSCRIBE", {}},
      {"ZUNIONSTORE d 0", {1}},
      {"OBJECT ENCODING", {}},
  };
  for (const KeyExample& c : cases) Check(c);
}

TEST(KeySearchTest, ChannelsRouteLikeKeys) {
  Check({"SPUBLISH channel message", {1}});
  Check({"SSUBSCRIBE a b c", {1, 2, 3}});
}

TEST(KeySearchTest, AWrongNumberOfKeysIsInvalidAndHasNoKeys) {
  const std::string requests[] = {
      "EVAL script x a",
      "EVAL script",
      "EVAL script -1 a",
      "EVAL script 3 a b",
      "EVAL script 9223372036854775807 a",
      "EVAL script 9223372036854775808 a",
      "FCALL f -9223372036854775808 a",
      "ZUNIONSTORE d 3 a b",
      "ZUNIONSTORE d x a",
      "ZUNION 2 a",
      "SINTERCARD 3 a b",
      "BLMPOP 0 2 a",
  };
  for (const std::string& request : requests) {
    SCOPED_TRACE(request);
    const Args args = absl::StrSplit(request, ' ');
    std::vector<uint32_t> keys = {99};
    EXPECT_EQ(FindKeyIndexes(CommandOf(args), args, &keys), KeySearch::kInvalid);
    EXPECT_THAT(keys, IsEmpty());
  }
}

// Nodes route by numkeys as atoi() reads it before they refuse it: sent to another node than that
// key's, the request came back as a MOVED of a slot that it does not have.
TEST(KeySearchTest, ANumberOfKeysThatIsNoneIsReadAsTheNodesReadIt) {
  struct Case {
    absl::string_view numkeys;
    std::vector<uint32_t> keys;  // empty: refused by any node
  };
  const Case cases[] = {
      {" 1", {2}},
      {"\t\r2", {2, 3}},
      {"1x", {2}},
      {"1.5", {2}},
      {"1e3", {2}},
      {"+1", {2}},
      {"01", {2}},
      {"4294967297", {2}},
      {"-4294967295", {2}},
      {"1\0", {2}},
      {"", {}},
      {"x", {}},
      {" ", {}},
      {"-1", {}},
      {"+", {}},
      {"- 1", {}},
      {"3x", {}},
      {"0x1", {}},
      {"9223372036854775807", {}},
      {"99999999999999999999", {}},
      {"-99999999999999999999", {}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.numkeys);
    const Args args = {"ZUNION", c.numkeys, "a", "b"};
    std::vector<uint32_t> keys;
    const KeySearch found = FindKeyIndexes(CommandOf(args), args, &keys);
    EXPECT_EQ(found, c.keys.empty() ? KeySearch::kInvalid : KeySearch::kOk);
    EXPECT_EQ(keys, c.keys);
  }
}

TEST(KeySearchTest, NoCommandFindsAKeyOutsideItsArguments) {
  const absl::string_view words[] = {"1",    "2",     "STORE", "STREAMS", "GROUP",
                                     "KEYS", "BLOCK", "x",     "LIMIT",   "9223372036854775807"};
  uint32_t random = 1;
  std::vector<uint32_t> keys;
  for (const CommandSpec& command : AllCommands()) {
    for (int round = 0; round < 300; ++round) {
      Args args(static_cast<size_t>(round % 9));
      for (absl::string_view& arg : args) {
        random = random * 1664525 + 1013904223;
        arg = words[(random >> 16) % 10];
      }
      (void)FindKeyIndexes(command, args, &keys);
      for (const uint32_t key : keys) {
        ASSERT_LT(key, args.size()) << command.container << " " << command.name;
        ASSERT_GT(key, 0u);
      }
      (void)FindBlockingTimeout(command, args);
    }
  }
}

TEST(KeySearchTest, BlocksTellsWhatMayWait) {
  struct Case {
    std::string request;
    bool blocks;
  };
  const Case cases[] = {
      {"GET a", false},
      {"BLPOP a 0", true},
      {"BLMOVE a b LEFT LEFT 0", true},
      {"BRPOPLPUSH a b 0", true},
      {"BZMPOP 0 1 a MIN", true},
      {"WAIT 1 0", true},
      {"XREAD STREAMS a 0", false},
      {"XREAD COUNT 1 STREAMS a 0", false},
      {"XREAD BLOCK 0 STREAMS a 0", true},
      {"xread count 1 block 0 streams a 0", true},
      {"XREAD COUNT BLOCK STREAMS a 0", false},
      {"XREAD STREAMS BLOCK 0", false},
      {"XREADGROUP GROUP BLOCK BLOCK STREAMS a >", false},
      {"XREADGROUP GROUP g c NOACK BLOCK 5 STREAMS a >", true},
      // Nothing that a server takes for an option of its own may be missed here.
      {"XREAD BLOCK", true},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.request);
    const Args args = absl::StrSplit(c.request, ' ');
    EXPECT_EQ(FindBlockingTimeout(CommandOf(args), args).has_value(), c.blocks);
  }
}

}  // namespace
}  // namespace cluster
