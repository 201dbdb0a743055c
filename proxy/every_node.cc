#include "proxy/every_node.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proxy/args.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

// Nodes may come and change their roles while it is under way: plans are made so often.
constexpr int kRoundsMax = 8;
// A replica that can't be reached is not waited for much longer than a connect takes.
constexpr absl::Duration kReplicaPatience = absl::Milliseconds(500);

const cluster::CommandSpec& NodesCommand() {
  static const cluster::CommandSpec* const kCommand = new cluster::CommandSpec(
      AsRead(*cluster::FindSubcommand(*cluster::FindCommand("CLUSTER"), "NODES")));
  return *kCommand;
}

// It is the primary of some slot.
bool ServesSlots(const cluster::Topology& topology, cluster::NodeIndex node) {
  return std::any_of(topology.shards().begin(), topology.shards().end(),
                     [node](const cluster::Shard& shard) { return shard.primary == node; });
}

constexpr absl::string_view kUnstable =
    "CLUSTERDOWN proxy: the cluster's nodes keep changing (outcome unknown)";

}  // namespace

bool EveryNode::IsAnswered(absl::string_view node_id) const {
  return std::any_of(answered_.begin(), answered_.end(),
                     [&](const Ask& ask) { return ask.node_id == node_id; });
}

// Asks all that have not answered yet, as the topology is now: one that took over from another in
// the meantime, and one that has got its first slots. False: there is none.
bool EveryNode::Plan(Step* step) {
  if (WaitForCoverage(*step->worker, &step->asks)) return true;
  step->asks.clear();
  const cluster::Topology& topology = *step->worker->cluster()->topology;
  for (size_t i = 0; i < topology.nodes().size(); ++i) {
    const auto index = static_cast<cluster::NodeIndex>(i);
    const cluster::Node& node = topology.node(index);
    if (!node.usable()) continue;
    const bool owner = ServesSlots(topology, index);
    // A primary that serves no slot may import its first one: keys that have moved are there.
    const bool well = !node.failed && !node.maybe_failed;
    const bool wanted = owner || (well && (node.is_primary || audience_ == Audience::kAllNodes));
    if (!wanted || IsAnswered(node.id)) continue;
    Ask ask;
    ask.to = owner || node.is_primary ? Ask::To::kPrimary : Ask::To::kNode;
    ask.slot = static_cast<cluster::Slot>(i % cluster::kSlotCount);
    ask.node_id = node.id;
    ask.node_name = NodeName(topology, index);
    ask.command = &command_;
    ask.frame = frame_;
    if (ask.to == Ask::To::kNode) ask.patience = kReplicaPatience;
    step->asks.push_back(ask);
    if (owner || !node.is_primary) continue;
    ask.command = &NodesCommand();
    ask.frame = MakeFrame({"CLUSTER", "NODES"});
    step->asks.push_back(std::move(ask));
  }
  return !step->asks.empty();
}

void EveryNode::Next(Step* step) {
  bool failed = false;
  for (Ask& ask : step->asks) {
    if (ask.gone) continue;
    if (ask.command == &NodesCommand()) {
      const std::string reply = ask.reply.Flatten();
      absl::string_view text;
      if (!resp::ParseText(reply, &text)) continue;
      auto own = cluster::OwnSlots::FromNodesReply(text);
      if (own.ok()) own_[ask.node_id] = *std::move(own);
      continue;
    }
    held_bytes_ += ask.reply.size();
    const bool replica = ask.to == Ask::To::kNode;
    failed |= ask.failed() && !replica;
    if (replica) {
      NoteReplica(ask);
      ask.reply.Clear();
    }
    answered_.push_back(std::move(ask));
  }
  if (!failed && Plan(step)) {
    if (++rounds_ <= kRoundsMax) return;
    return step->AnswerError(kUnstable);
  }
  answered_.erase(std::remove_if(answered_.begin(), answered_.end(),
                                 [&](const Ask& ask) { return IsObsolete(*step->worker, ask); }),
                  answered_.end());
  if (failed) return Fail(step, absl::MakeSpan(answered_));
  Merge(step, absl::MakeSpan(answered_));
}

// Another one has answered for it: it is no primary any more, or one that has lost all of its slots
// and does not know yet that it is to follow their new owner.
bool EveryNode::IsObsolete(const Worker& worker, const Ask& ask) const {
  if (ask.to == Ask::To::kNode) return true;
  if (ask.failed()) return false;
  if (IsGone(worker, ask)) return true;
  const cluster::Topology& topology = *worker.cluster()->topology;
  if (ServesSlots(topology, topology.FindById(ask.node_id))) return false;
  const auto own = own_.find(ask.node_id);
  return own == own_.end() || !own->second.HasMoreThan(topology);
}

void EveryNode::Fail(Step* step, absl::Span<Ask> answered) {
  const bool write =
      command_.is_write() || command_.response_policy == cluster::ResponsePolicy::kAllSucceeded;
  step->AnswerError(FailureLine(answered, write));
}

namespace {

// DBSIZE, SLOWLOG LEN, LATENCY RESET.
class SumOfAll final : public EveryNode {
 public:
  using EveryNode::EveryNode;

 private:
  void Merge(Step* step, absl::Span<Ask> answered) override {
    int64_t sum = 0;
    for (const Ask& ask : answered) {
      int64_t value = 0;
      if (!resp::ParseInteger(ask.reply.Flatten(), &value) ||
          __builtin_add_overflow(sum, value, &sum)) {
        return step->AnswerError(kBadReplyError);
      }
    }
    step->Answer(absl::StrCat(":", sum, "\r\n"));
  }
};

// FLUSHALL, SCRIPT LOAD, FUNCTION FLUSH, …: all say the same.
class AllSucceeded final : public EveryNode {
 public:
  using EveryNode::EveryNode;

