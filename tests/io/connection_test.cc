// Connection on the kernel's ring, over loopback TCP and Unix sockets.

#include "io/connection.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "io/buffer_pool.h"
#include "io/socket.h"
#include "io/uring_ring.h"

namespace io {
namespace {

using RecvEvent = Connection::RecvEvent;
using SendEvent = Connection::SendEvent;
using ::testing::AnyOf;
using ::testing::Eq;

constexpr size_t kMegabyte = 1 << 20;

// Text in which every place differs from its neighbours, so that a lost, doubled or misplaced piece
// shows.
std::string RandomText(size_t bytes, uint32_t seed) {
  std::mt19937 random(seed);
  std::string text(bytes + sizeof(uint32_t), '\0');
  for (size_t i = 0; i < bytes; i += sizeof(uint32_t)) {
    const uint32_t word = static_cast<uint32_t>(random());
    memcpy(&text[i], &word, sizeof(word));
  }
  text.resize(bytes);
  return text;
}

// Compares without printing megabytes.
::testing::AssertionResult SameText(const std::string& a, const std::string& b) {
  if (a == b) return ::testing::AssertionSuccess();
  const size_t common = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
  return ::testing::AssertionFailure()
         << "sizes " << a.size() << " and " << b.size() << ", different from byte " << common;
}

size_t OpenDescriptors() {
  const std::filesystem::directory_iterator directory("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(directory), end(directory)));
}

// A connection and what its owner has seen of it.
class End {
 public:
  End(Ring* ring, uint32_t index) : connection(ring), index_(index) {}

  void Open(Fd fd, Connection::Options options = {}) {
    options.index = index_;
    options.generation = ++generation_;
    connection.Open(fd, options);
  }

  void Handle(Completion* completion) {
    ASSERT_EQ(completion->token.generation(), generation_) << "a completion of an earlier life";
    ASSERT_FALSE(connection.closed()) << "a completion after the teardown";
    switch (completion->token.kind()) {
      case OpKind::kConnect:
        connect_result = connection.OnConnected(*completion);
        connected = true;
        break;
      case OpKind::kRecv:
        OnRecv(completion);
        break;
      case OpKind::kSend:
        OnSent(*completion);
        break;
      default:
        connection.OnControl(*completion);
    }
    if (connection.closed()) ++teardowns;
  }

  Connection connection;
  // What to do with input; the default keeps a copy of it.
  std::function<void(Slice)> on_data = [this](const Slice& data) {
    received.append(data.data(), data.size());
  };
  std::string received;
  bool ended = false;
  bool failed = false;
  bool connected = false;
  int connect_result = 0;
  int teardowns = 0;

 private:
  void OnRecv(Completion* completion) {
    Slice data;
    switch (connection.OnRecv(completion, &data)) {
      case RecvEvent::kNothing:
        EXPECT_TRUE(data.empty());
        break;
      case RecvEvent::kData:
        EXPECT_FALSE(data.empty());
        on_data(std::move(data));
        break;
      case RecvEvent::kEnd:
        ended = true;
        break;
      case RecvEvent::kError:
        failed = true;
        break;
    }
  }
  void OnSent(const Completion& completion) {
    const uint64_t sent = connection.sent_bytes();
    const uint64_t submitted = connection.submitted_bytes();
    const SendEvent event = connection.OnSent(completion);
    EXPECT_GE(connection.sent_bytes(), sent);
    EXPECT_LE(connection.sent_bytes(), submitted);
    if (event == SendEvent::kError) failed = true;
    if (event == SendEvent::kProgress) connection.Flush();
  }

  const uint32_t index_;
  uint32_t generation_ = 0;
};

// The other side of a stream, by plain system calls that never block.
class Peer {
 public:
  explicit Peer(Fd fd) : fd_(fd) { fcntl(fd, F_SETFL, O_NONBLOCK); }
  ~Peer() { Close(); }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  // Reads what is there, at most so much.
  void Read(size_t bytes_max = 64 * kMegabyte) {
    char buffer[16 << 10];
    while (bytes_max > 0 && !ended) {
      const ssize_t n = recv(fd_, buffer, std::min(bytes_max, sizeof(buffer)), 0);
      if (n < 0) {
        if (errno != EAGAIN) error = errno;
        ended = errno != EAGAIN;
        return;
      }
      ended = n == 0;
      received.append(buffer, static_cast<size_t>(n));
      bytes_max -= static_cast<size_t>(n);
    }
  }
  // Writes what there is room for. Returns how much.
  size_t Write(absl::string_view text) {
    size_t written = 0;
    while (written < text.size()) {
      const ssize_t n = send(fd_, text.data() + written, text.size() - written, MSG_NOSIGNAL);
      if (n < 0) break;
      written += static_cast<size_t>(n);
    }
    return written;
  }
  void HalfClose() { EXPECT_EQ(shutdown(fd_, SHUT_WR), 0); }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  // Close with a reset.
  void Reset() {
    const linger now = {.l_onoff = 1, .l_linger = 0};
    EXPECT_EQ(setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now)), 0);
    Close();
  }

