#include "io/uring_ring.h"

#include <fcntl.h>
#include <liburing.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <deque>
#include <mutex>
#include <utility>

#include "absl/base/config.h"
#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "io/buffer_pool.h"
#include "io/socket.h"

#ifdef ABSL_HAVE_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) static_cast<void>(0)
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) static_cast<void>(0)
#endif
#ifdef ABSL_HAVE_THREAD_SANITIZER
#include <sanitizer/tsan_interface.h>
#define ORDERED_BEFORE_MESSAGE(tag) __tsan_release(tag)
#define ORDERED_AFTER_MESSAGE(tag) __tsan_acquire(tag)
#else
#define ORDERED_BEFORE_MESSAGE(tag) static_cast<void>(tag)
#define ORDERED_AFTER_MESSAGE(tag) static_cast<void>(tag)
#endif

namespace io {
namespace {

// What liburing 2.3 has no names for yet (kernel version that brought it).
constexpr unsigned kZeroCopyReportUsage = 1u << 3;  // sqe->ioprio of a zero-copy send (6.2)
constexpr unsigned kUsageCopied = 1u << 31;         // cqe->res of its notification
constexpr unsigned kCqeBufferMore = 1u << 4;        // cqe->flags: the buffer is not used up (6.12)
constexpr uint16_t kBufferRingIncremental = 1u << 1;  // io_uring_buf_reg.flags, "pad" in 2.3 (6.12)

// io_uring_params.features: a wait for many completions may end with fewer after a time (6.12).
constexpr unsigned kFeatureMinTimeout = 1u << 15;
// io_uring_getevents_arg, whose "pad" is min_wait_usec since then.
struct WaitArgument {
  uint64_t sigmask = 0;
  uint32_t sigmask_size = 0;
  uint32_t min_wait_usec = 0;
  uint64_t timeout = 0;  // address of a __kernel_timespec
};
static_assert(sizeof(WaitArgument) == sizeof(io_uring_getevents_arg));

// Tokens of the ring's own operations: a kind beyond those of OpKind. What it is stands in `party`.
constexpr unsigned kInternalKind = 15;
enum class Internal : uint8_t { kMailbox, kProvide, kCancelAll, kProbe };
OpToken InternalToken(Internal what, uint32_t index = 0, uint32_t detail = 0) {
  return OpToken(static_cast<OpKind>(kInternalKind), static_cast<uint8_t>(what), index, detail);
}
bool IsInternal(OpToken token) { return static_cast<unsigned>(token.kind()) == kInternalKind; }

constexpr unsigned kEntriesMin = 256;
// The kernel's submitting thread sleeps after so long without work.
constexpr unsigned kSubmissionThreadIdleMs = 100;
constexpr unsigned kEntriesMax = 32768;     // the kernel's limit
constexpr uint32_t kBuffersMax = 1u << 15;  // of a group: entries of a buffer ring; half of all ids
constexpr size_t kBufferBytesMax = 1u << 30;
constexpr uint32_t kPlainFactor = 4;  // plain buffers for each incremental one
constexpr unsigned kAcceptFlags = SOCK_NONBLOCK | SOCK_CLOEXEC;
constexpr int kSendFlags = MSG_NOSIGNAL | MSG_WAITALL;
constexpr absl::Duration kProbeLimit = absl::Seconds(1);
// How long the end of a ring waits for the kernel to let go of its memory.
constexpr absl::Duration kEndLimit = absl::Seconds(2);

absl::Time MonotonicNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return absl::UnixEpoch() + absl::DurationFromTimespec(now);
}

// --- what the kernel can do

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
    {"sqpoll", &Features::sqpoll},
};

absl::StatusOr<Features> AllowedFeatures(const RingOptions& options) {
  Features allowed;
  for (const std::string& disabled : options.disabled_features) {
    const auto* row = std::find_if(std::begin(kFeatureNames), std::end(kFeatureNames),
                                   [&](const FeatureName& f) { return f.name == disabled; });
    if (row == std::end(kFeatureNames)) {
      return absl::InvalidArgumentError(
          absl::StrCat("no such io_uring feature: \"", disabled, "\""));
    }
    allowed.*row->flag = false;
  }
  // What can't be had without another.
  allowed.incremental_buffers &= allowed.buffer_ring;
  allowed.msg_ring &= allowed.cancel_any;
  allowed.send_zc &= options.zero_copy_send;
  allowed.send_zc_report &= allowed.send_zc;
  allowed.send_zc_fixed &= allowed.send_zc;
  allowed.sqpoll &= options.submission_thread;
  return allowed;
}

// The number in a small file of /proc; -1 if there is none.
int ReadProcNumber(const char* path) {
  FILE* file = fopen(path, "re");
  if (file == nullptr) return -1;
  int value = -1;
  if (fscanf(file, "%d", &value) != 1) value = -1;
  fclose(file);
  return value;
}

// The likely cause of an error of io_uring, and the remedy, in a part of a line.
std::string CauseOf(int error) {
  switch (error) {
    case EPERM:
    case EACCES:
      switch (ReadProcNumber("/proc/sys/kernel/io_uring_disabled")) {
        case 2:
          return "forbidden by the sysctl kernel.io_uring_disabled = 2; set it to 0";
        case 1:
          return "allowed only to the group kernel.io_uring_group and to CAP_SYS_ADMIN by the "
                 "sysctl kernel.io_uring_disabled = 1; set it to 0 or join that group";
        default:
          return "forbidden, most likely by the container's seccomp profile; allow "
                 "io_uring_setup, io_uring_enter and io_uring_register in it";
      }
    case ENOSYS:
      return "not in this kernel, or hidden by the container's seccomp profile; Linux 6.1 or newer "
             "is recommended, with CONFIG_IO_URING";
    case ENOMEM: {
      rlimit limit = {};
      getrlimit(RLIMIT_MEMLOCK, &limit);
      if (limit.rlim_cur == RLIM_INFINITY) return "not enough memory";
      return absl::StrCat("not enough memory, or RLIMIT_MEMLOCK is too small (",
                          limit.rlim_cur / 1024,
                          " KiB); raise it (ulimit -l, LimitMEMLOCK=) or use fewer workers");
    }
    case EMFILE:
    case ENFILE:
      return "too many open files; raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=)";
    case EINVAL:
    case EOPNOTSUPP:
      return "this kernel is too old; Linux 6.1 or newer is recommended";
    default:
      return "unexpected";
  }
}

