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
#include "proxy/cross_slot_transaction.h"
#include "proxy/local_commands.h"
#include "proxy/local_handlers.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

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

bool IsExec(const cluster::CommandSpec* command) {
  return command != nullptr && command->serve == cluster::Serve::kTransaction &&
         command->name == "EXEC";
}

}  // namespace

// A last key without a value (MSET) is no error before EXEC.
bool Client::IsQueueableArity(const cluster::CommandSpec& command, int64_t arg_count) const {
  return IsQueueing() && command.split == cluster::Split::kKeyValuePairs &&
         arg_count >= -command.arity;
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
    std::string header;
    resp::Encoder(protocol_, &header).Array(0);
    io::Rope reply(arena_.Copy(header));
    reply = SpliceLocalReplies(*transaction_->MakeBurst(), std::move(reply));
    UnwatchAndDiscard();
    return AnswerNew(reply.Flatten());
  }
  const io::Rope frame = transaction_->BurstBytes();
  Request* const request = NewTransactionRequest(command, slot, frame.size());
  request->is_burst = true;
  request->transaction->burst = transaction_->MakeBurst();
  // Those may change what the next commands see.
  if (!transaction_->local().empty()) answer_first_ = request;
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
  Request* const request =
      NewTransactionRequest(command, transaction_->slot(), transaction_->charged());
  request->is_burst = true;
  request->transaction->burst = transaction_->MakeBurst();
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
    case cluster::Serve::kLocal: {
      const ArgList args(pieces);
      transaction_->QueueLocal(command, args.views());
      break;
    }
    case cluster::Serve::kKeyless:
      transaction_->QueueForNode(absl::nullopt, KeepFrame(frame));
      break;
    case cluster::Serve::kWholeCluster:
      if (command.name != "WAIT") return RefuseQueued(command);
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
      if (command.is_script()) NoteScript(command, args.views());
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
    std::vector<absl::string_view> words = {command.name};
    for (const uint32_t key : plan.KeysOf(fragment)) {
      for (size_t i = 0; i < step; ++i) words.push_back(views[1 + key * step + i]);
    }
    fragments.push_back(MakeFrame(words));
  }
  transaction_->QueueSplit(command, std::move(plan), fragments);
  return true;
}

// EXEC's array with the replies of the commands that the proxy answers, each in its place.
io::Rope Client::SpliceLocalReplies(const Burst& burst, io::Rope reply) {
  const auto views = reply.Views();
  resp::ElementReader elements(views);
  if (elements.count() != static_cast<int64_t>(burst.node_commands())) return reply;  // null
  const io::RopeRanges ranges(reply);
  io::Rope spliced;
  std::string text;
  resp::Encoder(protocol_, &text)
      .Array(elements.count() + static_cast<int64_t>(burst.local().size()));
  const auto take_until = [&](uint32_t place, uint32_t* done) {
    resp::ArgPosition element;
    for (; *done < place && elements.Next(&element); ++*done) {
      if (!text.empty()) spliced.Append(arena_.Copy(std::exchange(text, std::string())));
      ranges.AppendTo(element.offset, element.length, &spliced);
    }
  };
  uint32_t done = 0;
  for (const LocalCommand& local : burst.local()) {
    take_until(local.place, &done);
    const std::vector<absl::string_view> args(local.args.begin(), local.args.end());
    if (local.command->name == "UNWATCH") {
      absl::StrAppend(&text,
                      kOk);  // of this transaction; what is watched by now is for the next one
    } else {
      ServeLocal(this, *local.command, args, &text);
    }
    ++done;
  }
  take_until(burst.node_commands() + static_cast<uint32_t>(burst.local().size()), &done);
  if (!text.empty()) spliced.Append(arena_.Copy(text));
  return spliced;
}

}  // namespace proxy
