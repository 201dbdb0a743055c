#include "proxy/server_info.h"

#include <string>

#include "gtest/gtest.h"

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

}  // namespace
}  // namespace proxy
