#pragma once

// File: cluster/redirection.h
//
// What an error reply of a node asks the proxy to do (Redis Cluster specification, "Redirection and
// resharding"). An error reply is input from outside: a script can forge every one of them.

#include <cstdint>

#include "absl/strings/string_view.h"
#include "cluster/slot.h"

namespace cluster {

enum class ErrorKind : uint8_t {
  kOther,        // passed on as it is
  kMoved,        // "MOVED 3999 127.0.0.1:6381"
  kAsk,          // "ASK 3999 127.0.0.1:6381"
  kTryAgain,     // exactly "TRYAGAIN Multiple keys request during rehashing of slot"
  kClusterDown,  // "CLUSTERDOWN …"
  kLoading,      // "LOADING …"
  kMasterDown,   // "MASTERDOWN …"
  kReadOnly,     // "READONLY …"
  kMalformed,    // MOVED or ASK, but not of their form
};

struct ErrorReply {
  ErrorKind kind = ErrorKind::kOther;
  // kMoved and kAsk:
  Slot slot = 0;
  // Empty: the host of the node that replied. "?": unknown, ask another node. Else an address or a
  // name, at most 255 bytes, brackets taken off. Points into the line.
  absl::string_view host;
  uint16_t port = 0;
};

// Some of a request's keys have left the node with their slot, others have not.
constexpr absl::string_view kTryAgainError =
    "TRYAGAIN Multiple keys request during rehashing of slot";

// `line` is the error without its leading '-' and without CRLF.
ErrorReply ParseErrorReply(absl::string_view line);

}  // namespace cluster
