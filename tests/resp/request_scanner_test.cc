#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "resp/encoder.h"
#include "resp/scanner.h"
#include "tests/resp/scan_checks.h"

namespace resp {
namespace {

// With NUL bytes and all.
template <size_t kSize>
std::string Bytes(const char (&literal)[kSize]) {
  return std::string(literal, kSize - 1);
}

std::string Command(const std::vector<std::string>& args) {
  const std::vector<absl::string_view> views(args.begin(), args.end());
  std::string out;
  AppendCommand(views, &out);
  return out;
}

// Every split, by the reference too.
void ExpectEverySplitAgrees(absl::string_view stream, const RequestLimits& limits = {}) {
  EXPECT_EQ("", CheckRequests(stream, limits, Bytewise(), Depth::kEveryChunk));
  for (size_t i = 1; i <= stream.size(); ++i) {
    EXPECT_EQ("", CheckRequests(stream, limits, CutAt(i), Depth::kFrames)) << "cut at " << i;
  }
}

struct Refusal {
  const char* name;
  std::string input;
  std::string error;
  RequestLimits limits = {};
};

// Scans the input in one piece and byte by byte; the error must come, and be this one.
void ExpectRefused(const Refusal& refusal) {
  SCOPED_TRACE(refusal.name);
  RequestScanner whole;
  absl::string_view rest = refusal.input;
  ScanResult result{};
  do {
    result = whole.Scan(rest, refusal.limits);
    rest.remove_prefix(result.consumed);
  } while (result.status == ScanStatus::kComplete && !rest.empty());
  EXPECT_EQ(result.status, ScanStatus::kError);
  EXPECT_EQ(whole.error(), refusal.error);
  EXPECT_FALSE(whole.idle());

  RequestScanner bytewise;
  for (const char& c : refusal.input) {
    result = bytewise.Scan(absl::string_view(&c, 1), refusal.limits);
    if (result.status == ScanStatus::kError) break;
  }
  EXPECT_EQ(result.status, ScanStatus::kError);
  EXPECT_EQ(bytewise.error(), refusal.error);
  // Nothing is taken after that.
  EXPECT_EQ(bytewise.Scan("*1\r\n", refusal.limits).status, ScanStatus::kError);
  EXPECT_EQ(bytewise.Scan("*1\r\n", refusal.limits).consumed, 0u);
}

TEST(RequestScannerTest, FindsTheEndOfACommandAndItsArguments) {
  const std::string command = Command({"SET", "key", "a longer value"});
  RequestScanner scanner;
  EXPECT_TRUE(scanner.idle());
  const ScanResult result = scanner.Scan(command + "*1\r\n", RequestLimits());
  EXPECT_EQ(result.status, ScanStatus::kComplete);
  EXPECT_EQ(result.consumed, command.size());
  EXPECT_TRUE(scanner.idle());
  EXPECT_EQ(scanner.frame_bytes(), command.size());
  EXPECT_FALSE(scanner.is_inline());
  ASSERT_EQ(scanner.arg_count(), 3);
  EXPECT_EQ(command.substr(scanner.arg(0).offset, scanner.arg(0).length), "SET");
  EXPECT_EQ(command.substr(scanner.arg(1).offset, scanner.arg(1).length), "key");
  EXPECT_EQ(command.substr(scanner.arg(2).offset, scanner.arg(2).length), "a longer value");
}

TEST(RequestScannerTest, WantsMoreUntilTheLastByte) {
  const std::string command = Command({"GET", "key"});
  for (size_t size = 1; size < command.size(); ++size) {
    RequestScanner scanner;
    const ScanResult result = scanner.Scan(command.substr(0, size), RequestLimits());
    EXPECT_EQ(result.status, ScanStatus::kNeedMore);
    EXPECT_EQ(result.consumed, size);
    EXPECT_EQ(scanner.frame_bytes(), size);
    EXPECT_FALSE(scanner.idle());
  }
}

TEST(RequestScannerTest, AnyByteOfTheFirstTwoHeadersMayBeAnother) {
  const std::string good = Command({"GET", "key"}) + Command({"PING"});
  for (size_t i = 0; i < 8; ++i) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string stream = good;
      stream[i] = static_cast<char>(byte);
      SCOPED_TRACE(absl::StrCat("byte ", i, " is ", byte));
      EXPECT_EQ(CheckRequests(stream, RequestLimits(), WholeInput(), Depth::kEveryChunk), "");
    }
  }
}

