// CLIENT TRACKING in a simulated world: what clients are told of changes, when, and that none keeps
// a value that has changed.

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "resp/scanner.h"
#include "resp/views.h"
#include "tests/sim/scenario.h"
#include "tests/sim/world.h"

namespace sim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::string_view kAll = ">2\r\n$10\r\ninvalidate\r\n_\r\n";

std::string Bulk(absl::string_view text) {
  return absl::StrCat("$", text.size(), "\r\n", text, "\r\n");
}
std::string Changed(absl::string_view key) {
  return absl::StrCat(">2\r\n$10\r\ninvalidate\r\n*1\r\n", Bulk(key));
}
// To a RESP2 client that it was redirected to.
std::string Message(absl::string_view key) {
  return absl::StrCat("*3\r\n$7\r\nmessage\r\n", Bulk("__redis__:invalidate"), "*1\r\n", Bulk(key));
}

// A client that keeps what it has read until it is told of a change.
class CachingClient {
 public:
  explicit CachingClient(SimClient* client) : client_(client) {}

  void Get(const std::string& key) {
    client_->SendCommand(absl::StrCat("GET ", key));
    asked_.push_back(key);
  }
  void Set(const std::string& key, absl::string_view value) {
    client_->SendCommand(absl::StrCat("SET ", key, " ", value));
    asked_.emplace_back();
  }
  // Takes what has come.
  void Read() {
    bytes_ += client_->TakeReceived();
    while (true) {
      resp::ReplyScanner scanner;
      const resp::ScanResult result = scanner.Scan(bytes_);
      if (result.status != resp::ScanStatus::kComplete) return;
      Take(absl::string_view(bytes_).substr(0, result.consumed));
      bytes_.erase(0, result.consumed);
    }
  }
  // As they came; those of errors are left out.
  const std::map<std::string, std::string>& cache() const { return cache_; }
  size_t told() const { return told_; }
  size_t outstanding() const { return asked_.size(); }
  bool ended() const { return client_->ended() || client_->was_reset(); }

 private:
  void Take(absl::string_view frame) {
    if (frame[0] == '>') {
      ++told_;
      const std::vector<absl::string_view> elements = resp::ElementsOf(frame);
      ASSERT_EQ(elements.size(), 2u);
      if (elements[1] == "_\r\n") return cache_.clear();
      for (const absl::string_view element : resp::ElementsOf(elements[1])) {
        absl::string_view key;
        ASSERT_TRUE(resp::ParseText(element, &key));
        cache_.erase(std::string(key));
      }
      return;
    }
    ASSERT_FALSE(asked_.empty());
    if (!asked_.front().empty() && frame[0] != '-') {
      cache_[asked_.front()] = std::string(frame);
    }
    asked_.pop_front();
  }

  SimClient* const client_;
  std::string bytes_;
  std::deque<std::string> asked_;  // keys; empty: no read
  std::map<std::string, std::string> cache_;
  size_t told_ = 0;
};

class TrackingTest : public ScenarioTest {
 protected:
  uint64_t Sum(proxy::Counter proxy::WorkerStats::*member) { return world().stats()->Sum(member); }
  SimClient* Tracker(absl::string_view options = "", absl::string_view protocol = "3") {
    SimClient* client = world().Connect();
    Ask(client, absl::StrCat("HELLO ", protocol));
    EXPECT_EQ(Ask(client, absl::StrCat("CLIENT TRACKING ON", options.empty() ? "" : " ", options)),
              "+OK\r\n");
    return client;
  }
  SimClient* Writer() {
    SimClient* client = world().Connect();
    Ask(client, "PING");
    return client;
  }
  std::string Told(SimClient* client) {
    world().RunUntilIdle();
    return client->TakeReceived();
  }
  int64_t IdOf(SimClient* client) {
    int64_t id = 0;
    EXPECT_TRUE(absl::SimpleAtoi(Ask(client, "CLIENT ID").substr(1), &id));
    return id;
  }
  std::vector<size_t> Trackers() {
    std::vector<size_t> counts;
    for (int i = 0; i < cluster().size(); ++i) counts.push_back(cluster().node(i)->Trackers());
    return counts;
  }
};

