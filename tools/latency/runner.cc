#include "tools/latency/runner.h"

#include <algorithm>
#include <ctime>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace latency {
namespace {

constexpr int64_t kSecond = 1000000000;
constexpr int64_t kTurnMax = kSecond / 20;
constexpr int64_t kConnectMax = 5 * kSecond;
constexpr int64_t kCloseMax = 2 * kSecond;
constexpr size_t kBlockBytes = 64 << 10;
constexpr size_t kIdleBlocks = 1024;

// Processor time that this process has used, in seconds.
double OwnCpuSeconds() {
  timespec time = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

}  // namespace

Runner::Runner(const Options* options, io::Ring* ring)
    : options_(options),
      ring_(ring),
      workload_(options->workload),
      blocks_(kBlockBytes, kIdleBlocks),
      arena_(&blocks_),
      silence_max_(static_cast<int64_t>(options->timeout * 1e9)) {
  for (const TargetSpec& spec : options->targets) {
    targets_.push_back(std::make_unique<Target>(spec, &options->load, &workload_, &unflushed_));
  }
  unflushed_.reserve(options->targets.size() * options->load.clients + 1);
}

Runner::~Runner() { arena_.Release(); }

absl::Status Runner::Run() {
  absl::Status status = Begin();
  if (status.ok()) {
    std::vector<Target*> order;
    for (const auto& target : targets_) {
      target->FindProcesses();
      order.push_back(target.get());
    }
    // Drawn anew in each round: whom a target comes after shows in its figures, as what the
    // kernel's scheduler has got used to lasts longer than the warm-up. A fixed or rotating order
    // has one and the same target suffer from that in all rounds.
    std::mt19937_64 random;
    for (int round = 0; round < options_->rounds; ++round) {
      std::shuffle(order.begin(), order.end(), random);
      for (Target* target : order) Measure(target);
    }
  }
  Close();
  return status;
}

absl::Status Runner::Begin() {
  for (const auto& target : targets_) {
    const auto failure = [&](absl::string_view why) {
      return absl::UnavailableError(
          absl::StrCat(target->spec().name, " (", target->spec().address.ToString(), "): ", why));
    };
    const absl::Status status =
        target->Open(ring_, &arena_, static_cast<uint32_t>(sessions_.size()));
    for (const auto& session : target->sessions()) sessions_.push_back(session.get());
    if (!status.ok()) return failure(status.message());
    const bool done =
        TurnUntil(ClockNs() + kConnectMax, [&] { return target->ready() || target->failed(); });
    if (target->failed()) return failure(target->failure());
    if (!done) return failure("no connection in time");
  }
  if (!options_->workload.prefill) return absl::OkStatus();
  for (const auto& target : targets_) Fill(target.get());
  return absl::OkStatus();
}

void Runner::Fill(Target* target) {
  target->BeginFill(ClockNs());
  const bool filled = TurnUntil(INT64_MAX, [&] {
    return target->filled() || target->failed() || ClockNs() - target->last_answer() > silence_max_;
  });
  if (!filled || !target->filled())
    target->Fail(absl::StrCat("no reply for ", options_->timeout, " s while it was filled"));
}

void Runner::Measure(Target* target) {
  if (target->failed()) return;
  const auto failed = [target] { return target->failed(); };
  current_ = target;
  const int64_t begin = ClockNs();
  target->BeginLoad(begin);
  TurnUntil(begin + static_cast<int64_t>(options_->warm_up * 1e9), failed);
  const double cpu = OwnCpuSeconds();
  const int64_t window = ClockNs();
  const int64_t end = window + static_cast<int64_t>(options_->seconds * 1e9);
  target->BeginWindow(window, end);
  TurnUntil(end, failed);
  const int64_t ended = ClockNs();
  const double generator_seconds = OwnCpuSeconds() - cpu;
  target->EndWindow(ended);
  // What was due is still sent, for as long again; what could not be is given up.
  TurnUntil(ended + std::max(kSecond, end - window),
            [target] { return target->failed() || !target->has_backlog(); });
  target->DropBacklog(ClockNs());
  TurnUntil(INT64_MAX, [this, target] {
    return target->failed() || target->in_flight() == 0 ||
           ClockNs() - target->last_answer() > silence_max_;
  });
  current_ = nullptr;
  if (target->in_flight() > 0) target->Fail(absl::StrCat("no reply for ", options_->timeout, " s"));
  if (!target->failed()) target->FinishRound(generator_seconds);
}

void Runner::Close() {
  for (const auto& target : targets_) target->BeginClose();
  TurnUntil(ClockNs() + kCloseMax, [this] {
    return std::all_of(targets_.begin(), targets_.end(),
                       [](const auto& target) { return target->closed(); });
  });
}

template <typename Done>
bool Runner::TurnUntil(int64_t end, const Done& done) {
  while (true) {
    if (done()) return true;
    if (ClockNs() >= end) return false;
    Turn(end);
  }
}

// A request's time begins just before it is given to the kernel, and ends when the turn that brings
// its reply begins. What this process does in between, for other clients, counts for no one.
void Runner::Turn(int64_t end) {
  int64_t now = ClockNs();
  if (current_ != nullptr) {
    current_->StartDue(now);
    end = std::min(end, current_->NextDue());
  }
  now = ClockNs();
  for (Session* session : unflushed_) session->Flush(now);
  unflushed_.clear();
  const absl::Duration limit = absl::Nanoseconds(std::clamp<int64_t>(end - now, 0, kTurnMax));
  const size_t n = ring_->SubmitAndWait(limit, absl::MakeSpan(completions_));
  now = ClockNs();
  for (size_t i = 0; i < n; ++i) {
    sessions_[completions_[i].token.index()]->OnCompletion(&completions_[i], now);
    completions_[i].data = io::Slice();
  }
}

}  // namespace latency
