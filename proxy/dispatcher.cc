#include "proxy/dispatcher.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/base/attributes.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cluster/router.h"
#include "proxy/args.h"
#include "proxy/backend.h"
#include "proxy/backend_pool.h"
#include "proxy/client.h"
#include "proxy/forging.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

// Larger ones get a connection of their own.
constexpr size_t kSharedRequestBytesMax = 1 << 20;
// What waits for a node that is down for long waits so long for news of it.
constexpr absl::Duration kViewWaitMax = absl::Seconds(1);
// After a write, a connection's reads stay on the primary for so long.
constexpr absl::Duration kReadOwnWritesTime = absl::Seconds(1);

constexpr absl::string_view kTooManyPrivate =
    "ERR proxy: too many clients need a connection of their own (not executed)";
constexpr absl::string_view kGivenUp = "ERR proxy: given up (not executed)";
constexpr absl::string_view kNotReachable = "CLUSTERDOWN proxy: not reachable (not executed)";
constexpr absl::string_view kNotExecutedSuffix = "(not executed)";
constexpr absl::string_view kUnknownSuffix = "(outcome unknown)";

// No node refuses it, so that it runs in its place on a connection: PUBLISH. So many of them are
// looked at for the next one.
constexpr uint32_t kFollowersMax = 256;
bool MayFollow(const Request& request) {
  const cluster::CommandSpec& command = *request.command;
  return command.serve == cluster::Serve::kPublish && command.key_specs.empty() &&
         !request.private_connection && request.client->waiting == 0 &&
         request.client->in_flight <= kFollowersMax;
}

// All that is out for its client is of the same command, and on that connection.
bool OnlyTheSameOut(const Request& request, const Backend* backend) {
  bool only = backend != nullptr;
  request.client->ForEachUnanswered([&](const Request* other) {
    only &= other == &request || (other->command == request.command && other->backend == backend);
  });
  return only;
}

}  // namespace

// --- a new request

// It waits for the connection.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline void Dispatcher::HoldWhileOpening(Request* request,
                                                                      const Backend& backend) {
  if (ABSL_PREDICT_FALSE(backend.state() != Backend::State::kOpen)) EnsureHold(request);
}

ABSL_ATTRIBUTE_ALWAYS_INLINE inline void Dispatcher::NoteWrite(const Request& request) {
  request.client->NoteWrite(worker_->now());
  const Ask* const ask = request.ask();
  if (ABSL_PREDICT_FALSE(ask != nullptr && ask->to != Ask::To::kOwner)) {
    request.client->written()->AddAll();  // its slot is no more than a number
  } else {
    request.client->written()->Add(request.slot);
  }
}

ABSL_ATTRIBUTE_ALWAYS_INLINE inline void Dispatcher::Send(Request* request, const Route& route) {
  Client* client = request->client;
  if (!route.plain || request->private_connection) {
    client->plain_epoch = 0;
  } else if (client->in_flight == 0) {
    client->plain_epoch = worker_->route_epoch();
  }
  request->asking = request->hold != nullptr && request->hold->ask;
  HoldWhileOpening(request, *route.backend);
  if (ABSL_PREDICT_FALSE(request->private_connection)) PreparePrivate(request, route.backend);
  if (!request->command->is_read_only()) NoteWrite(*request);
  if (ABSL_PREDICT_FALSE(request->is_burst || request->private_connection)) {
    worker_->script_repairs()->GiveBefore(*request, route.backend);
  }
  route.backend->Enqueue(request);
}

