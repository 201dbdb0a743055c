#pragma once

// File: proxy/polling.h
//
// A procedure that looks again and again, and pauses between: for how long, and how it ends.

#include <cstddef>

#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "proxy/procedure.h"

namespace proxy {

class Poll {
 public:
  // The next step is a pause: one ask that goes to nobody. From 10 ms at first to 100 ms; longer
  // when all that wait in this worker together, each for as many replies, would ask too much of
  // the nodes. Not beyond `until`: one looks once more then. `slot`: of what is waited for.
  void Pause(Step* step, size_t replies, cluster::Slot slot, absl::Time until);

  // For an ask of a poll that nobody waits for any more after `until`.
  static absl::Duration Patience(absl::Time now, absl::Time until);

  // What Procedure::EndWait was told.
  void End(Procedure::End end) { end_ = end; }
  bool ended() const { return end_.has_value(); }
  bool timed_out() const { return end_ == Procedure::End::kTimeout; }
  // Null if it is as if the time were up.
  void AnswerEnd(Step* step) const;

 private:
  absl::Duration pause_ = absl::ZeroDuration();  // the last one
  absl::optional<Procedure::End> end_;
};

}  // namespace proxy
