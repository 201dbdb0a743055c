#include "tools/latency/process.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <set>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace latency {
namespace {

constexpr absl::string_view kListening = "0A";  // TCP_LISTEN, as /proc/net/tcp has it
constexpr absl::string_view kEstablished = "01";

// The file's text; empty if it can't be read.
std::string ReadText(const std::string& path) {
  std::string text;
  FILE* const file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return text;
  char block[4096];
  size_t n = 0;
  while ((n = std::fread(block, 1, sizeof block, file)) > 0) text.append(block, n);
  std::fclose(file);
  return text;
}

void ForEachEntry(const std::string& directory, const std::function<void(const char*)>& run) {
  DIR* const handle = opendir(directory.c_str());
  if (handle == nullptr) return;
  while (const dirent* entry = readdir(handle)) run(entry->d_name);
  closedir(handle);
}

struct Address {
  in6_addr ip = {};  // IPv4 as a mapped address
  uint16_t port = 0;
  bool any() const {
    const in6_addr mapped = MappedFrom(htonl(INADDR_ANY));
    return memcmp(&ip, &in6addr_any, sizeof ip) == 0 || memcmp(&ip, &mapped, sizeof ip) == 0;
  }
  bool Covers(const Address& other) const {
    return port == other.port && (any() || memcmp(&ip, &other.ip, sizeof ip) == 0);
  }
  static in6_addr MappedFrom(uint32_t ipv4) {
    in6_addr ip = {};
    ip.s6_addr[10] = ip.s6_addr[11] = 0xff;
    memcpy(ip.s6_addr + 12, &ipv4, 4);
    return ip;
  }
};

struct TcpSocket {
  Address local;
  Address remote;
  std::string state;
  uint64_t inode = 0;
};

// "0100007F:1F90", each group of four bytes as a number of this machine's byte order.
bool ParseAddress(absl::string_view text, Address* address) {
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, ':');
  uint32_t port = 0;
  if (!absl::SimpleHexAtoi(parts.second, &port)) return false;
  address->port = static_cast<uint16_t>(port);
  uint32_t words[4] = {};
  const size_t count = parts.first.size() / 8;
  if (count != 1 && count != 4) return false;
  for (size_t i = 0; i < count; ++i) {
    if (!absl::SimpleHexAtoi(parts.first.substr(i * 8, 8), &words[i])) return false;
  }
  if (count == 1) {
    address->ip = Address::MappedFrom(words[0]);
  } else {
    memcpy(&address->ip, words, sizeof words);
  }
  return true;
}

std::vector<TcpSocket> TcpSockets() {
  std::vector<TcpSocket> sockets;
  for (const char* path : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    const std::string text = ReadText(path);
    for (const absl::string_view line : absl::StrSplit(text, '\n')) {
      const std::vector<absl::string_view> fields =
          absl::StrSplit(line, ' ', absl::SkipWhitespace());
      TcpSocket socket;
      if (fields.size() < 10 || !ParseAddress(fields[1], &socket.local) ||
          !ParseAddress(fields[2], &socket.remote) || !absl::SimpleAtoi(fields[9], &socket.inode)) {
        continue;  // the heading
      }
      socket.state = std::string(fields[3]);
      sockets.push_back(std::move(socket));
    }
  }
  return sockets;
}

std::set<uint64_t> SocketInodesOf(pid_t pid) {
  std::set<uint64_t> inodes;
  const std::string directory = absl::StrCat("/proc/", pid, "/fd");
  ForEachEntry(directory, [&](const char* name) {
    char target[64];
    const ssize_t n = readlink(absl::StrCat(directory, "/", name).c_str(), target, sizeof target);
    absl::string_view text(target, n > 0 ? static_cast<size_t>(n) : 0);
    uint64_t inode = 0;
    if (absl::ConsumePrefix(&text, "socket:[") && absl::ConsumeSuffix(&text, "]") &&
        absl::SimpleAtoi(text, &inode)) {
      inodes.insert(inode);
    }
  });
  return inodes;
}

std::vector<pid_t> HoldersOf(const std::set<uint64_t>& inodes) {
  std::vector<pid_t> pids;
  if (inodes.empty()) return pids;
  ForEachEntry("/proc", [&](const char* name) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(name, &pid)) return;
    const std::set<uint64_t> held = SocketInodesOf(pid);
    const bool holds = std::any_of(inodes.begin(), inodes.end(),
                                   [&](uint64_t inode) { return held.count(inode) > 0; });
    if (holds) pids.push_back(pid);
  });
  std::sort(pids.begin(), pids.end());
  return pids;
}

