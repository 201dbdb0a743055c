#include "proxy/node_query.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "io/uring_ring.h"
#include "proxy/messages.h"
#include "resp/encoder.h"
#include "tests/proxy/fake_node.h"

namespace proxy {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::string Command(std::initializer_list<absl::string_view> args) {
  std::string text;
  resp::AppendCommand(args, &text);
  return text;
}

// One query on a ring of the kernel. Its clock moves by a millisecond a turn.
class NodeQueryTest : public testing::Test {
 protected:
  using Result = absl::StatusOr<std::vector<std::string>>;

  NodeQueryTest() : directory_(1) {
    io::RingOptions options;
    options.entries = 64;
    options.client_buffers = options.backend_buffers = 8;
    auto ring = io::MakeUringRing(&directory_, 0, options, &warnings_);
    if (!ring.ok()) return;
    ring_ = *std::move(ring);
    now_ = ring_->Now();
    query_ = std::make_unique<NodeQuery>(ring_.get(), &timers_, 1, 7);
    node_.script = [](const FakeNode::Args& args) { return absl::StrCat("+", args[0], "\r\n"); };
  }
  ~NodeQueryTest() override {
    if (query_ == nullptr) return;
    query_->Cancel();
    EXPECT_TRUE(RunUntil([&] { return query_->idle(); }));
  }
  void SetUp() override { ASSERT_NE(ring_, nullptr); }

  void Start() { StartAt(node_.endpoint()); }
  void StartAt(const io::Endpoint& endpoint) {
    result_.reset();
    query_->Start(now_, endpoint, options_, commands_, [this](Result result) {
      EXPECT_FALSE(result_.has_value()) << "told twice";
      result_ = std::move(result);
    });
  }
  void Turn() {
    node_.Pump();
    const size_t n = ring_->SubmitAndWait(absl::Milliseconds(1), absl::MakeSpan(batch_));
    now_ += absl::Milliseconds(1);
    for (size_t i = 0; i < n; ++i) {
      if (batch_[i].token.party() == 1 && batch_[i].token.index() == 7) {
        query_->OnCompletion(now_, &batch_[i]);
      }
      batch_[i].data = io::Slice();
    }
    timers_.Advance(now_);
  }
  bool RunUntil(const std::function<bool()>& done) {
    for (int i = 0; i < 5000 && !done(); ++i) Turn();
    return done();
  }
  Result Ask() {
    Start();
    if (!RunUntil([&] { return result_.has_value(); })) return absl::InternalError("no end");
    EXPECT_EQ(timers_.size(), 0u);
    return *result_;
  }

  io::RingDirectory directory_;
  std::vector<std::string> warnings_;
  std::unique_ptr<io::Ring> ring_;
  io::Timers timers_;
  absl::Time now_;
  FakeNode node_;
  NodeQuery::Options options_;
  std::vector<std::string> commands_ = {Command({"ONE"}), Command({"TWO", "x"})};
  std::unique_ptr<NodeQuery> query_;
  absl::optional<Result> result_;
  std::vector<io::Completion> batch_ = std::vector<io::Completion>(64);
};

TEST_F(NodeQueryTest, GivesOneFrameACommand) {
  const Result result = Ask();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(*result, ElementsAre("+ONE\r\n", "+TWO\r\n"));
  EXPECT_THAT(node_.commands, ElementsAre(FakeNode::Args{"ONE"}, FakeNode::Args{"TWO", "x"}));
}

TEST_F(NodeQueryTest, ClosesItsConnectionAndCanAskAgain) {
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(Ask().ok());
    ASSERT_TRUE(RunUntil([&] { return query_->idle() && node_.connections() == 0; }));
  }
}

TEST_F(NodeQueryTest, RepliesInPiecesGiveTheSameFrames) {
  const std::string nested = "*2\r\n$3\r\na\r\n\r\n*1\r\n:1\r\n";
  node_.script = [&](const FakeNode::Args& args) {
    return args[0] == "ONE" ? nested : std::string("-ERR no\r\n");
  };
  for (const size_t chunk : {1, 2, 3, 7}) {
    SCOPED_TRACE(chunk);
    node_.chunk_bytes = chunk;
    const Result result = Ask();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_THAT(*result, ElementsAre(nested, "-ERR no\r\n"));
    ASSERT_TRUE(RunUntil([&] { return query_->idle(); }));
  }
}

TEST_F(NodeQueryTest, LargeRepliesArriveWhole) {
  std::string body;
  for (int i = 0; body.size() < (3u << 20); ++i) absl::StrAppend(&body, i, " ");
  const std::string frame = absl::StrCat("$", body.size(), "\r\n", body, "\r\n");
  node_.script = [&](const FakeNode::Args&) { return frame; };
  const Result result = Ask();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE((*result)[0] == frame && (*result)[1] == frame);
}

