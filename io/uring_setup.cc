#include "io/uring_setup.h"

#include <sys/resource.h>

#include <cstdio>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"

namespace io {
namespace {

// io_uring_params.features: a wait for many completions may end with fewer after a time (6.12).
constexpr unsigned kFeatureMinTimeout = 1u << 15;
// The kernel's submitting thread sleeps after so long without work.
constexpr unsigned kSubmissionThreadIdleMs = 100;

// The number in a small file of /proc; -1 if there is none.
int ReadProcNumber(const char* path) {
  FILE* file = fopen(path, "re");
  if (file == nullptr) return -1;
  int value = -1;
  if (fscanf(file, "%d", &value) != 1) value = -1;
  fclose(file);
  return value;
}

}  // namespace

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
    features->quiet_send &= (params.features & IORING_FEAT_CQE_SKIP) != 0;
    break;
  }
  for (bool Features::*flag : kNotWithSqpoll) (*features).*flag &= !features->sqpoll;
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

void KeepForever(std::unique_ptr<BufferPool> pool) {
  static std::mutex mutex;
  static auto* pools = new std::vector<std::unique_ptr<BufferPool>>;
  const std::lock_guard<std::mutex> lock(mutex);
  pools->push_back(std::move(pool));
}

}  // namespace io
