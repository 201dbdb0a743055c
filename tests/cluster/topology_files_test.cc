// Forty CLUSTER NODES replies as servers, broken servers and worse have sent them (redis 3 to 7,
// valkey 8 and 9): what of each is taken. "%1" to "%9" stand for the ids of forty such digits.

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cluster/topology.h"

namespace cluster {
namespace {

struct File {
  std::string name;
  std::string text;
  // What must come out; an error if `error` is not empty: then it contains that.
  std::string error;
  size_t nodes = 0;
  size_t shards = 0;
  int covered = 0;
  // Address of the node with the id %1, "host:port"; empty: that node is not usable or not listed.
  std::string first_address;
};

File Good(std::string name, std::string text, size_t nodes, size_t shards, int covered,
          std::string first_address) {
  return {std::move(name), std::move(text), "", nodes, shards, covered, std::move(first_address)};
}

File Bad(std::string name, std::string text, std::string error) {
  return {std::move(name), std::move(text), std::move(error), 0, 0, 0, ""};
}

std::string WithIds(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 1 < text.size()) {
      out.append(40, text[++i]);
    } else {
      out += text[i];
    }
  }
  return out;
}

// A line that gives the view some coverage, for files about other lines.
const char kRest[] = "%9 10.0.0.9:7000@17000 myself,master - 0 0 1 connected 16000-16383\n";

