// Publish and subscribe in a simulated world: where the proxy is subscribed, and what its clients
// get while nodes fail and slots move.

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proxy/glob.h"
#include "tests/sim/scenario.h"
#include "tests/sim/world.h"

namespace sim {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;
using ::testing::SizeIs;

std::string Message(absl::string_view channel, absl::string_view text) {
  return Command({"message", channel, text});
}

class PubSubTest : public ScenarioTest {
 protected:
  uint64_t Sum(proxy::Counter proxy::WorkerStats::*member) { return world().stats()->Sum(member); }
  // A client that is subscribed.
  SimClient* Subscriber(absl::string_view command) {
    SimClient* client = world().Connect();
    Ask(client, command);
    return client;
  }
  std::string Publish(SimClient* publisher, absl::string_view channel, absl::string_view text) {
    return Ask(publisher, absl::StrCat("PUBLISH ", channel, " ", text));
  }
  // By node.
  std::vector<size_t> Subscribers(absl::string_view topic) {
    std::vector<size_t> counts;
    for (int i = 0; i < cluster().size(); ++i) {
      counts.push_back(cluster().node(i)->Subscribers(topic));
    }
    return counts;
  }
  size_t Everywhere(absl::string_view topic) {
    const std::vector<size_t> counts = Subscribers(topic);
    return std::accumulate(counts.begin(), counts.end(), size_t{0});
  }
  bool OnlyAt(const FakeNode& node, absl::string_view topic) {
    std::vector<size_t> wanted(static_cast<size_t>(cluster().size()), 0);
    wanted[static_cast<size_t>(node.number())] = 1;
    return Subscribers(topic) == wanted;
  }
  // The texts of the messages that the client has got, all of that channel.
  std::vector<int> Texts(SimClient* client, absl::string_view channel) {
    std::vector<int> texts;
    absl::string_view bytes = client->received();
    const std::string begin =
        absl::StrCat("*3\r\n$7\r\nmessage\r\n$", channel.size(), "\r\n", channel, "\r\n$");
    while (absl::StartsWith(bytes, begin)) {
      bytes.remove_prefix(begin.size());
      bytes.remove_prefix(bytes.find('\n') + 1);
      texts.push_back(atoi(std::string(bytes.substr(0, bytes.find('\r'))).c_str()));
      bytes.remove_prefix(bytes.find('\n') + 1);
    }
    EXPECT_EQ(bytes, "");
    return texts;
  }

