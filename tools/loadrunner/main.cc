// File: tools/loadrunner/main.cc
//
// Puts load on the proxy and judges every reply: see --help and workload.h. One thread, one ring.

#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "io/ring_directory.h"
#include "io/uring_ring.h"
#include "tools/loadrunner/report.h"
#include "tools/loadrunner/session.h"
#include "tools/loadrunner/workload.h"

namespace loadrunner {
namespace {

constexpr char kUsage[] =
    R"(Puts load on a proxy, and checks that no reply is wrong and no acknowledged write lost.

  loadrunner --addr 127.0.0.1:8088 --duration 60s

  --addr HOST:PORT         the proxy: an address, or unix:/PATH (default 127.0.0.1:8088)
  --writers N              connections that write keys of their own (default 100)
  --readers N              connections that read anybody's (default 500)
  --pipeline N             requests in flight on each (default 8)
  --duration TIME          60s, 10m; then every key is read once more (default 60s)
  --keys N                 keys that are written, in all (default 3000)
  --tags N                 hash tags, so slots, that they lie in (default 100)
  --value-size MIN[-MAX]   bytes of a value (default 16-256)
  --scripts PERCENT        of increments that are made by EVAL (default 0)
  --rate N                 requests a second, all connections together; 0: no limit (default 0)
  --resp3                  speak RESP3
  --errors-allowed N       error replies that are no failure (default 0)
  --json FILE              the report as JSON too
  --events FILE            a JSON line for each error, each finding, and, at each SIGUSR1, the
                           requests in flight by hash tag

SIGINT ends the load early; the keys are read and the report is printed all the same. Keys are
deleted at the end if nothing was found. Exit codes: 0 all is well, 1 something was wrong, lost,
stale, duplicated, reordered or never answered, or more errors than allowed, 2 it could not run.
)";
constexpr absl::Duration kTurnMax = absl::Milliseconds(5);
constexpr double kBudgetSeconds = 0.02;
// The proxy answers everything within --hold-timeout and --reply-timeout: 10 s by default.
constexpr absl::Duration kDrainMax = absl::Seconds(30);
constexpr absl::Duration kVerifyMax = absl::Seconds(60);

volatile std::sig_atomic_t stop_wanted = 0;
volatile std::sig_atomic_t marks_wanted = 0;

struct Options {
  Plan plan;
  SessionOptions session;
  std::string addr = "127.0.0.1:8088";
  absl::Duration duration = absl::Seconds(60);
  double rate = 0;
  uint64_t errors_allowed = 0;
  std::string json;
  std::string events;
};

bool ParseSizes(absl::string_view text, Plan* plan) {
  const size_t dash = text.find('-');
  if (!absl::SimpleAtoi(text.substr(0, dash), &plan->value_bytes_min)) return false;
  plan->value_bytes_max = plan->value_bytes_min;
  return (dash == absl::string_view::npos ||
          absl::SimpleAtoi(text.substr(dash + 1), &plan->value_bytes_max)) &&
         plan->value_bytes_min <= plan->value_bytes_max;
}

// False, with a line on standard error, if the arguments are bad.
bool ParseArguments(int argc, char** argv, Options* options) {
  using Setter = std::function<bool(absl::string_view)>;
  const auto number = [](auto* target) -> Setter {
    return [target](absl::string_view text) { return absl::SimpleAtoi(text, target); };
  };
  const auto text_of = [](std::string* target) -> Setter {
    return [target](absl::string_view text) {
      *target = std::string(text);
      return true;
    };
  };
  const std::map<absl::string_view, Setter> flags = {
      {"addr", text_of(&options->addr)},
      {"writers", number(&options->plan.writers)},
      {"readers", number(&options->plan.readers)},
      {"pipeline", number(&options->session.pipeline)},
      {"duration",
       [=](absl::string_view text) { return absl::ParseDuration(text, &options->duration); }},
      {"keys", number(&options->plan.keys)},
      {"tags", number(&options->plan.tags)},
      {"value-size", [=](absl::string_view text) { return ParseSizes(text, &options->plan); }},
      {"scripts", number(&options->plan.scripts_percent)},
      {"rate", [=](absl::string_view text) { return absl::SimpleAtod(text, &options->rate); }},
      {"errors-allowed", number(&options->errors_allowed)},
      {"json", text_of(&options->json)},
      {"events", text_of(&options->events)},
  };
  for (int i = 1; i < argc; ++i) {
    const absl::string_view argument = argv[i];
    if (argument == "--resp3") {
      options->session.resp3 = true;
      continue;
    }
    const size_t equals = argument.find('=');
    const auto flag =
        argument.substr(0, 2) == "--" ? flags.find(argument.substr(2, equals - 2)) : flags.end();
    if (flag == flags.end()) {
      absl::FPrintF(stderr, "loadrunner: no such flag: %s; see --help\n", argument);
      return false;
    }
    if (equals == absl::string_view::npos && i + 1 == argc) {
      absl::FPrintF(stderr, "loadrunner: %s needs a value\n", argument);
      return false;
    }
    const absl::string_view value = equals == absl::string_view::npos ? absl::string_view(argv[++i])
                                                                      : argument.substr(equals + 1);
    if (!flag->second(value)) {
      absl::FPrintF(stderr, "loadrunner: bad value for --%s: %s\n", flag->first, value);
      return false;
    }
  }
  if (options->plan.writers == 0 || options->plan.tags == 0 || options->session.pipeline == 0) {
    absl::FPrintF(stderr, "loadrunner: at least one writer, one tag and a pipeline of one\n");
    return false;
  }
  const absl::StatusOr<io::Endpoint> peer = io::Endpoint::Parse(options->addr);
  if (!peer.ok()) {
    absl::FPrintF(stderr, "loadrunner: --addr: %s\n", peer.status().message());
    return false;
  }
  options->session.peer = *peer;
  return true;
}

// All sessions, from the first connect to the last close.
class Runner {
 public:
  Runner(const Options& options, io::Ring* ring, Report* report)
      : options_(options), ring_(ring), report_(report), workload_(options.plan, report) {
    for (size_t i = 0; i < options.plan.writers + options.plan.readers; ++i) {
      const bool writes = i < options.plan.writers;
      sessions_.push_back(std::make_unique<Session>(
          ring, report, &options_.session, static_cast<uint32_t>(i),
          Actor(&workload_, writes ? Actor::Role::kWriter : Actor::Role::kReader, i)));
    }
  }