std::vector<File> Files() {
  const std::string rest = kRest;
  std::string many_ranges = "%1 h:1@2 master - 0 0 1 connected";
  for (int i = 0; i < 1000; ++i) many_ranges += " 0-16383";
  return {
      // --- versions
      Good("redis 3: no bus port", "%1 127.0.0.1:7000 myself,master - 0 0 1 connected 0-16383\n", 1,
           1, 16384, "127.0.0.1:7000"),
      Good("redis 4 to 6",
           "%1 127.0.0.1:7000@17000 myself,master - 0 1426238316232 1 connected 0-5\n", 1, 1, 6,
           "127.0.0.1:7000"),
      Good("redis 7: host name",
           "%1 10.0.0.1:7000@17000,one.example myself,master - 0 0 1 connected 7\n", 1, 1, 1,
           "10.0.0.1:7000"),
      Good("redis 7: empty host name",
           "%1 10.0.0.1:7000@17000, myself,master - 0 0 1 connected 7\n", 1, 1, 1, "10.0.0.1:7000"),
      Good("redis 7.2, valkey 8: more fields behind the host name",
           "%1 10.0.0.1:7000@17000,one.example,shard-id=%2,nodename=n myself,master - 0 0 1 "
           "connected "
           "0\n",
           1, 1, 1, "10.0.0.1:7000"),
      Good("the same without a host name",
           "%1 10.0.0.1:7000@17000,,tls-port=0,shard-id=%2 myself,master - 0 0 1 connected 0\n", 1,
           1, 1, "10.0.0.1:7000"),
      Good("a first field that is not a host name",
           "%1 10.0.0.1:7000@17000,shard-id=%2 myself,master - 0 0 1 connected 0\n", 1, 1, 1,
           "10.0.0.1:7000"),
      Good("valkey 9: unknown fields and flags",
           "%1 10.0.0.1:7000@17000,h,availability-zone=a,x=y myself,master,replicated-to-nobody - "
           "0 0 1 "
           "connected 0\n",
           1, 1, 1, "10.0.0.1:7000"),
      // --- form
      Good("no newline at the end", "%1 h:1@2 master - 0 0 1 connected 0-16383", 1, 1, 16384,
           "h:1"),
      Good("CR LF",
           "%1 h:1@2 master - 0 0 1 connected 0\r\n%2 i:1@2 master - 0 0 1 connected 1\r\n", 2, 2,
           2, "h:1"),
      Good("empty lines", "\n\r\n%1 h:1@2 master - 0 0 1 connected 0\n\n", 1, 1, 1, "h:1"),
      Good("nobody is myself", "%1 h:1@2 master - 0 0 1 connected 0\n", 1, 1, 1, "h:1"),
      Good("spaces at the end", "%1 h:1@2 master - 0 0 1 connected 0  1 \n", 1, 1, 2, "h:1"),
      // --- addresses
      Good("one node that has met nobody",
           "%1 :7000@17000 myself,master - 0 0 0 connected 0-16383\n", 1, 1, 16384,
           "10.0.0.9:7777:7000"),
      Good("IPv6", "%1 ::1:7000@17000 myself,master - 0 0 1 connected 0\n", 1, 1, 1, "::1:7000"),
      Good("IPv6 in brackets", "%1 [2001:db8::1]:7000@17000 myself,master - 0 0 1 connected 0\n", 1,
           1, 1, "2001:db8::1:7000"),
      Good("IPv6 with a host name",
           "%1 2001:db8::1:7000@17000,h myself,master - 0 0 1 connected 0\n", 1, 1, 1,
           "2001:db8::1:7000"),
      Good("unknown host with a name",
           "%1 ?:7000@17000,one.example master - 0 0 1 connected 0\n" + rest, 2, 2, 385,
           "one.example:7000"),
      Good("unknown host without a name", "%1 ?:7000@17000 master - 0 0 1 connected 0\n" + rest, 2,
           1, 384, ""),
      Good("port 0: TLS only", "%1 10.0.0.1:0@17000 master - 0 0 1 connected 0\n" + rest, 2, 1, 384,
           ""),
      // --- nodes that do not serve
      Good("noaddr, with slots",
           "%1 :0@0 master,noaddr - 1426238317239 0 1 disconnected 0-9\n" + rest, 2, 1, 384, ""),
      Good("handshake", "%1 10.0.0.1:7000@17000 handshake - 0 0 0 disconnected\n" + rest, 1, 1, 384,
           ""),
      Good("fail", "%1 10.0.0.1:7000@17000 master,fail - 0 0 1 disconnected\n" + rest, 2, 1, 384,
           "10.0.0.1:7000"),
      Good("fail, but still the owner",
           "%1 10.0.0.1:7000@17000 master,fail - 0 0 1 disconnected 0\n" + rest, 2, 2, 385,
           "10.0.0.1:7000"),
      Good("fail?, nofailover", "%1 h:1@2 slave,fail?,nofailover %9 0 0 1 connected\n" + rest, 2, 1,
           384, "h:1"),
      Good("noflags", "%1 h:1@2 noflags - 0 0 0 disconnected\n" + rest, 2, 1, 384, "h:1"),
      Good("a replica of nobody that is known", "%1 h:1@2 slave %7 0 0 1 connected\n" + rest, 2, 1,
           384, "h:1"),
      Good("a replica with slots does not serve them",
           "%1 h:1@2 slave %9 0 0 1 connected 0-9\n" + rest, 2, 1, 384, "h:1"),
      // --- slots
      Good("moving slots", "%1 h:1@2 myself,master - 0 0 1 connected 0-5 [77->-%2] [93-<-%3]\n", 1,
           1, 6, "h:1"),
      Good("another's moving slots are not its view",
           "%1 h:1@2 master - 0 0 1 connected 0 [77->-%2]\n" + rest, 2, 2, 385, "h:1"),
      Good("an old owner still claims one slot",
           "%1 h:1@2 master - 0 0 1 connected 0 16000\n" + rest, 2, 2, 385, "h:1"),
      // --- no view at all
      Bad("empty", "", "no node"),
      Bad("only newlines", "\n\r\n\n", "no node"),
      Bad("nobody serves a slot", "%1 h:1@2 myself,master - 0 0 1 connected\n", "no node serves"),
      Bad("only a handshake", "%1 h:1@2 handshake - 0 0 0 disconnected\n", "no node"),
      Bad("cut within a line", rest + "%1 h:1@2 master - 0 0", "too few fields"),
      Bad("not this command's reply", "redis_version:7.0.15\r\n", "too few fields"),
      Bad("an id twice", "%9 h:1@2 master - 0 0 1 connected 5\n" + rest, "id twice"),
      Bad("two are myself", "%1 h:1@2 myself,master - 0 0 1 connected 5\n" + rest, "two nodes are"),
      Bad("an id that is too short", "abc h:1@2 master - 0 0 1 connected 0\n", "bad node id"),
      Bad("an id of other letters", std::string(40, 'g') + " h:1@2 master - 0 0 1 connected 0\n",
          "bad node id"),
      Bad("no port", "%1 host master - 0 0 1 connected 0\n", "no port"),
      Bad("port 65536", "%1 h:65536@2 master - 0 0 1 connected 0\n", "bad port"),
      Bad("a port that is no number", "%1 h:70x0@2 master - 0 0 1 connected 0\n", "bad port"),
      Bad("a host of 4 KiB", "%1 " + std::string(4096, 'h') + ":1@2 master - 0 0 1 connected 0\n",
          "bad host"),
      Bad("a host with control bytes", "%1 h\x01\x1b[2J:1@2 master - 0 0 1 connected 0\n",
          "bad host"),
      Bad("a primary's id that is none", "%1 h:1@2 slave nobody 0 0 1 connected\n" + rest,
          "bad primary's id"),
      Bad("a config epoch that is no number", "%1 h:1@2 master - 0 0 x connected 0\n",
          "bad config epoch"),
      Bad("slot 16384", "%1 h:1@2 master - 0 0 1 connected 0-16384\n", "bad slot range"),
      Bad("slot -1", "%1 h:1@2 master - 0 0 1 connected -1\n", "bad slot"),
      Bad("a range backwards", "%1 h:1@2 master - 0 0 1 connected 9-5\n", "bad slot range"),
      Bad("a range without an end", "%1 h:1@2 master - 0 0 1 connected 9-\n", "bad slot range"),
      Bad("a moving slot without its bracket", "%1 h:1@2 master - 0 0 1 connected [5->-%2\n",
          "bad moving slot"),
      Bad("a moving slot without a direction", "%1 h:1@2 master - 0 0 1 connected [5-%2]\n",
          "bad moving slot"),
      Bad("a moving slot to nobody", "%1 h:1@2 master - 0 0 1 connected [5->-x]\n", "bad node id"),
      Bad("all slots a thousand times", many_ranges, "overlap too often"),
  };
}

