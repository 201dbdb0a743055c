// RENAME, RENAMENX and COPY over slots: the value goes by DUMP and RESTORE, with the time at which
// it expires. A source that is to go is watched before it is read, and deleted only after the
// destination's node has said OK, and only if nobody has changed it meanwhile; else all begins
// anew. So no value is ever lost: at worst both keys are there, and the error says so.

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "proxy/cross_slot.h"
#include "proxy/every_node.h"
#include "proxy/server_info.h"
#include "proxy/step_time.h"
#include "proxy/transaction.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

// So often a source is read that others change all the time.
constexpr int kRoundsMax = 5;
// More of an error is not told.
constexpr uint64_t kLineMax = 512;

constexpr absl::string_view kNoSuchKey = "-ERR no such key\r\n";
constexpr absl::string_view kBusyKey = "BUSYKEY ";
constexpr absl::string_view kUnknown = " (outcome unknown)";
constexpr absl::string_view kOtherDatabase =
    "ERR proxy: COPY over slots into another database is not supported (not executed)";

struct MoveCommand {
  absl::string_view name;
  bool copies;    // the source stays
  bool replaces;  // what is there at the destination; COPY: by an option
  absl::string_view done;
};
constexpr MoveCommand kMoveCommands[] = {
    {"RENAME", false, true, "+OK\r\n"},
    {"RENAMENX", false, false, ":1\r\n"},
    {"COPY", true, false, ":1\r\n"},
};

class MoveOverSlots final : public Procedure {
 public:
  MoveOverSlots(Worker* worker, const MoveCommand& command,
                absl::Span<const absl::string_view> args)
      : worker_(worker), command_(command), source_(args[1]), destination_(args[2]) {
    replaces_ = command.replaces;
    valid_ = command.copies ? TakeOptions(args.subspan(3)) : true;
    held_bytes_ = source_.size() + destination_.size();
    if (valid_) return;
    // It copies a key to itself, which no node does: it says what is wrong.
    std::vector<absl::string_view> words(args.begin(), args.end());
    words[2] = words[1];
    invalid_ = MakeFrame(words);
    held_bytes_ += invalid_.size();
  }
  // Its client may have gone before the source was deleted.
  ~MoveOverSlots() override { Unwatch(); }

  void Next(Step* step) override {
    switch (phase_) {
      case Phase::kBegin:
        time_.Begin(*worker_);
        if (!valid_) return AskWhatIsInvalid(step);
        if (IsToOtherDatabase(*step)) return step->AnswerError(kOtherDatabase);
        return command_.copies ? Read(step) : WatchSource(step);
      case Phase::kInvalid:
        step->reply = std::move(step->asks[0].reply);
        return;
      case Phase::kWatch:
        return OnWatched(step);
      case Phase::kRead:
        return OnRead(step);
      case Phase::kWrite:
        return OnWritten(step);
      case Phase::kDelete:
        return OnDeleted(step);
    }
  }
  size_t held_bytes() const override { return held_bytes_; }
  size_t reply_bytes_max() const override { return worker_->config().cross_slot_bytes_max; }

 private:
  enum class Phase : uint8_t { kBegin, kInvalid, kWatch, kRead, kWrite, kDelete };

  // REPLACE, and a database: see IsToOtherDatabase. False: a node is to say what is wrong.
  bool TakeOptions(absl::Span<const absl::string_view> options) {
    for (size_t i = 0; i < options.size(); ++i) {
      if (absl::EqualsIgnoreCase(options[i], "replace")) {
        replaces_ = true;
      } else if (absl::EqualsIgnoreCase(options[i], "db") && i + 1 < options.size() &&
                 TakesDatabase(options[i + 1])) {
        destination_database_ = std::string(options[++i]);
      } else {
        return false;
      }
    }
    return true;
  }

  // Where a cluster has several databases, this is looked at when it is known which one is
  // selected.
  bool TakesDatabase(absl::string_view database) const {
    return database == "0" || HasDatabases(worker_->server());
  }

  bool IsToOtherDatabase(const Step& step) const {
    return destination_database_.has_value() &&
           *destination_database_ != absl::StrCat(step.database);
  }

