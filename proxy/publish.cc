#include "proxy/publish.h"

#include <algorithm>
#include <string>

#include "cluster/slot.h"
#include "proxy/client.h"
#include "proxy/split_request.h"
#include "proxy/subscriptions.h"
#include "proxy/worker.h"
#include "resp/encoder.h"
#include "resp/views.h"

namespace proxy {

bool StartPublish(Worker* worker, Request* parent, absl::string_view channel,
                  const io::Rope& frame) {
  parent->fragments = worker->requests()->TakeFragments();
  parent->fragments->unanswered = 1;
  parent->fragments->asked = worker->subscriptions()->table()->moment();
  // Nothing else of it is sent: here is the place for what the reply needs.
  parent->bytes.Append(parent->client->arena()->Copy(channel));
  Request* const fragment = NewFragment(worker, parent, cluster::SlotOf(channel));
  fragment->barrier = true;
  return worker->dispatcher()->Start(fragment, frame);
}

io::Rope PublishReply(Worker* worker, Client* client, const Request& parent) {
  const Request& fragment = *parent.fragments->requests[0];
  int64_t count = 0;
  if (fragment.bytes.size() > 32 || !resp::ParseInteger(fragment.bytes.Flatten(), &count) ||
      worker->cluster() == nullptr) {
    return fragment.bytes;
  }
  const absl::string_view owner = worker->cluster()->topology->OwnerId(fragment.slot);
  if (owner.empty()) return fragment.bytes;
  const TopicKind kind =
      parent.command->name == "SPUBLISH" ? TopicKind::kShardChannel : TopicKind::kChannel;
  const SubscriptionTable::Receivers receivers = worker->subscriptions()->table()->Of(
      kind, parent.bytes.Flatten(), owner, parent.fragments->asked);
  if (receivers.clients == 0 && receivers.connections == 0) return fragment.bytes;
  const auto ours = static_cast<int64_t>(receivers.connections);
  std::string reply;
  resp::Encoder(client->protocol(), &reply)
      .Integer(std::max<int64_t>(count - ours, 0) + static_cast<int64_t>(receivers.clients));
  io::Rope rope;
  rope.Append(client->arena()->Copy(reply));
  return rope;
}

}  // namespace proxy
