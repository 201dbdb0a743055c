// SCAN while slots move from node to node, and primaries fail and are replaced: each pass tells
// every key that is there from its first call to its last, whatever happens between two calls or
// within one.

#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "resp/views.h"
#include "tests/sim/chaos.h"
#include "tests/sim/scenario.h"
#include "tests/sim/world.h"

namespace sim {
namespace {

// --- moves at the worst moment

// Nobody hears of a change but those who are told: the proxy and the source of a move lag behind.
class ScanMoveTest : public ScenarioTest {
 protected:
  ScanMoveTest() {
    WorldOptions options;
    options.cluster.gossip_min = options.cluster.gossip_max = 4 * kSecond;
    Make(options);
    client_ = world().Connect();
    EXPECT_EQ(Ask(client_, "SET a v"), "+OK\r\n");
    source_ = NodeOf("a").number();
    target_ = OtherThan(source_);
    for (const int primary : cluster().Primaries()) {
      if (primary != source_ && primary != target_) third_ = primary;
    }
  }

  FakeNode& node(int number) { return *cluster().node(number); }
  void MoveTo(int number) { cluster().MoveSlots({slot_}, number); }
  void BeginMove() { cluster().BeginMigration(slot_, target_); }
  void MoveKeys() { cluster().MigrateAllKeys(slot_); }
  void EndMove() { cluster().EndMigration(slot_); }

  void BeginScan() {
    client_->TakeReceived();
    client_->SendCommand(absl::StrCat("SCAN ", slot_, " COUNT 1"));
  }
  // Until the node has executed another command of that name.
  void RunUntilAt(int number, absl::string_view name) {
    const uint64_t before = node(number).commands(name);
    ASSERT_TRUE(world().RunUntil([&] { return node(number).commands(name) > before; }));
  }
  // Of the scan that is under way, to its end.
  bool TellsKey() {
    world().RunUntil([&] { return Complete(client_->received()); });
    std::string reply = client_->TakeReceived();
    while (!absl::StrContains(reply, "\r\n$1\r\na\r\n")) {
      const std::vector<absl::string_view> parts = resp::ElementsOf(reply);
      absl::string_view cursor;
      if (parts.size() != 2 || !resp::ParseText(parts[0], &cursor)) {
        ADD_FAILURE() << reply;
        return false;
      }
      if (cursor == "0") return false;
      reply = Ask(client_, absl::StrCat("SCAN ", cursor));
    }
    return true;
  }

