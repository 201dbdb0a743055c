// SUNION, SINTER, SDIFF, SINTERCARD, ZUNION, ZINTER, ZDIFF, ZINTERCARD and their STORE forms over
// slots: the keys' types and sizes are asked for first, as a server looks at all of them before it
// begins; then their contents, as many at a time as fit, each combined with what there is so far.
// Of a key that is larger than that, an intersection or a difference asks only for those members.
// The result goes to the client, or in one block to the destination's node.

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proxy/cross_slot.h"
#include "proxy/every_node.h"
#include "proxy/local_handlers.h"
#include "proxy/server_info.h"
#include "proxy/set_algebra.h"
#include "proxy/set_command.h"
#include "proxy/step_time.h"
#include "proxy/transaction.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

constexpr absl::string_view kWrongType = "WRONGTYPE ";
constexpr absl::string_view kSyntaxError = "ERR syntax error";
// So many keys are looked at in a step, and so many fetched.
constexpr size_t kLooksMax = 128;
constexpr size_t kFetchesMax = 16;
// A key whose type changes meanwhile is looked at anew, with all others.
constexpr int kRoundsMax = 3;
// What is written, or asked for, goes in commands of so many members, and in pieces of so many
// bytes.
constexpr size_t kMembersPerCommand = 1000;
constexpr size_t kPieceBytes = 64 << 10;

using Result = SetCommand::Result;

// A long text that becomes a rope piece by piece.
class RopeWriter {
 public:
  std::string* text() { return &text_; }
  void Written() {
    if (text_.size() >= kPieceBytes) Cut();
  }
  io::Rope Take() {
    Cut();
    return std::move(rope_);
  }

 private:
  void Cut() {
    if (!text_.empty()) rope_.Append(io::CopyToHeap(text_));
    text_.clear();
  }
  std::string text_;
  io::Rope rope_;
};

class SetsOverSlots final : public Procedure {
 public:
  SetsOverSlots(Worker* worker, const SetCommand& command, absl::Span<const absl::string_view> args,
                absl::Span<const uint32_t> keys)
      : worker_(worker), command_(command) {
    const absl::Span<const uint32_t> sources =
        keys.subspan(command.result == Result::kStore ? 1 : 0);
    valid_ = ParseSetOptions(command, args.subspan(sources.back() + 1), sources.size(), &options_);
    // The servers look at the options of sorted sets' commands behind the keys, of sets' before.
    if (!valid_ && !command.sorted) wrong_from_the_start_ = true;
    if (command.sorted || command.result == Result::kCount) {
      // Where the keys are is found by any text that begins with a number.
      int64_t count = 0;
      if (!resp::ParseDecimal(args[sources[0] - 1], &count)) wrong_from_the_start_ = true;
    }
    valid_ &= !wrong_from_the_start_;
    if (command.result == Result::kStore) destination_ = std::string(args[keys[0]]);
    if (!valid_) invalid_ = InvalidCommand(args, sources);
    NoteKeys(args, sources);
  }

  void Next(Step* step) override {
    switch (phase_) {
      case Phase::kBegin:
        time_.Begin(*worker_);
        return wrong_from_the_start_ ? AskWhatIsInvalid(step) : LookOn(step);
      case Phase::kLook:
        return OnLooked(step);
      case Phase::kInvalid:
        return OnInvalid(step);
      case Phase::kFetch:
        return OnFetched(step);
      case Phase::kProbe:
        return OnProbed(step);
      case Phase::kStore:
        return OnStored(step);
    }
  }
  size_t held_bytes() const override { return held_bytes_; }
  size_t reply_bytes_max() const override { return worker_->config().cross_slot_bytes_max; }

 private:
  enum class Phase : uint8_t { kBegin, kLook, kInvalid, kFetch, kProbe, kStore };

  struct Key {
    std::string name;
    uint32_t uses = 0;   // as an operand
    bool is_set = true;  // else a sorted set
    uint64_t size = 0;   // when it was looked at
    // Once it is fetched:
    bool fetched = false;
    uint32_t uses_left = 0;
    std::string content;
    std::vector<ScoredMember> members;  // views into `content`
  };

