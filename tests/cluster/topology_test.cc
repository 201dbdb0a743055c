#include "cluster/topology.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace cluster {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const NodeAddress kAsked = {"10.0.0.9", 7000};

std::string Id(char digit) { return std::string(40, digit); }

std::shared_ptr<const Topology> Parse(absl::string_view text, const NodeAddress& asked = kAsked) {
  auto topology = Topology::FromNodesReply(text, asked);
  EXPECT_TRUE(topology.ok()) << topology.status();
  return topology.ok() ? *topology : nullptr;
}

// As valkey-server 8.0.1 printed it, with host names, addresses and a replica added.
const char kValkey8[] =
    "dd67f2d715a1de05390628e1784aac36bd877510 127.0.0.1:52103@41103,two.example master - 0 "
    "1795518825653 2 connected 8192-16383\n"
    "79c95be9fe93689c237fe180f7966078b3442844 127.0.0.1:33645@22645 myself,master - 0 0 1 "
    "connected "
    "0-8191 [5->-dd67f2d715a1de05390628e1784aac36bd877510] "
    "[9000-<-dd67f2d715a1de05390628e1784aac36bd877510]\n"
    "e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca 127.0.0.1:30005@31005 slave "
    "79c95be9fe93689c237fe180f7966078b3442844 0 1795518825653 1 connected\n";

TEST(TopologyTest, AViewHasNodesShardsAndMovingSlots) {
  const auto topology = Parse(kValkey8);
  // By id.
  ASSERT_EQ(topology->nodes().size(), 3u);
  const Node& first = topology->node(0);
  EXPECT_EQ(first.id, "79c95be9fe93689c237fe180f7966078b3442844");
  EXPECT_EQ(first.address, (NodeAddress{"127.0.0.1", 33645}));
  EXPECT_TRUE(first.is_primary);
  EXPECT_TRUE(first.link_up);
  EXPECT_EQ(first.config_epoch, 1u);
  EXPECT_EQ(first.primary, kNoNode);
  EXPECT_EQ(topology->node(1).hostname, "two.example");
  EXPECT_EQ(topology->node(1).address.host, "127.0.0.1");
  EXPECT_FALSE(topology->node(2).is_primary);
  EXPECT_EQ(topology->node(2).primary, 0);

  ASSERT_EQ(topology->shards().size(), 2u);
  EXPECT_EQ(topology->ShardFor(0), &topology->shards()[0]);
  EXPECT_EQ(topology->ShardFor(8191), &topology->shards()[0]);
  EXPECT_EQ(topology->ShardFor(8192), &topology->shards()[1]);
  EXPECT_EQ(topology->OwnerId(8191), first.id);
  EXPECT_EQ(topology->OwnerId(8192), topology->node(1).id);
  EXPECT_EQ(topology->shards()[0].primary, 0);
  EXPECT_THAT(topology->shards()[0].replicas, ElementsAre(2));
  EXPECT_THAT(topology->shards()[1].replicas, IsEmpty());
  EXPECT_EQ(topology->covered_slots(), kSlotCount);
  EXPECT_EQ(topology->overlapping_slots(), 0);
  EXPECT_EQ(topology->max_config_epoch(), 2u);
  EXPECT_EQ(topology->EpochOf(0), 1u);
  EXPECT_EQ(topology->EpochOf(16383), 2u);

  EXPECT_EQ(topology->source(), 0);
  ASSERT_EQ(topology->moving_slots().size(), 2u);
  ASSERT_NE(topology->FindMoving(5), nullptr);
  EXPECT_FALSE(topology->FindMoving(5)->importing);
  EXPECT_EQ(topology->FindMoving(5)->other_id, topology->node(1).id);
  ASSERT_NE(topology->FindMoving(9000), nullptr);
  EXPECT_TRUE(topology->FindMoving(9000)->importing);
  EXPECT_EQ(topology->FindMoving(6), nullptr);
}

TEST(TopologyTest, NodesAreFoundByIdAddressAndHostName) {
  const auto topology = Parse(kValkey8);
  EXPECT_EQ(topology->FindById("dd67f2d715a1de05390628e1784aac36bd877510"), 1);
  EXPECT_EQ(topology->FindById("dd67f2d715a1de05390628e1784aac36bd87751"), kNoNode);
  EXPECT_EQ(topology->FindById(""), kNoNode);
  EXPECT_EQ(topology->FindByAddress("127.0.0.1", 52103), 1);
  EXPECT_EQ(topology->FindByAddress("two.example", 52103), 1);
  EXPECT_EQ(topology->FindByAddress("two.example", 33645), kNoNode);
  EXPECT_EQ(topology->FindByAddress("127.0.0.1", 41103), kNoNode);  // the bus
  EXPECT_EQ(topology->FindByAddress("", 52103), kNoNode);
  EXPECT_EQ(topology->FindByAddress(std::string(255, 'h'), 65535), kNoNode);
  EXPECT_EQ(topology->FindByAddress(std::string(5000, 'h'), 1), kNoNode);
}