  const cluster::Slot slot_ = cluster::SlotOf("a");
  SimClient* client_ = nullptr;
  int source_ = -1, target_ = -1, third_ = -1;
};

// What a node says of its slots holds for what it said before. A count that it refused comes again
// behind that.
TEST_F(ScanMoveTest, WhatWasRefusedAtFirstIsReadAnew) {
  node(source_).AnswerNext("CLUSTER", "-LOADING Redis is loading the dataset in memory\r\n");
  BeginScan();
  RunUntilAt(source_, "CLUSTER NODES");
  MoveTo(third_);
  EXPECT_TRUE(TellsKey());
}

// The slot was elsewhere when its keys were counted, and is here when the node is asked for its
// slots.
TEST_F(ScanMoveTest, ASlotThatComesBackMeanwhileIsReadAnew) {
  MoveTo(third_);
  node(source_).set_service_time(10 * kMillisecond, 10 * kMillisecond);
  BeginScan();
  RunUntilAt(source_, "CLUSTER COUNTKEYSINSLOT");
  MoveTo(source_);
  EXPECT_TRUE(TellsKey());
}

// The same while its keys are read.
TEST_F(ScanMoveTest, ASlotThatWasAwayWhileItWasReadIsReadAnew) {
  BeginScan();
  RunUntilAt(source_, "CLUSTER NODES");
  MoveTo(third_);
  node(source_).set_service_time(10 * kMillisecond, 10 * kMillisecond);
  RunUntilAt(source_, "CLUSTER GETKEYSINSLOT");
  MoveTo(source_);
  EXPECT_TRUE(TellsKey());
}

// The source does not know yet that the move is over, and the target has passed the slot on.
TEST_F(ScanMoveTest, ATargetThatHasPassedTheSlotOnIsNotTakenForOneThatGaveItUp) {
  BeginMove();
  MoveKeys();
  EndMove();
  MoveTo(third_);
  BeginScan();
  EXPECT_TRUE(TellsKey());
}

// It has passed the slot on, and is given it again: by another node than the source.
TEST_F(ScanMoveTest, ATargetThatImportsFromAnotherNodeIsNotReadForTheSource) {
  BeginMove();
  MoveKeys();
  BeginScan();
  RunUntilAt(source_, "CLUSTER GETKEYSINSLOT");
  EndMove();
  MoveTo(third_);
  BeginMove();
  EXPECT_TRUE(TellsKey());
}

// The slot has come back to its source and leaves it once more: the key that was at the target is
// at the source when the target is read, and at the target when the source is read again.
TEST_F(ScanMoveTest, AMoveThatBeganAnewIsReadAnew) {
  BeginMove();
  MoveKeys();
  BeginScan();
  RunUntilAt(source_, "CLUSTER GETKEYSINSLOT");
  EndMove();
  MoveTo(source_);
  BeginMove();
  RunUntilAt(target_, "CLUSTER GETKEYSINSLOT");
  MoveKeys();
  EXPECT_TRUE(TellsKey());
}

// --- changes at random

constexpr int kSlots = 32;
constexpr int kKeysOfSlot = 6;
constexpr int kPasses = 3;
// Of changes, and then the pass that is under way.
constexpr Nanos kMovesLast = 2 * kSecond;
constexpr Nanos kFailuresLast = 10 * kSecond;
constexpr int kErrorsMax = 200;  // of one call, one after the other

enum class Changes { kNone, kMoves, kFailures };

std::string KeyOf(int slot, absl::string_view kind, uint64_t number) {
  return absl::StrCat("{t", slot, "}", kind, ":", number);
}

// A world with keys, and SCANs in it.
class ScanRun {
 public:
  ScanRun(uint64_t seed, Changes changes)
      : random_(seed * 0x9e3779b97f4a7c15 + 7), changes_(changes), world_(OptionsOf(&random_)) {}

  void Run() {
    world_.RunUntil([this] { return world_.stats()->control()->topology_ready.Get() == 1; });
    for (SimClient*& client : clients_) client = world_.Connect();
    other_ = world_.Connect();
    WriteKeys();
    Chaos chaos(&world_, ChaosOptions());
    const Nanos until =
        world_.now() + (changes_ == Changes::kFailures ? kFailuresLast : kMovesLast);
    while (passes_ < kPasses || (changes_ != Changes::kNone && world_.now() < until)) {
      if (!Pass()) return;
    }
    chaos.Stop();
    events_ = chaos.events();
    world_.cluster()->Heal();
    CheckNothingIsLost();
    world_.RunFor(2 * kSecond);
    errors_allowed_ = false;
    if (!Pass()) return;
    world_.Shutdown();
    EXPECT_EQ(world_.failure(), "");
  }
  const std::map<std::string, uint64_t>& events() const { return events_; }
  uint64_t told_twice() const { return told_twice_; }

 private:
  static WorldOptions OptionsOf(Random* random) {
    WorldOptions options;
    options.seed = random->Next();
    options.workers = static_cast<uint32_t>(random->Between(1, 2));
    options.cluster.primaries = static_cast<int>(random->Between(2, 4));
    options.cluster.valkey = random->Below(2) == 0;
    options.cluster.gossip_max =
        static_cast<Nanos>(random->Magnitude(kMillisecond, 500 * kMillisecond));
    options.faults.latency_max =
        static_cast<Nanos>(random->Magnitude(60 * kMicrosecond, kMillisecond));
    return options;
  }