  std::string received;
  bool ended = false;
  int error = 0;

 private:
  Fd fd_;
};

struct Config {
  std::string name;
  RingOptions ring;
  bool unix_socket = false;
};
void PrintTo(const Config& config, std::ostream* out) { *out << config.name; }

std::vector<Config> Configs() {
  RingOptions few;  // so that a fast writer runs into -ENOBUFS
  few.client_buffers = few.backend_buffers = 2;
  few.buffer_bytes = few.buffer_bytes_plain = 4096;
  RingOptions plain;
  plain.disabled_features = {"multishot_recv", "incremental_buffers"};
  RingOptions without_buffer_ring;
  without_buffer_ring.disabled_features = {"buffer_ring"};
  RingOptions zero_copy;
  zero_copy.zero_copy_send = true;
  return {{"tcp", {}, false},
          {"unix", {}, true},
          {"few_buffers", few, false},
          {"single_shot", plain, false},
          {"without_buffer_ring", without_buffer_ring, true},
          {"zero_copy", zero_copy, false}};
}

class ConnectionTest : public ::testing::TestWithParam<Config> {
 protected:
  void SetUp() override {
    std::vector<std::string> warnings;
    auto ring = MakeUringRing(&directory_, 0, GetParam().ring, &warnings);
    ASSERT_TRUE(ring.ok()) << ring.status();
    ring_ = *std::move(ring);
    descriptors_ = OpenDescriptors();
  }

  // Whatever a test did: everything ends once, and nothing is left.
  void TearDown() override {
    if (ring_ == nullptr) return;
    for (auto& end : ends_) end->connection.BeginClose();
    // With the peers still there, who may neither read nor write.
    EXPECT_TRUE(RunUntil([&] {
      return std::all_of(ends_.begin(), ends_.end(),
                         [](const auto& end) { return end->connection.closed(); });
    }));
    for (auto& end : ends_) EXPECT_EQ(end->teardowns, 1);
    peers_.clear();
    arena_.Release();
    EXPECT_EQ(blocks_.in_use(), 0u);
    Turn();  // gives buffers back
    EXPECT_EQ(ring_->FreeBufferShare(BufferGroup::kClients), 1.0);
    EXPECT_EQ(ring_->FreeBufferShare(BufferGroup::kBackends), 1.0);
    EXPECT_EQ(OpenDescriptors(), descriptors_);
  }

