#include <algorithm>
#include <cstring>

#include "resp/header_word.h"
#include "resp/scanner.h"

namespace resp {
namespace {

// "=", three bytes of format and a colon.
constexpr int64_t kVerbatimBytesMin = 4;

bool IsDoubleByte(char c) {
  constexpr absl::string_view kBytes = "0123456789+-.eEinfaINFA";
  return kBytes.find(c) != absl::string_view::npos;
}

// The length of the whole bulk that the input begins with, header and line ends included. 0: it is
// not here as a whole, or is not a common one.
size_t BulkBytes(absl::string_view input) {
  const char* const p = input.data();
  if (input.size() < 1 + sizeof(uint64_t)) return 0;
  const uint64_t word = LoadWord(p + 1);
  WordNumber length = ReadShortNumber(word);
  if (length.bytes == 0) length = ReadNumber(word);
  const size_t bytes = size_t{1} + length.bytes + length.value + 2;
  if (length.bytes == 0 || bytes > input.size() || !IsCrlf(p + bytes - 2)) return 0;
  return bytes;
}

}  // namespace

ScanResult ReplyScanner::Scan(absl::string_view input) {
  const char* const begin = input.data();
  const char* const end = begin + input.size();
  const char* p = begin;
  if (state_ == State::kStart) {
    if (p == end) return {ScanStatus::kNeedMore, 0};
    type_ = *p;
    if (const size_t whole = type_ == '$' ? BulkBytes(input) : 0; whole > 0) {
      frame_bytes_ = whole;
      return {ScanStatus::kComplete, whole};
    }
    body_left_ = frame_bytes_ = 0;
    values_left_ = 1;
    state_ = State::kType;
  }
  for (;;) {
    if (state_ == State::kType) p = SkipValues(p, end);
    if (p == end || state_ == State::kStart || state_ == State::kFailed) break;
    p = ScanBytes(p, end);
  }
  const size_t consumed = static_cast<size_t>(p - begin);
  frame_bytes_ += consumed;
  if (state_ == State::kStart) return {ScanStatus::kComplete, consumed};
  return {state_ == State::kFailed ? ScanStatus::kError : ScanStatus::kNeedMore, consumed};
}

// The fast way over values of the common types that have short headers and lie in the input as a
// whole. The first other value, also a bad one, is left to ScanBytes.
const char* ReplyScanner::SkipValues(const char* p, const char* end) {
  constexpr uint64_t kFiveBytes = 0xffffffffff;
  constexpr uint64_t kOk = 0x0a0d4b4f2b;    // "+OK\r\n"
  constexpr uint64_t kNull = 0x0a0d312d24;  // "$-1\r\n"
  // The type and a word of digits.
  constexpr ptrdiff_t kReach = 1 + sizeof(uint64_t);
  for (; values_left_ > 0 && end - p >= kReach; --values_left_) {
    const char type = *p;
    if (type == '+') {
      if ((LoadWord(p) & kFiveBytes) != kOk) return p;
      p += 5;
      continue;
    }
    const uint64_t word = LoadWord(p + 1);
    WordNumber n = ReadShortNumber(word);
    if (n.bytes == 0) n = ReadNumber(word);
    const char* const rest = p + 1 + n.bytes;
    if (type == '$') {
      if (n.bytes == 0) {
        if ((LoadWord(p) & kFiveBytes) != kNull) return p;
        p += 5;
        continue;
      }
      const uint64_t body_bytes = uint64_t{n.value} + 2;
      if (static_cast<uint64_t>(end - rest) < body_bytes) {
        --values_left_;
        body_left_ = body_bytes;
        state_ = State::kBody;
        return rest;
      }
      if (!IsCrlf(rest + n.value)) return p;
      p = rest + body_bytes;
    } else if (n.bytes != 0 && (type == ':' || type == '*')) {
      if (type == '*' && !AddValues(n.value)) return rest;
      p = rest;
    } else {
      return p;
    }
  }
  if (values_left_ == 0) state_ = State::kStart;
  return p;
}

// Takes bytes one by one (bodies by their length) up to the end of a value or of an aggregate's
// header.
const char* ReplyScanner::ScanBytes(const char* p, const char* end) {
  while (p != end) {
    const char c = *p;
    switch (state_) {
      case State::kType:
        if (!BeginValue(c)) return p + 1;
        break;
      case State::kNumber:
        if (c == '\r') {
          state_ = State::kLineLf;
        } else if (!TakeNumberByte(c)) {
          return p + 1;
        }
        break;
      case State::kLine:
        p = ScanLine(p, end);
        if (state_ == State::kFailed) return p;
        continue;
      case State::kLineLf:
        if (c != '\n') {
          Fail("CR without LF");
          return p + 1;
        }
        if (!TakeLine() || state_ != State::kBody) return p + 1;
        break;
      case State::kBody:
        if (body_left_ > 2) {
          const uint64_t n = std::min<uint64_t>(body_left_ - 2, static_cast<uint64_t>(end - p));
          body_left_ -= n;
          p += n;
          continue;
        }
        if (c != (body_left_ == 2 ? '\r' : '\n')) {
          Fail("no CRLF after a bulk");
          return p + 1;
        }
        if (--body_left_ > 0) break;
        EndValue();
        return p + 1;
      case State::kStart:
      case State::kFailed:
        return p;
    }
    ++p;
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
  const char* const cr = static_cast<const char*>(std::memchr(p, '\r', end - p));
  const char* const line_end = cr != nullptr ? cr : end;
  const uint64_t room = kLineBytesMax - line_bytes_;
  const char* const limit = static_cast<uint64_t>(line_end - p) > room ? p + room : line_end;
  const char* bad = limit;  // the first byte that may not stand here
  switch (value_type_) {
    case '_':
      bad = p;
      break;
    case '#':
      if (p != limit && line_bytes_ == 0 && (*p == 't' || *p == 'f')) {
        bad = p + 1;
      } else {
        bad = p;
      }
      break;
    case ',':
      bad = std::find_if_not(p, limit, IsDoubleByte);
      break;
    default:
      bad = std::find(p, limit, '\n');
  }
  line_bytes_ += static_cast<uint32_t>(bad - p);
  if (bad != line_end) {
    Fail(bad == limit && line_bytes_ == kLineBytesMax ? "line too long" : "bad byte in a line");
    return bad + 1;
  }
  if (cr == nullptr) return end;
  state_ = State::kLineLf;
  return cr + 1;
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
