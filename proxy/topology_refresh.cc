#include "proxy/topology_refresh.h"

#include <algorithm>
#include <utility>

#include "absl/base/macros.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cluster/slot.h"
#include "proxy/server_info.h"
#include "resp/encoder.h"
#include "resp/views.h"

namespace proxy {
namespace {

// When (L12).
constexpr absl::Duration kBetweenBeginsMin = absl::Milliseconds(200);
constexpr absl::Duration kPeriod = absl::Seconds(10);  // ± 20 %
constexpr absl::Duration kRetryMin = absl::Milliseconds(100);
constexpr absl::Duration kRetryMax = absl::Seconds(1);
// A refresh ends within it, whatever nodes and resolver do. Nodes that it didn't come to are asked
// by the next one: those that failed go last.
constexpr absl::Duration kRunMax = absl::Seconds(3);
// When another node's view is there, the one that was to be asked first gets no more time than
// this.
constexpr absl::Duration kFirstNodePatience = absl::Milliseconds(500);

// Whom.
constexpr size_t kParallelMax = 3;
constexpr absl::Duration kHedge = absl::Milliseconds(50);  // then one more node is asked
constexpr size_t kLargeViewBytes = 256 << 10;
// Queries that close count too.
constexpr size_t kQueriesMax = 16;
constexpr absl::Duration kFailureRemembered = absl::Seconds(60);
// A slot's owner that was away for so long has no say any more. Of many, a few are asked.
constexpr absl::Duration kOwnerAwayMin = absl::Seconds(1);
constexpr size_t kOwnersMax = 16;
// A node that says nothing for so long is not the one to ask.
constexpr absl::Duration kQueryReplyTimeoutMax = absl::Seconds(2);

// Names.
constexpr absl::Duration kResolveMax = absl::Seconds(2);
constexpr absl::Duration kNameFresh = absl::Seconds(1);  // not asked for again within it
constexpr absl::Duration kNameKept = absl::Seconds(600);

std::string Command(std::initializer_list<absl::string_view> args) {
  std::string text;
  resp::AppendCommand(args, &text);
  return text;
}

const std::vector<std::string>& Commands() {
  static const auto* const commands = new std::vector<std::string>{
      Command({"CLUSTER", "NODES"}), Command({"INFO", "server"}), Command({"INFO", "memory"})};
  return *commands;
}

bool IsLiteral(absl::string_view host) { return io::Endpoint::FromIp(host, 0).ok(); }

// The address part of an endpoint, without brackets.
std::string HostOf(const io::Endpoint& endpoint) {
  const auto parts = io::ParseHostPort(endpoint.ToString());
  return parts.ok() ? parts->host : std::string();
}

bool SameServer(const ServerInfo& a, const ServerInfo& b) {
  return a.valkey == b.valkey && a.version == b.version &&
         a.compatible_redis_version == b.compatible_redis_version &&
         a.maxmemory_policy == b.maxmemory_policy;
}

// Owners by `known` of what is older in `view`; the first few.
std::vector<cluster::NodeIndex> OwnersOfOlder(const cluster::Topology& view,
                                              const cluster::Topology& known) {
  std::vector<cluster::NodeIndex> owners;
  // Neighbours mostly share their shard in both, so few pairs need more than a look.
  const cluster::Shard* view_shard = nullptr;
  const cluster::Shard* known_shard = nullptr;
  for (int slot = 0; slot < cluster::kSlotCount && owners.size() < kOwnersMax; ++slot) {
    const auto number = static_cast<cluster::Slot>(slot);
    if (view.ShardFor(number) == view_shard && known.ShardFor(number) == known_shard) continue;
    view_shard = view.ShardFor(number);
    known_shard = known.ShardFor(number);
    if (view.EpochOf(number) >= known.EpochOf(number)) continue;
    const cluster::NodeIndex owner = known_shard->primary;
    if (std::find(owners.begin(), owners.end(), owner) == owners.end()) owners.push_back(owner);
  }
  return owners;
}

// Whether `view` knows less than `known` in some respect: it may be an old one.
bool IsWorse(const cluster::Topology& view, const cluster::Topology& known) {
  return view.covered_slots() < known.covered_slots() ||
         view.max_config_epoch() < known.max_config_epoch() || !OwnersOfOlder(view, known).empty();
}

// Whether the node still says of some slot that it owns it, newer than `view` has it.
bool Insists(const cluster::Topology& own, absl::string_view id, const cluster::Topology& view) {
  for (int slot = 0; slot < cluster::kSlotCount; ++slot) {
    const auto number = static_cast<cluster::Slot>(slot);
    const cluster::Shard* const shard = own.ShardFor(number);
    if (shard != nullptr && own.node(shard->primary).id == id &&
        own.EpochOf(number) > view.EpochOf(number)) {
      return true;
    }
  }
  return false;
}

std::string DescribeTopology(const cluster::Topology& topology) {
  return absl::StrCat(topology.nodes().size(), " nodes, ", topology.shards().size(), " shards, ",
                      topology.covered_slots(), "/", cluster::kSlotCount, " slots");
}

}  // namespace

TopologyRefresh::Query::Query(io::Ring* ring, io::Timers* timers, uint32_t index)
    : conversation(ring, timers, static_cast<uint8_t>(Party::kRefresh), index) {}

TopologyRefresh::TopologyRefresh(Environment environment)
    : env_(std::move(environment)),
      random_(env_.random_seed),
      begin_timer_(env_.timers, &TopologyRefresh::BeginTimerFired, this),
      run_timer_(env_.timers, &TopologyRefresh::RunTimerFired, this) {}

void TopologyRefresh::Start() {
  started_ = true;
  due_ = now();
  Schedule();
}

void TopologyRefresh::OnAsk(RefreshAsk ask) {
  if (stopped_) return;
  if (asks_.size() <= ask.worker) asks_.resize(ask.worker + 1);
  std::deque<Ask>& asks = asks_[ask.worker];
  ++asks_arrived_;
  // One entry for asks in a row that the same refresh will serve.
  if (!asks.empty() && !asks.back().served && asks.back().after == begun_ &&
      asks.back().first_node_id == ask.first_node_id) {
    asks.back().sequence = ask.sequence;
  } else {
    Ask& entry = asks.emplace_back();
    entry.sequence = ask.sequence;
    entry.first_node_id = std::move(ask.first_node_id);
    entry.arrival = asks_arrived_;
    entry.after = begun_;
  }
  // Not at once: the others that ask in this turn shall have a part in it.
  if (started_ && run_ == nullptr && !advancing_) begin_timer_.Set(std::max(NextBegin(), now()));
}

void TopologyRefresh::OnCompletion(io::Completion* completion) {
  const uint32_t index = completion->token.index();
  if (index >= queries_.size()) return;
  queries_[index]->conversation.OnCompletion(now(), completion);
  Advance();  // a query that has closed can be used again
}

void TopologyRefresh::Stop() {
  stopped_ = true;
  run_.reset();
  CancelQueries();
  begin_timer_.Stop();
  run_timer_.Stop();
  asks_.clear();
}

bool TopologyRefresh::idle() const {
  return run_ == nullptr &&
         std::all_of(queries_.begin(), queries_.end(), [](const std::unique_ptr<Query>& query) {
           return query->conversation.idle();
         });
}

// --- when

void TopologyRefresh::BeginTimerFired(void* self) {
  static_cast<TopologyRefresh*>(self)->Schedule();
}

void TopologyRefresh::RunTimerFired(void* self) { static_cast<TopologyRefresh*>(self)->Advance(); }

// Begins the next refresh, or sets the timer for it.
void TopologyRefresh::Schedule() {
  // While Advance is on the stack: it calls this at its end.
  if (!started_ || stopped_ || run_ != nullptr || advancing_) return;
  const absl::Time begin = NextBegin();
  if (begin > now()) return begin_timer_.Set(begin);
  begin_timer_.Stop();
  Begin();
}

absl::Time TopologyRefresh::NextBegin() const {
  const absl::Time wanted = AnyAsk() ? now() : due_;
  return std::max(wanted, last_begin_ + kBetweenBeginsMin);
}

bool TopologyRefresh::AnyAsk() const {
  return std::any_of(asks_.begin(), asks_.end(), [](const std::deque<Ask>& asks) {
    return std::any_of(asks.begin(), asks.end(), [](const Ask& ask) { return !ask.served; });
  });
}

// Ids of the nodes that asks name, those that wait longest first; so many as are asked at a time.
std::vector<std::string> TopologyRefresh::NamedNodes() const {
  std::vector<const Ask*> waiting;
  for (const std::deque<Ask>& asks : asks_) {
    for (const Ask& ask : asks) {
      if (!ask.served && !ask.first_node_id.empty()) waiting.push_back(&ask);
    }
  }
  std::sort(waiting.begin(), waiting.end(),
            [](const Ask* a, const Ask* b) { return a->arrival < b->arrival; });
  std::vector<std::string> ids;
  for (const Ask* ask : waiting) {
    if (std::find(ids.begin(), ids.end(), ask->first_node_id) != ids.end()) continue;
    ids.push_back(ask->first_node_id);
    if (ids.size() == kParallelMax) break;
  }
  return ids;
}

// Nothing is missing from what the workers have, and no change is to be expected.
bool TopologyRefresh::Complete() const {
  if (published_ == nullptr) return false;
  const cluster::Topology& topology = *published_->topology;
  if (topology.covered_slots() < cluster::kSlotCount) return false;
  for (size_t i = 0; i < topology.nodes().size(); ++i) {
    if (topology.nodes()[i].usable() && !published_->endpoints[i].has_value()) return false;
  }
  for (const cluster::Shard& shard : topology.shards()) {
    if (topology.node(shard.primary).failed) return false;
  }
  return true;
}

// --- whom

void TopologyRefresh::Begin() {
  env_.stats->refreshes.Add(1);
  last_begin_ = now();
  run_ = std::make_unique<Run>();
  run_->number = ++begun_;
  run_->begin = now();
  for (std::string& id : NamedNodes()) {
    run_->named.emplace_back().id = std::move(id);
  }
  for (auto it = failed_at_.begin(); it != failed_at_.end();) {
    it = it->second + kFailureRemembered < now() ? failed_at_.erase(it) : std::next(it);
  }
  for (auto it = away_since_.begin(); it != away_since_.end();) {
    const bool left = known_ == nullptr || known_->FindById(it->first) == cluster::kNoNode;
    it = left ? away_since_.erase(it) : std::next(it);
  }
  ForgetNames();
  if (published_ != nullptr) {
    for (const cluster::Node& node : published_->topology->nodes()) {
      if (node.usable() && !IsLiteral(node.address.host)) AskName(node.address.host);
    }
  }

  std::vector<absl::optional<Candidate>> first(run_->named.size());
  for (size_t i = 0; published_ != nullptr && i < run_->named.size(); ++i) {
    const std::string& id = run_->named[i].id;
    const cluster::NodeIndex index = published_->topology->FindById(id);
    if (index == cluster::kNoNode || !published_->endpoints[index].has_value()) continue;
    first[i] =
        Candidate{*published_->endpoints[index], published_->topology->node(index).address, id};
    run_->known.insert(first[i]->endpoint.ToString());
  }
  AddLearned();
  AddStartup();
  if (run_->candidates.empty()) WantNames();
  // Not before the run is set up: a query may fail at once.
  advancing_ = true;
  for (size_t i = 0; i < run_->named.size(); ++i) {
    Query* const query = first[i].has_value() ? IdleQuery() : nullptr;
    if (query == nullptr) continue;
    run_->named[i].query = query;
    StartQuery(query, *first[i]);
  }
  advancing_ = false;
  Advance();
}

// Learned nodes and startup nodes take turns: a cluster that has moved as a whole is found at once.
void TopologyRefresh::AddLearned() {
  if (published_ == nullptr) return;
  std::vector<Candidate> learned;
  for (size_t i = 0; i < published_->endpoints.size(); ++i) {
    if (!published_->endpoints[i].has_value()) continue;
    const cluster::Node& node = published_->topology->nodes()[i];
    learned.push_back({*published_->endpoints[i], node.address, node.id});
  }
  std::shuffle(learned.begin(), learned.end(), random_);
  // Those first that have not told of their commands yet: they may be new, or of another version.
  std::stable_partition(learned.begin(), learned.end(), [&](const Candidate& candidate) {
    return learner_.Wants(candidate.id, now());
  });
  std::stable_partition(learned.begin(), learned.end(), [&](const Candidate& candidate) {
    const cluster::Topology& topology = *published_->topology;
    const cluster::NodeIndex index =
        topology.FindByAddress(candidate.asked.host, candidate.asked.port);
    return index == cluster::kNoNode || !topology.node(index).failed;
  });
  for (size_t i = 0; i < learned.size(); ++i) AddCandidate(false, (2 * i) << 8, learned[i]);
}

void TopologyRefresh::AddStartup() {
  std::vector<cluster::NodeAddress> startup = env_.config->startup_nodes;
  std::shuffle(startup.begin(), startup.end(), random_);
  for (size_t i = 0; i < startup.size(); ++i) {
    const auto endpoint = io::Endpoint::FromIp(startup[i].host, startup[i].port);
    if (endpoint.ok()) {
      AddCandidate(false, (2 * i + 1) << 8, {*endpoint, {HostOf(*endpoint), startup[i].port}, ""});
    } else {
      run_->names.push_back(startup[i]);
    }
  }
}

// The first nodes that were asked give no answer: the startup nodes' names are needed.
void TopologyRefresh::WantNames() {
  if (run_->names_wanted) return;
  run_->names_wanted = true;
  for (const cluster::NodeAddress& startup : run_->names) AskName(startup.host);
}

// Adds the addresses of startup nodes whose names are resolved by now, or which will not be.
void TopologyRefresh::AddNamed() {
  if (!run_->names_wanted) return;
  std::vector<cluster::NodeAddress> waiting;
  for (size_t i = 0; i < run_->names.size(); ++i) {
    const cluster::NodeAddress& startup = run_->names[i];
    const Name& name = names_[startup.host];
    if (name.asking && now() < name.asked_at + kResolveMax) {
      waiting.push_back(startup);
      continue;
    }
    if (name.addresses.empty()) {
      run_->last_failure = absl::StrCat(EscapeForLog(startup.host), ": the name has no address");
    }
    for (size_t k = 0; k < name.addresses.size(); ++k) {
      Candidate candidate;
      candidate.endpoint = name.addresses[k];
      candidate.endpoint.set_port(startup.port);
      candidate.asked = {HostOf(candidate.endpoint), startup.port};
      AddCandidate(false, ((2 * i + 1) << 8) + 1 + k, candidate);
    }
  }
  run_->names = std::move(waiting);
}

bool TopologyRefresh::NamesOutstanding() const {
  return run_->names_wanted && !run_->names.empty();
}

// Each address is asked once in a refresh. False: it is known already.
bool TopologyRefresh::AddCandidate(bool second_opinion, uint64_t order,
                                   const Candidate& candidate) {
  const std::string address = candidate.endpoint.ToString();
  if (!run_->known.insert(address).second) return false;
  const auto failed = failed_at_.find(address);
  const absl::Time failed_at = failed == failed_at_.end() ? absl::InfinitePast() : failed->second;
  CandidateOrder key(!second_opinion, failed_at, order);
  while (!run_->candidates.emplace(key, candidate).second) ++std::get<2>(key);
  return true;
}

// The other nodes of a doubtful view: they may be the only ones that there are now.
void TopologyRefresh::AddForSecondOpinion(const Opinion& opinion) {
  WantNames();
  std::vector<Candidate> others;
  for (const cluster::Node& node : opinion.view->nodes()) {
    if (!node.usable() || node.failed || node.id == opinion.node) continue;
    const absl::optional<io::Endpoint> endpoint = EndpointOf(node);
    if (endpoint.has_value()) others.push_back({*endpoint, node.address, node.id});
  }
  std::shuffle(others.begin(), others.end(), random_);
  for (const Candidate& candidate : others) {
    AddCandidate(true, ++run_->opinion_candidates << 8, candidate);
  }
}

// Those whose word counts most.
void TopologyRefresh::AddOwners(const Opinion& opinion) {
  for (const cluster::NodeIndex owner : OwnersOfOlder(*opinion.view, *known_)) {
    const cluster::Node& node = known_->node(owner);
    const absl::optional<io::Endpoint> endpoint = EndpointOf(node);
    if (!endpoint.has_value()) continue;
    // Before those that are asked by chance.
    for (auto it = run_->candidates.begin(); it != run_->candidates.end(); ++it) {
      if (!(it->second.endpoint == *endpoint)) continue;
      run_->known.erase(endpoint->ToString());
      run_->candidates.erase(it);
      break;
    }
    AddCandidate(true, ++run_->opinion_candidates << 8, {*endpoint, node.address, node.id});
  }
}

bool TopologyRefresh::AwaitsNamed() const {
  return std::any_of(run_->named.begin(), run_->named.end(),
                     [](const Named& named) { return named.query != nullptr; });
}

// Goes on with the refresh that runs as far as that is possible now. Called after every event that
// may matter; calls from within are put off, so that there is no recursion.
void TopologyRefresh::Advance() {
  if (advancing_) {
    advance_again_ = true;
    return;
  }
  advancing_ = true;
  do {
    advance_again_ = false;
    if (run_ != nullptr) AdvanceOnce();
  } while (advance_again_);
  advancing_ = false;
  if (run_ == nullptr) Schedule();
}

void TopologyRefresh::AdvanceOnce() {
  const bool late = now() >= run_->begin + kRunMax;
  if (run_->accepted.has_value()) {
    if (pending_ != nullptr && (late || !PendingNamesOutstanding())) PublishPending();
    const bool await_named = AwaitsNamed() && now() < run_->begin + kFirstNodePatience && !late;
    if (pending_ == nullptr && !await_named) return EndRun();
    return SetRunTimer();
  }
  AddNamed();
  AcceptConfirmed();
  if (!late) StartQueries();
  const bool exhausted = QueriesRunning() == 0 && run_->candidates.empty() && !NamesOutstanding();
  if (exhausted) AcceptLoneVoice();
  if (run_->accepted.has_value()) {
    advance_again_ = true;
  } else if (late || exhausted) {
    EndRun();
  } else {
    SetRunTimer();
  }
}

void TopologyRefresh::StartQueries() {
  while (!run_->candidates.empty() && !run_->accepted.has_value() &&
         QueriesRunning() < QueriesAllowed()) {
    Query* query = IdleQuery();
    if (query == nullptr) return;  // until one has closed
    const Candidate candidate = run_->candidates.begin()->second;
    run_->candidates.erase(run_->candidates.begin());
    StartQuery(query, candidate);
  }
  // Slow, failing or in doubt.
  if (QueriesAllowed() > 1 || run_->candidates.empty()) WantNames();
  if (run_->candidates.empty()) AddNamed();
}

size_t TopologyRefresh::QueriesRunning() const {
  return static_cast<size_t>(
      std::count_if(queries_.begin(), queries_.end(),
                    [](const std::unique_ptr<Query>& query) { return query->running; }));
}

size_t TopologyRefresh::QueriesAllowed() const {
  // One that is on its way in takes time because it is large: three of them take memory, too.
  const bool large =
      std::any_of(queries_.begin(), queries_.end(), [](const std::unique_ptr<Query>& query) {
        return query->running && query->conversation.received_bytes() >= kLargeViewBytes;
      });
  const size_t hedges = large ? 0 : static_cast<size_t>((now() - run_->begin) / kHedge);
  return std::min(kParallelMax, 1 + hedges + run_->failures);
}

TopologyRefresh::Query* TopologyRefresh::IdleQuery() {
  for (const std::unique_ptr<Query>& query : queries_) {
    if (!query->running && query->conversation.idle()) return query.get();
  }
  if (queries_.size() == kQueriesMax) return nullptr;
  queries_.push_back(
      std::make_unique<Query>(env_.ring, env_.timers, static_cast<uint32_t>(queries_.size())));
  return queries_.back().get();
}

void TopologyRefresh::StartQuery(Query* query, const Candidate& candidate) {
  query->candidate = candidate;
  query->running = true;
  query->begin = now();
  NodeQuery::Options options;
  options.username = env_.config->backend_username;
  options.password = env_.config->backend_password;
  options.connect_timeout = env_.config->connect_timeout;
  options.reply_timeout = std::min(kQueryReplyTimeoutMax, env_.config->reply_timeout);
  std::vector<std::string> commands = Commands();
  if (WantsCommands(candidate)) commands.push_back(Command({"COMMAND"}));
  query->conversation.Start(now(), candidate.endpoint, options, commands,
                            [this, query](absl::StatusOr<std::vector<std::string>> replies) {
                              OnReplies(query, std::move(replies));
                            });
}

void TopologyRefresh::OnReplies(Query* query, absl::StatusOr<std::vector<std::string>> replies) {
  query->running = false;
  if (run_ == nullptr) return;
  Named* named = nullptr;
  for (Named& one : run_->named) {
    if (one.query == query) named = &one;
  }
  if (named != nullptr) named->query = nullptr;
  const std::string address = query->candidate.endpoint.ToString();
  absl::StatusOr<Opinion> opinion = replies.ok() ? ReadReplies(*replies, query->candidate)
                                                 : absl::StatusOr<Opinion>(replies.status());
  if (opinion.ok()) LearnCommands(*opinion, *replies);
  NoteOwner(*query, opinion.ok() && opinion->node == query->candidate.id);
  if (opinion.ok()) {
    failed_at_.erase(address);
    // A stranger at its address is not the node that was meant.
    if (named != nullptr && opinion->node == named->id) named->view = opinion->view;
    OnOpinion(*std::move(opinion));
  } else {
    ++run_->failures;
    run_->last_failure = absl::StrCat(address, ": ", opinion.status().message());
    if (env_.log->wants(LogLevel::kDebug)) {
      env_.log->Debug(absl::StrCat("no view of the cluster from ", run_->last_failure));
    }
    failed_at_[address] = now();
  }
  Advance();
}

// Whether the node that should be there was.
void TopologyRefresh::NoteOwner(const Query& query, bool there) {
  if (query.candidate.id.empty()) return;
  if (there) {
    away_since_.erase(query.candidate.id);
    run_->away.erase(query.candidate.id);
  } else {
    away_since_.emplace(query.candidate.id, query.begin);
    run_->away.insert(query.candidate.id);
  }
}

// All but those of the named nodes of the refresh that runs.
void TopologyRefresh::CancelQueries() {
  for (const std::unique_ptr<Query>& query : queries_) {
    if (run_ != nullptr &&
        std::any_of(run_->named.begin(), run_->named.end(),
                    [&](const Named& named) { return named.query == query.get(); })) {
      continue;
    }
    query->running = false;
    query->conversation.Cancel();
  }
}

void TopologyRefresh::SetRunTimer() {
  absl::Time next = run_->begin + kRunMax;
  const auto consider = [&](absl::Time when) {
    if (when > now()) next = std::min(next, when);
  };
  if (run_->accepted.has_value()) {
    consider(run_->begin + kFirstNodePatience);
    consider(run_->accepted_at + kResolveMax);
  } else {
    for (size_t i = 1; i < kParallelMax; ++i) consider(run_->begin + i * kHedge);
    for (const cluster::NodeAddress& startup : run_->names) {
      const auto name = names_.find(startup.host);
      if (name != names_.end() && name->second.asking) {
        consider(name->second.asked_at + kResolveMax);
      }
    }
  }
  run_timer_.Set(next);
}

// --- whether to believe it

absl::StatusOr<TopologyRefresh::Opinion> TopologyRefresh::ReadReplies(
    const std::vector<std::string>& replies, const Candidate& candidate) {
  ABSL_ASSERT(replies.size() >= Commands().size());
  absl::string_view text;
  if (!resp::ParseText(replies[0], &text)) {
    return absl::UnavailableError(absl::StrCat("CLUSTER NODES refused: ", ErrorWord(replies[0])));
  }
  absl::StatusOr<TopologyPtr> view = cluster::Topology::FromNodesReply(text, candidate.asked);
  if (!view.ok()) return view.status();
  Opinion opinion;
  opinion.view = *std::move(view);
  opinion.server = ReadServerInfo(replies[1]);
  absl::string_view memory;
  if (opinion.server.has_value() && resp::ParseText(replies[2], &memory)) {
    const std::string policy = InfoField(memory, "maxmemory_policy");
    if (!policy.empty()) opinion.server->maxmemory_policy = policy;
  }
  const cluster::NodeIndex source = opinion.view->source();
  opinion.node =
      source == cluster::kNoNode ? candidate.endpoint.ToString() : opinion.view->node(source).id;
  return opinion;
}

void TopologyRefresh::OnOpinion(Opinion opinion) {
  if (known_ == nullptr || opinion.view->SameRouting(*known_) || !IsWorse(*opinion.view, *known_)) {
    return Accept(std::move(opinion));
  }
  // After another view was taken over, only the node's own was still awaited.
  if (run_->accepted.has_value()) return;
  AddOwners(opinion);
  AddForSecondOpinion(opinion);
  run_->doubtful.push_back(std::move(opinion));
}

void TopologyRefresh::AcceptConfirmed() {
  for (const Opinion& opinion : run_->doubtful) {
    if (IsConfirmed(opinion) && OwnersGiveWay(opinion)) return Accept(opinion);
  }
}

// A few nodes that have not heard the news yet may well agree, and so do those that are cut off
// together: who has what is newer must not be there, or say so itself.
bool TopologyRefresh::OwnersGiveWay(const Opinion& opinion) const {
  for (const cluster::NodeIndex owner : OwnersOfOlder(*opinion.view, *known_)) {
    const std::string& id = known_->node(owner).id;
    const auto own = std::find_if(run_->doubtful.begin(), run_->doubtful.end(),
                                  [&](const Opinion& other) { return other.node == id; });
    if (own != run_->doubtful.end()) {
      if (Insists(*own->view, id, *opinion.view)) return false;
      continue;
    }
    const auto away = away_since_.find(id);
    if (away == away_since_.end() || now() < away->second + kOwnerAwayMin) return false;
    if (run_->away.count(id) == 0) return false;  // it may be back
  }
  return true;
}

bool TopologyRefresh::IsConfirmed(const Opinion& opinion) const {
  return std::any_of(run_->doubtful.begin(), run_->doubtful.end(), [&](const Opinion& other) {
    return other.node != opinion.node && other.view->SameRouting(*opinion.view);
  });
}

// Everybody was asked and one node has answered, which knows of no other that lives: nobody is left
// to give a second opinion. (A part that has lost the rest of its cluster does not look like this:
// without a majority it can't mark the rest as failed.)
void TopologyRefresh::AcceptLoneVoice() {
  if (run_->doubtful.size() != 1) return;
  const Opinion& opinion = run_->doubtful.front();
  for (const cluster::Node& node : opinion.view->nodes()) {
    if (node.id != opinion.node && node.usable() && !node.failed) return;
  }
  if (OwnersGiveWay(opinion)) Accept(opinion);
}

void TopologyRefresh::Accept(Opinion opinion) {
  CancelQueries();
  TakeServerInfo(opinion);
  if (known_ == nullptr || !opinion.view->SameRouting(*known_)) {
    known_ = pending_ = opinion.view;
    for (const cluster::Node& node : pending_->nodes()) {
      if (node.usable() && !IsLiteral(node.address.host)) AskName(node.address.host);
    }
  } else if (!IsWorse(*opinion.view, *known_)) {
    known_ = opinion.view;  // for its epochs
  }
  // What a node of it has just told of its commands.
  if (pending_ == nullptr && published_ != nullptr &&
      learner_.Of(*published_->topology) != published_->learned) {
    pending_ = published_->topology;
  }
  if (!run_->accepted.has_value()) run_->accepted_at = now();
  run_->accepted = std::move(opinion);
}

// One that is told of in no view yet may be of any version.
bool TopologyRefresh::WantsCommands(const Candidate& candidate) const {
  return candidate.id.empty() ? published_ == nullptr : learner_.Wants(candidate.id, now());
}

// Some node that can be asked has not told of its commands yet.
bool TopologyRefresh::AnyCommandsWanted() const {
  if (published_ == nullptr) return false;
  for (size_t i = 0; i < published_->endpoints.size(); ++i) {
    const cluster::Node& node = published_->topology->nodes()[i];
    const absl::optional<io::Endpoint>& endpoint = published_->endpoints[i];
    if (!node.usable() || node.failed || !endpoint.has_value()) continue;
    if (failed_at_.count(endpoint->ToString()) == 0 && learner_.Wants(node.id, now())) return true;
  }
  return false;
}

// Also of a view that is not taken over: only nodes of the one that is count in the end.
void TopologyRefresh::LearnCommands(const Opinion& opinion,
                                    const std::vector<std::string>& replies) {
  const std::string version = opinion.server.has_value() ? opinion.server->version : std::string();
  learner_.NoteVersion(opinion.node, version);
  if (replies.size() <= Commands().size()) return;
  learner_.Learn(opinion.node, version, replies.back(), now());
}

// While versions differ from node to node, those that are asked by chance must not make it change
// to and fro: two nodes have to say the same.
void TopologyRefresh::TakeServerInfo(const Opinion& opinion) {
  if (!opinion.server.has_value()) return;
  if (published_ == nullptr) {
    server_ = *opinion.server;
  } else if (SameServer(*opinion.server, server_)) {
    new_server_.reset();
  } else if (opinion.view->nodes().size() == 1 ||
             (new_server_.has_value() && SameServer(*new_server_, *opinion.server) &&
              new_server_node_ != opinion.node)) {
    server_ = *opinion.server;
    new_server_.reset();
    if (pending_ == nullptr) pending_ = published_->topology;
  } else {
    new_server_ = opinion.server;
    new_server_node_ = opinion.node;
  }
}

void TopologyRefresh::EndRun() {
  const std::unique_ptr<Run> run = std::move(run_);
  CancelQueries();
  run_timer_.Stop();
  if (run->accepted.has_value()) {
    // Who failed once, and was not asked again, is not away since then.
    away_since_.clear();
    retry_delay_ = absl::ZeroDuration();
    if (std::exchange(failure_told_, false)) {
      env_.log->Info(absl::StrCat("the cluster answers again: ", DescribeTopology(*known_)));
    }
    const auto jitter = static_cast<int64_t>(random_() % 401);  // per mille
    absl::Duration period = kPeriod * (800 + jitter) / 1000;
    if (!Complete() || AnyCommandsWanted()) period = absl::ZeroDuration();
    due_ = now() + std::max(period, env_.config->slots_reload_interval);
  } else {
    if (run->doubtful.empty()) {
      env_.stats->refresh_failures.Add(1);
    } else {
      env_.stats->topology_refused.Add(1);
    }
    TellFailure(*run);
    retry_delay_ = std::clamp(2 * retry_delay_, kRetryMin, kRetryMax);
    due_ = now() + retry_delay_;
  }
  for (auto& [worker, result] : AnswersOf(*run)) env_.answer(worker, std::move(result));
}

void TopologyRefresh::TellFailure(const Run& run) {
  if (!run.doubtful.empty()) {
    const Opinion& opinion = run.doubtful.front();
    return env_.log->WarnEvery(
        "view", absl::StrCat("a view of the cluster is not taken over: it is older than the "
                             "current one and no second node confirms it, or the slots' "
                             "owners object (from node ",
                             opinion.node, ": ", DescribeTopology(*opinion.view), ")"));
  }
  failure_told_ = true;
  env_.log->WarnEvery(
      "refresh",
      absl::StrCat("no node gives a view of the cluster",
                   run.last_failure.empty() ? "" : absl::StrCat("; last: ", run.last_failure)),
      Log::kLongInterval);
}

// Marks the asks that this refresh serves; returns the answers to those, and to earlier ones, that
// no unserved one precedes.
std::vector<std::pair<uint32_t, RefreshResult>> TopologyRefresh::AnswersOf(const Run& run) {
  TopologyPtr any;
  if (run.accepted.has_value()) any = run.accepted->view;
  if (any == nullptr && !run.doubtful.empty()) any = run.doubtful.front().view;
  std::vector<std::pair<uint32_t, RefreshResult>> answers;
  for (size_t worker = 0; worker < asks_.size(); ++worker) {
    std::deque<Ask>& asks = asks_[worker];
    for (Ask& ask : asks) {
      if (ask.served || ask.after >= run.number) continue;
      ask.view = any;
      if (!ask.first_node_id.empty()) {
        const auto named = std::find_if(run.named.begin(), run.named.end(), [&](const Named& one) {
          return one.id == ask.first_node_id;
        });
        if (named == run.named.end()) continue;
        if (named->view != nullptr) ask.view = named->view;
      }
      ask.served = true;
    }
    while (!asks.empty() && asks.front().served) {
      RefreshResult result{asks.front().sequence, std::move(asks.front().view)};
      asks.pop_front();
      if (!answers.empty() && answers.back().first == worker &&
          answers.back().second.view == result.view) {
        answers.back().second.sequence = result.sequence;
      } else {
        answers.emplace_back(static_cast<uint32_t>(worker), std::move(result));
      }
    }
  }
  return answers;
}

// --- names and publishing

// Asks for the name's addresses unless that was done just now.
void TopologyRefresh::AskName(absl::string_view text) {
  auto it = names_.find(text);
  if (it == names_.end()) it = names_.emplace(std::string(text), Name()).first;
  Name& name = it->second;
  name.used_at = now();
  if (!name.asking && name.asked_at + kNameFresh <= now()) {
    name.asking = true;
    name.asked_at = now();
    env_.resolver->Ask(text);
  }
}

void TopologyRefresh::ForgetNames() {
  for (auto it = names_.begin(); it != names_.end();) {
    const bool forget = !it->second.asking && it->second.used_at + kNameKept < now();
    it = forget ? names_.erase(it) : std::next(it);
  }
}

void TopologyRefresh::OnResolved() {
  Resolved result;
  while (env_.resolver->Take(&result)) {
    const auto it = names_.find(result.name);
    if (it == names_.end()) continue;
    it->second.asking = false;
    if (!result.addresses.empty()) {
      it->second.addresses = std::move(result.addresses);
    } else {
      env_.log->WarnEvery("resolve", absl::StrCat("cannot resolve ", EscapeForLog(result.name),
                                                  ": ", result.error));
    }
  }
  if (stopped_) return;
  FollowNames();
  Advance();
}

// None: the name has never been resolved. As long as a name still has the address in use, this
// one stays, whatever the order of the answer.
absl::optional<io::Endpoint> TopologyRefresh::EndpointOf(const cluster::Node& node) {
  if (!node.usable()) return absl::nullopt;
  if (const auto literal = io::Endpoint::FromIp(node.address.host, node.address.port);
      literal.ok()) {
    return *literal;
  }
  const auto name = names_.find(node.address.host);
  if (name == names_.end() || name->second.addresses.empty()) return absl::nullopt;
  std::vector<io::Endpoint> endpoints = name->second.addresses;
  for (io::Endpoint& endpoint : endpoints) endpoint.set_port(node.address.port);
  if (published_ != nullptr) {
    const cluster::NodeIndex index = published_->topology->FindById(node.id);
    if (index != cluster::kNoNode && published_->endpoints[index].has_value() &&
        std::find(endpoints.begin(), endpoints.end(), *published_->endpoints[index]) !=
            endpoints.end()) {
      return published_->endpoints[index];
    }
  }
  return endpoints.front();
}

// Some node of the view to be published has a name whose first addresses are still to come.
bool TopologyRefresh::PendingNamesOutstanding() {
  if (now() >= run_->accepted_at + kResolveMax) return false;
  return std::any_of(
      pending_->nodes().begin(), pending_->nodes().end(), [&](const cluster::Node& node) {
        if (!node.usable()) return false;
        const auto name = names_.find(node.address.host);
        return name != names_.end() && name->second.asking && name->second.addresses.empty();
      });
}

void TopologyRefresh::PublishPending() {
  std::vector<absl::optional<io::Endpoint>> endpoints;
  for (const cluster::Node& node : pending_->nodes()) endpoints.push_back(EndpointOf(node));
  Publish(std::exchange(pending_, nullptr), std::move(endpoints));
}

// A name of the published topology may have got another address.
void TopologyRefresh::FollowNames() {
  if (published_ == nullptr || pending_ != nullptr) return;
  std::vector<absl::optional<io::Endpoint>> endpoints;
  for (const cluster::Node& node : published_->topology->nodes()) {
    endpoints.push_back(EndpointOf(node));
  }
  if (endpoints != published_->endpoints) Publish(published_->topology, std::move(endpoints));
}

void TopologyRefresh::Publish(TopologyPtr topology,
                              std::vector<absl::optional<io::Endpoint>> endpoints) {
  auto state = std::make_shared<ClusterState>();
  state->topology = std::move(topology);
  state->endpoints = std::move(endpoints);
  state->server = server_;
  state->learned = learner_.Of(*state->topology);
  const std::shared_ptr<const ClusterState> before = std::exchange(published_, std::move(state));
  env_.stats->topology_published.Add(1);
  env_.stats->topology_ready.Set(1);
  env_.stats->cluster_nodes.Set(published_->topology->nodes().size());
  env_.stats->covered_slots.Set(static_cast<uint64_t>(published_->topology->covered_slots()));
  TellPublished(before.get(), *published_);
  env_.publish(published_);
}

void TopologyRefresh::TellPublished(const ClusterState* before, const ClusterState& state) {
  for (size_t i = 0; i < state.endpoints.size(); ++i) {
    const cluster::Node& node = state.topology->nodes()[i];
    if (!node.usable() || state.endpoints[i].has_value()) continue;
    env_.log->WarnEvery("node-name",
                        absl::StrCat("node ", node.id, " can't be reached: its name ",
                                     EscapeForLog(node.address.host), " has no address"));
  }
  if (before == nullptr) failure_told_ = false;
  env_.log->Info(absl::StrCat(before == nullptr ? "cluster found: " : "cluster changed: ",
                              DescribeTopology(*state.topology), ", ",
                              state.server.valkey ? "valkey " : "redis ", state.server.version));
}

}  // namespace proxy
