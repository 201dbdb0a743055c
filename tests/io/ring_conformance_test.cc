#include "tests/io/ring_conformance.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"

namespace io {

using ::testing::AnyOf;
using ::testing::Ge;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::Le;
using ::testing::Lt;

// --- the tools

std::string Pattern(size_t bytes, uint32_t seed) {
  std::string text(bytes, '\0');
  uint32_t state = seed * 2654435761u + 1;
  for (char& c : text) {
    state = state * 1664525u + 1013904223u;
    c = static_cast<char>(state >> 24);
  }
  return text;
}

size_t Side::Turn(absl::Duration limit) {
  Completion batch[64];
  const size_t n = ring_->SubmitAndWait(limit, absl::MakeSpan(batch));
  for (size_t i = 0; i < n; ++i) inbox_.push_back(std::move(batch[i]));
  return n;
}

bool Side::Take(OpToken token, Completion* completion) {
  for (auto it = inbox_.begin(); it != inbox_.end(); ++it) {
    if (!(it->token == token)) continue;
    *completion = std::move(*it);
    inbox_.erase(it);
    return true;
  }
  return false;
}

bool Side::Has(OpToken token) const {
  return std::any_of(inbox_.begin(), inbox_.end(),
                     [token](const Completion& c) { return c.token == token; });
}

void Receiver::Arm() { side_->ring()->Recv(token_, socket_, group_); }

void Receiver::Poll() {
  Completion completion;
  while (side_->Take(token_, &completion)) {
    if (completion.result > 0) {
      ASSERT_EQ(completion.data.size(), static_cast<size_t>(completion.result));
      ASSERT_TRUE(completion.data.buffer());
      received_.append(completion.data.data(), completion.data.size());
      completion.data = Slice();
      if (!completion.more) Arm();
      continue;
    }
    ASSERT_FALSE(completion.more) << "armed after result " << completion.result;
    ASSERT_TRUE(completion.data.empty());
    if (completion.result == -ENOBUFS) {
      ++without_buffers_;
      Arm();
      continue;
    }
    ended_ = true;
    error_ = -completion.result;
  }
}

Sender::Sender(Side* side, Fd socket, std::string bytes, size_t parts, Notice notice)
    : side_(side),
      socket_(socket),
      bytes_(std::move(bytes)),
      parts_(parts),
      notice_(notice),
      token_(side->NewToken(OpKind::kSend)) {
  Start(notice);
}

void Sender::Start(Notice notice) {
  iovecs_.clear();
  const size_t left = bytes_.size() - sent_;
  const size_t end = sent_ + (notice == Notice::kQuiet ? std::min(left, kQuietBytes) : left);
  const size_t part = std::max<size_t>(1, (end - sent_) / parts_);
  for (size_t at = sent_; at < end;) {
    size_t n = std::min(part, end - at);
    if (iovecs_.size() + 1 == parts_) n = end - at;
    iovecs_.push_back({.iov_base = bytes_.data() + at, .iov_len = n});
    at += n;
  }
  message_ = {};
  message_.msg_iov = iovecs_.data();
  message_.msg_iovlen = iovecs_.size();
  asked_ = end - sent_;
  quiet_ = notice == Notice::kQuiet;
  side_->ring()->Send(token_, socket_, &message_, notice);
}

void Sender::Poll() {
  Completion completion;
  while (side_->Take(token_, &completion)) {
    ++completions_;
    ASSERT_FALSE(completion.more);
    if (quiet_ && completion.result == -EAGAIN) {
      Start(Notice::kWakes);
      continue;
    }
    if (completion.result < 0) {
      error_ = -completion.result;
      return;
    }
    ASSERT_GT(completion.result, 0);
    const size_t n = static_cast<size_t>(completion.result);
    ASSERT_LE(n, asked_);
    memset(bytes_.data() + sent_, '!', n);
    memset(iovecs_.data(), 0, iovecs_.size() * sizeof(iovec));
    sent_ += n;
    if (sent_ < bytes_.size()) Start(n == asked_ ? notice_ : Notice::kWakes);
  }
}

RingConformanceTest::RingConformanceTest() { MakeWorld({}); }

RingConformanceTest::~RingConformanceTest() { EndWorld(); }

void RingConformanceTest::EndWorld() {
  for (size_t i = 0; i < 2; ++i) {
    if (sides_[i] == nullptr) continue;
    for (Fd fd : open_[i]) sides_[i]->ring()->Close(OpToken(), fd);
    sides_[i]->Turn(absl::ZeroDuration());
    sides_[i].reset();
    open_[i].clear();
  }
  world_.reset();
}

void RingConformanceTest::MakeWorld(const RingWorldOptions& options) {
  EndWorld();
  world_ = GetParam().make(options);
  for (size_t i = 0; i < 2; ++i) sides_[i] = std::make_unique<Side>(world_->ring(i));
}

void RingConformanceTest::EndRing(size_t number) {
  sides_[number].reset();
  world_->End(number);
}

Endpoint RingConformanceTest::AddressOf(Side& side, Fd listener) {
  const absl::StatusOr<Endpoint> address = Endpoint::Parse(side->LocalName(listener));
  EXPECT_TRUE(address.ok()) << address.status();
  return address.ok() ? *address : Endpoint();
}

RingConformanceTest::Pair RingConformanceTest::ConnectTo(const Endpoint& address) {
  Pair pair;
  const absl::StatusOr<Fd> listener = server()->Listen(address, {});
  EXPECT_TRUE(listener.ok()) << listener.status();
  if (!listener.ok()) return pair;
  const OpToken accept = server().NewToken(OpKind::kAccept);
  server()->Accept(accept, *listener);
  const Endpoint bound = AddressOf(server(), *listener);
  const absl::StatusOr<Fd> socket = client()->OpenSocket(bound);
  EXPECT_TRUE(socket.ok()) << socket.status();
  if (!socket.ok()) return pair;
  const OpToken connect = client().NewToken(OpKind::kConnect);
  client()->Connect(connect, *socket, bound);
  EXPECT_EQ(AwaitResult(client(), connect), 0);
  pair.client = *socket;
  open_[1].insert(pair.client);
  const Completion accepted = Await(server(), accept);
  EXPECT_GE(accepted.result, 0);
  pair.server = accepted.result;
  open_[0].insert(pair.server);
  if (accepted.more) {
    const OpToken cancel = server().NewToken(OpKind::kCancel);
    server()->Cancel(cancel, accept);
    EXPECT_EQ(AwaitResult(server(), cancel), 0);
    EXPECT_EQ(AwaitResult(server(), accept), -ECANCELED);
  }
  CloseAndWait(server(), *listener);
  return pair;
}

RingConformanceTest::Pair RingConformanceTest::Connect() { return ConnectTo(world().TcpAddress()); }
RingConformanceTest::Pair RingConformanceTest::ConnectUnix() {
  return ConnectTo(world().UnixAddress());
}

void RingConformanceTest::Turns(absl::Duration limit) {
  size_t n = 0;
  for (auto& side : sides_) {
    if (side != nullptr) n += side->Turn(absl::ZeroDuration());
  }
  if (n == 0 && sides_[0] != nullptr) sides_[0]->Turn(limit);
}

bool RingConformanceTest::RunUntil(const std::function<bool()>& done, std::vector<Agent*> agents) {
  Side& clock = sides_[0] != nullptr ? *sides_[0] : *sides_[1];
  const absl::Time deadline = clock->Now() + absl::Seconds(20);
  while (!done()) {
    Turns(absl::Microseconds(200));
    for (Agent* agent : agents) {
      agent->Poll();
      if (HasFatalFailure()) return false;
    }
    if (clock->Now() > deadline) {
      ADD_FAILURE() << "did not happen in time";
      return false;
    }
  }
  return true;
}

void RingConformanceTest::RunIdle(std::vector<Agent*> agents) {
  Side& clock = sides_[0] != nullptr ? *sides_[0] : *sides_[1];
  const absl::Time end = clock->Now() + absl::Milliseconds(30);
  while (clock->Now() < end) {
    Turns(absl::Milliseconds(1));
    for (Agent* agent : agents) agent->Poll();
  }
}

Completion RingConformanceTest::Await(Side& side, OpToken token) {
  Completion completion;
  completion.result = -ETIME;
  RunUntil([&] { return side.Take(token, &completion); });
  return completion;
}

void RingConformanceTest::Send(Side& side, Fd socket, const std::string& bytes) {
  Sender sender(&side, socket, bytes);
  RunUntil([&] { return sender.done(); }, {&sender});
  EXPECT_EQ(sender.error(), 0);
}

void RingConformanceTest::ReceiveAll(const Pair& pair, const std::string& text, Sender* sender) {
  Receiver receiver(&server(), pair.server);
  RunUntil([&] { return receiver.received().size() == text.size() && sender->done(); },
           {sender, &receiver});
  EXPECT_EQ(sender->error(), 0);
  EXPECT_TRUE(receiver.received() == text);
}

void RingConformanceTest::CloseAndWait(Side& side, Fd fd) {
  const OpToken token = side.NewToken(OpKind::kClose);
  side->Close(token, fd);
  EXPECT_EQ(AwaitResult(side, token), 0);
  open_[&side == sides_[0].get() ? 0 : 1].erase(fd);
}

// --- listening and connecting

TEST_P(RingConformanceTest, AcceptGoesOnWhileItSaysMore) {
  const absl::StatusOr<Fd> listener = server()->Listen(world().TcpAddress(), {});
  ASSERT_TRUE(listener.ok()) << listener.status();
  const Endpoint address = AddressOf(server(), *listener);
  const OpToken accept = server().NewToken(OpKind::kAccept);
  server()->Accept(accept, *listener);
  std::set<Fd> accepted;
  for (int i = 0; i < 5; ++i) {
    const absl::StatusOr<Fd> socket = client()->OpenSocket(address);
    ASSERT_TRUE(socket.ok());
    const OpToken connect = client().NewToken(OpKind::kConnect);
    client()->Connect(connect, *socket, address);
    ASSERT_EQ(AwaitResult(client(), connect), 0);
    const Completion completion = Await(server(), accept);
    ASSERT_GE(completion.result, 0);
    EXPECT_TRUE(accepted.insert(completion.result).second) << "the same descriptor twice";
    EXPECT_EQ(server()->PeerName(completion.result), client()->LocalName(*socket));
    EXPECT_EQ(server()->LocalName(completion.result), client()->PeerName(*socket));
    if (!completion.more) server()->Accept(accept, *listener);
    CloseAndWait(client(), *socket);
  }
  // The accept that is armed now ends by its cancel.
  const OpToken cancel = server().NewToken(OpKind::kCancel);
  server()->Cancel(cancel, accept);
  EXPECT_EQ(AwaitResult(server(), cancel), 0);
  const Completion last = Await(server(), accept);
  EXPECT_EQ(last.result, -ECANCELED);
  EXPECT_FALSE(last.more);
  for (Fd fd : accepted) CloseAndWait(server(), fd);
  CloseAndWait(server(), *listener);
}

TEST_P(RingConformanceTest, AnAddressInUseIsNamedInTheError) {
  const absl::StatusOr<Fd> listener = server()->Listen(world().TcpAddress(), {});
  ASSERT_TRUE(listener.ok()) << listener.status();
  const Endpoint address = AddressOf(server(), *listener);
  const absl::StatusOr<Fd> second = server()->Listen(address, {.retry_ms = 0});
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(address.ToString()));
  CloseAndWait(server(), *listener);
  const absl::StatusOr<Fd> third = server()->Listen(address, {});
  EXPECT_TRUE(third.ok()) << third.status();
  if (third.ok()) CloseAndWait(server(), *third);
}