  // False if not even one connection could be made.
  bool Run() {
    report_->Begin(ring_->Now());
    TurnUntil(options_.duration, [this] { return stop_wanted != 0 || never_connected(); });
    report_->End(ring_->Now());
    if (never_connected()) return false;
    for (const auto& session : sessions_) session->Pause();
    TurnUntil(kDrainMax, [this] { return in_flight() == 0; });
    report_->OnUnanswered(in_flight());
    options_.rate = 0;
    for (size_t i = 0; i < options_.plan.writers; ++i) sessions_[i]->BeginVerify();
    TurnUntil(kVerifyMax, [this] { return in_flight() == 0 && unverified() == 0; });
    report_->OnUnverified(unverified());
    for (const auto& session : sessions_) {
      session->Pause();
      session->BeginClose();
    }
    TurnUntil(kDrainMax, [this] {
      return std::all_of(sessions_.begin(), sessions_.end(),
                         [](const auto& session) { return session->closed(); });
    });
    return true;
  }

 private:
  template <typename Condition>
  void TurnUntil(absl::Duration limit, Condition condition) {
    const absl::Time deadline = ring_->Now() + limit;
    while (ring_->Now() < deadline) {
      Turn();
      if (condition()) return;
    }
  }

  void Turn() {
    const absl::Time before = ring_->Now();
    const size_t n = ring_->SubmitAndWait(kTurnMax, absl::MakeSpan(completions_));
    for (size_t i = 0; i < n; ++i) {
      sessions_[completions_[i].token.index()]->OnCompletion(&completions_[i]);
      completions_[i].data = io::Slice();
    }
    // What was not asked for in time is not asked for later: a rate, not a debt.
    const double seconds = absl::ToDoubleSeconds(ring_->Now() - before);
    budget_ = std::min(budget_ + options_.rate * seconds, options_.rate * kBudgetSeconds);
    // A session always fills its pipeline, so the last one may take more than was left.
    for (size_t i = 0; i < sessions_.size() && (options_.rate == 0 || budget_ >= 0); ++i) {
      next_ = (next_ + 1) % sessions_.size();
      budget_ -= static_cast<double>(sessions_[next_]->Advance());
    }
    // After what this turn sends: it bears the same time and is in flight by then.
    if (marks_taken_ != marks_wanted) {
      marks_taken_ = marks_wanted;
      Mark();
    }
  }

