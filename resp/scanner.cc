#include "resp/scanner.h"

#include <algorithm>
#include <cstring>

namespace resp {
namespace {

// Before authentication.
constexpr int64_t kUnauthenticatedArgsMax = 10;
constexpr int64_t kUnauthenticatedBulkBytesMax = 16384;

constexpr absl::string_view kNotBulkText = "Protocol error: expected '$', got 'x'";

// What the servers skip between the arguments of an inline command.
bool IsBlank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

}  // namespace

ScanResult RequestScanner::Scan(absl::string_view input, const RequestLimits& limits) {
  if (input.empty()) return {ScanStatus::kNeedMore, 0};
  if (state_ == State::kStart) BeginFrame(input[0]);
  const char* const begin = input.data();
  const char* const end = begin + input.size();
  const char* const p = is_inline_ ? ScanInline(begin, end, limits) : ScanSlow(begin, end, limits);
  const size_t consumed = static_cast<size_t>(p - begin);
  frame_bytes_ += consumed;
  if (state_ == State::kStart) return {ScanStatus::kComplete, consumed};
  return {state_ == State::kFailed ? ScanStatus::kError : ScanStatus::kNeedMore, consumed};
}

void RequestScanner::BeginFrame(char first) {
  is_inline_ = first != '*';
  state_ = is_inline_ ? State::kInline : State::kMarker;
  arg_count_ = args_done_ = 0;
  body_left_ = frame_bytes_ = line_start_ = 0;
}

// Goes over header lines byte by byte and over bodies by their length. Returns the end of what
// belongs to the frame; frame_bytes_ still is its size before `p`.
const char* RequestScanner::ScanSlow(const char* p, const char* end, const RequestLimits& limits) {
  const char* const begin = p;
  const auto offset = [this, begin](const char* at) {
    return frame_bytes_ + static_cast<uint64_t>(at - begin);
  };
  while (p != end) {
    switch (state_) {
      case State::kArrayNumber:
      case State::kBulkNumber: {
        const bool is_array = state_ == State::kArrayNumber;
        const char c = *p++;
        if (c == '\r') {
          state_ = is_array ? State::kArrayLf : State::kBulkLf;
        } else if (!number_.Add(c)) {
          Fail(is_array ? Error::kArrayLength : Error::kBulkLength);
        } else if (offset(p) - line_start_ > limits.inline_bytes_max) {
          Fail(is_array ? Error::kBigArrayHeader : Error::kBigBulkHeader);
        }
        break;
      }
      case State::kArrayLf:
        if (*p++ != '\n') {
          Fail(Error::kArrayLength);
        } else {
          TakeArrayLength(limits);
        }
        break;
      case State::kBulkLf:
        if (*p++ != '\n') {
          Fail(Error::kBulkLength);
        } else {
          TakeBulkLength(offset(p), limits);
        }
        break;
      case State::kMarker: {
        const bool is_array = offset(p) == 0;
        const char c = *p++;
        if (!is_array && c != '$') {
          FailNotBulk(c);
          break;
        }
        line_start_ = offset(p) - 1;
        number_.Clear();
        state_ = is_array ? State::kArrayNumber : State::kBulkNumber;
        break;
      }
      case State::kBody:
        if (body_left_ > 2) {
          const uint64_t n = std::min<uint64_t>(body_left_ - 2, static_cast<uint64_t>(end - p));
          p += n;
          body_left_ -= n;
        } else if (*p++ != (body_left_ == 2 ? '\r' : '\n')) {
          Fail(Error::kBulkEnd);
        } else if (--body_left_ == 0) {
          state_ = ++args_done_ == arg_count_ ? State::kStart : State::kMarker;
        }
        break;
      case State::kStart:
      case State::kInline:
      case State::kFailed:
        return p;
    }
  }
  return p;
}

const char* RequestScanner::ScanInline(const char* p, const char* end,
                                       const RequestLimits& limits) {
  if (state_ == State::kFailed) return p;
  // One byte more than a line may have shows that it is too long.
  const uint64_t room =
      limits.inline_bytes_max + 1 - std::min<uint64_t>(frame_bytes_, limits.inline_bytes_max);
  const size_t n = std::min<uint64_t>(room, static_cast<uint64_t>(end - p));
  const char* const newline = static_cast<const char*>(std::memchr(p, '\n', n));
  const char* const line_end = newline != nullptr ? newline : p + n;
  if (arg_count_ == 0 && !std::all_of(p, line_end, IsBlank)) arg_count_ = 1;
  if (newline != nullptr) {
    state_ = State::kStart;
    return newline + 1;
  }
  if (frame_bytes_ + n > limits.inline_bytes_max) Fail(Error::kBigInline);
  return line_end;
}

void RequestScanner::TakeArrayLength(const RequestLimits& limits) {
  int64_t count = 0;
  if (!number_.Get(&count) || count > limits.args_max) return Fail(Error::kArrayLength);
  if (!limits.authenticated && count > kUnauthenticatedArgsMax) {
    return Fail(Error::kUnauthenticatedArray);
  }
  arg_count_ = std::max<int64_t>(count, 0);
  state_ = arg_count_ == 0 ? State::kStart : State::kMarker;
}

void RequestScanner::TakeBulkLength(uint64_t body_offset, const RequestLimits& limits) {
  int64_t length = 0;
  if (!number_.Get(&length) || length < 0 || length > limits.bulk_bytes_max) {
    return Fail(Error::kBulkLength);
  }
  if (!limits.authenticated && length > kUnauthenticatedBulkBytesMax) {
    return Fail(Error::kUnauthenticatedBulk);
  }
  if (args_done_ < kRecordedArgs) {
    args_[args_done_] = {body_offset, static_cast<uint64_t>(length)};
  }
  body_left_ = static_cast<uint64_t>(length) + 2;
  state_ = State::kBody;
}

void RequestScanner::FailNotBulk(char got) {
  // An error reply is one line of text.
  if (got == '\r' || got == '\n' || got == '\0') got = ' ';
  static_assert(kNotBulkText.size() <= sizeof(not_bulk_text_));
  std::memcpy(not_bulk_text_, kNotBulkText.data(), kNotBulkText.size());
  not_bulk_text_[kNotBulkText.size() - 2] = got;
  Fail(Error::kNotBulk);
}

void RequestScanner::Fail(Error error) {
  error_ = error;
  state_ = State::kFailed;
}

absl::string_view RequestScanner::error() const {
  switch (error_) {
    case Error::kNone:
      return "";
    case Error::kBigArrayHeader:
      return "Protocol error: too big mbulk count string";
    case Error::kArrayLength:
      return "Protocol error: invalid multibulk length";
    case Error::kUnauthenticatedArray:
      return "Protocol error: unauthenticated multibulk length";
    case Error::kBigBulkHeader:
      return "Protocol error: too big bulk count string";
    case Error::kNotBulk:
      return absl::string_view(not_bulk_text_, kNotBulkText.size());
    case Error::kBulkLength:
      return "Protocol error: invalid bulk length";
    case Error::kUnauthenticatedBulk:
      return "Protocol error: unauthenticated bulk length";
    case Error::kBulkEnd:
      return "Protocol error: expected CRLF after bulk";
    case Error::kBigInline:
      return "Protocol error: too big inline request";
  }
  return "";
}

}  // namespace resp
