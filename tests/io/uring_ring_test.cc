// What only the kernel's ring has: features, limits, threads, descriptors. Its behaviour as a ring
// is the business of the conformance suite.

#include "io/uring_ring.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <new>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/config.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#if !defined(ABSL_HAVE_ADDRESS_SANITIZER) && !defined(ABSL_HAVE_THREAD_SANITIZER)
#define COUNT_ALLOCATIONS 1
#endif

namespace {
// Of this thread; constant where they can't be counted.
thread_local size_t allocations = 0;
}  // namespace

#ifdef COUNT_ALLOCATIONS
// Not inlined: GCC would then see a free() of what came from a new.
[[gnu::noinline]] void* operator new(size_t bytes) {
  ++allocations;
  void* memory = malloc(bytes);
  if (memory == nullptr) abort();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { free(memory); }
#endif

namespace io {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::unique_ptr<Ring> NewRing(RingDirectory* directory, RingId id, const RingOptions& options = {},
                              std::vector<std::string>* warnings = nullptr) {
  std::vector<std::string> ignored;
  absl::StatusOr<std::unique_ptr<Ring>> ring =
      MakeUringRing(directory, id, options, warnings == nullptr ? &ignored : warnings);
  if (!ring.ok()) {
    ADD_FAILURE() << ring.status();
    abort();
  }
  return *std::move(ring);
}

// The next completion; a failure if none comes within 20 s.
Completion Next(Ring* ring) {
  Completion completion;
  if (ring->SubmitAndWait(absl::Seconds(20), absl::MakeSpan(&completion, 1)) == 0) {
    ADD_FAILURE() << "no completion";
  }
  return completion;
}

// Two connected sockets on one ring.
struct SocketPair {
  explicit SocketPair(Ring* ring) {
    const Fd listener = *ring->Listen(*Endpoint::FromIp("127.0.0.1", 0), {});
    const Endpoint address = *Endpoint::Parse(ring->LocalName(listener));
    client = *ring->OpenSocket(address);
    const OpToken accept(OpKind::kAccept, 1, 1, 1);
    ring->Accept(accept, listener);
    ring->Connect(OpToken(OpKind::kConnect, 1, 1, 1), client, address);
    bool connected = false;
    bool armed = true;
    while (server < 0 || !connected) {
      const Completion completion = Next(ring);
      EXPECT_GE(completion.result, 0);
      if (completion.token == accept) {
        server = completion.result;
        armed = completion.more;
      } else {
        connected = true;
      }
    }
    if (armed) {
      ring->Cancel(OpToken(), accept);
      EXPECT_EQ(Next(ring).result, -ECANCELED);
    }
    close(listener);
  }
  ~SocketPair() {
    close(server);
    close(client);
  }
  Fd server = -1;
  Fd client = -1;
};

std::set<int> OpenDescriptors() {
  std::set<int> open;
  DIR* directory = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(directory)) {
    const int fd = atoi(entry->d_name);
    if (entry->d_name[0] != '.' && fd != dirfd(directory)) open.insert(fd);
  }
  closedir(directory);
  return open;
}

// Runs `child` in a process of its own and returns the text it returned, or what became of it.
std::string InChild(const std::function<std::string()>& child) {
  int ends[2];
  if (pipe(ends) != 0) return "no pipe";
  const pid_t pid = fork();
  if (pid == 0) {
    close(ends[0]);
    const std::string text = child();
    const bool written = write(ends[1], text.data(), text.size()) == ssize_t(text.size());
    _exit(written ? 0 : 1);
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof(buffer))) > 0;) {
    text.append(buffer, static_cast<size_t>(n));
  }
  close(ends[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  if (status != 0) absl::StrAppend(&text, " (status ", status, ")");
  return text;
}

// From here on this system call fails with `error`, in this thread.
bool Forbid(int call, int error) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {.len = std::size(filter), .filter = filter};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

// What making a ring says where a system call is forbidden.
std::string StatusWhereForbidden(int call, int error) {
  return InChild([=]() -> std::string {
    if (!Forbid(call, error)) return "can't forbid it here";
    RingDirectory directory(1);
    std::vector<std::string> warnings;
    const auto ring = MakeUringRing(&directory, 0, {}, &warnings);
    return ring.ok() ? (*ring)->Describe() : std::string(ring.status().message());
  });
}

// --- making a ring

TEST(UringRingTest, DescribesItselfInOneLineWithEachFeature) {
  RingDirectory directory(1);
  const std::string text = NewRing(&directory, 0)->Describe();
  EXPECT_THAT(text, Not(HasSubstr("\n")));
  for (const char* part :
       {"io_uring defer_taskrun=", " registered_ring=", " multishot_accept=", " multishot_recv=",
        " buffer_ring=", " incremental_buffers=", " msg_ring=", " send_zc=0", " entries=4096",
        " client_buffers=", " backend_buffers="}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(UringRingTest, RefusesToDisableWhatItDoesNotKnow) {
  RingDirectory directory(1);
  std::vector<std::string> warnings;
  const auto ring = MakeUringRing(&directory, 0, {.disabled_features = {"warp_drive"}}, &warnings);
  ASSERT_FALSE(ring.ok());
  EXPECT_THAT(std::string(ring.status().message()), HasSubstr("\"warp_drive\""));
}

TEST(UringRingTest, AMaskedFeatureTakesWithItWhatNeedsItAndIsNoReasonToWarn) {
  RingDirectory directory(1);
  std::vector<std::string> warnings;
  const auto ring =
      NewRing(&directory, 0, {.disabled_features = {"buffer_ring", "cancel_any"}}, &warnings);
  EXPECT_THAT(ring->Describe(),
              AllOf(HasSubstr(" buffer_ring=0"), HasSubstr(" incremental_buffers=0"),
                    HasSubstr(" cancel_any=0"), HasSubstr(" msg_ring=0")));
  EXPECT_THAT(warnings, IsEmpty());
}

TEST(UringRingTest, ANumberBelongsToOneRingAtATime) {
  RingDirectory directory(1);
  std::vector<std::string> warnings;
  auto ring = NewRing(&directory, 0);
  EXPECT_FALSE(MakeUringRing(&directory, 0, {}, &warnings).ok());
  EXPECT_FALSE(MakeUringRing(&directory, 1, {}, &warnings).ok());
  directory.Post(0, {.kind = 1, .value = 2});
  EXPECT_EQ(Next(ring.get()).result, 2) << "the refused ring took the first one's place";
  ring.reset();
  EXPECT_TRUE(MakeUringRing(&directory, 0, {}, &warnings).ok());
}

TEST(UringRingTest, WithoutIncrementalBuffersThereAreFourTimesAsManySmallOnes) {
  RingDirectory directory(1);
  RingOptions options{.client_buffers = 3, .backend_buffers = 5};
  EXPECT_THAT(NewRing(&directory, 0, options)->Describe(),
              AnyOf(AllOf(HasSubstr("incremental_buffers=1"), HasSubstr(" client_buffers=3x65536"),
                          HasSubstr(" backend_buffers=5x65536")),
                    HasSubstr("incremental_buffers=0")));
  options.disabled_features = {"incremental_buffers"};
  EXPECT_THAT(NewRing(&directory, 0, options)->Describe(),
              AllOf(HasSubstr(" client_buffers=12x16384"), HasSubstr(" backend_buffers=20x16384")));
}

TEST(UringRingTest, UnsuitableBuffersAreRefused) {
  RingDirectory directory(1);
  std::vector<std::string> warnings;
  EXPECT_FALSE(MakeUringRing(&directory, 0, {.client_buffers = 0}, &warnings).ok());
  EXPECT_FALSE(MakeUringRing(&directory, 0, {.client_buffers = 32769}, &warnings).ok());
  EXPECT_FALSE(MakeUringRing(&directory, 0, {.buffer_bytes = 0}, &warnings).ok() &&
               MakeUringRing(&directory, 0, {.buffer_bytes_plain = 0}, &warnings).ok());
}

TEST(UringRingTest, WhereSeccompForbidsIoUringTheErrorNamesCauseAndRemedyInOneLine) {
  for (const int call : {SYS_io_uring_setup, SYS_io_uring_enter}) {
    SCOPED_TRACE(call);
    const std::string forbidden = StatusWhereForbidden(call, EPERM);
    EXPECT_THAT(forbidden, AllOf(HasSubstr("io_uring is not available"), HasSubstr("seccomp"),
                                 HasSubstr("allow io_uring_setup"), Not(HasSubstr("\n"))));
    const std::string missing = StatusWhereForbidden(call, ENOSYS);
    EXPECT_THAT(missing, AllOf(HasSubstr("io_uring is not available"), HasSubstr("seccomp"),
                               HasSubstr("Linux 6.1"), Not(HasSubstr("\n"))));
  }
  EXPECT_THAT(StatusWhereForbidden(SYS_io_uring_setup, ENOMEM), HasSubstr("RLIMIT_MEMLOCK"));
  EXPECT_THAT(StatusWhereForbidden(SYS_io_uring_setup, EMFILE), HasSubstr("RLIMIT_NOFILE"));
}

TEST(UringRingTest, WithoutTheRightToRegisterItGoesWithoutWhatNeedsIt) {
  EXPECT_THAT(StatusWhereForbidden(SYS_io_uring_register, EPERM),
              AllOf(HasSubstr(" registered_ring=0"), HasSubstr(" buffer_ring=0"),
                    HasSubstr(" multishot_recv=1")));
}

// An ordinary user with little locked memory: fewer entries, said so, and a ring that works.
TEST(UringRingTest, ShortOfLockedMemoryItTakesFewerEntries) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become an ordinary user";
  const std::string text = InChild([]() -> std::string {
    const rlimit limit = {.rlim_cur = 64 << 10, .rlim_max = 64 << 10};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || setuid(54321) != 0) return "can't limit it";
    RingDirectory directory(1);
    std::vector<std::string> warnings;
    const auto ring = MakeUringRing(&directory, 0, {.entries = 4096}, &warnings);
    if (!ring.ok()) return std::string(ring.status().message());
    directory.Post(0, {.kind = 1, .value = 77});
    return absl::StrCat(warnings.empty() ? "" : warnings[0], "|", (*ring)->Describe(), "|",
                        Next(ring->get()).result);
  });
  // Kernels that don't count rings against the limit have all entries and no warning.
  EXPECT_THAT(text, AnyOf(AllOf(HasSubstr("no memory for 4096"), HasSubstr("RLIMIT_MEMLOCK"),
                                Not(HasSubstr(" entries=4096"))),
                          AllOf(testing::StartsWith("|"), HasSubstr(" entries=4096"))));
  EXPECT_THAT(text, testing::EndsWith("|77"));
}

TEST(UringRingTest, ShortOfLockedMemoryZeroCopyIsOffWithOneWarning) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become an ordinary user";
  const std::string text = InChild([]() -> std::string {
    const rlimit limit = {.rlim_cur = 1 << 20, .rlim_max = 1 << 20};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || setuid(54322) != 0) return "can't limit it";
    RingDirectory directory(1);
    std::vector<std::string> warnings;
    const auto ring =
        MakeUringRing(&directory, 0, {.entries = 256, .zero_copy_send = true}, &warnings);
    if (!ring.ok()) return std::string(ring.status().message());
    return absl::StrCat(warnings.size(), (*ring)->zero_copy_send() ? " on " : " off ",
                        warnings.empty() ? "" : warnings[0]);
  });
  if (absl::StartsWith(text, "1 off io_uring: send_zc")) GTEST_SKIP() << text;
  EXPECT_THAT(text, AllOf(testing::StartsWith("1 off zero-copy send is off"),
                          HasSubstr("RLIMIT_MEMLOCK"), Not(HasSubstr("\n"))));
}

