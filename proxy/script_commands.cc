#include "proxy/script_commands.h"

#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "proxy/args.h"
#include "proxy/client.h"
#include "proxy/every_node.h"
#include "proxy/forging.h"
#include "proxy/script_table.h"
#include "proxy/sha1.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

class ScriptCommand : public EveryNode {
 public:
  ScriptCommand(const cluster::CommandSpec& command, io::Rope frame)
      : EveryNode(command, Audience::kAllNodes, std::move(frame)) {}

 protected:
  void Merge(Step* step, absl::Span<Ask> answered) override {
    if (answered.empty()) return step->AnswerError(kBadReplyError);
    step->reply = std::move(answered.front().reply);
  }
};

class ScriptLoad final : public ScriptCommand {
 public:
  ScriptLoad(const cluster::CommandSpec& command, io::Rope frame, absl::string_view text)
      : ScriptCommand(command, std::move(frame)), text_(text) {}

  size_t held_bytes() const override { return EveryNode::held_bytes() + text_.size(); }

 private:
  void Merge(Step* step, absl::Span<Ask> answered) override {
    ScriptTable* const table = step->worker->script_repairs()->table();
    table->Add(Sha1Hex(text_), text_, ScriptTable::Origin::kLoaded);
    ScriptCommand::Merge(step, answered);
  }

  const std::string text_;
};

class ScriptFlush final : public ScriptCommand {
 public:
  using ScriptCommand::ScriptCommand;

  // Before the first node hears of it: what it does not have any more must not come back.
  void Next(Step* step) override {
    if (step->asks.empty()) step->worker->script_repairs()->table()->Clear();
    ScriptCommand::Next(step);
  }
};

}  // namespace

std::unique_ptr<Procedure> MakeScriptLoad(const cluster::CommandSpec& command, const ArgList& args,
                                          const io::Rope& frame) {
  return std::make_unique<ScriptLoad>(command, KeepFrame(frame), args.views()[2]);
}

std::unique_ptr<Procedure> MakeScriptFlush(const cluster::CommandSpec& command, const ArgList& args,
                                           const io::Rope& frame) {
  const bool valid =
      args.views().size() == 2 ||
      (args.views().size() == 3 && (absl::EqualsIgnoreCase(args.views()[2], "SYNC") ||
                                    absl::EqualsIgnoreCase(args.views()[2], "ASYNC")));
  // The nodes say what is wrong with it.
  if (!valid) return MakeEveryNode(command, frame);
  return std::make_unique<ScriptFlush>(command, KeepFrame(frame));
}

void Client::NoteScript(const cluster::CommandSpec& command,
                        absl::Span<const absl::string_view> args) {
  if (absl::StartsWith(command.name, "EVALSHA")) {
    if (IsQueueing()) transaction_->NoteScript(args[1]);
  } else if (absl::StartsWith(command.name, "EVAL") &&
             ForgingOf(command, args) != Forging::kAnyServer) {
    worker_->eval_recorder()->Note(args[1], worker_->now());
  }
}

}  // namespace proxy