TEST_F(TrackingTest, OneConnectionToEachPrimaryWhileAnyClientTracks) {
  EXPECT_THAT(Trackers(), ElementsAre(0, 0, 0, 0, 0, 0));
  std::vector<SimClient*> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(Tracker());
    // They are there when it is answered.
    EXPECT_THAT(Trackers(), ElementsAre(1, 1, 1, 0, 0, 0));
  }
  EXPECT_EQ(Sum(&proxy::WorkerStats::tracking_clients), 20u);
  clients[0]->Close();
  Ask(clients[1], "CLIENT TRACKING OFF");
  Ask(clients[2], "RESET");
  world().RunUntilIdle();
  EXPECT_EQ(Sum(&proxy::WorkerStats::tracking_clients), 17u);
  for (SimClient* client : clients) client->Close();
  world().RunFor(15 * kSecond);
  EXPECT_THAT(Trackers(), ElementsAre(0, 0, 0, 0, 0, 0));
  EXPECT_EQ(Sum(&proxy::WorkerStats::tracking_links), 0u);
  EXPECT_EQ(Sum(&proxy::WorkerStats::tracking_clients), 0u);
  EXPECT_EQ(Sum(&proxy::WorkerStats::tracked_keys), 0u);
}

TEST_F(TrackingTest, WhoHasReadAKeyIsToldOnceThatItChanged) {
  SimClient* client = Tracker();
  SimClient* other = Tracker();
  SimClient* writer = Writer();
  Ask(client, "GET a");
  Ask(client, "MGET b c d");
  Ask(other, "GET c");
  EXPECT_EQ(Sum(&proxy::WorkerStats::tracked_items), 5u);
  EXPECT_EQ(Sum(&proxy::WorkerStats::tracked_keys), 4u);
  Ask(writer, "SET a v1");
  Ask(writer, "SET a v2");
  EXPECT_EQ(Told(client), Changed("a"));
  Ask(writer, "SET c v1");
  Ask(writer, "SET x v1");
  EXPECT_EQ(Told(client), Changed("c"));
  EXPECT_EQ(Told(other), Changed("c"));
  // Its own writes, too.
  client->SendCommand("SET b v1");
  EXPECT_EQ(Told(client), absl::StrCat("+OK\r\n", Changed("b")));
  EXPECT_EQ(Sum(&proxy::WorkerStats::tracked_items), 1u);
}

// The bug that all of this could have: a reply from before the change, behind what tells of it.
TEST_F(TrackingTest, AChangeIsToldBehindTheRepliesThatWereOwed) {
  SimClient* client = Tracker();
  SimClient* writer = Writer();
  Ask(writer, "SET a old");
  Ask(client, "GET {a}2");  // so that there is a connection to the node
  NodeOf("a").HoldAllButInvalidations(true);
  client->SendCommand("GET a");
  client->SendCommand("PING");
  world().RunFor(10 * kMillisecond);
  writer->SendCommand("SET a new");
  world().RunFor(kSecond);
  EXPECT_EQ(client->TakeReceived(), "");
  client->SendCommand("ECHO x");
  world().RunFor(10 * kMillisecond);
  NodeOf("a").HoldAllButInvalidations(false);
  EXPECT_EQ(Told(client), absl::StrCat("$3\r\nold\r\n+PONG\r\n", Changed("a"), "$1\r\nx\r\n"));
}

TEST_F(TrackingTest, AChangeIsToldWhileTheClientWaits) {
  SimClient* client = Tracker();
  SimClient* writer = Writer();
  Ask(client, "GET a");
  client->SendCommand("BLPOP b c 5");  // over slots: in steps
  world().RunFor(100 * kMillisecond);
  Ask(writer, "SET a v1");
  world().RunFor(100 * kMillisecond);
  EXPECT_EQ(client->TakeReceived(), Changed("a"));
  Ask(writer, "RPUSH c x");
  world().RunFor(kSecond);
  EXPECT_EQ(client->TakeReceived(), "*2\r\n$1\r\nc\r\n$1\r\nx\r\n");
}

TEST_F(TrackingTest, AChangeIsNeverToldWithinAReply) {
  SimClient* client = Tracker();
  SimClient* writer = Writer();
  const std::string large(4 << 20, 'x');
  Ask(writer, absl::StrCat("SET a ", large));
  Ask(client, "GET b");
  client->PauseReading(true);
  client->SendCommand("GET a");
  client->SendCommand("GET c");
  world().RunFor(kSecond);
  Ask(writer, "SET b v1");
  Ask(writer, "SET c v1");
  world().RunFor(kSecond);
  client->PauseReading(false);
  EXPECT_EQ(Told(client), absl::StrCat(Bulk(large), "_\r\n", Changed("b"), Changed("c")));
}