// --- sockets

TEST(UringRingTest, AcceptedAndOpenedSocketsHaveTheUsualOptions) {
  for (const char* masked : {"", "multishot_accept"}) {
    SCOPED_TRACE(masked);
    RingDirectory directory(1);
    RingOptions options;
    if (*masked != '\0') options.disabled_features = {masked};
    const auto ring = NewRing(&directory, 0, options);
    const SocketPair pair(ring.get());
    for (const Fd fd : {pair.server, pair.client}) {
      const auto option = [fd](int level, int name) {
        int value = -1;
        socklen_t length = sizeof(value);
        EXPECT_EQ(getsockopt(fd, level, name, &value, &length), 0);
        return value;
      };
      EXPECT_EQ(option(IPPROTO_TCP, TCP_NODELAY), 1);
      EXPECT_EQ(option(SOL_SOCKET, SO_KEEPALIVE), 1);
      EXPECT_EQ(option(IPPROTO_TCP, TCP_KEEPIDLE), 60);
      EXPECT_EQ(option(IPPROTO_TCP, TCP_USER_TIMEOUT), 90000);
      EXPECT_NE(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
      EXPECT_NE(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    }
  }
}

TEST(UringRingTest, SmallInputsShareAnIncrementalBufferAndJoin) {
  RingDirectory directory(1);
  const auto ring = NewRing(&directory, 0, {.client_buffers = 1});
  if (!absl::StrContains(ring->Describe(), "incremental_buffers=1")) {
    GTEST_SKIP() << "this kernel has none";
  }
  const SocketPair pair(ring.get());
  const OpToken token(OpKind::kRecv, 1, 2, 3);
  ring->Recv(token, pair.server, BufferGroup::kClients);
  Rope rope;
  for (int i = 0; i < 1000; ++i) {
    const std::string text = absl::StrCat("input ", i, ";");
    ASSERT_EQ(write(pair.client, text.data(), text.size()), static_cast<ssize_t>(text.size()));
    Completion completion = Next(ring.get());
    ASSERT_TRUE(completion.more);
    ASSERT_EQ(completion.data.bytes(), text);
    rope.Append(std::move(completion.data));
  }
  EXPECT_EQ(rope.slices().size(), 1u);
  EXPECT_EQ(ring->FreeBufferShare(BufferGroup::kClients), 1);
}

TEST(UringRingTest, AZeroCopySendOverLoopbackReportsThatItCopied) {
  RingDirectory directory(1);
  const auto ring = NewRing(&directory, 0, {.zero_copy_send = true});
  if (!absl::StrContains(ring->Describe(), "send_zc_report=1")) {
    GTEST_SKIP() << "this kernel can't tell";
  }
  const SocketPair pair(ring.get());
  const std::string text(10000, 'z');
  const OpToken token(OpKind::kSend, 1, 2, 3);
  ring->SendZeroCopy(token, pair.client, text);
  const Completion result = Next(ring.get());
  EXPECT_EQ(result.result, 10000);
  ASSERT_TRUE(result.more);
  std::string received(text.size(), '\0');
  EXPECT_EQ(recv(pair.server, received.data(), received.size(), MSG_WAITALL), 10000);
  const Completion release = Next(ring.get());
  EXPECT_EQ(release.token, token);
  EXPECT_TRUE(release.send_released);
  EXPECT_TRUE(release.send_copied);
  EXPECT_EQ(release.result, 0);
}

// --- turns

TEST(UringRingTest, NowIsTheMonotonicClock) {
  RingDirectory directory(1);
  const auto ring = NewRing(&directory, 0);
  const auto clock = [] {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return absl::UnixEpoch() + absl::DurationFromTimespec(now);
  };
  const absl::Time before = clock();
  Completion completion;
  ring->SubmitAndWait(absl::ZeroDuration(), absl::MakeSpan(&completion, 1));
  EXPECT_GE(ring->Now(), before);
  EXPECT_LE(ring->Now(), clock());
}

TEST(UringRingTest, ASignalDoesNotCutATurnShort) {
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  struct sigaction previous;
  sigaction(SIGUSR1, &action, &previous);
  RingDirectory directory(1);
  const auto ring = NewRing(&directory, 0);
  std::atomic<bool> done{false};
  const pthread_t self = pthread_self();
  std::thread disturber([&] {
    while (!done) {
      pthread_kill(self, SIGUSR1);
      std::this_thread::yield();
    }
  });
  Completion completion;
  const absl::Time start = ring->Now();
  EXPECT_EQ(ring->SubmitAndWait(absl::Milliseconds(50), absl::MakeSpan(&completion, 1)), 0u);
  EXPECT_GE(ring->Now() - start, absl::Milliseconds(50));
  done = true;
  disturber.join();
  sigaction(SIGUSR1, &previous, nullptr);
}

// Two ends of a stream, of which only one is the ring's.
class QuietSendTest : public testing::Test {
 protected:
  QuietSendTest() { EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends_), 0); }
  ~QuietSendTest() override {
    close(ends_[0]);
    close(ends_[1]);
  }

  bool works() const { return absl::StrContains(ring_->Describe(), " quiet_send=1"); }
  void Send(uint32_t number, Notice notice) {
    ring_->Send(OpToken(OpKind::kSend, 1, number, 1), ends_[0], &message_, notice);
  }

  RingDirectory directory_{1};
  std::unique_ptr<Ring> ring_ = NewRing(&directory_, 0);
  int ends_[2];
  std::array<char, 10000> bytes_ = {};
  iovec part_{bytes_.data(), bytes_.size()};
  msghdr message_{nullptr, 0, &part_, 1, nullptr, 0, 0};
  Completion batch_[64];
};

