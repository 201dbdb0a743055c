#include "proxy/cross_slot_transaction.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "cluster/split.h"
#include "proxy/every_node.h"
#include "proxy/request.h"
#include "proxy/step_time.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

// An error names so many ranges of commands.
constexpr int kRangesMax = 16;

bool IsNull(const io::Rope& reply) {
  if (reply.size() > 5) return false;
  return resp::IsNullArray(reply.Flatten());
}

// "1-3,6": of the commands with this state, counted from 1.
template <typename State>
std::string RangesOf(const std::vector<State>& states, State wanted) {
  std::string text;
  int ranges = 0;
  for (size_t i = 0; i < states.size(); ++i) {
    if (states[i] != wanted) continue;
    size_t last = i;
    while (last + 1 < states.size() && states[last + 1] == wanted) ++last;
    if (++ranges > kRangesMax) return text + ",...";
    absl::StrAppend(&text, text.empty() ? "" : ",", i + 1);
    if (last > i) absl::StrAppend(&text, "-", last + 1);
    i = last;
  }
  return text;
}

class CrossSlotTransaction final : public Procedure {
 public:
  CrossSlotTransaction(Worker* worker, const cluster::CommandSpec& exec, CrossSlotQueue queue,
                       std::shared_ptr<Watch> watch)
      : worker_(worker), exec_(exec), queue_(std::move(queue)), watch_(std::move(watch)) {
    MakeOrder();
    replies_.resize(queue_.parts.size());
  }
  // Its client may have gone before the watched part was sent.
  ~CrossSlotTransaction() override {
    if (watch_ != nullptr) watch_->Release(*worker_, false);
  }

  size_t held_bytes() const override { return held_bytes_; }

  void Next(Step* step) override {
    if (step->asks.empty()) {
      time_.Begin(*worker_);
    } else {
      Ask& ask = step->asks[0];
      if (ask.failed()) return Fail(step, ask.ErrorLine(), ask.may_have_run());
      // A watched key has changed: nothing has run.
      if (watch_ != nullptr && done_ == 0 && IsNull(ask.reply)) {
        step->reply = std::move(ask.reply);
        return;
      }
      if (!IsReplyOf(queue_.parts[order_[done_]], ask.reply)) {
        return Fail(step, kBadReplyError, true);
      }
      held_bytes_ += ask.reply.size();
      replies_[order_[done_++]] = std::move(ask.reply);
    }
    if (done_ == order_.size()) return Merge(step);
    AskNext(step);
  }

 private:
  enum class State : uint8_t { kRan, kInPart, kUnknown, kNot };

  // Those of the first commands, but for the watched one.
  void MakeOrder() {
    for (uint32_t i = 0; i < queue_.parts.size(); ++i) order_.push_back(i);
    if (watch_ == nullptr) return;
    const auto watched = std::find_if(order_.begin(), order_.end(), [&](uint32_t part) {
      return queue_.parts[part].slot == watch_->slot;
    });
    if (watched != order_.end()) {
      std::rotate(order_.begin(), watched, watched + 1);
      return;
    }
    // Nothing is queued there: an empty block says whether a key has changed.
    order_.insert(order_.begin(), static_cast<uint32_t>(queue_.parts.size()));
    queue_.parts.emplace_back().slot = watch_->slot;
  }

  static bool IsReplyOf(const CrossSlotQueue::Part& part, const io::Rope& reply) {
    const auto views = reply.Views();
    return resp::ElementReader(views).count() == int64_t{part.count};
  }

  void AskNext(Step* step) {
    if (time_.IsOver(*worker_)) return Fail(step, kNoTimeLeftError, false);
    CrossSlotQueue::Part& part = queue_.parts[order_[done_]];
    Ask ask;
    ask.slot = *part.slot;
    ask.command = &exec_;
    ask.frame = BurstBytesOf(part.commands);
    part.commands.Clear();
    ask.is_burst = true;
    ask.burst_commands = part.count;
    if (done_ == 0) ask.watch = watch_;
    ask.patience = time_.Patience(*worker_);
    step->asks.clear();
    step->asks.push_back(std::move(ask));
  }

  // The part under way has failed. If its commands have not run, nor have others, the error is that
  // of the whole.
  void Fail(Step* step, absl::string_view line, bool may_have_run) {
    if (done_ == 0 && !may_have_run) {
      step->reply = std::move(step->asks[0].reply);
      return;
    }
    // The watched one, without commands.
    if (done_ == 0 && queue_.parts[order_[0]].count == 0) {
      return step->AnswerError(absl::StrCat("ERR proxy: ", ToldWithin(line), " (not executed)"));
    }
    worker_->stats()->cross_slot_partly.Add(1);
    std::vector<State> part_states(queue_.parts.size(), State::kNot);
    for (size_t i = 0; i < done_; ++i) part_states[order_[i]] = State::kRan;
    if (may_have_run) part_states[order_[done_]] = State::kUnknown;
    std::vector<State> states;
    for (const CrossSlotQueue::Command& command : queue_.commands) {
      states.push_back(StateOf(command, part_states));
    }
    std::string text = "ERR proxy: partly executed";
    const auto tell = [&](absl::string_view what, State state) {
      const std::string ranges = RangesOf(states, state);
      if (!ranges.empty()) absl::StrAppend(&text, ", ", what, " ", ranges);
    };
    tell("ran:", State::kRan);
    tell("in part:", State::kInPart);
    tell("unknown:", State::kUnknown);
    tell("not:", State::kNot);
    step->AnswerError(absl::StrCat(text, ", ", ToldWithin(line), " (outcome unknown)"));
  }

