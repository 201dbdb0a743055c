#include "proxy/forging.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace proxy {
namespace {

Forging Of(absl::string_view name, std::vector<absl::string_view> args,
           absl::string_view subcommand = "") {
  const cluster::CommandSpec* command = cluster::FindCommand(name);
  if (!subcommand.empty()) command = cluster::FindSubcommand(*command, subcommand);
  return ForgingOf(*command, args);
}

TEST(ForgingTest, ScriptsAndWhatTellsOfThemMayForge) {
  for (const char* name : {"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"}) {
    EXPECT_EQ(Of(name, {name, "return 1", "0"}), Forging::kSomeServers) << name;
  }
  EXPECT_EQ(Of("FUNCTION", {"FUNCTION", "LIST", "x"}, "LIST"), Forging::kSomeServers);
  EXPECT_EQ(Of("SCRIPT", {"SCRIPT", "LOAD", "return 1"}, "LOAD"), Forging::kSomeServers);
  EXPECT_EQ(Of("GET", {"GET", "#!\"x"}), Forging::kNobody);
  EXPECT_EQ(Of("ACL", {"ACL", "WHOAMI"}, "WHOAMI"), Forging::kNobody);
}

TEST(ForgingTest, QuotesInTheLineOfAShebangForgeAtAnyServer) {
  for (const char* script : {"#!lua \"flags=q\\r\\n+x\"\nreturn 1", "#!\"x\"", "#!lua 'x'\n",
                             "#!lua flags=\r\n", "#!lua \x01"}) {
    EXPECT_EQ(Of("EVAL", {"EVAL", script, "0"}), Forging::kAnyServer) << script;
  }
  for (const char* script : {"#!lua\nreturn \"x\"", "#!lua flags=no-writes,allow-stale\n'\r\n'",
                             "return '#!\"x'", "#!lua name=mylib"}) {
    EXPECT_EQ(Of("EVAL", {"EVAL", script, "0"}), Forging::kSomeServers) << script;
  }
}

TEST(ForgingTest, OnlyTheTextOfAScriptIsLookedAt) {
  EXPECT_EQ(Of("EVAL", {"EVAL", "return 1", "0", "#!\"x\""}), Forging::kSomeServers);
  EXPECT_EQ(Of("EVALSHA", {"EVALSHA", "#!\"x\"", "0"}), Forging::kSomeServers);
  EXPECT_EQ(Of("EVAL_RO", {"EVAL_RO", "#!\"x\"", "0"}), Forging::kAnyServer);
}

TEST(ForgingTest, ServersThatSendWhatScriptsSay) {
  const auto forged = [](bool valkey, absl::string_view version) {
    ServerInfo server;
    server.valkey = valkey;
    server.version = std::string(version);
    return IsForgedByScripts(server);
  };
  for (const char* version : {"7.0.15", "7.2.4", "7.4.0", "8.2.1"}) {
    EXPECT_FALSE(forged(false, version)) << version;
  }
  for (const char* version : {"6.2.7", "", "x.y.z", "7.0"}) {
    EXPECT_TRUE(forged(false, version)) << version;
  }
  for (const char* version : {"7.2.12", "8.0.7", "8.1.6", "8.1.10", "9.0.2", "9.1.0", "10.0.0"}) {
    EXPECT_FALSE(forged(true, version)) << version;
  }
  for (const char* version : {"7.2.11", "8.0.1", "8.0.6", "8.1.0", "8.1.5", "9.0.0", "9.0.1", ""}) {
    EXPECT_TRUE(forged(true, version)) << version;
  }
}

}  // namespace
}  // namespace proxy