  void NoteKeys(absl::Span<const absl::string_view> args, absl::Span<const uint32_t> sources) {
    absl::flat_hash_map<absl::string_view, uint32_t> numbers;
    for (const uint32_t source : sources) {
      const auto [place, is_new] =
          numbers.try_emplace(args[source], static_cast<uint32_t>(keys_.size()));
      if (is_new) {
        keys_.emplace_back().name = std::string(args[source]);
        held_bytes_ += sizeof(Key) + keys_.back().name.size();
      }
      ++keys_[place->second].uses;
      operands_.push_back(place->second);
    }
    held_bytes_ += operands_.size() * (sizeof(uint32_t) + sizeof(double));
  }

  // The command with the first key in the place of each: some node says what is wrong with the
  // options. It only reads.
  io::Rope InvalidCommand(absl::Span<const absl::string_view> args,
                          absl::Span<const uint32_t> sources) {
    std::vector<absl::string_view> words(args.begin(), args.end());
    for (const uint32_t source : sources) words[source] = args[sources[0]];
    absl::string_view name = command_.name;
    if (absl::ConsumeSuffix(&name, "STORE")) words.erase(words.begin() + 1);
    words[0] = name;
    invalid_name_ = name;
    io::Rope frame = MakeFrame(words);
    held_bytes_ += frame.size();
    return frame;
  }

  Ask MakeAsk(absl::string_view command, absl::string_view key, io::Rope frame) const {
    Ask ask = AskOfKey(*cluster::FindCommand(command), key, std::move(frame));
    ask.patience = time_.Patience(*worker_);
    return ask;
  }

  // --- types and sizes

  void LookOn(Step* step) {
    if (time_.IsOver(*worker_)) return step->AnswerError(kNoTimeLeftError);
    phase_ = Phase::kLook;
    step->asks.clear();
    const size_t end = std::min(keys_.size(), looked_ + kLooksMax);
    for (size_t i = looked_; i < end; ++i) {
      const std::string& name = keys_[i].name;
      step->asks.push_back(MakeAsk("SCARD", name, MakeFrame({"SCARD", name})));
      if (command_.sorted) {
        step->asks.push_back(MakeAsk("ZCARD", name, MakeFrame({"ZCARD", name})));
      }
    }
  }

  void OnLooked(Step* step) {
    const size_t asks_per_key = command_.sorted ? 2 : 1;
    for (size_t i = 0; i < step->asks.size(); i += asks_per_key) {
      Key& key = keys_[looked_++];
      key.size = 0;
      size_t wrong = 0;
      for (size_t j = 0; j < asks_per_key; ++j) {
        Ask& ask = step->asks[i + j];
        int64_t size = 0;
        if (IsWrongType(ask)) {
          ++wrong;
        } else if (!resp::ParseInteger(ask.reply.Flatten(), &size) || size < 0) {
          return AnswerWith(step, &ask);
        } else if (size > 0) {
          key.size = static_cast<uint64_t>(size);
          key.is_set = j == 0;
        }
      }
      if (wrong == asks_per_key) return AnswerWith(step, &step->asks[i]);
    }
    if (looked_ < keys_.size()) return LookOn(step);
    if (!valid_) return AskWhatIsInvalid(step);
    Begin(step);
  }

  static bool IsWrongType(const Ask& ask) {
    return ask.failed() && absl::StartsWith(ask.ErrorLine(), kWrongType);
  }

  // An error, or what should be one.
  static void AnswerWith(Step* step, Ask* ask) {
    if (!ask->failed()) return step->AnswerError(kBadReplyError);
    step->reply = std::move(ask->reply);
  }

  void AskWhatIsInvalid(Step* step) {
    phase_ = Phase::kInvalid;
    step->asks.clear();
    step->asks.push_back(MakeAsk(invalid_name_, keys_[0].name, std::move(invalid_)));
  }

  void OnInvalid(Step* step) {
    if (!step->asks[0].failed()) return step->AnswerError(kSyntaxError);
    step->reply = std::move(step->asks[0].reply);
  }

  // --- contents

  void Begin(Step* step) {
    std::vector<uint64_t> sizes;
    sizes.reserve(operands_.size());
    for (const uint32_t key : operands_) sizes.push_back(keys_[key].size);
    order_ = OrderOfOperands(command_.operation, sizes);
    combination_ = std::make_unique<SetCombination>(command_.operation, options_.aggregate);
    next_ = 0;
    const uint64_t first = sizes[order_[0]];
    const bool first_decides = command_.operation != SetOperation::kUnion;
    if (first_decides && first == 0) return Finish(step);
    // At least so many will have to be here at a time.
    uint64_t members = 0;
    for (const Key& key : keys_) members += key.size;
    if (first_decides) members = first;
    if (members > reply_bytes_max() / SetCombination::kMemberBytes) return TooLarge(step);
    for (Key& key : keys_) {
      key.uses_left = key.uses;
      key.fetched = key.size == 0;
    }
    Combine(step);
  }