  // The next step is this ask; false: there is no time left, and that is answered.
  bool AskFor(Step* step, Phase phase, absl::string_view command, absl::string_view key,
              io::Rope frame) {
    if (time_.IsOver(*worker_)) {
      Fail(step, kNoTimeLeftError, false);
      return false;
    }
    phase_ = phase;
    Ask ask = AskOfKey(*cluster::FindCommand(command), key, std::move(frame));
    ask.patience = time_.Patience(*worker_);
    step->asks.clear();
    step->asks.push_back(std::move(ask));
    return true;
  }

  void AskWhatIsInvalid(Step* step) {
    AskFor(step, Phase::kInvalid, command_.name, source_, std::move(invalid_));
  }

  void WatchSource(Step* step) {
    Unwatch();
    if (!AskFor(step, Phase::kWatch, "WATCH", source_, MakeFrame({"WATCH", source_}))) return;
    watch_ = std::make_shared<Watch>();
    watch_->slot = step->asks[0].slot;
    watch_->requests = 1;
    watch_->keys = 1;
    step->asks[0].watch = watch_;
  }

  void Unwatch() {
    if (watch_ != nullptr) std::exchange(watch_, nullptr)->Release(*worker_, false);
  }

  void OnWatched(Step* step) {
    if (step->asks[0].failed()) return FailByAsk(step);
    Read(step);
  }

  void Read(Step* step) {
    std::string commands;
    resp::AppendCommand({"DUMP", source_}, &commands);
    resp::AppendCommand({"PEXPIRETIME", source_}, &commands);
    io::Rope block = BurstBytesOf(io::Rope(io::CopyToHeap(commands)));
    if (!AskFor(step, Phase::kRead, "EXEC", source_, std::move(block))) return;
    step->asks[0].is_burst = true;
    step->asks[0].burst_commands = 2;
  }

  void OnRead(Step* step) {
    const Ask& ask = step->asks[0];
    if (ask.failed()) return FailByAsk(step);
    if (ask.cut) return Fail(step, kTooLargeOverSlotsError, false);
    const auto views = ask.reply.Views();
    resp::ElementReader elements(views);
    resp::ArgPosition value, time;
    if (elements.count() != 2 || !elements.Next(&value) || !elements.Next(&time)) {
      return Fail(step, kBadReplyError, false);
    }
    // An error, or the begin of a value: a null is nothing else.
    const std::string value_begin = TextAt(views, value.offset, std::min(value.length, kLineMax));
    const std::string time_text = TextAt(views, time.offset, time.length);
    // Of a node without one of the two commands, or which this user must not use.
    for (const absl::string_view text : {value_begin, time_text}) {
      if (resp::IsErrorFrame(text)) return Fail(step, resp::ErrorLineOf(text), false);
    }
    if (resp::IsNull(value_begin)) return AnswerMissing(step);
    int64_t expires_at = 0;
    if (value_begin[0] != '$' || !resp::ParseInteger(time_text, &expires_at)) {
      return Fail(step, kBadReplyError, false);
    }
    if (expires_at == -2) return AnswerMissing(step);  // while it was looked at
    Write(step, value, std::max<int64_t>(expires_at, 0));
  }

  static std::string TextAt(resp::Pieces pieces, uint64_t offset, uint64_t length) {
    std::string scratch;
    return std::string(resp::ViewAt(pieces, {offset, length}, &scratch));
  }

  void AnswerMissing(Step* step) {
    // In a later round: others have deleted what was to go.
    if (written_) return step->Answer(command_.done);
    step->Answer(command_.copies ? ":0\r\n" : kNoSuchKey);
  }

  // `value`: DUMP's reply within that of the block, as it is to be sent on.
  void Write(Step* step, const resp::ArgPosition& value, int64_t expires_at) {
    const bool replace = replaces_ || written_;
    std::string header = absl::StrCat("*", replace ? 6 : 5, "\r\n");
    resp::Encoder encoder(resp::Protocol::kResp2, &header);
    encoder.Bulk("RESTORE");
    encoder.Bulk(destination_);
    encoder.Bulk(absl::StrCat(expires_at));
    io::Rope frame(io::CopyToHeap(header));
    io::RopeRanges(step->asks[0].reply).AppendTo(value.offset, value.length, &frame);
    std::string options;
    resp::Encoder option_encoder(resp::Protocol::kResp2, &options);
    option_encoder.Bulk("ABSTTL");
    if (replace) option_encoder.Bulk("REPLACE");
    frame.Append(io::CopyToHeap(options));
    AskFor(step, Phase::kWrite, "RESTORE", destination_, KeepFrame(frame));
  }

