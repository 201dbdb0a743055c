// SCAN while slots move from node to node: it tells every key that is there from its first call to
// its last, whatever happens between two calls or within one.

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "resp/views.h"
#include "tests/sim/scenario.h"
#include "tests/sim/world.h"

namespace sim {
namespace {

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

}  // namespace
}  // namespace sim
