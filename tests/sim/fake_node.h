#pragma once

// File: tests/sim/fake_node.h
//
// A node of the model cluster (tests/sim/fake_cluster.h): executes a useful subset of the commands
// on the slots that it believes to own, and can hang, die, come back elsewhere or answer nonsense.
//
// Ids: SET, MSET, RPUSH, LPUSH and APPEND carry one at the start of their value ("17:…", "17;"),
// INCRBY as the increment, GETRANGE as the end minus 10^9, EXPIRE as the negative time (it deletes
// the key), EVAL as the first argument after the keys. Others have id 0.

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cluster/slot.h"
#include "tests/sim/sim_net.h"

namespace sim {

class FakeCluster;
class FakeNode;

// The digits at its start, as a number: an id. 0 if there are none.
uint64_t LeadingId(absl::string_view text);

// All keys of a world, by number: nodes keep their data in arrays.
class KeyTable {
 public:
  uint32_t Intern(absl::string_view name);
  const std::string& name(uint32_t key) const { return keys_[key].name; }
  cluster::Slot slot(uint32_t key) const { return keys_[key].slot; }
  size_t size() const { return keys_.size(); }
  // In the order they were first seen.
  const std::vector<uint32_t>& keys_of(cluster::Slot slot) { return by_slot_[slot]; }

 private:
  struct Key {
    std::string name;
    cluster::Slot slot;
  };
  std::deque<Key> keys_;
  absl::flat_hash_map<absl::string_view, uint32_t> numbers_;
  std::map<cluster::Slot, std::vector<uint32_t>> by_slot_;
};

struct Value {
  bool is_list = false;
  bool is_set = false;  // its members are in `list`
  std::string text;
  std::vector<std::string> list;
};
// Replaced, never changed: replicas share it.
using ValuePtr = std::shared_ptr<const Value>;

// One key's part of an executed command.
struct Execution {
  int node = 0;
  uint32_t key = 0;
  uint64_t id = 0;
  bool write = false;
  // The node owns the slot in truth, too: what it did is part of the cluster's history. False on a
  // primary that does not know yet that it was replaced.
  bool authoritative = true;
  bool asked = false;  // after ASKING
  // After ASKING, but for an earlier move of the slot to this node: it has left since and is on its
  // way back, so that keys that are still at the other node are missing.
  bool asked_too_late = false;
  // The key is gone from here, but there is one at the node that its slot moves to, left by a write
  // that was asked too late: from now on, that one is the key.
  bool uncovers = false;
  uint64_t connection = 0;
  // Its connection is closed at the other end, and since then nobody can have told the node to end
  // it here, too.
  bool left_behind = false;
  absl::string_view command;      // upper case
  absl::string_view reply;        // of the whole command
  const Value* stored = nullptr;  // under the key, afterwards; null: none
};

class ExecutionObserver {
 public:
  virtual void OnExecuted(const Execution& execution) = 0;
  // Not executed: MOVED, ASK, TRYAGAIN, CLUSTERDOWN, LOADING, … `line` is without '-' and CRLF;
  // `asked`: it came after ASKING.
  virtual void OnRefused(uint64_t id, bool asked, absl::string_view line) = 0;
  // What was executed, and maybe acknowledged, is no more: the replica that took over never got it.
  // Id 0: neither what has no id nor, if the key had moved there, what was written before.
  virtual void OnLost(uint64_t id, uint32_t key) = 0;

 protected:
  ~ExecutionObserver() = default;
};

// What a node believes of the cluster. Replaced, never changed.
struct ClusterView {
  struct Peer {
    io::Endpoint address;
    int primary = -1;  // of a replica
    uint64_t epoch = 0;
    bool failed = false;
    bool gone = false;  // forgotten
  };
  std::vector<Peer> peers;
  std::vector<int16_t> owner = std::vector<int16_t>(cluster::kSlotCount, -1);
};

class FakeNode final : public Listener::Observer {
 public:
  FakeNode(FakeCluster* cluster, int number, const io::Endpoint& address);
  ~FakeNode();

