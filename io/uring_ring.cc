#include "io/uring_ring.h"

#include <linux/capability.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <deque>
#include <utility>

#include "absl/base/config.h"
#include "absl/base/optimization.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "io/buffer_pool.h"
#include "io/socket.h"
#include "io/uring_probe.h"
#include "io/uring_setup.h"

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

// Tokens of the ring's own operations: a kind beyond those of OpKind. What it is stands in `party`.
constexpr unsigned kInternalKind = 15;
// What a quiet send's token has in the kernel instead of kSend: its only completion, if any, is
// then told from those of ordinary ones and from the notices of zero-copy ones.
constexpr OpKind kQuietSend = static_cast<OpKind>(14);
OpToken WithKind(OpKind kind, OpToken token) {
  return OpToken(kind, token.party(), token.index(), token.generation());
}
enum class Internal : uint8_t { kMailbox, kProvide, kCancelAll, kProbe, kAlarm };
OpToken InternalToken(Internal what, uint32_t index = 0, uint32_t detail = 0) {
  return OpToken(static_cast<OpKind>(kInternalKind), static_cast<uint8_t>(what), index, detail);
}
bool IsInternal(OpToken token) { return static_cast<unsigned>(token.kind()) == kInternalKind; }

// io_uring_getevents_arg, whose "pad" is min_wait_usec where Features::min_wait (6.12).
struct WaitArgument {
  uint64_t sigmask = 0;
  uint32_t sigmask_size = 0;
  uint32_t min_wait_usec = 0;
  uint64_t timeout = 0;  // address of a __kernel_timespec
};
static_assert(sizeof(WaitArgument) == sizeof(io_uring_getevents_arg));

constexpr unsigned kEntriesMin = 256;
constexpr unsigned kEntriesMax = 32768;     // the kernel's limit
constexpr uint32_t kBuffersMax = 1u << 15;  // of a group: entries of a buffer ring; half of all ids
constexpr size_t kBufferBytesMax = 1u << 30;
constexpr uint32_t kPlainFactor = 4;  // plain buffers for each incremental one
// How long the end of a ring waits for the kernel to let go of its memory.
constexpr absl::Duration kEndLimit = absl::Seconds(2);
// Waits with a limit below this, or when so many alarms are with the kernel, have a timeout of
// their own.
constexpr absl::Duration kAlarmLimitMin = absl::Milliseconds(2);
constexpr size_t kAlarmsMax = 8;
constexpr absl::Duration kForever = absl::Hours(24);

absl::Time MonotonicNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return absl::UnixEpoch() + absl::DurationFromTimespec(now);
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
  void Send(OpToken token, Fd socket, const msghdr* message, Notice notice) override;
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
  // has passed; `alarm_set`: which an alarm sees to.
  WakeUp Enter(absl::Duration limit, bool alarm_set = false);
  // After a call of the kernel: all that is to be told.
  size_t Collect(absl::Span<Completion> out);
  // Sees to it that the kernel wakes this ring at `when`, `left` from now, without a timeout for
  // this wait: a deadline mostly stays what it was over many waits, each of which would set and
  // cancel a timer of the kernel's. False: it can't.
  bool SetAlarm(absl::Time when, absl::Duration left);
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
  // After a call of the kernel, before its completions are taken: quiet sends that have none are
  // over.
  void SettleQuietSends();
  // It has a completion.
  void ForgetQuietSend(OpToken token);

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
  unsigned sends_ = 0;        // prepared since the last call of the kernel
  unsigned completions_ = 0;  // that they and the answers to them will have
  struct QuietSend {
    OpToken token;
    int32_t bytes;
  };
  std::vector<QuietSend> quiet_sends_;  // as submitted; without a token: over
  size_t quiet_sends_at_ = 0;           // before it is the last one that was found to be over
  bool quiet_sends_owed_ = false;       // some may be over that have not been told
  // Operations of this ring that still owe their last completion.
  uint64_t in_flight_ = 0;
  absl::Time now_ = MonotonicNow();

  struct Alarm {
    absl::Time when;
    uint32_t number;
  };
  absl::InlinedVector<Alarm, kAlarmsMax> alarms_;  // with the kernel, the earliest last
  uint32_t next_alarm_ = 0;                        // the next one's number
  __kernel_timespec alarm_time_ = {};              // read when the kernel takes the entry

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
  for (bool Features::*flag : kNotWithSqpoll) (*allowed).*flag &= !features_.sqpoll;
  status = ProbeFeatures(ring_, InternalToken(Internal::kProbe), &features_);
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
    SettleQuietSends();
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

void UringRing::Send(OpToken token, Fd socket, const msghdr* message, Notice notice) {
  io_uring_sqe* sqe = Prepare();
  io_uring_prep_sendmsg(sqe, socket, message, kSendFlags);
  sqe->user_data = token.value();
  ++sends_;
  completions_ += 2;
  if (notice == Notice::kWakes || !features_.quiet_send) return;
  // Over when the call that submits it returns, with everything sent, or with a completion.
  --completions_;
  sqe->user_data = WithKind(kQuietSend, token).value();
  sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
  sqe->msg_flags |= MSG_DONTWAIT;
  int32_t bytes = 0;
  for (size_t i = 0; i < message->msg_iovlen; ++i) {
    bytes += static_cast<int32_t>(message->msg_iov[i].iov_len);
  }
  quiet_sends_.push_back({token, bytes});
}

