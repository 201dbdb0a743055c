#include "proxy/backend_pool.h"

#include <algorithm>
#include <utility>

#include "proxy/forging.h"
#include "proxy/server_info.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

constexpr absl::Duration kBackoffMin = absl::Milliseconds(50);
// With what a connect may take, well within the two seconds after which all is to be as before.
constexpr absl::Duration kBackoffMax = absl::Milliseconds(500);
// Connects to a node in trouble are so far apart, and up to half as much more.
constexpr absl::Duration kBetweenConnectsMin = absl::Milliseconds(50);
constexpr absl::Duration kTroubleTime = absl::Seconds(1);
// A node that is down is tried more often than this if somebody wants something from it.
constexpr absl::Duration kUnusedTime = absl::Seconds(1);
constexpr absl::Duration kBetweenUnblocks = absl::Milliseconds(10);
constexpr absl::Duration kBetweenFences = absl::Milliseconds(100);

size_t ProtocolIndex(resp::Protocol protocol) { return protocol == resp::Protocol::kResp3 ? 1 : 0; }

bool Any(const Backend&) { return true; }
bool NotFenced(const Backend& backend) { return !backend.fenced(); }

// Each place for a shared connection.
template <typename Fn>
void ForEachShared(NodeBackends* node, Fn fn) {
  const auto visit = [&fn](NodeBackends::Shared* shared) {
    for (auto& by_role : *shared) {
      for (auto& backends : by_role) {
        for (Backend*& backend : backends) fn(&backend);
      }
    }
  };
  visit(&node->shared);
  for (auto& [database, shared] : node->shared_by_database) visit(&shared);
}

}  // namespace

BackendPool::BackendPool(Worker* worker)
    : worker_(worker), fence_timer_(worker->timers(), &BackendPool::FenceTimerFired, this) {}

void BackendPool::Adopt(const ClusterState& state) {
  const cluster::Topology& topology = *state.topology;
  for (auto& [id, node] : nodes_) node->in_topology = false;
  by_index_.assign(topology.nodes().size(), nullptr);
  for (size_t i = 0; i < topology.nodes().size(); ++i) {
    const cluster::Node& from = topology.node(static_cast<cluster::NodeIndex>(i));
    // There may be many that have left and are still told of: they need nothing here.
    if (!from.usable() && !nodes_.contains(from.id)) continue;
    std::unique_ptr<NodeBackends>& node = nodes_[from.id];
    if (node == nullptr) {
      node = std::make_unique<NodeBackends>();
      node->id = from.id;
      node->shared = NoShared();
    }
    node->in_topology = true;
    const absl::optional<io::Endpoint>& endpoint = state.endpoints[i];
    if (endpoint.has_value() && !(node->endpoint == endpoint)) {
      // The node has moved: what is on the way to its old address is answered or fails there.
      if (node->endpoint.has_value()) Retire(node.get(), Any);
      node->endpoint = endpoint;
      node->available_at = absl::InfinitePast();
      node->backoff = absl::ZeroDuration();
      node->down_since = absl::InfiniteFuture();
    }
    node->address = from.address;
    by_index_[i] = node.get();
  }
  usable_ = std::make_unique<bool[]>(by_index_.size());
  same_zone_ = std::make_unique<bool[]>(by_index_.size());
  OnNodesChanged();
  std::vector<std::string> gone;
  for (auto& [id, node] : nodes_) {
    if (node->in_topology) continue;
    Retire(node.get(), Any);
    if (node->MayBeForgotten()) gone.push_back(id);
  }
  for (const std::string& id : gone) nodes_.erase(id);
  if (!fence_timer_.armed() && !closed_) ConnectToFence();  // a node may have come back
  NoteMovedOwners();
  worker_->RaiseRouteEpoch();
}

NodeBackends* BackendPool::FindById(absl::string_view id) {
  const auto it = nodes_.find(id);
  return it == nodes_.end() ? nullptr : it->second.get();
}

absl::Span<const bool> BackendPool::Usable() {
  for (size_t i = 0; i < by_index_.size(); ++i) {
    const NodeBackends* node = by_index_[i];
    usable_[i] =
        node != nullptr && node->endpoint.has_value() && node->down_since == absl::InfiniteFuture();
  }
  return absl::MakeConstSpan(usable_.get(), by_index_.size());
}

bool BackendPool::MayConnect(const NodeBackends& node) const {
  return node.endpoint.has_value() && node.in_topology && node.available_at <= worker_->now();
}

bool BackendPool::IsDownForLong(const NodeBackends& node) const {
  return worker_->now() - node.down_since > worker_->config().hold_timeout;
}

NodeBackends::Shared BackendPool::NoShared() const {
  NodeBackends::Shared shared;
  for (auto& by_role : shared) {
    for (auto& backends : by_role) backends.resize(worker_->config().backend_connections);
  }
  return shared;
}

