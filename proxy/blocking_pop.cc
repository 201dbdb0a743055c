#include "proxy/blocking_pop.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "proxy/every_node.h"
#include "proxy/local_handlers.h"
#include "proxy/polling.h"
#include "proxy/server_info.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

constexpr absl::string_view kWrongType = "WRONGTYPE ";

// How a command is served: what takes without waiting, and what tells how much there is.
struct PopKind {
  absl::string_view name;
  absl::string_view pop;
  absl::string_view length;
  bool counted;  // "pop 1 key <what followed the keys>"; its reply is that of the command
};
constexpr PopKind kPopKinds[] = {
    {"BLPOP", "LPOP", "LLEN", false},        {"BRPOP", "RPOP", "LLEN", false},
    {"BZPOPMIN", "ZPOPMIN", "ZCARD", false}, {"BZPOPMAX", "ZPOPMAX", "ZCARD", false},
    {"BLMPOP", "LMPOP", "LLEN", true},       {"BZMPOP", "ZMPOP", "ZCARD", true},
};

const PopKind* FindPopKind(const cluster::CommandSpec& command) {
  if (!command.container.empty()) return nullptr;
  const auto it = std::find_if(std::begin(kPopKinds), std::end(kPopKinds),
                               [&](const PopKind& kind) { return kind.name == command.name; });
  return it == std::end(kPopKinds) ? nullptr : it;
}

// Nothing was taken.
bool IsNothing(const io::Rope& reply) {
  if (reply.size() > 5) return false;
  const std::string text = reply.Flatten();
  return resp::IsNull(text) || text == "*0\r\n";
}

class PopOverSlots final : public Procedure {
 public:
  PopOverSlots(const PopKind& kind, std::vector<std::string> keys, std::vector<std::string> options,
               absl::Time until)
      : kind_(kind),
        pop_(*cluster::FindCommand(kind.pop)),
        length_(*cluster::FindCommand(kind.length)),
        keys_(std::move(keys)),
        options_(std::move(options)),
        until_(until) {
    for (const std::string& key : keys_) held_bytes_ += sizeof(key) + key.size();
    for (const std::string& option : options_) held_bytes_ += sizeof(option) + option.size();
  }

  void Next(Step* step) override {
    switch (phase_) {
      case Phase::kBegin:
        candidates_.push_back(0);
        return TakeNext(step);
      case Phase::kPop:
        return OnPopped(step);
      case Phase::kLook:
        return OnLengths(step);
      case Phase::kPause:
        return OnPauseOver(step);
    }
  }

  bool EndWait(End end) override {
    if (!waits_ && end != End::kClose) return false;
    poll_.End(end);
    return waits_;
  }
  size_t held_bytes() const override { return held_bytes_; }

 private:
  enum class Phase : uint8_t { kBegin, kPop, kLook, kPause };

  void Ask(Step* step, const cluster::CommandSpec& command, uint32_t key, io::Rope frame) const {
    step->asks.push_back(AskOfKey(command, keys_[key], std::move(frame)));
  }

  io::Rope PopFrame(uint32_t key) const {
    std::vector<absl::string_view> args = {kind_.pop};
    if (kind_.counted) args.push_back("1");
    args.push_back(keys_[key]);
    args.insert(args.end(), options_.begin(), options_.end());
    return MakeFrame(args);
  }

  // From the next one that has, or had, something.
  void TakeNext(Step* step) {
    step->asks.clear();
    if (next_candidate_ < candidates_.size()) {
      phase_ = Phase::kPop;
      const uint32_t key = candidates_[next_candidate_++];
      return Ask(step, pop_, key, PopFrame(key));
    }
    if (!looked_) return Look(step);
    Pause(step);
  }

  void OnPopped(Step* step) {
    proxy::Ask& ask = step->asks[0];
    if (ask.failed()) {
      if (poll_.ended() && !ask.handed_over) return poll_.AnswerEnd(step);
      // What waits does not look at what is not of its type, but for the servers that try all keys
      // anew when there is something in one of them.
      if (waits_ && absl::StartsWith(ask.ErrorLine(), kWrongType) && !TriesAllAnew(*step->worker)) {
        return TakeNext(step);
      }
      step->reply = std::move(ask.reply);
      return;
    }
    if (IsNothing(ask.reply)) return TakeNext(step);
    if (kind_.counted) {
      step->reply = std::move(ask.reply);
      return;
    }
    AnswerWithKey(step, keys_[candidates_[next_candidate_ - 1]]);
  }

  // The key before the element, or before the element and its score.
  void AnswerWithKey(Step* step, absl::string_view key) const {
    const io::Rope& popped = step->asks[0].reply;
    const auto views = popped.Views();
    resp::PieceCursor cursor(views);
    char type = 0;
    int64_t count = 1;
    size_t begin = 0;
    if (kind_.length == "ZCARD") {
      if (!cursor.TakeHeader(&type, &count) || type != '*' || count != 2) {
        return step->AnswerError(kBadReplyError);
      }
      begin = static_cast<size_t>(cursor.offset());
    }
    std::string header;
    resp::Encoder encoder(step->protocol, &header);
    encoder.Array(count + 1);
    encoder.Bulk(key);
    io::Rope reply(io::CopyToHeap(header));
    io::RopeRanges(popped).AppendTo(begin, popped.size() - begin, &reply);
    step->reply = std::move(reply);
  }

