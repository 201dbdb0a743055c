#include "proxy/subscriber.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proxy/client.h"
#include "proxy/server_info.h"
#include "proxy/worker.h"
#include "resp/encoder.h"

namespace proxy {
namespace {

// What a subscription takes beside its name, in the client and in the worker (about).
constexpr size_t kSubscriptionBytes = 128;

TopicKind KindOf(absl::string_view command_name) {
  if (absl::StartsWith(command_name, "P")) return TopicKind::kPattern;
  if (command_name == "SSUBSCRIBE" || command_name == "SUNSUBSCRIBE") {
    return TopicKind::kShardChannel;
  }
  return TopicKind::kChannel;
}

// Valkey 8 and later refuse what ends nothing.
bool RefusesWithoutAny(const ServerInfo& server) {
  const absl::optional<ServerVersion> version = ParseServerVersion(server.version);
  return server.valkey && version.has_value() && (*version)[0] >= 8;
}

}  // namespace

Subscriber::Subscriber(Client* client)
    : client_(client),
      all_(client->worker()->subscriptions()),
      timer_(client->worker()->timers(), &Subscriber::TimerFired, this) {}

Subscriber::~Subscriber() {
  request_ = nullptr;
  if (awaited_ > 0) {
    for (const std::string& name : names_) all_->StopAwaiting(kind_, name, *client_);
  }
  for (size_t kind = 0; kind < kTopicKinds; ++kind) {
    while (!maps_[kind].empty()) Leave(static_cast<TopicKind>(kind), maps_[kind].begin());
  }
  CountClient();
}

void Subscriber::CountClient() {
  const bool subscribed = subscriptions() > 0;
  if (subscribed == counted_) return;
  counted_ = subscribed;
  Counter* const clients = &client_->worker()->stats()->pubsub_clients;
  subscribed ? clients->Add(1) : clients->Sub(1);
}

size_t Subscriber::subscriptions() const {
  size_t count = 0;
  for (const Map& map : maps_) count += map.size();
  return count;
}

// --- a command

bool Subscriber::Frees(const cluster::CommandSpec& command) {
  return absl::StrContains(command.name, "UNSUBSCRIBE");
}

void Subscriber::Take(Request* request, absl::Span<const absl::string_view> args) {
  ABSL_ASSERT(!busy());
  request_ = request;
  ++command_;
  kind_ = KindOf(request->command->name);
  subscribe_ = !Frees(*request->command);
  running_ = false;
  names_.clear();
  for (const absl::string_view name : args.subspan(1)) names_.emplace_back(name);
}

void Subscriber::RunIfFirst(const Request* first) {
  if (request_ == nullptr || request_ != first || running_) return;
  running_ = true;
  if (!subscribe_) return Unsubscribe();
  timer_.Set(client_->worker()->now() + client_->worker()->config().hold_timeout);
  AwaitAll();
}

// Until all are confirmed at the same time: those that are may be lost again while others are not.
void Subscriber::AwaitAll() {
  // Not before all are counted, however soon they are confirmed.
  awaited_ = 1;
  const uint64_t command = command_;
  for (const std::string& name : names_) {
    if (Of(kind_).contains(name)) continue;
    Topic* const topic = all_->Find(kind_, name);
    if (topic->ready) continue;
    ++awaited_;
    all_->Await(topic, *client_, command_);
    if (!busy() || command_ != command) return;  // refused
  }
  OnTopicReady(command_);
}

void Subscriber::OnTopicReady(uint64_t command) {
  if (!busy() || command != command_ || awaited_ == 0 || --awaited_ > 0) return;
  for (const std::string& name : names_) {
    if (!Of(kind_).contains(name) && !all_->Find(kind_, name)->ready) return AwaitAll();
  }
  FinishSubscribe();
}

void Subscriber::FinishSubscribe() {
  std::string reply;
  for (const std::string& name : names_) {
    if (!Of(kind_).contains(name)) {
      Topic* const topic = all_->Find(kind_, name);
      const size_t place = all_->Add(topic, client_);
      Of(kind_)[topic->name] = {topic, place};
      charge_ += name.size() + kSubscriptionBytes;
    }
    AppendReply(name, false, &reply);
  }
  CountClient();
  Answer(reply);
}

void Subscriber::Unsubscribe() {
  const ClusterState* const cluster = client_->worker()->cluster();
  if (subscriptions() == 0 && cluster != nullptr && RefusesWithoutAny(cluster->server)) {
    return Fail(absl::StrCat("NOSUB '", absl::AsciiStrToLower(request_->command->name),
                             "' command executed not in subscribed mode"));
  }
  std::string reply;
  Map& map = Of(kind_);
  if (names_.empty()) {
    if (map.empty()) AppendReply("", true, &reply);
    while (!map.empty()) {
      const std::string name(map.begin()->first);
      Leave(kind_, map.begin());
      AppendReply(name, false, &reply);
    }
  }
  for (const std::string& name : names_) {
    const auto it = map.find(name);
    if (it != map.end()) Leave(kind_, it);
    AppendReply(name, false, &reply);
  }
  CountClient();
  Answer(reply);
}

void Subscriber::Leave(TopicKind kind, Map::iterator it) {
  const Subscription subscription = it->second;
  charge_ -= it->first.size() + kSubscriptionBytes;
  Of(kind).erase(it);
  all_->Remove(subscription.topic, subscription.place);
}

// One of the replies to a command; the count is that of channels and patterns together, and of
// shard channels by themselves.
void Subscriber::AppendReply(absl::string_view name, bool is_null, std::string* reply) const {
  const size_t count = kind_ == TopicKind::kShardChannel ? subscriptions(kind_)
                                                         : subscriptions(TopicKind::kChannel) +
                                                               subscriptions(TopicKind::kPattern);
  resp::Encoder out(client_->protocol(), reply);
  out.Push(3);
  out.Bulk(absl::AsciiStrToLower(request_->command->name));
  if (is_null) {
    out.Null();
  } else {
    out.Bulk(name);
  }
  out.Integer(static_cast<int64_t>(count));
}

void Subscriber::OnTopicRefused(uint64_t command, absl::string_view line) {
  if (busy() && command == command_ && awaited_ > 0) Fail(line);
}

void Subscriber::OnTopicPlace(const Topic& topic, size_t place) {
  Of(topic.kind)[topic.name].place = place;
}

void Subscriber::OnTimer() {
  if (!busy() || awaited_ == 0) return;
  for (const std::string& name : names_) {
    if (Of(kind_).contains(name) || all_->Find(kind_, name)->ready) continue;
    return Fail(all_->WhyNot(kind_, name));
  }
}

void Subscriber::Fail(absl::string_view line) {
  Request* const request = request_;
  EndCommand();
  client_->AnswerError(request, line);
}

void Subscriber::Answer(absl::string_view reply) {
  Request* const request = request_;
  EndCommand();
  client_->Answer(request, reply);
}

void Subscriber::EndCommand() {
  timer_.Stop();
  request_ = nullptr;
  const bool waits = std::exchange(awaited_, 0) > 0;
  const std::vector<std::string> names = std::exchange(names_, {});
  if (!waits) return;
  for (const std::string& name : names) all_->StopAwaiting(kind_, name, *client_);
}

}  // namespace proxy
