// CLIENT LIST, KILL, PAUSE and REPLY in scenarios with several workers: what of them only time,
// order and faults can show.

#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "tests/sim/scenario.h"

namespace sim {
namespace {

class ClientAdminTest : public ScenarioTest {
 protected:
  ClientAdminTest() { Make({}, 3); }

  // The lines of CLIENT LIST.
  std::vector<std::string> List(SimClient* client) {
    std::vector<std::string> lines =
        absl::StrSplit(Ask(client, "CLIENT LIST"), '\n', absl::SkipEmpty());
    lines.erase(lines.begin());  // "$…"
    if (!lines.empty() && lines.back() == "\r") lines.pop_back();
    return lines;
  }
  int64_t IdOf(SimClient* client) {
    int64_t id = 0;
    EXPECT_TRUE(absl::SimpleAtoi(Ask(client, "CLIENT ID").substr(1), &id));
    return id;
  }
};

TEST_F(ClientAdminTest, AnyClientSeesThoseOfAllWorkers) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    WorldOptions options;
    options.seed = seed;
    Make(options, 3);
    std::vector<SimClient*> clients;
    for (int i = 0; i < 6; ++i) clients.push_back(world().Connect());
    for (SimClient* client : clients) Ask(client, "PING");
    // All at once: each has its own answer.
    for (SimClient* client : clients) {
      client->TakeReceived();
      client->SendCommand("CLIENT LIST");
      client->SendCommand("PING");
    }
    world().RunUntilIdle();
    for (SimClient* client : clients) {
      const std::string received = client->TakeReceived();
      EXPECT_TRUE(absl::EndsWith(received, "\r\n+PONG\r\n")) << received;
      EXPECT_EQ(std::count(received.begin(), received.end(), '\n'), 6 + 3) << received;
    }
  }
}

TEST_F(ClientAdminTest, AKilledClientHasEndedWhenTheReplyIsThere) {
  SimClient* admin = world().Connect();
  std::vector<SimClient*> others;
  for (int i = 0; i < 5; ++i) others.push_back(world().Connect());
  Ask(admin, "PING");
  for (SimClient* other : others) {
    EXPECT_EQ(Ask(admin, absl::StrCat("CLIENT KILL ID ", IdOf(other))), ":1\r\n");
    EXPECT_EQ(Ask(admin, absl::StrCat("CLIENT KILL ID ", IdOf(admin))), ":0\r\n");
    world().RunUntilIdle();
    EXPECT_TRUE(other->ended() || other->was_reset());
  }
  EXPECT_EQ(List(admin).size(), 1u);
}

TEST_F(ClientAdminTest, TheAskerMayGoBeforeTheAnswer) {
  SimClient* stays = world().Connect();
  Ask(stays, "PING");
  for (int i = 0; i < 20; ++i) {
    SimClient* goes = world().Connect();
    Ask(goes, "PING");
    goes->SendCommand("CLIENT LIST");
    goes->SendCommand("CLIENT PAUSE 1");
    world().RunFor(i * 20 * kMicrosecond);
    goes->Abort();
  }
  world().RunUntilIdle();
  EXPECT_EQ(List(stays).size(), 1u);
}

TEST_F(ClientAdminTest, WithinATransactionTheyRunWithExecInTheirPlaces) {
  SimClient* client = world().Connect();
  Ask(client, "SET {t}a before");
  for (int i = 0; i < 6; ++i) {
    SimClient* other = world().Connect();
    const std::string kill = absl::StrCat("CLIENT KILL ID ", IdOf(other));
    client->TakeReceived();
    NodeOf("{t}a").HoldReplies(true);
    for (const absl::string_view words :
         {absl::string_view("GET {t}none"), absl::string_view("MULTI"),
          absl::string_view("SET {t}a v"), absl::string_view(kill), absl::string_view("GET {t}a"),
          absl::string_view("CLIENT LIST ID 1234567"), absl::string_view("CLIENT SETNAME me"),
          absl::string_view("EXEC"), absl::string_view("CLIENT GETNAME")}) {
      client->SendCommand(words);
    }
    world().RunFor(100 * kMillisecond);
    EXPECT_FALSE(other->ended() || other->was_reset());
    NodeOf("{t}a").HoldReplies(false);
    world().RunUntilIdle();
    EXPECT_EQ(client->TakeReceived(),
              absl::StrCat("$-1\r\n+OK\r\n", Repeated("+QUEUED\r\n", 5),
                           "*5\r\n+OK\r\n:1\r\n$1\r\nv\r\n$0\r\n\r\n+OK\r\n$2\r\nme\r\n"));
    EXPECT_TRUE(other->ended() || other->was_reset());
  }
}

