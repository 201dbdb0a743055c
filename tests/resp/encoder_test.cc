#include "resp/encoder.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace resp {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::string Encoded(Protocol protocol, const std::function<void(Encoder&)>& write) {
  std::string out;
  Encoder encoder(protocol, &out);
  EXPECT_EQ(encoder.protocol(), protocol);
  write(encoder);
  return out;
}

TEST(EncoderTest, WritesEachTypeInBothProtocols) {
  const struct {
    const char* name;
    std::function<void(Encoder&)> write;
    std::string resp2;
    std::string resp3;
  } cases[] = {
      {"simple", [](Encoder& e) { e.Simple("OK"); }, "+OK\r\n", "+OK\r\n"},
      {"simple of two lines", [](Encoder& e) { e.Simple("a\r\nb"); }, "+a  b\r\n", "+a  b\r\n"},
      {"error", [](Encoder& e) { e.Error("ERR no"); }, "-ERR no\r\n", "-ERR no\r\n"},
      {"error of two lines", [](Encoder& e) { e.Error("ERR a\rb\nc"); }, "-ERR a b c\r\n",
       "-ERR a b c\r\n"},
      {"integer", [](Encoder& e) { e.Integer(-42); }, ":-42\r\n", ":-42\r\n"},
      {"least integer", [](Encoder& e) { e.Integer(INT64_MIN); }, ":-9223372036854775808\r\n",
       ":-9223372036854775808\r\n"},
      {"bulk", [](Encoder& e) { e.Bulk("a\r\nb"); }, "$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"},
      {"empty bulk", [](Encoder& e) { e.Bulk(""); }, "$0\r\n\r\n", "$0\r\n\r\n"},
      {"null", [](Encoder& e) { e.Null(); }, "$-1\r\n", "_\r\n"},
      {"null array", [](Encoder& e) { e.NullArray(); }, "*-1\r\n", "_\r\n"},
      {"true", [](Encoder& e) { e.Bool(true); }, ":1\r\n", "#t\r\n"},
      {"false", [](Encoder& e) { e.Bool(false); }, ":0\r\n", "#f\r\n"},
      {"double", [](Encoder& e) { e.Double(1.5); }, "$3\r\n1.5\r\n", ",1.5\r\n"},
      {"whole double", [](Encoder& e) { e.Double(3); }, "$1\r\n3\r\n", ",3\r\n"},
      {"shortest digits", [](Encoder& e) { e.Double(0.1); }, "$3\r\n0.1\r\n", ",0.1\r\n"},
      {"infinity", [](Encoder& e) { e.Double(kInfinity); }, "$3\r\ninf\r\n", ",inf\r\n"},
      {"minus infinity", [](Encoder& e) { e.Double(-kInfinity); }, "$4\r\n-inf\r\n", ",-inf\r\n"},
      {"no number", [](Encoder& e) { e.Double(kNan); }, "$3\r\nnan\r\n", ",nan\r\n"},
      {"no number, negative", [](Encoder& e) { e.Double(-kNan); }, "$3\r\nnan\r\n", ",nan\r\n"},
      {"longest double", [](Encoder& e) { e.Double(-2.2250738585072014e-308); },
       "$24\r\n-2.2250738585072014e-308\r\n", ",-2.2250738585072014e-308\r\n"},
      {"verbatim", [](Encoder& e) { e.Verbatim("txt", "a b"); }, "$3\r\na b\r\n",
       "=7\r\ntxt:a b\r\n"},
      {"array", [](Encoder& e) { e.Array(2); }, "*2\r\n", "*2\r\n"},
      {"map", [](Encoder& e) { e.Map(2); }, "*4\r\n", "%2\r\n"},
      {"set", [](Encoder& e) { e.Set(2); }, "*2\r\n", "~2\r\n"},
      {"push", [](Encoder& e) { e.Push(2); }, "*2\r\n", ">2\r\n"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    EXPECT_EQ(Encoded(Protocol::kResp2, c.write), c.resp2);
    EXPECT_EQ(Encoded(Protocol::kResp3, c.write), c.resp3);
  }
}

TEST(EncoderTest, AppendsToWhatIsThere) {
  std::string out = "+OK\r\n";
  Encoder encoder(Protocol::kResp2, &out);
  encoder.Array(2);
  encoder.Bulk("a");
  encoder.Integer(1);
  EXPECT_EQ(out, "+OK\r\n*2\r\n$1\r\na\r\n:1\r\n");
}

TEST(EncoderTest, ACommandIsAnArrayOfBulks) {
  std::string out;
  AppendCommand({"SET", "key", ""}, &out);
  EXPECT_EQ(out, "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$0\r\n\r\n");
  const std::vector<absl::string_view> args = {"GET", "a\r\nb"};
  AppendCommand(args, &out);
  EXPECT_EQ(out, "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$0\r\n\r\n*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n");
}

TEST(EncoderTest, AHeaderTakesAtMost24Bytes) {
  for (const int64_t n : {int64_t{0}, int64_t{9}, int64_t{10}, INT64_MAX, INT64_MIN}) {
    char out[25] = {};
    const size_t size = WriteHeader('$', n, out);
    EXPECT_LE(size, 24u);
    EXPECT_EQ(std::string(out, size), "$" + std::to_string(n) + "\r\n");
    EXPECT_EQ(out[24], '\0');
  }
}

}  // namespace
}  // namespace resp
