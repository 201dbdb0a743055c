#include "io/socket.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace io {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Closes its descriptor.
class Closer {
 public:
  explicit Closer(Fd fd) : fd_(fd) {}
  ~Closer() { Close(); }
  Closer(const Closer&) = delete;
  Closer& operator=(const Closer&) = delete;
  Fd get() const { return fd_; }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  Fd fd_;
};

// A directory that goes with the test.
class TempDir {
 public:
  TempDir() {
    std::string name = ::testing::TempDir() + "socket_test_XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~TempDir() {
    for (const std::string& file : files_) unlink(file.c_str());
    rmdir(path_.c_str());
  }
  std::string File(const std::string& name) {
    files_.push_back(absl::StrCat(path_, "/", name));
    return files_.back();
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::vector<std::string> files_;
};

int IntOption(Fd socket, int level, int option) {
  int value = -1;
  socklen_t length = sizeof(value);
  EXPECT_EQ(getsockopt(socket, level, option, &value, &length), 0) << strerror(errno);
  return value;
}

void ExpectStreamOptions(Fd socket) {
  EXPECT_EQ(IntOption(socket, IPPROTO_TCP, TCP_NODELAY), 1);
  EXPECT_EQ(IntOption(socket, SOL_SOCKET, SO_KEEPALIVE), 1);
  EXPECT_EQ(IntOption(socket, IPPROTO_TCP, TCP_KEEPIDLE), 60);
  EXPECT_EQ(IntOption(socket, IPPROTO_TCP, TCP_USER_TIMEOUT), 90'000);
}

void ExpectFlags(Fd socket) {
  EXPECT_TRUE(fcntl(socket, F_GETFL) & O_NONBLOCK);
  EXPECT_TRUE(fcntl(socket, F_GETFD) & FD_CLOEXEC);
}

Endpoint Loopback(uint16_t port) { return *Endpoint::FromIp("127.0.0.1", port); }
Endpoint UnixAt(const std::string& path) { return *Endpoint::FromUnixPath(path); }

Endpoint LocalEndpoint(Fd socket) { return *Endpoint::Parse(LocalNameOf(socket)); }

ListenOptions NoRetry() {
  ListenOptions options;
  options.retry_ms = 0;
  return options;
}

// --- addresses

TEST(EndpointTest, TextAndBack) {
  for (const char* text : {"127.0.0.1:8088", "0.0.0.0:0", "255.255.255.255:65535", "[::1]:8088",
                           "[::]:1", "[2001:db8::ff00:42:8329]:6379", "[fe80::1%lo]:7",
                           "unix:/run/rcproxy.sock", "unix:relative.sock"}) {
    SCOPED_TRACE(text);
    const auto endpoint = Endpoint::Parse(text);
    ASSERT_TRUE(endpoint.ok()) << endpoint.status();
    EXPECT_EQ(endpoint->ToString(), text);
    EXPECT_EQ(Endpoint::FromSockaddr(endpoint->address(), endpoint->length()), *endpoint);
  }
}

TEST(EndpointTest, FormsThatMeanTheSame) {
  EXPECT_EQ(Endpoint::Parse("::1:8088")->ToString(), "[::1]:8088");
  EXPECT_EQ(Endpoint::FromIp("[::1]", 5)->ToString(), "[::1]:5");
  EXPECT_EQ(Endpoint::FromIp("0:0:0:0:0:0:0:1", 5), Endpoint::FromIp("::1", 5));
  EXPECT_EQ(Endpoint::FromIp("fe80::1%1", 5), Endpoint::FromIp("fe80::1%lo", 5));  // lo is always 1
}

TEST(EndpointTest, WhatIsNoAddressIsRefusedByName) {
  for (const char* host :
       {"", "localhost", "1.2.3", "127.1", "1.2.3.4.5", "256.0.0.1", "0x7f.0.0.1", " 127.0.0.1",
        "127.0.0.1 ", "[127.0.0.1]", "[::1", "::1]", ":::", "1", "fe80::1%", "fe80::1%nosuchif",
        "fe80::1%0", "fe80::1%99999999999"}) {
    SCOPED_TRACE(host);
    const auto endpoint = Endpoint::FromIp(host, 1);
    ASSERT_FALSE(endpoint.ok()) << endpoint->ToString();
    EXPECT_EQ(endpoint.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(endpoint.status().message()),
                HasSubstr(absl::StrCat("\"", host, "\"")));
  }
  EXPECT_FALSE(Endpoint::FromIp(absl::string_view("127.0.0.1\0x", 11), 1).ok());
  EXPECT_FALSE(Endpoint::FromIp(absl::string_view("::1\0", 4), 1).ok());
}

TEST(EndpointTest, TheLongestUnixPathFitsAndNoLonger) {
  const std::string longest(107, 'p');
  const auto endpoint = Endpoint::FromUnixPath(longest);
  ASSERT_TRUE(endpoint.ok());
  EXPECT_EQ(endpoint->unix_path(), longest);
  EXPECT_FALSE(Endpoint::FromUnixPath(longest + "p").ok());
  EXPECT_FALSE(Endpoint::FromUnixPath("").ok());
  EXPECT_FALSE(Endpoint::FromUnixPath(absl::string_view("a\0b", 3)).ok());
  EXPECT_FALSE(Endpoint::Parse("unix:").ok());
}

TEST(EndpointTest, DiffersByAddressPortScopeAndFamily) {
  const std::vector<Endpoint> all = {
      *Endpoint::Parse("127.0.0.1:1"),    *Endpoint::Parse("127.0.0.1:2"),
      *Endpoint::Parse("127.0.0.2:1"),    *Endpoint::Parse("[::1]:1"),
      *Endpoint::Parse("[::1]:2"),        *Endpoint::Parse("[fe80::1]:1"),
      *Endpoint::Parse("[fe80::1%lo]:1"), *Endpoint::Parse("unix:/a"),
      *Endpoint::Parse("unix:/b"),        Endpoint()};
  for (size_t i = 0; i < all.size(); ++i) {
    for (size_t j = 0; j < all.size(); ++j) EXPECT_EQ(all[i] == all[j], i == j) << i << " " << j;
  }
}

TEST(EndpointTest, SetPortChangesOnlyThePort) {
  Endpoint endpoint = *Endpoint::Parse("[::1]:1");
  endpoint.set_port(6380);
  EXPECT_EQ(endpoint.ToString(), "[::1]:6380");
  EXPECT_EQ(endpoint.port(), 6380);
  Endpoint path = UnixAt("/a");
  path.set_port(1);
  EXPECT_EQ(path, UnixAt("/a"));
  EXPECT_EQ(path.port(), 0);
  EXPECT_EQ(Endpoint().ToString(), "");
}

TEST(ParseHostPortTest, SplitsAtTheLastColon) {
  struct Case {
    const char* text;
    const char* host;
    int port;
  };
  for (const Case& c : {Case{"localhost:6379", "localhost", 6379},
                        {"[::1]:1", "::1", 1},
                        {"::1:65535", "::1", 65535},
                        {"a.b-c:0", "a.b-c", 0},
                        {"h:007", "h", 7}}) {
    SCOPED_TRACE(c.text);
    const auto parts = ParseHostPort(c.text);
    ASSERT_TRUE(parts.ok()) << parts.status();
    EXPECT_EQ(parts->host, c.host);
    EXPECT_EQ(parts->port, c.port);
  }
}

TEST(ParseHostPortTest, ErrorsShowTheText) {
  for (const char* text :
       {"", "host", ":1", "[]:1", "host:", "host:-1", "host:+1", "host: 1", "host:1 ", "host:65536",
        "host:99999999999999999999", "host:1a", "[::1:1", "::1]:1"}) {
    SCOPED_TRACE(text);
    const auto parts = ParseHostPort(text);
    ASSERT_FALSE(parts.ok());
    EXPECT_THAT(std::string(parts.status().message()), HasSubstr(absl::StrCat("\"", text, "\"")));
  }
}

// --- TCP

TEST(OpenListenerTest, AcceptedSocketsInheritTheOptions) {
  for (const char* address : {"127.0.0.1:0", "[::1]:0"}) {
    SCOPED_TRACE(address);
    const auto listener = OpenListener(*Endpoint::Parse(address), {});
    ASSERT_TRUE(listener.ok()) << listener.status();
    const Closer listening(*listener);
    ExpectFlags(*listener);
    const Endpoint bound = LocalEndpoint(*listener);
    EXPECT_NE(bound.port(), 0);
    EXPECT_EQ(PeerNameOf(*listener), "");

    const auto client = OpenStreamSocket(bound);
    ASSERT_TRUE(client.ok()) << client.status();
    const Closer connecting(*client);
    ExpectFlags(*client);
    ExpectStreamOptions(*client);
    if (connect(*client, bound.address(), bound.length()) != 0) {
      ASSERT_EQ(errno, EINPROGRESS);
    }
    pollfd ready = {.fd = *listener, .events = POLLIN, .revents = 0};
    ASSERT_EQ(poll(&ready, 1, 5000), 1);
    const Closer accepted(accept4(*listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    ASSERT_GE(accepted.get(), 0);
    ExpectStreamOptions(accepted.get());
    EXPECT_EQ(LocalNameOf(accepted.get()), bound.ToString());
    EXPECT_EQ(PeerNameOf(accepted.get()), LocalNameOf(*client));
    EXPECT_EQ(PeerNameOf(*client), bound.ToString());
  }
}

TEST(OpenListenerTest, AnAddressInUseIsNamedWithTheReason) {
  const auto first = OpenListener(Loopback(0), {});
  ASSERT_TRUE(first.ok());
  const Closer listening(*first);
  const Endpoint taken = LocalEndpoint(*first);
  const auto second = OpenListener(taken, NoRetry());
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()),
              AllOf(HasSubstr(taken.ToString()), HasSubstr("Address already in use"),
                    Not(HasSubstr("\n"))));
}

TEST(OpenListenerTest, AnAddressThatBecomesFreeInTimeIsTaken) {
  const auto first = OpenListener(Loopback(0), {});
  ASSERT_TRUE(first.ok());
  Closer listening(*first);
  const Endpoint taken = LocalEndpoint(*first);
  ListenOptions patient;
  patient.retry_ms = 60'000;
  std::atomic<bool> began = false;
  absl::StatusOr<Fd> second;
  std::thread thread([&] {
    began = true;
    second = OpenListener(taken, patient);
  });
  while (!began) std::this_thread::yield();
  listening.Close();
  thread.join();
  ASSERT_TRUE(second.ok()) << second.status();
  close(*second);
}

TEST(OpenListenerTest, APortWithConnectionsInTimeWaitIsFree) {
  auto first = OpenListener(Loopback(0), {});
  ASSERT_TRUE(first.ok());
  Closer listening(*first);
  const Endpoint bound = LocalEndpoint(*first);
  Closer client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(connect(client.get(), bound.address(), bound.length()), 0);
  Closer accepted(accept4(*first, nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_GE(accepted.get(), 0);
  accepted.Close();  // the side that closes first keeps the port in TIME_WAIT
  char byte;
  EXPECT_EQ(read(client.get(), &byte, 1), 0);
  client.Close();
  listening.Close();
  const auto again = OpenListener(bound, NoRetry());
  ASSERT_TRUE(again.ok()) << again.status();
  close(*again);
}

TEST(OpenListenerTest, BothWildcardsCanBeListenedOnAtOnce) {
  const auto v6 = OpenListener(*Endpoint::Parse("[::]:0"), {});
  ASSERT_TRUE(v6.ok()) << v6.status();
  const Closer listening(*v6);
  EXPECT_EQ(IntOption(*v6, IPPROTO_IPV6, IPV6_V6ONLY), 1);
  Endpoint v4_address = *Endpoint::Parse("0.0.0.0:0");
  v4_address.set_port(LocalEndpoint(*v6).port());
  const auto v4 = OpenListener(v4_address, NoRetry());
  ASSERT_TRUE(v4.ok()) << v4.status();
  close(*v4);
}

TEST(OpenListenerTest, AnAddressOfAnotherMachineIsRefused) {
  const auto listener = OpenListener(*Endpoint::Parse("192.0.2.1:0"), {});  // RFC 5737, TEST-NET-1
  ASSERT_FALSE(listener.ok());
  EXPECT_THAT(std::string(listener.status().message()),
              AllOf(HasSubstr("192.0.2.1:0"), HasSubstr("Cannot assign")));
}

TEST(OpenListenerTest, AFamilyThatIsNoneIsAnError) {
  EXPECT_FALSE(OpenListener(Endpoint(), {}).ok());
  EXPECT_FALSE(OpenStreamSocket(Endpoint()).ok());
}

// --- Unix sockets

mode_t ModeOf(const std::string& path) {
  struct stat info;
  return lstat(path.c_str(), &info) == 0 ? info.st_mode & 07777 : 0;
}

bool IsSocket(const std::string& path) {
  struct stat info;
  return lstat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode);
}

TEST(UnixListenerTest, TheFileHasTheModeThatWasAskedForWhateverTheUmask) {
  TempDir dir;
  for (const mode_t mask : {0, 022, 077, 0777}) {
    for (const mode_t mode : {0700, 0770, 0777, 0600}) {
      SCOPED_TRACE(absl::StrCat("umask ", mask, " mode ", mode));
      const std::string path = dir.File(absl::StrCat("s", mask, "-", mode));
      ListenOptions options;
      options.unix_mode = mode;
      const mode_t before = umask(mask);
      const auto listener = OpenListener(UnixAt(path), options);
      EXPECT_EQ(umask(before),
                mask);  // not changed, not even for a while: other threads have it too
      ASSERT_TRUE(listener.ok()) << listener.status();
      EXPECT_EQ(ModeOf(path), mode);
      ExpectFlags(*listener);
      close(*listener);
    }
  }
}

TEST(UnixListenerTest, AStaleSocketIsReplacedAndALiveOneIsNot) {
  TempDir dir;
  const std::string path = dir.File("socket");
  const auto first = OpenListener(UnixAt(path), {});
  ASSERT_TRUE(first.ok()) << first.status();
  Closer listening(*first);

  const auto second = OpenListener(UnixAt(path), NoRetry());
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()),
              AllOf(HasSubstr(path), HasSubstr("Address already in use")));
  EXPECT_TRUE(IsSocket(path));
  const Closer client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(connect(client.get(), UnixAt(path).address(), UnixAt(path).length()), 0);

  listening.Close();  // the file stays behind
  ASSERT_TRUE(IsSocket(path));
  const auto third = OpenListener(UnixAt(path), NoRetry());
  ASSERT_TRUE(third.ok()) << third.status();
  close(*third);
}

TEST(UnixListenerTest, AListenerWhoseQueueIsFullIsAlive) {
  TempDir dir;
  const std::string path = dir.File("socket");
  ListenOptions options;
  options.backlog = 0;
  const auto first = OpenListener(UnixAt(path), options);
  ASSERT_TRUE(first.ok());
  const Closer listening(*first);
  std::vector<std::unique_ptr<Closer>> clients;
  int result = 0;
  while (result == 0) {
    clients.push_back(
        std::make_unique<Closer>(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)));
    result = connect(clients.back()->get(), UnixAt(path).address(), UnixAt(path).length());
  }
  ASSERT_EQ(errno, EAGAIN);
  EXPECT_FALSE(OpenListener(UnixAt(path), NoRetry()).ok());
  EXPECT_TRUE(IsSocket(path));
}

