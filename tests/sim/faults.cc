#include "tests/sim/faults.h"

namespace sim {
namespace {

// Off, or rare, or frequent.
double Some(Random* random, double most) {
  switch (random->Below(4)) {
    case 0:
    case 1:
      return 0;
    case 2:
      return most / 16;
    default:
      return most;
  }
}

void BufferRange(Random* random, size_t* low, size_t* high) {
  switch (random->Below(5)) {
    case 0:  // tiny for all
      *low = 1;
      *high = 64;
      return;
    case 1:  // anything
      *low = 1;
      *high = 256 << 10;
      return;
    case 2:
      *low = 512;
      *high = 16 << 10;
      return;
    default:
      return;
  }
}

}  // namespace

FaultOptions FaultOptions::Mixture(Random* random) {
  FaultOptions faults;
  BufferRange(random, &faults.send_buffer_min, &faults.send_buffer_max);
  BufferRange(random, &faults.receive_buffer_min, &faults.receive_buffer_max);
  // Where a round trip carries a few bytes only, it is a short one.
  const bool tiny = faults.send_buffer_min < 512 || faults.receive_buffer_min < 512;
  if (!tiny && random->Below(3) == 0) faults.latency_max = 2 * kMillisecond;
  faults.partial_transfer = Some(random, 0.5);
  faults.slow_transfer = Some(random, tiny ? 0.001 : 0.02);
  faults.reset = Some(random, 0.0005);
  faults.connect_refused = Some(random, 0.05);
  faults.connect_slow = Some(random, 0.2);
  faults.connect_hangs = Some(random, 0.05);
  faults.send_later = Some(random, 0.2);
  faults.short_send = Some(random, 0.2);
  faults.short_receive = Some(random, 0.3);
  faults.transient_error = Some(random, 0.05);
  faults.late_ready = Some(random, 0.1);
  faults.late_completion = Some(random, 0.2);
  faults.few_completions = Some(random, 0.3);
  faults.multishot_ends = Some(random, 0.2);
  faults.early_submit = Some(random, 0.3);
  faults.no_buffers_early = Some(random, 0.2);
  faults.cancel_already = Some(random, 0.5);
  faults.cancel_races = Some(random, 0.5);
  faults.late_post = Some(random, 0.3);
  faults.release_copied = Some(random, 0.1);
  faults.late_release = Some(random, 0.3);
  faults.accept_error = Some(random, 0.05);
  faults.close_error = Some(random, 0.05);
  if (random->Below(4) == 0) faults.turn_max = 300 * kMicrosecond;
  faults.slow_turn = Some(random, 0.01);
  return faults;
}

}  // namespace sim
