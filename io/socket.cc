#include "io/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace io {
namespace {

constexpr absl::string_view kUnixPrefix = "unix:";
constexpr size_t kPathOffset = offsetof(sockaddr_un, sun_path);
// Silence before the first probe, and between probes; C5 of the fault list.
constexpr int kKeepAliveSeconds = 60;
constexpr int kKeepAliveProbeSeconds = 10;
constexpr int kKeepAliveProbes = 3;
// The kernel counts it for a peer that lives but reads nothing, too: it must leave a slow reader
// time to open its window, and still notice a peer that has vanished within 90 s.
constexpr unsigned kUserTimeoutMs = 90 * 1000;
constexpr int kRetryStepMs = 5;

// Closes its descriptor unless it is released.
class OwnedFd {
 public:
  explicit OwnedFd(Fd fd) : fd_(fd) {}
  ~OwnedFd() {
    if (fd_ >= 0) close(fd_);
  }
  OwnedFd(const OwnedFd&) = delete;
  OwnedFd& operator=(const OwnedFd&) = delete;
  Fd get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  Fd Release() { return std::exchange(fd_, -1); }

 private:
  Fd fd_;
};

absl::Status ErrnoError(absl::string_view what, const Endpoint& endpoint, int error) {
  return absl::ErrnoToStatus(error, absl::StrCat(what, " ", endpoint.ToString()));
}

Fd NewSocket(int family) { return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0); }

// Tries again for a while what finds its address in use. The thread waits in small steps.
class Retry {
 public:
  explicit Retry(int retry_ms) : left_ms_(retry_ms) {}
  // True after a pause if there is time for another attempt.
  bool Pause() {
    if (left_ms_ <= 0) return false;
    const int ms = std::min(left_ms_, kRetryStepMs);
    left_ms_ -= ms;
    timespec pause = {.tv_sec = 0, .tv_nsec = ms * 1'000'000L};
    while (nanosleep(&pause, &pause) != 0 && errno == EINTR) {
    }
    return true;
  }

 private:
  int left_ms_;
};

// 0 or an errno.
int BindAndListen(Fd socket, const Endpoint& address, int backlog, Retry* retry) {
  while (bind(socket, address.address(), address.length()) != 0) {
    if (errno != EADDRINUSE || !retry->Pause()) return errno;
  }
  // With SO_REUSEADDR two sockets may be bound to one address; the second finds out here.
  while (listen(socket, backlog) != 0) {
    if (errno != EADDRINUSE || !retry->Pause()) return errno;
  }
  return 0;
}

absl::StatusOr<Fd> OpenIpListener(const Endpoint& address, const ListenOptions& options) {
  OwnedFd socket(NewSocket(address.family()));
  if (!socket.ok()) return ErrnoError("cannot listen on", address, errno);
  const int on = 1;
  if (setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0) {
    return ErrnoError("cannot set SO_REUSEADDR for", address, errno);
  }
  // "[::]" and "0.0.0.0" can then both be listened on, and no client shows as "::ffff:1.2.3.4".
  if (address.family() == AF_INET6 &&
      setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) != 0) {
    return ErrnoError("cannot set IPV6_V6ONLY for", address, errno);
  }
  SetStreamOptions(socket.get());
  Retry retry(options.retry_ms);
  const int error = BindAndListen(socket.get(), address, options.backlog, &retry);
  if (error != 0) return ErrnoError("cannot listen on", address, error);
  return socket.Release();
}

// Makes sure that no file is in the way of bind: takes away a socket on which nobody listens.
// Returns 0, EADDRINUSE if somebody does (or that can't be told), ENOTSOCK for any other file, or
// what else failed.
int RemoveStaleSocket(const Endpoint& address) {
  const std::string path = address.unix_path();
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) return errno == ENOENT ? 0 : errno;
  if (!S_ISSOCK(info.st_mode)) return ENOTSOCK;
  OwnedFd probe(NewSocket(AF_UNIX));
  if (!probe.ok()) return errno;
  if (connect(probe.get(), address.address(), address.length()) == 0) return EADDRINUSE;
  if (errno == ENOENT) return 0;
  if (errno != ECONNREFUSED) return EADDRINUSE;  // a full queue, another type, no permission
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return errno;
  return 0;
}

