// What waits by asking again and again: BLPOP and its like over several slots, WAIT.

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/sim/scenario.h"
#include "tests/sim/world.h"

namespace sim {
namespace {

using ::testing::EndsWith;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr absl::string_view kWrongType =
    "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";

// "a", "b" and "c" are in three shards.
class PopOverSlotsTest : public ScenarioTest {
 protected:
  SimClient* Blocked(absl::string_view words) {
    SimClient* client = world().Connect();
    client->SendCommand(words);
    world().RunFor(kSecond);
    EXPECT_EQ(client->received(), "");
    return client;
  }
  std::string Wait(SimClient* client, Nanos limit = 60 * kSecond) {
    world().RunUntil([&] { return Complete(client->received()) || client->ended(); }, limit);
    return client->TakeReceived();
  }
  uint64_t Pops() { return Journal("LPOP").size(); }
};

std::string Popped(absl::string_view key, absl::string_view element) {
  return Command({key, element});
}

TEST_F(PopOverSlotsTest, TakesWhatIsThereInTheOrderOfTheKeys) {
  SimClient* client = world().Connect();
  for (absl::string_view key : {"a", "b", "c"}) {
    Ask(client, absl::StrCat("RPUSH ", key, " x"));
    Ask(client, absl::StrCat("RPUSH ", key, " y"));
  }
  EXPECT_EQ(Ask(client, "BLPOP b a c 0"), Popped("b", "x"));
  EXPECT_EQ(Ask(client, "BRPOP b a c 0"), Popped("b", "y"));
  EXPECT_EQ(Ask(client, "BRPOP b a c 0"), Popped("a", "y"));
  EXPECT_EQ(Ask(client, "BLPOP b a c 0"), Popped("a", "x"));
  EXPECT_EQ(Ask(client, "BLPOP b a c 0"), Popped("c", "x"));
  EXPECT_EQ(Ask(client, "LLEN c"), ":1\r\n");
}

TEST_F(PopOverSlotsTest, WhatIsNoListIsAnErrorWhenItIsItsTurn) {
  SimClient* client = world().Connect();
  Ask(client, "SET b text");
  EXPECT_EQ(Ask(client, "BLPOP a b c 0"), kWrongType);
  EXPECT_EQ(Ask(client, "BLPOP b a c 0"), kWrongType);
  Ask(client, "RPUSH c e1");
  EXPECT_EQ(Ask(client, "BLPOP a b c 0"), kWrongType);
  EXPECT_EQ(Ask(client, "BLPOP a c b 0"), Popped("c", "e1"));
}

TEST_F(PopOverSlotsTest, WaitsForWhatComesAndOthersDoNotWait) {
  SimClient* other = world().Connect();
  SimClient* client = Blocked("BLPOP a b c 0");
  const Nanos begin = world().now();
  EXPECT_EQ(Ask(other, "RPUSH c e1"), ":1\r\n");
  EXPECT_LT(world().now() - begin, 10 * kMillisecond);
  EXPECT_EQ(Wait(client), Popped("c", "e1"));
  EXPECT_LT(world().now() - begin, 130 * kMillisecond);
  EXPECT_EQ(Ask(other, "LLEN c"), ":0\r\n");
}

TEST_F(PopOverSlotsTest, AnswersWhenItsTimeIsUp) {
  SimClient* client = world().Connect();
  for (const Nanos timeout : {10 * kMillisecond, 1234 * kMillisecond}) {
    const Nanos begin = world().now();
    const std::string words = absl::StrCat("BLPOP a b ", static_cast<double>(timeout) / kSecond);
    EXPECT_EQ(Ask(client, words), "*-1\r\n");
    EXPECT_GE(world().now() - begin, timeout);
    EXPECT_LT(world().now() - begin, timeout + 10 * kMillisecond);
  }
}

TEST_F(PopOverSlotsTest, WhatComesBehindItIsAnsweredBehindIt) {
  SimClient* other = world().Connect();
  SimClient* client = world().Connect();
  for (absl::string_view words : {"SET k v", "BLPOP a b 0", "GET k"}) client->SendCommand(words);
  world().RunFor(kSecond);
  EXPECT_EQ(client->received(), "+OK\r\n");
  Ask(other, "RPUSH b e1");
  const std::string wanted = absl::StrCat("+OK\r\n", Popped("b", "e1"), "$1\r\nv\r\n");
  world().RunUntil([&] { return client->received() == wanted; });
  EXPECT_EQ(client->received(), wanted);
}

TEST_F(PopOverSlotsTest, NothingIsTakenForWhoHasGone) {
  SimClient* other = world().Connect();
  std::vector<SimClient*> gone;
  for (int i = 0; i < 20; ++i) gone.push_back(Blocked("BLPOP a b c 0"));
  for (size_t i = 0; i < gone.size(); ++i) i % 2 == 0 ? gone[i]->Close() : gone[i]->Abort();
  world().RunFor(5 * kMillisecond);
  for (absl::string_view key : {"a", "b", "c"}) Ask(other, absl::StrCat("RPUSH ", key, " e1"));
  world().RunFor(kSecond);
  for (absl::string_view key : {"a", "b", "c"}) {
    EXPECT_EQ(Ask(other, absl::StrCat("LLEN ", key)), ":1\r\n");
  }
}

TEST_F(PopOverSlotsTest, EndsWithTheInputOfItsClientButNotBeforeWhatIsThere) {
  SimClient* other = world().Connect();
  SimClient* client = Blocked("BLPOP a b 0");
  client->HalfClose();
  EXPECT_EQ(Wait(client, kSecond), "");
  EXPECT_TRUE(client->ended());
  Ask(other, "RPUSH b e1");
  client = world().Connect();
  ClearJournals();
  client->SendCommand("BLPOP a b 0");
  world().RunUntil([&] { return Pops() > 0; });  // "a" was looked at
  client->HalfClose();
  EXPECT_EQ(Wait(client, kSecond), Popped("b", "e1"));
  client = world().Connect();
  ClearJournals();
  client->SendCommand("BLPOP a b 0");
  world().RunUntil([&] { return Pops() > 0; });  // "a" was looked at
  client->HalfClose();
  EXPECT_EQ(Wait(client, kSecond), "");
  EXPECT_TRUE(client->ended());
}

TEST_F(PopOverSlotsTest, ATakenElementThatDoesNotComeIsToldAndNoOtherIsTaken) {
  SimClient* other = world().Connect();
  SimClient* client = Blocked("BLPOP a b 0");
  ClearJournals();
  Ask(other, "RPUSH b e1");
  other->SendCommand("RPUSH a e2");
  world().RunUntil([&] { return Pops() > 0; });
  // It was executed, and the reply is lost.
  for (const int number : cluster().Primaries()) cluster().node(number)->DropConnections();
  EXPECT_EQ(Wait(client), kLost);
  world().RunFor(kSecond);
  EXPECT_EQ(Pops(), 1u);
}

TEST_F(PopOverSlotsTest, WaitsOnWhenConnectionsAreLostAndNodesAreReplaced) {
  SimClient* other = world().Connect();
  SimClient* client = Blocked("BLPOP a b 0");
  for (int i = 0; i < 20; ++i) {
    NodeOf(i % 2 == 0 ? "a" : "b").DropConnections();
    world().RunFor(77 * kMillisecond);
  }
  EXPECT_EQ(client->received(), "");
  const int old = NodeOf("b").number();
  cluster().node(old)->Kill();
  world().RunFor(kSecond);
  cluster().FailOver(cluster().ReplicasOf(old)[0], false);
  cluster().SpreadNews();
  world().RunFor(kSecond);
  EXPECT_EQ(client->received(), "");
  EXPECT_EQ(Ask(other, "RPUSH b e1"), ":1\r\n");
  EXPECT_EQ(Wait(client), Popped("b", "e1"));
}

TEST_F(PopOverSlotsTest, ASlotThatNobodyServesIsAnErrorInTheEnd) {
  SimClient* client = Blocked("BLPOP a b 0");
  SimClient* timed = Blocked("BLPOP a b 4");
  NodeOf("b").Kill();
  EXPECT_THAT(Wait(client), StartsWith("-CLUSTERDOWN proxy: "));
  // Nothing came in its time: whatever the reason.
  EXPECT_EQ(Wait(timed), "*-1\r\n");
}

TEST_F(PopOverSlotsTest, FindsWhatIsPushedWhileItsSlotMoves) {
  SimClient* other = world().Connect();
  for (int i = 0; i < 6; ++i) {
    SimClient* client = Blocked("BLPOP a b 0");
    const cluster::Slot slot = cluster::SlotOf("b");
    const int to = OtherThan(NodeOf("b").number());
    cluster().BeginMigration(slot, to);
    world().RunFor(300 * kMillisecond);
    if (i % 2 == 0) {
      Ask(other, absl::StrCat("RPUSH b e", i));
      EXPECT_EQ(Wait(client), Popped("b", absl::StrCat("e", i)));
    }
    cluster().MigrateAllKeys(slot);
    cluster().EndMigration(slot);
    world().RunFor(300 * kMillisecond);
    if (i % 2 == 1) {
      Ask(other, absl::StrCat("RPUSH b e", i));
      EXPECT_EQ(Wait(client), Popped("b", absl::StrCat("e", i)));
    }
  }
}

TEST_F(PopOverSlotsTest, EachElementGoesToOneWhateverMoves) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(seed);
    Make({.seed = seed});
    constexpr int kElements = 300;
    std::vector<SimClient*> clients;
    for (int i = 0; i < 10; ++i) {
      clients.push_back(world().Connect());
      clients.back()->SendCommand(i % 2 == 0 ? "BLPOP a b c 0" : "BRPOP c b a 0");
    }
    SimClient* pusher = world().Connect();
    std::multiset<std::string> taken;
    const auto collect = [&] {
      for (size_t i = 0; i < clients.size(); ++i) {
        if (!Complete(clients[i]->received())) continue;
        const std::string reply = clients[i]->TakeReceived();
        ASSERT_THAT(reply, StartsWith("*2\r\n"));
        const std::vector<absl::string_view> parts = resp::ElementsOf(reply);
        absl::string_view element;
        ASSERT_TRUE(resp::ParseText(parts[1], &element));
        taken.insert(std::string(element));
        clients[i]->SendCommand(i % 2 == 0 ? "BLPOP a b c 0" : "BRPOP c b a 0");
      }
    };
    for (int i = 0; i < kElements; ++i) {
      const absl::string_view key = i % 3 == 0 ? "a" : i % 3 == 1 ? "b" : "c";
      Ask(pusher, absl::StrCat("RPUSH ", key, " e", i));
      collect();
      world().RunFor(static_cast<Nanos>(world().random()->Below(20)) * kMillisecond);
      const cluster::Slot slot = cluster::SlotOf(key);
      switch (world().random()->Below(12)) {
        case 0:
          if (!cluster().IsMigrating(slot)) {
            cluster().BeginMigration(slot, OtherThan(cluster().OwnerOf(slot)));
          }
          break;
        case 1:
          if (cluster().IsMigrating(slot)) {
            cluster().MigrateAllKeys(slot);
            cluster().EndMigration(slot);
          }
          break;
        case 2: {
          const auto replicas = cluster().ReplicasOf(cluster().OwnerOf(slot));
          if (!replicas.empty()) cluster().SwitchOver(replicas[0]);
          break;
        }
        default:
          break;
      }
    }
    cluster().Heal();
    world().RunUntil([&] {
      collect();
      return taken.size() >= kElements;
    });
    world().RunFor(kSecond);
    collect();
    EXPECT_EQ(taken.size(), static_cast<size_t>(kElements));
    EXPECT_EQ(std::set<std::string>(taken.begin(), taken.end()).size(), taken.size());
  }
}

