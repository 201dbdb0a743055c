#pragma once

// File: tests/proxy/log_lines.h

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "proxy/log.h"

namespace proxy {

// Keeps what is logged at this level or above.
class LogLines final : public LogSink {
 public:
  explicit LogLines(LogLevel level = LogLevel::kTrace) : level_(level) {}
  void Write(LogLevel, absl::string_view line) override { lines.emplace_back(line); }
  LogLevel level() const override { return level_; }
  void set_level(LogLevel) override {}
  uint64_t dropped() const override { return 0; }
  std::vector<std::string> lines;

 private:
  const LogLevel level_;
};

}  // namespace proxy
