// Faults and limits (tests/FAULTS.md), one scenario each, in a simulated world. The first word of a
// test's name is the row that it shows.

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/sim/scenario.h"
#include "tests/sim/world.h"

namespace sim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr uint64_t kMib = 1 << 20;
constexpr absl::string_view kNoOwner =
    "-CLUSTERDOWN proxy: slot 15495 has no reachable owner (not executed)\r\n";  // of "a"
constexpr absl::string_view kOutOfMemory = "-OOM proxy memory limit (not executed)\r\n";

class FaultsTest : public ScenarioTest {
 protected:
  uint64_t Sum(proxy::Counter proxy::WorkerStats::*member) { return world().stats()->Sum(member); }
  uint64_t Charged() { return Sum(&proxy::WorkerStats::charged_bytes); }
  proxy::ControlStats& control() { return *world().stats()->control(); }
  size_t LogLines(absl::string_view text) {
    return static_cast<size_t>(
        std::count_if(world().log().begin(), world().log().end(),
                      [&](const std::string& line) { return absl::StrContains(line, text); }));
  }
  static size_t Occurrences(absl::string_view text, absl::string_view of) {
    const std::vector<absl::string_view> parts = absl::StrSplit(text, of);
    return parts.size() - 1;
  }
  // `bytes` behind "SET key".
  static std::string Set(absl::string_view key, size_t bytes) {
    return Command({"SET", key, std::string(bytes, 'x')});
  }
  void ExpectNoWaitForLong(SimClient* client);
  void SetValue(absl::string_view key, size_t bytes) {
    SimClient* client = world().Connect();
    client->Send(Set(key, bytes));
    world().RunUntil([&] { return client->received() == "+OK\r\n"; });
    client->Close();
    world().RunUntilIdle(10 * kMillisecond);
  }
  // A client for which the proxy keeps `key`'s value: the reply before it is held back by `held`'s
  // node (see HoldReplies).
  SimClient* Holder(absl::string_view held, absl::string_view key) {
    SimClient* client = world().Connect();
    client->SendCommand(absl::StrCat("GET ", held));
    client->SendCommand(absl::StrCat("GET ", key));
    return client;
  }
};

// --- clients

TEST_F(FaultsTest, C1_L7_AClientOverItsOutputLimitIsClosedAndCountedAndOthersAreNot) {
  Make({.configure = [](proxy::Config* config) { config->client_output_bytes_max = 4 * kMib; }});
  SetValue("a", 100000);
  SimClient* slow = world().Connect();
  SimClient* other = world().Connect();
  world().RunUntilIdle(10 * kMillisecond);
  slow->PauseReading(true);
  slow->Send(Repeated("GET a\r\n", 200));  // some are taken before any reply tells their size
  world().RunFor(kSecond);
  EXPECT_EQ(Sum(&proxy::WorkerStats::slow_client_closed), 1u);
  EXPECT_EQ(Sum(&proxy::WorkerStats::clients_open), 1u);
  EXPECT_EQ(Ask(other, "GET b"), "$-1\r\n");
  EXPECT_LT(Charged(), kMib);
}

// A client that reads nothing at all is given up by the kernel even before that (C5).
TEST_F(FaultsTest, C1_L7_MoreThan32MibForAMinuteIsTooSlow) {
  SetValue("a", 36 * kMib);
  SetValue("b", 36 * kMib);
  std::vector<SimClient*> clients;
  for (absl::string_view key : {"a", "b"}) {
    clients.push_back(world().Connect());
    Ask(clients.back(), absl::StrCat("GET {", key, "}"));
    clients.back()->TakeReceived();
    // An earlier reply is missing, and comes late: all of the large one is kept.
    NodeOf("d").HoldReplies(true);
    clients.back()->SendCommand("GET d");
    clients.back()->SendCommand(absl::StrCat("GET ", key));
  }
  SimClient* const slow = clients[0];
  SimClient* const lucky = clients[1];
  world().RunUntil([&] { return Charged() > 70 * kMib; }, 4 * kSecond);
  const Nanos begin = world().now();
  for (SimClient* client : clients) client->PauseReading(true);
  NodeOf("d").HoldReplies(false);
  const auto read_slowly_until = [&](Nanos when) {
    while (world().now() < begin + when) {
      slow->PauseReading(false);
      world().RunFor(50 * kMicrosecond);
      slow->PauseReading(true);
      world().RunFor(10 * kSecond - 50 * kMicrosecond);
    }
  };
  read_slowly_until(20 * kSecond);
  EXPECT_GT(Charged(), 64 * kMib);
  lucky->PauseReading(false);  // in time
  read_slowly_until(50 * kSecond);
  EXPECT_EQ(Sum(&proxy::WorkerStats::slow_client_closed), 0u);
  read_slowly_until(70 * kSecond);
  EXPECT_EQ(Sum(&proxy::WorkerStats::slow_client_closed), 1u);
  EXPECT_EQ(lucky->received().size(), 5u + 36 * kMib + 13);
}

// Exact, whatever the pace, and nobody else waits.
TEST_F(FaultsTest, C1_ASlowReaderGetsEveryByteAndOthersTheirs) {
  SetValue("a", 3 * kMib);
  SimClient* slow = world().Connect();
  SimClient* other = world().Connect();
  world().RunUntilIdle(10 * kMillisecond);
  const uint64_t before = Charged();
  slow->PauseReading(true);
  slow->SendCommand("GET a");
  slow->SendCommand("GET b");
  std::string expected =
      absl::StrCat("$", 3 * kMib, "\r\n", std::string(3 * kMib, 'x'), "\r\n$-1\r\n");
  for (int i = 0; i < 2000 && slow->received().size() < expected.size(); ++i) {
    slow->PauseReading(i % 4 != 0);
    world().RunFor(100 * kMicrosecond);
    slow->PauseReading(true);
    const Nanos begin = world().now();
    ASSERT_EQ(Ask(other, "GET a2{a}"), "$-1\r\n");
    ASSERT_LE(world().now() - begin, 10 * kMillisecond);
    ASSERT_LE(Charged() - before, 4 * kMib);
  }
  slow->PauseReading(false);
  world().RunUntilIdle();
  EXPECT_TRUE(slow->received() == expected);
}

// Though its client reads as fast as it can: what is not sent yet goes on another connection.
TEST_F(FaultsTest, C1_NothingThatIsNotSentYetWaitsBehindALargeReply) {
  for (const size_t mib : {2, 64}) {
    SCOPED_TRACE(mib);
    SetValue("a", mib * kMib);
    SimClient* large = world().Connect();
    SimClient* other = world().Connect();
    ASSERT_EQ(Ask(other, "GET a2{a}"), "$-1\r\n");
    const size_t expected = mib * kMib + (mib < 10 ? 12 : 13);
    const uint64_t connections = NodeOf("a").commands("CLUSTER MYID");
    large->SendCommand("GET a");
    ASSERT_TRUE(world().RunUntil([&] { return !large->received().empty(); }, kSecond));
    ASSERT_EQ(Ask(other, "GET a2{a}"), "$-1\r\n");
    EXPECT_EQ(large->received().size() < expected / 2, mib > 4);
    world().RunUntilIdle();
    EXPECT_EQ(large->received().size(), expected);
    // A connection costs more than the transfer of a smaller one.
    EXPECT_EQ(NodeOf("a").commands("CLUSTER MYID") - connections, mib > 4 ? 1u : 0u);
    large->Close();
  }
}