TEST_F(ClientAdminTest, TheClientOfATransactionMayGoAtAnyTime) {
  SimClient* stays = world().Connect();
  Ask(stays, "PING");
  for (int i = 0; i < 40; ++i) {
    SimClient* goes = world().Connect();
    Ask(goes, i % 2 == 0 ? "PING" : "WATCH {t}w");
    for (const absl::string_view words : {"MULTI", "CLIENT LIST", "SET {t}a v", "CLIENT UNBLOCK 1",
                                          "GET {t}a", "CLIENT LIST", "EXEC", "PING"}) {
      goes->SendCommand(words);
    }
    world().RunFor(i * 20 * kMicrosecond);
    if (i % 3 == 0) {
      goes->HalfClose();
    } else {
      goes->Abort();
    }
  }
  world().RunUntilIdle();
  EXPECT_EQ(List(stays).size(), 1u);
}

TEST_F(ClientAdminTest, ATransactionWithoutAnswersOfOtherWorkersIsAnsweredInADrain) {
  Ask(world().Connect(), "SET {t}a v");
  SimClient* client = world().Connect();
  Ask(client, "PING");
  NodeOf("{t}a").HoldReplies(true);
  for (const absl::string_view words : {"MULTI", "GET {t}a", "CLIENT LIST ID 1234567", "EXEC"}) {
    client->SendCommand(words);
  }
  world().RunFor(100 * kMillisecond);
  world().BeginShutdown();
  world().RunFor(500 * kMillisecond);
  NodeOf("{t}a").HoldReplies(false);
  world().RunFor(kSecond);
  EXPECT_TRUE(absl::EndsWith(client->received(), "*2\r\n$1\r\nv\r\n$0\r\n\r\n"))
      << client->received();
}

TEST_F(ClientAdminTest, WorkersThatHaveEndedAreNotWaitedFor) {
  Ask(world().Connect(), "SET a v");
  SimClient* client = world().Connect();
  Ask(client, "PING");
  // Its worker still drains, the others have ended, when the list is asked for.
  NodeOf("a").HoldReplies(true);
  client->SendCommand("DBSIZE");
  client->SendCommand("CLIENT LIST");
  world().RunFor(100 * kMillisecond);
  world().BeginShutdown();
  world().RunFor(500 * kMillisecond);
  EXPECT_EQ(client->received(), "");
  NodeOf("a").HoldReplies(false);
  world().RunFor(kSecond);
  const std::string received = client->TakeReceived();
  EXPECT_TRUE(absl::StartsWith(received, ":1\r\n$")) << received;
  EXPECT_TRUE(absl::StrContains(received, "cmd=client|list")) << received;
}

TEST_F(ClientAdminTest, APauseHoldsTheWritesOfAllWorkersInTheirOrder) {
  std::vector<SimClient*> clients;
  for (int i = 0; i < 6; ++i) clients.push_back(world().Connect());
  Ask(clients[0], "SET a before");
  EXPECT_EQ(Ask(clients[0], "CLIENT PAUSE 2000 WRITE"), "+OK\r\n");
  ClearJournals();
  for (SimClient* client : clients) {
    client->TakeReceived();
    client->SendCommand("GET a");
    client->SendCommand("SET a after");
    client->SendCommand("GET a");
  }
  world().RunFor(kSecond);
  for (SimClient* client : clients) EXPECT_EQ(client->received(), "$6\r\nbefore\r\n");
  EXPECT_THAT(Journal("SET"), testing::IsEmpty());
  world().RunFor(2 * kSecond);
  for (SimClient* client : clients) {
    EXPECT_EQ(client->TakeReceived(), "$6\r\nbefore\r\n+OK\r\n$5\r\nafter\r\n");
  }
}

