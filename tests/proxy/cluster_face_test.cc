#include "proxy/cluster_face.h"

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace proxy {
namespace {

using cluster::NodeAddress;
using resp::Protocol;
using ::testing::ElementsAre;

Config ConfigOf(const std::vector<std::string>& listen, const std::vector<NodeAddress>& nodes = {},
                const NodeAddress& own = {}) {
  Config config;
  config.cluster_face = true;
  for (const std::string& address : listen) {
    config.listen.push_back(*io::Endpoint::Parse(address));
  }
  config.cluster_face_nodes = nodes;
  config.cluster_face_address = own;
  return config;
}

std::string SelfName(const Config& config, absl::string_view local_name) {
  const ClusterFace face(config, local_name);
  return io::FormatHostPort(face.self().host, face.self().port);
}

std::string Slots(const ClusterFace& face, Protocol protocol) {
  std::string reply;
  resp::Encoder out(protocol, &reply);
  AppendClusterSlots(face, &out);
  return reply;
}

std::string Shards(const ClusterFace& face, Protocol protocol) {
  std::string reply;
  resp::Encoder out(protocol, &reply);
  AppendClusterShards(face, &out);
  return reply;
}

TEST(ClusterFaceTest, AloneItHasTheAddressThatTheClientConnectedTo) {
  const Config config = ConfigOf({"0.0.0.0:8088", "[::]:8088"});
  EXPECT_EQ(SelfName(config, "10.0.0.7:8088"), "10.0.0.7:8088");
  EXPECT_EQ(SelfName(config, "[2001:db8::1]:8088"), "[2001:db8::1]:8088");
  EXPECT_EQ(SelfName(config, "[fe80::1%lo]:8088"), "[fe80::1]:8088");
  const ClusterFace face(config, "10.0.0.7:8088");
  ASSERT_EQ(face.nodes().size(), 1u);
  EXPECT_EQ(face.self().first_slot, 0);
  EXPECT_EQ(face.self().last_slot, 16383);
}

TEST(ClusterFaceTest, AUnixSocketsClientIsToldOfAListenerWithAPort) {
  for (const std::string local : {"unix:/run/x", ""}) {
    EXPECT_EQ(SelfName(ConfigOf({"unix:/run/x", "10.0.0.7:1"}), local), "10.0.0.7:1");
    EXPECT_EQ(SelfName(ConfigOf({"127.0.0.1:0", "0.0.0.0:1"}), local), "127.0.0.1:1");
    EXPECT_EQ(SelfName(ConfigOf({"unix:/run/x", "[::]:1"}), local), "[::1]:1");
    EXPECT_EQ(SelfName(ConfigOf({"unix:/run/x"}, {}, {"a", 1}), local), "a:1");
  }
}

TEST(ClusterFaceTest, AConfiguredAddressIsToldToAll) {
  const Config config = ConfigOf({"0.0.0.0:8088"}, {}, {"proxy-a", 18088});
  EXPECT_EQ(SelfName(config, "10.0.0.7:8088"), "proxy-a:18088");
}

// One that finds itself in the list may be wrong only where nothing can tell.
TEST(ClusterFaceTest, AProxyFindsItselfInTheList) {
  const std::vector<NodeAddress> hosts = {{"10.0.0.1", 1}, {"10.0.0.2", 1}, {"10.0.0.3", 1}};
  const std::vector<NodeAddress> ports = {{"vip", 1}, {"vip", 2}, {"vip", 3}};
  const struct {
    const char* name;
    Config config;
    std::string local;
    std::string self;
  } cases[] = {
      {"by the connection", ConfigOf({"0.0.0.0:1"}, hosts), "10.0.0.2:1", "10.0.0.2:1"},
      {"by a listener", ConfigOf({"10.0.0.3:1", "127.0.0.1:9"}, hosts), "127.0.0.1:9",
       "10.0.0.3:1"},
      {"by a listener, of a Unix socket", ConfigOf({"unix:/x", "10.0.0.3:1"}, hosts), "unix:/x",
       "10.0.0.3:1"},
      {"by the connection's port", ConfigOf({"0.0.0.0:2"}, ports), "127.0.0.1:2", "vip:2"},
      {"by a listener's port", ConfigOf({"0.0.0.0:3", "unix:/x"}, ports), "unix:/x", "vip:3"},
      {"by its configured address", ConfigOf({"0.0.0.0:1"}, hosts, hosts[2]), "10.0.0.2:1",
       "10.0.0.3:1"},
      {"nothing tells", ConfigOf({"0.0.0.0:1"}, hosts), "127.0.0.1:1", "10.0.0.1:1"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    EXPECT_EQ(SelfName(c.config, c.local), c.self);
  }
}

TEST(ClusterFaceTest, TheSlotsAreDividedEvenly) {
  for (const size_t count : {1, 2, 3, 7, 256}) {
    SCOPED_TRACE(count);
    std::vector<NodeAddress> list;
    for (size_t i = 0; i < count; ++i) list.push_back({"a", static_cast<uint16_t>(i + 1)});
    const ClusterFace face(ConfigOf({"127.0.0.1:1"}, list), "127.0.0.1:1");
    int next = 0;
    for (const FaceNode& node : face.nodes()) {
      EXPECT_EQ(node.first_slot, next);
      next = node.last_slot + 1;
      const int slots = next - node.first_slot;
      EXPECT_GE(slots, 16384 / static_cast<int>(count));
      EXPECT_LE(slots, 16384 / static_cast<int>(count) + 1);
    }
    EXPECT_EQ(next, 16384);
  }
}

TEST(ClusterFaceTest, IdsFollowFromTheAddressAlone) {
  const std::vector<NodeAddress> list = {{"127.0.0.1", 8088}, {"::1", 8088}};
  const ClusterFace first(ConfigOf({"127.0.0.1:8088"}, list), "127.0.0.1:8088");
  const ClusterFace second(ConfigOf({"[::1]:8088"}, list), "[::1]:8088");
  // printf 127.0.0.1:8088 | sha1sum, and "shard of …", and [::1]:8088
  EXPECT_EQ(first.nodes()[0].id, "4818927895bba843f9b86cd89ab44f885a558f17");
  EXPECT_EQ(first.nodes()[0].shard_id, "fca061d75379c3ca829bf5c3512c071b834b9aac");
  EXPECT_EQ(first.nodes()[1].id, "fb565db7b45b97922f2b8358b7a41c7e82e323a9");
  EXPECT_EQ(first.self_index(), 0u);
  EXPECT_EQ(second.self_index(), 1u);
  for (const Protocol protocol : {Protocol::kResp2, Protocol::kResp3}) {
    EXPECT_EQ(Slots(first, protocol), Slots(second, protocol));
    EXPECT_EQ(Shards(first, protocol), Shards(second, protocol));
  }
  EXPECT_EQ(first.FindNode(first.nodes()[1].id), &first.nodes()[1]);
  EXPECT_EQ(first.FindNode(""), nullptr);
  EXPECT_EQ(first.FindNode("fca061d75379c3ca829bf5c3512c071b834b9aac"), nullptr);
}

TEST(ClusterFaceTest, SlotsAndShardsAreEncodedAsServersDo) {
  const ClusterFace face(ConfigOf({"127.0.0.1:8088"}), "127.0.0.1:8088");
  const std::string id = "$40\r\n4818927895bba843f9b86cd89ab44f885a558f17\r\n";
  const std::string slots =
      absl::StrCat("*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n$9\r\n127.0.0.1\r\n:8088\r\n", id);
  EXPECT_EQ(Slots(face, Protocol::kResp2), slots + "*0\r\n");
  EXPECT_EQ(Slots(face, Protocol::kResp3), slots + "%0\r\n");
  const auto shards = [&](absl::string_view two, absl::string_view seven) {
    return absl::StrCat("*1\r\n", two, "$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n$5\r\nnodes\r\n*1\r\n",
                        seven, "$2\r\nid\r\n", id,
                        "$4\r\nport\r\n:8088\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n$8\r\nendpoint\r\n"
                        "$9\r\n127.0.0.1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
                        "$18\r\nreplication-offset\r\n:0\r\n$6\r\nhealth\r\n$6\r\nonline\r\n");
  };
  EXPECT_EQ(Shards(face, Protocol::kResp2), shards("*4\r\n", "*14\r\n"));
  EXPECT_EQ(Shards(face, Protocol::kResp3), shards("%2\r\n", "%7\r\n"));
}

TEST(ClusterFaceTest, NodesAndInfoAreWrittenAsServersDo) {
  const Config config =
      ConfigOf({"127.0.0.1:8088"}, {{"127.0.0.1", 8088}, {"::1", 8088}, {"a", 60000}});
  const ClusterFace face(config, "[::1]:8088");
  EXPECT_EQ(
      ClusterNodesText(face, absl::FromUnixMillis(1234567)),
      absl::StrCat("4818927895bba843f9b86cd89ab44f885a558f17 127.0.0.1:8088@18088 master - 0 "
                   "1234567 1 connected 0-5460\n",
                   "fb565db7b45b97922f2b8358b7a41c7e82e323a9 ::1:8088@18088 myself,master - 0 0 2 "
                   "connected 5461-10921\n",
                   face.nodes()[2].id, " a:60000@0 master - 0 1234567 3 connected 10922-16383\n"));
  EXPECT_EQ(ClusterInfoText(face, true),
            "cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:16384\r\n"
            "cluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:3\r\n"
            "cluster_size:3\r\ncluster_current_epoch:3\r\ncluster_my_epoch:2\r\n"
            "cluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n"
            "total_cluster_links_buffer_limit_exceeded:0\r\n");
  EXPECT_THAT(ClusterInfoText(face, false), ::testing::StartsWith("cluster_state:fail\r\n"));
}

TEST(ClusterFaceTest, SharesHoldEveryNameOnceAndEveryNumberOnce) {
  const std::vector<NodeAddress> list = {{"a", 1}, {"a", 2}, {"a", 3}};
  std::vector<FaceShare> shares;
  for (const int port : {1, 2, 3}) {
    const std::string address = absl::StrCat("127.0.0.1:", port);
    shares.push_back(FaceShareOf(ConfigOf({address}, list), address));
    EXPECT_FALSE(shares.back().is_all());
  }
  EXPECT_TRUE(shares[0].has_rest());
  EXPECT_FALSE(shares[1].has_rest() || shares[2].has_rest());
  for (int i = 0; i < 1000; ++i) {
    int holders = 0;
    for (const FaceShare& share : shares) holders += share.Has(absl::StrCat("key", i)) ? 1 : 0;
    ASSERT_EQ(holders, 1);
  }
  for (const int64_t number : {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{16385}, int64_t{1000000},
                               std::numeric_limits<int64_t>::max()}) {
    int64_t sum = 0;
    for (const FaceShare& share : shares) {
      EXPECT_GE(share.PartOf(number), 0);
      sum += share.PartOf(number);
    }
    EXPECT_EQ(sum, number);
  }
  for (const Config& config : {ConfigOf({"127.0.0.1:1"}), ConfigOf({"127.0.0.1:1"}, {{"a", 1}})}) {
    const FaceShare all = FaceShareOf(config, "127.0.0.1:1");
    EXPECT_TRUE(all.is_all() && all.has_rest());
    EXPECT_EQ(all.PartOf(std::numeric_limits<int64_t>::max()), std::numeric_limits<int64_t>::max());
  }
}

}  // namespace
}  // namespace proxy