  Chaos::Options ChaosOptions() {
    Chaos::Options options;
    options.between_max =
        static_cast<Nanos>(random_.Magnitude(2 * kMillisecond, 50 * kMillisecond));
    options.trouble_max =
        static_cast<Nanos>(random_.Magnitude(20 * kMillisecond, 500 * kMillisecond));
    for (int slot = 0; slot < kSlots; ++slot) {
      options.slots.push_back(cluster::SlotOf(KeyOf(slot, "", 0)));
    }
    if (changes_ == Changes::kNone) return options;
    options.migrate = 16;
    options.move_at_once = 1;
    options.switch_over = 2;
    options.add_node = random_.Below(4) == 0 ? 1 : 0;
    if (changes_ == Changes::kMoves) return options;
    errors_allowed_ = true;
    // Seldom enough that most of the time all nodes can be asked.
    options.between_max =
        static_cast<Nanos>(random_.Magnitude(20 * kMillisecond, 200 * kMillisecond));
    options.migrate_wrong_order = 2;
    options.hang = options.kill = options.cut_off = 1;
    options.drop_connections = options.half_reply = 1;
    options.loading = 3;
    // So long that a replica takes over.
    options.trouble_max = 3 * kSecond;
    return options;
  }

  void WriteKeys() {
    for (int slot = 0; slot < kSlots; ++slot) {
      for (int i = 0; i < kKeysOfSlot; ++i) stay_.insert(KeyOf(slot, "stays", i));
    }
    for (const std::string& key : stay_) other_->Send(Command({"SET", key, "v"}));
    const std::string wanted = Repeated("+OK\r\n", static_cast<int>(stay_.size()));
    world_.RunUntil([&] { return other_->received() == wanted; });
    ASSERT_EQ(other_->TakeReceived(), wanted);
    world_.RunFor(kSecond);  // the replicas have them, too
  }

  // What is to be told was there all the time.
  void CheckNothingIsLost() {
    for (const std::string& key : stay_) {
      const uint32_t number = world_.cluster()->keys()->Intern(key);
      EXPECT_NE(world_.cluster()->NodeOf(key)->Find(number), nullptr) << key;
    }
  }

  // One of those that come and go.
  void ChangeOthers() {
    other_->TakeReceived();
    const std::string key =
        KeyOf(static_cast<int>(random_.Below(kSlots)), "other", random_.Below(3));
    if (random_.Below(2) == 0) {
      other_->Send(Command({"SET", key, "v"}));
    } else {
      other_->Send(Command({"DEL", key}));
    }
  }

  // From cursor 0 to the end. False: something was wrong.
  bool Pass() {
    static constexpr int kCounts[] = {1, 10, 100, 10000};
    const int count = kCounts[passes_++ % std::size(kCounts)];
    const bool match = random_.Below(2) == 0;
    std::set<std::string> told;
    std::string cursor = "0";
    for (int calls = 0; calls == 0 || cursor != "0"; ++calls) {
      if (calls > 10000) {
        ADD_FAILURE() << "no end";
        return false;
      }
      ChangeOthers();
      const std::string words =
          absl::StrCat("SCAN ", cursor, " COUNT ", count, match ? " MATCH *stays*" : "");
      if (!Call(words, &cursor, &told)) return false;
      if (random_.Below(2) == 0) world_.RunFor(random_.Between(0, 20 * kMillisecond));
    }
    for (const std::string& key : stay_) {
      if (told.count(key) > 0) continue;
      ADD_FAILURE() << key << " of slot " << cluster::SlotOf(key) << " is not told in pass "
                    << passes_ << " with COUNT " << count;
      return false;
    }
    return world_.failure().empty();
  }

