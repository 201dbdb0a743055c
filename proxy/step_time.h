#pragma once

// File: proxy/step_time.h
//
// How long the steps of one procedure may take: all of them together no longer than one request
// might, the hold timeout and a reply's.

#include <algorithm>

#include "absl/time/time.h"
#include "proxy/worker.h"

namespace proxy {

class StepTime {
 public:
  // The first step is made: what the procedure has waited for is no concern of its steps.
  void Begin(const Worker& worker) { began_ = worker.now(); }
  bool IsOver(const Worker& worker) const {
    return Left(worker) + worker.config().reply_timeout < absl::ZeroDuration();
  }
  // Of an ask that is made now (Ask::patience). One that comes late has at least a little time to
  // find its node.
  absl::Duration Patience(const Worker& worker) const {
    return std::max(Left(worker), absl::Milliseconds(100));
  }

 private:
  absl::Duration Left(const Worker& worker) const {
    return worker.config().hold_timeout - (worker.now() - began_);
  }

  absl::Time began_;
};

inline constexpr absl::string_view kNoTimeLeftError = "ERR proxy: no time left (not executed)";

}  // namespace proxy