// No request is taken while replies that are there, or on their way, fill the output.
TEST_F(FaultsTest, C2_L7_WhoNeverReadsStopsBeingReadAndIsNotClosed) {
  for (const size_t bytes : {20000, 100000}) {
    SCOPED_TRACE(bytes);
    SetValue("a", bytes);
    ClearJournals();
    SimClient* client = world().Connect();
    client->Send(Repeated("GET a\r\n", 50));
    world().RunUntil(
        [&] { return client->received().size() == 50 * (bytes + 10 + bytes / 100000); }, kSecond);
    client->TakeReceived();
    client->PauseReading(true);
    client->Send(Repeated("GET a\r\n", 4000));
    world().RunFor(10 * kSecond);
    EXPECT_LE(Charged(), 2 * kMib + bytes);
    EXPECT_LT(Journal("GET a").size(), 250u);
    EXPECT_EQ(Sum(&proxy::WorkerStats::clients_open), 1u);
    client->PauseReading(false);
    world().RunUntilIdle();
    EXPECT_EQ(client->received().size() / 4000, bytes + 10 + bytes / 100000);
    client->Close();
    world().RunUntilIdle();
  }
}

// What waits behind a slow node is output, too.
TEST_F(FaultsTest, C2_L7_RepliesThatWaitBehindASlowNodeStopTheirClient) {
  SetValue("b", 20000);
  SimClient* client = world().Connect();
  world().RunUntilIdle(10 * kMillisecond);
  NodeOf("a").HoldReplies(true);
  client->SendCommand("GET a");
  for (int i = 0; i < 4000; ++i) {
    client->SendCommand("GET b");
    if (i % 8 == 0) world().RunFor(kMillisecond);
  }
  EXPECT_LE(Charged(), 2 * kMib + 20000);
  NodeOf("a").HoldReplies(false);
  world().RunUntilIdle();
  EXPECT_EQ(client->received().size(), 5u + 4000u * (20000 + 10));
}

TEST_F(FaultsTest, C4_AResetAtAnyByteLeavesNothingBehind) {
  const std::string pipeline = Command({"INCR", "a"}) + Command({"MGET", "a", "b", "c"}) +
                               Set("b", 30) + Command({"GET", "b"});
  SimClient* other = world().Connect();
  for (size_t bytes = 0; bytes <= pipeline.size(); ++bytes) {
    SCOPED_TRACE(bytes);
    SimClient* client = world().Connect();
    NodeOf("a").HoldReplies(true);
    client->Send(pipeline.substr(0, bytes));
    world().RunFor(kMillisecond);
    client->Abort();
    world().RunFor(kMillisecond);
    NodeOf("a").HoldReplies(false);
    ASSERT_EQ(Ask(other, "GET d"), "$-1\r\n");
    world().RunFor(kMillisecond);
    ASSERT_EQ(Sum(&proxy::WorkerStats::clients_open), 1u);
    ASSERT_EQ(Sum(&proxy::WorkerStats::requests_in_flight), 0u);
    ASSERT_EQ(Charged(), 0u);
  }
}

TEST_F(FaultsTest, C5_AClientThatVanishedWithAReplyOnItsWayIsClosed) {
  SetValue("a", kMib);
  SimClient* client = world().Connect();
  world().RunUntilIdle(10 * kMillisecond);
  client->PauseReading(true);
  client->SendCommand("GET a");
  world().RunFor(10 * kMillisecond);
  world().net()->SetUnreachable(world().address(), true);
  world().RunFor(20 * kSecond);
  EXPECT_EQ(Sum(&proxy::WorkerStats::clients_open), 1u);
  world().RunFor(70 * kSecond);
  EXPECT_EQ(Sum(&proxy::WorkerStats::clients_open), 0u);
  EXPECT_EQ(Charged(), 0u);
  world().net()->SetUnreachable(world().address(), false);
}

// However it cuts its bytes, a client takes no more of a turn than its share.
TEST_F(FaultsTest, C8_AFloodTakesAtMost256CommandsOfATurn) {
  // Each buffer holds fewer than 256 commands, many come in one turn.
  Make({.ring = {.client_buffers = 64, .buffer_bytes = 1024}});
  SimClient* flood = world().Connect();
  SimClient* other = world().Connect();
  world().RunUntilIdle(10 * kMillisecond);
  flood->Send(Repeated("PING\r\n", 20000));
  uint64_t turns = Sum(&proxy::WorkerStats::turns);
  uint64_t requests = Sum(&proxy::WorkerStats::requests);
  uint64_t most = 0;
  other->SendCommand("GET b");
  while (world().RunUntil([&] { return Sum(&proxy::WorkerStats::turns) > turns; }, kSecond)) {
    const uint64_t taken = Sum(&proxy::WorkerStats::requests) - requests;
    most = std::max(most, taken);
    ASSERT_LE(taken, 256u + 1) << "in one turn";
    turns = Sum(&proxy::WorkerStats::turns);
    requests = Sum(&proxy::WorkerStats::requests);
  }
  EXPECT_GE(most, 256u);
  world().RunUntilIdle();
  EXPECT_EQ(flood->received().size(), 20000u * 7);
  EXPECT_EQ(other->received(), "$-1\r\n");
}

TEST_F(FaultsTest, C8_AFloodOfLargeRequestsTakesAtMost256KibOfATurn) {
  SimClient* flood = world().Connect();
  SimClient* other = world().Connect();
  world().RunUntilIdle(10 * kMillisecond);
  constexpr size_t kBytes = 20000;
  for (int i = 0; i < 300; ++i) flood->Send(Command({"ECHO", std::string(kBytes, 'x')}));
  uint64_t turns = Sum(&proxy::WorkerStats::turns);
  uint64_t requests = Sum(&proxy::WorkerStats::requests);
  while (world().RunUntil([&] { return Sum(&proxy::WorkerStats::turns) > turns; }, kSecond)) {
    const uint64_t taken = Sum(&proxy::WorkerStats::requests) - requests;
    ASSERT_LE(taken, 1 + (256 << 10) / kBytes) << "in one turn";
    turns = Sum(&proxy::WorkerStats::turns);
    requests = Sum(&proxy::WorkerStats::requests);
  }
  EXPECT_EQ(flood->received().size(), 300u * (kBytes + 10));
  EXPECT_EQ(Ask(other, "GET b"), "$-1\r\n");
}

// While one client floods, another's request is answered in the turns that it needs anyway.
TEST_F(FaultsTest, C8_AFloodDelaysOthersByNoMoreThanItsShare) {
  SimClient* flood = world().Connect();
  SimClient* other = world().Connect();
  world().RunUntilIdle(10 * kMillisecond);
  const auto turns_needed = [&] {
    const uint64_t before = Sum(&proxy::WorkerStats::turns);
    EXPECT_EQ(Ask(other, "GET b"), "$-1\r\n");
    return Sum(&proxy::WorkerStats::turns) - before;
  };
  const uint64_t alone = turns_needed();
  flood->Send(Repeated("PING\r\n", 1000000));
  world().RunFor(5 * kMillisecond);
  const uint64_t before = Sum(&proxy::WorkerStats::requests);
  // The clock does not stop for work in this world: what counts is how much of the flood is served
  // meanwhile.
  const uint64_t beside = turns_needed();
  EXPECT_LE(Sum(&proxy::WorkerStats::requests) - before, 256 * (beside + 1));
  EXPECT_LE(beside, 30 * std::max<uint64_t>(alone, 5));
  flood->Close();
}

