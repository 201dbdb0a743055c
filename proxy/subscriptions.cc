#include "proxy/subscriptions.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cluster/redirection.h"
#include "proxy/client.h"
#include "proxy/glob.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

using State = Topic::Place::State;

// What nobody is subscribed to any more is kept for so long: whoever comes back finds it.
constexpr absl::Duration kUnusedTime = absl::Seconds(1);
// After a refusal that may pass.
constexpr absl::Duration kBackoffMin = absl::Milliseconds(10);
constexpr absl::Duration kBackoffMax = absl::Milliseconds(500);
// A message takes less from the node that it is published at to another one.
constexpr absl::Duration kBetweenNodes = absl::Milliseconds(200);
// There may be many that are looked at again, each at its own time.
constexpr absl::Duration kBetweenAttending = absl::Milliseconds(10);
// Of what a new home sends while the old one still does.
constexpr size_t kHeldBytesMax = 1 << 20;
constexpr size_t kGivenMax = 1 << 16;
// Messages up to this size are copied, so that those that follow each other are one part of a send.
constexpr size_t kCopyMessageBytes = 8 << 10;

constexpr absl::string_view kKeyEventPrefixes[] = {"__keyspace@", "__keyevent@"};

// Each node tells of its own keys only.
bool IsKeyEvent(absl::string_view channel) {
  return absl::StartsWith(channel, kKeyEventPrefixes[0]) ||
         absl::StartsWith(channel, kKeyEventPrefixes[1]);
}

bool MayBeKeyEvent(TopicKind kind, absl::string_view name) {
  switch (kind) {
    case TopicKind::kChannel:
      return IsKeyEvent(name);
    case TopicKind::kPattern:
      return PatternMayMatchPrefix(name, kKeyEventPrefixes[0]) ||
             PatternMayMatchPrefix(name, kKeyEventPrefixes[1]);
    case TopicKind::kShardChannel:
      return false;
  }
  return false;
}

// FNV-1a: the same in each run.
uint64_t HashOf(const io::Rope& frame) {
  uint64_t hash = 14695981039346656037u;
  for (const io::Slice& slice : frame.slices()) {
    for (const char c : slice.bytes()) {
      hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
    }
  }
  return hash;
}

Topic::Place* PlaceAt(Topic* topic, const SubscriberLink* link) {
  for (Topic::Place& place : topic->places) {
    if (place.link == link) return &place;
  }
  return nullptr;
}

}  // namespace

bool PatternMayMatchPrefix(absl::string_view pattern, absl::string_view prefix) {
  size_t at = 0;
  for (const char& c : prefix) {
    if (at == pattern.size()) return false;
    if (pattern[at] == '*') return true;
    // One element of the pattern, against one byte.
    size_t end = at + 1;
    if (pattern[at] == '\\') {
      end = std::min(end + 1, pattern.size());
    } else if (pattern[at] == '[') {
      while (end < pattern.size() && pattern[end] != ']') end += pattern[end] == '\\' ? 2 : 1;
      end = std::min(end + 1, pattern.size());
    }
    const absl::string_view element = pattern.substr(at, end - at);
    if (!GlobMatches(element, absl::string_view(&c, 1), GlobCase::kSensitive)) return false;
    at = end;
  }
  return true;
}

Subscriptions::Subscriptions(Worker* worker, SubscriptionTable* table)
    : worker_(worker),
      table_(table),
      links_(worker, this, SubscriberLink::Purpose::kSubscriptions),
      attend_timer_(worker->timers(), &Subscriptions::AttendTimerFired, this),
      push_arena_(worker->backend_blocks()),
      array_arena_(worker->backend_blocks()) {}

Subscriptions::~Subscriptions() = default;

// --- for clients

Topic* Subscriptions::FindExisting(TopicKind kind, absl::string_view name) {
  Topics& topics = topics_[static_cast<size_t>(kind)];
  const auto it = topics.find(name);
  return it == topics.end() ? nullptr : it->second.get();
}

Topic* Subscriptions::Find(TopicKind kind, absl::string_view name) {
  if (Topic* found = FindExisting(kind, name); found != nullptr) return found;
  auto topic = std::make_unique<Topic>();
  topic->id = ++last_id_;
  topic->kind = kind;
  topic->name = std::string(name);
  topic->slot = cluster::SlotOf(name);
  topic->everywhere = MayBeKeyEvent(kind, name);
  Topic* const made = topic.get();
  topics_[static_cast<size_t>(kind)][made->name] = std::move(topic);
  worker_->stats()->subscribed_topics.Add(1);
  // Forgotten if nobody uses it after all.
  made->unused_since = worker_->now();
  Attend(made, made->unused_since + kUnusedTime);
  return made;
}

