#include "proxy/dispatcher.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/base/attributes.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cluster/router.h"
#include "proxy/args.h"
#include "proxy/backend.h"
#include "proxy/backend_pool.h"
#include "proxy/client.h"
#include "proxy/forging.h"
#include "proxy/request_keys.h"
#include "proxy/split_request.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

// Larger ones get a connection of their own.
constexpr size_t kSharedRequestBytesMax = 1 << 20;
// A blocking command that was sent so long ago is told something new: its slot may move ever again.
constexpr absl::Duration kBlockedLong = absl::Milliseconds(100);
// What waits for a node that is down for long waits so long for news of it.
constexpr absl::Duration kViewWaitMax = absl::Seconds(1);
// After a write, a connection's reads stay on the primary for so long.
constexpr absl::Duration kReadOwnWritesTime = absl::Seconds(1);

// A WATCH of so many bytes has its keys remembered.
constexpr size_t kMovedKeysBytesMax = 4 << 10;

constexpr absl::string_view kTooManyRedirections =
    "ERR proxy: too many redirections (not executed)";
constexpr absl::string_view kMalformedRedirection =
    "ERR proxy: malformed redirection (outcome unknown)";
constexpr absl::string_view kTooManyPrivate =
    "ERR proxy: too many clients need a connection of their own (not executed)";
constexpr absl::string_view kUnknownNode =
    "CLUSTERDOWN proxy: redirect to unknown node (not executed)";
constexpr absl::string_view kNotConfirmed =
    "ERR proxy: redirection not confirmed (outcome unknown)";
constexpr absl::string_view kOvertaken =
    "ERR proxy: overtaken by a later command on the same key (not executed)";
constexpr absl::string_view kNoScriptPrefix = "NOSCRIPT ";
// Nodes that lack the script, one after the other.
constexpr uint8_t kScriptRepairsMax = 3;
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
  if (!request->command->is_read_only()) client->NoteWrite(worker_->now());
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
  if (ABSL_PREDICT_FALSE(MayForge(*request, frame))) {
    request->private_connection = request->force_primary = true;
  }
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
    request->private_connection |= request->watched;
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

// The watch of the request is not, or will not be, one.
bool Dispatcher::IsWatchOver(const Request& request) const {
  const Watch& watch = *request.transaction->watch;
  return watch.lost || (watch.over && !request.is_burst);
}

