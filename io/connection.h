#pragma once

// File: io/connection.h
//
// One stream socket: its receive (arm, pause, resume), its sends in order with one in flight, and
// its closing sequence. Owned by a client or a backend, used by its worker's thread only. The owner
// gets the completions by their tokens and hands them in; it is told what they mean.
//
//   kClosed ─Open▶ kOpen ─BeginClose▶ kClosing ─last completion▶ kClosed
//
// Closing: shutdown of both directions and cancellation; wait for the completions of receive and
// send; close; only when `closed()` may the owner's index be used again.

#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/attributes.h"
#include "absl/strings/string_view.h"
#include "io/buffer_pool.h"
#include "io/ring.h"
#include "io/slice.h"

namespace io {

// Slices that wait to be sent, in order.
class SendQueue {
 public:
  // Joins the last slice when it continues it in the same block.
  ABSL_ATTRIBUTE_ALWAYS_INLINE void Push(const Slice& slice) {
    if (!TakeIn(slice)) Add(slice);
  }
  ABSL_ATTRIBUTE_ALWAYS_INLINE void Push(Slice&& slice) {
    if (!TakeIn(slice)) Add(std::move(slice));
  }
  ABSL_ATTRIBUTE_ALWAYS_INLINE void Push(const Rope& rope) {
    if (const Slice* only = rope.only_slice(); only != nullptr) return Push(*only);
    PushMany(rope);
  }
  ABSL_ATTRIBUTE_ALWAYS_INLINE void Push(Rope&& rope) {
    if (Slice* only = rope.only_slice(); only != nullptr) return Push(std::move(*only));
    PushMany(rope);
  }
  // Copies small bytes (at least one, and no more than a block of the arena has). What is copied in
  // a row is one slice.
  ABSL_ATTRIBUTE_ALWAYS_INLINE void PushCopy(absl::string_view bytes, Arena* arena) {
    char* const copy = arena->Reserve(bytes.size());
    memcpy(copy, bytes.data(), bytes.size());
    bytes_ += bytes.size();
    if (slice_count() > 0 &&
        slices_.back().TakeIn(arena->block(), absl::string_view(copy, bytes.size()))) {
      return arena->CommitTakenIn(bytes.size());
    }
    Add(arena->Commit(bytes.size()));
  }
  size_t bytes() const { return bytes_; }
  bool empty() const { return bytes_ == 0; }
  // Fills `parts` with the first bytes of the queue: at most 1024 parts and `bytes_max` bytes.
  // Returns their total. The slices stay in the queue.
  size_t Gather(size_t bytes_max, std::vector<iovec>* parts) const;
  // Bytes that wait before the first slice of at least `slice_bytes_min`, within what one Gather
  // takes.
  size_t BytesBefore(size_t slice_bytes_min) const;
  // Takes the first n bytes out and drops their shares.
  void Consume(size_t n);
  // Drops all but the first n bytes.
  void Truncate(size_t n);
  const Slice& front() const { return slices_[head_]; }
  void Clear();
  // Memory of the queue itself, without the bytes.
  size_t slice_count() const { return slices_.size() - head_; }

 private:
  // Counts the bytes. False: the slice is one of its own.
  ABSL_ATTRIBUTE_ALWAYS_INLINE bool TakeIn(const Slice& slice) {
    bytes_ += slice.size();
    return slice.empty() || (slice_count() > 0 && slices_.back().Join(slice));
  }
  void Add(Slice slice);
  void PushMany(const Rope& rope);

  std::vector<Slice> slices_;  // [head_, end) are waiting
  size_t head_ = 0;
  size_t bytes_ = 0;
};

class Connection {
 public:
  enum class State : uint8_t { kClosed, kOpen, kClosing };

  // What a receive's completion means to the owner.
  enum class RecvEvent : uint8_t {
    kNothing,  // a pause or a re-arm; handled here
    kData,     // `*data` is the next input
    kEnd,      // end of input; no more receives are armed
    kError,    // the socket is broken: begin to close
  };
  // What a send's completion means to the owner.
  enum class SendEvent : uint8_t {
    kNothing,   // release of zero-copy bytes
    kProgress,  // `sent_bytes()` has moved; more may be waiting: Flush again
    kError,
  };

  struct Options {
    uint8_t party = 0;
    uint32_t index = 0;
    uint32_t generation = 0;
    BufferGroup group = BufferGroup::kClients;
    // Slices of at least this size are sent with SendZeroCopy if the ring has it; 0: never.
    size_t zero_copy_bytes_min = 0;
    // No single send is longer than this (about): memory comes free step by step.
    size_t send_bytes_max = 1 << 20;
  };

  // The ring outlives the connection, which is destroyed when closed() or when its ring makes no
  // more turns: operations in flight use its memory.
  explicit Connection(Ring* ring) : ring_(ring) {}
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Takes the descriptor. The connection is open; nothing is armed yet.
  void Open(Fd fd, const Options& options);
  // Starts a connect on the descriptor taken by Open; the owner gets the kConnect completion and
  // must hand it to OnConnected.
  void Connect(const Endpoint& peer);
  // Books the completion. Returns the result: 0 or -errno.
  int OnConnected(const Completion& completion);