std::string AddressOf(const Topology& topology, absl::string_view id) {
  const NodeIndex index = topology.FindById(id);
  if (index == kNoNode || !topology.node(index).usable()) return "";
  return absl::StrCat(topology.node(index).address.host, ":", topology.node(index).address.port);
}

TEST(TopologyFilesTest, OfEachFileIsTakenWhatCanBeTrusted) {
  ASSERT_GE(Files().size(), 40u);
  for (const File& file : Files()) {
    SCOPED_TRACE(file.name);
    // The asked host has a colon in it, so that it cannot be mistaken for what the file says.
    const auto topology = Topology::FromNodesReply(WithIds(file.text), {"10.0.0.9:7777", 1});
    if (!file.error.empty()) {
      ASSERT_FALSE(topology.ok());
      EXPECT_TRUE(absl::StrContains(topology.status().message(), file.error)) << topology.status();
      continue;
    }
    ASSERT_TRUE(topology.ok()) << topology.status();
    EXPECT_EQ((*topology)->nodes().size(), file.nodes);
    EXPECT_EQ((*topology)->shards().size(), file.shards);
    EXPECT_EQ((*topology)->covered_slots(), file.covered);
    EXPECT_EQ(AddressOf(**topology, std::string(40, '1')), file.first_address);
  }
}

TEST(TopologyFilesTest, AnErrorQuotesAtMost64EscapedBytes) {
  for (const File& file : Files()) {
    SCOPED_TRACE(file.name);
    const auto topology = Topology::FromNodesReply(WithIds(file.text), {"h", 1});
    if (topology.ok()) continue;
    const std::string message(topology.status().message());
    EXPECT_LT(message.size(), 64u + 64u);
    for (const char c : message) EXPECT_TRUE(c >= ' ' && c <= '~');
  }
}

TEST(TopologyFilesTest, TheSlotsOfAnotherNodesMoveAreNotKept) {
  const auto topology = Topology::FromNodesReply(
      WithIds("%1 h:1@2 master - 0 0 1 connected 0 [77->-%2]\n" + std::string(kRest)), {"h", 1});
  ASSERT_TRUE(topology.ok());
  EXPECT_TRUE((*topology)->moving_slots().empty());
}

}  // namespace
}  // namespace cluster
