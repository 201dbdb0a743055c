#include "io/timers.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace io {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

absl::Time At(int64_t ms) { return absl::FromUnixMillis(ms); }

// A timer that notes its name when it fires, and then runs what the test wants to happen.
class Noted {
 public:
  Noted(Timers* timers, std::vector<int>* fired, int name)
      : timer(timers, &Noted::Fire, this), fired_(fired), name_(name) {}

  Timer timer;
  std::function<void()> then;

 private:
  static void Fire(void* context) {
    auto* self = static_cast<Noted*>(context);
    self->fired_->push_back(self->name_);
    // The test may destroy this object.
    const std::function<void()> action = self->then;
    if (action) action();
  }

  std::vector<int>* const fired_;
  const int name_;
};

class TimersTest : public ::testing::Test {
 protected:
  std::unique_ptr<Noted> New(int name) { return std::make_unique<Noted>(&timers_, &fired_, name); }
  std::vector<int> Advance(int64_t ms) {
    fired_.clear();
    timers_.Advance(At(ms));
    return fired_;
  }

  Timers timers_;
  std::vector<int> fired_;
};

TEST_F(TimersTest, FireInOrderOfTimeUpToNowInclusive) {
  auto a = New(1), b = New(2), c = New(3);
  b->timer.Set(At(20));
  c->timer.Set(At(30));
  a->timer.Set(At(10));
  EXPECT_EQ(timers_.next(), At(10));
  EXPECT_THAT(Advance(9), IsEmpty());
  EXPECT_THAT(Advance(20), ElementsAre(1, 2));
  EXPECT_FALSE(a->timer.armed());
  EXPECT_TRUE(c->timer.armed());
  EXPECT_EQ(timers_.next(), At(30));
  EXPECT_EQ(timers_.size(), 1u);
  EXPECT_THAT(Advance(100), ElementsAre(3));
  EXPECT_THAT(Advance(200), IsEmpty());
  EXPECT_EQ(timers_.next(), absl::InfiniteFuture());
}

TEST_F(TimersTest, EqualDeadlinesFireInTheOrderTheyWereSet) {
  std::vector<std::unique_ptr<Noted>> all;
  for (int i = 0; i < 20; ++i) all.push_back(New(i));
  for (auto& noted : all) noted->timer.Set(At(5));
  all[0]->timer.Set(At(5));  // set again: it is the last now
  std::vector<int> expected;
  for (int i = 1; i < 20; ++i) expected.push_back(i);
  expected.push_back(0);
  EXPECT_EQ(Advance(5), expected);
}

TEST_F(TimersTest, SetReplacesTheDeadline) {
  auto a = New(1);
  a->timer.Set(At(10));
  a->timer.Set(At(30));
  EXPECT_EQ(timers_.size(), 1u);
  EXPECT_EQ(a->timer.when(), At(30));
  EXPECT_THAT(Advance(20), IsEmpty());
  a->timer.Set(At(21));
  EXPECT_THAT(Advance(25), ElementsAre(1));
  EXPECT_THAT(Advance(40), IsEmpty());
}

TEST_F(TimersTest, StoppedAndDestroyedTimersDoNotFire) {
  auto a = New(1), b = New(2), c = New(3);
  for (auto* noted : {&a, &b, &c}) (*noted)->timer.Set(At(10));
  a->timer.Stop();
  a->timer.Stop();  // harmless
  b.reset();
  EXPECT_THAT(Advance(10), ElementsAre(3));
}

TEST_F(TimersTest, ACallbackMayStopWhatIsDueInTheSameAdvance) {
  auto a = New(1), b = New(2), c = New(3);
  a->timer.Set(At(1));
  b->timer.Set(At(2));
  c->timer.Set(At(3));
  a->then = [&] {
    EXPECT_FALSE(a->timer.armed());
    b->timer.Stop();
  };
  EXPECT_THAT(Advance(10), ElementsAre(1, 3));
}

TEST_F(TimersTest, ATimerSetByACallbackToAReachedTimeFiresInTheNextAdvance) {
  auto a = New(1), b = New(2), c = New(3);
  a->timer.Set(At(5));
  c->timer.Set(At(6));
  a->then = [&] {
    b->timer.Set(At(1));
    a->timer.Set(At(10));
    EXPECT_EQ(timers_.next(), At(1));
    EXPECT_EQ(timers_.size(), 3u);
  };
  EXPECT_THAT(Advance(10), ElementsAre(1, 3));
  EXPECT_EQ(timers_.next(), At(1));
  a->then = nullptr;
  EXPECT_THAT(Advance(10), ElementsAre(2, 1));
}