TEST_F(FaultsTest, C16_AFanOutOverAllSlotsHoldsNoMoreThanTwiceItsPayload) {
  SimClient* client = world().Connect();
  std::vector<std::string> words = {"MSET"};
  const std::string value(600, 'v');
  for (int i = 0; i < 20000; ++i) {
    words.push_back(absl::StrCat("key:", i));
    words.push_back(value);
  }
  const std::string mset = Command(std::vector<absl::string_view>(words.begin(), words.end()));
  uint64_t most = 0;
  const auto watch = [&](const std::string& request, size_t reply_bytes) {
    client->TakeReceived();
    client->Send(request);
    world().RunUntil([&] {
      most = std::max(most, Charged());
      return client->received().size() >= reply_bytes;
    });
  };
  watch(mset, 5);
  EXPECT_EQ(client->received(), "+OK\r\n");
  EXPECT_LE(most, 2 * mset.size());
  std::vector<absl::string_view> keys = {"MGET"};
  std::string expected = "*20000\r\n";
  for (size_t i = 1; i < words.size(); i += 2) {
    keys.push_back(words[i]);
    absl::StrAppend(&expected, "$600\r\n", value, "\r\n");
  }
  const std::string mget = Command(keys);
  most = 0;
  watch(mget, expected.size());
  EXPECT_TRUE(client->received() == expected);
  EXPECT_LE(most, 2 * (mget.size() + expected.size()));
  EXPECT_EQ(Charged(), 0u);
}

// --- limits

TEST_F(FaultsTest, L5_InputThatCannotBeServedIsNotRead) {
  SimClient* client = world().Connect();
  // So that it is known for small replies.
  client->Send(Repeated("GET {a}\r\n", 200));
  world().RunUntilIdle();
  NodeOf("a").SetHung(true);
  const std::string request = Set("a", 500);
  client->TakeReceived();
  for (int i = 0; i < 20000; ++i) client->Send(request);
  world().RunFor(kSecond);
  const uint64_t taken = Sum(&proxy::WorkerStats::requests_in_flight);
  EXPECT_EQ(taken, world().config().requests_per_client_max);  // L6
  EXPECT_LE(Charged(), taken * request.size() + kMib);
  world().RunFor(3 * kSecond);
  EXPECT_EQ(Sum(&proxy::WorkerStats::requests_in_flight), taken);
  NodeOf("a").SetHung(false);
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), Repeated("+OK\r\n", 20000));
}

TEST_F(FaultsTest, L5_BeforeAuthenticationTooMuchInputEndsTheConnection) {
  Make({.configure = [](proxy::Config* config) { config->password = "secret"; }});
  SimClient* client = world().Connect();
  std::string input = "*8\r\n$4\r\nAUTH\r\n";
  for (int i = 0; i < 4; ++i)
    absl::StrAppend(&input, "$15000\r\n", std::string(15000, 'x'), "\r\n");
  client->Send(input);
  world().RunFor(100 * kMillisecond);
  EXPECT_FALSE(client->ended());
  client->Send(absl::StrCat("$15000\r\n", std::string(15000, 'x')));
  world().RunFor(100 * kMillisecond);
  EXPECT_TRUE(client->ended());
  EXPECT_EQ(Charged(), 0u);
}

TEST_F(FaultsTest, L6_MoreRequestsAreTakenWhenHalfAreAnswered) {
  Make({.configure = [](proxy::Config* config) { config->requests_per_client_max = 100; }});
  SimClient* client = world().Connect();
  client->Send(Repeated("GET {a}\r\n", 200));  // so that it is known for small replies
  world().RunUntilIdle();
  NodeOf("a").set_service_time(kMillisecond, kMillisecond);
  client->TakeReceived();
  client->Send(Repeated("INCR a\r\n", 400));
  world().RunFor(kMillisecond);
  uint64_t most = 0, before = 0, rises = 0, low = 100;
  world().RunUntil([&] {
    const uint64_t now = Sum(&proxy::WorkerStats::requests_in_flight);
    most = std::max(most, now);
    if (now > before) {
      ++rises;
      low = std::min(low, before);
    }
    before = now;
    return absl::EndsWith(client->received(), ":400\r\n");
  });
  EXPECT_EQ(most, 100u);
  EXPECT_LE(rises, 8u);  // by fifties, not one by one
  EXPECT_LE(low, 50u);
}

// Each step of the ladder, one after another, and back.
TEST_F(FaultsTest, L8_MemoryIsKeptBySteps) {
  constexpr uint64_t kLimit = 10 * kMib;
  Make({.configure = [](proxy::Config* config) { config->memory_limit_bytes = kLimit; }});
  const auto percent = [&] { return 100.0 * static_cast<double>(Charged()) / kLimit; };
  SetValue("b", 500000);
  SetValue("b2{b}", 700000);
  SimClient* big = world().Connect();
  SimClient* early = world().Connect();
  std::vector<SimClient*> reserve;
  for (int i = 0; i < 3; ++i) reserve.push_back(world().Connect());
  world().RunUntilIdle(10 * kMillisecond);
  NodeOf("a").HoldReplies(true);
  SimClient* largest = Holder("a", "b2{b}");
  std::vector<SimClient*> holders;
  while (percent() < 80) {
    ASSERT_LT(holders.size(), 40u);
    holders.push_back(Holder("a", "b"));
    world().RunFor(20 * kMillisecond);
  }
  EXPECT_LT(percent(), 86);
  // 80 %: large inputs are not read on, small ones are.
  const uint64_t before = Charged();
  const std::string request = Set("c", 400000);
  big->Send(request);
  world().RunFor(100 * kMillisecond);
  EXPECT_LT(Charged() - before, 300000u);
  EXPECT_EQ(big->received(), "");
  EXPECT_EQ(Ask(early, "SET c small"), "+OK\r\n");
  big->Abort();
  world().RunFor(100 * kMillisecond);
  while (percent() < 90) {
    holders.push_back(Holder("a", "b"));
    world().RunFor(20 * kMillisecond);
  }
  EXPECT_LT(percent(), 95);
  // 90 %: no more clients.
  SimClient* late = world().Connect();
  world().RunFor(100 * kMillisecond);
  EXPECT_TRUE(late->ended());
  EXPECT_EQ(Sum(&proxy::WorkerStats::clients_refused_for_memory), 1u);
  EXPECT_EQ(Ask(early, "SET c small"), "+OK\r\n");
  for (SimClient* client : reserve) {
    if (percent() >= 95) break;
    client->SendCommand("GET a");
    client->SendCommand("GET b");
    world().RunFor(20 * kMillisecond);
  }
  EXPECT_GE(percent(), 95);
  EXPECT_LT(percent(), 100);
  // 95 %: no new commands, but those that need no node.
  EXPECT_EQ(Ask(early, "SET c small"), kOutOfMemory);
  EXPECT_EQ(Ask(early, "MGET b c"), kOutOfMemory);
  EXPECT_EQ(Ask(early, "PING"), "+PONG\r\n");
  EXPECT_EQ(Sum(&proxy::WorkerStats::memory_closed), 0u);
  EXPECT_FALSE(largest->ended());
  // And back.
  NodeOf("a").HoldReplies(false);
  world().RunUntilIdle();
  EXPECT_EQ(Charged(), 0u);
  EXPECT_EQ(Ask(early, "SET c small"), "+OK\r\n");
  EXPECT_EQ(Ask(world().Connect(), "GET c"), "$5\r\nsmall\r\n");
  EXPECT_EQ(largest->received().size(), 5u + 700000 + 11);
}