  size_t Turn(absl::Duration limit = absl::Milliseconds(1)) {
    const size_t n = ring_->SubmitAndWait(limit, absl::MakeSpan(batch_));
    for (size_t i = 0; i < n; ++i) {
      ends_[batch_[i].token.index()]->Handle(&batch_[i]);
      batch_[i].data = Slice();
    }
    return n;
  }
  // Turns until the condition holds. False if that lasts unreasonably long.
  bool RunUntil(const std::function<bool()>& condition) {
    const absl::Time give_up = absl::Now() + absl::Seconds(60);
    while (!condition()) {
      if (absl::Now() > give_up) return false;
      Turn();
    }
    return true;
  }
  // Turns until nothing has happened for a while.
  void Settle() {
    for (int quiet = 0; quiet < 20;) quiet = Turn() == 0 ? quiet + 1 : 0;
  }

  Connection::Options Options(BufferGroup group = BufferGroup::kClients) const {
    Connection::Options options;
    options.group = group;
    if (GetParam().ring.zero_copy_send) options.zero_copy_bytes_min = 8 << 10;
    return options;
  }
  End* NewEnd() {
    ends_.push_back(std::make_unique<End>(ring_.get(), static_cast<uint32_t>(ends_.size())));
    return ends_.back().get();
  }
  // Two ends of one stream. Small socket buffers if `buffer_bytes` is not 0.
  std::pair<Fd, Fd> Pair(int buffer_bytes = 0) const {
    int fds[2] = {-1, -1};
    if (GetParam().unix_socket) {
      EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
      for (const Fd fd : fds) SetBuffers(fd, buffer_bytes);
      return {fds[0], fds[1]};
    }
    const auto listener = OpenListener(*Endpoint::FromIp("127.0.0.1", 0), {});
    EXPECT_TRUE(listener.ok()) << listener.status();
    SetBuffers(*listener, buffer_bytes);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    SetBuffers(fds[0], buffer_bytes);
    const Endpoint address = *Endpoint::Parse(LocalNameOf(*listener));
    EXPECT_EQ(connect(fds[0], address.address(), address.length()), 0);
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    fds[1] = accept4(*listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    EXPECT_GE(fds[1], 0);
    close(*listener);
    return {fds[0], fds[1]};
  }
  static void SetBuffers(Fd fd, int bytes) {
    if (bytes == 0) return;
    // The pages of a zero-copy send count in full in the receiver's buffer: in a tiny one the
    // window stays below a segment, and TCP gets on by one probe every 200 ms.
    if (GetParam().ring.zero_copy_send) bytes = std::max(bytes, 64 << 10);
    EXPECT_EQ(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)), 0);
    EXPECT_EQ(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)), 0);
  }
  // An open end and its peer.
  std::pair<End*, Peer*> EndAndPeer(int buffer_bytes = 0) {
    const auto [own, other] = Pair(buffer_bytes);
    End* end = NewEnd();
    end->Open(own, Options());
    peers_.push_back(std::make_unique<Peer>(other));
    return {end, peers_.back().get()};
  }
  // Sends the text in slices of random sizes, in blocks of the pool.
  void Queue(Connection* connection, absl::string_view text) {
    while (!text.empty()) {
      const size_t n = std::min<size_t>(text.size(), 1 + random_() % blocks_.block_bytes());
      connection->Send(arena_.Copy(text.substr(0, n)));
      text.remove_prefix(n);
    }
  }

  RingDirectory directory_{1};
  std::unique_ptr<Ring> ring_;
  BlockPool blocks_{32 << 10, 16};
  Arena arena_{&blocks_};
  std::mt19937 random_{5};
  std::vector<std::unique_ptr<End>> ends_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::vector<Completion> batch_{64};
  size_t descriptors_ = 0;
};