  // What a client gets of numbered messages to a channel whose slot is moved three times, each
  // `between` after the one before.
  std::vector<int> TextsWhileMoving(int messages, Nanos between) {
    SimClient* client = Subscriber("SUBSCRIBE a");
    client->TakeReceived();
    SimClient* publisher = world().Connect();
    const cluster::Slot slot = cluster::SlotOf("a");
    Nanos next_move = world().now() + 100 * kMillisecond;
    int moves = 0;
    for (int i = 0; i < messages; ++i) {
      if (moves < 3 && world().now() >= next_move) {
        cluster().MoveSlots({slot}, OtherThan(cluster().OwnerOf(slot)));
        next_move += between;
        ++moves;
      }
      // Redirected after a move: so the proxy hears of it.
      if (i % 10 == 0) Ask(publisher, "GET a");
      Publish(publisher, "a", absl::StrCat(i));
      world().RunFor(kMillisecond * static_cast<Nanos>(world().random()->Below(5)));
    }
    EXPECT_EQ(moves, 3);
    world().RunFor(2 * kSecond);
    EXPECT_TRUE(OnlyAt(NodeOf("a"), "channel:a"));
    return Texts(client, "a");
  }
  // 0 and what follows.
  static std::vector<int> Numbers(int count) {
    std::vector<int> numbers(static_cast<size_t>(count));
    std::iota(numbers.begin(), numbers.end(), 0);
    return numbers;
  }
};

TEST_F(PubSubTest, OneSubscriptionAtTheChannelsHomeForAllClients) {
  std::vector<SimClient*> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(world().Connect());
    EXPECT_EQ(Ask(clients.back(), "SUBSCRIBE a"), "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
  }
  EXPECT_TRUE(OnlyAt(NodeOf("a"), "channel:a"));
  EXPECT_EQ(NodeOf("a").commands("SUBSCRIBE"), 1u);
  SimClient* publisher = world().Connect();
  EXPECT_EQ(Publish(publisher, "a", "hello"), ":20\r\n");
  world().RunUntilIdle();
  for (SimClient* client : clients) EXPECT_EQ(client->received(), Message("a", "hello"));
  // The last one that leaves ends it, a little later.
  for (SimClient* client : clients) client->Close();
  world().RunFor(3 * kSecond);
  EXPECT_THAT(Subscribers("channel:a"), ::testing::Each(0u));
  EXPECT_EQ(Sum(&proxy::WorkerStats::subscribed_topics), 0u);
  EXPECT_EQ(Sum(&proxy::WorkerStats::subscriptions), 0u);
  EXPECT_EQ(Publish(publisher, "a", "again"), ":0\r\n");
}

// The subscription ends at its node a while after the last client has left, at some moment between
// a node's reply to a question and the proxy's.
TEST_F(PubSubTest, WhatNobodyIsSubscribedToIsNotToldWhileTheSubscriptionEnds) {
  const struct {
    absl::string_view subscribe, unsubscribe, topic, question, nobody;
  } cases[] = {
      {"SUBSCRIBE a", "UNSUBSCRIBE a", "channel:a", "PUBSUB CHANNELS", "*0\r\n"},
      {"SUBSCRIBE a", "UNSUBSCRIBE a", "channel:a", "PUBSUB NUMSUB a", "*2\r\n$1\r\na\r\n:0\r\n"},
      {"PSUBSCRIBE a*", "PUNSUBSCRIBE a*", "pattern:a*", "PUBSUB NUMPAT", ":0\r\n"},
      {"SUBSCRIBE a", "UNSUBSCRIBE a", "channel:a", "PUBLISH a x", ":0\r\n"},
      {"SSUBSCRIBE a", "SUNSUBSCRIBE a", "shard:a", "SPUBLISH a x", ":0\r\n"},
  };
  for (const auto& each : cases) {
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      SCOPED_TRACE(absl::StrCat(each.question, ", seed ", seed));
      Make({.seed = seed});
      SimClient* client = Subscriber(each.subscribe);
      Ask(client, each.unsubscribe);
      SimClient* asker = world().Connect();
      world().RunFor(990 * kMillisecond);
      EXPECT_EQ(Ask(asker, each.question), each.nobody);
      EXPECT_GT(Everywhere(each.topic), 0u);
      int asked = 0;
      const bool ended = world().RunUntil(
          [&] {
            asker->Send(absl::StrCat(each.question, "\r\n"));
            ++asked;
            world().RunFor(20 * kMicrosecond);
            return Everywhere(each.topic) == 0;
          },
          3 * kSecond);
      EXPECT_TRUE(ended);
      world().RunUntilIdle();
      std::string expected;
      for (int i = 0; i < asked; ++i) expected.append(each.nobody.data(), each.nobody.size());
      EXPECT_EQ(asker->received(), expected);
    }
  }
}

TEST_F(PubSubTest, APatternGetsEachMessageOnceWhereverItWasPublished) {
  SimClient* client = Subscriber("PSUBSCRIBE c*");
  client->TakeReceived();
  SimClient* publisher = world().Connect();
  std::string expected;
  for (int i = 0; i < 30; ++i) {
    EXPECT_EQ(Publish(publisher, absl::StrCat("c", i), "x"), ":1\r\n");
    world().RunFor(5 * kMillisecond);
    absl::StrAppend(&expected, Command({"pmessage", "c*", absl::StrCat("c", i), "x"}));
  }
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), expected);
}