TEST_F(QuietSendTest, ItDoesNotEndAWait) {
  if (!works()) GTEST_SKIP() << "the kernel can't leave out a completion";
  Send(1, Notice::kQuiet);
  const absl::Time start = ring_->Now();
  ASSERT_EQ(ring_->SubmitAndWait(absl::Milliseconds(50), absl::MakeSpan(batch_)), 1u);
  EXPECT_GE(ring_->Now() - start, absl::Milliseconds(50));
  EXPECT_EQ(batch_[0].token, OpToken(OpKind::kSend, 1, 1, 1));
  EXPECT_EQ(batch_[0].result, static_cast<int>(bytes_.size()));
  std::array<char, 20000> read_bytes;
  EXPECT_EQ(read(ends_[1], read_bytes.data(), read_bytes.size()), ssize_t{10000});
}

TEST_F(QuietSendTest, ItsCompletionComesBeforeThatOfWhatEndsTheWait) {
  if (!works()) GTEST_SKIP() << "the kernel can't leave out a completion";
  ring_->Recv(OpToken(OpKind::kRecv, 1, 2, 1), ends_[0], BufferGroup::kClients);
  Send(1, Notice::kQuiet);
  ASSERT_EQ(write(ends_[1], "x", 1), 1);
  size_t n = 0;
  while (n < 2) {
    const size_t more = ring_->SubmitAndWait(absl::Seconds(20), absl::MakeSpan(batch_).subspan(n));
    ASSERT_GT(more, 0u);
    n += more;
  }
  ASSERT_EQ(n, 2u);
  EXPECT_EQ(batch_[0].token, OpToken(OpKind::kSend, 1, 1, 1));
  EXPECT_EQ(batch_[1].token, OpToken(OpKind::kRecv, 1, 2, 1));
}

