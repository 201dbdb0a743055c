// The part of Client (proxy/client.h) that concerns MULTI, EXEC, DISCARD and WATCH.

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "cluster/router.h"
#include "proxy/args.h"
#include "proxy/client.h"
#include "proxy/client_queries.h"
#include "proxy/cross_slot_transaction.h"
#include "proxy/local_commands.h"
#include "proxy/local_handlers.h"
#include "proxy/procedure.h"
#include "proxy/select.h"
#include "proxy/server_info.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

constexpr absl::string_view kSelectQueued =
    "ERR proxy: SELECT of another database is not supported inside MULTI";
constexpr absl::string_view kQueued = "+QUEUED\r\n";
constexpr absl::string_view kOk = "+OK\r\n";
constexpr absl::string_view kNested = "ERR MULTI calls can not be nested";
constexpr absl::string_view kWatchInside = "ERR WATCH inside MULTI is not allowed";
constexpr absl::string_view kNotInside = "ERR Command not allowed inside a transaction";
constexpr absl::string_view kExecWithout = "ERR EXEC without MULTI";
constexpr absl::string_view kDiscardWithout = "ERR DISCARD without MULTI";
constexpr absl::string_view kExecAbort =
    "EXECABORT Transaction discarded because of previous errors.";
constexpr absl::string_view kOutOfMemory = "OOM proxy memory limit (not executed)";

constexpr absl::string_view kMonitorInside = "ERR MONITOR isn't allowed for DENY BLOCKING client";

// It has nothing to do with keys, scripts or functions: so it makes no difference that it runs
// behind the transaction's other commands.
bool MayFollowBlock(const cluster::CommandSpec& command) {
  constexpr uint32_t kConcernsKeys =
      cluster::kFlagWrite | cluster::kFlagReadOnly | cluster::kFlagMayReplicate;
  return !command.container.empty() && command.container != "SCRIPT" &&
         command.container != "FUNCTION" && (command.flags & kConcernsKeys) == 0;
}

// Of CLIENT REPLY: OFF and SKIP would take replies out of EXEC's array.
bool MayQueueReplyMode(absl::Span<const absl::string_view> args) {
  return !absl::EqualsIgnoreCase(args[2], "off") && !absl::EqualsIgnoreCase(args[2], "skip");
}

bool IsExec(const cluster::CommandSpec* command) {
  return command != nullptr && command->serve == cluster::Serve::kTransaction &&
         command->name == "EXEC";
}

}  // namespace

// A last key without a value (MSET) is no error before the command runs: within MULTI, not before
// EXEC.
bool Client::LacksOnlyAValue(const cluster::CommandSpec& command, int64_t arg_count) {
  return command.split == cluster::Split::kKeyValuePairs && arg_count >= -command.arity;
}

// What a client says between MULTI and EXEC that is not queued.
bool Client::ActsInTransaction(const cluster::CommandSpec& command) {
  if (command.serve == cluster::Serve::kTransaction) return true;
  return command.container.empty() && (command.name == "QUIT" || command.name == "RESET");
}

Transaction* Client::EnsureTransaction() {
  if (transaction_ == nullptr) transaction_ = std::make_unique<Transaction>();
  return transaction_.get();
}

void Client::RejectNew(const cluster::CommandSpec* command, absl::string_view line) {
  if (IsExec(command)) {
    UnwatchAndDiscard();
    absl::ConsumePrefix(&line, "ERR ");
    return AnswerNewError(absl::StrCat("EXECABORT Transaction discarded because of: ", line));
  }
  if (IsQueueing()) transaction_->Abort();
  if (ABSL_PREDICT_FALSE(tracker_ != nullptr)) NoteRejected(command);
  AnswerNewError(line);
}

// Null: it had none.
std::shared_ptr<Watch> Client::EndWatch() {
  if (transaction_->watch != nullptr) worker_->stats()->watching_clients.Sub(1);
  return std::exchange(transaction_->watch, nullptr);
}

void Client::Unwatch() {
  if (transaction_ == nullptr || transaction_->watch == nullptr) return;
  EndWatch()->Release(*worker_, false);
}

void Client::UnwatchAndDiscard() {
  Unwatch();
  if (transaction_ == nullptr) return;
  request_bytes_ -= transaction_->charged();
  transaction_->Drop();
}

