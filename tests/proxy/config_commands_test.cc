#include "proxy/config_commands.h"

#include <gtest/gtest.h>

#include <string>

namespace proxy {
namespace {

std::string Parsed(absl::string_view value) {
  std::string classes;
  return ParseKeyspaceEvents(value, &classes) ? classes : "refused";
}

TEST(ConfigCommandsTest, KeyspaceEventsAreASetOfClasses) {
  EXPECT_EQ(Parsed(""), "");
  EXPECT_EQ(Parsed("KEA"), Parsed("AKE"));
  EXPECT_EQ(Parsed("KEA"), Parsed("KEg$lshzxetd"));
  EXPECT_EQ(Parsed("AA"), Parsed("A"));
  EXPECT_EQ(Parsed("xEx"), "Ex");
  EXPECT_NE(Parsed("A"), Parsed("Amn"));
  EXPECT_EQ(Parsed("Kq"), "refused");
  EXPECT_EQ(Parsed("K E"), "refused");
  EXPECT_EQ(Parsed("a"), "refused");
}

}  // namespace
}  // namespace proxy