TEST_F(QuietSendTest, WithoutRoomItEndsTheWait) {
  if (!works()) GTEST_SKIP() << "the kernel can't leave out a completion";
  const absl::Time start = ring_->Now();
  int last = 1;
  for (uint32_t i = 1; last > 0 && i < 10000; ++i) {
    Send(i, Notice::kQuiet);
    ASSERT_EQ(ring_->SubmitAndWait(absl::ZeroDuration(), absl::MakeSpan(batch_)), 1u);
    ASSERT_EQ(batch_[0].token, OpToken(OpKind::kSend, 1, i, 1));
    last = batch_[0].result;
  }
  EXPECT_EQ(last, -EAGAIN);
  Send(0, Notice::kQuiet);
  ASSERT_EQ(ring_->SubmitAndWait(absl::Seconds(60), absl::MakeSpan(batch_)), 1u);
  EXPECT_EQ(batch_[0].token, OpToken(OpKind::kSend, 1, 0, 1));
  EXPECT_EQ(batch_[0].result, -EAGAIN);
  EXPECT_LT(ring_->Now() - start, absl::Seconds(30));
}

TEST_F(QuietSendTest, OneThatSendsAPartSaysHowMuchAndEndsTheWait) {
  if (!works()) GTEST_SKIP() << "the kernel can't leave out a completion";
  std::string text(16 << 20, 'x');
  part_ = {text.data(), text.size()};
  const absl::Time start = ring_->Now();
  Send(1, Notice::kQuiet);
  ASSERT_EQ(ring_->SubmitAndWait(absl::Seconds(60), absl::MakeSpan(batch_)), 1u);
  EXPECT_LT(ring_->Now() - start, absl::Seconds(30));
  const ssize_t sent = batch_[0].result;
  EXPECT_GT(sent, 0);
  EXPECT_LT(sent, ssize_t{16} << 20);
  ssize_t came = 0;
  for (ssize_t n; (n = recv(ends_[1], text.data(), text.size(), MSG_DONTWAIT)) > 0;) came += n;
  EXPECT_EQ(came, sent);
}