  int number() const { return number_; }
  const std::string& id() const { return id_; }
  const io::Endpoint& address() const { return address_; }
  std::string HostPort() const { return address_.ToString(); }
  bool alive() const { return listener_ != nullptr; }
  bool hung() const { return hung_; }
  // It may not have read yet what was sent to it before that time.
  bool IsLately(Nanos when) const;
  // Whoever has tried since then has had the time to be answered.
  bool CouldBeTold(Nanos since) const;
  // By its own view.
  bool IsPrimary() const { return view_->peers[number_].primary < 0; }

  // Stops to do anything, as after SIGSTOP: what arrives stays unread, until it goes on with it.
  void SetHung(bool hung);
  // No packet reaches it, or leaves it.
  void SetCutOff(bool cut_off);
  // Executes, but sends nothing.
  void HoldReplies(bool hold);
  // The same, but for what it tells of changes (CLIENT TRACKING).
  void HoldAllButInvalidations(bool hold);
  // Ends: connections are reset. Data and view stay on its disk.
  void Kill();
  void Start(const io::Endpoint& address);
  // Resets its connections.
  void DropConnections();
  void set_loading(bool loading) { loading_ = loading; }
  void set_cluster_down(bool down) { cluster_down_ = down; }
  // A replica whose primary can't be reached, and that serves no stale data.
  void set_primary_down(bool down) { primary_down_ = down; }
  void set_zone(std::string zone) { zone_ = std::move(zone); }
  // A command takes so long; one command after another.
  void set_service_time(Nanos low, Nanos high);
  // Each reply may be something that is none: the probability.
  void set_garble(double p) { garble_ = p; }
  std::map<std::string, std::string>* scripts() { return &scripts_; }
  Nanos learned_script_at() const { return learned_script_at_; }
  // The next command of this name (upper case) is answered with these bytes; it is not executed.
  void AnswerNext(absl::string_view command, std::string reply);
  // The next replies end after so many bytes, and the connection with them.
  void CutReplyAfter(size_t bytes) { cut_after_ = bytes; }
  // How many of its connections are subscribed to it ("channel", "pattern" or "shard" with a colon
  // before the name).
  size_t Subscribers(absl::string_view topic) const;
  // How many of its connections are told of all keys that change.
  size_t Trackers() const;
  // These connections are reset.
  void DropTrackers();
  // Bytes that nobody asked for, on every connection that has had a data command.
  void SendUnasked(absl::string_view bytes);

  // --- what it has seen
  // Times that a command (upper case; subcommands as "CLUSTER NODES") has come.
  uint64_t commands(absl::string_view name) const;
  size_t connections() const { return connections_.size(); }
  // Data commands in the order they were executed or refused, "GET k" or "!GET k" or "ASKING".
  // Only if the cluster keeps journals.
  std::vector<std::string>& journal() { return journal_; }
  const Value* Find(uint32_t key) const;

 private:
  friend class FakeCluster;
  struct Connection;
  struct Effect {
    Nanos due;
    uint32_t key;
    uint64_t id;
    ValuePtr value;  // null: deleted
  };
  using Args = absl::InlinedVector<absl::string_view, 8>;
  using Keys = absl::InlinedVector<uint32_t, 4>;
  // Published at another node, on its way here.
  struct Published {
    Nanos due;
    std::string channel;
    std::string text;
  };