TEST_F(FaultsTest, L8_AtTheLimitTheClientThatHoldsMostIsClosed) {
  Make({.configure = [](proxy::Config* config) { config->memory_limit_bytes = 10 * kMib; }});
  SetValue("b", 500000);
  SetValue("b2{b}", 700000);
  NodeOf("a").HoldReplies(true);
  SimClient* largest = world().Connect();
  std::vector<SimClient*> others;
  for (int i = 0; i < 25; ++i) others.push_back(world().Connect());
  world().RunUntilIdle(10 * kMillisecond);
  largest->SendCommand("GET a");
  largest->SendCommand("GET b2{b}");
  // All at once: none of them is too much when it is taken.
  for (SimClient* client : others) {
    client->SendCommand("GET a");
    client->SendCommand("GET b");
  }
  world().RunFor(kSecond);
  EXPECT_TRUE(largest->ended());
  EXPECT_GE(Sum(&proxy::WorkerStats::memory_closed), 1u);
  EXPECT_LE(Charged(), 10 * kMib);
  EXPECT_GE(LogLines("memory limit reached: closing the client that holds most"), 1u);
  NodeOf("a").HoldReplies(false);
  world().RunUntilIdle();
  size_t served = 0;
  for (const SimClient* client : others) served += client->received().size() == 5 + 500000 + 11;
  EXPECT_EQ(served + Sum(&proxy::WorkerStats::memory_closed), 26u);
  EXPECT_GE(served, 15u);
}

TEST_F(FaultsTest, L11_ASlowCommandIsGivenMoreTimeAndSoIsWhatWaitsBehindIt) {
  SimClient* client = world().Connect();
  SimClient* other = world().Connect();
  Ask(client, "GET {a}");
  NodeOf("a").set_service_time(12 * kSecond, 12 * kSecond);
  client->SendCommand("EVAL set 1 a x");
  world().RunFor(kMillisecond);
  other->SendCommand("GET d");
  world().RunFor(kMillisecond);
  NodeOf("a").set_service_time(kMicrosecond, kMicrosecond);
  world().RunFor(11 * kSecond);
  EXPECT_EQ(Sum(&proxy::WorkerStats::backend_timeouts), 0u);
  world().RunFor(10 * kSecond);
  EXPECT_EQ(other->received(), "$-1\r\n");
  // It has an end, too.
  NodeOf("a").SetHung(true);
  const Nanos begin = world().now();
  EXPECT_EQ(Ask(client, "EVAL set 1 a y"), kTimeout);
  EXPECT_GE(world().now() - begin, 30 * kSecond);
  EXPECT_LE(world().now() - begin, 31 * kSecond);
}

// The time of what had more, and is answered, is nobody else's.
TEST_F(FaultsTest, L11_ADeadlineIsKeptWhateverWasThereBefore) {
  SimClient* client = world().Connect();
  Ask(client, "GET {a}");
  NodeOf("a").set_service_time(6 * kSecond, 6 * kSecond);
  EXPECT_EQ(Ask(client, "EVAL set 1 a x"), "+OK\r\n");
  NodeOf("a").set_service_time(kMicrosecond, kMicrosecond);
  NodeOf("a").AnswerNext("BLPOP", "*-1\r\n");
  EXPECT_EQ(Ask(client, "BLPOP l{a} 100"), "*-1\r\n");
  NodeOf("a").SetHung(true);
  SimClient* other = world().Connect();
  other->SendCommand("BLPOP l{a} 2");
  const Nanos begin = world().now();
  EXPECT_EQ(Ask(client, "SET a y"), kTimeout);
  EXPECT_LE(world().now() - begin, 5 * kSecond + kMillisecond);
  EXPECT_EQ(other->received(), kTimeout);
}

// A node that sends a byte now and then keeps alive the request whose reply it is, nobody behind
// it.
TEST_F(FaultsTest, L11_PiecesOfOthersRepliesGiveNoMoreTime) {
  SimClient* client = world().Connect();
  SimClient* other = world().Connect();
  Ask(client, "GET {a}");
  NodeOf("a").AnswerNext("GET", "$2\r\n");
  client->SendCommand("GET a");
  world().RunFor(kMillisecond);
  NodeOf("a").set_service_time(100 * kSecond, 100 * kSecond);
  const Nanos begin = world().now();
  other->SendCommand("SET b{a} y");
  world().RunFor(3 * kSecond);
  NodeOf("a").SendUnasked("x");
  world().RunFor(kSecond);
  NodeOf("a").SendUnasked("y\r\n");
  world().RunUntil([&] { return !other->received().empty(); }, 60 * kSecond);
  EXPECT_EQ(client->received(), "$2\r\nxy\r\n");
  EXPECT_EQ(other->received(), kTimeout);
  EXPECT_LE(world().now() - begin, 5 * kSecond + kMillisecond);
}

TEST_F(FaultsTest, L11_BehindAReplyThatTookLongerIsTheWholeTime) {
  SimClient* client = world().Connect();
  SimClient* other = world().Connect();
  Ask(client, "GET {a}");
  NodeOf("a").AnswerNext("GET", "$9\r\n");
  client->SendCommand("GET a");
  world().RunFor(kMillisecond);
  NodeOf("a").AnswerNext("GET", "");
  other->SendCommand("GET b{a}");
  world().RunFor(kMillisecond);
  for (int i = 0; i < 9; ++i) {
    NodeOf("a").SendUnasked("x");
    world().RunFor(kSecond);
  }
  NodeOf("a").SendUnasked("\r\n");
  world().RunFor(4500 * kMillisecond);
  NodeOf("a").SendUnasked("$-1\r\n");
  world().RunFor(kMillisecond);
  EXPECT_EQ(client->received(), "$9\r\nxxxxxxxxx\r\n");
  EXPECT_EQ(other->received(), "$-1\r\n");
  EXPECT_EQ(Sum(&proxy::WorkerStats::backend_timeouts), 0u);
}

// As long as its wait for the cluster may last, and no longer.
TEST_F(FaultsTest, L11_WhatWaitsForAConnectionToOpenIsAnsweredInTime) {
  SimClient* client = world().Connect();
  Ask(client, "GET {a}");
  // A second for each reply of its handshake, or nearly.
  NodeOf("a").set_service_time(900 * kMillisecond, 900 * kMillisecond);
  NodeOf("a").DropConnections();
  world().RunFor(kMillisecond);
  const Nanos begin = world().now();
  EXPECT_THAT(Ask(client, "SET a y"), HasSubstr("(not executed)"));
  EXPECT_GE(world().now() - begin, 5 * kSecond - kMillisecond);
  EXPECT_LE(world().now() - begin, 6 * kSecond);
}