TEST_F(PopOverSlotsTest, ManyThatWaitAskForNoMoreThanIsBearable) {
  SimClient* other = world().Connect();
  Ask(other, "SET k v");
  const auto looks = [&](Nanos duration) {
    ClearJournals();
    world().RunFor(duration);
    return Journal("LLEN").size();
  };
  std::vector<SimClient*> clients;
  for (int i = 0; i < 10; ++i) clients.push_back(world().Connect());
  for (SimClient* client : clients) client->SendCommand("BLPOP a b c 0");
  world().RunFor(2 * kSecond);
  const size_t few = looks(10 * kSecond);
  EXPECT_GT(few, 10u * 3 * 80);
  EXPECT_LE(few, 10u * 3 * 101);
  for (int i = 0; i < 1990; ++i) {
    clients.push_back(world().Connect());
    clients.back()->SendCommand("BLPOP a b c 0");
  }
  world().RunFor(2 * kSecond);
  const size_t many = looks(2 * kSecond);
  EXPECT_GT(many, 20000u);
  EXPECT_LE(many, 44000u);
}

class WaitTest : public ScenarioTest {
 protected:
  int ReplicaOf(absl::string_view key) { return cluster().ReplicasOf(NodeOf(key).number())[0]; }
};

TEST_F(WaitTest, CountsTheReplicasThatHaveWhatTheClientWrote) {
  SimClient* client = world().Connect();
  for (absl::string_view key : {"a", "b", "c"}) Ask(client, absl::StrCat("SET ", key, " v"));
  const Nanos begin = world().now();
  EXPECT_EQ(Ask(client, "WAIT 1 0"), ":1\r\n");
  EXPECT_LT(world().now() - begin, 50 * kMillisecond);
}