TEST(RequestScannerTest, EmptyInputChangesNothing) {
  RequestScanner scanner;
  EXPECT_EQ(scanner.Scan("", RequestLimits()).status, ScanStatus::kNeedMore);
  EXPECT_TRUE(scanner.idle());
  scanner.Scan("*1\r\n$4\r\nPI", RequestLimits());
  EXPECT_EQ(scanner.Scan("", RequestLimits()).status, ScanStatus::kNeedMore);
  EXPECT_EQ(scanner.frame_bytes(), 10u);
  EXPECT_EQ(scanner.Scan("NG\r\n", RequestLimits()).status, ScanStatus::kComplete);
  EXPECT_EQ(scanner.Scan("", RequestLimits()).status, ScanStatus::kNeedMore);
  EXPECT_EQ(scanner.arg_count(), 1);
}

TEST(RequestScannerTest, EverySplitGivesTheSameFrames) {
  std::string all_bytes;
  for (int i = 0; i < 256; ++i) all_bytes.push_back(static_cast<char>(i));
  const struct {
    const char* name;
    std::string stream;
  } cases[] = {
      {"one command", Command({"PING"})},
      {"pipeline", Command({"GET", "a"}) + Command({"SET", "b", "c"}) + Command({"DEL", "d"})},
      {"empty arguments", Command({"", "", "", ""})},
      {"CRLF and headers in an argument", Command({"SET", "\r\n", "*1\r\n$1\r\nx\r\n"})},
      {"binary", Command({"SET", all_bytes})},
      {"lengths of one to four digits",
       Command({std::string(9, 'a'), std::string(10, 'b'), std::string(99, 'c'),
                std::string(100, 'd'), std::string(999, 'e'), std::string(1000, 'f')})},
      {"two digits first", Command({"ZRANGEBYSCORE", "key"})},
      {"many arguments", Command(std::vector<std::string>(123, "x"))},
      {"ignored frames", "*0\r\n*-1\r\n\r\n\n  \t\r\n" + Command({"PING"})},
      {"inline between arrays", "PING\r\n" + Command({"PING"}) + "get a\n" + Command({"PING"})},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    ExpectEverySplitAgrees(c.stream);
  }
}

TEST(RequestScannerTest, FramesToIgnoreHaveNoArguments) {
  for (const std::string input : {"*0\r\n", "*-1\r\n", "*-7\r\n", "*-9223372036854775808\r\n",
                                  "\r\n", "\n", " \t\v\f\r\n", "\r\r\n"}) {
    SCOPED_TRACE(input);
    RequestScanner scanner;
    ASSERT_EQ(scanner.Scan(Command({"GET", "a"}), RequestLimits()).status, ScanStatus::kComplete);
    const ScanResult result = scanner.Scan(input + "GET", RequestLimits());
    EXPECT_EQ(result.status, ScanStatus::kComplete);
    EXPECT_EQ(result.consumed, input.size());
    EXPECT_EQ(scanner.arg_count(), 0);
  }
}

TEST(RequestScannerTest, AnInlineCommandIsALine) {
  for (const std::string input : {"GET a\r\n", "GET a\n", "  x\n", "\"\r\n", "$3\r\n", "\xff\n"}) {
    SCOPED_TRACE(input);
    RequestScanner scanner;
    const ScanResult result = scanner.Scan(input + "\n", RequestLimits());
    EXPECT_EQ(result.status, ScanStatus::kComplete);
    EXPECT_EQ(result.consumed, input.size());
    EXPECT_TRUE(scanner.is_inline());
    EXPECT_EQ(scanner.arg_count(), 1);
    ExpectEverySplitAgrees(input);
  }
}

