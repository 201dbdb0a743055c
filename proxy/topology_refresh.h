#pragma once

// File: proxy/topology_refresh.h
//
// When to ask for the cluster's topology, whom, and whether to believe it. Runs on the control
// thread; the workers get what it publishes as an immutable snapshot.
//
// One refresh at a time. It asks one node after another (up to three nodes that redirections came
// from first, then learned nodes and configured startup nodes in turn, names resolved anew) until
// one gives a valid view; when nodes are slow or fail, up to three at once. A view with less
// coverage or older epochs than the current one is taken only if a second node says the same and
// the owners of what is older, as the current view has them, give way: they say so themselves, or
// have been away for a while in which no view was taken over. At most five refreshes a second;
// without demand, one every 10 s ± 20 %, earlier while some node has not told of its commands, and
// never two within --slots-reload-interval unless somebody waits for it or the last one failed.

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "cluster/topology.h"
#include "io/ring.h"
#include "io/timers.h"
#include "proxy/control_context.h"
#include "proxy/learned_commands.h"
#include "proxy/messages.h"
#include "proxy/node_query.h"
#include "proxy/resolver.h"

namespace proxy {

class TopologyRefresh {
 public:
  struct Environment : ControlContext {
    Resolver* resolver = nullptr;
    uint64_t random_seed = 1;
    // A new state for all workers.
    std::function<void(std::shared_ptr<const ClusterState>)> publish = nullptr;
    // The answer to all asks of one worker up to a number.
    std::function<void(uint32_t worker, RefreshResult)> answer = nullptr;
  };

  // Destroyed when idle(), or when its ring makes no more turns.
  explicit TopologyRefresh(Environment environment);
  TopologyRefresh(const TopologyRefresh&) = delete;
  TopologyRefresh& operator=(const TopologyRefresh&) = delete;

  // Begins the first refresh.
  void Start();
  // A worker waits for a view begun from now on. Its asks are answered in their order. Those that
  // name a node are answered by a refresh that asked this node first; a refresh serves up to three
  // such nodes, those that were asked for longest.
  void OnAsk(RefreshAsk ask);
  // The resolver has results.
  void OnResolved();
  // Completions of party kRefresh.
  void OnCompletion(io::Completion* completion);
  // No more refreshes and no more answers; done when idle().
  void Stop();
  bool idle() const;

 private:
  using TopologyPtr = std::shared_ptr<const cluster::Topology>;

  // A node to ask.
  struct Candidate {
    io::Endpoint endpoint;
    cluster::NodeAddress asked;  // stands in for an empty host in its view
    std::string id;              // of the node that should be there; empty: not known
  };
  // The next to be asked has the smallest: those that can give a second opinion; then by the time
  // of the last failure; then as they come.
  using CandidateOrder = std::tuple<bool, absl::Time, uint64_t>;

  struct Query {
    Query(io::Ring* ring, io::Timers* timers, uint32_t index);
    NodeQuery conversation;
    Candidate candidate;
    bool running = false;  // its result is awaited
    absl::Time begin;
  };

  // What a node says.
  struct Opinion {
    TopologyPtr view;
    absl::optional<ServerInfo> server;
    std::string node;  // its id; if it does not say, its address
  };

  // A worker's ask that is not answered yet.
  struct Ask {
    uint64_t sequence = 0;
    std::string first_node_id;
    uint64_t arrival = 0;  // over all workers
    uint64_t after = 0;    // refreshes that had begun when it came
    bool served = false;   // has its view, waits for earlier ones of its worker
    TopologyPtr view;
  };

  // A host name of the configuration or of the topology.
  struct Name {
    std::vector<io::Endpoint> addresses;  // the last good ones
    bool asking = false;
    absl::Time asked_at = absl::InfinitePast();
    absl::Time used_at = absl::InfinitePast();
  };

  // A node that somebody named.
  struct Named {
    std::string id;
    Query* query = nullptr;  // while it is running
    TopologyPtr view;        // its own
  };

  // The refresh that runs.
  struct Run {
    uint64_t number = 0;
    absl::Time begin;
    std::vector<Named> named;                        // asked first
    std::map<CandidateOrder, Candidate> candidates;  // not asked yet
    std::set<std::string> known;                     // addresses that are or were candidates
    std::vector<cluster::NodeAddress> names;         // startup nodes without addresses so far
    uint64_t opinion_candidates = 0;
    bool names_wanted = false;
    size_t failures = 0;
    std::string last_failure;
    std::set<std::string> away;     // ids of nodes that are not where they should be
    std::vector<Opinion> doubtful;  // worse than the current view, and alone so far
    absl::optional<Opinion> accepted;
    absl::Time accepted_at;
  };

