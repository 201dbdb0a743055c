#include "proxy/topology_refresh.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/proxy/control_part_test.h"
#include "tests/proxy/fake_node.h"

namespace proxy {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

// A node's id: forty times the letter.
std::string Id(char letter) { return std::string(40, letter); }

// One node as a view shows it.
struct Row {
  char letter;
  std::string address;  // "127.0.0.1:7000"
  std::string slots;    // "0-5460"; empty: none
  int epoch = 1;
  std::string flags = "master";
  char primary = 0;  // of a replica
};
using View = std::vector<Row>;

std::string NodesText(const View& view, char myself) {
  std::string text;
  for (const Row& row : view) {
    absl::StrAppend(&text, Id(row.letter), " ", row.address, "@17000 ",
                    row.letter == myself ? "myself," : "", row.flags, " ",
                    row.primary == 0 ? "-" : Id(row.primary), " 0 1426238317239 ", row.epoch,
                    " connected", row.slots.empty() ? "" : " ", row.slots, "\n");
  }
  return text;
}

// Answers from a table, when the test lets it.
class FakeResolver final : public Resolver {
 public:
  void Ask(absl::string_view name) override { asked.emplace_back(name); }
  bool Take(Resolved* result) override {
    if (hangs || asked.size() == answered) return false;
    result->name = asked[answered++];
    const auto found = table.find(result->name);
    result->addresses.clear();
    result->error = "unknown";
    if (found == table.end()) return true;
    for (const std::string& host : found->second) {
      result->addresses.push_back(*io::Endpoint::FromIp(host, 0));
    }
    return true;
  }
  bool has_results() const { return !hangs && asked.size() > answered; }

  std::map<std::string, std::vector<std::string>> table;
  bool hangs = false;
  std::vector<std::string> asked;
  size_t answered = 0;
};

// A node of the fake cluster and what it says.
struct Member {
  Member(char its_letter, const std::string& host) : letter(its_letter), node(host) {
    node.script = [this](const FakeNode::Args& args) { return Reply(args); };
  }
  std::string Reply(const FakeNode::Args& args) {
    if (silent) return "";
    if (args[0] == "AUTH") return args.back() == password ? "+OK\r\n" : "-WRONGPASS no\r\n";
    if (args[0] == "CLUSTER") {
      ++asked;
      return raw.empty() ? Bulk(NodesText(view, letter)) : raw;
    }
    if (args[0] == "COMMAND") {
      ++commands_asked;
      return commands;
    }
    if (info_refused) return "-NOPERM no\r\n";
    return args[1] == "server" ? Bulk(info_server) : Bulk(info_memory);
  }
  std::string address() const { return absl::StrCat(node.host(), ":", node.port()); }

  const char letter;
  FakeNode node;
  View view;
  std::string raw;  // the bytes for CLUSTER NODES, if not empty
  bool silent = false;
  bool info_refused = false;
  std::string password;
  std::string info_server = "# Server\r\nredis_version:7.0.15\r\nredis_mode:cluster\r\n";
  std::string info_memory = "# Memory\r\nmaxmemory_policy:allkeys-lru\r\n";
  int asked = 0;
  std::string commands = "*0\r\n";  // the bytes for COMMAND
  int commands_asked = 0;
};

class TopologyRefreshTest : public ControlPartTest {
 protected:
  TopologyRefreshTest() : ControlPartTest(LogLevel::kTrace, absl::Milliseconds(10)) {}
  void TearDown() override {
    if (refresh_ == nullptr) return;
    refresh_->Stop();
    EXPECT_TRUE(RunUntil([&] { return refresh_->idle(); }));
    EXPECT_EQ(timers_.size(), 0u);
  }

  Member* Add(char letter, const std::string& host = "127.0.0.1") {
    members_.push_back(std::make_unique<Member>(letter, host));
    return members_.back().get();
  }
  // Three primaries a, b, c that agree; all are startup nodes.
  void AddThree(const std::string& host = "127.0.0.1") {
    a_ = Add('a', host);
    b_ = Add('b', host);
    c_ = Add('c', host);
    AllSay(Three());
    for (const Member* member : {a_, b_, c_}) AddStartup(member);
  }
  void AddStartup(const Member* member) {
    config_.startup_nodes.push_back({member->node.host(), member->node.port()});
  }
  View Three(int epoch = 1) {
    return {{'a', a_->address(), "0-5460", epoch},
            {'b', b_->address(), "5461-10922", epoch + 1},
            {'c', c_->address(), "10923-16383", epoch + 2}};
  }
  void AllSay(const View& view) {
    for (const auto& member : members_) member->view = view;
  }

