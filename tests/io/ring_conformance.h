#pragma once

// File: tests/io/ring_conformance.h
//
// The suite that every implementation of io::Ring passes, so that the simulator cannot drift from
// the kernel. An implementation gives a `RingFactory` and instantiates the suite with it:
//
//   INSTANTIATE_TEST_SUITE_P(Kernel, RingConformanceTest, testing::ValuesIn(…), RingFactoryName);
//
// The cases touch the world through rings only: no system calls, one thread, no time but Now().

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <ostream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "io/ring.h"

namespace io {

struct RingWorldOptions {
  // Receive buffers of each group; a ring may round up to four times as many, smaller ones.
  uint32_t client_buffers = 64;
  uint32_t backend_buffers = 64;
  // Submissions that fit into a turn before the ring has to submit early.
  unsigned entries = 256;
};

// Two rings, numbers 0 and 1, that can post to each other and whose sockets can connect. Number 2
// is a ring that could exist but doesn't.
class RingWorld {
 public:
  virtual ~RingWorld() = default;
  virtual Ring* ring(size_t number) = 0;
  // Destroys the ring; its number stays valid as a receiver of posts.
  virtual void End(size_t number) = 0;
  // Where a listener may be opened: a port is chosen by the listener (LocalName tells it).
  virtual Endpoint TcpAddress() = 0;
  virtual Endpoint UnixAddress() = 0;
  // False if a receive ends with every completion.
  virtual bool multishot_recv() const = 0;
};

struct RingFactory {
  std::string name;
  std::function<std::unique_ptr<RingWorld>(const RingWorldOptions&)> make;
};
inline void PrintTo(const RingFactory& factory, std::ostream* out) { *out << factory.name; }
inline std::string RingFactoryName(const testing::TestParamInfo<RingFactory>& info) {
  return info.param.name;
}

// A ring and the completions that a test has not looked at yet.
class Side {
 public:
  explicit Side(Ring* ring) : ring_(ring) {}

  Ring* ring() const { return ring_; }
  Ring* operator->() const { return ring_; }
  // One turn. Returns how many completions came.
  size_t Turn(absl::Duration limit);
  // Takes the first completion with this token out of the inbox. False if there is none.
  bool Take(OpToken token, Completion* completion);
  bool Has(OpToken token) const;
  // What has come and was not taken, in order. Clear it to give up the shares.
  std::deque<Completion>& inbox() { return inbox_; }
  // A token that no other operation of the test has.
  OpToken NewToken(OpKind kind) { return OpToken(kind, 1, ++tokens_, 7); }

 private:
  Ring* const ring_;
  std::deque<Completion> inbox_;
  uint32_t tokens_ = 0;
};

// Something that works through completions after each turn.
class Agent {
 public:
  virtual ~Agent() = default;
  virtual void Poll() = 0;
};

// Receives all that comes on a socket, arming again whenever it has to.
class Receiver final : public Agent {
 public:
  Receiver(Side* side, Fd socket, BufferGroup group = BufferGroup::kClients)
      : side_(side), socket_(socket), group_(group), token_(side->NewToken(OpKind::kRecv)) {
    Arm();
  }
  void Poll() override;

  const std::string& received() const { return received_; }
  bool ended() const { return ended_; }  // by end of input or an error
  int error() const { return error_; }
  int without_buffers() const { return without_buffers_; }  // times
  OpToken token() const { return token_; }

 private:
  void Arm();

  Side* const side_;
  const Fd socket_;
  const BufferGroup group_;
  const OpToken token_;
  std::string received_;
  bool ended_ = false;
  int error_ = 0;
  int without_buffers_ = 0;
};

// Sends a text in parts, again and again after short sends and, if quietly, the first time and
// after sends that sent everything they had, kQuietBytes at a time. What has been sent is
// overwritten when the completion is there: nobody may look at it after.
class Sender final : public Agent {
 public:
  static constexpr size_t kQuietBytes = 10000;

  Sender(Side* side, Fd socket, std::string bytes, size_t parts = 1,
         Notice notice = Notice::kWakes);
  void Poll() override;

  size_t sent() const { return sent_; }
  bool done() const { return sent_ == bytes_.size() || error_ != 0; }
  int error() const { return error_; }
  int completions() const { return completions_; }
  OpToken token() const { return token_; }
  std::string& bytes() { return bytes_; }

 private:
  void Start(Notice notice);

  Side* const side_;
  const Fd socket_;
  std::string bytes_;
  const size_t parts_;
  const Notice notice_;
  const OpToken token_;
  std::vector<iovec> iovecs_;
  msghdr message_ = {};
  size_t asked_ = 0;  // of the send in flight
  bool quiet_ = false;
  size_t sent_ = 0;
  int error_ = 0;
  int completions_ = 0;
};

class RingConformanceTest : public testing::TestWithParam<RingFactory> {
 protected:
  // Two connected sockets: `server`, accepted on ring 0, and `client`, opened on ring 1.
  struct Pair {
    Fd server = -1;
    Fd client = -1;
  };

  RingConformanceTest();
  ~RingConformanceTest() override;
  // Another world than the default one; call it first.
  void MakeWorld(const RingWorldOptions& options);
  void EndWorld();

  Side& server() { return *sides_[0]; }
  Side& client() { return *sides_[1]; }
  RingWorld& world() { return *world_; }
  void EndRing(size_t number);

  Pair Connect();
  Pair ConnectUnix();
  Pair ConnectTo(const Endpoint& address);
  // The address that a listener got.
  static Endpoint AddressOf(Side& side, Fd listener);

  void Turns(absl::Duration limit);
  // Turns both rings until `done`; false, and a failure, if it takes more than 20 s.
  bool RunUntil(const std::function<bool()>& done, std::vector<Agent*> agents = {});
  // Turns both rings for as long as it takes for something that should not happen to happen.
  void RunIdle(std::vector<Agent*> agents = {});
  // The operation's next completion.
  Completion Await(Side& side, OpToken token);
  int32_t AwaitResult(Side& side, OpToken token) { return Await(side, token).result; }
  void Send(Side& side, Fd socket, const std::string& bytes);
  // The server takes all of the text that the sender, which has begun, sends on the client's
  // socket.
  void ReceiveAll(const Pair& pair, const std::string& text, Sender* sender);
  void CloseAndWait(Side& side, Fd fd);

  std::unique_ptr<RingWorld> world_;
  std::unique_ptr<Side> sides_[2];
  std::set<Fd> open_[2];  // by side: sockets of pairs, closed at the end
};

// `bytes` bytes that differ from place to place and from seed to seed.
std::string Pattern(size_t bytes, uint32_t seed = 1);

}  // namespace io
