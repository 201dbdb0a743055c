#include "io/connection.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "io/buffer_pool.h"

namespace io {
namespace {

constexpr size_t kPartsMax = 1024;  // UIO_MAXIOV, the kernel's own bound
// A queue that has grown beyond this gives its memory back when it is empty: there are many
// connections, and most are idle.
constexpr size_t kIdleSlotsMax = 64;
// Memory for a large frame grows with what has arrived, whatever was announced.
constexpr uint64_t kLargeBlockBytesMin = 64 << 10;
constexpr uint64_t kLargeBlockBytesMax = 1 << 20;
// Longer sends are never quiet: their memory is wanted back.
constexpr size_t kQuietBytesMax = 16 << 10;
// Bytes of zero-copy sends that the kernel may still read. Above it, sends copy.
constexpr size_t kUnreleasedBytesMax = 4 << 20;

// The next attempt may well succeed: nothing is wrong with the socket.
bool IsTransient(int result) { return result == -EINTR || result == -EAGAIN; }

// Errors of a zero-copy send that an ordinary one does not have: no right to lock that much memory
// (RLIMIT_MEMLOCK), a socket or device that can't do it.
bool IsZeroCopyRefusal(int result) {
  return result == -ENOMEM || result == -ENOBUFS || result == -EOPNOTSUPP || result == -EINVAL;
}

}  // namespace

// --- SendQueue

void SendQueue::PushMany(const Rope& rope) {
  for (const Slice& slice : rope.slices()) Push(slice);
}

void SendQueue::Add(Slice slice) { slices_.push_back(std::move(slice)); }

size_t SendQueue::Gather(size_t bytes_max, std::vector<iovec>* parts) const {
  parts->clear();
  size_t total = 0;
  for (size_t i = head_; i < slices_.size() && total < bytes_max; ++i) {
    if (parts->size() == kPartsMax) break;
    const size_t n = std::min(slices_[i].size(), bytes_max - total);
    parts->push_back({const_cast<char*>(slices_[i].data()), n});
    total += n;
  }
  return total;
}

size_t SendQueue::BytesBefore(size_t slice_bytes_min) const {
  size_t total = 0;
  const size_t end = std::min(slices_.size(), head_ + kPartsMax);
  for (size_t i = head_; i < end && slices_[i].size() < slice_bytes_min; ++i) {
    total += slices_[i].size();
  }
  return total;
}

void SendQueue::Consume(size_t n) {
  ABSL_ASSERT(n <= bytes_);
  bytes_ -= n;
  while (n > 0 && n >= slices_[head_].size()) {
    n -= slices_[head_].size();
    slices_[head_++] = Slice();
  }
  if (n > 0) slices_[head_].RemovePrefix(n);
  if (bytes_ == 0) return Clear();
  // Moving what waits costs no more than what was taken out since the last time.
  if (head_ > kIdleSlotsMax && head_ > slices_.size() / 2) {
    slices_.erase(slices_.begin(), slices_.begin() + static_cast<ptrdiff_t>(head_));
    head_ = 0;
  }
}

void SendQueue::Truncate(size_t n) {
  ABSL_ASSERT(n <= bytes_);
  size_t end = head_;
  for (size_t left = n; left > 0; ++end) {
    Slice& slice = slices_[end];
    if (slice.size() > left) slice = slice.Sub(0, left);
    left -= slice.size();
  }
  slices_.resize(end);
  bytes_ = n;
  if (bytes_ == 0) Clear();
}

void SendQueue::Clear() {
  slices_.clear();
  if (slices_.capacity() > kIdleSlotsMax) slices_ = {};
  head_ = 0;
  bytes_ = 0;
}

// --- opening

OpToken Connection::Token(OpKind kind) const {
  return OpToken(kind, options_.party, options_.index, options_.generation);
}

void Connection::Become(State next) {
  ABSL_ASSERT((state_ == State::kClosed && next == State::kOpen) ||
              (state_ == State::kOpen && next == State::kClosing) ||
              (state_ == State::kClosing && next == State::kClosed));
  state_ = next;
}

void Connection::Open(Fd fd, const Options& options) {
  Become(State::kOpen);
  ABSL_ASSERT(!recv_armed_ && !send_in_flight_ && !connect_in_flight_);
  ABSL_ASSERT(control_in_flight_ == 0 && releases_due_ == 0 && unreleased_.empty());
  fd_ = fd;
  options_ = options;
  error_ = 0;
  recv_wanted_ = false;
  end_of_input_ = false;
  large_left_ = 0;
  zero_copy_off_ = options.zero_copy_bytes_min == 0 || !ring_->zero_copy_send();
  queue_.Clear();
  no_room_ = false;
  quiet_bytes_ = 0;
  sent_bytes_ = 0;
  close_submitted_ = false;
}

void Connection::Connect(const Endpoint& peer) {
  ABSL_ASSERT(state_ == State::kOpen && !connect_in_flight_);
  connect_in_flight_ = true;
  ring_->Connect(Token(OpKind::kConnect), fd_, peer);
}

int Connection::OnConnected(const Completion& completion) {
  ABSL_ASSERT(connect_in_flight_);
  connect_in_flight_ = false;
  if (completion.result < 0 && state_ == State::kOpen) error_ = -completion.result;
  FinishCloseIfIdle();
  return std::min(completion.result, 0);
}

// --- receiving

void Connection::StartRecv() {
  if (state_ != State::kOpen) return;
  recv_wanted_ = true;
  // If the cancel of a pause is still on its way, the receive is armed again when it has ended.
  if (!recv_armed_ && !end_of_input_ && error_ == 0) ArmRecv();
}

void Connection::PauseRecv() {
  recv_wanted_ = false;
  CancelRecv();
}

void Connection::ExpectLarge(uint64_t bytes) {
  if (state_ != State::kOpen) return;
  large_left_ = bytes;
  if (bytes > 0 && !recv_into_) CancelRecv();
}

void Connection::ArmRecv() {
  ABSL_ASSERT(state_ == State::kOpen && !recv_armed_);
  recv_armed_ = true;
  recv_into_ = large_left_ > 0;
  if (!recv_into_) return ring_->Recv(Token(OpKind::kRecv), fd_, options_.group);
  if (!large_block_ || large_used_ == large_block_->size) {
    const uint64_t bytes = std::clamp(large_arrived_, kLargeBlockBytesMin, kLargeBlockBytesMax);
    large_block_ = NewHeapBlock(std::min(bytes, large_left_));
    large_used_ = 0;
  }
  // Not a byte of what follows the frame: that belongs into the shared buffers again.
  const size_t capacity = std::min<uint64_t>(large_block_->size - large_used_, large_left_);
  ring_->RecvInto(Token(OpKind::kRecv), fd_, large_block_->data + large_used_, capacity);
}

void Connection::CancelRecv() {
  if (!recv_armed_ || recv_canceling_) return;
  recv_canceling_ = true;
  Cancel(OpKind::kRecv);
}

void Connection::Cancel(OpKind kind) {
  ++control_in_flight_;
  ring_->Cancel(Token(OpKind::kCancel), Token(kind));
}

Connection::RecvEvent Connection::OnRecv(Completion* completion, Slice* data) {
  ABSL_ASSERT(recv_armed_);
  const bool into = recv_into_;
  if (!completion->more) recv_armed_ = recv_canceling_ = recv_into_ = false;
  if (state_ != State::kOpen) {  // what arrives while closing is nobody's any more
    completion->data = Slice();
    FinishCloseIfIdle();
    return RecvEvent::kNothing;
  }
  const int result = completion->result;
  if (result == 0) {
    end_of_input_ = true;
    LeaveLarge();
    return RecvEvent::kEnd;
  }
  // Canceled by a pause, for a large frame, or by a cancel that came late for the one before.
  const bool harmless = result == -ECANCELED || result == -ENOBUFS || IsTransient(result);
  if (result < 0 && !harmless) {
    error_ = -result;
    LeaveLarge();
    return RecvEvent::kError;
  }
  if (result > 0) {
    TakeReceived(static_cast<size_t>(result), into, completion, data);
    if (large_left_ == 0) LeaveLarge();
  }
  if (!recv_armed_ && recv_wanted_) ArmRecv();
  return result > 0 ? RecvEvent::kData : RecvEvent::kNothing;
}

void Connection::TakeReceived(size_t n, bool into, Completion* completion, Slice* data) {
  if (into) {
    *data = Slice(large_block_, absl::string_view(large_block_->data + large_used_, n));
    large_used_ += n;
  } else {
    ABSL_ASSERT(completion->data.size() == n);
    *data = std::move(completion->data);
  }
  large_arrived_ += n;
  large_left_ -= std::min<uint64_t>(large_left_, n);
}

// The slices keep what they need of the block.
void Connection::LeaveLarge() {
  large_left_ = 0;
  large_used_ = 0;
  large_arrived_ = 0;
  large_block_.Drop();
}

// --- sending

void Connection::Flush(Notice notice) {
  if (state_ != State::kOpen || send_in_flight_ || connect_in_flight_) return;
  if (queue_.empty() || error_ != 0) return;
  send_in_flight_ = true;
  size_t bytes_max = options_.send_bytes_max;
  zero_copy_ = false;
  if (!zero_copy_off_ && unreleased_bytes_ < kUnreleasedBytesMax) {
    const size_t small = queue_.BytesBefore(options_.zero_copy_bytes_min);
    zero_copy_ = small == 0;
    if (!zero_copy_) bytes_max = std::min(bytes_max, small);
  }
  if (zero_copy_) {
    const absl::string_view bytes = queue_.front().bytes().substr(0, bytes_max);
    in_flight_bytes_ = bytes.size();
    return ring_->SendZeroCopy(Token(OpKind::kSend), fd_, bytes);
  }
  in_flight_bytes_ = queue_.Gather(bytes_max, &parts_);
  message_.msg_iov = parts_.data();
  message_.msg_iovlen = parts_.size();
  const bool quiet = notice == Notice::kQuiet && in_flight_bytes_ == queue_.bytes() &&
                     in_flight_bytes_ <= kQuietBytesMax && !no_room_;
  if (quiet) quiet_bytes_ = in_flight_bytes_;
  ring_->Send(Token(OpKind::kSend), fd_, &message_, quiet ? Notice::kQuiet : Notice::kWakes);
}

Connection::SendEvent Connection::OnSent(const Completion& completion) {
  if (completion.send_released) return OnReleased(completion);
  ABSL_ASSERT(send_in_flight_);
  const int result = completion.result;
  send_in_flight_ = false;
  no_room_ = result != static_cast<int>(in_flight_bytes_);
  quiet_bytes_ = 0;
  if (zero_copy_ && completion.more) {
    ++releases_due_;
    unreleased_bytes_ += in_flight_bytes_;
    unreleased_.push_back(queue_.front());
  }
  in_flight_bytes_ = 0;
  if (result > 0) {
    sent_bytes_ += static_cast<size_t>(result);
    queue_.Consume(static_cast<size_t>(result));
  }
  if (queue_.empty() && parts_.capacity() > kIdleSlotsMax) parts_ = {};
  DropReleased();
  if (state_ != State::kOpen) {
    DropUnsent();
    FinishCloseIfIdle();
    return SendEvent::kNothing;
  }
  if (result > 0 || IsTransient(result)) return SendEvent::kProgress;
  if (zero_copy_ && IsZeroCopyRefusal(result)) {
    zero_copy_off_ = true;  // nothing of it was sent: it goes again, copied
    return SendEvent::kProgress;
  }
  // A stream socket that takes nothing takes nothing more.
  error_ = result == 0 ? EPIPE : -result;
  return SendEvent::kError;
}

Connection::SendEvent Connection::OnReleased(const Completion& completion) {
  --releases_due_;
  if (completion.send_copied) zero_copy_off_ = true;
  DropReleased();
  FinishCloseIfIdle();
  return SendEvent::kNothing;
}

// All notices have one token and may come in any order, even before the result of their send. So
// none tells which bytes it is for, and only when all are in is it sure that all are free.
void Connection::DropReleased() {
  if (releases_due_ != 0 || (send_in_flight_ && zero_copy_)) return;
  unreleased_.clear();
  unreleased_bytes_ = 0;
}

void Connection::DropUnsent() { queue_.Truncate(in_flight_bytes_); }

// --- ending

void Connection::ShutdownWrite() {
  ABSL_ASSERT(state_ == State::kOpen && send_idle());
  Shutdown(SHUT_WR);
}

void Connection::Shutdown(int how) {
  ++control_in_flight_;
  ring_->Shutdown(Token(OpKind::kShutdown), fd_, how);
}

void Connection::BeginClose() {
  if (state_ != State::kOpen) return;
  Become(State::kClosing);
  recv_wanted_ = false;
  DropUnsent();
  Shutdown(SHUT_RDWR);
  CancelRecv();
  if (send_in_flight_) Cancel(OpKind::kSend);
  if (connect_in_flight_) Cancel(OpKind::kConnect);
}

void Connection::OnControl(const Completion& completion) {
  if (completion.token.kind() != OpKind::kClose) {
    // The results don't matter: a cancel that found nothing (-ENOENT) or came late (-EALREADY), or
    // a shutdown of a socket that the peer has reset, leaves the other completions to come as they
    // do.
    ABSL_ASSERT(control_in_flight_ > 0);
    --control_in_flight_;
  } else if (completion.result == -ECANCELED) {
    close_submitted_ = false;  // the only result that leaves the descriptor open
  } else {
    ABSL_ASSERT(close_submitted_);
    fd_ = -1;
  }
  FinishCloseIfIdle();
}

void Connection::FinishCloseIfIdle() {
  if (state_ != State::kClosing) return;
  if (recv_armed_ || send_in_flight_ || connect_in_flight_ || control_in_flight_ > 0) return;
  if (!close_submitted_) {
    close_submitted_ = true;
    // Before the notices of zero-copy sends: they come when the peer has acknowledged the bytes,
    // and the kernel gives a peer that never does less time once the descriptor is closed.
    return ring_->Close(Token(OpKind::kClose), fd_);
  }
  if (fd_ >= 0 || releases_due_ != 0) return;
  queue_.Clear();
  parts_ = {};
  LeaveLarge();
  Become(State::kClosed);
}

}  // namespace io