void Subscriptions::Await(Topic* topic, const Client& client, uint64_t command) {
  topic->waiters.push_back({client.index(), client.generation(), command});
  Settle(topic);
}

void Subscriptions::StopAwaiting(TopicKind kind, absl::string_view name, const Client& client) {
  Topic* const topic = FindExisting(kind, name);
  if (topic == nullptr) return;
  std::vector<Topic::Waiter>& waiters = topic->waiters;
  waiters.erase(std::remove_if(waiters.begin(), waiters.end(),
                               [&](const Topic::Waiter& waiter) {
                                 return waiter.client_index == client.index() &&
                                        waiter.client_generation == client.generation();
                               }),
                waiters.end());
  Settle(topic);
}

size_t Subscriptions::Add(Topic* topic, Client* client) {
  topic->subscribers.push_back(client);
  topic->unused_since = absl::InfiniteFuture();
  table_->AddClient(topic->kind, topic->name, 1);
  worker_->stats()->subscriptions.Add(1);
  return topic->subscribers.size() - 1;
}

void Subscriptions::Remove(Topic* topic, size_t place) {
  ABSL_ASSERT(place < topic->subscribers.size());
  Client* const last = topic->subscribers.back();
  topic->subscribers.pop_back();
  if (place < topic->subscribers.size()) {
    topic->subscribers[place] = last;
    last->OnTopicPlace(*topic, place);
  }
  table_->AddClient(topic->kind, topic->name, -1);
  worker_->stats()->subscriptions.Sub(1);
  Settle(topic);
}

std::string Subscriptions::WhyNot(TopicKind kind, absl::string_view name) {
  const Topic* const topic = FindExisting(kind, name);
  const cluster::Slot slot = cluster::SlotOf(name);
  if (topic != nullptr &&
      std::any_of(topic->places.begin(), topic->places.end(),
                  [](const Topic::Place& place) { return place.link->open(); })) {
    return absl::StrCat("ERR proxy: subscription not confirmed in time (not executed)");
  }
  return absl::StrCat("CLUSTERDOWN proxy: slot ", slot, " has no reachable owner (not executed)");
}

// --- where

std::vector<std::string> Subscriptions::WantedNodes(const Topic& topic) const {
  std::vector<std::string> wanted;
  if (!topic.used() || worker_->cluster() == nullptr) return wanted;
  const cluster::Topology& topology = *worker_->cluster()->topology;
  if (!topic.moved_to.empty()) return {topic.moved_to};
  const cluster::Shard* const shard = topology.ShardFor(topic.slot);
  if (shard == nullptr) return wanted;
  wanted.push_back(topology.node(shard->primary).id);
  if (!topic.everywhere) return wanted;
  for (const cluster::Shard& other : topology.shards()) {
    if (other.primary != shard->primary) wanted.push_back(topology.node(other.primary).id);
  }
  return wanted;
}

SubscriberLink* Subscriptions::LinkTo(absl::string_view node_id) {
  const auto has_no_topics = [this](const SubscriberLink& link) { return TopicsAt(&link).empty(); };
  SubscriberLink* const link = links_.To(node_id, has_no_topics);
  if (topics_at_.size() <= link->index()) topics_at_.resize(link->index() + 1);
  return link;
}

// Brings the topic nearer to where it should be. Called whenever something has changed.
void Subscriptions::Settle(Topic* topic) {
  if (closed_) return;
  if (topic->given != nullptr && topic->given->until <= worker_->now()) topic->given.reset();
  if (topic->used()) {
    topic->unused_since = absl::InfiniteFuture();
    return SettleUsed(topic);
  }
  topic->ready = topic->home != nullptr && topic->ready;
  if (topic->unused_since == absl::InfiniteFuture()) topic->unused_since = worker_->now();
  if (worker_->now() < topic->unused_since + kUnusedTime) {
    return Attend(topic, topic->unused_since + kUnusedTime);
  }
  DropPlaces(topic);
}