void Client::TakeTransaction(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                             const io::Rope& frame) {
  const bool queueing = IsQueueing();
  if (command.name == "WATCH" && !queueing) return TakeWatch(command, pieces, frame);
  if (command.name == "MULTI" || command.name == "WATCH") {
    if (!queueing) {
      EnsureTransaction()->Begin();
      return AnswerNew(kOk);
    }
    const ClusterState* const cluster = worker_->cluster();
    if (cluster != nullptr && !IsBeforeRedis72(cluster->server)) {
      return RejectNew(&command, kNotInside);
    }
    return AnswerNewError(command.name == "MULTI" ? kNested : kWatchInside);
  }
  const bool exec = command.name == "EXEC";
  if (!queueing) return AnswerNewError(exec ? kExecWithout : kDiscardWithout);
  if (exec) return TakeExec(command);
  UnwatchAndDiscard();
  AnswerNew(kOk);
}

void Client::TakeWatch(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                       const io::Rope& frame) {
  const ArgList args(pieces);
  std::vector<uint32_t> keys;
  cluster::FindKeyIndexes(command, args.views(), &keys);
  cluster::Slot slot = 0;
  Transaction* const transaction = EnsureTransaction();
  if (!cluster::CommonSlot(args.views(), keys, &slot) || !transaction->AcceptsSlot(slot)) {
    return AnswerNewError(cluster::kCrossSlotError);
  }
  if (transaction->watch == nullptr) {
    transaction->watch = std::make_shared<Watch>();
    worker_->stats()->watching_clients.Add(1);
    transaction->watch->slot = slot;
  }
  ++transaction->watch->requests;
  transaction->watch->keys += keys.size();
  Request* const request = NewTransactionRequest(command, slot, frame.size());
  request->transaction->watch = transaction->watch;
  request->watched = request->private_connection = true;
  if (!worker_->dispatcher()->Start(request, frame)) waiting_for_room_ = true;
}

void Client::TakeExec(const cluster::CommandSpec& command) {
  if (transaction_->aborted()) {
    UnwatchAndDiscard();
    return AnswerNewError(kExecAbort);
  }
  if (transaction_->IsOverSlots()) return TakeExecOverSlots(command);
  const cluster::Slot slot = transaction_->slot();
  std::shared_ptr<Watch> watch = EndWatch();
  if (!transaction_->has_node_commands() && watch == nullptr) {
    Request* const request = NewTransactionRequest(command, slot, transaction_->charged());
    request->is_burst = true;
    request->transaction->burst = transaction_->MakeBurst();
    answer_first_ = request;
    UnwatchAndDiscard();
    return OnBurstReply(request, io::Rope(io::Slice::Static("*0\r\n")));
  }
  const io::Rope frame = transaction_->BurstBytes();
  Request* const request =
      NewTransactionRequest(command, slot, frame.size() + transaction_->unshown_bytes());
  request->is_burst = true;
  request->transaction->burst = transaction_->MakeBurst();
  request->transaction->unshown = std::move(transaction_->unshown);
  // Those may change what the next commands see; and monitors see all in their order.
  if (!transaction_->local().empty() || !request->transaction->unshown.empty()) {
    answer_first_ = request;
  }
  if (watch != nullptr) {
    request->transaction->watch = std::move(watch);
    request->watched = request->private_connection = true;
  }
  UnwatchAndDiscard();
  if (!worker_->dispatcher()->Start(request, frame)) waiting_for_room_ = true;
}

// --cross-slot split: a part for each slot, in steps.
void Client::TakeExecOverSlots(const cluster::CommandSpec& command) {
  worker_->stats()->cross_slot_transactions.Add(1);
  Request* const request = NewTransactionRequest(
      command, transaction_->slot(), transaction_->charged() + transaction_->unshown_bytes());
  request->is_burst = true;
  request->transaction->burst = transaction_->MakeBurst();
  request->transaction->unshown = std::move(transaction_->unshown);
  auto procedure =
      MakeCrossSlotTransaction(worker_, command, transaction_->TakeCrossSlot(), EndWatch());
  UnwatchAndDiscard();
  StartProcedure(request, std::move(procedure));
}