  void Start() {
    TopologyRefresh::Environment environment{Context()};
    environment.resolver = &resolver_;
    environment.random_seed = 7;
    environment.publish = [this](std::shared_ptr<const ClusterState> state) {
      published_.push_back(std::move(state));
    };
    environment.answer = [this](uint32_t worker, RefreshResult result) {
      answers_.push_back({worker, std::move(result), stats_.refreshes.Get()});
    };
    refresh_ = std::make_unique<TopologyRefresh>(std::move(environment));
    refresh_->Start();
  }
  void StartAndFind() {
    Start();
    ASSERT_TRUE(RunUntil([&] { return published_.size() == 1; })) << Log();
    Run(absl::Milliseconds(20));
  }
  // Until all have told of their commands, for which refreshes follow each other more closely.
  void AwaitCommands() {
    const auto all_told = [&] {
      return std::all_of(members_.begin(), members_.end(),
                         [](const auto& member) { return member->commands_asked > 0; });
    };
    for (int i = 0; i < 1000 && !all_told(); ++i) Skip(absl::Milliseconds(100));
    ASSERT_TRUE(all_told());
  }
  void Ask(uint64_t sequence, const std::string& first_node_id = "", uint32_t worker = 0) {
    refresh_->OnAsk({worker, sequence, first_node_id});
  }

  void PumpNodes() override {
    for (const auto& member : members_) member->node.Pump();
  }
  void OnCompletion(io::Completion* completion) override {
    if (completion->token.party() == static_cast<uint8_t>(Party::kRefresh)) {
      refresh_->OnCompletion(completion);
    }
  }
  void AfterCompletions() override {
    if (resolver_.has_results()) refresh_->OnResolved();
  }
  // Until an ask begun now is answered.
  bool AskAndWait(const std::string& first_node_id = "") {
    const size_t before = answers_.size();
    Ask(++sequence_, first_node_id);
    return RunUntil([&] { return answers_.size() > before; });
  }
  std::string Log() const { return absl::StrJoin(lines_.lines, "\n"); }
  std::vector<std::string> PublishedAddresses() const {
    std::vector<std::string> addresses;
    for (const auto& endpoint : published_.back()->endpoints) {
      addresses.push_back(endpoint.has_value() ? endpoint->ToString() : "none");
    }
    return addresses;
  }

  struct Answered {
    uint32_t worker;
    RefreshResult result;
    uint64_t refresh;  // number of the refresh that answered
  };

