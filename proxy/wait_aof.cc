#include "proxy/wait_aof.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cluster/router.h"
#include "proxy/args.h"
#include "proxy/every_node.h"
#include "proxy/local_handlers.h"
#include "proxy/polling.h"
#include "proxy/server_info.h"
#include "proxy/step_time.h"
#include "proxy/transaction.h"
#include "proxy/wait_parts.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

constexpr absl::string_view kBadInteger = "ERR value is not an integer or out of range";
constexpr absl::string_view kBadLocal = "ERR value is out of range, value must between 0 and 1";
constexpr absl::string_view kBadReplicas = "ERR value is out of range, must be positive";

// What goes to a primary: a block that changes nothing in the end, and may be sent again.
const cluster::CommandSpec& BlockCommand() {
  static const cluster::CommandSpec* const kCommand =
      new cluster::CommandSpec(AsRead(*cluster::FindCommand("EXEC")));
  return *kCommand;
}

// The two numbers of WAITAOF's reply within that of its block. False: *error is what it says
// instead.
bool ParseCounts(const io::Rope& block, int64_t* local, int64_t* replicas, std::string* error) {
  *error = std::string(kBadReplyError);
  const std::string text = block.Flatten();
  const std::vector<absl::string_view> commands = resp::ElementsOf(text);
  if (commands.size() != 1) return false;
  if (resp::IsErrorFrame(commands[0])) {
    *error = std::string(resp::ErrorLineOf(commands[0]));
    return false;
  }
  const std::vector<absl::string_view> counts = resp::ElementsOf(commands[0]);
  return counts.size() == 2 && resp::ParseInteger(counts[0], local) &&
         resp::ParseInteger(counts[1], replicas);
}

class WaitAof final : public Procedure {
 public:
  WaitAof(Worker* worker, int64_t local, int64_t replicas, absl::Time until)
      : worker_(worker), wanted_local_(local), wanted_replicas_(replicas), until_(until) {
    std::string command;
    resp::AppendCommand({"WAITAOF", absl::StrCat(local), absl::StrCat(replicas), "0"}, &command);
    count_ = BurstBytesOf(io::Rope(io::CopyToHeap(command)));
  }
  // Its client may have gone while it waited.
  ~WaitAof() override {
    for (const Primary& primary : primaries_) primary.connection->Release(*worker_, false);
  }

  void Next(Step* step) override {
    switch (phase_) {
      case Phase::kBegin:
        if (step->asks.empty()) time_.Begin(*worker_);
        return Plan(step);
      case Phase::kCoverage:
        if (step->asks[0].failed()) {
          step->reply = std::move(step->asks[0].reply);
          return;
        }
        return Plan(step);
      case Phase::kMark:
        return OnMarked(step);
      case Phase::kCount:
        return OnCounts(step);
      case Phase::kPrompt:
        // What they say does not matter, nor whether they could.
        return poll_.ended() ? End(step) : AskCounts(step);
      case Phase::kPause:
        if (poll_.ended()) return End(step);
        if (step->asks[0].failed() && worker_->now() < until_) {
          step->reply = std::move(step->asks[0].reply);
          return;
        }
        return Prompt(step);
    }
  }

  bool EndWait(Procedure::End end) override {
    poll_.End(end);
    return true;
  }

 private:
  enum class Phase : uint8_t { kBegin, kCoverage, kMark, kCount, kPrompt, kPause };
  struct Primary : WaitPrimary {
    std::shared_ptr<KeptConnection> connection = std::make_shared<KeptConnection>();
    int64_t local = 0;     // 1: what comes before the mark is on its disk
    int64_t replicas = 0;  // on whose disks it is, too
  };

