// The part of Client (proxy/client.h) that concerns commands that take several steps.

#include <memory>
#include <string>
#include <utility>

#include "proxy/args.h"
#include "proxy/client.h"
#include "proxy/cluster_face.h"
#include "proxy/every_node.h"
#include "proxy/info_of_nodes.h"
#include "proxy/local_commands.h"
#include "proxy/procedure.h"
#include "proxy/select.h"
#include "proxy/server_info.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

constexpr absl::string_view kSelectWatching =
    "ERR proxy: SELECT between WATCH and EXEC is not supported";

}  // namespace

void Client::TakeWholeCluster(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                              const io::Rope& frame) {
  if (TakeAllowed(command, frame)) return;  // CONFIG SET of anything
  const ArgList args(pieces);
  std::string error;
  std::unique_ptr<Procedure> procedure =
      MakeProcedure(worker_, command, face_share(), args, frame, &error);
  if (procedure == nullptr) return AnswerNewError(error);
  StartProcedure(NewRequest(command, frame.size()), std::move(procedure));
}

// --allow-commands. False: it does not name the command.
bool Client::TakeAllowed(const cluster::CommandSpec& command, const io::Rope& frame) {
  const cluster::CommandSpec* const allowed = worker_->config().commands.FindAllowed(command);
  if (allowed == nullptr) return false;
  StartProcedure(NewRequest(command, frame.size()), MakeEveryNode(*allowed, frame));
  return true;
}

// Those that may have to ask nodes, or to wait for what was sent before them. False: it is answered
// at once, as any other local command.
bool Client::TakeLocalInSteps(const cluster::CommandSpec& command, const ArgList& args,
                              const io::Rope& frame) {
  if (!command.container.empty()) return false;
  if (command.name == "SELECT") return TakeSelect(command, args, frame);
  if (command.name == "RESET" && database_ != 0 && head_ != nullptr) {
    // It selects database 0.
    HoldBack(frame, HeldBack::kUntilAnswered);
    return true;
  }
  if (command.name == "INFO" && AsksNodesForInfo(args.views())) {
    std::string reply;
    ServeLocal(this, command, args.views(), &reply);
    absl::string_view own;
    if (!resp::ParseText(reply, &own)) return false;
    StartProcedure(NewRequest(command, frame.size()), MakeInfoOfNodes(std::string(own)));
    return true;
  }
  return false;
}

bool Client::TakeSelect(const cluster::CommandSpec& command, const ArgList& args,
                        const io::Rope& frame) {
  // Nodes of several versions may be there: what was selected counts.
  if (database_ == 0 && !HasDatabases(worker_->server())) return false;
  std::string error;
  std::unique_ptr<Procedure> procedure = MakeSelect(args, &error);
  if (procedure == nullptr) {
    AnswerNewError(error);
  } else if (transaction_ != nullptr && transaction_->watch != nullptr) {
    AnswerNewError(kSelectWatching);
  } else {
    StartProcedure(NewRequest(command, frame.size()), std::move(procedure));
  }
  return true;
}

FaceShare Client::face_share() const {
  const Config& config = worker_->config();
  return config.cluster_face_nodes.size() < 2 ? FaceShare() : FaceShareOf(config, LocalName());
}

void Client::StartProcedure(Request* request, std::unique_ptr<Procedure> procedure) {
  request->fragments = worker_->requests()->TakeFragments();
  request->fragments->procedure = std::move(procedure);
  procedure_ = true;
  answer_first_ = request;
  worker_->WakeClient(this);
}

void Client::MoveProcedureOn() {
  if (!procedure_ || unanswered_ > 1) return;
  if (state_ != State::kOpen && state_ != State::kDraining) return;
  Request* const parent = answer_first_;
  Fragments* const fragments = parent->fragments.get();
  if (fragments->unanswered > 0) return;
  Procedure* const procedure = fragments->procedure.get();
  Step step{worker_, parent->protocol, written_, database_, std::move(procedure->asks)};
  for (size_t i = 0; i < fragments->requests.size(); ++i) {
    Request* request = fragments->requests[i];
    Ask& ask = step.asks[i];
    ask.handed_over = request->handed_over;
    ask.cut = request->bytes.size() < request->reply_bytes;
    reply_bytes_ -= request->bytes.size();
    ask.reply = std::move(request->bytes);
    worker_->requests()->Give(request);
  }
  fragments->requests.clear();
  if (state_ == State::kDraining) procedure->EndWait(Procedure::End::kClose);
  procedure->Next(&step);
  reply_bytes_ += procedure->held_bytes();
  reply_bytes_ -= std::exchange(fragments->procedure_bytes, procedure->held_bytes());
  if (step.asks.empty() || !step.reply.empty()) {
    reply_bytes_ -= fragments->procedure_bytes;
    worker_->requests()->GiveFragments(std::move(parent->fragments));
    procedure_ = false;
    if (step.select.has_value()) database_ = *step.select;
    if (step.close) return BeginClose();
    if (step.block != nullptr) return BlockInstead(parent, &step);
    if (parent->is_burst) {
      // The whole transaction, or what is asked for within one.
      if (parent->transaction->burst->local_begun()) {
        return OnLocalReply(parent, std::move(step.reply), false);
      }
      return OnBurstReply(parent, std::move(step.reply));
    }
    return AnswerRope(parent, std::move(step.reply));
  }
  procedure->asks = std::move(step.asks);
  fragments->unanswered = static_cast<uint32_t>(procedure->asks.size());
  for (const Ask& ask : procedure->asks) {
    Request* request = worker_->requests()->Take();
    request->client = this;
    request->command = ask.command;
    request->parent = parent;
    request->protocol = parent->protocol;
    request->slot = ask.slot;
    request->fragment = static_cast<uint32_t>(fragments->requests.size());
    fragments->requests.push_back(request);
    worker_->stats()->fragments.Add(1);
    worker_->dispatcher()->StartAsk(request, ask);
  }
  worker_->MarkDirty(this);
}

// False: it has no procedure that may wait and has begun.
bool Client::EndWait(Procedure::End end) {
  if (!procedure_ || unanswered_ > 1) return false;
  Fragments* const fragments = answer_first_->fragments.get();
  if (fragments->requests.empty() || !fragments->procedure->EndWait(end)) return false;
  for (Request* request : fragments->requests) worker_->dispatcher()->GiveUp(request);
  worker_->WakeClient(this);
  return true;
}

}  // namespace proxy