 private:
  void Merge(Step* step, absl::Span<Ask> answered) override {
    if (answered.empty()) return step->AnswerError(kBadReplyError);
    step->reply = std::move(answered.front().reply);
  }
};

// KEYS: the elements of all, one after the other.
class JoinedArrays final : public EveryNode {
 public:
  using EveryNode::EveryNode;

 private:
  void Merge(Step* step, absl::Span<Ask> answered) override {
    int64_t count = 0;
    io::Rope elements;
    for (const Ask& ask : answered) {
      const auto pieces = ask.reply.Views();
      resp::PieceCursor cursor(pieces);
      char type = 0;
      int64_t n = 0;
      if (!cursor.TakeHeader(&type, &n) || type != '*' || n < 0) {
        return step->AnswerError(kBadReplyError);
      }
      count += n;
      const size_t header = static_cast<size_t>(cursor.offset());
      if (ask.reply.size() == header) continue;
      io::RopeRanges(ask.reply).AppendTo(header, ask.reply.size() - header, &elements);
    }
    step->Answer(absl::StrCat("*", count, "\r\n"));
    step->reply.Append(elements);
  }
};

// SCRIPT EXISTS: 1 where all have it.
class LogicalAnd final : public EveryNode {
 public:
  using EveryNode::EveryNode;

 private:
  void Merge(Step* step, absl::Span<Ask> answered) override {
    std::vector<bool> all;
    for (size_t i = 0; i < answered.size(); ++i) {
      const std::string reply = answered[i].reply.Flatten();
      const std::vector<absl::string_view> elements = resp::ElementsOf(reply);
      if (i == 0) all.assign(elements.size(), true);
      if (elements.size() != all.size()) return step->AnswerError(kBadReplyError);
      for (size_t j = 0; j < elements.size(); ++j) {
        int64_t value = 0;
        if (!resp::ParseInteger(elements[j], &value)) return step->AnswerError(kBadReplyError);
        if (value == 0) all[j] = false;
      }
    }
    std::string reply;
    resp::Encoder encoder(step->protocol, &reply);
    encoder.Array(static_cast<int64_t>(all.size()));
    for (const bool value : all) encoder.Integer(value ? 1 : 0);
    step->Answer(reply);
  }
};

// SCRIPT KILL, FUNCTION KILL: most nodes run nothing.
class OneSucceeded final : public EveryNode {
 public:
  using EveryNode::EveryNode;

 private:
  void Merge(Step* step, absl::Span<Ask> answered) override {
    step->reply = std::move(answered.front().reply);
  }
  void Fail(Step* step, absl::Span<Ask> answered) override {
    Ask* chosen = nullptr;
    for (Ask& ask : answered) {
      if (!ask.failed()) return Merge(step, absl::MakeSpan(&ask, 1));
      if (chosen == nullptr || !absl::StartsWith(ask.ErrorLine(), "NOTBUSY ")) chosen = &ask;
    }
    if (absl::StartsWith(chosen->ErrorLine(), "NOTBUSY ")) {
      return Merge(step, absl::MakeSpan(chosen, 1));
    }
    step->AnswerError(FailureLine(absl::MakeSpan(chosen, 1), false));
  }
};

// FUNCTION LIST and DUMP, SCRIPT SHOW: what all nodes have, one tells.
class OneNode final : public Procedure {
 public:
  OneNode(const cluster::CommandSpec& command, io::Rope frame)
      : command_(command), frame_(std::move(frame)) {}

  void Next(Step* step) override {
    if (!step->asks.empty()) {
      step->reply = std::move(step->asks[0].reply);
      return;
    }
    Ask ask;
    ask.command = &command_;
    ask.frame = frame_;
    step->asks.push_back(std::move(ask));
  }

 private:
  const cluster::CommandSpec& command_;
  const io::Rope frame_;
};

}  // namespace

std::unique_ptr<Procedure> MakeEveryNode(const cluster::CommandSpec& command,
                                         const io::Rope& frame) {
  // What changes something is told to replicas, too, where the servers say so; what they report is
  // not asked for.
  const bool changes =
      command.response_policy == cluster::ResponsePolicy::kAllSucceeded || command.name == "RESET";
  const bool all = command.request_policy == cluster::RequestPolicy::kAllNodes && changes;
  const Audience audience = all ? Audience::kAllNodes : Audience::kPrimaries;
  io::Rope kept = KeepFrame(frame);
  switch (command.response_policy) {
    case cluster::ResponsePolicy::kAggSum:
      return std::make_unique<SumOfAll>(command, audience, std::move(kept));
    case cluster::ResponsePolicy::kAllSucceeded:
      return std::make_unique<AllSucceeded>(command, audience, std::move(kept));
    case cluster::ResponsePolicy::kAggLogicalAnd:
      return std::make_unique<LogicalAnd>(command, audience, std::move(kept));
    case cluster::ResponsePolicy::kOneSucceeded:
      return std::make_unique<OneSucceeded>(command, audience, std::move(kept));
    default:
      break;
  }
  if (command.request_policy == cluster::RequestPolicy::kNone) {
    return std::make_unique<OneNode>(command, std::move(kept));
  }
  return std::make_unique<JoinedArrays>(command, audience, std::move(kept));
}

}  // namespace proxy
