#include "io/uring_probe.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/macros.h"
#include "absl/time/time.h"
#include "io/buffer_pool.h"

namespace io {
namespace {

constexpr absl::Duration kProbeLimit = absl::Seconds(1);

// A pair of connected stream sockets, closed at the end.
struct SocketPair {
  explicit SocketPair(int family) {
    if (family == AF_UNIX) {
      if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0) {
        fds[0] = fds[1] = -1;
      }
      return;
    }
    const Fd listener = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_storage address = {};
    address.ss_family = static_cast<sa_family_t>(family);
    if (family == AF_INET) {
      reinterpret_cast<sockaddr_in*>(&address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    } else {
      reinterpret_cast<sockaddr_in6*>(&address)->sin6_addr = in6addr_loopback;
    }
    socklen_t length = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    auto* name = reinterpret_cast<sockaddr*>(&address);
    if (bind(listener, name, length) == 0 && listen(listener, 1) == 0 &&
        getsockname(listener, name, &length) == 0) {
      fds[0] = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
      if (connect(fds[0], name, length) == 0) fds[1] = accept4(listener, nullptr, nullptr, 0);
    }
    if (listener >= 0) close(listener);
  }
  ~SocketPair() {
    CloseOne(0);
    CloseOne(1);
  }
  SocketPair(const SocketPair&) = delete;
  SocketPair& operator=(const SocketPair&) = delete;
  void CloseOne(int i) {
    if (fds[i] >= 0) close(fds[i]);
    fds[i] = -1;
  }
  bool ok() const { return fds[0] >= 0 && fds[1] >= 0; }

  Fd fds[2] = {-1, -1};
};

// Tries features on a small ring of its own, so that nothing a probe leaves behind, a late
// completion or an armed operation, ends up in the ring that is used.
class Prober {
 public:
  Prober(io_uring* target, OpToken token) : target_(target), token_(token) {}
  // Clears the flags of what doesn't work. Fails if io_uring can't be used at all.
  absl::Status Run(Features* features);

 private:
  static constexpr size_t kBufferBytes = 4096;
  static constexpr uint16_t kGroup = 1;

  io_uring_sqe* Prepare() {
    io_uring_sqe* sqe = io_uring_get_sqe(uring_.get());
    ABSL_ASSERT(sqe != nullptr);
    return sqe;
  }
  // A receive into buffers that the kernel chooses.
  void PrepareRecv(Fd socket, bool multishot, uint64_t user_data);
  // Submits and takes the next completion of the ring. If none comes in time: user_data 0 and a
  // negative result.
  io_uring_cqe Next(io_uring* ring);
  io_uring_cqe Next() { return Next(uring_.get()); }
  io_uring_cqe NextOf(uint64_t user_data);
  // What was armed for this user_data ends. False if it doesn't.
  bool CancelAndReap(uint64_t user_data);

  int Nop();
  bool CancelAny();
  bool MultishotAccept();
  bool ProvideBuffers(uint32_t count);
  bool ProvidedBuffers();
  bool BufferRingWorks(bool incremental);
  bool MultishotRecv(const Features& features);
  bool IncrementalOrder();
  bool MessageRing();
  bool QuietSend();
  // 0, or the -errno of the first completion.
  int ZeroCopySend(unsigned flags);