  void TooLarge(Step* step) { step->AnswerError(kTooLargeOverSlotsError); }

  // All that is here; then the next ones are fetched, or it is done.
  void Combine(Step* step) {
    for (; next_ < order_.size() && !combination_->stays_empty(); ++next_) {
      const uint32_t operand = order_[next_];
      Key& key = keys_[operands_[operand]];
      if (!key.fetched) return IsToBeProbed(next_) ? Probe(step) : FetchOn(step);
      const uint64_t before = combination_->size();
      combination_->Add(key.members, options_.weights[operand]);
      const uint64_t after = combination_->size();
      if (after > before) NoteCombined((after - before) * SetCombination::kMemberBytes);
      if (--key.uses_left == 0) Release(&key);
      if (held_bytes_ > reply_bytes_max()) return TooLarge(step);
    }
    Finish(step);
  }

  void NoteCombined(size_t bytes) {
    combined_bytes_ += bytes;
    held_bytes_ += bytes;
  }

  // Its names may be needed to the end.
  void Release(Key* key) {
    held_bytes_ -= key->members.size() * sizeof(ScoredMember);
    key->members = {};
    if (command_.operation == SetOperation::kUnion || next_ == 0) return;
    if (key == &keys_[operands_[order_[0]]]) return;
    held_bytes_ -= key->content.size();
    key->content = {};
  }

  void FetchOn(Step* step) {
    if (time_.IsOver(*worker_)) return step->AnswerError(kNoTimeLeftError);
    phase_ = Phase::kFetch;
    step->asks.clear();
    fetching_.clear();
    uint64_t members = 0;
    for (size_t i = next_; i < order_.size() && fetching_.size() < fetches_max_; ++i) {
      const uint32_t number = operands_[order_[i]];
      const Key& key = keys_[number];
      if (key.fetched || absl::c_linear_search(fetching_, number)) continue;
      if (IsToBeProbed(i)) break;
      members += key.size;
      const bool fits = members * SetCombination::kMemberBytes < reply_bytes_max() / 4;
      if (!fetching_.empty() && !fits) break;
      fetching_.push_back(number);
      step->asks.push_back(key.is_set
                               ? MakeAsk("SMEMBERS", key.name, MakeFrame({"SMEMBERS", key.name}))
                               : MakeAsk("ZRANGE", key.name,
                                         MakeFrame({"ZRANGE", key.name, "0", "-1", "WITHSCORES"})));
    }
  }

  void OnFetched(Step* step) {
    bool too_much = false;
    for (size_t i = 0; i < fetching_.size(); ++i) {
      Ask& ask = step->asks[i];
      if (IsWrongType(ask) && ++rounds_ < kRoundsMax) return LookAnew(step);
      if (ask.failed()) return AnswerWith(step, &ask);
      if (too_much || ask.cut) {
        too_much = true;
        continue;
      }
      Key& key = keys_[fetching_[i]];
      key.content = ask.reply.Flatten();
      ask.reply.Clear();
      if (!ParseMembers(key.content, !key.is_set, &key.members)) {
        return step->AnswerError(kBadReplyError);
      }
      held_bytes_ += ContentBytes(key);
      key.fetched = true;
      if (held_bytes_ <= reply_bytes_max()) continue;
      too_much = true;
      DropContent(&key);
      key.fetched = false;
    }
    // Those of this step were too much together; or one is, by itself.
    if (too_much && fetching_.size() == 1) return TooLarge(step);
    if (too_much) fetches_max_ = 1;
    Combine(step);
  }

  static size_t ContentBytes(const Key& key) {
    return key.content.size() + key.members.size() * sizeof(ScoredMember);
  }

  void DropContent(Key* key) {
    held_bytes_ -= ContentBytes(*key);
    key->content = {};
    key->members = {};
  }