TEST_P(RingConformanceTest, ConnectWithoutListenerIsRefused) {
  const absl::StatusOr<Fd> listener = server()->Listen(world().TcpAddress(), {});
  ASSERT_TRUE(listener.ok()) << listener.status();
  const Endpoint address = AddressOf(server(), *listener);
  CloseAndWait(server(), *listener);
  const absl::StatusOr<Fd> socket = client()->OpenSocket(address);
  ASSERT_TRUE(socket.ok());
  const OpToken connect = client().NewToken(OpKind::kConnect);
  client()->Connect(connect, *socket, address);
  EXPECT_EQ(AwaitResult(client(), connect), -ECONNREFUSED);
  CloseAndWait(client(), *socket);
}

TEST_P(RingConformanceTest, UnixSocketsCarryBytesBothWays) {
  const Pair pair = ConnectUnix();
  Receiver at_server(&server(), pair.server);
  Receiver at_client(&client(), pair.client, BufferGroup::kBackends);
  Sender to_server(&client(), pair.client, Pattern(300000, 1));
  Sender to_client(&server(), pair.server, Pattern(200000, 2));
  RunUntil(
      [&] {
        return at_server.received().size() == 300000 && at_client.received().size() == 200000;
      },
      {&at_server, &at_client, &to_server, &to_client});
  EXPECT_TRUE(at_server.received() == Pattern(300000, 1));
  EXPECT_TRUE(at_client.received() == Pattern(200000, 2));
  EXPECT_EQ(client()->LocalName(pair.client), "") << "a client of a Unix socket has no name";
}

TEST_P(RingConformanceTest, ConnectToAPathWithoutListenerFails) {
  const Endpoint address = world().UnixAddress();
  const absl::StatusOr<Fd> socket = client()->OpenSocket(address);
  ASSERT_TRUE(socket.ok());
  const OpToken connect = client().NewToken(OpKind::kConnect);
  client()->Connect(connect, *socket, address);
  EXPECT_THAT(AwaitResult(client(), connect), AnyOf(-ENOENT, -ECONNREFUSED));
  CloseAndWait(client(), *socket);
}

TEST_P(RingConformanceTest, DescriptorsAreReusedLowestFirst) {
  const Endpoint address = world().TcpAddress();
  const Fd first = *client()->OpenSocket(address);
  const Fd second = *client()->OpenSocket(address);
  const Fd third = *client()->OpenSocket(address);
  ASSERT_LT(first, second);
  ASSERT_LT(second, third);
  CloseAndWait(client(), second);
  CloseAndWait(client(), first);
  EXPECT_EQ(*client()->OpenSocket(address), first);
  EXPECT_EQ(*client()->OpenSocket(address), second);
  for (Fd fd : {first, second, third}) CloseAndWait(client(), fd);
}

