#include "proxy/fifo.h"

#include <cstdint>
#include <deque>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "microbench/allocations.h"

namespace proxy {
namespace {

TEST(FifoTest, GivesTheSameAsADequeWhateverIsDone) {
  std::mt19937 random(1);
  Fifo<int> fifo;
  std::deque<int> expected;
  for (int i = 0; i < 100000; ++i) {
    // Now longer, now shorter.
    if (random() % 1000 < (i / 1000 % 2 == 0 ? 600 : 400)) {
      fifo.Push(i);
      expected.push_back(i);
    } else if (!expected.empty()) {
      ASSERT_EQ(fifo.front(), expected.front());
      fifo.Pop();
      expected.pop_front();
    }
    ASSERT_EQ(fifo.size(), expected.size());
    ASSERT_EQ(fifo.empty(), expected.empty());
    if (i % 100 == 0) {
      ASSERT_THAT(std::vector<int>(fifo.begin(), fifo.end()), testing::ElementsAreArray(expected));
    }
  }
}

// One that is never empty must not grow with all that ever went through it.
TEST(FifoTest, TakesNoMemoryWhileItsLengthStays) {
  Fifo<int> fifo;
  for (int i = 0; i < 100; ++i) fifo.Push(i);
  const auto move_on = [&fifo] {
    for (int i = 0; i < 10000; ++i) {
      fifo.Push(i);
      fifo.Pop();
    }
  };
  move_on();
  const microbench::AllocationCounting on(microbench::AllocationCounting::Switch::kOn);
  const uint64_t before = microbench::CountedAllocations();
  move_on();
  EXPECT_EQ(microbench::CountedAllocations(), before);
}

TEST(FifoTest, SwapGivesAllToTheOther) {
  Fifo<int> a, b;
  for (int i = 0; i < 5; ++i) a.Push(i);
  a.Pop();
  b.Swap(&a);
  EXPECT_TRUE(a.empty());
  a.Push(9);
  EXPECT_THAT(std::vector<int>(b.begin(), b.end()), testing::ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(std::vector<int>(a.begin(), a.end()), testing::ElementsAre(9));
}

}  // namespace
}  // namespace proxy
