#include "tests/sim/fake_cluster.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sim {
namespace {

constexpr uint16_t kPort = 7000;
constexpr Nanos kBack = 4 * kSecond;  // longer than a refresh of the topology takes

}  // namespace

FakeCluster::FakeCluster(SimNet* net, const Options& options, ExecutionObserver* observer)
    : net_(net), options_(options), observer_(observer) {
  auto truth = std::make_shared<ClusterView>();
  const int shards = options.primaries;
  for (int i = 0; i < shards * (1 + options.replicas); ++i) {
    nodes_.push_back(std::make_unique<FakeNode>(this, i, NewAddress()));
    ClusterView::Peer& peer = truth->peers.emplace_back();
    peer.address = nodes_.back()->address();
    peer.primary = i < shards ? -1 : i % shards;
    peer.epoch = i < shards ? NewEpoch() : 0;
  }
  for (int slot = 0; slot < cluster::kSlotCount; ++slot) {
    truth->owner[slot] = static_cast<int16_t>(slot * shards / cluster::kSlotCount);
  }
  truth_ = truth;
  for (const auto& node : nodes_) {
    node->AdoptView(truth_);
    node->Start(node->address());
  }
}

FakeCluster::~FakeCluster() = default;

io::Endpoint FakeCluster::NewAddress() {
  ++last_address_;
  return *io::Endpoint::FromIp(
      absl::StrCat("10.0.", last_address_ / 250, ".", 1 + last_address_ % 250),
      static_cast<uint16_t>(kPort + last_address_));
}

std::vector<int> FakeCluster::ReplicasOf(int primary) const {
  std::vector<int> replicas;
  for (int i = 0; i < size(); ++i) {
    if (truth_->peers[i].primary == primary && !truth_->peers[i].gone) replicas.push_back(i);
  }
  return replicas;
}

std::vector<int> FakeCluster::Primaries() const {
  std::vector<int> primaries;
  for (int i = 0; i < size(); ++i) {
    if (truth_->peers[i].primary < 0 && !truth_->peers[i].gone) primaries.push_back(i);
  }
  return primaries;
}

bool FakeCluster::CameBackLately(cluster::Slot slot) const {
  const Nanos came_back = moves_[slot].came_back;
  const int owner = truth_->owner[slot];
  return came_back >= 0 && owner >= 0 && nodes_[static_cast<size_t>(owner)]->IsLately(came_back);
}

bool FakeCluster::AnyLearnedAScriptSince(Nanos time) const {
  return std::any_of(nodes_.begin(), nodes_.end(), [time](const auto& node) {
    return node != nullptr && node->learned_script_at() >= time;
  });
}

Nanos FakeCluster::MoveBegan(cluster::Slot slot) const {
  return IsMigrating(slot) ? moves_[slot].began : -1;
}

bool FakeCluster::IsStillToCome(cluster::Slot slot, uint32_t key, int target) {
  const auto migration = migrations_.find(slot);
  if (migration == migrations_.end() || migration->second.second != target) return false;
  return node(migration->second.first)->Find(key) != nullptr;
}

bool FakeCluster::IsAtTarget(cluster::Slot slot, uint32_t key, int source) {
  const auto migration = migrations_.find(slot);
  if (migration == migrations_.end() || migration->second.first != source) return false;
  return node(migration->second.second)->Find(key) != nullptr;
}

void FakeCluster::NoteMove(Moves* moves, int from, int to) {
  bool known = false;
  for (auto& [owner, when] : moves->left) {
    if (owner == to && node(to)->IsLately(when)) moves->came_back = net_->now();
    if (owner != from) continue;
    when = net_->now();
    known = true;
  }
  if (!known) moves->left.emplace_back(from, net_->now());
}

