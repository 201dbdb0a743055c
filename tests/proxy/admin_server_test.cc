#include "proxy/admin_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "io/socket.h"

namespace proxy {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::StartsWith;

class QuietSink final : public LogSink {
 public:
  void Write(LogLevel, absl::string_view) override { ++lines; }
  LogLevel level() const override { return level_; }
  void set_level(LogLevel level) override { level_ = level; }
  uint64_t dropped() const override { return 42; }

  std::atomic<int> lines{0};

 private:
  std::atomic<LogLevel> level_{LogLevel::kInfo};
};

// A connection to an address of the form that address() gives.
class Connection {
 public:
  explicit Connection(const std::string& address) {
    const io::Endpoint endpoint = *io::Endpoint::Parse(address);
    fd_ = socket(endpoint.family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(connect(fd_, endpoint.address(), endpoint.length()), 0) << address;
  }
  ~Connection() { close(fd_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void Send(const std::string& bytes) {
    EXPECT_EQ(send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  // Until the server closes.
  std::string ReadAll() {
    std::string all;
    char buffer[4096];
    while (true) {
      const ssize_t n = recv(fd_, buffer, sizeof(buffer), 0);
      if (n <= 0) return all;
      all.append(buffer, static_cast<size_t>(n));
    }
  }

 private:
  int fd_;
};

class AdminServerTest : public ::testing::Test {
 protected:
  void Start(const std::string& address = "127.0.0.1:0") {
    absl::StatusOr<std::unique_ptr<AdminServer>> server =
        StartAdminServer(address, &stats_, &sink_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  std::string Ask(const std::string& request_line, const std::string& headers = "",
                  const std::string& body = "") {
    Connection connection(server_->address());
    connection.Send(absl::StrCat(request_line, " HTTP/1.1\r\nHost: x\r\n", headers, "\r\n", body));
    return connection.ReadAll();
  }

  StatsRegistry stats_{2};
  QuietSink sink_;
  std::unique_ptr<AdminServer> server_;
};

TEST_F(AdminServerTest, AddressHasThePortThatTheSystemChose) {
  Start();
  EXPECT_THAT(server_->address(), MatchesRegex("127\\.0\\.0\\.1:[1-9][0-9]*"));
  EXPECT_THAT(Ask("GET /healthz"), AllOf(StartsWith("HTTP/1.1 200 "), EndsWith("\r\n\r\nok\n")));
}

TEST_F(AdminServerTest, Ipv6IsServedToo) {
  Start("[::1]:0");
  EXPECT_THAT(server_->address(), MatchesRegex("\\[::1\\]:[1-9][0-9]*"));
  EXPECT_THAT(Ask("GET /healthz"), EndsWith("ok\n"));
}

TEST_F(AdminServerTest, MetricsAreThoseOfTheRegistry) {
  stats_.worker(1)->requests.Set(123);
  Start();
  EXPECT_THAT(Ask("GET /metrics"), AllOf(StartsWith("HTTP/1.1 200 "),
                                         HasSubstr("Content-Type: text/plain; version=0.0.4"),
                                         HasSubstr("\nrcproxy_requests_total 123\n"),
                                         HasSubstr("\nrcproxy_log_lines_dropped_total 42\n")));
}

TEST_F(AdminServerTest, ReadyOnceATopologyIsThereUntilADrainBegins) {
  Start();
  EXPECT_THAT(Ask("GET /readyz"),
              AllOf(StartsWith("HTTP/1.1 503 "), EndsWith("no topology yet\n")));
  stats_.control()->topology_ready.Set(1);
  EXPECT_THAT(Ask("GET /readyz"), AllOf(StartsWith("HTTP/1.1 200 "), EndsWith("ok\n")));
  stats_.control()->draining.Set(1);
  EXPECT_THAT(Ask("GET /readyz"), AllOf(StartsWith("HTTP/1.1 503 "), EndsWith("draining\n")));
  EXPECT_THAT(Ask("GET /healthz"), StartsWith("HTTP/1.1 200 "));
}

TEST_F(AdminServerTest, TheLogLevelIsReadAndSet) {
  Start();
  EXPECT_THAT(Ask("GET /loglevel"), EndsWith("\r\n\r\ninfo\n"));
  EXPECT_THAT(Ask("PUT /loglevel?level=debug", "Content-Length: 0\r\n"),
              AllOf(StartsWith("HTTP/1.1 200 "), EndsWith("debug\n")));
  EXPECT_EQ(sink_.level(), LogLevel::kDebug);
  EXPECT_THAT(Ask("GET /loglevel"), EndsWith("\r\n\r\ndebug\n"));
  EXPECT_EQ(sink_.lines, 1);
}

// As sent by curl -X PUT: the library would wait for a body until the time is over.
TEST_F(AdminServerTest, AChangeWithoutContentLengthIsAnsweredAtOnce) {
  Start();
  const absl::Time start = absl::Now();
  EXPECT_THAT(Ask("PUT /loglevel?level=error"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(Ask("POST /loglevel?level=trace"), StartsWith("HTTP/1.1 200 "));
  EXPECT_LT(absl::Now() - start, absl::Seconds(4));
  EXPECT_EQ(sink_.level(), LogLevel::kTrace);
}

TEST_F(AdminServerTest, OtherLevelsMethodsAndPathsChangeNothing) {
  Start();
  EXPECT_THAT(Ask("PUT /loglevel?level=loud"), StartsWith("HTTP/1.1 400 "));
  EXPECT_THAT(Ask("PUT /loglevel"), StartsWith("HTTP/1.1 400 "));
  EXPECT_THAT(Ask("DELETE /loglevel?level=off"), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(Ask("PUT /healthz"), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(Ask("GET /"), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(Ask("GET /metrics/x"), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(Ask("GET /../../etc/passwd"), StartsWith("HTTP/1.1 404 "));
  EXPECT_EQ(sink_.level(), LogLevel::kInfo);
}

TEST_F(AdminServerTest, ALargeBodyIsRefused) {
  Start();
  EXPECT_THAT(Ask("POST /loglevel?level=off", "Content-Length: 9000\r\n", std::string(9000, 'x')),
              StartsWith("HTTP/1.1 413 "));
  EXPECT_EQ(sink_.level(), LogLevel::kInfo);
}

TEST_F(AdminServerTest, WhatIsNotHttpIsClosed) {
  Start();
  {
    Connection connection(server_->address());
    connection.Send("*1\r\n$4\r\nPING\r\n\r\n");
    EXPECT_THAT(connection.ReadAll(), StartsWith("HTTP/1.1 400 "));
  }
  EXPECT_THAT(Ask("GET /healthz"), EndsWith("ok\n"));
}

// Two threads serve: were silent connections not ended, the third request would never be.
TEST_F(AdminServerTest, SilentAndDrippingConnectionsHoldNobodyUpForLong) {
  Start();
  std::vector<std::unique_ptr<Connection>> silent;
  for (int i = 0; i < 2; ++i) {
    silent.push_back(std::make_unique<Connection>(server_->address()));
    silent.back()->Send("GET /healthz HTT");
  }
  const absl::Time start = absl::Now();
  EXPECT_THAT(Ask("GET /healthz"), EndsWith("ok\n"));
  EXPECT_LT(absl::Now() - start, absl::Seconds(15));
}

TEST_F(AdminServerTest, ItsEndDoesNotWaitForConnections) {
  Start();
  std::vector<std::unique_ptr<Connection>> connections;
  for (int i = 0; i < 40; ++i) {
    connections.push_back(std::make_unique<Connection>(server_->address()));
    if (i % 2 == 0) connections.back()->Send("PUT /loglevel HTTP/1.1\r\nContent-Length: 9\r\n\r\n");
  }
  const absl::Time start = absl::Now();
  server_.reset();
  EXPECT_LT(absl::Now() - start, absl::Seconds(4));
}

TEST_F(AdminServerTest, ManyScrapesAtATimeAreAllAnswered) {
  Start();
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 10; ++k) {
        if (absl::StrContains(Ask("GET /metrics"), "rcproxy_workers 2\n")) ++good;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 160);
}

TEST_F(AdminServerTest, TwoServersNeverShareAPort) {
  Start();
  const std::string address = server_->address();
  EXPECT_EQ(
      StartAdminServer(address, &stats_, &sink_).status().message(),
      absl::StrCat("--debug-addr: '", address, "' cannot be listened on: Address already in use"));
  server_.reset();
  Start(address);  // and it is free at once
}

TEST_F(AdminServerTest, ABadAddressIsNamedWithTheReason) {
  EXPECT_EQ(StartAdminServer("nowhere", &stats_, &sink_).status().message(),
            "--debug-addr: 'nowhere' is not HOST:PORT");
  EXPECT_EQ(StartAdminServer("192.0.2.1:80", &stats_, &sink_).status().message(),
            "--debug-addr: '192.0.2.1:80' cannot be listened on: Cannot assign requested address");
  EXPECT_THAT(
      std::string(StartAdminServer("no.such.host.invalid:80", &stats_, &sink_).status().message()),
      StartsWith("--debug-addr: 'no.such.host.invalid:80' cannot be listened on: "));
}

}  // namespace
}  // namespace proxy
