#include "cluster/nodes_reply.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "resp/views.h"

namespace cluster::internal {

namespace {

constexpr size_t kIdBytes = 40;
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

// "host:port[@cport][,hostname[,name=value…]]". IPv6 has no brackets here, so the port stands
// behind the last colon of what comes before the '@'.
absl::Status ParseAddress(absl::string_view field, const NodeAddress& asked, Node* node) {
  absl::string_view extras = field;
  absl::string_view endpoint = TakeUntil(',', &extras);
  endpoint = endpoint.substr(0, endpoint.find('@'));
  const size_t colon = endpoint.rfind(':');
  if (colon == absl::string_view::npos) return BadNodesReply("no port in address", field);
  int64_t port = 0;
  if (!ParseNumber(endpoint.substr(colon + 1), 65535, &port)) {
    return BadNodesReply("bad port", field);
  }
  absl::string_view host = endpoint.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  absl::string_view hostname = TakeUntil(',', &extras);
  // A field of the form name=value is not the host name (nodes.conf without one).
  if (hostname.find('=') != absl::string_view::npos || hostname == "?") hostname = {};
  if (!IsHostText(host)) return BadNodesReply("bad host", field);
  if (!IsHostText(hostname)) return BadNodesReply("bad host name", field);

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
    return BadNodesReply("bad moving slot", field);
  }
  const size_t arrow = text.find('-');
  int64_t slot = 0;
  if (arrow == absl::string_view::npos ||
      !ParseNumber(text.substr(0, arrow), kSlotCount - 1, &slot)) {
    return BadNodesReply("bad moving slot", field);
  }
  text.remove_prefix(arrow);
  const bool importing = absl::ConsumePrefix(&text, "-<-");
  if (!importing && !absl::ConsumePrefix(&text, "->-")) {
    return BadNodesReply("bad moving slot", field);
  }
  if (!IsId(text)) return BadNodesReply("bad node id of a moving slot", field);
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
    if (!ParseNumber(field.substr(0, dash), kSlotCount - 1, &first)) {
      return BadNodesReply("bad slot", field);
    }
    last = first;
    if (dash != absl::string_view::npos &&
        (!ParseNumber(field.substr(dash + 1), kSlotCount - 1, &last) || last < first)) {
      return BadNodesReply("bad slot range", field);
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
    if (field.empty()) return BadNodesReply("too few fields in line", text);
  }
  const auto& [id, address, flags, primary, ping, pong, epoch, link] = fields;
  if (!IsId(id)) return BadNodesReply("bad node id", id);
  line->node.id = std::string(id);
  if (absl::Status status = ParseAddress(address, asked, &line->node); !status.ok()) return status;
  ParseFlags(flags, line);
  if (primary != "-") {
    if (!IsId(primary)) return BadNodesReply("bad primary's id", primary);
    line->primary_id = primary;
  }
  int64_t config_epoch = 0;
  if (!ParseNumber(epoch, std::numeric_limits<int64_t>::max(), &config_epoch)) {
    return BadNodesReply("bad config epoch", epoch);
  }
  line->node.config_epoch = static_cast<uint64_t>(config_epoch);
  line->node.link_up = link == "connected";
  return ParseSlots(rest, line);
}

}  // namespace

absl::Status BadNodesReply(absl::string_view what, absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat("CLUSTER NODES: ", what, ": '", Quote(text), "'"));
}

absl::StatusOr<NodeLine> ParseSourceLine(absl::string_view reply) {
  while (!reply.empty()) {
    absl::string_view text = TakeUntil('\n', &reply);
    absl::ConsumeSuffix(&text, "\r");
    if (text.find("myself") == absl::string_view::npos) continue;
    NodeLine line;
    if (absl::Status status = ParseLine(text, NodeAddress(), &line); !status.ok()) return status;
    if (line.is_source) return line;
  }
  return absl::InvalidArgumentError("CLUSTER NODES: no line of its own");
}

absl::StatusOr<std::vector<NodeLine>> ParseNodesReply(absl::string_view reply,
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
    if (slots_announced > size_t{2} * kSlotCount)
      return BadNodesReply("slots overlap too often", text);
    if (lines.size() == kNodesMax) return BadNodesReply("too many nodes", text);
    lines.push_back(std::move(line));
  }
  if (lines.empty()) return absl::InvalidArgumentError("CLUSTER NODES: no node");
  // The servers list nodes in any order: sorted, equal views have equal indexes.
  std::sort(lines.begin(), lines.end(),
            [](const NodeLine& a, const NodeLine& b) { return a.node.id < b.node.id; });
  for (size_t i = 1; i < lines.size(); ++i) {
    if (lines[i].node.id == lines[i - 1].node.id) {
      return BadNodesReply("id twice", lines[i].node.id);
    }
  }
  return lines;
}

}  // namespace cluster::internal
