#pragma once

// File: resp/scanner.h
//
// Finds the ends of frames in a stream of RESP bytes, without copying or allocating, in memory that
// does not grow with the frame (RESP2 and RESP3; Redis serialization protocol specification). Input
// may be split anywhere: each call gets the bytes that follow those of the last call. A scanner
// goes over headers only; bodies are skipped by their length.

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "resp/header_number.h"

namespace resp {

enum class ScanStatus : uint8_t {
  kNeedMore,  // all of the input belongs to a frame that is not complete yet
  kComplete,  // `consumed` bytes of the input end the frame
  kError,     // not RESP, or over a limit: nothing after this can be understood. `consumed` ends
              // with the offending byte
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

// Frames of requests: arrays of bulk strings, and inline commands (a line up to LF, with or without
// a CR before it). What is refused, and in which words, is that of redis-server 7.0 and
// valkey-server 8, with these differences. A bad byte is refused when it is seen, not at the end of
// its line. A line end that is not CRLF is refused, as newer servers do. A NUL in an inline command
// is refused at once with the text that the servers come to after 64 KiB more.
class RequestScanner {
 public:
  // Positions of the first arguments that are recorded while scanning (command, key, …).
  static constexpr int kRecordedArgs = 3;

  // After kComplete the next call starts a new frame. After kError there is no next call.
  ScanResult Scan(absl::string_view input, const RequestLimits& limits);

  // Takes a whole frame, as Scan does, if it is one of the common kind: short and well-formed
  // headers. Returns its bytes; 0: it is another one, or not whole, and nothing is taken. Only when
  // idle().
  size_t TakeWhole(absl::string_view input, const RequestLimits& limits);

  // --- after kComplete, until the next call
  bool is_inline() const { return is_inline_; }
  // 0 for a frame that is to be ignored: "*0", "*-1", an empty or blank line. For any other inline
  // command 1; SplitInline finds its arguments.
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
  // "Protocol error: invalid bulk length". Lives as long as the scanner.
  absl::string_view error() const;

 private:
  enum class State : uint8_t {
    kStart,
    kArrayMarker,  // before '*'
    kArrayNumber,  // after it
    kArrayLf,      // after its CR
    kBulkMarker,   // before '$'
    kBulkNumber,   // after it
    kBulkLf,       // after its CR
    kBody,         // body_left_ counts the body and its CRLF
    kInline,
    kFailed
  };
  enum class Error : uint8_t {
    kNone,
    kBigArrayHeader,
    kArrayLength,
    kUnauthenticatedArray,
    kBigBulkHeader,
    kNotBulk,  // the text is in not_bulk_text_
    kBulkLength,
    kUnauthenticatedBulk,
    kLineEnd,
    kBigInline,
  };
  // Each returns the end of what it took.
  const char* SkipArgs(const char* p, const char* end, uint64_t offset,
                       const RequestLimits& limits);
  const char* ScanBytes(const char* p, const char* end, uint64_t offset,
                        const RequestLimits& limits);
  const char* ScanInline(const char* p, const char* end, const RequestLimits& limits);
  void BeginFrame(char first);
  void TakeArrayLength(const RequestLimits& limits);
  void TakeBulkLength(uint64_t body_offset, const RequestLimits& limits);
  void Fail(Error error);
  const char* FailAt(const char* next, Error error);
  const char* FailNotBulk(const char* next, char got);

  // The size stays below 160 bytes: there is one for each client.
  State state_ = State::kStart;
  Error error_ = Error::kNone;
  bool is_inline_ = false;
  HeaderNumber number_;      // of the header line being read
  uint64_t line_start_ = 0;  // of that line, from the start of the frame
  int64_t arg_count_ = 0;
  int64_t args_done_ = 0;
  uint64_t body_left_ = 0;
  uint64_t frame_bytes_ = 0;
  ArgPosition args_[kRecordedArgs];
  char not_bulk_text_[40] = {};
};

// Frames of replies, RESP2 and RESP3.
class ReplyScanner {
 public:
  // A bulk of more bytes, an aggregate of more elements (pairs for a map) and a longer line of a
  // simple type (without its type and line end) are errors.
  static constexpr int64_t kBulkBytesMax = int64_t{512} << 20;
  static constexpr int64_t kCountMax = (int64_t{1} << 32) - 1;
  static constexpr uint32_t kLineBytesMax = 1 << 20;

  ScanResult Scan(absl::string_view input);

  // First byte of the current or completed frame: '+', '-', ':', '$', '*', '%', '~', '>', '_', '#',
  // ',', '(', '!', '=', '|'. An attribute ('|') and the value after it are one frame.
  char type() const { return type_; }
  uint64_t frame_bytes() const { return frame_bytes_; }
  bool idle() const { return state_ == State::kStart; }
  // Bytes of the current bulk body and its CRLF that are still to come. 0 between values.
  uint64_t bytes_missing() const { return body_left_; }
  // Values of aggregates that have not begun yet, all levels together (O(1), no nesting is kept).
  uint64_t values_missing() const { return values_left_; }
  // Why the last Scan failed, for the log.
  absl::string_view error() const { return error_; }

 private:
  enum class State : uint8_t {
    kStart,
    kType,    // before the next value of an aggregate
    kNumber,  // of a header, an integer or a big number
    kLine,    // of any other simple type
    kLineLf,  // after the CR of either
    kBody,    // body_left_ counts the body and its CRLF
    kFailed
  };
  // Each returns the end of what it took.
  const char* SkipValues(const char* p, const char* end);
  const char* ScanBytes(const char* p, const char* end);
  const char* ScanLine(const char* p, const char* end);
  bool BeginValue(char type);
  bool TakeNumberByte(char c);
  bool TakeLine();
  bool TakeHeader(int64_t n);
  bool AddValues(uint64_t count);
  void EndValue();
  bool Fail(absl::string_view why);

  State state_ = State::kStart;
  char type_ = 0;
  char value_type_ = 0;      // of the value being read
  uint32_t line_bytes_ = 0;  // of its line, without type and line end
  HeaderNumber number_;
  uint64_t values_left_ = 0;  // not begun yet
  uint64_t body_left_ = 0;
  uint64_t frame_bytes_ = 0;
  absl::string_view error_;  // static text
};

}  // namespace resp
