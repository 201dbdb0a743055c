#pragma once

// File: proxy/node_handshake.h
//
// The first commands on a connection to a node, sent in one write, and what their replies must be.
// Nothing else is written before all of them have matched.

#include <deque>
#include <functional>
#include <initializer_list>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace proxy {

// AUTH with the password, and the user if one is named.
std::string AuthCommand(absl::string_view username, absl::string_view password);

class NodeHandshake {
 public:
  // Looks at the reply to one command, a whole frame. What is not OK ends the handshake.
  using Check = std::function<absl::Status(absl::string_view frame)>;

  void Add(std::initializer_list<absl::string_view> command, Check check);
  // Any reply will do.
  void Add(std::initializer_list<absl::string_view> command);
  // It must not be an error (UnavailableError).
  void AddRequired(std::initializer_list<absl::string_view> command);
  // AUTH, if there is a password. Refused: PermissionDeniedError.
  void AddAuth(absl::string_view username, absl::string_view password);
  // CLUSTER MYID: NotFoundError if it is another node, UnavailableError if it does not say and the
  // line of its error is not one that `is_tolerable`.
  void AddMyId(absl::string_view node_id, bool (*is_tolerable)(absl::string_view line));

  // The commands added since the last call.
  std::string TakeCommands() { return std::exchange(commands_, {}); }
  // The next reply.
  absl::Status TakeReply(absl::string_view frame);
  // All replies have come.
  bool done() const { return checks_.empty(); }

 private:
  std::string commands_;
  std::deque<Check> checks_;  // of the replies still awaited
};

}  // namespace proxy
