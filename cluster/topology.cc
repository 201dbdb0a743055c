#include "cluster/topology.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "resp/views.h"

namespace cluster {

namespace {

constexpr size_t kIdBytes = 40;
constexpr size_t kHostBytesMax = 255;
constexpr size_t kNodesMax = 32768;  // twice the slots: more is no cluster
constexpr size_t kQuotedBytesMax = 64;

// At most 64 bytes, with everything unprintable escaped.
std::string Quote(absl::string_view text) {
  std::string quoted;
  for (const char c : text.substr(0, kQuotedBytesMax)) {
    const std::string escaped = absl::CHexEscape(absl::string_view(&c, 1));
    if (quoted.size() + escaped.size() > kQuotedBytesMax) break;
    quoted += escaped;
  }
  return quoted;
}

absl::Status Bad(absl::string_view what, absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat("CLUSTER NODES: ", what, ": '", Quote(text), "'"));
}

// Takes what stands before the next `separator`, and the separator.
absl::string_view TakeUntil(char separator, absl::string_view* text) {
  const size_t end = text->find(separator);
  const absl::string_view taken = text->substr(0, end);
  text->remove_prefix(end == absl::string_view::npos ? text->size() : end + 1);
  return taken;
}

bool ParseNumber(absl::string_view digits, int64_t most, int64_t* value) {
  return resp::ParseDecimal(digits, value) && *value >= 0 && *value <= most;
}

bool IsId(absl::string_view id) {
  return id.size() == kIdBytes &&
         std::all_of(id.begin(), id.end(), [](char c) { return absl::ascii_isxdigit(c); });
}

bool IsHostText(absl::string_view host) {
  return host.size() <= kHostBytesMax &&
         std::all_of(host.begin(), host.end(), [](char c) { return c > ' ' && c <= '~'; });
}

struct SlotRange {
  Slot first = 0;
  Slot last = 0;
};

// One line, before nodes refer to each other by index.
struct NodeLine {
  Node node;
  absl::string_view primary_id;  // empty: none
  bool is_source = false;
  bool in_handshake = false;
  std::vector<SlotRange> slots;
  std::vector<MovingSlot> moving;
};

// "host:port[@cport][,hostname[,name=value…]]". IPv6 has no brackets here, so the port stands
// behind the last colon of what comes before the '@'.
absl::Status ParseAddress(absl::string_view field, const NodeAddress& asked, Node* node) {
  absl::string_view extras = field;
  absl::string_view endpoint = TakeUntil(',', &extras);
  endpoint = endpoint.substr(0, endpoint.find('@'));
  const size_t colon = endpoint.rfind(':');
  if (colon == absl::string_view::npos) return Bad("no port in address", field);
  int64_t port = 0;
  if (!ParseNumber(endpoint.substr(colon + 1), 65535, &port)) return Bad("bad port", field);
  absl::string_view host = endpoint.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  absl::string_view hostname = TakeUntil(',', &extras);
  // A field of the form name=value is not the host name (nodes.conf without one).
  if (hostname.find('=') != absl::string_view::npos || hostname == "?") hostname = {};
  if (!IsHostText(host)) return Bad("bad host", field);
  if (!IsHostText(hostname)) return Bad("bad host name", field);

  node->hostname = std::string(hostname);
  if (host.empty()) {
    node->address.host = asked.host;  // a node that has never met another does not know its address
  } else if (host == "?") {
    node->address.host = node->hostname;
  } else {
    node->address.host = std::string(host);
  }
  node->address.port = node->address.host.empty() ? 0 : static_cast<uint16_t>(port);
  return absl::OkStatus();
}

// Comma-separated words; those of newer servers are passed over.
void ParseFlags(absl::string_view flags, NodeLine* line) {
  Node& node = line->node;
  while (!flags.empty()) {
    const absl::string_view flag = TakeUntil(',', &flags);
    if (flag == "myself") {
      line->is_source = true;
    } else if (flag == "master") {
      node.is_primary = true;
    } else if (flag == "fail") {
      node.failed = true;
    } else if (flag == "fail?") {
      node.maybe_failed = true;
    } else if (flag == "handshake") {
      line->in_handshake = true;
    } else if (flag == "noaddr") {
      node.address.port = 0;
    }
  }
}

// "[93-<-id]" and "[77->-id]": a slot being imported from, or migrated to, another node.
absl::Status ParseMoving(absl::string_view field, NodeLine* line) {
  absl::string_view text = field;
  if (!absl::ConsumePrefix(&text, "[") || !absl::ConsumeSuffix(&text, "]")) {
    return Bad("bad moving slot", field);
  }
  const size_t arrow = text.find('-');
  int64_t slot = 0;
  if (arrow == absl::string_view::npos ||
      !ParseNumber(text.substr(0, arrow), kSlotCount - 1, &slot)) {
    return Bad("bad moving slot", field);
  }
  text.remove_prefix(arrow);
  const bool importing = absl::ConsumePrefix(&text, "-<-");
  if (!importing && !absl::ConsumePrefix(&text, "->-")) return Bad("bad moving slot", field);
  if (!IsId(text)) return Bad("bad node id of a moving slot", field);
  line->moving.push_back(
      {.slot = static_cast<Slot>(slot), .other_id = std::string(text), .importing = importing});
  return absl::OkStatus();
}

absl::Status ParseSlots(absl::string_view text, NodeLine* line) {
  while (!text.empty()) {
    const absl::string_view field = TakeUntil(' ', &text);
    if (field.empty()) continue;
    if (field.front() == '[') {
      if (absl::Status status = ParseMoving(field, line); !status.ok()) return status;
      continue;
    }
    const size_t dash = field.find('-');
    int64_t first = 0;
    int64_t last = 0;
    if (!ParseNumber(field.substr(0, dash), kSlotCount - 1, &first)) return Bad("bad slot", field);
    last = first;
    if (dash != absl::string_view::npos &&
        (!ParseNumber(field.substr(dash + 1), kSlotCount - 1, &last) || last < first)) {
      return Bad("bad slot range", field);
    }
    line->slots.push_back({.first = static_cast<Slot>(first), .last = static_cast<Slot>(last)});
  }
  return absl::OkStatus();
}

// "<id> <address> <flags> <primary's id or -> <ping sent> <pong received> <config epoch> <link>
// [<slot> …]"
absl::Status ParseLine(absl::string_view text, const NodeAddress& asked, NodeLine* line) {
  std::array<absl::string_view, 8> fields;
  absl::string_view rest = text;
  for (absl::string_view& field : fields) {
    field = TakeUntil(' ', &rest);
    if (field.empty()) return Bad("too few fields in line", text);
  }
  const auto& [id, address, flags, primary, ping, pong, epoch, link] = fields;
  if (!IsId(id)) return Bad("bad node id", id);
  line->node.id = std::string(id);
  if (absl::Status status = ParseAddress(address, asked, &line->node); !status.ok()) return status;
  ParseFlags(flags, line);
  if (primary != "-") {
    if (!IsId(primary)) return Bad("bad primary's id", primary);
    line->primary_id = primary;
  }
  int64_t config_epoch = 0;
  if (!ParseNumber(epoch, std::numeric_limits<int64_t>::max(), &config_epoch)) {
    return Bad("bad config epoch", epoch);
  }
  line->node.config_epoch = static_cast<uint64_t>(config_epoch);
  line->node.link_up = link == "connected";
  return ParseSlots(rest, line);
}

absl::StatusOr<std::vector<NodeLine>> ParseLines(absl::string_view reply,
                                                 const NodeAddress& asked) {
  std::vector<NodeLine> lines;
  size_t slots_announced = 0;
  while (!reply.empty()) {
    absl::string_view text = TakeUntil('\n', &reply);
    absl::ConsumeSuffix(&text, "\r");
    if (text.empty()) continue;
    NodeLine line;
    if (absl::Status status = ParseLine(text, asked, &line); !status.ok()) return status;
    // Its id is made up until the handshake ends.
    if (line.in_handshake && !line.is_source) continue;
    for (const SlotRange& range : line.slots) slots_announced += range.last - range.first + 1u;
    // Two nodes may claim a slot for a moment; a view that says so of every slot is no view. This
    // also bounds the work on what follows.
    if (slots_announced > 2 * kSlotCount) return Bad("slots overlap too often", text);
    if (lines.size() == kNodesMax) return Bad("too many nodes", text);
    lines.push_back(std::move(line));
  }
  if (lines.empty()) return absl::InvalidArgumentError("CLUSTER NODES: no node");
  // The servers list nodes in any order: sorted, equal views have equal indexes.
  std::sort(lines.begin(), lines.end(),
            [](const NodeLine& a, const NodeLine& b) { return a.node.id < b.node.id; });
  for (size_t i = 1; i < lines.size(); ++i) {
    if (lines[i].node.id == lines[i - 1].node.id) return Bad("id twice", lines[i].node.id);
  }
  return lines;
}

// "host:port" without a heap allocation, for look-ups on the data path.
class AddressKey {
 public:
  AddressKey(absl::string_view host, uint16_t port) {
    if (host.size() > kHostBytesMax) return;
    char* end = std::copy(host.begin(), host.end(), bytes_.data());
    *end++ = ':';
    end = std::to_chars(end, bytes_.data() + bytes_.size(), port).ptr;
    size_ = static_cast<size_t>(end - bytes_.data());
  }
  // Empty if the host is too long to be one.
  absl::string_view view() const { return {bytes_.data(), size_}; }