// What it was refused before it was on its way does not take of the time that it has afterwards.
TEST_F(FaultsTest, L11_ARefusalBeginsTheWaitWhateverWasWaitedForBefore) {
  Make({.configure = [](proxy::Config* config) { config->hold_timeout = absl::Seconds(2); }});
  SimClient* client = world().Connect();
  Ask(client, "GET {a}");
  FakeNode& node = NodeOf("a");
  node.set_service_time(200 * kMillisecond, 200 * kMillisecond);
  node.DropConnections();
  world().RunFor(kMillisecond);
  node.set_cluster_down(true);
  client->SendCommand("SET a y");
  world().RunFor(2500 * kMillisecond);
  EXPECT_EQ(client->received(), "");
  node.set_cluster_down(false);
  world().RunFor(kSecond);
  EXPECT_EQ(client->received(), "+OK\r\n");
}

// A block whose connection took too long to open does not keep the place of one that waits there.
TEST_F(FaultsTest, L11_WhatIsGivenBackByAConnectionLeavesNoLease) {
  Make({.configure = [](proxy::Config* config) { config->private_connections_max = 1; }});
  SimClient* client = world().Connect();
  FakeNode& owner = NodeOf("l");
  FakeNode& target = *cluster().node(OtherThan(owner.number()));
  for (int i = 0; i < 10; ++i) {
    owner.AnswerNext("BLPOP",
                     absl::StrCat("-ASK ", cluster::SlotOf("l"), " ", target.HostPort(), "\r\n"));
  }
  // The first ASK is stale when that has opened.
  target.set_service_time(40 * kMillisecond, 40 * kMillisecond);
  target.AnswerNext("BLPOP", "*-1\r\n");
  EXPECT_EQ(Ask(client, "BLPOP l 2"), "*-1\r\n");
  // The wait is over before that has opened.
  target.set_service_time(900 * kMillisecond, 900 * kMillisecond);
  target.DropConnections();
  world().RunFor(kMillisecond);
  EXPECT_THAT(Ask(client, "BLPOP l 0"), HasSubstr("(not executed)"));
  target.set_service_time(kMicrosecond, kMicrosecond);
  world().RunFor(10 * kSecond);
  target.AnswerNext("BLPOP", "*-1\r\n");
  EXPECT_EQ(Ask(client, "BLPOP l 2"), "*-1\r\n");
}

TEST_F(FaultsTest, L12_ForgedRedirectionsAskForAtMostFiveRefreshesASecond) {
  std::vector<SimClient*> clients;
  for (int i = 0; i < 50; ++i) clients.push_back(world().Connect());
  world().RunUntilIdle(10 * kMillisecond);
  const uint64_t before = control().refreshes.Get();
  const Nanos begin = world().now();
  for (int round = 0; round < 100; ++round) {
    for (SimClient* client : clients) {
      client->Send(Command({"EVAL", "fail MOVED 15495 10.0.0.66:6379", "1", "a", "x"}));
    }
    world().RunFor(100 * kMillisecond);
  }
  const auto seconds = static_cast<uint64_t>((world().now() - begin) / kSecond);
  EXPECT_LE(control().refreshes.Get() - before, 5 * seconds + 5);
  EXPECT_GE(control().refreshes.Get() - before, 2 * seconds);
  world().RunUntilIdle();
}

// Those beyond what may wait for a node are told at once.
TEST_F(FaultsTest, L13_TenThousandRequestsWaitForANodeAndNoMore) {
  NodeOf("a").Kill();
  std::vector<SimClient*> clients;
  for (int i = 0; i < 250; ++i) {
    clients.push_back(world().Connect());
    clients.back()->Send(Repeated("INCR a\r\n", 60));
  }
  SimClient* other = world().Connect();
  world().RunFor(2 * kSecond);
  EXPECT_LE(Sum(&proxy::WorkerStats::held_requests), 10000u);
  EXPECT_GE(Sum(&proxy::WorkerStats::held_requests), 9000u);
  const Nanos begin = world().now();
  EXPECT_EQ(Ask(other, "INCR a"), kNoOwner);
  EXPECT_LE(world().now() - begin, 100 * kMillisecond);
  EXPECT_EQ(Ask(other, "GET b"), "$-1\r\n");
  // The others are served when the node comes back.
  NodeOf("a").Start(NodeOf("a").address());
  world().RunFor(10 * kSecond);
  size_t refused = 0;
  for (SimClient* client : clients) {
    const std::string received = client->TakeReceived();
    EXPECT_EQ(Occurrences(received, "\r\n"), 60u);
    refused += Occurrences(received, kNoOwner);
  }
  EXPECT_EQ(refused, 250 * 60 - Journal("INCR a").size());
  EXPECT_GE(refused, 4500u);
  EXPECT_LE(refused, 6000u);
}

TEST_F(FaultsTest, L13_64MibWaitForANodeAndNoMore) {
  NodeOf("a").Kill();
  std::vector<SimClient*> clients;
  for (int i = 0; i < 12; ++i) {
    clients.push_back(world().Connect());
    for (int k = 0; k < 10; ++k) clients.back()->Send(Set("a", 700000));
  }
  world().RunFor(2 * kSecond);
  EXPECT_LE(Charged(), 66 * kMib);
  EXPECT_GE(Charged(), 60 * kMib);
  world().RunFor(10 * kSecond);
  std::string received;
  for (SimClient* client : clients) received += client->TakeReceived();
  EXPECT_EQ(received, Repeated(kNoOwner, 120));
  EXPECT_EQ(Charged(), 0u);
}

TEST_F(FaultsTest, L13_OneRequestOfMoreThan64MibWaitsForItsNode) {
  NodeOf("a").Kill();
  SimClient* client = world().Connect();
  client->Send(Set("a", 65 * kMib));
  ASSERT_TRUE(world().RunUntil([&] { return Charged() > 65 * kMib; }, 60 * kSecond));
  world().RunFor(100 * kMillisecond);
  EXPECT_EQ(client->TakeReceived(), "");
  EXPECT_EQ(Ask(world().Connect(), "SET a x"), kNoOwner);
  NodeOf("a").Start(NodeOf("a").address());
  world().RunFor(20 * kSecond);
  EXPECT_EQ(client->TakeReceived(), "+OK\r\n");
}

TEST_F(FaultsTest, L15_ABulkOfMoreThan512MibOrTooManyElementsEndsTheConnection) {
  SimClient* client = world().Connect();
  for (absl::string_view header : {"$536870913\r\n", "*4294967296\r\n", "%4294967296\r\n"}) {
    SCOPED_TRACE(header);
    NodeOf("a").AnswerNext("SET", std::string(header));
    EXPECT_EQ(Ask(client, "SET a x", 3 * kSecond), kGarbled);
  }
  // What is allowed is only announced: nothing is reserved for it.
  for (absl::string_view header : {"$536870912\r\n", "*4294967295\r\n"}) {
    SCOPED_TRACE(header);
    NodeOf("a").AnswerNext("SET", absl::StrCat(header, ":1\r\n"));
    client->SendCommand("SET a x");
    world().RunFor(kSecond);
    EXPECT_LE(Charged(), 128u << 10);
    EXPECT_EQ(Sum(&proxy::WorkerStats::clients_open), 1u);
    NodeOf("a").DropConnections();
    world().RunUntilIdle();
    client = world().Connect();
  }
}

// --- nodes

// "{a}" has been served, and its node hangs now.
void FaultsTest::ExpectNoWaitForLong(SimClient* client) {
  EXPECT_EQ(Ask(client, "SET a x"), kTimeout);
  EXPECT_EQ(Ask(client, "SET a x"), kNoOwner);  // L10
  for (int i = 0; i < 10; ++i) {
    const Nanos begin = world().now();
    EXPECT_EQ(Ask(client, "SET a x"), kNoOwner);
    // A probe may be on its way.
    EXPECT_LE(world().now() - begin, 1100 * kMillisecond);
    world().RunFor(300 * kMillisecond);
  }
}

