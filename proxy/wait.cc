#include "proxy/wait.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "proxy/args.h"
#include "proxy/every_node.h"
#include "proxy/local_handlers.h"
#include "proxy/polling.h"
#include "proxy/server_info.h"
#include "proxy/wait_parts.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

// Nodes may change their roles before they are asked: plans are made so often.
constexpr int kRoundsMax = 8;

// Of INFO replication.
struct Replication {
  bool primary = false;
  std::string id;  // of the stream: another one after a restart
  int64_t offset = 0;
  std::vector<int64_t> acknowledged;  // by each replica that is online
};

bool ParseReplication(const io::Rope& reply, Replication* result) {
  const std::string frame = reply.Flatten();
  absl::string_view text;
  if (!resp::ParseText(frame, &text)) return false;
  bool has_offset = false;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    absl::ConsumeSuffix(&line, "\r");
    if (absl::ConsumePrefix(&line, "role:")) {
      result->primary = line == "master";
    } else if (absl::ConsumePrefix(&line, "master_replid:")) {
      result->id = std::string(line);
    } else if (absl::ConsumePrefix(&line, "master_repl_offset:")) {
      has_offset = absl::SimpleAtoi(line, &result->offset);
    } else if (absl::ConsumePrefix(&line, "slave")) {
      // "slave0:ip=…,port=…,state=online,offset=…,lag=…"; there are other fields that begin so.
      const size_t colon = line.find(':');
      int number = 0;
      if (colon == absl::string_view::npos || !absl::SimpleAtoi(line.substr(0, colon), &number)) {
        continue;
      }
      bool online = false;
      int64_t offset = 0;
      for (absl::string_view field : absl::StrSplit(line.substr(colon + 1), ',')) {
        if (field == "state=online") online = true;
        if (absl::ConsumePrefix(&field, "offset=") && !absl::SimpleAtoi(field, &offset)) {
          online = false;
        }
      }
      if (online) result->acknowledged.push_back(offset);
    }
  }
  return has_offset;
}

const cluster::CommandSpec& InfoCommand() {
  static const cluster::CommandSpec* const kCommand =
      new cluster::CommandSpec(AsRead(*cluster::FindCommand("INFO")));
  return *kCommand;
}

class Wait final : public Procedure {
 public:
  Wait(int64_t replicas, absl::Time until) : wanted_(replicas), until_(until) {}

  void Next(Step* step) override {
    switch (phase_) {
      case Phase::kBegin:
        written_ = step->written;
        return PlanOffsets(step);
      case Phase::kCoverage:
        if (step->asks[0].failed()) {
          step->reply = std::move(step->asks[0].reply);
          return;
        }
        return PlanOffsets(step);
      case Phase::kOffsets:
        return OnOffsets(step);
      case Phase::kPrompt:
        // What they say does not matter, nor whether they could.
        if (poll_.ended()) return End(step);
        return AskMissing(step, Phase::kCount);
      case Phase::kCount:
        return OnCounts(step);
      case Phase::kPause:
        if (poll_.ended()) return End(step);
        if (step->asks[0].failed() && step->worker->now() < until_) {
          step->reply = std::move(step->asks[0].reply);
          return;
        }
        return AskMissing(step, Phase::kPrompt);
    }
  }

  bool EndWait(Procedure::End end) override {
    poll_.End(end);
    return true;
  }

 private:
  enum class Phase : uint8_t { kBegin, kCoverage, kOffsets, kPrompt, kCount, kPause };
  struct Primary : WaitPrimary {
    std::string stream;
    int64_t offset = 0;  // with all the client's writes
    int64_t count = 0;   // of replicas that have it
  };

  void PlanOffsets(Step* step) {
    phase_ = Phase::kCoverage;
    if (WaitForCoverage(*step->worker, &step->asks)) return;
    phase_ = Phase::kOffsets;
    step->asks.clear();
    primaries_.clear();
    const cluster::Topology& topology = *step->worker->cluster()->topology;
    for (const size_t shard : ShardsToWaitFor(topology, written_)) {
      Primary& primary = primaries_.emplace_back();
      static_cast<WaitPrimary&>(primary) = WaitPrimaryOf(topology, shard, primaries_.size());
      step->asks.push_back(AskInfo(primary));
    }
  }

  static Ask AskInfo(const Primary& primary) {
    return AskPrimary(primary, InfoCommand(), MakeFrame({"INFO", "replication"}));
  }

