#pragma once

// File: proxy/cluster_face.h
//
// --cluster-face: the proxies as a client sees them whose library wants a cluster. One proxy, or a
// list of them that share the slots evenly; each serves every slot all the same, so that nobody is
// ever redirected. Made anew for each command that asks: nothing is kept, and nothing is shared.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cluster/slot.h"
#include "proxy/config.h"
#include "resp/encoder.h"

namespace proxy {

// Of --cluster-face-nodes. Their lists are made for each client that asks.
constexpr size_t kFaceNodesMax = 256;

// A host as the servers tell it: an address in its shortest form, without brackets and without the
// name of one of our own interfaces; a name as it is.
std::string FaceHost(absl::string_view host);
// "0.0.0.0" or "::": where one listens, not where one connects to.
bool IsWildcard(absl::string_view host);

// One proxy, as a node of the cluster: all of it follows from its address and its place in the
// list, so that all proxies with the same list tell the same.
struct FaceNode {
  std::string host;
  uint16_t port = 0;
  std::string id;        // 40 hexadecimal digits
  std::string shard_id;  // the same
  cluster::Slot first_slot = 0;
  cluster::Slot last_slot = 0;

  // Where servers would have their bus; 0: such a port can't be.
  uint16_t bus_port() const;
};

class ClusterFace {
 public:
  // `local_name`: the proxy's end of the client's connection ("10.0.0.1:8088", "unix:/path", or
  // empty). Without --cluster-face-address it tells who of the list this proxy is, or the address
  // if there is no list; where it does not (Unix sockets), the addresses of --addr do.
  ClusterFace(const Config& config, absl::string_view local_name);

  // In the order of their slots.
  absl::Span<const FaceNode> nodes() const { return nodes_; }
  const FaceNode& self() const { return nodes_[self_]; }
  size_t self_index() const { return self_; }
  // Null: there is none.
  const FaceNode* FindNode(absl::string_view id) const;

 private:
  std::vector<FaceNode> nodes_;  // at least one
  size_t self_ = 0;
};

// What a proxy tells of the whole cluster (SCAN, KEYS, DBSIZE, PUBSUB): what lies in its own slots,
// as a node does. So a client that asks every node, and puts the answers together, gets all of it
// once. Without a list of several proxies: all of it.
struct FaceShare {
  cluster::Slot first = 0;
  cluster::Slot last = cluster::kSlotCount - 1;

  bool is_all() const { return first == 0 && last == cluster::kSlotCount - 1; }
  // Of a key or a channel.
  bool Has(absl::string_view name) const;
  // Of what has no slot: the first proxy tells it.
  bool has_rest() const { return first == 0; }
  // Of a number, so that the parts of all proxies together are the number.
  int64_t PartOf(int64_t number) const;
};
FaceShare FaceShareOf(const Config& config, absl::string_view local_name);

// --- the replies, whole, as servers of redis 7.0 and valkey 8 write them

void AppendClusterSlots(const ClusterFace& face, resp::Encoder* out);
void AppendClusterShards(const ClusterFace& face, resp::Encoder* out);
// The texts of CLUSTER NODES and CLUSTER INFO. `serving`: there is a cluster behind the proxy.
std::string ClusterNodesText(const ClusterFace& face, absl::Time now);
std::string ClusterInfoText(const ClusterFace& face, bool serving);

}  // namespace proxy