TEST_F(TrackingTest, WhenAConnectionIsLostAllMayHaveChanged) {
  SimClient* client = Tracker();
  SimClient* broadcast = Tracker("BCAST");
  SimClient* writer = Writer();
  Ask(client, "GET a");
  Ask(broadcast, "GET a");
  NodeOf("a").DropTrackers();
  Ask(writer, "SET a v1");
  // Lost, and open again; of that it is told only if it has done anything since.
  EXPECT_EQ(Told(client), kAll);
  EXPECT_THAT(Told(broadcast), HasSubstr(kAll));
  EXPECT_THAT(Trackers(), ElementsAre(1, 1, 1, 0, 0, 0));
  Ask(client, "GET a");
  Ask(writer, "SET a v2");
  EXPECT_EQ(Told(client), Changed("a"));
}

TEST_F(TrackingTest, WhatIsReadWhileNothingTellsOfChangesIsToldOfAtOnce) {
  SimClient* client = Tracker();
  SimClient* broadcast = Tracker("BCAST PREFIX a");
  Ask(client, "GET a");
  // No connection can be made: what is open stays open.
  NodeOf("a").AnswerNext("HELLO", "-ERR not now\r\n");
  NodeOf("a").DropTrackers();
  world().RunFor(10 * kMillisecond);
  EXPECT_EQ(client->TakeReceived(), kAll);
  EXPECT_EQ(broadcast->TakeReceived(), kAll);
  client->SendCommand("GET a");
  broadcast->SendCommand("GET a");
  broadcast->SendCommand("GET {a}b");
  world().RunFor(10 * kMillisecond);
  ASSERT_THAT(Trackers()[static_cast<size_t>(NodeOf("a").number())], 0u);
  EXPECT_EQ(client->TakeReceived(), absl::StrCat("_\r\n", Changed("a")));
  EXPECT_EQ(broadcast->TakeReceived(), absl::StrCat("_\r\n_\r\n", Changed("a")));
  world().RunFor(5 * kSecond);
  EXPECT_EQ(client->TakeReceived(), kAll);
  EXPECT_THAT(Trackers(), ElementsAre(1, 1, 1, 0, 0, 0));
}

TEST_F(TrackingTest, WhenASlotHasAnotherOwnerAllMayHaveChanged) {
  SimClient* client = Tracker();
  SimClient* writer = Writer();
  Ask(client, "GET a");
  cluster().MoveSlots({cluster::SlotOf("b")}, OtherThan(NodeOf("b").number()));
  Ask(writer, "GET b");  // redirected: the proxy hears of it
  world().RunFor(5 * kSecond);
  EXPECT_THAT(client->TakeReceived(), HasSubstr(kAll));
  Ask(client, "GET b");
  Ask(writer, "SET b v1");
  EXPECT_EQ(Told(client), Changed("b"));
}

TEST_F(TrackingTest, AfterAFailoverTheNewPrimaryTells) {
  SimClient* client = Tracker();
  SimClient* writer = Writer();
  Ask(writer, "SET a v1");
  Ask(client, "GET a");
  const int old = NodeOf("a").number();
  cluster().node(old)->Kill();
  cluster().FailOver(cluster().ReplicasOf(old)[0], false);
  world().RunFor(10 * kSecond);
  EXPECT_THAT(client->TakeReceived(), HasSubstr(kAll));
  EXPECT_EQ(Ask(client, "GET a"), "$2\r\nv1\r\n");
  Ask(writer, "SET a v2");
  EXPECT_EQ(Told(client), Changed("a"));
  EXPECT_EQ(NodeOf("a").Trackers(), 1u);
}

TEST_F(TrackingTest, TrackingThatIsNotPossibleIsAnErrorInTime) {
  NodeOf("a").SetHung(true);
  SimClient* client = world().Connect();
  Ask(client, "HELLO 3");
  client->SendCommand("CLIENT TRACKING ON");
  client->SendCommand("CLIENT GETREDIR");
  world().RunFor(6 * kSecond);
  EXPECT_EQ(client->TakeReceived(),
            "-CLUSTERDOWN proxy: not all primaries can be asked to tell of changes (not "
            "executed)\r\n:-1\r\n");
  EXPECT_EQ(Sum(&proxy::WorkerStats::tracking_clients), 0u);
  NodeOf("a").SetHung(false);
  world().RunFor(5 * kSecond);
  EXPECT_EQ(Ask(client, "CLIENT TRACKING ON"), "+OK\r\n");
}