 private:
  std::array<char, kHostBytesMax + 6> bytes_;
  size_t size_ = 0;
};

}  // namespace

// Puts a view together from its lines, step by step.
class Topology::Builder {
 public:
  explicit Builder(std::vector<NodeLine> lines)
      : lines_(std::move(lines)), topology_(new Topology) {
    topology_->slot_to_shard_.fill(kNoShard);
  }

  absl::StatusOr<std::shared_ptr<const Topology>> Build() {
    if (absl::Status status = TakeNodes(); !status.ok()) return status;
    LinkReplicas();
    IndexAddresses();
    ChooseOwners();
    MakeShards();
    if (topology_->covered_slots_ == 0) {
      return absl::InvalidArgumentError("CLUSTER NODES: no node serves a slot");
    }
    return std::shared_ptr<const Topology>(std::move(topology_));
  }

 private:
  absl::Status TakeNodes();
  void LinkReplicas();
  void IndexAddresses();
  void AddAddress(absl::string_view host, NodeIndex index);
  void ChooseOwners();
  void MakeShards();

  std::vector<NodeLine> lines_;  // by node index
  std::shared_ptr<Topology> topology_;
  std::array<NodeIndex, kSlotCount> owners_;
};

absl::Status Topology::Builder::TakeNodes() {
  Topology& topology = *topology_;
  topology.nodes_.reserve(lines_.size());
  topology.by_id_.reserve(lines_.size());
  for (NodeLine& line : lines_) {
    const auto index = static_cast<NodeIndex>(topology.nodes_.size());
    if (line.is_source) {
      if (topology.source_ != kNoNode) return Bad("two nodes are myself", line.node.id);
      topology.source_ = index;
      topology.moving_slots_ = std::move(line.moving);
    }
    topology.by_id_.emplace(line.node.id, index);
    topology.max_config_epoch_ = std::max(topology.max_config_epoch_, line.node.config_epoch);
    topology.nodes_.push_back(std::move(line.node));
  }
  std::sort(topology.moving_slots_.begin(), topology.moving_slots_.end(),
            [](const MovingSlot& a, const MovingSlot& b) { return a.slot < b.slot; });
  return absl::OkStatus();
}