void Subscriptions::SettleUsed(Topic* topic) {
  const std::vector<std::string> wanted = WantedNodes(*topic);
  if (wanted.empty()) {
    worker_->HintRefresh("");
    return RetryLater(topic);
  }
  SubscriberLink* const first = LinkTo(wanted[0]);
  if (topic->home != nullptr && topic->home != first && !topic->everywhere) BeginMove(topic, first);
  size_t confirmed = 0;
  bool home_confirmed = false;
  SubscriberLink* first_confirmed = nullptr;
  for (const std::string& id : wanted) {
    SubscriberLink* const link = LinkTo(id);
    Topic::Place* place = PlaceAt(topic, link);
    if (place == nullptr) {
      topic->places.push_back({link, State::kUnsent, 0, false});
      TopicsAt(link)[topic->id] = topic;
      place = &topic->places.back();
    }
    link->Want();
    if (place->state != State::kConfirmed && place->state != State::kAsked && link->open()) {
      AskPlace(topic, place);
    }
    if (place->state != State::kConfirmed) continue;
    ++confirmed;
    if (id == wanted[0]) home_confirmed = true;
    if (first_confirmed == nullptr) first_confirmed = link;
  }
  if (topic->everywhere) {
    topic->home = first_confirmed;
  } else if (topic->home == nullptr) {
    if (home_confirmed) topic->home = first;
  } else if (topic->home != first) {
    MoveOn(topic);
  } else if (topic->move != nullptr) {
    // Back where it was: what has come from the other one meanwhile goes first, too.
    EndMove(topic);
    if (topic->home != nullptr && topic->home != first) {
      BeginMove(topic, first);
      MoveOn(topic);
    }
  }
  if (confirmed == wanted.size()) {
    topic->backoff = absl::ZeroDuration();
    LeaveUnwanted(topic, wanted);
  }
  if (topic->everywhere ? confirmed == wanted.size() : topic->home != nullptr) {
    BecomeReady(topic);
  } else {
    topic->ready = false;
  }
}

void Subscriptions::AskPlace(Topic* topic, Topic::Place* place) {
  absl::Time ask_at = topic->retry_at;
  if (topic->move != nullptr && topic->move->to == place->link) {
    ask_at = std::max(ask_at, topic->move->ask_at);
  }
  if (ask_at > worker_->now()) return Attend(topic, ask_at);
  place->number = place->link->Subscribe(topic->kind, topic->name);
  place->state = State::kAsked;
}

void Subscriptions::LeaveUnwanted(Topic* topic, const std::vector<std::string>& wanted) {
  for (size_t i = topic->places.size(); i-- > 0;) {
    // That of a home which is moving has its own time.
    if (topic->move != nullptr && topic->places[i].link == topic->home) continue;
    if (std::find(wanted.begin(), wanted.end(), topic->places[i].link->node_id()) == wanted.end()) {
      Leave(topic, &topic->places[i]);
    }
  }
}

// The place goes when the node confirms, or at once if there is nothing to end.
void Subscriptions::Leave(Topic* topic, Topic::Place* place) {
  if (place->state == State::kLeaving) return;
  SubscriberLink* const link = place->link;
  if (place->state != State::kUnsent && link->open()) {
    place->number = link->Unsubscribe(topic->kind, topic->name);
    place->state = State::kLeaving;
    return;
  }
  SetCounted(topic, place, false);
  TopicsById& topics = TopicsAt(link);
  topics.erase(topic->id);
  if (topics.empty()) link->OnUnused();
  topic->places.erase(topic->places.begin() + (place - topic->places.data()));
  if (topic->home != link) return;
  if (topic->move != nullptr) return EndMove(topic);
  topic->home = nullptr;
}

void Subscriptions::DropPlaces(Topic* topic) {
  topic->ready = false;
  topic->move.reset();
  topic->given.reset();
  topic->home = nullptr;
  for (size_t i = topic->places.size(); i-- > 0;) Leave(topic, &topic->places[i]);
  DeleteIfGone(topic);
}

void Subscriptions::DeleteIfGone(Topic* topic) {
  if (topic->used() || !topic->places.empty()) return;
  if (topic->attended) {
    attended_.erase(std::remove(attended_.begin(), attended_.end(), topic), attended_.end());
  }
  worker_->stats()->subscribed_topics.Sub(1);
  topics_[static_cast<size_t>(topic->kind)].erase(std::string(topic->name));
  for (const Topics& topics : topics_) {
    if (!topics.empty()) return;
  }
  ReleaseArenas();
}