TEST_F(TrackingTest, AClientMayLeaveWhileItWaitsForTracking) {
  NodeOf("a").SetHung(true);
  SimClient* client = world().Connect();
  client->SendCommand("CLIENT TRACKING ON");
  world().RunFor(kSecond);
  client->Abort();
  world().RunFor(kSecond);
  NodeOf("a").SetHung(false);
  world().RunFor(20 * kSecond);
  EXPECT_THAT(Trackers(), ElementsAre(0, 0, 0, 0, 0, 0));
}

TEST_F(TrackingTest, OfTooManyKeysTheOldestAreToldOf) {
  Make({.configure = [](proxy::Config* config) { config->tracking_keys_max = 3; }});
  SimClient* client = Tracker();
  SimClient* other = Tracker();
  for (const char* key : {"a", "b", "c"}) Ask(client, absl::StrCat("GET ", key));
  EXPECT_EQ(Told(client), "");
  EXPECT_EQ(Ask(other, "GET d"), "_\r\n");
  EXPECT_EQ(Told(client), Changed("a"));
  // Behind the reply to what fills the table.
  client->SendCommand("GET e");
  EXPECT_EQ(Told(client), absl::StrCat("_\r\n", Changed("b")));
  SimClient* writer = Writer();
  for (const char* key : {"a", "b", "c", "d", "e"}) Ask(writer, absl::StrCat("SET ", key, " v1"));
  EXPECT_EQ(Told(client), absl::StrCat(Changed("c"), Changed("e")));
  EXPECT_EQ(Told(other), Changed("d"));
  client->SendCommand("MGET {t}1 {t}2 {t}3 {t}4 {t}5");
  EXPECT_EQ(Told(client),
            absl::StrCat("*5\r\n", Repeated("_\r\n", 5), Changed("{t}1"), Changed("{t}2")));
}

TEST_F(TrackingTest, FlushingTellsOfAll) {
  SimClient* client = Tracker();
  SimClient* writer = Writer();
  Ask(writer, "SET a v1");
  Ask(client, "GET a");
  Ask(writer, "FLUSHALL");
  EXPECT_EQ(Told(client), kAll);
  Ask(client, "GET a");
  // Its own: behind the reply.
  client->SendCommand("FLUSHALL");
  EXPECT_EQ(Told(client), absl::StrCat("+OK\r\n", kAll));
}

TEST_F(TrackingTest, InATransactionItIsRefusedWhenItIsQueued) {
  SimClient* client = world().Connect();
  for (const absl::string_view words : {"CLIENT TRACKING ON", "CLIENT CACHING YES"}) {
    EXPECT_EQ(Ask(client, "MULTI"), "+OK\r\n");
    EXPECT_THAT(Ask(client, words), ::testing::HasSubstr("is not supported"));
    EXPECT_THAT(Ask(client, "EXEC"), ::testing::StartsWith("-EXECABORT "));
  }
  EXPECT_EQ(Ask(client, "GET a"), "$-1\r\n");
}

TEST_F(TrackingTest, ATransactionReadsWhenItRuns) {
  SimClient* client = Tracker();
  SimClient* writer = Writer();
  for (absl::string_view words : {"MULTI", "GET a", "SET {a}b v1"}) Ask(client, words);
  Ask(writer, "SET a v1");
  EXPECT_EQ(Told(client), "");
  EXPECT_EQ(Ask(client, "EXEC"), "*2\r\n$2\r\nv1\r\n+OK\r\n");
  Ask(writer, "SET a v2");
  EXPECT_EQ(Told(client), Changed("a"));
  for (absl::string_view words : {"MULTI", "GET a", "DISCARD"}) Ask(client, words);
  Ask(writer, "SET a v3");
  EXPECT_EQ(Told(client), "");
}

