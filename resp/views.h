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

// The bytes at a position: a view into the piece that holds them, or, where they lie in several
// pieces, a copy in *scratch (replaced) that the result points into.
absl::string_view ViewAt(Pieces pieces, ArgPosition position, std::string* scratch);

// Goes over the arguments of a complete request array that RequestScanner has accepted.
class ArgReader {
 public:
  // The pieces live as long as the reader.
  explicit ArgReader(Pieces pieces);
  int64_t count() const { return count_; }
  // The next argument's position; false after the last.
  bool Next(ArgPosition* position);

 private:
  // The implementer may change what is private here.
  int ReadByte();
  int64_t ReadNumberLine();
  void Skip(uint64_t n);

  Pieces pieces_;
  size_t piece_ = 0;
  size_t in_piece_ = 0;
  uint64_t offset_ = 0;
  int64_t count_ = 0;
  int64_t read_ = 0;
};

// The elements of a complete top-level aggregate reply ('*', '~', '>' or '%': then keys and values
// alternate), each with the position of its whole frame (header, body, nested values).
// `count` is -1 for a null array. False if the frame is not an aggregate.
class ElementReader {
 public:
  explicit ElementReader(Pieces pieces);
  char type() const { return type_; }
  int64_t count() const { return count_; }
  bool Next(ArgPosition* position);

 private:
  Pieces pieces_;
  char type_ = 0;
  int64_t count_ = -1;
  int64_t read_ = 0;
  uint64_t offset_ = 0;
  size_t piece_ = 0;
  size_t in_piece_ = 0;
};

// Small values out of complete contiguous frames.
// ":42\r\n" → 42. False if it is not an integer reply.
bool ParseInteger(absl::string_view frame, int64_t* value);
// "+text\r\n", "$4\r\ntext\r\n", "=8\r\ntxt:text\r\n" (→ text): the text. False for null or others.
bool ParseText(absl::string_view frame, absl::string_view* text);
// A whole line of digits with an optional minus, as RESP headers have: strict, no spaces, no plus,
// no overflow.
bool ParseDecimal(absl::string_view digits, int64_t* value);

// An inline command's line (without its line end) → arguments, with the server's rules for quotes
// and escapes (sdssplitargs). False: unbalanced quotes.
bool SplitInline(absl::string_view line, std::vector<std::string>* args);

}  // namespace resp