// Locks the directory of the path while the socket's file is looked at and made, so that of two
// processes that start at once none takes away what the other has just bound. Without the right to
// open the directory there is no lock: -1, as when the lock is not to be had in time.
Fd LockDirectory(const std::string& path, Retry* retry) {
  const size_t slash = path.rfind('/');
  std::string directory = ".";
  if (slash == 0) directory = "/";
  if (slash != std::string::npos && slash != 0) directory = path.substr(0, slash);
  OwnedFd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.ok()) return -1;
  while (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK || !retry->Pause()) return -1;
  }
  return fd.Release();
}

// 0 or an errno. Nobody can connect before listen: the mode is in place by then.
int SetModeAndListen(Fd socket, const std::string& path, const ListenOptions& options) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) return errno;
  if (!S_ISSOCK(info.st_mode)) return ENOTSOCK;
  if ((info.st_mode & 07777) != options.unix_mode) {
    // Needs /proc, which a container may lack; the plain form would follow a symbolic link.
    if (fchmodat(AT_FDCWD, path.c_str(), options.unix_mode, AT_SYMLINK_NOFOLLOW) != 0 &&
        (errno != EOPNOTSUPP || chmod(path.c_str(), options.unix_mode) != 0)) {
      return errno;
    }
  }
  return listen(socket, options.backlog) == 0 ? 0 : errno;
}

absl::StatusOr<Fd> OpenUnixListener(const Endpoint& address, const ListenOptions& options) {
  const std::string path = address.unix_path();
  if (path.empty()) return absl::InvalidArgumentError("cannot listen on a socket without a path");
  Retry retry(options.retry_ms);
  const OwnedFd lock(LockDirectory(path, &retry));
  OwnedFd socket(NewSocket(AF_UNIX));
  if (!socket.ok()) return ErrnoError("cannot listen on", address, errno);
  // The file gets the socket's mode less the umask: never more than was asked for, not even for a
  // moment (CVE-2023-45145), and without changing the umask under other threads.
  if (fchmod(socket.get(), options.unix_mode) != 0) {
    return ErrnoError("cannot set the mode of", address, errno);
  }
  int error;
  do {
    error = RemoveStaleSocket(address);
    if (error == 0 && bind(socket.get(), address.address(), address.length()) != 0) error = errno;
  } while (error == EADDRINUSE && retry.Pause());
  if (error == ENOTSOCK) {
    return absl::AlreadyExistsError(absl::StrCat("cannot listen on ", address.ToString(),
                                                 ": a file that is no socket is there"));
  }
  if (error != 0) return ErrnoError("cannot listen on", address, error);
  error = SetModeAndListen(socket.get(), path, options);
  if (error != 0) {
    unlink(path.c_str());
    return ErrnoError("cannot listen on", address, error);
  }
  return socket.Release();
}

using NameCall = int (*)(int, sockaddr*, socklen_t*);

std::string NameOf(Fd socket, NameCall call) {
  sockaddr_storage storage = {};
  socklen_t length = sizeof(storage);
  if (call(socket, reinterpret_cast<sockaddr*>(&storage), &length) != 0) return "";
  const Endpoint endpoint =
      Endpoint::FromSockaddr(reinterpret_cast<const sockaddr*>(&storage), length);
  // The connecting end of a Unix socket has no name.
  if (endpoint.is_unix() && endpoint.unix_path().empty()) return "";
  return endpoint.ToString();
}

// An index or a name; 0 if there is no such interface.
uint32_t ScopeOf(absl::string_view scope) {
  uint32_t index = 0;
  if (!scope.empty() && std::all_of(scope.begin(), scope.end(), absl::ascii_isdigit)) {
    return absl::SimpleAtoi(scope, &index) ? index : 0;
  }
  return if_nametoindex(std::string(scope).c_str());
}

std::string ScopeText(uint32_t scope) {
  if (scope == 0) return "";
  char name[IF_NAMESIZE];
  if (if_indextoname(scope, name) != nullptr) return absl::StrCat("%", name);
  return absl::StrCat("%", scope);
}

}  // namespace

