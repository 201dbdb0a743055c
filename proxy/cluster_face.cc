#include "proxy/cluster_face.h"

#include <algorithm>
#include <utility>

#include "absl/base/macros.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "io/socket.h"
#include "proxy/sha1.h"

namespace proxy {
namespace {

constexpr uint16_t kBusPortOffset = 10000;  // as the servers have it

using Address = cluster::NodeAddress;

Address AddressOf(const io::Endpoint& endpoint) {
  const absl::StatusOr<io::HostPort> parts = io::ParseHostPort(endpoint.ToString());
  if (!parts.ok()) return {};
  return {FaceHost(parts->host), parts->port};
}

// Addresses by which this proxy can be reached, the surest first.
std::vector<Address> OwnAddresses(const Config& config, absl::string_view local_name) {
  std::vector<Address> own;
  const absl::StatusOr<io::Endpoint> local = io::Endpoint::Parse(local_name);
  if (local.ok() && !local->is_unix()) own.push_back(AddressOf(*local));
  for (const io::Endpoint& endpoint : config.listen) {
    if (endpoint.is_unix() || endpoint.port() == 0) continue;
    own.push_back(AddressOf(endpoint));
    // Who came by a Unix socket is on this machine.
    if (own.back().host == "0.0.0.0") own.back().host = "127.0.0.1";
    if (own.back().host == "::") own.back().host = "::1";
  }
  return own;
}

// The only one of that port, or the end.
std::vector<Address>::const_iterator FindByPort(const std::vector<Address>& list, uint16_t port) {
  const auto has_port = [port](const Address& address) { return address.port == port; };
  const auto first = std::find_if(list.begin(), list.end(), has_port);
  if (first == list.end() || std::any_of(first + 1, list.end(), has_port)) return list.end();
  return first;
}

// Which of the list this proxy is. If nothing tells: the first.
size_t FindSelf(const std::vector<Address>& list, const Config& config,
                absl::string_view local_name) {
  const auto place = [&](std::vector<Address>::const_iterator it) {
    return static_cast<size_t>(it - list.begin());
  };
  if (!config.cluster_face_address.host.empty()) {
    const auto it = std::find(list.begin(), list.end(), config.cluster_face_address);
    ABSL_ASSERT(it != list.end());
    return it == list.end() ? 0 : place(it);
  }
  const std::vector<Address> own = OwnAddresses(config, local_name);
  for (const Address& address : own) {
    const auto it = std::find(list.begin(), list.end(), address);
    if (it != list.end()) return place(it);
  }
  for (const Address& address : own) {
    const auto it = FindByPort(list, address.port);
    if (it != list.end()) return place(it);
  }
  return 0;
}

// The slots, divided evenly.
FaceShare ShareAt(size_t place, size_t count) {
  const auto first_of = [count](size_t i) { return i * cluster::kSlotCount / count; };
  return {static_cast<cluster::Slot>(first_of(place)),
          static_cast<cluster::Slot>(first_of(place + 1) - 1)};
}

FaceNode MakeNode(const Address& address, const FaceShare& share) {
  const std::string name = io::FormatHostPort(address.host, address.port);
  FaceNode node;
  node.host = address.host;
  node.port = address.port;
  node.id = Sha1Hex(name);
  node.shard_id = Sha1Hex(absl::StrCat("shard of ", name));
  node.first_slot = share.first;
  node.last_slot = share.last;
  return node;
}

}  // namespace

std::string FaceHost(absl::string_view host) {
  // Nobody else has an interface by our name for it.
  const absl::string_view address = host.substr(0, host.find('%'));
  const absl::StatusOr<io::Endpoint> endpoint = io::Endpoint::FromIp(address, 0);
  if (!endpoint.ok()) return std::string(host);
  const absl::StatusOr<io::HostPort> parts = io::ParseHostPort(endpoint->ToString());
  return parts.ok() ? parts->host : std::string(host);
}

bool IsWildcard(absl::string_view host) { return host == "0.0.0.0" || host == "::"; }

uint16_t FaceNode::bus_port() const {
  return port <= 65535 - kBusPortOffset ? static_cast<uint16_t>(port + kBusPortOffset)
                                        : uint16_t{0};
}

ClusterFace::ClusterFace(const Config& config, absl::string_view local_name) {
  std::vector<Address> list = config.cluster_face_nodes;
  if (list.empty() && !config.cluster_face_address.host.empty()) {
    list.push_back(config.cluster_face_address);
  }
  if (list.empty()) {
    list = OwnAddresses(config, local_name);
    list.resize(1);
  }
  self_ = FindSelf(list, config, local_name);
  for (size_t i = 0; i < list.size(); ++i) {
    nodes_.push_back(MakeNode(list[i], ShareAt(i, list.size())));
  }
}

const FaceNode* ClusterFace::FindNode(absl::string_view id) const {
  for (const FaceNode& node : nodes_) {
    if (node.id == id) return &node;
  }
  return nullptr;
}

bool FaceShare::Has(absl::string_view name) const {
  if (is_all()) return true;
  const cluster::Slot slot = cluster::SlotOf(name);
  return first <= slot && slot <= last;
}

int64_t FaceShare::PartOf(int64_t number) const {
  const auto below = [number](int64_t slot) {
    return number / cluster::kSlotCount * slot +
           number % cluster::kSlotCount * slot / cluster::kSlotCount;
  };
  return below(last + 1) - below(first);
}

FaceShare FaceShareOf(const Config& config, absl::string_view local_name) {
  const std::vector<Address>& list = config.cluster_face_nodes;
  if (list.size() < 2) return {};
  return ShareAt(FindSelf(list, config, local_name), list.size());
}

void AppendClusterSlots(const ClusterFace& face, resp::Encoder* out) {
  out->Array(static_cast<int64_t>(face.nodes().size()));
  for (const FaceNode& node : face.nodes()) {
    out->Array(3);
    out->Integer(node.first_slot);
    out->Integer(node.last_slot);
    out->Array(4);
    out->Bulk(node.host);
    out->Integer(node.port);
    out->Bulk(node.id);
    out->Map(0);  // further names of it
  }
}

void AppendClusterShards(const ClusterFace& face, resp::Encoder* out) {
  out->Array(static_cast<int64_t>(face.nodes().size()));
  for (const FaceNode& node : face.nodes()) {
    out->Map(2);
    out->Bulk("slots");
    out->Array(2);
    out->Integer(node.first_slot);
    out->Integer(node.last_slot);
    out->Bulk("nodes");
    out->Array(1);
    out->Map(7);
    out->Bulk("id");
    out->Bulk(node.id);
    out->Bulk("port");
    out->Integer(node.port);
    out->Bulk("ip");
    out->Bulk(node.host);
    out->Bulk("endpoint");
    out->Bulk(node.host);
    out->Bulk("role");
    out->Bulk("master");
    out->Bulk("replication-offset");
    out->Integer(0);
    out->Bulk("health");
    out->Bulk("online");
  }
}

std::string ClusterNodesText(const ClusterFace& face, absl::Time now) {
  std::string text;
  for (size_t i = 0; i < face.nodes().size(); ++i) {
    const FaceNode& node = face.nodes()[i];
    const bool self = i == face.self_index();
    // Id, address, flags, primary, ping sent, pong received, epoch, link, slots. Here, as in
    // CLUSTER SLOTS, an IPv6 address has no brackets.
    absl::StrAppend(&text, node.id, " ", node.host, ":", node.port, "@", node.bus_port(), " ",
                    self ? "myself,master" : "master", " - 0 ", self ? 0 : absl::ToUnixMillis(now),
                    " ", i + 1, " connected ", node.first_slot);
    if (node.last_slot != node.first_slot) absl::StrAppend(&text, "-", node.last_slot);
    text += '\n';
  }
  return text;
}

std::string ClusterInfoText(const ClusterFace& face, bool serving) {
  const size_t count = face.nodes().size();
  return absl::StrCat(
      "cluster_state:", serving ? "ok" : "fail", "\r\ncluster_slots_assigned:", cluster::kSlotCount,
      "\r\ncluster_slots_ok:", cluster::kSlotCount,
      "\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:", count,
      "\r\ncluster_size:", count, "\r\ncluster_current_epoch:", count,
      "\r\ncluster_my_epoch:", face.self_index() + 1,
      "\r\ncluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0"
      "\r\ntotal_cluster_links_buffer_limit_exceeded:0\r\n");
}

}  // namespace proxy