absl::Status SetupError(absl::string_view call, int error) {
  return absl::ErrnoToStatus(
      error, absl::StrCat("io_uring is not available: ", call, ": ", CauseOf(error)));
}

// --- setup

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

absl::Status Uring::Open(unsigned entries, unsigned entries_min, Features* features,
                         std::vector<std::string>* warnings) {
  constexpr unsigned kDeferred = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                 IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL;
  constexpr unsigned kCooperative =
      IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL;
  // Best first. NO_SQARRAY is not among them: liburing 2.3 would corrupt the ring.
  constexpr unsigned kFlagSets[] = {kDeferred, kCooperative, IORING_SETUP_SUBMIT_ALL, 0};
  const unsigned* flags = features->defer_taskrun ? &kFlagSets[0] : &kFlagSets[1];
  constexpr unsigned kPolled = IORING_SETUP_SQPOLL | IORING_SETUP_SUBMIT_ALL;
  const unsigned wanted = entries;
  while (true) {
    io_uring_params params = {};
    params.flags = (features->sqpoll ? kPolled : *flags) | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
    params.cq_entries = 4 * entries;
    params.sq_thread_idle = kSubmissionThreadIdleMs;
    const int result = io_uring_queue_init_params(entries, &ring_, &params);
    // Not supported, no right to it, or no further thread.
    const bool refused =
        result == -EINVAL || result == -EPERM || result == -EACCES || result == -EAGAIN;
    if (refused && features->sqpoll) {
      features->sqpoll = false;
      continue;
    }
    if (result == -EINVAL && flags + 1 != std::end(kFlagSets)) {
      ++flags;
      features->defer_taskrun = false;
      continue;
    }
    if (result == -ENOMEM && entries > entries_min) {
      entries = std::max(entries / 2, entries_min);
      continue;
    }
    if (result < 0) return SetupError("io_uring_setup", -result);
    open_ = true;
    constexpr unsigned kNeeded = IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE |
                                 IORING_FEAT_FAST_POLL | IORING_FEAT_EXT_ARG;
    if ((params.features & kNeeded) != kNeeded) return SetupError("io_uring_setup", EINVAL);
    features->min_wait &= (params.features & kFeatureMinTimeout) != 0;
    break;
  }
  features->defer_taskrun &= !features->sqpoll;  // one or the other
  if (entries != wanted && warnings != nullptr) {
    warnings->push_back(absl::StrCat("io_uring: no memory for ", wanted,
                                     " submission entries, using ", entries,
                                     "; RLIMIT_MEMLOCK may be too small"));
  }
  // The index array is the identity for good, as newer versions of liburing have it, so that
  // submitting is one store of the tail.
  if (ring_.sq.array != nullptr) {
    for (unsigned i = 0; i < ring_.sq.ring_entries; ++i) ring_.sq.array[i] = i;
  }
  return absl::OkStatus();
}

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

// --- probing

// For memory that the kernel did not let go of in time: its writes must not meet anything else.
void KeepForever(std::unique_ptr<BufferPool> pool) {
  static std::mutex mutex;
  static auto* pools = new std::vector<std::unique_ptr<BufferPool>>;
  const std::lock_guard<std::mutex> lock(mutex);
  pools->push_back(std::move(pool));
}

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
  // `target` is the ring to be used; it has no traffic yet.
  explicit Prober(io_uring* target) : target_(target) {}
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
  // 0, or the -errno of the first completion.
  int ZeroCopySend(unsigned flags);

  io_uring* const target_;
  // Not freed if a probe times out: the kernel may still have it.
  std::unique_ptr<BufferPool> pool_;
  bool timed_out_ = false;
  Uring uring_;
};

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
  io_uring_sqe* sqe = Prepare();
  io_uring_prep_recv(sqe, pair.fds[0], nullptr, kBufferBytes, 0);
  sqe->flags |= IOSQE_BUFFER_SELECT;
  sqe->buf_group = kGroup;
  sqe->user_data = 1;
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
    io_uring_sqe* sqe = Prepare();
    io_uring_prep_recv(sqe, pair.fds[0], nullptr, kBufferBytes, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = kGroup;
    sqe->user_data = 1;
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
  io_uring_sqe* sqe = Prepare();
  io_uring_prep_recv(sqe, first.fds[0], nullptr, kBufferBytes, 0);
  sqe->flags |= IOSQE_BUFFER_SELECT;
  sqe->buf_group = kGroup;
  sqe->user_data = 1;
  sqe = Prepare();
  io_uring_prep_recv_multishot(sqe, second.fds[0], nullptr, 0, 0);
  sqe->flags |= IOSQE_BUFFER_SELECT;
  sqe->buf_group = kGroup;
  sqe->user_data = 2;
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
  io_uring_sqe* sqe = Prepare();
  io_uring_prep_recv_multishot(sqe, pair.fds[0], nullptr, 0, 0);
  sqe->flags |= IOSQE_BUFFER_SELECT;
  sqe->buf_group = kGroup;
  sqe->user_data = 1;
  const io_uring_cqe cqe = NextOf(1);
  if (cqe.res != 1 || (cqe.flags & IORING_CQE_F_MORE) == 0) return false;
  pair.CloseOne(1);
  const io_uring_cqe end = NextOf(1);
  return end.res == 0 && (end.flags & IORING_CQE_F_MORE) == 0;
}

