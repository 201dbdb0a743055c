#pragma once

// File: io/uring_ring.h
//
// `Ring` on the Linux kernel's io_uring. Features are probed by use when a ring is made
// (io/uring_probe.h); each one that is missing degrades on its own.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "io/ring.h"
#include "io/ring_directory.h"

namespace io {

struct RingOptions {
  unsigned entries = 4096;  // of the submission queue; halved down to 256 if not to be had
  // Receive buffers of each group. Only `lent_buffers` of them are with the kernel at a time: it
  // goes round in those, so they stay in the processor's cache, and what is held longer (values on
  // their way through) is replaced from the rest.
  uint32_t client_buffers = 512;
  uint32_t backend_buffers = 512;
  uint32_t lent_buffers = 32;
  size_t buffer_bytes = 64 << 10;        // with incremental buffers; without: buffers_bytes_plain
  size_t buffer_bytes_plain = 16 << 10;  // then four times as many buffers, and as many lent
  bool zero_copy_send = false;           // registers the receive buffers as fixed buffers too
  // Looks for completions for so long before it sleeps: takes a processor for itself.
  absl::Duration busy_poll = absl::ZeroDuration();
  // A thread of the kernel submits, and takes a processor for itself while there is work
  // (io_uring_setup(2), IORING_SETUP_SQPOLL).
  bool submission_thread = false;
  std::vector<std::string> disabled_features = {};  // of RingFeatureNames(); they count as missing
};

// What a ring can do without, by the names that Describe() shows.
std::vector<absl::string_view> RingFeatureNames();

// Makes a ring for the calling thread, which also destroys it, after the last slice into its
// buffers has gone. The end cancels what is armed and waits until the kernel has let go of all
// memory; descriptors are left open, but for those accepted and not yet handed out. Errors say the
// likely cause and the remedy in one line (where io_uring is forbidden: container seccomp profile,
// kernel.io_uring_disabled, RLIMIT_MEMLOCK, …). Warnings about degraded features go to *warnings,
// one line each.
absl::StatusOr<std::unique_ptr<Ring>> MakeUringRing(RingDirectory* directory, RingId id,
                                                    const RingOptions& options,
                                                    std::vector<std::string>* warnings);

}  // namespace io
