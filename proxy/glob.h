#pragma once

// File: proxy/glob.h
//
// The servers' glob patterns (stringmatchlen in their util.c).

#include <cstdint>

#include "absl/strings/string_view.h"

namespace proxy {

enum class GlobCase : uint8_t { kSensitive, kIgnored };

// '*', '?', "[a-z]", "[^a]" and '\' before a byte that stands for itself. A class without its end
// ends with the pattern. At most pattern × text steps.
bool GlobMatches(absl::string_view pattern, absl::string_view text, GlobCase letters);

}  // namespace proxy