  FakeResolver resolver_;
  std::vector<std::unique_ptr<Member>> members_;
  Member* a_ = nullptr;
  Member* b_ = nullptr;
  Member* c_ = nullptr;
  std::vector<std::shared_ptr<const ClusterState>> published_;
  std::vector<Answered> answers_;
  uint64_t sequence_ = 1000;
  std::unique_ptr<TopologyRefresh> refresh_;
};

// --- the first view

TEST_F(TopologyRefreshTest, TheFirstViewIsPublishedWithItsNodesAddresses) {
  AddThree();
  config_.startup_nodes.resize(1);
  StartAndFind();
  const ClusterState& state = *published_[0];
  EXPECT_EQ(state.topology->covered_slots(), 16384);
  EXPECT_THAT(PublishedAddresses(), ElementsAre(a_->address(), b_->address(), c_->address()));
  EXPECT_FALSE(state.server.valkey);
  EXPECT_EQ(state.server.version, "7.0.15");
  EXPECT_EQ(state.server.compatible_redis_version, "7.0.15");
  EXPECT_EQ(state.server.maxmemory_policy, "allkeys-lru");
  EXPECT_EQ(stats_.topology_ready.Get(), 1u);
  EXPECT_EQ(stats_.cluster_nodes.Get(), 3u);
  EXPECT_EQ(stats_.covered_slots.Get(), 16384u);
  EXPECT_THAT(lines_.lines,
              Contains("cluster found: 3 nodes, 3 shards, 16384/16384 slots, redis 7.0.15"));
  // One node was enough.
  EXPECT_EQ(a_->asked + b_->asked + c_->asked, 1);
}

TEST_F(TopologyRefreshTest, AnUncoveredFirstViewIsPublishedToo) {
  AddThree();
  View view = Three();
  view[2].slots.clear();
  AllSay(view);
  StartAndFind();
  EXPECT_EQ(published_[0]->topology->covered_slots(), 10923);
}

TEST_F(TopologyRefreshTest, ValkeyIsToldFromRedis) {
  AddThree();
  for (Member* member : {a_, b_, c_}) {
    member->info_server = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n";
  }
  StartAndFind();
  EXPECT_TRUE(published_[0]->server.valkey);
  EXPECT_EQ(published_[0]->server.version, "8.0.1");
  EXPECT_EQ(published_[0]->server.compatible_redis_version, "7.2.4");
}

TEST_F(TopologyRefreshTest, ARefusedInfoDoesNotMatter) {
  AddThree();
  for (Member* member : {a_, b_, c_}) member->info_refused = true;
  StartAndFind();
  EXPECT_EQ(published_[0]->server.version, ServerInfo().version);
}

// One command that the table lacks: one argument, its key.
std::string OneCommand(absl::string_view name) {
  return absl::StrCat("*1\r\n*6\r\n", Bulk(name), ":2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n");
}

TEST_F(TopologyRefreshTest, TheFirstViewComesWithItsNodesCommands) {
  AddThree();
  for (Member* member : {a_, b_, c_}) member->commands = OneCommand("mod.get");
  StartAndFind();
  ASSERT_NE(published_[0]->learned, nullptr);
  EXPECT_NE(published_[0]->learned->Find("", "MOD.GET"), nullptr);
  // Each node is asked, soon; what is known already is not published again.
  Skip(absl::Seconds(20));
  EXPECT_GE(a_->commands_asked, 1);
  EXPECT_GE(b_->commands_asked, 1);
  EXPECT_GE(c_->commands_asked, 1);
  EXPECT_LE(a_->commands_asked + b_->commands_asked + c_->commands_asked, 4);
  EXPECT_THAT(published_, SizeIs(1));
  Skip(absl::Minutes(9));
  EXPECT_LE(a_->commands_asked + b_->commands_asked + c_->commands_asked, 4);
}

TEST_F(TopologyRefreshTest, ANodeOfAnotherVersionIsAskedForItsCommands) {
  AddThree();
  StartAndFind();
  EXPECT_EQ(published_[0]->learned, nullptr);
  Skip(absl::Seconds(20));
  b_->commands = OneCommand("newer");
  b_->info_server = "redis_version:7.4.0\r\n";
  Skip(absl::Minutes(2));
  ASSERT_NE(published_.back()->learned, nullptr);
  EXPECT_NE(published_.back()->learned->Find("", "newer"), nullptr);
  EXPECT_EQ(published_.back()->topology, published_[0]->topology);
}

TEST_F(TopologyRefreshTest, ANodeThatDoesNotKnowItsAddressHasTheOneItWasAskedAt) {
  Member* lone = Add('a');
  lone->view = {{'a', absl::StrCat(":", lone->node.port()), "0-16383"}};
  AddStartup(lone);
  StartAndFind();
  EXPECT_THAT(PublishedAddresses(), ElementsAre(lone->address()));
  ASSERT_TRUE(AskAndWait());
  EXPECT_THAT(published_, SizeIs(1));
}

TEST_F(TopologyRefreshTest, StartupNodesThatAreDownAreTriedUntilTheyAreUp) {
  AddThree();
  for (Member* member : {a_, b_, c_}) member->node.Down();
  Start();
  Run(absl::Seconds(4));
  EXPECT_THAT(published_, IsEmpty());
  EXPECT_EQ(stats_.topology_ready.Get(), 0u);
  EXPECT_GE(stats_.refresh_failures.Get(), 4u);
  // 200 ms apart at first, 1 s in the end.
  EXPECT_LE(stats_.refreshes.Get(), 8u);
  EXPECT_THAT(lines_.lines, Contains(HasSubstr("no node gives a view of the cluster; last: ")));
  EXPECT_LE(std::count_if(
                lines_.lines.begin(), lines_.lines.end(),
                [](const std::string& line) { return absl::StartsWith(line, "no node gives"); }),
            5);
  for (Member* member : {a_, b_, c_}) member->node.Up();
  EXPECT_TRUE(RunUntil([&] { return !published_.empty(); }, absl::Milliseconds(1200)));
}

TEST_F(TopologyRefreshTest, AuthenticatesWithoutTellingThePassword) {
  AddThree();
  config_.backend_password = "s3cret";
  for (Member* member : {a_, b_, c_}) member->password = "other";
  Start();
  Run(absl::Milliseconds(500));
  EXPECT_THAT(published_, IsEmpty());
  EXPECT_THAT(Log(), HasSubstr("AUTH refused: WRONGPASS"));
  EXPECT_THAT(Log(), Not(HasSubstr("s3cret")));
  for (Member* member : {a_, b_, c_}) member->password = "s3cret";
  EXPECT_TRUE(RunUntil([&] { return !published_.empty(); }));
}

// --- nodes that fail

TEST_F(TopologyRefreshTest, AnAnswerThatIsNoViewMeansTheNextNode) {
  AddThree();
  struct Case {
    std::string name;
    std::string raw;
  };
  const Case cases[] = {
      {"error", "-ERR This instance has cluster support disabled\r\n"},
      {"loading", "-LOADING Redis is loading the dataset in memory\r\n"},
      {"no RESP", "HTTP/1.1 400 Bad Request\r\n\r\n"},
      {"empty", Bulk("")},
      {"null", "$-1\r\n"},
      {"garbage", Bulk("a b c\nd e f\n")},
      {"no slots", Bulk(NodesText({{'a', "127.0.0.1:1", ""}}, 'a'))},
      {"array", "*1\r\n$1\r\nx\r\n"},
  };
  StartAndFind();
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    a_->raw = c.raw;
    ASSERT_TRUE(AskAndWait(Id('a')));
    ASSERT_NE(answers_.back().result.view, nullptr);
    EXPECT_NE(answers_.back().result.view->source(),
              answers_.back().result.view->FindById(Id('a')));
  }
  // If all say such things, the last good view stays.
  for (Member* member : {a_, b_, c_}) member->raw = cases[0].raw;
  ASSERT_TRUE(AskAndWait());
  EXPECT_EQ(answers_.back().result.view, nullptr);
  EXPECT_THAT(published_, SizeIs(1));
  EXPECT_EQ(stats_.topology_ready.Get(), 1u);
}