// From this ring to the one that will be used.
bool Prober::MessageRing() {
  const OpToken token = InternalToken(Internal::kProbe);
  io_uring_sqe* sqe = Prepare();
  io_uring_prep_msg_ring(sqe, target_->ring_fd, 42, token.value(), 0);
  sqe->user_data = 1;
  if (NextOf(1).res != 0) return false;
  const io_uring_cqe cqe = Next(target_);
  return cqe.user_data == token.value() && cqe.res == 42;
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

// True if memory that a zero-copy send pins is not counted against a limit, so that it can't fail
// for that.
bool MayPinFreely() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY) return true;
  __user_cap_header_struct header = {};
  header.version = _LINUX_CAPABILITY_VERSION_3;
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  if (syscall(SYS_capget, &header, data) != 0) return false;
  return (data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK)) != 0;
}

bool IsIpSocket(Fd socket) {
  int domain = 0;
  socklen_t length = sizeof(domain);
  return getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 &&
         (domain == AF_INET || domain == AF_INET6);
}

}  // namespace

// --- the ring

class UringRing final : public Ring {
 public:
  UringRing(RingDirectory* directory, RingId id) : directory_(directory), id_(id) {}
  ~UringRing() override;
  UringRing(const UringRing&) = delete;
  UringRing& operator=(const UringRing&) = delete;

  absl::Status Open(const RingOptions& options, std::vector<std::string>* warnings);

  RingId id() const override { return id_; }
  absl::StatusOr<Fd> Listen(const Endpoint& address, const ListenOptions& options) override {
    return OpenListener(address, options);
  }
  absl::StatusOr<Fd> OpenSocket(const Endpoint& peer) override { return OpenStreamSocket(peer); }
  std::string PeerName(Fd socket) override { return PeerNameOf(socket); }
  std::string LocalName(Fd socket) override { return LocalNameOf(socket); }

  void Accept(OpToken token, Fd listener) override;
  void Connect(OpToken token, Fd socket, const Endpoint& peer) override;
  void Recv(OpToken token, Fd socket, BufferGroup group) override;
  void RecvInto(OpToken token, Fd socket, char* memory, size_t capacity) override;
  void Send(OpToken token, Fd socket, const msghdr* message) override;
  void SendZeroCopy(OpToken token, Fd socket, absl::string_view bytes) override;
  bool zero_copy_send() const override { return features_.send_zc; }
  void Cancel(OpToken token, OpToken target) override;
  void Shutdown(OpToken token, Fd socket, int how) override;
  void Close(OpToken token, Fd fd) override;
  void Post(OpToken token, RingId receiver, Message message) override;

  size_t SubmitAndWait(absl::Duration limit, absl::Span<Completion> out) override;
  void SetGatherTime(absl::Duration longest) override {
    gather_usec_ = features_.min_wait ? absl::ToInt64Microseconds(longest) : 0;
  }
  absl::Time Now() const override { return now_; }
  double FreeBufferShare(BufferGroup group) const override;
  std::string Describe() const override;

 private:
  struct HeldRecv {
    OpToken token;
    Fd socket;
  };
  // One group of receive buffers. Ids of all groups differ: a completion names only the buffer.
  struct Group {
    std::unique_ptr<BufferPool> pool;
    BufferRing ring;       // registered if features_.buffer_ring
    uint16_t number = 0;   // to the kernel
    uint16_t id_base = 0;  // id of buffer 0
    // Buffers lent to the kernel, as far as completions say. It may have fewer: of those whose
    // completions wait unread.
    uint32_t with_kernel = 0;
    uint32_t lent_max = 0;       // no more than this at a time
    std::vector<uint32_t> used;  // by buffer: bytes of it that completions have covered
    // Receives that wait for buffers, first come, first served.
    std::deque<HeldRecv> held;
  };
  struct PendingShutdown {
    OpToken token;
    Fd socket;
    int how;
  };
  enum class WakeUp : uint8_t { kEvents, kTimeout };

  absl::Status OpenGroup(BufferGroup which, uint32_t buffers, const RingOptions& options,
                         std::vector<std::string>* warnings);
  void RegisterFixedBuffers(std::vector<std::string>* warnings);

  // A free submission entry. The io_uring_prep_ functions set all of it but the user_data.
  io_uring_sqe* Prepare();
  void SubmitEarly();
  // Makes what was prepared visible to the kernel. Returns how many entries it has to take.
  unsigned PublishSubmissions();
  // One system call: submits, lets the kernel work, waits until there is a completion or `limit`
  // has passed.
  WakeUp Enter(absl::Duration limit);
  // Looks for completions again and again until there are some or `limit` has passed.
  size_t BusyPoll(absl::Duration limit, absl::Span<Completion> out);
  unsigned CompletionsReady() const;
  // Moves completions from the kernel's queue to `out`; returns how many.
  size_t Reap(absl::Span<Completion> out);
  // As Reap, and what the kernel had no room for in its queue or put off.
  size_t ReapAll(absl::Span<Completion> out);
  // False: nobody wants it.
  bool Translate(const io_uring_cqe& cqe, Completion* out);
  void TakeBuffer(uint32_t flags, int32_t result, Completion* out);
  void OnInternal(OpToken token, const io_uring_cqe& cqe);

  // Completions that don't come from the kernel, or had to leave its queue early.
  void AddReady(OpToken token, int32_t result);
  void AddMessage(Message message);
  size_t TakeReady(absl::Span<Completion> out);

  void SubmitRecv(OpToken token, Fd socket, const Group& group);
  void LendReturnedBuffers();
  void ArmHeldRecvs();
  // Receives are held back although there are buffers: another turn, without sleep.
  bool MoreToArm() const;
  void ArmMailbox();
  void RunShutdowns();
  void EndOperations();
  // Of the destructor: what nobody will get.
  static void DropCompletion(Completion* completion);

