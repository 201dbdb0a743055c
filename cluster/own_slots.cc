#include "cluster/own_slots.h"

#include <algorithm>
#include <utility>

namespace cluster {

absl::StatusOr<OwnSlots> OwnSlots::FromNodesReply(absl::string_view reply) {
  absl::StatusOr<internal::NodeLine> line = internal::ParseSourceLine(reply);
  if (!line.ok()) return line.status();
  OwnSlots own;
  own.slots_ = std::move(line->slots);
  own.moving_ = std::move(line->moving);
  own.config_epoch_ = line->node.config_epoch;
  return own;
}

bool OwnSlots::Owns(Slot slot) const {
  return std::any_of(slots_.begin(), slots_.end(), [slot](const internal::SlotRange& range) {
    return range.first <= slot && slot <= range.last;
  });
}

const MovingSlot* OwnSlots::FindMoving(Slot slot) const {
  for (const MovingSlot& moving : moving_) {
    if (moving.slot == slot) return &moving;
  }
  return nullptr;
}

bool OwnSlots::HasMoreThan(const Topology& topology) const {
  for (const MovingSlot& slot : moving_) {
    if (slot.importing) return true;
  }
  for (const internal::SlotRange& range : slots_) {
    for (int slot = range.first; slot <= range.last; ++slot) {
      if (config_epoch_ > topology.EpochOf(static_cast<Slot>(slot))) return true;
    }
  }
  return false;
}

}  // namespace cluster
