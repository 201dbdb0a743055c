// What a worker's turn takes from the heap once everything that is reused has its size. Counted is
// what the proxy does by itself: neither the simulated kernel nor the nodes and clients. If one of
// these fails, COUNT_ALLOCATIONS_TRACE=3 in the environment shows where the first three were made.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"
#include "microbench/allocations.h"
#include "microbench/worker_rig.h"
#include "resp/encoder.h"

namespace proxy {
namespace {

using microbench::WorkerRig;

constexpr int kClients = 8;
constexpr int kWarmUpRounds = 50;
constexpr int kRounds = 100;

// Longer than what a std::string holds in itself.
std::string Key(int client, int number) {
  return absl::StrCat("user:profile:", client, ":", 100000 + number);
}

// Values of different lengths, so that frames end anywhere in a receive buffer.
std::string Value(int client, int number) {
  return std::string(static_cast<size_t>(1 + (client * 31 + number * 17) % 200), 'v');
}

std::string Command(const std::vector<std::string>& texts) {
  const std::vector<absl::string_view> args(texts.begin(), texts.end());
  std::string bytes;
  resp::AppendCommand(args, &bytes);
  return bytes;
}

std::string Bulk(const std::string& value) {
  return absl::StrCat("$", value.size(), "\r\n", value, "\r\n");
}

// Allocations a request.
double AllocationsPerRequest(WorkerRig* rig) {
  const WorkerRig::Usage before = rig->usage();
  for (int i = 0; i < kRounds; ++i) EXPECT_TRUE(rig->Round()) << rig->failure();
  const WorkerRig::Usage& after = rig->usage();
  EXPECT_GT(after.requests, before.requests);
  return static_cast<double>(after.allocations - before.allocations) /
         static_cast<double>(after.requests - before.requests);
}

// --- requests of one key

void SetPipelines(WorkerRig* rig, int depth, bool set) {
  for (int client = 0; client < kClients; ++client) {
    std::string pipeline;
    for (int i = 0; i < depth; ++i) {
      pipeline += set ? Command({"SET", Key(client, i), Value(client, i)})
                      : Command({"GET", Key(client, i)});
    }
    rig->SetPipeline(client, std::move(pipeline), static_cast<uint32_t>(depth));
  }
}

// Pipelines twice as deep come first: after them, whatever is reused has more than the size that it
// needs, however the replies of the nodes may fall. Longer sends are not quiet, so that their
// blocks come back earlier: those of the depth itself have as many rounds.
void WarmUp(WorkerRig* rig, int depth, bool set) {
  SetPipelines(rig, 2 * depth, set);
  EXPECT_TRUE(rig->WarmUp(kWarmUpRounds)) << rig->failure();
  SetPipelines(rig, depth, set);
  EXPECT_TRUE(rig->WarmUp(kWarmUpRounds)) << rig->failure();
}

TEST(WorkerAllocationsTest, GetAndSetTakeNothingFromTheHeap) {
  // More than a client's share of a turn, too.
  for (const int depth : {1, 16, 100, 300}) {
    SCOPED_TRACE(depth);
    WorkerRig rig({.clients = kClients});
    WarmUp(&rig, depth, true);
    EXPECT_EQ(AllocationsPerRequest(&rig), 0) << "SET";
    std::string expected;
    for (int i = 0; i < depth; ++i) expected += "+OK\r\n";
    EXPECT_EQ(rig.replies(0), expected);
    WarmUp(&rig, depth, false);
    EXPECT_EQ(AllocationsPerRequest(&rig), 0) << "GET";
    expected.clear();
    for (int i = 0; i < depth; ++i) expected += Bulk(Value(1, i));
    EXPECT_EQ(rig.replies(1), expected);
  }
}

// --- requests over many slots

struct SplitCase {
  const char* name;
  int keys;
  double allocations_max;
};

TEST(WorkerAllocationsTest, SplitRequestsTakeABoundedNumber) {
  // None as long as the request lies in one piece. One that begins in one receive buffer and ends
  // in another has an argument copied. Measured: MGET 0 and 0.4, MSET 0.1 and 2.3, DEL 0 and 0.4.
  const SplitCase cases[] = {
      {"MGET", 10, 0.2}, {"MGET", 100, 1}, {"MSET", 10, 0.5},
      {"MSET", 100, 4},  {"DEL", 10, 0.2}, {"DEL", 100, 1},
  };
  for (const SplitCase& c : cases) {
    SCOPED_TRACE(absl::StrCat(c.name, " of ", c.keys));
    WorkerRig rig({.clients = kClients});
    const bool pairs = absl::string_view(c.name) == "MSET";
    for (int client = 0; client < kClients; ++client) {
      std::vector<std::string> args = {c.name};
      for (int i = 0; i < c.keys; ++i) {
        args.push_back(Key(client, i));
        if (pairs) args.push_back(Value(client, i));
      }
      rig.SetPipeline(client, Command(args), 1);
    }
    EXPECT_TRUE(rig.WarmUp(kWarmUpRounds)) << rig.failure();
    EXPECT_LE(AllocationsPerRequest(&rig), c.allocations_max);
    EXPECT_NE(rig.replies(0)[0], '-') << rig.replies(0);
  }
}

// --- the counting itself

void* volatile taken = nullptr;

void TakeOne() {
  taken = new int(1);
  delete static_cast<int*>(taken);
}

TEST(AllocationCountingTest, CountsWhileItIsOnAndNotWhileItIsOffWithin) {
  using microbench::AllocationCounting;
  const uint64_t before = microbench::CountedAllocations();
  TakeOne();
  EXPECT_EQ(microbench::CountedAllocations() - before, 0u);
  {
    const AllocationCounting on(AllocationCounting::Switch::kOn);
    TakeOne();
    {
      const AllocationCounting off(AllocationCounting::Switch::kOff);
      TakeOne();
    }
    TakeOne();
    taken = new std::string[2];
    delete[] static_cast<std::string*>(taken);
  }
  TakeOne();
  EXPECT_EQ(microbench::CountedAllocations() - before, 3u);
}

}  // namespace
}  // namespace proxy