  void Plan(Step* step) {
    phase_ = Phase::kCoverage;
    if (WaitForCoverage(*worker_, &step->asks)) return;
    step->asks.clear();
    GiveBack();
    const cluster::Topology& topology = *worker_->cluster()->topology;
    const std::vector<size_t> shards = ShardsToWaitFor(topology, step->written);
    for (const size_t shard : shards) {
      Primary& primary = primaries_.emplace_back();
      static_cast<WaitPrimary&>(primary) = WaitPrimaryOf(topology, shard, primaries_.size());
    }
    if (step->written.empty()) return AskCounts(step);
    phase_ = Phase::kMark;
    const std::vector<std::string> keys = NewKeys(topology, shards);
    for (size_t i = 0; i < shards.size(); ++i) {
      std::string commands;
      resp::AppendCommand({"SET", keys[i], ""}, &commands);
      resp::AppendCommand({"DEL", keys[i]}, &commands);
      Ask ask = AskOfKey(BlockCommand(), keys[i], BurstBytesOf(io::Rope(io::CopyToHeap(commands))));
      ask.node_name = primaries_[i].node_name;
      ask.is_burst = true;
      ask.burst_commands = 2;
      ask.kept = primaries_[i].connection;
      ask.patience = Poll::Patience(worker_->now(), until_);
      step->asks.push_back(std::move(ask));
    }
  }

  // For each of the shards a key that nobody has.
  std::vector<std::string> NewKeys(const cluster::Topology& topology,
                                   const std::vector<size_t>& shards) const {
    std::vector<std::string> keys(shards.size());
    size_t missing = keys.size();
    while (missing > 0) {
      const std::string key =
          absl::StrCat("rcproxy:waitaof:", absl::Hex(worker_->Random(1ull << 62)), ":",
                       absl::Hex(worker_->Random(1ull << 62)));
      const auto shard =
          std::find(shards.begin(), shards.end(), topology.ShardNumberFor(cluster::SlotOf(key)));
      if (shard == shards.end() || !keys[shard - shards.begin()].empty()) continue;
      keys[shard - shards.begin()] = key;
      --missing;
    }
    return keys;
  }

  void OnMarked(Step* step) {
    if (poll_.ended()) return End(step);
    bool again = false;
    for (size_t i = 0; i < step->asks.size(); ++i) {
      const Ask& ask = step->asks[i];
      if (ask.failed() && MayBeMarkedAgain(ask)) {
        again = true;
        continue;
      }
      if (ask.failed()) return Fail(step, FailureLine(step->asks, false));
      const std::string reply = ask.reply.Flatten();
      const std::vector<absl::string_view> replies = resp::ElementsOf(reply);
      if (replies.size() != 2) return Fail(step, kBadReplyError);
      for (const absl::string_view each : replies) {
        if (resp::IsErrorFrame(each)) return Fail(step, resp::ErrorLineOf(each));
      }
      // The slot had another owner when it was sent.
      const Backend* const backend = primaries_[i].connection->Find(*worker_);
      again |= backend != nullptr && backend->node()->id != primaries_[i].node_id;
    }
    if (!again) return AskCounts(step);
    if (time_.IsOver(*worker_)) return Fail(step, kWaitUnstable);
    GiveBack();
    phase_ = Phase::kBegin;
    poll_.Pause(step, 1, 0, absl::InfiniteFuture());
  }

  // Its connection was never open, or is to another node than has the slot now.
  static bool MayBeMarkedAgain(const Ask& ask) {
    return ask.ErrorLine() == kSlotMovedError || ask.ErrorLine() == kKeptLostError;
  }

  bool IsMissing(const Primary& primary) const {
    return primary.local < wanted_local_ || primary.replicas < wanted_replicas_;
  }

  // Those that miss some: all of them, at first.
  void AskCounts(Step* step) {
    phase_ = Phase::kCount;
    step->asks.clear();
    for (const Primary& primary : primaries_) {
      if (counted_ && !IsMissing(primary)) continue;
      Ask ask = AskPrimary(primary, BlockCommand(), count_);
      ask.is_burst = true;
      ask.burst_commands = 1;
      ask.kept = primary.connection;
      ask.patience = Poll::Patience(worker_->now(), until_);
      step->asks.push_back(std::move(ask));
    }
  }

