// The part of Dispatcher (proxy/dispatcher.h) that concerns what a node has refused: redirections
// and other errors that say that nothing ran, what is found out before it is tried again, and what
// a later request did meanwhile.

#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "cluster/redirection.h"
#include "proxy/backend.h"
#include "proxy/backend_pool.h"
#include "proxy/client.h"
#include "proxy/dispatcher.h"
#include "proxy/request_keys.h"
#include "proxy/script_repairs.h"
#include "proxy/split_request.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

constexpr absl::string_view kTooManyRedirections =
    "ERR proxy: too many redirections (not executed)";
constexpr absl::string_view kMalformedRedirection =
    "ERR proxy: malformed redirection (outcome unknown)";
constexpr absl::string_view kUnknownNode =
    "CLUSTERDOWN proxy: redirect to unknown node (not executed)";
constexpr absl::string_view kNotConfirmed =
    "ERR proxy: redirection not confirmed (outcome unknown)";
constexpr absl::string_view kOvertaken =
    "ERR proxy: overtaken by a later command on the same key (not executed)";
constexpr absl::string_view kNoScriptPrefix = "NOSCRIPT ";
// Nodes that lack the script, one after the other.
constexpr uint8_t kScriptRepairsMax = 3;
// A blocking command that was sent so long ago is told something new: its slot may move ever again.
constexpr absl::Duration kBlockedLong = absl::Milliseconds(100);

}  // namespace

// --- replies that ask for something

bool Dispatcher::OnErrorReply(Request* request, Backend* backend, absl::string_view line) {
  if (request->is_burst && absl::StartsWith(line, "EXECABORT ")) {
    // What went wrong with the first command that was not queued.
    const std::string& first = request->transaction->burst->queue_error();
    if (!first.empty()) line = first;
  }
  if (request->is_blocking && OnUnblocked(request, line)) return true;
  const cluster::ErrorReply error = cluster::ParseErrorReply(line);
  if (request->watched && OnWatchRefused(request, error.kind)) return true;
  const bool script = request->command->is_script();
  const bool from_replica = backend->options().read_only;
  switch (error.kind) {
    case cluster::ErrorKind::kOther:
      if (absl::StartsWith(line, "NOAUTH ")) backend->CheckAuthentication();
      return script && absl::StartsWith(line, kNoScriptPrefix) &&
             OnNoScript(request, backend, line);
    case cluster::ErrorKind::kMalformed:
      worker_->stats()->malformed_redirections.Add(1);
      AnswerUnknown(request, kMalformedRedirection);
      return true;
    case cluster::ErrorKind::kMoved:
      worker_->stats()->moved.Add(1);
      return OnRedirection(request, backend, error);
    case cluster::ErrorKind::kAsk:
      worker_->stats()->asked.Add(1);
      if (request->is_burst && IsHalfMoved(*request)) {
        WaitAndRetry(request, cluster::kTryAgainError);
        return true;
      }
      return OnRedirection(request, backend, error);
    case cluster::ErrorKind::kTryAgain: {
      worker_->stats()->try_again.Add(1);
      if (request->command->serve == cluster::Serve::kSplit &&
          SplitIntoOneKeyFragments(worker_, request)) {
        return true;
      }
      WaitAndRetry(request, line);
      if (script) {
        request->hold->confirm_moving = true;
        request->hold->refused_by = backend->node()->id;
        request->hold->refresh_ask = worker_->AskRefresh(backend->node()->id);
      }
      return true;
    }
    case cluster::ErrorKind::kMasterDown:
      if (!from_replica) return false;
      [[fallthrough]];
    case cluster::ErrorKind::kClusterDown:
    case cluster::ErrorKind::kLoading:
      if (script && !from_replica) return false;
      WaitAndRetry(request, line);
      request->hold->redirected = request->hold->ask = false;
      if (from_replica) {
        request->force_primary = true;
        request->hold->not_before = worker_->now();
      } else {
        worker_->HintRefresh("");
      }
      return true;
    case cluster::ErrorKind::kReadOnly: {
      // A procedure's node: it was replaced. When the topology says so, too, another one is asked.
      const bool named = request->ask() != nullptr && request->ask()->to == Ask::To::kPrimary;
      if (script || (request->read_only_retried && !named)) return false;
      request->read_only_retried = true;
      WaitAndRetry(request, line);
      request->hold->redirected = request->hold->ask = false;
      request->hold->refresh_ask = worker_->AskRefresh(named ? backend->node()->id : "");
      return true;
    }
  }
  return false;
}

