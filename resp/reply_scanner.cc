#include <algorithm>
#include <cstring>

#include "resp/scanner.h"

namespace resp {
namespace {

// "=", three bytes of format and a colon.
constexpr int64_t kVerbatimBytesMin = 4;

bool IsDoubleByte(char c) {
  constexpr absl::string_view kBytes = "0123456789+-.eEinfaINFA";
  return kBytes.find(c) != absl::string_view::npos;
}

}  // namespace

ScanResult ReplyScanner::Scan(absl::string_view input) {
  if (input.empty()) return {ScanStatus::kNeedMore, 0};
  if (state_ == State::kStart) {
    type_ = input[0];
    body_left_ = frame_bytes_ = 0;
    values_left_ = 1;
    state_ = State::kType;
  }
  const char* const begin = input.data();
  const char* const p = ScanSlow(begin, begin + input.size());
  const size_t consumed = static_cast<size_t>(p - begin);
  frame_bytes_ += consumed;
  if (state_ == State::kStart) return {ScanStatus::kComplete, consumed};
  return {state_ == State::kFailed ? ScanStatus::kError : ScanStatus::kNeedMore, consumed};
}

// Returns the end of what belongs to the frame.
const char* ReplyScanner::ScanSlow(const char* p, const char* end) {
  while (p != end) {
    switch (state_) {
      case State::kType:
        if (!BeginValue(*p++)) return p;
        break;
      case State::kNumber: {
        const char c = *p++;
        if (c == '\r') {
          state_ = State::kLineLf;
        } else if (!TakeNumberByte(c)) {
          return p;
        }
        break;
      }
      case State::kLine:
        p = ScanLine(p, end);
        break;
      case State::kLineLf:
        if (*p++ != '\n') {
          Fail("CR without LF");
          return p;
        }
        if (!TakeLine()) return p;
        break;
      case State::kBody:
        if (body_left_ > 2) {
          const uint64_t n = std::min<uint64_t>(body_left_ - 2, static_cast<uint64_t>(end - p));
          p += n;
          body_left_ -= n;
        } else if (*p++ != (body_left_ == 2 ? '\r' : '\n')) {
          Fail("no CRLF after a bulk");
          return p;
        } else if (--body_left_ == 0) {
          EndValue();
        }
        break;
      case State::kStart:
      case State::kFailed:
        return p;
    }
  }
  return p;
}

bool ReplyScanner::BeginValue(char type) {
  value_type_ = type;
  line_bytes_ = 0;
  --values_left_;
  switch (type) {
    case '$':
    case '*':
    case ':':
    case '%':
    case '~':
    case '>':
    case '|':
    case '!':
    case '=':
    case '(':
      number_.Clear();
      state_ = State::kNumber;
      return true;
    case '+':
    case '-':
    case '_':
    case '#':
    case ',':
      state_ = State::kLine;
      return true;
    default:
      return Fail("not the first byte of a RESP type");
  }
}

bool ReplyScanner::TakeNumberByte(char c) {
  const bool is_big = value_type_ == '(';
  if (c == '+' && (is_big || value_type_ == ':') && number_.AddPlus()) {
    ++line_bytes_;
    return true;
  }
  if (c == '?' && line_bytes_ == 0) return Fail("streamed types are not supported");
  if (!number_.Add(c)) return Fail("not a number");
  // Only a big number may be long.
  if (++line_bytes_ > (is_big ? kLineBytesMax : 20)) return Fail("number too long");
  return true;
}

// Takes the bytes of a simple type up to its CR.
const char* ReplyScanner::ScanLine(const char* p, const char* end) {
  for (; p != end; ++p) {
    const char c = *p;
    if (c == '\r') {
      state_ = State::kLineLf;
      return p + 1;
    }
    const uint32_t index = line_bytes_++;
    bool good = line_bytes_ <= kLineBytesMax;
    switch (value_type_) {
      case '_':
        good = false;
        break;
      case '#':
        good = index == 0 && (c == 't' || c == 'f');
        break;
      case ',':
        good = good && IsDoubleByte(c);
        break;
      default:
        good = good && c != '\n';
    }
    if (!good) {
      Fail(line_bytes_ > kLineBytesMax ? "line too long" : "bad byte in a line");
      return p + 1;
    }
  }
  return p;
}

// A whole line has been read.
bool ReplyScanner::TakeLine() {
  int64_t n = 0;
  switch (value_type_) {
    case '+':
    case '-':
    case '_':
      break;
    case '#':
    case ',':
      if (line_bytes_ == 0) return Fail("empty line");
      break;
    case '(':
      if (!number_.has_digits()) return Fail("not a number");
      break;
    case ':':
      if (!number_.Get(&n)) return Fail("not a number");
      break;
    default:
      if (!number_.Get(&n)) return Fail("not a length");
      return TakeHeader(n);
  }
  EndValue();
  return true;
}

bool ReplyScanner::TakeHeader(int64_t n) {
  const bool is_bulk = value_type_ == '$' || value_type_ == '!' || value_type_ == '=';
  if (n == -1 && (value_type_ == '$' || value_type_ == '*')) {
    EndValue();
    return true;
  }
  if (n < (value_type_ == '=' ? kVerbatimBytesMin : 0)) return Fail("bad length");
  if (n > (is_bulk ? kBulkBytesMax : kCountMax)) return Fail("length over the limit");
  if (is_bulk) {
    body_left_ = static_cast<uint64_t>(n) + 2;
    state_ = State::kBody;
    return true;
  }
  uint64_t values = static_cast<uint64_t>(n);
  if (value_type_ == '%' || value_type_ == '|') values *= 2;
  // An attribute is no value of its own: the one that it belongs to follows.
  if (value_type_ == '|') ++values;
  if (!AddValues(values)) return false;
  EndValue();
  return true;
}

bool ReplyScanner::AddValues(uint64_t count) {
  if (count > ~values_left_) return Fail("too many values");
  values_left_ += count;
  return true;
}

void ReplyScanner::EndValue() { state_ = values_left_ == 0 ? State::kStart : State::kType; }

bool ReplyScanner::Fail(absl::string_view why) {
  error_ = why;
  state_ = State::kFailed;
  return false;
}

}  // namespace resp