  void OnCounts(Step* step) {
    size_t answered = 0;
    for (Primary& primary : primaries_) {
      if (counted_ && !IsMissing(primary)) continue;
      const Ask& ask = step->asks[answered++];
      if (ask.gone) return Fail(step, kWaitDemoted);
      if (ask.failed()) {
        if (!ask.handed_over && poll_.ended()) continue;
        return Fail(step, FailureLine(step->asks, false));
      }
      std::string error;
      if (!ParseCounts(ask.reply, &primary.local, &primary.replicas, &error)) {
        return Fail(step, error);
      }
    }
    counted_ = true;
    const bool enough = std::none_of(primaries_.begin(), primaries_.end(),
                                     [&](const Primary& primary) { return IsMissing(primary); });
    if (enough || until_ <= worker_->now()) return AnswerCounts(step);
    if (poll_.ended()) return End(step);
    phase_ = Phase::kPause;
    poll_.Pause(step, 2 * primaries_.size(), 0, until_);
  }

  void Prompt(Step* step) {
    step->asks.clear();
    for (const Primary& primary : primaries_) {
      if (primary.replicas >= wanted_replicas_) continue;
      step->asks.push_back(PromptReplicas(primary));
      step->asks.back().patience = Poll::Patience(worker_->now(), until_);
    }
    if (step->asks.empty()) return AskCounts(step);
    phase_ = Phase::kPrompt;
  }

  void End(Step* step) {
    if (poll_.timed_out()) return AnswerCounts(step);
    GiveBack();
    poll_.AnswerEnd(step);
  }

  void AnswerCounts(Step* step) {
    constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
    int64_t local = kMost;
    int64_t replicas = kMost;
    for (const Primary& primary : primaries_) {
      local = std::min(local, primary.local);
      replicas = std::min(replicas, primary.replicas);
    }
    GiveBack();
    step->asks.clear();
    step->Answer(absl::StrCat("*2\r\n:", local, "\r\n:", replicas, "\r\n"));
  }

  void Fail(Step* step, absl::string_view line) {
    GiveBack();
    step->AnswerError(line);
  }

  // All asks are answered.
  void GiveBack() {
    for (const Primary& primary : primaries_) primary.connection->GiveBack(worker_);
    primaries_.clear();
  }

  Worker* const worker_;
  const int64_t wanted_local_;
  const int64_t wanted_replicas_;
  const absl::Time until_;
  io::Rope count_;  // the client's WAITAOF, in a block
  Phase phase_ = Phase::kBegin;
  StepTime time_;
  bool counted_ = false;
  std::vector<Primary> primaries_;
  Poll poll_;
};

}  // namespace

std::unique_ptr<Procedure> MakeWaitAof(Worker* worker, const ArgList& args, std::string* error) {
  const absl::Span<const absl::string_view> words = args.views();
  const ClusterState* const cluster = worker->cluster();
  if (cluster != nullptr && IsBeforeRedis72(cluster->server)) {
    *error = cluster::UnknownCommandError(words);
    return nullptr;
  }
  int64_t local = 0;
  int64_t replicas = 0;
  absl::Time until = absl::InfiniteFuture();
  if (!resp::ParseDecimal(words[1], &local)) {
    *error = std::string(kBadInteger);
  } else if (local < 0 || local > 1) {
    *error = std::string(kBadLocal);
  } else if (!resp::ParseDecimal(words[2], &replicas) || replicas < 0) {
    *error = std::string(kBadReplicas);
  } else if (ParseTimeout(words[3], true, false, worker->now(), &until, error)) {
    return std::make_unique<WaitAof>(worker, local, replicas, until);
  }
  return nullptr;
}

}  // namespace proxy
