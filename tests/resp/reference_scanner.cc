#include "tests/resp/reference_scanner.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace resp {
namespace {

// Whether some number begins with this text.
bool BeginsNumber(absl::string_view text) {
  absl::string_view digits = text;
  const bool negative = !digits.empty() && digits[0] == '-';
  if (negative) digits.remove_prefix(1);
  for (const char c : digits) {
    if (c < '0' || c > '9') return false;
  }
  if (digits.empty() || digits[0] != '0') return true;
  return digits.size() == 1 && !negative;
}

bool ToNumber(absl::string_view text, int64_t* n) {
  return BeginsNumber(text) && absl::SimpleAtoi(text, n);
}

// Reads a frame and notes in *frame how that went.
class Reader {
 public:
  Reader(absl::string_view bytes, ReferenceFrame* frame) : bytes_(bytes), frame_(frame) {}

  uint64_t offset() const { return frame_->bytes; }

  // False at the end of what is there.
  bool Take(char* c) {
    if (offset() == bytes_.size()) return false;
    *c = bytes_[frame_->bytes++];
    return true;
  }
  bool Fail(absl::string_view error) {
    frame_->status = ScanStatus::kError;
    frame_->error = std::string(error);
    return false;
  }
  // A body and its CRLF.
  bool TakeBody(uint64_t length, absl::string_view error) {
    for (uint64_t i = 0; i < length + 2; ++i) {
      char c = 0;
      frame_->bytes_missing = length + 2 - i;
      if (!Take(&c)) return false;
      if (i >= length && c != "\r\n"[i - length]) {
        return Fail(error);
      }
    }
    frame_->bytes_missing = 0;
    return true;
  }