// --- receiving

TEST_P(RingConformanceTest, EverySizeArrivesExactlyAndInOrder) {
  const Pair pair = Connect();
  Receiver receiver(&server(), pair.server);
  std::string expected;
  for (const size_t bytes : {1, 2, 3, 100, 1023, 1024, 4095, 4096, 4097, 16383, 16384, 16385, 65535,
                             65536, 65537, 200000, 1000000}) {
    SCOPED_TRACE(bytes);
    for (const size_t parts : {1, 2, 7, 1000}) {
      const std::string text = Pattern(bytes, static_cast<uint32_t>(bytes * 7 + parts));
      expected += text;
      Sender sender(&client(), pair.client, text, parts);
      ASSERT_TRUE(
          RunUntil([&] { return sender.done() && receiver.received().size() >= expected.size(); },
                   {&sender, &receiver}));
      ASSERT_EQ(sender.error(), 0);
      ASSERT_TRUE(receiver.received() == expected);
    }
  }
}

TEST_P(RingConformanceTest, HalfCloseIsTheEndOfInputAndLeavesTheOtherDirection) {
  const Pair pair = Connect();
  Receiver at_server(&server(), pair.server);
  Receiver at_client(&client(), pair.client);
  Send(client(), pair.client, "question");
  const OpToken shut = client().NewToken(OpKind::kShutdown);
  client()->Shutdown(shut, pair.client, SHUT_WR);
  EXPECT_EQ(AwaitResult(client(), shut), 0);
  RunUntil([&] { return at_server.ended(); }, {&at_server});
  EXPECT_EQ(at_server.received(), "question");
  EXPECT_EQ(at_server.error(), 0);
  Send(server(), pair.server, "answer");
  RunUntil([&] { return at_client.received().size() == 6; }, {&at_client});
  EXPECT_EQ(at_client.received(), "answer");
  EXPECT_FALSE(at_client.ended());
}

TEST_P(RingConformanceTest, RecvIntoFillsTheMemoryGivenAndNoMore) {
  const Pair pair = Connect();
  const std::string text = Pattern(10000);
  Send(client(), pair.client, text);
  const OpToken token = server().NewToken(OpKind::kRecv);
  std::string received;
  while (received.size() < text.size()) {
    std::string memory(3001, '?');
    server()->RecvInto(token, pair.server, memory.data(), 3000);
    const Completion completion = Await(server(), token);
    ASSERT_GT(completion.result, 0);
    ASSERT_LE(completion.result, 3000);
    EXPECT_FALSE(completion.more);
    EXPECT_TRUE(completion.data.empty());
    EXPECT_EQ(memory.substr(static_cast<size_t>(completion.result), 1), "?");
    received.append(memory, 0, static_cast<size_t>(completion.result));
  }
  EXPECT_TRUE(received == text);
  CloseAndWait(client(), pair.client);
  char byte;
  server()->RecvInto(token, pair.server, &byte, 1);
  EXPECT_EQ(AwaitResult(server(), token), 0);
}

TEST_P(RingConformanceTest, RecvIntoNeedsNoBuffersOfTheGroups) {
  MakeWorld({.client_buffers = 1, .backend_buffers = 1});
  const Pair pair = Connect();
  const Pair other = Connect();
  const OpToken recv = server().NewToken(OpKind::kRecv);
  server()->Recv(recv, pair.server, BufferGroup::kClients);
  Sender flood(&client(), pair.client, Pattern(4 << 20));
  // Nobody gives a buffer back.
  RunUntil(
      [&] {
        return std::any_of(server().inbox().begin(), server().inbox().end(),
                           [&](const Completion& c) {
                             if (c.token == recv && c.result > 0 && !c.more) {
                               server()->Recv(recv, pair.server, BufferGroup::kClients);
                               const_cast<Completion&>(c).more = true;
                             }
                             return c.token == recv && c.result == -ENOBUFS;
                           }) ||
               server()->FreeBufferShare(BufferGroup::kClients) == 0;
      },
      {&flood});
  Send(client(), other.client, "hello");
  char memory[5];
  const OpToken into = server().NewToken(OpKind::kRecv);
  server()->RecvInto(into, other.server, memory, 5);
  EXPECT_EQ(AwaitResult(server(), into), 5);
  EXPECT_EQ(std::string(memory, 5), "hello");
  // Its bytes are the kernel's until the send is over.
  client()->Shutdown(client().NewToken(OpKind::kShutdown), pair.client, SHUT_RDWR);
  RunUntil([&] { return flood.done(); }, {&flood});
}

// One wake-up may take many buffers of one socket, before any handler could say stop.
TEST_P(RingConformanceTest, OneSocketMayTakeAllBuffersInOneTurn) {
  MakeWorld({.client_buffers = 4, .backend_buffers = 4});
  if (!world().multishot_recv()) GTEST_SKIP() << "this ring receives once at a time";
  const Pair pair = Connect();
  const OpToken recv = server().NewToken(OpKind::kRecv);
  server()->Recv(recv, pair.server, BufferGroup::kClients);
  server().Turn(absl::ZeroDuration());
  Sender flood(&client(), pair.client, Pattern(2 << 20));
  // The sender's kernel takes what fits; the server's ring has no turn meanwhile.
  const absl::Time end = client()->Now() + absl::Milliseconds(20);
  while (client()->Now() < end) client().Turn(absl::Milliseconds(1));
  Completion batch[64];
  std::vector<Slice> slices;
  std::set<const Block*> blocks;
  bool without_buffers = false;
  // A kernel thread that serves the ring may be interrupted in the middle of that.
  const int turns_max = GetParam().name == "sqpoll" ? 1000 : 1;
  for (int turn = 0; turn < turns_max && !without_buffers; ++turn) {
    const size_t n = server()->SubmitAndWait(absl::Seconds(5), absl::MakeSpan(batch));
    for (size_t i = 0; i < n; ++i) {
      if (!(batch[i].token == recv)) continue;
      without_buffers |= batch[i].result == -ENOBUFS;
      if (batch[i].result <= 0) continue;
      blocks.insert(batch[i].data.buffer().get());
      slices.push_back(std::move(batch[i].data));
    }
  }
  EXPECT_GE(blocks.size(), 4u);
  EXPECT_TRUE(without_buffers);
  EXPECT_EQ(server()->FreeBufferShare(BufferGroup::kClients), 0);
  std::string received;
  for (const Slice& slice : slices) received.append(slice.data(), slice.size());
  EXPECT_TRUE(received == Pattern(2 << 20).substr(0, received.size()));
}

