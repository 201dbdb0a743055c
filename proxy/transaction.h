#pragma once

// File: proxy/transaction.h
//
// MULTI, EXEC, DISCARD and WATCH. What a client queues stays here until EXEC; then MULTI, the
// commands and EXEC go to the slot's node in one burst: one request on the shared connection, of
// which only EXEC's reply is the client's. A top-level error to EXEC proves that nothing ran, so
// that a burst is sent again where a single command would be. WATCH takes a connection of its own,
// which the burst goes on, too; then nothing is repeated: what a single command would wait for or
// follow is a null reply, as if a watched key had changed. One worker's thread.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "cluster/command_table.h"
#include "cluster/slot.h"
#include "cluster/split.h"
#include "io/slice.h"
#include "proxy/forging.h"
#include "resp/encoder.h"

namespace proxy {

class Backend;
class Worker;

// A queued command that the proxy answers, when EXEC's reply of the node is there.
struct LocalCommand {
  const cluster::CommandSpec* command = nullptr;
  uint32_t place = 0;  // among EXEC's replies
  std::vector<std::string> args;
};

// A private connection that stays with one client for several requests.
class KeptConnection {
 public:
  // Null if there is none (any more).
  Backend* Find(const Worker& worker) const;
  bool was_taken() const { return was_taken_; }
  void Take(Backend* backend);
  // It is the client's no more: free for others once it owes no reply, or closed.
  void Release(const Worker& worker, bool reuse);
  // Free for others now, while no reply of it is being taken.
  void GiveBack(Worker* worker);

 private:
  bool was_taken_ = false;
  bool has_backend_ = false;
  // Of the worker's table.
  uint32_t index_ = 0;
  uint32_t generation_ = 0;
};

// The keys that a client watches until its next EXEC, DISCARD or UNWATCH. Shared by the client and
// the requests that need it.
struct Watch {
  cluster::Slot slot = 0;
  uint32_t requests = 0;  // WATCHes so far
  size_t keys = 0;        // that they name
  bool asking = false;    // the slot was moving: EXEC goes with ASKING, too
  // Then, those that have moved. Empty: more than are remembered.
  absl::flat_hash_set<std::string> moved_keys;
  bool lost = false;  // its connection has ended, or a key may have moved: EXEC answers null
  bool over = false;  // nobody will ask any more
  KeptConnection connection;

  // It is over, and so is the client's use of the connection.
  void Release(const Worker& worker, bool reuse);
};

// MULTI … EXEC on its way: the replies that come before EXEC's, and what is added to that.
class Burst {
 public:
  Burst(uint32_t node_commands, std::vector<LocalCommand> local, std::vector<std::string> scripts)
      : node_commands_(node_commands), local_(std::move(local)), scripts_(std::move(scripts)) {}

  // It is sent (again): replies to MULTI and each command will come.
  void Begin() {
    refused_ = false;
    queue_replies_left_ = 1 + node_commands_;
    queue_error_.clear();
    turned_away_ = 0;
  }
  // The node does not let us: a lone EXEC is sent, to hear why.
  void BeginRefused() {
    queue_replies_left_ = 0;
    refused_ = true;
  }
  bool refused() const { return refused_; }
  // False: the piece is of EXEC's reply.
  bool TakeQueueReply(absl::string_view piece, bool complete);
  // Of the first command that the node did not queue: without '-' and CRLF, or empty.
  const std::string& queue_error() const { return queue_error_; }
  // Commands that it did not queue, for another reason than keys on both sides of a move.
  uint32_t turned_away() const { return turned_away_; }

  uint32_t node_commands() const { return node_commands_; }
  absl::Span<const LocalCommand> local() const { return local_; }
  // What its EVALSHAs call, by name.
  absl::Span<const std::string> scripts() const { return scripts_; }
  // Of all of its commands, the most.
  Forging forging = Forging::kNobody;

  // --- when the node has answered: the local commands run, one after the other
  void BeginLocal(io::Rope node_reply) {
    local_begun_ = true;
    held_bytes_ += node_reply.size();
    node_reply_ = std::move(node_reply);
  }
  bool local_begun() const { return local_begun_; }
  // The one to run; null: all have their replies.
  const LocalCommand* next_local() const {
    return local_replies_.size() < local_.size() ? &local_[local_replies_.size()] : nullptr;
  }
  void AddLocalReply(io::Rope reply) {
    held_bytes_ += reply.size();
    local_replies_.push_back(std::move(reply));
  }
  // Of all replies so far.
  size_t held_bytes() const { return held_bytes_; }
  // The client is to end: nothing of EXEC's reply behind the last local reply is for it.
  void EndClientAfterThis() { ends_after_ = local_replies_.size(); }
  bool ends_client() const { return ends_after_ != kNever; }
  // EXEC's whole reply: the node's array with the local replies in their places.
  io::Rope TakeReply(resp::Protocol protocol);

