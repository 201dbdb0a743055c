// The part of Client (proxy/client.h) that concerns commands whose keys lie in several slots.

#include <memory>
#include <utility>

#include "cluster/router.h"
#include "proxy/blocking_pop.h"
#include "proxy/client.h"
#include "proxy/cross_slot.h"
#include "proxy/worker.h"

namespace proxy {

// Here it is decided which of them are served; the others get what a cluster's nodes say.
void Client::TakeOverSlots(const cluster::CommandSpec& command,
                           absl::Span<const absl::string_view> args,
                           absl::Span<const uint32_t> keys, const io::Rope& frame) {
  if (IsPop(command)) return TakePopOverSlots(command, args, keys, frame);
  const bool wanted = worker_->config().cross_slot == CrossSlot::kSplit;
  std::unique_ptr<Procedure> procedure;
  if (wanted && (command.flags & cluster::kFlagOverSlots) != 0) {
    procedure = MakeOverSlots(worker_, command, args, keys);
  }
  if (procedure == nullptr) return AnswerNewError(cluster::kCrossSlotError);
  worker_->stats()->cross_slot_requests.Add(1);
  StartProcedure(NewRequest(command, frame.size()), std::move(procedure));
}

}  // namespace proxy
