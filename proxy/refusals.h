#pragma once

// File: proxy/refusals.h
//
// Client connections that there is no room for: each is told so and closed, politely (a close with
// unread input would throw the text away on its way). On the control thread.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "io/connection.h"
#include "io/ring.h"
#include "io/timers.h"

namespace proxy {

class Refusals {
 public:
  enum class Ending : uint8_t {
    kLinger,  // gives the client up to a second to read the text, if not too many do so already
    kAtOnce,  // for when descriptors are short
  };

  // `party` names its completions. All outlive it. Destroyed when idle, or when its ring makes no
  // more turns.
  Refusals(io::Ring* ring, io::Timers* timers, uint8_t party);
  Refusals(const Refusals&) = delete;
  Refusals& operator=(const Refusals&) = delete;

  // Takes the descriptor. `text` lives as long as the process; with far too many refusals under way
  // the client gets none.
  void Refuse(absl::Time now, io::Fd fd, absl::string_view text, Ending ending);
  // Hands in a completion with its party.
  void OnCompletion(io::Completion* completion);
  // Ends all at once; done when idle().
  void CloseAll();
  bool idle() const { return open_ == 0; }

 private:
  struct Refused {
    Refused(Refusals* refusals, uint32_t its_index);
    Refusals* const owner;
    const uint32_t index;
    uint32_t generation = 0;
    io::Connection connection;
    io::Timer timer;  // the end of its time
    bool linger = false;
    size_t dropped_bytes = 0;
  };

  void OnSent(Refused* refused);
  static void TimerFired(void* refused);

  io::Ring* const ring_;
  io::Timers* const timers_;
  const uint8_t party_;
  std::vector<std::unique_ptr<Refused>> refused_;  // by index; reused
  std::vector<uint32_t> free_;
  size_t open_ = 0;       // descriptors that are not closed yet
  size_t lingering_ = 0;  // with `linger`
};

}  // namespace proxy
