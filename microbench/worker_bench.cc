// What a worker's whole turn costs for a request: clients in a simulated world send pipelines over
// a real worker to a model cluster of three nodes. Items are requests.
//
// The time of an iteration (a round: each of the clients sends its pipeline and gets its replies)
// includes the simulator, its network and its nodes, which is most of it. The worker's own part is
// told beside it: "worker_share" is the share of its turns, without their calls of the ring, in the
// time of the loop; "worker_ns_per_item" that share of the loop's processor time;
// "items_per_turn" how much a turn carries. Where the worker spends most of its time in production,
// in the kernel, is in neither.

#include <benchmark/benchmark.h>
#include <time.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "microbench/worker_rig.h"
#include "resp/encoder.h"

namespace {

constexpr int kClients = 16;
constexpr int kWarmUpRounds = 200;
constexpr size_t kValueBytes = 64;

std::string Key(int client, int number) { return absl::StrCat("key:", client, ":", number); }

std::string Command(absl::string_view name, int client, int number) {
  std::string bytes;
  if (name == "SET") {
    resp::AppendCommand({"SET", Key(client, number), std::string(kValueBytes, 'v')}, &bytes);
  } else {
    resp::AppendCommand({name, Key(client, number)}, &bytes);
  }
  return bytes;
}

// One command over keys of many slots.
std::string MultiKeyCommand(absl::string_view name, int client, int keys) {
  std::vector<std::string> texts = {std::string(name)};
  for (int i = 0; i < keys; ++i) {
    texts.push_back(Key(client, i));
    if (name == "MSET") texts.emplace_back(kValueBytes, 'v');
  }
  const std::vector<absl::string_view> args(texts.begin(), texts.end());
  std::string bytes;
  resp::AppendCommand(args, &bytes);
  return bytes;
}

// Of this thread.
absl::Duration ProcessorTime() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return absl::DurationFromTimespec(time);
}

// The clients' pipelines are set; `bytes` is the sum of their sizes.
void Run(benchmark::State& state, microbench::WorkerRig* rig, size_t bytes) {
  if (!rig->WarmUp(kWarmUpRounds)) return state.SkipWithError(rig->failure().c_str());
  const microbench::WorkerRig::Usage before = rig->usage();
  const absl::Duration processor_before = ProcessorTime();
  const absl::Time begin = absl::Now();
  for (auto _ : state) {
    if (!rig->Round()) return state.SkipWithError(rig->failure().c_str());
  }
  const absl::Duration whole = absl::Now() - begin;
  const absl::Duration processor = ProcessorTime() - processor_before;
  const microbench::WorkerRig::Usage& after = rig->usage();
  const auto items = static_cast<double>(after.requests - before.requests);
  const auto turns = static_cast<double>(after.turns - before.turns);
  const double share = absl::FDivDuration(after.time - before.time, whole);
  state.SetItemsProcessed(static_cast<int64_t>(after.requests - before.requests));
  state.SetBytesProcessed(static_cast<int64_t>(bytes * state.iterations()));
  state.counters["worker_ns_per_item"] = share * absl::ToDoubleNanoseconds(processor) / items;
  state.counters["worker_share"] = share;
  state.counters["items_per_turn"] = items / turns;
  state.counters["allocs_per_item"] =
      static_cast<double>(after.allocations - before.allocations) / items;
}

// Pipelines of one command, each with a key of its own.
void BM_WorkerTurn(benchmark::State& state, absl::string_view name) {
  microbench::WorkerRig rig({.clients = kClients});
  const auto depth = static_cast<int>(state.range(0));
  size_t bytes = 0;
  for (const absl::string_view now : {absl::string_view("SET"), name}) {
    bytes = 0;
    for (int client = 0; client < kClients; ++client) {
      std::string pipeline;
      for (int i = 0; i < depth; ++i) pipeline += Command(now, client, i);
      bytes += pipeline.size();
      rig.SetPipeline(client, std::move(pipeline), static_cast<uint32_t>(depth));
    }
    if (!rig.WarmUp(1)) return state.SkipWithError(rig.failure().c_str());
  }
  Run(state, &rig, bytes);
}
BENCHMARK_CAPTURE(BM_WorkerTurn, GET, "GET")->ArgName("pipeline")->Arg(1)->Arg(16)->Arg(100);
BENCHMARK_CAPTURE(BM_WorkerTurn, SET, "SET")->ArgName("pipeline")->Arg(1)->Arg(16)->Arg(100);

// One request over many keys: how it is split, and its replies merged. Items are requests.
void BM_WorkerTurn_Split(benchmark::State& state, absl::string_view name) {
  microbench::WorkerRig rig({.clients = kClients});
  const auto keys = static_cast<int>(state.range(0));
  size_t bytes = 0;
  for (const absl::string_view now : {absl::string_view("MSET"), name}) {
    bytes = 0;
    for (int client = 0; client < kClients; ++client) {
      std::string command = MultiKeyCommand(now, client, keys);
      bytes += command.size();
      rig.SetPipeline(client, std::move(command), 1);
    }
    if (!rig.WarmUp(1)) return state.SkipWithError(rig.failure().c_str());
  }
  Run(state, &rig, bytes);
}
BENCHMARK_CAPTURE(BM_WorkerTurn_Split, MGET, "MGET")->ArgName("keys")->Arg(10)->Arg(100);
BENCHMARK_CAPTURE(BM_WorkerTurn_Split, MSET, "MSET")->ArgName("keys")->Arg(10)->Arg(100);
BENCHMARK_CAPTURE(BM_WorkerTurn_Split, EXISTS, "EXISTS")->ArgName("keys")->Arg(10)->Arg(100);

}  // namespace
