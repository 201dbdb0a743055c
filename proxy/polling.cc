#include "proxy/polling.h"

#include <algorithm>
#include <string>
#include <utility>

#include "proxy/worker.h"

namespace proxy {
namespace {

constexpr absl::Duration kPauseMin = absl::Milliseconds(10);
constexpr absl::Duration kPauseMax = absl::Milliseconds(100);
// All pauses end at a multiple of this: those that end together are woken together, and ask in one
// send.
constexpr absl::Duration kGrid = absl::Milliseconds(10);
// What all that wait in one worker may ask of the nodes.
constexpr double kAsksPerSecond = 20000;
constexpr absl::Duration kPatienceMin = absl::Milliseconds(100);

constexpr absl::string_view kUnblocked = "UNBLOCKED client unblocked via CLIENT UNBLOCK";

}  // namespace

void Poll::Pause(Step* step, size_t replies, cluster::Slot slot, absl::Time until) {
  const Worker& worker = *step->worker;
  // Nearly all that is held waits for the end of a pause.
  const double waiting = static_cast<double>(step->worker->stats()->held_requests.Get() + 1);
  const absl::Duration bearable =
      absl::Seconds(waiting * static_cast<double>(replies) / kAsksPerSecond);
  pause_ = std::clamp(pause_ * 2, kPauseMin, kPauseMax);
  const absl::Time wanted = worker.now() + std::max(pause_, bearable);
  const absl::Time on_grid = absl::UnixEpoch() + absl::Ceil(wanted - absl::UnixEpoch(), kGrid);
  Ask ask;
  ask.to = Ask::To::kNobody;
  ask.slot = slot;
  ask.command = cluster::FindCommand("PING");
  ask.not_before = std::min(on_grid, until);
  step->asks.clear();
  step->asks.push_back(std::move(ask));
}

absl::Duration Poll::Patience(absl::Time now, absl::Time until) {
  return std::max(kPatienceMin, until - now);
}

void Poll::AnswerEnd(Step* step) const {
  step->asks.clear();
  switch (*end_) {
    case Procedure::End::kTimeout: {
      std::string null;
      resp::Encoder(step->protocol, &null).NullArray();
      return step->Answer(null);
    }
    case Procedure::End::kError:
      return step->AnswerError(kUnblocked);
    case Procedure::End::kClose:
      step->close = true;
      return;
  }
}

}  // namespace proxy