void FakeCluster::SetTruth(std::shared_ptr<ClusterView> truth, absl::Span<const int> told) {
  constexpr int kBlock = 64;  // compared at once: most slots stay where they are
  for (int block = 0; truth_ != nullptr && block < cluster::kSlotCount; block += kBlock) {
    const int16_t* before = &truth_->owner[block];
    const int16_t* now = &truth->owner[block];
    if (memcmp(before, now, kBlock * sizeof(*now)) == 0) continue;
    for (int i = 0; i < kBlock; ++i) {
      if (before[i] != now[i]) NoteMove(&moves_[block + i], before[i], now[i]);
    }
  }
  truth_ = std::move(truth);
  for (const int number : told) node(number)->AdoptView(truth_);
  for (const auto& each : nodes_) {
    if (each->view_ == truth_) continue;
    each->gossip_.Set(net_->now() +
                      net_->random()->Between(options_.gossip_min, options_.gossip_max));
  }
}

// All nodes hear of it, some later than others, each in the order of the sender.
void FakeCluster::Broadcast(int from, absl::string_view channel, absl::string_view text) {
  for (const auto& each : nodes_) {
    if (each->number_ == from || !each->alive()) continue;
    Nanos due = net_->now() + net_->random()->Between(options_.bus_min, options_.bus_max);
    if (!each->published_.empty()) due = std::max(due, each->published_.back().due);
    each->published_.push_back({due, std::string(channel), std::string(text)});
    if (!each->hung_) each->bus_.SetNoLaterThan(std::max(due, net_->now()));
  }
}

void FakeCluster::Replicate(int primary, uint32_t key, uint64_t id, const ValuePtr& value) {
  ++node(primary)->offset_;
  for (int i = 0; i < size(); ++i) {
    if (truth_->peers[i].primary != primary) continue;
    FakeNode* replica = node(i);
    // The replica may follow another primary until it has heard; then it copies all.
    if (replica->view_->peers[i].primary != primary) {
      replica->needs_copy_ = true;
      continue;
    }
    FakeNode::Effect effect;
    effect.key = key;
    effect.id = id;
    effect.due =
        net_->now() + net_->random()->Between(options_.replication_min, options_.replication_max);
    if (!replica->effects_.empty()) {
      effect.due = std::max(effect.due, replica->effects_.back().due);
    }
    effect.value = value;
    replica->effects_.push_back(std::move(effect));
    if (replica->effects_.size() > 1000) replica->ApplyEffects(false);
  }
}

void FakeCluster::CopyData(int from, int to) {
  node(from)->ApplyEffects(node(from)->IsPrimary());
  node(to)->data_ = node(from)->data_;
}

// --- migration

bool FakeCluster::IsMigrating(cluster::Slot slot) const { return migrations_.count(slot) != 0; }

bool FakeCluster::IsInMigration(int node) const {
  return std::any_of(migrations_.begin(), migrations_.end(), [node](const auto& entry) {
    return entry.second.first == node || entry.second.second == node;
  });
}

int FakeCluster::MigrationTarget(cluster::Slot slot) const {
  if (migrations_.empty()) return -1;
  const auto it = migrations_.find(slot);
  return it == migrations_.end() ? -1 : it->second.second;
}

void FakeCluster::BeginMigration(cluster::Slot slot, int to) {
  const int from = truth_->owner[slot];
  if (from < 0 || from == to || IsMigrating(slot)) return;
  // One of them would refuse: "I don't know about node", "I'm not the owner of hash slot", "I'm
  // already the owner of hash slot".
  if (node(from)->view_->peers.size() <= static_cast<size_t>(to)) return;
  if (node(to)->view_->peers.size() <= static_cast<size_t>(from)) return;
  if (node(from)->view_->owner[slot] != from || node(to)->view_->owner[slot] == to) return;
  net_->Trace("migrate", slot, static_cast<uint64_t>(to));
  migrations_[slot] = {from, to};
  moves_[slot].began = net_->now();
  node(from)->migrating_[slot] = to;
  node(to)->importing_[slot] = from;
}