// EXEC: as if a key had changed. WATCH: that is what its EXEC will answer.
void Dispatcher::OnWatchOver(Request* request) {
  if (!request->is_burst) return request->client->Answer(request, "+OK\r\n");
  // Its connection, if it has one still, watches at its node, too.
  request->transaction->watch->Release(*worker_, false);
  const bool resp3 = request->protocol == resp::Protocol::kResp3;
  request->client->Answer(request, resp3 ? "_\r\n" : "*-1\r\n");
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

// A key of the block that is not watched may still be where the slot comes from. ASKING would have
// a command on it run at the target all the same, on nothing.
bool Dispatcher::MayHaveKeysElsewhere(const Request& burst) const {
  const Watch& watch = *burst.transaction->watch;
  if (!watch.asking) return false;
  const absl::flat_hash_set<std::string> keys = KeysOf(*worker_, burst);
  return !std::all_of(keys.begin(), keys.end(),
                      [&watch](const std::string& key) { return watch.moved_keys.contains(key); });
}

// The connection of the client's watch; one is taken for its first WATCH.
Dispatcher::Route Dispatcher::FindWatchRoute(Request* request) {
  Watch* const watch = request->transaction->watch.get();
  if (request->is_burst && MayHaveKeysElsewhere(*request)) watch->lost = true;
  Route route;
  route.backend = watch->FindBackend(*worker_);
  const bool there = route.backend != nullptr && route.backend->usable() && route.backend->fenced();
  if (there && !IsWatchOver(*request)) {
    route.node = route.backend->node();
    return route;
  }
  route.backend = nullptr;
  if (request->is_burst || watch->requests > 1) watch->lost = true;
  Hold* const hold = EnsureHold(request);
  if (IsWatchOver(*request)) {
    hold->deadline = worker_->now();
    return route;
  }
  if (worker_->backends()->LeasesFull()) {
    EndHold(request, kTooManyPrivate);
    return route;
  }
  bool read_only = false;
  bool by_slot = false;
  route.node = ChooseNode(request, &read_only, &by_slot);
  if (route.node == nullptr) return route;
  route.backend = worker_->backends()->Private(route.node, request->protocol);
  if (route.backend == nullptr) return route;
  route.backend->Lease();
  watch->Take(route.backend);
  return route;
}

// What a single command would wait for or follow. False: the error is for the client.
bool Dispatcher::OnWatchRefused(Request* request, cluster::ErrorKind kind) {
  if (kind == cluster::ErrorKind::kOther) return false;
  Watch* const watch = request->transaction->watch.get();
  if (!request->is_burst && watch->requests == 1) {
    // Nothing is watched yet: by the redirection, on another connection.
    watch->asking = false;
    if (watch->over) {
      OnWatchOver(request);
      return true;
    }
    watch->Release(*worker_, true);
    watch->over = false;
    return false;
  }
  watch->lost = true;
  worker_->HintRefresh("");
  OnWatchOver(request);
  return true;
}

Dispatcher::Route Dispatcher::FindRoute(Request* request) {
  if (ABSL_PREDICT_FALSE(request->watched)) return FindWatchRoute(request);
  Route route;
  bool read_only = false;
  bool by_slot = false;
  route.node = ChooseNode(request, &read_only, &by_slot);
  if (route.node == nullptr) return route;
  if (request->private_connection) {
    if (request->is_blocking && worker_->backends()->LeasesFull()) {
      EndHold(request, kTooManyPrivate);
      return route;
    }
    route.backend = worker_->backends()->Private(route.node, request->protocol);
  } else {
    route.backend =
        worker_->backends()->Shared(route.node, request->protocol, read_only, request->slot);
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
  if (request->watched) {
    Watch* const watch = request->transaction->watch.get();
    if (request->is_burst) {
      request->asking = watch->asking;
    } else if (request->asking) {
      watch->asking = true;
      watch->moved_keys.clear();
      if (request->bytes.size() <= kMovedKeysBytesMax) {
        watch->moved_keys = KeysOf(*worker_, *request);
      }
    }
  }
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

// Waits for another view, begun after now, while there is time.
Dispatcher::Verdict Dispatcher::AskAgain(Request* request) {
  Hold* hold = request->hold.get();
  hold->not_before = worker_->now() + worker_->Jitter(hold->NextBackoff());
  hold->refresh_ask = worker_->AskRefresh(hold->refused_by);
  return Verdict::kNotYet;
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

// The node queues each command of a block by itself: those whose keys it still has, and the others
// it sends away. The block can run nowhere until all are on one side. At the target it would only
// be refused; but if that hangs, it would lie there while later commands run here on keys that are
// still here, and run after them when these have arrived, too.
bool Dispatcher::IsHalfMoved(const Request& burst) const {
  const Burst& replies = *burst.transaction->burst;
  return !replies.queue_error().empty() &&
         replies.turned_away() < CountCommandsWithKeys(*worker_, burst);
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

void Dispatcher::WaitAndRetry(Request* request, absl::string_view line) {
  Hold* hold = HoldRefused(request);
  if (Ask* ask = request->ask(); ask != nullptr) ask->refused = true;
  hold->error = std::string(line);
  request->redirections = 0;  // it is time that bounds this, and each round may need an ASK
  hold->not_before = worker_->now() + worker_->Jitter(hold->NextBackoff());
  Wait(request);
  worker_->WakeClient(request->client);
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

void Dispatcher::AnswerUnknown(Request* request, absl::string_view line) {
  NoteMayHaveRun(request);
  worker_->stats()->unknown_outcomes.Add(1);
  Client* const client = request->client;
  client->AnswerError(request, line);
  // What waited for its reply may go now, or is over.
  if (client->waiting > 0) worker_->WakeClient(client);
}

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