// 8 entries have room for 32 completions: failures beyond that are where they can't be seen.
TEST(UringRingTest, EachQuietSendEndsOnceWhenTheQueueOverflows) {
  RingDirectory directory(1);
  const auto ring = NewRing(&directory, 0, {.entries = 8});
  constexpr uint32_t kPairs = 200;
  char byte = 'x';
  iovec part{&byte, 1};
  msghdr message{nullptr, 0, &part, 1, nullptr, 0, 0};
  int ends[kPairs][2];
  for (uint32_t i = 0; i < kPairs; ++i) {
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends[i]), 0);
    if (i % 2 == 1) shutdown(ends[i][1], SHUT_RD);  // these fail
    ring->Send(OpToken(OpKind::kSend, 1, i, 1), ends[i][0], &message, Notice::kQuiet);
    ring->Close(OpToken(OpKind::kClose, 1, i, 1), -1);
  }
  std::set<uint32_t> sends, closes;
  Completion batch[16];
  while (sends.size() < kPairs || closes.size() < kPairs) {
    const size_t n = ring->SubmitAndWait(absl::Seconds(20), absl::MakeSpan(batch));
    ASSERT_GT(n, 0u);
    for (size_t i = 0; i < n; ++i) {
      const uint32_t index = batch[i].token.index();
      if (batch[i].token.kind() == OpKind::kSend) {
        EXPECT_TRUE(sends.insert(index).second) << index << " twice";
        EXPECT_EQ(batch[i].result, index % 2 == 1 ? -EPIPE : 1) << index;
      } else {
        EXPECT_TRUE(closes.insert(index).second) << index << " twice";
      }
    }
  }
  EXPECT_EQ(ring->SubmitAndWait(absl::ZeroDuration(), absl::MakeSpan(batch)), 0u);
  for (const auto& pair : ends) {
    close(pair[0]);
    close(pair[1]);
  }
}

class GatherTest : public testing::Test {
 protected:
  // Completions.
  struct Came {
    size_t sends = 0;
    size_t answers = 0;
  };

  GatherTest() : ring_(NewRing(&directory_, 0)) {
    for (size_t i = 0; i < kSockets; ++i) {
      int pair[2];
      EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
      own_[i] = pair[0];
      others_[i] = pair[1];
      ring_->Recv(OpToken(OpKind::kRecv, 1, static_cast<uint32_t>(i), 1), own_[i],
                  BufferGroup::kClients);
    }
  }
  ~GatherTest() override {
    if (answerer_.joinable()) answerer_.join();
    for (size_t i = 0; i < kSockets; ++i) {
      close(own_[i]);
      close(others_[i]);
    }
  }

  // Another thread answers each byte as it comes.
  void AnswerAll() {
    answerer_ = std::thread([this] {
      for (const int other : others_) {
        char byte;
        if (read(other, &byte, 1) != 1 || write(other, &byte, 1) != 1) return;
      }
    });
  }

