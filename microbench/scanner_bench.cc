// How fast the scanners go over pipelines that lie in one piece in the cache. Items are commands or
// replies; the time of one iteration is that of a whole pipeline.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "microbench/rates.h"
#include "resp/encoder.h"
#include "resp/scanner.h"

namespace {

constexpr size_t kPipelineBytes = 32 << 10;         // in the first-level cache
constexpr size_t kRandomPipelineBytes = 256 << 10;  // too many frames to learn by heart

struct Stream {
  std::string bytes;
  int64_t frames = 0;
};

// Repeats what `append` writes until the pipeline is long enough.
template <typename Append>
Stream Fill(size_t bytes, const Append& append) {
  Stream stream;
  while (stream.bytes.size() < bytes) {
    append(&stream.bytes);
    ++stream.frames;
  }
  return stream;
}

Stream Repeated(const std::string& frame) {
  return Fill(kPipelineBytes, [&frame](std::string* out) { out->append(frame); });
}

std::string Command(const std::vector<std::string>& args) {
  const std::vector<absl::string_view> views(args.begin(), args.end());
  std::string out;
  resp::AppendCommand(views, &out);
  return out;
}

std::string Bulk(size_t bytes) {
  std::string out;
  resp::Encoder(resp::Protocol::kResp2, &out).Bulk(std::string(bytes, 'v'));
  return out;
}

std::string ArrayOf(int count, const std::string& element) {
  std::string out = absl::StrCat("*", count, "\r\n");
  for (int i = 0; i < count; ++i) out += element;
  return out;
}

// GET and SET in equal parts, in random order, with keys of 4 to 43 bytes and values of 1 to 256.
Stream RandomCommands() {
  std::mt19937 random(7);
  const auto text = [&random](size_t least, size_t most) {
    return std::string(std::uniform_int_distribution<size_t>(least, most)(random), 'x');
  };
  return Fill(kRandomPipelineBytes, [&](std::string* out) {
    const std::string key = text(4, 43);
    *out += random() % 2 == 0 ? Command({"GET", key}) : Command({"SET", key, text(1, 256)});
  });
}

// +OK, integers, null and bulks of 0 to 256 bytes, in random order.
Stream RandomReplies() {
  std::mt19937 random(7);
  return Fill(kRandomPipelineBytes, [&random](std::string* out) {
    switch (random() % 4) {
      case 0:
        *out += "+OK\r\n";
        break;
      case 1:
        absl::StrAppend(out, ":", random() % 100000, "\r\n");
        break;
      case 2:
        *out += random() % 8 == 0 ? std::string("$-1\r\n") : Bulk(random() % 257);
        break;
      default:
        *out += ArrayOf(static_cast<int>(random() % 4), Bulk(random() % 33));
    }
  });
}

void ScanRequests(benchmark::State& state, const Stream& stream) {
  const resp::RequestLimits limits;
  microbench::Rates rates(&state);
  for (auto _ : state) {
    resp::RequestScanner scanner;
    absl::string_view rest = stream.bytes;
    uint64_t keys = 0;
    while (!rest.empty()) {
      const resp::ScanResult result = scanner.Scan(rest, limits);
      if (result.status != resp::ScanStatus::kComplete) return state.SkipWithError("not complete");
      keys += scanner.arg(1).offset + scanner.arg(1).length;
      rest.remove_prefix(result.consumed);
    }
    benchmark::DoNotOptimize(keys);
  }
  rates.Report(stream.frames, static_cast<int64_t>(stream.bytes.size()));
}

void ScanReplies(benchmark::State& state, const Stream& stream) {
  microbench::Rates rates(&state);
  for (auto _ : state) {
    resp::ReplyScanner scanner;
    absl::string_view rest = stream.bytes;
    uint64_t types = 0;
    while (!rest.empty()) {
      const resp::ScanResult result = scanner.Scan(rest);
      if (result.status != resp::ScanStatus::kComplete) return state.SkipWithError("not complete");
      types += static_cast<unsigned char>(scanner.type());
      rest.remove_prefix(result.consumed);
    }
    benchmark::DoNotOptimize(types);
  }
  rates.Report(stream.frames, static_cast<int64_t>(stream.bytes.size()));
}

const std::string kKey16(16, 'k');

void BM_ScanRequests(benchmark::State& state, const Stream& stream) { ScanRequests(state, stream); }
BENCHMARK_CAPTURE(BM_ScanRequests, GET_k16, Repeated(Command({"GET", kKey16})));
BENCHMARK_CAPTURE(BM_ScanRequests, SET_v64,
                  Repeated(Command({"SET", kKey16, std::string(64, 'v')})));
BENCHMARK_CAPTURE(BM_ScanRequests, SET_v4096,
                  Repeated(Command({"SET", kKey16, std::string(4096, 'v')})));
BENCHMARK_CAPTURE(BM_ScanRequests, MGET_100, Repeated([] {
                    std::vector<std::string> args(101, kKey16);
                    args[0] = "MGET";
                    return Command(args);
                  }()));
BENCHMARK_CAPTURE(BM_ScanRequests, random_mix, RandomCommands());

void BM_ScanReplies(benchmark::State& state, const Stream& stream) { ScanReplies(state, stream); }
BENCHMARK_CAPTURE(BM_ScanReplies, integer, Repeated(":1\r\n"));
BENCHMARK_CAPTURE(BM_ScanReplies, ok, Repeated("+OK\r\n"));
BENCHMARK_CAPTURE(BM_ScanReplies, bulk_64, Repeated(Bulk(64)));
BENCHMARK_CAPTURE(BM_ScanReplies, bulk_4096, Repeated(Bulk(4096)));
BENCHMARK_CAPTURE(BM_ScanReplies, array_100x16, Repeated(ArrayOf(100, Bulk(16))));
BENCHMARK_CAPTURE(BM_ScanReplies, array_100xint, Repeated(ArrayOf(100, ":1\r\n")));
BENCHMARK_CAPTURE(BM_ScanReplies, random_mix, RandomReplies());

}  // namespace
