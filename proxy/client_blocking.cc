// The part of Client (proxy/client.h) that concerns commands that block.

#include <memory>
#include <string>
#include <utility>

#include "proxy/blocking_pop.h"
#include "proxy/client.h"
#include "proxy/worker.h"

namespace proxy {

void Client::NoteBlocked(absl::Time until) {
  const bool with_timeout = until != absl::InfiniteFuture();
  blocked_ = with_timeout ? Blocked::kWithTimeout : Blocked::kForEver;
  worker_->stats()->blocked_clients.Add(1);
  if (with_timeout) worker_->stats()->clients_in_timeout_table.Add(1);
}

void Client::NoteUnblocked() {
  if (blocked_ == Blocked::kNo) return;
  worker_->stats()->blocked_clients.Sub(1);
  if (blocked_ == Blocked::kWithTimeout) worker_->stats()->clients_in_timeout_table.Sub(1);
  blocked_ = Blocked::kNo;
}

void Client::StartBlocking(const cluster::CommandSpec& command, cluster::Slot slot, Block block,
                           const io::Rope& frame) {
  BlockRequest(NewRequest(command, frame.size()), slot, std::make_unique<Block>(std::move(block)),
               frame);
}

// A procedure has found out how its request is to wait.
void Client::BlockInstead(Request* request, Step* step) {
  // The servers end it, too, when nothing more can come from the client.
  if (state_ != State::kOpen) return BeginClose();
  BlockRequest(request, step->slot, std::move(step->block), step->frame);
}

void Client::BlockRequest(Request* request, cluster::Slot slot, std::unique_ptr<Block> block,
                          const io::Rope& frame) {
  request->slot = slot;
  request->is_blocking = request->private_connection = request->force_primary = true;
  NoteBlocked(block->until);
  request->block = std::move(block);
  answer_first_ = request;
  if (!worker_->dispatcher()->Start(request, frame)) waiting_for_room_ = true;
}

void Client::TakePopOverSlots(const cluster::CommandSpec& command,
                              absl::Span<const absl::string_view> args,
                              absl::Span<const uint32_t> keys, const io::Rope& frame) {
  std::string error;
  std::unique_ptr<Procedure> procedure = MakePopOverSlots(*worker_, command, args, keys, &error);
  if (procedure == nullptr) return AnswerNewError(error);
  const auto timeout = cluster::FindBlockingTimeout(command, args);
  NoteBlocked(MakeBlock(*timeout, args[timeout->arg], worker_->now()).until);
  StartProcedure(NewRequest(command, frame.size()), std::move(procedure));
}

bool Client::Unblock(bool error) {
  if (EndWait(error ? Procedure::End::kError : Procedure::End::kTimeout)) return true;
  Request* const request = answer_first_;
  if (request == nullptr || !request->is_blocking || request->block->ended_by_client) return false;
  if (request->state != Request::State::kSent) return false;
  Backend* const backend = request->backend;
  Backend* const shared = worker_->backends()->Shared(backend->node(), {}, false, request->slot);
  if (shared == nullptr || !shared->SendUnblock(backend->client_id(), error)) return false;
  return request->block->ended_by_client = true;
}

}  // namespace proxy