TEST_F(NodeQueryTest, BadConversationsFailWithTheirReason) {
  struct Case {
    std::string name;
    std::string bytes;  // in answer to the first command
    bool close;
    std::string reason;
  };
  const Case cases[] = {
      {"no RESP", "HTTP/1.1 400\r\n", false, "not a reply"},
      {"bad length", "$-7\r\n", false, "not a reply"},
      {"push", ">1\r\n+x\r\n", false, "push"},
      {"surplus reply", "+a\r\n+b\r\n+c\r\n", false, "more bytes than replies"},
      {"end within a reply", "$10\r\nabc", true, "closed"},
      {"end between replies", "+a\r\n", true, "closed"},
      {"announces too much", "$400000000\r\n", false, "replies of more than"},
      {"silence", "", false, "no reply within"},
  };
  options_.reply_bytes_max = 1 << 20;
  options_.reply_timeout = absl::Milliseconds(200);
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    node_.script = [&](const FakeNode::Args& args) {
      return args[0] == "ONE" ? c.bytes : std::string();
    };
    node_.close_when_sent = c.close;
    const Result result = Ask();
    ASSERT_FALSE(result.ok());
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(c.reason));
    ASSERT_TRUE(RunUntil([&] { return query_->idle(); }));
  }
}

TEST_F(NodeQueryTest, TheByteLimitCountsAllReplies) {
  const std::string frame = absl::StrCat("$600\r\n", std::string(600, 'x'), "\r\n");
  node_.script = [&](const FakeNode::Args&) { return frame; };
  options_.reply_bytes_max = 1000;
  EXPECT_EQ(Ask().status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(NodeQueryTest, RefusedConnectionsFailAtOnce) {
  node_.Down();
  const absl::Time begin = now_;
  const Result result = Ask();
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("connect"));
  EXPECT_LT(now_ - begin, absl::Milliseconds(200));
}

TEST_F(NodeQueryTest, ConnectingHasADeadline) {
  // With its queue full, a listener that never accepts drops what comes.
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(listen(listener, 0), 0);
  ASSERT_EQ(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length), 0);
  std::vector<int> fill;
  for (int i = 0; i < 4; ++i) {
    fill.push_back(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    (void)connect(fill.back(), reinterpret_cast<sockaddr*>(&address), length);
  }
  options_.connect_timeout = absl::Milliseconds(50);
  StartAt(*io::Endpoint::FromIp("127.0.0.1", ntohs(address.sin_port)));
  ASSERT_TRUE(RunUntil([&] { return result_.has_value(); }));
  ASSERT_FALSE(result_->ok());
  EXPECT_EQ(result_->status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(result_->status().message()), HasSubstr("no connection within 50ms"));
  EXPECT_TRUE(RunUntil([&] { return query_->idle(); }));
  for (const int fd : fill) close(fd);
  close(listener);
}

TEST_F(NodeQueryTest, AuthenticatesFirst) {
  options_.password = "s3cret";
  node_.script = [](const FakeNode::Args& args) {
    return args[0] == "AUTH" ? "+OK\r\n" : absl::StrCat("+", args[0], "\r\n");
  };
  Result result = Ask();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(*result, ElementsAre("+ONE\r\n", "+TWO\r\n"));
  EXPECT_EQ(node_.commands[0], (FakeNode::Args{"AUTH", "s3cret"}));

  ASSERT_TRUE(RunUntil([&] { return query_->idle(); }));
  node_.commands.clear();
  options_.username = "proxy";
  ASSERT_TRUE(Ask().ok());
  EXPECT_EQ(node_.commands[0], (FakeNode::Args{"AUTH", "proxy", "s3cret"}));
}

TEST_F(NodeQueryTest, OfARefusedAuthOnlyTheFirstWordIsTold) {
  options_.password = "s3cret";
  struct Case {
    std::string reply;
    std::string told;
  };
  const Case cases[] = {
      {"-WRONGPASS invalid pair for user 'bob', s3cret\r\n", "AUTH refused: WRONGPASS"},
      {"+QUEUED s3cret\r\n", "AUTH refused: unexpected reply"},
      {"$6\r\ns3cret\r\n", "AUTH refused: unexpected reply"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.reply);
    node_.script = [&](const FakeNode::Args& args) {
      return args[0] == "AUTH" ? c.reply : "-NOAUTH Authentication required.\r\n";
    };
    const Result result = Ask();
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.status().message(), c.told);
    ASSERT_TRUE(RunUntil([&] { return query_->idle(); }));
  }
}

TEST_F(NodeQueryTest, ACanceledQueryTellsNothingAndEnds) {
  struct Case {
    std::string name;
    int turns;  // before the cancel
  };
  for (const Case& c : {Case{"connecting", 0}, Case{"asking", 5}}) {
    SCOPED_TRACE(c.name);
    node_.script = nullptr;
    Start();
    for (int i = 0; i < c.turns; ++i) Turn();
    query_->Cancel();
    ASSERT_TRUE(RunUntil([&] { return query_->idle(); }));
    EXPECT_FALSE(result_.has_value());
    EXPECT_EQ(timers_.size(), 0u);
  }
}

}  // namespace
}  // namespace proxy
