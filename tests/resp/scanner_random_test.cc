// Both scanners against the reference on streams that nobody wrote by hand. A failure prints the
// seed of its stream; SCAN_SEED=<seed> runs that one alone.

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "resp/encoder.h"
#include "tests/resp/scan_checks.h"

namespace resp {
namespace {

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  // 0 <= result < n
  size_t Below(size_t n) { return static_cast<size_t>(engine_() % n); }
  bool OneIn(size_t n) { return Below(n) == 0; }
  template <size_t kSize>
  std::string Pick(const char* const (&texts)[kSize]) {
    return texts[Below(kSize)];
  }

 private:
  std::mt19937_64 engine_;
};

// Mostly short, with a tail; often around the places where a length gets another digit.
size_t Length(Random* random) {
  switch (random->Below(8)) {
    case 0:
      return 0;
    case 1:
      return 8 + random->Below(4);
    case 2:
      return 97 + random->Below(6);
    case 3:
      return random->OneIn(8) ? 997 + random->Below(6) : random->Below(300);
    default:
      return random->Below(20);
  }
}

std::string RandomBytes(Random* random) {
  std::string bytes(Length(random), '\0');
  for (char& c : bytes) {
    c = random->OneIn(4) ? "\r\n$*:+-0"[random->Below(8)] : static_cast<char>(random->Below(256));
  }
  return bytes;
}

std::string RandomRequest(Random* random) {
  if (random->OneIn(8)) {
    return random->Pick({"PING\r\n", "\r\n", "\n", " \t\r\n", "get a\n", "*0\r\n", "*-1\r\n",
                         "set \"a\" 'b'\r\n", "*-9223372036854775808\r\n"});
  }
  std::vector<std::string> args(1 + random->Below(random->OneIn(10) ? 130 : 5));
  for (std::string& arg : args) arg = RandomBytes(random);
  const std::vector<absl::string_view> views(args.begin(), args.end());
  std::string out;
  AppendCommand(views, &out);
  return out;
}

void AppendBulk(char type, absl::string_view bytes, std::string* out) {
  absl::StrAppend(out, absl::string_view(&type, 1), bytes.size(), "\r\n", bytes, "\r\n");
}

void AppendReply(Random* random, int depth, std::string* out) {
  switch (random->Below(depth > 0 ? 12 : 7)) {
    case 0:
      AppendBulk('$', RandomBytes(random), out);
      return;
    case 1:
      *out += random->Pick({"+OK\r\n", "+\r\n", "+PONG\r\n", "-ERR x\r\n", "-\r\n"});
      return;
    case 2:
      *out += random->Pick({":0\r\n", ":1\r\n", ":-1\r\n", ":+7\r\n", ":123456\r\n", ":1234567\r\n",
                            ":9223372036854775807\r\n"});
      return;
    case 3:
      *out += random->Pick({"$-1\r\n", "*-1\r\n", "_\r\n", "#t\r\n", "#f\r\n"});
      return;
    case 4:
      *out += random->Pick({",1.5\r\n", ",inf\r\n", ",nan\r\n", "(123\r\n", "(-1\r\n"});
      return;
    case 5:
      AppendBulk('!', RandomBytes(random), out);
      return;
    case 6:
      AppendBulk('=', "txt:" + RandomBytes(random), out);
      return;
    default:
      break;
  }
  const size_t count = random->Below(random->OneIn(10) ? 120 : 4);
  const char type = "*%~>|"[random->Below(5)];
  size_t values = type == '%' || type == '|' ? 2 * count : count;
  if (type == '|') ++values;
  absl::StrAppend(out, absl::string_view(&type, 1), count, "\r\n");
  for (size_t i = 0; i < values; ++i) AppendReply(random, depth - 1, out);
}

// Changes, removes, inserts or repeats some bytes.
void Mutate(Random* random, std::string* stream) {
  static constexpr const char* kTokens[] = {"\r",     "\n", "\r\n", "$",           "*",
                                            "-",      "0",  "1",    "9",           "$-1\r\n",
                                            "*1\r\n", "?",  " ",    "999999999999"};
  for (size_t times = 1 + random->Below(3); times > 0 && !stream->empty(); --times) {
    const size_t at = random->Below(stream->size());
    switch (random->Below(5)) {
      case 0:
        (*stream)[at] = static_cast<char>(random->Below(256));
        break;
      case 1:
        stream->erase(at, 1 + random->Below(3));
        break;
      case 2:
        stream->insert(at, random->Pick(kTokens));
        break;
      case 3:
        stream->insert(at, stream->substr(random->Below(stream->size()), random->Below(20)));
        break;
      default:
        stream->replace(at, 1, random->Pick(kTokens));
    }
  }
}

NextChunk RandomChunks(Random* random) {
  const size_t most = random->OneIn(3) ? 8 : random->OneIn(2) ? 200 : 20000;
  return [random, most] { return 1 + random->Below(most); };
}

// Calls run(seed) for each seed, or for that of the environment.
template <typename Run>
void ForSeeds(uint64_t count, const Run& run) {
  if (const char* only = std::getenv("SCAN_SEED")) {
    std::printf("SCAN_SEED=%s\n", only);
    run(std::strtoull(only, nullptr, 10));
    return;
  }
  std::printf("seeds 0 to %llu\n", static_cast<unsigned long long>(count - 1));
  for (uint64_t seed = 0; seed < count && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("SCAN_SEED=", seed));
    run(seed);
  }
}