bool Dispatcher::Start(Request* request, const io::Rope& frame) {
  const cluster::CommandSpec& command = *request->command;
  request->read = command.is_read_only();
  const size_t bytes = frame.size();
  request->private_connection |= bytes > kSharedRequestBytesMax;
  request->private_connection |= MayForge(*request, frame);
  bool barrier_closed =
      request->barrier && request->client->in_flight + request->client->waiting > 0;
  if (ABSL_PREDICT_FALSE(barrier_closed) && MayFollow(*request)) {
    barrier_closed = !OnlyTheSameOut(*request, FindRoute(request).backend);
  }
  Route route;
  // A private connection is taken only when the request may go at once.
  if (!barrier_closed && (!request->private_connection || MayGoApart(*request))) {
    route = FindRoute(request);
    const bool place = route.backend == nullptr || request->private_connection ||
                       route.backend->state() == Backend::State::kOpen ||
                       TakePlace(request, route, bytes);
    if (route.backend != nullptr && place && GateOpen(request, route)) {
      if (route.backend->HasRoom(bytes)) {
        if (bytes < kCopyBytes) {
          worker_->stats()->payload_bytes_copied.Add(bytes);
          request->bytes.Append(route.backend->CopyRequest(frame));
        } else {
          request->bytes = request->client->KeepFrame(frame);
        }
        Send(request, route);
        return true;
      }
      request->bytes = request->client->KeepFrame(frame);
      HoldWhileOpening(request, *route.backend);
      Wait(request);
      route.backend->AddWaiter(request->client->index(), request->client->generation());
      return false;
    }
  }
  request->bytes = request->client->KeepFrame(frame);
  Wait(request);
  if (!barrier_closed && !request->private_connection) {
    if (route.backend == nullptr) {
      HoldForNode(request, route);
    } else if (route.backend->state() != Backend::State::kOpen) {
      TakePlaceOrExpire(request, route);
    }
  }
  worker_->WakeClient(request->client);
  return true;
}

void Dispatcher::StartOneKeyFragment(Request* request, const io::Rope& frame) {
  request->read = request->command->is_read_only();
  request->bytes = frame;
  Hold* hold = EnsureHold(request);
  hold->refused = true;
  hold->not_before = worker_->now();
  Wait(request);
}

void Dispatcher::StartAsk(Request* request, const Ask& ask) {
  request->read = request->command->is_read_only();
  request->force_primary = true;
  request->bytes = ask.frame;
  // What may run for long must not stop others behind it, nor wait for them: it may be there to end
  // what they wait for.
  constexpr uint32_t kApart = cluster::kFlagSlow | cluster::kFlagAllowBusy;
  request->private_connection = (request->command->flags & kApart) != 0 ||
                                ForgingOf(*request->command) != Forging::kNobody ||
                                ask.frame.size() > kSharedRequestBytesMax;
  if (ask.is_burst || ask.watch != nullptr) {
    request->transaction = std::make_unique<TransactionPart>();
    request->transaction->watch = ask.watch;
    request->watched = ask.watch != nullptr;
    request->transaction->kept = ask.kept;
    request->private_connection |= request->watched || ask.kept != nullptr;
  }
  if (ask.is_burst) {
    request->is_burst = true;
    // Which of them call a script is not known by part: each node gets them all.
    std::vector<std::string> scripts;
    if (const TransactionPart* exec = request->parent->transaction.get(); exec != nullptr) {
      scripts.assign(exec->burst->scripts().begin(), exec->burst->scripts().end());
    }
    request->transaction->burst = std::make_unique<Burst>(
        ask.burst_commands, std::vector<LocalCommand>(), std::move(scripts));
    if (const TransactionPart* exec = request->parent->transaction.get(); exec != nullptr) {
      request->transaction->burst->forging = exec->burst->forging;
      request->private_connection |= MayForge(*request, request->bytes);
    }
  }
  const absl::Time begin = std::max(worker_->now(), ask.not_before);
  if (begin > worker_->now() || ask.patience < worker_->config().hold_timeout) {
    Hold* const hold = EnsureHold(request);
    hold->not_before = begin;
    hold->deadline = begin + std::min(ask.patience, worker_->config().hold_timeout);
  }
  if (ask.refresh_ask != 0) EnsureHold(request)->refresh_ask = ask.refresh_ask;
  Wait(request);
}

void Dispatcher::GiveUp(Request* request) {
  if (request->state == Request::State::kWaiting) EndHold(request, kGivenUp);
}

// --- where to

