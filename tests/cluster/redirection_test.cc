#include "cluster/redirection.h"

#include <gtest/gtest.h>

#include <string>

namespace cluster {
namespace {

struct ErrorCase {
  std::string name;
  std::string line;
  ErrorKind kind;
  Slot slot = 0;
  std::string host = "";
  uint16_t port = 0;
};

void Check(const ErrorCase& c) {
  SCOPED_TRACE(c.name);
  const ErrorReply reply = ParseErrorReply(c.line);
  EXPECT_EQ(reply.kind, c.kind);
  EXPECT_EQ(reply.slot, c.slot);
  EXPECT_EQ(reply.host, c.host);
  EXPECT_EQ(reply.port, c.port);
}

TEST(RedirectionTest, MovedAndAskNameASlotAHostAndAPort) {
  const std::string longest(255, 'h');
  const ErrorCase cases[] = {
      // Redis Cluster specification, "MOVED Redirection".
      {"moved", "MOVED 3999 127.0.0.1:6381", ErrorKind::kMoved, 3999, "127.0.0.1", 6381},
      {"ask", "ASK 3999 127.0.0.1:6381", ErrorKind::kAsk, 3999, "127.0.0.1", 6381},
      {"first slot", "MOVED 0 1.2.3.4:1", ErrorKind::kMoved, 0, "1.2.3.4", 1},
      {"last slot", "ASK 16383 1.2.3.4:65535", ErrorKind::kAsk, 16383, "1.2.3.4", 65535},
      // cluster-preferred-endpoint-type unknown-endpoint: the host of the node that replied.
      {"empty host", "MOVED 1 :6379", ErrorKind::kMoved, 1, "", 6379},
      // cluster-preferred-endpoint-type hostname, and none is set.
      {"unknown host", "MOVED 1 ?:6379", ErrorKind::kMoved, 1, "?", 6379},
      {"name", "ASK 1 node-1.example.org:6379", ErrorKind::kAsk, 1, "node-1.example.org", 6379},
      {"ipv6", "MOVED 1 ::1:7000", ErrorKind::kMoved, 1, "::1", 7000},
      {"ipv6 whole", "MOVED 1 2001:db8::7:6379", ErrorKind::kMoved, 1, "2001:db8::7", 6379},
      {"ipv6 brackets", "MOVED 1 [2001:db8::7]:6379", ErrorKind::kMoved, 1, "2001:db8::7", 6379},
      {"scope", "ASK 1 fe80::1%eth0:6379", ErrorKind::kAsk, 1, "fe80::1%eth0", 6379},
      {"longest", "ASK 1 " + longest + ":6379", ErrorKind::kAsk, 1, longest, 6379},
  };
  for (const ErrorCase& c : cases) Check(c);
}

TEST(RedirectionTest, WhatIsNotOfTheirFormIsMalformed) {
  const std::string lines[] = {
      "MOVED",
      "MOVED ",
      "ASK",
      "ASK ",
      "MOVED 1",
      "MOVED 1 ",
      "MOVED  1 1.2.3.4:6379",
      "MOVED 1  1.2.3.4:6379",
      "MOVED 1.2.3.4:6379",
      "MOVED 1 1.2.3.4",
      "MOVED 1 1.2.3.4:",
      "MOVED 1 1.2.3.4:0",
      "MOVED 1 1.2.3.4:65536",
      "MOVED 1 1.2.3.4:99999999999999999999",
      "MOVED 1 1.2.3.4:-1",
      "MOVED 1 1.2.3.4:+1",
      "MOVED 1 1.2.3.4:06379",
      "MOVED 1 1.2.3.4:63x9",
      "MOVED 1 1.2.3.4:6379 ",
      "MOVED 1 1.2.3.4:6379 junk",
      "MOVED 1 1.2.3.4 :6379",
      "MOVED 16384 1.2.3.4:6379",
      "MOVED -1 1.2.3.4:6379",
      "MOVED +1 1.2.3.4:6379",
      "MOVED 01 1.2.3.4:6379",
      "MOVED x 1.2.3.4:6379",
      "MOVED 18446744073709551617 1.2.3.4:6379",
      "ASK 1 " + std::string(256, 'h') + ":6379",
      "ASK 1 " + std::string(4096, 'h') + ":6379",
      "ASK 1 h\tst:6379",
      "ASK 1 h\xc3\xb6st:6379",
      "ASK 1 h\x7fst:6379",
      std::string("ASK 1 h\0st:6379", 15),
  };
  for (const std::string& line : lines) Check({line, line, ErrorKind::kMalformed});
}

TEST(RedirectionTest, OtherErrorsAreKnownByTheirFirstWord) {
  const ErrorCase cases[] = {
      // The servers' texts, redis-server 7.0 and valkey-server 8.0.
      {"down", "CLUSTERDOWN The cluster is down", ErrorKind::kClusterDown},
      {"slot down", "CLUSTERDOWN Hash slot not served", ErrorKind::kClusterDown},
      {"alone", "CLUSTERDOWN", ErrorKind::kClusterDown},
      {"loading", "LOADING Redis is loading the dataset in memory", ErrorKind::kLoading},
      {"masterdown",
       "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
       ErrorKind::kMasterDown},
      {"readonly", "READONLY You can't write against a read only replica.", ErrorKind::kReadOnly},
      {"readonly alone", "READONLY", ErrorKind::kReadOnly},
      // The first word must end.
      {"longer", "CLUSTERDOWNX y", ErrorKind::kOther},
      {"moved longer", "MOVEDX 1 1.2.3.4:6379", ErrorKind::kOther},
      {"moved, tab", "MOVED\t1 1.2.3.4:6379", ErrorKind::kOther},
      {"asking", "ASKING 1 1.2.3.4:6379", ErrorKind::kOther},
      {"shorter", "MOVE 1 1.2.3.4:6379", ErrorKind::kOther},
      {"lower case", "moved 1 1.2.3.4:6379", ErrorKind::kOther},
      {"behind a space", " MOVED 1 1.2.3.4:6379", ErrorKind::kOther},
      {"loading longer", "LOADING_X", ErrorKind::kOther},
      {"empty", "", ErrorKind::kOther},
      {"space", " ", ErrorKind::kOther},
      {"err", "ERR unknown command 'x', with args beginning with: ", ErrorKind::kOther},
      {"wrong type", "WRONGTYPE Operation against a key", ErrorKind::kOther},
      {"no space at all", "10001", ErrorKind::kOther},
      {"redirect", "REDIRECT 1.2.3.4:6379", ErrorKind::kOther},
  };
  for (const ErrorCase& c : cases) Check(c);
}

TEST(RedirectionTest, TryAgainIsOnlyTheServersExactText) {
  Check({"exact", "TRYAGAIN Multiple keys request during rehashing of slot", ErrorKind::kTryAgain});
  const std::string lines[] = {
      "TRYAGAIN",
      "TRYAGAIN ",
      "TRYAGAIN x",
      "TRYAGAIN Multiple keys request during rehashing of slo",
      "TRYAGAIN Multiple keys request during rehashing of slot ",
      "TRYAGAIN Multiple keys request during rehashing of slot 5",
      "TRYAGAIN multiple keys request during rehashing of slot",
  };
  for (const std::string& line : lines) Check({line, line, ErrorKind::kOther});
}

TEST(RedirectionTest, TheHostPointsIntoTheLine) {
  const std::string line = "MOVED 1 [::1]:7000";
  EXPECT_EQ(ParseErrorReply(line).host.data(), line.data() + 9);
}

}  // namespace
}  // namespace cluster