Backend* BackendPool::Shared(NodeBackends* node, const BackendSession& session, bool read_only,
                             cluster::Slot slot) {
  NodeBackends::Shared* shared = &node->shared;
  if (ABSL_PREDICT_FALSE(session.database != 0)) {
    const auto [place, is_new] = node->shared_by_database.try_emplace(session.database);
    if (is_new) place->second = NoShared();
    shared = &place->second;
  }
  std::vector<Backend*>& backends = (*shared)[ProtocolIndex(session.protocol)][read_only ? 1 : 0];
  // A division takes longer than all the rest of this.
  Backend*& backend = backends[backends.size() == 1 ? 0 : slot % backends.size()];
  if (backend == nullptr && MayConnect(*node)) {
    Backend::Options options;
    options.session = session;
    options.read_only = read_only;
    // Assigned only after it began: a connect that fails at once is forgotten before that.
    Backend* opened = Open(node, options);
    if (opened->usable()) backend = opened;
  }
  return backend;
}

absl::Span<Backend* const> BackendPool::OpenPrimaries(resp::Protocol protocol) {
  if (ABSL_PREDICT_FALSE(open_primaries_epoch_ != worker_->route_epoch())) FindOpenPrimaries();
  return open_primaries_[ProtocolIndex(protocol)];
}

void BackendPool::FindOpenPrimaries() {
  open_primaries_epoch_ = worker_->route_epoch();
  const absl::Span<const cluster::Shard> shards = worker_->cluster()->topology->shards();
  for (size_t protocol = 0; protocol < open_primaries_.size(); ++protocol) {
    open_primaries_[protocol].assign(shards.size(), nullptr);
    for (size_t i = 0; i < shards.size(); ++i) {
      const NodeBackends* node = by_index_[shards[i].primary];
      if (node == nullptr || node->shared[protocol][0].size() != 1) continue;
      Backend* backend = node->shared[protocol][0].front();
      const bool open = backend != nullptr && backend->state() == Backend::State::kOpen;
      if (open) open_primaries_[protocol][i] = backend;
    }
  }
}

Backend* BackendPool::Private(NodeBackends* node, const BackendSession& session, bool read_only) {
  for (size_t i = node->idle_private.size(); i-- > 0;) {
    Backend* backend = node->idle_private[i];
    const Backend::Options& options = backend->options();
    if (!(options.session == session) || options.read_only != read_only) continue;
    node->idle_private.erase(node->idle_private.begin() + i);
    --idle_private_count_;
    return backend;
  }
  if (LoansFull() || !MayConnect(*node)) return nullptr;
  Backend::Options options;
  options.session = session;
  options.read_only = read_only;
  options.is_private = true;
  ++private_count_;
  Backend* opened = Open(node, options);
  return opened->usable() ? opened : nullptr;
}

void BackendPool::GiveBack(Backend* backend) {
  std::vector<Backend*>& idle = backend->node()->idle_private;
  if (!backend->node()->in_topology || !backend->fenced()) return backend->Retire();
  if (idle_private_count_ >= worker_->config().backend_idle_connections) {
    // One of another kind, which was used before, makes room for it.
    const auto other = std::find_if(idle.begin(), idle.end(), [&](const Backend* before) {
      return before->options().session.database != backend->options().session.database ||
             before->options().read_only != backend->options().read_only;
    });
    if (other == idle.end()) return backend->Retire();
    (*other)->Retire();
  }
  ++idle_private_count_;
  idle.push_back(backend);
}

bool BackendPool::LeasesFull() const {
  return leases_ >= worker_->config().private_connections_max;
}

bool BackendPool::LoansFull() const {
  return private_count_ - idle_private_count_ - leases_ >=
         worker_->config().private_connections_max;
}

void BackendPool::OnNodesChanged() {
  std::transform(by_index_.begin(), by_index_.end(), same_zone_.get(),
                 [](const NodeBackends* node) { return node != nullptr && node->near; });
  forges_ = std::any_of(by_index_.begin(), by_index_.end(),
                        [](const NodeBackends* node) { return node != nullptr && node->forges; });
}

void BackendPool::NoteInfo(NodeBackends* node, absl::string_view frame) {
  absl::string_view text;
  if (!resp::ParseText(frame, &text)) {
    // No right to INFO, or busy: it is what it was.
    if (node->info_known) return;
    text = absl::string_view();
  }
  node->info_known = true;
  node->near = InfoField(text, "availability_zone") == worker_->config().zone;
  const absl::optional<ServerInfo> server = ReadServerInfo(frame);
  node->forges = !server.has_value() || IsForgedByScripts(*server);
  OnNodesChanged();
}

void BackendPool::UnblockSlot(NodeBackends* node, cluster::Slot slot) {
  if (leases_ == 0) return;
  // Each key that is asked for in such a slot brings us here.
  if (slot == unblocked_slot_ && worker_->now() < unblocked_at_ + kBetweenUnblocks) return;
  unblocked_slot_ = slot;
  unblocked_at_ = worker_->now();
  Backend* const shared = Shared(node, {}, false, slot);
  if (shared == nullptr) return;
  worker_->ForEachBackend([&](Backend* backend) {
    const Request* const blocked = backend->blocked();
    if (blocked != nullptr && backend->node() == node && blocked->slot == slot) {
      shared->SendUnblock(backend->client_id(), true);
    }
  });
}