// Headers are read in several ways, by their number of digits and by what follows them: each byte
// of a pipeline is replaced by each other byte.
TEST(RequestScannerTest, AnyWrongByteIsFound) {
  const std::string padding = Command({"PING"});
  for (const size_t bytes : {3, 12, 123, 1234}) {
    const std::string command = Command({"SET", std::string(bytes, 'k'), "v"});
    const std::string many = Command(std::vector<std::string>(bytes % 100, "x"));
    for (const std::string& frame : {command, Command({std::string(bytes, 'k'), "v"}), many}) {
      std::string stream = frame + padding + padding;
      for (size_t i = 0; i < frame.size(); ++i) {
        if (stream[i] == 'k') continue;
        const char original = stream[i];
        for (int c = 0; c < 256; ++c) {
          stream[i] = static_cast<char>(c);
          ASSERT_EQ("", CheckRequests(stream, RequestLimits(), WholeInput(), Depth::kFrames));
        }
        stream[i] = original;
      }
    }
  }
}

TEST(RequestScannerTest, ALeadingZeroIsRefusedAtAnyLength) {
  for (const size_t bytes : {1, 12, 123, 1234, 12345}) {
    const std::string bulk = absl::StrCat("$0", bytes, "\r\n", std::string(bytes, 'x'), "\r\n");
    const std::string rest = Command({"PING"});
    ExpectRefused({"first", "*1\r\n" + bulk + rest, "Protocol error: invalid bulk length"});
    ExpectRefused(
        {"second", "*2\r\n$3\r\nGET\r\n" + bulk + rest, "Protocol error: invalid bulk length"});
    ExpectRefused({"count", absl::StrCat("*0", bytes, "\r\n", bulk, rest),
                   "Protocol error: invalid multibulk length"});
  }
}

