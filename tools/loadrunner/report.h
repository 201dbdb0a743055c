#pragma once

// File: tools/loadrunner/report.h
//
// What a run has found: counts, latencies, and, for tools that read along, one JSON line for each
// error, violation and mark.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace loadrunner {

// What no reply and no key may ever show. The first four have an acknowledged or refused write as
// their evidence, the last the order of the elements of a list.
enum class Finding : uint8_t {
  kWrong,       // never written there, of another key, refused, or no value at all
  kLost,        // an acknowledged write is not there
  kStale,       // older than what was acknowledged, or read by somebody, before the read was sent
  kDuplicated,  // one write ran twice
  kReordered,   // writes of one connection on one key ran in another order
};
constexpr size_t kFindings = 5;
absl::string_view NameOf(Finding finding);

// Times in buckets that are at most 1/32 wide.
class Histogram {
 public:
  void Add(absl::Duration time);
  // The least time that at least `share` (0..1) of the values don't exceed, rounded up to its
  // bucket's end. Zero if there are none.
  absl::Duration Quantile(double share) const;
  absl::Duration max() const { return max_; }

 private:
  static constexpr int kPrecisionBits = 5;
  std::vector<uint64_t> buckets_;
  uint64_t count_ = 0;
  absl::Duration max_;
};

// "…: slot 17 …" and "…: slot 4 …" are one kind of error: numbers become '#'.
std::string KindOfError(absl::string_view text);

class Report {
 public:
  // JSON lines go to `events`, which outlives the report; null: nowhere.
  explicit Report(FILE* events) : events_(events) {}

  void Begin(absl::Time now);
  // The load is over: answers to what is asked from here on are not counted.
  void End(absl::Time now);

  void OnAnswer(bool write, absl::Time sent, absl::Time now);
  // `tags`: the hash tags of the request's keys, as the text of a JSON array.
  void OnError(absl::string_view text, absl::string_view tags, bool write, absl::Time sent,
               absl::Time now);
  void OnUnknownOutcome() { ++unknown_; }
  void OnReconnect() { ++reconnects_; }
  void OnUnanswered(uint64_t requests) { unanswered_ += requests; }
  void OnUnverified(uint64_t keys) { unverified_ += keys; }
  // `found` and `expected` are numbers of writes.
  void OnFinding(Finding finding, absl::string_view key, uint64_t found, uint64_t expected,
                 absl::string_view detail, absl::Time now);
  // `in_flight` is a JSON object.
  void OnMark(absl::string_view in_flight, absl::Time now);

  uint64_t findings(Finding finding) const { return findings_[static_cast<size_t>(finding)]; }
  uint64_t errors() const { return errors_; }
  // Nothing wrong, nothing without an answer, everything read again.
  bool clean() const;
  std::string Text() const;
  std::string Json() const;

 private:
  void Event(absl::string_view line);
  double seconds() const { return absl::ToDoubleSeconds(end_ - begin_); }

  FILE* const events_;
  absl::Time begin_;
  absl::Time end_;  // not yet: the default
  absl::Time last_answer_;
  absl::Duration longest_silence_;
  uint64_t reads_ = 0;
  uint64_t writes_ = 0;
  uint64_t errors_ = 0;
  uint64_t unknown_ = 0;
  uint64_t reconnects_ = 0;
  uint64_t unanswered_ = 0;
  uint64_t unverified_ = 0;
  std::array<uint64_t, kFindings> findings_ = {};
  std::vector<std::string> first_findings_;  // a few, for the text
  std::map<std::string, uint64_t> error_kinds_;
  Histogram latencies_;
};

}  // namespace loadrunner