void UringRing::SettleQuietSends() {
  if (quiet_sends_.empty()) return;
  const unsigned flags =
      std::atomic_ref<unsigned>(*ring_->sq.kflags).load(std::memory_order_relaxed);
  // Not all were taken, or completions are where they can't be seen.
  quiet_sends_owed_ = PublishSubmissions() > 0 || (flags & IORING_SQ_CQ_OVERFLOW) != 0;
  if (quiet_sends_owed_) return;
  const io_uring_cq& cq = ring_->cq;
  const unsigned tail = std::atomic_ref<unsigned>(*cq.ktail).load(std::memory_order_acquire);
  for (unsigned head = *cq.khead; head != tail; ++head) {
    const OpToken token = OpToken::FromValue(cq.cqes[head & cq.ring_mask].user_data);
    if (token.kind() == kQuietSend) ForgetQuietSend(WithKind(OpKind::kSend, token));
  }
  for (const QuietSend& send : quiet_sends_) {
    if (send.token.kind() == OpKind::kNone) continue;
    AddReady(send.token, send.bytes);
    --in_flight_;
  }
  quiet_sends_.clear();
  quiet_sends_at_ = 0;
}

void UringRing::ForgetQuietSend(OpToken token) {
  const auto is_it = [&](const QuietSend& send) { return send.token == token; };
  // Completions mostly come in the order of submission.
  const auto from = quiet_sends_.begin() + static_cast<ptrdiff_t>(quiet_sends_at_);
  auto found = std::find_if(from, quiet_sends_.end(), is_it);
  if (found == quiet_sends_.end()) found = std::find_if(quiet_sends_.begin(), from, is_it);
  if (found == quiet_sends_.end() || !is_it(*found)) return;
  found->token = OpToken();
  quiet_sends_at_ = static_cast<size_t>(found - quiet_sends_.begin()) + 1;
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
    const bool may_sleep = n == 0 && !MoreToArm() && !quiet_sends_owed_;
    if (may_sleep && busy_poll_ > absl::ZeroDuration() && left > absl::ZeroDuration()) {
      n = BusyPoll(std::min(busy_poll_, left), out);
      if (n > 0) break;
      left = now_ + limit - MonotonicNow();
    }
    const bool alarm_set = may_sleep && SetAlarm(now_ + limit, left);
    // The preparing of the alarm may have made room by taking completions.
    const bool sleeps = may_sleep && ready_.empty();
    const WakeUp wake_up = Enter(sleeps ? left : absl::ZeroDuration(), alarm_set);
    n += Collect(out.subspan(n));
    if (n > 0 || wake_up == WakeUp::kTimeout || left <= absl::ZeroDuration()) break;
    // Woken for the ring's own sake, or by a signal. The limit counts from the end of the last
    // turn, which is what the caller took it from, and which saves a look at the clock in every
    // turn.
    left = now_ + limit - MonotonicNow();
    if (left <= absl::ZeroDuration()) break;
  }
  now_ = MonotonicNow();
  return n;
}

size_t UringRing::Collect(absl::Span<Completion> out) {
  SettleQuietSends();
  size_t n = TakeReady(out);
  n += ReapAll(out.subspan(n));
  SettleQuietSends();                    // where completions had overflown
  return n + TakeReady(out.subspan(n));  // and what the ring's own led to: mail
}

size_t UringRing::BusyPoll(absl::Duration limit, absl::Span<Completion> out) {
  const absl::Time end = MonotonicNow() + limit;
  size_t n = 0;
  do {
    Enter(absl::ZeroDuration());
    n = Collect(out);
    // What waits to be armed waits for the next turn's beginning.
    if (MoreToArm() || !(features_.msg_ring || mailbox_armed_)) break;
  } while (n == 0 && MonotonicNow() < end);
  return n;
}

bool UringRing::SetAlarm(absl::Time when, absl::Duration left) {
  if (!features_.lasting_timeout || left < kAlarmLimitMin || left >= kForever) return false;
  if (!alarms_.empty() && alarms_.back().when <= when) return true;
  if (alarms_.size() == kAlarmsMax) return false;
  // Relative: clocks of time namespaces don't matter.
  const timespec time = absl::ToTimespec(left);
  alarm_time_.tv_sec = time.tv_sec;
  alarm_time_.tv_nsec = time.tv_nsec;
  io_uring_sqe* sqe = Prepare();
  io_uring_prep_timeout(sqe, &alarm_time_, 0, 0);
  sqe->user_data = InternalToken(Internal::kAlarm, next_alarm_).value();
  alarms_.push_back({.when = when, .number = next_alarm_++});
  return true;
}

UringRing::WakeUp UringRing::Enter(absl::Duration limit, bool alarm_set) {
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
    completions = completions_;
    arg.min_wait_usec = static_cast<uint32_t>(gather_usec_);
    alarm_set = false;  // without a timeout such a wait ends after its shortest time
  }
  sends_ = completions_ = 0;
  if (wait && !alarm_set && limit < kForever) {
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
  if (ABSL_PREDICT_FALSE(token.kind() == kQuietSend)) {
    out->token = WithKind(OpKind::kSend, token);
    ForgetQuietSend(out->token);
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
    case Internal::kAlarm: {
      const auto alarm = std::find_if(alarms_.begin(), alarms_.end(),
                                      [&](const Alarm& a) { return a.number == token.index(); });
      if (alarm != alarms_.end()) alarms_.erase(alarm);
      if (cqe.res != -ETIME) features_.lasting_timeout = false;
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

std::vector<absl::string_view> RingFeatureNames() {
  std::vector<absl::string_view> names;
  for (const FeatureName& feature : kFeatureNames) names.push_back(feature.name);
  return names;
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