// A new node may take the address of one that failed and is not yet forgotten.
TEST(TopologyTest, AnAddressBelongsToTheNodeThatHasNotFailed) {
  const std::string alive = Id('5') + " 10.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-9\n";
  for (const char other : {'1', '9'}) {
    const auto topology =
        Parse(alive + Id(other) + " 10.0.0.1:7000@17000 master,fail - 0 0 1 disconnected 10\n");
    const NodeIndex found = topology->FindByAddress("10.0.0.1", 7000);
    ASSERT_NE(found, kNoNode);
    EXPECT_EQ(topology->node(found).id, Id('5'));
  }
}

TEST(TopologyTest, ASlotThatTwoPrimariesClaimIsTheOneWithTheHigherEpochs) {
  for (const int epoch_of_second : {1, 7, 9}) {
    SCOPED_TRACE(epoch_of_second);
    const auto topology = Parse(absl::StrCat(
        Id('1'), " 10.0.0.1:7000@17000 master - 0 0 7 connected 0-100\n",  //
        Id('2'), " 10.0.0.2:7000@17000 master - 0 0 ", epoch_of_second, " connected 100-200\n"));
    EXPECT_EQ(topology->overlapping_slots(), 1);
    EXPECT_EQ(topology->covered_slots(), 201);
    EXPECT_EQ(topology->ShardFor(100)->primary, epoch_of_second > 7 ? 1 : 0);
    EXPECT_EQ(topology->ShardFor(99)->primary, 0);
    EXPECT_EQ(topology->ShardFor(101)->primary, 1);
  }
}

TEST(TopologyTest, NodesWithoutAnAddressServeNothingAndAreFoundByIdOnly) {
  const std::string rest = Id('9') + " 10.0.0.9:7000@17000 myself,master - 0 0 1 connected 100\n";
  const std::string lines[] = {
      Id('1') + " :0@0 master,noaddr - 0 0 1 disconnected 0-9\n",
      Id('1') + " 10.0.0.1:7000@17000 master,fail,noaddr - 0 0 1 disconnected 0-9\n",
      Id('1') + " 10.0.0.1:0@17000 master - 0 0 1 connected 0-9\n",
      Id('1') + " ?:7000@17000 master - 0 0 1 connected 0-9\n",
      Id('1') + " ?:7000@17000,? master - 0 0 1 connected 0-9\n",
  };
  for (const std::string& line : lines) {
    SCOPED_TRACE(line);
    const auto topology = Parse(line + rest);
    EXPECT_FALSE(topology->node(0).usable());
    EXPECT_EQ(topology->FindById(Id('1')), 0);
    EXPECT_EQ(topology->FindByAddress("10.0.0.1", 7000), kNoNode);
    EXPECT_EQ(topology->FindByAddress("10.0.0.1", 0), kNoNode);
    EXPECT_EQ(topology->FindByAddress("?", 7000), kNoNode);
    EXPECT_EQ(topology->ShardFor(0), nullptr);
    EXPECT_EQ(topology->OwnerId(0), "");
    EXPECT_EQ(topology->EpochOf(0), 0u);
    EXPECT_EQ(topology->covered_slots(), 1);
    EXPECT_EQ(topology->shards().size(), 1u);
  }
}

TEST(TopologyTest, ReplicasThatCannotServeAreNoReplicasOfTheirShard) {
  const auto topology = Parse(
      absl::StrCat(Id('1'), " 10.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-16383\n",
                   Id('2'), " 10.0.0.2:7000@17000 slave,fail ", Id('1'), " 0 0 1 disconnected\n",
                   Id('3'), " :0@0 slave,noaddr ", Id('1'), " 0 0 1 disconnected\n", Id('4'),
                   " 10.0.0.4:7000@17000 slave,fail? ", Id('1'), " 0 0 1 connected\n", Id('5'),
                   " 10.0.0.5:7000@17000 slave ", Id('8'), " 0 0 1 connected\n", Id('6'),
                   " 10.0.0.6:7000@17000 slave - 0 0 1 connected\n", Id('7'),
                   " 10.0.0.7:7000@17000 slave ", Id('4'), " 0 0 1 connected\n"));
  EXPECT_THAT(topology->shards()[0].replicas, ElementsAre(3));
  EXPECT_TRUE(topology->node(1).failed);
  EXPECT_TRUE(topology->node(3).maybe_failed);
  EXPECT_EQ(topology->node(4).primary, kNoNode);  // its primary is not listed
  EXPECT_EQ(topology->node(5).primary, kNoNode);
  EXPECT_EQ(topology->node(6).primary, 3);
}

