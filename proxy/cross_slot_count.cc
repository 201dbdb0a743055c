// PFCOUNT over slots: the values are fetched, and their registers put together here. No node writes
// anything, as it does when it counts one key (it keeps the number for the next time).

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "proxy/cross_slot.h"
#include "proxy/every_node.h"
#include "proxy/hyperloglog.h"
#include "proxy/step_time.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

// So many values are fetched in a step: each takes 12 KiB at most, if it is one.
constexpr size_t kFetchesMax = 64;
constexpr size_t kValueBytesMax = 16 << 10;

constexpr absl::string_view kNotOne = "WRONGTYPE Key is not a valid HyperLogLog string value.";
constexpr absl::string_view kCorrupted = "INVALIDOBJ Corrupted HLL object detected";

class CountOverSlots final : public Procedure {
 public:
  CountOverSlots(Worker* worker, absl::Span<const absl::string_view> args,
                 absl::Span<const uint32_t> keys)
      : worker_(worker), union_(std::make_unique<HyperLogLog>()) {
    held_bytes_ = sizeof(HyperLogLog);
    for (const uint32_t key : keys) {
      keys_.emplace_back(args[key]);
      held_bytes_ += sizeof(std::string) + args[key].size();
    }
  }

  void Next(Step* step) override {
    if (step->asks.empty()) time_.Begin(*worker_);
    // The first key that is wrong says so, as at a server.
    for (Ask& ask : step->asks) {
      if (!Take(step, &ask)) return;
    }
    if (next_ == keys_.size()) {
      std::string text;
      resp::Encoder(step->protocol, &text).Integer(static_cast<int64_t>(union_->Count()));
      return step->Answer(text);
    }
    AskOn(step);
  }
  size_t held_bytes() const override { return held_bytes_; }
  // Also of one value that is something else, and large.
  size_t reply_bytes_max() const override { return held_bytes_ + kFetchesMax * kValueBytesMax; }

 private:
  // False: it has answered.
  bool Take(Step* step, Ask* ask) {
    if (ask->failed()) {
      step->reply = std::move(ask->reply);
      return false;
    }
    const std::string reply = ask->reply.Flatten();
    if (resp::IsNullBulk(reply)) return true;
    absl::string_view value;
    HyperLogLog::Outcome outcome = HyperLogLog::Outcome::kNotOne;
    if (!ask->cut) {
      if (!resp::ParseText(reply, &value)) {
        step->AnswerError(kBadReplyError);
        return false;
      }
      outcome = union_->Merge(value);
    }
    if (outcome == HyperLogLog::Outcome::kOk) return true;
    step->AnswerError(outcome == HyperLogLog::Outcome::kNotOne ? kNotOne : kCorrupted);
    return false;
  }

  void AskOn(Step* step) {
    if (time_.IsOver(*worker_)) return step->AnswerError(kNoTimeLeftError);
    step->asks.clear();
    const size_t end = std::min(keys_.size(), next_ + kFetchesMax);
    for (; next_ < end; ++next_) {
      const std::string& key = keys_[next_];
      Ask ask = AskOfKey(*cluster::FindCommand("GET"), key, MakeFrame({"GET", key}));
      ask.patience = time_.Patience(*worker_);
      step->asks.push_back(std::move(ask));
    }
  }

  Worker* const worker_;
  const std::unique_ptr<HyperLogLog> union_;
  std::vector<std::string> keys_;
  size_t next_ = 0;  // to be asked for
  StepTime time_;
  size_t held_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Procedure> MakeCountOverSlots(Worker* worker, const cluster::CommandSpec& command,
                                              absl::Span<const absl::string_view> args,
                                              absl::Span<const uint32_t> keys) {
  if (command.name != "PFCOUNT" || !command.container.empty()) return nullptr;
  return std::make_unique<CountOverSlots>(worker, args, keys);
}

}  // namespace proxy