void BackendPool::NoteMovedOwners() {
  if (leases_ == 0 || worker_->cluster() == nullptr) return;
  const cluster::Topology& topology = *worker_->cluster()->topology;
  worker_->ForEachBackend([&](Backend* backend) {
    const Request* const blocked = backend->blocked();
    if (blocked == nullptr || blocked->asking) return;
    const absl::string_view owner = topology.OwnerId(blocked->slot);
    if (!owner.empty() && owner != backend->node()->id) backend->OnOwnerChanged();
  });
}

Backend* BackendPool::Open(NodeBackends* node, const Backend::Options& options) {
  NoteConnect(node);
  Backend* backend = worker_->NewBackend();
  backend->Start(node, options);
  return backend;
}

bool BackendPool::BeginConnect(NodeBackends* node, absl::Time* not_before) {
  if (!MayConnect(*node)) {
    *not_before = node->available_at;
    return false;
  }
  NoteConnect(node);
  return true;
}

void BackendPool::NoteConnect(NodeBackends* node) {
  const bool unused = worker_->now() - node->spaced_until > kUnusedTime;
  node->spaced_until = worker_->now() + kBetweenConnectsMin +
                       kBetweenConnectsMin * static_cast<int64_t>(worker_->Random(51)) / 100;
  KeepApart(node);
  // While nobody wanted anything from it, nobody may have asked where it is: it can be elsewhere.
  // Where somebody does, each failed connect asks.
  if (unused && IsDownForLong(*node)) {
    node->refresh_ask = worker_->AskRefresh("");
    node->refresh_asked_at = worker_->now();
  }
}

void BackendPool::Forget(Backend* backend) {
  NodeBackends* node = backend->node();
  ForEachShared(node, [backend](Backend** place) {
    if (*place == backend) *place = nullptr;
  });
  const auto it = std::find(node->idle_private.begin(), node->idle_private.end(), backend);
  if (it != node->idle_private.end()) {
    node->idle_private.erase(it);
    --idle_private_count_;
  }
}

void BackendPool::OnBackendFreed(NodeBackends* node, bool is_private) {
  --node->backends;
  if (is_private) --private_count_;
  if (node->MayBeForgotten()) nodes_.erase(std::string(node->id));
}

void BackendPool::OnConnectFailed(NodeBackends* node) {
  if (node->down_since == absl::InfiniteFuture()) node->down_since = worker_->now();
  node->backoff = std::clamp(node->backoff * 2, kBackoffMin, kBackoffMax);
  node->available_at = worker_->now() + worker_->Jitter(node->backoff);
  NoteTrouble(node);
}

void BackendPool::OnLost(NodeBackends* node) {
  node->down_since = absl::InfiniteFuture();  // until now it was there, whatever failed before
  NoteTrouble(node);
}

void BackendPool::NoteTrouble(NodeBackends* node) {
  node->trouble_until = worker_->now() + kTroubleTime;
  KeepApart(node);
}

// However many kinds of connections are wanted at a time.
void BackendPool::KeepApart(NodeBackends* node) {
  if (worker_->now() >= node->trouble_until) return;
  node->available_at = std::max(node->available_at, node->spaced_until);
}

void BackendPool::OnOpen(NodeBackends* node) {
  node->backoff = absl::ZeroDuration();
  node->available_at = absl::InfinitePast();
  node->down_since = absl::InfiniteFuture();
  KeepApart(node);
}

void BackendPool::Fence(NodeBackends* node, OldConnection old) {
  node->old_connections.push_back(std::move(old));
  ++node->fences;
  Retire(node, NotFenced);
  if (!fence_timer_.armed() && !closed_) fence_timer_.Set(worker_->now());
}

void BackendPool::OnFenced(NodeBackends* node, const OldConnection& old) {
  const auto same = [&old](const OldConnection& other) {
    return other.client_id == old.client_id && other.name == old.name;
  };
  node->old_connections.erase(
      std::remove_if(node->old_connections.begin(), node->old_connections.end(), same),
      node->old_connections.end());
}

// In the topology's order: the same in every run.
void BackendPool::ConnectToFence() {
  bool any = false;
  for (NodeBackends* node : by_index_) {
    if (node == nullptr || node->old_connections.empty()) continue;
    any = true;
    Shared(node, {}, false, 0);
  }
  if (any) fence_timer_.Set(worker_->now() + kBetweenFences);
}

void BackendPool::Retire(NodeBackends* node, bool (*which)(const Backend&)) {
  // Retiring changes the lists: take copies.
  std::vector<Backend*> retiring;
  ForEachShared(node, [&](Backend** place) {
    if (*place != nullptr && which(**place)) retiring.push_back(*place);
  });
  for (Backend* backend : retiring) backend->Retire();
  for (Backend* backend : std::vector<Backend*>(node->idle_private)) {
    if (which(*backend)) backend->Retire();
  }
}

void BackendPool::Close() {
  closed_ = true;
  fence_timer_.Stop();
}

}  // namespace proxy