TEST_F(FaultsTest, B2_ANodeThatIsAwayForLongIsNotWaitedForAgain) {
  SimClient* client = world().Connect();
  Ask(client, "GET {a}");
  NodeOf("a").SetHung(true);
  ExpectNoWaitForLong(client);
  NodeOf("a").SetHung(false);
  world().RunFor(2 * kSecond);
  EXPECT_EQ(Ask(client, "SET a x"), "+OK\r\n");
}

// Nobody can say where the node might be: that is not waited for either.
TEST_F(FaultsTest, B2_AWholeClusterThatIsAwayForLongIsNotWaitedForAgain) {
  SimClient* client = world().Connect();
  Ask(client, "GET {a}");
  for (int i = 0; i < cluster().size(); ++i) cluster().node(i)->SetHung(true);
  ExpectNoWaitForLong(client);
  for (int i = 0; i < cluster().size(); ++i) cluster().node(i)->SetHung(false);
  world().RunFor(2 * kSecond);
  EXPECT_EQ(Ask(client, "SET a x"), "+OK\r\n");
}

// The kernel still holds what it could not send, and tells that it is free only when the node has
// taken it, or the kernel given up: the answers don't wait for that.
TEST_F(FaultsTest, B2_WhatWasSentWithoutACopyToANodeThatHangsIsAnsweredInTime) {
  Make({.ring = {.zero_copy_send = true},
        .configure = [](proxy::Config* config) { config->zero_copy_bytes_min = 1024; }});
  SimClient* client = world().Connect();
  Ask(client, "GET a");
  NodeOf("a").SetHung(true);
  client->Send(Set("a", 900 << 10));  // more than the socket's buffers take
  client->SendCommand("GET a");
  world().RunFor(5 * kSecond + 100 * kMillisecond);
  EXPECT_EQ(client->TakeReceived(), kTimeout);
  world().RunFor(5 * kSecond);  // the read has waited for another connection
  EXPECT_NE(client->received(), "");
  NodeOf("a").SetHung(false);
}

TEST_F(FaultsTest, B3_ConnectsToANodeThatIsOffBackOff) {
  SimClient* client = world().Connect();
  world().net()->SetUnreachable(NodeOf("a").address(), true);
  const uint64_t before = Sum(&proxy::WorkerStats::backend_connects);
  const Nanos begin = world().now();
  for (int i = 0; i < 6; ++i) EXPECT_EQ(Ask(client, "SET a x"), kNoOwner);
  world().RunUntil([&] { return world().now() - begin > 10 * kSecond; });
  EXPECT_LE(Sum(&proxy::WorkerStats::backend_connects) - before, 20u);
  world().net()->SetUnreachable(NodeOf("a").address(), false);
}

TEST_F(FaultsTest, B4_ASlowNodeIsSlowForItsOwnSlotsOnly) {
  ClientProfile profile;
  profile.commands = 3000;
  profile.depth = 1;
  profile.keys = 5;
  profile.multi_key = profile.local = 0;
  profile.tags = {"b"};
  profile.answer_max = 10 * kMillisecond;
  world().oracle()->set_errors_allowed(false);
  NodeOf("a").set_service_time(200 * kMillisecond, 200 * kMillisecond);
  SimClient* slow = world().Connect();
  slow->Send(Repeated("INCR a\r\n", 20));
  SimClient* brisk = world().Connect(profile);
  const Nanos begin = world().now();
  brisk->FinishUp();
  world().RunUntil([&] { return brisk->done(); });
  EXPECT_LE(world().now() - begin, 3 * kSecond);
  EXPECT_LT(slow->received().size(), 20u * 4);
  world().RunUntil([&] { return absl::EndsWith(slow->received(), ":20\r\n"); }, 10 * kSecond);
  EXPECT_THAT(slow->received(), testing::EndsWith(":20\r\n"));
  EXPECT_EQ(Sum(&proxy::WorkerStats::backend_timeouts), 0u);
}

// One in twenty takes 3 s: none is given up, and others do not feel it.
TEST_F(FaultsTest, B4_ANodeThatIsSlowNowAndThenCostsNoError) {
  SimClient* client = world().Connect();
  SimClient* other = world().Connect();
  Ask(client, "GET {a}");
  for (int i = 1; i <= 60; ++i) {
    const Nanos time = i % 20 == 0 ? 3 * kSecond : 5 * kMillisecond;
    NodeOf("a").set_service_time(time, time);
    client->TakeReceived();
    client->SendCommand("INCR a");
    const Nanos begin = world().now();
    EXPECT_EQ(Ask(other, "GET b"), "$-1\r\n");
    EXPECT_LE(world().now() - begin, 5 * kMillisecond);
    world().RunUntil([&] { return !client->received().empty(); });
    EXPECT_EQ(client->received(), absl::StrCat(":", i, "\r\n"));
  }
}

// A reply that is being streamed can't be taken back: its client is closed, and nobody else.
TEST_F(FaultsTest, B5_AStreamedReplyThatBreaksEndsItsClientOnly) {
  SetValue("a", kMib);
  for (const size_t bytes : {size_t{70000}, size_t{300000}, size_t{kMib - 1}}) {
    SCOPED_TRACE(bytes);
    SimClient* client = world().Connect();
    SimClient* other = world().Connect();
    Ask(other, "GET d");
    NodeOf("a").CutReplyAfter(bytes);
    client->SendCommand("GET a");
    client->SendCommand("GET b");
    world().RunUntilIdle();
    EXPECT_TRUE(client->ended());
    EXPECT_LE(client->received().size(), bytes);
    EXPECT_EQ(Ask(other, "GET d"), "$-1\r\n");
    EXPECT_EQ(Sum(&proxy::WorkerStats::clients_open), 1u);
    other->Close();
    world().RunUntilIdle();
  }
}

// Not one byte of another reply is taken for it.
TEST_F(FaultsTest, B5_APartOfAReplyIsNotCountedAnyMoreWhenTheReadIsRepeated) {
  ASSERT_NE(&NodeOf("a"), &NodeOf("b"));
  SetValue("b", 1000);
  SimClient* client = world().Connect();
  // Its reply can't leave before that of the first.
  NodeOf("a").SetHung(true);
  NodeOf("b").CutReplyAfter(500);
  client->Send("GET a\r\nGET b\r\n");
  world().RunFor(kSecond);
  EXPECT_EQ(Sum(&proxy::WorkerStats::backend_lost), 1u);
  NodeOf("a").SetHung(false);
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), absl::StrCat("$-1\r\n$1000\r\n", std::string(1000, 'x'), "\r\n"));
  EXPECT_EQ(Charged(), 0u);
}