  // At all of them; at first, the first one is known to be empty.
  void Look(Step* step) {
    phase_ = Phase::kLook;
    step->asks.clear();
    for (uint32_t key = waits_ ? 0 : 1; key < keys_.size(); ++key) {
      Ask(step, length_, key, MakeFrame({kind_.length, keys_[key]}));
      step->asks.back().patience = poll_.Patience(step->worker->now(), until_);
    }
  }

  void OnLengths(Step* step) {
    looked_ = true;
    const uint32_t first_key = waits_ ? 0 : 1;
    candidates_.clear();
    next_candidate_ = 0;
    bool something = false;
    proxy::Ask* failed = nullptr;
    for (size_t i = 0; i < step->asks.size(); ++i) {
      proxy::Ask& ask = step->asks[i];
      int64_t length = 0;
      if (resp::ParseInteger(ask.reply.Flatten(), &length)) {
        if (length <= 0) continue;
        something = true;
      } else if (!ask.failed() || !absl::StartsWith(ask.ErrorLine(), kWrongType)) {
        if (failed == nullptr) failed = &ask;
        continue;
      } else if (waits_ && !TriesAllAnew(*step->worker)) {
        continue;
      }
      // What is of another type tells so when it is its turn.
      candidates_.push_back(first_key + static_cast<uint32_t>(i));
    }
    if (waits_ && !something) candidates_.clear();
    // What was there when the command came is taken all the same.
    if (poll_.ended() && (waits_ || !something)) return poll_.AnswerEnd(step);
    if (!candidates_.empty()) return TakeNext(step);
    if (failed == nullptr) return Pause(step);
    // Its node could not be asked for as long as the client was ready to wait.
    if (!failed->handed_over && until_ <= step->worker->now()) return AnswerNothing(step);
    step->reply = std::move(failed->reply);
    if (step->reply.empty()) step->AnswerError(kBadReplyError);
  }

  void Pause(Step* step) {
    if (poll_.ended()) return poll_.AnswerEnd(step);
    if (until_ <= step->worker->now()) return AnswerNothing(step);
    phase_ = Phase::kPause;
    waits_ = true;
    poll_.Pause(step, keys_.size(), cluster::SlotOf(keys_[0]), until_);
  }

  void OnPauseOver(Step* step) {
    if (poll_.ended()) return poll_.AnswerEnd(step);
    proxy::Ask& ask = step->asks[0];
    if (ask.failed()) {
      if (until_ <= step->worker->now()) return AnswerNothing(step);
      step->reply = std::move(ask.reply);
      return;
    }
    Look(step);
  }

  static void AnswerNothing(Step* step) {
    std::string null;
    resp::Encoder(step->protocol, &null).NullArray();
    step->Answer(null);
  }

  static bool TriesAllAnew(const Worker& worker) {
    const ClusterState* const cluster = worker.cluster();
    return cluster != nullptr && !IsBeforeRedis72(cluster->server);
  }

  const PopKind& kind_;
  const cluster::CommandSpec& pop_;
  const cluster::CommandSpec& length_;
  const std::vector<std::string> keys_;
  const std::vector<std::string> options_;  // behind the keys, of what is counted
  const absl::Time until_;
  size_t held_bytes_ = 0;
  Phase phase_ = Phase::kBegin;
  bool looked_ = false;               // at all keys
  bool waits_ = false;                // found nothing when it came
  std::vector<uint32_t> candidates_;  // numbers of keys, in order
  size_t next_candidate_ = 0;
  Poll poll_;
};

}  // namespace

bool IsPop(const cluster::CommandSpec& command) { return FindPopKind(command) != nullptr; }

std::unique_ptr<Procedure> MakePopOverSlots(const Worker& worker,
                                            const cluster::CommandSpec& command,
                                            absl::Span<const absl::string_view> args,
                                            absl::Span<const uint32_t> keys, std::string* error) {
  const PopKind& kind = *FindPopKind(command);
  const ClusterState* const cluster = worker.cluster();
  const bool old_texts = cluster != nullptr && IsBeforeRedis72(cluster->server);
  absl::Time until = absl::InfiniteFuture();
  if (!ParseTimeout(args[kind.counted ? 1 : args.size() - 1], false, old_texts, worker.now(),
                    &until, error)) {
    return nullptr;
  }
  std::vector<std::string> names;
  for (const uint32_t index : keys) names.emplace_back(args[index]);
  std::vector<std::string> options;
  if (kind.counted) {
    for (const absl::string_view arg : args.subspan(keys.back() + 1)) options.emplace_back(arg);
    // With no side named, no node would see what is wrong.
    if (options.empty()) {
      *error = "ERR syntax error";
      return nullptr;
    }
  }
  return std::make_unique<PopOverSlots>(kind, std::move(names), std::move(options), until);
}

}  // namespace proxy
