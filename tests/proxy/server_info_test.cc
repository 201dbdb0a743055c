#include "proxy/server_info.h"

#include <string>

#include "gtest/gtest.h"
#include "proxy/info_of_nodes.h"

namespace proxy {
namespace {

TEST(ServerInfoTest, VersionsAreComparedByNumber) {
  EXPECT_EQ(ParseServerVersion("7.0.15"), (ServerVersion{7, 0, 15}));
  EXPECT_EQ(ParseServerVersion("7.2"), (ServerVersion{7, 2, -1}));
  EXPECT_EQ(ParseServerVersion("8"), (ServerVersion{8, -1, -1}));
  EXPECT_LT(*ParseServerVersion("7.2.4"), *ParseServerVersion("7.10.1"));
  for (const char* text : {"", "unstable", "7.x", "7.2.", ".7", "1.2.3.4", "7.2.4-rc1"}) {
    EXPECT_EQ(ParseServerVersion(text), absl::nullopt) << text;
  }
}

TEST(ServerInfoTest, ServersBefore72AreRedisOnly) {
  const auto is_before = [](bool valkey, const std::string& version) {
    ServerInfo server;
    server.valkey = valkey;
    server.version = version;
    return IsBeforeRedis72(server);
  };
  EXPECT_TRUE(is_before(false, "7.0.15"));
  EXPECT_TRUE(is_before(false, "6.2.14"));
  EXPECT_TRUE(is_before(false, "7"));
  EXPECT_FALSE(is_before(false, "7.2.0"));
  EXPECT_FALSE(is_before(false, "7.10.1"));
  EXPECT_FALSE(is_before(false, "8.0.0"));
  EXPECT_FALSE(is_before(false, "255.255.255"));
  EXPECT_FALSE(is_before(false, "unstable"));
  EXPECT_FALSE(is_before(false, "7.x"));
  EXPECT_FALSE(is_before(false, ""));
  EXPECT_FALSE(is_before(true, "7.0.0"));
}

TEST(InfoOfNodesTest, AddsUpWhatNodesTell) {
  const std::string own =
      "# Server\r\nredis_version:7.0.15\r\n\r\n# Commandstats\r\n\r\n# Keyspace\r\n\r\n"
      "# Proxy\r\nx:1\r\n";
  EXPECT_EQ(
      MergeInfo(own, {"# Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=1000\r\n"
                      "db5:keys=1,expires=0,avg_ttl=0\r\n\r\n# Commandstats\r\n"
                      "cmdstat_get:calls=4,usec=8,usec_per_call=2.00,failed_calls=1\r\n"
                      "\r\n# Errorstats\r\nerrorstat_ERR:count=2\r\n",
                      "# Keyspace\r\ndb0:keys=5,expires=3,avg_ttl=2000\r\n\r\n# Commandstats\r\n"
                      "cmdstat_get:calls=1,usec=7,usec_per_call=7.00,failed_calls=0\r\n"
                      "cmdstat_config|get:calls=1,usec=5,usec_per_call=5.00,failed_calls=0\r\n"}),
      "# Server\r\nredis_version:7.0.15\r\n\r\n# Commandstats\r\n"
      "cmdstat_config|get:calls=1,usec=5,usec_per_call=5.00,failed_calls=0\r\n"
      "cmdstat_get:calls=5,usec=15,usec_per_call=3.00,failed_calls=1\r\n"
      "\r\n# Keyspace\r\ndb0:keys=8,expires=4,avg_ttl=1750\r\n"
      "db5:keys=1,expires=0,avg_ttl=0\r\n\r\n# Proxy\r\nx:1\r\n");
  EXPECT_EQ(MergeInfo(own, {}), own);
  EXPECT_EQ(MergeInfo("# Keyspace\r\n", {"# Keyspace\r\nnonsense\r\n:\r\n=:=\r\n"}),
            "# Keyspace\r\n=:\r\n");
}

}  // namespace
}  // namespace proxy
