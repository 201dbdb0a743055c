#pragma once

// File: proxy/admin_server.h
//
// The admin and metrics port (--debug-addr): HTTP on threads of a library's own, beside the data
// path. It only reads statistics and sets the log level.
//
//   GET  /metrics         Prometheus text
//   GET  /healthz         200 while the process runs
//   GET  /readyz          200 once a topology is there and no drain has begun, else 503
//   GET  /loglevel        the level's name
//   PUT  /loglevel?level=debug (or POST)   sets it

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proxy/log.h"
#include "proxy/stats.h"

namespace proxy {

class AdminServer {
 public:
  virtual ~AdminServer() = default;  // stops it
  // "127.0.0.1:8089", with the port that the system chose for port 0.
  virtual std::string address() const = 0;
};

// Listens on "host:port" and serves. The others outlive the server. Errors name address and reason.
absl::StatusOr<std::unique_ptr<AdminServer>> StartAdminServer(absl::string_view address,
                                                              const StatsRegistry* stats,
                                                              LogSink* log);

}  // namespace proxy
