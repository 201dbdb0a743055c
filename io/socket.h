#pragma once

// File: io/socket.h
//
// Descriptors, addresses and socket options.

#include <sys/socket.h>
#include <sys/un.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace io {

// A plain descriptor; a value, not an owner. Who owns it is written where it is kept.
using Fd = int;

// Where to connect or listen: an IPv4 or IPv6 address with a port, or a Unix socket's path.
class Endpoint {
 public:
  Endpoint() = default;
  // `host` is an address literal ("127.0.0.1", "::1", "[::1]", "fe80::1%eth0"), not a name.
  static absl::StatusOr<Endpoint> FromIp(absl::string_view host, uint16_t port);
  static absl::StatusOr<Endpoint> FromUnixPath(absl::string_view path);
  // "127.0.0.1:8088", "[::1]:8088", "unix:/run/rcproxy.sock".
  static absl::StatusOr<Endpoint> Parse(absl::string_view text);
  static Endpoint FromSockaddr(const sockaddr* address, socklen_t length);

  const sockaddr* address() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  socklen_t length() const { return length_; }
  int family() const { return storage_.ss_family; }
  bool is_unix() const { return family() == AF_UNIX; }
  // The path of a Unix socket; empty for others.
  std::string unix_path() const;
  uint16_t port() const;
  void set_port(uint16_t port);
  // "127.0.0.1:8088", "[::1]:8088" or "unix:/path".
  std::string ToString() const;
  friend bool operator==(const Endpoint& a, const Endpoint& b);

 private:
  sockaddr_storage storage_ = {};
  socklen_t length_ = 0;
};

struct ListenOptions {
  int backlog = 4096;
  mode_t unix_mode = 0700;
  // An address in use is tried again for so long: a ring that just ended may still hold it.
  int retry_ms = 100;
};

// A listening, bound socket: non-blocking, close-on-exec, with the options of SetStreamOptions,
// which accepted sockets inherit. A Unix socket's file has its mode before anyone can connect; a
// file that is a socket on which nobody listens is replaced, any other is left alone. Blocks for at
// most retry_ms. Errors name the address and the reason. The caller owns the descriptor.
absl::StatusOr<Fd> OpenListener(const Endpoint& address, const ListenOptions& options);
// A new socket of the peer's family: non-blocking, close-on-exec, with the options of
// SetStreamOptions. The caller owns the descriptor.
absl::StatusOr<Fd> OpenStreamSocket(const Endpoint& peer);
// No delay for small segments; a peer that is gone is noticed: probes after 60 s of silence, and no
// more than 30 s for an acknowledgement. Does nothing to a Unix socket.
void SetStreamOptions(Fd socket);
// "address:port" of the socket's other or own end; empty if it has none.
std::string PeerNameOf(Fd socket);
std::string LocalNameOf(Fd socket);

// "host:port" split at the last colon; brackets around an IPv6 host are taken off.
struct HostPort {
  std::string host;
  uint16_t port = 0;
};
absl::StatusOr<HostPort> ParseHostPort(absl::string_view text);
// The opposite: "10.0.0.1:8088", "[::1]:8088", "proxy-a:8088". `host` without brackets.
std::string FormatHostPort(absl::string_view host, uint16_t port);

}  // namespace io
