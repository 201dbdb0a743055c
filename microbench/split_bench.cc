// How long the decisions about a request over several nodes take: its keys' slots, fragments and
// nodes; and the merging of the fragments' replies. An item is a key. What moving the bytes costs
// besides is in worker_bench.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cluster/command_table.h"
#include "cluster/router.h"
#include "cluster/split.h"
#include "cluster/topology.h"
#include "microbench/rates.h"
#include "proxy/args.h"
#include "resp/encoder.h"
#include "resp/views.h"

namespace {

constexpr size_t kValueBytes = 64;

std::shared_ptr<const cluster::Topology> ThreeNodes() {
  std::string text;
  const absl::string_view ranges[] = {"0-5460", "5461-10922", "10923-16383"};
  for (int i = 0; i < 3; ++i) {
    absl::StrAppend(&text, std::string(40, static_cast<char>('a' + i)), " 10.0.0.", i + 1,
                    ":7000@17000 master - 0 0 ", i + 1, " connected ", ranges[i], "\n");
  }
  return *cluster::Topology::FromNodesReply(text, {"10.0.0.1", 7000});
}

std::string Request(absl::string_view name, int64_t keys) {
  std::vector<std::string> texts = {std::string(name)};
  for (int64_t i = 0; i < keys; ++i) {
    texts.push_back(absl::StrCat("key:", 100000 + i));
    if (name == "MSET") texts.emplace_back(kValueBytes, 'v');
  }
  const std::vector<absl::string_view> args(texts.begin(), texts.end());
  std::string bytes;
  resp::AppendCommand(args, &bytes);
  return bytes;
}

// `planner`, `slots` and `plan` are reused. Returns the number of fragments.
size_t Split(absl::Span<const absl::string_view> args, size_t step,
             const cluster::Topology& topology, cluster::SplitPlanner* planner,
             std::vector<cluster::Slot>* slots, cluster::SplitPlan* plan) {
  slots->clear();
  for (size_t i = 1; i < args.size(); i += step) slots->push_back(cluster::SlotOf(args[i]));
  planner->Plan(*slots, plan);
  for (const cluster::SplitFragment& fragment : plan->fragments) {
    benchmark::DoNotOptimize(topology.ShardFor(fragment.slot)->primary);
  }
  return plan->fragments.size();
}

void BM_SplitRequest(benchmark::State& state, absl::string_view name) {
  const std::shared_ptr<const cluster::Topology> topology = ThreeNodes();
  const std::string request = Request(name, state.range(0));
  const absl::string_view piece = request;
  const size_t step = name == "MSET" ? 2 : 1;
  std::vector<cluster::Slot> slots;
  cluster::SplitPlanner planner;
  cluster::SplitPlan plan;
  size_t fragments = 0;
  const auto split = [&] {
    const proxy::ArgList args(absl::MakeConstSpan(&piece, 1));
    fragments = Split(args.views(), step, *topology, &planner, &slots, &plan);
  };
  split();
  microbench::Rates rates(&state);
  for (auto _ : state) split();
  rates.Report(state.range(0), static_cast<int64_t>(request.size()));
  state.counters["fragments"] = static_cast<double>(fragments);
}
BENCHMARK_CAPTURE(BM_SplitRequest, MGET, "MGET")->ArgName("keys")->Arg(10)->Arg(100);
BENCHMARK_CAPTURE(BM_SplitRequest, MSET, "MSET")->ArgName("keys")->Arg(10)->Arg(100);
BENCHMARK_CAPTURE(BM_SplitRequest, DEL, "DEL")->ArgName("keys")->Arg(10)->Arg(100);

// The elements of the fragments' arrays, in the order of the request's keys.
void BM_MergeInKeyOrder(benchmark::State& state) {
  const std::string request = Request("MGET", state.range(0));
  const absl::string_view piece = request;
  const proxy::ArgList args(absl::MakeConstSpan(&piece, 1));
  std::vector<cluster::Slot> slots;
  cluster::SplitPlanner planner;
  cluster::SplitPlan plan;
  Split(args.views(), 1, *ThreeNodes(), &planner, &slots, &plan);
  std::vector<std::string> replies;
  int64_t bytes = 0;
  for (const cluster::SplitFragment& fragment : plan.fragments) {
    std::string reply;
    resp::Encoder encoder(resp::Protocol::kResp2, &reply);
    encoder.Array(static_cast<int64_t>(fragment.key_count));
    for (uint32_t i = 0; i < fragment.key_count; ++i) encoder.Bulk(std::string(kValueBytes, 'v'));
    bytes += static_cast<int64_t>(reply.size());
    replies.push_back(std::move(reply));
  }
  const std::vector<absl::string_view> pieces(replies.begin(), replies.end());
  std::vector<resp::ElementReader> readers;
  readers.reserve(replies.size());
  microbench::Rates rates(&state);
  for (auto _ : state) {
    readers.clear();
    for (const absl::string_view& reply : pieces) {
      readers.emplace_back(absl::MakeConstSpan(&reply, 1));
    }
    for (const uint32_t fragment : plan.fragment_of_key) {
      resp::ArgPosition element;
      if (!readers[fragment].Next(&element)) return state.SkipWithError("an element is missing");
      benchmark::DoNotOptimize(element);
    }
  }
  rates.Report(state.range(0), bytes);
}
BENCHMARK(BM_MergeInKeyOrder)->ArgName("keys")->Arg(10)->Arg(100);

// MSET's and DEL's replies, one a key: the worst case.
void RunMergeStatus(benchmark::State& state, cluster::Merge merge, absl::string_view reply) {
  microbench::Rates rates(&state);
  for (auto _ : state) {
    cluster::MergedStatus status(merge);
    for (int64_t i = 0; i < state.range(0); ++i) status.Add(reply, true);
    benchmark::DoNotOptimize(status.Reply());
  }
  rates.Report(state.range(0), state.range(0) * static_cast<int64_t>(reply.size()));
}

void BM_MergeAllSucceeded(benchmark::State& state) {
  RunMergeStatus(state, cluster::Merge::kAllSucceeded, "+OK\r\n");
}
BENCHMARK(BM_MergeAllSucceeded)->ArgName("keys")->Arg(10)->Arg(100);

void BM_MergeSum(benchmark::State& state) { RunMergeStatus(state, cluster::Merge::kSum, ":1\r\n"); }
BENCHMARK(BM_MergeSum)->ArgName("keys")->Arg(10)->Arg(100);

}  // namespace