  absl::Time now() const { return *env_.now; }
  static void BeginTimerFired(void* self);
  static void RunTimerFired(void* self);

  // --- when
  void Schedule();
  absl::Time NextBegin() const;
  bool AnyAsk() const;
  std::vector<std::string> NamedNodes() const;
  bool Complete() const;

  // --- whom
  void Begin();
  void AddLearned();
  void AddStartup();
  void AddNamed();
  void WantNames();
  bool AddCandidate(bool second_opinion, uint64_t order, const Candidate& candidate);
  void AddForSecondOpinion(const Opinion& opinion);
  void AddOwners(const Opinion& opinion);
  bool AwaitsNamed() const;
  void Advance();
  void AdvanceOnce();
  void StartQueries();
  size_t QueriesRunning() const;
  size_t QueriesAllowed() const;
  Query* IdleQuery();
  void StartQuery(Query* query, const Candidate& candidate);
  void OnReplies(Query* query, absl::StatusOr<std::vector<std::string>> replies);
  void NoteOwner(const Query& query, bool there);
  void CancelQueries();
  void SetRunTimer();
  bool NamesOutstanding() const;

  // --- whether to believe it
  static absl::StatusOr<Opinion> ReadReplies(const std::vector<std::string>& replies,
                                             const Candidate& candidate);
  void OnOpinion(Opinion opinion);
  bool IsConfirmed(const Opinion& opinion) const;
  bool OwnersGiveWay(const Opinion& opinion) const;
  void AcceptConfirmed();
  void AcceptLoneVoice();
  void Accept(Opinion opinion);
  void TakeServerInfo(const Opinion& opinion);
  bool WantsCommands(const Candidate& candidate) const;
  bool AnyCommandsWanted() const;
  void LearnCommands(const Opinion& opinion, const std::vector<std::string>& replies);
  void EndRun();
  void TellFailure(const Run& run);
  std::vector<std::pair<uint32_t, RefreshResult>> AnswersOf(const Run& run);

  // --- names and publishing
  void AskName(absl::string_view name);
  void ForgetNames();
  absl::optional<io::Endpoint> EndpointOf(const cluster::Node& node);
  bool PendingNamesOutstanding();
  void PublishPending();
  void Publish(TopologyPtr topology, std::vector<absl::optional<io::Endpoint>> endpoints);
  void FollowNames();
  void TellPublished(const ClusterState* before, const ClusterState& state);

  const Environment env_;
  std::mt19937_64 random_;
  bool started_ = false;
  bool stopped_ = false;

  std::vector<std::unique_ptr<Query>> queries_;  // by index; reused when idle
  std::map<std::string, absl::Time> failed_at_;  // by address: nodes whose last query failed
  // By id: nodes that were not where they should be. Since a view was taken over last: until the
  // next one is, refreshes follow each other closely.
  std::map<std::string, absl::Time> away_since_;
  std::map<std::string, Name, std::less<>> names_;

  std::unique_ptr<Run> run_;  // null: none is running
  bool advancing_ = false;    // Advance is on the stack
  bool advance_again_ = false;
  uint64_t begun_ = 0;  // refreshes
  absl::Time last_begin_ = absl::InfinitePast();
  absl::Duration retry_delay_ = absl::ZeroDuration();
  absl::Time due_;         // the next refresh that nobody asks for
  io::Timer begin_timer_;  // the next refresh
  io::Timer run_timer_;    // the running one has to look at the clock

  std::vector<std::deque<Ask>> asks_;  // by worker, ascending
  uint64_t asks_arrived_ = 0;

  std::shared_ptr<const ClusterState> published_;  // null: none yet
  TopologyPtr known_;    // what new views are measured against; routes as published_ or pending_
  TopologyPtr pending_;  // accepted, waits for the addresses of its names
  ServerInfo server_;
  CommandLearner learner_;
  absl::optional<ServerInfo> new_server_;  // one node says so; a second has to
  std::string new_server_node_;
  bool failure_told_ = false;
};

}  // namespace proxy