TEST_F(FaultsTest, B8_AfterASurplusReplyEverythingOnTheConnectionIsLost) {
  SimClient* client = world().Connect();
  SimClient* other = world().Connect();
  Ask(client, "SET a x");
  client->TakeReceived();
  NodeOf("a").HoldReplies(true);
  client->SendCommand("INCR n{a}");
  other->SendCommand("INCR m{a}");
  world().RunFor(kMillisecond);
  NodeOf("a").AnswerNext("APPEND", ":1\r\n:2\r\n:3\r\n:4\r\n");
  client->SendCommand("APPEND l{a} y");
  world().RunFor(kMillisecond);
  NodeOf("a").HoldReplies(false);
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), ":1\r\n:1\r\n");
  EXPECT_EQ(other->received(), ":1\r\n");
  EXPECT_EQ(Sum(&proxy::WorkerStats::backend_protocol_errors), 1u);
  EXPECT_EQ(Ask(other, "INCR m{a}"), ":2\r\n");
}

TEST_F(FaultsTest, B24_APasswordThatWasChangedMakesNodesUnusableUntilItIsRight) {
  Make({.cluster = {.password = "right"}});
  SimClient* client = world().Connect();
  EXPECT_EQ(Ask(client, "SET a x"), "+OK\r\n");
  // Connections that are authenticated stay so, as with the servers.
  cluster().options()->password = "changed";
  EXPECT_EQ(Ask(client, "SET a x"), "+OK\r\n");
  for (int i = 0; i < cluster().size(); ++i) cluster().node(i)->DropConnections();
  world().RunUntilIdle(10 * kMillisecond);
  const size_t lines = world().log().size();
  const Nanos begin = world().now();
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Ask(client, "SET a x"), kNoOwner);
  world().RunUntil([&] { return world().now() - begin >= 20 * kSecond; });
  EXPECT_THAT(client->received(), Not(HasSubstr("WRONGPASS")));
  EXPECT_LE(LogLines("AUTH refused: WRONGPASS"), 3u);  // one in 10 s
  EXPECT_GE(LogLines("AUTH refused: WRONGPASS"), 1u);
  EXPECT_LE(world().log().size() - lines, 30u);
  EXPECT_GE(Sum(&proxy::WorkerStats::backend_auth_failures), 1u);
  cluster().options()->password = "right";
  world().RunFor(3 * kSecond);
  EXPECT_EQ(Ask(client, "SET a x"), "+OK\r\n");
}

// A script can say it, too: only what the proxy itself is told on that connection counts.
TEST_F(FaultsTest, B24_ACommandsNoauthIsPassedOnAndCostsTheConnectionOnlyIfItIsTrue) {
  constexpr absl::string_view kNoAuth = "-NOAUTH Authentication required.\r\n";
  SimClient* client = world().Connect();
  Ask(client, "SET a x");
  const uint64_t connects = Sum(&proxy::WorkerStats::backend_connects);
  NodeOf("a").AnswerNext("SET", std::string(kNoAuth));
  EXPECT_EQ(Ask(client, "SET a y"), kNoAuth);
  world().RunUntilIdle();
  EXPECT_EQ(NodeOf("a").commands("PING"), 1u);
  EXPECT_EQ(Ask(client, "SET a y"), "+OK\r\n");
  EXPECT_EQ(Sum(&proxy::WorkerStats::backend_connects), connects);
  NodeOf("a").AnswerNext("SET", std::string(kNoAuth));
  NodeOf("a").AnswerNext("PING", std::string(kNoAuth));
  EXPECT_EQ(Ask(client, "SET a z"), kNoAuth);
  world().RunUntilIdle();
  EXPECT_EQ(Ask(client, "SET a z"), "+OK\r\n");
  EXPECT_EQ(Sum(&proxy::WorkerStats::backend_connects), connects + 1);
  EXPECT_EQ(Sum(&proxy::WorkerStats::proxy_errors), 0u);
}

// Most nodes have not heard for ten seconds that a slot has moved; whom a refresh asks is chance.
TEST_F(FaultsTest, B26_NodesThatLagDoNotBringAnOlderMapBack) {
  WorldOptions options;
  options.cluster.gossip_min = 9 * kSecond;
  options.cluster.gossip_max = 10 * kSecond;
  Make(options);
  SimClient* client = world().Connect();
  Ask(client, "SET a x");
  const int from = NodeOf("a").number();
  cluster().MoveSlots({cluster::SlotOf("a")}, OtherThan(from));
  EXPECT_EQ(Ask(client, "GET a"), "$1\r\nx\r\n");
  world().RunFor(kSecond);
  const uint64_t published = control().topology_published.Get();
  const uint64_t refreshes = control().refreshes.Get();
  const uint64_t moved = Sum(&proxy::WorkerStats::moved);
  for (int i = 0; i < 40; ++i) {
    NodeOf("b").DropConnections();  // reason enough for a refresh
    world().RunFor(200 * kMillisecond);
    EXPECT_EQ(Ask(client, "GET a"), "$1\r\nx\r\n");
    EXPECT_EQ(Ask(client, "GET b"), "$-1\r\n");
  }
  EXPECT_GE(control().refreshes.Get() - refreshes, 20u);
  EXPECT_EQ(control().topology_published.Get(), published);
  EXPECT_EQ(Sum(&proxy::WorkerStats::moved), moved);
}

TEST_F(FaultsTest, B29_AFailoverEveryFiveSecondsForTenMinutes) {
  ClientProfile profile;
  profile.commands = 2000000;
  profile.depth = 4;
  profile.tags = {"t1", "t2", "t3", "t4", "t5", "t6"};
  profile.pause = 1;
  profile.pause_max = 40 * kMillisecond;
  profile.answer_max = 11 * kSecond;
  std::vector<SimClient*> clients;
  for (int i = 0; i < 4; ++i) clients.push_back(world().Connect(profile));
  world().oracle()->set_errors_allowed(false);  // manual ones lose nothing
  for (int i = 0; i < 120; ++i) {
    world().RunFor(5 * kSecond);
    const std::vector<int> primaries = cluster().Primaries();
    const std::vector<int> replicas =
        cluster().ReplicasOf(primaries[static_cast<size_t>(i) % primaries.size()]);
    for (const int replica : replicas) {
      if (!cluster().MayTakeOver(replica)) continue;
      cluster().SwitchOver(replica);
      break;
    }
    ASSERT_EQ(world().failure(), "");
  }
  for (SimClient* client : clients) {
    EXPECT_GT(client->answered(), 10000u);
    client->DropCommandsLeft();
    client->FinishUp();
  }
  world().RunUntil([&] {
    return std::all_of(clients.begin(), clients.end(), [](SimClient* c) { return c->done(); });
  });
  world().oracle()->CheckFinalState();
  EXPECT_LE(control().topology_published.Get(), 120u * 4);
}

TEST_F(FaultsTest, B30_ConnectionsToANodeThatWasRemovedEndWithinThirtySeconds) {
  SimClient* client = world().Connect();
  const int added = cluster().AddNode();
  world().RunFor(kSecond);
  cluster().MoveSlots({cluster::SlotOf("a")}, added);
  cluster().SpreadNews();
  EXPECT_EQ(Ask(client, "SET a x"), "+OK\r\n");
  EXPECT_GE(cluster().node(added)->connections(), 1u);
  const uint64_t open = Sum(&proxy::WorkerStats::backend_open);
  // One request is with it and never answered.
  cluster().node(added)->HoldReplies(true);
  client->SendCommand("INCR n{a}");
  world().RunFor(kMillisecond);
  cluster().MoveSlots({cluster::SlotOf("a")}, OtherThan(added));
  cluster().Forget(added);
  cluster().SpreadNews();
  SimClient* other = world().Connect();
  const Nanos begin = world().now();
  world().RunUntil([&] { return cluster().node(added)->connections() == 0; }, 60 * kSecond);
  EXPECT_LE(world().now() - begin, 30 * kSecond);
  world().RunFor(kSecond);
  EXPECT_EQ(cluster().node(added)->connections(), 0u);
  EXPECT_LE(Sum(&proxy::WorkerStats::backend_open), open);
  EXPECT_EQ(Ask(other, "SET a x"), "+OK\r\n");
}

