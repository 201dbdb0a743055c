#pragma once

// File: proxy/backend_pool.h
//
// The nodes that one worker knows, by id, and its connections to each: shared ones, opened when
// first needed, and private ones. Follows the topology: nodes that have left take no new requests.

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "cluster/topology.h"
#include "io/socket.h"
#include "proxy/backend.h"
#include "proxy/messages.h"

namespace proxy {

class Worker;

// One node and this worker's connections to it.
struct NodeBackends {
  std::string id;
  cluster::NodeAddress address;           // for MOVED with an empty host, and the log
  absl::optional<io::Endpoint> endpoint;  // none: its name is not resolved
  bool in_topology = true;
  // By its INFO, which it has not told yet:
  bool info_known = false;
  bool near = true;     // it is in the proxy's zone (--read-prefer 2)
  bool forges = false;  // scripts can make it send what looks like other replies (proxy/forging.h)

  // [protocol 2, 3][primary, read-only][number]; null: not open. Borrowed from the worker's table.
  using Shared = std::array<std::array<std::vector<Backend*>, 2>, 2>;
  Shared shared;                                         // to database 0
  absl::btree_map<uint32_t, Shared> shared_by_database;  // to others that clients have selected
  std::vector<Backend*> idle_private;                    // RESP2 and RESP3, last used last
  uint32_t backends = 0;                                 // alive, in any state

  absl::Time available_at = absl::InfinitePast();  // no connect before
  absl::Duration backoff = absl::ZeroDuration();
  absl::Time spaced_until = absl::InfinitePast();   // a while after the last connect began
  absl::Time trouble_until = absl::InfinitePast();  // connections have ended that should not
  absl::Time down_since = absl::InfiniteFuture();   // first failure since it last answered
  // Of the last connect to the node after nobody had tried it for a while, if it was down for long
  // then: Worker::refresh_answered() tells whether the cluster has said where it is now.
  uint64_t refresh_ask = 0;
  absl::Time refresh_asked_at = absl::InfinitePast();
  uint32_t slow_outstanding = 0;  // commands of unbounded run time that it works on
  // To be ended before anything else is sent: until the node says that they are.
  std::vector<OldConnection> old_connections;
  uint64_t fences = 0;  // times that one was added
  std::shared_ptr<WaitingCount> waiting = std::make_shared<WaitingCount>();  // without a connection

  // It has left, and nothing of ours is or may be with it.
  bool MayBeForgotten() const { return !in_topology && backends == 0 && old_connections.empty(); }
};

class BackendPool {
 public:
  explicit BackendPool(Worker* worker);

  // Takes over a new view.
  void Adopt(const ClusterState& state);
  // Null if unknown.
  NodeBackends* FindById(absl::string_view id);
  // By index in the adopted topology; null: it has no address, and never had one.
  NodeBackends* node(cluster::NodeIndex index) { return by_index_[index]; }
  // By index in the adopted topology, for ChooseReadNode: whether reads may go there now. Valid
  // until the next call.
  absl::Span<const bool> Usable();
  // The same: whether it may be in the proxy's zone.
  absl::Span<const bool> same_zone() const {
    return absl::MakeConstSpan(same_zone_.get(), by_index_.size());
  }
  // The node's reply to INFO server.
  void NoteInfo(NodeBackends* node, absl::string_view frame);
  // A node of the topology forges: scripts go on private connections.
  bool forges() const { return forges_; }

  // For longer than any request would wait.
  bool IsDownForLong(const NodeBackends& node) const;

  // The shared connection for the slot, opened if it is not; null while the node may not be
  // connected to (available_at, no endpoint).
  Backend* Shared(NodeBackends* node, const BackendSession& session, bool read_only,
                  cluster::Slot slot);
  // By number of the shard in the adopted topology: the shared connection to its primary for all of
  // its slots, in database 0, if that is open; else null. Valid while the route epoch is the same.
  absl::Span<Backend* const> OpenPrimaries(resp::Protocol protocol);
  // A private connection that owes nothing; null as above, and while too many are out on loan.
  Backend* Private(NodeBackends* node, const BackendSession& session, bool read_only);
  // For a connection of another kind, which its owner opens: true if it may do so now, which then
  // counts as a connect. Else *not_before says when to try again. The node has an endpoint.
  bool BeginConnect(NodeBackends* node, absl::Time* not_before);
  // A private connection whose request is answered: kept for the next or closed.
  void GiveBack(Backend* backend);

  // So many private connections stay with one client; LeasesFull: no more may.
  void NoteLease(int change) { leases_ += static_cast<uint32_t>(change); }
  bool LeasesFull() const;
  // So many have one request each.
  bool LoansFull() const;
  // What waits at the node for something in the slot is to ask anew: the slot is leaving.
  void UnblockSlot(NodeBackends* node, cluster::Slot slot);
  // What waits at a node for something in a slot that the node does not own any more.
  void NoteMovedOwners();

  // From backends: it takes no new requests any more.
  void Forget(Backend* backend);
  // It is gone altogether.
  void OnBackendFreed(NodeBackends* node, bool is_private);
  void OnConnectFailed(NodeBackends* node);
  // It broke, after it was open.
  void OnLost(NodeBackends* node);
  void OnOpen(NodeBackends* node);
  // A connection ended with requests that the node may not have read. Those that are open to the
  // node take no new requests: their successors end it first. The node is connected to also if
  // nobody needs it.
  void Fence(NodeBackends* node, OldConnection old);
  // It is no more, or can't be ended.
  void OnFenced(NodeBackends* node, const OldConnection& old);

  // Nothing more is begun for its own sake.
  void Close();

 private:
  bool MayConnect(const NodeBackends& node) const;
  NodeBackends::Shared NoShared() const;
  void FindOpenPrimaries();
  void OnNodesChanged();
  Backend* Open(NodeBackends* node, const Backend::Options& options);
  void NoteConnect(NodeBackends* node);
  // Those for which `which` is true.
  void Retire(NodeBackends* node, bool (*which)(const Backend&));
  void ConnectToFence();
  static void FenceTimerFired(void* self) { static_cast<BackendPool*>(self)->ConnectToFence(); }
  void NoteTrouble(NodeBackends* node);
  void KeepApart(NodeBackends* node);

  Worker* const worker_;
  absl::btree_map<std::string, std::unique_ptr<NodeBackends>> nodes_;  // in the same order always
  std::vector<NodeBackends*> by_index_;
  std::array<std::vector<Backend*>, 2> open_primaries_;  // [protocol 2, 3]
  uint64_t open_primaries_epoch_ = 0;                    // for which they are
  std::unique_ptr<bool[]> usable_;                       // [by_index_.size()]
  std::unique_ptr<bool[]> same_zone_;                    // the same
  uint32_t idle_private_count_ = 0;
  uint32_t leases_ = 0;
  uint32_t private_count_ = 0;  // of all private ones: on lease, on loan, idle
  bool forges_ = false;
  absl::Time unblocked_at_ = absl::InfinitePast();
  cluster::Slot unblocked_slot_ = 0;
  io::Timer fence_timer_;
  bool closed_ = false;
};

}  // namespace proxy