// An idle worker holds no memory.
void Subscriptions::ReleaseArenas() {
  push_arena_.Release();
  array_arena_.Release();
}

void Subscriptions::SetCounted(Topic* topic, Topic::Place* place, bool counted) {
  if (place->counted == counted) return;
  place->counted = counted;
  table_->AddPlace(topic->kind, topic->name, place->link->node_id(), counted ? 1 : -1);
}

// --- from one home to the next

void Topic::Given::Note(const SubscriberLink* by, absl::Time at, const io::Rope& frame) {
  if (entries_.size() < kGivenMax) entries_.insert({HashOf(frame), {at, by}});
}

bool Topic::Given::Take(const SubscriberLink* by, absl::Time at, const io::Rope& frame) {
  const auto [begin, end] = entries_.equal_range(HashOf(frame));
  auto nearest = end;
  absl::Duration least = kBetweenNodes;
  for (auto it = begin; it != end; ++it) {
    const absl::Duration between = absl::AbsDuration(it->second.at - at);
    if (it->second.by == by || between > least) continue;
    least = between;
    nearest = it;
  }
  if (nearest == end) return false;
  entries_.erase(nearest);
  return true;
}

void Subscriptions::BeginMove(Topic* topic, SubscriberLink* to) {
  if (topic->move != nullptr && topic->move->to == to) return;
  if (topic->move != nullptr) EndMove(topic);
  if (topic->home == nullptr) return;
  topic->move = std::make_unique<Topic::Move>();
  topic->move->to = to;
  topic->move->ask_at = worker_->now();
  // The nodes of two shards do not pass these on to each other.
  if (topic->kind == TopicKind::kShardChannel) return;
  topic->move->ask_at += kBetweenNodes;
  if (topic->given == nullptr) topic->given = std::make_unique<Topic::Given>();
  topic->given->until = absl::InfiniteFuture();
}

void Subscriptions::MoveOn(Topic* topic) {
  if (PlaceAt(topic, topic->move->to)->state != State::kConfirmed) return;
  Topic::Place* const old = PlaceAt(topic, topic->home);
  if (old == nullptr || !topic->home->open()) return EndMove(topic);
  absl::Time& leave_at = topic->move->leave_at;
  if (leave_at == absl::InfiniteFuture()) leave_at = worker_->now() + kBetweenNodes;
  if (worker_->now() < leave_at) return Attend(topic, leave_at);
  Leave(topic, old);  // it has sent its last when it confirms that
}

// Nothing more comes from the old home, or another one is wanted.
void Subscriptions::EndMove(Topic* topic) {
  const std::unique_ptr<Topic::Move> move = std::move(topic->move);
  if (topic->given != nullptr) {
    topic->given->until = worker_->now() + kBetweenNodes;
    Attend(topic, topic->given->until);
  }
  const Topic::Place* const next = PlaceAt(topic, move->to);
  const bool confirmed = next != nullptr && next->state == State::kConfirmed;
  const Topic::Place* const old = PlaceAt(topic, topic->home);
  const bool old_stays = old != nullptr && old->state == State::kConfirmed;
  if (!confirmed && old_stays) return;
  topic->home = confirmed ? move->to : nullptr;
  if (!confirmed) topic->ready = false;
  for (const Topic::Move::Held& message : move->held) {
    GiveOn(topic, move->to, message.at, message.frame);
  }
}

// Unless it was given on already.
void Subscriptions::GiveOn(Topic* topic, const SubscriberLink* by, absl::Time at,
                           const io::Rope& frame) {
  if (topic->given != nullptr) {
    if (topic->given->Take(by, at, frame)) return;
    topic->given->Note(by, at, frame);
  }
  Deliver(*topic, frame);
}

// --- what happens to links

void Subscriptions::OnLinkOpen(SubscriberLink* link) {
  // A copy: refused topics may go.
  std::vector<Topic*> topics;
  for (const auto& [id, topic] : TopicsAt(link)) topics.push_back(topic);
  for (Topic* topic : topics) Settle(topic);
}