// The servers do not tell in COMMAND that these may write.
TEST_F(ClientAdminTest, APauseOfWritesHoldsWhatMayWrite) {
  for (const absl::string_view words :
       {"EVAL set 1 a v", "EVALSHA 0000000000000000000000000000000000000000 1 a", "PUBLISH c m"}) {
    SCOPED_TRACE(words);
    SimClient* client = world().Connect();
    SimClient* reader = world().Connect();
    Ask(reader, "PING");
    EXPECT_EQ(Ask(client, "CLIENT PAUSE 2000 WRITE"), "+OK\r\n");
    client->SendCommand(words);
    world().RunFor(kSecond);
    EXPECT_EQ(client->received(), "");
    EXPECT_NE(Ask(reader, "GET a"), "");
    world().RunFor(2 * kSecond);
    EXPECT_TRUE(Complete(client->TakeReceived()));
  }
}

TEST_F(ClientAdminTest, ALongerPauseOfMoreStaysWhatItIs) {
  SimClient* client = world().Connect();
  // The second one is sent with the first, before that holds.
  SimClient* other = world().Connect();
  Ask(other, "PING");
  EXPECT_EQ(Ask(client, "CLIENT PAUSE 3000 WRITE"), "+OK\r\n");
  EXPECT_EQ(Ask(client, "CLIENT PAUSE 1000 WRITE"), "+OK\r\n");
  client->SendCommand("SET a v");
  world().RunFor(2 * kSecond);
  EXPECT_EQ(client->received(), "");
  world().RunFor(2 * kSecond);
  EXPECT_EQ(client->TakeReceived(), "+OK\r\n");
}

TEST_F(ClientAdminTest, ADrainEndsAPause) {
  SimClient* client = world().Connect();
  SimClient* half_closed = world().Connect();
  Ask(half_closed, "PING");
  EXPECT_EQ(Ask(client, "CLIENT PAUSE 99999999"), "+OK\r\n");
  client->SendCommand("PING");
  half_closed->SendCommand("SET a v");
  world().RunFor(100 * kMillisecond);
  half_closed->HalfClose();
  world().RunFor(kSecond);
  EXPECT_EQ(client->received(), "");
  EXPECT_FALSE(half_closed->ended());
  world().BeginShutdown();
  world().RunFor(kSecond);
  EXPECT_EQ(client->TakeReceived(), "+PONG\r\n");
  EXPECT_EQ(half_closed->TakeReceived(), "+OK\r\n");
}

TEST_F(ClientAdminTest, RepliesOnTheirWayComeBeforeTheModeChanges) {
  SimClient* client = world().Connect();
  Ask(client, "SET a v");
  NodeOf("a").HoldReplies(true);
  for (absl::string_view words : {"GET a", "CLIENT REPLY SKIP", "GET a", "ECHO x", "GET a",
                                  "CLIENT REPLY OFF", "GET a", "CLIENT REPLY ON", "ECHO y"}) {
    client->SendCommand(words);
  }
  for (int i = 0; i < 10; ++i) {
    world().RunFor(20 * kMillisecond);
    NodeOf("a").HoldReplies(false);
    world().RunFor(20 * kMillisecond);
    NodeOf("a").HoldReplies(true);
  }
  NodeOf("a").HoldReplies(false);
  world().RunUntilIdle();
  EXPECT_EQ(client->TakeReceived(), "$1\r\nv\r\n$1\r\nx\r\n$1\r\nv\r\n+OK\r\n$1\r\ny\r\n");
}

TEST_F(ClientAdminTest, RedirectionsAreFollowedWithoutReplies) {
  SimClient* client = world().Connect();
  Ask(client, "SET {t}a v1");
  const int from = NodeOf("{t}a").number();
  cluster().options()->gossip_min = cluster().options()->gossip_max = 5 * kSecond;
  cluster().BeginMigration(cluster::SlotOf("{t}a"), OtherThan(from));
  cluster().MigrateAllKeys(cluster::SlotOf("{t}a"));
  cluster().EndMigration(cluster::SlotOf("{t}a"));
  for (absl::string_view words :
       {"CLIENT REPLY OFF", "SET {t}a v2", "GET {t}a", "CLIENT REPLY ON", "GET {t}a"}) {
    client->SendCommand(words);
  }
  world().RunFor(10 * kSecond);
  EXPECT_EQ(client->TakeReceived(), "+OK\r\n$2\r\nv2\r\n");
}

}  // namespace
}  // namespace sim