Request* Client::NewTransactionRequest(const cluster::CommandSpec& command, cluster::Slot slot,
                                       size_t bytes) {
  Request* const request = NewRequest(command, bytes);
  request->transaction = std::make_unique<TransactionPart>();
  request->slot = slot;
  return request;
}

void Client::RefuseQueued(const cluster::CommandSpec& command) {
  worker_->stats()->refused_requests.Add(1);
  RejectNew(&command, cluster::NotSupportedError(command));
}

void Client::QueueCommand(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                          const io::Rope& frame) {
  if ((command.flags & cluster::kFlagNoMulti) != 0) return RejectNew(&command, kNotInside);
  if (worker_->MemoryExhausted()) return RejectNew(&command, kOutOfMemory);
  const size_t charged = transaction_->charged();
  if ((command.flags & (cluster::kFlagWrite | cluster::kFlagMayReplicate)) != 0) {
    transaction_->NoteMayWrite();
  }
  switch (command.serve) {
    case cluster::Serve::kLocal:
    case cluster::Serve::kClients: {
      const ArgList args(pieces);
      if (SelectsOther(command, args)) return RejectNew(&command, kSelectQueued);
      const bool of_clients = command.serve == cluster::Serve::kClients;
      const bool reply_mode = of_clients && command.name == "REPLY";
      if (reply_mode && (muted() || !MayQueueReplyMode(args.views()))) return RefuseQueued(command);
      // These may take a while, and what is to be noted is noted as commands are taken.
      const bool tracking = command.name == "TRACKING" || command.name == "CACHING";
      if (of_clients && tracking) return RefuseQueued(command);
      transaction_->QueueLocal(command, args.views());
      break;
    }
    case cluster::Serve::kKeyless:
      transaction_->QueueForNode(absl::nullopt, KeepFrame(frame));
      break;
    case cluster::Serve::kWholeCluster:
      if (MayFollowBlock(command)) {
        const ArgList args(pieces);
        transaction_->QueueLocal(command, args.views());
        break;
      }
      if (command.name != "WAIT" && command.name != "WAITAOF") return RefuseQueued(command);
      // It does not wait there: the transaction's node counts for the connection that the client's
      // writes to that shard went on, and those of others with them.
      transaction_->QueueForNode(absl::nullopt, KeepFrame(frame));
      break;
    // PUBLISH has no keys: what any node publishes reaches all.
    case cluster::Serve::kPublish:
    case cluster::Serve::kOneSlot:
    case cluster::Serve::kSplit: {
      const ArgList args(pieces);
      std::vector<uint32_t> keys;
      if (cluster::FindKeyIndexes(command, args.views(), &keys) == cluster::KeySearch::kInvalid) {
        keys.clear();
      }
      if (command.is_script()) {
        transaction_->NoteForging(ForgingOf(command, args.views()));
        NoteScript(command, args.views());
      }
      cluster::Slot slot = 0;
      const bool over_slots = worker_->config().cross_slot == CrossSlot::kSplit;
      const bool one_slot = cluster::CommonSlot(args.views(), keys, &slot);
      if (over_slots && !one_slot && QueueSplit(command, args)) break;
      if (!one_slot || (!keys.empty() && !over_slots && !transaction_->AcceptsSlot(slot))) {
        return RejectNew(&command, cluster::kCrossSlotError);
      }
      transaction_->QueueForNode(keys.empty() ? absl::nullopt : absl::optional<cluster::Slot>(slot),
                                 KeepFrame(frame));
      break;
    }
    default:
      return RefuseQueued(command);
  }
  request_bytes_ += transaction_->charged() - charged;
  worker_->MarkDirty(this);
  AnswerNew(kQueued);
}

// SELECT of another database than the block will run in.
bool Client::SelectsOther(const cluster::CommandSpec& command, const ArgList& args) const {
  if (command.name != "SELECT" || (database_ == 0 && !HasDatabases(worker_->server())))
    return false;
  int64_t database = 0;
  std::string error;
  return ParseDatabase(args.views()[1], &database, &error) && database != int64_t{database_};
}