TEST_F(TimersTest, WhatACallbackSetMayBeSetAgainStoppedAndDestroyedByTheNext) {
  auto a = New(1), b = New(2), c = New(3), d = New(4), e = New(5);
  a->timer.Set(At(1));
  b->timer.Set(At(2));
  a->then = [&] {
    c->timer.Set(At(1));
    d->timer.Set(At(1));
    e->timer.Set(At(1));
  };
  b->then = [&] {
    c->timer.Stop();
    d.reset();
    e->timer.Set(At(7));  // from the next Advance to a time after it
  };
  EXPECT_THAT(Advance(5), ElementsAre(1, 2));
  EXPECT_EQ(timers_.size(), 1u);
  EXPECT_THAT(Advance(5), IsEmpty());
  EXPECT_THAT(Advance(7), ElementsAre(5));
}

TEST_F(TimersTest, ATimerSetByACallbackToALaterTimeKeepsItsPlace) {
  auto a = New(1), b = New(2);
  a->timer.Set(At(1));
  b->timer.Set(At(12));
  a->then = [&] { a->timer.Set(At(11)); };
  EXPECT_THAT(Advance(10), ElementsAre(1));
  a->then = nullptr;
  EXPECT_THAT(Advance(12), ElementsAre(1, 2));
}

TEST_F(TimersTest, ACallbackMayDestroyItsOwnTimer) {
  auto a = New(1), b = New(2);
  a->timer.Set(At(1));
  b->timer.Set(At(2));
  a->then = [&] { a.reset(); };
  EXPECT_THAT(Advance(5), ElementsAre(1, 2));
}

TEST_F(TimersTest, PostponeMovesEveryDeadlineAndKeepsTheOrder) {
  auto a = New(1), b = New(2), c = New(3);
  c->timer.Set(absl::InfiniteFuture());
  b->timer.Set(At(20));
  a->timer.Set(At(10));
  timers_.Postpone(absl::Milliseconds(100));
  EXPECT_EQ(timers_.next(), At(110));
  EXPECT_EQ(b->timer.when(), At(120));
  EXPECT_THAT(Advance(109), IsEmpty());
  EXPECT_THAT(Advance(115), ElementsAre(1));
  EXPECT_THAT(Advance(120), ElementsAre(2));
  EXPECT_TRUE(c->timer.armed());
}

TEST_F(TimersTest, DeadlinesThatBecomeEqualAtInfinityStillFireInTheOrderTheyWereSet) {
  std::vector<std::unique_ptr<Noted>> all;
  for (int i = 0; i < 9; ++i) all.push_back(New(i));
  // The later it was set, the earlier it is, until Postpone.
  const absl::Time far = absl::FromUnixSeconds(std::numeric_limits<int64_t>::max() / 2);
  for (int i = 0; i < 9; ++i) all[i]->timer.Set(far - absl::Seconds(i));
  timers_.Postpone(absl::InfiniteDuration());
  fired_.clear();
  timers_.Advance(absl::InfiniteFuture());
  EXPECT_THAT(fired_, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8));
}

// Against a plain list that is sorted anew each time.
TEST_F(TimersTest, RandomUseAgreesWithAPlainList) {
  std::mt19937 random(7);
  constexpr int kTimers = 60;
  std::vector<std::unique_ptr<Noted>> all;
  for (int i = 0; i < kTimers; ++i) all.push_back(New(i));
  struct Row {
    int64_t ms;
    int order;
    int name;
  };
  std::vector<Row> rows;
  int order = 0;
  int64_t now = 0;
  for (int step = 0; step < 20'000; ++step) {
    const int name = static_cast<int>(random() % kTimers);
    const auto forget = [&] {
      rows.erase(std::remove_if(rows.begin(), rows.end(), [&](Row r) { return r.name == name; }),
                 rows.end());
    };
    switch (random() % 8) {
      case 0:
        all[name]->timer.Stop();
        forget();
        break;
      case 1: {
        now += static_cast<int64_t>(random() % 20);
        std::sort(rows.begin(), rows.end(),
                  [](Row a, Row b) { return a.ms != b.ms ? a.ms < b.ms : a.order < b.order; });
        std::vector<int> expected;
        while (!rows.empty() && rows.front().ms <= now) {
          expected.push_back(rows.front().name);
          rows.erase(rows.begin());
        }
        ASSERT_EQ(Advance(now), expected) << "step " << step;
        break;
      }
      default: {
        const int64_t ms = now + static_cast<int64_t>(random() % 50) - 5;
        all[name]->timer.Set(At(ms));
        forget();
        rows.push_back({ms, order++, name});
      }
    }
    ASSERT_EQ(timers_.size(), rows.size());
  }
}

}  // namespace
}  // namespace io