TEST_F(TopologyRefreshTest, ANodeThatHangsDelaysByNoMoreThanAHedge) {
  AddThree();
  a_->silent = b_->silent = true;
  Start();
  ASSERT_TRUE(RunUntil([&] { return !published_.empty(); }, absl::Milliseconds(200))) << Log();
}

TEST_F(TopologyRefreshTest, TheNodeToBeAskedFirstIsAwaitedForAWhileOnly) {
  AddThree();
  StartAndFind();
  a_->silent = true;
  const absl::Time begin = now_;
  ASSERT_TRUE(AskAndWait(Id('a')));
  EXPECT_GE(now_ - begin, absl::Milliseconds(400));
  EXPECT_LE(now_ - begin, absl::Milliseconds(800));
  EXPECT_NE(answers_.back().result.view, nullptr);
}

TEST_F(TopologyRefreshTest, IfAllHangTheRefreshStillEnds) {
  AddThree();
  StartAndFind();
  for (Member* member : {a_, b_, c_}) member->silent = true;
  const absl::Time begin = now_;
  ASSERT_TRUE(AskAndWait());
  EXPECT_LE(now_ - begin, absl::Milliseconds(3500));
  EXPECT_EQ(answers_.back().result.view, nullptr);
  for (Member* member : {a_, b_, c_}) member->silent = false;
  ASSERT_TRUE(AskAndWait());
  EXPECT_NE(answers_.back().result.view, nullptr);
}

TEST_F(TopologyRefreshTest, ThreeNodesAtMostAreAskedAtATime) {
  for (char letter = 'a'; letter <= 'f'; ++letter) {
    Member* member = Add(letter);
    member->silent = true;
    AddStartup(member);
  }
  Start();
  size_t most = 0;
  RunUntil(
      [&] {
        size_t connections = 0;
        for (const auto& member : members_) connections += member->node.connections();
        most = std::max(most, connections);
        return false;
      },
      absl::Seconds(1));
  EXPECT_EQ(most, 3u);
}

// --- asks

TEST_F(TopologyRefreshTest, AsksAreAnsweredOnlyByARefreshBegunAfterThem) {
  AddThree();
  StartAndFind();
  Run(absl::Milliseconds(200));
  for (Member* member : {a_, b_, c_}) member->silent = true;
  Ask(1);
  Turn();
  ASSERT_EQ(stats_.refreshes.Get(), 2u);
  Run(absl::Milliseconds(100));
  Ask(2);  // while the second one runs
  Ask(7, "", 3);
  Run(absl::Milliseconds(10));
  EXPECT_THAT(answers_, IsEmpty());
  for (Member* member : {a_, b_, c_}) {
    member->silent = false;
    member->node.Down();  // what hangs ends
    member->node.Up();
  }
  ASSERT_TRUE(RunUntil([&] { return answers_.size() == 1; }));
  EXPECT_EQ(answers_[0].worker, 0u);
  EXPECT_EQ(answers_[0].result.sequence, 1u);
  EXPECT_EQ(answers_[0].refresh, 2u);
  ASSERT_TRUE(RunUntil([&] { return answers_.size() == 3; }, absl::Milliseconds(300)));
  EXPECT_EQ(answers_[1].worker, 0u);
  EXPECT_EQ(answers_[1].result.sequence, 2u);
  EXPECT_EQ(answers_[1].refresh, 3u);
  EXPECT_EQ(answers_[2].worker, 3u);
  EXPECT_EQ(answers_[2].result.sequence, 7u);
  EXPECT_EQ(answers_[2].refresh, 3u);
}

TEST_F(TopologyRefreshTest, AnUnchangedViewAnswersAndIsNotPublished) {
  AddThree();
  StartAndFind();
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(AskAndWait());
  EXPECT_THAT(published_, SizeIs(1));
  for (const Answered& answer : answers_) EXPECT_NE(answer.result.view, nullptr);
}

TEST_F(TopologyRefreshTest, TheNodeThatIsNamedIsAskedFirstAndItsOwnViewReturned) {
  AddThree();
  StartAndFind();
  for (const char letter : {'c', 'a', 'b', 'a'}) {
    SCOPED_TRACE(letter);
    ASSERT_TRUE(AskAndWait(Id(letter)));
    const auto& view = answers_.back().result.view;
    ASSERT_NE(view, nullptr);
    EXPECT_EQ(view->node(view->source()).id, Id(letter));
  }
}