// An error to what may have waited. True: dealt with.
bool Dispatcher::OnUnblocked(Request* request, absl::string_view line) {
  Block* const block = request->block.get();
  // What has waited for long is told something new.
  if (worker_->now() - block->sent_at > kBlockedLong) {
    request->redirections = 0;
    request->hold.reset();
  }
  if (block->ended_by_client) return false;
  if (absl::StartsWith(line, "UNBLOCKED ")) {
    // The node is no primary any more, the key has gone with its slot, or somebody has asked for it
    // because the slot is leaving: nothing was taken.
    block->unblocked = std::string(line);
    WaitAndRetry(request, line);
    worker_->HintRefresh("");
    return true;
  }
  // So the key has gone for good.
  if (!absl::StartsWith(line, "NOGROUP ") || block->unblocked.empty()) return false;
  request->client->AnswerError(request, block->unblocked);
  return true;
}

// The node queues each command of a block by itself: those whose keys it still has, and the others
// it sends away. The block can run nowhere until all are on one side. At the target it would only
// be refused; but if that hangs, it would lie there while later commands run here on keys that are
// still here, and run after them when these have arrived, too.
bool Dispatcher::IsHalfMoved(const Request& burst) const {
  const Burst& replies = *burst.transaction->burst;
  return !replies.queue_error().empty() &&
         replies.turned_away() < CountCommandsWithKeys(*worker_, burst);
}

// The node lacks the script, or the script says so.
bool Dispatcher::OnNoScript(Request* request, Backend* backend, absl::string_view line) {
  if (!absl::StartsWith(request->command->name, "EVALSHA")) return false;
  if (request->hold != nullptr && request->hold->repairs >= kScriptRepairsMax) return false;
  // Those would run behind it; and it may have run, whatever it says.
  if (HasRefusedBefore(*request)) return false;
  std::shared_ptr<const ScriptRepair> repair = worker_->script_repairs()->Begin(*request, backend);
  if (repair == nullptr) return false;
  WaitAndRetry(request, line);
  request->hold->not_before = worker_->now();
  request->hold->repair = std::move(repair);
  ++request->hold->repairs;
  return true;
}

// An earlier one of its slot was refused, and goes again; but not for want of a script.
bool Dispatcher::HasRefusedBefore(const Request& request) {
  bool before = true;
  bool refused = false;
  request.client->ForEachUnanswered([&](const Request* other) {
    if (other == &request) before = false;
    if (!before || other->slot != request.slot || other->hold == nullptr) return;
    if (other->state != Request::State::kWaiting || other->hold->repair != nullptr) return;
    refused |= other->hold->refused;
  });
  return refused;
}

bool Dispatcher::OnRedirection(Request* request, Backend* backend,
                               const cluster::ErrorReply& error) {
  const NodeBackends& from = *backend->node();
  const bool script = request->command->is_script();
  const bool ask = error.kind == cluster::ErrorKind::kAsk;
  if (error.slot != request->slot) {
    worker_->stats()->malformed_redirections.Add(1);
    AnswerUnknown(request, kMalformedRedirection);
    return true;
  }
  if (backend->options().read_only && !ask) {
    // The replica has lost the slot, or its primary has: the primary knows.
    request->force_primary = true;
  }
  if (++request->redirections > worker_->config().redirections_max) {
    if (request->is_blocking) {
      // A slot that moves often: nothing was taken, and time bounds it.
      WaitAndRetry(request, kTooManyRedirections);
      request->hold->redirected = request->hold->ask = false;
      worker_->HintRefresh(from.id);
      return true;
    }
    if (script || request->read_retried) {
      AnswerUnknown(request, script ? kNotConfirmed : kConnectionLostError);
    } else {
      request->client->AnswerError(request, kTooManyRedirections);
    }
    return true;
  }
  Hold* hold = HoldRefused(request);
  hold->ask = ask;
  hold->redirected = false;
  hold->refused_by = from.id;
  hold->not_before = worker_->now();
  hold->error = std::string(script ? kNotConfirmed : kUnknownNode);
  hold->target_host = error.host.empty() ? from.address.host : std::string(error.host);
  hold->target_port = error.port;
  const cluster::Topology& topology = *worker_->cluster()->topology;
  const cluster::NodeIndex index = topology.FindByAddress(hold->target_host, hold->target_port);
  const bool known = index != cluster::kNoNode && topology.node(index).id != from.id;
  hold->ask_at = worker_->now();
  hold->redirected_in = worker_->topology_number();
  if (script || !known || (!ask && request->redirections > 1)) {
    // Not on one node's word: a view begun after this one, that node's own first.
    hold->confirm = script;
    hold->refresh_ask = worker_->AskRefresh(from.id);
    if (request->redirections > 1) {
      hold->not_before = worker_->now() + worker_->Jitter(hold->NextBackoff());
    }
  } else {
    hold->redirected = true;
    hold->target_id = topology.node(index).id;
    hold->target_host.clear();
    if (!ask) worker_->HintRefresh(from.id);
  }
  Wait(request);
  worker_->WakeClient(request->client);
  // What waits there for the same slot would sleep on, and the elements go to the target.
  if (ask) worker_->backends()->UnblockSlot(backend->node(), request->slot);
  return true;
}

