#pragma once

// File: resp/views.h
//
// Reads what complete frames say. A frame may lie in several pieces of memory (`Pieces`, in order);
// positions are byte offsets from its start.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "resp/scanner.h"

namespace resp {

using Pieces = absl::Span<const absl::string_view>;

namespace internal {
absl::string_view ViewBehindFirst(Pieces pieces, ArgPosition position, std::string* scratch);
}  // namespace internal

// The bytes at a position: a view into the piece that holds them, or, where they lie in several
// pieces, a copy in *scratch (replaced) that the result points into.
inline absl::string_view ViewAt(Pieces pieces, ArgPosition position, std::string* scratch) {
  if (!pieces.empty() && position.offset + position.length <= pieces[0].size()) {
    return absl::string_view(pieces[0].data() + position.offset, position.length);
  }
  return internal::ViewBehindFirst(pieces, position, scratch);
}

// A place in a frame's pieces that only moves on.
class PieceCursor {
 public:
  explicit PieceCursor(Pieces pieces) : pieces_(pieces) { SkipEmpty(); }
  // Bytes from the start of the frame.
  uint64_t offset() const { return offset_; }
  bool at_end() const { return piece_ == pieces_.size(); }
  // The rest of the current piece; empty only at the end.
  absl::string_view rest() const {
    return at_end() ? absl::string_view() : pieces_[piece_].substr(in_piece_);
  }
  // Moves on; stops at the end.
  void Skip(uint64_t n);
  // Takes a header line "<type><n>\r\n"; false if there is none here.
  bool TakeHeader(char* type, int64_t* n);

 private:
  void SkipEmpty() {
    while (piece_ < pieces_.size() && in_piece_ == pieces_[piece_].size()) {
      ++piece_;
      in_piece_ = 0;
    }
  }

  Pieces pieces_;
  size_t piece_ = 0;
  size_t in_piece_ = 0;
  uint64_t offset_ = 0;
};

// Goes over the arguments of a complete request array that RequestScanner has accepted.
class ArgReader {
 public:
  // The pieces live as long as the reader.
  explicit ArgReader(Pieces pieces);
  // 0 for "*0", "*-1" and what is no array.
  int64_t count() const { return count_; }
  // The next argument's position; false after the last.
  bool Next(ArgPosition* position);

 private:
  PieceCursor cursor_;
  int64_t count_ = 0;
  int64_t read_ = 0;
};

// The elements of a complete top-level aggregate reply ('*', '~', '>' or '%': then keys and values
// alternate), each with the position of its whole frame (header, body, nested values). Attributes
// before the aggregate are skipped; one before an element is part of that element's frame.
class ElementReader {
 public:
  // The pieces live as long as the reader.
  explicit ElementReader(Pieces pieces);
  // The first byte of the reply's value, also if that is no aggregate.
  char type() const { return type_; }
  // How many elements Next gives (two for each pair of a map). -1 for a null array and for a reply
  // that is no aggregate.
  int64_t count() const { return count_; }
  // The next element's position; false after the last.
  bool Next(ArgPosition* position);

 private:
  bool TakeFrame(ArgPosition* position);

  PieceCursor cursor_;
  char type_ = 0;
  int64_t count_ = -1;
  int64_t read_ = 0;
};

// The elements' frames of a complete contiguous aggregate reply, in order: views into it. None for
// what is no aggregate.
std::vector<absl::string_view> ElementsOf(absl::string_view frame);

// "-ERR text\r\n" or "!8\r\nERR text\r\n".
inline bool IsErrorFrame(absl::string_view frame) {
  return !frame.empty() && (frame[0] == '-' || frame[0] == '!');
}
// The null of a bulk string, or of an array; in RESP3 they are one.
inline bool IsNullBulk(absl::string_view frame) { return frame == "$-1\r\n" || frame == "_\r\n"; }
inline bool IsNullArray(absl::string_view frame) { return frame == "*-1\r\n" || frame == "_\r\n"; }
inline bool IsNull(absl::string_view frame) { return IsNullBulk(frame) || IsNullArray(frame); }
// The text of an error frame: a view into it.
absl::string_view ErrorLineOf(absl::string_view frame);

// Small values out of complete contiguous frames.
// ":42\r\n" → 42. False if it is not an integer reply. A plus may stand before the digits.
bool ParseInteger(absl::string_view frame, int64_t* value);
// "+text\r\n", "$4\r\ntext\r\n", "=8\r\ntxt:text\r\n" (→ text): the text. False for null or others.
bool ParseText(absl::string_view frame, absl::string_view* text);
// A whole line of digits with an optional minus, as RESP headers have: strict, no spaces, no plus,
// no leading zeros, no overflow.
bool ParseDecimal(absl::string_view digits, int64_t* value);

// An inline command's line (without its line end) → arguments, with the server's rules for quotes
// and escapes (sdssplitargs). *args is replaced. False: unbalanced quotes.
bool SplitInline(absl::string_view line, std::vector<std::string>* args);

}  // namespace resp