TEST_P(RingConformanceTest, RecvEndsWithoutBuffersAndGoesOnWhenTheyHaveReturned) {
  MakeWorld({.client_buffers = 4, .backend_buffers = 4});
  const Pair pair = Connect();
  const std::string text = Pattern(3 << 20);
  const OpToken recv = server().NewToken(OpKind::kRecv);
  server()->Recv(recv, pair.server, BufferGroup::kClients);
  Sender sender(&client(), pair.client, text);
  std::string received;
  std::vector<Slice> held;
  int rounds = 0;
  while (received.size() < text.size()) {
    // Takes all and gives back nothing, until there is nothing to take.
    bool armed = true;
    ASSERT_TRUE(RunUntil(
        [&] {
          Completion completion;
          while (server().Take(recv, &completion)) {
            armed = completion.more;
            if (completion.result > 0) {
              received.append(completion.data.data(), completion.data.size());
              held.push_back(std::move(completion.data));
            } else {
              EXPECT_EQ(completion.result, -ENOBUFS);
              EXPECT_FALSE(completion.more);
            }
            if (!armed) server()->Recv(recv, pair.server, BufferGroup::kClients);
          }
          return server()->FreeBufferShare(BufferGroup::kClients) == 0 ||
                 received.size() == text.size();
        },
        {&sender}));
    if (received.size() == text.size()) break;
    // Without buffers nothing is received, and nothing is reported again and again.
    size_t completions = 0;
    const absl::Time end = server()->Now() + absl::Milliseconds(10);
    while (server()->Now() < end) {
      completions += server().Turn(absl::Milliseconds(1));
      Completion completion;
      while (server().Take(recv, &completion)) {
        ASSERT_EQ(completion.result, -ENOBUFS);
        server()->Recv(recv, pair.server, BufferGroup::kClients);
      }
    }
    EXPECT_LE(completions, 2u);
    held.clear();
    server().Turn(absl::ZeroDuration());  // they go back
    ++rounds;
  }
  EXPECT_TRUE(received == text);
  EXPECT_GE(rounds, 2);
}

TEST_P(RingConformanceTest, ReceivesHeldBackGoOnInTheOrderTheyCame) {
  MakeWorld({.client_buffers = 1, .backend_buffers = 1});
  std::vector<Pair> pairs;
  for (int i = 0; i < 4; ++i) pairs.push_back(Connect());
  // The first takes all buffers.
  const OpToken first = server().NewToken(OpKind::kRecv);
  server()->Recv(first, pairs[0].server, BufferGroup::kClients);
  Sender flood(&client(), pairs[0].client, Pattern(4 << 20));
  std::deque<Slice> held;
  ASSERT_TRUE(RunUntil(
      [&] {
        Completion completion;
        while (server().Take(first, &completion)) {
          if (completion.result > 0) held.push_back(std::move(completion.data));
          const bool all = server()->FreeBufferShare(BufferGroup::kClients) == 0;
          if (!completion.more && !all)
            server()->Recv(first, pairs[0].server, BufferGroup::kClients);
        }
        return server()->FreeBufferShare(BufferGroup::kClients) == 0;
      },
      {&flood}));
  RunIdle();
  // The others have input and find none.
  std::vector<OpToken> tokens;
  for (size_t i = 1; i < pairs.size(); ++i) {
    Send(client(), pairs[i].client, absl::StrCat("input ", i));
    tokens.push_back(server().NewToken(OpKind::kRecv));
    server()->Recv(tokens.back(), pairs[i].server, BufferGroup::kClients);
  }
  RunIdle();
  for (OpToken token : tokens) EXPECT_FALSE(server().Has(token));
  std::vector<uint32_t> order;
  ASSERT_TRUE(RunUntil([&] {
    if (!held.empty()) held.pop_front();
    auto& inbox = server().inbox();
    while (!inbox.empty()) {
      const Completion completion = std::move(inbox.front());
      inbox.pop_front();
      for (size_t i = 0; i < tokens.size(); ++i) {
        if (!(completion.token == tokens[i])) continue;
        EXPECT_EQ(completion.data.bytes(), absl::StrCat("input ", i + 1));
        order.push_back(static_cast<uint32_t>(i));
      }
    }
    return order.size() == tokens.size();
  }));
  EXPECT_EQ(order, (std::vector<uint32_t>{0, 1, 2}));
}

TEST_P(RingConformanceTest, ABufferComesBackOnlyAfterItsLastShare) {
  MakeWorld({.client_buffers = 4, .backend_buffers = 4});
  const Pair pair = Connect();
  const OpToken token = server().NewToken(OpKind::kRecv);
  server()->Recv(token, pair.server, BufferGroup::kClients);
  Send(client(), pair.client, "kept by one byte's share");
  Completion completion = Await(server(), token);
  ASSERT_EQ(completion.data.bytes(), "kept by one byte's share");
  EXPECT_TRUE(completion.data.buffer()->scarce);
  const Slice whole_copy = completion.data;
  const Slice kept = completion.data.Sub(5, 2);
  const bool armed = completion.more;
  completion.data = Slice();
  if (!armed) server()->Recv(token, pair.server, BufferGroup::kClients);
  // All other buffers are used many times over.
  const std::string text = Pattern(4 << 20);
  Sender sender(&client(), pair.client, text);
  std::string received;
  ASSERT_TRUE(RunUntil(
      [&] {
        Completion next;
        while (server().Take(token, &next)) {
          if (next.result > 0) received.append(next.data.data(), next.data.size());
          if (!next.more) server()->Recv(token, pair.server, BufferGroup::kClients);
        }
        return received.size() == text.size();
      },
      {&sender}));
  EXPECT_TRUE(received == text);
  EXPECT_EQ(kept.bytes(), "by");
  EXPECT_EQ(whole_copy.bytes(), "kept by one byte's share");
}

TEST_P(RingConformanceTest, FreeBufferShareFallsWithSharesHeldAndRecovers) {
  MakeWorld({.client_buffers = 4, .backend_buffers = 4});
  const Pair pair = Connect();
  EXPECT_EQ(server()->FreeBufferShare(BufferGroup::kClients), 1);
  EXPECT_EQ(server()->FreeBufferShare(BufferGroup::kBackends), 1);
  const OpToken token = server().NewToken(OpKind::kRecv);
  server()->Recv(token, pair.server, BufferGroup::kClients);
  Sender sender(&client(), pair.client, Pattern(2 << 20));
  RunUntil(
      [&] {
        for (Completion& c : server().inbox()) {
          if (c.token == token && !c.more && c.result > 0) {
            server()->Recv(token, pair.server, BufferGroup::kClients);
            c.more = true;
          }
        }
        return server()->FreeBufferShare(BufferGroup::kClients) == 0;
      },
      {&sender});
  EXPECT_EQ(server()->FreeBufferShare(BufferGroup::kBackends), 1);
  // The receive is over, and its input dropped.
  const OpToken shut = server().NewToken(OpKind::kShutdown);
  server()->Shutdown(shut, pair.server, SHUT_RDWR);
  const OpToken cancel = server().NewToken(OpKind::kCancel);
  server()->Cancel(cancel, token);
  AwaitResult(server(), cancel);
  server().inbox().clear();
  RunUntil([&] {
    server().inbox().clear();
    return server()->FreeBufferShare(BufferGroup::kClients) == 1;
  });
  // Its bytes are the kernel's until the send is over.
  client()->Shutdown(client().NewToken(OpKind::kShutdown), pair.client, SHUT_RDWR);
  RunUntil([&] { return sender.done(); }, {&sender});
}

