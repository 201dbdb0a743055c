#pragma once

// File: tools/latency/runner.h
//
// Measures all targets in turns. One thread, one ring.

#include <array>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "io/buffer_pool.h"
#include "io/ring.h"
#include "tools/latency/options.h"
#include "tools/latency/target.h"

namespace latency {

class Runner {
 public:
  // Options and ring outlive it.
  Runner(const Options* options, io::Ring* ring);
  ~Runner();

  // Connects, fills, measures, closes. An error: it could not begin. What became of a target later
  // is in the target.
  absl::Status Run();
  const std::vector<std::unique_ptr<Target>>& targets() const { return targets_; }

 private:
  absl::Status Begin();
  void Fill(Target* target);
  void Measure(Target* target);
  void Close();
  // Turns until the clock shows `end` or done(); true if done.
  template <typename Done>
  bool TurnUntil(int64_t end, const Done& done);
  // One turn; returns at the latest when the clock shows `end`.
  void Turn(int64_t end);

  const Options* const options_;
  io::Ring* const ring_;
  const Workload workload_;
  io::BlockPool blocks_;
  io::Arena arena_;
  const int64_t silence_max_;
  Target::FlushList unflushed_;
  std::vector<std::unique_ptr<Target>> targets_;
  std::vector<Session*> sessions_;  // of all, by the index of their completions
  Target* current_ = nullptr;       // whose open loop is to be kept up
  // Few at a time: what the first replies allow to be sent does not wait for the last ones.
  std::array<io::Completion, 64> completions_;
};

}  // namespace latency