TEST_F(WaitTest, WaitsUntilTheTimeIsUpForAReplicaThatHasNotTakenIt) {
  SimClient* client = world().Connect();
  FakeNode* replica = cluster().node(ReplicaOf("b"));
  replica->SetHung(true);
  Ask(client, "SET b v");
  const Nanos begin = world().now();
  EXPECT_EQ(Ask(client, "WAIT 1 500"), ":0\r\n");
  EXPECT_GE(world().now() - begin, 500 * kMillisecond);
  EXPECT_LT(world().now() - begin, 520 * kMillisecond);
  EXPECT_EQ(Ask(client, "WAIT 0 0"), ":0\r\n");
  client->SendCommand("WAIT 1 0");
  client->SendCommand("PING");
  world().RunFor(10 * kSecond);
  EXPECT_EQ(client->received(), "");
  replica->SetHung(false);
  world().RunUntil([&] { return client->received().size() == 11; }, kSecond);
  EXPECT_EQ(client->received(), ":1\r\n+PONG\r\n");
}

TEST_F(WaitTest, OthersDoNotWait) {
  SimClient* client = world().Connect();
  SimClient* other = world().Connect();
  cluster().node(ReplicaOf("b"))->SetHung(true);
  Ask(client, "SET b v");
  client->SendCommand("WAIT 1 0");
  world().RunFor(kSecond);
  for (int i = 0; i < 50; ++i) {
    const Nanos begin = world().now();
    EXPECT_EQ(Ask(other, "SET b w"), "+OK\r\n");
    EXPECT_LT(world().now() - begin, 5 * kMillisecond);
  }
}

