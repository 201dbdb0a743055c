#pragma once

// File: proxy/script_repairs.h
//
// Nodes are given the scripts that clients have loaded or run through the proxy. Each new
// connection begins with those that are called by name: the node may have joined, been promoted, or
// come back without them. A node that still lacks one (EVAL had reached others only) says so to a
// call: then it is asked whether that is true, because scripts can answer with any text, and given
// the script, on the same connection: what was sent behind the refused call is answered before
// that, so that it can't run first. If the node did lack it the call is sent again. One worker's.
//
// A call that was on its way by another connection when the script arrived there may find itself
// refused by a node that has the script when it is asked: that refusal is passed on.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proxy/script_table.h"

namespace proxy {

class Backend;
class Worker;
struct Request;

// One script for one connection's node. Shared by all requests that wait for it (Hold::repair).
struct ScriptRepair {
  enum class State : uint8_t {
    kAsked,   // SCRIPT EXISTS and SCRIPT LOAD are on their way
    kDone,    // the node had not had the script: what it refused may be sent again
    kFailed,  // it had it, or does not take it, or nobody knows: the refusal stands
  };
  State state = State::kAsked;
  bool missing = false;  // the node said that it lacks the script
  std::string name;      // SHA-1
  uint32_t backend_index = 0;
  uint32_t backend_generation = 0;
};

// What was sent to a node on one connection, so that it is not sent with each burst.
struct GivenScripts {
  uint64_t clears = 0;  // ScriptTable::clears at that time
  absl::btree_map<std::string, absl::Time> when;
};

class ScriptRepairs {
 public:
  ScriptRepairs(Worker* worker, ScriptTable* table) : worker_(worker), table_(table) {}
  ScriptRepairs(const ScriptRepairs&) = delete;
  ScriptRepairs& operator=(const ScriptRepairs&) = delete;

  ScriptTable* table() { return table_; }

  // The request was refused with NOSCRIPT. Null: nothing can be done.
  std::shared_ptr<const ScriptRepair> Begin(const Request& request, Backend* backend);
  // The connection is open, and nothing was sent on it: before all else, it gives the node the
  // scripts that are called by name. Where a node has lost them, all workers' connections have
  // ended, and each worker does so before its own calls.
  void GiveAll(Backend* backend);
  // Before the request goes to the connection: it is given the scripts that the request calls. For
  // a burst, since what is refused between MULTI and EXEC can't be sent again; for a call on a
  // private connection, since several of these are at work at a time: whether the node lacked the
  // script when the call came can't be known afterwards.
  void GiveBefore(const Request& request, Backend* backend);

  // --- from backends, for requests with is_script_repair
  void OnReplyPiece(Request* request, absl::string_view piece, bool complete);
  // There will be no reply.
  void OnLost(Request* request);

 private:
  // What waits for a reply, by Request::fragment.
  struct Awaited {
    std::shared_ptr<ScriptRepair> repair;  // null: nobody waits for it
    bool load = false;                     // SCRIPT LOAD, else EXISTS
    std::string reply;                     // so far
  };

  // The one that is under way on the connection; null: none is.
  std::shared_ptr<ScriptRepair> Find(const Backend& backend, absl::string_view name) const;
  Request* Make(Awaited awaited, absl::string_view subcommand, absl::string_view argument);
  void OnReply(const Awaited& awaited);
  void GiveOne(const std::string& name, Backend* backend);
  bool TakeNote(GivenScripts* given, const std::string& name);
  void End(ScriptRepair* repair, ScriptRepair::State state);

  Worker* const worker_;
  ScriptTable* const table_;
  std::vector<std::shared_ptr<ScriptRepair>> repairs_;  // those under way
  absl::btree_map<uint32_t, Awaited> awaited_;
  uint32_t last_number_ = 0;
};

}  // namespace proxy
