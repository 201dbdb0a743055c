#include "resp/views.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace resp {
namespace {

using Views = std::vector<absl::string_view>;

// All ways to lay `frame` into three pieces, empty ones too.
template <typename Run>
void ForEachThreePieces(absl::string_view frame, const Run& run) {
  for (size_t i = 0; i <= frame.size(); ++i) {
    for (size_t j = i; j <= frame.size(); ++j) {
      const Views pieces = {frame.substr(0, i), frame.substr(i, j - i), frame.substr(j)};
      SCOPED_TRACE(absl::StrCat("pieces end at ", i, " and ", j));
      run(pieces);
    }
  }
}

TEST(ViewAtTest, GivesTheBytesOfAnyPlaceInAnyPieces) {
  const std::string frame = "abcdefgh";
  ForEachThreePieces(frame, [&](const Views& pieces) {
    for (size_t offset = 0; offset <= frame.size(); ++offset) {
      for (size_t length = 0; offset + length <= frame.size(); ++length) {
        std::string scratch = "old";
        EXPECT_EQ(ViewAt(pieces, {offset, length}, &scratch), frame.substr(offset, length));
      }
    }
  });
}

TEST(ViewAtTest, CopiesOnlyWhatLiesInSeveralPieces) {
  const std::string first = "abc", second = "def";
  const Views pieces = {first, second};
  std::string scratch;
  EXPECT_EQ(ViewAt(pieces, {1, 2}, &scratch).data(), first.data() + 1);
  EXPECT_EQ(ViewAt(pieces, {3, 3}, &scratch).data(), second.data());
  EXPECT_TRUE(scratch.empty());
  EXPECT_EQ(ViewAt(pieces, {2, 2}, &scratch).data(), scratch.data());
  EXPECT_EQ(scratch, "cd");
}

Views ReadArgs(const Views& pieces, std::vector<std::string>* scratches) {
  Views args;
  ArgReader reader(pieces);
  scratches->assign(static_cast<size_t>(reader.count()), "");
  ArgPosition position;
  for (int64_t i = 0; i < reader.count(); ++i) {
    EXPECT_TRUE(reader.Next(&position));
    args.push_back(ViewAt(pieces, position, &(*scratches)[static_cast<size_t>(i)]));
  }
  EXPECT_FALSE(reader.Next(&position));
  return args;
}

TEST(ArgReaderTest, FindsTheSameArgumentsInAnyPieces) {
  std::vector<std::string> scratches;
  ForEachThreePieces(
      "*4\r\n$3\r\nSET\r\n$0\r\n\r\n$12\r\n$1\r\n*2\r\n1234\r\n$1\r\nx\r\n",
      [&](const Views& pieces) {
        EXPECT_EQ(ReadArgs(pieces, &scratches), (Views{"SET", "", "$1\r\n*2\r\n1234", "x"}));
      });
}

TEST(ArgReaderTest, FramesWithoutArgumentsHaveNone) {
  for (const char* frame : {"*0\r\n", "*-1\r\n", "*-7\r\n", "PING\r\n", "\r\n", ""}) {
    SCOPED_TRACE(frame);
    const Views pieces = {frame};
    ArgReader reader(pieces);
    ArgPosition position;
    EXPECT_EQ(reader.count(), 0);
    EXPECT_FALSE(reader.Next(&position));
  }
}

// Not what it is for, but it must not run away.
TEST(ArgReaderTest, StopsAtWhatIsNoArgument) {
  for (const char* frame : {"*2\r\n$1\r\na\r\n", "*2\r\n$1\r\na\r\n:1\r\n",
                            "*2\r\n$1\r\na\r\n$-1\r\n", "*2\r\n$1\r\na\r\n$1x"}) {
    SCOPED_TRACE(frame);
    const Views pieces = {frame};
    ArgReader reader(pieces);
    ArgPosition position;
    EXPECT_TRUE(reader.Next(&position));
    EXPECT_FALSE(reader.Next(&position));
    EXPECT_FALSE(reader.Next(&position));
  }
}

TEST(ElementReaderTest, GivesTheFramesOfTheElements) {
  const struct {
    const char* name;
    std::string frame;
    char type;
    int64_t count;
    Views elements;
  } cases[] = {
      {"array", "*3\r\n$1\r\na\r\n:1\r\n+OK\r\n", '*', 3, {"$1\r\na\r\n", ":1\r\n", "+OK\r\n"}},
      {"nested", "*2\r\n*2\r\n:1\r\n*0\r\n*-1\r\n", '*', 2, {"*2\r\n:1\r\n*0\r\n", "*-1\r\n"}},
      {"map", "%1\r\n+k\r\n~1\r\n:1\r\n", '%', 2, {"+k\r\n", "~1\r\n:1\r\n"}},
      {"set", "~1\r\n#t\r\n", '~', 1, {"#t\r\n"}},
      {"push", ">1\r\n_\r\n", '>', 1, {"_\r\n"}},
      {"empty array", "*0\r\n", '*', 0, {}},
      {"null array", "*-1\r\n", '*', -1, {}},
      {"attribute of an element",
       "*1\r\n|1\r\n+a\r\n:1\r\n:2\r\n",
       '*',
       1,
       {"|1\r\n+a\r\n:1\r\n:2\r\n"}},
      {"attribute of the array", "|1\r\n+a\r\n*1\r\n:1\r\n*1\r\n:2\r\n", '*', 1, {":2\r\n"}},
      {"two attributes of the array", "|0\r\n|1\r\n+a\r\n:1\r\n*1\r\n:2\r\n", '*', 1, {":2\r\n"}},
      {"bulk", "$1\r\na\r\n", '$', -1, {}},
      {"error", "-ERR\r\n", '-', -1, {}},
      {"attribute of an integer", "|1\r\n+a\r\n:1\r\n:2\r\n", ':', -1, {}},
      {"nothing", "", 0, -1, {}},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    EXPECT_EQ(ElementsOf(c.frame), c.elements);
    ForEachThreePieces(c.frame, [&](const Views& pieces) {
      ElementReader reader(pieces);
      EXPECT_EQ(reader.type(), c.type);
      EXPECT_EQ(reader.count(), c.count);
      ArgPosition position;
      for (const absl::string_view element : c.elements) {
        std::string scratch;
        ASSERT_TRUE(reader.Next(&position));
        EXPECT_EQ(ViewAt(pieces, position, &scratch), element);
      }
      EXPECT_FALSE(reader.Next(&position));
    });
  }
}

TEST(ParseDecimalTest, TakesWhatFitsAndNothingElse) {
  const struct {
    const char* text;
    bool good;
    int64_t value;
  } cases[] = {
      {"0", true, 0},
      {"7", true, 7},
      {"-7", true, -7},
      {"1234567890", true, 1234567890},
      {"9223372036854775807", true, INT64_MAX},
      {"-9223372036854775808", true, INT64_MIN},
      {"9223372036854775808", false, 0},
      {"-9223372036854775809", false, 0},
      {"18446744073709551616", false, 0},
      {"99999999999999999999999999999999999999999", false, 0},
      {"", false, 0},
      {"-", false, 0},
      {"--1", false, 0},
      {"1-", false, 0},
      {"+1", false, 0},
      {" 1", false, 0},
      {"1 ", false, 0},
      {"01", false, 0},
      {"-0", false, 0},
      {"-01", false, 0},
      {"1x", false, 0},
      {"0x1", false, 0},
      {"1\r\n", false, 0},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.text);
    int64_t value = 0;
    EXPECT_EQ(ParseDecimal(c.text, &value), c.good);
    if (c.good) {
      EXPECT_EQ(value, c.value);
    }
  }
}