std::set<uint64_t> ListenersAt(const std::vector<TcpSocket>& sockets, const Address& address) {
  std::set<uint64_t> inodes;
  for (const TcpSocket& socket : sockets) {
    if (socket.state == kListening && socket.local.Covers(address)) inodes.insert(socket.inode);
  }
  return inodes;
}

}  // namespace

std::vector<pid_t> ListenersOf(const io::Endpoint& endpoint) {
  Address address;
  address.port = endpoint.port();
  if (endpoint.family() == AF_INET) {
    const auto* const ipv4 = reinterpret_cast<const sockaddr_in*>(endpoint.address());
    address.ip = Address::MappedFrom(ipv4->sin_addr.s_addr);
  } else if (endpoint.family() == AF_INET6) {
    address.ip = reinterpret_cast<const sockaddr_in6*>(endpoint.address())->sin6_addr;
  } else {
    return {};
  }
  return HoldersOf(ListenersAt(TcpSockets(), address));
}

std::vector<pid_t> BackendsOf(absl::Span<const pid_t> pids) {
  std::set<uint64_t> own;
  for (const pid_t pid : pids) own.merge(SocketInodesOf(pid));
  const std::vector<TcpSocket> sockets = TcpSockets();
  std::set<uint64_t> listeners;
  for (const TcpSocket& socket : sockets) {
    if (socket.state != kEstablished || own.count(socket.inode) == 0) continue;
    listeners.merge(ListenersAt(sockets, socket.remote));
  }
  std::vector<pid_t> backends = HoldersOf(listeners);
  backends.erase(std::remove_if(backends.begin(), backends.end(),
                                [&](pid_t pid) {
                                  return std::find(pids.begin(), pids.end(), pid) != pids.end();
                                }),
                 backends.end());
  return backends;
}

bool ProcessExists(pid_t pid) { return kill(pid, 0) == 0 || errno == EPERM; }

CpuReading CpuReading::Of(absl::Span<const pid_t> pids) {
  CpuReading reading;
  reading.complete_ = !pids.empty();
  for (const pid_t pid : pids) {
    const std::string directory = absl::StrCat("/proc/", pid);
    // The name, in parentheses, may have blanks and parentheses.
    const std::string stat = ReadText(directory + "/stat");
    const size_t name_end = stat.rfind(')');
    const std::vector<absl::string_view> fields =
        absl::StrSplit(absl::string_view(stat).substr(std::min(name_end, stat.size())), ' ');
    uint64_t user = 0;
    uint64_t system = 0;
    if (fields.size() < 14 || !absl::SimpleAtoi(fields[12], &user) ||
        !absl::SimpleAtoi(fields[13], &system)) {
      reading.complete_ = false;
      continue;
    }
    reading.processes_[pid] = user + system;
    ForEachEntry(directory + "/task", [&](const char* name) {
      pid_t thread = 0;
      uint64_t time = 0;
      if (!absl::SimpleAtoi(name, &thread)) return;
      const std::string text = ReadText(absl::StrCat(directory, "/task/", name, "/schedstat"));
      if (absl::SimpleAtoi(absl::string_view(text).substr(0, text.find(' ')), &time)) {
        reading.threads_[thread] = time;
      }
    });
  }
  return reading;
}

double CpuReading::SecondsSince(const CpuReading& before) const {
  if (!complete_ || !before.complete_) return std::numeric_limits<double>::quiet_NaN();
  uint64_t ns = 0;
  for (const auto& [thread, time] : threads_) {
    const auto earlier = before.threads_.find(thread);
    ns += time - (earlier == before.threads_.end() ? 0 : earlier->second);
  }
  const bool all_threads_live =
      !threads_.empty() &&
      std::all_of(before.threads_.begin(), before.threads_.end(),
                  [this](const auto& thread) { return threads_.count(thread.first) > 0; });
  if (all_threads_live) return static_cast<double>(ns) / 1e9;
  // A thread that ended has taken its time with it; the process's own account has it, in ticks.
  uint64_t ticks = 0;
  for (const auto& [pid, time] : processes_) ticks += time - before.processes_.at(pid);
  return static_cast<double>(ticks) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace latency