  RingDirectory* const directory_;
  const RingId id_;
  RingDirectory::Entry* entry_ = nullptr;  // ours; set when entered
  Features features_;
  bool pin_freely_ = false;
  Uring uring_;
  io_uring* const ring_ = uring_.get();
  unsigned enter_flags_ = 0;
  absl::Duration busy_poll_;
  int64_t gather_usec_ = 0;
  unsigned sends_ = 0;  // prepared since the last call of the kernel
  // Operations of this ring that still owe their last completion.
  uint64_t in_flight_ = 0;
  absl::Time now_ = MonotonicNow();

  Group groups_[kBufferGroups];
  std::vector<Completion> ready_;  // [ready_head_, end) wait to be delivered
  size_t ready_head_ = 0;
  std::vector<PendingShutdown> shutdowns_;
  // Of connects prepared in this turn: the kernel copies them when it takes the entry.
  std::deque<Endpoint> connect_addresses_;

  bool mailbox_armed_ = false;
  uint64_t mailbox_counter_ = 0;  // the eventfd is read into it
  std::vector<Message> mail_;     // scratch
};

absl::Status UringRing::Open(const RingOptions& options, std::vector<std::string>* warnings) {
  absl::StatusOr<Features> allowed = AllowedFeatures(options);
  if (!allowed.ok()) return allowed.status();
  features_ = *allowed;
  busy_poll_ = options.busy_poll;
  const unsigned entries = std::clamp(options.entries, 1u, kEntriesMax);
  absl::Status status = uring_.Open(entries, std::min(entries, kEntriesMin), &features_, warnings);
  if (!status.ok()) return status;
  allowed->defer_taskrun &= !features_.sqpoll;
  status = Prober(ring_).Run(&features_);
  if (!status.ok()) return status;
  if (features_.registered_ring) features_.registered_ring = io_uring_register_ring_fd(ring_) == 1;
  for (const FeatureName& feature : kFeatureNames) {
    if ((*allowed).*feature.flag && !(features_.*feature.flag)) {
      warnings->push_back(
          absl::StrCat("io_uring: ", feature.name, " does not work on this kernel, going without"));
    }
  }
  enter_flags_ = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG |
                 (features_.registered_ring ? IORING_ENTER_REGISTERED_RING : 0);

  status = OpenGroup(BufferGroup::kClients, options.client_buffers, options, warnings);
  if (!status.ok()) return status;
  status = OpenGroup(BufferGroup::kBackends, options.backend_buffers, options, warnings);
  if (!status.ok()) return status;
  if (options.zero_copy_send) RegisterFixedBuffers(warnings);

  status = directory_->Enter(id_, features_.cancel_any ? ring_->ring_fd : -1);
  if (!status.ok()) return status;
  entry_ = directory_->Find(id_);
  ready_.reserve(64);
  return absl::OkStatus();
}

absl::Status UringRing::OpenGroup(BufferGroup which, uint32_t buffers, const RingOptions& options,
                                  std::vector<std::string>* warnings) {
  Group& group = groups_[static_cast<size_t>(which)];
  group.number = static_cast<uint16_t>(which);
  group.id_base = static_cast<uint16_t>(group.number * kBuffersMax);
  const auto make_pool = [&](bool incremental) -> absl::Status {
    const uint32_t count =
        incremental ? buffers : std::min(uint64_t{buffers} * kPlainFactor, uint64_t{kBuffersMax});
    const size_t bytes = incremental ? options.buffer_bytes : options.buffer_bytes_plain;
    if (buffers == 0 || buffers > kBuffersMax || bytes == 0 || bytes > kBufferBytesMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("unsuitable receive buffers: ", buffers, " of ", bytes, " bytes"));
    }
    group.lent_max = std::clamp(options.lent_buffers, 1u, kBuffersMax);
    if (!incremental) group.lent_max *= kPlainFactor;
    group.used.assign(count, 0);
    group.pool = std::make_unique<BufferPool>(count, bytes);
    return group.pool->region() != nullptr ? absl::OkStatus() : SetupError("mmap", errno);
  };
  absl::Status status = make_pool(features_.incremental_buffers);
  if (status.ok() && features_.buffer_ring) {
    const int result = group.ring.Register(ring_, group.number, group.pool->count(),
                                           features_.incremental_buffers);
    if (result < 0) {
      warnings->push_back(
          absl::StrCat("io_uring: going without a buffer ring: ", CauseOf(-result)));
      features_.buffer_ring = features_.incremental_buffers = false;
      status = make_pool(/*incremental=*/false);
    }
  }
  if (!status.ok()) return status;
  // All buffers have "come back"; the first are lent now.
  for (uint32_t i = 0; i < group.pool->count(); ++i) group.pool->Recycle(group.pool->block(i));
  LendReturnedBuffers();
  return absl::OkStatus();
}

void UringRing::RegisterFixedBuffers(std::vector<std::string>* warnings) {
  pin_freely_ = MayPinFreely();
  if (!features_.send_zc || !features_.send_zc_fixed) return;
  iovec regions[kBufferGroups];
  for (size_t i = 0; i < kBufferGroups; ++i) {
    regions[i] = {.iov_base = groups_[i].pool->region(),
                  .iov_len = groups_[i].pool->region_bytes()};
  }
  const int result = io_uring_register_buffers(ring_, regions, kBufferGroups);
  if (result == 0) return;
  features_.send_zc = features_.send_zc_report = features_.send_zc_fixed = false;
  warnings->push_back(
      absl::StrCat("zero-copy send is off: registering buffers: ", CauseOf(-result)));
}

