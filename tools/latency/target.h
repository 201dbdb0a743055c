#pragma once

// File: tools/latency/target.h
//
// One server, proxy or cluster that is measured: its clients, what they are to do now, and what was
// found. The runner makes them take turns. One thread.

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "io/socket.h"
#include "tools/latency/histogram.h"
#include "tools/latency/process.h"
#include "tools/latency/schedule.h"
#include "tools/latency/session.h"
#include "tools/latency/workload.h"

namespace latency {

// ns of the monotonic clock.
int64_t ClockNs();

struct TargetSpec {
  std::string name;
  io::Endpoint address;
  // The address is that of any node of a cluster: each client speaks to one node directly, and asks
  // for keys of that node only.
  bool cluster = false;
  std::vector<pid_t> pids;     // of the process at the address; empty: looked up
  std::vector<pid_t> servers;  // behind it; empty: looked up
};

// "NAME=HOST:PORT" or "NAME=HOST:PORT@PID,PID".
absl::StatusOr<TargetSpec> ParseTarget(absl::string_view text);

struct LoadOptions {
  size_t clients = 50;
  size_t requests_max = 1;  // in flight, of each client
  double rate = 0;          // requests a second of all clients; 0: a closed loop
  bool resp3 = false;
};

// What is measured in each round.
enum Metric : size_t {
  kRequestsPerSecond,
  kP50,  // times in ms
  kP90,
  kP99,
  kP999,
  kMax,
  kMean,
  kTargetCpu,   // µs a request
  kServersCpu,  // of the servers behind it
  kTotalCpu,
  kGeneratorCpu,   // share of one CPU that this process used
  kAnsweredShare,  // of an open loop: answered within the window, of what was intended in it
  kMetricCount
};
using Metrics = std::array<double, kMetricCount>;  // NaN: not known

class Target final : public Session::Owner {
 public:
  // The unflushed sessions of all targets, which the runner flushes before it waits.
  using FlushList = std::vector<Session*>;

  Target(TargetSpec spec, const LoadOptions* load, const Workload* workload, FlushList* unflushed)
      : spec_(std::move(spec)), load_(load), workload_(workload), unflushed_(unflushed) {}

  // Makes the sessions, whose completions have indices from `index` on, and begins to connect.
  // A cluster is asked for its slots first (blocks, for seconds at most).
  absl::Status Open(io::Ring* ring, io::Arena* arena, uint32_t index);
  bool ready() const { return connected_ == sessions_.size(); }
  // Finds the processes that are not given. After the connections are made: a proxy has its own
  // then.
  void FindProcesses();

  // --- what the clients do
  void BeginFill(int64_t now);
  bool filled() const;
  // Closed loop: each client has its requests in flight from now on; open loop: number 0 is due
  // now.
  void BeginLoad(int64_t now);
  // Measures from now on, until `end`.
  void BeginWindow(int64_t now, int64_t end);
  // No new requests; of an open loop, those that were due are still sent.
  void EndWindow(int64_t now);
  // Gives up what was due and was not sent.
  void DropBacklog(int64_t now);
  // After the last reply of the round.
  void FinishRound(double generator_seconds);
  // Open loop: starts what is due; the next time that something will be (INT64_MAX: nothing).
  void StartDue(int64_t now);
  int64_t NextDue() const;

  size_t in_flight() const;
  bool has_backlog() const { return mode_ == Mode::kOpenLoop && backlog() > 0; }
  int64_t last_answer() const { return last_answer_; }
  // It can't be measured any further: closes its connections.
  void Fail(absl::string_view why);
  void BeginClose();
  bool closed() const;

  // --- what was found
  const TargetSpec& spec() const { return spec_; }
  const std::string& failure() const { return failure_; }
  bool failed() const { return !failure_.empty(); }
  const std::vector<Metrics>& rounds() const { return rounds_; }
  const Histogram& latencies() const { return latencies_; }  // ns, all rounds
  const Histogram& generator_lag() const { return lag_; }    // ns, of an open loop
  uint64_t requests() const { return requests_; }            // answered, measured or not
  uint64_t unanswered() const { return unanswered_; }        // of an open loop's windows
  const std::map<std::string, uint64_t>& errors() const { return errors_; }  // by kind
  uint64_t wrong() const { return wrong_; }
  const std::vector<std::string>& wrong_examples() const { return wrong_examples_; }
  Tally tally() const;
  const std::vector<std::unique_ptr<Session>>& sessions() const { return sessions_; }

  // --- Session::Owner
  void OnAnswer(int64_t start, int64_t now) override;
  void OnFilled(int64_t now) override { last_answer_ = now; }
  void OnError(absl::string_view frame) override;
  void OnWrong(absl::string_view why) override;
  void OnRoom(Session* session) override;
  void OnUnflushed(Session* session) override;
  void OnConnected() override { ++connected_; }
  void OnLost(absl::string_view why) override;

 private:
  enum class Mode : uint8_t { kIdle, kFill, kClosedLoop, kOpenLoop };
  struct Part {  // of the keys: all, or those of a node
    io::Endpoint address;
    std::vector<uint32_t> keys;  // to fill; of all keys: none, but the numbers themselves
    size_t filled = 0;
  };

  absl::Status AskCluster();
  uint64_t backlog() const;

  TargetSpec spec_;
  const LoadOptions* const load_;
  const Workload* const workload_;
  FlushList* const unflushed_;

  std::vector<Part> parts_;
  std::vector<KeySequence> sequences_;  // of the parts
  std::vector<std::unique_ptr<Session>> sessions_;
  size_t connected_ = 0;
  Mode mode_ = Mode::kIdle;
  Schedule schedule_;
  uint64_t due_ = 0;               // requests of the schedule that were due so far
  uint64_t due_end_ = UINT64_MAX;  // no more than this
  uint64_t started_ = 0;
  int64_t last_answer_ = 0;

  // The window of this round.
  bool window_ = false;
  int64_t window_begin_ = 0;
  int64_t window_end_ = 0;
  int64_t record_from_ = INT64_MAX;  // requests that start earlier are not recorded
  uint64_t answered_ = 0;            // in the window
  uint64_t answered_in_all_ = 0;     // until the round's end: what the CPU time is for
  CpuReading cpu_;
  CpuReading servers_cpu_;
  Histogram round_;

  std::vector<Metrics> rounds_;
  Histogram latencies_;
  Histogram lag_;
  uint64_t requests_ = 0;
  uint64_t unanswered_ = 0;
  std::map<std::string, uint64_t> errors_;
  uint64_t wrong_ = 0;
  std::vector<std::string> wrong_examples_;
  std::string failure_;
};

}  // namespace latency
