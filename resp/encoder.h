#pragma once

// File: resp/encoder.h
//
// Writes RESP into a string that the caller reuses.

#include <cstdint>
#include <initializer_list>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace resp {

enum class Protocol : uint8_t { kResp2 = 2, kResp3 = 3 };

// Appends to *out. Types that RESP2 lacks are written as RESP2 servers do: map → array of twice the
// length, set → array, null → "$-1", bool → integer, double → bulk, verbatim → bulk.
class Encoder {
 public:
  Encoder(Protocol protocol, std::string* out) : protocol_(protocol), out_(out) {}

  void Simple(absl::string_view text);
  // "-text\r\n". The text has its prefix ("ERR …"); CR and LF in it become spaces.
  void Error(absl::string_view text);
  void Integer(int64_t value);
  void Bulk(absl::string_view bytes);
  void Null();
  void NullArray();
  void Bool(bool value);
  void Double(double value);
  void Verbatim(absl::string_view format, absl::string_view text);
  // Headers; the caller writes the elements.
  void Array(int64_t count);
  void Map(int64_t pairs);
  void Set(int64_t count);
  void Push(int64_t count);

  Protocol protocol() const { return protocol_; }

 private:
  void Header(char type, int64_t n);
  const Protocol protocol_;
  std::string* const out_;
};

// A request: "*n\r\n$len\r\narg\r\n…", appended to *out.
void AppendCommand(absl::Span<const absl::string_view> args, std::string* out);
void AppendCommand(std::initializer_list<absl::string_view> args, std::string* out);
// Writes "<type><n>\r\n" (at most 24 bytes) to `out`; returns its length.
size_t WriteHeader(char type, int64_t n, char* out);

}  // namespace resp
