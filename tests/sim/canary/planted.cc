#include "tests/sim/canary/planted.h"

#include <cstdlib>

namespace sim {

bool Planted(absl::string_view name) {
  static const char* const chosen = getenv("SIM_CANARY");
  return chosen != nullptr && name == chosen;
}

}  // namespace sim