TEST_P(RingConformanceTest, OneGroupWithoutBuffersLeavesTheOtherAlone) {
  MakeWorld({.client_buffers = 1, .backend_buffers = 4});
  const Pair flooded = Connect();
  const Pair other = Connect();
  const OpToken token = server().NewToken(OpKind::kRecv);
  server()->Recv(token, flooded.server, BufferGroup::kClients);
  Sender flood(&client(), flooded.client, Pattern(2 << 20));
  RunUntil(
      [&] {
        for (Completion& c : server().inbox()) {
          if (c.token == token && !c.more && c.result > 0) {
            server()->Recv(token, flooded.server, BufferGroup::kClients);
            c.more = true;
          }
        }
        return server()->FreeBufferShare(BufferGroup::kClients) == 0;
      },
      {&flood});
  Receiver backend(&server(), other.server, BufferGroup::kBackends);
  const std::string text = Pattern(1 << 20, 5);
  Sender sender(&client(), other.client, text);
  RunUntil([&] { return backend.received().size() == text.size(); }, {&backend, &sender});
  EXPECT_TRUE(backend.received() == text);
  EXPECT_EQ(server()->FreeBufferShare(BufferGroup::kClients), 0);
  // Its bytes are the kernel's until the send is over.
  client()->Shutdown(client().NewToken(OpKind::kShutdown), flooded.client, SHUT_RDWR);
  RunUntil([&] { return flood.done(); }, {&flood});
}

TEST_P(RingConformanceTest, ManySocketsShareFewBuffersAndAllGetTheirInput) {
  MakeWorld({.client_buffers = 1, .backend_buffers = 1});
  std::vector<Pair> pairs;
  std::vector<std::unique_ptr<Receiver>> receivers;
  std::vector<std::unique_ptr<Sender>> senders;
  std::vector<Agent*> agents;
  constexpr size_t kSockets = 20;
  constexpr size_t kBytes = 200000;
  for (uint32_t i = 0; i < kSockets; ++i) {
    pairs.push_back(Connect());
    receivers.push_back(std::make_unique<Receiver>(&server(), pairs[i].server));
    senders.push_back(std::make_unique<Sender>(&client(), pairs[i].client, Pattern(kBytes, i)));
    agents.push_back(receivers[i].get());
    agents.push_back(senders[i].get());
  }
  RunUntil(
      [&] {
        return std::all_of(receivers.begin(), receivers.end(),
                           [&](const auto& r) { return r->received().size() == kBytes; });
      },
      agents);
  for (uint32_t i = 0; i < kSockets; ++i)
    EXPECT_TRUE(receivers[i]->received() == Pattern(kBytes, i));
}

// --- sending

TEST_P(RingConformanceTest, ASendPendsUntilThePeerReadsAndReadsItsBytesLate) {
  const Pair pair = Connect();
  std::string text = Pattern(32 << 20);
  Sender sender(&client(), pair.client, text, 3);
  RunIdle({&sender});
  EXPECT_FALSE(sender.done());
  // The last byte can't be on its way yet: whoever frees the memory now would send rubbish.
  text.back() = static_cast<char>(text.back() + 1);
  sender.bytes().back() = text.back();
  ReceiveAll(pair, text, &sender);
}

TEST_P(RingConformanceTest, QuietSendsArriveInOrderAndStopWhereThereIsNoRoom) {
  const Pair pair = Connect();
  const std::string text = Pattern(32 << 20);
  Sender sender(&client(), pair.client, text, 3, Notice::kQuiet);
  size_t before;
  do {
    before = sender.sent();
    server().Turn(absl::ZeroDuration());  // the clock has stood still meanwhile
    RunIdle({&sender});
  } while (sender.sent() > before);
  EXPECT_FALSE(sender.done());
  EXPECT_GT(sender.completions(), 1);
  ReceiveAll(pair, text, &sender);
}

TEST_P(RingConformanceTest, AQuietSendHasOneCompletion) {
  const Pair pair = Connect();
  Receiver request(&server(), pair.server);
  Receiver reply(&client(), pair.client);
  for (size_t i = 1; i <= 50; ++i) {
    Sender sender(&client(), pair.client, "?", 1, Notice::kQuiet);
    ASSERT_TRUE(RunUntil([&] { return request.received().size() == i; }, {&request}));
    Sender answer(&server(), pair.server, "!", 1, Notice::kQuiet);
    ASSERT_TRUE(
        RunUntil([&] { return reply.received().size() == i && sender.done() && answer.done(); },
                 {&reply, &sender, &answer}));
    EXPECT_EQ(sender.error() + answer.error(), 0);
    EXPECT_EQ(sender.completions() + answer.completions(), 2);
  }
  RunIdle({&request, &reply});
  EXPECT_TRUE(server().inbox().empty());
  EXPECT_TRUE(client().inbox().empty());
}

// A connection's sends all have one token.
TEST_P(RingConformanceTest, AQuietSendIsToldFromTheReleaseOfAZeroCopyOne) {
  if (!client()->zero_copy_send()) GTEST_SKIP() << "zero-copy send is off";
  const Pair pair = Connect();
  Receiver receiver(&server(), pair.server);
  const std::string text = Pattern(10000);
  const OpToken token = client().NewToken(OpKind::kSend);
  char byte = 'x';
  iovec part = {.iov_base = &byte, .iov_len = 1};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  std::string expected;
  for (int i = 0; i < 50; ++i) {
    client()->SendZeroCopy(token, pair.client, text);
    Completion completion;
    ASSERT_TRUE(RunUntil([&] { return client().Take(token, &completion); }, {}));
    ASSERT_FALSE(completion.send_released);
    ASSERT_EQ(completion.result, static_cast<int>(text.size()));
    const bool release_due = completion.more;
    client()->Send(token, pair.client, &message, Notice::kQuiet);
    expected += text + byte;
    ASSERT_TRUE(
        RunUntil([&] { return receiver.received().size() == expected.size(); }, {&receiver}));
    for (int releases = release_due ? 1 : 0, sends = 1; releases + sends > 0;) {
      ASSERT_TRUE(RunUntil([&] { return client().Take(token, &completion); }, {&receiver}));
      ASSERT_FALSE(completion.more);
      ASSERT_EQ(completion.result, completion.send_released ? 0 : 1);
      --(completion.send_released ? releases : sends);
    }
  }
  EXPECT_TRUE(receiver.received() == expected);
  RunIdle({&receiver});
  EXPECT_FALSE(client().Has(token));
}

TEST_P(RingConformanceTest, ASendToAPeerThatIsGoneFailsWithoutASignal) {
  for (const Notice notice : {Notice::kWakes, Notice::kQuiet}) {
    const Pair pair = Connect();
    CloseAndWait(server(), pair.server);
    int error = 0;
    for (int i = 0; i < 100 && error == 0; ++i) {
      Sender sender(&client(), pair.client, "anybody there?", 1, notice);
      ASSERT_TRUE(RunUntil([&] { return sender.done(); }, {&sender}));
      error = sender.error();
      RunIdle({});  // the peer's answer takes its time
    }
    EXPECT_THAT(error, AnyOf(EPIPE, ECONNRESET));
  }
}

