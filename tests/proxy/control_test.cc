#include "proxy/control.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "io/uring_ring.h"
#include "tests/proxy/fake_node.h"
#include "tests/proxy/log_lines.h"

namespace proxy {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr absl::string_view kRefusal = "-ERR max number of clients reached\r\n";

class NoResolver final : public Resolver {
 public:
  void Ask(absl::string_view) override {}
  bool Take(Resolved*) override { return false; }
};

// A blocking client connection.
class Peer {
 public:
  explicit Peer(int fd) : fd_(fd) {}
  ~Peer() { Close(); }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  void Close() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }
  void Send(absl::string_view bytes) { (void)send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL); }
  // What is there now; `*ended` if the end of input, or a reset, is too.
  std::string Read(bool* ended) {
    std::string all;
    char bytes[512];
    while (true) {
      const ssize_t n = recv(fd_, bytes, sizeof(bytes), MSG_DONTWAIT);
      if (n > 0) {
        all.append(bytes, static_cast<size_t>(n));
        continue;
      }
      *ended = n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
      return all;
    }
  }

 private:
  int fd_;
};

// Control on a real ring, with workers that only keep what they are given.
class ControlTest : public testing::Test {
 protected:
  static constexpr uint32_t kWorkers = 3;

  struct FakeWorker {
    std::unique_ptr<io::Ring> ring;
    WorkerMail mail;
    std::vector<int> clients;
    std::vector<MessageKind> messages;  // other than kAdoptClient
    bool drains = true;                 // answers kDrain
    bool ends = true;                   // answers kForceClose
    uint32_t cut_off = 0;
  };

  ControlTest() : directory_(kWorkers + 1), stats_(kWorkers) {
    Config config;
    config.listen.push_back(*io::Endpoint::Parse("127.0.0.1:0"));
    config.drain_timeout = absl::Milliseconds(300);
    config.workers = kWorkers;
    config_ = std::make_shared<Config>(std::move(config));
  }
  ~ControlTest() override {
    for (FakeWorker& worker : workers_) {
      for (const int fd : worker.clients) close(fd);
      worker.ring.reset();
    }
  }

  void Make() {
    Control::Environment environment;
    environment.ring = MakeRing(kControlRing);
    ASSERT_NE(environment.ring, nullptr);
    environment.config = config_;
    environment.resolver = std::make_unique<NoResolver>();
    environment.mail = &mail_;
    for (uint32_t i = 0; i < kWorkers; ++i) {
      workers_[i].ring = MakeRing(WorkerRing(i));
      environment.worker_mail.push_back(&workers_[i].mail);
    }
    environment.stats = &stats_;
    environment.log = &lines_;
    control_ = std::make_unique<Control>(std::move(environment));
  }
  void Start() {
    Make();
    const absl::Status status = control_->Listen();
    ASSERT_TRUE(status.ok()) << status;
    control_->Start();
    Turns(2);
  }
  std::unique_ptr<io::Ring> MakeRing(io::RingId id) {
    io::RingOptions options;
    options.entries = 64;
    options.client_buffers = options.backend_buffers = 4;
    std::vector<std::string> warnings;
    auto ring = io::MakeUringRing(&directory_, id, options, &warnings);
    return ring.ok() ? *std::move(ring) : nullptr;
  }