UringRing::~UringRing() {
  if (entry_ != nullptr) directory_->Leave(id_);
  for (Group& group : groups_) group.held.clear();
  for (size_t i = ready_head_; i < ready_.size(); ++i) DropCompletion(&ready_[i]);
  ready_.clear();
  shutdowns_.clear();
  EndOperations();
  // The directory keeps the kernel's side of the ring alive, which must not pin this memory.
  if (features_.send_zc_fixed && entry_ != nullptr) io_uring_unregister_buffers(ring_);
  for (Group& group : groups_) {
    if (group.pool == nullptr) continue;
    for (uint32_t i = 0; i < group.pool->count(); ++i) {
      // One more would be a slice that is about to lose its bytes.
      ABSL_ASSERT(group.pool->block(i)->refs <= 1);
    }
    if (in_flight_ == 0) {
      group.ring.Unregister();
    } else {
      group.ring.Abandon();
      KeepForever(std::move(group.pool));
    }
  }
}

void UringRing::EndOperations() {
  const absl::Time deadline = MonotonicNow() + kEndLimit;
  Completion dropped[16];
  bool cancelling = false;
  while (in_flight_ > 0 && MonotonicNow() < deadline) {
    if (!cancelling && features_.cancel_any) {
      io_uring_sqe* sqe = Prepare();
      io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
      sqe->user_data = InternalToken(Internal::kCancelAll).value();
    }
    // What was just running is asked again after a while.
    cancelling = Enter(absl::Milliseconds(20)) == WakeUp::kEvents;
    size_t n;
    do {
      n = Reap(absl::MakeSpan(dropped));
      for (size_t i = 0; i < n; ++i) DropCompletion(&dropped[i]);
    } while (n > 0);
    for (Completion& completion : ready_) DropCompletion(&completion);
    ready_.clear();
  }
}

void UringRing::DropCompletion(Completion* completion) {
  // An accepted socket that was never handed out is still the ring's.
  if (completion->token.kind() == OpKind::kAccept && completion->result >= 0) {
    close(completion->result);
  }
  completion->data = Slice();
}

// --- preparing operations

io_uring_sqe* UringRing::Prepare() {
  io_uring_sqe* sqe = io_uring_get_sqe(ring_);
  while (ABSL_PREDICT_FALSE(sqe == nullptr)) {
    SubmitEarly();
    sqe = io_uring_get_sqe(ring_);
  }
  ++in_flight_;
  return sqe;
}

void UringRing::SubmitEarly() {
  unsigned flags = enter_flags_ & IORING_ENTER_REGISTERED_RING;
  if (features_.sqpoll) flags |= IORING_ENTER_SQ_WAKEUP | IORING_ENTER_SQ_WAIT;
  const int result = io_uring_enter2(static_cast<unsigned>(ring_->enter_ring_fd),
                                     PublishSubmissions(), 0, flags, nullptr, 0);
  // The submitting thread may have taken all of it meanwhile.
  if (result > 0 || (result == 0 && features_.sqpoll)) {
    if (PublishSubmissions() == 0) connect_addresses_.clear();
    return;
  }
  // The kernel takes no more until completions have been read, or is short of memory.
  ABSL_HARDENING_ASSERT(result == 0 || result == -EBUSY || result == -EAGAIN || result == -EINTR);
  Completion completion;
  size_t moved = 0;
  while (Reap(absl::MakeSpan(&completion, 1)) == 1) {
    ready_.push_back(std::move(completion));
    ++moved;
  }
  if (moved == 0) poll(nullptr, 0, 1);
}

unsigned UringRing::PublishSubmissions() {
  io_uring_sq& sq = ring_->sq;
  if (sq.sqe_head != sq.sqe_tail) {
    sq.sqe_head = sq.sqe_tail;
    std::atomic_ref<unsigned>(*sq.ktail).store(sq.sqe_tail, std::memory_order_release);
  }
  return sq.sqe_tail - std::atomic_ref<unsigned>(*sq.khead).load(std::memory_order_acquire);
}

void UringRing::Accept(OpToken token, Fd listener) {
  io_uring_sqe* sqe = Prepare();
  // Options need not be set on what is accepted: it inherits those of the listener.
  if (features_.multishot_accept) {
    io_uring_prep_multishot_accept(sqe, listener, nullptr, nullptr, kAcceptFlags);
  } else {
    io_uring_prep_accept(sqe, listener, nullptr, nullptr, kAcceptFlags);
  }
  sqe->user_data = token.value();
}

void UringRing::Connect(OpToken token, Fd socket, const Endpoint& peer) {
  io_uring_sqe* sqe = Prepare();
  connect_addresses_.push_back(peer);
  const Endpoint& address = connect_addresses_.back();
  io_uring_prep_connect(sqe, socket, address.address(), address.length());
  sqe->user_data = token.value();
}

void UringRing::Recv(OpToken token, Fd socket, BufferGroup which) {
  Group& group = groups_[static_cast<size_t>(which)];
  if (ABSL_PREDICT_TRUE(group.with_kernel > 0 && group.held.empty())) {
    SubmitRecv(token, socket, group);
  } else {
    group.held.push_back({token, socket});
  }
}

void UringRing::SubmitRecv(OpToken token, Fd socket, const Group& group) {
  io_uring_sqe* sqe = Prepare();
  if (features_.multishot_recv) {
    io_uring_prep_recv_multishot(sqe, socket, nullptr, 0, 0);
  } else {
    io_uring_prep_recv(sqe, socket, nullptr, group.pool->buffer_bytes(), 0);
  }
  sqe->flags |= IOSQE_BUFFER_SELECT;
  sqe->buf_group = group.number;
  sqe->user_data = token.value();
}

void UringRing::RecvInto(OpToken token, Fd socket, char* memory, size_t capacity) {
  io_uring_sqe* sqe = Prepare();
  io_uring_prep_recv(sqe, socket, memory, capacity, 0);
  sqe->user_data = token.value();
}

