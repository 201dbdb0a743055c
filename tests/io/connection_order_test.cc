// Connection against completions in every order and with every result, also those that a kernel
// gives once in a million times. Operations are held until the test lets them complete.

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "io/buffer_pool.h"
#include "io/connection.h"
#include "io/ring.h"

namespace io {
namespace {

using RecvEvent = Connection::RecvEvent;
using SendEvent = Connection::SendEvent;
using State = Connection::State;
using ::testing::IsEmpty;

// Holds every operation until it is taken out. Knows no order and delivers nothing by itself.
class HeldRing final : public Ring {
 public:
  struct Operation {
    OpKind kind = OpKind::kNone;
    OpToken token;
    int number = 0;       // in the order of their submission
    OpToken target = {};  // of a cancel
    int how = 0;          // of a shutdown
    bool into = false;    // of a receive: into `memory`
    char* memory = nullptr;
    size_t capacity = 0;
    const msghdr* message = nullptr;
    absl::string_view bytes = {};  // of a zero-copy send
    bool zero_copy = false;
    Notice notice = Notice::kWakes;  // of a send
  };

  explicit HeldRing(bool zero_copy = false) : zero_copy_(zero_copy) {}

  RingId id() const override { return 0; }
  absl::StatusOr<Fd> Listen(const Endpoint&, const ListenOptions&) override {
    return absl::UnimplementedError("");
  }
  absl::StatusOr<Fd> OpenSocket(const Endpoint&) override { return absl::UnimplementedError(""); }
  std::string PeerName(Fd) override { return ""; }
  std::string LocalName(Fd) override { return ""; }
  void Accept(OpToken token, Fd) override { Hold({.kind = OpKind::kAccept, .token = token}); }
  void Connect(OpToken token, Fd, const Endpoint&) override {
    Hold({.kind = OpKind::kConnect, .token = token});
  }
  void Recv(OpToken token, Fd, BufferGroup) override {
    Hold({.kind = OpKind::kRecv, .token = token});
  }
  void RecvInto(OpToken token, Fd, char* memory, size_t capacity) override {
    Hold({.kind = OpKind::kRecv,
          .token = token,
          .into = true,
          .memory = memory,
          .capacity = capacity});
  }
  void Send(OpToken token, Fd, const msghdr* message, Notice notice) override {
    Hold({.kind = OpKind::kSend, .token = token, .message = message, .notice = notice});
  }
  void SendZeroCopy(OpToken token, Fd, absl::string_view bytes) override {
    Hold({.kind = OpKind::kSend, .token = token, .bytes = bytes, .zero_copy = true});
  }
  bool zero_copy_send() const override { return zero_copy_; }
  void Cancel(OpToken token, OpToken target) override {
    Hold({.kind = OpKind::kCancel, .token = token, .target = target});
  }
  void Shutdown(OpToken token, Fd, int how) override {
    Hold({.kind = OpKind::kShutdown, .token = token, .how = how});
  }
  void Close(OpToken token, Fd) override {
    EXPECT_THAT(held, IsEmpty()) << "closed with operations in flight";
    Hold({.kind = OpKind::kClose, .token = token});
    ++closes;
  }
  void Post(OpToken, RingId, Message) override {}
  size_t SubmitAndWait(absl::Duration, absl::Span<Completion>) override { return 0; }
  absl::Time Now() const override { return absl::UnixEpoch(); }
  double FreeBufferShare(BufferGroup) const override { return 1; }
  std::string Describe() const override { return "held"; }

  size_t Count(OpKind kind) const {
    return static_cast<size_t>(std::count_if(
        held.begin(), held.end(), [kind](const Operation& o) { return o.kind == kind; }));
  }
  // Takes the only operation of this kind out.
  Operation Take(OpKind kind) {
    EXPECT_EQ(Count(kind), 1u) << "of kind " << int(kind);
    const auto found = std::find_if(held.begin(), held.end(),
                                    [kind](const Operation& o) { return o.kind == kind; });
    if (found == held.end()) return {};
    const Operation operation = *found;
    held.erase(found);
    return operation;
  }
  void Remove(const Operation& operation) {
    const auto found = std::find_if(
        held.begin(), held.end(), [&](const Operation& o) { return o.number == operation.number; });
    ASSERT_NE(found, held.end());
    held.erase(found);
  }
  // The operation of this kind, still held.
  const Operation& Peek(OpKind kind) const {
    static const Operation kNone;
    const auto found = std::find_if(held.begin(), held.end(),
                                    [kind](const Operation& o) { return o.kind == kind; });
    return found == held.end() ? kNone : *found;
  }