// One after another they would wait 200 ms for each.
TEST_F(TopologyRefreshTest, UpToThreeNamedNodesAreAskedAtOnceAndEachAskGetsItsOwnNodesView) {
  AddThree();
  Member* d = Add('d');
  View view = Three();
  view.push_back({'d', d->address(), "", 0});
  AllSay(view);
  StartAndFind();
  Run(absl::Milliseconds(200));
  const uint64_t before = stats_.refreshes.Get();
  Ask(1, Id('b'));
  Ask(2, Id('c'));
  Ask(3, Id('b'));
  Ask(4);
  Ask(5, Id('a'), 1);
  Ask(6, Id('d'), 1);  // one too many
  ASSERT_TRUE(RunUntil([&] { return answers_.size() >= 6; })) << answers_.size();
  Run(absl::Milliseconds(500));
  ASSERT_THAT(answers_, SizeIs(6));
  std::map<uint64_t, std::pair<std::string, uint64_t>> answered;  // who, in which refresh
  for (const Answered& answer : answers_) {
    answered[answer.result.sequence] = {answer.result.view->node(answer.result.view->source()).id,
                                        answer.refresh - before};
  }
  EXPECT_EQ(answered[1], std::make_pair(Id('b'), uint64_t{1}));
  EXPECT_EQ(answered[2], std::make_pair(Id('c'), uint64_t{1}));
  EXPECT_EQ(answered[3], std::make_pair(Id('b'), uint64_t{1}));
  EXPECT_EQ(answered[4].second, 1u);
  EXPECT_EQ(answered[5], std::make_pair(Id('a'), uint64_t{1}));
  EXPECT_EQ(answered[6], std::make_pair(Id('d'), uint64_t{2}));
}

// Of three, one that does not answer keeps the others' askers no longer than itself.
TEST_F(TopologyRefreshTest, ANamedNodeThatHangsIsAwaitedForAWhileOnlyAndOthersHaveTheirViews) {
  AddThree();
  StartAndFind();
  Run(absl::Milliseconds(200));
  b_->silent = true;
  Ask(1, Id('a'), 0);
  Ask(2, Id('b'), 1);
  Ask(3, Id('c'), 2);
  const absl::Time begin = now_;
  ASSERT_TRUE(RunUntil([&] { return answers_.size() >= 3; }));
  EXPECT_LE(now_ - begin, absl::Milliseconds(600));
  for (const Answered& answer : answers_) {
    const std::string source = answer.result.view->node(answer.result.view->source()).id;
    if (answer.worker == 1) continue;  // that of any other node
    EXPECT_EQ(source, Id(answer.worker == 0 ? 'a' : 'c'));
  }
}

TEST_F(TopologyRefreshTest, NeverMoreThanFiveRefreshesASecond) {
  AddThree();
  StartAndFind();
  const uint64_t before = stats_.refreshes.Get();
  std::deque<absl::Time> begins;
  uint64_t seen = before;
  for (int i = 0; i < 3000; ++i) {
    Ask(static_cast<uint64_t>(i) + 1, i % 3 == 0 ? Id('a') : i % 3 == 1 ? Id('e') : "");
    Turn();
    if (stats_.refreshes.Get() != seen) {
      EXPECT_EQ(stats_.refreshes.Get(), ++seen);
      begins.push_back(now_);
      while (begins.front() <= now_ - absl::Seconds(1)) begins.pop_front();
      EXPECT_LE(begins.size(), 5u);
    }
  }
  EXPECT_GE(seen - before, 12u);  // and not much fewer while they are asked for
}

TEST_F(TopologyRefreshTest, WithoutDemandEveryTenSecondsMoreOrLess) {
  AddThree();
  StartAndFind();
  AwaitCommands();
  std::set<int64_t> periods;
  for (int i = 0; i < 8; ++i) {
    const uint64_t before = stats_.refreshes.Get();
    const absl::Time begin = now_;
    while (stats_.refreshes.Get() == before && now_ < begin + absl::Seconds(13)) {
      Skip(absl::Milliseconds(100));
    }
    const absl::Duration period = now_ - begin;
    EXPECT_GE(period, absl::Seconds(7.8));
    EXPECT_LE(period, absl::Seconds(12.3));
    periods.insert(absl::ToInt64Milliseconds(period) / 100);
  }
  EXPECT_GT(periods.size(), 2u);
  EXPECT_THAT(published_, SizeIs(1));
}

TEST_F(TopologyRefreshTest, TheReloadIntervalKeepsPeriodicRefreshesApart) {
  AddThree();
  config_.slots_reload_interval = absl::Seconds(60);
  StartAndFind();
  Skip(absl::Seconds(59));
  EXPECT_EQ(stats_.refreshes.Get(), 1u);
  Skip(absl::Seconds(2));
  EXPECT_EQ(stats_.refreshes.Get(), 2u);
}

