#include "cluster/own_slots.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "cluster/topology.h"
#include "gtest/gtest.h"

namespace cluster {
namespace {

std::string Id(char c) { return std::string(40, c); }

TEST(OwnSlotsTest, OnlyTheLineOfTheNodeItselfCounts) {
  const std::string reply = absl::StrCat(
      Id('a'), " 127.0.0.1:1@2 master - 0 0 1 connected 0-99\n", Id('b'),
      " 127.0.0.1:3@4,myself-host myself,master - 0 0 2 connected 100-199 300 [150->-", Id('a'),
      "] [7-<-", Id('a'), "]\n", Id('c'), " 127.0.0.1:5@6 slave ", Id('b'), " 0 0 2 connected\n");
  const auto own = OwnSlots::FromNodesReply(reply);
  ASSERT_TRUE(own.ok()) << own.status();
  for (const Slot slot : {100, 150, 199, 300}) EXPECT_TRUE(own->Owns(slot)) << slot;
  for (const Slot slot : {0, 7, 99, 200, 299, 301}) EXPECT_FALSE(own->Owns(slot)) << slot;
  ASSERT_NE(own->FindMoving(150), nullptr);
  EXPECT_FALSE(own->FindMoving(150)->importing);
  EXPECT_EQ(own->FindMoving(150)->other_id, Id('a'));
  ASSERT_NE(own->FindMoving(7), nullptr);
  EXPECT_TRUE(own->FindMoving(7)->importing);
  EXPECT_EQ(own->FindMoving(100), nullptr);
  EXPECT_EQ(own->config_epoch(), 2u);
}

TEST(OwnSlotsTest, WhoServesNoSlotMayHaveMoreThanTheTopologyKnows) {
  const std::string owner =
      absl::StrCat(Id('a'), " h:1@2 myself,master - 0 0 5 connected 0-16383\n");
  const auto topology = Topology::FromNodesReply(
      absl::StrCat(owner, Id('b'), " h:3@4 master - 0 0 3 connected\n"), {"h", 1});
  ASSERT_TRUE(topology.ok()) << topology.status();
  const auto has_more = [&](absl::string_view epoch, absl::string_view slots) {
    const auto own = OwnSlots::FromNodesReply(
        absl::StrCat(Id('b'), " h:3@4 myself,master - 0 0 ", epoch, " connected ", slots, "\n"));
    return own.ok() && own->HasMoreThan(**topology);
  };
  EXPECT_FALSE(has_more("3", ""));
  EXPECT_TRUE(has_more("3", absl::StrCat("[7-<-", Id('a'), "]")));
  EXPECT_FALSE(has_more("3", absl::StrCat("[7->-", Id('a'), "]")));
  EXPECT_FALSE(has_more("3", "0-100"));  // it was the owner before, and has not heard of that
  EXPECT_TRUE(has_more("6", "7"));
}

TEST(OwnSlotsTest, AReplicaHasNoSlots) {
  const auto own = OwnSlots::FromNodesReply(
      absl::StrCat(Id('c'), " h:5@6 myself,slave ", Id('b'), " 0 0 2 connected\r\n"));
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_FALSE(own->Owns(0));
}

TEST(OwnSlotsTest, AReplyWithoutThatLineIsAnError) {
  EXPECT_FALSE(OwnSlots::FromNodesReply("").ok());
  EXPECT_FALSE(
      OwnSlots::FromNodesReply(absl::StrCat(Id('a'), " myself:1@2 master - 0 0 1 connected 0-99\n"))
          .ok());
  EXPECT_FALSE(OwnSlots::FromNodesReply("x myself").ok());
}

}  // namespace
}  // namespace cluster