TEST_P(RingConformanceTest, APendingSendEndsWhenItsSocketIsShutDown) {
  const Pair pair = Connect();
  Sender sender(&client(), pair.client, Pattern(32 << 20));
  RunIdle({&sender});
  ASSERT_FALSE(sender.done());
  const OpToken shut = client().NewToken(OpKind::kShutdown);
  client()->Shutdown(shut, pair.client, SHUT_RDWR);
  EXPECT_EQ(AwaitResult(client(), shut), 0);
  // Once, with what went out or an error; a second attempt fails.
  RunUntil([&] { return sender.done(); }, {&sender});
  EXPECT_EQ(sender.error(), EPIPE);
  EXPECT_LE(sender.completions(), 2);
}

TEST_P(RingConformanceTest, ZeroCopyBytesAreReleasedAfterTheResultOrNeverHeld) {
  if (!client()->zero_copy_send()) GTEST_SKIP() << "zero-copy send is off";
  const Pair pair = Connect();
  Receiver receiver(&server(), pair.server);
  std::string expected;
  for (const size_t bytes : {1, 5000, 100000, 1000000}) {
    SCOPED_TRACE(bytes);
    const std::string text = Pattern(bytes, 3);
    expected += text;
    std::string memory = text;
    size_t sent = 0;
    while (sent < bytes) {
      const OpToken token = client().NewToken(OpKind::kSend);
      client()->SendZeroCopy(token, pair.client, absl::string_view(memory).substr(sent));
      Completion result;
      ASSERT_TRUE(RunUntil([&] { return client().Take(token, &result); }, {&receiver}));
      EXPECT_FALSE(result.send_released);
      ASSERT_GT(result.result, 0);
      sent += static_cast<size_t>(result.result);
      if (!result.more) continue;
      Completion release;
      ASSERT_TRUE(RunUntil([&] { return client().Take(token, &release); }, {&receiver}));
      EXPECT_TRUE(release.send_released);
      EXPECT_FALSE(release.more);
      EXPECT_EQ(release.result, 0);
    }
    memory.assign(memory.size(), '!');
    ASSERT_TRUE(
        RunUntil([&] { return receiver.received().size() == expected.size(); }, {&receiver}));
    EXPECT_TRUE(receiver.received() == expected);
  }
}

TEST_P(RingConformanceTest, ReceivedBytesCanBeSentOnWithoutACopyWhereThatIsPossible) {
  if (!server()->zero_copy_send()) GTEST_SKIP() << "zero-copy send is off";
  const Pair in = Connect();
  const Pair out = Connect();
  const OpToken recv = server().NewToken(OpKind::kRecv);
  server()->Recv(recv, in.server, BufferGroup::kClients);
  Send(client(), in.client, Pattern(10000));
  std::string expected;
  Receiver receiver(&client(), out.client);
  while (expected.size() < 10000) {
    Completion input = Await(server(), recv);
    ASSERT_GT(input.result, 0);
    expected.append(input.data.data(), input.data.size());
    size_t sent = 0;
    while (sent < input.data.size()) {
      const OpToken send = server().NewToken(OpKind::kSend);
      server()->SendZeroCopy(send, out.server, input.data.bytes().substr(sent));
      Completion result = Await(server(), send);
      ASSERT_GT(result.result, 0);
      sent += static_cast<size_t>(result.result);
      if (result.more) {
        EXPECT_TRUE(Await(server(), send).send_released);
      }
    }
    if (!input.more) server()->Recv(recv, in.server, BufferGroup::kClients);
  }
  RunUntil([&] { return receiver.received().size() == 10000; }, {&receiver});
  EXPECT_TRUE(receiver.received() == Pattern(10000));
}

TEST_P(RingConformanceTest, ZeroCopyOnAUnixSocketIsAnOrdinarySend) {
  if (!client()->zero_copy_send()) GTEST_SKIP() << "zero-copy send is off";
  const Pair pair = ConnectUnix();
  Receiver receiver(&server(), pair.server);
  const std::string text = Pattern(50000);
  size_t sent = 0;
  while (sent < text.size()) {
    const OpToken token = client().NewToken(OpKind::kSend);
    client()->SendZeroCopy(token, pair.client, absl::string_view(text).substr(sent));
    Completion result;
    ASSERT_TRUE(RunUntil([&] { return client().Take(token, &result); }, {&receiver}));
    ASSERT_GT(result.result, 0);
    EXPECT_FALSE(result.more);
    sent += static_cast<size_t>(result.result);
  }
  RunUntil([&] { return receiver.received().size() == text.size(); }, {&receiver});
  EXPECT_TRUE(receiver.received() == text);
}

// --- cancelling and closing

TEST_P(RingConformanceTest, ACancelledRecvEndsOnceAndLosesNothing) {
  const Pair pair = Connect();
  const OpToken recv = server().NewToken(OpKind::kRecv);
  server()->Recv(recv, pair.server, BufferGroup::kClients);
  server().Turn(absl::ZeroDuration());
  const OpToken cancel = server().NewToken(OpKind::kCancel);
  server()->Cancel(cancel, recv);
  EXPECT_EQ(AwaitResult(server(), cancel), 0);
  const Completion end = Await(server(), recv);
  EXPECT_EQ(end.result, -ECANCELED);
  EXPECT_FALSE(end.more);
  Send(client(), pair.client, "still here");
  RunIdle();
  EXPECT_FALSE(server().Has(recv)) << "a second end, or input after it";
  Receiver receiver(&server(), pair.server);
  RunUntil([&] { return receiver.received().size() == 10; }, {&receiver});
  EXPECT_EQ(receiver.received(), "still here");
}

// The cancel and the input meet in every way that a turn allows.
TEST_P(RingConformanceTest, InputThatMeetsACancelIsDeliveredOrStays) {
  const Pair pair = Connect();
  std::string expected;
  std::string received;
  for (int i = 0; i < 200; ++i) {
    const OpToken recv = server().NewToken(OpKind::kRecv);
    const OpToken cancel = server().NewToken(OpKind::kCancel);
    const std::string text = absl::StrCat("message ", i, ";");
    expected += text;
    if (i % 2 == 0) {
      server()->Recv(recv, pair.server, BufferGroup::kClients);
      if (i % 4 == 0) server().Turn(absl::ZeroDuration());
    }
    Sender sender(&client(), pair.client, text);
    if (i % 3 != 0) client().Turn(absl::ZeroDuration());
    if (i % 2 == 1) server()->Recv(recv, pair.server, BufferGroup::kClients);
    server()->Cancel(cancel, recv);
    ASSERT_TRUE(RunUntil([&] { return sender.done(); }, {&sender}));
    EXPECT_THAT(AwaitResult(server(), cancel), AnyOf(0, -ENOENT, -EALREADY));
    int ends = 0;
    ASSERT_TRUE(RunUntil([&] {
      Completion completion;
      while (server().Take(recv, &completion)) {
        if (completion.result > 0) {
          received.append(completion.data.data(), completion.data.size());
        } else {
          EXPECT_EQ(completion.result, -ECANCELED);
        }
        if (!completion.more) ++ends;
      }
      return ends > 0;
    }));
    EXPECT_EQ(ends, 1);
  }
  Receiver receiver(&server(), pair.server);
  RunUntil([&] { return received.size() + receiver.received().size() >= expected.size(); },
           {&receiver});
  EXPECT_EQ(received + receiver.received(), expected);
}