void Subscriptions::OnLinkLost(SubscriberLink* link) {
  std::vector<Topic*> topics;
  for (const auto& [id, topic] : TopicsAt(link)) topics.push_back(topic);
  for (Topic* topic : topics) {
    Topic::Place* const place = PlaceAt(topic, link);
    SetCounted(topic, place, false);
    const bool leaving = place->state == State::kLeaving;
    place->state = State::kUnsent;
    if (topic->home == link) {
      if (topic->move != nullptr) {
        EndMove(topic);
      } else {
        topic->home = nullptr;
        topic->ready = false;
      }
    }
    if (leaving) Leave(topic, PlaceAt(topic, link));
    if (topic->used()) worker_->stats()->subscriptions_lost.Add(1);
    Settle(topic);
  }
}

void Subscriptions::OnConfirmed(SubscriberLink* link, TopicKind kind, absl::string_view name,
                                uint64_t number, bool subscribed) {
  Topic* const topic = FindExisting(kind, name);
  if (topic == nullptr) return;
  Topic::Place* const place = PlaceAt(topic, link);
  if (place == nullptr) return;
  SetCounted(topic, place, subscribed);
  if (place->number != number) return;  // asked for something else since
  if (subscribed) {
    place->state = State::kConfirmed;
    return Settle(topic);
  }
  place->state = State::kUnsent;
  Leave(topic, place);
  if (topic->used()) return Settle(topic);
  DeleteIfGone(topic);
}

void Subscriptions::OnRefused(SubscriberLink* link, TopicKind kind, absl::string_view name,
                              uint64_t number, bool subscribing, absl::string_view line) {
  // A node that does not serve the channel any more has nothing to end.
  if (!subscribing) return OnConfirmed(link, kind, name, number, false);
  Topic* const topic = FindExisting(kind, name);
  if (topic == nullptr) return;
  Topic::Place* const place = PlaceAt(topic, link);
  if (place == nullptr || place->number != number) return;
  place->state = State::kUnsent;
  const cluster::ErrorReply error = cluster::ParseErrorReply(line);
  switch (error.kind) {
    case cluster::ErrorKind::kMoved: {
      worker_->stats()->moved.Add(1);
      const cluster::Topology& topology = *worker_->cluster()->topology;
      const NodeBackends* const from = worker_->backends()->FindById(link->node_id());
      const std::string host =
          error.host.empty() && from != nullptr ? from->address.host : std::string(error.host);
      const cluster::NodeIndex index = topology.FindByAddress(host, error.port);
      topic->moved_to.clear();
      if (index != cluster::kNoNode && topology.node(index).id != link->node_id()) {
        topic->moved_to = topology.node(index).id;
      }
      worker_->HintRefresh(link->node_id());
      return RetryLater(topic);
    }
    case cluster::ErrorKind::kOther:
    case cluster::ErrorKind::kReadOnly:
    case cluster::ErrorKind::kMalformed:
      break;
    default:
      worker_->HintRefresh("");
      return RetryLater(topic);
  }
  // Nothing that passes. Those who are subscribed already stay so: the right may come back.
  worker_->log()->WarnEvery(
      "subscribe", absl::StrCat("a node refuses a subscription: ", line.substr(0, line.find(' '))));
  const std::string text(line);
  for (const Topic::Waiter& waiter : std::exchange(topic->waiters, {})) {
    Client* const client = worker_->FindClient(waiter.client_index, waiter.client_generation);
    if (client != nullptr) client->OnTopicRefused(waiter.command, text);
  }
  if (topic->used()) return RetryLater(topic);
  DropPlaces(topic);
}

void Subscriptions::OnDropped(SubscriberLink* link, TopicKind kind, absl::string_view name) {
  Topic* const topic = FindExisting(kind, name);
  if (topic == nullptr) return;
  Topic::Place* const place = PlaceAt(topic, link);
  if (place == nullptr || place->state != State::kConfirmed) return;
  SetCounted(topic, place, false);
  place->state = State::kUnsent;
  Leave(topic, place);
  worker_->HintRefresh(link->node_id());
  Settle(topic);
}

void Subscriptions::BecomeReady(Topic* topic) {
  topic->ready = true;
  for (const Topic::Waiter& waiter : std::exchange(topic->waiters, {})) {
    Client* const client = worker_->FindClient(waiter.client_index, waiter.client_generation);
    if (client != nullptr) client->OnTopicReady(waiter.command);
  }
  if (!topic->used()) Settle(topic);
}

// --- time

