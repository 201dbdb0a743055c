#include "proxy/random_key.h"

#include <utility>

#include "proxy/every_node.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

class RandomKey final : public EveryNode {
 public:
  explicit RandomKey(const cluster::CommandSpec& command)
      : EveryNode(*cluster::FindCommand("DBSIZE"), Audience::kPrimaries, MakeFrame({"DBSIZE"})),
        random_key_(command) {}

  void Next(Step* step) override {
    if (sizes_.empty()) return EveryNode::Next(step);
    Ask& ask = step->asks[0];
    // It was emptied meanwhile, or is no primary any more: then its successor was asked too late.
    const std::string reply = ask.gone ? std::string() : ask.reply.Flatten();
    if (!ask.gone && !resp::IsNullBulk(reply)) {
      if (ask.failed()) return step->AnswerError(FailureLine(step->asks, false));
      step->reply = std::move(ask.reply);
      return;
    }
    sizes_[asked_].keys = 0;
    Choose(step);
  }

 private:
  struct Size {
    std::string node_id;
    std::string node_name;
    uint64_t keys = 0;
  };

  void Merge(Step* step, absl::Span<Ask> answered) override {
    for (Ask& ask : answered) {
      int64_t keys = 0;
      if (!resp::ParseInteger(ask.reply.Flatten(), &keys) || keys < 0) {
        return step->AnswerError(kBadReplyError);
      }
      sizes_.push_back(
          {std::move(ask.node_id), std::move(ask.node_name), static_cast<uint64_t>(keys)});
    }
    Choose(step);
  }

  void Choose(Step* step) {
    uint64_t sum = 0;
    for (const Size& size : sizes_) sum += size.keys;
    if (sum == 0) {
      std::string null;
      resp::Encoder(step->protocol, &null).Null();
      return step->Answer(null);
    }
    uint64_t key = step->worker->Random(sum);
    asked_ = 0;
    while (key >= sizes_[asked_].keys) key -= sizes_[asked_++].keys;
    Ask ask;
    ask.to = Ask::To::kPrimary;
    ask.node_id = sizes_[asked_].node_id;
    ask.node_name = sizes_[asked_].node_name;
    ask.command = &random_key_;
    ask.frame = MakeFrame({"RANDOMKEY"});
    step->asks.clear();
    step->asks.push_back(std::move(ask));
  }

  const cluster::CommandSpec& random_key_;
  std::vector<Size> sizes_;  // empty: not known yet
  size_t asked_ = 0;
};

}  // namespace

std::unique_ptr<Procedure> MakeRandomKey(const cluster::CommandSpec& command) {
  return std::make_unique<RandomKey>(command);
}

}  // namespace proxy
