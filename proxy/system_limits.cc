#include "proxy/system_limits.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace proxy {
namespace {

// Empty if it can't be read.
std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

// The number in a control file; UINT64_MAX for "max" or if there is no such file. Version 1 says
// "no limit" by a number near INT64_MAX, which is more than any machine has.
uint64_t ReadLimit(const std::string& path) {
  uint64_t limit = 0;
  const std::string text = ReadFile(path);
  if (!absl::SimpleAtoi(absl::StripAsciiWhitespace(text), &limit) || limit == 0) {
    return UINT64_MAX;
  }
  return limit;
}

// The least limit of a group and of all groups above it. The path may be one of outside our
// container, in which case only the mount point itself is there.
uint64_t LeastLimit(const std::string& mount, absl::string_view group, absl::string_view file) {
  uint64_t least = UINT64_MAX;
  while (true) {
    const absl::string_view below = absl::StripSuffix(group, "/");
    least = std::min(least, ReadLimit(absl::StrCat(mount, below, "/", file)));
    const size_t slash = below.rfind('/');
    if (slash == absl::string_view::npos) return least;
    group = below.substr(0, slash);
  }
}

}  // namespace

uint32_t CpusAvailable() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  // Fails only where the machine has more CPUs than the set has bits.
  const int count = sched_getaffinity(0, sizeof(cpus), &cpus) == 0
                        ? CPU_COUNT(&cpus)
                        : static_cast<int>(std::thread::hardware_concurrency());
  return static_cast<uint32_t>(std::max(count, 1));
}

bool PinThisThread(uint32_t number) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (sched_getaffinity(0, sizeof(cpus), &cpus) != 0) return false;
  number %= static_cast<uint32_t>(CPU_COUNT(&cpus));
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &cpus) || number-- > 0) continue;
    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    break;
  }
  return sched_setaffinity(0, sizeof(cpus), &cpus) == 0;
}

uint64_t MachineMemory() {
  return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
         static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

uint64_t MemoryAvailable(uint64_t machine_bytes, const std::string& root) {
  uint64_t least = machine_bytes;
  const std::string groups = ReadFile(absl::StrCat(root, "/proc/self/cgroup"));
  const std::string mount = absl::StrCat(root, "/sys/fs/cgroup");
  for (absl::string_view line : absl::StrSplit(groups, '\n', absl::SkipEmpty())) {
    // "0::/path" (v2) or "4:memory:/path" (v1); cgroups(7).
    const std::vector<absl::string_view> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    if (fields[1].empty()) {
      least = std::min(least, LeastLimit(mount, fields[2], "memory.max"));
      continue;
    }
    for (absl::string_view controller : absl::StrSplit(fields[1], ',')) {
      if (controller != "memory") continue;
      least = std::min(
          least, LeastLimit(absl::StrCat(mount, "/memory"), fields[2], "memory.limit_in_bytes"));
    }
  }
  return least;
}

uint64_t RaiseOpenFileLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  if (limit.rlim_cur < limit.rlim_max) {
    const rlim_t soft = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) limit.rlim_cur = soft;
  }
  return limit.rlim_cur;
}

uint32_t ClientsThatFit(uint64_t open_files, const Config& config) {
  constexpr uint64_t kOwn = 64;            // rings, listeners, log, admin port, resolver
  constexpr uint64_t kNodesExpected = 16;  // the cluster's size is not known yet
  constexpr uint64_t kProtocols = 2;
  const uint64_t nodes = std::max<uint64_t>(kNodesExpected, config.startup_nodes.size());
  const uint64_t backends = config.workers * (nodes * config.backend_connections * kProtocols +
                                              config.backend_idle_connections);
  const uint64_t taken = 2 * backends + kOwn;
  if (open_files <= taken) return 0;
  // Some of them may have a connection to a node each.
  const uint64_t left = open_files - taken;
  const uint64_t leased =
      std::min(uint64_t{config.workers} * config.private_connections_max, left / 4);
  return static_cast<uint32_t>(std::min<uint64_t>(config.clients_max, left - leased));
}

}  // namespace proxy
