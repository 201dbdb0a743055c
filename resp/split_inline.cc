// The quoting of inline commands: a token may have a quoted part, in double quotes with escapes or
// in single quotes with \' only; the closing quote ends the token and must stand before a blank or
// the end of the line.

#include "absl/strings/ascii.h"
#include "resp/views.h"

namespace resp {
namespace {

// Ends a token outside of quotes. Fewer bytes than IsBlank has: the servers skip a vertical tab or
// a form feed before a token, but take it into one.
bool EndsToken(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

bool IsBlank(char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); }

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = absl::ascii_tolower(static_cast<unsigned char>(c));
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

char Unescaped(char c) {
  switch (c) {
    case 'n':
      return '\n';
    case 'r':
      return '\r';
    case 't':
      return '\t';
    case 'b':
      return '\b';
    case 'a':
      return '\a';
    default:
      return c;
  }
}

// Takes a quoted part from `line`, which begins behind the opening quote; false if it does not end.
bool TakeQuoted(char quote, absl::string_view* line, std::string* token) {
  absl::string_view& rest = *line;
  while (!rest.empty()) {
    if (rest[0] == quote) {
      rest.remove_prefix(1);
      return rest.empty() || IsBlank(rest[0]);
    }
    size_t used = 1;
    char c = rest[0];
    if (c == '\\' && rest.size() > 1) {
      if (quote == '\'') {
        if (rest[1] == '\'') {
          c = '\'';
          used = 2;
        }
      } else if (rest.size() > 3 && rest[1] == 'x' && HexDigit(rest[2]) >= 0 &&
                 HexDigit(rest[3]) >= 0) {
        c = static_cast<char>(HexDigit(rest[2]) * 16 + HexDigit(rest[3]));
        used = 4;
      } else {
        c = Unescaped(rest[1]);
        used = 2;
      }
    }
    token->push_back(c);
    rest.remove_prefix(used);
  }
  return false;
}

}  // namespace

bool SplitInline(absl::string_view line, std::vector<std::string>* args) {
  args->clear();
  for (;;) {
    while (!line.empty() && IsBlank(line[0])) line.remove_prefix(1);
    if (line.empty()) return true;
    std::string& token = args->emplace_back();
    while (!line.empty() && !EndsToken(line[0])) {
      const char c = line[0];
      line.remove_prefix(1);
      if (c == '"' || c == '\'') {
        if (!TakeQuoted(c, &line, &token)) return false;
        break;  // behind the closing quote is a blank or the end
      }
      token.push_back(c);
    }
  }
}

}  // namespace resp
