#include "tools/loadrunner/report.h"

#include <algorithm>
#include <cmath>

#include "absl/numeric/bits.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/json.h"

namespace loadrunner {
namespace {

constexpr size_t kFindingsShown = 10;

std::string Quoted(absl::string_view text) {
  return tools::JsonString(text, tools::HighBytes::kUnknown);
}

// Seconds of the monotonic clock, as other processes of this machine read it.
double Clock(absl::Time time) { return absl::ToDoubleSeconds(time - absl::UnixEpoch()); }

double Milliseconds(absl::Duration time) { return absl::ToDoubleMilliseconds(time); }

}  // namespace

absl::string_view NameOf(Finding finding) {
  switch (finding) {
    case Finding::kWrong:
      return "wrong";
    case Finding::kLost:
      return "lost";
    case Finding::kStale:
      return "stale";
    case Finding::kDuplicated:
      return "duplicated";
    case Finding::kReordered:
      return "reordered";
  }
  return "";
}

// Values below 2^kPrecisionBits µs have a bucket each; above, each power of two has
// 2^kPrecisionBits of them.
void Histogram::Add(absl::Duration time) {
  max_ = std::max(max_, time);
  const auto value = static_cast<uint64_t>(std::max<int64_t>(absl::ToInt64Microseconds(time), 0));
  const int shift = std::max(static_cast<int>(absl::bit_width(value)) - kPrecisionBits - 1, 0);
  const size_t bucket = (static_cast<size_t>(shift) << kPrecisionBits) + (value >> shift);
  if (bucket >= buckets_.size()) buckets_.resize(bucket + 1);
  ++buckets_[bucket];
  ++count_;
}

absl::Duration Histogram::Quantile(double share) const {
  const auto wanted = static_cast<uint64_t>(std::ceil(share * static_cast<double>(count_)));
  uint64_t passed = 0;
  for (size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    passed += buckets_[bucket];
    if (buckets_[bucket] == 0 || passed < wanted) continue;
    const uint64_t row = bucket >> kPrecisionBits;
    const uint64_t shift = row > 0 ? row - 1 : 0;
    const uint64_t end = (bucket - (shift << kPrecisionBits) + 1) << shift;
    return std::min(absl::Microseconds(end), max_);
  }
  return absl::ZeroDuration();
}

std::string KindOfError(absl::string_view text) {
  std::string kind;
  for (const char c : text) {
    if (!absl::ascii_isdigit(c)) {
      kind += c;
    } else if (kind.empty() || kind.back() != '#') {
      kind += '#';
    }
  }
  return kind;
}

void Report::Begin(absl::Time now) { begin_ = last_answer_ = now; }

void Report::End(absl::Time now) {
  end_ = now;
  longest_silence_ = std::max(longest_silence_, now - last_answer_);
}

void Report::OnAnswer(bool write, absl::Time sent, absl::Time now) {
  if (end_ != absl::Time()) return;
  ++(write ? writes_ : reads_);
  latencies_.Add(now - sent);
  longest_silence_ = std::max(longest_silence_, now - last_answer_);
  last_answer_ = now;
}

void Report::OnError(absl::string_view text, absl::string_view tags, bool write, absl::Time sent,
                     absl::Time now) {
  ++errors_;
  ++error_kinds_[KindOfError(text)];
  Event(
      absl::StrFormat("{\"event\":\"error\",\"at\":%.6f,\"sent\":%.6f,\"write\":%s,\"tags\":%s,"
                      "\"text\":%s}",
                      Clock(now), Clock(sent), write ? "true" : "false", tags, Quoted(text)));
}

void Report::OnFinding(Finding finding, absl::string_view key, uint64_t found, uint64_t expected,
                       absl::string_view detail, absl::Time now) {
  ++findings_[static_cast<size_t>(finding)];
  if (first_findings_.size() < kFindingsShown) {
    first_findings_.push_back(absl::StrFormat("%s: %s: found %d, expected %d (%s)", NameOf(finding),
                                              key, found, expected, detail));
  }
  Event(
      absl::StrFormat("{\"event\":\"finding\",\"at\":%.6f,\"finding\":\"%s\",\"key\":%s,"
                      "\"found\":%d,\"expected\":%d,\"detail\":%s}",
                      Clock(now), NameOf(finding), Quoted(key), found, expected, Quoted(detail)));
}

void Report::OnMark(absl::string_view in_flight, absl::Time now) {
  Event(
      absl::StrFormat("{\"event\":\"mark\",\"at\":%.6f,\"in_flight\":%s}", Clock(now), in_flight));
}

void Report::Event(absl::string_view line) {
  if (events_ == nullptr) return;
  absl::FPrintF(events_, "%s\n", line);
}

bool Report::clean() const {
  return unanswered_ == 0 && unverified_ == 0 &&
         std::all_of(findings_.begin(), findings_.end(), [](uint64_t n) { return n == 0; });
}

std::string Report::Text() const {
  const uint64_t requests = reads_ + writes_;
  std::string text = absl::StrFormat(
      "requests    %d in %.1f s, %.0f/s: %d reads, %d writes\n"
      "latency     p50 %.2f ms, p99 %.2f ms, max %.1f ms; longest time without an answer %.1f ms\n"
      "found       ",
      requests, seconds(), static_cast<double>(requests) / std::max(seconds(), 1e-9), reads_,
      writes_, Milliseconds(latencies_.Quantile(0.5)), Milliseconds(latencies_.Quantile(0.99)),
      Milliseconds(latencies_.max()), Milliseconds(longest_silence_));
  for (size_t i = 0; i < kFindings; ++i) {
    absl::StrAppendFormat(&text, "%s%s %d", i == 0 ? "" : ", ", NameOf(static_cast<Finding>(i)),
                          findings_[i]);
  }
  absl::StrAppendFormat(
      &text, "\nnot served  errors %d, unknown outcomes %d, reconnects %d, unanswered %d%s\n",
      errors_, unknown_, reconnects_, unanswered_,
      unverified_ == 0 ? "" : absl::StrCat(", keys never verified ", unverified_));
  for (const auto& [kind, count] : error_kinds_)
    absl::StrAppendFormat(&text, "  %d × %s\n", count, kind);
  for (const std::string& finding : first_findings_) absl::StrAppend(&text, "  ", finding, "\n");
  return text;
}

std::string Report::Json() const {
  std::string json = absl::StrFormat(
      "{\"seconds\":%.3f,\"requests\":%d,\"reads\":%d,\"writes\":%d,\"errors\":%d,"
      "\"unknown_outcomes\":%d,\"reconnects\":%d,\"unanswered\":%d,\"unverified\":%d,"
      "\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f,\"longest_silence_ms\":%.3f",
      seconds(), reads_ + writes_, reads_, writes_, errors_, unknown_, reconnects_, unanswered_,
      unverified_, Milliseconds(latencies_.Quantile(0.5)), Milliseconds(latencies_.Quantile(0.99)),
      Milliseconds(latencies_.max()), Milliseconds(longest_silence_));
  for (size_t i = 0; i < kFindings; ++i) {
    absl::StrAppendFormat(&json, ",\"%s\":%d", NameOf(static_cast<Finding>(i)), findings_[i]);
  }
  absl::StrAppend(&json, ",\"error_kinds\":{");
  bool first = true;
  for (const auto& [kind, count] : error_kinds_) {
    absl::StrAppend(&json, first ? "" : ",", Quoted(kind), ":", count);
    first = false;
  }
  return json += "}}\n";
}

}  // namespace loadrunner