  // --- receiving
  // Receives until paused. Harmless if already receiving.
  void StartRecv();
  // Stops receiving: cancels what is armed. Data that arrives before the cancel is still delivered.
  void PauseRecv();
  bool recv_paused() const { return recv_wanted_ == false; }
  // The next `bytes` of input belong to one large frame: they are received call by call into memory
  // of their own instead of the shared buffers (the armed receive is cancelled first; what still
  // arrives by it counts). After them, receiving returns to the shared buffers. The memory grows as
  // bytes arrive: at most as much again as has arrived, or 64 KiB, is waiting to be filled. Another
  // call replaces the number.
  void ExpectLarge(uint64_t bytes);
  RecvEvent OnRecv(Completion* completion, Slice* data);
  bool end_of_input() const { return end_of_input_; }

  // --- sending
  void Send(const Slice& slice) { queue_.Push(slice); }
  void Send(Slice&& slice) { queue_.Push(std::move(slice)); }
  void Send(const Rope& rope) { queue_.Push(rope); }
  void Send(Rope&& rope) { queue_.Push(std::move(rope)); }
  // See SendQueue::PushCopy.
  ABSL_ATTRIBUTE_ALWAYS_INLINE void SendCopy(absl::string_view bytes, Arena* arena) {
    queue_.PushCopy(bytes, arena);
  }
  // Starts a send of what is waiting, unless one is in flight or nothing waits. kQuiet: nothing
  // waits for the end of it; it is heeded where all that waits is one small send.
  void Flush(Notice notice = Notice::kWakes);
  SendEvent OnSent(const Completion& completion);
  bool send_in_flight() const { return send_in_flight_; }
  size_t unsent_bytes() const { return queue_.bytes(); }
  // Of these: in a quiet send, so as good as sent.
  size_t quiet_bytes() const { return quiet_bytes_; }
  bool send_idle() const { return !send_in_flight_ && queue_.empty(); }
  // Running totals since Open: bytes confirmed by completions; and those plus the bytes of the send
  // that the kernel has now. Bytes at or beyond submitted_bytes() were never handed over.
  uint64_t sent_bytes() const { return sent_bytes_; }
  uint64_t submitted_bytes() const { return sent_bytes_ + in_flight_bytes_; }
  // Drops what was not handed over. Only before BeginClose or in it.
  void DropUnsent();

  // --- ending
  // Half-close: no more will be sent. Call when send_idle().
  void ShutdownWrite();
  // Starts the closing sequence. Completions must still be handed in until closed(). What is not
  // handed over is dropped. If zero-copy bytes are not acknowledged yet, it lasts until they are,
  // or until the kernel gives the peer up (TCP_USER_TIMEOUT).
  void BeginClose();
  // Books a completion of kind kCancel, kShutdown or kClose.
  void OnControl(const Completion& completion);
  // All completions are in and the descriptor is closed.
  bool closed() const { return state_ == State::kClosed; }
  State state() const { return state_; }
  Fd fd() const { return fd_; }
  // The last errno that broke the socket, positive; 0 if none.
  int error() const { return error_; }

 private:
  OpToken Token(OpKind kind) const;
  void Become(State next);
  void ArmRecv();
  void CancelRecv();
  void Cancel(OpKind kind);
  void TakeReceived(size_t n, bool into, Completion* completion, Slice* data);
  void LeaveLarge();
  SendEvent OnReleased(const Completion& completion);
  void DropReleased();
  void Shutdown(int how);
  void FinishCloseIfIdle();

  Ring* const ring_;
  State state_ = State::kClosed;
  Fd fd_ = -1;  // owned while not -1
  Options options_;
  int error_ = 0;

  bool recv_wanted_ = false;     // the owner wants input
  bool recv_armed_ = false;      // a receive is with the ring
  bool recv_canceling_ = false;  // and its cancel is too
  bool end_of_input_ = false;
  bool recv_into_ = false;   // the armed receive fills large_block_
  uint64_t large_left_ = 0;  // bytes of a large frame still to be received
  BufferRef large_block_;
  size_t large_used_ = 0;
  uint64_t large_arrived_ = 0;  // bytes of it that were received since it was announced

  SendQueue queue_;
  bool send_in_flight_ = false;
  bool no_room_ = false;           // the last send did not send everything: the next one waits
  bool zero_copy_ = false;         // the send in flight is one of zero copy
  bool zero_copy_off_ = false;     // the kernel reported a copy: not again on this connection
  int32_t releases_due_ = 0;       // notices of release to come; -1 for one that came early
  std::vector<Slice> unreleased_;  // of zero-copy sends: the kernel may still read them
  size_t unreleased_bytes_ = 0;
  size_t in_flight_bytes_ = 0;
  size_t quiet_bytes_ = 0;
  uint64_t sent_bytes_ = 0;
  msghdr message_ = {};
  std::vector<iovec> parts_;

  uint32_t control_in_flight_ = 0;  // cancels and shutdowns
  bool connect_in_flight_ = false;
  bool close_submitted_ = false;
};

}  // namespace io