void Topology::Builder::LinkReplicas() {
  for (size_t i = 0; i < lines_.size(); ++i) {
    Node& node = topology_->nodes_[i];
    if (!node.is_primary) node.primary = topology_->FindById(lines_[i].primary_id);
  }
}

void Topology::Builder::IndexAddresses() {
  for (size_t i = 0; i < topology_->nodes_.size(); ++i) {
    const Node& node = topology_->nodes_[i];
    if (!node.usable()) continue;
    const auto index = static_cast<NodeIndex>(i);
    AddAddress(node.address.host, index);
    if (!node.hostname.empty() && node.hostname != node.address.host) {
      AddAddress(node.hostname, index);
    }
  }
}

// A node that was replaced by another at the same address stays listed as failed until it is
// forgotten: the one that is alive has the address.
void Topology::Builder::AddAddress(absl::string_view host, NodeIndex index) {
  const Node& node = topology_->nodes_[index];
  const AddressKey key(host, node.address.port);
  const auto [entry, inserted] = topology_->by_address_.try_emplace(std::string(key.view()), index);
  if (!inserted && topology_->nodes_[entry->second].failed && !node.failed) entry->second = index;
}

void Topology::Builder::ChooseOwners() {
  owners_.fill(kNoNode);
  for (size_t i = 0; i < lines_.size(); ++i) {
    const Node& node = topology_->nodes_[i];
    if (!node.is_primary || !node.usable()) continue;
    for (const SlotRange& range : lines_[i].slots) {
      for (size_t slot = range.first; slot <= range.last; ++slot) {
        NodeIndex& owner = owners_[slot];
        if (owner != kNoNode && owner != i) ++topology_->overlapping_slots_;
        if (owner == kNoNode || topology_->nodes_[owner].config_epoch < node.config_epoch) {
          owner = static_cast<NodeIndex>(i);
        }
      }
    }
  }
}

