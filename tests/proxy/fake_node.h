#pragma once

// File: tests/proxy/fake_node.h
//
// A node of a cluster as a test wants it: plain sockets, pumped by the test between the turns of a
// ring, in the same thread. Takes commands, answers what it is told to.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "io/socket.h"

namespace proxy {

class FakeNode {
 public:
  using Args = std::vector<std::string>;
  // The bytes to send for one command; none: it stays unanswered.
  using Script = std::function<std::string(const Args& args)>;

  // Listens at the IPv4 address, on a port that the system chooses.
  explicit FakeNode(const std::string& host = "127.0.0.1");
  ~FakeNode();
  FakeNode(const FakeNode&) = delete;
  FakeNode& operator=(const FakeNode&) = delete;

  const std::string& host() const { return host_; }
  uint16_t port() const { return port_; }
  io::Endpoint endpoint() const { return *io::Endpoint::FromIp(host_, port_); }

  // Nobody listens any more, connections are reset; then again at the same port.
  void Down();
  void Up();
  // Accepts, reads and answers what there is now. Never waits.
  void Pump();
  size_t connections() const { return connections_.size(); }

  Script script;
  size_t chunk_bytes = 0;        // if not 0: each Pump sends at most so much
  bool close_when_sent = false;  // ends each connection after its first answers
  std::vector<Args> commands;    // all that it got

 private:
  struct Connection {
    int fd = -1;
    std::string in;
    std::string out;
    bool answered = false;
  };
  bool PumpConnection(Connection* connection);

  const std::string host_;
  uint16_t port_ = 0;
  int listener_ = -1;
  std::vector<Connection> connections_;
};

}  // namespace proxy
