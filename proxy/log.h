#pragma once

// File: proxy/log.h
//
// Lines for the operator. A `LogSink` takes finished lines from any thread and never blocks; a
// `Log` is one thread's front to it, with a rate limit for each topic. Bytes from outside are
// escaped and cut; secrets never get here.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proxy/config.h"

namespace proxy {

// Thread-safe. Never blocks: what cannot be written is dropped and counted.
class LogSink {
 public:
  virtual ~LogSink() = default;
  virtual void Write(LogLevel level, absl::string_view line) = 0;
  // Lines below this are not wanted. May change at any time.
  virtual LogLevel level() const = 0;
  virtual void set_level(LogLevel level) = 0;
  // Lines that were dropped because the log could not be written fast enough.
  virtual uint64_t dropped() const = 0;
  // Waits until the lines so far are written, at most `limit`. For the end of the process.
  virtual void Flush(absl::Duration /*limit*/) {}
};

// A sink to standard error (empty `file`) or to a file that is appended to, written by a thread of
// its own: lines below warnings up to 10 ms later, many at a time. Errors name the file.
absl::StatusOr<std::unique_ptr<LogSink>> MakeLogSink(const std::string& file, LogLevel level);

// One thread's log.
class Log {
 public:
  // Both outlive the log. `*now` is the thread's clock: it limits the rate.
  Log(LogSink* sink, const absl::Time* now) : sink_(sink), now_(now) {}

  bool wants(LogLevel level) const { return level >= sink_->level(); }
  void Debug(absl::string_view text) { Write(LogLevel::kDebug, text); }
  void Info(absl::string_view text) { Write(LogLevel::kInfo, text); }
  void Warn(absl::string_view text) { Write(LogLevel::kWarn, text); }
  void Error(absl::string_view text) { Write(LogLevel::kError, text); }
  // At most one line of a topic each `interval`; the next one says how many were left out. Topics
  // are a fixed few: string constants, with the node or address at most.
  void WarnEvery(absl::string_view topic, absl::string_view text,
                 absl::Duration interval = kInterval);

  static constexpr absl::Duration kInterval = absl::Seconds(1);
  // For what only an operator can end, such as a wrong password.
  static constexpr absl::Duration kLongInterval = absl::Seconds(10);

 private:
  struct Topic {
    absl::Time next = absl::InfinitePast();
    uint64_t left_out = 0;
  };
  void Write(LogLevel level, absl::string_view text) {
    if (wants(level)) sink_->Write(level, text);
  }

  LogSink* const sink_;
  const absl::Time* const now_;
  absl::flat_hash_map<std::string, Topic> topics_;
  absl::Time next_sweep_ = absl::InfinitePast();  // of topics_, when there are too many
};

// "trace", "debug", "info", "warn", "error", "off".
absl::string_view LogLevelName(LogLevel level);
// By name, any case. False: there is no such level.
bool ParseLogLevel(absl::string_view name, LogLevel* level);

// Bytes from outside, for a line: at most 64 of them, those below 0x20, from 0x7f on and the
// backslash escaped.
std::string EscapeForLog(absl::string_view bytes);

}  // namespace proxy
