#pragma once

// File: tests/sim/canary/planted.h
//
// Which of the planted bugs (see plant.py) is chosen: the one named by SIM_CANARY in the
// environment, read once.

#include <map>

#include "absl/strings/string_view.h"

namespace sim {

bool Planted(absl::string_view name);

}  // namespace sim
