#pragma once

// File: tools/loadrunner/session.h
//
// One connection to the proxy: sends what its actor asks, in pipelines, hands it the replies in
// order, and connects again when it was closed. One thread.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>

#include "absl/time/time.h"
#include "io/connection.h"
#include "io/ring.h"
#include "resp/scanner.h"
#include "tools/loadrunner/report.h"
#include "tools/loadrunner/workload.h"

namespace loadrunner {

struct SessionOptions {
  io::Endpoint peer;
  size_t pipeline = 8;
  bool resp3 = false;
};

class Session {
 public:
  // Ring, report and options outlive it. `index` is that of its completions.
  Session(io::Ring* ring, Report* report, const SessionOptions* options, uint32_t index,
          Actor actor)
      : ring_(ring),
        report_(report),
        options_(options),
        index_(index),
        actor_(std::move(actor)),
        connection_(ring) {}

  // Connects if it is time to; fills the pipeline once half of it is free. Returns how many
  // requests were sent.
  size_t Advance();
  void OnCompletion(io::Completion* completion);
  // Nothing new from here on.
  void Pause() { paused_ = true; }
  void BeginVerify();
  void BeginClose() { connection_.BeginClose(); }

  bool was_open() const { return was_open_; }
  bool closed() const { return connection_.closed(); }
  // Why it could not connect: an errno, or 0.
  int error() const { return connection_.error(); }
  const std::deque<Op>& in_flight() const { return ops_; }
  size_t unverified() const { return actor_.unverified(); }

 private:
  void Connect();
  void OnConnected(const io::Completion& completion);
  void TakeReplies();
  void Lose();

  io::Ring* const ring_;
  Report* const report_;
  const SessionOptions* const options_;
  const uint32_t index_;
  uint32_t generation_ = 0;
  Actor actor_;
  io::Connection connection_;
  bool ready_ = false;  // connected
  bool was_open_ = false;
  bool paused_ = false;
  absl::Time next_connect_ = absl::InfinitePast();
  std::deque<Op> ops_;  // sent and not answered
  std::string output_;
  std::string input_;   // from the start of an incomplete reply
  size_t scanned_ = 0;  // of input_
  resp::ReplyScanner scanner_;
};

}  // namespace loadrunner