  std::vector<Operation> held;
  int closes = 0;

 private:
  void Hold(const Operation& operation) {
    held.push_back(operation);
    held.back().number = next_number_++;
  }
  const bool zero_copy_;
  int next_number_ = 0;
};

std::string SentText(const HeldRing::Operation& send) {
  if (send.zero_copy) return std::string(send.bytes);
  std::string text;
  for (size_t i = 0; i < send.message->msg_iovlen; ++i) {
    const iovec& part = send.message->msg_iov[i];
    text.append(static_cast<const char*>(part.iov_base), part.iov_len);
  }
  return text;
}

class ConnectionOrderTest : public ::testing::Test {
 protected:
  void Open(size_t zero_copy_bytes_min = 0) {
    Connection::Options options;
    options.party = 3;
    options.index = 17;
    options.generation = 5;
    options.zero_copy_bytes_min = zero_copy_bytes_min;
    connection_.Open(99, options);
  }

  static Completion Result(const HeldRing::Operation& operation, int result, bool more = false) {
    Completion completion;
    completion.token = operation.token;
    completion.result = result;
    completion.more = more;
    return completion;
  }

  // Lets the receive deliver the text, into its memory or as a slice of its own.
  RecvEvent Receive(absl::string_view text, bool more, Slice* data) {
    const HeldRing::Operation recv = more ? ring_.Peek(OpKind::kRecv) : ring_.Take(OpKind::kRecv);
    Completion completion = Result(recv, static_cast<int>(text.size()), more);
    if (recv.into) {
      EXPECT_LE(text.size(), recv.capacity);
      memcpy(recv.memory, text.data(), text.size());
    } else {
      completion.data = CopyToHeap(text);
    }
    return connection_.OnRecv(&completion, data);
  }
  RecvEvent EndRecv(int result) {
    Completion completion = Result(ring_.Take(OpKind::kRecv), result);
    return connection_.OnRecv(&completion, &data_);
  }
  SendEvent EndSend(int result, bool more = false) {
    return connection_.OnSent(Result(ring_.Take(OpKind::kSend), result, more));
  }
  SendEvent Release(bool copied = false) {
    Completion completion;
    completion.token = OpToken(OpKind::kSend, 3, 17, 5);
    completion.send_released = true;
    completion.send_copied = copied;
    return connection_.OnSent(completion);
  }
  void EndControl(OpKind kind, int result = 0) {
    connection_.OnControl(Result(ring_.Take(kind), result));
  }
  // A slice in a block of its own.
  Slice Piece(absl::string_view text) {
    Arena arena(&pool_);
    return arena.Copy(text);
  }
  // Lets everything complete as a kernel would that cancels at once.
  void Finish(Connection* connection) {
    while (!ring_.held.empty()) {
      const HeldRing::Operation operation = ring_.held.front();
      ring_.held.erase(ring_.held.begin());
      Dispatch(connection, operation,
               operation.kind == OpKind::kCancel ? 0 : DefaultResult(operation));
    }
  }
  static int DefaultResult(const HeldRing::Operation& operation) {
    switch (operation.kind) {
      case OpKind::kRecv:
      case OpKind::kSend:
      case OpKind::kConnect:
        return -ECANCELED;
      default:
        return 0;
    }
  }
  void Dispatch(Connection* connection, const HeldRing::Operation& operation, int result) {
    Completion completion = Result(operation, result);
    switch (operation.kind) {
      case OpKind::kRecv:
        if (result > 0 && !operation.into) {
          completion.data = CopyToHeap(std::string(static_cast<size_t>(result), 'x'));
        }
        EXPECT_EQ(connection->OnRecv(&completion, &data_), RecvEvent::kNothing);
        break;
      case OpKind::kSend:
        EXPECT_EQ(connection->OnSent(completion), SendEvent::kNothing);
        break;
      case OpKind::kConnect:
        connection->OnConnected(completion);
        break;
      default:
        connection->OnControl(completion);
    }
  }