ABSL_ATTRIBUTE_ALWAYS_INLINE inline NodeBackends* Dispatcher::ChooseNode(Request* request,
                                                                         bool* read_only,
                                                                         bool* by_slot) {
  *read_only = *by_slot = false;
  const ClusterState* state = worker_->cluster();
  if (state == nullptr) return nullptr;
  if (const Ask* ask = request->ask(); ask != nullptr && ask->to != Ask::To::kOwner) {
    return worker_->backends()->FindById(ask->node_id);
  }
  Hold* hold = request->hold.get();
  if (hold != nullptr && hold->redirected) {
    NodeBackends* node = worker_->backends()->FindById(hold->target_id);
    const bool stale = hold->AskIsStale(worker_->now());
    const bool obsolete = stale || IsOvertakenByTopology(*request);
    if (node != nullptr && node->in_topology && !obsolete) return node;
    // It waited behind others, and was not followed. The owner is asked again as often as there is
    // time for: that is no loop of nodes.
    if (stale && request->redirections > 0) --request->redirections;
    hold->redirected = hold->ask = false;
  }
  const cluster::Topology& topology = *state->topology;
  const cluster::Shard* shard = topology.ShardFor(request->slot);
  if (shard == nullptr) return nullptr;
  cluster::NodeIndex index = shard->primary;
  const cluster::ReadPrefer prefer = worker_->config().read_prefer;
  if (prefer != cluster::ReadPrefer::kPrimary && request->read && !request->force_primary &&
      request->client->last_write() + kReadOwnWritesTime < worker_->now() &&
      !request->client->tracks()) {
    index = cluster::ChooseReadNode(
        topology, request->slot, prefer, static_cast<uint32_t>(worker_->Random(1u << 31)),
        worker_->backends()->Usable(), worker_->backends()->same_zone());
    *read_only = index != shard->primary;
  }
  if (index == cluster::kNoNode) return nullptr;
  *by_slot = index == shard->primary;
  return worker_->backends()->node(index);
}

NodeBackends* Dispatcher::NodeFor(Request* request) {
  bool read_only = false;
  bool by_slot = false;
  return ChooseNode(request, &read_only, &by_slot);
}

// Whether its client may have one more connection of its own. False: it is answered that it may
// not.
bool Dispatcher::MayLease(Request* request) {
  if (!worker_->backends()->LeasesFull()) return true;
  EndHold(request, kTooManyPrivate);
  return false;
}

// A MOVED is older than the topology, which gives the slot to another node than the one that
// refused.
bool Dispatcher::IsOvertakenByTopology(const Request& request) {
  const Hold& hold = *request.hold;
  if (hold.ask || hold.redirected_in == worker_->topology_number()) return false;
  // The first one since then may have been asked for before; the next one was not.
  if (worker_->topology_number() - hold.redirected_in >= 2) return true;
  const absl::string_view owner = worker_->cluster()->topology->OwnerId(request.slot);
  return !owner.empty() && owner != hold.refused_by;
}

// The node may send to it what looks like more than one reply.
bool Dispatcher::MayForge(const Request& request, const io::Rope& frame) {
  const cluster::CommandSpec& command = *request.command;
  Forging forging = ForgingOf(command);
  if (ABSL_PREDICT_FALSE(request.is_burst)) {
    forging = request.transaction->burst->forging;
  } else if (ABSL_PREDICT_FALSE(forging != Forging::kNobody) && HasScriptText(command)) {
    forging = ForgingOf(command, ArgList(frame.Views()).views());
  }
  return forging == Forging::kAnyServer ||
         (forging == Forging::kSomeServers && worker_->backends()->forges());
}

Dispatcher::Route Dispatcher::FindRoute(Request* request) {
  if (ABSL_PREDICT_FALSE(request->watched)) return FindWatchRoute(request);
  Route route;
  bool read_only = false;
  bool by_slot = false;
  route.node = ChooseNode(request, &read_only, &by_slot);
  if (route.node == nullptr) return route;
  if (request->private_connection) {
    if (request->is_burst && request->transaction->kept != nullptr) return FindKeptRoute(request);
    if (request->is_blocking && !MayLease(request)) return route;
    route.backend = worker_->backends()->Private(route.node, SessionOf(*request), read_only);
  } else {
    route.backend =
        worker_->backends()->Shared(route.node, SessionOf(*request), read_only, request->slot);
    route.plain = by_slot;
  }
  return route;
}