TEST_F(PubSubTest, WhatMayMatchKeyEventsIsSubscribedToAtAllPrimariesAndOthersCountOnce) {
  SimClient* client = Subscriber("PSUBSCRIBE *");
  client->TakeReceived();
  for (const int primary : cluster().Primaries()) {
    EXPECT_EQ(cluster().node(primary)->Subscribers("pattern:*"), 1u);
  }
  SimClient* publisher = world().Connect();
  std::string expected;
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(Publish(publisher, absl::StrCat("c", i), "x"), ":1\r\n");
    world().RunFor(5 * kMillisecond);
    absl::StrAppend(&expected, Command({"pmessage", "*", absl::StrCat("c", i), "x"}));
  }
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), expected);
}

TEST_F(PubSubTest, PublishesToOneHomeFollowEachOtherAndOthersWaitForAllBefore) {
  SimClient* publisher = world().Connect();
  Publish(publisher, "a", "0");
  NodeOf("a").HoldReplies(true);
  const uint64_t before = NodeOf("a").commands("PUBLISH");
  publisher->Send(Repeated("PUBLISH a x\r\n", 20));
  publisher->Send("SET a v\r\nPUBLISH a y\r\n");
  world().RunFor(kSecond);
  EXPECT_EQ(NodeOf("a").commands("PUBLISH") - before, 20u);
  NodeOf("a").HoldReplies(false);
  world().RunUntilIdle();
  EXPECT_EQ(NodeOf("a").commands("PUBLISH") - before, 21u);
  EXPECT_EQ(publisher->received(), absl::StrCat(Repeated(":0\r\n", 20), "+OK\r\n:0\r\n"));
}

TEST_F(PubSubTest, ANodeThatIsAwayGivesAnErrorInTimeAndNothingIsSubscribed) {
  NodeOf("a").SetHung(true);
  SimClient* client = world().Connect();
  const Nanos begin = world().now();
  const std::string reply = Ask(client, "SUBSCRIBE a");
  EXPECT_TRUE(absl::StrContains(reply, "(not executed)")) << reply;
  EXPECT_LT(world().now() - begin, 6 * kSecond);
  EXPECT_EQ(Ask(client, "PING"), "+PONG\r\n");
  NodeOf("a").SetHung(false);
  world().RunUntilIdle();
  EXPECT_EQ(Ask(client, "SUBSCRIBE a"), "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
}

TEST_F(PubSubTest, ASilentNodeIsGivenUpWithinTheReplyDeadline) {
  SimClient* client = Subscriber("SUBSCRIBE a");
  const int number = NodeOf("a").number();
  cluster().node(number)->SetHung(true);
  world().RunFor(7 * kSecond);
  EXPECT_EQ(Sum(&proxy::WorkerStats::subscriptions_lost), 1u);
  cluster().node(number)->SetHung(false);
  EXPECT_TRUE(
      world().RunUntil([&] { return NodeOf("a").Subscribers("channel:a") == 1; }, 3 * kSecond));
  world().RunUntilIdle();
  client->TakeReceived();
  SimClient* publisher = world().Connect();
  EXPECT_EQ(Publish(publisher, "a", "x"), ":1\r\n");
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), Message("a", "x"));
}

TEST_F(PubSubTest, ALostConnectionIsReplacedAndTheClientSeesNothingOfIt) {
  SimClient* client = Subscriber("SUBSCRIBE a");
  client->TakeReceived();
  SimClient* publisher = world().Connect();
  for (int i = 0; i < 5; ++i) {
    NodeOf("a").DropConnections();
    world().RunFor(20 * kMillisecond);
    EXPECT_TRUE(
        world().RunUntil([&] { return NodeOf("a").Subscribers("channel:a") == 1; }, 3 * kSecond));
    world().RunUntilIdle();
    EXPECT_EQ(Publish(publisher, "a", absl::StrCat(i)), ":1\r\n");
    world().RunUntilIdle();
  }
  EXPECT_THAT(Texts(client, "a"), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_EQ(Sum(&proxy::WorkerStats::subscriptions_lost), 5u);
}

// However the two nodes' streams arrive.
TEST_F(PubSubTest, ASlotMoveLosesNothingRepeatsNothingAndKeepsTheOrder) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    Make({.seed = seed});
    const std::vector<int> texts = TextsWhileMoving(900, 500 * kMillisecond);
    EXPECT_EQ(absl::StrJoin(texts, " "), absl::StrJoin(Numbers(900), " "));
  }
}