void FakeCluster::MigrateKey(uint32_t key) {
  const auto it = migrations_.find(keys_.slot(key));
  if (it == migrations_.end()) return;
  FakeNode* from = node(it->second.first);
  FakeNode* to = node(it->second.second);
  if (from->Find(key) == nullptr) return;
  net_->Trace("move", key);
  auto value = std::move(from->data_[key]);
  from->Write(key, 0, nullptr);
  to->Write(key, 0, std::move(value));
}

void FakeCluster::MigrateAllKeys(cluster::Slot slot) {
  for (const uint32_t key : keys_.keys_of(slot)) MigrateKey(key);
}

void FakeCluster::EndMigration(cluster::Slot slot, bool source_first) {
  const auto it = migrations_.find(slot);
  if (it == migrations_.end()) return;
  MigrateAllKeys(slot);
  const auto [from, to] = it->second;
  migrations_.erase(it);
  net_->Trace("migrated", slot);
  auto truth = CopyTruth();
  truth->owner[slot] = static_cast<int16_t>(to);
  truth->peers[to].epoch = NewEpoch();
  SetTruth(std::move(truth), {source_first ? from : to});
}

void FakeCluster::MoveSlots(absl::Span<const cluster::Slot> slots, int to) {
  auto truth = CopyTruth();
  std::vector<int> told = {to};
  for (const cluster::Slot slot : slots) {
    const int from = truth_->owner[slot];
    if (from < 0 || from == to || IsMigrating(slot)) continue;
    for (const uint32_t key : keys_.keys_of(slot)) {
      if (node(from)->Find(key) == nullptr) continue;
      auto value = std::move(node(from)->data_[key]);
      node(from)->Write(key, 0, nullptr);
      node(to)->Write(key, 0, std::move(value));
    }
    truth->owner[slot] = static_cast<int16_t>(to);
    if (std::find(told.begin(), told.end(), from) == told.end()) told.push_back(from);
  }
  truth->peers[to].epoch = NewEpoch();
  net_->Trace("atomic", slots.size(), static_cast<uint64_t>(to));
  SetTruth(std::move(truth), told);
}

// --- failover

bool FakeCluster::MayTakeOver(int replica) const {
  const int old = truth_->peers[static_cast<size_t>(replica)].primary;
  const FakeNode& node = *nodes_[static_cast<size_t>(replica)];
  return old >= 0 && node.alive() && !node.hung() && !node.needs_copy_ &&
         node.view_->peers[static_cast<size_t>(replica)].primary == old;
}

void FakeCluster::FailOver(int replica, bool lose) {
  const int old = truth_->peers[replica].primary;
  if (!MayTakeOver(replica)) return;
  net_->Trace("failover", static_cast<uint64_t>(replica), lose ? 1 : 0);
  FakeNode* promoted = node(replica);
  promoted->ApplyEffects(!lose);
  promoted->offset_ = node(old)->offset_ - static_cast<int64_t>(promoted->effects_.size());
  for (const FakeNode::Effect& effect : promoted->effects_) {
    observer_->OnLost(effect.id, effect.key);
  }
  promoted->effects_.clear();
  auto truth = CopyTruth();
  truth->peers[replica].primary = -1;
  truth->peers[replica].epoch = NewEpoch();
  truth->peers[replica].failed = false;
  for (ClusterView::Peer& peer : truth->peers) {
    if (peer.primary == old) peer.primary = replica;
  }
  truth->peers[old].primary = replica;
  for (int16_t& owner : truth->owner) {
    if (owner == old) owner = static_cast<int16_t>(replica);
  }
  // Valkey 8 replicates the marks of moving slots.
  for (auto& [slot, ends] : migrations_) {
    if (ends.first == old) {
      ends.first = replica;
      promoted->migrating_[slot] = ends.second;
      node(ends.second)->importing_[slot] = replica;
    }
    if (ends.second == old) {
      ends.second = replica;
      promoted->importing_[slot] = ends.first;
      node(ends.first)->migrating_[slot] = replica;
      node(old)->importing_.erase(slot);
    }
  }
  SetTruth(std::move(truth), {replica});
  // The other replicas hear of it from the new primary, which is what they copy.
  for (int i = 0; i < size(); ++i) {
    if (i != old && truth_->peers[i].primary == replica) node(i)->AdoptView(truth_);
  }
}