void Dispatcher::WaitAndRetry(Request* request, absl::string_view line) {
  Hold* hold = HoldRefused(request);
  if (Ask* ask = request->ask(); ask != nullptr) ask->refused = true;
  hold->error = std::string(line);
  request->redirections = 0;  // it is time that bounds this, and each round may need an ASK
  hold->not_before = worker_->now() + worker_->Jitter(hold->NextBackoff());
  Wait(request);
  worker_->WakeClient(request->client);
}

// A node has refused it. From the first time on it may wait for so long, whatever it has waited for
// before; an Ask has a time of its own.
Hold* Dispatcher::HoldRefused(Request* request) {
  Hold* hold = EnsureHold(request);
  if (!hold->refused && request->ask() == nullptr) {
    hold->deadline = worker_->now() + worker_->config().hold_timeout;
  }
  hold->refused = true;
  return hold;
}

// --- before it is tried again

Dispatcher::Verdict Dispatcher::CheckRepair(Request* request) {
  Hold* const hold = request->hold.get();
  switch (hold->repair->state) {
    case ScriptRepair::State::kAsked:
      return Verdict::kNotYet;
    case ScriptRepair::State::kFailed:
      return Verdict::kExpired;
    case ScriptRepair::State::kDone:
      break;
  }
  hold->repair = nullptr;
  return Verdict::kGo;
}

// A redirection pointed to a node that was not known, or back to where it came from, or was not the
// first one of its request.
Dispatcher::Verdict Dispatcher::FindTarget(Request* request) {
  Hold* hold = request->hold.get();
  const cluster::Topology& topology = *worker_->cluster()->topology;
  const cluster::NodeIndex index = topology.FindByAddress(hold->target_host, hold->target_port);
  const bool known = index != cluster::kNoNode && topology.node(index).id != hold->refused_by;
  const bool answered = hold->refresh_ask <= worker_->refresh_answered();
  // A first redirection may be followed as soon as its target is known.
  if (known && !IsOvertakenByTopology(*request) && (answered || request->redirections <= 1)) {
    hold->redirected = true;
    hold->target_id = topology.node(index).id;
    hold->target_host.clear();
    return Verdict::kGo;
  }
  if (!answered) return Verdict::kNotYet;
  // Of the topology that it was refused under. A newer one may well give the slot to that node.
  const bool same_owner = topology.OwnerId(request->slot) == hold->refused_by &&
                          hold->redirected_in == worker_->topology_number();
  if (index != cluster::kNoNode || (hold->ask ? HasStoppedMoving(*request) : !same_owner)) {
    // The node means itself, the slot has another owner by now, or is not moving any more: by the
    // topology.
    hold->ask = false;
    hold->target_host.clear();
    return Verdict::kGo;
  }
  return AskAgain(request);
}

// The node that said ASK says in its view, asked for after that, that the slot is not leaving it.
bool Dispatcher::HasStoppedMoving(const Request& request) {
  const cluster::Topology* view = worker_->ViewFor(request.hold->refresh_ask);
  if (view == nullptr || view->source() == cluster::kNoNode) return false;
  return view->node(view->source()).id == request.hold->refused_by &&
         view->FindMoving(request.slot) == nullptr;
}

