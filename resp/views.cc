#include "resp/views.h"

#include <algorithm>

#include "absl/base/macros.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "resp/header_number.h"
#include "resp/header_word.h"

namespace resp {

absl::string_view internal::ViewBehindFirst(Pieces pieces, ArgPosition position,
                                            std::string* scratch) {
  uint64_t offset = position.offset;
  size_t i = 0;
  while (i < pieces.size() && offset >= pieces[i].size()) offset -= pieces[i++].size();
  if (position.length == 0) return absl::string_view();
  ABSL_ASSERT(i < pieces.size());
  if (i == pieces.size()) return absl::string_view();
  if (position.length <= pieces[i].size() - offset)
    return pieces[i].substr(offset, position.length);

  scratch->clear();
  scratch->reserve(position.length);
  for (uint64_t left = position.length; left > 0 && i < pieces.size(); ++i) {
    const absl::string_view part = pieces[i].substr(offset, left);
    scratch->append(part.data(), part.size());
    left -= part.size();
    offset = 0;
  }
  ABSL_ASSERT(scratch->size() == position.length);
  return *scratch;
}

void PieceCursor::Skip(uint64_t n) {
  while (n > 0 && !at_end()) {
    const uint64_t step = std::min<uint64_t>(n, pieces_[piece_].size() - in_piece_);
    in_piece_ += step;
    offset_ += step;
    n -= step;
    SkipEmpty();
  }
}

bool PieceCursor::TakeHeader(char* type, int64_t* n) {
  HeaderNumber number;
  const auto take_byte = [this](char* c) {
    if (at_end()) return false;
    *c = pieces_[piece_][in_piece_];
    Skip(1);
    return true;
  };
  char c = 0;
  if (!take_byte(type)) return false;
  while (take_byte(&c) && c != '\r') {
    if (!number.Add(c)) return false;
  }
  return take_byte(&c) && c == '\n' && number.Get(n);
}

ArgReader::ArgReader(Pieces pieces) : cursor_(pieces) {
  char type = 0;
  int64_t count = 0;
  if (cursor_.TakeHeader(&type, &count) && type == '*') count_ = std::max<int64_t>(count, 0);
}

bool ArgReader::Next(ArgPosition* position) {
  if (read_ == count_) return false;
  // Most lie in one piece and have a short length.
  if (const absl::string_view rest = cursor_.rest(); rest.size() > sizeof(uint64_t)) {
    const WordNumber length = ReadShortNumber(LoadWord(rest.data() + 1));
    const uint64_t header = uint64_t{1} + length.bytes;
    if (rest[0] == '$' && length.bytes != 0 && header + length.value + 2 <= rest.size()) {
      *position = {cursor_.offset() + header, length.value};
      cursor_.Skip(header + length.value + 2);
      ++read_;
      return true;
    }
  }
  char type = 0;
  int64_t length = 0;
  if (!cursor_.TakeHeader(&type, &length) || type != '$' || length < 0) {
    count_ = read_;  // not a frame that the scanner has accepted
    return false;
  }
  *position = {cursor_.offset(), static_cast<uint64_t>(length)};
  cursor_.Skip(static_cast<uint64_t>(length) + 2);
  ++read_;
  return true;
}

ElementReader::ElementReader(Pieces pieces) : cursor_(pieces) {
  int64_t n = 0;
  ArgPosition skipped;
  while (!cursor_.at_end()) {
    type_ = cursor_.rest()[0];
    if (type_ != '*' && type_ != '~' && type_ != '>' && type_ != '%' && type_ != '|') return;
    if (!cursor_.TakeHeader(&type_, &n)) return;
    if (type_ != '|') {
      count_ = type_ == '%' ? 2 * n : n;
      return;
    }
    for (int64_t i = 0; i < 2 * n; ++i) {
      if (!TakeFrame(&skipped)) return;
    }
  }
}

bool ElementReader::Next(ArgPosition* position) {
  if (read_ >= count_ || !TakeFrame(position)) return false;
  ++read_;
  return true;
}

bool ElementReader::TakeFrame(ArgPosition* position) {
  ReplyScanner scanner;
  position->offset = cursor_.offset();
  while (!cursor_.at_end()) {
    const ScanResult result = scanner.Scan(cursor_.rest());
    cursor_.Skip(result.consumed);
    if (result.status == ScanStatus::kError) return false;
    if (result.status == ScanStatus::kComplete) {
      position->length = cursor_.offset() - position->offset;
      return true;
    }
  }
  return false;
}

std::vector<absl::string_view> ElementsOf(absl::string_view frame) {
  std::vector<absl::string_view> elements;
  ElementReader reader(Pieces(&frame, 1));
  ArgPosition position;
  while (reader.Next(&position)) elements.push_back(frame.substr(position.offset, position.length));
  return elements;
}

bool ParseInteger(absl::string_view frame, int64_t* value) {
  if (frame.size() < 4 || frame[0] != ':' || !absl::EndsWith(frame, "\r\n")) return false;
  absl::string_view digits = frame.substr(1, frame.size() - 3);
  if (digits[0] == '+') {
    digits.remove_prefix(1);
    if (absl::StartsWith(digits, "-")) return false;
  }
  return ParseDecimal(digits, value);
}

bool ParseText(absl::string_view frame, absl::string_view* text) {
  if (frame.size() < 3 || !absl::EndsWith(frame, "\r\n")) return false;
  absl::string_view body = frame.substr(1, frame.size() - 3);
  if (frame[0] == '+') {
    *text = body;
    return true;
  }
  if (frame[0] != '$' && frame[0] != '=') return false;
  const size_t header_end = body.find('\r');
  int64_t length = 0;
  if (header_end == absl::string_view::npos || !ParseDecimal(body.substr(0, header_end), &length)) {
    return false;
  }
  body.remove_prefix(header_end);
  if (!absl::StartsWith(body, "\r\n")) return false;
  body.remove_prefix(2);
  if (length < 0 || static_cast<uint64_t>(length) != body.size()) return false;
  if (frame[0] == '=') {
    if (body.size() < 4) return false;
    body.remove_prefix(4);
  }
  *text = body;
  return true;
}

absl::string_view ErrorLineOf(absl::string_view frame) {
  // A bulk error has its length before the text.
  if (absl::StartsWith(frame, "!")) frame.remove_prefix(std::min(frame.find('\n'), frame.size()));
  frame.remove_prefix(std::min<size_t>(frame.size(), 1));
  while (absl::EndsWith(frame, "\n") || absl::EndsWith(frame, "\r")) frame.remove_suffix(1);
  return frame;
}

bool ParseDecimal(absl::string_view digits, int64_t* value) {
  HeaderNumber number;
  for (const char c : digits) {
    if (!number.Add(c)) return false;
  }
  return number.Get(value);
}

}  // namespace resp
