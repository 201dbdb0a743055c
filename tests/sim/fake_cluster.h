#pragma once

// File: tests/sim/fake_cluster.h
//
// A model of a Redis Cluster on a simulated network: nodes that execute a useful subset of the
// commands, slots with owners and epochs, live and atomic migration, failover with and without loss
// of acknowledged writes, views that lag behind, and nodes that hang, die, come back elsewhere or
// answer nonsense. Whoever owns the world sees all: each executed command is reported with the id
// that the client has put into it.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cluster/slot.h"
#include "tests/sim/fake_node.h"
#include "tests/sim/sim_net.h"

namespace sim {

class FakeCluster {
 public:
  struct Options {
    int primaries = 3;
    int replicas = 1;  // of each
    std::string password = {};
    bool journals = false;
    // Between an execution and its arrival at the replicas.
    Nanos replication_min = 20 * kMicrosecond, replication_max = 2 * kMillisecond;
    // Between a change and the others' knowledge of it.
    Nanos gossip_min = 100 * kMicrosecond, gossip_max = 50 * kMillisecond;
    bool valkey = true;
    std::string valkey_version = "8.0.7";
    // Between a PUBLISH and its arrival at another node.
    Nanos bus_min = 50 * kMicrosecond, bus_max = 2 * kMillisecond;
    // Everybody's view has a replica whose address nobody knows.
    bool lost_node = false;
  };

  FakeCluster(SimNet* net, const Options& options, ExecutionObserver* observer);
  ~FakeCluster();

  FakeNode* node(int number) { return nodes_[static_cast<size_t>(number)].get(); }
  int size() const { return static_cast<int>(nodes_.size()); }
  KeyTable* keys() { return &keys_; }
  // In truth.
  int OwnerOf(cluster::Slot slot) const { return truth_->owner[slot]; }
  FakeNode* NodeOf(absl::string_view key) { return node(OwnerOf(cluster::SlotOf(key))); }
  const ClusterView& truth() const { return *truth_; }
  std::vector<int> ReplicasOf(int primary) const;
  std::vector<int> Primaries() const;
  Options* options() { return &options_; }

  // --- moving a slot key by key
  void BeginMigration(cluster::Slot slot, int to);
  // Moves the key if it is there. The slot is migrating.
  void MigrateKey(uint32_t key);
  void MigrateAllKeys(cluster::Slot slot);
  // The target owns the slot, and knows it; the others hear of it. `source_first` is the wrong
  // order, in which the two send clients to each other for a while.
  void EndMigration(cluster::Slot slot, bool source_first = false);
  bool IsMigrating(cluster::Slot slot) const;
  bool IsInMigration(int node) const;
  // -1: it does not migrate.
  int MigrationTarget(cluster::Slot slot) const;

  // --- at once
  void MoveSlots(absl::Span<const cluster::Slot> slots, int to);
  // The replica follows the shard's primary, and knows it.
  bool MayTakeOver(int replica) const;
  // The replica is the primary of the shard now. `lose`: without what was on its way to it. The old
  // one learns of it as anybody else, if it is there.
  void FailOver(int replica, bool lose);
  // As on CLUSTER FAILOVER: nothing is lost, and the two are told first.
  void SwitchOver(int replica);
  void MarkFailed(int number, bool failed);
  // Nobody serves the slot.
  void Uncover(cluster::Slot slot);
  // The slot has lately come back to a node that it had left not long before that.
  bool CameBackLately(cluster::Slot slot) const;
  // A node has been given a script since then that it did not have.
  bool AnyLearnedAScriptSince(Nanos time) const;
  // When its migration began; -1: it does not migrate.
  Nanos MoveBegan(cluster::Slot slot) const;
  // The slot is on its way to that node, and the key is not there yet: no ASK leads to it.
  bool IsStillToCome(cluster::Slot slot, uint32_t key, int target);
  // The slot is on its way from that node to another, which has the key.
  bool IsAtTarget(cluster::Slot slot, uint32_t key, int source);
  // Everybody forgets the node, which serves no slots.
  void Forget(int number);
  // After Kill: at its old address or at another.
  void Restart(int number, bool elsewhere);
  // A new primary without slots.
  int AddNode();
  // Everybody who can hears of everything now.
  void SpreadNews();
  // All alive, in their senses and of one mind. Migrations are completed.
  void Heal();
  // The node with that id can be asked, for some time now, and says that the slot is its own; it
  // has told nobody else since the epoch began.
  bool Claims(absl::string_view id, cluster::Slot slot, uint64_t epoch) const;

 private:
  friend class FakeNode;
  std::shared_ptr<ClusterView> CopyTruth() const { return std::make_shared<ClusterView>(*truth_); }
  void SetTruth(std::shared_ptr<ClusterView> truth, absl::Span<const int> told);
  io::Endpoint NewAddress();
  void Replicate(int primary, uint32_t key, uint64_t id, const ValuePtr& value);
  void CopyData(int from, int to);
  uint64_t NewEpoch();
  void Broadcast(int from, absl::string_view channel, absl::string_view text);

  SimNet* const net_;
  Options options_;
  ExecutionObserver* const observer_;
  KeyTable keys_;
  std::shared_ptr<const ClusterView> truth_;
  std::map<cluster::Slot, std::pair<int, int>> migrations_;  // source, target
  struct Moves {
    // By owner: when the slot was taken from it.
    absl::InlinedVector<std::pair<int, Nanos>, 2> left;
    Nanos came_back = -1;
    Nanos began = -1;  // of its last migration
  };
  void NoteMove(Moves* moves, int from, int to);
  std::vector<Moves> moves_ = std::vector<Moves>(cluster::kSlotCount);
  std::vector<Nanos> epoch_began_ = {0};  // by epoch; the first is 1
  int last_address_ = 0;
  std::vector<std::unique_ptr<FakeNode>> nodes_;
};

}  // namespace sim