  HeldRing ring_{/*zero_copy=*/true};
  BlockPool pool_{64, 4};
  Slice data_;
  Connection connection_{&ring_};
};

// --- receiving

TEST_F(ConnectionOrderTest, AResumeBeforeThePauseHasTakenEffectArmsOnceMore) {
  Open();
  connection_.StartRecv();
  connection_.StartRecv();
  EXPECT_EQ(ring_.Count(OpKind::kRecv), 1u);
  connection_.PauseRecv();
  connection_.PauseRecv();
  EXPECT_EQ(ring_.Count(OpKind::kCancel), 1u);
  EXPECT_EQ(ring_.Peek(OpKind::kCancel).target, ring_.Peek(OpKind::kRecv).token);
  connection_.StartRecv();
  EXPECT_EQ(ring_.Count(OpKind::kRecv), 1u);  // the one that is being cancelled
  EXPECT_EQ(EndRecv(-ECANCELED), RecvEvent::kNothing);
  EXPECT_EQ(ring_.Count(OpKind::kRecv), 1u);
  EndControl(OpKind::kCancel);
  // Another pause needs another cancel, also while the first is still unanswered.
  connection_.PauseRecv();
  EXPECT_EQ(EndRecv(-ECANCELED), RecvEvent::kNothing);
  connection_.StartRecv();
  connection_.PauseRecv();
  EXPECT_EQ(ring_.Count(OpKind::kCancel), 2u);
}

TEST_F(ConnectionOrderTest, DataThatOvertakesThePauseIsDeliveredAndNoneIsAskedForAfterIt) {
  Open();
  connection_.StartRecv();
  connection_.PauseRecv();
  EXPECT_EQ(Receive("one", true, &data_), RecvEvent::kData);
  EXPECT_EQ(data_.bytes(), "one");
  EndControl(OpKind::kCancel, -ENOENT);
  EXPECT_EQ(Receive("two", false, &data_), RecvEvent::kData);
  EXPECT_EQ(data_.bytes(), "two");
  EXPECT_THAT(ring_.held, IsEmpty());
  connection_.StartRecv();
  EXPECT_EQ(ring_.Count(OpKind::kRecv), 1u);
}

TEST_F(ConnectionOrderTest, AReceiveThatEndedForNoFaultOfThePeerIsArmedAgain) {
  Open();
  connection_.StartRecv();
  // -ECANCELED without a pause: a cancel that was meant for the receive before came late.
  for (const int result : {-ENOBUFS, -EINTR, -EAGAIN, -ECANCELED}) {
    EXPECT_EQ(EndRecv(result), RecvEvent::kNothing) << strerror(-result);
    EXPECT_EQ(ring_.Count(OpKind::kRecv), 1u) << strerror(-result);
  }
  EXPECT_EQ(Receive("data", false, &data_), RecvEvent::kData);
  EXPECT_EQ(ring_.Count(OpKind::kRecv), 1u);
}

TEST_F(ConnectionOrderTest, EndOfInputAndErrorsAreFinal) {
  Open();
  connection_.StartRecv();
  EXPECT_EQ(EndRecv(0), RecvEvent::kEnd);
  EXPECT_TRUE(connection_.end_of_input());
  connection_.StartRecv();
  EXPECT_THAT(ring_.held, IsEmpty());
  EXPECT_EQ(connection_.error(), 0);
  connection_.BeginClose();
  Finish(&connection_);
  ASSERT_TRUE(connection_.closed());

  for (const int result : {-ECONNRESET, -ETIMEDOUT, -EPIPE, -EHOSTUNREACH, -ENOMEM}) {
    Open();
    EXPECT_FALSE(connection_.end_of_input());
    connection_.StartRecv();
    EXPECT_EQ(EndRecv(result), RecvEvent::kError);
    EXPECT_EQ(connection_.error(), -result);
    connection_.StartRecv();
    connection_.Send(Piece("never"));
    connection_.Flush();
    EXPECT_THAT(ring_.held, IsEmpty());
    connection_.BeginClose();
    Finish(&connection_);
    ASSERT_TRUE(connection_.closed());
    EXPECT_EQ(connection_.error(), -result);  // the owner may still ask
  }
}

// --- large frames

TEST_F(ConnectionOrderTest, ALargeFrameLeavesTheSharedBuffersAndReturnsToThem) {
  Open();
  connection_.StartRecv();
  ASSERT_EQ(Receive("head", true, &data_), RecvEvent::kData);
  connection_.ExpectLarge(10);
  EXPECT_EQ(ring_.Count(OpKind::kCancel), 1u);
  // Still by the receive that is being cancelled: counted.
  ASSERT_EQ(Receive("abc", true, &data_), RecvEvent::kData);
  ASSERT_EQ(EndRecv(-ECANCELED), RecvEvent::kNothing);
  EXPECT_TRUE(ring_.Peek(OpKind::kRecv).into);
  EXPECT_EQ(ring_.Peek(OpKind::kRecv).capacity, 7u);
  Slice first, second;
  ASSERT_EQ(Receive("defg", false, &first), RecvEvent::kData);
  EXPECT_EQ(ring_.Peek(OpKind::kRecv).capacity, 3u);
  ASSERT_EQ(Receive("hij", false, &second), RecvEvent::kData);
  EXPECT_FALSE(ring_.Peek(OpKind::kRecv).into);
  EXPECT_EQ(first.bytes(), "defg");
  EXPECT_EQ(second.bytes(), "hij");
  EXPECT_TRUE(first.IsFollowedBy(second));
  EXPECT_EQ(ring_.Count(OpKind::kCancel), 1u);
}

TEST_F(ConnectionOrderTest, TheFrameMayEndInTheReceiveThatIsBeingCancelled) {
  Open();
  connection_.StartRecv();
  connection_.ExpectLarge(4);
  ASSERT_EQ(Receive("abcdnext", true, &data_), RecvEvent::kData);
  ASSERT_EQ(EndRecv(-ECANCELED), RecvEvent::kNothing);
  EXPECT_FALSE(ring_.Peek(OpKind::kRecv).into);
}

TEST_F(ConnectionOrderTest, AnotherCallReplacesTheNumberOfBytes) {
  Open();
  connection_.StartRecv();
  connection_.ExpectLarge(100);
  connection_.ExpectLarge(50);
  EXPECT_EQ(ring_.Count(OpKind::kCancel), 1u);
  ASSERT_EQ(EndRecv(-ECANCELED), RecvEvent::kNothing);
  EXPECT_EQ(ring_.Peek(OpKind::kRecv).capacity, 50u);
  ASSERT_EQ(Receive("ten bytes!", false, &data_), RecvEvent::kData);
  connection_.ExpectLarge(40);  // as callers do after each piece: the same number
  EXPECT_EQ(ring_.Peek(OpKind::kRecv).capacity, 40u);
  connection_.ExpectLarge(20);
  ASSERT_EQ(Receive("ten bytes!", false, &data_), RecvEvent::kData);
  EXPECT_EQ(ring_.Peek(OpKind::kRecv).capacity, 10u);
  connection_.ExpectLarge(0);
  ASSERT_EQ(Receive("0123456789", false, &data_), RecvEvent::kData);
  EXPECT_FALSE(ring_.Peek(OpKind::kRecv).into);
}

TEST_F(ConnectionOrderTest, APauseInALargeFrameKeepsItsPlace) {
  Open();
  connection_.StartRecv();
  connection_.ExpectLarge(100);
  ASSERT_EQ(EndRecv(-ECANCELED), RecvEvent::kNothing);
  EndControl(OpKind::kCancel);
  connection_.PauseRecv();
  EXPECT_EQ(ring_.Count(OpKind::kCancel), 1u);
  Slice before, after;
  ASSERT_EQ(Receive("before", false, &before), RecvEvent::kData);
  EXPECT_EQ(ring_.Count(OpKind::kRecv), 0u);
  connection_.StartRecv();
  EXPECT_EQ(ring_.Peek(OpKind::kRecv).capacity, 94u);
  ASSERT_EQ(Receive("after", false, &after), RecvEvent::kData);
  EXPECT_TRUE(before.IsFollowedBy(after));
}

TEST_F(ConnectionOrderTest, MemoryGrowsWithWhatHasArrivedWhateverWasAnnounced) {
  constexpr uint64_t kAnnounced = uint64_t{512} << 20;
  Open();
  connection_.ExpectLarge(kAnnounced);
  connection_.StartRecv();
  std::map<const Block*, Slice> blocks;  // keeps them alive, as a request does
  uint64_t arrived = 0, reserved = 0;
  while (arrived < 5u << 20) {
    const HeldRing::Operation& recv = ring_.Peek(OpKind::kRecv);
    ASSERT_TRUE(recv.into);
    // Every fourth receive fills what it was given, the others bring less.
    const size_t n = blocks.size() % 4 == 3 ? recv.capacity : std::min<size_t>(recv.capacity, 9001);
    ASSERT_EQ(Receive(std::string(n, 'x'), false, &data_), RecvEvent::kData);
    const Block* block = data_.buffer().get();
    if (blocks.emplace(block, data_).second) {
      reserved += block->size;
      EXPECT_LE(block->size, std::max<uint64_t>(64 << 10, arrived));
      EXPECT_LE(block->size, 1u << 20);
    }
    arrived += n;
    ASSERT_LE(reserved, std::max<uint64_t>(64 << 10, 2 * arrived));
  }
  // 1 MiB blocks at the end: a value of 512 MiB has some 520 slices, not 8192.
  EXPECT_EQ(data_.buffer()->size, 1u << 20);
}

TEST_F(ConnectionOrderTest, AFrameGetsNoLargerBlockThanItNeeds) {
  Open();
  connection_.ExpectLarge(70'000);
  connection_.StartRecv();
  EXPECT_EQ(ring_.Peek(OpKind::kRecv).capacity, 65'536u);
  ASSERT_EQ(Receive(std::string(65'536, 'x'), false, &data_), RecvEvent::kData);
  ASSERT_EQ(Receive(std::string(4464, 'x'), false, &data_), RecvEvent::kData);
  EXPECT_EQ(data_.buffer()->size, 4464u);
  // The next frame begins small again.
  connection_.ExpectLarge(1 << 20);
  ASSERT_EQ(EndRecv(-ECANCELED), RecvEvent::kNothing);
  EXPECT_EQ(ring_.Peek(OpKind::kRecv).capacity, 65'536u);
}

// --- sending

TEST_F(ConnectionOrderTest, OneSendIsInFlightAndTotalsSayWhatWasHandedOver) {
  Open();
  connection_.Flush();
  EXPECT_THAT(ring_.held, IsEmpty());
  connection_.Send(Piece("hello "));
  connection_.Flush();
  connection_.Send(Piece("world"));
  connection_.Flush();
  EXPECT_EQ(SentText(ring_.Peek(OpKind::kSend)), "hello ");
  EXPECT_EQ(connection_.sent_bytes(), 0u);
  EXPECT_EQ(connection_.submitted_bytes(), 6u);
  EXPECT_EQ(connection_.unsent_bytes(), 11u);
  EXPECT_EQ(EndSend(4), SendEvent::kProgress);  // a short send
  EXPECT_EQ(connection_.sent_bytes(), 4u);
  EXPECT_EQ(connection_.submitted_bytes(), 4u);
  connection_.Flush();
  EXPECT_EQ(SentText(ring_.Peek(OpKind::kSend)), "o world");
  EXPECT_EQ(connection_.submitted_bytes(), 11u);
  EXPECT_EQ(EndSend(7), SendEvent::kProgress);
  EXPECT_TRUE(connection_.send_idle());
  EXPECT_EQ(connection_.sent_bytes(), 11u);
  EXPECT_EQ(pool_.in_use(), 0u);
}

TEST_F(ConnectionOrderTest, ASendThatFailedForNoFaultOfThePeerIsRepeated) {
  Open();
  connection_.Send(Piece("again"));
  for (const int result : {-EINTR, -EAGAIN}) {
    connection_.Flush();
    EXPECT_EQ(EndSend(result), SendEvent::kProgress);
    EXPECT_EQ(connection_.sent_bytes(), 0u);
    EXPECT_EQ(connection_.error(), 0);
  }
  connection_.Flush();
  EXPECT_EQ(SentText(ring_.Peek(OpKind::kSend)), "again");
}

TEST_F(ConnectionOrderTest, ASendIsQuietIfAskedForAndSmallAndTheOneBeforeHadRoom) {
  Open();
  const auto flush = [&](size_t bytes, Notice notice) {
    connection_.Send(CopyToHeap(std::string(bytes, 'x')));
    connection_.Flush(notice);
    return ring_.Peek(OpKind::kSend).notice;
  };
  EXPECT_EQ(flush(10, Notice::kWakes), Notice::kWakes);
  EXPECT_EQ(EndSend(10), SendEvent::kProgress);
  EXPECT_EQ(flush(16384, Notice::kQuiet), Notice::kQuiet);
  EXPECT_EQ(EndSend(16384), SendEvent::kProgress);
  EXPECT_EQ(flush(16385, Notice::kQuiet), Notice::kWakes);
  EXPECT_EQ(EndSend(16385), SendEvent::kProgress);
  // A part of it went.
  EXPECT_EQ(flush(10, Notice::kQuiet), Notice::kQuiet);
  EXPECT_EQ(EndSend(9), SendEvent::kProgress);
  EXPECT_EQ(flush(10, Notice::kQuiet), Notice::kWakes);
  EXPECT_EQ(EndSend(11), SendEvent::kProgress);
  // Nothing of it went.
  EXPECT_EQ(flush(10, Notice::kQuiet), Notice::kQuiet);
  EXPECT_EQ(EndSend(-EAGAIN), SendEvent::kProgress);
  connection_.Flush(Notice::kQuiet);
  EXPECT_EQ(ring_.Peek(OpKind::kSend).notice, Notice::kWakes);
  EXPECT_EQ(EndSend(10), SendEvent::kProgress);
  EXPECT_EQ(flush(10, Notice::kQuiet), Notice::kQuiet);
}

TEST_F(ConnectionOrderTest, ASendErrorIsFinalAndCountsNothing) {
  for (const int result : {-EPIPE, -ECONNRESET, -EHOSTUNREACH, -ENOMEM, -ECANCELED, 0}) {
    SCOPED_TRACE(result);
    Open();
    connection_.Send(Piece("lost"));
    connection_.Flush();
    EXPECT_EQ(EndSend(result), SendEvent::kError);
    EXPECT_EQ(connection_.error(), result == 0 ? EPIPE : -result);
    EXPECT_EQ(connection_.sent_bytes(), 0u);
    connection_.Flush();
    EXPECT_THAT(ring_.held, IsEmpty());
    connection_.BeginClose();
    EXPECT_EQ(pool_.in_use(), 0u);
    Finish(&connection_);
    EXPECT_TRUE(connection_.closed());
  }
}

TEST_F(ConnectionOrderTest, DropUnsentKeepsTheBytesOfTheSendInFlight) {
  Open();
  connection_.Send(Piece("in flight"));
  connection_.Flush();
  connection_.Send(Piece("dropped"));
  connection_.DropUnsent();
  EXPECT_EQ(pool_.in_use(), 1u);
  EXPECT_EQ(connection_.unsent_bytes(), 9u);
  EXPECT_EQ(SentText(ring_.Peek(OpKind::kSend)), "in flight");
  EXPECT_EQ(EndSend(9), SendEvent::kProgress);
  EXPECT_TRUE(connection_.send_idle());
  connection_.Flush();
  EXPECT_THAT(ring_.held, IsEmpty());
}

TEST_F(ConnectionOrderTest, NothingIsSentBeforeTheConnectHasCompleted) {
  Open();
  connection_.Connect(Endpoint());
  connection_.Send(Piece("hello"));
  connection_.Flush();
  EXPECT_EQ(ring_.Count(OpKind::kSend), 0u);
  Completion connected = Result(ring_.Take(OpKind::kConnect), 0);
  EXPECT_EQ(connection_.OnConnected(connected), 0);
  connection_.Flush();
  EXPECT_EQ(ring_.Count(OpKind::kSend), 1u);
}

// --- zero copy

TEST_F(ConnectionOrderTest, OnlyLargeSlicesGoWithoutACopyAndTheOrderStays) {
  Open(/*zero_copy_bytes_min=*/4);
  connection_.Send(Piece("ab"));
  connection_.Send(Piece("c"));
  connection_.Send(Piece("large"));
  connection_.Send(Piece("d"));
  std::string sent;
  for (const bool zero_copy : {false, true, false}) {
    connection_.Flush();
    const HeldRing::Operation& send = ring_.Peek(OpKind::kSend);
    EXPECT_EQ(send.zero_copy, zero_copy);
    const std::string text = SentText(send);
    sent += text;
    EXPECT_EQ(EndSend(static_cast<int>(text.size()), zero_copy), SendEvent::kProgress);
  }
  EXPECT_EQ(sent, "abclarged");
  EXPECT_EQ(pool_.in_use(), 1u);  // "large", until its notice
  EXPECT_EQ(Release(), SendEvent::kNothing);
  EXPECT_EQ(pool_.in_use(), 0u);
}

TEST_F(ConnectionOrderTest, AReportedCopyTurnsZeroCopyOff) {
  Open(4);
  connection_.Send(Piece("large"));
  connection_.Flush();
  EXPECT_EQ(EndSend(5, true), SendEvent::kProgress);
  Release(/*copied=*/true);
  connection_.Send(Piece("large"));
  connection_.Flush();
  EXPECT_FALSE(ring_.Peek(OpKind::kSend).zero_copy);
  EXPECT_EQ(EndSend(5), SendEvent::kProgress);
  connection_.BeginClose();
  Finish(&connection_);
  // The next connection tries anew.
  Open(4);
  connection_.Send(Piece("large"));
  connection_.Flush();
  EXPECT_TRUE(ring_.Peek(OpKind::kSend).zero_copy);
}

TEST_F(ConnectionOrderTest, ARefusedZeroCopySendGoesAgainWithACopy) {
  for (const int result : {-ENOMEM, -ENOBUFS, -EOPNOTSUPP, -EINVAL}) {
    for (const bool notice : {false, true}) {
      SCOPED_TRACE(absl::StrCat(result, notice ? " with a notice" : ""));
      Open(4);
      connection_.Send(Piece("large"));
      connection_.Flush();
      EXPECT_EQ(EndSend(result, notice), SendEvent::kProgress);
      EXPECT_EQ(connection_.error(), 0);
      connection_.Flush();
      EXPECT_FALSE(ring_.Peek(OpKind::kSend).zero_copy);
      EXPECT_EQ(SentText(ring_.Peek(OpKind::kSend)), "large");
      EXPECT_EQ(EndSend(5), SendEvent::kProgress);
      EXPECT_EQ(pool_.in_use(), notice ? 1u : 0u);
      if (notice) Release();
      EXPECT_EQ(pool_.in_use(), 0u);
      connection_.BeginClose();
      Finish(&connection_);
      ASSERT_TRUE(connection_.closed());
    }
  }
}

// Notices don't say which send they are for: no byte may go before all are in.
TEST_F(ConnectionOrderTest, SharesOfZeroCopySendsGoWithTheLastNoticeAlsoIfOneComesEarly) {
  Open(4);
  connection_.Send(Piece("first"));
  connection_.Flush();
  EXPECT_EQ(EndSend(5, true), SendEvent::kProgress);
  connection_.Send(Piece("second"));
  connection_.Flush();
  Release();  // of either of the two
  EXPECT_EQ(pool_.in_use(), 2u);
  EXPECT_EQ(EndSend(6, true), SendEvent::kProgress);
  EXPECT_EQ(pool_.in_use(), 2u);
  Release();
  EXPECT_EQ(pool_.in_use(), 0u);
}

TEST_F(ConnectionOrderTest, AShortZeroCopySendHoldsItsBytesAndSendsTheRest) {
  Open(4);
  connection_.Send(Piece("0123456789"));
  connection_.Flush();
  EXPECT_EQ(EndSend(3, true), SendEvent::kProgress);
  connection_.Flush();
  EXPECT_EQ(SentText(ring_.Peek(OpKind::kSend)), "3456789");
  EXPECT_EQ(EndSend(7, true), SendEvent::kProgress);
  Release();
  EXPECT_EQ(pool_.in_use(), 1u);
  Release();
  EXPECT_EQ(pool_.in_use(), 0u);
}

TEST_F(ConnectionOrderTest, BytesHeldByZeroCopyAreBounded) {
  Open(4);
  const std::string megabyte(1 << 20, 'x');
  int zero_copy = 0;
  for (int i = 0; i < 10; ++i) {
    connection_.Send(CopyToHeap(megabyte));
    connection_.Flush();
    const bool without_copy = ring_.Peek(OpKind::kSend).zero_copy;
    zero_copy += without_copy;
    EXPECT_EQ(EndSend(1 << 20, without_copy), SendEvent::kProgress);
  }
  EXPECT_EQ(zero_copy, 4);
  for (int i = 0; i < 4; ++i) Release();
  connection_.Send(CopyToHeap(megabyte));
  connection_.Flush();
  EXPECT_TRUE(ring_.Peek(OpKind::kSend).zero_copy);
}

TEST_F(ConnectionOrderTest, ClosedOnlyWhenTheKernelHasReleasedEverything) {
  Open(4);
  connection_.Send(Piece("large"));
  connection_.Flush();
  EXPECT_EQ(EndSend(5, true), SendEvent::kProgress);
  connection_.BeginClose();
  EndControl(OpKind::kShutdown);
  EndControl(OpKind::kClose);
  EXPECT_FALSE(connection_.closed());
  EXPECT_EQ(pool_.in_use(), 1u);
  Release();
  EXPECT_TRUE(connection_.closed());
  EXPECT_EQ(pool_.in_use(), 0u);
}

// --- ending

struct Ending {
  const char* name;
  std::function<void(Connection*)> prepare;  // what is in flight when the close begins
};

const Ending kEndings[] = {
    {"idle", [](Connection*) {}},
    {"receiving", [](Connection* c) { c->StartRecv(); }},
    {"pausing",
     [](Connection* c) {
       c->StartRecv();
       c->PauseRecv();
     }},
    {"leaving the shared buffers",
     [](Connection* c) {
       c->StartRecv();
       c->ExpectLarge(1 << 20);
     }},
    {"receiving a large frame",
     [](Connection* c) {
       c->ExpectLarge(1 << 20);
       c->StartRecv();
     }},
    {"connecting", [](Connection* c) { c->Connect(Endpoint()); }},
    {"half-closed",
     [](Connection* c) {
       c->ShutdownWrite();
       c->StartRecv();
     }},
};

// Every order of the completions, and for each operation every result that it may have when a
// cancel races with it. Close is checked by HeldRing: it comes when nothing is in flight.
TEST_F(ConnectionOrderTest, EveryOrderOfCompletionsGivesExactlyOneTeardown) {
  const std::map<OpKind, std::vector<int>> results = {
      {OpKind::kRecv, {-ECANCELED, 0, 5, -ECONNRESET, -ENOBUFS}},
      {OpKind::kSend, {-ECANCELED, 2, 8, -EPIPE}},
      {OpKind::kConnect, {-ECANCELED, 0, -ECONNREFUSED}},
      {OpKind::kCancel, {0, -ENOENT, -EALREADY}},
      {OpKind::kShutdown, {0, -ENOTCONN}},
  };
  int teardowns = 0;
  for (const Ending& ending : kEndings) {
    for (const bool sending : {false, true}) {
      if (sending && (absl::string_view(ending.name) == "connecting" ||
                      absl::string_view(ending.name) == "half-closed")) {
        continue;
      }
      std::vector<size_t> order;
      size_t variant = 0;
      do {
        SCOPED_TRACE(absl::StrCat(ending.name, sending ? ", sending" : "", ", variant ", variant));
        ring_.held.clear();
        ring_.closes = 0;
        Open();
        ending.prepare(&connection_);
        if (sending) {
          connection_.Send(Piece("sentence"));
          connection_.Flush();
        }
        connection_.Send(Piece("never handed over"));
        connection_.BeginClose();
        connection_.BeginClose();  // harmless
        EXPECT_EQ(connection_.unsent_bytes(), sending ? 8u : 0u);
        const std::vector<HeldRing::Operation> held = ring_.held;
        if (order.empty()) {
          for (size_t i = 0; i < held.size(); ++i) order.push_back(i);
        }
        uint64_t sent = 0;
        for (const size_t i : order) {
          ASSERT_FALSE(connection_.closed());
          ASSERT_EQ(ring_.closes, 0);
          const HeldRing::Operation& operation = held[i];
          ring_.Remove(operation);
          const std::vector<int>& possible = results.at(operation.kind);
          const int result = possible[(variant + i) % possible.size()];
          if (operation.kind == OpKind::kSend && result > 0) sent += static_cast<uint64_t>(result);
          Dispatch(&connection_, operation, result);
        }
        ASSERT_EQ(ring_.closes, 1);
        EXPECT_EQ(connection_.sent_bytes(), sent);
        EXPECT_EQ(pool_.in_use(), 0u);
        EXPECT_FALSE(connection_.closed());
        EndControl(OpKind::kClose, variant % 2 == 0 ? 0 : -EIO);
        ASSERT_TRUE(connection_.closed());
        EXPECT_EQ(connection_.fd(), -1);
        EXPECT_TRUE(data_.empty());
        ++teardowns;
        ++variant;
      } while (std::next_permutation(order.begin(), order.end()) || variant % 60 != 0);
    }
  }
  EXPECT_GT(teardowns, 600);
}

TEST_F(ConnectionOrderTest, ACancelledCloseIsRepeated) {
  Open();
  connection_.BeginClose();
  EndControl(OpKind::kShutdown);
  EndControl(OpKind::kClose, -ECANCELED);
  EXPECT_FALSE(connection_.closed());
  EndControl(OpKind::kClose);
  EXPECT_TRUE(connection_.closed());
}

TEST_F(ConnectionOrderTest, AfterClosedTheConnectionCanBeOpenedAgain) {
  Open();
  connection_.StartRecv();
  connection_.Send(Piece("x"));
  connection_.Flush();
  EXPECT_EQ(EndSend(1), SendEvent::kProgress);
  connection_.BeginClose();
  connection_.StartRecv();  // not any more
  connection_.ExpectLarge(5);
  Finish(&connection_);
  ASSERT_TRUE(connection_.closed());
  EXPECT_EQ(connection_.sent_bytes(), 1u);
  Open();
  EXPECT_EQ(connection_.sent_bytes(), 0u);
  connection_.StartRecv();
  EXPECT_FALSE(ring_.Peek(OpKind::kRecv).into);
  connection_.BeginClose();
  Finish(&connection_);
  EXPECT_TRUE(connection_.closed());
}

}  // namespace
}  // namespace io