TEST_F(FaultsTest, B31_AClusterThatRestartedElsewhereServesWithinThreeSeconds) {
  Make({.names = true});
  SimClient* client = world().Connect();
  for (int round = 0; round < 3; ++round) {
    SCOPED_TRACE(round);
    Ask(client, "SET a x");
    for (int i = 0; i < cluster().size(); ++i) cluster().node(i)->Kill();
    world().RunFor((5 + 10 * round) * kSecond);
    for (int i = 0; i < cluster().size(); ++i) cluster().Restart(i, true);
    cluster().SpreadNews();
    const Nanos begin = world().now();
    std::string reply;
    while (world().now() - begin < 4 * kSecond && !absl::StartsWith(reply, "+")) {
      reply = Ask(client, "SET a x");
    }
    EXPECT_EQ(reply, "+OK\r\n");
    EXPECT_LE(world().now() - begin, 3 * kSecond);
  }
}

// Nobody wants anything from it while it moves, so that nothing makes the proxy ask for it before.
TEST_F(FaultsTest, B31_ANodeThatWentElsewhereAfterALongAbsenceIsFoundByTheFirstRequest) {
  SimClient* client = world().Connect();
  Ask(client, "GET {a}");
  FakeNode& node = NodeOf("a");
  node.Kill();
  world().RunFor(kMillisecond);  // else it may be sent on the old connection, before that ends
  EXPECT_EQ(Ask(client, "SET a x"), kNoOwner);
  world().RunFor(kSecond);
  const Nanos begin = world().now();
  EXPECT_EQ(Ask(client, "SET a x"), kNoOwner);
  EXPECT_LE(world().now() - begin, 300 * kMillisecond);
  world().RunFor(kSecond);
  cluster().Restart(node.number(), true);
  cluster().SpreadNews();
  const uint64_t refreshes = control().refreshes.Get();
  world().RunFor(2 * kSecond);
  EXPECT_EQ(control().refreshes.Get(), refreshes);
  EXPECT_EQ(Ask(client, "SET a x"), "+OK\r\n");
}

// Ten seconds in which each node believes something else: redirections lead to the right one, and
// the map changes once for each change.
TEST_F(FaultsTest, B32_NodesThatDisagreeForTenSecondsCostNoErrorAndNoFlapping) {
  WorldOptions options;
  options.cluster.gossip_min = 9 * kSecond;
  options.cluster.gossip_max = 10 * kSecond;
  Make(options);
  world().oracle()->set_errors_allowed(false);
  ClientProfile profile;
  profile.commands = 1000000;
  profile.tags = {"t1", "t2", "t3"};
  profile.pause = 0.5;
  profile.pause_max = 10 * kMillisecond;
  SimClient* client = world().Connect(profile);
  world().RunFor(kSecond);
  const uint64_t published = control().topology_published.Get();
  const cluster::Slot slot = cluster::SlotOf("t1");
  const int from = cluster().OwnerOf(slot);
  cluster().MoveSlots({slot}, OtherThan(from));
  world().RunFor(20 * kSecond);
  EXPECT_LE(control().topology_published.Get() - published, 2u);
  EXPECT_GT(client->answered(), 1000u);
  EXPECT_EQ(world().oracle()->error_count(), 0u);
  client->DropCommandsLeft();
  client->FinishUp();
  world().RunUntil([&] { return client->done(); });
}

// However many want to, and whatever kind of connection: one connect to a node in 50 ms.
TEST_F(FaultsTest, B33_ConnectsToANodeThatKeepsFailingAreFiftyMillisecondsApart) {
  std::vector<SimClient*> clients;
  for (int i = 0; i < 40; ++i) {
    clients.push_back(world().Connect());
    if (i % 2 == 0) clients.back()->SendCommand("HELLO 3");
  }
  world().RunUntilIdle(10 * kMillisecond);
  FakeNode& node = NodeOf("a");
  for (SimClient* client : clients) client->SendCommand("GET a");
  world().RunFor(200 * kMillisecond);
  // It comes up, shakes hands, and breaks again.
  Nanos last = -1;
  uint64_t before = Sum(&proxy::WorkerStats::backend_connects);
  int connects = 0;
  for (int i = 0; i < 2000; ++i) {
    if (i % 7 == 0) node.DropConnections();
    for (SimClient* client : clients) client->SendCommand("GET a");
    world().RunUntil([&] { return Sum(&proxy::WorkerStats::backend_connects) != before; },
                     kMillisecond);
    const uint64_t now = Sum(&proxy::WorkerStats::backend_connects);
    if (now == before) continue;
    EXPECT_EQ(now, before + 1);
    if (last >= 0 && ++connects > 1) {
      EXPECT_GE(world().now() - last, 50 * kMillisecond);
    }
    last = world().now();
    before = now;
  }
  EXPECT_GE(connects, 10);
  world().RunUntilIdle();
  EXPECT_EQ(Ask(clients[1], "GET a"), "$-1\r\n");
}

TEST_F(FaultsTest, B33_AWholeClusterThatComesBackIsConnectedToOnceANode) {
  SimClient* client = world().Connect();
  for (absl::string_view key : {"a", "b", "c"}) Ask(client, absl::StrCat("GET ", key));
  for (int i = 0; i < cluster().size(); ++i) cluster().node(i)->Kill();
  world().RunUntilIdle(10 * kMillisecond);
  for (int i = 0; i < 3000; ++i) client->SendCommand(absl::StrCat("GET k", i));
  world().RunFor(kSecond);
  for (int i = 0; i < cluster().size(); ++i) cluster().Restart(i, false);
  const uint64_t before = Sum(&proxy::WorkerStats::backend_connects);
  world().RunUntilIdle();
  EXPECT_LE(Sum(&proxy::WorkerStats::backend_connects) - before, 3u);
}

TEST_F(FaultsTest, B34_AHandshakeThatNeverEndsIsGivenUpInTime) {
  SimClient* client = world().Connect();
  NodeOf("a").HoldReplies(true);
  const Nanos begin = world().now();
  EXPECT_EQ(Ask(client, "SET a x"), kNoOwner);
  EXPECT_LE(world().now() - begin, 6100 * kMillisecond);  // L10, and the one that was under way
  EXPECT_THAT(Journal("SET"), ElementsAre());
  NodeOf("a").HoldReplies(false);
  world().RunFor(2 * kSecond);
  EXPECT_EQ(Ask(client, "SET a x"), "+OK\r\n");
}

TEST_F(FaultsTest, B34_AnErrorInTheHandshakeIsNobodysReply) {
  SimClient* client = world().Connect();
  NodeOf("a").AnswerNext("CLUSTER", "-ERR something\r\n");
  client->SendCommand("SET a x");
  client->SendCommand("GET a");
  world().RunUntilIdle();
  EXPECT_EQ(client->received(), "+OK\r\n$1\r\nx\r\n");
  EXPECT_THAT(Journal("SET a"), ElementsAre("SET a"));
}

}  // namespace
}  // namespace sim