  State StateOf(const CrossSlotQueue::Command& command,
                const std::vector<State>& part_states) const {
    if (command.split == CrossSlotQueue::kNoSplit) return part_states[command.part];
    const std::vector<uint32_t>& parts = queue_.splits[command.split].parts;
    const State first = part_states[parts[0]];
    const bool alike = std::all_of(parts.begin(), parts.end(),
                                   [&](uint32_t part) { return part_states[part] == first; });
    return alike ? first : State::kInPart;
  }

  // The replies of all commands, in the client's order.
  void Merge(Step* step) {
    std::vector<absl::InlinedVector<absl::string_view, 4>> views;
    std::vector<resp::ElementReader> readers;
    std::vector<io::RopeRanges> ranges;
    views.reserve(replies_.size());
    readers.reserve(replies_.size());
    ranges.reserve(replies_.size());
    for (const io::Rope& reply : replies_) {
      views.push_back(reply.Views());
      readers.emplace_back(views.back());
      ranges.emplace_back(reply);
    }
    // A part's replies are taken in its order.
    const auto take = [&](uint32_t part, io::Rope* out) {
      resp::ArgPosition element;
      if (!readers[part].Next(&element)) return false;
      ranges[part].AppendTo(element.offset, element.length, out);
      return true;
    };
    io::Rope merged;
    std::string text;  // small ones are copied: each would be a part of a send
    resp::Encoder(step->protocol, &text).Array(static_cast<int64_t>(queue_.commands.size()));
    for (const CrossSlotQueue::Command& command : queue_.commands) {
      io::Rope element;
      if (command.split == CrossSlotQueue::kNoSplit) {
        if (!take(command.part, &element)) return step->AnswerError(kBadReplyError);
      } else {
        const CrossSlotQueue::Split& split = queue_.splits[command.split];
        std::vector<std::string> elements;
        for (const uint32_t part : split.parts) {
          io::Rope one;
          if (!take(part, &one)) return step->AnswerError(kBadReplyError);
          elements.push_back(one.Flatten());
        }
        element = io::Rope(io::CopyToHeap(MergeSplit(split, elements)));
      }
      if (element.size() < kCopyBytes) {
        text += element.Flatten();
        continue;
      }
      if (!text.empty()) merged.Append(io::CopyToHeap(std::exchange(text, std::string())));
      merged.Append(element);
    }
    if (!text.empty()) merged.Append(io::CopyToHeap(text));
    step->reply = std::move(merged);
  }

  static std::string MergeSplit(const CrossSlotQueue::Split& split,
                                const std::vector<std::string>& replies) {
    cluster::MergedStatus status(split.command->merge);
    for (const std::string& reply : replies) status.Add(reply, true);
    if (status.failed() || split.command->merge != cluster::Merge::kInKeyOrder) {
      return status.Reply();
    }
    std::vector<std::vector<absl::string_view>> values;
    for (const std::string& reply : replies) values.push_back(resp::ElementsOf(reply));
    std::vector<size_t> taken(replies.size(), 0);
    std::string merged = absl::StrCat("*", split.plan.fragment_of_key.size(), "\r\n");
    for (const uint32_t fragment : split.plan.fragment_of_key) {
      if (taken[fragment] == values[fragment].size()) {
        return absl::StrCat("-", kBadReplyError, "\r\n");
      }
      const absl::string_view value = values[fragment][taken[fragment]++];
      merged.append(value.data(), value.size());
    }
    return merged;
  }

  Worker* const worker_;
  const cluster::CommandSpec& exec_;
  CrossSlotQueue queue_;
  const std::shared_ptr<Watch> watch_;  // null: watches nothing
  StepTime time_;
  std::vector<uint32_t> order_;    // in which the parts run
  size_t done_ = 0;                // of `order_`
  std::vector<io::Rope> replies_;  // by part
  size_t held_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Procedure> MakeCrossSlotTransaction(Worker* worker,
                                                    const cluster::CommandSpec& exec,
                                                    CrossSlotQueue queue,
                                                    std::shared_ptr<Watch> watch) {
  return std::make_unique<CrossSlotTransaction>(worker, exec, std::move(queue), std::move(watch));
}

}  // namespace proxy