TEST_F(TopologyRefreshTest, WhileThePrimaryOfASlotHasFailedTheyComeByTheReloadInterval) {
  AddThree();
  View view = Three();
  view[0].flags = "master,fail";
  AllSay(view);
  StartAndFind();
  Skip(absl::Seconds(2.9));
  EXPECT_EQ(stats_.refreshes.Get(), 1u);
  Skip(absl::Seconds(0.3));
  EXPECT_EQ(stats_.refreshes.Get(), 2u);
}

// --- changes

TEST_F(TopologyRefreshTest, AFailoverIsPublishedOnOneNodesWord) {
  AddThree();
  Member* replica = Add('d');
  View view = Three();
  view.push_back({'d', replica->address(), "", 1, "slave", 'a'});
  AllSay(view);
  StartAndFind();
  view[0] = {'a', a_->address(), "", 1, "master,fail"};
  view[3] = {'d', replica->address(), "0-5460", 9, "master"};
  AllSay(view);
  a_->node.Down();
  ASSERT_TRUE(AskAndWait());
  ASSERT_THAT(published_, SizeIs(2));
  EXPECT_EQ(published_[1]->topology->OwnerId(0), Id('d'));
  EXPECT_THAT(Log(), HasSubstr("cluster changed: 4 nodes"));
}

TEST_F(TopologyRefreshTest, LessCoverageNeedsASecondNode) {
  AddThree();
  StartAndFind();
  View less = Three();
  less[1].slots = "5461-10000";
  a_->view = less;
  // b and c still have the full view: one of them is asked, and nothing changes.
  ASSERT_TRUE(AskAndWait(Id('a')));
  EXPECT_THAT(published_, SizeIs(1));
  ASSERT_NE(answers_.back().result.view, nullptr);
  EXPECT_EQ(answers_.back().result.view->covered_slots(), 15462);

  AllSay(less);
  ASSERT_TRUE(AskAndWait(Id('a')));
  ASSERT_THAT(published_, SizeIs(2));
  EXPECT_EQ(published_[1]->topology->covered_slots(), 15462);
}

TEST_F(TopologyRefreshTest, AnOlderMapIsNotTakenOverWhenNobodyConfirmsIt) {
  AddThree();
  View now = Three(5);
  AllSay(now);
  StartAndFind();
  a_->view = Three(1);
  a_->view[0].slots = "0-5000";
  a_->view[1].slots = "5001-10922";
  b_->node.Down();
  c_->node.Down();
  ASSERT_TRUE(AskAndWait());
  Run(absl::Seconds(3));
  EXPECT_THAT(published_, SizeIs(1));
  EXPECT_GE(stats_.topology_refused.Get(), 1u);
  EXPECT_THAT(Log(), HasSubstr("no second node confirms it"));
  // The same node twice is no second opinion either, at whatever address.
  ASSERT_TRUE(AskAndWait(Id('a')));
  EXPECT_THAT(published_, SizeIs(1));
  EXPECT_EQ(answers_.back().result.view->EpochOf(0), 1u);
  // When the others are back, all is as it was.
  b_->node.Up();
  c_->node.Up();
  ASSERT_TRUE(AskAndWait());
  EXPECT_THAT(published_, SizeIs(1));
}

// B26: those that have not heard yet, or are cut off together, agree.
TEST_F(TopologyRefreshTest, TwoNodesThatLagDoNotBringAnOlderMapBackWhileTheOwnerObjects) {
  AddThree();
  AllSay(Three(5));
  StartAndFind();
  // a and b believe that c's slots are b's; so does b itself, which had them once.
  a_->view = Three(5);
  a_->view[1].slots = "5461-16383";
  a_->view[2].slots = "";
  b_->view = a_->view;
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(AskAndWait(Id(i % 2 == 0 ? 'a' : 'b')));
    Run(absl::Seconds(1));
  }
  EXPECT_THAT(published_, SizeIs(1));
  // The owner is not there any more: for a while it is waited for.
  c_->node.Down();
  const absl::Time begin = now_;
  Ask(100, Id('a'));
  ASSERT_TRUE(RunUntil([&] { return published_.size() == 2; })) << Log();
  EXPECT_GE(now_ - begin, absl::Seconds(1));
  EXPECT_LE(now_ - begin, absl::Seconds(2));
  EXPECT_EQ(published_[1]->topology->EpochOf(16383), 6u);
}

// Two failures, however far apart, counted as an absence from the first to the second: nodes that
// lagged brought an older map back at once.
TEST_F(TopologyRefreshTest, AnOwnerThatFailsNowAndThenIsNotTakenForAway) {
  AddThree();
  AllSay(Three(5));
  StartAndFind();
  AwaitCommands();
  c_->node.Down();
  ASSERT_TRUE(AskAndWait(Id('c')));
  c_->node.Up();
  Run(absl::Seconds(3));
  a_->view[1].slots = "5461-16383";
  a_->view[2].slots = "";
  b_->view = a_->view;
  c_->node.Down();
  ASSERT_TRUE(AskAndWait(Id('a')));
  EXPECT_THAT(published_, SizeIs(1));
  EXPECT_EQ(stats_.topology_refused.Get(), 1u);
  c_->node.Up();
  Run(absl::Seconds(3));
  EXPECT_THAT(published_, SizeIs(1));
}

