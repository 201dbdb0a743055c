#include "resp/scanner.h"

#include <algorithm>
#include <cstring>

#include "absl/base/optimization.h"
#include "resp/header_word.h"

namespace resp {
namespace {

// Before authentication.
constexpr int64_t kUnauthenticatedArgsMax = 10;
constexpr int64_t kUnauthenticatedBulkBytesMax = 16384;

constexpr absl::string_view kNotBulkText = "Protocol error: expected '$', got 'x'";

int64_t ArgsMax(const RequestLimits& limits) {
  return limits.authenticated ? limits.args_max
                              : std::min(limits.args_max, kUnauthenticatedArgsMax);
}

int64_t BulkBytesMax(const RequestLimits& limits) {
  return limits.authenticated ? limits.bulk_bytes_max
                              : std::min(limits.bulk_bytes_max, kUnauthenticatedBulkBytesMax);
}

// What the servers skip between the arguments of an inline command.
bool IsBlank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

}  // namespace

ScanResult RequestScanner::Scan(absl::string_view input, const RequestLimits& limits) {
  const char* const begin = input.data();
  const char* const end = begin + input.size();
  const char* p = begin;
  if (state_ == State::kStart) {
    if (p == end) return {ScanStatus::kNeedMore, 0};
    const size_t whole = *p == '*' ? TakeWhole(input, limits) : 0;
    if (whole > 0) return {ScanStatus::kComplete, whole};
    BeginFrame(*p);
  }
  if (is_inline_) {
    p = ScanInline(p, end, limits);
  } else {
    for (;;) {
      const uint64_t offset = frame_bytes_ + static_cast<uint64_t>(p - begin);
      if (state_ == State::kBody) p = SkipArgs(p, end, offset, limits);
      if (p == end || state_ == State::kStart || state_ == State::kFailed) break;
      p = ScanBytes(p, end, frame_bytes_ + static_cast<uint64_t>(p - begin), limits);
    }
  }
  const size_t consumed = static_cast<size_t>(p - begin);
  frame_bytes_ += consumed;
  if (state_ == State::kStart) return {ScanStatus::kComplete, consumed};
  return {state_ == State::kFailed ? ScanStatus::kError : ScanStatus::kNeedMore, consumed};
}

void RequestScanner::BeginFrame(char first) {
  is_inline_ = first != '*';
  state_ = is_inline_ ? State::kInline : State::kArrayMarker;
  arg_count_ = args_done_ = 0;
  body_left_ = frame_bytes_ = line_start_ = 0;
}

// Most frames are such. The others are left to the other functions, which also find the errors.
size_t RequestScanner::TakeWhole(absl::string_view input, const RequestLimits& limits) {
  const char* const p = input.data();
  const uint64_t size = input.size();
  // The longest such head is "*999\r\n$", and a word of digits follows.
  if (size < 15) return 0;
  WordNumber count, length;
  uint64_t body;
  if (const ShortHead head = ReadShortHead(LoadWord(p)); ABSL_PREDICT_TRUE(head.count != 0)) {
    count.value = head.count;
    length = {head.length, 3};
    body = sizeof(uint64_t);
  } else {
    count = ReadShortNumber(LoadWord(p + 1));
    if (*p != '*' || count.value == 0 || p[1 + count.bytes] != '$') return 0;
    const uint64_t first = 2 + count.bytes;
    length = ReadShortNumber(LoadWord(p + first));
    body = first + length.bytes;
  }
  if (count.value > ArgsMax(limits)) return 0;
  const uint64_t bulk_bytes_max = static_cast<uint64_t>(BulkBytesMax(limits));
  for (uint32_t arg = 0;;) {
    if (length.bytes == 0 || length.value > bulk_bytes_max) return 0;
    if (arg < kRecordedArgs) args_[arg] = {body, length.value};
    const uint64_t body_end = body + length.value;
    if (++arg == count.value) {
      if (body_end + 2 > size || !IsCrlf(p + body_end)) return 0;
      BeginFrame('*');
      state_ = State::kStart;
      arg_count_ = count.value;
      return frame_bytes_ = body_end + 2;
    }
    if (body_end + kNextLengthReach > size) return 0;
    length = ReadNextLength(p + body_end);
    body = body_end + length.bytes;
  }
}

// The fast way over arguments: body_left_ bytes of one are to come at `p`, which is `offset` bytes
// from the start of the frame. Goes on while the line end of a body and the next header lie in the
// input and are well-formed; what stops it is left to ScanBytes.
const char* RequestScanner::SkipArgs(const char* p, const char* end, uint64_t offset,
                                     const RequestLimits& limits) {
  const uint64_t bulk_bytes_max = static_cast<uint64_t>(BulkBytesMax(limits));
  const uint64_t size = static_cast<uint64_t>(end - p);
  // Inside of a body's line end is for ScanBytes.
  if (body_left_ < 2) return p;
  // Places are counted from `p`; `body` is where the current one begins or goes on.
  uint64_t body = 0;
  uint64_t body_end = body_left_ - 2;
  int64_t arg = args_done_;
  for (; arg + 1 != arg_count_ && body_end + kNextLengthReach <= size; ++arg) {
    const WordNumber length = ReadNextLength(p + body_end);
    if (length.bytes == 0 || length.value > bulk_bytes_max) break;
    body = body_end + length.bytes;
    body_end = body + length.value;
    if (arg + 1 < kRecordedArgs) args_[arg + 1] = {offset + body, length.value};
  }
  if (arg + 1 == arg_count_ && body_end + 2 <= size && IsCrlf(p + body_end)) {
    args_done_ = arg_count_;
    body_left_ = 0;
    state_ = State::kStart;
    return p + body_end + 2;
  }
  args_done_ = arg;
  body_left_ = body_end + 2 - body;
  return p + body;
}

// Takes bytes one by one (bodies by their length) up to the beginning of the next body.
const char* RequestScanner::ScanBytes(const char* p, const char* end, uint64_t offset,
                                      const RequestLimits& limits) {
  const char* const origin = p;
  while (p != end) {
    const char c = *p;
    switch (state_) {
      case State::kArrayMarker:
      case State::kBulkMarker: {
        const bool is_array = state_ == State::kArrayMarker;
        if (!is_array && c != '$') return FailNotBulk(p + 1, c);
        line_start_ = offset + static_cast<uint64_t>(p - origin);
        number_.Clear();
        state_ = is_array ? State::kArrayNumber : State::kBulkNumber;
        break;
      }
      case State::kArrayNumber:
      case State::kBulkNumber: {
        const bool is_array = state_ == State::kArrayNumber;
        const uint64_t line_bytes = offset + static_cast<uint64_t>(p - origin) + 1 - line_start_;
        if (c == '\r') {
          state_ = is_array ? State::kArrayLf : State::kBulkLf;
        } else if (!number_.Add(c)) {
          return FailAt(p + 1, is_array ? Error::kArrayLength : Error::kBulkLength);
        } else if (line_bytes > limits.inline_bytes_max) {
          return FailAt(p + 1, is_array ? Error::kBigArrayHeader : Error::kBigBulkHeader);
        }
        break;
      }
      case State::kArrayLf:
        if (c != '\n') return FailAt(p + 1, Error::kLineEnd);
        TakeArrayLength(limits);
        if (state_ != State::kBulkMarker) return p + 1;
        break;
      case State::kBulkLf:
        if (c != '\n') return FailAt(p + 1, Error::kLineEnd);
        TakeBulkLength(offset + static_cast<uint64_t>(p - origin) + 1, limits);
        return p + 1;
      case State::kBody:
        if (body_left_ > 2) {
          const uint64_t n = std::min<uint64_t>(body_left_ - 2, static_cast<uint64_t>(end - p));
          body_left_ -= n;
          p += n;
          continue;
        }
        if (c != (body_left_ == 2 ? '\r' : '\n')) return FailAt(p + 1, Error::kLineEnd);
        if (--body_left_ > 0) break;
        if (++args_done_ == arg_count_) {
          state_ = State::kStart;
          return p + 1;
        }
        state_ = State::kBulkMarker;
        break;
      case State::kStart:
      case State::kInline:
      case State::kFailed:
        return p;
    }
    ++p;
  }
  return p;
}

const char* RequestScanner::ScanInline(const char* p, const char* end,
                                       const RequestLimits& limits) {
  if (state_ == State::kFailed) return p;
  const uint64_t available = static_cast<uint64_t>(end - p);
  const uint64_t room =
      limits.inline_bytes_max - std::min<uint64_t>(frame_bytes_, limits.inline_bytes_max);
  // One byte more than a line may have shows that it is too long.
  const size_t n = available > room ? room + 1 : available;
  const char* const newline = static_cast<const char*>(std::memchr(p, '\n', n));
  const char* const line_end = newline != nullptr ? newline : p + n;
  // The servers look for the line's end in a C string: a NUL hides it from them until the line is
  // too big. The same answer at once, instead of a client that waits for nothing.
  const void* const nul = std::memchr(p, '\0', static_cast<size_t>(line_end - p));
  if (nul != nullptr) return FailAt(static_cast<const char*>(nul) + 1, Error::kBigInline);
  if (arg_count_ == 0 && !std::all_of(p, line_end, IsBlank)) arg_count_ = 1;
  if (newline != nullptr) {
    state_ = State::kStart;
    return newline + 1;
  }
  if (available > room) Fail(Error::kBigInline);
  return line_end;
}

void RequestScanner::TakeArrayLength(const RequestLimits& limits) {
  int64_t count = 0;
  if (!number_.Get(&count) || count > limits.args_max) return Fail(Error::kArrayLength);
  if (!limits.authenticated && count > kUnauthenticatedArgsMax) {
    return Fail(Error::kUnauthenticatedArray);
  }
  arg_count_ = std::max<int64_t>(count, 0);
  state_ = arg_count_ == 0 ? State::kStart : State::kBulkMarker;
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

const char* RequestScanner::FailNotBulk(const char* next, char got) {
  // An error reply is one line of text.
  if (got == '\r' || got == '\n' || got == '\0') got = ' ';
  static_assert(kNotBulkText.size() <= sizeof(not_bulk_text_));
  std::memcpy(not_bulk_text_, kNotBulkText.data(), kNotBulkText.size());
  not_bulk_text_[kNotBulkText.size() - 2] = got;
  return FailAt(next, Error::kNotBulk);
}

void RequestScanner::Fail(Error error) {
  error_ = error;
  state_ = State::kFailed;
}

const char* RequestScanner::FailAt(const char* next, Error error) {
  Fail(error);
  return next;
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
    case Error::kLineEnd:
      return "Protocol error: invalid CRLF in request";
    case Error::kBigInline:
      return "Protocol error: too big inline request";
  }
  return "";
}

}  // namespace resp
