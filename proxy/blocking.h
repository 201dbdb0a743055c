#pragma once

// File: proxy/blocking.h
//
// Commands that may wait at their node (BLPOP, XREAD BLOCK, …): each has a connection of its own
// while it does. What a node says that had not taken anything (MOVED, ASK, UNBLOCKED) sends it on,
// with the time that is left.

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "cluster/command_table.h"
#include "io/slice.h"

namespace proxy {

// Of a request that may wait.
struct Block {
  cluster::BlockingTimeout timeout;
  absl::Time until = absl::InfiniteFuture();  // the node answers then
  absl::Time sent_at = absl::InfinitePast();  // the last time; never: it was not sent yet
  // Its slot has another owner since then; the node has not said so.
  absl::Time moved_at = absl::InfiniteFuture();
  bool ended_by_client = false;  // CLIENT UNBLOCK: the node is asked to end it
  std::string unblocked;  // the last UNBLOCKED of a node, which may have been no more than a move

  bool was_sent() const { return sent_at != absl::InfinitePast(); }
};

// The block of a request that comes now. A timeout that is none (the node refuses it) or 0:
// forever.
Block MakeBlock(const cluster::BlockingTimeout& timeout, absl::string_view arg, absl::Time now);

// A timeout in seconds or milliseconds, as the servers read it: until when; 0 is forever. False:
// *error is what they say of it. `old_texts`: redis before 7.2.
bool ParseTimeout(absl::string_view arg, bool milliseconds, bool old_texts, absl::Time now,
                  absl::Time* until, std::string* error);

// The request with the time that is left instead of its timeout, at least a millisecond.
io::Rope WithTimeLeft(const Block& block, const io::Rope& frame, absl::Time now);

}  // namespace proxy