void UringRing::Send(OpToken token, Fd socket, const msghdr* message) {
  io_uring_sqe* sqe = Prepare();
  io_uring_prep_sendmsg(sqe, socket, message, kSendFlags);
  ++sends_;
  sqe->user_data = token.value();
}

void UringRing::SendZeroCopy(OpToken token, Fd socket, absl::string_view bytes) {
  ABSL_ASSERT(features_.send_zc);
  int fixed = -1;
  if (features_.send_zc_fixed) {
    for (size_t i = 0; i < kBufferGroups; ++i) {
      const BufferPool& pool = *groups_[i].pool;
      if (bytes.data() >= pool.region() &&
          bytes.data() + bytes.size() <= pool.region() + pool.region_bytes()) {
        fixed = static_cast<int>(i);
      }
    }
  }
  const unsigned report = features_.send_zc_report ? kZeroCopyReportUsage : 0;
  io_uring_sqe* sqe = Prepare();
  if (!IsIpSocket(socket) || (fixed < 0 && !pin_freely_)) {
    // Unix sockets can't, and pinning other memory could run into the limit on locked memory. An
    // ordinary send completes once, without `more`.
    io_uring_prep_send(sqe, socket, bytes.data(), bytes.size(), kSendFlags);
  } else if (fixed >= 0) {
    io_uring_prep_send_zc_fixed(sqe, socket, bytes.data(), bytes.size(), kSendFlags, report,
                                static_cast<unsigned>(fixed));
  } else {
    io_uring_prep_send_zc(sqe, socket, bytes.data(), bytes.size(), kSendFlags, report);
  }
  sqe->user_data = token.value();
}

void UringRing::Cancel(OpToken token, OpToken target) {
  for (Group& group : groups_) {
    const auto held = std::find_if(group.held.begin(), group.held.end(),
                                   [&](const HeldRecv& recv) { return recv.token == target; });
    if (held == group.held.end()) continue;
    group.held.erase(held);
    AddReady(target, -ECANCELED);
    AddReady(token, 0);
    return;
  }
  io_uring_sqe* sqe = Prepare();
  io_uring_prep_cancel64(sqe, target.value(), 0);
  sqe->user_data = token.value();
}

// As a ring operation a shutdown would go through a worker thread of the kernel, since it "may
// block"; for stream sockets it doesn't. It is called after the operations prepared before it have
// been submitted.
void UringRing::Shutdown(OpToken token, Fd socket, int how) {
  shutdowns_.push_back({token, socket, how});
}

void UringRing::Close(OpToken token, Fd fd) {
  // Not after the descriptor's number may be another's.
  if (!shutdowns_.empty()) RunShutdowns();
  io_uring_sqe* sqe = Prepare();
  io_uring_prep_close(sqe, fd);
  sqe->user_data = token.value();
}

void UringRing::RunShutdowns() {
  if (shutdowns_.empty()) return;
  while (PublishSubmissions() > 0) SubmitEarly();
  for (const PendingShutdown& s : shutdowns_) {
    AddReady(s.token, shutdown(s.socket, s.how) == 0 ? 0 : -errno);
  }
  shutdowns_.clear();
}

void UringRing::Post(OpToken token, RingId receiver, Message message) {
  if (receiver == id_) {
    AddMessage(message);
    return AddReady(token, 0);
  }
  RingDirectory::Entry* entry = directory_->Find(receiver);
  if (entry == nullptr) return AddReady(token, -EPIPE);
  if (!features_.msg_ring) return AddReady(token, RingDirectory::Put(entry, message) ? 0 : -EPIPE);
  const Fd ring_fd = entry->ring_fd.load(std::memory_order_acquire);
  if (ring_fd < 0) return AddReady(token, -EPIPE);
  ORDERED_BEFORE_MESSAGE(&entry->ring_message_order);
  io_uring_sqe* sqe = Prepare();
  io_uring_prep_msg_ring(sqe, ring_fd, message.value,
                         OpToken(OpKind::kMessage, 0, message.kind, 0).value(), 0);
  sqe->user_data = token.value();
}

// --- a turn

size_t UringRing::SubmitAndWait(absl::Duration limit, absl::Span<Completion> out) {
  ABSL_ASSERT(!out.empty());
  absl::Duration left = limit;
  size_t n = 0;
  while (true) {
    RunShutdowns();
    LendReturnedBuffers();
    ArmHeldRecvs();
    ArmMailbox();
    n = TakeReady(out);
    const bool may_sleep = n == 0 && !MoreToArm();
    if (may_sleep && busy_poll_ > absl::ZeroDuration() && left > absl::ZeroDuration()) {
      n = BusyPoll(std::min(busy_poll_, left), out);
      if (n > 0) break;
      left = now_ + limit - MonotonicNow();
    }
    const WakeUp wake_up = Enter(may_sleep ? left : absl::ZeroDuration());
    n += ReapAll(out.subspan(n));
    n += TakeReady(out.subspan(n));
    if (n > 0 || wake_up == WakeUp::kTimeout || left <= absl::ZeroDuration()) break;
    // Woken for the ring's own sake, or by a signal. The limit counts from the end of the last
    // turn, which is what the caller took it from, and which saves a look at the clock in every
    // turn.
    left = now_ + limit - MonotonicNow();
  }
  now_ = MonotonicNow();
  return n;
}

size_t UringRing::BusyPoll(absl::Duration limit, absl::Span<Completion> out) {
  const absl::Time end = MonotonicNow() + limit;
  size_t n = 0;
  do {
    Enter(absl::ZeroDuration());
    n = ReapAll(out);
    n += TakeReady(out.subspan(n));
    // What waits to be armed waits for the next turn's beginning.
    if (MoreToArm() || !(features_.msg_ring || mailbox_armed_)) break;
  } while (n == 0 && MonotonicNow() < end);
  return n;
}