TEST_F(TopologyRefreshTest, AnOlderMapIsTakenOverAtOnceWhenTheOwnerGivesWay) {
  AddThree();
  AllSay(Three(5));
  StartAndFind();
  View back = Three(5);
  back[1].slots = "5461-16383";
  back[2].slots = "";
  AllSay(back);
  const absl::Time begin = now_;
  Ask(1, Id('a'));
  ASSERT_TRUE(RunUntil([&] { return published_.size() == 2; })) << Log();
  EXPECT_LE(now_ - begin, absl::Milliseconds(500));
}

TEST_F(TopologyRefreshTest, TwoNodesThatSayDifferentOldThingsConfirmNothing) {
  AddThree();
  AllSay(Three(5));
  StartAndFind();
  a_->view = b_->view = Three(1);
  a_->view[0].slots = "0-5000";
  b_->view[0].slots = "0-5001";
  c_->node.Down();
  ASSERT_TRUE(AskAndWait());
  EXPECT_THAT(published_, SizeIs(1));
}

TEST_F(TopologyRefreshTest, ClusterThatStartedAnewElsewhereIsFoundByItsStartupName) {
  AddThree();
  AllSay(Three(50));
  config_.startup_nodes = {{"cluster.example", a_->node.port()}};
  resolver_.table["cluster.example"] = {"127.0.0.1"};
  StartAndFind();

  for (Member* member : {a_, b_, c_}) member->node.Down();
  Member* d = Add('d', "127.0.0.2");
  Member* e = Add('e', "127.0.0.2");
  const View fresh = {{'d', d->address(), "0-8191", 1}, {'e', e->address(), "8192-16383", 2}};
  d->view = e->view = fresh;
  config_.startup_nodes = {{"cluster.example", d->node.port()}};
  resolver_.table["cluster.example"] = {"127.0.0.2"};
  Ask(1);
  ASSERT_TRUE(RunUntil([&] { return published_.size() == 2; }, absl::Seconds(3))) << Log();
  EXPECT_THAT(PublishedAddresses(), ElementsAre(d->address(), e->address()));
}

TEST_F(TopologyRefreshTest, ManyDeadNodesDoNotHideAStartupNode) {
  Member* a = Add('a');
  AddStartup(a);
  View view = {{'a', a->address(), "0-16383", 5}};
  // Nothing listens there.
  for (int i = 0; i < 60; ++i) {
    view.push_back({'b', absl::StrCat("127.0.0.3:", 20000 + i), "", 1, "slave", 'a'});
  }
  a->view = view;
  a->raw = Bulk([&] {
    std::string text = NodesText({view[0]}, 'a');
    for (int i = 1; i <= 60; ++i) {
      std::string line = NodesText({view[static_cast<size_t>(i)]}, 'a');
      absl::StrAppend(&text, absl::Hex(i, absl::kZeroPad2), line.substr(2));
    }
    return text;
  }());
  StartAndFind();
  EXPECT_THAT(published_[0]->endpoints, SizeIs(61));
  ASSERT_TRUE(AskAndWait());
  EXPECT_NE(answers_.back().result.view, nullptr);
  const absl::Time begin = now_;
  ASSERT_TRUE(AskAndWait());
  EXPECT_LE(now_ - begin, absl::Milliseconds(400));
}

TEST_F(TopologyRefreshTest, ALoneNodeIsBelievedWhenEverybodyElseIsGone) {
  AddThree();
  AllSay(Three(50));
  StartAndFind();
  for (Member* member : {a_, b_, c_}) member->node.Down();
  Member* lone = Add('d');
  lone->view = {{'d', lone->address(), "0-16383", 1}};
  AddStartup(lone);
  Ask(1);
  ASSERT_TRUE(RunUntil([&] { return published_.size() == 2; })) << Log();
  EXPECT_THAT(PublishedAddresses(), ElementsAre(lone->address()));
}

TEST_F(TopologyRefreshTest, ALoneNodeIsNotBelievedAgainstAnother) {
  AddThree();
  AllSay(Three(50));
  StartAndFind();
  a_->view = {{'a', a_->address(), "0-16383", 1}};
  ASSERT_TRUE(AskAndWait(Id('a')));
  EXPECT_THAT(published_, SizeIs(1));
}

TEST_F(TopologyRefreshTest, AChangedServerIsPublishedWhenTwoNodesSaySo) {
  AddThree();
  StartAndFind();
  a_->info_server = "redis_version:7.2.5\r\n";
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(AskAndWait(Id('a')));
    ASSERT_TRUE(AskAndWait(Id('b')));
  }
  EXPECT_THAT(published_, SizeIs(1));
  b_->info_server = a_->info_server;
  ASSERT_TRUE(AskAndWait(Id('a')));
  ASSERT_TRUE(AskAndWait(Id('b')));
  ASSERT_THAT(published_, SizeIs(2));
  EXPECT_EQ(published_[1]->server.version, "7.2.5");
  EXPECT_EQ(published_[1]->topology, published_[0]->topology);
}