  void OnAcceptable(Listener* listener) override;
  void Ready(Connection* connection);
  void Turn();
  void ReadFrom(Connection* connection, size_t* commands_left);
  bool ParseCommand(absl::string_view input, size_t* used, Args* args);
  void Execute(Connection* connection, const Args& args);
  void ExecuteOnData(Connection* connection, absl::string_view name, const Args& args);
  void ExecuteOnConnection(Connection* connection, absl::string_view name, const Args& args);
  void ExecuteTransaction(Connection* connection, absl::string_view name, const Args& args);
  void Queue(Connection* connection, absl::string_view name, const Args& args);
  static void EndTransaction(Connection* connection);
  Keys KeysOf(absl::string_view name, const Args& args);
  std::string RunObserved(Connection* connection, absl::string_view name, const Args& args,
                          const Keys& keys, bool asked);
  std::string ServerText() const;
  std::string ReplicationText();
  int64_t AskReplicas();
  std::string RunOnAllKeys(absl::string_view name);
  std::string KeysInSlot(const Args& args);
  std::string RunOnScripts(absl::string_view name, const Args& args);
  void LearnScript(absl::string_view text);
  std::string NoScript(absl::string_view name, const Args& args) const;
  bool ExecutePubSub(Connection* connection, absl::string_view name, const Args& args);
  std::string PubSubCount(const Args& args) const;
  void Subscribe(Connection* connection, absl::string_view command, absl::string_view name);
  // To those subscribed at this node. Returns how many they are.
  int Deliver(absl::string_view channel, absl::string_view text, bool shard);
  void EndLostShardChannels();
  void DeliverDue();
  // To those who track: the key has changed; without one: all have.
  void TellOfChange(absl::string_view key);
  void TellOfAll() { TellTrackers("_\r\n"); }
  void TellTrackers(absl::string_view value);
  static void BusFired(void* self) { static_cast<FakeNode*>(self)->DeliverDue(); }
  // Null: go on. Else the error line.
  std::string Refusal(Connection* connection, bool write, absl::Span<const uint32_t> keys);
  std::string Run(absl::string_view name, const Args& args, absl::Span<const uint32_t> keys,
                  bool resp3, bool* wrote);
  std::string RunOnSet(absl::string_view name, const Args& args, uint32_t key, bool resp3,
                       bool* wrote);
  std::string NodesText();
  void Write(uint32_t key, uint64_t id, ValuePtr value);
  Value* Mutable(uint32_t key);
  void ApplyEffects(bool all);
  void Reply(Connection* connection, absl::string_view bytes);
  void Flush(Connection* connection);
  void Close(Connection* connection, bool reset);
  void Purge();
  bool IsDeaf() const;
  void NoteDeafness(bool before);
  void AdoptView(std::shared_ptr<const ClusterView> view);
  static void TurnFired(void* self) { static_cast<FakeNode*>(self)->Turn(); }
  static void GossipFired(void* self);

  FakeCluster* const cluster_;
  SimNet* const net_;
  const int number_;
  const std::string id_;
  io::Endpoint address_;
  std::unique_ptr<Listener> listener_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<Connection*> ready_;
  uint64_t last_client_id_ = 0;
  Alarm turn_;
  Alarm gossip_;
  Alarm bus_;
  std::deque<Published> published_;  // in order: of one sender as it sent them

  std::shared_ptr<const ClusterView> view_;
  Nanos back_at_ = 0;     // started, or not hung any more
  Nanos hung_at_ = 0;     // the last time it began to hang
  Nanos resumed_at_ = 0;  // and went on, since it was started
  // It can't be told anything, or it could not, never for long between, from then until then.
  Nanos deaf_from_ = 0;
  Nanos deaf_until_ = 0;
  std::map<cluster::Slot, int> migrating_;        // to whom
  std::map<cluster::Slot, int> importing_;        // from whom
  std::shared_ptr<const ClusterView> text_view_;  // that text_ was made of
  std::string text_;
  // What it answered to CLUSTER NODES lately, and when.
  std::deque<std::pair<std::shared_ptr<const ClusterView>, Nanos>> told_;
  std::vector<ValuePtr> data_;  // by key
  std::deque<Effect> effects_;  // of the primary, on their way to this replica

  std::map<std::string, std::string> scripts_;  // by SHA-1; lost when it ends
  Nanos learned_script_at_ = -1;                // one that it had not had
  int64_t offset_ = 0;                          // of its replication stream: writes
  int64_t acknowledged_ = 0;                    // by this replica, when it was asked last
  bool needs_copy_ = false;                     // it has missed what its primary did
  bool hung_ = false;
  bool hold_replies_ = false;
  bool hold_all_but_invalidations_ = false;
  bool flushing_ = false;  // all keys at once: nothing is told of single ones
  bool loading_ = false;
  bool cluster_down_ = false;
  bool rejoining_ = false;  // a restarted primary that has not heard yet what it has missed
  bool primary_down_ = false;
  std::string zone_;
  double garble_ = 0;
  size_t cut_after_ = 0;
  Nanos service_min_ = 2 * kMicrosecond, service_max_ = 10 * kMicrosecond;
  std::deque<std::pair<std::string, std::string>> answers_;
  std::map<std::string, uint64_t, std::less<>> seen_;
  std::vector<std::string> journal_;
  std::string scratch_;
};

}  // namespace sim
