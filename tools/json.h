#pragma once

// File: tools/json.h
//
// What the measuring tools write into JSON (RFC 8259).

#include <string>

#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace tools {

// What bytes beyond ASCII are.
enum class HighBytes {
  kUtf8,     // stay as they are
  kUnknown,  // each becomes the code point of its number
};

// `text` as a JSON string, with its quotes.
inline std::string JsonString(absl::string_view text, HighBytes high_bytes) {
  const unsigned char last = high_bytes == HighBytes::kUtf8 ? 0xff : 0x7e;
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (byte < 0x20 || byte > last) {
      absl::StrAppendFormat(&quoted, "\\u%04x", byte);
    } else {
      quoted += c;
    }
  }
  return quoted += '"';
}

}  // namespace tools