// --- names of nodes

class NodeNamesTest : public TopologyRefreshTest {
 protected:
  void AddNamed() {
    AddThree();
    named_ = Three();
    named_[2].address = absl::StrCat("c.example:", c_->node.port());
    AllSay(named_);
  }
  View named_;
};

TEST_F(NodeNamesTest, AreResolvedBeforeTheViewIsPublished) {
  AddNamed();
  resolver_.table["c.example"] = {"127.0.0.1"};
  resolver_.hangs = true;
  Start();
  Run(absl::Milliseconds(300));
  EXPECT_THAT(published_, IsEmpty());
  resolver_.hangs = false;
  ASSERT_TRUE(RunUntil([&] { return !published_.empty(); }, absl::Milliseconds(10)));
  EXPECT_THAT(PublishedAddresses(), ElementsAre(a_->address(), b_->address(), c_->address()));
}

TEST_F(NodeNamesTest, AResolverThatHangsDelaysByTwoSecondsAtMost) {
  AddNamed();
  resolver_.hangs = true;
  Start();
  ASSERT_TRUE(RunUntil([&] { return !published_.empty(); }, absl::Milliseconds(2300)));
  EXPECT_THAT(PublishedAddresses(), ElementsAre(a_->address(), b_->address(), "none"));
  // The address is taken over when it comes.
  resolver_.table["c.example"] = {"127.0.0.1"};
  resolver_.hangs = false;
  ASSERT_TRUE(RunUntil([&] { return published_.size() == 2; }));
  EXPECT_THAT(PublishedAddresses(), ElementsAre(a_->address(), b_->address(), c_->address()));
}

TEST_F(NodeNamesTest, KeepTheLastGoodAddress) {
  AddNamed();
  resolver_.table["c.example"] = {"127.0.0.1"};
  StartAndFind();
  resolver_.table.clear();
  Skip(absl::Seconds(30));
  EXPECT_THAT(published_, SizeIs(1));
  EXPECT_GE(resolver_.answered, 2u);
  EXPECT_THAT(Log(), HasSubstr("cannot resolve c.example"));
}

TEST_F(NodeNamesTest, FollowANewAddressAndNotANewOrder) {
  AddNamed();
  resolver_.table["c.example"] = {"127.0.0.1", "127.0.0.9"};
  StartAndFind();
  resolver_.table["c.example"] = {"127.0.0.9", "127.0.0.1"};
  Skip(absl::Seconds(15));
  EXPECT_THAT(published_, SizeIs(1));
  resolver_.table["c.example"] = {"127.0.0.7"};
  Skip(absl::Seconds(15));
  ASSERT_THAT(published_, SizeIs(2));
  EXPECT_THAT(PublishedAddresses(), ElementsAre(a_->address(), b_->address(),
                                                absl::StrCat("127.0.0.7:", c_->node.port())));
}

TEST_F(NodeNamesTest, UnknownOnesLeaveTheOtherNodesUsable) {
  AddNamed();
  StartAndFind();
  EXPECT_THAT(PublishedAddresses(), ElementsAre(a_->address(), b_->address(), "none"));
  EXPECT_THAT(Log(), HasSubstr("its name c.example has no address"));
}

TEST_F(NodeNamesTest, OfStartupNodesMayFailWhileOthersAnswer) {
  AddThree();
  config_.startup_nodes = {{"gone.example", 7000}, {"a.example", a_->node.port()}};
  resolver_.table["a.example"] = {"127.0.0.8", "127.0.0.1"};  // nothing listens at the first
  StartAndFind();
}

TEST_F(NodeNamesTest, OfStartupNodesThatHangEndTheRefreshInTime) {
  config_.startup_nodes = {{"gone.example", 7000}};
  resolver_.hangs = true;
  Start();
  ASSERT_TRUE(RunUntil([&] { return stats_.refresh_failures.Get() == 1; }, absl::Seconds(3)));
  EXPECT_THAT(Log(), HasSubstr("gone.example: the name has no address"));
}

// --- the end

TEST_F(TopologyRefreshTest, StopEndsWhateverRuns) {
  AddThree();
  StartAndFind();
  for (Member* member : {a_, b_, c_}) member->silent = true;
  Ask(1);
  Run(absl::Milliseconds(300));
  EXPECT_FALSE(refresh_->idle());
  refresh_->Stop();
  ASSERT_TRUE(RunUntil([&] { return refresh_->idle(); }, absl::Milliseconds(500)));
  Ask(2);
  Run(absl::Milliseconds(500));
  EXPECT_TRUE(refresh_->idle());
  EXPECT_THAT(answers_, IsEmpty());
}

}  // namespace
}  // namespace proxy