TEST_P(RingConformanceTest, CancellingWhatIsNotThereSaysSo) {
  const OpToken cancel = server().NewToken(OpKind::kCancel);
  server()->Cancel(cancel, server().NewToken(OpKind::kRecv));
  EXPECT_EQ(AwaitResult(server(), cancel), -ENOENT);
}

TEST_P(RingConformanceTest, ARecvHeldBackCanBeCancelled) {
  MakeWorld({.client_buffers = 1, .backend_buffers = 1});
  const Pair flooded = Connect();
  const Pair waiting = Connect();
  const OpToken first = server().NewToken(OpKind::kRecv);
  server()->Recv(first, flooded.server, BufferGroup::kClients);
  Sender flood(&client(), flooded.client, Pattern(2 << 20));
  RunUntil(
      [&] {
        for (Completion& c : server().inbox()) {
          if (c.token == first && !c.more && c.result > 0) {
            server()->Recv(first, flooded.server, BufferGroup::kClients);
            c.more = true;
          }
        }
        return server()->FreeBufferShare(BufferGroup::kClients) == 0;
      },
      {&flood});
  const OpToken held = server().NewToken(OpKind::kRecv);
  server()->Recv(held, waiting.server, BufferGroup::kClients);
  server().Turn(absl::ZeroDuration());
  const OpToken cancel = server().NewToken(OpKind::kCancel);
  server()->Cancel(cancel, held);
  EXPECT_EQ(AwaitResult(server(), cancel), 0);
  const Completion end = Await(server(), held);
  EXPECT_EQ(end.result, -ECANCELED);
  EXPECT_FALSE(end.more);
}

TEST_P(RingConformanceTest, APendingSendCanBeCancelled) {
  const Pair pair = Connect();
  const std::string text = Pattern(32 << 20);
  Sender sender(&client(), pair.client, text);
  RunIdle();
  ASSERT_FALSE(client().Has(sender.token()));
  const OpToken cancel = client().NewToken(OpKind::kCancel);
  client()->Cancel(cancel, sender.token());
  EXPECT_EQ(AwaitResult(client(), cancel), 0);
  const Completion end = Await(client(), sender.token());
  EXPECT_THAT(end.result, AnyOf(-ECANCELED, Gt(0)));
  EXPECT_LT(end.result, static_cast<int32_t>(text.size()));
}

TEST_P(RingConformanceTest, CloseDoesNotEndAnArmedRecv) {
  const Pair pair = Connect();
  const OpToken recv = server().NewToken(OpKind::kRecv);
  server()->Recv(recv, pair.server, BufferGroup::kClients);
  server().Turn(absl::ZeroDuration());
  CloseAndWait(server(), pair.server);
  RunIdle();
  EXPECT_FALSE(server().Has(recv));
  Send(client(), pair.client, "late");
  Completion completion = Await(server(), recv);
  EXPECT_EQ(completion.data.bytes(), "late");
}

TEST_P(RingConformanceTest, ShutdownEndsAnArmedRecvWithZero) {
  const Pair pair = Connect();
  const OpToken recv = server().NewToken(OpKind::kRecv);
  server()->Recv(recv, pair.server, BufferGroup::kClients);
  server().Turn(absl::ZeroDuration());
  const OpToken shut = server().NewToken(OpKind::kShutdown);
  server()->Shutdown(shut, pair.server, SHUT_RDWR);
  EXPECT_EQ(AwaitResult(server(), shut), 0);
  const Completion end = Await(server(), recv);
  EXPECT_EQ(end.result, 0);
  EXPECT_FALSE(end.more);
}

TEST_P(RingConformanceTest, CloseOfUnreadInputIsAResetForThePeer) {
  const Pair pair = Connect();
  Send(client(), pair.client, "unread");
  RunIdle();
  Receiver receiver(&client(), pair.client);
  CloseAndWait(server(), pair.server);
  RunUntil([&] { return receiver.ended(); }, {&receiver});
  EXPECT_EQ(receiver.error(), ECONNRESET);
}

TEST_P(RingConformanceTest, CloseAfterAllWasReadIsAnEndForThePeer) {
  const Pair pair = Connect();
  Send(client(), pair.client, "read");
  Receiver at_server(&server(), pair.server);
  RunUntil([&] { return at_server.received() == "read"; }, {&at_server});
  const OpToken shut = server().NewToken(OpKind::kShutdown);
  server()->Shutdown(shut, pair.server, SHUT_RDWR);
  RunUntil([&] { return at_server.ended(); }, {&at_server});
  Receiver at_client(&client(), pair.client);
  CloseAndWait(server(), pair.server);
  RunUntil([&] { return at_client.ended(); }, {&at_client});
  EXPECT_EQ(at_client.error(), 0);
}

TEST_P(RingConformanceTest, ErrorsOfShutdownAndCloseAreReported) {
  const Fd socket = *client()->OpenSocket(world().TcpAddress());
  const OpToken shut = client().NewToken(OpKind::kShutdown);
  client()->Shutdown(shut, socket, SHUT_RDWR);
  EXPECT_EQ(AwaitResult(client(), shut), -ENOTCONN);
  CloseAndWait(client(), socket);
  const OpToken close = client().NewToken(OpKind::kClose);
  client()->Close(close, socket);
  EXPECT_EQ(AwaitResult(client(), close), -EBADF);
  client()->Shutdown(shut, socket, SHUT_RDWR);
  EXPECT_EQ(AwaitResult(client(), shut), -EBADF);
}

// --- messages

TEST_P(RingConformanceTest, MessagesArriveWholeAndInOrder) {
  constexpr uint32_t kMessages = 3000;
  const OpToken post = client().NewToken(OpKind::kPost);
  const OpToken back = server().NewToken(OpKind::kPost);
  for (uint32_t i = 0; i < kMessages; ++i) {
    client()->Post(post, 0, {.kind = static_cast<uint8_t>(i), .value = i * 2654435761u});
    server()->Post(back, 1, {.kind = static_cast<uint8_t>(i + 1), .value = ~i});
  }
  for (Side* side : {&server(), &client()}) {
    const bool at_server = side == &server();
    uint32_t next = 0;
    ASSERT_TRUE(RunUntil([&] {
      for (; !side->inbox().empty(); side->inbox().pop_front()) {
        const Completion& c = side->inbox().front();
        if (c.token.kind() != OpKind::kMessage) {
          EXPECT_EQ(c.token, at_server ? back : post);
          EXPECT_EQ(c.result, 0);
          continue;
        }
        EXPECT_EQ(c.message_kind, static_cast<uint8_t>(at_server ? next : next + 1));
        EXPECT_EQ(static_cast<uint32_t>(c.result), at_server ? next * 2654435761u : ~next);
        EXPECT_FALSE(c.more);
        ++next;
      }
      return next == kMessages;
    }));
  }
}

TEST_P(RingConformanceTest, ARingCanPostToItself) {
  const OpToken post = server().NewToken(OpKind::kPost);
  server()->Post(post, 0, {.kind = 200, .value = 0xfffffffe});
  EXPECT_EQ(AwaitResult(server(), post), 0);
  RunUntil([&] { return !server().inbox().empty(); });
  ASSERT_FALSE(server().inbox().empty());
  const Completion& message = server().inbox().front();
  EXPECT_EQ(message.token.kind(), OpKind::kMessage);
  EXPECT_EQ(message.message_kind, 200);
  EXPECT_EQ(static_cast<uint32_t>(message.result), 0xfffffffe);
}