  void Mark() {
    std::map<uint32_t, size_t> counts;
    for (const auto& session : sessions_) {
      for (const Op& op : session->in_flight()) {
        if (op.list) ++counts[op.list->tag];
        for (const Op::Read& read : op.reads) ++counts[read.key->tag];
      }
    }
    const auto format = [](std::string* out, const std::pair<const uint32_t, size_t>& count) {
      absl::StrAppendFormat(out, "\"%d\":%d", count.first, count.second);
    };
    report_->OnMark(absl::StrCat("{", absl::StrJoin(counts, ",", format), "}"), ring_->Now());
  }

  bool never_connected() const {
    return std::any_of(sessions_.begin(), sessions_.end(),
                       [](const auto& session) { return session->error() != 0; }) &&
           std::none_of(sessions_.begin(), sessions_.end(),
                        [](const auto& session) { return session->was_open(); });
  }
  size_t in_flight() const {
    size_t count = 0;
    for (const auto& session : sessions_) count += session->in_flight().size();
    return count;
  }
  size_t unverified() const {
    size_t count = 0;
    for (size_t i = 0; i < options_.plan.writers; ++i) count += sessions_[i]->unverified();
    return count;
  }

  Options options_;
  io::Ring* const ring_;
  Report* const report_;
  Workload workload_;
  std::vector<std::unique_ptr<Session>> sessions_;
  std::array<io::Completion, 256> completions_;
  size_t next_ = 0;    // whose turn it was to send
  double budget_ = 0;  // requests that may be sent now, under a rate
  int marks_taken_ = 0;
};

int Run(const Options& options) {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGINT, [](int) { stop_wanted = 1; });
  std::signal(SIGTERM, [](int) { stop_wanted = 1; });
  std::signal(SIGUSR1, [](int) { marks_wanted = marks_wanted + 1; });
  rlimit files = {};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  FILE* events = nullptr;
  if (!options.events.empty()) {
    events = std::fopen(options.events.c_str(), "w");
    if (events == nullptr) {
      absl::FPrintF(stderr, "loadrunner: %s: %s\n", options.events, std::strerror(errno));
      return 2;
    }
  }
  io::RingDirectory directory(1);
  std::vector<std::string> warnings;
  absl::StatusOr<std::unique_ptr<io::Ring>> ring =
      io::MakeUringRing(&directory, 0, io::RingOptions(), &warnings);
  if (!ring.ok()) {
    absl::FPrintF(stderr, "loadrunner: %s\n", ring.status().message());
    return 2;
  }
  Report report(events);
  Runner runner(options, ring->get(), &report);
  if (!runner.Run()) {
    absl::FPrintF(stderr, "loadrunner: cannot connect to %s\n", options.addr);
    return 2;
  }
  if (events != nullptr) std::fclose(events);
  absl::PrintF("%s", report.Text());
  if (!options.json.empty()) {
    FILE* json = std::fopen(options.json.c_str(), "w");
    if (json == nullptr || std::fputs(report.Json().c_str(), json) < 0 || std::fclose(json) != 0) {
      absl::FPrintF(stderr, "loadrunner: %s: %s\n", options.json, std::strerror(errno));
      return 2;
    }
  }
  return report.clean() && report.errors() <= options.errors_allowed ? 0 : 1;
}

}  // namespace
}  // namespace loadrunner

int main(int argc, char** argv) {
  loadrunner::Options options;
  options.plan.nonce = std::random_device()();
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--help") == 0) {
      std::fputs(loadrunner::kUsage, stdout);
      return 0;
    }
  }
  if (!loadrunner::ParseArguments(argc, argv, &options)) return 2;
  return loadrunner::Run(options);
}
