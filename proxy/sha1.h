#pragma once

// File: proxy/sha1.h
//
// SHA-1 (FIPS 180-4), by which the servers name scripts. Not for secrets.

#include <string>

#include "absl/strings/string_view.h"

namespace proxy {

// 40 hexadecimal digits, lower case.
std::string Sha1Hex(absl::string_view text);

}  // namespace proxy