  // One call, with the same cursor again after an error.
  bool Call(const std::string& words, std::string* cursor, std::set<std::string>* told) {
    std::string error;
    for (int errors = 0; errors <= kErrorsMax; ++errors) {
      SimClient* client = clients_[random_.Below(std::size(clients_))];
      client->TakeReceived();
      client->SendCommand(words);
      const auto complete = [&] { return IsComplete(client->received()); };
      if (!world_.RunUntil(complete)) {
        ADD_FAILURE() << words << ": no reply; " << world_.failure();
        return false;
      }
      const std::string reply = client->TakeReceived();
      if (reply[0] == '*') return TakeReply(reply, cursor, told);
      if (!errors_allowed_) {
        ADD_FAILURE() << words << ": " << reply;
        return false;
      }
      error = reply;
      world_.RunFor(100 * kMillisecond);
    }
    ADD_FAILURE() << words << ": nothing but errors, the last: " << error;
    return false;
  }

  bool TakeReply(const std::string& reply, std::string* cursor, std::set<std::string>* told) {
    const std::vector<absl::string_view> parts = resp::ElementsOf(reply);
    absl::string_view next;
    if (parts.size() != 2 || !resp::ParseText(parts[0], &next)) {
      ADD_FAILURE() << reply;
      return false;
    }
    *cursor = std::string(next);
    for (const absl::string_view frame : resp::ElementsOf(parts[1])) {
      absl::string_view key;
      const bool text = resp::ParseText(frame, &key);
      const bool stays = stay_.count(std::string(key)) > 0;
      if (!text || (!stays && !absl::StrContains(key, "}other:"))) {
        ADD_FAILURE() << "tells " << key;
        return false;
      }
      told_twice_ += stays && !told->insert(std::string(key)).second;
    }
    return true;
  }

  static bool IsComplete(absl::string_view bytes) {
    resp::ReplyScanner scanner;
    return scanner.Scan(bytes).status == resp::ScanStatus::kComplete;
  }

  Random random_;
  const Changes changes_;
  World world_;
  SimClient* clients_[3] = {};
  SimClient* other_ = nullptr;
  std::set<std::string> stay_;
  int passes_ = 0;
  bool errors_allowed_ = false;
  uint64_t told_twice_ = 0;
  std::map<std::string, uint64_t> events_;
};

class ScanTest : public testing::TestWithParam<uint64_t> {
 protected:
  static constexpr uint64_t kSeedsPerCase = 5;
  // What has happened in all of the case's seeds. SIM_SEED=<seed> replays one alone.
  std::map<std::string, uint64_t> RunSeeds(Changes changes) {
    std::map<std::string, uint64_t> events;
    uint64_t first = GetParam() * kSeedsPerCase + 1, last = (GetParam() + 1) * kSeedsPerCase;
    const char* only = getenv("SIM_SEED");
    alone_ = only != nullptr && absl::SimpleAtoi(only, &first);
    if (alone_) last = first;
    for (uint64_t seed = first; seed <= last && !HasFailure(); ++seed) {
      SCOPED_TRACE(absl::StrCat("replay with SIM_SEED=", seed));
      ScanRun run(seed, changes);
      run.Run();
      for (const auto& [what, count] : run.events()) events[what] += count;
      if (changes == Changes::kNone) {
        EXPECT_EQ(run.told_twice(), 0u);
      }
    }
    return events;
  }
  bool alone_ = false;
};

TEST_P(ScanTest, TellsEachKeyOnceWhileNothingMoves) { RunSeeds(Changes::kNone); }

TEST_P(ScanTest, TellsEveryKeyWithoutAnErrorWhileSlotsMove) {
  const auto events = RunSeeds(Changes::kMoves);
  if (alone_ || HasFailure()) return;
  EXPECT_GT(events.at("migrate"), 50u);
  EXPECT_GT(events.at("switch over"), 5u);
}

TEST_P(ScanTest, TellsEveryKeyWhileNodesFailToo) {
  const auto events = RunSeeds(Changes::kFailures);
  if (alone_ || HasFailure()) return;
  EXPECT_GT(events.at("migrate"), 50u);
  EXPECT_GT(events.at("failover"), 0u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, ScanTest, testing::Range(uint64_t{0}, uint64_t{8}));

}  // namespace
}  // namespace sim
