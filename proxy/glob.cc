#include "proxy/glob.h"

#include <utility>

#include "absl/strings/ascii.h"

namespace proxy {
namespace {

unsigned char Fold(char c, GlobCase letters) {
  const auto byte = static_cast<unsigned char>(c);
  return letters == GlobCase::kIgnored ? absl::ascii_tolower(byte) : byte;
}

// Whether the class that begins behind '[' takes the byte; moves *at behind the class.
bool ClassMatches(absl::string_view pattern, size_t* at, char c, GlobCase letters) {
  size_t i = *at;
  const bool inverted = i < pattern.size() && pattern[i] == '^';
  if (inverted) ++i;
  const unsigned char byte = Fold(c, letters);
  bool matches = false;
  for (; i < pattern.size() && pattern[i] != ']'; ++i) {
    if (pattern[i] == '\\' && i + 1 < pattern.size()) {
      ++i;
      matches |= Fold(pattern[i], letters) == byte;
    } else if (i + 2 < pattern.size() && pattern[i + 1] == '-') {
      unsigned char first = Fold(pattern[i], letters);
      unsigned char last = Fold(pattern[i + 2], letters);
      if (first > last) std::swap(first, last);
      matches |= first <= byte && byte <= last;
      i += 2;
    } else {
      matches |= Fold(pattern[i], letters) == byte;
    }
  }
  *at = i < pattern.size() ? i + 1 : i;
  return matches != inverted;
}

// Whether what stands at *at, which is no '*', takes the byte; moves *at behind it.
bool OneMatches(absl::string_view pattern, size_t* at, char c, GlobCase letters) {
  const char special = pattern[(*at)++];
  if (special == '?') return true;
  if (special == '[') return ClassMatches(pattern, at, c, letters);
  if (special == '\\' && *at < pattern.size()) {
    return Fold(pattern[(*at)++], letters) == Fold(c, letters);
  }
  return Fold(special, letters) == Fold(c, letters);
}

}  // namespace

bool GlobMatches(absl::string_view pattern, absl::string_view text, GlobCase letters) {
  constexpr size_t kNone = absl::string_view::npos;
  size_t at = 0;
  size_t behind_star = kNone;  // the last '*' has taken text up to `resume`
  size_t resume = 0;
  for (size_t i = 0; i < text.size();) {
    if (at < pattern.size() && pattern[at] == '*') {
      behind_star = ++at;
      resume = i;
      continue;
    }
    if (at < pattern.size() && OneMatches(pattern, &at, text[i], letters)) {
      ++i;
      continue;
    }
    if (behind_star == kNone) return false;
    at = behind_star;
    i = ++resume;
  }
  while (at < pattern.size() && pattern[at] == '*') ++at;
  return at == pattern.size();
}

}  // namespace proxy
