#include "tests/proxy/fake_node.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/base/macros.h"
#include "resp/scanner.h"
#include "resp/views.h"

namespace proxy {

FakeNode::FakeNode(const std::string& host) : host_(host) { Up(); }

FakeNode::~FakeNode() { Down(); }

void FakeNode::Down() {
  if (listener_ >= 0) close(std::exchange(listener_, -1));
  for (Connection& connection : connections_) {
    const linger at_once = {1, 0};
    setsockopt(connection.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    close(connection.fd);
  }
  connections_.clear();
}

void FakeNode::Up() {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const int yes = 1;
  setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port_);
  inet_pton(AF_INET, host_.c_str(), &address.sin_addr);
  socklen_t length = sizeof(address);
  const bool up = bind(listener_, reinterpret_cast<sockaddr*>(&address), length) == 0 &&
                  listen(listener_, 64) == 0 &&
                  getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length) == 0;
  ABSL_HARDENING_ASSERT(up);
  port_ = ntohs(address.sin_port);
}

void FakeNode::Pump() {
  while (listener_ >= 0) {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) break;
    connections_.emplace_back().fd = fd;
  }
  for (size_t i = 0; i < connections_.size();) {
    if (PumpConnection(&connections_[i])) {
      ++i;
    } else {
      close(connections_[i].fd);
      connections_.erase(connections_.begin() + static_cast<ptrdiff_t>(i));
    }
  }
}

// False: the connection is over.
bool FakeNode::PumpConnection(Connection* connection) {
  char bytes[4096];
  while (true) {
    const ssize_t n = recv(connection->fd, bytes, sizeof(bytes), 0);
    if (n == 0) return false;
    if (n < 0) {
      if (errno != EAGAIN) return false;
      break;
    }
    connection->in.append(bytes, static_cast<size_t>(n));
  }
  while (!connection->in.empty()) {
    resp::RequestScanner scanner;
    const resp::ScanResult result = scanner.Scan(connection->in, resp::RequestLimits());
    if (result.status == resp::ScanStatus::kError) return false;
    if (result.status == resp::ScanStatus::kNeedMore) break;
    const absl::string_view frame = absl::string_view(connection->in).substr(0, result.consumed);
    resp::ArgReader reader(absl::MakeConstSpan(&frame, 1));
    resp::ArgPosition position;
    Args args;
    while (reader.Next(&position)) {
      args.emplace_back(frame.substr(position.offset, position.length));
    }
    connection->in.erase(0, result.consumed);
    commands.push_back(args);
    connection->out += script ? script(args) : std::string();
  }
  if (connection->out.empty()) return true;
  size_t n = connection->out.size();
  if (chunk_bytes != 0 && n > chunk_bytes) n = chunk_bytes;
  const ssize_t sent = send(connection->fd, connection->out.data(), n, MSG_NOSIGNAL);
  if (sent < 0) return errno == EAGAIN;
  connection->out.erase(0, static_cast<size_t>(sent));
  return !(close_when_sent && connection->out.empty());
}

}  // namespace proxy