TEST_F(TrackingTest, OptInAndOptOutAreForTheNextCommand) {
  SimClient* in = Tracker("OPTIN");
  SimClient* out = Tracker("OPTOUT");
  SimClient* writer = Writer();
  Ask(in, "GET a");
  EXPECT_EQ(Ask(in, "CLIENT CACHING YES"), "+OK\r\n");
  Ask(in, "CLIENT GETREDIR");
  Ask(in, "GET b");
  Ask(in, "GET c");
  for (absl::string_view words : {"CLIENT CACHING YES", "MULTI", "GET d", "GET {d}2", "EXEC"}) {
    Ask(in, words);
  }
  Ask(in, "GET e");
  Ask(out, "GET a");
  EXPECT_EQ(Ask(out, "CLIENT CACHING NO"), "+OK\r\n");
  Ask(out, "GET b");
  Ask(out, "GET c");
  for (const char* key : {"a", "b", "c", "d", "{d}2", "e"}) {
    Ask(writer, absl::StrCat("SET ", key, " v1"));
    world().RunUntilIdle();
  }
  EXPECT_EQ(Told(in), absl::StrCat(Changed("b"), Changed("d"), Changed("{d}2")));
  EXPECT_EQ(Told(out), absl::StrCat(Changed("a"), Changed("c")));
}

TEST_F(TrackingTest, BroadcastingTellsOfPrefixes) {
  SimClient* all = Tracker("BCAST");
  SimClient* some = Tracker("BCAST PREFIX user: PREFIX u2");
  SimClient* both = Tracker("BCAST PREFIX us");
  EXPECT_EQ(Ask(both, "CLIENT TRACKING ON BCAST"), "+OK\r\n");
  SimClient* writer = Writer();
  for (const char* key : {"user:1", "use", "u2", "v"}) {
    Ask(writer, absl::StrCat("SET ", key, " v1"));
    world().RunUntilIdle();
  }
  EXPECT_EQ(Told(all),
            absl::StrCat(Changed("user:1"), Changed("use"), Changed("u2"), Changed("v")));
  EXPECT_EQ(Told(some), absl::StrCat(Changed("user:1"), Changed("u2")));
  EXPECT_EQ(Told(both), absl::StrCat(Changed("user:1"), Changed("user:1"), Changed("use"),
                                     Changed("use"), Changed("u2"), Changed("v")));
  Ask(some, "CLIENT TRACKING OFF");
  Ask(writer, "SET user:1 v1");
  EXPECT_EQ(Told(some), "");
  EXPECT_EQ(Told(all), Changed("user:1"));
}

TEST_F(TrackingTest, AnotherClientIsToldWhicheverWorkerItHas) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    WorldOptions options;
    options.seed = seed;
    Make(options, 3);
    SimClient* target = world().Connect();
    Ask(target, "SUBSCRIBE __redis__:invalidate");
    SimClient* target3 = world().Connect();
    const int64_t id3 = IdOf(target3);
    Ask(target3, "HELLO 3");
    SimClient* admin = Writer();
    const std::string list = Ask(admin, "CLIENT LIST TYPE PUBSUB");
    const size_t at = list.find("id=") + 3;
    const std::string id = list.substr(at, list.find(' ', at) - at);
    SimClient* client = Tracker(absl::StrCat("REDIRECT ", id), "2");
    SimClient* client3 = Tracker(absl::StrCat("REDIRECT ", id3), "2");
    EXPECT_EQ(Ask(client, "CLIENT GETREDIR"), absl::StrCat(":", id, "\r\n"));
    SimClient* writer = Writer();
    Ask(client, "GET a");
    Ask(client3, "GET b");
    Ask(writer, "SET a v1");
    Ask(writer, "SET b v1");
    EXPECT_EQ(Told(target), Message("a"));
    EXPECT_EQ(Told(target3), Changed("b"));
    // Behind the replies of the one that asked.
    NodeOf("a").HoldAllButInvalidations(true);
    client->SendCommand("GET a");
    world().RunFor(10 * kMillisecond);
    writer->SendCommand("SET a v2");
    world().RunFor(kSecond);
    EXPECT_EQ(target->TakeReceived(), "");
    NodeOf("a").HoldAllButInvalidations(false);
    EXPECT_EQ(Told(target), Message("a"));
    EXPECT_EQ(client->TakeReceived(), "$2\r\nv1\r\n");
    writer->TakeReceived();
    // Gone: it is told of that, when there is something to tell.
    target->Close();
    world().RunUntilIdle();
    Ask(client, "HELLO 3");
    Ask(client, "GET a");
    EXPECT_EQ(Told(client), "");
    Ask(writer, "SET a v3");
    EXPECT_EQ(Told(client), absl::StrCat(">2\r\n$21\r\ntracking-redir-broken\r\n:", id, "\r\n"));
    EXPECT_THAT(Ask(client, "CLIENT TRACKINGINFO"), HasSubstr("broken_redirect"));
    EXPECT_EQ(Ask(client, absl::StrCat("CLIENT TRACKING ON REDIRECT ", id)),
              "-ERR The client ID you want redirect to does not exist\r\n");
    EXPECT_EQ(Ask(client, "CLIENT TRACKING ON"), "+OK\r\n");
    Ask(client, "GET a");
    Ask(writer, "SET a v4");
    EXPECT_EQ(Told(client), Changed("a"));
  }
}

