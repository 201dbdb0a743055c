// How long a key's checksum and slot take: keys of one length (512 of them, so that their bytes are
// not learnt by heart), and 60,000 keys of random length. An item is a key.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "cluster/crc16_kernels.h"
#include "cluster/slot.h"
#include "microbench/rates.h"

namespace {

// Keys without a hash tag, one behind the other in one block.
struct Keys {
  std::string bytes;
  std::vector<absl::string_view> views;
};

Keys MakeKeys(size_t count, size_t bytes_min, size_t bytes_max) {
  std::mt19937 random(1);
  Keys keys;
  std::vector<size_t> sizes(count);
  for (size_t& size : sizes) {
    size = bytes_min + random() % (bytes_max - bytes_min + 1);
    for (size_t i = 0; i < size; ++i) keys.bytes += static_cast<char>('0' + random() % 64);
  }
  size_t offset = 0;
  for (const size_t size : sizes) {
    keys.views.emplace_back(keys.bytes.data() + offset, size);
    offset += size;
  }
  return keys;
}

template <typename Hash>
void Run(benchmark::State& state, const Hash& hash) {
  const auto size = static_cast<size_t>(state.range(0));
  const Keys keys = size == 0 ? MakeKeys(60000, 4, 43) : MakeKeys(512, size, size);
  microbench::Rates rates(&state);
  for (auto _ : state) {
    uint32_t sum = 0;
    for (const absl::string_view key : keys.views) sum += hash(key);
    benchmark::DoNotOptimize(sum);
  }
  rates.Report(static_cast<int64_t>(keys.views.size()), static_cast<int64_t>(keys.bytes.size()));
}

// key_bytes 0: random lengths from 4 to 43.
void Lengths(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgName("key_bytes")->Arg(4)->Arg(16)->Arg(32)->Arg(256)->Arg(0);
}

void BM_Crc16ByByte(benchmark::State& state) {
  Run(state,
      [](absl::string_view key) { return cluster::internal::Crc16ByByte(key.data(), key.size()); });
}
BENCHMARK(BM_Crc16ByByte)->Apply(Lengths);

void BM_Crc16BySlices(benchmark::State& state) {
  Run(state, [](absl::string_view key) {
    return cluster::internal::Crc16BySlices(key.data(), key.size());
  });
}
BENCHMARK(BM_Crc16BySlices)->Apply(Lengths);

void BM_Crc16(benchmark::State& state) { Run(state, cluster::Crc16); }
BENCHMARK(BM_Crc16)->Apply(Lengths);

void BM_SlotOf(benchmark::State& state) { Run(state, cluster::SlotOf); }
BENCHMARK(BM_SlotOf)->Apply(Lengths);

void BM_SlotOfHashTag(benchmark::State& state) {
  const std::string key = "{user1000}.following";
  microbench::Rates rates(&state);
  for (auto _ : state) {
    absl::string_view view = key;
    benchmark::DoNotOptimize(view);
    benchmark::DoNotOptimize(cluster::SlotOf(view));
  }
  rates.Report(1, static_cast<int64_t>(key.size()));
}
BENCHMARK(BM_SlotOfHashTag);

}  // namespace
