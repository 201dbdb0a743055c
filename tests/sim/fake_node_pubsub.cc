// The part of FakeNode (tests/sim/fake_node.h) that concerns what it sends unasked: messages to its
// subscribers, and keys that have changed to those who track.

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proxy/glob.h"
#include "tests/sim/fake_cluster.h"
#include "tests/sim/fake_node.h"
#include "tests/sim/fake_node_parts.h"

namespace sim {

// --- publish and subscribe

// False: the command is another one.
bool FakeNode::ExecutePubSub(Connection* connection, absl::string_view name, const Args& args) {
  const bool shard = name == "SPUBLISH" || name == "SSUBSCRIBE" || name == "SUNSUBSCRIBE";
  if (shard) {
    const cluster::Slot slot = cluster::SlotOf(args[1]);
    const int owner = view_->owner[slot];
    if (owner != number_) {
      Reply(connection,
            ErrorLine(owner < 0 ? "CLUSTERDOWN Hash slot not served"
                                : absl::StrCat("MOVED ", slot, " ",
                                               view_->peers[owner].address.ToString())));
      return true;
    }
  }
  if (name == "PUBLISH" || name == "SPUBLISH") {
    const int receivers = Deliver(args[1], args[2], shard);
    if (!shard) cluster_->Broadcast(number_, args[1], args[2]);
    Reply(connection, Integer(receivers));
    return true;
  }
  if (name == "PUBSUB") {
    Reply(connection, PubSubCount(args));
    return true;
  }
  if (!absl::EndsWith(name, "SUBSCRIBE")) return false;
  for (size_t i = 1; i < args.size(); ++i) Subscribe(connection, name, args[i]);
  return true;
}

// PUBSUB CHANNELS, NUMPAT or NUMSUB, without a pattern, of one channel.
std::string FakeNode::PubSubCount(const Args& args) const {
  if (args[1] == "NUMSUB") {
    return absl::StrCat(
        "*2\r\n", Bulk(args[2]),
        Integer(static_cast<int64_t>(Subscribers(absl::StrCat("channel:", args[2])))));
  }
  const absl::string_view kind = args[1] == "NUMPAT" ? "pattern:" : "channel:";
  std::set<std::string> names;
  for (const std::unique_ptr<Connection>& each : connections_) {
    if (each->stream == nullptr) continue;
    for (const std::string& topic : each->topics) {
      if (absl::StartsWith(topic, kind)) names.insert(topic.substr(kind.size()));
    }
  }
  if (args[1] == "NUMPAT") return Integer(static_cast<int64_t>(names.size()));
  std::string reply = absl::StrCat("*", names.size(), "\r\n");
  for (const std::string& each : names) absl::StrAppend(&reply, Bulk(each));
  return reply;
}

void FakeNode::Subscribe(Connection* connection, absl::string_view command,
                         absl::string_view name) {
  const absl::string_view kind =
      command[0] == 'P'                                                        ? "pattern:"
      : absl::StartsWith(command, "SSUB") || absl::StartsWith(command, "SUNS") ? "shard:"
                                                                               : "channel:";
  const std::string topic = absl::StrCat(kind, name);
  if (absl::StrContains(command, "UNSUBSCRIBE")) {
    connection->topics.erase(topic);
  } else {
    connection->topics.insert(topic);
  }
  Reply(connection, absl::StrCat(connection->resp3 ? ">" : "*", "3\r\n",
                                 Bulk(absl::AsciiStrToLower(std::string(command))), Bulk(name),
                                 Integer(static_cast<int64_t>(connection->topics.size()))));
}

size_t FakeNode::Subscribers(absl::string_view topic) const {
  return static_cast<size_t>(
      std::count_if(connections_.begin(), connections_.end(), [&](const auto& connection) {
        return connection->stream != nullptr && connection->topics.count(std::string(topic)) > 0;
      }));
}

int FakeNode::Deliver(absl::string_view channel, absl::string_view text, bool shard) {
  int receivers = 0;
  for (const std::unique_ptr<Connection>& connection : connections_) {
    if (connection->stream == nullptr) continue;
    const absl::string_view type = connection->resp3 ? ">" : "*";
    const size_t before = connection->output.size();
    for (const std::string& topic : connection->topics) {
      const absl::string_view name = absl::string_view(topic).substr(topic.find(':') + 1);
      std::string push;
      if (absl::StartsWith(topic, "pattern:")) {
        if (shard || !proxy::GlobMatches(name, channel, proxy::GlobCase::kSensitive)) continue;
        push = absl::StrCat(type, "4\r\n", Bulk("pmessage"), Bulk(name));
      } else {
        if (name != channel || shard != absl::StartsWith(topic, "shard:")) continue;
        push = absl::StrCat(type, "3\r\n", Bulk(shard ? "smessage" : "message"));
      }
      absl::StrAppend(&push, Bulk(channel), Bulk(text));
      connection->output.Append(push.data(), push.size());
      ++receivers;
    }
    if (connection->output.size() != before) Flush(connection.get());
  }
  return receivers;
}

void FakeNode::DeliverDue() {
  if (hung_ || !alive()) return;
  while (!published_.empty() && published_.front().due <= net_->now()) {
    const Published published = std::move(published_.front());
    published_.pop_front();
    Deliver(published.channel, published.text, false);
  }
  bus_.Stop();
  if (!published_.empty()) bus_.Set(published_.front().due);
}

// Who is subscribed to a shard channel whose slot has left is told that this is over.
void FakeNode::EndLostShardChannels() {
  for (const std::unique_ptr<Connection>& connection : connections_) {
    if (connection->stream == nullptr) continue;
    for (auto it = connection->topics.begin(); it != connection->topics.end();) {
      const std::string name = it->substr(it->find(':') + 1);
      if (!absl::StartsWith(*it, "shard:") || view_->owner[cluster::SlotOf(name)] == number_) {
        ++it;
        continue;
      }
      it = connection->topics.erase(it);
      const std::string push =
          absl::StrCat(connection->resp3 ? ">" : "*", "3\r\n", Bulk("sunsubscribe"), Bulk(name),
                       Integer(static_cast<int64_t>(connection->topics.size())));
      connection->output.Append(push.data(), push.size());
      Flush(connection.get());
    }
  }
}

// --- tracking

void FakeNode::TellOfChange(absl::string_view key) {
  if (!flushing_) TellTrackers(absl::StrCat("*1\r\n", Bulk(key)));
}

void FakeNode::TellTrackers(absl::string_view value) {
  const std::string push = absl::StrCat(">2\r\n", Bulk("invalidate"), value);
  for (const std::unique_ptr<Connection>& connection : connections_) {
    if (connection->stream == nullptr || !connection->tracking) continue;
    connection->output.Append(push.data(), push.size());
    Flush(connection.get());
  }
}

size_t FakeNode::Trackers() const {
  return static_cast<size_t>(
      std::count_if(connections_.begin(), connections_.end(), [](const auto& connection) {
        return connection->stream != nullptr && connection->tracking;
      }));
}

void FakeNode::DropTrackers() {
  for (const std::unique_ptr<Connection>& connection : connections_) {
    if (connection->stream != nullptr && connection->tracking) Close(connection.get(), true);
  }
}

}  // namespace sim
