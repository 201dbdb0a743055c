#pragma once

// File: io/ring.h
//
// `Ring` is the seam between the proxy and the world: operations in, completions out. `UringRing`
// (the kernel) implements it, and so does the simulator's ring. A ring belongs to the thread that
// made it. Nothing here knows Redis.

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "io/slice.h"
#include "io/socket.h"

namespace io {

enum class OpKind : uint8_t {
  kNone,  // nobody wants the completion
  kAccept,
  kConnect,
  kRecv,
  kSend,
  kCancel,
  kShutdown,
  kClose,
  kPost,     // the sender's side of Post
  kMessage,  // the receiver's side of Post
};

// Names an operation in its completion: what it was, and for whom. The generation tells a late
// completion for a reused index from one that is still awaited.
class OpToken {
 public:
  OpToken() = default;
  // `party` (0-15) tells the kinds of owners of one ring apart: clients, backends, …
  OpToken(OpKind kind, uint8_t party, uint32_t index, uint32_t generation)
      : value_(uint64_t{static_cast<uint8_t>(kind)} << 60 | uint64_t{party & 0xfu} << 56 |
               uint64_t{generation & 0xffffffu} << 32 | index) {}
  static OpToken FromValue(uint64_t value) {
    OpToken token;
    token.value_ = value;
    return token;
  }

  OpKind kind() const { return static_cast<OpKind>(value_ >> 60); }
  uint8_t party() const { return value_ >> 56 & 0xf; }
  uint32_t generation() const { return value_ >> 32 & 0xffffff; }
  uint32_t index() const { return static_cast<uint32_t>(value_); }
  uint64_t value() const { return value_; }
  friend bool operator==(OpToken a, OpToken b) { return a.value_ == b.value_; }

 private:
  uint64_t value_ = 0;
};

// Which receive buffers a socket's input goes to. Traffic of clients never takes the backends'
// buffers, so that a reply can always be received.
enum class BufferGroup : uint8_t { kClients, kBackends };
constexpr size_t kBufferGroups = 2;

// A small note from one thread to another. Larger things lie in a mailbox beside it.
struct Message {
  uint8_t kind = 0;    // the receiver's own numbering
  uint32_t value = 0;  // a descriptor, an index, a sequence number
};

// Whether the completion of a send ends a turn's wait. That of a quiet one that has sent everything
// comes with what ends it otherwise, be it its limit. A hint: a ring may end it all the same.
enum class Notice : uint8_t { kWakes, kQuiet };

// Number of a ring within its process (or simulated world).
using RingId = uint16_t;

struct Completion {
  OpToken token;
  // Bytes, a descriptor, 0, or -errno. For kMessage: the message's value (message_kind says which).
  int32_t result = 0;
  // More completions of this operation follow: it is still armed.
  bool more = false;
  // Of a zero-copy send: this is the notice that the bytes are no longer needed (result is 0).
  bool send_released = false;
  // With send_released: the kernel had copied the bytes after all.
  bool send_copied = false;
  uint8_t message_kind = 0;
  // Of a receive: the bytes, and the share of the buffer they lie in.
  Slice data;
};

class Ring {
 public:
  virtual ~Ring() = default;

  virtual RingId id() const = 0;

  // A listening, bound socket, or why not (the message names the address and the error). For a Unix
  // socket, a stale file is replaced and the mode is set before anyone can connect. Synchronous.
  virtual absl::StatusOr<Fd> Listen(const Endpoint& address, const ListenOptions& options) = 0;
  // A new stream socket of the peer's family with the usual options set, to give to Connect.
  virtual absl::StatusOr<Fd> OpenSocket(const Endpoint& peer) = 0;
  // Text "address:port" of the socket's other or own end; empty if there is none. Synchronous.
  virtual std::string PeerName(Fd socket) = 0;
  virtual std::string LocalName(Fd socket) = 0;

  // Armed while completions say `more`. Each result is a new descriptor, owned by the caller,
  // non-blocking, close-on-exec, with the usual options set.
  virtual void Accept(OpToken token, Fd listener) = 0;
  virtual void Connect(OpToken token, Fd socket, const Endpoint& peer) = 0;
  // Receives into the group's buffers; armed while `more`. Result 0 is the end of input. -ENOBUFS
  // ends it; arm it again: the ring holds it back, in the order of arrival, until there are
  // buffers.
  virtual void Recv(OpToken token, Fd socket, BufferGroup group) = 0;
  // Receives once, at most `capacity` bytes, into `memory`, which lives until the completion.
  // The completion's data is empty: the caller knows its memory.
  virtual void RecvInto(OpToken token, Fd socket, char* memory, size_t capacity) = 0;
  // Sends all parts, in order; one send per socket at a time. The message, its iovecs and the bytes
  // live until the completion. A result below the total is a short send: send the rest again. A
  // quiet one may complete with -EAGAIN where the socket has no room: send again, not quietly.
  virtual void Send(OpToken token, Fd socket, const msghdr* message, Notice notice) = 0;
  // As Send, for one part, without copying where the kernel can. Completes with the result and
  // `more`; a later completion with send_released says that the bytes may go. If the first
  // completion lacks `more`, no second follows. Only if zero_copy_send() is true.
  virtual void SendZeroCopy(OpToken token, Fd socket, absl::string_view bytes) = 0;
  virtual bool zero_copy_send() const = 0;
  // Asks that the operation named `target` end soon; it still completes by itself (-ECANCELED, or
  // with a result if it was quicker). The cancel completes too: 0, -ENOENT or -EALREADY.
  virtual void Cancel(OpToken token, OpToken target) = 0;
  virtual void Shutdown(OpToken token, Fd socket, int how) = 0;
  virtual void Close(OpToken token, Fd fd) = 0;
  // Delivers the message to another ring as a completion of kind kMessage; messages of one sender
  // arrive in order. Completes with 0 when delivered, else with -errno (the receiver is gone).
  virtual void Post(OpToken token, RingId receiver, Message message) = 0;

  // One turn: submits what was prepared, waits until something completed or `limit` has passed
  // (at most; ZeroDuration: does not wait), and fills `out`. Returns how many. Completions hold
  // shares: the caller moves or drops them before the next call. Buffers whose shares have all
  // gone are given back to the kernel here.
  virtual size_t SubmitAndWait(absl::Duration limit, absl::Span<Completion> out) = 0;

  // A wait that follows kGatherSends sends or more may go on for up to `longest`, until as many
  // completions have come as there were sends, beside the sends' own: what goes to many sockets is
  // answered by many, and one turn for all of them costs less than a turn for each. Zero, as at
  // first: a wait ends with its first completion. A hint: a ring that can't ignores it.
  virtual void SetGatherTime(absl::Duration longest) { static_cast<void>(longest); }
  static constexpr unsigned kGatherSends = 8;

  // Monotonic time, constant within a turn. Not the time of day.
  virtual absl::Time Now() const = 0;
  // Share of the group's buffers that are free, 0..1: below a half, long-lived bytes are copied
  // out.
  virtual double FreeBufferShare(BufferGroup group) const = 0;
  // The chosen features in one line, for the log and INFO: "io_uring defer_taskrun=1 …".
  virtual std::string Describe() const = 0;
};

// Posts to rings from threads that have none (name resolution, admin server, signals). Thread-safe.
class Poster {
 public:
  virtual ~Poster() = default;
  // Dropped if the receiver is gone.
  virtual void Post(RingId receiver, Message message) = 0;
};

}  // namespace io
