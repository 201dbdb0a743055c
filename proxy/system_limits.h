#pragma once

// File: proxy/system_limits.h
//
// What the machine and its control groups grant to this process. Called at start only.

#include <cstdint>
#include <string>

#include "proxy/config.h"

namespace proxy {

// CPUs that this process may run on, at least 1 (sched_getaffinity(2)).
uint32_t CpusAvailable();

// Puts the calling thread on one of them: the `number`-th, round robin. False: it can't be (errno).
bool PinThisThread(uint32_t number);

// Bytes of memory that this process may use: the machine's, or less if a memory control group
// (v1 or v2) above the process says so. `root` is put before the paths below /proc and /sys.
uint64_t MemoryAvailable(uint64_t machine_bytes, const std::string& root = "");
// All memory of the machine.
uint64_t MachineMemory();

// Raises the soft limit of open files to the hard one; returns what is then in force.
uint64_t RaiseOpenFileLimit();

// L1: of config.clients_max, as many clients as `open_files` descriptors leave room for beside the
// connections to nodes (counted twice, since a broken one is replaced before it is gone) and 64 of
// our own. 0: there is no room.
uint32_t ClientsThatFit(uint64_t open_files, const Config& config);

}  // namespace proxy