TEST_P(ConnectionTest, AnEchoOfRandomSizesIsExact) {
  for (const int buffer_bytes : {0, 4096}) {
    const auto [near, far] = Pair(buffer_bytes);
    End* client = NewEnd();
    End* echo = NewEnd();
    client->Open(near, Options(BufferGroup::kClients));
    echo->Open(far, Options(BufferGroup::kBackends));
    client->connection.StartRecv();
    echo->connection.StartRecv();
    // What was received is sent from where it lies.
    echo->on_data = [echo](Slice data) {
      echo->connection.Send(std::move(data));
      echo->connection.Flush();
    };
    const std::string text = RandomText(buffer_bytes == 0 ? 8 * kMegabyte : kMegabyte, 1);
    size_t queued = 0;
    ASSERT_TRUE(RunUntil([&] {
      while (queued < text.size() && client->connection.unsent_bytes() < 100'000) {
        const size_t most = size_t{1} << (random_() % 17);
        const size_t n = std::min<size_t>(text.size() - queued, 1 + random_() % most);
        Queue(&client->connection, absl::string_view(text).substr(queued, n));
        queued += n;
      }
      client->connection.Flush();
      return client->received.size() >= text.size();
    }));
    EXPECT_TRUE(SameText(client->received, text));
    ASSERT_TRUE(RunUntil([&] { return client->connection.send_idle(); }));
    EXPECT_EQ(client->connection.sent_bytes(), text.size());
    EXPECT_EQ(client->connection.submitted_bytes(), text.size());
  }
}