void Subscriptions::RetryLater(Topic* topic) {
  topic->backoff = std::clamp(topic->backoff * 2, kBackoffMin, kBackoffMax);
  topic->retry_at = worker_->now() + worker_->Jitter(topic->backoff);
  Attend(topic, topic->retry_at);
}

void Subscriptions::Attend(Topic* topic, absl::Time when) {
  if (!topic->attended) {
    topic->attended = true;
    topic->attend_at = absl::InfiniteFuture();
    attended_.push_back(topic);
  }
  topic->attend_at = std::min(topic->attend_at, when);
  when = std::max(when, attended_at_ + kBetweenAttending);
  if (!attend_timer_.armed() || when < attend_timer_.when()) attend_timer_.Set(when);
}

void Subscriptions::AttendDue() {
  const absl::Time now = attended_at_ = worker_->now();
  std::vector<Topic*> due;
  absl::Time next = absl::InfiniteFuture();
  size_t kept = 0;
  for (Topic* topic : attended_) {
    if (topic->attend_at <= now) {
      topic->attended = false;
      due.push_back(topic);
    } else {
      next = std::min(next, topic->attend_at);
      attended_[kept++] = topic;
    }
  }
  attended_.resize(kept);
  if (kept > 0) attend_timer_.Set(std::max(next, now + kBetweenAttending));
  for (Topic* topic : due) Settle(topic);
}

void Subscriptions::OnTopology() {
  links_.ForEach([](SubscriberLink* link) { link->OnTopology(); });
  std::vector<Topic*> all;
  for (Topics& topics : topics_) {
    for (const auto& [name, topic] : topics) {
      topic->moved_to.clear();
      all.push_back(topic.get());
    }
  }
  for (Topic* topic : all) Settle(topic);
}

// --- messages

void Subscriptions::OnPublished(SubscriberLink* link, TopicKind kind, absl::string_view name,
                                absl::string_view channel, const io::Rope& frame) {
  Topic* const topic = FindExisting(kind, name);
  if (topic == nullptr || topic->subscribers.empty()) return;
  if (link == topic->home) {
    return GiveOn(topic, link, worker_->now(), frame);
  }
  if (topic->everywhere) {
    if (IsKeyEvent(channel)) Deliver(*topic, frame);
    return;
  }
  if (topic->move == nullptr || topic->move->to != link) return;
  topic->move->held.push_back({worker_->now(), io::Rope(io::CopyToHeap(frame.Flatten()))});
  topic->move->held_bytes += frame.size();
  // However long the old home takes: what comes from it now is late.
  if (topic->move->held_bytes <= kHeldBytesMax) return;
  Topic::Place* const old = PlaceAt(topic, topic->home);
  if (old != nullptr && old->state == State::kConfirmed) Leave(topic, old);
  EndMove(topic);
}

// The message as clients get it: its first byte differs between the protocols.
io::Rope Subscriptions::CopyForMany(const io::Rope& frame, char type, io::Arena* arena) {
  worker_->stats()->payload_bytes_copied.Add(frame.size());
  if (frame.size() <= kCopyMessageBytes) {
    char* const begin = arena->Reserve(frame.size());
    char* out = begin;
    for (const io::Slice& slice : frame.slices()) {
      memcpy(out, slice.data(), slice.size());
      out += slice.size();
    }
    *begin = type;
    return io::Rope(arena->Commit(frame.size()));
  }
  std::string text = frame.Flatten();
  text[0] = type;
  return io::Rope(io::CopyToHeap(text));
}

void Subscriptions::Deliver(const Topic& topic, const io::Rope& frame) {
  io::Rope push, array;
  for (Client* client : topic.subscribers) {
    const bool resp3 = client->protocol() == resp::Protocol::kResp3;
    io::Rope& message = resp3 ? push : array;
    if (message.empty()) {
      message =
          resp3 ? CopyForMany(frame, '>', &push_arena_) : CopyForMany(frame, '*', &array_arena_);
    }
    client->OnPublished(message);
  }
  WorkerStats* const stats = worker_->stats();
  stats->messages_received.Add(1);
  stats->messages_delivered.Add(topic.subscribers.size());
  stats->payload_bytes_forwarded.Add(frame.size() * topic.subscribers.size());
}

// --- the end

void Subscriptions::Close() {
  if (closed_) return;
  closed_ = true;
  attend_timer_.Stop();
  ReleaseArenas();
  links_.ForEach([](SubscriberLink* link) { link->Stop(); });
}

}  // namespace proxy
