#pragma once

// File: proxy/control_context.h
//
// What Control gives its parts (proxy/topology_refresh.h, proxy/function_repair.h): they live on
// its ring and thread. All of it outlives them.

#include "absl/time/time.h"
#include "io/ring.h"
#include "io/timers.h"
#include "proxy/config.h"
#include "proxy/log.h"
#include "proxy/stats.h"

namespace proxy {

struct ControlContext {
  io::Ring* ring = nullptr;
  io::Timers* timers = nullptr;
  const absl::Time* now = nullptr;  // of this turn
  const Config* config = nullptr;
  ControlStats* stats = nullptr;
  Log* log = nullptr;
};

}  // namespace proxy
