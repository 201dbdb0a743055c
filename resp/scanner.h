#pragma once

// File: resp/scanner.h
//
// Finds the ends of frames in a stream of RESP bytes, without copying or allocating, in memory that
// does not grow with the frame (RESP2 and RESP3; Redis serialization protocol specification). Input
// may be split anywhere: each call gets the bytes that follow those of the last call. A scanner goes
// over headers only; bodies are skipped by their length.

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace resp {

enum class ScanStatus : uint8_t {
  kNeedMore,  // all of the input belongs to a frame that is not complete yet
  kComplete,  // `consumed` bytes of the input end the frame
  kError,     // not RESP, or over a limit: nothing after this can be understood
};

struct ScanResult {
  ScanStatus status;
  size_t consumed;  // bytes of this call's input that belong to the frame
};

struct RequestLimits {
  size_t inline_bytes_max = 64 << 10;
  int64_t args_max = 1 << 20;
  int64_t bulk_bytes_max = int64_t{512} << 20;
  // Before authentication the limits are lower and the texts say "unauthenticated".
  bool authenticated = true;
};

// Where an argument's bytes lie, from the first byte of its frame.
struct ArgPosition {
  uint64_t offset = 0;
  uint64_t length = 0;
};

// Frames of requests: arrays of bulk strings, and inline commands.
class RequestScanner {
 public:
  // Positions of the first arguments that are recorded while scanning (command, key, …).
  static constexpr int kRecordedArgs = 3;

  // After kComplete the next call starts a new frame. After kError there is no next call.
  ScanResult Scan(absl::string_view input, const RequestLimits& limits);

  // --- after kComplete, until the next call
  bool is_inline() const { return is_inline_; }
  // 0 for a frame that is to be ignored: "*0", "*-1", an empty line. For an inline command: see
  // SplitInline.
  int64_t arg_count() const { return arg_count_; }
  // The i-th argument, i < min(arg_count(), kRecordedArgs). Not for inline commands.
  const ArgPosition& arg(int i) const { return args_[i]; }

  // --- at any time
  // Bytes of the current (after kComplete: the completed) frame so far.
  uint64_t frame_bytes() const { return frame_bytes_; }
  // True if no byte of a frame was taken since the last complete one.
  bool idle() const { return state_ == State::kStart; }
  // Bytes that the frame needs for certain before it can be complete (rest of a bulk and its CRLF).
  uint64_t bytes_missing() const { return body_left_; }
  // After kError: the server's text without the leading "-ERR ", e.g.
  // "Protocol error: invalid bulk length".
  absl::string_view error() const { return error_; }

 private:
  enum class State : uint8_t {
    kStart, kArrayHeader, kBulkMarker, kBulkHeader, kBody, kBodyCr, kBodyLf, kInline, kFailed
  };
  // The implementer may change what is private here; the size stays below 160 bytes.
  State state_ = State::kStart;
  bool is_inline_ = false;
  uint8_t header_used_ = 0;
  char header_[32] = {};       // a header line that is split over inputs
  int64_t arg_count_ = 0;
  int64_t args_done_ = 0;
  uint64_t body_left_ = 0;
  uint64_t frame_bytes_ = 0;
  ArgPosition args_[kRecordedArgs];
  char error_text_[48] = {};
  absl::string_view error_;
};

// Frames of replies, RESP2 and RESP3.
class ReplyScanner {
 public:
  // Limits L15: a bulk of at most 512 MiB + slack by default, aggregate counts below 2^32.
  static constexpr int64_t kBulkBytesMax = int64_t{512} << 20;

  ScanResult Scan(absl::string_view input);

  // First byte of the current or completed frame: '+', '-', ':', '$', '*', '%', '~', '>', '_', '#',
  // ',', '(', '!', '=', '|'. An attribute ('|') and the value after it are one frame.
  char type() const { return type_; }
  uint64_t frame_bytes() const { return frame_bytes_; }
  bool idle() const { return state_ == State::kStart; }
  // Bytes of the current bulk body and its CRLF that are still to come. 0 between values.
  uint64_t bytes_missing() const { return body_left_; }
  // Values of aggregates that are still to come, all levels together (O(1), no nesting is kept).
  uint64_t values_missing() const { return values_left_; }
  // Why the last Scan failed, for the log.
  absl::string_view error() const { return error_; }

 private:
  enum class State : uint8_t { kStart, kHeader, kLine, kBody, kFailed };
  // The implementer may change what is private here.
  State state_ = State::kStart;
  char type_ = 0;
  uint8_t header_used_ = 0;
  char header_[32] = {};
  uint64_t values_left_ = 0;
  uint64_t body_left_ = 0;
  uint64_t frame_bytes_ = 0;
  absl::string_view error_;
};

}  // namespace resp
