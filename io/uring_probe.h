#pragma once

// File: io/uring_probe.h
//
// Finds out by use which features of io_uring work. For the io/uring_*.cc only.

#include "absl/status/status.h"
#include "io/ring.h"
#include "io/uring_setup.h"

namespace io {

// Clears the flags of what does not work. `target` is the ring to be used, which has no traffic
// yet; `token` is posted to it, and taken again unless that lasts too long. Fails if io_uring can't
// be used at all.
absl::Status ProbeFeatures(io_uring* target, OpToken token, Features* features);

}  // namespace io
