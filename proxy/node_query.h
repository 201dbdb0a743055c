#pragma once

// File: proxy/node_query.h
//
// One short conversation with a node: connect, authenticate, ask, read all replies, close. Used by
// the topology refresh on the control thread.
//
//   kIdle ─Start▶ kConnecting ─connected▶ kAsking ─all replies, or failure, or time▶ kClosing
//   ─closed▶ kIdle

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "io/connection.h"
#include "io/ring.h"
#include "io/timers.h"
#include "resp/scanner.h"

namespace proxy {

// What a refusal is told as: the first word of an error reply, as EscapeForLog has it. The rest of
// a node's text may name users, or quote what it was sent.
std::string ErrorWord(absl::string_view frame);

class NodeQuery {
 public:
  enum class State : uint8_t { kIdle, kConnecting, kAsking, kClosing };

  struct Options {
    std::string username;  // of AUTH; may be empty
    std::string password;  // empty: no AUTH
    absl::Duration connect_timeout = absl::Milliseconds(250);
    absl::Duration reply_timeout = absl::Seconds(2);
    size_t reply_bytes_max = 64 << 20;  // of all replies together
  };

  // The replies, one frame a command (errors of commands are replies too), or why there are none:
  // one line without secrets and without the node's name. Called once per Start, from within a
  // completion or a timer; it may not start the query again at once (see idle()).
  using Done = std::function<void(absl::StatusOr<std::vector<std::string>> replies)>;

  // `party` and `index` name its completions. All outlive the query. Destroyed when idle, or when
  // its ring makes no more turns.
  NodeQuery(io::Ring* ring, io::Timers* timers, uint8_t party, uint32_t index);
  NodeQuery(const NodeQuery&) = delete;
  NodeQuery& operator=(const NodeQuery&) = delete;

  // Begins; `now` is the time of this turn. `commands` are encoded requests, one reply each.
  // Only when idle(). An error that is known at once is told by `done` before this returns.
  void Start(absl::Time now, const io::Endpoint& node, const Options& options,
             const std::vector<std::string>& commands, Done done);
  // Ends it without calling `done`.
  void Cancel();
  // Hands in a completion with its party and index; those of an earlier generation are ignored.
  void OnCompletion(absl::Time now, io::Completion* completion);

  bool idle() const { return state_ == State::kIdle; }
  // Of the replies so far.
  size_t received_bytes() const { return reply_bytes_; }

 private:
  void Become(State next);
  void OnConnected(absl::Time now, const io::Completion& completion);
  void OnRecv(io::Completion* completion);
  void OnData(absl::string_view bytes);
  // False: the conversation is over.
  bool OnFrame();
  void Fail(absl::Status why) { Finish(std::move(why)); }
  void Finish(absl::StatusOr<std::vector<std::string>> result);
  void BeginClose();
  static void TimerFired(void* self);
  void OnTimer();

  io::Ring* const ring_;
  const uint8_t party_;
  const uint32_t index_;
  uint32_t generation_ = 0;  // of the current or last conversation
  State state_ = State::kIdle;
  io::Connection connection_;
  io::Timer timer_;  // armed in kConnecting and kAsking
  Options options_;
  std::string request_;  // what is sent once connected
  size_t replies_due_ = 0;
  bool auth_due_ = false;  // the next reply is the one to AUTH; not among replies_due_
  resp::ReplyScanner scanner_;
  std::string frame_;  // the current reply so far
  std::vector<std::string> replies_;
  size_t reply_bytes_ = 0;  // of all frames so far
  Done done_;
};

}  // namespace proxy