UringRing::WakeUp UringRing::Enter(absl::Duration limit) {
  const unsigned submissions = PublishSubmissions();
  const bool wait = limit > absl::ZeroDuration();
  unsigned flags = enter_flags_;
  if (features_.sqpoll) {
    // Either the thread sees the new tail, or this sees that it has gone to sleep.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const unsigned state =
        std::atomic_ref<unsigned>(*ring_->sq.kflags).load(std::memory_order_relaxed);
    if ((state & IORING_SQ_NEED_WAKEUP) != 0) {
      flags |= IORING_ENTER_SQ_WAKEUP;
    } else if (!wait && (state & IORING_SQ_CQ_OVERFLOW) == 0) {
      if (submissions == 0) connect_addresses_.clear();
      return WakeUp::kEvents;
    }
  }
  __kernel_timespec timeout = {};
  WaitArgument arg = {};
  unsigned completions = wait ? 1 : 0;
  if (sends_ >= kGatherSends && gather_usec_ > 0 && limit > absl::Microseconds(gather_usec_)) {
    completions = 2 * sends_;
    arg.min_wait_usec = static_cast<uint32_t>(gather_usec_);
  }
  sends_ = 0;
  if (wait && limit < absl::Hours(24)) {
    const timespec ts = absl::ToTimespec(limit);
    timeout.tv_sec = ts.tv_sec;
    timeout.tv_nsec = ts.tv_nsec;
    arg.timeout = reinterpret_cast<uintptr_t>(&timeout);
  }
  const int result =
      io_uring_enter2(static_cast<unsigned>(ring_->enter_ring_fd), submissions, completions, flags,
                      reinterpret_cast<sigset_t*>(&arg), sizeof(arg));
  if (ABSL_PREDICT_TRUE(result >= 0)) {
    if (!connect_addresses_.empty() && PublishSubmissions() == 0) connect_addresses_.clear();
    return WakeUp::kEvents;
  }
  switch (result) {
    case -ETIME:
      return WakeUp::kTimeout;
    case -EINTR:
      return WakeUp::kEvents;
    case -EAGAIN:
    case -EBUSY:
      // The kernel is short of memory, or wants completions read first. What it did not take stays
      // in the queue for the next turn.
      if (CompletionsReady() == 0) poll(nullptr, 0, 1);
      return WakeUp::kEvents;
    default:
      // A ring in the wrong thread, or one that is broken: there is no way on.
      fprintf(stderr, "io_uring_enter: %s\n", strerror(-result));
      abort();
  }
}

unsigned UringRing::CompletionsReady() const {
  const io_uring_cq& cq = ring_->cq;
  return std::atomic_ref<unsigned>(*cq.ktail).load(std::memory_order_acquire) - *cq.khead;
}

size_t UringRing::ReapAll(absl::Span<Completion> out) {
  size_t n = Reap(out);
  // The kernel does only about 20 pieces of deferred work in one call; the deeper the batch, the
  // more each send of this turn carries.
  while (n < out.size()) {
    const unsigned flags =
        std::atomic_ref<unsigned>(*ring_->sq.kflags).load(std::memory_order_relaxed);
    if ((flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) == 0) break;
    Enter(absl::ZeroDuration());
    const size_t more = Reap(out.subspan(n));
    if (more == 0) break;
    n += more;
  }
  return n;
}

size_t UringRing::Reap(absl::Span<Completion> out) {
  const io_uring_cq& cq = ring_->cq;
  unsigned head = *cq.khead;
  const unsigned tail = std::atomic_ref<unsigned>(*cq.ktail).load(std::memory_order_acquire);
  size_t n = 0;
  while (head != tail && n < out.size()) {
    if (Translate(cq.cqes[head & cq.ring_mask], &out[n])) ++n;
    ++head;
  }
  std::atomic_ref<unsigned>(*cq.khead).store(head, std::memory_order_release);
  return n;
}

bool UringRing::Translate(const io_uring_cqe& cqe, Completion* out) {
  const OpToken token = OpToken::FromValue(cqe.user_data);
  const bool more = (cqe.flags & IORING_CQE_F_MORE) != 0;
  out->token = token;
  out->result = cqe.res;
  out->more = more;
  out->send_released = false;
  out->send_copied = false;
  out->message_kind = 0;
  out->data = Slice();
  if (ABSL_PREDICT_FALSE(token.kind() == OpKind::kMessage)) {
    if (entry_ != nullptr) ORDERED_AFTER_MESSAGE(&entry_->ring_message_order);
    out->token = OpToken(OpKind::kMessage, 0, 0, 0);
    out->message_kind = static_cast<uint8_t>(token.index());
    return true;
  }
  if (!more) {
    ABSL_ASSERT(in_flight_ > 0);
    --in_flight_;
  }
  if ((cqe.flags & IORING_CQE_F_BUFFER) != 0) TakeBuffer(cqe.flags, cqe.res, out);
  if ((cqe.flags & IORING_CQE_F_NOTIF) != 0) {
    out->result = 0;
    out->send_released = true;
    out->send_copied = (static_cast<unsigned>(cqe.res) & kUsageCopied) != 0;
  }
  if (ABSL_PREDICT_FALSE(IsInternal(token))) {
    OnInternal(token, cqe);
    return false;
  }
  if (ABSL_PREDICT_TRUE(token.kind() != OpKind::kNone)) return true;
  out->data = Slice();
  return false;
}