void FakeCluster::SwitchOver(int replica) {
  const int old = truth_->peers[replica].primary;
  if (!MayTakeOver(replica)) return;
  FailOver(replica, false);
  node(old)->AdoptView(truth_);
}

void FakeCluster::MarkFailed(int number, bool failed) {
  auto truth = CopyTruth();
  truth->peers[number].failed = failed;
  SetTruth(std::move(truth), {});
}

void FakeCluster::Uncover(cluster::Slot slot) {
  auto truth = CopyTruth();
  truth->owner[slot] = -1;
  SetTruth(std::move(truth), {});
  SpreadNews();
}

void FakeCluster::Forget(int number) {
  auto truth = CopyTruth();
  truth->peers[number].gone = true;
  SetTruth(std::move(truth), {});
}

void FakeCluster::Restart(int number, bool elsewhere) {
  FakeNode* restarted = node(number);
  io::Endpoint address = restarted->address();
  if (elsewhere) {  // another host, the same port: its name leads there
    address = NewAddress();
    address.set_port(restarted->address().port());
  }
  restarted->Start(address);
  restarted->rejoining_ = restarted->IsPrimary();
  net_->Trace("restart", static_cast<uint64_t>(number), elsewhere ? 1 : 0);
  if (!elsewhere) return;
  auto truth = CopyTruth();
  truth->peers[static_cast<size_t>(number)].address = restarted->address();
  SetTruth(std::move(truth), {});
}

int FakeCluster::AddNode() {
  const int number = size();
  nodes_.push_back(std::make_unique<FakeNode>(this, number, NewAddress()));
  auto truth = CopyTruth();
  ClusterView::Peer& peer = truth->peers.emplace_back();
  peer.address = nodes_.back()->address();
  peer.epoch = NewEpoch();
  nodes_.back()->view_ = truth;
  SetTruth(std::move(truth), {});
  node(number)->Start(node(number)->address());
  return number;
}

void FakeCluster::SpreadNews() {
  for (const auto& each : nodes_) {
    if (each->alive() && !each->hung()) each->AdoptView(truth_);
  }
}

bool FakeCluster::Claims(absl::string_view id, cluster::Slot slot, uint64_t epoch) const {
  for (const auto& node : nodes_) {
    if (node->id() != id) continue;
    const Nanos back = std::max(node->back_at_, net_->ReachableSince(node->address())) + kBack;
    if (back >= net_->now() || !node->alive() || node->hung() || node->loading_ ||
        net_->IsUnreachable(node->address())) {
      return false;
    }
    const auto claims = [&](const ClusterView& view) { return view.owner[slot] == node->number(); };
    return claims(*node->view_) &&
           std::all_of(node->told_.begin(), node->told_.end(), [&](const auto& told) {
             return told.second < epoch_began_[epoch] || claims(*told.first);
           });
  }
  return false;
}

uint64_t FakeCluster::NewEpoch() {
  epoch_began_.push_back(net_->now());
  return epoch_began_.size() - 1;
}

void FakeCluster::Heal() {
  net_->Trace("heal");
  auto truth = CopyTruth();
  for (int i = 0; i < size(); ++i) {
    FakeNode* each = node(i);
    each->SetCutOff(false);
    if (!each->alive()) each->Start(each->address());
    if (each->hung()) each->SetHung(false);
    each->HoldReplies(false);
    each->set_loading(false);
    each->set_cluster_down(false);
    each->set_primary_down(false);
    each->set_garble(0);
    each->answers_.clear();
    each->cut_after_ = 0;
    each->set_service_time(2 * kMicrosecond, 10 * kMicrosecond);
    truth->peers[i].failed = false;
    truth->peers[i].address = each->address();
  }
  SetTruth(std::move(truth), {});
  while (!migrations_.empty()) EndMigration(migrations_.begin()->first);
  SpreadNews();
}

}  // namespace sim
