#include "cluster/command_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace cluster {
namespace {

std::string UpperName(const CommandSpec& command) {
  return absl::AsciiStrToUpper(FullName(command));
}

const CommandSpec* FindByFullName(absl::string_view name) {
  const size_t bar = name.find('|');
  if (bar == absl::string_view::npos) return FindCommand(name);
  const CommandSpec* container = FindCommand(name.substr(0, bar));
  return container == nullptr ? nullptr : FindSubcommand(*container, name.substr(bar + 1));
}

// --- look-up

std::string MixCase(absl::string_view name, unsigned mask) {
  std::string mixed;
  for (size_t i = 0; i < name.size(); ++i) {
    mixed += (mask >> (i % 8) & 1) != 0 ? absl::ascii_tolower(name[i]) : name[i];
  }
  return mixed;
}

TEST(CommandTableTest, EveryRowIsFoundByItsNameInAnyCase) {
  ASSERT_GT(AllCommands().size(), 370u);
  for (const CommandSpec& command : AllCommands()) {
    for (unsigned mask = 0; mask < 256; ++mask) {
      const std::string name = MixCase(UpperName(command), mask);
      ASSERT_EQ(FindByFullName(name), &command) << name;
    }
  }
}

TEST(CommandTableTest, NamesThatDifferInOneByteAreOtherNames) {
  // Only a letter's other case is the same name; neither a bit that is no letter's case, nor a zero
  // byte, nor a byte more or less.
  const auto check = [](const std::string& name, const CommandSpec& command) {
    const CommandSpec* found = FindByFullName(name);
    ASSERT_TRUE(found != &command || absl::AsciiStrToUpper(name) == UpperName(command)) << name;
  };
  for (const CommandSpec& command : AllCommands()) {
    const std::string name = UpperName(command);
    for (size_t i = 0; i < name.size(); ++i) {
      for (int bit = 0; bit < 8; ++bit) {
        std::string other = name;
        other[i] = static_cast<char>(other[i] ^ (1 << bit));
        check(other, command);
      }
      check(name.substr(0, i), command);
      check(name.substr(i + 1), command);
    }
    for (const char byte : {'\0', ' ', '\r', '\n', 'S', '|', '\x80'}) {
      check(name + byte, command);
      check(byte + name, command);
    }
  }
}

TEST(CommandTableTest, WhatIsNoCommandIsNotFound) {
  const std::string names[] = {"",
                               "G",
                               "GE",
                               "GETT",
                               "NOSUCHCOMMAND",
                               std::string(4096, 'A'),
                               std::string(3, '\0'),
                               "CLIENT|ID",
                               "SETNAME",
                               "POST",
                               "HOST:",
                               std::string("GET\0", 4),
                               "\xff\xff\xff"};
  for (const std::string& name : names) EXPECT_EQ(FindCommand(name), nullptr) << name;
  const CommandSpec& client = *FindCommand("client");
  const CommandSpec& get = *FindCommand("get");
  EXPECT_EQ(FindSubcommand(client, ""), nullptr);
  EXPECT_EQ(FindSubcommand(client, "GET"), nullptr);
  EXPECT_EQ(FindSubcommand(client, "FORGET"), nullptr);  // CLUSTER's
  EXPECT_EQ(FindSubcommand(get, "GET"), nullptr);
}

// A sanitizer sees a load past the name's end.
TEST(CommandTableTest, ALookUpReadsNoByteBehindTheName) {
  for (size_t size = 0; size < 40; ++size) {
    const auto name = std::make_unique<char[]>(size);
    std::memset(name.get(), 'a', size);
    EXPECT_EQ(FindCommand(absl::string_view(name.get(), size)), nullptr);
  }
}

// --- rows

TEST(CommandTableTest, RowsSayWhatTheServersSay) {
  const CommandSpec& set = *FindCommand("SET");
  EXPECT_EQ(set.arity, -3);
  EXPECT_EQ(set.flags, kFlagWrite | kFlagDenyOom);
  EXPECT_TRUE(set.single_first_key);
  EXPECT_TRUE(set.is_write());
  EXPECT_FALSE(set.is_read_only());
  const CommandSpec& mget = *FindCommand("MGET");
  EXPECT_EQ(mget.serve, Serve::kSplit);
  EXPECT_EQ(mget.split, Split::kKeys);
  EXPECT_EQ(mget.merge, Merge::kInKeyOrder);
  EXPECT_FALSE(mget.single_first_key);
  const CommandSpec& xread = *FindCommand("XREAD");
  ASSERT_EQ(xread.key_specs.size(), 1u);
  EXPECT_EQ(xread.key_specs[0].keyword, "STREAMS");
  EXPECT_EQ(xread.key_specs[0].limit, 2);
  // Only in valkey 8.
  EXPECT_NE(FindByFullName("CLUSTER|SLOT-STATS"), nullptr);
}

TEST(CommandTableTest, OnlySplitCommandsHaveASplitAndAMerge) {
  for (const CommandSpec& command : AllCommands()) {
    SCOPED_TRACE(UpperName(command));
    EXPECT_EQ(command.serve == Serve::kSplit, command.split != Split::kNever);
    EXPECT_EQ(command.serve == Serve::kSplit, command.merge != Merge::kForward);
  }
}

TEST(CommandTableTest, ArityIsExactOrAtLeast) {
  struct Case {
    absl::string_view name;
    int64_t arg_count;
    bool accepted;
  };
  const Case cases[] = {
      {"GET", 1, false},
      {"GET", 2, true},
      {"GET", 3, false},
      {"SET", 2, false},
      {"SET", 3, true},
      {"SET", 1 << 20, true},
      {"CLIENT|SETNAME", 2, false},
      {"CLIENT|SETNAME", 3, true},
      {"CLIENT", 1, false},
      {"COMMAND", 1, true},
      // Key-value pairs are whole.
      {"MSET", 2, false},
      {"MSET", 3, true},
      {"MSET", 4, false},
      {"MSET", 5, true},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(absl::StrCat(c.name, " ", c.arg_count));
    EXPECT_EQ(ArityAccepts(*FindByFullName(c.name), c.arg_count), c.accepted);
  }
}

// --- what may go on a connection that clients share

// Flags of commands that change a connection's state, wait, or govern one server. Each exception
// has its reason.
constexpr uint32_t kUnsharedFlags = kFlagAdmin | kFlagPubSub | kFlagNoScript | kFlagBlocking |
                                    kFlagNoMulti | kFlagNoAuth | kFlagAllowBusy | kFlagAsking;

struct Exception {
  uint32_t flags;
  absl::string_view reason;
};

const std::map<std::string, Exception>& Exceptions() {
  static const auto* exceptions = new std::map<std::string, Exception>{
      {"BLMPOP", {kFlagBlocking, "waits on a connection of its own"}},
      {"BZMPOP", {kFlagBlocking, "waits on a connection of its own"}},
      {"BLMOVE", {kFlagBlocking | kFlagNoScript, "waits on a connection of its own"}},
      {"BLPOP", {kFlagBlocking | kFlagNoScript, "waits on a connection of its own"}},
      {"BRPOP", {kFlagBlocking | kFlagNoScript, "waits on a connection of its own"}},
      {"BRPOPLPUSH", {kFlagBlocking | kFlagNoScript, "waits on a connection of its own"}},
      {"BZPOPMAX", {kFlagBlocking | kFlagNoScript, "waits on a connection of its own"}},
      {"BZPOPMIN", {kFlagBlocking | kFlagNoScript, "waits on a connection of its own"}},
      {"EVAL", {kFlagNoScript, "noscript: no script calls a script"}},
      {"EVAL_RO", {kFlagNoScript, "noscript: no script calls a script"}},
      {"EVALSHA", {kFlagNoScript, "noscript: no script calls a script"}},
      {"EVALSHA_RO", {kFlagNoScript, "noscript: no script calls a script"}},
      {"FCALL", {kFlagNoScript, "noscript: no script calls a function"}},
      {"FCALL_RO", {kFlagNoScript, "noscript: no script calls a function"}},
      {"PUBLISH", {kFlagPubSub, "sends, does not subscribe"}},
      {"SPUBLISH", {kFlagPubSub, "sends, does not subscribe"}},
      {"XREAD", {kFlagBlocking, "waits only with BLOCK: FindBlockingTimeout()"}},
      {"XREADGROUP", {kFlagBlocking, "waits only with BLOCK: FindBlockingTimeout()"}},
  };
  return *exceptions;
}

bool GoesOnASharedConnection(const CommandSpec& command) {
  return command.serve == Serve::kOneSlot || command.serve == Serve::kSplit ||
         command.serve == Serve::kKeyless || command.serve == Serve::kPublish ||
         command.serve == Serve::kBySlot;
}

TEST(CommandTableTest, NothingThatChangesAConnectionWaitsOrGovernsIsShared) {
  std::set<std::string> used;
  for (const CommandSpec& command : AllCommands()) {
    if (!GoesOnASharedConnection(command)) continue;
    const std::string name = UpperName(command);
    uint32_t flags = command.flags & kUnsharedFlags;
    const auto exception = Exceptions().find(name);
    if (exception != Exceptions().end()) {
      EXPECT_NE(flags & exception->second.flags, 0u) << name << " needs no exception";
      flags &= ~exception->second.flags;
      used.insert(name);
    }
    EXPECT_EQ(flags, 0u) << name;
  }
  EXPECT_EQ(used.size(), Exceptions().size());
}

// Connection state without a telling flag: what has no keys is shared only if it is named here.
TEST(CommandTableTest, WithoutKeysOnlyWhatIsTheSameOnEveryNodeIsShared) {
  std::set<std::string> keyless;
  for (const CommandSpec& command : AllCommands()) {
    if (command.serve == Serve::kOneSlot || command.serve == Serve::kSplit) {
      EXPECT_FALSE(command.key_specs.empty()) << UpperName(command);
    }
    if (command.serve != Serve::kKeyless) continue;
    EXPECT_TRUE(command.key_specs.empty()) << UpperName(command);
    EXPECT_FALSE(command.is_write()) << UpperName(command);
    if (command.name != "HELP") keyless.insert(UpperName(command));
  }
  EXPECT_THAT(keyless, ::testing::UnorderedElementsAre("LOLWUT"));
}

// faults.md, C12.
TEST(CommandTableTest, StateChangingCommandsAreNeverShared) {
  const absl::string_view names[] = {"QUIT",
                                     "RESET",
                                     "HELLO",
                                     "AUTH",
                                     "SELECT",
                                     "CLIENT|REPLY",
                                     "CLIENT|KILL",
                                     "CLIENT|NO-EVICT",
                                     "CLIENT|NO-TOUCH",
                                     "CLIENT|TRACKING",
                                     "CLIENT|CACHING",
                                     "CLIENT|SETNAME",
                                     "CLIENT|SETINFO",
                                     "CLIENT|CAPA",
                                     "CLIENT|PAUSE",
                                     "MONITOR",
                                     "SUBSCRIBE",
                                     "PSUBSCRIBE",
                                     "SSUBSCRIBE",
                                     "UNSUBSCRIBE",
                                     "PUNSUBSCRIBE",
                                     "SUNSUBSCRIBE",
                                     "READONLY",
                                     "READWRITE",
                                     "ASKING",
                                     "SYNC",
                                     "PSYNC",
                                     "REPLCONF",
                                     "SHUTDOWN",
                                     "DEBUG",
                                     "REPLICAOF",
                                     "SLAVEOF",
                                     "FAILOVER",
                                     "MIGRATE",
                                     "RESTORE-ASKING",
                                     "MULTI",
                                     "EXEC",
                                     "DISCARD",
                                     "WATCH",
                                     "UNWATCH",
                                     "SCRIPT|DEBUG",
                                     "SWAPDB",
                                     "WAIT",
                                     "WAITAOF"};
  for (const absl::string_view name : names) {
    const CommandSpec* command = FindByFullName(name);
    ASSERT_NE(command, nullptr) << name;
    EXPECT_FALSE(GoesOnASharedConnection(*command)) << name;
  }
  for (const CommandSpec& command : AllCommands()) {
    // Those of kBySlot read, and know nothing of connections.
    if (command.container == "CLUSTER" && command.serve != Serve::kBySlot) {
      EXPECT_FALSE(GoesOnASharedConnection(command)) << command.name;
    }
  }
}

TEST(CommandTableTest, AdministrationOfOneServerIsRefused) {
  // semantics.md, "refused by default".
  const absl::string_view names[] = {"CONFIG|REWRITE",
                                     "CONFIG|RESETSTAT",
                                     "DEBUG",
                                     "SHUTDOWN",
                                     "MODULE|LOAD",
                                     "MODULE|LOADEX",
                                     "MODULE|UNLOAD",
                                     "MODULE|LIST",
                                     "REPLICAOF",
                                     "SLAVEOF",
                                     "FAILOVER",
                                     "CLUSTER|ADDSLOTS",
                                     "CLUSTER|MEET",
                                     "CLUSTER|FORGET",
                                     "CLUSTER|FAILOVER",
                                     "CLUSTER|RESET",
                                     "CLUSTER|SETSLOT",
                                     "CLUSTER|REPLICATE",
                                     "CLUSTER|BUMPEPOCH",
                                     "CLUSTER|SAVECONFIG",
                                     "MIGRATE",
                                     "SYNC",
                                     "PSYNC",
                                     "ACL|SETUSER",
                                     "ACL|DELUSER",
                                     "ACL|LOAD",
                                     "ACL|SAVE",
                                     "SAVE",
                                     "BGSAVE",
                                     "BGREWRITEAOF",
                                     "PFDEBUG",
                                     "PFSELFTEST",
                                     "REPLCONF"};
  for (const absl::string_view name : names) {
    const CommandSpec* command = FindByFullName(name);
    ASSERT_NE(command, nullptr) << name;
    EXPECT_EQ(command->serve, Serve::kRefused) << name;
  }
}

TEST(CommandTableTest, AWriteIsServedInItsSlotOrNotForwardedYet) {
  for (const CommandSpec& command : AllCommands()) {
    if (!command.is_write() || command.key_specs.empty()) continue;
    EXPECT_TRUE(command.serve != Serve::kLocal && command.serve != Serve::kKeyless)
        << UpperName(command);
  }
}

TEST(CommandTableTest, ScriptsAreThoseWhoseErrorsProveNothing) {
  std::set<std::string> scripts;
  for (const CommandSpec& command : AllCommands()) {
    if (command.is_script()) scripts.insert(UpperName(command));
  }
  EXPECT_THAT(scripts, ::testing::UnorderedElementsAre("EVAL", "EVAL_RO", "EVALSHA", "EVALSHA_RO",
                                                       "FCALL", "FCALL_RO"));
}

TEST(CommandTableTest, SlowCommandsAreThoseOfUnboundedRunTime) {
  // faults.md, L11; LCS is quadratic.
  for (const absl::string_view name :
       {"FLUSHALL", "FLUSHDB", "KEYS", "SORT", "SORT_RO", "SUNION", "SDIFFSTORE", "SINTERCARD",
        "ZUNIONSTORE", "ZINTER", "ZDIFF", "EVAL", "FCALL_RO", "FUNCTION|LOAD", "LCS"}) {
    EXPECT_NE(FindByFullName(name)->flags & kFlagSlow, 0u) << name;
  }
  for (const absl::string_view name : {"GET", "SET", "MGET", "DEL", "HGETALL", "PING"}) {
    EXPECT_EQ(FindByFullName(name)->flags & kFlagSlow, 0u) << name;
  }
}

TEST(CommandTableTest, PoliciesAreReviewed) {
  // semantics.md, "Known traps".
  struct Case {
    absl::string_view name;
    RequestPolicy request;
    ResponsePolicy response;
  };
  const Case cases[] = {
      {"MSETNX", RequestPolicy::kNone, ResponsePolicy::kNone},
      {"PING", RequestPolicy::kNone, ResponsePolicy::kNone},
      {"INFO", RequestPolicy::kNone, ResponsePolicy::kNone},
      {"LATENCY|RESET", RequestPolicy::kAllNodes, ResponsePolicy::kAggSum},
      {"RANDOMKEY", RequestPolicy::kAllShards, ResponsePolicy::kSpecial},
      {"SCRIPT|EXISTS", RequestPolicy::kAllShards, ResponsePolicy::kAggLogicalAnd},
      {"WAIT", RequestPolicy::kSpecial, ResponsePolicy::kSpecial},
      {"SCAN", RequestPolicy::kSpecial, ResponsePolicy::kSpecial},
      {"DBSIZE", RequestPolicy::kAllShards, ResponsePolicy::kAggSum},
      {"FLUSHALL", RequestPolicy::kAllShards, ResponsePolicy::kAllSucceeded},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    EXPECT_EQ(FindByFullName(c.name)->request_policy, c.request);
    EXPECT_EQ(FindByFullName(c.name)->response_policy, c.response);
  }
  EXPECT_EQ(FindCommand("MSETNX")->serve, Serve::kOneSlot);
}

}  // namespace
}  // namespace cluster