TEST_P(ConnectionTest, APeerThatReadsSlowlyGetsEverythingByShortSends) {
  const auto [end, peer] = EndAndPeer(4096);
  const std::string text = RandomText(kMegabyte, 2);
  Queue(&end->connection, text);
  end->connection.Flush();
  Settle();
  // Nobody reads: what the socket can't take stays here.
  EXPECT_TRUE(end->connection.send_in_flight());
  EXPECT_GT(end->connection.unsent_bytes(), text.size() / 2);
  EXPECT_GT(blocks_.in_use(), 1u);
  ASSERT_TRUE(RunUntil([&, peer = peer] {
    peer->Read(1 + random_() % 50'000);
    return peer->received.size() == text.size();
  }));
  EXPECT_TRUE(SameText(peer->received, text));
  ASSERT_TRUE(RunUntil([&, end = end] { return end->connection.send_idle(); }));
  EXPECT_EQ(end->connection.sent_bytes(), text.size());
}

TEST_P(ConnectionTest, MoreSlicesThanOneSendMayHaveAreSentInOrder) {
  const auto [end, peer] = EndAndPeer();
  std::string expected;
  for (int i = 0; i < 5000; ++i) {
    const std::string text = absl::StrCat("+", i, "\r\n");
    end->connection.Send(CopyToHeap(text));  // in blocks of their own: never joined
    expected += text;
  }
  end->connection.Flush();
  ASSERT_TRUE(RunUntil([&, peer = peer] {
    peer->Read();
    return peer->received.size() == expected.size();
  }));
  EXPECT_TRUE(SameText(peer->received, expected));
}

TEST_P(ConnectionTest, WhatWasNotSentNeverReachesThePeerAndWhatWasDoes) {
  for (const size_t read_first : {size_t{0}, size_t{100'000}}) {
    const auto [end, peer] = EndAndPeer(16 << 10);
    const std::string text = RandomText(4 * kMegabyte, 3);
    Queue(&end->connection, text);
    end->connection.Flush();
    ASSERT_TRUE(RunUntil([&, peer = peer] {
      peer->Read(read_first - peer->received.size());
      return peer->received.size() == read_first;
    }));
    Settle();
    ASSERT_TRUE(end->connection.send_in_flight());
    const uint64_t submitted = end->connection.submitted_bytes();
    end->connection.BeginClose();
    // The total is final with the teardown, or (zero copy) when the peer has acknowledged.
    ASSERT_TRUE(RunUntil([&, peer = peer] {
      peer->Read();
      return peer->ended;
    }));
    ASSERT_TRUE(RunUntil([&, end = end] { return end->connection.closed(); }));
    EXPECT_EQ(peer->error, 0);
    EXPECT_LE(end->connection.sent_bytes(), submitted);
    EXPECT_TRUE(SameText(peer->received, text.substr(0, end->connection.sent_bytes())));
  }
}

// --- receiving

TEST_P(ConnectionTest, PausingAndResumingLosesNothing) {
  const auto [end, peer] = EndAndPeer();
  const std::string text = RandomText(8 * kMegabyte, 4);
  size_t written = 0;
  ASSERT_TRUE(RunUntil([&, end = end, peer = peer] {
    written += peer->Write(absl::string_view(text).substr(written, random_() % 100'000));
    for (uint32_t n = random_() % 4; n > 0; --n) {
      if (random_() % 2 == 0) {
        end->connection.PauseRecv();
      } else {
        end->connection.StartRecv();
      }
    }
    return end->received.size() == text.size();
  }));
  EXPECT_TRUE(SameText(end->received, text));
}

TEST_P(ConnectionTest, WhilePausedInputStaysWithThePeer) {
  const auto [end, peer] = EndAndPeer(16 << 10);
  const std::string text = RandomText(4 * kMegabyte, 5);
  end->connection.StartRecv();
  size_t written = peer->Write(text);
  ASSERT_TRUE(RunUntil([&, end = end] { return end->received.size() >= written / 2; }));
  end->connection.PauseRecv();
  EXPECT_TRUE(end->connection.recv_paused());
  Settle();
  for (int i = 0; i < 20; ++i) {
    written += peer->Write(absl::string_view(text).substr(written));
    Settle();
  }
  const size_t received = end->received.size();
  EXPECT_LT(received, written);
  EXPECT_LT(written, text.size());  // the socket is full: back-pressure has reached the peer
  for (int i = 0; i < 20; ++i) Turn();
  EXPECT_EQ(end->received.size(), received);
  end->connection.StartRecv();
  ASSERT_TRUE(RunUntil([&, end = end, peer = peer] {
    written += peer->Write(absl::string_view(text).substr(written));
    return end->received.size() == text.size();
  }));
  EXPECT_TRUE(SameText(end->received, text));
}

TEST_P(ConnectionTest, EndOfInputComesAfterTheLastByteAndTheOtherDirectionGoesOn) {
  const auto [end, peer] = EndAndPeer();
  const std::string text = RandomText(100'000, 6);
  end->connection.StartRecv();
  ASSERT_EQ(peer->Write(text), text.size());
  peer->HalfClose();
  ASSERT_TRUE(RunUntil([&, end = end] { return end->ended; }));
  EXPECT_TRUE(end->connection.end_of_input());
  EXPECT_TRUE(SameText(end->received, text));
  // A pipeline's replies still go to a client that has half-closed.
  const std::string reply = RandomText(kMegabyte, 7);
  Queue(&end->connection, reply);
  end->connection.Flush();
  ASSERT_TRUE(RunUntil([&, peer = peer] {
    peer->Read();
    return peer->received.size() == reply.size();
  }));
  EXPECT_TRUE(SameText(peer->received, reply));
}

TEST_P(ConnectionTest, AfterShutdownOfWritingInputIsStillReceived) {
  const auto [end, peer] = EndAndPeer();
  end->connection.Send(Slice::Static("+OK\r\n"));
  end->connection.Flush();
  ASSERT_TRUE(RunUntil([&, end = end] { return end->connection.send_idle(); }));
  end->connection.ShutdownWrite();
  end->connection.StartRecv();
  ASSERT_TRUE(RunUntil([&, peer = peer] {
    peer->Read();
    return peer->ended;
  }));
  EXPECT_EQ(peer->received, "+OK\r\n");
  ASSERT_EQ(peer->Write("late"), 4u);
  ASSERT_TRUE(RunUntil([&, end = end] { return end->received == "late"; }));
  peer->Close();
  ASSERT_TRUE(RunUntil([&, end = end] { return end->ended; }));
}

TEST_P(ConnectionTest, AResetIsAnErrorOfTheReceiveAndOfTheSend) {
  if (!GetParam().unix_socket) {  // which has no reset: it just ends
    const auto [end, peer] = EndAndPeer();
    end->connection.StartRecv();
    peer->Reset();
    ASSERT_TRUE(RunUntil([&, end = end] { return end->failed; }));
    EXPECT_EQ(end->connection.error(), ECONNRESET);
  }
  const auto [end, peer] = EndAndPeer();
  peer->Reset();
  end->connection.Send(Slice::Static("to nobody"));
  end->connection.Flush();
  ASSERT_TRUE(RunUntil([&, end = end] { return end->failed; }));
  EXPECT_THAT(end->connection.error(), AnyOf(Eq(ECONNRESET), Eq(EPIPE)));
  EXPECT_EQ(end->connection.sent_bytes(), 0u);
}

// --- large frames

// A made-up protocol: eight digits, then so many bytes.
std::string Frame(absl::string_view body) {
  std::string digits = absl::StrCat(body.size());
  return absl::StrCat(std::string(8 - digits.size(), '0'), digits, body);
}

// Finds the frames' borders, and asks for large ones as a client or backend does.
class FrameReader {
 public:
  explicit FrameReader(End* end) : end_(end) {
    end->on_data = [this](const Slice& data) { Take(data); };
  }
  // Where bytes of frames that were not large at all came to.
  size_t small_bytes_outside = 0;
  size_t large_bytes_outside = 0;
  size_t largest_block = 0;

 private:
  void Take(const Slice& data) {
    end_->received.append(data.data(), data.size());
    const bool shared = data.buffer()->scarce;
    if (!shared) largest_block = std::max(largest_block, data.buffer()->size);
    absl::string_view bytes = data.bytes();
    while (!bytes.empty()) {
      if (missing_ == 0) {
        digits_ += bytes[0];
        bytes.remove_prefix(1);
        if (!shared) ++small_bytes_outside;
        if (digits_.size() < 8) continue;
        missing_ = std::stoul(digits_);
        large_ = missing_ > (64 << 10);
        digits_.clear();
        continue;
      }
      const size_t n = std::min(missing_, bytes.size());
      if (!shared) (large_ ? large_bytes_outside : small_bytes_outside) += n;
      missing_ -= n;
      bytes.remove_prefix(n);
    }
    if (missing_ > (64 << 10)) end_->connection.ExpectLarge(missing_);
  }

  End* const end_;
  std::string digits_;
  size_t missing_ = 0;
  bool large_ = false;
};

TEST_P(ConnectionTest, LargeFramesAreExactAndOnlyTheyLeaveTheSharedBuffers) {
  const auto [end, peer] = EndAndPeer();
  FrameReader reader(end);
  std::string text;
  for (int i = 0; i < 20; ++i) {
    for (uint32_t n = random_() % 5; n > 0; --n) text += Frame(RandomText(random_() % 5000, n));
    text += Frame(RandomText(random_() % (3 * kMegabyte), static_cast<uint32_t>(i)));
  }
  end->connection.StartRecv();
  size_t written = 0;
  ASSERT_TRUE(RunUntil([&, end = end, peer = peer] {
    written += peer->Write(absl::string_view(text).substr(written, 1 + random_() % kMegabyte));
    if (random_() % 50 == 0) end->connection.PauseRecv();
    if (random_() % 2 == 0) end->connection.StartRecv();
    return end->received.size() == text.size();
  }));
  EXPECT_TRUE(SameText(end->received, text));
  EXPECT_EQ(reader.small_bytes_outside, 0u);
  EXPECT_GT(reader.large_bytes_outside, text.size() / 4);
  EXPECT_LE(reader.largest_block, kMegabyte);
}

// C9 of the fault list: an announcement alone takes no memory.
TEST_P(ConnectionTest, AnAnnouncementOfHalfAGigabyteReservesNoMoreThan64KiB) {
  const auto [end, peer] = EndAndPeer();
  FrameReader reader(end);
  end->connection.StartRecv();
  ASSERT_EQ(peer->Write("99999999"), 8u);
  ASSERT_TRUE(RunUntil([&, end = end] { return end->received.size() == 8; }));
  end->connection.ExpectLarge(uint64_t{512} << 20);
  Settle();
  ASSERT_EQ(peer->Write("ten bytes!"), 10u);
  ASSERT_TRUE(RunUntil([&, end = end] { return end->received.size() == 18; }));
  EXPECT_EQ(reader.large_bytes_outside, 10u);
  EXPECT_LE(reader.largest_block, 64u << 10);
}

// --- connecting

TEST_P(ConnectionTest, ConnectsSendsAndReceives) {
  const auto listener = OpenListener(*Endpoint::FromIp("127.0.0.1", 0), {});
  ASSERT_TRUE(listener.ok());
  const Endpoint address = *Endpoint::Parse(LocalNameOf(*listener));
  End* end = NewEnd();
  const auto fd = OpenStreamSocket(address);
  ASSERT_TRUE(fd.ok());
  end->Open(*fd, Options());
  end->connection.Connect(address);
  end->connection.Send(Slice::Static("early"));
  end->connection.Flush();  // nothing goes before the connection stands
  ASSERT_TRUE(RunUntil([&] { return end->connected; }));
  EXPECT_EQ(end->connect_result, 0);
  end->connection.Flush();
  end->connection.StartRecv();
  peers_.push_back(std::make_unique<Peer>(accept4(*listener, nullptr, nullptr, SOCK_CLOEXEC)));
  close(*listener);
  Peer* peer = peers_.back().get();
  ASSERT_TRUE(RunUntil([&] {
    peer->Read();
    return peer->received == "early";
  }));
  ASSERT_EQ(peer->Write("reply"), 5u);
  ASSERT_TRUE(RunUntil([&] { return end->received == "reply"; }));
}

TEST_P(ConnectionTest, ARefusedConnectSaysSo) {
  const auto listener = OpenListener(*Endpoint::FromIp("127.0.0.1", 0), {});
  ASSERT_TRUE(listener.ok());
  const Endpoint address = *Endpoint::Parse(LocalNameOf(*listener));
  close(*listener);
  End* end = NewEnd();
  const auto fd = OpenStreamSocket(address);
  ASSERT_TRUE(fd.ok());
  end->Open(*fd, Options());
  end->connection.Connect(address);
  ASSERT_TRUE(RunUntil([&] { return end->connected; }));
  EXPECT_EQ(end->connect_result, -ECONNREFUSED);
  EXPECT_EQ(end->connection.error(), ECONNREFUSED);
}

TEST_P(ConnectionTest, AConnectThatNobodyAnswersCanBeGivenUp) {
  ListenOptions options;
  options.backlog = 0;
  const auto listener = OpenListener(*Endpoint::FromIp("127.0.0.1", 0), options);
  ASSERT_TRUE(listener.ok());
  const Endpoint address = *Endpoint::Parse(LocalNameOf(*listener));
  // Connects until the listener's queue is full and it no longer answers.
  std::vector<End*> ends;
  for (int i = 0; i < 4; ++i) {
    ends.push_back(NewEnd());
    const auto fd = OpenStreamSocket(address);
    ASSERT_TRUE(fd.ok());
    ends.back()->Open(*fd, Options());
    ends.back()->connection.Connect(address);
    Settle();
  }
  EXPECT_TRUE(ends.front()->connected);
  EXPECT_FALSE(ends.back()->connected);
  const absl::Time begin = absl::Now();
  ends.back()->connection.BeginClose();
  ASSERT_TRUE(RunUntil([&] { return ends.back()->connection.closed(); }));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));  // the kernel would try for two minutes
  close(*listener);
}

// --- ending

TEST_P(ConnectionTest, ThePeerSeesTheEndAtOnceThoughAReceiveWasArmed) {
  const auto [end, peer] = EndAndPeer();
  end->connection.StartRecv();
  Settle();
  const Fd fd = end->connection.fd();
  end->connection.BeginClose();
  ASSERT_TRUE(RunUntil([&, end = end] { return end->connection.closed(); }));
  EXPECT_EQ(fcntl(fd, F_GETFD), -1);
  ASSERT_TRUE(RunUntil([&, peer = peer] {
    peer->Read();
    return peer->ended;
  }));
  EXPECT_EQ(peer->error, 0);
}

// Closes in the midst of everything at once; TearDown looks for what is left.
TEST_P(ConnectionTest, ClosingWithOperationsInFlightLeaksNothing) {
  const std::string text = RandomText(kMegabyte, 8);
  for (int round = 0; round < 60; ++round) {
    const auto [end, peer] = EndAndPeer(random_() % 2 == 0 ? 4096 : 0);
    FrameReader reader(end);
    std::string input;
    while (input.size() < 400'000) {
      input += Frame(RandomText(random_() % (random_() % 2 == 0 ? 2000 : 300'000), 9));
    }
    size_t written = 0;
    const int turns = static_cast<int>(random_() % 20);
    for (int turn = 0; turn < turns; ++turn) {
      if (random_() % 2 == 0) end->connection.StartRecv();
      if (random_() % 4 == 0) end->connection.PauseRecv();
      if (random_() % 2 == 0) Queue(&end->connection, text.substr(0, random_() % 200'000));
      if (random_() % 2 == 0) end->connection.Flush();
      if (random_() % 2 == 0) peer->Read(random_() % 100'000);
      written += peer->Write(absl::string_view(input).substr(written, random_() % 200'000));
      if (random_() % 3 == 0) Turn(absl::ZeroDuration());
    }
    switch (random_() % 4) {  // who ends it, and how
      case 0:
        peer->Close();
        break;
      case 1:
        peer->Reset();
        break;
      default:
        break;
    }
    if (random_() % 2 == 0) Turn(absl::ZeroDuration());
    end->connection.BeginClose();
    if (random_() % 2 == 0) continue;  // its completions come while others are open
    ASSERT_TRUE(RunUntil([&, end = end, peer = peer] {
      peer->Read();
      return end->connection.closed();
    }));
    EXPECT_EQ(end->teardowns, 1);
  }
  // Zero-copy bytes are held until they are acknowledged: the peers read on.
  ASSERT_TRUE(RunUntil([&] {
    for (auto& peer : peers_) peer->Read();
    return std::all_of(ends_.begin(), ends_.end(),
                       [](const auto& end) { return end->connection.closed(); });
  }));
}

// --- zero copy

class ZeroCopyConnectionTest : public ConnectionTest {};

TEST_P(ZeroCopyConnectionTest, ZeroCopySlicesAreFreedWhenThePeerHasThem) {
  if (!ring_->zero_copy_send()) GTEST_SKIP() << "no zero-copy send: " << ring_->Describe();
  const auto [end, peer] = EndAndPeer();
  std::string expected;
  for (int i = 0; i < 200; ++i) {
    const std::string text = RandomText(i % 3 == 0 ? 20 : 8192 + random_() % 24'000, 10);
    end->connection.Send(arena_.Copy(text));
    expected += text;
  }
  arena_.Release();
  end->connection.Flush();
  ASSERT_TRUE(RunUntil([&, peer = peer] {
    peer->Read();
    return peer->received.size() == expected.size();
  }));
  EXPECT_TRUE(SameText(peer->received, expected));
  ASSERT_TRUE(
      RunUntil([&, end = end] { return end->connection.send_idle() && blocks_.in_use() == 0; }));
}

std::string ConfigName(const ::testing::TestParamInfo<Config>& config) { return config.param.name; }
INSTANTIATE_TEST_SUITE_P(Uring, ConnectionTest, ::testing::ValuesIn(Configs()), ConfigName);
INSTANTIATE_TEST_SUITE_P(Uring, ZeroCopyConnectionTest, ::testing::Values(Configs().back()),
                         ConfigName);

}  // namespace
}  // namespace io