  void OnOffsets(Step* step) {
    for (size_t i = 0; i < step->asks.size(); ++i) {
      const Ask& ask = step->asks[i];
      Replication replication;
      if (ask.failed()) return step->AnswerError(FailureLine(step->asks, false));
      if (!ask.gone && !ParseReplication(ask.reply, &replication)) {
        return step->AnswerError(kBadReplyError);
      }
      if (ask.gone || !replication.primary) {
        // Its successor, when that is known.
        if (++rounds_ > kRoundsMax) return step->AnswerError(kWaitUnstable);
        if (!ask.gone) step->worker->HintRefresh(ask.node_id);
        phase_ = Phase::kBegin;
        return poll_.Pause(step, primaries_.size(), 0, absl::InfiniteFuture());
      }
      Primary& primary = primaries_[i];
      primary.stream = replication.id;
      primary.offset = written_.empty() ? 0 : replication.offset;
      Count(replication, &primary);
    }
    GoOn(step, Phase::kPrompt);
  }

  static void Count(const Replication& replication, Primary* primary) {
    primary->count = std::count_if(replication.acknowledged.begin(), replication.acknowledged.end(),
                                   [&](int64_t offset) { return offset >= primary->offset; });
  }

  bool IsMissing(const Primary& primary) const { return primary.count < wanted_; }

  // The reply, if it is time for that. Else those that miss replicas are asked.
  void GoOn(Step* step, Phase next) {
    const bool enough = std::none_of(primaries_.begin(), primaries_.end(),
                                     [&](const Primary& primary) { return IsMissing(primary); });
    if (enough || until_ <= step->worker->now()) return AnswerCount(step);
    if (poll_.ended()) return End(step);
    if (next == Phase::kPause) {
      phase_ = Phase::kPause;
      return poll_.Pause(step, 2 * primaries_.size(), 0, until_);
    }
    AskMissing(step, next);
  }

  void AskMissing(Step* step, Phase phase) {
    phase_ = phase;
    step->asks.clear();
    for (const Primary& primary : primaries_) {
      if (!IsMissing(primary)) continue;
      step->asks.push_back(phase == Phase::kPrompt ? PromptReplicas(primary) : AskInfo(primary));
      step->asks.back().patience = Poll::Patience(step->worker->now(), until_);
    }
  }

  void OnCounts(Step* step) {
    const bool in_time = step->worker->now() < until_;
    size_t answered = 0;
    for (Primary& primary : primaries_) {
      if (!IsMissing(primary)) continue;
      Ask& ask = step->asks[answered++];
      if (ask.gone) return step->AnswerError(kWaitDemoted);
      if (ask.failed()) {
        // A connection was lost: it may be there again.
        if (ask.handed_over || !in_time || poll_.ended()) continue;
        return step->AnswerError(FailureLine(step->asks, false));
      }
      Replication replication;
      if (!ParseReplication(ask.reply, &replication)) return step->AnswerError(kBadReplyError);
      if (!replication.primary || replication.id != primary.stream) {
        return step->AnswerError(kWaitDemoted);
      }
      Count(replication, &primary);
    }
    GoOn(step, Phase::kPause);
  }

  void End(Step* step) {
    if (poll_.timed_out()) return AnswerCount(step);
    poll_.AnswerEnd(step);
  }

  void AnswerCount(Step* step) {
    int64_t least = std::numeric_limits<int64_t>::max();
    for (const Primary& primary : primaries_) least = std::min(least, primary.count);
    step->asks.clear();
    step->Answer(absl::StrCat(":", least, "\r\n"));
  }

  const int64_t wanted_;
  const absl::Time until_;
  cluster::SlotGroups written_;
  Phase phase_ = Phase::kBegin;
  int rounds_ = 0;
  std::vector<Primary> primaries_;
  Poll poll_;
};

}  // namespace

std::unique_ptr<Procedure> MakeWait(Worker* worker, const ArgList& args, std::string* error) {
  int64_t replicas = 0;
  if (!resp::ParseDecimal(args.views()[1], &replicas)) {
    *error = "ERR value is not an integer or out of range";
    return nullptr;
  }
  const ClusterState* const cluster = worker->cluster();
  const bool old_texts = cluster != nullptr && IsBeforeRedis72(cluster->server);
  absl::Time until = absl::InfiniteFuture();
  if (!ParseTimeout(args.views()[2], true, old_texts, worker->now(), &until, error)) return nullptr;
  return std::make_unique<Wait>(replicas, until);
}

}  // namespace proxy