TEST_F(TrackingTest, ReadsOfClientsThatTrackGoToPrimaries) {
  Make({.configure = [](proxy::Config* config) {
    config->read_prefer = cluster::ReadPrefer::kReplica;
  }});
  SimClient* client = Tracker();
  ClearJournals();
  for (int i = 0; i < 50; ++i) Ask(client, absl::StrCat("GET k", i));
  for (int i = 0; i < cluster().size(); ++i) {
    EXPECT_EQ(cluster().node(i)->journal().empty(), !cluster().node(i)->IsPrimary());
  }
}

// Whatever happens: when all is quiet, no client has in its cache what is not there any more.
TEST_F(TrackingTest, NoClientKeepsAnOldValue) {
  size_t told = 0, kept = 0;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    WorldOptions options;
    options.seed = seed;
    options.configure = [seed](proxy::Config* config) {
      if (seed % 5 == 0) config->tracking_keys_max = 20;
    };
    Make(options, 2);
    Random* const random = world().random();
    std::vector<std::unique_ptr<CachingClient>> clients;
    for (int i = 0; i < 6; ++i) {
      clients.push_back(std::make_unique<CachingClient>(Tracker(i % 3 == 2 ? "BCAST" : "")));
    }
    std::vector<std::string> keys;
    for (int i = 0; i < 40; ++i) keys.push_back(absl::StrCat("k", i));
    const auto any_key = [&]() -> const std::string& { return keys[random->Below(keys.size())]; };
    SimClient* writer = Writer();
    const int faults = static_cast<int>(seed % 4);  // 0: none
    for (int step = 0; step < 300; ++step) {
      CachingClient& client = *clients[random->Below(clients.size())];
      if (!client.ended()) {
        for (uint64_t i = random->Below(4); i > 0; --i) client.Get(any_key());
        if (random->Chance(0.2)) client.Set(any_key(), absl::StrCat("v", step));
      }
      for (uint64_t i = random->Below(2); i > 0; --i) {
        writer->SendCommand(absl::StrCat("SET ", any_key(), " w", step, ".", i));
      }
      if (faults > 0 && random->Chance(0.05)) {
        const std::vector<int> primaries = cluster().Primaries();
        const int node = primaries[random->Below(primaries.size())];
        const cluster::Slot slot = cluster::SlotOf(any_key());
        switch (random->Below(6)) {
          case 0:
            cluster().node(node)->DropTrackers();
            break;
          case 1:
            cluster().node(node)->DropConnections();
            break;
          case 2:
            cluster().MoveSlots({slot}, OtherThan(cluster().OwnerOf(slot)));
            break;
          case 3:
            cluster().BeginMigration(slot, OtherThan(cluster().OwnerOf(slot)));
            break;
          case 4:
            cluster().MigrateAllKeys(slot);
            cluster().EndMigration(slot);
            break;
          default:
            if (faults < 3 || cluster().ReplicasOf(node).empty()) break;
            if (random->Chance(0.5)) cluster().node(node)->Kill();
            cluster().FailOver(cluster().ReplicasOf(node)[0], random->Chance(0.5));
            break;
        }
      }
      world().RunFor(static_cast<Nanos>(random->Below(2000)) * kMicrosecond);
      for (const auto& each : clients) each->Read();
      ASSERT_EQ(world().failure(), "");
    }
    cluster().Heal();
    world().RunFor(20 * kSecond);
    SimClient* reader = Writer();
    for (const auto& each : clients) {
      each->Read();
      told += each->told();
      if (each->ended()) continue;
      EXPECT_EQ(each->outstanding(), 0u);
      for (const auto& [key, value] : each->cache()) {
        ++kept;
        const std::string now = Ask(reader, absl::StrCat("GET ", key));
        EXPECT_EQ(value, now == "$-1\r\n" ? "_\r\n" : now) << key;
      }
    }
  }
  EXPECT_GT(told, 1000u);
  EXPECT_GT(kept, 1000u);
}

}  // namespace
}  // namespace sim
