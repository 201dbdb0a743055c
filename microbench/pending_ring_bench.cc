// How long a request takes to get into and out of the ring of those that a node owes a reply to.
// An item is a request: one push and one pop.

#include <benchmark/benchmark.h>

#include <cstdint>

#include "absl/time/time.h"
#include "microbench/rates.h"
#include "proxy/pending_ring.h"

namespace {

constexpr int64_t kRequestBytes = 36;  // of a GET

void Push(proxy::PendingRing* ring, uint64_t* end) {
  const uint64_t begin = *end;
  *end += static_cast<uint64_t>(kRequestBytes);
  ring->Push({nullptr, *end, absl::UnixEpoch()}, begin);
}

// So many are sent in one go, and then as many replies come.
void BM_PendingRing_Batch(benchmark::State& state) {
  proxy::PendingRing ring;
  uint64_t end = 0;
  const auto batch = [&] {
    for (int64_t i = 0; i < state.range(0); ++i) Push(&ring, &end);
    uint64_t sum = 0;
    for (int64_t i = 0; i < state.range(0); ++i) {
      sum += ring.front().end;
      ring.Pop();
    }
    benchmark::DoNotOptimize(sum);
  };
  batch();
  microbench::Rates rates(&state);
  for (auto _ : state) batch();
  rates.Report(state.range(0), state.range(0) * kRequestBytes);
}
BENCHMARK(BM_PendingRing_Batch)->ArgName("requests")->Arg(1)->Arg(16)->Arg(256)->Arg(4096);

// So many are always out: each reply makes room for a request.
void BM_PendingRing_Steady(benchmark::State& state) {
  proxy::PendingRing ring;
  uint64_t end = 0;
  for (int64_t i = 0; i < state.range(0); ++i) Push(&ring, &end);
  microbench::Rates rates(&state);
  for (auto _ : state) {
    uint64_t front = ring.front().end;
    benchmark::DoNotOptimize(front);
    ring.Pop();
    Push(&ring, &end);
  }
  rates.Report(1, kRequestBytes);
}
BENCHMARK(BM_PendingRing_Steady)->ArgName("requests")->Arg(1)->Arg(255)->Arg(65535);

}  // namespace
