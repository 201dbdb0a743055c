#include "proxy/glob.h"

#include <gtest/gtest.h>

#include <string>

namespace proxy {
namespace {

struct Case {
  absl::string_view pattern;
  absl::string_view text;
  bool matches;
};

// As KEYS and COMMAND LIST FILTERBY PATTERN of redis-server 7.0 answer.
TEST(GlobTest, MatchesAsTheServersDo) {
  const Case cases[] = {
      {"", "", true},
      {"", "a", false},
      {"a", "", false},
      {"*", "", true},
      {"***", "abc", true},
      {"a*c", "abbbc", true},
      {"a*c", "abbbcd", false},
      {"*ab*ab", "aababab", true},
      {"*a*b?c", "xaxxbbxc", true},
      {"*a*b?c", "xaxxbbx", false},
      {"h?llo", "hello", true},
      {"h?llo", "hllo", false},
      {"h[ae]llo", "hallo", true},
      {"h[ae]llo", "hillo", false},
      {"h[^e]llo", "hello", false},
      {"h[^e]llo", "hallo", true},
      {"h[a-c]llo", "hbllo", true},
      {"h[c-a]llo", "hbllo", true},
      {"h[a-c]llo", "hdllo", false},
      {"[a-]", "-", false},  // a range to the bracket
      {"[a", "a", true},
      {"[]", "a", false},
      {"[^]", "a", true},
      {"[\\]]", "]", true},
      {"[", "a", false},
      {"\\*", "*", true},
      {"\\*", "a", false},
      {"a\\", "a\\", true},
      {"A", "a", false},
      {"[A-C]", "b", false},
      {absl::string_view("a\0*", 3), absl::string_view("a\0b", 3), true},
      {"\xff*", "\xff\xfe", true},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(GlobMatches(c.pattern, c.text, GlobCase::kSensitive), c.matches)
        << c.pattern << " on " << c.text;
  }
}

TEST(GlobTest, CaseMayBeIgnored) {
  EXPECT_TRUE(GlobMatches("HgEt*", "hgetall", GlobCase::kIgnored));
  EXPECT_TRUE(GlobMatches("h[A-G]T", "hgt", GlobCase::kIgnored));
  EXPECT_FALSE(GlobMatches("h[^A-G]t", "hgt", GlobCase::kIgnored));
}

// A pattern of many stars once took exponential time in the servers (CVE-2022-36021).
TEST(GlobTest, ManyStarsTakeLittleTime) {
  std::string pattern;
  for (int i = 0; i < 64; ++i) pattern += "*a";
  EXPECT_FALSE(GlobMatches(pattern + "b", std::string(20000, 'a'), GlobCase::kSensitive));
}

}  // namespace
}  // namespace proxy