absl::StatusOr<Endpoint> Endpoint::FromIp(absl::string_view host, uint16_t port) {
  absl::string_view literal = host;
  if (absl::ConsumePrefix(&literal, "[") && !absl::ConsumeSuffix(&literal, "]")) literal = "";
  const auto invalid = [host] {
    return absl::InvalidArgumentError(absl::StrCat("not an IP address: \"", host, "\""));
  };
  // The C functions would stop at it.
  if (literal.find('\0') != absl::string_view::npos) return invalid();
  Endpoint endpoint;
  auto* ip4 = reinterpret_cast<sockaddr_in*>(&endpoint.storage_);
  auto* ip6 = reinterpret_cast<sockaddr_in6*>(&endpoint.storage_);
  if (literal.size() == host.size() &&
      inet_pton(AF_INET, std::string(literal).c_str(), &ip4->sin_addr) == 1) {
    ip4->sin_family = AF_INET;
    endpoint.length_ = sizeof(sockaddr_in);
  } else {
    endpoint.storage_ = {};
    const size_t percent = literal.find('%');
    const std::string address(literal.substr(0, percent));
    if (inet_pton(AF_INET6, address.c_str(), &ip6->sin6_addr) != 1) return invalid();
    ip6->sin6_family = AF_INET6;
    endpoint.length_ = sizeof(sockaddr_in6);
    if (percent != absl::string_view::npos) {
      ip6->sin6_scope_id = ScopeOf(literal.substr(percent + 1));
      if (ip6->sin6_scope_id == 0) {
        return absl::InvalidArgumentError(absl::StrCat("no such interface: \"", host, "\""));
      }
    }
  }
  endpoint.set_port(port);
  return endpoint;
}

absl::StatusOr<Endpoint> Endpoint::FromUnixPath(absl::string_view path) {
  if (path.empty() || path.find('\0') != absl::string_view::npos) {
    return absl::InvalidArgumentError(
        "the path of a Unix socket is empty or has a zero byte in it");
  }
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("the path of a Unix socket is longer than ",
                                                   sizeof(sockaddr_un::sun_path) - 1,
                                                   " bytes: ", path));
  }
  Endpoint endpoint;
  auto* un = reinterpret_cast<sockaddr_un*>(&endpoint.storage_);
  un->sun_family = AF_UNIX;
  memcpy(un->sun_path, path.data(), path.size());
  endpoint.length_ = static_cast<socklen_t>(kPathOffset + path.size() + 1);
  return endpoint;
}

absl::StatusOr<Endpoint> Endpoint::Parse(absl::string_view text) {
  absl::string_view path = text;
  if (absl::ConsumePrefix(&path, kUnixPrefix)) return FromUnixPath(path);
  const absl::StatusOr<HostPort> parts = ParseHostPort(text);
  if (!parts.ok()) return parts.status();
  return FromIp(parts->host, parts->port);
}

Endpoint Endpoint::FromSockaddr(const sockaddr* address, socklen_t length) {
  Endpoint endpoint;
  endpoint.length_ = std::min<socklen_t>(length, sizeof(endpoint.storage_));
  memcpy(&endpoint.storage_, address, endpoint.length_);
  return endpoint;
}

std::string Endpoint::unix_path() const {
  if (!is_unix() || length_ <= kPathOffset) return "";
  const auto* un = reinterpret_cast<const sockaddr_un*>(&storage_);
  return std::string(un->sun_path, strnlen(un->sun_path, length_ - kPathOffset));
}

uint16_t Endpoint::port() const {
  if (family() == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in*>(&storage_)->sin_port);
  if (family() == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6*>(&storage_)->sin6_port);
  }
  return 0;
}

void Endpoint::set_port(uint16_t port) {
  if (family() == AF_INET) reinterpret_cast<sockaddr_in*>(&storage_)->sin_port = htons(port);
  if (family() == AF_INET6) reinterpret_cast<sockaddr_in6*>(&storage_)->sin6_port = htons(port);
}

