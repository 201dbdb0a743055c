#include "proxy/function_commands.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proxy/args.h"
#include "proxy/every_node.h"
#include "resp/views.h"

namespace proxy {
namespace {

constexpr absl::string_view kNotFound = "ERR Library not found";

const cluster::CommandSpec& FunctionCommand(absl::string_view name) {
  return *cluster::FindSubcommand(*cluster::FindCommand("FUNCTION"), name);
}

// "ERR Library 'x' already exists" → x. Empty: another error.
std::string ExistingLibrary(absl::string_view line) {
  if (!absl::ConsumePrefix(&line, "ERR Library '")) return "";
  if (!absl::ConsumeSuffix(&line, "' already exists")) return "";
  return std::string(line);
}

// FUNCTION LOAD. Where a part of the nodes has the library already, with the same code, an earlier
// load was interrupted: that counts as success. Else what is new is taken back.
class FunctionLoad final : public EveryNode {
 public:
  FunctionLoad(const cluster::CommandSpec& command, io::Rope frame, std::string code, bool replace)
      : EveryNode(command, Audience::kPrimaries, std::move(frame)),
        code_(std::move(code)),
        replace_(replace) {}

  void Next(Step* step) override {
    switch (phase_) {
      case Phase::kLoad:
        return EveryNode::Next(step);
      case Phase::kCompare:
        return TakeCompare(step);
      case Phase::kUndo:
        return TakeUndo(step);
    }
  }
  size_t held_bytes() const override { return EveryNode::held_bytes() + code_.size(); }

 private:
  enum class Phase : uint8_t { kLoad, kCompare, kUndo };

  void Merge(Step* step, absl::Span<Ask> answered) override {
    if (answered.empty()) return step->AnswerError(kBadReplyError);
    step->reply = std::move(answered.front().reply);
  }

  void Fail(Step* step, absl::Span<Ask> answered) override {
    bool others = false;
    std::vector<Ask> existing;
    for (Ask& ask : answered) {
      if (!ask.failed()) {
        loaded_.push_back(ask);
        continue;
      }
      const std::string library = ExistingLibrary(ask.ErrorLine());
      others |= library.empty();
      if (library.empty()) continue;
      library_ = library;
      existing.push_back(ask);
    }
    const bool unknown = std::any_of(answered.begin(), answered.end(), [](const Ask& ask) {
      return ask.failed() && ask.may_have_run();
    });
    failure_ = FailureLine(answered, true);
    if (!unknown) undone_failure_ = FailureLine(answered, false);
    if (loaded_.empty()) return step->AnswerError(failure_);
    if (!others && !existing.empty()) {
      phase_ = Phase::kCompare;
      return AskThem(step, existing, FunctionCommand("LIST"),
                     MakeFrame({"FUNCTION", "LIST", "LIBRARYNAME", library_, "WITHCODE"}));
    }
    Undo(step);
  }

  void TakeCompare(Step* step) {
    // The code is an element of the reply, in the protocol's framing of a bulk.
    const std::string wanted = absl::StrCat("$", code_.size(), "\r\n", code_, "\r\n");
    const bool alike = std::all_of(step->asks.begin(), step->asks.end(), [&](const Ask& ask) {
      return !ask.gone && !ask.failed() && absl::StrContains(ask.reply.Flatten(), wanted);
    });
    if (!alike) return Undo(step);
    step->reply = std::move(loaded_.front().reply);
  }

  // What was there before can't be brought back.
  void Undo(Step* step) {
    absl::string_view name;
    const std::string reply = loaded_.front().reply.Flatten();
    if (replace_ || !resp::ParseText(reply, &name)) return step->AnswerError(failure_);
    phase_ = Phase::kUndo;
    AskThem(step, loaded_, FunctionCommand("DELETE"), MakeFrame({"FUNCTION", "DELETE", name}));
  }

  void TakeUndo(Step* step) {
    const bool undone = std::none_of(step->asks.begin(), step->asks.end(),
                                     [](const Ask& ask) { return ask.gone || ask.failed(); });
    step->AnswerError(undone && !undone_failure_.empty() ? undone_failure_ : failure_);
  }

  static void AskThem(Step* step, const std::vector<Ask>& nodes,
                      const cluster::CommandSpec& command, const io::Rope& frame) {
    step->asks.clear();
    for (const Ask& node : nodes) {
      Ask ask;
      ask.to = node.to;
      ask.slot = node.slot;
      ask.node_id = node.node_id;
      ask.node_name = node.node_name;
      ask.command = &command;
      ask.frame = frame;
      step->asks.push_back(std::move(ask));
    }
  }

  const std::string code_;
  const bool replace_;
  Phase phase_ = Phase::kLoad;
  std::string library_;
  std::vector<Ask> loaded_;     // those that succeeded
  std::string failure_;         // that some have it and some have not
  std::string undone_failure_;  // that nobody has it; empty: nobody knows
};

// FUNCTION DELETE: gone from some already is gone.
class FunctionDelete final : public EveryNode {
 public:
  FunctionDelete(const cluster::CommandSpec& command, io::Rope frame)
      : EveryNode(command, Audience::kPrimaries, std::move(frame)) {}

 private:
  void Merge(Step* step, absl::Span<Ask>) override { step->Answer("+OK\r\n"); }
  void Fail(Step* step, absl::Span<Ask> answered) override {
    bool any = false;
    bool others = false;
    for (const Ask& ask : answered) {
      any |= !ask.failed();
      others |= ask.failed() && ask.ErrorLine() != kNotFound;
    }
    if (any && !others) return step->Answer("+OK\r\n");
    EveryNode::Fail(step, answered);
  }
};

}  // namespace

std::unique_ptr<Procedure> MakeFunctionLoad(const cluster::CommandSpec& command,
                                            const ArgList& args, const io::Rope& frame) {
  // FUNCTION LOAD [REPLACE] code
  const bool replace =
      args.views().size() > 3 && absl::EqualsIgnoreCase(args.views()[2], "REPLACE");
  return std::make_unique<FunctionLoad>(command, KeepFrame(frame), std::string(args.views().back()),
                                        replace);
}

std::unique_ptr<Procedure> MakeFunctionDelete(const cluster::CommandSpec& command,
                                              const io::Rope& frame) {
  return std::make_unique<FunctionDelete>(command, KeepFrame(frame));
}

}  // namespace proxy
