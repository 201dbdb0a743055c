// How long it takes to decide where a request goes: command look-up, keys, splits, nodes, and what
// a node's error asks for.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "cluster/command_table.h"
#include "cluster/redirection.h"
#include "cluster/router.h"
#include "cluster/split.h"
#include "cluster/topology.h"
#include "microbench/rates.h"

namespace {

using Args = std::vector<absl::string_view>;

constexpr size_t kSequence = 16384;

// A random sequence of the names, too long to be learnt by heart.
std::vector<std::string> Sequence(const std::vector<std::string>& names) {
  std::mt19937 random(1);
  std::vector<std::string> sequence(kSequence);
  for (std::string& name : sequence) name = names[random() % names.size()];
  return sequence;
}

// On average, rounded.
int64_t MeanBytes(const std::vector<std::string>& texts) {
  size_t bytes = 0;
  for (const std::string& text : texts) bytes += text.size();
  return static_cast<int64_t>((bytes + texts.size() / 2) / texts.size());
}

void RunLookups(benchmark::State& state, const std::vector<std::string>& names) {
  const std::vector<std::string> sequence = Sequence(names);
  const Args views(sequence.begin(), sequence.end());
  size_t i = 0;
  microbench::Rates rates(&state);
  for (auto _ : state) {
    benchmark::DoNotOptimize(cluster::FindCommand(views[i]));
    i = (i + 1) % kSequence;
  }
  rates.Report(1, MeanBytes(sequence));
}

void BM_FindCommand_Get(benchmark::State& state) { RunLookups(state, {"GET"}); }
BENCHMARK(BM_FindCommand_Get);

void BM_FindCommand_Common(benchmark::State& state) {
  RunLookups(state, {"get", "SET", "mget", "DEL", "hset", "HGETALL", "expire", "INCR", "lpush",
                     "zrangebyscore", "EXISTS", "evalsha"});
}
BENCHMARK(BM_FindCommand_Common);

void BM_FindCommand_All(benchmark::State& state) {
  std::vector<std::string> names;
  for (const cluster::CommandSpec& command : cluster::AllCommands()) {
    if (!command.container.empty()) continue;
    names.push_back(absl::AsciiStrToLower(command.name));
    names.emplace_back(command.name);
  }
  RunLookups(state, names);
}
BENCHMARK(BM_FindCommand_All);

void BM_FindCommand_Unknown(benchmark::State& state) { RunLookups(state, {"JSON.GET", "FOO"}); }
BENCHMARK(BM_FindCommand_Unknown);

void BM_FindSubcommand(benchmark::State& state) {
  const cluster::CommandSpec& client = *cluster::FindCommand("CLIENT");
  microbench::Rates rates(&state);
  for (auto _ : state) {
    absl::string_view name = "setname";
    benchmark::DoNotOptimize(name);
    benchmark::DoNotOptimize(cluster::FindSubcommand(client, name));
  }
  rates.Report(1);
}
BENCHMARK(BM_FindSubcommand);

// What the commonest request takes in all: look-up, arity, slot, shard.
void BM_RouteGet(benchmark::State& state) {
  const auto topology = cluster::Topology::FromNodesReply(
      absl::StrCat(std::string(40, 'a'), " 10.0.0.1:7000@17000 master - 0 0 1 connected 0-16383"),
      {"10.0.0.1", 7000});
  std::mt19937 random(1);
  std::vector<std::string> keys(kSequence);
  for (std::string& key : keys) key = absl::StrCat("key:", random());
  size_t i = 0;
  microbench::Rates rates(&state);
  for (auto _ : state) {
    const cluster::CommandSpec* command = nullptr;
    benchmark::DoNotOptimize(cluster::LookUpCommand("get", keys[i], 2, &command));
    benchmark::DoNotOptimize((*topology)->ShardFor(cluster::SlotOf(keys[i]))->primary);
    i = (i + 1) % kSequence;
  }
  rates.Report(1, 3 + MeanBytes(keys));
}
BENCHMARK(BM_RouteGet);

void BM_FindKeyIndexes(benchmark::State& state, const std::string& request) {
  const Args args = absl::StrSplit(request, ' ');
  const cluster::CommandSpec& command = *cluster::FindCommand(args[0]);
  std::vector<uint32_t> indexes;
  cluster::FindKeyIndexes(command, args, &indexes);
  microbench::Rates rates(&state);
  for (auto _ : state) {
    benchmark::DoNotOptimize(cluster::FindKeyIndexes(command, args, &indexes));
    benchmark::DoNotOptimize(indexes.data());
  }
  rates.Report(1);
}
BENCHMARK_CAPTURE(BM_FindKeyIndexes, mget, "MGET a b c d e f g h i j");
BENCHMARK_CAPTURE(BM_FindKeyIndexes, eval, "EVAL script 2 a b c d");
BENCHMARK_CAPTURE(BM_FindKeyIndexes, sort, "SORT a BY x LIMIT 0 10 GET y STORE d");
BENCHMARK_CAPTURE(BM_FindKeyIndexes, xread, "XREAD COUNT 10 STREAMS a b 0 0");

void BM_PlanSplit(benchmark::State& state) {
  std::mt19937 random(1);
  std::vector<cluster::Slot> slots(static_cast<size_t>(state.range(0)));
  for (cluster::Slot& slot : slots)
    slot = static_cast<cluster::Slot>(random() % cluster::kSlotCount);
  cluster::SplitPlanner planner;
  cluster::SplitPlan plan;
  planner.Plan(slots, &plan);
  microbench::Rates rates(&state);
  for (auto _ : state) {
    planner.Plan(slots, &plan);
    benchmark::DoNotOptimize(plan.fragments.data());
  }
  rates.Report(state.range(0));
}
BENCHMARK(BM_PlanSplit)->ArgName("keys")->Arg(2)->Arg(10)->Arg(16)->Arg(100)->Arg(10000);

void BM_ParseErrorReply(benchmark::State& state, absl::string_view line) {
  microbench::Rates rates(&state);
  for (auto _ : state) {
    benchmark::DoNotOptimize(line);
    benchmark::DoNotOptimize(cluster::ParseErrorReply(line));
  }
  rates.Report(1, static_cast<int64_t>(line.size()));
}
BENCHMARK_CAPTURE(BM_ParseErrorReply, moved, "MOVED 3999 127.0.0.1:6381");
BENCHMARK_CAPTURE(BM_ParseErrorReply, other,
                  "WRONGTYPE Operation against a key holding the wrong kind of value");

// CLUSTER NODES of a cluster whose slots are spread one by one over its nodes: its longest form.
void BM_ParseTopology(benchmark::State& state) {
  const int nodes = static_cast<int>(state.range(0));
  std::vector<std::string> slots(static_cast<size_t>(nodes));
  for (int slot = 0; slot < cluster::kSlotCount; ++slot) {
    absl::StrAppend(&slots[static_cast<size_t>(slot % nodes)], " ", slot);
  }
  std::string text;
  for (int i = 0; i < nodes; ++i) {
    absl::StrAppend(&text, absl::Hex(i * 7919 % nodes + 0x1000, absl::kZeroPad8),
                    std::string(32, 'f'), " 10.0.", i / 200, ".", i % 200,
                    ":6379@16379,node.example master - 0 1700000000000 ", i, " connected",
                    slots[static_cast<size_t>(i)], "\n");
  }
  microbench::Rates rates(&state);
  for (auto _ : state) {
    benchmark::DoNotOptimize(cluster::Topology::FromNodesReply(text, {"10.0.0.1", 6379}));
  }
  rates.Report(1, static_cast<int64_t>(text.size()));
}
BENCHMARK(BM_ParseTopology)->ArgName("nodes")->Arg(6)->Arg(1000)->Unit(benchmark::kMicrosecond);

}  // namespace