  // Sends a byte on each of so many sockets. What one call then gives.
  Came SendAndWait(size_t sends, Notice notice = Notice::kWakes,
                   absl::Duration limit = absl::Seconds(60)) {
    for (size_t i = 0; i < sends; ++i) {
      ring_->Send(OpToken(OpKind::kSend, 1, static_cast<uint32_t>(i), 1), own_[i], &message_,
                  notice);
    }
    std::array<Completion, 64> batch;
    const size_t n = ring_->SubmitAndWait(limit, absl::MakeSpan(batch));
    Came came;
    for (size_t i = 0; i < n; ++i) {
      EXPECT_EQ(batch[i].result, 1);
      ++(batch[i].token.kind() == OpKind::kSend ? came.sends : came.answers);
    }
    return came;
  }

  bool works() const { return absl::StrContains(ring_->Describe(), " min_wait=1"); }

  static constexpr size_t kSockets = Ring::kGatherSends;
  RingDirectory directory_{1};
  std::unique_ptr<Ring> ring_;
  std::array<int, kSockets> own_;
  std::array<int, kSockets> others_;
  std::thread answerer_;
  char byte_ = 'x';
  iovec part_{&byte_, 1};
  msghdr message_{nullptr, 0, &part_, 1, nullptr, 0, 0};
};

TEST_F(GatherTest, AWaitAfterManySendsEndsWhenAllAreAnswered) {
  if (!works()) GTEST_SKIP() << "the kernel has no min_wait";
  ring_->SetGatherTime(absl::Seconds(30));
  AnswerAll();
  const Came came = SendAndWait(kSockets);
  EXPECT_EQ(came.sends, kSockets);
  EXPECT_EQ(came.answers, kSockets);
}

TEST_F(GatherTest, AWaitAfterManyQuietSendsEndsWhenAllAreAnswered) {
  if (!works()) GTEST_SKIP() << "the kernel has no min_wait";
  ring_->SetGatherTime(absl::Seconds(30));
  AnswerAll();
  const Came came = SendAndWait(kSockets, Notice::kQuiet);
  EXPECT_EQ(came.sends, kSockets);
  EXPECT_EQ(came.answers, kSockets);
}

TEST_F(GatherTest, AWaitAfterManyQuietSendsLastsUntilItsLimitWhenAnswersAreMissing) {
  if (!absl::StrContains(ring_->Describe(), " quiet_send=1")) {
    GTEST_SKIP() << "the kernel can't leave out a completion";
  }
  ring_->SetGatherTime(absl::Milliseconds(10));
  const absl::Time begin = absl::Now();
  const Came came = SendAndWait(kSockets, Notice::kQuiet, absl::Milliseconds(60));
  EXPECT_EQ(came.sends, kSockets);
  EXPECT_EQ(came.answers, 0u);
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(60));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(30));
}

TEST_F(GatherTest, ItEndsAfterTheTimeWhenAnswersAreMissing) {
  ring_->SetGatherTime(absl::Milliseconds(20));
  const absl::Time begin = absl::Now();
  const Came came = SendAndWait(kSockets);
  EXPECT_EQ(came.sends, kSockets);
  EXPECT_EQ(came.answers, 0u);
  const absl::Duration least = works() ? absl::Milliseconds(20) : absl::ZeroDuration();
  EXPECT_GE(absl::Now() - begin, least);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(30));
}

TEST_F(GatherTest, FewerSendsOrNoTimeEndWithTheFirstCompletions) {
  const absl::Time begin = absl::Now();
  EXPECT_EQ(SendAndWait(kSockets).sends, kSockets);
  ring_->SetGatherTime(absl::Seconds(30));
  EXPECT_EQ(SendAndWait(kSockets - 1).sends, kSockets - 1);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(30));
}

// 8 entries have room for 32 completions: what is beyond waits in the kernel.
TEST(UringRingTest, NoCompletionIsLostWhenTheQueueOverflows) {
  for (const char* masked : {"", "defer_taskrun"}) {
    SCOPED_TRACE(masked);
    RingDirectory directory(2);
    RingOptions options{.entries = 8};
    if (*masked != '\0') options.disabled_features = {masked};
    const auto ring = NewRing(&directory, 0, options);
    const auto sender = NewRing(&directory, 1, options);
    for (uint32_t i = 0; i < 1000; ++i) {
      sender->Post(OpToken(OpKind::kPost, 1, i, 1), 0, {.kind = 1, .value = i});
      ring->Close(OpToken(OpKind::kClose, 1, i, 1), -1);
    }
    Completion batch[16];
    uint32_t posted = 0;
    while (posted < 1000) {
      const size_t n = sender->SubmitAndWait(absl::Seconds(20), absl::MakeSpan(batch));
      ASSERT_GT(n, 0u);
      for (size_t i = 0; i < n; ++i) {
        EXPECT_EQ(batch[i].result, 0);
        EXPECT_EQ(batch[i].token.index(), posted++);
      }
    }
    uint32_t messages = 0;
    uint32_t closes = 0;
    while (messages < 1000 || closes < 1000) {
      const size_t n = ring->SubmitAndWait(absl::Seconds(20), absl::MakeSpan(batch));
      ASSERT_GT(n, 0u);
      for (size_t i = 0; i < n; ++i) {
        if (batch[i].token.kind() == OpKind::kMessage) {
          EXPECT_EQ(static_cast<uint32_t>(batch[i].result), messages++);
        } else {
          EXPECT_EQ(batch[i].token.index(), closes++);
        }
      }
    }
  }
}

