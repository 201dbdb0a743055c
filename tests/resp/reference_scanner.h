#pragma once

// File: tests/resp/reference_scanner.h
//
// What the scanners must find, by the plainest means: each function looks at all bytes of a frame
// from its start, one after the other, keeps every argument and every level of nesting, and knows
// nothing of splits.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "resp/scanner.h"

namespace resp {

struct ReferenceFrame {
  ScanStatus status = ScanStatus::kNeedMore;
  uint64_t bytes = 0;  // up to the end of the frame, behind the offending byte, or all
  bool is_inline = false;
  int64_t arg_count = 0;
  std::vector<ArgPosition> args;  // of a request array, those whose length is known
  std::string error;              // the text of a request's error
  uint64_t bytes_missing = 0;
  uint64_t values_missing = 0;
};

// The frame that `bytes` begin with.
ReferenceFrame ReferenceRequest(absl::string_view bytes, const RequestLimits& limits);
ReferenceFrame ReferenceReply(absl::string_view bytes);

}  // namespace resp