 private:
  const uint32_t node_commands_;
  const std::vector<LocalCommand> local_;
  const std::vector<std::string> scripts_;
  uint32_t queue_replies_left_ = 0;
  bool refused_ = false;
  std::string line_;  // the queue reply being received
  std::string queue_error_;
  uint32_t turned_away_ = 0;

  static constexpr size_t kNever = ~size_t{0};
  bool local_begun_ = false;
  io::Rope node_reply_;
  std::vector<io::Rope> local_replies_;  // so far
  size_t held_bytes_ = 0;
  size_t ends_after_ = kNever;  // so many of these
};

// What a request has of them.
struct TransactionPart {
  std::unique_ptr<Burst> burst;          // null: it is a WATCH
  std::shared_ptr<Watch> watch;          // null: the burst is of a client that watches nothing
  std::shared_ptr<KeptConnection> kept;  // see Ask::kept
  // Its commands, EXEC the last, as monitors are to see them when it has run (proxy/monitors.h).
  std::vector<std::string> unshown;
};

// What is queued for nodes, by slot.
struct CrossSlotQueue {
  // Of one slot: what runs there is one block.
  struct Part {
    absl::optional<cluster::Slot> slot;  // none: no command has keys yet; then it is the only one
    io::Rope commands;
    uint32_t count = 0;
  };
  // A command whose keys lie in several slots.
  struct Split {
    const cluster::CommandSpec* command = nullptr;
    cluster::SplitPlan plan;
    std::vector<uint32_t> parts;  // of its fragments
  };
  static constexpr uint32_t kNoSplit = ~uint32_t{0};
  struct Command {
    uint32_t part = 0;
    uint32_t split = kNoSplit;  // its number among `splits`; `part` says nothing then
  };

  std::vector<Part> parts;  // in the order of their first commands
  std::vector<Split> splits;
  std::vector<Command> commands;  // in the client's order

  bool empty() const { return commands.empty(); }
};

// MULTI, a part's commands, EXEC.
io::Rope BurstBytesOf(const io::Rope& commands);

// What a client has queued, and what it watches.
class Transaction {
 public:
  // Between MULTI and EXEC.
  bool queueing() const { return queueing_; }
  void Begin() { queueing_ = true; }
  // A command could not be queued: EXEC will refuse.
  void Abort() { aborted_ = true; }
  bool aborted() const { return aborted_; }
  // Nothing is queued any more.
  void Drop();

  // False: the queued or watched keys are in another slot.
  bool AcceptsSlot(cluster::Slot slot) const;
  // A command for a node. `slot` of its keys, if it has any; without, it goes with what was queued
  // last for a slot that had nothing yet: behind all that came before.
  void QueueForNode(absl::optional<cluster::Slot> slot, const io::Rope& bytes);
  // One whose keys lie in several slots, for each of which it is to be split: `fragments` in the
  // order of the plan's.
  void QueueSplit(const cluster::CommandSpec& command, cluster::SplitPlan plan,
                  absl::Span<const io::Rope> fragments);
  void QueueLocal(const cluster::CommandSpec& command, absl::Span<const absl::string_view> args);
  // One that is queued calls the script of that name (EVALSHA).
  void NoteScript(absl::string_view name);

  // Of a command that is queued.
  void NoteForging(Forging forging) { forging_ = std::max(forging_, forging); }
  // Of a command that is queued: it, or what it runs, may change a key.
  void NoteMayWrite() { may_write_ = true; }
  bool may_write() const { return may_write_; }

  // What is charged to the client for it.
  size_t charged() const { return charged_; }
  bool has_node_commands() const { return !queued_.empty(); }
  // More than one node has to do with it.
  bool IsOverSlots() const;
  size_t queued() const { return queued_.commands.size() + local_.size(); }
  const std::vector<LocalCommand>& local() const { return local_; }
  // Of the keys; 0 if there are none.
  cluster::Slot slot() const;
  // MULTI, the commands for the node, EXEC. All are in one slot.
  io::Rope BurstBytes() const;
  // With the number of all commands for nodes.
  std::unique_ptr<Burst> MakeBurst() const;
  // What is queued, taken out.
  CrossSlotQueue TakeCrossSlot();
  // Calls fn with the arguments of each queued command, as the client sent it, in its order.
  void ForEachQueued(const std::function<void(absl::Span<const absl::string_view>)>& fn) const;

  std::shared_ptr<Watch> watch;      // null: watches nothing
  std::vector<std::string> unshown;  // see TransactionPart, which takes it
  size_t unshown_bytes() const;

 private:
  // The number of the slot's part, added if there is none.
  uint32_t PartFor(absl::optional<cluster::Slot> slot);
  void AppendToPart(uint32_t part, const io::Rope& bytes);

  bool queueing_ = false;
  bool aborted_ = false;
  bool may_write_ = false;
  CrossSlotQueue queued_;
  // Of the parts, if there are several.
  absl::flat_hash_map<cluster::Slot, uint32_t> part_of_slot_;
  std::vector<LocalCommand> local_;
  std::vector<std::string> scripts_;
  Forging forging_ = Forging::kNobody;
  size_t charged_ = 0;
};

}  // namespace proxy
