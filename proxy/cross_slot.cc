#include "proxy/cross_slot.h"

namespace proxy {

std::unique_ptr<Procedure> MakeOverSlots(Worker* worker, const cluster::CommandSpec& command,
                                         absl::Span<const absl::string_view> args,
                                         absl::Span<const uint32_t> keys) {
  if (auto sets = MakeSetsOverSlots(worker, command, args, keys)) return sets;
  if (auto count = MakeCountOverSlots(worker, command, args, keys)) return count;
  return MakeMoveOverSlots(worker, command, args, keys);
}

}  // namespace proxy
