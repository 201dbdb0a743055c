// The part of Client (proxy/client.h) that concerns commands that block.

#include <memory>
#include <utility>

#include "proxy/client.h"
#include "proxy/worker.h"

namespace proxy {

void Client::StartBlocking(const cluster::CommandSpec& command, cluster::Slot slot, Block block,
                           const io::Rope& frame) {
  Request* request = NewRequest(command, frame.size());
  request->slot = slot;
  request->is_blocking = request->private_connection = true;
  request->block = std::make_unique<Block>(std::move(block));
  answer_first_ = request;
  worker_->stats()->blocked_clients.Add(1);
  if (!worker_->dispatcher()->Start(request, frame)) waiting_for_room_ = true;
}

bool Client::Unblock(bool error) {
  Request* const request = answer_first_;
  if (request == nullptr || !request->is_blocking || request->block->ended_by_client) return false;
  if (request->state != Request::State::kSent) return false;
  Backend* const backend = request->backend;
  Backend* const shared =
      worker_->backends()->Shared(backend->node(), resp::Protocol::kResp2, false, request->slot);
  if (shared == nullptr || !shared->SendUnblock(backend->client_id(), error)) return false;
  return request->block->ended_by_client = true;
}

}  // namespace proxy
