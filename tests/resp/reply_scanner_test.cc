#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "resp/scanner.h"
#include "tests/resp/scan_checks.h"

namespace resp {
namespace {

void ExpectEverySplitAgrees(absl::string_view stream) {
  EXPECT_EQ("", CheckReplies(stream, Bytewise(), Depth::kEveryChunk));
  for (size_t i = 1; i <= stream.size(); ++i) {
    EXPECT_EQ("", CheckReplies(stream, CutAt(i), Depth::kFrames)) << "cut at " << i;
  }
}

std::string Repeated(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

// Each input is one frame, from its first byte to its last.
TEST(ReplyScannerTest, KnowsEveryType) {
  const struct {
    const char* name;
    std::string frame;
  } cases[] = {
      {"simple", "+OK\r\n"},
      {"other simple", "+QUEUED\r\n"},
      {"empty simple", "+\r\n"},
      {"error", "-ERR unknown command\r\n"},
      {"error without a space", "-10001\r\n"},
      {"empty error", "-\r\n"},
      {"error of a blank", "- x\r\n"},
      {"integer", ":1\r\n"},
      {"larger integer", ":12345678\r\n"},
      {"negative integer", ":-1\r\n"},
      {"integer with a plus", ":+1\r\n"},
      {"largest integer", ":9223372036854775807\r\n"},
      {"least integer", ":-9223372036854775808\r\n"},
      {"bulk", "$3\r\nabc\r\n"},
      {"empty bulk", "$0\r\n\r\n"},
      {"bulk with line ends", "$8\r\n\r\n\r\n$1\r\n\r\n"},
      {"bulk of 10", "$10\r\n0123456789\r\n"},
      {"bulk of 1000", absl::StrCat("$1000\r\n", std::string(1000, 'x'), "\r\n")},
      {"bulk of 1234567", absl::StrCat("$1234567\r\n", std::string(1234567, 'x'), "\r\n")},
      {"null bulk", "$-1\r\n"},
      {"array", "*2\r\n$1\r\na\r\n:1\r\n"},
      {"empty array", "*0\r\n"},
      {"null array", "*-1\r\n"},
      {"nested arrays", "*3\r\n*1\r\n*0\r\n*2\r\n:1\r\n*-1\r\n$-1\r\n"},
      {"array of 12", "*12\r\n" + Repeated("+OK\r\n", 12)},
      {"map", "%2\r\n+a\r\n:1\r\n+b\r\n%1\r\n+c\r\n:2\r\n"},
      {"empty map", "%0\r\n"},
      {"set", "~2\r\n+a\r\n+b\r\n"},
      {"push", ">2\r\n+invalidate\r\n*1\r\n$1\r\na\r\n"},
      {"null", "_\r\n"},
      {"true", "#t\r\n"},
      {"false", "#f\r\n"},
      {"double", ",1.5\r\n"},
      {"double with an exponent", ",-1.5e-10\r\n"},
      {"infinity", ",inf\r\n"},
      {"minus infinity", ",-inf\r\n"},
      {"no number", ",nan\r\n"},
      {"big number", "(3492890328409238509324850943850943825024385\r\n"},
      {"negative big number", "(-12\r\n"},
      {"bulk error", "!21\r\nSYNTAX invalid syntax\r\n"},
      {"verbatim", "=8\r\ntxt:text\r\n"},
      {"empty verbatim", "=4\r\ntxt:\r\n"},
      {"attribute", "|1\r\n+ttl\r\n:3600\r\n$1\r\na\r\n"},
      {"empty attribute", "|0\r\n:1\r\n"},
      {"two attributes", "|1\r\n+a\r\n:1\r\n|1\r\n+b\r\n:2\r\n+OK\r\n"},
      {"attributes inside", "*2\r\n|1\r\n+a\r\n|1\r\n+b\r\n:1\r\n*1\r\n:2\r\n:3\r\n:4\r\n"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    ReplyScanner scanner;
    const ScanResult result = scanner.Scan(c.frame + "+next\r\n");
    EXPECT_EQ(result.status, ScanStatus::kComplete);
    EXPECT_EQ(result.consumed, c.frame.size());
    EXPECT_EQ(scanner.frame_bytes(), c.frame.size());
    EXPECT_EQ(scanner.type(), c.frame[0]);
    EXPECT_TRUE(scanner.idle());
    EXPECT_EQ(scanner.bytes_missing(), 0u);
    EXPECT_EQ(scanner.values_missing(), 0u);
    if (c.frame.size() < 2000) ExpectEverySplitAgrees(c.frame + "+next\r\n");
  }
}

// The error comes with the last byte of the input and not before.
TEST(ReplyScannerTest, RefusesWhatIsNotAReply) {
  const struct {
    const char* name;
    std::string input;
  } cases[] = {
      {"unknown type", "@"},
      {"end of line as type", "\r"},
      {"NUL as type", std::string(1, '\0')},
      {"request inline", "G"},
      {"streamed bulk", "$?"},
      {"streamed array", "*?"},
      {"streamed map", "%?"},
      {"end of a stream", "."},
      {"negative bulk", "$-2\r\n"},
      {"negative array", "*-2\r\n"},
      {"null map", "%-1\r\n"},
      {"null set", "~-1\r\n"},
      {"null push", ">-1\r\n"},
      {"null attribute", "|-1\r\n"},
      {"null bulk error", "!-1\r\n"},
      {"null verbatim", "=-1\r\n"},
      {"bulk over 512 MiB", "$536870913\r\n"},
      {"bulk error over 512 MiB", "!536870913\r\n"},
      {"count of 2^32", "*4294967296\r\n"},
      {"map count of 2^32", "%4294967296\r\n"},
      {"count of 2^63", "*9223372036854775808\r\n"},
      {"count of 2^64 + 1", "*18446744073709551617\r\n"},
      {"too many digits", "$111111111111111111111"},
      {"length with a leading zero", "$01"},
      {"length with a plus", "$+"},
      {"length with a blank", "$ "},
      {"length with a letter", "$1a"},
      {"no length", "$\r\n"},
      {"no count", "*\r\n"},
      {"verbatim without a format", "=3\r\n"},
      {"integer over int64", ":9223372036854775808\r\n"},
      {"integer under int64", ":-9223372036854775809\r\n"},
      {"integer with a letter", ":1x"},
      {"integer with two signs", ":+-"},
      {"empty integer", ":\r\n"},
      {"only a sign", ":-\r\n"},
      {"empty big number", "(\r\n"},
      {"big number with a letter", "(123a"},
      {"null with text", "_x"},
      {"bad boolean", "#x"},
      {"long boolean", "#tt"},
      {"empty boolean", "#\r\n"},
      {"empty double", ",\r\n"},
      {"double with a blank", ",1 "},
      {"simple with LF only", "+OK\n"},
      {"simple with CR only", "+OK\rx"},
      {"OK with CR twice", "+OK\r\r"},
      {"header with LF only", "$3\n"},
      {"header with CR only", "$3\rx"},
      {"body without CR", "$3\r\nabcd"},
      {"body without LF", "$3\r\nabc\rx"},
      {"empty body without CR", "$0\r\nx"},
      {"bad element", "*2\r\n:1\r\nx"},
      {"bad element of an element", "*1\r\n*2\r\n$1\r\na\r\n$x"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    ExpectEverySplitAgrees(c.input + "\r\n+next\r\n");
    ReplyScanner scanner;
    if (c.input.size() > 1) {
      EXPECT_EQ(scanner.Scan(c.input.substr(0, c.input.size() - 1)).status, ScanStatus::kNeedMore);
    }
    EXPECT_EQ(scanner.Scan(c.input.substr(c.input.size() - 1)).status, ScanStatus::kError);
    EXPECT_FALSE(scanner.error().empty());
    EXPECT_EQ(scanner.Scan("+OK\r\n").status, ScanStatus::kError);
    EXPECT_EQ(scanner.Scan("+OK\r\n").consumed, 0u);
  }
}

// Headers are read in several ways, by their number of digits and by what follows them: each byte
// of a pipeline is replaced by each other byte.
TEST(ReplyScannerTest, AnyWrongByteIsFound) {
  const auto bulk = [](size_t bytes) {
    return absl::StrCat("$", bytes, "\r\n", std::string(bytes, 'x'), "\r\n");
  };
  for (const std::string& frame :
       {bulk(3), bulk(12), bulk(123), bulk(1234), bulk(12345),
        absl::StrCat("*4\r\n", bulk(5), ":1\r\n:123456\r\n$-1\r\n"), std::string("+OK\r\n"),
        std::string("-ERR a\r\n"), absl::StrCat("*12\r\n", Repeated(":-12\r\n", 12)),
        std::string("%1\r\n#t\r\n,1.5\r\n"), std::string("|1\r\n_\r\n(12\r\n=5\r\ntxt:x\r\n")}) {
    std::string stream = frame + "+PONG\r\n+PONG\r\n+PONG\r\n";
    for (size_t i = 0; i < frame.size(); ++i) {
      if (stream[i] == 'x') continue;
      const char original = stream[i];
      for (int c = 0; c < 256; ++c) {
        stream[i] = static_cast<char>(c);
        ASSERT_EQ("", CheckReplies(stream, WholeInput(), Depth::kFrames));
      }
      stream[i] = original;
    }
  }
}

TEST(ReplyScannerTest, ALeadingZeroIsRefusedAtAnyLength) {
  for (const size_t bytes : {1, 12, 123, 1234, 12345}) {
    ReplyScanner scanner;
    EXPECT_EQ(
        scanner.Scan(absl::StrCat("$0", bytes, "\r\n", std::string(bytes, 'x'), "\r\n")).status,
        ScanStatus::kError);
    ReplyScanner counts;
    EXPECT_EQ(counts.Scan(absl::StrCat("*0", bytes, "\r\n", Repeated(":1\r\n", 12345))).status,
              ScanStatus::kError);
  }
}

TEST(ReplyScannerTest, TakesTheLargestCountsAndLengths) {
  ReplyScanner scanner;
  EXPECT_EQ(scanner.Scan("%4294967295\r\n").status, ScanStatus::kNeedMore);
  EXPECT_EQ(scanner.values_missing(), uint64_t{4294967295} * 2);
  EXPECT_EQ(scanner.Scan("*4294967295\r\n").status, ScanStatus::kNeedMore);
  EXPECT_EQ(scanner.values_missing(), uint64_t{4294967295} * 3 - 1);
  EXPECT_EQ(scanner.Scan("$536870912\r\nab").status, ScanStatus::kNeedMore);
  EXPECT_EQ(scanner.bytes_missing(), (uint64_t{512} << 20) + 2 - 2);
  EXPECT_EQ(scanner.values_missing(), uint64_t{4294967295} * 3 - 2);
}

TEST(ReplyScannerTest, SaysWhatIsMissing) {
  ReplyScanner scanner;
  scanner.Scan("*2\r\n");
  EXPECT_EQ(scanner.values_missing(), 2u);
  EXPECT_EQ(scanner.bytes_missing(), 0u);
  scanner.Scan("$100000\r\n");
  EXPECT_EQ(scanner.values_missing(), 1u);
  EXPECT_EQ(scanner.bytes_missing(), 100002u);
  scanner.Scan(std::string(100000, 'x'));
  EXPECT_EQ(scanner.bytes_missing(), 2u);
  scanner.Scan("\r\n");
  EXPECT_EQ(scanner.bytes_missing(), 0u);
  EXPECT_EQ(scanner.values_missing(), 1u);
  EXPECT_EQ(scanner.Scan(":1\r\n").status, ScanStatus::kComplete);
  EXPECT_EQ(scanner.values_missing(), 0u);
}

TEST(ReplyScannerTest, LinesHaveALimit) {
  for (const char type : {'+', '-', ',', '('}) {
    SCOPED_TRACE(type);
    const std::string fits =
        absl::StrCat(std::string(1, type), std::string(ReplyScanner::kLineBytesMax, '1'));
    ReplyScanner scanner;
    EXPECT_EQ(scanner.Scan(fits + "\r\n").status, ScanStatus::kComplete);
    EXPECT_EQ(scanner.Scan(fits + "1\r\n").status, ScanStatus::kError);
    ReplyScanner pieces;
    for (size_t i = 0; i < fits.size(); i += 1000) {
      ASSERT_EQ(pieces.Scan(fits.substr(i, 1000)).status, ScanStatus::kNeedMore);
    }
    EXPECT_EQ(pieces.Scan("1").status, ScanStatus::kError);
  }
}

// redis-server 7.0 emits arrays 5,000 levels deep from a script.
TEST(ReplyScannerTest, NestingHasNoLimitAndNoCost) {
  const int kDepth = 1000000;
  const std::string frame = Repeated("*1\r\n", kDepth) + ":1\r\n";
  ReplyScanner scanner;
  EXPECT_EQ(scanner.Scan(frame).consumed, frame.size());
  EXPECT_TRUE(scanner.idle());
  const std::string wide = Repeated("*2\r\n:1\r\n", kDepth) + ":1\r\n";
  EXPECT_EQ(scanner.Scan(wide).consumed, wide.size());
  EXPECT_TRUE(scanner.idle());
  ExpectEverySplitAgrees(Repeated("*2\r\n*0\r\n", 50) + ":1\r\n");
  EXPECT_LE(sizeof(ReplyScanner), 64u);
}

}  // namespace
}  // namespace resp
