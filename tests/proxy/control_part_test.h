#pragma once

// File: tests/proxy/control_part_test.h
//
// What the tests of Control's parts share: a ring and turns as Control makes them, with a clock
// that moves by a millisecond a turn, whatever the real one does.

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "io/uring_ring.h"
#include "proxy/control_context.h"
#include "tests/proxy/fake_node.h"
#include "tests/proxy/log_lines.h"

namespace proxy {

inline std::string Bulk(absl::string_view text) {
  return absl::StrCat("$", text.size(), "\r\n", text, "\r\n");
}

class ControlPartTest : public testing::Test {
 protected:
  // After each deadline that Skip comes to there are turns for so long.
  ControlPartTest(LogLevel level, absl::Duration after_deadline)
      : directory_(1), lines_(level), log_(&lines_, &now_), after_deadline_(after_deadline) {
    io::RingOptions options;
    options.entries = 256;
    options.client_buffers = options.backend_buffers = 16;
    std::vector<std::string> warnings;
    auto ring = io::MakeUringRing(&directory_, 0, options, &warnings);
    if (ring.ok()) ring_ = *std::move(ring);
    now_ = absl::UnixEpoch() + absl::Hours(1);
  }
  void SetUp() override { ASSERT_NE(ring_, nullptr); }

  ControlContext Context() {
    return {.ring = ring_.get(),
            .timers = &timers_,
            .now = &now_,
            .config = &config_,
            .stats = &stats_,
            .log = &log_};
  }

  virtual void PumpNodes() = 0;
  virtual void OnCompletion(io::Completion* completion) = 0;
  virtual void AfterCompletions() {}

  void Turn() {
    PumpNodes();
    const size_t n = ring_->SubmitAndWait(absl::Milliseconds(1), absl::MakeSpan(batch_));
    now_ += absl::Milliseconds(1);
    for (size_t i = 0; i < n; ++i) {
      OnCompletion(&batch_[i]);
      batch_[i].data = io::Slice();
    }
    AfterCompletions();
    timers_.Advance(now_);
  }
  bool RunUntil(const std::function<bool()>& done, absl::Duration limit = absl::Seconds(5)) {
    for (const absl::Time end = now_ + limit; now_ < end && !done();) Turn();
    return done();
  }
  void Run(absl::Duration time) {
    RunUntil([] { return false; }, time);
  }
  // Moves the clock from deadline to deadline, with some turns for what they begin.
  void Skip(absl::Duration time) {
    const absl::Time end = now_ + time;
    while (now_ < end) {
      now_ = std::max(now_, std::min(end, timers_.next()));
      timers_.Advance(now_);
      Run(std::min(end - now_, after_deadline_));
    }
  }

  io::RingDirectory directory_;
  std::unique_ptr<io::Ring> ring_;
  io::Timers timers_;
  absl::Time now_;
  Config config_;
  ControlStats stats_;
  LogLines lines_;
  proxy::Log log_;

 private:
  const absl::Duration after_deadline_;
  std::vector<io::Completion> batch_ = std::vector<io::Completion>(256);
};

}  // namespace proxy
