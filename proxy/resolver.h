#pragma once

// File: proxy/resolver.h
//
// Names → addresses, off the loops: a `Resolver` answers later, by a message. One owner (control).

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "io/ring.h"
#include "io/socket.h"

namespace proxy {

struct Resolved {
  std::string name;
  // Port 0, the best first. Empty: the name could not be resolved (an answer without an address is
  // a failure too).
  std::vector<io::Endpoint> addresses;
  std::string error;  // why not
};

class Resolver {
 public:
  virtual ~Resolver() = default;
  // Asks for a name's addresses. Each ask has one result; a message of kind kResolved tells the
  // owner that there are some. Asks for a name that is already being looked up are joined. There is
  // no deadline: the owner stops waiting when it likes.
  virtual void Ask(absl::string_view name) = 0;
  // The next result; false: none is there now.
  virtual bool Take(Resolved* result) = 0;
};

// getaddrinfo(3) on threads of its own, a few, so that a name that hangs doesn't hold up the
// others. Address literals and what can't be a name are answered without it. Posts to `receiver`
// by `poster`, which outlives it. Its end doesn't wait for look-ups that still run.
std::unique_ptr<Resolver> MakeThreadResolver(io::Poster* poster, io::RingId receiver);

}  // namespace proxy
