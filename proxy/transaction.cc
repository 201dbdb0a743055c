#include "proxy/transaction.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "cluster/redirection.h"
#include "io/buffer_pool.h"
#include "proxy/args.h"
#include "proxy/backend.h"
#include "proxy/backend_pool.h"
#include "proxy/worker.h"
#include "resp/scanner.h"
#include "resp/views.h"

namespace proxy {
namespace {

constexpr absl::string_view kMulti = "*1\r\n$5\r\nMULTI\r\n";
constexpr absl::string_view kExec = "*1\r\n$4\r\nEXEC\r\n";
// More of an error than its first line's begin is not needed.
constexpr size_t kQueueReplyBytesMax = 4 << 10;
// What a queued command costs besides its bytes.
constexpr size_t kCommandOverhead = 64;

}  // namespace

Backend* KeptConnection::Find(const Worker& worker) const {
  return has_backend_ ? worker.FindBackend(index_, generation_) : nullptr;
}

void KeptConnection::Take(Backend* backend) {
  backend->Lease();
  was_taken_ = has_backend_ = true;
  index_ = backend->index();
  generation_ = backend->generation();
}

void KeptConnection::Release(const Worker& worker, bool reuse) {
  Backend* const backend = Find(worker);
  has_backend_ = false;
  if (backend == nullptr || !backend->usable()) return;
  backend->EndLease();
  if (!reuse) backend->Retire();
}

void KeptConnection::GiveBack(Worker* worker) {
  Backend* const backend = Find(*worker);
  const bool idle =
      backend != nullptr && backend->state() == Backend::State::kOpen && backend->owed() == 0;
  Release(*worker, idle);
  if (idle) worker->backends()->GiveBack(backend);
}

void Watch::Release(const Worker& worker, bool reuse) {
  over = true;
  connection.Release(worker, reuse);
}

bool Burst::TakeQueueReply(absl::string_view piece, bool complete) {
  if (queue_replies_left_ == 0) return false;
  const size_t room = kQueueReplyBytesMax - std::min(kQueueReplyBytesMax, line_.size());
  line_.append(piece.data(), std::min(room, piece.size()));
  if (!complete) return true;
  --queue_replies_left_;
  if (!line_.empty() && line_[0] == '-') {
    const absl::string_view error = absl::string_view(line_).substr(1, line_.find('\r') - 1);
    if (cluster::ParseErrorReply(error).kind != cluster::ErrorKind::kTryAgain) ++turned_away_;
    if (queue_error_.empty()) queue_error_ = std::string(error);
  }
  line_.clear();
  return true;
}

io::Rope Burst::TakeReply(resp::Protocol protocol) {
  const auto views = node_reply_.Views();
  resp::ElementReader elements(views);
  const io::RopeRanges ranges(node_reply_);
  std::string header;
  resp::Encoder(protocol, &header)
      .Array(int64_t{node_commands_} + static_cast<int64_t>(local_.size()));
  io::Rope reply(io::CopyToHeap(header));
  uint32_t place = 0;
  const auto take_until = [&](uint32_t end) {
    resp::ArgPosition element;
    for (; place < end && elements.Next(&element); ++place) {
      ranges.AppendTo(element.offset, element.length, &reply);
    }
  };
  for (size_t i = 0; i < local_replies_.size(); ++i) {
    take_until(local_[i].place);
    reply.Append(local_replies_[i]);
    ++place;
    if (i + 1 == ends_after_) return reply;
  }
  take_until(node_commands_ + static_cast<uint32_t>(local_.size()));
  return reply;
}

void Transaction::Drop() {
  queueing_ = aborted_ = may_write_ = false;
  queued_.parts.clear();
  queued_.splits.clear();
  queued_.commands.clear();
  part_of_slot_.clear();
  local_.clear();
  scripts_.clear();
  forging_ = Forging::kNobody;
  unshown.clear();
  charged_ = 0;
}

bool Transaction::AcceptsSlot(cluster::Slot slot) const {
  const bool queued_elsewhere =
      !queued_.parts.empty() && queued_.parts[0].slot.value_or(slot) != slot;
  return !queued_elsewhere && (watch == nullptr || watch->slot == slot);
}

bool Transaction::IsOverSlots() const {
  if (queued_.parts.size() > 1) return true;
  return watch != nullptr && !queued_.empty() &&
         queued_.parts[0].slot.value_or(watch->slot) != watch->slot;
}

// The number of the slot's part, added if there is none.
uint32_t Transaction::PartFor(absl::optional<cluster::Slot> slot) {
  std::vector<CrossSlotQueue::Part>& parts = queued_.parts;
  if (parts.empty()) parts.emplace_back();
  const auto last = static_cast<uint32_t>(parts.size() - 1);
  if (!slot.has_value()) return last;
  if (!parts[last].slot.has_value()) parts[last].slot = slot;
  if (*parts[last].slot == *slot) return last;
  if (part_of_slot_.empty()) part_of_slot_.emplace(*parts[0].slot, 0);
  const auto [place, is_new] = part_of_slot_.emplace(*slot, last + 1);
  if (is_new) parts.emplace_back().slot = slot;
  return place->second;
}

void Transaction::AppendToPart(uint32_t part, const io::Rope& bytes) {
  queued_.parts[part].commands.Append(bytes);
  ++queued_.parts[part].count;
  charged_ += bytes.size() + kCommandOverhead;
}

void Transaction::QueueForNode(absl::optional<cluster::Slot> slot, const io::Rope& bytes) {
  const uint32_t part = PartFor(slot);
  AppendToPart(part, bytes);
  queued_.commands.push_back({part, CrossSlotQueue::kNoSplit});
}

void Transaction::QueueSplit(const cluster::CommandSpec& command, cluster::SplitPlan plan,
                             absl::Span<const io::Rope> fragments) {
  CrossSlotQueue::Split& split = queued_.splits.emplace_back();
  split.command = &command;
  for (size_t i = 0; i < fragments.size(); ++i) {
    split.parts.push_back(PartFor(plan.fragments[i].slot));
    AppendToPart(split.parts.back(), fragments[i]);
  }
  charged_ += plan.keys.size() * 2 * sizeof(uint32_t);
  split.plan = std::move(plan);
  queued_.commands.push_back({0, static_cast<uint32_t>(queued_.splits.size() - 1)});
}

void Transaction::QueueLocal(const cluster::CommandSpec& command,
                             absl::Span<const absl::string_view> args) {
  LocalCommand& local = local_.emplace_back();
  local.command = &command;
  local.place = static_cast<uint32_t>(queued_.commands.size() + local_.size() - 1);
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

size_t Transaction::unshown_bytes() const {
  size_t bytes = 0;
  for (const std::string& line : unshown) bytes += line.size();
  return bytes;
}

cluster::Slot Transaction::slot() const {
  if (!queued_.parts.empty() && queued_.parts[0].slot.has_value()) return *queued_.parts[0].slot;
  return watch == nullptr ? 0 : watch->slot;
}

io::Rope Transaction::BurstBytes() const {
  return BurstBytesOf(queued_.parts.empty() ? io::Rope() : queued_.parts[0].commands);
}

std::unique_ptr<Burst> Transaction::MakeBurst() const {
  auto burst =
      std::make_unique<Burst>(static_cast<uint32_t>(queued_.commands.size()), local_, scripts_);
  burst->forging = forging_;
  return burst;
}

void Transaction::ForEachQueued(
    const std::function<void(absl::Span<const absl::string_view>)>& fn) const {
  std::vector<std::string> texts;
  std::vector<absl::string_view> rest;
  for (const CrossSlotQueue::Part& part : queued_.parts) texts.push_back(part.commands.Flatten());
  rest.assign(texts.begin(), texts.end());
  const auto take = [&](uint32_t part) {
    resp::RequestLimits limits;  // were observed when it came
    limits.args_max = limits.bulk_bytes_max = std::numeric_limits<int64_t>::max();
    const size_t size = resp::RequestScanner().Scan(rest[part], limits).consumed;
    const absl::string_view frame = rest[part].substr(0, size);
    rest[part].remove_prefix(size);
    return frame;
  };
  auto local = local_.begin();
  const size_t count = queued_.commands.size() + local_.size();
  for (uint32_t place = 0, node = 0; place < count; ++place) {
    if (local != local_.end() && local->place == place) {
      fn(std::vector<absl::string_view>(local->args.begin(), local->args.end()));
      ++local;
      continue;
    }
    const CrossSlotQueue::Command& command = queued_.commands[node++];
    if (command.split == CrossSlotQueue::kNoSplit) {
      const absl::string_view frame = take(command.part);
      fn(ArgList(resp::Pieces(&frame, 1)).views());
      continue;
    }
    const CrossSlotQueue::Split& split = queued_.splits[command.split];
    std::vector<absl::string_view> whole(1);
    for (size_t i = 0; i < split.parts.size(); ++i) {
      const absl::string_view frame = take(split.parts[i]);
      const ArgList args(resp::Pieces(&frame, 1));
      const auto keys = split.plan.KeysOf(split.plan.fragments[i]);
      const size_t step = (args.views().size() - 1) / keys.size();
      whole[0] = args.views()[0];
      whole.resize(1 + split.plan.keys.size() * step);
      for (size_t key = 0; key < keys.size(); ++key) {
        for (size_t n = 0; n < step; ++n) {
          whole[1 + keys[key] * step + n] = args.views()[1 + key * step + n];
        }
      }
    }
    fn(whole);
  }
}

CrossSlotQueue Transaction::TakeCrossSlot() { return std::exchange(queued_, CrossSlotQueue()); }

io::Rope BurstBytesOf(const io::Rope& commands) {
  io::Rope bytes;
  bytes.Append(io::Slice::Static(kMulti));
  bytes.Append(commands);
  bytes.Append(io::Slice::Static(kExec));
  return bytes;
}

}  // namespace proxy