TEST(ParseIntegerTest, TakesIntegerRepliesOnly) {
  int64_t value = 0;
  EXPECT_TRUE(ParseInteger(":42\r\n", &value));
  EXPECT_EQ(value, 42);
  EXPECT_TRUE(ParseInteger(":+42\r\n", &value));
  EXPECT_EQ(value, 42);
  EXPECT_TRUE(ParseInteger(":-9223372036854775808\r\n", &value));
  EXPECT_EQ(value, INT64_MIN);
  for (const char* frame : {"", ":", ":\r\n", ":-\r\n", ":+\r\n", ":+-1\r\n", ":1", ":1\r", ":1\n",
                            "+1\r\n", "$1\r\n1\r\n", ":9223372036854775808\r\n", ":1 \r\n"}) {
    SCOPED_TRACE(frame);
    EXPECT_FALSE(ParseInteger(frame, &value));
  }
}

TEST(ParseTextTest, TakesStringsOfEveryKind) {
  const struct {
    const char* frame;
    const char* text;
  } cases[] = {
      {"+OK\r\n", "OK"},
      {"+\r\n", ""},
      {"$4\r\ntext\r\n", "text"},
      {"$0\r\n\r\n", ""},
      {"$4\r\na\r\nb\r\n", "a\r\nb"},
      {"=8\r\ntxt:text\r\n", "text"},
      {"=4\r\nmkd:\r\n", ""},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.frame);
    absl::string_view text = "old";
    EXPECT_TRUE(ParseText(c.frame, &text));
    EXPECT_EQ(text, c.text);
  }
  for (const char* frame : {"", "+", "+\n", "$-1\r\n", "_\r\n", ":1\r\n", "-ERR\r\n", "*0\r\n",
                            "$3\r\nab\r\n", "$1\r\nab\r\n", "$2\rxab\r\n", "$\r\n\r\n",
                            "=3\r\ntxt\r\n", "$4\r\n", "$0\r\n", "$3\r\r\n"}) {
    SCOPED_TRACE(frame);
    absl::string_view text = "old";
    EXPECT_FALSE(ParseText(frame, &text));
  }
}

}  // namespace
}  // namespace resp