// Its keys lie in several slots. False: it can't be split.
bool Client::QueueSplit(const cluster::CommandSpec& command, const ArgList& args) {
  if (command.split == cluster::Split::kNever) return false;
  const absl::Span<const absl::string_view> views = args.views();
  const size_t step = command.split == cluster::Split::kKeyValuePairs ? 2 : 1;
  if ((views.size() - 1) % step != 0) return false;
  std::vector<cluster::Slot> slots;
  for (size_t i = 1; i < views.size(); i += step) slots.push_back(cluster::SlotOf(views[i]));
  cluster::SplitPlan plan;
  worker_->split_planner()->Plan(slots, &plan);
  std::vector<io::Rope> fragments;
  for (const cluster::SplitFragment& fragment : plan.fragments) {
    std::vector<absl::string_view> words = {views[0]};
    for (const uint32_t key : plan.KeysOf(fragment)) {
      for (size_t i = 0; i < step; ++i) words.push_back(views[1 + key * step + i]);
    }
    fragments.push_back(MakeFrame(words));
  }
  transaction_->QueueSplit(command, std::move(plan), fragments);
  return true;
}

// --- what the proxy answers within a transaction

// The reply of the nodes is there. If they have run their part, it is the turn of the commands that
// the proxy answers.
void Client::OnBurstReply(Request* request, io::Rope reply) {
  Burst* const burst = request->transaction->burst.get();
  const auto views = reply.Views();
  if (burst->local().empty() ||
      resp::ElementReader(views).count() != int64_t{burst->node_commands()}) {
    return AnswerRope(request, std::move(reply));  // null, or an error
  }
  request->state = Request::State::kNew;  // no backend has to do with it any more
  reply_bytes_ += reply.size();
  burst->BeginLocal(std::move(reply));
  RunLocalCommands(request);
}

// False: the reply is there.
bool Client::AskInTransaction(const cluster::CommandSpec& command,
                              absl::Span<const absl::string_view> args, std::string* reply) {
  resp::Encoder out(protocol_, reply);
  ClientQuery query;
  std::string error;
  if (command.name == "MONITOR") {
    out.Error(kMonitorInside);
  } else if (command.name == "REPLY") {
    if (absl::EqualsIgnoreCase(args[2], "on")) {
      out.Simple("OK");
    } else {
      out.Error("ERR syntax error");
    }
  } else if (!MakeQuery(command, args, &query, &error)) {
    out.Error(error);
  } else {
    worker_->client_queries()->Ask(this, std::move(query));
    return true;
  }
  return false;
}

// Of the command that is the next.
void Client::OnLocalReply(Request* request, io::Rope reply, bool ends_client) {
  Burst* const burst = request->transaction->burst.get();
  reply_bytes_ += reply.size();
  burst->AddLocalReply(std::move(reply));
  if (ends_client) burst->EndClientAfterThis();
  RunLocalCommands(request);
}

// Until one has to wait for others' answers.
void Client::RunLocalCommands(Request* request) {
  Burst* const burst = request->transaction->burst.get();
  while (const LocalCommand* local = burst->next_local()) {
    const cluster::CommandSpec& command = *local->command;
    const std::vector<absl::string_view> args(local->args.begin(), local->args.end());
    std::string text;
    if (command.serve == cluster::Serve::kClients) {
      if (AskInTransaction(command, args, &text)) return;
    } else if (command.serve == cluster::Serve::kWholeCluster) {
      const io::Rope frame = MakeFrame(args);
      const auto views = frame.Views();
      std::string error;
      if (auto procedure =
              MakeProcedure(worker_, command, face_share(), ArgList(views), frame, &error)) {
        return StartProcedure(request, std::move(procedure));
      }
      resp::Encoder(protocol_, &text).Error(error);
    } else if (command.name == "UNWATCH") {
      text = std::string(kOk);  // of this transaction; what is watched by now is for the next one
    } else {
      ServeLocal(this, command, args, &text);
    }
    reply_bytes_ += text.size();
    burst->AddLocalReply(io::Rope(arena_.Copy(text)));
  }
  const bool ends = burst->ends_client();
  io::Rope reply = burst->TakeReply(protocol_);
  reply_bytes_ -= burst->held_bytes();
  AnswerRope(request, std::move(reply));
  if (!ends) return;
  stop_after_this_ = true;
  BeginDrain();
}

}  // namespace proxy
