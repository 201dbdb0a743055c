#include "proxy/blocking_read.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

constexpr absl::string_view kTail = "$";
constexpr absl::string_view kNoId = "0-0";  // of a stream that is not there

class TailRead final : public Procedure {
 public:
  TailRead(absl::Span<const absl::string_view> args, absl::Span<const uint32_t> keys,
           cluster::Slot slot, Block block)
      : args_(args.begin(), args.end()),
        keys_(keys.begin(), keys.end()),
        slot_(slot),
        block_(std::move(block)),
        info_(*cluster::FindSubcommand(*cluster::FindCommand("XINFO"), "STREAM")) {
    for (const std::string& arg : args_) held_bytes_ += sizeof(arg) + arg.size();
  }

  void Next(Step* step) override {
    if (step->asks.empty()) {
      for (const uint32_t key : keys_) {
        if (IdOf(key) != kTail) continue;
        Ask ask;
        ask.slot = slot_;
        ask.command = &info_;
        ask.frame = MakeFrame({"XINFO", "STREAM", args_[key]});
        step->asks.push_back(std::move(ask));
      }
      return;
    }
    size_t answered = 0;
    for (const uint32_t key : keys_) {
      if (IdOf(key) != kTail) continue;
      const Ask& ask = step->asks[answered++];
      // It is no stream, or the user may not ask: whatever it is, XREAD tells.
      if (!ask.failed()) {
        IdOf(key) = LastId(ask.reply.Flatten());
      } else if (ask.ErrorLine() == "ERR no such key") {
        IdOf(key) = std::string(kNoId);
      }
    }
    const std::vector<absl::string_view> views(args_.begin(), args_.end());
    step->asks.clear();
    step->frame = MakeFrame(views);
    step->slot = slot_;
    step->block = std::make_unique<Block>(std::move(block_));
  }
  size_t held_bytes() const override { return held_bytes_; }

 private:
  // Of XINFO STREAM: field after value, whatever the protocol.
  static std::string LastId(const std::string& reply) {
    const std::vector<absl::string_view> fields = resp::ElementsOf(reply);
    for (size_t i = 0; i + 1 < fields.size(); i += 2) {
      absl::string_view name;
      absl::string_view id;
      if (resp::ParseText(fields[i], &name) && name == "last-generated-id" &&
          resp::ParseText(fields[i + 1], &id)) {
        return std::string(id);
      }
    }
    return std::string(kTail);
  }
  std::string& IdOf(uint32_t key) { return args_[key + keys_.size()]; }

  std::vector<std::string> args_;
  const std::vector<uint32_t> keys_;
  const cluster::Slot slot_;
  Block block_;
  const cluster::CommandSpec& info_;
  size_t held_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Procedure> MakeTailRead(const cluster::CommandSpec& command,
                                        absl::Span<const absl::string_view> args,
                                        absl::Span<const uint32_t> keys, cluster::Slot slot,
                                        absl::Time now) {
  if (command.name != "XREAD" || !command.container.empty()) return nullptr;
  // The ids stand behind the keys, as many.
  if (keys.empty() || keys.back() + keys.size() != args.size() - 1) return nullptr;
  const auto ids = args.subspan(args.size() - keys.size());
  if (std::find(ids.begin(), ids.end(), kTail) == ids.end()) return nullptr;
  const auto timeout = cluster::FindBlockingTimeout(command, args);
  Block block = MakeBlock(*timeout, args[timeout->arg], now);
  return std::make_unique<TailRead>(args, keys, slot, std::move(block));
}

}  // namespace proxy