void UringRing::TakeBuffer(uint32_t flags, int32_t result, Completion* out) {
  const uint32_t id = flags >> IORING_CQE_BUFFER_SHIFT;
  Group& group = groups_[id / kBuffersMax];
  const uint32_t index = id - group.id_base;
  Block* block = group.pool->block(index);
  if (result > 0) {
    const size_t bytes = static_cast<size_t>(result);
    char* data = block->data + group.used[index];
    ABSL_HARDENING_ASSERT(group.used[index] + bytes <= block->size);
    ASAN_UNPOISON_MEMORY_REGION(data, bytes);
    out->data = Slice(BufferRef(block), absl::string_view(data, bytes));
    group.used[index] += static_cast<uint32_t>(bytes);
  }
  if ((flags & kCqeBufferMore) != 0) return;
  // The kernel's share goes.
  --group.with_kernel;
  if (--block->refs == 0) group.pool->Recycle(block);
}

void UringRing::OnInternal(OpToken token, const io_uring_cqe& cqe) {
  switch (static_cast<Internal>(token.party())) {
    case Internal::kMailbox:
      mailbox_armed_ = false;
      if (entry_ == nullptr || cqe.res < 0) return;
      RingDirectory::Take(entry_, &mail_);
      for (Message message : mail_) AddMessage(message);
      mail_.clear();
      return;
    case Internal::kProvide: {
      if (cqe.res >= 0) return;
      // No memory for the kernel's note of it: again in the next turn.
      Group& group = groups_[token.generation()];
      --group.with_kernel;
      Block* block = group.pool->block(token.index());
      if (--block->refs == 0) group.pool->Recycle(block);
      return;
    }
    case Internal::kCancelAll:
    case Internal::kProbe:
      return;
  }
}

void UringRing::AddReady(OpToken token, int32_t result) {
  if (token.kind() == OpKind::kNone) return;
  Completion completion;
  completion.token = token;
  completion.result = result;
  ready_.push_back(std::move(completion));
}

void UringRing::AddMessage(Message message) {
  Completion completion;
  completion.token = OpToken(OpKind::kMessage, 0, 0, 0);
  completion.result = static_cast<int32_t>(message.value);
  completion.message_kind = message.kind;
  ready_.push_back(std::move(completion));
}

size_t UringRing::TakeReady(absl::Span<Completion> out) {
  size_t n = 0;
  while (n < out.size() && ready_head_ < ready_.size()) out[n++] = std::move(ready_[ready_head_++]);
  if (ready_head_ == ready_.size()) {
    ready_.clear();
    ready_head_ = 0;
  }
  return n;
}

void UringRing::LendReturnedBuffers() {
  for (Group& group : groups_) {
    if (group.pool == nullptr) continue;
    // The last to come back is the first to be lent again: it is the warmest.
    std::vector<uint32_t>& returned = group.pool->returned();
    uint32_t added = 0;
    for (; !returned.empty() && group.with_kernel < group.lent_max; ++group.with_kernel) {
      const uint32_t index = returned.back();
      returned.pop_back();
      Block* block = group.pool->block(index);
      block->refs = 1;  // the kernel's share
      group.used[index] = 0;
      ASAN_POISON_MEMORY_REGION(block->data, block->size);
      const uint16_t id = static_cast<uint16_t>(group.id_base + index);
      if (group.ring.registered()) {
        group.ring.Add(block->data, block->size, id, added);
      } else {
        io_uring_sqe* sqe = Prepare();
        io_uring_prep_provide_buffers(sqe, block->data, static_cast<int>(block->size), 1,
                                      group.number, id);
        sqe->user_data = InternalToken(Internal::kProvide, index, group.number).value();
      }
      ++added;
    }
    if (added > 0 && group.ring.registered()) group.ring.Publish(added);
  }
}

void UringRing::ArmHeldRecvs() {
  for (Group& group : groups_) {
    // No more than there are buffers: those who would get nothing keep their place in the line.
    for (uint32_t n = group.with_kernel; n > 0 && !group.held.empty(); --n) {
      const HeldRecv recv = group.held.front();
      group.held.pop_front();
      SubmitRecv(recv.token, recv.socket, group);
    }
  }
}

bool UringRing::MoreToArm() const {
  for (const Group& group : groups_) {
    if (!group.held.empty() && group.with_kernel > 0) return true;
  }
  return false;
}

void UringRing::ArmMailbox() {
  if (mailbox_armed_ || entry_ == nullptr) return;
  mailbox_armed_ = true;
  io_uring_sqe* sqe = Prepare();
  io_uring_prep_read(sqe, entry_->event_fd, &mailbox_counter_, sizeof(mailbox_counter_), 0);
  sqe->user_data = InternalToken(Internal::kMailbox).value();
}

double UringRing::FreeBufferShare(BufferGroup which) const {
  const Group& group = groups_[static_cast<size_t>(which)];
  const size_t free = group.with_kernel + group.pool->returned().size();
  return static_cast<double>(free) / group.pool->count();
}

std::string UringRing::Describe() const {
  std::string text = "io_uring";
  for (const FeatureName& feature : kFeatureNames) {
    absl::StrAppend(&text, " ", feature.name, "=", features_.*feature.flag ? 1 : 0);
  }
  absl::StrAppend(&text, " entries=", uring_.entries());
  for (size_t i = 0; i < kBufferGroups; ++i) {
    absl::StrAppend(&text,
                    i == 0 ? " client_buffers=" : " backend_buffers=", groups_[i].pool->count(),
                    "x", groups_[i].pool->buffer_bytes());
  }
  return text;
}

absl::StatusOr<std::unique_ptr<Ring>> MakeUringRing(RingDirectory* directory, RingId id,
                                                    const RingOptions& options,
                                                    std::vector<std::string>* warnings) {
  // One at a time. What a probe's ring shared with the kernel may come back at the same address in
  // another thread, and liburing maps it unseen by race detectors: this orders the two.
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  auto ring = std::make_unique<UringRing>(directory, id);
  const absl::Status status = ring->Open(options, warnings);
  if (!status.ok()) return status;
  return ring;
}

}  // namespace io