std::string Endpoint::ToString() const {
  char text[INET6_ADDRSTRLEN];
  switch (family()) {
    case AF_INET: {
      const auto* ip4 = reinterpret_cast<const sockaddr_in*>(&storage_);
      inet_ntop(AF_INET, &ip4->sin_addr, text, sizeof(text));
      return absl::StrCat(text, ":", port());
    }
    case AF_INET6: {
      const auto* ip6 = reinterpret_cast<const sockaddr_in6*>(&storage_);
      inet_ntop(AF_INET6, &ip6->sin6_addr, text, sizeof(text));
      return absl::StrCat("[", text, ScopeText(ip6->sin6_scope_id), "]:", port());
    }
    case AF_UNIX:
      return absl::StrCat(kUnixPrefix, unix_path());
    default:
      return "";
  }
}

bool operator==(const Endpoint& a, const Endpoint& b) {
  if (a.family() != b.family() || a.port() != b.port()) return false;
  switch (a.family()) {
    case AF_INET:
      return reinterpret_cast<const sockaddr_in*>(&a.storage_)->sin_addr.s_addr ==
             reinterpret_cast<const sockaddr_in*>(&b.storage_)->sin_addr.s_addr;
    case AF_INET6: {
      const auto* a6 = reinterpret_cast<const sockaddr_in6*>(&a.storage_);
      const auto* b6 = reinterpret_cast<const sockaddr_in6*>(&b.storage_);
      return memcmp(&a6->sin6_addr, &b6->sin6_addr, sizeof(in6_addr)) == 0 &&
             a6->sin6_scope_id == b6->sin6_scope_id;
    }
    case AF_UNIX:
      return a.unix_path() == b.unix_path();
    default:
      return true;
  }
}

std::string FormatHostPort(absl::string_view host, uint16_t port) {
  const bool ipv6 = absl::StrContains(host, ':');
  return ipv6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

absl::StatusOr<HostPort> ParseHostPort(absl::string_view text) {
  const auto invalid = [text](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(why, " in \"", text, "\""));
  };
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos) return invalid("no port");
  absl::string_view host = text.substr(0, colon);
  const absl::string_view digits = text.substr(colon + 1);
  const bool opened = absl::ConsumePrefix(&host, "[");
  const bool ended = absl::ConsumeSuffix(&host, "]");
  if (opened != ended) return invalid("unpaired bracket");
  if (host.empty()) return invalid("no host");
  uint32_t port = 0;
  if (digits.empty() || !std::all_of(digits.begin(), digits.end(), absl::ascii_isdigit) ||
      !absl::SimpleAtoi(digits, &port) || port > 65535) {
    return invalid("bad port");
  }
  HostPort result;
  result.host = std::string(host);
  result.port = static_cast<uint16_t>(port);
  return result;
}

absl::StatusOr<Fd> OpenListener(const Endpoint& address, const ListenOptions& options) {
  return address.is_unix() ? OpenUnixListener(address, options) : OpenIpListener(address, options);
}

absl::StatusOr<Fd> OpenStreamSocket(const Endpoint& peer) {
  const Fd socket = NewSocket(peer.family());
  if (socket < 0) return ErrnoError("cannot open a socket for", peer, errno);
  SetStreamOptions(socket);
  return socket;
}

void SetStreamOptions(Fd socket) {
  // None is worth refusing a connection for: a failure (a Unix socket, one already reset) is
  // ignored.
  const auto set = [socket](int level, int option, auto value) {
    return setsockopt(socket, level, option, &value, sizeof(value)) == 0;
  };
  if (!set(IPPROTO_TCP, TCP_NODELAY, 1)) return;
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, kKeepAliveSeconds);
  set(IPPROTO_TCP, TCP_KEEPINTVL, kKeepAliveProbeSeconds);
  set(IPPROTO_TCP, TCP_KEEPCNT, kKeepAliveProbes);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, kUserTimeoutMs);
}

std::string PeerNameOf(Fd socket) { return NameOf(socket, getpeername); }
std::string LocalNameOf(Fd socket) { return NameOf(socket, getsockname); }

}  // namespace io
