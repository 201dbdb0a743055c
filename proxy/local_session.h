#pragma once

// File: proxy/local_session.h
//
// What the commands that the proxy answers itself see and change: their client, and the proxy. The
// seam between the replies and the worker. Lives for one command.

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proxy/client.h"
#include "proxy/client_line.h"
#include "proxy/cluster_face.h"
#include "proxy/messages.h"
#include "proxy/stats.h"
#include "resp/encoder.h"

namespace proxy {

// For INFO: what the process itself does not tell.
struct ProxyFacts {
  const StatsRegistry* stats = nullptr;
  uint32_t workers = 0;
  uint64_t clients_max = 0;
  uint64_t memory_limit_bytes = 0;
  uint16_t tcp_port = 0;  // 0: listens on Unix sockets only
  std::string instance_name;
  std::string ring_features;  // Ring::Describe()
  bool has_topology = false;
};

class LocalSession {
 public:
  virtual ~LocalSession() = default;

  // --- the proxy
  // Of the connected cluster: replies follow its family and version.
  virtual const ServerInfo& server() const = 0;
  // What its nodes have beyond the table of commands; null: nothing.
  virtual const LearnedCommands* learned() const = 0;
  // What clients must say to authenticate; empty: nothing.
  virtual absl::string_view password() const = 0;
  virtual ProxyFacts DescribeProxy() const = 0;
  // The proxy looks like a cluster's node (--cluster-face), …
  virtual bool has_cluster_face() const = 0;
  // … which looks so to this client.
  virtual ClusterFace DescribeClusterFace() const = 0;

  // --- the client
  virtual uint64_t client_id() const = 0;
  virtual resp::Protocol protocol() const = 0;
  virtual void set_protocol(resp::Protocol protocol) = 0;
  virtual bool authenticated() const = 0;
  virtual void Authenticate() = 0;
  virtual void NoteAuthFailure() = 0;
  virtual const Client::Identity& identity() const = 0;
  virtual Client::Identity* mutable_identity() = 0;
  virtual ClientFacts DescribeClient() const = 0;
  virtual void Unwatch() = 0;
  // As a new connection, but for the library's name and version.
  virtual void Reset() = 0;
  // No more requests; the connection ends when the replies are out.
  virtual void EndAfterReply() = 0;
};

}  // namespace proxy