  // An operand (its number in `order_`) of which only those members matter that there are so far,
  // or are as soon as the first one is here; and they are much fewer.
  bool IsToBeProbed(size_t number) const {
    if (command_.operation == SetOperation::kUnion || number == 0) return false;
    const uint64_t wanted = next_ == 0 ? keys_[operands_[order_[0]]].size : combination_->size();
    return keys_[operands_[order_[number]]].size / 2 > wanted;
  }

  void Probe(Step* step) {
    probed_ = 0;
    found_.clear();
    names_ = combination_->Names();
    held_bytes_ += ProbeBytes();
    ProbeOn(step);
  }

  size_t ProbeBytes() const {
    return names_.size() * (sizeof(absl::string_view) + sizeof(ScoredMember));
  }

  void ProbeOn(Step* step) {
    if (time_.IsOver(*worker_)) return step->AnswerError(kNoTimeLeftError);
    phase_ = Phase::kProbe;
    step->asks.clear();
    const Key& key = keys_[operands_[order_[next_]]];
    const absl::string_view command = key.is_set ? "SMISMEMBER" : "ZMSCORE";
    for (size_t at = probed_; at < names_.size() && step->asks.size() < kFetchesMax;) {
      std::vector<absl::string_view> words = {command, key.name};
      for (size_t bytes = 0;
           at < names_.size() && words.size() < kMembersPerCommand && bytes < kPieceBytes; ++at) {
        words.push_back(names_[at]);
        bytes += names_[at].size();
      }
      step->asks.push_back(MakeAsk(command, key.name, MakeFrame(words)));
    }
  }

  void OnProbed(Step* step) {
    const bool is_set = keys_[operands_[order_[next_]]].is_set;
    for (Ask& ask : step->asks) {
      if (IsWrongType(ask) && ++rounds_ < kRoundsMax) return LookAnew(step);
      if (ask.failed()) return AnswerWith(step, &ask);
      if (ask.cut) return TooLarge(step);
      if (!TakeFound(ask.reply.Flatten(), is_set)) return step->AnswerError(kBadReplyError);
    }
    if (probed_ < names_.size()) return ProbeOn(step);
    combination_->Add(found_, options_.weights[order_[next_]]);
    EndProbe();
    ++next_;
    Combine(step);
  }

  // The next ones of `names_`: for each a number, or a score, or that there is none.
  bool TakeFound(absl::string_view reply, bool is_set) {
    const std::vector<absl::string_view> elements = resp::ElementsOf(reply);
    if (elements.empty() || elements.size() > names_.size() - probed_) return false;
    for (absl::string_view element : elements) {
      ScoredMember member;
      member.name = names_[probed_++];
      int64_t there = 1;
      if (is_set) {
        if (!resp::ParseInteger(element, &there)) return false;
      } else if (resp::IsNullBulk(element)) {
        there = 0;
      } else if (!TakeScore(&element, &member)) {
        return false;
      }
      if (there != 0) found_.push_back(member);
    }
    return true;
  }

  void EndProbe() {
    held_bytes_ -= ProbeBytes();
    names_ = {};
    found_ = {};
  }

  void LookAnew(Step* step) {
    EndProbe();
    for (Key& key : keys_) DropContent(&key);
    held_bytes_ -= std::exchange(combined_bytes_, 0);
    combination_ = nullptr;
    looked_ = 0;
    LookOn(step);
  }

  // --- the result

  void Finish(Step* step) {
    std::vector<ScoredMember> members =
        command_.sorted ? combination_->TakeSorted() : combination_->Take();
    switch (command_.result) {
      case Result::kMembers:
        return AnswerMembers(step, members);
      case Result::kCount:
        return AnswerCount(step, std::min<uint64_t>(members.size(), options_.limit));
      case Result::kStore:
        return Store(step, members);
    }
  }

  void AnswerCount(Step* step, uint64_t count) const {
    std::string text;
    resp::Encoder(step->protocol, &text).Integer(static_cast<int64_t>(count));
    step->Answer(text);
  }