// What redis-server 7.0.15 answered to these inputs; where it only waits for more (a header without
// its end, a NUL before one), what it answers in the end.
TEST(RequestScannerTest, RefusesInTheServersWords) {
  const Refusal refusals[] = {
      {"count over int",
       "*2147483648\r\n",
       "Protocol error: invalid multibulk length",
       {.args_max = INT32_MAX}},
      {"count over the limit", "*1048577\r\n", "Protocol error: invalid multibulk length"},
      {"count over int64", "*9223372036854775808\r\n", "Protocol error: invalid multibulk length"},
      {"count under int64", "*-9223372036854775809\r\n",
       "Protocol error: invalid multibulk length"},
      {"count with 2^64 digits' worth", "*18446744073709551617\r\n",
       "Protocol error: invalid multibulk length"},
      {"count with a leading zero", "*01\r\n", "Protocol error: invalid multibulk length"},
      {"count of minus zero", "*-0\r\n", "Protocol error: invalid multibulk length"},
      {"count with a plus", "*+1\r\n", "Protocol error: invalid multibulk length"},
      {"count with a blank", "* 1\r\n", "Protocol error: invalid multibulk length"},
      {"count with two minus", "*--1\r\n", "Protocol error: invalid multibulk length"},
      {"no count", "*\r\n", "Protocol error: invalid multibulk length"},
      {"only a minus", "*-\r\n", "Protocol error: invalid multibulk length"},
      {"LF only", "*1\n", "Protocol error: invalid multibulk length"},
      {"NUL as count", Bytes("*\0"), "Protocol error: invalid multibulk length"},
      {"negative bulk", "*1\r\n$-1\r\n", "Protocol error: invalid bulk length"},
      {"more negative bulk", "*1\r\n$-2\r\n", "Protocol error: invalid bulk length"},
      {"bulk over 512 MiB", "*1\r\n$536870913\r\n", "Protocol error: invalid bulk length"},
      {"bulk over int64", "*1\r\n$99999999999999999999\r\n", "Protocol error: invalid bulk length"},
      {"no length", "*1\r\n$\r\n", "Protocol error: invalid bulk length"},
      {"length with a leading zero", "*1\r\n$04\r\n", "Protocol error: invalid bulk length"},
      {"no number", "*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$blabla\r\n",
       "Protocol error: invalid bulk length"},
      {"second length bad", "*2\r\n$3\r\nGET\r\n$1x\r\n", "Protocol error: invalid bulk length"},
      {"second length with a leading zero", "*3\r\n$3\r\nGET\r\n$01\r\nx\r\n$1\r\na\r\n",
       "Protocol error: invalid bulk length"},
      {"not a bulk", "*1\r\n!3", "Protocol error: expected '$', got '!'"},
      {"text after a bulk", "*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n",
       "Protocol error: expected '$', got 'f'"},
      {"empty line instead of a bulk", "*1\r\n\r\n", "Protocol error: expected '$', got ' '"},
      {"LF instead of a bulk", "*1\r\n\n", "Protocol error: expected '$', got ' '"},
      {"NUL instead of a bulk", Bytes("*1\r\n\0"), "Protocol error: expected '$', got ' '"},
      {"high byte instead of a bulk", "*1\r\n\xff", "Protocol error: expected '$', got '\xff'"},
      {"NUL in a line", Bytes("PI\0NG\r\n"), "Protocol error: too big inline request"},
      {"NUL alone", Bytes("\0"), "Protocol error: too big inline request"},
      {"TLS hello", Bytes("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
       "Protocol error: too big inline request"},
  };
  for (const Refusal& refusal : refusals) ExpectRefused(refusal);
}

// redis-server 7.0 and valkey-server 8 skip two bytes after a body, and one after a header's CR,
// whatever they are; newer servers refuse them. Passed on, such a command would end a connection
// that others share.
TEST(RequestScannerTest, ALineEndIsCrlf) {
  const char kText[] = "Protocol error: invalid CRLF in request";
  const Refusal refusals[] = {
      {"last body", "*1\r\n$4\r\nPINGxx", kText},
      {"last body, second byte", "*1\r\n$4\r\nPING\rx", kText},
      {"first body", "*2\r\n$3\r\nGETx\n$1\r\na\r\n", kText},
      {"first body, second byte", "*2\r\n$3\r\nGET\r\r$1\r\na\r\n", kText},
      {"body longer than said", "*2\r\n$3\r\nGET1\r\n$1\r\na\r\n", kText},
      {"count", "*1\rX$4\r\nPING\r\n", kText},
      {"length", "*1\r\n$4\rXPING\r\n", kText},
      {"second length", "*2\r\n$3\r\nGET\r\n$1\rXa\r\n*1\r\n", kText},
  };
  for (const Refusal& refusal : refusals) ExpectRefused(refusal);
}

TEST(RequestScannerTest, BeforeAuthenticationLimitsAreLower) {
  const RequestLimits limits = {.authenticated = false};
  const Refusal refusals[] = {
      {"count", "*11\r\n", "Protocol error: unauthenticated multibulk length", limits},
      {"length", "*1\r\n$16385\r\n", "Protocol error: unauthenticated bulk length", limits},
      {"second length", "*2\r\n$3\r\nGET\r\n$16385\r\n",
       "Protocol error: unauthenticated bulk length", limits},
      {"count over both", "*2147483648\r\n", "Protocol error: invalid multibulk length", limits},
      {"length over both", "*1\r\n$536870913\r\n", "Protocol error: invalid bulk length", limits},
  };
  for (const Refusal& refusal : refusals) ExpectRefused(refusal);

  for (const std::string& allowed :
       {Command(std::vector<std::string>(10, "a")), Command({std::string(16384, 'x')}),
        Command({"AUTH", std::string(16384, 'x')}), std::string("*-11\r\n")}) {
    RequestScanner scanner;
    EXPECT_EQ(scanner.Scan(allowed, limits).status, ScanStatus::kComplete);
    EXPECT_EQ("", CheckRequests(allowed, limits, Bytewise(), Depth::kFrames));
  }
}

TEST(RequestScannerTest, LimitsAreExact) {
  RequestLimits limits = {.args_max = 3, .bulk_bytes_max = 5};
  EXPECT_EQ("", CheckRequests("*3\r\n$5\r\n12345\r\n$5\r\n12345\r\n$0\r\n\r\n", limits,
                              WholeInput(), Depth::kEveryChunk));
  ExpectRefused({"count", "*4\r\n$1\r\na\r\n", "Protocol error: invalid multibulk length", limits});
  ExpectRefused({"first", "*3\r\n$6\r\n123456\r\n", "Protocol error: invalid bulk length", limits});
  ExpectRefused({"second", "*3\r\n$5\r\n12345\r\n$6\r\n123456\r\n$1\r\na\r\n",
                 "Protocol error: invalid bulk length", limits});
  // The largest values that may be configured.
  limits = {.args_max = INT32_MAX, .bulk_bytes_max = INT64_MAX};
  RequestScanner scanner;
  EXPECT_EQ(scanner.Scan("*2147483647\r\n$9223372036854775807\r\nabc", limits).status,
            ScanStatus::kNeedMore);
  EXPECT_EQ(scanner.arg_count(), INT32_MAX);
  EXPECT_EQ(scanner.bytes_missing(), (uint64_t{1} << 63) - 1 + 2 - 3);
}

TEST(RequestScannerTest, LinesHaveALimit) {
  const RequestLimits limits = {.inline_bytes_max = 100};
  const std::string fits(100, 'x');
  EXPECT_EQ("", CheckRequests(fits + "\n" + fits + "\n", limits, WholeInput(), Depth::kFrames));
  ExpectEverySplitAgrees(fits + "\n", limits);
  ExpectEverySplitAgrees(fits + "x\n", limits);
  const std::string ones(99, '1');
  const Refusal refusals[] = {
      {"line", fits + "x", "Protocol error: too big inline request", limits},
      {"line with its end", fits + "x\n", "Protocol error: too big inline request", limits},
      {"line whose CR is over the limit", fits + "\r\n", "Protocol error: too big inline request",
       limits},
      {"count", "*" + ones + "1", "Protocol error: too big mbulk count string", limits},
      {"count that fits", "*" + ones + "\r\n", "Protocol error: invalid multibulk length", limits},
      {"length", "*1\r\n$" + ones + "1", "Protocol error: too big bulk count string", limits},
      {"length that fits", "*1\r\n$" + ones + "\r\n", "Protocol error: invalid bulk length",
       limits},
  };
  for (const Refusal& refusal : refusals) ExpectRefused(refusal);
  const std::string default_limit(65536, 'x');
  ExpectRefused({"default", default_limit + "x\r\n", "Protocol error: too big inline request"});
  RequestScanner scanner;
  EXPECT_EQ(scanner.Scan(default_limit + "\n", RequestLimits()).status, ScanStatus::kComplete);
}

TEST(RequestScannerTest, SaysHowManyBytesAreMissing) {
  RequestScanner scanner;
  const RequestLimits limits;
  scanner.Scan("*2\r\n$3\r\n", limits);
  EXPECT_EQ(scanner.bytes_missing(), 5u);
  scanner.Scan("SE", limits);
  EXPECT_EQ(scanner.bytes_missing(), 3u);
  scanner.Scan("T\r", limits);
  EXPECT_EQ(scanner.bytes_missing(), 1u);
  scanner.Scan("\n", limits);
  EXPECT_EQ(scanner.bytes_missing(), 0u);
  scanner.Scan("$536870912\r\nabc", limits);
  EXPECT_EQ(scanner.bytes_missing(), (uint64_t{512} << 20) + 2 - 3);
  EXPECT_EQ(scanner.arg(1).length, uint64_t{512} << 20);
}

TEST(RequestScannerTest, LimitsMayChangeBetweenFrames) {
  RequestScanner scanner;
  const std::string eleven = Command(std::vector<std::string>(11, "a"));
  EXPECT_EQ(scanner.Scan(Command({"AUTH", "x"}), {.authenticated = false}).status,
            ScanStatus::kComplete);
  EXPECT_EQ(scanner.Scan(eleven, {.authenticated = true}).status, ScanStatus::kComplete);
  EXPECT_EQ(scanner.Scan(eleven, {.authenticated = false}).status, ScanStatus::kError);
}

// The error's text lies in the scanner itself.
TEST(RequestScannerTest, ACopyHasItsOwnError) {
  RequestScanner copy;
  {
    RequestScanner scanner;
    scanner.Scan("*1\r\n?", RequestLimits());
    copy = scanner;
  }
  EXPECT_EQ(copy.error(), "Protocol error: expected '$', got '?'");
}

TEST(RequestScannerTest, IsSmall) { EXPECT_LT(sizeof(RequestScanner), 160u); }

}  // namespace
}  // namespace resp