 private:
  const absl::string_view bytes_;
  ReferenceFrame* const frame_;
};

// The rest of a request's header line, behind its type.
bool TakeRequestHeader(Reader* reader, absl::string_view bad, absl::string_view too_big,
                       const RequestLimits& limits, int64_t* n) {
  std::string line;
  char c = 0;
  for (;;) {
    if (!reader->Take(&c)) return false;
    if (c == '\r') break;
    line.push_back(c);
    if (!BeginsNumber(line)) return reader->Fail(bad);
    if (1 + line.size() > limits.inline_bytes_max) return reader->Fail(too_big);
  }
  if (!reader->Take(&c)) return false;
  if (c != '\n') return reader->Fail("Protocol error: invalid CRLF in request");
  if (!ToNumber(line, n)) return reader->Fail(bad);
  return true;
}

bool ReadInline(Reader* reader, char c, const RequestLimits& limits, ReferenceFrame* frame) {
  frame->is_inline = true;
  while (c != '\n') {
    if (c == '\0') return reader->Fail("Protocol error: too big inline request");
    if (!absl::StrContains(" \t\v\f\r", absl::string_view(&c, 1))) frame->arg_count = 1;
    if (reader->offset() > limits.inline_bytes_max) {
      return reader->Fail("Protocol error: too big inline request");
    }
    if (!reader->Take(&c)) return false;
  }
  return true;
}

bool ReadRequest(Reader* reader, const RequestLimits& limits, ReferenceFrame* frame) {
  char c = 0;
  if (!reader->Take(&c)) return false;
  if (c != '*') return ReadInline(reader, c, limits, frame);

  int64_t count = 0;
  if (!TakeRequestHeader(reader, "Protocol error: invalid multibulk length",
                         "Protocol error: too big mbulk count string", limits, &count)) {
    return false;
  }
  if (count > limits.args_max) return reader->Fail("Protocol error: invalid multibulk length");
  if (!limits.authenticated && count > 10) {
    return reader->Fail("Protocol error: unauthenticated multibulk length");
  }
  frame->arg_count = std::max<int64_t>(0, count);
  for (int64_t i = 0; i < frame->arg_count; ++i) {
    if (!reader->Take(&c)) return false;
    if (c != '$') {
      const char shown = c == '\r' || c == '\n' || c == '\0' ? ' ' : c;
      return reader->Fail(
          absl::StrCat("Protocol error: expected '$', got '", std::string(1, shown), "'"));
    }
    int64_t length = 0;
    if (!TakeRequestHeader(reader, "Protocol error: invalid bulk length",
                           "Protocol error: too big bulk count string", limits, &length)) {
      return false;
    }
    if (length < 0 || length > limits.bulk_bytes_max) {
      return reader->Fail("Protocol error: invalid bulk length");
    }
    if (!limits.authenticated && length > 16384) {
      return reader->Fail("Protocol error: unauthenticated bulk length");
    }
    frame->args.push_back({reader->offset(), static_cast<uint64_t>(length)});
    if (!reader->TakeBody(static_cast<uint64_t>(length),
                          "Protocol error: invalid CRLF in request")) {
      return false;
    }
  }
  return true;
}

bool IsOneOf(char c, absl::string_view set) {
  return absl::StrContains(set, absl::string_view(&c, 1));
}

// Whether a line of a reply of this type may begin like this.
bool BeginsReplyLine(char type, absl::string_view line) {
  switch (type) {
    case '+':
    case '-':
      return line.size() <= ReplyScanner::kLineBytesMax && !absl::StrContains(line, "\n");
    case '_':
      return line.empty();
    case '#':
      return line.empty() || line == "t" || line == "f";
    case ',':
      return line.size() <= ReplyScanner::kLineBytesMax &&
             (line.empty() || IsOneOf(line.back(), "0123456789+-.eEinfaINFA"));
    case '(':
      if (line.size() > ReplyScanner::kLineBytesMax) return false;
      return BeginsNumber(
          absl::StartsWith(line, "+") && !absl::StartsWith(line, "+-") ? line.substr(1) : line);
    case ':':
      if (line.size() > 20) return false;
      return BeginsNumber(
          absl::StartsWith(line, "+") && !absl::StartsWith(line, "+-") ? line.substr(1) : line);
    default:
      return line.size() <= 20 && BeginsNumber(line);
  }
}

bool IsBulk(char type) { return type == '$' || type == '!' || type == '='; }
bool IsAggregate(char type) { return IsOneOf(type, "*~>%|"); }

bool TakeReplyLine(Reader* reader, char type, std::string* line) {
  char c = 0;
  for (;;) {
    if (!reader->Take(&c)) return false;
    if (c == '\r') break;
    line->push_back(c);
    // Lines of text are long: only their end can be bad.
    const bool is_text = type == '+' || type == '-';
    const bool good = is_text && c != '\n' && line->size() <= ReplyScanner::kLineBytesMax;
    if (!good && !BeginsReplyLine(type, *line)) return reader->Fail("line");
  }
  if (!reader->Take(&c)) return false;
  if (c != '\n') return reader->Fail("line end");
  return true;
}

bool ReadReply(Reader* reader, ReferenceFrame* frame) {
  // How many values each open aggregate still lacks. An attribute's own values are a level that
  // does not count as a value of the one around it.
  struct Level {
    uint64_t left;
    bool is_attribute;
  };
  std::vector<Level> levels = {{1, false}};
  while (!levels.empty()) {
    if (levels.back().left == 0) {
      const bool was_attribute = levels.back().is_attribute;
      levels.pop_back();
      if (!was_attribute && !levels.empty()) --levels.back().left;
      continue;
    }
    frame->values_missing = 0;
    for (size_t i = 0; i < levels.size(); ++i) {
      // The value around a deeper level has begun, unless that is only its attribute.
      const bool begun = i + 1 < levels.size() && !levels[i + 1].is_attribute;
      frame->values_missing += levels[i].left - (begun ? 1 : 0);
    }
    char type = 0;
    if (!reader->Take(&type)) return false;
    if (!IsAggregate(type) && !IsBulk(type) && !IsOneOf(type, "+-:_#,(")) {
      return reader->Fail("type");
    }
    --frame->values_missing;
    std::string line;
    if (!TakeReplyLine(reader, type, &line)) return false;
    int64_t n = 0;
    if (!IsAggregate(type) && !IsBulk(type)) {
      if ((type == '#' || type == ',') && line.empty()) return reader->Fail("empty");
      if (type == '(' && !IsOneOf(line.empty() ? '-' : line.back(), "0123456789")) {
        return reader->Fail("number");
      }
      if (type == ':' && !absl::SimpleAtoi(line, &n)) return reader->Fail("number");
      --levels.back().left;
      continue;
    }
    if (!ToNumber(line, &n)) return reader->Fail("length");
    if (n == -1 && (type == '$' || type == '*')) {
      --levels.back().left;
      continue;
    }
    if (n < 0 || (type == '=' && n < 4)) return reader->Fail("length");
    if (IsBulk(type)) {
      if (n > ReplyScanner::kBulkBytesMax) return reader->Fail("length");
      if (!reader->TakeBody(static_cast<uint64_t>(n), "body")) return false;
      --levels.back().left;
      continue;
    }
    if (n > int64_t{0xffffffff}) return reader->Fail("count");
    const bool in_pairs = type == '%' || type == '|';
    levels.push_back({static_cast<uint64_t>(in_pairs ? 2 * n : n), type == '|'});
  }
  frame->values_missing = 0;
  return true;
}

}  // namespace

ReferenceFrame ReferenceRequest(absl::string_view bytes, const RequestLimits& limits) {
  ReferenceFrame frame;
  Reader reader(bytes, &frame);
  if (ReadRequest(&reader, limits, &frame)) frame.status = ScanStatus::kComplete;
  return frame;
}

ReferenceFrame ReferenceReply(absl::string_view bytes) {
  ReferenceFrame frame;
  Reader reader(bytes, &frame);
  if (ReadReply(&reader, &frame)) frame.status = ScanStatus::kComplete;
  return frame;
}

}  // namespace resp