// For a request that is the client's newest.
bool Dispatcher::GateOpen(Request* request, const Route& route) {
  const Client& client = *request->client;
  if (client.waiting == 0) {
    if (client.in_flight == 0) return true;
    // All that is in flight went by the slot's primary of this epoch, and so does this: where the
    // slots are the same, so are the connections.
    if (route.plain && client.plain_epoch == worker_->route_epoch()) return true;
  }
  return !EarlierInTheWay(*request, route.backend);
}

// For a request that is the client's newest, on a connection of its own.
bool Dispatcher::MayGoApart(const Request& request) {
  // It has to be looked at, see MayHaveKeysElsewhere, which it can be when it waits.
  if (request.watched && request.is_burst && request.transaction->watch->asking) return false;
  return !EarlierInTheWay(request, nullptr);
}

bool Dispatcher::EarlierInTheWay(const Request& request, const Backend* backend) {
  // The only one is its own parent, whose other fragments have other slots: there may be thousands.
  const bool is_new = request.state == Request::State::kNew;
  if (is_new && request.is_fragment() && request.client->unanswered() == 1) return false;
  bool found = false;
  request.client->ForEachUnanswered([&](Request* other) {
    if (other == &request || other->slot != request.slot) return;
    if (!other->is_out() || other->backend != backend) found = true;
  });
  return found;
}

void Dispatcher::PreparePrivate(Request* request, Backend* backend) {
  if (request->watched) PrepareWatched(request);
  if (request->is_blocking) {
    Block* const block = request->block.get();
    if (block->was_sent()) {
      request->bytes = WithTimeLeft(*block, request->bytes, worker_->now());
    }
    block->sent_at = worker_->now();
    block->moved_at = absl::InfiniteFuture();
    backend->Lease();
  }
}

// --- waiting

void Dispatcher::Wait(Request* request) {
  ABSL_ASSERT(request->state != Request::State::kWaiting);
  request->state = Request::State::kWaiting;
  ++request->client->waiting;
  worker_->stats()->held_requests.Add(1);
  worker_->NoteWaiting(request->client);
}

void Dispatcher::LeaveWaiting(Request* request) {
  ABSL_ASSERT(request->state == Request::State::kWaiting);
  request->state = Request::State::kNew;
  --request->client->waiting;
  worker_->stats()->held_requests.Sub(1);
}

// Its time is up: it is answered with the line.
void Dispatcher::EndHold(Request* request, absl::string_view line) {
  Hold* const hold = EnsureHold(request);
  hold->error = std::string(line);
  hold->deadline = worker_->now();
}

Hold* Dispatcher::EnsureHold(Request* request) {
  if (request->hold == nullptr) request->hold = std::make_unique<Hold>();
  Hold* hold = request->hold.get();
  if (hold->deadline == absl::InfiniteFuture()) {
    hold->deadline = worker_->now() + worker_->config().hold_timeout;
  }
  return hold;
}

// Among those that wait for a connection to the node. False: too many do.
bool Dispatcher::TakePlace(Request* request, const Route& route, uint64_t bytes) {
  if (request->hold == nullptr) request->hold = std::make_unique<Hold>();
  return request->hold->place.Take(route.node == nullptr ? uncovered_ : route.node->waiting, bytes);
}

void Dispatcher::TakePlaceOrExpire(Request* request, const Route& route) {
  if (!TakePlace(request, route, request->bytes.size())) request->hold->deadline = worker_->now();
}