TEST(TopologyTest, ViewsThatRouteAlikeAreTheSame) {
  const auto a = Parse(kValkey8);
  // As another node prints it: another order, no moving slots, another link, a suspicion.
  std::vector<std::string> lines = absl::StrSplit(kValkey8, '\n', absl::SkipEmpty());
  std::reverse(lines.begin(), lines.end());
  std::string other = absl::StrJoin(lines, "\n");
  other = other.substr(0, other.find(" [5-")) + other.substr(other.find("\ndd67"));
  other.replace(other.find(" myself,"), 8, " ");
  other.replace(other.find(" slave "), 7, " myself,slave,fail? ");
  other.replace(other.find("connected"), 9, "disconnected");
  const auto b = Parse(other);
  EXPECT_TRUE(a->SameRouting(*b));
  EXPECT_TRUE(b->SameRouting(*a));
  EXPECT_NE(a->source(), b->source());
}

TEST(TopologyTest, ViewsThatRouteDifferentlyAreNotTheSame) {
  struct Change {
    std::string what;
    absl::string_view from;
    absl::string_view to;
  };
  const Change changes[] = {
      {"a slot", "0-8191", "0-8190"},
      {"a slot's owner", "8192-16383", "8193-16383"},
      {"an address", "127.0.0.1:30005", "127.0.0.2:30005"},
      {"a port", "127.0.0.1:30005", "127.0.0.1:30006"},
      {"a host name", "two.example", "three.example"},
      {"a failure", " slave ", " slave,fail "},
      {"an id", "e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca",
       "e7d1eecce10fd6bb5eb35b9f99a514335d9ba9cb"},
      {"a replica's primary", "slave 79c95be9fe93689c237fe180f7966078b3442844",
       "slave dd67f2d715a1de05390628e1784aac36bd877510"},
  };
  const auto before = Parse(kValkey8);
  for (const Change& change : changes) {
    SCOPED_TRACE(change.what);
    std::string text = kValkey8;
    text.replace(text.find(change.from.data(), 0, change.from.size()), change.from.size(),
                 change.to.data(), change.to.size());
    if (change.what == "a slot's owner") text.replace(text.find("0-8191"), 6, "0-8192");
    const auto after = Parse(text);
    EXPECT_FALSE(before->SameRouting(*after));
    EXPECT_FALSE(after->SameRouting(*before));
  }
  std::vector<std::string> lines = absl::StrSplit(kValkey8, '\n', absl::SkipEmpty());
  lines.pop_back();
  EXPECT_FALSE(before->SameRouting(*Parse(absl::StrJoin(lines, "\n"))));
}

TEST(TopologyTest, AFailoverIsTheSameNodesInOtherRoles) {
  const auto before =
      Parse(absl::StrCat(Id('1'), " 10.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-16383\n",
                         Id('2'), " 10.0.0.2:7000@17000 slave ", Id('1'), " 0 0 1 connected\n"));
  const auto after = Parse(
      absl::StrCat(Id('1'), " 10.0.0.1:7000@17000 slave ", Id('2'), " 0 0 2 connected\n", Id('2'),
                   " 10.0.0.2:7000@17000 myself,master - 0 0 2 connected 0-16383\n"));
  EXPECT_FALSE(before->SameRouting(*after));
  EXPECT_EQ(after->ShardFor(5)->primary, 1);
  EXPECT_THAT(after->ShardFor(5)->replicas, ElementsAre(0));
}

// The most a cluster can be: 1,000 nodes, each slot a range of its own, in any order.
TEST(TopologyTest, AThousandNodesWithSingleSlotsAreParsedQuickly) {
  std::vector<std::string> slots(1000);
  for (int slot = 0; slot < kSlotCount; ++slot) absl::StrAppend(&slots[slot % 1000], " ", slot);
  std::string text;
  for (int i = 0; i < 1000; ++i) {
    absl::StrAppend(&text, absl::Hex((i * 7919) % 1000 + 0x1000, absl::kZeroPad8),
                    std::string(32, 'f'), " 10.0.", i / 200, ".", i % 200,
                    ":6379@16379,node.example,shard-id=", std::string(40, 'a'), " master - 0 ",
                    1700000000000 + i, " ", i, " connected", slots[i], "\n");
  }
  absl::Duration best = absl::InfiniteDuration();
  for (int round = 0; round < 5; ++round) {
    const absl::Time start = absl::Now();
    const auto topology = Parse(text);
    best = std::min(best, absl::Now() - start);
    ASSERT_EQ(topology->covered_slots(), kSlotCount);
    ASSERT_EQ(topology->shards().size(), 1000u);
  }
  RecordProperty("microseconds", absl::FormatDuration(best));
  // Far above what it takes, so that only a different order of growth fails here.
  EXPECT_LT(best, absl::Milliseconds(250));
}

TEST(TopologyTest, EveryPrefixOfAViewIsAViewOrAnError) {
  const std::string text = kValkey8;
  for (size_t size = 0; size < text.size(); ++size) {
    const auto topology = Topology::FromNodesReply(text.substr(0, size), kAsked);
    if (!topology.ok()) {
      EXPECT_FALSE(topology.status().message().empty());
      continue;
    }
    EXPECT_GT((*topology)->covered_slots(), 0);
  }
}

}  // namespace
}  // namespace cluster