RequestLimits RandomLimits(Random* random) {
  RequestLimits limits;
  if (random->OneIn(4)) limits.authenticated = false;
  if (random->OneIn(4)) limits.inline_bytes_max = 64;
  if (random->OneIn(4)) limits.args_max = 4;
  if (random->OneIn(4)) limits.bulk_bytes_max = 98;
  return limits;
}

TEST(ScannerRandomTest, MutatedRequestsAgreeAtEverySplit) {
  ForSeeds(300, [](uint64_t seed) {
    Random random(seed);
    const RequestLimits limits = RandomLimits(&random);
    std::string stream;
    while (stream.size() < 60) stream += RandomRequest(&random).substr(0, 300);
    Mutate(&random, &stream);
    ASSERT_EQ("", CheckRequests(stream, limits, Bytewise(), Depth::kEveryChunk));
    for (size_t i = 1; i <= stream.size(); ++i) {
      ASSERT_EQ("", CheckRequests(stream, limits, CutAt(i), Depth::kEveryChunk));
    }
  });
}

TEST(ScannerRandomTest, MutatedRepliesAgreeAtEverySplit) {
  ForSeeds(300, [](uint64_t seed) {
    Random random(seed);
    std::string stream;
    while (stream.size() < 60) {
      std::string frame;
      AppendReply(&random, 3, &frame);
      stream += frame.substr(0, 300);
    }
    Mutate(&random, &stream);
    ASSERT_EQ("", CheckReplies(stream, Bytewise(), Depth::kEveryChunk));
    for (size_t i = 1; i <= stream.size(); ++i) {
      ASSERT_EQ("", CheckReplies(stream, CutAt(i), Depth::kEveryChunk));
    }
  });
}

TEST(ScannerRandomTest, LongRequestStreamsAgreeInRandomChunks) {
  ForSeeds(20, [](uint64_t seed) {
    Random random(seed);
    std::string stream;
    while (stream.size() < 200000) stream += RandomRequest(&random);
    const RequestLimits limits;
    ASSERT_EQ("", CheckRequests(stream, limits, RandomChunks(&random), Depth::kFrames));
    Mutate(&random, &stream);
    ASSERT_EQ("", CheckRequests(stream, limits, RandomChunks(&random), Depth::kFrames));
  });
}

TEST(ScannerRandomTest, LongReplyStreamsAgreeInRandomChunks) {
  ForSeeds(20, [](uint64_t seed) {
    Random random(seed);
    std::string stream;
    while (stream.size() < 200000) AppendReply(&random, 3, &stream);
    ASSERT_EQ("", CheckReplies(stream, RandomChunks(&random), Depth::kFrames));
    Mutate(&random, &stream);
    ASSERT_EQ("", CheckReplies(stream, RandomChunks(&random), Depth::kFrames));
  });
}

}  // namespace
}  // namespace resp
