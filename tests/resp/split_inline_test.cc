#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "resp/views.h"

namespace resp {
namespace {

using Args = std::vector<std::string>;

TEST(SplitInlineTest, SplitsAsTheServersDo) {
  const struct {
    const char* name;
    std::string line;
    Args args;
  } cases[] = {
      {"nothing", "", {}},
      {"only blanks", " \t\v\f\r ", {}},
      {"words", "set a b", {"set", "a", "b"}},
      {"blanks around", "  set \t a  ", {"set", "a"}},
      {"CR ends a word", "set\ra", {"set", "a"}},
      {"LF ends a word", "set\na", {"set", "a"}},
      {"vertical tab does not", "set\va\fb", {"set\va\fb"}},
      {"but is skipped before one", "\vset \f a", {"set", "a"}},
      {"double quotes", "echo \"a b\"", {"echo", "a b"}},
      {"empty argument", "echo \"\" ''", {"echo", "", ""}},
      {"quotes begin inside a word", "echo a\"b c\" d'e f'", {"echo", "ab c", "de f"}},
      {"hexadecimal", "\"\\x41\\x0a\\xfF\\x00\"", {std::string("A\n\xff\0", 4)}},
      {"hexadecimal without digits", "\"\\x4g\\xg4\\x\"", {"x4gxg4x"}},
      {"escapes", "\"\\n\\r\\t\\b\\a\"", {"\n\r\t\b\a"}},
      {"other escapes", "\"\\\\\\\"\\q\\'\"", {"\\\"q'"}},
      {"single quotes", "'a b' '\\n\\x41\\\"'", {"a b", "\\n\\x41\\\""}},
      {"single quote in single quotes", "'it\\'s'", {"it's"}},
      {"double in single", "'\"'", {"\""}},
      {"single in double", "\"'\"", {"'"}},
      {"backslash outside", "a\\n \\x41", {"a\\n", "\\x41"}},
      {"vertical tab behind a quote", "\"a\"\v\"b\"", {"a", "b"}},
      {"high bytes", "\xff\xfe", {"\xff\xfe"}},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    Args args = {"old"};
    EXPECT_TRUE(SplitInline(c.line, &args));
    EXPECT_EQ(args, c.args);
  }
}

TEST(SplitInlineTest, RefusesUnbalancedQuotes) {
  for (const char* line : {"\"", "'", "echo \"a", "echo 'a", "echo \"a\"b", "echo 'a'b",
                           "\"\"\"a\"", "set \"\"\"test-key\"\"\" test-value", "\"a\\\"", "'a\\'",
                           "'a\\\\'", "\"a\\", "'a\\", "\"\\x4", "\"a\"'b'"}) {
    SCOPED_TRACE(line);
    Args args;
    EXPECT_FALSE(SplitInline(line, &args));
  }
}

}  // namespace
}  // namespace resp
