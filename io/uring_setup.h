#pragma once

// File: io/uring_setup.h
//
// An io_uring of the kernel's and its parts, as this kernel has them: features, setup, buffer
// rings, and what an error most likely means. For the io/uring_*.cc only, as is <liburing.h>.

#include <liburing.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "io/buffer_pool.h"
#include "io/uring_ring.h"

namespace io {

// What liburing 2.3 has no names for yet (kernel version that brought it).
constexpr unsigned kZeroCopyReportUsage = 1u << 3;  // sqe->ioprio of a zero-copy send (6.2)
constexpr unsigned kUsageCopied = 1u << 31;         // cqe->res of its notification
constexpr unsigned kCqeBufferMore = 1u << 4;        // cqe->flags: the buffer is not used up (6.12)
constexpr uint16_t kBufferRingIncremental = 1u << 1;  // io_uring_buf_reg.flags, "pad" in 2.3 (6.12)

constexpr unsigned kAcceptFlags = SOCK_NONBLOCK | SOCK_CLOEXEC;
constexpr int kSendFlags = MSG_NOSIGNAL | MSG_WAITALL;

// Found out by use. A flag is false if it is missing or masked.
struct Features {
  bool defer_taskrun = true;        // the kernel works for us only when we ask (6.1)
  bool registered_ring = true;      // cheaper enters (5.18)
  bool multishot_accept = true;     // (5.19)
  bool multishot_recv = true;       // (6.0)
  bool buffer_ring = true;          // else buffers are provided by operations (5.19)
  bool incremental_buffers = true;  // small input uses up only its size (6.12)
  bool msg_ring = true;             // else mailbox and eventfd (5.18)
  bool send_zc = true;              // (6.0), if wanted
  bool send_zc_report = true;       // (6.2)
  bool send_zc_fixed = true;        // from registered memory
  bool cancel_any = true;           // (5.19)
  bool min_wait = true;             // a wait for many, or for a while (6.12)
  bool quiet_send = true;           // no completion of a send that has sent everything (6.1)
  bool lasting_timeout = true;      // not one a wait; see UringRing::SetAlarm
  bool sqpoll = true;               // if wanted; instead of defer_taskrun
};
struct FeatureName {
  absl::string_view name;
  bool Features::*flag;
};
constexpr FeatureName kFeatureNames[] = {
    {"defer_taskrun", &Features::defer_taskrun},
    {"registered_ring", &Features::registered_ring},
    {"multishot_accept", &Features::multishot_accept},
    {"multishot_recv", &Features::multishot_recv},
    {"buffer_ring", &Features::buffer_ring},
    {"incremental_buffers", &Features::incremental_buffers},
    {"msg_ring", &Features::msg_ring},
    {"send_zc", &Features::send_zc},
    {"send_zc_report", &Features::send_zc_report},
    {"send_zc_fixed", &Features::send_zc_fixed},
    {"cancel_any", &Features::cancel_any},
    {"min_wait", &Features::min_wait},
    {"quiet_send", &Features::quiet_send},
    {"lasting_timeout", &Features::lasting_timeout},
    {"sqpoll", &Features::sqpoll},
};
// These need it that the call that submits an operation also does it.
constexpr bool Features::*kNotWithSqpoll[] = {&Features::defer_taskrun, &Features::quiet_send,
                                              &Features::lasting_timeout};

// All but what the options leave out or disable. Error: they name a feature that there is not.
absl::StatusOr<Features> AllowedFeatures(const RingOptions& options);

// The likely cause of an error (errno) of io_uring, and the remedy, in a part of a line.
std::string CauseOf(int error);
// The same as an error of the system call.
absl::Status SetupError(absl::string_view call, int error);

// Owns an io_uring.
class Uring {
 public:
  Uring() = default;
  ~Uring() {
    if (open_) io_uring_queue_exit(&ring_);
  }
  Uring(const Uring&) = delete;
  Uring& operator=(const Uring&) = delete;

  // With the best flags that the kernel takes: those that are missing are cleared in *features.
  absl::Status Open(unsigned entries, unsigned entries_min, Features* features,
                    std::vector<std::string>* warnings);
  io_uring* get() { return &ring_; }
  unsigned entries() const { return ring_.sq.ring_entries; }

 private:
  io_uring ring_ = {};
  bool open_ = false;
};

// The entries of a registered buffer ring.
class BufferRing {
 public:
  BufferRing() = default;
  ~BufferRing() { Unregister(); }
  BufferRing(const BufferRing&) = delete;
  BufferRing& operator=(const BufferRing&) = delete;

  // 0 or -errno.
  int Register(io_uring* ring, uint16_t group, uint32_t buffers, bool incremental) {
    entries_ = 1;
    while (entries_ < buffers) entries_ *= 2;
    void* memory = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) return -errno;
    entry_ = static_cast<io_uring_buf_ring*>(memory);
    io_uring_buf_ring_init(entry_);
    io_uring_buf_reg reg = {};
    reg.ring_addr = reinterpret_cast<uintptr_t>(memory);
    reg.ring_entries = entries_;
    reg.bgid = group;
    // By its place, as its name depends on the version: "pad", later "flags".
    const uint16_t flags = incremental ? kBufferRingIncremental : 0;
    static_assert(sizeof(reg) >= offsetof(io_uring_buf_reg, bgid) + 4);
    memcpy(reinterpret_cast<char*>(&reg.bgid) + sizeof(reg.bgid), &flags, sizeof(flags));
    const int result = io_uring_register_buf_ring(ring, &reg, 0);
    if (result < 0) {
      munmap(entry_, bytes());
      entry_ = nullptr;
      return result;
    }
    ring_ = ring;
    group_ = group;
    return 0;
  }
  void Unregister() {
    if (entry_ == nullptr) return;
    io_uring_unregister_buf_ring(ring_, group_);
    munmap(entry_, bytes());
    entry_ = nullptr;
  }
  // The kernel may still use it: better lost than given to someone else.
  void Abandon() { entry_ = nullptr; }

  bool registered() const { return entry_ != nullptr; }
  // The n-th buffer since the last Publish.
  void Add(char* data, size_t size, uint16_t id, uint32_t n) {
    io_uring_buf_ring_add(entry_, data, static_cast<unsigned>(size), id,
                          static_cast<int>(entries_ - 1), static_cast<int>(n));
  }
  void Publish(uint32_t n) { io_uring_buf_ring_advance(entry_, static_cast<int>(n)); }

 private:
  size_t bytes() const { return std::max<size_t>(entries_ * sizeof(io_uring_buf), 4096); }

  io_uring* ring_ = nullptr;
  io_uring_buf_ring* entry_ = nullptr;
  uint32_t entries_ = 0;
  uint16_t group_ = 0;
};

// For memory that the kernel did not let go of in time: its writes must not meet anything else.
void KeepForever(std::unique_ptr<BufferPool> pool);

}  // namespace io