// Nobody serves the slot, or its node can't be connected to at this time.
void Dispatcher::HoldForNode(Request* request, const Route& route) {
  Hold* hold = EnsureHold(request);
  const absl::Time now = worker_->now();
  if (hold->deadline <= now) return;
  hold->for_topology = worker_->topology_number();
  TakePlaceOrExpire(request, route);
  if (route.node == nullptr) {
    hold->not_before = now + hold->NextBackoff();
    worker_->HintRefresh("");
    return;
  }
  hold->not_before = std::max(now + Hold::kBackoffMin, route.node->available_at);
  // A node that has been away for longer than anybody would wait: the answer comes at once, or with
  // the view that was asked for when the node was tried last, if that comes soon.
  if (worker_->backends()->IsDownForLong(*route.node)) {
    const absl::Time view_until = route.node->refresh_asked_at + kViewWaitMax;
    if (hold->refresh_ask == 0) hold->refresh_ask = route.node->refresh_ask;
    if (hold->refresh_ask <= worker_->refresh_answered() || view_until <= now) {
      hold->deadline = now;
    } else {
      hold->deadline = std::min(hold->deadline, view_until);
      hold->not_before = now;
    }
  }
  // Next time, by the topology as it is then.
  hold->redirected = hold->ask = false;
}

void Dispatcher::Wake(Client* client) {
  // Of the requests for one slot, in order: which connection the unanswered ones are on, …
  struct SlotView {
    uint32_t last_run = 0;  // … the number of the last one that is out or may have run, …
    const Backend* on = nullptr;
    bool several = false;
    bool waits = false;  // … and whether one of them waits, …
    bool for_node = false;
    Route route = {};  // … for this node.
  };
  client->MoveProcedureOn();
  client->wake_at = absl::InfiniteFuture();
  if (client->waiting == 0) return;
  absl::flat_hash_map<cluster::Slot, SlotView> slots;
  uint32_t number = 0;
  client->ForEachUnanswered([&](Request* request) {
    ++number;
    if (request->is_out() || request->is_unconfirmed()) slots[request->slot].last_run = number;
  });
  std::vector<Request*> expired;
  std::vector<Request*> gone;
  number = 0;
  bool earlier_unanswered = false;
  bool confirmed = false;
  client->ForEachUnanswered([&](Request* request) {
    ++number;
    SlotView& slot = slots[request->slot];
    const bool first = !earlier_unanswered;
    earlier_unanswered = true;
    if (request->is_out()) {
      slot.several |= slot.on != nullptr && slot.on != request->backend;
      slot.on = request->backend;
      return;
    }
    if (Ask* ask = request->ask(); ask != nullptr && IsGone(*worker_, *ask)) {
      ask->gone = true;
      gone.push_back(request);
      return;
    }
    const bool unconfirmed = request->is_unconfirmed();
    const Verdict verdict = CheckHold(request);
    confirmed |= unconfirmed && verdict == Verdict::kGo;
    if (verdict == Verdict::kExpired) {
      expired.push_back(request);
      return;
    }
    const bool refused = request->hold != nullptr && request->hold->refused;
    const bool may_go = verdict == Verdict::kGo && !slot.waits && !slot.several &&
                        !(refused && slot.last_run > number) && !(request->barrier && !first) &&
                        !(request->private_connection && slot.on != nullptr);
    if (may_go) {
      const Route route = FindRoute(request);
      if (route.backend == nullptr) {
        HoldForNode(request, route);
        slot.for_node = true;
        slot.route = route;
      } else if (slot.on != nullptr && slot.on != route.backend) {
        // Another connection than that of the earlier ones: their replies wake it.
      } else if (!route.backend->HasRoom(request->bytes.size())) {
        HoldWhileOpening(request, *route.backend);
        route.backend->AddWaiter(client->index(), client->generation());
      } else {
        LeaveWaiting(request);
        Send(request, route);
        slot.on = route.backend;
        // A refused one of several keys may be refused again (TRYAGAIN): none behind it may run
        // before it and take its place.
        slot.waits |= refused && !request->command->single_first_key;
        return;
      }
    } else if (slot.for_node) {
      TakePlaceOrExpire(request, slot.route);
    }
    slot.waits = true;
    if (request->hold == nullptr) return;
    // Wakes by itself when its time comes; other events wake it before.
    client->wake_at = std::min(client->wake_at, request->hold->deadline);
    if (request->hold->not_before > worker_->now()) {
      client->wake_at = std::min(client->wake_at, request->hold->not_before);
    }
  });
  for (Request* request : expired) Expire(request);
  for (Request* request : gone) {
    LeaveWaiting(request);
    client->AnswerRope(request, io::Rope());
  }
  // What waited for no other than those may go now: a barrier, a refused one before them.
  const bool decided = confirmed || !expired.empty() || !gone.empty();
  if (decided && client->waiting > 0) worker_->WakeClient(client);
  if (client->waiting == 0) {
    client->OnRoom();
    worker_->MarkDirty(client);
  }
}