TEST_F(WaitTest, WhoHasWrittenNothingHasItOnAllReplicas) {
  SimClient* client = world().Connect();
  SimClient* other = world().Connect();
  cluster().node(ReplicaOf("b"))->SetHung(true);
  Ask(other, "SET b v");
  EXPECT_EQ(Ask(client, "GET b"), "$1\r\nv\r\n");
  EXPECT_EQ(Ask(client, "WAIT 1 0"), ":1\r\n");
  EXPECT_EQ(Ask(client, "WAIT 2 100"), ":1\r\n");
  // It is nothing that WAIT itself counts for.
  EXPECT_EQ(Ask(client, "WAIT 1 0"), ":1\r\n");
}

TEST_F(WaitTest, TheShardWithTheFewestIsWhatCounts) {
  SimClient* client = world().Connect();
  cluster().node(ReplicaOf("c"))->Kill();
  world().RunFor(kSecond);
  Ask(client, "SET a v");
  EXPECT_EQ(Ask(client, "WAIT 1 300"), ":1\r\n");  // nothing was written where none is left
  Ask(client, "SET c v");
  EXPECT_EQ(Ask(client, "WAIT 1 300"), ":0\r\n");
  SimClient* reader = world().Connect();
  EXPECT_EQ(Ask(reader, "WAIT 1 300"), ":0\r\n");
}

TEST_F(WaitTest, EndsWhenAPrimaryIsReplaced) {
  SimClient* client = world().Connect();
  const int old = NodeOf("b").number();
  const int replica = ReplicaOf("b");
  Ask(client, "SET b v");
  client->TakeReceived();
  client->SendCommand("WAIT 2 0");
  world().RunFor(kSecond);
  EXPECT_EQ(client->received(), "");
  cluster().node(old)->Kill();
  world().RunFor(100 * kMillisecond);
  cluster().FailOver(replica, true);
  cluster().SpreadNews();
  world().RunUntil([&] { return !client->received().empty(); });
  EXPECT_EQ(client->TakeReceived(),
            "-UNBLOCKED force unblock from blocking operation, instance state changed "
            "(master -> replica?)\r\n");
  // And again, of what is there now: the old one is no replica yet.
  EXPECT_EQ(Ask(client, "WAIT 1 200"), ":0\r\n");
}

TEST_F(WaitTest, LostConnectionsAreMadeAnew) {
  SimClient* client = world().Connect();
  cluster().node(ReplicaOf("b"))->SetHung(true);
  Ask(client, "SET b v");
  client->TakeReceived();
  client->SendCommand("WAIT 1 0");
  for (int i = 0; i < 20; ++i) {
    world().RunFor(77 * kMillisecond);
    NodeOf("b").DropConnections();
  }
  EXPECT_EQ(client->received(), "");
  cluster().node(ReplicaOf("b"))->SetHung(false);
  world().RunUntil([&] { return !client->received().empty(); }, 2 * kSecond);
  EXPECT_EQ(client->received(), ":1\r\n");
}

TEST_F(WaitTest, SaysWhatIsWrongWithItsArguments) {
  SimClient* client = world().Connect();
  EXPECT_EQ(Ask(client, "WAIT x 0"), "-ERR value is not an integer or out of range\r\n");
  EXPECT_EQ(Ask(client, "WAIT 1 x"), "-ERR timeout is not an integer or out of range\r\n");
  EXPECT_EQ(Ask(client, "WAIT 1 -1"), "-ERR timeout is negative\r\n");
  EXPECT_EQ(Ask(client, "WAIT -1 0"), ":1\r\n");
}

TEST_F(WaitTest, ADrainDoesNotWaitForIt) {
  SimClient* client = world().Connect();
  client->SendCommand("WAIT 5 0");
  world().RunFor(kSecond);
  const Nanos begin = world().now();
  world().Shutdown();
  EXPECT_LT(world().now() - begin, 2 * kSecond);
  EXPECT_EQ(client->received(), "");
}

}  // namespace
}  // namespace sim
