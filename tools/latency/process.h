#pragma once

// File: tools/latency/process.h
//
// Processes of this machine, as /proc shows them: who listens on a port, whom a process is
// connected to, and the processor time that it has used. What can't be read (another user's
// process, another machine's) is missing, never guessed.

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <vector>

#include "absl/types/span.h"
#include "io/socket.h"

namespace latency {

// The processes that listen on this address (several if they share the port, or were forked).
std::vector<pid_t> ListenersOf(const io::Endpoint& address);
// The processes of this machine that these are connected to, by TCP, as clients. Not themselves.
std::vector<pid_t> BackendsOf(absl::Span<const pid_t> pids);
bool ProcessExists(pid_t pid);

// Processor time of some processes, user and system, at one moment.
class CpuReading {
 public:
  // Threads of io_uring's workers belong to their process and count.
  static CpuReading Of(absl::Span<const pid_t> pids);
  // Time used since then by the same processes, in seconds; NaN if there are none, or one of them
  // can't be read, or has ended.
  double SecondsSince(const CpuReading& before) const;

 private:
  bool complete_ = false;
  std::map<pid_t, uint64_t> threads_;    // ns, exact
  std::map<pid_t, uint64_t> processes_;  // clock ticks, of ended threads too
};

}  // namespace latency