  void AnswerMembers(Step* step, absl::Span<const ScoredMember> members) const {
    RopeWriter writer;
    resp::Encoder encoder(step->protocol, writer.text());
    const bool resp3 = step->protocol == resp::Protocol::kResp3;
    const auto count = static_cast<int64_t>(members.size());
    if (!command_.sorted) {
      encoder.Set(count);
    } else {
      encoder.Array(options_.with_scores && !resp3 ? 2 * count : count);
    }
    const bool old_scores = HasOldScores();
    for (const ScoredMember& member : members) {
      if (options_.with_scores && resp3) encoder.Array(2);
      encoder.Bulk(member.name);
      if (options_.with_scores) {
        const std::string score =
            member.text.empty() ? ScoreText(member.score, old_scores) : std::string(member.text);
        if (resp3) {
          absl::StrAppend(writer.text(), ",", score, "\r\n");
        } else {
          encoder.Bulk(score);
        }
      }
      writer.Written();
    }
    step->reply = writer.Take();
  }

  bool HasOldScores() const {
    const ClusterState* const cluster = worker_->cluster();
    return cluster != nullptr && IsBeforeRedis72(cluster->server);
  }

  // In one block: what was there goes with it.
  void Store(Step* step, absl::Span<const ScoredMember> members) {
    if (time_.IsOver(*worker_)) return step->AnswerError(kNoTimeLeftError);
    phase_ = Phase::kStore;
    stored_ = members.size();
    RopeWriter writer;
    resp::AppendCommand({"DEL", destination_}, writer.text());
    uint32_t commands = 1;
    for (size_t i = 0; i < members.size(); i += kMembersPerCommand) {
      AppendAdding(members.subspan(i, kMembersPerCommand), &writer);
      ++commands;
    }
    Ask ask = MakeAsk("EXEC", destination_, BurstBytesOf(writer.Take()));
    ask.is_burst = true;
    ask.burst_commands = commands;
    step->asks.clear();
    step->asks.push_back(std::move(ask));
    // What it is made of is not needed any more.
    for (Key& key : keys_) DropContent(&key);
  }

  void AppendAdding(absl::Span<const ScoredMember> members, RopeWriter* writer) const {
    std::vector<std::string> scores;
    std::vector<absl::string_view> words = {command_.sorted ? "ZADD" : "SADD", destination_};
    scores.reserve(members.size());
    for (const ScoredMember& member : members) {
      if (command_.sorted) {
        scores.push_back(ScoreText(member.score, true));
        words.push_back(scores.back());
      }
      words.push_back(member.name);
    }
    resp::AppendCommand(words, writer->text());
    writer->Written();
  }

  void OnStored(Step* step) {
    Ask& ask = step->asks[0];
    if (ask.failed()) return AnswerWith(step, &ask);
    const std::string reply = ask.reply.Flatten();
    for (const absl::string_view element : resp::ElementsOf(reply)) {
      if (!resp::IsErrorFrame(element)) continue;
      return step->AnswerError(absl::StrCat("ERR proxy: partly executed, ",
                                            ToldWithin(resp::ErrorLineOf(element)),
                                            " (outcome unknown)"));
    }
    AnswerCount(step, stored_);
  }

  Worker* const worker_;
  const SetCommand& command_;
  SetOptions options_;
  bool wrong_from_the_start_ = false;  // whatever the keys are
  bool valid_ = false;                 // all but the keys
  absl::string_view invalid_name_;     // else: of the command that a node is asked for the error
  io::Rope invalid_;
  std::string destination_;

  std::vector<Key> keys_;           // each once; never moved, since there are views into it
  std::vector<uint32_t> operands_;  // numbers of keys, in the client's order
  Phase phase_ = Phase::kBegin;
  StepTime time_;
  int rounds_ = 0;
  size_t looked_ = 0;            // so many keys
  std::vector<uint32_t> order_;  // of the operands
  size_t next_ = 0;              // of `order_`
  std::vector<uint32_t> fetching_;
  size_t fetches_max_ = kFetchesMax;
  std::vector<absl::string_view> names_;  // what the next operand is asked for
  size_t probed_ = 0;                     // of `names_`
  std::vector<ScoredMember> found_;       // of these, what it has
  std::unique_ptr<SetCombination> combination_;
  size_t combined_bytes_ = 0;  // what it takes
  uint64_t stored_ = 0;
  size_t held_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Procedure> MakeSetsOverSlots(Worker* worker, const cluster::CommandSpec& command,
                                             absl::Span<const absl::string_view> args,
                                             absl::Span<const uint32_t> keys) {
  const SetCommand* const set = FindSetCommand(command);
  if (set == nullptr) return nullptr;
  return std::make_unique<SetsOverSlots>(worker, *set, args, keys);
}

}  // namespace proxy