TEST(UringRingTest, ARequestAndItsReplyAllocateNothing) {
#ifndef COUNT_ALLOCATIONS
  GTEST_SKIP() << "the sanitizer has its own allocator";
#endif
  RingDirectory directory(1);
  const auto ring = NewRing(&directory, 0);
  const SocketPair pair(ring.get());
  const OpToken at_server(OpKind::kRecv, 1, 1, 1);
  const OpToken at_client(OpKind::kRecv, 1, 2, 1);
  ring->Recv(at_server, pair.server, BufferGroup::kClients);
  ring->Recv(at_client, pair.client, BufferGroup::kBackends);
  char text[100] = {};
  const iovec part = {.iov_base = text, .iov_len = sizeof(text)};
  msghdr message = {};
  message.msg_iov = const_cast<iovec*>(&part);
  message.msg_iovlen = 1;
  Completion batch[16];
  size_t before = 0;
  for (int i = 0; i < 5000; ++i) {
    if (i == 1000) before = allocations;
    ring->Send(OpToken(OpKind::kSend, 1, 3, 1), pair.client, &message,
               i % 2 == 0 ? Notice::kQuiet : Notice::kWakes);
    size_t expected = sizeof(text);
    bool sent = false;
    while (expected > 0 || !sent) {
      const size_t n = ring->SubmitAndWait(absl::Seconds(20), absl::MakeSpan(batch));
      ASSERT_GT(n, 0u);
      for (size_t j = 0; j < n; ++j) {
        ASSERT_GT(batch[j].result, 0);
        if (batch[j].token == at_server) {
          expected -= static_cast<size_t>(batch[j].result);
          if (!batch[j].more) ring->Recv(at_server, pair.server, BufferGroup::kClients);
        } else {
          sent = true;
        }
        batch[j].data = Slice();
      }
    }
  }
  EXPECT_EQ(allocations - before, 0u);
}

// --- ending

TEST(UringRingTest, AnEndedRingLeavesNoDescriptorAndNoListenerBehind) {
  const std::set<int> before = OpenDescriptors();
  {
    RingDirectory directory(1);
    auto ring = NewRing(&directory, 0);
    const Fd listener = *ring->Listen(*Endpoint::FromIp("127.0.0.1", 0), {});
    const Endpoint address = *Endpoint::Parse(ring->LocalName(listener));
    ring->Accept(OpToken(OpKind::kAccept, 1, 1, 1), listener);
    Completion completion;
    ring->SubmitAndWait(absl::ZeroDuration(), absl::MakeSpan(&completion, 1));
    // Accepted by the kernel, never handed out.
    Fd clients[3];
    for (Fd& client : clients) {
      client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      ASSERT_EQ(connect(client, address.address(), address.length()), 0);
    }
    close(listener);
    ring.reset();
    const absl::StatusOr<Fd> again = OpenListener(address, {.retry_ms = 0});
    EXPECT_TRUE(again.ok()) << again.status();
    if (again.ok()) close(*again);
    for (Fd client : clients) close(client);
  }
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST(UringRingTest, RingsThatComeAndGoLeaveNothingBehind) {
  const std::set<int> before = OpenDescriptors();
  for (int i = 0; i < 20; ++i) {
    RingDirectory directory(2);
    auto first = NewRing(&directory, 0, {.entries = 64});
    const auto second = NewRing(&directory, 1, {.entries = 64});
    first.reset();
    first = NewRing(&directory, 0, {.entries = 64});
    second->Post(OpToken(OpKind::kPost, 1, 1, 1), 0, {.kind = 1, .value = 9});
    EXPECT_EQ(Next(second.get()).result, 0);
    EXPECT_EQ(Next(first.get()).result, 9) << "the new ring of that number gets it";
  }
  EXPECT_EQ(OpenDescriptors(), before);
}

// --- threads

// Two threads, each with its ring, send each other numbers; what a number stands for lies beside.
void PostBothWays(const std::vector<std::string>& disabled) {
  constexpr uint32_t kMessages = 20000;
  RingDirectory directory(2);
  // Written by the sender before it posts, read by the receiver: ordered by the message alone.
  std::vector<uint32_t> beside[2] = {std::vector<uint32_t>(kMessages),
                                     std::vector<uint32_t>(kMessages)};
  std::atomic<int> open{0};
  std::atomic<int> finished{0};
  const auto run = [&](RingId me) {
    const auto ring = NewRing(&directory, me, {.entries = 256, .disabled_features = disabled});
    open.fetch_add(1);
    while (open.load() < 2) std::this_thread::yield();
    const RingId other = 1 - me;
    uint32_t posted = 0;
    uint32_t confirmed = 0;
    uint32_t received = 0;
    Completion batch[64];
    while (received < kMessages || confirmed < kMessages) {
      for (int i = 0; i < 100 && posted < kMessages; ++i, ++posted) {
        beside[me][posted] = posted * 7;
        ring->Post(OpToken(OpKind::kPost, 1, posted, 1), other, {.kind = 5, .value = posted});
      }
      const size_t n = ring->SubmitAndWait(
          posted < kMessages ? absl::ZeroDuration() : absl::Seconds(20), absl::MakeSpan(batch));
      for (size_t i = 0; i < n; ++i) {
        if (batch[i].token.kind() == OpKind::kPost) {
          EXPECT_EQ(batch[i].result, 0);
          ++confirmed;
        } else {
          EXPECT_EQ(static_cast<uint32_t>(batch[i].result), received);
          EXPECT_EQ(beside[other][received], received * 7);
          ++received;
        }
      }
      if (n == 0 && posted == kMessages) {
        ADD_FAILURE() << "no message for 20 s";
        break;
      }
    }
    finished.fetch_add(1);
    while (finished.load() < 2) std::this_thread::yield();
  };
  std::thread first(run, 0);
  std::thread second(run, 1);
  first.join();
  second.join();
}

TEST(UringRingThreadsTest, RingMessagesBetweenThreadsArriveInOrder) { PostBothWays({}); }
TEST(UringRingThreadsTest, RingMessagesToARingWithoutDeferredWorkArriveInOrder) {
  PostBothWays({"defer_taskrun"});
}
TEST(UringRingThreadsTest, MailBetweenThreadsArrivesInOrder) { PostBothWays({"msg_ring"}); }

TEST(UringRingThreadsTest, ThreadsWithoutARingReachOneEachInItsOrder) {
  constexpr int kThreads = 4;
  constexpr uint32_t kMessages = 5000;
  RingDirectory directory(1);
  const auto ring = NewRing(&directory, 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&directory, t] {
      for (uint32_t i = 0; i < kMessages; ++i) {
        directory.Post(0, {.kind = static_cast<uint8_t>(t), .value = i});
      }
    });
  }
  std::vector<uint32_t> next(kThreads);
  Completion batch[64];
  for (uint32_t total = 0; total < kThreads * kMessages;) {
    const size_t n = ring->SubmitAndWait(absl::Seconds(20), absl::MakeSpan(batch));
    ASSERT_GT(n, 0u);
    for (size_t i = 0; i < n; ++i) {
      EXPECT_EQ(static_cast<uint32_t>(batch[i].result), next[batch[i].message_kind]++);
    }
    total += static_cast<uint32_t>(n);
  }
  for (std::thread& thread : threads) thread.join();
}