void Dispatcher::Expire(Request* request) {
  if (request->watched && (request->is_burst || IsWatchOver(*request))) {
    LeaveWaiting(request);
    return OnWatchOver(request);
  }
  std::string line = request->hold->error;
  if (line.empty()) {
    line = absl::StrCat("CLUSTERDOWN proxy: slot ", request->slot,
                        " has no reachable owner (not executed)");
    const Ask* ask = request->ask();
    if (ask != nullptr && !ask->node_name.empty()) line = std::string(kNotReachable);
  }
  // A read that was sent twice: the first time it may have run.
  if (request->read_retried && absl::EndsWith(line, kNotExecutedSuffix)) {
    line = std::string(kConnectionLostError);
  }
  // While it still has its place among the others, see there.
  const bool unknown = absl::EndsWith(line, kUnknownSuffix);
  const bool no_script = request->hold->repair != nullptr;  // or so it said
  if (unknown || no_script || request->is_unconfirmed()) NoteMayHaveRun(request);
  LeaveWaiting(request);
  if (unknown) worker_->stats()->unknown_outcomes.Add(1);
  request->client->AnswerError(request, line);
}

Dispatcher::Verdict Dispatcher::CheckHold(Request* request) {
  Hold* hold = request->hold.get();
  if (hold == nullptr) return Verdict::kGo;
  if (hold->deadline <= worker_->now()) return Verdict::kExpired;
  if (hold->repair != nullptr) {
    const Verdict verdict = CheckRepair(request);
    if (verdict != Verdict::kGo) return verdict;
  }
  const bool other_topology =
      hold->for_topology != 0 && hold->for_topology != worker_->topology_number();
  if (hold->not_before > worker_->now() && !other_topology) return Verdict::kNotYet;
  hold->for_topology = 0;
  const bool confirm = hold->confirm || hold->confirm_moving;
  if (!confirm && !hold->target_host.empty()) return FindTarget(request);
  if (hold->refresh_ask > worker_->refresh_answered() && (confirm || !other_topology)) {
    return Verdict::kNotYet;
  }
  return confirm ? ConfirmScript(request) : Verdict::kGo;
}

// --- lost connections

void Dispatcher::OnNotHandedOver(Request* request) {
  EnsureHold(request);
  Wait(request);
  worker_->WakeClient(request->client);
}

bool Dispatcher::MayRepeat(const Request& request) {
  if (!worker_->config().retry_reads || !request.command->is_read_only() ||
      request.command->is_script() || request.read_retried) {
    return false;
  }
  // A later write may have run: the read would see it.
  bool after = false;
  bool written = false;
  request.client->ForEachUnanswered([&](Request* other) {
    if (other == &request) after = true;
    if (after && other->slot == request.slot && other->handed_over &&
        !other->command->is_read_only()) {
      written = true;
    }
  });
  return !written;
}

void Dispatcher::Repeat(Request* request) {
  request->read_retried = true;
  Hold* const hold = EnsureHold(request);
  hold->error = std::string(kConnectionLostError);
  // An ASK was followed, then, and is over.
  if (hold->ask) hold->redirected = hold->ask = false;
  Wait(request);
  worker_->WakeClient(request->client);
}

}  // namespace proxy
