#include "proxy/tracking.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/base/macros.h"
#include "absl/strings/match.h"
#include "proxy/client.h"
#include "proxy/worker.h"
#include "resp/encoder.h"

namespace proxy {
namespace {

constexpr absl::string_view kNotReady =
    "CLUSTERDOWN proxy: not all primaries can be asked to tell of changes (not executed)";
// The table's share of the worker's memory.
constexpr uint64_t kTableShare = 8;
constexpr uint64_t kTableBytesMin = 64 << 10;
// Clients whose place is kept in mind.
constexpr size_t kPlacesMax = 1000;

TrackingTable::Limits TableLimits(const Config& config) {
  return {
      .items = std::max<uint64_t>(1, config.tracking_keys_max / config.workers),
      .bytes = std::max(kTableBytesMin, config.memory_limit_bytes / config.workers / kTableShare)};
}

bool IsThere(const Client* client) {
  return client != nullptr &&
         (client->state() == Client::State::kOpen || client->state() == Client::State::kDraining);
}

// Some slot has another owner, or none.
bool OwnersDiffer(const cluster::Topology& a, const cluster::Topology& b) {
  for (int number = 0; number < cluster::kSlotCount; ++number) {
    const auto slot = static_cast<cluster::Slot>(number);
    if (a.OwnerId(slot) != b.OwnerId(slot)) return true;
  }
  return false;
}

}  // namespace

std::string ArrayOfKeys(absl::Span<const absl::string_view> keys) {
  std::string array;
  resp::Encoder out(resp::Protocol::kResp3, &array);
  out.Array(static_cast<int64_t>(keys.size()));
  for (const absl::string_view key : keys) out.Bulk(key);
  return array;
}

Tracking::Tracking(Worker* worker)
    : worker_(worker),
      table_(TableLimits(worker->config())),
      waiter_timer_(worker->timers(), &Tracking::WaiterTimerFired, this),
      links_(worker, this, SubscriberLink::Purpose::kInvalidations) {}

Tracking::~Tracking() = default;

// --- who tracks

void Tracking::Await(const Client& client) {
  waiters_.push_back(
      {client.index(), client.generation(), worker_->now() + worker_->config().hold_timeout});
  SetWaiterTimer();
  SettleLinks();
}

void Tracking::StopAwaiting(const Client& client) {
  const auto is_it = [&client](const Waiter& waiter) {
    return waiter.client_index == client.index() && waiter.client_generation == client.generation();
  };
  waiters_.erase(std::remove_if(waiters_.begin(), waiters_.end(), is_it), waiters_.end());
  SetWaiterTimer();
  OnUnusedIfSo();
}

void Tracking::SetWaiterTimer() {
  if (waiters_.empty()) return waiter_timer_.Stop();
  waiter_timer_.Set(waiters_.front().deadline);
}

void Tracking::OnWaiterTimer() {
  while (!waiters_.empty() && waiters_.front().deadline <= worker_->now()) {
    const Waiter waiter = waiters_.front();
    waiters_.pop_front();
    Client* const client = worker_->FindClient(waiter.client_index, waiter.client_generation);
    if (client != nullptr) client->OnTrackingRefused(kNotReady);
  }
  SetWaiterTimer();
  OnUnusedIfSo();
}

uint32_t Tracking::Begin(Client* client) {
  if (clients_.size() <= client->index()) clients_.resize(client->index() + 1);
  ABSL_ASSERT(clients_[client->index()] == nullptr);
  clients_[client->index()] = client;
  ++sessions_;
  worker_->stats()->tracking_clients.Set(sessions_);
  SettleLinks();
  return ++last_session_;
}

void Tracking::End(const Client& client) {
  ABSL_ASSERT(clients_[client.index()] == &client);
  clients_[client.index()] = nullptr;
  --sessions_;
  worker_->stats()->tracking_clients.Set(sessions_);
  if (sessions_ == 0) {
    table_.Clear();
    ChargeTable();
    clients_ = {};
  }
  OnUnusedIfSo();
}

void Tracking::AddPrefix(absl::string_view prefix, const Client& client) {
  prefixes_[std::string(prefix)].insert(client.index());
  worker_->stats()->tracking_prefixes.Set(prefixes_.size());
}

void Tracking::RemovePrefix(absl::string_view prefix, const Client& client) {
  const auto it = prefixes_.find(prefix);
  if (it == prefixes_.end()) return;
  it->second.erase(client.index());
  if (it->second.empty()) prefixes_.erase(it);
  worker_->stats()->tracking_prefixes.Set(prefixes_.size());
}

// --- the connections

// To all primaries, also to those that serve no slot yet: they may be given some, and a redirection
// leads there before the topology does.
void Tracking::SettleLinks() {
  if (closed_ || !used() || worker_->cluster() == nullptr) return;
  const cluster::Topology& topology = *worker_->cluster()->topology;
  std::vector<bool> wanted;  // by node index
  for (const cluster::Node& node : topology.nodes()) {
    wanted.push_back(node.is_primary && node.usable() && !node.failed);
  }
  for (const cluster::Shard& shard : topology.shards()) wanted[shard.primary] = true;
  links_.ForEach([&](SubscriberLink* link) {
    const cluster::NodeIndex index = topology.FindById(link->node_id());
    if (index == cluster::kNoNode || !wanted[index]) link->Stop();
  });
  const auto is_free = [](const SubscriberLink&) { return true; };
  for (cluster::NodeIndex i = 0; i < wanted.size(); ++i) {
    if (wanted[i]) links_.To(topology.node(i).id, is_free)->Want();
  }
  UpdateCoverage();
}

// Kept for a while: whoever comes next finds them.
void Tracking::OnUnusedIfSo() {
  if (used()) return;
  links_.ForEach([](SubscriberLink* link) { link->OnUnused(); });
}

bool Tracking::Covers(cluster::Slot slot) const {
  if (covers_all_) return true;
  if (worker_->cluster() == nullptr) return false;
  const SubscriberLink* const link = links_.Find(worker_->cluster()->topology->OwnerId(slot));
  return link != nullptr && link->open();
}

void Tracking::UpdateCoverage() {
  covers_all_ = !closed_ && worker_->cluster() != nullptr;
  if (!covers_all_) return;
  const cluster::Topology& topology = *worker_->cluster()->topology;
  covers_all_ = absl::c_all_of(topology.shards(), [&](const cluster::Shard& shard) {
    const SubscriberLink* const link = links_.Find(topology.node(shard.primary).id);
    return link != nullptr && link->open();
  });
  if (!covers_all_) return;
  for (const Waiter& waiter : std::exchange(waiters_, {})) {
    Client* const client = worker_->FindClient(waiter.client_index, waiter.client_generation);
    if (client != nullptr) client->OnTrackingReady();
  }
  SetWaiterTimer();
}

void Tracking::OnLinkOpen(SubscriberLink*) {
  if (sessions_ > 0) InvalidateAll();
  UpdateCoverage();
}

void Tracking::OnLinkLost(SubscriberLink*) {
  UpdateCoverage();
  if (sessions_ > 0) InvalidateAll();
}

void Tracking::OnTopology() {
  links_.ForEach([](SubscriberLink* link) { link->OnTopology(); });
  std::shared_ptr<const cluster::Topology> topology = worker_->cluster()->topology;
  topology.swap(topology_);
  if (sessions_ > 0 && topology != nullptr && OwnersDiffer(*topology, *topology_)) InvalidateAll();
  SettleLinks();
  UpdateCoverage();
}

// --- what has been read

bool Tracking::Note(const Client& client, absl::string_view key) {
  if (worker_->MemoryExhausted()) return false;
  table_.Note(key, {client.index(), client.tracking_session()});
  ChargeTable();
  return true;
}

// At the end of a turn: what was noted belongs to requests that are in their queues by now, and is
// told of behind their replies.
void Tracking::ShrinkTable() {
  std::string oldest;
  while (table_.over_limits()) {
    const TrackingTable::Readers readers = table_.TakeOldest(&oldest);
    Tell(oldest, readers);
  }
}

void Tracking::ChargeTable() {
  const size_t bytes = table_.bytes();
  worker_->Charge(static_cast<int64_t>(bytes) - static_cast<int64_t>(table_charged_));
  table_charged_ = bytes;
  worker_->stats()->tracked_keys.Set(table_.keys());
  worker_->stats()->tracked_items.Set(table_.items());
}

// --- what has changed

void Tracking::OnInvalidated(SubscriberLink*, absl::Span<const absl::string_view> keys) {
  worker_->stats()->keys_invalidated.Add(keys.size());
  if (sessions_ == 0) return;
  for (const absl::string_view key : keys) Tell(key, table_.Take(key));
  ChargeTable();
  if (!prefixes_.empty()) TellPrefixes(keys);
}

void Tracking::OnAllInvalidated(SubscriberLink*) {
  if (sessions_ > 0) InvalidateAll();
}

void Tracking::InvalidateAll() {
  worker_->stats()->all_invalidated.Add(1);
  table_.Clear();
  ChargeTable();
  for (Client* const client : clients_) {
    if (client != nullptr) client->OnAllInvalidated();
  }
}

void Tracking::Tell(absl::string_view key, const TrackingTable::Readers& readers) {
  if (readers.empty()) return;
  const std::string value = ArrayOfKeys({key});
  for (const TrackingTable::Reader& reader : readers) {
    Client* const client = reader.client < clients_.size() ? clients_[reader.client] : nullptr;
    if (client != nullptr && client->tracking_session() == reader.session) {
      client->OnInvalidated(value);
    }
  }
}

// In the order of the prefixes, as a server does.
void Tracking::TellPrefixes(absl::Span<const absl::string_view> keys) {
  absl::btree_map<absl::string_view, std::vector<absl::string_view>> found;
  for (const absl::string_view key : keys) {
    // The prefixes of a key stand before it: each step finds the next one that may be one.
    absl::string_view rest = key;
    for (auto it = prefixes_.upper_bound(rest); it != prefixes_.begin();
         it = prefixes_.upper_bound(rest)) {
      const std::string& prefix = (--it)->first;
      if (absl::StartsWith(rest, prefix)) {
        found[prefix].push_back(key);
        if (prefix.empty()) break;
        rest = rest.substr(0, prefix.size() - 1);
        continue;
      }
      const auto differ = std::mismatch(rest.begin(), rest.end(), prefix.begin(), prefix.end());
      rest = rest.substr(0, static_cast<size_t>(differ.first - rest.begin()));
    }
  }
  for (const auto& [prefix, changed] : found) {
    const std::string value = ArrayOfKeys(changed);
    for (const uint32_t index : prefixes_.find(prefix)->second) {
      clients_[index]->OnInvalidated(value);
    }
  }
}

// --- to other clients

void Tracking::Redirect(Client* source, std::string value) {
  RedirectedInvalidation redirected;
  redirected.source = source->id();
  redirected.target = static_cast<uint64_t>(source->tracking_redirect());
  redirected.value = std::move(value);
  if (worker_->IsOwnClientId(redirected.target)) return GiveRedirected(redirected);
  worker_->SendRedirected(std::move(redirected));
}

void Tracking::OnRedirected() {
  while (auto redirected = worker_->mail()->redirected.Take()) {
    if (!redirected->target_is_gone) {
      GiveRedirected(*redirected);
    } else if (Client* const source = FindById(redirected->source); source != nullptr) {
      source->OnRedirectTargetGone(redirected->target);
    }
  }
}

void Tracking::GiveRedirected(const RedirectedInvalidation& redirected) {
  if (Client* const target = FindById(redirected.target); target != nullptr) {
    return target->OnRedirected(redirected.value);
  }
  if (worker_->IsOwnClientId(redirected.source)) {
    Client* const source = FindById(redirected.source);
    if (source != nullptr) source->OnRedirectTargetGone(redirected.target);
    return;
  }
  RedirectedInvalidation answer;
  answer.source = redirected.source;
  answer.target = redirected.target;
  answer.target_is_gone = true;
  worker_->SendRedirected(std::move(answer));
}

Client* Tracking::FindById(uint64_t id) {
  auto it = places_.find(id);
  if (it == places_.end()) {
    if (places_.size() >= kPlacesMax) places_.clear();
    Place place;
    worker_->ForEachClient([&](Client* client) {
      if (client->id() == id) place = {client->index(), client->generation(), true};
    });
    it = places_.emplace(id, place).first;
  }
  Place& place = it->second;
  if (!place.there) return nullptr;
  Client* const client = worker_->FindClient(place.index, place.generation);
  if (IsThere(client) && client->id() == id) return client;
  place.there = false;  // numbers do not come again
  return nullptr;
}

// --- the worker's turn

void Tracking::FlushWork() {
  links_.Flush();
  ShrinkTable();
  table_.FreeSome();
  ChargeTable();
}

void Tracking::Close() {
  if (closed_) return;
  closed_ = true;
  covers_all_ = false;
  waiters_.clear();
  waiter_timer_.Stop();
  table_.Clear();
  while (table_.has_to_free()) table_.FreeSome();
  ChargeTable();
  links_.ForEach([](SubscriberLink* link) { link->Stop(); });
}

}  // namespace proxy