TEST(UnixListenerTest, WhatIsNoSocketIsLeftAlone) {
  TempDir dir;
  const std::string file = dir.File("file");
  const std::string link = dir.File("link");
  close(open(file.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
  ASSERT_EQ(symlink(file.c_str(), link.c_str()), 0);
  for (const std::string& path : {file, link, dir.path()}) {
    SCOPED_TRACE(path);
    const auto listener = OpenListener(UnixAt(path), {});
    ASSERT_FALSE(listener.ok());
    EXPECT_THAT(std::string(listener.status().message()),
                AllOf(HasSubstr(path), HasSubstr("no socket")));
    EXPECT_EQ(access(path.c_str(), F_OK), 0);
  }
}

TEST(UnixListenerTest, ADirectoryThatIsMissingIsNamed) {
  TempDir dir;
  const auto listener = OpenListener(UnixAt(dir.path() + "/none/socket"), {});
  ASSERT_FALSE(listener.ok());
  EXPECT_THAT(std::string(listener.status().message()),
              AllOf(HasSubstr("/none/socket"), HasSubstr("No such file")));
}

// Two that start at once both see the stale file; only one may replace it.
TEST(UnixListenerTest, OfManyThatStartAtOnceOneListens) {
  TempDir dir;
  const std::string path = dir.File("socket");
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> ready = 0;
    constexpr int kThreads = 4;
    std::vector<absl::StatusOr<Fd>> results(kThreads, absl::UnknownError("not run"));
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        ++ready;
        while (ready < kThreads) std::this_thread::yield();
        ListenOptions options;
        options.retry_ms = 20;
        results[i] = OpenListener(UnixAt(path), options);
      });
    }
    for (std::thread& thread : threads) thread.join();
    int listening = 0;
    for (const auto& result : results) listening += result.ok();
    EXPECT_EQ(listening, 1);
    const Closer client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(client.get(), UnixAt(path).address(), UnixAt(path).length()), 0)
        << strerror(errno);
    for (const auto& result : results) {
      if (result.ok()) close(*result);
    }
  }
}

TEST(UnixListenerTest, OnlyTheListeningEndHasAName) {
  TempDir dir;
  const std::string path = dir.File("socket");
  const auto listener = OpenListener(UnixAt(path), {});
  ASSERT_TRUE(listener.ok());
  const Closer listening(*listener);
  const auto client = OpenStreamSocket(UnixAt(path));
  ASSERT_TRUE(client.ok());
  const Closer connecting(*client);
  ASSERT_EQ(connect(*client, UnixAt(path).address(), UnixAt(path).length()), 0);
  const Closer accepted(accept4(*listener, nullptr, nullptr, SOCK_CLOEXEC));
  EXPECT_EQ(LocalNameOf(accepted.get()), "unix:" + path);
  EXPECT_EQ(PeerNameOf(accepted.get()), "");
  EXPECT_EQ(PeerNameOf(*client), "unix:" + path);
  EXPECT_EQ(LocalNameOf(*client), "");
  EXPECT_EQ(LocalNameOf(-1), "");
}

}  // namespace
}  // namespace io