  void OnWritten(Step* step) {
    const Ask& ask = step->asks[0];
    if (ask.failed()) {
      if (!replaces_ && !written_ && absl::StartsWith(ask.ErrorLine(), kBusyKey)) {
        return step->Answer(":0\r\n");
      }
      return FailByAsk(step);
    }
    written_ = true;
    if (command_.copies) return step->Answer(command_.done);
    std::string deletion;
    resp::AppendCommand({"UNLINK", source_}, &deletion);
    io::Rope block = BurstBytesOf(io::Rope(io::CopyToHeap(deletion)));
    if (!AskFor(step, Phase::kDelete, "EXEC", source_, std::move(block))) return;
    step->asks[0].is_burst = true;
    step->asks[0].burst_commands = 1;
    step->asks[0].watch = watch_;
  }

  void OnDeleted(Step* step) {
    const Ask& ask = step->asks[0];
    if (ask.failed()) return FailByAsk(step);
    const std::string reply = ask.reply.Flatten();
    if (!resp::IsNull(reply)) {
      const std::vector<absl::string_view> elements = resp::ElementsOf(reply);
      if (elements.size() != 1) return Fail(step, kBadReplyError, true);
      if (elements[0][0] != ':') return Fail(step, resp::ErrorLineOf(elements[0]), false);
      return step->Answer(command_.done);
    }
    // The source has changed since it was read, or nobody can tell: what was written is old.
    if (++rounds_ < kRoundsMax) return WatchSource(step);
    Fail(step, "ERR proxy: it changes all the time (not executed)", false);
  }

  void FailByAsk(Step* step) {
    const Ask& ask = step->asks[0];
    Fail(step, ask.ErrorLine(), ask.may_have_run());
  }

  // The step under way has failed. `may_have_run` says nothing of one that only reads.
  void Fail(Step* step, absl::string_view line, bool may_have_run) {
    const bool writes = phase_ == Phase::kWrite;
    const bool deletes = phase_ == Phase::kDelete;
    const bool unknown = may_have_run && (writes || deletes);
    if (!written_ && !unknown) return FailUntouched(step, line);
    worker_->stats()->cross_slot_partly.Add(1);
    const absl::string_view begin = written_ ? "partly executed, " : "";
    const absl::string_view destination =
        writes && may_have_run ? "new key unknown, " : "new key written, ";
    absl::string_view source = deletes && may_have_run ? "old key unknown, " : "old key kept, ";
    if (command_.copies) source = "";
    step->AnswerError(
        absl::StrCat("ERR proxy: ", begin, destination, source, ToldWithin(line), kUnknown));
  }

  // Nothing has been written.
  static void FailUntouched(Step* step, absl::string_view line) {
    if (!absl::EndsWith(line, kUnknown)) return step->AnswerError(line);
    step->AnswerError(absl::StrCat("ERR proxy: ", ToldWithin(line), " (not executed)"));
  }

  Worker* const worker_;
  const MoveCommand& command_;
  const std::string source_;
  const std::string destination_;
  bool replaces_ = false;
  absl::optional<std::string> destination_database_;
  bool valid_ = true;  // the options
  io::Rope invalid_;   // else: what a node is asked for the error
  Phase phase_ = Phase::kBegin;
  StepTime time_;
  std::shared_ptr<Watch> watch_;  // of the source, if that is to go
  bool written_ = false;          // the destination, by an earlier step
  int rounds_ = 0;
  size_t held_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Procedure> MakeMoveOverSlots(Worker* worker, const cluster::CommandSpec& command,
                                             absl::Span<const absl::string_view> args,
                                             absl::Span<const uint32_t>) {
  const auto it = std::find_if(std::begin(kMoveCommands), std::end(kMoveCommands),
                               [&](const MoveCommand& move) { return move.name == command.name; });
  if (it == std::end(kMoveCommands) || !command.container.empty()) return nullptr;
  return std::make_unique<MoveOverSlots>(worker, *it, args);
}

}  // namespace proxy
