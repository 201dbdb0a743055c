// Whole simulations, one for each seed. A failure names its seed: SIM_SEED=<seed> replays it alone,
// with SIM_COMMANDS=<number> of commands if it was found with others than here.

#include <cstdlib>
#include <string>

#include "absl/strings/numbers.h"
#include "gtest/gtest.h"
#include "tests/sim/simulation.h"

namespace sim {
namespace {

constexpr uint32_t kCommands = 1000;

class SweepTest : public testing::TestWithParam<uint64_t> {
 protected:
  static constexpr uint64_t kSeedsPerCase = 25;
  static void Check(uint64_t seed, uint32_t commands) {
    const SimulationResult result = RunSimulation({.seed = seed, .commands = commands});
    EXPECT_EQ(result.failure, "") << "replay with SIM_SEED=" << seed << "\n" << result.state;
  }
};

TEST_P(SweepTest, EveryPromiseIsKept) {
  const char* only = getenv("SIM_SEED");
  uint64_t seed = 0;
  if (only != nullptr && absl::SimpleAtoi(only, &seed)) {
    const char* number = getenv("SIM_COMMANDS");
    uint32_t commands = kCommands;
    if (number != nullptr) {
      ASSERT_TRUE(absl::SimpleAtoi(number, &commands)) << number;
    }
    if (GetParam() == 0) Check(seed, commands);
    return;
  }
  for (seed = GetParam() * kSeedsPerCase + 1; seed <= (GetParam() + 1) * kSeedsPerCase; ++seed) {
    Check(seed, kCommands);
  }
}

// Seeds that have failed once. What they do changes with the simulator, but they cost little.
TEST(RegressionTest, WhatHasFailedDoesNotFailAgain) {
  struct Failed {
    uint64_t seed;
    uint32_t commands;
  };
  constexpr Failed kFailed[] = {
      {60, 10000},     // asked the owner again and again, each time for an ASK that went stale
      {82, 10000},     // an ASK that was followed after a wait met a target that lacked the key
      {87, 500},       // a failover beside a move
      {94, 10000},     // the same
      {109, 10000},    // the same
      {212, 2000},     // not served two seconds after all was well
      {313, 2000},     // the same
      {702, 10000},    // requests behind a script that was not confirmed were taken for overtaken
      {2463, 10000},   // an unread command of a lost connection ran late
      {2586, 10000},   // the same
      {2826, 10000},   // a node that was too slow to be told to end a late write ran it
      {3982, 10000},   // a NOSCRIPT passed on beside another command of the slot
      {4089, 10000},   // a refusal that came late, from where the time counts
      {4668, 10000},   // as 3982
      {5278, 10000},   // an owner that did not know it yet said so; published after a stall
      {7056, 10000},   // a primary that had been replaced went on before it heard of that
      {8931, 10000},   // a repeated read had followed its ASK: that hop counts
      {10189, 10000},  // a read that was to run again met a write that was queued already
      {10379, 10000},  // pieces of others' replies, and a handshake, took a request's time
      {11822, 10000},  // another worker had given the script meanwhile
      {13961, 10000},  // a slow node that wrote into a buffer of a few bytes
      {15689, 10000},  // a hung node held a read after ASKING until the slot was to come once more
      {16280, 10000},  // a node that was down for long went elsewhere, and nobody asked where to
      {16567, 10000},  // waited until a node that hung had taken what was sent without a copy
      {20363, 10000},  // the same
      {20814, 10000},  // a delete uncovered what a script that came late after ASKING had left
      {21087, 10000},  // another worker had given the script meanwhile
      {21179, 10000},  // a NOSCRIPT of a script that had run, behind a refused command
      {21308, 10000},  // a node that failed twice, long between, counted as away: an older map
      {21565, 10000},  // a proxy with little memory closed the client that held most
      {22924, 10000},  // an append that ran late, where it may, stood in the wrong place
      {28440, 10000},  // a block waited unread at a slot's target, and ran after a later command
      {30036, 10000},  // a late write ran before its client had read that it may
      {30125, 10000},  // an ASK that nobody followed was counted as a redirection
      {30355, 10000}   // a hung node held a read after ASKING until the slot was to come once more
  };
  for (const Failed& failed : kFailed) {
    const SimulationResult result =
        RunSimulation({.seed = failed.seed, .commands = failed.commands});
    EXPECT_EQ(result.failure, "") << "replay with tools/simulate --seeds " << failed.seed
                                  << " --commands " << failed.commands << "\n"
                                  << result.state;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, SweepTest, testing::Range(uint64_t{0}, uint64_t{20}));

TEST(ReplayTest, TheSameSeedTwiceIsTheSameRun) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    const SimulationResult first = RunSimulation({.seed = seed, .commands = kCommands});
    const SimulationResult second = RunSimulation({.seed = seed, .commands = kCommands});
    EXPECT_EQ(first.trace_hash, second.trace_hash) << seed;
    EXPECT_EQ(first.steps, second.steps) << seed;
    const SimulationResult other = RunSimulation({.seed = seed + 1000, .commands = kCommands});
    EXPECT_NE(first.trace_hash, other.trace_hash) << seed;
  }
}

}  // namespace
}  // namespace sim