// An error of a script proves nothing by itself: the cluster's own view must say the same.
Dispatcher::Verdict Dispatcher::ConfirmScript(Request* request) {
  Hold* hold = request->hold.get();
  const cluster::Topology* view = worker_->ViewFor(hold->refresh_ask);
  if (view == nullptr) return AskAgain(request);  // nobody could be asked
  const bool own_view =
      view->source() != cluster::kNoNode && view->node(view->source()).id == hold->refused_by;
  const cluster::MovingSlot* moving = own_view ? view->FindMoving(request->slot) : nullptr;
  const absl::string_view owner = view->OwnerId(request->slot);
  bool confirmed = hold->confirm_moving && moving != nullptr;
  if (confirmed) {
    // Again, to where it was.
  } else if (!owner.empty() && owner != hold->refused_by) {
    // The slot has left the node: it had reason to refuse, whatever it said.
    confirmed = true;
    hold->ask = false;
    hold->redirected = true;
    hold->target_id = std::string(owner);
  } else if (hold->ask && hold->confirm_moving && own_view && moving == nullptr &&
             owner == hold->refused_by) {
    // An ASK, which was confirmed, led there, and the slot has arrived meanwhile.
    confirmed = true;
    hold->ask = false;
  } else if (hold->ask && !hold->confirm_moving) {
    const cluster::NodeIndex target = view->FindByAddress(hold->target_host, hold->target_port);
    confirmed = moving != nullptr && !moving->importing && target != cluster::kNoNode &&
                view->node(target).id == moving->other_id;
    if (confirmed) {
      hold->redirected = true;
      hold->target_id = moving->other_id;
      hold->ask_at = worker_->now();
    }
  }
  // Another's view may be an older one: it can confirm, but not refute.
  if (!confirmed && !own_view) return AskAgain(request);
  if (!confirmed) return Verdict::kExpired;
  hold->confirm = hold->confirm_moving = false;
  hold->target_host.clear();
  return Verdict::kGo;
}

// Waits for another view, begun after now, while there is time.
Dispatcher::Verdict Dispatcher::AskAgain(Request* request) {
  Hold* hold = request->hold.get();
  hold->not_before = worker_->now() + worker_->Jitter(hold->NextBackoff());
  hold->refresh_ask = worker_->AskRefresh(hold->refused_by);
  return Verdict::kNotYet;
}

// --- a later one ran

void Dispatcher::NoteMayHaveRun(Request* request) {
  if (request->client->waiting == 0) return;
  bool before = true;
  request->client->ForEachUnanswered([&](Request* other) {
    if (other == request) before = false;
    if (!before || other->slot != request->slot) return;
    if (other->state != Request::State::kWaiting || other->hold == nullptr) return;
    Hold* hold = other->hold.get();
    if (!hold->refused || !ShareKey(*worker_, *other, *request)) return;
    hold->deadline = worker_->now();
    // Which is an answer by itself.
    if (absl::StartsWith(hold->error, kNoScriptPrefix)) return;
    hold->error = std::string(other->command->is_script() ? kNotConfirmed : kOvertaken);
  });
}

bool Dispatcher::RunsAgain(Request* request) {
  if (request->client->waiting == 0) return false;
  if (!request->command->is_read_only() || request->command->is_script()) return false;
  // Of one request, it does not matter which part runs first.
  if (request->is_fragment() && request->client->unanswered() == 1) return false;
  bool before = true;
  bool overtook = false;
  bool write_follows = false;  // is out, or will be with this turn
  request->client->ForEachUnanswered([&](Request* other) {
    if (other == request) before = false;
    if (other->slot != request->slot) return;
    if (!before && other->is_out() && !other->command->is_read_only()) write_follows = true;
    if (!before || overtook) return;
    if (other->state != Request::State::kWaiting || other->hold == nullptr) return;
    if (request->is_fragment() && other->parent == request->parent) return;
    overtook = other->hold->refused && ShareKey(*worker_, *other, *request);
  });
  if (!overtook || write_follows) return false;
  Hold* hold = HoldRefused(request);
  if (hold->deadline <= worker_->now()) return false;
  hold->redirected = hold->ask = false;
  hold->not_before = worker_->now();
  hold->error = std::string(kConnectionLostError);  // at the deadline; it did run once
  Wait(request);
  worker_->WakeClient(request->client);
  return true;
}

void Dispatcher::AnswerUnknown(Request* request, absl::string_view line) {
  NoteMayHaveRun(request);
  worker_->stats()->unknown_outcomes.Add(1);
  Client* const client = request->client;
  client->AnswerError(request, line);
  // What waited for its reply may go now, or is over.
  if (client->waiting > 0) worker_->WakeClient(client);
}

}  // namespace proxy