// The new home is not known to be subscribed to when the slot leaves it again: what was published
// there may come after what was published at the next one.
TEST_F(PubSubTest, SlotMovesInQuickSuccessionLoseNothingAndRepeatNothing) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    Make({.seed = seed});
    std::vector<int> texts =
        TextsWhileMoving(400, static_cast<Nanos>(seed % 20) * 15 * kMillisecond);
    std::sort(texts.begin(), texts.end());
    EXPECT_EQ(absl::StrJoin(texts, " "), absl::StrJoin(Numbers(400), " "));
  }
}

TEST_F(PubSubTest, AfterAFailoverTheNewPrimaryIsSubscribedToAndNothingIsLostFromThenOn) {
  SimClient* client = Subscriber("SUBSCRIBE a");
  SimClient* shard = Subscriber("SSUBSCRIBE a");
  client->TakeReceived();
  shard->TakeReceived();
  const int primary = NodeOf("a").number();
  const int replica = cluster().ReplicasOf(primary)[0];
  cluster().node(primary)->Kill();
  world().RunFor(kSecond);
  cluster().FailOver(replica, false);
  EXPECT_TRUE(world().RunUntil(
      [&] {
        return NodeOf("a").Subscribers("channel:a") == 1 && NodeOf("a").Subscribers("shard:a") == 1;
      },
      5 * kSecond));
  world().RunUntilIdle();
  SimClient* publisher = world().Connect();
  EXPECT_EQ(Publish(publisher, "a", "1"), ":1\r\n");
  EXPECT_EQ(Ask(publisher, "SPUBLISH a 2"), ":1\r\n");
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), Message("a", "1"));
  EXPECT_EQ(shard->received(), Command({"smessage", "a", "2"}));
  cluster().Heal();
}

TEST_F(PubSubTest, AShardChannelFollowsItsSlotWithoutAWordToTheClient) {
  SimClient* client = Subscriber("SSUBSCRIBE a");
  client->TakeReceived();
  SimClient* publisher = world().Connect();
  const cluster::Slot slot = cluster::SlotOf("a");
  std::string expected;
  for (int i = 0; i < 5; ++i) {
    cluster().MoveSlots({slot}, OtherThan(cluster().OwnerOf(slot)));
    EXPECT_TRUE(
        world().RunUntil([&] { return NodeOf("a").Subscribers("shard:a") == 1; }, 3 * kSecond));
    world().RunUntilIdle();
    EXPECT_TRUE(OnlyAt(NodeOf("a"), "shard:a"));
    EXPECT_EQ(Ask(publisher, "SPUBLISH a x"), ":1\r\n");
    absl::StrAppend(&expected, Command({"smessage", "a", "x"}));
    world().RunUntilIdle();
  }
  EXPECT_EQ(client->received(), expected);
}

TEST_F(PubSubTest, RefusalsOfANodeReachTheClientAndMovedIsFollowed) {
  NodeOf("a").AnswerNext("SUBSCRIBE", "-NOPERM no such right\r\n");
  SimClient* client = world().Connect();
  EXPECT_EQ(Ask(client, "SUBSCRIBE a b"), "-NOPERM no such right\r\n");
  EXPECT_EQ(Ask(client, "GET x"), "$-1\r\n");  // subscribed to neither
  const int other = OtherThan(NodeOf("a").number());
  NodeOf("a").AnswerNext("SSUBSCRIBE", absl::StrCat("-MOVED ", cluster::SlotOf("a"), " ",
                                                    cluster().node(other)->HostPort(), "\r\n"));
  EXPECT_EQ(Ask(client, "SSUBSCRIBE a"), "*3\r\n$10\r\nssubscribe\r\n$1\r\na\r\n:1\r\n");
}

