#include "proxy/transaction.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "proxy/backend.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

constexpr absl::string_view kMulti = "*1\r\n$5\r\nMULTI\r\n";
constexpr absl::string_view kExec = "*1\r\n$4\r\nEXEC\r\n";
// More of an error than its first line's begin is not needed.
constexpr size_t kQueueReplyBytesMax = 4 << 10;
// What a queued command costs besides its bytes.
constexpr size_t kCommandOverhead = 64;

}  // namespace

Backend* Watch::FindBackend(const Worker& worker) const {
  return has_backend ? worker.FindBackend(backend_index, backend_generation) : nullptr;
}

void Watch::Take(Backend* backend) {
  has_backend = true;
  backend_index = backend->index();
  backend_generation = backend->generation();
}

void Watch::Release(const Worker& worker, bool reuse) {
  over = true;
  Backend* const backend = FindBackend(worker);
  has_backend = false;
  if (backend == nullptr || !backend->usable()) return;
  backend->EndLease();
  if (!reuse) backend->Retire();
}

bool Burst::TakeQueueReply(absl::string_view piece, bool complete) {
  if (queue_replies_left_ == 0) return false;
  if (queue_error_.empty()) {
    const size_t room = kQueueReplyBytesMax - std::min(kQueueReplyBytesMax, line_.size());
    line_.append(piece.data(), std::min(room, piece.size()));
  }
  if (!complete) return true;
  --queue_replies_left_;
  if (!line_.empty() && line_[0] == '-') {
    queue_error_ = line_.substr(1, line_.find('\r') - 1);
  }
  line_.clear();
  return true;
}

void Transaction::Drop() {
  queueing_ = aborted_ = false;
  slot_.reset();
  commands_.Clear();
  node_commands_ = 0;
  local_.clear();
  scripts_.clear();
  charged_ = 0;
}

bool Transaction::AcceptsSlot(cluster::Slot slot) const {
  if (slot_.has_value() && *slot_ != slot) return false;
  return watch == nullptr || watch->slot == slot;
}

void Transaction::QueueForNode(absl::optional<cluster::Slot> slot, const io::Rope& bytes) {
  if (slot.has_value()) slot_ = slot;
  commands_.Append(bytes);
  ++node_commands_;
  charged_ += bytes.size() + kCommandOverhead;
}

void Transaction::QueueLocal(const cluster::CommandSpec& command,
                             absl::Span<const absl::string_view> args) {
  LocalCommand& local = local_.emplace_back();
  local.command = &command;
  local.place = node_commands_ + static_cast<uint32_t>(local_.size() - 1);
  for (const absl::string_view arg : args) {
    local.args.emplace_back(arg);
    charged_ += arg.size() + kCommandOverhead;
  }
}

void Transaction::NoteScript(absl::string_view name) {
  std::string lower = absl::AsciiStrToLower(name);
  if (std::find(scripts_.begin(), scripts_.end(), lower) != scripts_.end()) return;
  charged_ += lower.size() + kCommandOverhead;
  scripts_.push_back(std::move(lower));
}

cluster::Slot Transaction::slot() const {
  if (slot_.has_value()) return *slot_;
  return watch == nullptr ? 0 : watch->slot;
}

io::Rope Transaction::BurstBytes() const {
  io::Rope bytes;
  bytes.Append(io::Slice::Static(kMulti));
  bytes.Append(commands_);
  bytes.Append(io::Slice::Static(kExec));
  return bytes;
}

std::unique_ptr<Burst> Transaction::MakeBurst() const {
  return std::make_unique<Burst>(node_commands_, local_, scripts_);
}

}  // namespace proxy
