#include "proxy/pubsub_counts.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/types/optional.h"
#include "proxy/client.h"
#include "proxy/cluster_face.h"
#include "proxy/split_request.h"
#include "proxy/subscriptions.h"
#include "proxy/worker.h"
#include "resp/encoder.h"
#include "resp/views.h"

namespace proxy {
namespace {

// One slot of each primary: what goes there goes to that node.
std::vector<cluster::Slot> OneSlotOfEachShard(const ClusterState* state) {
  if (state == nullptr) return {0};
  std::vector<cluster::Slot> slots;
  std::set<cluster::NodeIndex> primaries;
  for (int slot = 0; slot < cluster::kSlotCount; ++slot) {
    const auto number = static_cast<cluster::Slot>(slot);
    const cluster::Shard* const shard = state->topology->ShardFor(number);
    if (shard != nullptr && primaries.insert(shard->primary).second) slots.push_back(number);
  }
  if (slots.empty()) slots.push_back(0);
  return slots;
}

// One node's reply.
struct Part {
  std::string bytes;
  std::string node_id;
  uint64_t asked = 0;  // SubscriptionTable::moment()
};

// "*2n\r\n", then each name and its count.
absl::optional<std::string> MergeNumSub(const SubscriptionTable& table, TopicKind kind,
                                        const FaceShare& share, const std::vector<Part>& parts,
                                        resp::Protocol protocol) {
  std::vector<std::string> names;
  std::vector<int64_t> counts;
  for (const Part& part : parts) {
    const std::vector<absl::string_view> elements = resp::ElementsOf(part.bytes);
    if (part.bytes[0] != '*' || elements.size() % 2 != 0) return absl::nullopt;
    if (counts.empty()) counts.resize(elements.size() / 2, 0);
    if (elements.size() != 2 * counts.size()) return absl::nullopt;
    for (size_t i = 0; i < counts.size(); ++i) {
      absl::string_view name;
      int64_t count = 0;
      if (!resp::ParseText(elements[2 * i], &name) ||
          !resp::ParseInteger(elements[2 * i + 1], &count)) {
        return absl::nullopt;
      }
      if (names.size() <= i) names.emplace_back(name);
      const auto ours = static_cast<int64_t>(table.PlacesAt(kind, name, part.node_id, part.asked));
      counts[i] += std::max<int64_t>(count - ours, 0);
    }
  }
  std::string reply;
  resp::Encoder out(protocol, &reply);
  out.Array(static_cast<int64_t>(2 * names.size()));
  for (size_t i = 0; i < names.size(); ++i) {
    out.Bulk(names[i]);
    const auto ours = static_cast<int64_t>(table.Find(kind, names[i]).clients);
    out.Integer(share.Has(names[i]) ? counts[i] + ours : 0);
  }
  return reply;
}

absl::optional<std::string> MergeNumPat(const SubscriptionTable& table, const FaceShare& share,
                                        const std::vector<Part>& parts, resp::Protocol protocol) {
  int64_t total = 0;
  for (const Part& part : parts) {
    int64_t count = 0;
    if (!resp::ParseInteger(part.bytes, &count)) return absl::nullopt;
    const auto ours =
        static_cast<int64_t>(table.NamesAt(TopicKind::kPattern, part.node_id, part.asked));
    total += std::max<int64_t>(count - ours, 0);
  }
  for (const SubscriptionTable::Entry& entry : table.List(TopicKind::kPattern, absl::nullopt)) {
    if (entry.clients > 0) ++total;
  }
  std::string reply;
  resp::Encoder(protocol, &reply).Integer(share.has_rest() ? total : 0);
  return reply;
}

TopicKind KindOf(const cluster::CommandSpec& command) {
  return absl::StartsWith(command.name, "SHARD") ? TopicKind::kShardChannel : TopicKind::kChannel;
}

// The names, each once. One that a worker is still subscribed to at the node that tells it, without
// a client, is left out: for the moment, also if others are subscribed to it there.
absl::optional<std::string> MergeChannels(const SubscriptionTable& table, TopicKind kind,
                                          const FaceShare& share, absl::string_view pattern,
                                          const std::vector<Part>& parts, resp::Protocol protocol) {
  std::set<std::string> names;
  for (const Part& part : parts) {
    if (part.bytes[0] != '*') return absl::nullopt;
    for (const absl::string_view element : resp::ElementsOf(part.bytes)) {
      absl::string_view name;
      if (!resp::ParseText(element, &name)) return absl::nullopt;
      if (table.PlacesAt(kind, name, part.node_id, part.asked) > 0) continue;
      if (share.Has(name)) names.emplace(name);
    }
  }
  for (const SubscriptionTable::Entry& entry : table.List(kind, pattern)) {
    if (entry.clients > 0 && share.Has(entry.name)) names.insert(entry.name);
  }
  std::string reply;
  resp::Encoder out(protocol, &reply);
  out.Array(static_cast<int64_t>(names.size()));
  for (const std::string& name : names) out.Bulk(name);
  return reply;
}

}  // namespace

bool StartPubSubCounts(Worker* worker, Request* parent, absl::optional<absl::string_view> pattern,
                       const io::Rope& frame) {
  const std::vector<cluster::Slot> slots = OneSlotOfEachShard(worker->cluster());
  parent->fragments = worker->requests()->TakeFragments();
  parent->fragments->unanswered = static_cast<uint32_t>(slots.size());
  parent->fragments->asked = worker->subscriptions()->table()->moment();
  // Nothing else of it is sent: here is the place for what the reply needs. "*" for no pattern.
  parent->bytes.Append(parent->client->arena()->Copy(pattern.has_value() ? *pattern : "*"));
  bool room = true;
  for (const cluster::Slot slot : slots) {
    Request* const fragment = NewFragment(worker, parent, slot);
    if (!worker->dispatcher()->Start(fragment, frame)) room = false;
  }
  return room;
}

io::Rope PubSubCountsReply(Worker* worker, Client* client, const Request& parent) {
  std::vector<Part> parts;
  for (const Request* fragment : parent.fragments->requests) {
    Part part;
    part.bytes = fragment->bytes.Flatten();
    part.asked = parent.fragments->asked;
    if (resp::IsErrorFrame(part.bytes)) return fragment->bytes;
    if (worker->cluster() != nullptr) {
      part.node_id = std::string(worker->cluster()->topology->OwnerId(fragment->slot));
    }
    parts.push_back(std::move(part));
  }
  const SubscriptionTable& table = *worker->subscriptions()->table();
  const absl::string_view name = parent.command->name;
  const TopicKind kind = KindOf(*parent.command);
  const resp::Protocol protocol = client->protocol();
  const FaceShare share = client->face_share();
  absl::optional<std::string> reply;
  if (name == "NUMPAT") {
    reply = MergeNumPat(table, share, parts, protocol);
  } else if (absl::EndsWith(name, "NUMSUB")) {
    reply = MergeNumSub(table, kind, share, parts, protocol);
  } else {
    reply = MergeChannels(table, kind, share, parent.bytes.Flatten(), parts, protocol);
  }
  // A node's reply is not as it must be: as it is, rather than a wrong sum.
  if (!reply.has_value()) return parent.fragments->requests[0]->bytes;
  io::Rope rope;
  rope.Append(client->arena()->Copy(*reply));
  return rope;
}

}  // namespace proxy