// A receiver may end at any moment; whoever posts is told, or loses what can't be read any more.
void PostWhileItEnds(const std::vector<std::string>& disabled) {
  RingDirectory directory(2);
  std::atomic<bool> done{false};
  std::thread poster([&] {
    for (uint32_t i = 0; !done; ++i) {
      directory.Post(0, {.kind = 1, .value = i});
      if (i % 16 == 0) std::this_thread::yield();
    }
  });
  std::atomic<uint32_t> failed{0};
  std::thread sender([&] {
    const auto ring = NewRing(&directory, 1, {.entries = 64, .disabled_features = disabled});
    Completion batch[64];
    size_t in_flight = 0;
    for (uint32_t i = 0; !done || in_flight > 0; ++i) {
      if (!done) {
        ring->Post(OpToken(OpKind::kPost, 1, i, 1), 0, {.kind = 2, .value = i});
        ++in_flight;
      }
      const size_t n = ring->SubmitAndWait(done ? absl::Seconds(20) : absl::ZeroDuration(),
                                           absl::MakeSpan(batch));
      if (done && n == 0 && in_flight > 0) {
        ADD_FAILURE() << "a post that never completed";
        break;
      }
      in_flight -= n;
      for (size_t j = 0; j < n; ++j) {
        EXPECT_LE(batch[j].result, 0);
        if (batch[j].result < 0) failed.fetch_add(1);
      }
    }
  });
  for (int i = 0; i < 30; ++i) {
    const auto ring = NewRing(&directory, 0, {.entries = 64, .disabled_features = disabled});
    Completion batch[64];
    size_t received = 0;
    while (received < 100) {
      const size_t n = ring->SubmitAndWait(absl::Seconds(20), absl::MakeSpan(batch));
      ASSERT_GT(n, 0u);
      received += n;
    }
  }
  // Without a receiver posts do fail.
  const uint32_t before = failed.load();
  while (failed.load() == before) std::this_thread::yield();
  done = true;
  poster.join();
  sender.join();
}

TEST(UringRingThreadsTest, ARingMayEndWhileOthersPostRingMessages) { PostWhileItEnds({}); }
TEST(UringRingThreadsTest, ARingMayEndWhileOthersPostMail) { PostWhileItEnds({"msg_ring"}); }

}  // namespace
}  // namespace io