void Topology::Builder::MakeShards() {
  Topology& topology = *topology_;
  std::vector<bool> owns(topology.nodes_.size(), false);
  for (const NodeIndex owner : owners_) {
    if (owner != kNoNode) owns[owner] = true;
  }
  std::vector<uint16_t> shard_of_node(topology.nodes_.size(), kNoShard);
  for (size_t i = 0; i < owns.size(); ++i) {
    if (!owns[i]) continue;
    shard_of_node[i] = static_cast<uint16_t>(topology.shards_.size());
    topology.shards_.emplace_back().primary = static_cast<NodeIndex>(i);
  }
  for (size_t i = 0; i < topology.nodes_.size(); ++i) {
    const Node& node = topology.nodes_[i];
    if (node.primary == kNoNode || node.failed || !node.usable()) continue;
    const uint16_t shard = shard_of_node[node.primary];
    if (shard != kNoShard) topology.shards_[shard].replicas.push_back(static_cast<NodeIndex>(i));
  }
  for (size_t slot = 0; slot < owners_.size(); ++slot) {
    if (owners_[slot] == kNoNode) continue;
    topology.slot_to_shard_[slot] = shard_of_node[owners_[slot]];
    ++topology.covered_slots_;
  }
}

absl::StatusOr<std::shared_ptr<const Topology>> Topology::FromNodesReply(absl::string_view reply,
                                                                         const NodeAddress& asked) {
  absl::StatusOr<std::vector<NodeLine>> lines = ParseLines(reply, asked);
  if (!lines.ok()) return lines.status();
  return Builder(*std::move(lines)).Build();
}

NodeIndex Topology::FindById(absl::string_view id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? kNoNode : found->second;
}

NodeIndex Topology::FindByAddress(absl::string_view host, uint16_t port) const {
  const auto found = by_address_.find(AddressKey(host, port).view());
  return found == by_address_.end() ? kNoNode : found->second;
}

uint64_t Topology::EpochOf(Slot slot) const {
  const Shard* shard = ShardFor(slot);
  return shard == nullptr ? 0 : nodes_[shard->primary].config_epoch;
}

const MovingSlot* Topology::FindMoving(Slot slot) const {
  const auto found =
      std::lower_bound(moving_slots_.begin(), moving_slots_.end(), slot,
                       [](const MovingSlot& moving, Slot wanted) { return moving.slot < wanted; });
  return found == moving_slots_.end() || found->slot != slot ? nullptr : &*found;
}

bool Topology::SameRouting(const Topology& other) const {
  // Nodes and shards are sorted, so equal views are equal element by element.
  const auto same_node = [](const Node& a, const Node& b) {
    return a.id == b.id && a.address == b.address && a.hostname == b.hostname &&
           a.is_primary == b.is_primary && a.failed == b.failed && a.primary == b.primary;
  };
  const auto same_shard = [](const Shard& a, const Shard& b) {
    return a.primary == b.primary && a.replicas == b.replicas;
  };
  return slot_to_shard_ == other.slot_to_shard_ &&
         std::equal(nodes_.begin(), nodes_.end(), other.nodes_.begin(), other.nodes_.end(),
                    same_node) &&
         std::equal(shards_.begin(), shards_.end(), other.shards_.begin(), other.shards_.end(),
                    same_shard);
}

}  // namespace cluster