TEST_P(RingConformanceTest, APostToARingThatIsGoneOrNeverWasFails) {
  const OpToken post = server().NewToken(OpKind::kPost);
  server()->Post(post, 1, {.kind = 1, .value = 1});
  EXPECT_EQ(AwaitResult(server(), post), 0);
  server()->Post(post, 2, {.kind = 1, .value = 1});
  EXPECT_LT(AwaitResult(server(), post), 0);
  server()->Post(post, 999, {.kind = 1, .value = 1});
  EXPECT_LT(AwaitResult(server(), post), 0);
  EndRing(1);
  server()->Post(post, 1, {.kind = 1, .value = 1});
  EXPECT_LT(AwaitResult(server(), post), 0);
}

TEST_P(RingConformanceTest, AMessageWakesAWaitingRing) {
  client()->Post(client().NewToken(OpKind::kPost), 0, {.kind = 3, .value = 4});
  client().Turn(absl::ZeroDuration());
  const absl::Time before = server()->Now();
  EXPECT_EQ(server().Turn(absl::Seconds(10)), 1u);
  EXPECT_LT(server()->Now() - before, absl::Seconds(5));
}

// --- turns

TEST_P(RingConformanceTest, AnIdleTurnLastsItsLimitAndTimeStandsStillWithinATurn) {
  server().Turn(absl::ZeroDuration());
  server().inbox().clear();
  const absl::Time start = server()->Now();
  EXPECT_EQ(server().Turn(absl::Milliseconds(20)), 0u);
  const absl::Time end = server()->Now();
  EXPECT_GE(end - start, absl::Milliseconds(20));
  EXPECT_LT(end - start, absl::Seconds(5));
  const std::string busy = Pattern(3 << 20);
  EXPECT_EQ(server()->Now(), end) << busy.size();
  server().Turn(absl::ZeroDuration());
  EXPECT_GE(server()->Now(), end);
}

TEST_P(RingConformanceTest, EachTurnLastsItsLimitWhetherOthersWereLongerOrShorter) {
  server().Turn(absl::ZeroDuration());
  server().inbox().clear();
  const OpToken cancel = server().NewToken(OpKind::kCancel);
  for (const int ms : {90, 80, 70, 60, 50, 45, 40, 35, 30, 25, 20, 15, 10, 5, 2, 1, 40, 3, 100}) {
    // Turns that end at once, whatever their limit.
    server()->Cancel(cancel, server().NewToken(OpKind::kRecv));
    Completion completion;
    for (int turns = 0; !server().Take(cancel, &completion); ++turns) {
      ASSERT_LT(turns, 1000);
      server().Turn(absl::Milliseconds(ms));
    }
    if (ms > 40 && ms < 100) continue;
    const absl::Time start = server()->Now();
    EXPECT_EQ(server().Turn(absl::Milliseconds(ms)), 0u);
    EXPECT_GE(server()->Now() - start, absl::Milliseconds(ms));
    EXPECT_LT(server()->Now() - start, absl::Seconds(5));
  }
}

TEST_P(RingConformanceTest, ATurnThatHasCompletionsDoesNotSleep) {
  std::vector<OpToken> tokens;
  for (int i = 0; i < 10; ++i) {
    tokens.push_back(server().NewToken(OpKind::kCancel));
    server()->Cancel(tokens.back(), server().NewToken(OpKind::kRecv));
  }
  const absl::Time start = server()->Now();
  std::set<uint64_t> seen;
  Completion one;
  for (int i = 0; i < 10; ++i) {
    // Room for one: the rest waits for the next turns.
    ASSERT_EQ(server()->SubmitAndWait(absl::Seconds(30), absl::MakeSpan(&one, 1)), 1u);
    seen.insert(one.token.value());
  }
  EXPECT_EQ(seen.size(), 10u);
  EXPECT_LT(server()->Now() - start, absl::Seconds(15));
}

TEST_P(RingConformanceTest, MoreOperationsThanTheQueueHoldsAreSubmittedWithinATurn) {
  MakeWorld({.entries = 8});
  std::set<uint64_t> expected;
  for (int i = 0; i < 500; ++i) {
    const OpToken token = server().NewToken(OpKind::kCancel);
    server()->Cancel(token, server().NewToken(OpKind::kRecv));
    expected.insert(token.value());
  }
  ASSERT_TRUE(RunUntil([&] {
    for (; !server().inbox().empty(); server().inbox().pop_front()) {
      EXPECT_EQ(expected.erase(server().inbox().front().token.value()), 1u);
    }
    return expected.empty();
  }));
}

TEST_P(RingConformanceTest, NobodyHearsOfOperationsWithoutAKind) {
  const Fd socket = *server()->OpenSocket(world().TcpAddress());
  server()->Close(OpToken(), socket);
  server()->Post(OpToken(), 2, {});
  server()->Cancel(OpToken(OpKind::kNone, 3, 4, 5), server().NewToken(OpKind::kRecv));
  RunIdle();
  EXPECT_TRUE(server().inbox().empty());
  // It was closed all the same, if not yet: the next one has its number.
  Fd next = *server()->OpenSocket(world().TcpAddress());
  for (int i = 0; i < 1000 && next != socket; ++i) {
    CloseAndWait(server(), next);
    next = *server()->OpenSocket(world().TcpAddress());
  }
  EXPECT_EQ(next, socket);
  CloseAndWait(server(), next);
}

TEST_P(RingConformanceTest, TheTokenComesBackAsItWasGiven) {
  const OpToken token(OpKind::kCancel, 15, 0xffffffff, 0xffffff);
  server()->Cancel(token, OpToken(OpKind::kRecv, 15, 0xfffffffe, 0xffffff));
  const Completion completion = Await(server(), token);
  EXPECT_EQ(completion.token.party(), 15);
  EXPECT_EQ(completion.token.index(), 0xffffffff);
  EXPECT_EQ(completion.token.generation(), 0xffffffu);
}

TEST_P(RingConformanceTest, ARingCanEndWithEverythingArmed) {
  const Pair busy = Connect();
  const Pair idle = Connect();
  const absl::StatusOr<Fd> listener = server()->Listen(world().TcpAddress(), {});
  ASSERT_TRUE(listener.ok());
  server()->Accept(server().NewToken(OpKind::kAccept), *listener);
  server()->Recv(server().NewToken(OpKind::kRecv), busy.server, BufferGroup::kClients);
  server()->Recv(server().NewToken(OpKind::kRecv), idle.server, BufferGroup::kBackends);
  server().Turn(absl::ZeroDuration());
  const std::string text = Pattern(32 << 20);
  auto memory = std::make_unique<Sender>(&server(), busy.server, text);
  server().Turn(absl::ZeroDuration());
  Send(client(), busy.client, "input that nobody takes");
  EndRing(0);
  // Now the memory of the pending send may go.
  memory.reset();
  CloseAndWait(client(), busy.client);
}

}  // namespace io