  // False: control is done.
  bool Turn() {
    if (!control_->Turn(absl::Milliseconds(1))) return false;
    for (uint32_t i = 0; i < kWorkers; ++i) TurnWorker(i);
    if (node_ != nullptr) node_->Pump();
    return true;
  }
  void Turns(int n) {
    while (n-- > 0) Turn();
  }
  bool RunUntil(const std::function<bool()>& done) {
    for (int i = 0; i < 5000 && !done(); ++i) Turn();
    return done();
  }
  bool RunToEnd() {
    for (int i = 0; i < 5000; ++i) {
      if (!Turn()) return true;
    }
    return false;
  }
  void TurnWorker(uint32_t index) {
    FakeWorker& worker = workers_[index];
    const size_t n =
        worker.ring->SubmitAndWait(absl::ZeroDuration(), absl::MakeSpan(worker_batch_));
    for (size_t i = 0; i < n; ++i) {
      const io::Completion& completion = worker_batch_[i];
      if (completion.token.kind() != io::OpKind::kMessage) continue;
      const auto kind = static_cast<MessageKind>(completion.message_kind);
      if (kind == MessageKind::kAdoptClient) {
        worker.clients.push_back(completion.result);
        continue;
      }
      worker.messages.push_back(kind);
      const bool report = (kind == MessageKind::kDrain && worker.drains) ||
                          (kind == MessageKind::kForceClose && worker.ends && !worker.drains);
      if (report) PostToControl(index, MessageKind::kDrained, worker.cut_off);
    }
    worker.ring->SubmitAndWait(absl::ZeroDuration(), absl::MakeSpan(worker_batch_));
  }
  void PostToControl(uint32_t index, MessageKind kind, uint32_t value) {
    io::Message message;
    message.kind = static_cast<uint8_t>(kind);
    message.value = value;
    workers_[index].ring->Post(io::OpToken(io::OpKind::kPost, 0, 0, 0), kControlRing, message);
  }
  void CloseAtWorker(uint32_t index, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      close(workers_[index].clients.back());
      workers_[index].clients.pop_back();
    }
    PostToControl(index, MessageKind::kClientsClosed,
                  PackClientsClosed({index, static_cast<uint32_t>(count)}));
    Turns(3);
  }
  void Signal(int number) {
    io::Message message;
    message.kind = static_cast<uint8_t>(MessageKind::kSignal);
    message.value = static_cast<uint32_t>(number);
    directory_.Post(kControlRing, message);
    Turns(2);
  }

  int TcpSocket() {
    const auto parts = io::ParseHostPort(control_->ListenAddresses());
    EXPECT_TRUE(parts.ok()) << control_->ListenAddresses();
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(parts->port);
    inet_pton(AF_INET, parts->host.c_str(), &address.sin_addr);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
      close(fd);
      return -1;
    }
    return fd;
  }
  std::unique_ptr<Peer> Connect() {
    const int fd = TcpSocket();
    EXPECT_GE(fd, 0);
    return std::make_unique<Peer>(fd);
  }
  size_t HandedOver() const {
    size_t total = 0;
    for (const FakeWorker& worker : workers_) total += worker.clients.size();
    return total;
  }
  std::vector<size_t> PerWorker() const {
    std::vector<size_t> sizes;
    for (const FakeWorker& worker : workers_) sizes.push_back(worker.clients.size());
    return sizes;
  }
  uint64_t Stat(Counter ControlStats::*member) { return (stats_.control()->*member).Get(); }

  io::RingDirectory directory_;
  std::shared_ptr<Config> config_;
  StatsRegistry stats_;
  LogLines lines_;
  ControlMail mail_;
  FakeWorker workers_[kWorkers];
  std::unique_ptr<FakeNode> node_;
  std::unique_ptr<Control> control_;
  std::vector<io::Completion> worker_batch_ = std::vector<io::Completion>(64);
};

TEST_F(ControlTest, ClientsGoToTheWorkerWithTheFewest) {
  Start();
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 7; ++i) {
    peers.push_back(Connect());
    ASSERT_TRUE(RunUntil([&] { return HandedOver() == peers.size(); }));
  }
  EXPECT_THAT(PerWorker(), ElementsAre(3, 2, 2));
  CloseAtWorker(2, 2);
  for (int i = 0; i < 2; ++i) peers.push_back(Connect());
  ASSERT_TRUE(RunUntil([&] { return HandedOver() == 7; }));
  EXPECT_THAT(PerWorker(), ElementsAre(3, 2, 2));
}

TEST_F(ControlTest, ClientsOverTheLimitAreToldAndClosed) {
  config_->clients_max = 2;
  Start();
  auto first = Connect();
  auto second = Connect();
  ASSERT_TRUE(RunUntil([&] { return HandedOver() == 2; }));
  // Also one that has sent something: it gets the text all the same.
  auto third = Connect();
  third->Send("*1\r\n$4\r\nPING\r\n");
  std::string got;
  bool ended = false;
  ASSERT_TRUE(RunUntil([&] {
    got += third->Read(&ended);
    return ended;
  }));
  EXPECT_EQ(got, kRefusal);
  EXPECT_EQ(HandedOver(), 2u);
  EXPECT_EQ(Stat(&ControlStats::clients_over_limit), 1u);
  // When one has gone there is room again.
  CloseAtWorker(0, 1);
  auto fourth = Connect();
  EXPECT_TRUE(RunUntil([&] { return HandedOver() == 2; }));
}

