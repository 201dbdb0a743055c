#pragma once

// File: tests/sim/oracle.h
//
// Knows every request that a client has sent and every command that a node has executed, and tells
// when a promise is broken: a reply of another request, an order that was changed, a command that
// ran twice, a "(not executed)" that is not true, a redirection that reached a client.
//
// Keys are used in one way each, told by their first letter: s (strings, of one client), S (strings
// of all), a (appended to), c (counters), l (lists: pushed right, popped left), d (deleted in
// groups).

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/container/inlined_vector.h"
#include "absl/strings/string_view.h"
#include "tests/sim/fake_cluster.h"

namespace sim {

enum class Op : uint8_t {
  kGet,
  kSet,
  kAppend,
  kGetRange,
  kIncrBy,
  kExpire,  // deletes
  kPush,
  kPop,
  kEval,      // sets
  kEvalFail,  // sets, and then returns an error of the client's choice
  kMset,
  kMget,
  kDel,
  kExists,
  kPing,
  kEcho,  // of the id
};

// How long the proxy may follow an ASK. Later it asks the owner again.
inline constexpr Nanos kAskIsStale = 100 * kMillisecond;

class Oracle final : public ExecutionObserver {
 public:
  enum class Outcome : uint8_t { kPending, kDone, kNotExecuted, kUnknown };
  struct Request {
    uint32_t client = 0;
    uint32_t sequence = 0;  // among those of its client
    Op op = Op::kPing;
    Outcome outcome = Outcome::kPending;
    bool resp3 = false;
    bool forges_redirection = false;
    bool in_block = false;  // of a transaction, maybe with other keys
    uint8_t redirects = 0;
    Nanos told_to_ask_at = -1;  // its last refusal, if that was an ASK
    Nanos issued_at = 0;
    Nanos refused_at = 0;  // by a node, for the first time
    absl::InlinedVector<uint32_t, 1> keys;
    absl::InlinedVector<uint8_t, 1> executions;  // by place in `keys`
    absl::InlinedVector<uint64_t, 1> replies;    // hashes, of executions that may be answered
  };

  explicit Oracle(SimNet* net) : net_(net) {}
  void set_cluster(FakeCluster* cluster) { cluster_ = cluster; }

  // Errors made by the proxy, and those that a cluster in trouble gives, are no violation.
  void set_errors_allowed(bool allowed) { errors_allowed_ = allowed; }
  // More redirections than so many are never followed.
  void set_redirects_max(int most) { redirects_max_ = most; }

  // Slots may be on the move: then a script can pass its own error off as the node's.
  void set_slots_move(bool move) { slots_move_ = move; }
  // Reads may go to replicas that were away for a while: what they say may be old.
  void set_old_reads_allowed(bool allowed) { old_reads_allowed_ = allowed; }
  // The number of one more client connection.
  uint32_t NewClient() { return ++clients_; }
  // A request is about to be sent: its id.
  // `forged`: the error that a kEvalFail asks for.
  uint64_t OnIssue(uint32_t client, Op op, absl::Span<const std::string> keys, bool resp3,
                   absl::string_view forged);
  // Its reply: one whole frame.
  void OnReply(uint64_t id, absl::string_view frame, absl::string_view forged = "");
  // Its transaction was not run: a key that was watched has changed.
  void OnDiscarded(uint64_t id);
  // When a node refused it for the first time; 0: none has.
  Nanos refused_at(uint64_t id) const { return id == 0 ? 0 : requests_[id - 1].refused_at; }
  // It and others are one transaction.
  void SetInBlock(uint64_t id) { requests_[id - 1].in_block = true; }
  // Its client has left without the reply.
  void OnAbandoned(uint64_t id);

  void OnExecuted(const Execution& execution) override;
  void OnRefused(uint64_t id, bool asked, absl::string_view line) override;
  void OnLost(uint64_t id, uint32_t key) override;

  // Everything that was acknowledged is there, in the nodes that own it.
  void CheckFinalState();

  const Request& request(uint64_t id) const { return requests_[id - 1]; }
  uint64_t issued() const { return requests_.size(); }
  uint64_t answered() const { return answered_; }
  uint64_t executed() const { return executed_; }
  // Errors that clients got, by their first words.
  const std::map<std::string, uint64_t>& errors() const { return errors_; }
  uint64_t error_count() const { return error_count_; }
  std::string Describe(uint64_t id) const;

 private:
  // What reads saw that ran at a node that could not know better, until their replies must have
  // come.
  class OldValues {
   public:
    // A key without a value: "".
    void Add(absl::string_view value, Nanos now);
    bool Contains(absl::string_view value, Nanos now) const;

   private:
    struct Read {
      uint64_t hash;
      Nanos until;
    };
    std::vector<Read> reads_;
  };

  struct LastWrite {
    uint32_t client;
    uint32_t sequence;
    int node;
  };
  struct History {
    std::vector<uint64_t> writes;           // ids, as issued, or as late ones took effect
    absl::flat_hash_set<uint64_t> lost;     // by the cluster
    absl::flat_hash_set<std::string> gone;  // elements that were popped
    bool any_lost = false;
    // By client: its last write that ran. Most keys are of one client.
    absl::InlinedVector<LastWrite, 1> last_writes;
    LastWrite& last_write(uint32_t client);
    OldValues old_values;
  };

  void Fail(absl::string_view what, uint64_t id);
  void PutBehindWhatRan(uint64_t id, uint32_t key);
  void CheckAskedForEarlierMove(const Execution& execution);
  bool TakeError(uint64_t id, absl::string_view line, absl::string_view forged);
  void CheckDone(uint64_t id, absl::string_view frame);
  void CheckRan(uint64_t id, absl::string_view frame);
  bool HasBeside(uint64_t id) const;
  void CheckNotRan(uint64_t id);
  // `value` is what the client read of the key, null if it was not there. `before`: the reader's
  // place among its client's requests.
  void CheckValue(uint64_t id, uint32_t key, const absl::string_view* value, uint32_t client,
                  uint32_t before);
  void CheckTokens(uint64_t id, uint32_t key, absl::string_view text, uint32_t before);
  void CheckList(uint32_t key, const std::vector<std::string>& list);
  History& history(uint32_t key);
  bool IsPrivate(uint32_t key) const { return cluster_->keys()->name(key)[0] != 'S'; }
  bool OldReadAllowed(uint32_t key, absl::string_view value) {
    return old_reads_allowed_ || history(key).old_values.Contains(value, net_->now());
  }
  bool Lost(uint32_t key, uint64_t id) { return history(key).lost.contains(id); }

  SimNet* const net_;
  FakeCluster* cluster_ = nullptr;
  bool errors_allowed_ = true;
  bool slots_move_ = true;
  bool old_reads_allowed_ = false;
  int redirects_max_ = 5;
  std::deque<Request> requests_;     // by id - 1
  std::vector<uint32_t> sequences_;  // by client: the last one
  std::deque<History> histories_;    // by key
  uint32_t clients_ = 0;
  uint64_t answered_ = 0;
  uint64_t executed_ = 0;
  uint64_t error_count_ = 0;
  std::map<std::string, uint64_t> errors_;
};

}  // namespace sim