  io_uring* const target_;
  const OpToken token_;
  // Not freed if a probe times out: the kernel may still have it.
  std::unique_ptr<BufferPool> pool_;
  bool timed_out_ = false;
  Uring uring_;
};

void Prober::PrepareRecv(Fd socket, bool multishot, uint64_t user_data) {
  io_uring_sqe* sqe = Prepare();
  if (multishot) {
    io_uring_prep_recv_multishot(sqe, socket, nullptr, 0, 0);
  } else {
    io_uring_prep_recv(sqe, socket, nullptr, kBufferBytes, 0);
  }
  sqe->flags |= IOSQE_BUFFER_SELECT;
  sqe->buf_group = kGroup;
  sqe->user_data = user_data;
}

io_uring_cqe Prober::Next(io_uring* ring) {
  __kernel_timespec limit = {};
  limit.tv_sec = absl::ToInt64Seconds(kProbeLimit);
  while (true) {
    io_uring_cqe* cqe = nullptr;
    const int result = io_uring_submit_and_wait_timeout(ring, &cqe, 1, &limit, nullptr);
    if (cqe != nullptr) {
      const io_uring_cqe copy = {.user_data = cqe->user_data, .res = cqe->res, .flags = cqe->flags};
      io_uring_cqe_seen(ring, cqe);
      return copy;
    }
    if (result == -EINTR) continue;
    timed_out_ = true;
    return {.user_data = 0, .res = result < 0 ? result : -ETIME, .flags = 0};
  }
}

io_uring_cqe Prober::NextOf(uint64_t user_data) {
  while (true) {
    const io_uring_cqe cqe = Next();
    if (cqe.user_data == user_data || cqe.user_data == 0) return cqe;
  }
}

bool Prober::CancelAndReap(uint64_t user_data) {
  io_uring_sqe* sqe = Prepare();
  io_uring_prep_cancel64(sqe, user_data, 0);
  sqe->user_data = 99;
  while (true) {
    const io_uring_cqe cqe = Next();
    if (cqe.user_data == 0) return false;
    if (cqe.user_data == user_data && (cqe.flags & IORING_CQE_F_MORE) == 0) return true;
  }
}

int Prober::Nop() {
  io_uring_sqe* sqe = Prepare();
  io_uring_prep_nop(sqe);
  sqe->user_data = 1;
  return Next().res;
}

// Nothing is there to be cancelled; a kernel that doesn't know the flag says -EINVAL.
bool Prober::CancelAny() {
  io_uring_sqe* sqe = Prepare();
  io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
  sqe->user_data = 1;
  const int result = NextOf(1).res;
  return result >= 0 || result == -ENOENT;
}

bool Prober::MultishotAccept() {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  socklen_t length = sizeof(address);
  // Without a path the kernel picks an abstract name: no file, no port.
  const Fd listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const Fd client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  auto* name = reinterpret_cast<sockaddr*>(&address);
  bool works = false;
  if (bind(listener, name, sizeof(sa_family_t)) == 0 && listen(listener, 1) == 0 &&
      getsockname(listener, name, &length) == 0) {
    io_uring_sqe* sqe = Prepare();
    io_uring_prep_multishot_accept(sqe, listener, nullptr, nullptr, kAcceptFlags);
    sqe->user_data = 1;
    io_uring_submit(uring_.get());
    // An old kernel has completed it with an error by now.
    if (connect(client, name, length) == 0) {
      const io_uring_cqe cqe = NextOf(1);
      if (cqe.res >= 0) close(cqe.res);
      works = cqe.res >= 0 && (cqe.flags & IORING_CQE_F_MORE) != 0;
      if (works) works = CancelAndReap(1);
    }
  }
  if (listener >= 0) close(listener);
  if (client >= 0) close(client);
  return works;
}

bool Prober::ProvideBuffers(uint32_t count) {
  io_uring_sqe* sqe = Prepare();
  io_uring_prep_provide_buffers(sqe, pool_->region(), kBufferBytes, static_cast<int>(count), kGroup,
                                0);
  sqe->user_data = 2;
  return NextOf(2).res >= 0;
}

// A single receive into a buffer that the kernel chooses.
bool Prober::ProvidedBuffers() {
  SocketPair pair(AF_UNIX);
  if (!pair.ok() || !ProvideBuffers(1) || write(pair.fds[1], "abc", 3) != 3) return false;
  PrepareRecv(pair.fds[0], /*multishot=*/false, 1);
  const io_uring_cqe cqe = NextOf(1);
  return cqe.res == 3 && (cqe.flags & IORING_CQE_F_BUFFER) != 0 &&
         memcmp(pool_->region(), "abc", 3) == 0;
}

bool Prober::BufferRingWorks(bool incremental) {
  SocketPair pair(AF_UNIX);
  BufferRing buffers;
  if (!pair.ok() || buffers.Register(uring_.get(), kGroup, 2, incremental) != 0) return false;
  for (uint32_t i = 0; i < 2; ++i) {
    buffers.Add(pool_->block(i)->data, kBufferBytes, static_cast<uint16_t>(i + 7), i);
  }
  buffers.Publish(2);
  // Twice, to see where the second input begins.
  for (int i = 0; i < 2; ++i) {
    const char* text = i == 0 ? "abc" : "defg";
    const int bytes = 3 + i;
    if (write(pair.fds[1], text, static_cast<size_t>(bytes)) != bytes) return false;
    PrepareRecv(pair.fds[0], /*multishot=*/false, 1);
    const io_uring_cqe cqe = NextOf(1);
    const int id = static_cast<int>(cqe.flags >> IORING_CQE_BUFFER_SHIFT);
    if (cqe.res != bytes || (cqe.flags & IORING_CQE_F_BUFFER) == 0) return false;
    if (((cqe.flags & kCqeBufferMore) != 0) != incremental) return false;
    if (id != (incremental ? 7 : 7 + i)) return false;
    const char* where = pool_->region() + (incremental ? 3 * i : kBufferBytes * i);
    if (memcmp(where, text, static_cast<size_t>(bytes)) != 0) return false;
  }
  return true;
}

// The place of incremental input is the sum of what came before it, so completions must be in the
// order in which the buffer was filled. Kernels before 6.16 could report a single receive after a
// multishot one that followed it in the same submission.
bool Prober::IncrementalOrder() {
  SocketPair first(AF_UNIX);
  SocketPair second(AF_UNIX);
  BufferRing buffers;
  if (!first.ok() || !second.ok()) return false;
  if (buffers.Register(uring_.get(), kGroup, 1, /*incremental=*/true) != 0) return false;
  buffers.Add(pool_->region(), kBufferBytes, 0, 0);
  buffers.Publish(1);
  if (write(first.fds[1], "a", 1) != 1 || write(second.fds[1], "b", 1) != 1) return false;
  PrepareRecv(first.fds[0], /*multishot=*/false, 1);
  PrepareRecv(second.fds[0], /*multishot=*/true, 2);
  const io_uring_cqe one = Next();
  const io_uring_cqe two = Next();
  const bool in_order = one.user_data == 1 && two.user_data == 2 && one.res == 1 && two.res == 1;
  if ((two.flags & IORING_CQE_F_MORE) != 0 || (one.flags & IORING_CQE_F_MORE) != 0) {
    if (!CancelAndReap(2)) return false;
  }
  return in_order;
}

bool Prober::MultishotRecv(const Features& features) {
  SocketPair pair(AF_UNIX);
  BufferRing buffers;
  if (!pair.ok()) return false;
  if (features.buffer_ring) {
    if (buffers.Register(uring_.get(), kGroup, 2, features.incremental_buffers) != 0) return false;
    for (uint32_t i = 0; i < 2; ++i) {
      buffers.Add(pool_->block(i)->data, kBufferBytes, static_cast<uint16_t>(i), i);
    }
    buffers.Publish(2);
  } else if (!ProvideBuffers(2)) {
    return false;
  }
  if (write(pair.fds[1], "a", 1) != 1) return false;
  PrepareRecv(pair.fds[0], /*multishot=*/true, 1);
  const io_uring_cqe cqe = NextOf(1);
  if (cqe.res != 1 || (cqe.flags & IORING_CQE_F_MORE) == 0) return false;
  pair.CloseOne(1);
  const io_uring_cqe end = NextOf(1);
  return end.res == 0 && (end.flags & IORING_CQE_F_MORE) == 0;
}

// From this ring to the one that will be used.
bool Prober::MessageRing() {
  io_uring_sqe* sqe = Prepare();
  io_uring_prep_msg_ring(sqe, target_->ring_fd, 42, token_.value(), 0);
  sqe->user_data = 1;
  if (NextOf(1).res != 0) return false;
  const io_uring_cqe cqe = Next(target_);
  return cqe.user_data == token_.value() && cqe.res == 42;
}

// One that sends everything has no completion, one that does not says how much it has sent: kernels
// older than 6.1 may take that for nothing.
bool Prober::QuietSend() {
  SocketPair pair(AF_UNIX);
  const int room = 64 << 10;
  if (!pair.ok() || setsockopt(pair.fds[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)) != 0) {
    return false;
  }
  std::string bytes(256 << 10, 'x');
  iovec part = {.iov_base = bytes.data(), .iov_len = 16};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  const auto send = [&] {
    io_uring_sqe* sqe = Prepare();
    io_uring_prep_sendmsg(sqe, pair.fds[0], &message, kSendFlags | MSG_DONTWAIT);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = 2;
  };
  send();
  if (Nop() != 0) return false;
  part.iov_len = bytes.size();
  send();
  const io_uring_cqe cqe = Next();
  if (cqe.user_data != 2 || cqe.res <= 0) return false;
  ssize_t sent = 0;
  for (ssize_t n; (n = recv(pair.fds[1], bytes.data(), bytes.size(), MSG_DONTWAIT)) > 0;) sent += n;
  return sent == 16 + cqe.res;
}

int Prober::ZeroCopySend(unsigned flags) {
  SocketPair pair(AF_INET);
  SocketPair pair6(AF_INET6);
  if (!pair.ok() && !pair6.ok()) return -EAFNOSUPPORT;
  const Fd sender = pair.ok() ? pair.fds[0] : pair6.fds[0];
  io_uring_sqe* sqe = Prepare();
  if ((flags & IORING_RECVSEND_FIXED_BUF) != 0) {
    io_uring_prep_send_zc_fixed(sqe, sender, pool_->region(), 16, kSendFlags,
                                flags & ~IORING_RECVSEND_FIXED_BUF, 0);
  } else {
    io_uring_prep_send_zc(sqe, sender, pool_->region(), 16, kSendFlags, flags);
  }
  sqe->user_data = 1;
  const io_uring_cqe sent = NextOf(1);
  if ((sent.flags & IORING_CQE_F_MORE) != 0) {
    // The peer has it, or it is thrown away with the sockets.
    pair.CloseOne(1);
    pair6.CloseOne(1);
    if ((NextOf(1).flags & IORING_CQE_F_NOTIF) == 0) return -EIO;
  }
  if (sent.res == 16) return 0;
  return sent.res < 0 ? sent.res : -EIO;
}

absl::Status Prober::Run(Features* features) {
  Features scratch = *features;
  const absl::Status opened = uring_.Open(8, 8, &scratch, nullptr);
  if (!opened.ok()) return opened;
  pool_ = std::make_unique<BufferPool>(2, kBufferBytes);
  if (pool_->region() == nullptr) return SetupError("mmap", errno);
  const int nop = Nop();
  if (nop < 0) return SetupError("io_uring_enter", -nop);

  Features& f = *features;
  f.cancel_any = f.cancel_any && CancelAny();
  f.multishot_accept = f.multishot_accept && MultishotAccept();
  f.buffer_ring = f.buffer_ring && BufferRingWorks(/*incremental=*/false);
  if (!f.buffer_ring && !ProvidedBuffers()) return SetupError("receiving into buffers", EINVAL);
  f.incremental_buffers =
      f.incremental_buffers && f.buffer_ring && BufferRingWorks(/*incremental=*/true);
  f.multishot_recv = f.multishot_recv && MultishotRecv(f);
  if (f.incremental_buffers && f.multishot_recv) f.incremental_buffers = IncrementalOrder();
  // A ring that has left stays reachable for messages, so it must be able to end all it does.
  f.msg_ring = f.msg_ring && f.cancel_any && MessageRing();
  f.quiet_send = f.quiet_send && QuietSend();
  if (f.send_zc) {
    f.send_zc_report = f.send_zc_report && ZeroCopySend(kZeroCopyReportUsage) == 0;
    f.send_zc = f.send_zc_report || ZeroCopySend(0) == 0;
  }
  if (f.send_zc && f.send_zc_fixed) {
    const iovec region = {.iov_base = pool_->region(), .iov_len = pool_->region_bytes()};
    f.send_zc_fixed = io_uring_register_buffers(uring_.get(), &region, 1) == 0 &&
                      ZeroCopySend(IORING_RECVSEND_FIXED_BUF) == 0;
  }
  if (!f.send_zc) f.send_zc_report = f.send_zc_fixed = false;
  if (timed_out_) KeepForever(std::move(pool_));
  return absl::OkStatus();
}

}  // namespace

absl::Status ProbeFeatures(io_uring* target, OpToken token, Features* features) {
  return Prober(target, token).Run(features);
}

}  // namespace io
