// The part of Client (proxy/client.h) that concerns publish and subscribe.

#include <memory>
#include <string>
#include <utility>

#include "absl/types/optional.h"
#include "proxy/args.h"
#include "proxy/client.h"
#include "proxy/publish.h"
#include "proxy/pubsub_counts.h"
#include "proxy/subscriber.h"
#include "proxy/worker.h"
#include "resp/encoder.h"

namespace proxy {

void Client::TakePublish(const cluster::CommandSpec& command, absl::string_view channel,
                         const io::Rope& frame) {
  Request* request = NewRequest(command, frame.size());
  if (!StartPublish(worker_, request, channel, frame)) waiting_for_room_ = true;
}

void Client::TakePubSubCount(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                             const io::Rope& frame) {
  const ArgList args(pieces);
  absl::optional<absl::string_view> pattern;
  if (args.views().size() > 2) pattern = args.views()[2];
  Request* request = NewRequest(command, frame.size());
  if (!StartPubSubCounts(worker_, request, pattern, frame)) waiting_for_room_ = true;
}

void Client::TakeSubscription(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                              const io::Rope& frame) {
  const ArgList args(pieces);
  Request* request = NewRequest(command, frame.size());
  if (subscriber_ == nullptr) subscriber_ = std::make_unique<Subscriber>(this);
  gets_pushes_ = true;
  answer_first_ = request;
  subscriber_->Take(request, args.views());
  ServeSubscriber();
}

// What a client with subscriptions may not do in RESP2, or gets another reply to. False: the
// command is served as ever.
bool Client::TakeAsSubscriber(const cluster::CommandSpec& command, const resp::Pieces& pieces) {
  if (protocol_ != resp::Protocol::kResp2 || subscriber_ == nullptr) return false;
  if (subscriber_->subscriptions() == 0) return false;
  if (command.serve == cluster::Serve::kPubSub || command.name == "QUIT" ||
      command.name == "RESET") {
    return !command.container.empty();
  }
  if (command.name != "PING" || !command.container.empty()) {
    AnswerNewError(cluster::SubscriberModeError(command));
    return true;
  }
  if (worker_->monitors()->watched()) Show(command, pieces);
  const ArgList args(pieces);
  if (args.views().size() > 2) {
    AnswerNewError(cluster::WrongArityError(command));
    return true;
  }
  std::string reply;
  resp::Encoder out(protocol_, &reply);
  out.Array(2);
  out.Bulk("pong");
  out.Bulk(args.views().size() == 2 ? args.views()[1] : absl::string_view());
  AnswerNew(reply);
  return true;
}

// The first request is another one, or its reply is not leaving any more.
void Client::ServeSubscriber() {
  SendHeld(&subscriber_->held);
  subscriber_->RunIfFirst(head_);
}

void Client::OnPublished(const io::Rope& message) {
  if (state_ == State::kOpen) SendBetweenReplies(message, &subscriber_->held);
}

// While a reply is leaving piece by piece it is held, until SendHeld.
void Client::SendBetweenReplies(const io::Rope& bytes, io::Rope* held) {
  if (head_ != nullptr && head_->streaming) {
    held->Append(bytes);
    reply_bytes_ += bytes.size();
  } else {
    connection_.Send(bytes);
  }
  worker_->MarkDirty(this);
}

void Client::SendHeld(io::Rope* held) {
  if (held->empty() || (head_ != nullptr && head_->streaming)) return;
  reply_bytes_ -= held->size();
  connection_.Send(std::exchange(*held, io::Rope()));
  worker_->MarkDirty(this);
}

void Client::OnTopicReady(uint64_t command) {
  if (subscriber_ != nullptr) subscriber_->OnTopicReady(command);
}

void Client::OnTopicRefused(uint64_t command, absl::string_view line) {
  if (subscriber_ != nullptr) subscriber_->OnTopicRefused(command, line);
}

void Client::OnTopicPlace(const Topic& topic, size_t place) {
  subscriber_->OnTopicPlace(topic, place);
}

void Client::LeaveTopics() {
  if (subscriber_ == nullptr) return;
  reply_bytes_ -= subscriber_->held.size();
  subscriber_.reset();
  gets_pushes_ = tracker_ != nullptr;
}

}  // namespace proxy
