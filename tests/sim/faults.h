#pragma once

// File: tests/sim/faults.h
//
// What the simulated machines and their networks do to a program, and how often. Probabilities are
// per occasion; sizes and times are drawn for each connection or event.

#include <cstddef>

#include "tests/sim/alarms.h"
#include "tests/sim/random.h"

namespace sim {

struct FaultOptions {
  // --- connections
  size_t send_buffer_min = 64 << 10, send_buffer_max = 256 << 10;        // bytes
  size_t receive_buffer_min = 64 << 10, receive_buffer_max = 256 << 10;  // bytes
  Nanos latency_min = 20 * kMicrosecond, latency_max = 60 * kMicrosecond;
  double partial_transfer = 0;  // only some of the bytes on the way arrive with the next step
  double slow_transfer = 0;     // a step takes up to slow_max
  Nanos slow_max = 20 * kMillisecond;
  double reset = 0;            // a step ends the connection for both ends
  double connect_refused = 0;  // though somebody listens
  double connect_slow = 0;     // takes connect_slow_min to connect_slow_max
  Nanos connect_slow_min = 0, connect_slow_max = 400 * kMillisecond;
  double connect_hangs = 0;  // never answered

  // --- rings
  double send_later = 0;       // a send's first attempt comes later than its submission
  double short_send = 0;       // a send ends with fewer bytes than asked for
  double short_receive = 0;    // fewer bytes than are there
  double transient_error = 0;  // EINTR or EAGAIN, nothing done
  double late_ready = 0;       // what is ready is noticed up to late_max later
  double late_completion = 0;  // what was sent is reported up to late_max later
  Nanos late_max = 2 * kMillisecond;
  double few_completions = 0;   // a turn gets a few only
  double multishot_ends = 0;    // with this result
  double early_submit = 0;      // submitted before the turn
  double no_buffers_early = 0;  // ENOBUFS though nothing is there to be received
  double cancel_already = 0;    // a cancel finds its target running: EALREADY; it ends a bit later
  double cancel_races = 0;      // its target completes with what it was waiting for
  double late_post = 0;         // a message takes up to late_max
  double release_copied = 0;    // a zero-copy send was copied after all
  double late_release = 0;      // up to release_late_max after the bytes have arrived
  Nanos release_late_max = 50 * kMillisecond;
  double accept_error = 0;  // ECONNABORTED or the like
  double close_error = 0;   // EIO: the descriptor is closed nevertheless

  // Every turn of a ring's owner takes so long.
  Nanos turn_min = 1 * kMicrosecond, turn_max = 20 * kMicrosecond;
  double slow_turn = 0;  // up to slow_turn_max
  Nanos slow_turn_max = 5 * kMillisecond;

  // A machine on which nothing goes wrong.
  static FaultOptions None() { return FaultOptions(); }
  // Some of the faults, each with a probability of its own: another mixture for each seed.
  static FaultOptions Mixture(Random* random);
};

}  // namespace sim