TEST_F(ControlTest, AFloodOfClientsOverTheLimitIsToldToo) {
  config_->clients_max = 0;
  Start();
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 200; ++i) {
    peers.push_back(Connect());
    Turn();
  }
  for (const auto& peer : peers) {
    std::string got;
    bool ended = false;
    ASSERT_TRUE(RunUntil([&] {
      got += peer->Read(&ended);
      return ended;
    }));
    EXPECT_EQ(got, kRefusal);
  }
  EXPECT_EQ(Stat(&ControlStats::clients_over_limit), 200u);
}

TEST_F(ControlTest, WithoutDescriptorsClientsAreRefusedAndLaterServed) {
  // Before anything is armed: the kernel goes by the limit of that moment.
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit few = {100, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  Start();
  Peer refused(TcpSocket());
  std::vector<int> fill;
  while (fill.empty() || fill.back() >= 0) fill.push_back(dup(0));
  ASSERT_EQ(errno, EMFILE);
  std::string got;
  bool ended = false;
  ASSERT_TRUE(RunUntil([&] {
    got += refused.Read(&ended);
    return ended;
  }));
  EXPECT_EQ(got, kRefusal);
  const uint64_t failures = Stat(&ControlStats::accept_failures);
  EXPECT_GE(failures, 1u);
  Turns(300);  // of a millisecond
  EXPECT_LE(Stat(&ControlStats::accept_failures) - failures, 8u) << "accept fails in a loop";
  EXPECT_EQ(HandedOver(), 0u);
  for (const int fd : fill) close(fd);
  auto served = Connect();
  EXPECT_TRUE(RunUntil([&] { return HandedOver() == 1; }));
  EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

TEST_F(ControlTest, AddressesInUseAreNamedAndNothingStaysOpen) {
  const int taken = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  ASSERT_EQ(bind(taken, reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(listen(taken, 1), 0);
  ASSERT_EQ(getsockname(taken, reinterpret_cast<sockaddr*>(&address), &length), 0);
  const std::string text = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  const std::string path = absl::StrCat(testing::TempDir(), "/control_test_", getpid(), ".sock");
  config_->listen.push_back(*io::Endpoint::FromUnixPath(path));
  config_->listen.push_back(*io::Endpoint::Parse(text));
  Make();
  const absl::Status status = control_->Listen();
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  struct stat info = {};
  EXPECT_NE(stat(path.c_str(), &info), 0) << "the Unix socket is still there";
  close(taken);
}

TEST_F(ControlTest, TheTopologyReachesEachWorker) {
  node_ = std::make_unique<FakeNode>();
  const std::string nodes = absl::StrCat(std::string(40, 'a'), " 127.0.0.1:", node_->port(),
                                         "@1 myself,master - 0 0 1 connected 0-16383\n");
  node_->script = [&](const FakeNode::Args& args) {
    if (args[0] == "CLUSTER") return absl::StrCat("$", nodes.size(), "\r\n", nodes, "\r\n");
    return std::string("-NOPERM no\r\n");
  };
  config_->startup_nodes.push_back({"127.0.0.1", node_->port()});
  Start();
  ASSERT_TRUE(RunUntil([&] { return !workers_[kWorkers - 1].messages.empty(); }));
  for (FakeWorker& worker : workers_) {
    EXPECT_THAT(worker.messages, ElementsAre(MessageKind::kClusterState));
    const auto state = worker.mail.states.Take();
    ASSERT_TRUE(state.has_value());
    EXPECT_EQ((*state)->topology->covered_slots(), 16384);
  }
  // An ask is answered to the worker that made it.
  mail_.asks.Put({1, 5, ""});
  PostToControl(1, MessageKind::kRefreshWanted, 0);
  ASSERT_TRUE(RunUntil([&] { return workers_[1].messages.size() == 2; }));
  EXPECT_EQ(workers_[1].messages[1], MessageKind::kRefreshDone);
  const auto result = workers_[1].mail.refreshes.Take();
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->sequence, 5u);
  EXPECT_NE(result->view, nullptr);
  EXPECT_FALSE(workers_[0].mail.refreshes.Take().has_value());
}

TEST_F(ControlTest, DrainsOnSigtermAndEndsWithZero) {
  const std::string path = absl::StrCat(testing::TempDir(), "/control_test_", getpid(), ".sock");
  config_->listen.push_back(*io::Endpoint::FromUnixPath(path));
  config_->listen.erase(config_->listen.begin());
  Start();
  EXPECT_EQ(control_->ListenAddresses(), absl::StrCat("unix:", path));
  Signal(SIGTERM);
  ASSERT_TRUE(RunToEnd());
  EXPECT_EQ(control_->exit_code(), 0);
  EXPECT_FALSE(control_->abrupt());
  EXPECT_EQ(Stat(&ControlStats::draining), 1u);
  struct stat info = {};
  EXPECT_NE(stat(path.c_str(), &info), 0) << "the Unix socket is still there";
  for (const FakeWorker& worker : workers_) {
    EXPECT_THAT(worker.messages, ElementsAre(MessageKind::kDrain));
  }
  EXPECT_THAT(lines_.lines, Contains("drained"));
}

TEST_F(ControlTest, NobodyIsAcceptedOnceADrainHasBegun) {
  Start();
  for (FakeWorker& worker : workers_) worker.drains = false;
  auto before = Connect();
  ASSERT_TRUE(RunUntil([&] { return HandedOver() == 1; }));
  const std::string address = control_->ListenAddresses();
  Signal(SIGINT);
  ASSERT_TRUE(RunUntil([&] { return workers_[0].messages.size() == 1; }));
  const auto parts = io::ParseHostPort(address);
  sockaddr_in peer = {};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(parts->port);
  peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT_NE(connect(fd, reinterpret_cast<sockaddr*>(&peer), sizeof(peer)), 0);
  close(fd);
  ASSERT_TRUE(RunToEnd());
}

TEST_F(ControlTest, OverTheDrainLimitWorkersAreForcedAndTheExitCodeIsOne) {
  Start();
  workers_[1].drains = false;
  workers_[1].cut_off = 4;
  Signal(SIGTERM);
  ASSERT_TRUE(RunToEnd());
  EXPECT_EQ(control_->exit_code(), 1);
  EXPECT_FALSE(control_->abrupt());
  EXPECT_THAT(workers_[1].messages, ElementsAre(MessageKind::kDrain, MessageKind::kForceClose));
  EXPECT_THAT(lines_.lines, Contains("drain limit passed: 4 clients cut off"));
}

TEST_F(ControlTest, AWorkerThatNeverEndsIsNotAwaited) {
  Start();
  workers_[1].drains = workers_[1].ends = false;
  Signal(SIGTERM);
  ASSERT_TRUE(RunToEnd());
  EXPECT_EQ(control_->exit_code(), 1);
  EXPECT_TRUE(control_->abrupt());
}

TEST_F(ControlTest, ASecondSignalEndsAtOnce) {
  Start();
  workers_[1].drains = false;
  Signal(SIGTERM);
  ASSERT_TRUE(Turn());
  Signal(SIGINT);
  EXPECT_FALSE(Turn());
  EXPECT_TRUE(control_->abrupt());
  EXPECT_EQ(control_->exit_code(), 1);
}

TEST_F(ControlTest, OtherSignalsChangeNothing) {
  Start();
  Signal(SIGHUP);
  Signal(SIGUSR1);
  EXPECT_TRUE(Turn());
  EXPECT_EQ(Stat(&ControlStats::draining), 0u);
  EXPECT_THAT(lines_.lines, Contains("reload is not supported yet"));
}

TEST_F(ControlTest, AWorkerThatIsGoneLosesItsClientAndNoMore) {
  Start();
  workers_[0].ring.reset();
  auto peer = Connect();
  bool ended = false;
  for (int i = 0; i < 500 && !ended; ++i) {
    control_->Turn(absl::Milliseconds(1));
    peer->Read(&ended);
  }
  EXPECT_TRUE(ended);
  EXPECT_THAT(lines_.lines, Contains(HasSubstr("cannot hand a client to a worker")));
  EXPECT_EQ(HandedOver(), 0u);
  workers_[0].ring = MakeRing(WorkerRing(0));
}

}  // namespace
}  // namespace proxy