TEST_F(PubSubTest, ASlowSubscriberIsClosedAndCountedAndOthersAreNot) {
  SimClient* slow = Subscriber("SUBSCRIBE a");
  SimClient* quick = Subscriber("SUBSCRIBE a");
  slow->PauseReading(true);
  SimClient* publisher = world().Connect();
  const std::string text(kMillisecond, 'x');
  for (int i = 0; i < 40; ++i) {
    publisher->Send(Command({"PUBLISH", "a", text}));
    world().RunUntilIdle(20 * kMillisecond);
  }
  world().RunFor(kSecond);
  EXPECT_EQ(Sum(&proxy::WorkerStats::slow_subscriber_closed), 1u);
  EXPECT_EQ(Sum(&proxy::WorkerStats::slow_client_closed), 0u);
  EXPECT_FALSE(quick->ended());
}

// Clients come, change and go while nodes fail in every way.
TEST_F(PubSubTest, ThroughAllFaultsNobodyGetsAForeignMessageAndInTheEndAllIsWell) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(seed);
    Make({.seed = seed});
    Random* random = world().random();
    std::vector<std::string> channels = {"a", "b", "c", "d", "e"};
    struct Listener {
      SimClient* client;
      std::string channel;
    };
    std::vector<Listener> listeners;
    SimClient* publisher = world().Connect();
    for (int step = 0; step < 60; ++step) {
      const std::string& channel = channels[random->Below(channels.size())];
      switch (random->Below(7)) {
        case 0:
        case 1:
          listeners.push_back({world().Connect(), channel});
          listeners.back().client->SendCommand(absl::StrCat("SUBSCRIBE ", channel));
          break;
        case 2:
          if (!listeners.empty()) {
            const size_t i = random->Below(listeners.size());
            if (!listeners[i].client->connected()) break;
            listeners[i].client->Close();
            listeners.erase(listeners.begin() + static_cast<ptrdiff_t>(i));
          }
          break;
        case 3:
          cluster().node(static_cast<int>(random->Below(6)))->DropConnections();
          break;
        case 4:
          cluster().MoveSlots({cluster::SlotOf(channel)},
                              OtherThan(cluster().OwnerOf(cluster::SlotOf(channel))));
          break;
        case 5: {
          const int primary = cluster().NodeOf(channel)->number();
          const std::vector<int> replicas = cluster().ReplicasOf(primary);
          if (!replicas.empty() && cluster().MayTakeOver(replicas[0])) {
            cluster().SwitchOver(replicas[0]);
          }
          break;
        }
        default:
          publisher->SendCommand(absl::StrCat("PUBLISH ", channel, " of-", channel));
      }
      world().RunFor(static_cast<Nanos>(random->Below(50)) * kMillisecond);
    }
    cluster().Heal();
    world().RunFor(8 * kSecond);
    ASSERT_EQ(world().failure(), "");
    for (const Listener& listener : listeners) {
      for (const std::string& other : channels) {
        if (other == listener.channel) continue;
        EXPECT_FALSE(absl::StrContains(listener.client->received(), absl::StrCat("of-", other)));
      }
      EXPECT_FALSE(absl::StrContains(listener.client->received(), "unsubscribe"));
      listener.client->TakeReceived();
    }
    for (const std::string& channel : channels) {
      const auto count =
          std::count_if(listeners.begin(), listeners.end(),
                        [&](const Listener& each) { return each.channel == channel; });
      EXPECT_EQ(Publish(publisher, channel, absl::StrCat("end-", channel)),
                absl::StrCat(":", count, "\r\n"));
    }
    world().RunUntilIdle();
    for (const Listener& listener : listeners) {
      EXPECT_EQ(listener.client->received(),
                Message(listener.channel, absl::StrCat("end-", listener.channel)));
    }
  }
}

}  // namespace
}  // namespace sim
