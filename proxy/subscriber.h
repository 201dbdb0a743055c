#pragma once

// File: proxy/subscriber.h
//
// One client's subscriptions, and its command that changes them. There is one for each client that
// has some, or asks for some. A command takes effect when all earlier requests of its client are
// answered, and its client takes no other meanwhile (Client::MayTake): so the count that each reply
// tells is the servers', and what the client may do next is known. Its replies go out when the
// nodes have confirmed, or it gets one error, and nothing of it has an effect.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cluster/command_table.h"
#include "io/slice.h"
#include "io/timers.h"
#include "proxy/request.h"
#include "proxy/subscriptions.h"

namespace proxy {

class Client;

class Subscriber {
 public:
  explicit Subscriber(Client* client);
  // Leaves all.
  ~Subscriber();
  Subscriber(const Subscriber&) = delete;
  Subscriber& operator=(const Subscriber&) = delete;

  // The command ends subscriptions.
  static bool Frees(const cluster::CommandSpec& command);
  // Takes the command (Serve::kPubSub) with all its arguments. `request` is its client's last.
  void Take(Request* request, absl::Span<const absl::string_view> args);
  // Carries it out if it is the first of the client's requests.
  void RunIfFirst(const Request* first);

  // A command is not answered yet.
  bool busy() const { return request_ != nullptr; }
  // Of all kinds.
  size_t subscriptions() const;
  size_t subscriptions(TopicKind kind) const { return Of(kind).size(); }
  bool idle() const { return !busy() && subscriptions() == 0 && held.empty(); }
  // What it takes, to be charged to the client.
  size_t charge() const { return charge_; }

  // --- from Subscriptions
  void OnTopicReady(uint64_t command);
  void OnTopicRefused(uint64_t command, absl::string_view line);
  void OnTopicPlace(const Topic& topic, size_t place);

  // Messages that came while a reply was leaving piece by piece.
  io::Rope held;

 private:
  struct Subscription {
    Topic* topic;
    size_t place;  // among its subscribers
  };
  using Map = absl::btree_map<absl::string_view, Subscription>;  // by the topic's name
  const Map& Of(TopicKind kind) const { return maps_[static_cast<size_t>(kind)]; }
  Map& Of(TopicKind kind) { return maps_[static_cast<size_t>(kind)]; }

  void AwaitAll();
  void FinishSubscribe();
  void Unsubscribe();
  void Leave(TopicKind kind, Map::iterator it);
  void Fail(absl::string_view line);
  void Answer(absl::string_view reply);
  void EndCommand();
  void AppendReply(absl::string_view name, bool is_null, std::string* reply) const;
  void CountClient();
  void OnTimer();
  static void TimerFired(void* self) { static_cast<Subscriber*>(self)->OnTimer(); }

  Client* const client_;
  Subscriptions* const all_;
  std::array<Map, kTopicKinds> maps_;
  size_t charge_ = 0;
  bool counted_ = false;  // among the clients with subscriptions

  // The command that is under way; null: none is.
  Request* request_ = nullptr;
  uint64_t command_ = 0;  // its number among those of this client
  TopicKind kind_ = TopicKind::kChannel;
  bool subscribe_ = false;
  bool running_ = false;  // all before it is answered
  std::vector<std::string> names_;
  size_t awaited_ = 0;  // topics that are not confirmed yet
  io::Timer timer_;     // when that has taken too long
};

}  // namespace proxy
