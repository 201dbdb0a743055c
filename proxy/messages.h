#pragma once

// File: proxy/messages.h
//
// What the threads tell each other: a small message by the ring, and a mailbox beside it for what
// is larger. The mailbox is filled before its message is posted.

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/optional.h"
#include "cluster/topology.h"
#include "io/ring.h"
#include "io/socket.h"
#include "proxy/client_query.h"

namespace proxy {

class LearnedCommands;

enum class MessageKind : uint8_t {
  // control → worker
  kAdoptClient,             // value: a descriptor; the worker owns it from here
  kClusterState,            // WorkerMail::states has a new one
  kRefreshDone,             // WorkerMail::refreshes has a result
  kDrain,                   // answer what is complete, close clients and backends, report
  kForceClose,              // the drain limit has passed: close at once, report
  kClientQuery,             // WorkerMail::queries has one to answer
  kClientAnswer,            // WorkerMail::answers has one
  kRedirectedInvalidation,  // WorkerMail::redirected has one

  // worker → worker
  kMonitorLines,  // MonitorMail has some

  // worker → control
  kClientsClosed,           // value: PackClientsClosed
  kRefreshWanted,           // ControlMail::asks has an entry
  kDrained,                 // value: clients that had to be cut off; the worker ends after it, and
                            // ControlMail::ended has its number
  kQueryAsked,              // ControlMail::queries has one
  kQueryAnswered,           // ControlMail::answers has one
  kInvalidationRedirected,  // ControlMail::redirected has one

  // to control, from threads without a ring
  kSignal,    // value: the signal's number
  kResolved,  // the Resolver has results
};

// How many of a worker's clients have gone since it last said so. A message doesn't name its
// sender.
struct ClientsClosed {
  uint32_t worker = 0;  // below 4096
  uint32_t count = 0;   // below 2^20
};
constexpr uint32_t PackClientsClosed(ClientsClosed closed) {
  return closed.worker << 20 | closed.count;
}
constexpr ClientsClosed UnpackClientsClosed(uint32_t value) {
  return {value >> 20, value & 0xfffff};
}

// Values for one receiver, first in, first out. Thread-safe; not for the data path.
template <typename T>
class Mailbox {
 public:
  void Put(T value) {
    std::lock_guard<std::mutex> lock(mutex_);
    values_.push_back(std::move(value));
  }
  absl::optional<T> Take() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (values_.empty()) return absl::nullopt;
    T value = std::move(values_.front());
    values_.pop_front();
    return value;
  }

 private:
  std::mutex mutex_;
  std::deque<T> values_;
};

// What the nodes say of themselves; the proxy's own HELLO and INFO follow it.
struct ServerInfo {
  bool valkey = false;            // family: Valkey, else Redis
  std::string version = "7.0.0";  // "7.0.15", "8.0.1"
  std::string
      compatible_redis_version;  // Valkey: its "redis_version" (7.2.4); Redis: same as version
  std::string maxmemory_policy = "noeviction";
};

// All that workers need to know of the cluster. Immutable, shared between threads.
struct ClusterState {
  std::shared_ptr<const cluster::Topology> topology;
  // By node index: where to connect; nullopt: the name could not be resolved.
  std::vector<absl::optional<io::Endpoint>> endpoints;
  ServerInfo server;
  // What the nodes have beyond the table of commands; null: nothing.
  std::shared_ptr<const LearnedCommands> learned;
};

// A worker asks for a view of the cluster begun after now.
struct RefreshAsk {
  uint32_t worker = 0;
  uint64_t sequence = 0;      // the worker's own numbering, ascending
  std::string first_node_id;  // ask this node first, if it is known; may be empty
};

struct RefreshResult {
  uint64_t sequence = 0;  // all asks of this worker up to this number are answered
  // The view that the refresh got, also if it was not published; null: failed.
  std::shared_ptr<const cluster::Topology> view;
};

// A client (CLIENT TRACKING … REDIRECT) has another told in its place, which is of another worker.
// Control passes it on to the worker of the one that it is for.
struct RedirectedInvalidation {
  uint64_t source = 0;  // their ids
  uint64_t target = 0;
  std::string value;            // what stands behind "invalidate"
  bool target_is_gone = false;  // the answer, to the source
};

struct WorkerMail {
  Mailbox<std::shared_ptr<const ClusterState>> states;
  Mailbox<RefreshResult> refreshes;
  Mailbox<std::shared_ptr<const ClientQuery>> queries;
  Mailbox<ClientAnswer> answers;
  Mailbox<RedirectedInvalidation> redirected;
};

struct ControlMail {
  Mailbox<RefreshAsk> asks;
  Mailbox<ClientQuery> queries;
  Mailbox<ClientAnswer> answers;
  Mailbox<RedirectedInvalidation> redirected;
  Mailbox<uint32_t> ended;
};

// Ids of clients tell whose they are.
constexpr uint64_t MakeClientId(uint64_t number, uint32_t worker, uint32_t workers) {
  return number * workers + worker;
}
constexpr uint32_t WorkerOfClient(uint64_t id, uint32_t workers) {
  return static_cast<uint32_t>(id % workers);
}

// Numbers of the rings of one process: control is 0, worker i is i + 1.
constexpr io::RingId kControlRing = 0;
constexpr io::RingId WorkerRing(uint32_t worker) { return static_cast<io::RingId>(worker + 1); }

// Who owns an operation within a ring (OpToken::party).
enum class Party : uint8_t {
  kNobody,
  kListener,
  kClient,
  kBackend,
  kRefresh,
  kHandover,
  kSubscriber,
  kFunctions,
  kTracking
};

}  // namespace proxy
