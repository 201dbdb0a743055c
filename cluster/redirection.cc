#include "cluster/redirection.h"

#include <cstddef>

#include "resp/views.h"

namespace cluster {

namespace {

constexpr size_t kHostBytesMax = 255;  // the longest name of RFC 1035

// Takes `word` and one space, or the word that is all of the line.
bool TakeWord(absl::string_view word, absl::string_view* line) {
  if (line->substr(0, word.size()) != word) return false;
  if (line->size() == word.size()) {
    line->remove_prefix(word.size());
    return true;
  }
  if ((*line)[word.size()] != ' ') return false;
  line->remove_prefix(word.size() + 1);
  return true;
}

bool ParseNumber(absl::string_view digits, int64_t least, int64_t most, int64_t* value) {
  return resp::ParseDecimal(digits, value) && *value >= least && *value <= most;
}

bool IsHostText(absl::string_view host) {
  for (const char c : host) {
    if (c <= ' ' || c > '~') return false;  // also bytes from 0x80
  }
  return host.size() <= kHostBytesMax;
}

// "<slot> <host>:<port>". The port stands behind the last colon, so that IPv6 needs no brackets.
bool ParseTarget(absl::string_view text, ErrorReply* reply) {
  const size_t space = text.find(' ');
  if (space == absl::string_view::npos) return false;
  int64_t slot = 0;
  if (!ParseNumber(text.substr(0, space), 0, kSlotCount - 1, &slot)) return false;
  const absl::string_view endpoint = text.substr(space + 1);
  const size_t colon = endpoint.rfind(':');
  if (colon == absl::string_view::npos) return false;
  int64_t port = 0;
  if (!ParseNumber(endpoint.substr(colon + 1), 1, 65535, &port)) return false;
  absl::string_view host = endpoint.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  if (!IsHostText(host)) return false;
  reply->slot = static_cast<Slot>(slot);
  reply->host = host;
  reply->port = static_cast<uint16_t>(port);
  return true;
}

ErrorReply Redirection(ErrorKind kind, absl::string_view target) {
  ErrorReply reply;
  reply.kind = ParseTarget(target, &reply) ? kind : ErrorKind::kMalformed;
  return reply;
}

}  // namespace

ErrorReply ParseErrorReply(absl::string_view line) {
  ErrorReply reply;
  if (line.empty()) return reply;
  // By the first letter, since most errors are of none of these kinds.
  switch (line.front()) {
    case 'M':
      if (TakeWord("MOVED", &line)) return Redirection(ErrorKind::kMoved, line);
      if (TakeWord("MASTERDOWN", &line)) reply.kind = ErrorKind::kMasterDown;
      break;
    case 'A':
      if (TakeWord("ASK", &line)) return Redirection(ErrorKind::kAsk, line);
      break;
    case 'T':
      // Only the servers' exact text: a script writes errors of its own (faults.md, finding 2).
      if (line == kTryAgainError) reply.kind = ErrorKind::kTryAgain;
      break;
    case 'C':
      if (TakeWord("CLUSTERDOWN", &line)) reply.kind = ErrorKind::kClusterDown;
      break;
    case 'L':
      if (TakeWord("LOADING", &line)) reply.kind = ErrorKind::kLoading;
      break;
    case 'R':
      if (TakeWord("READONLY", &line)) reply.kind = ErrorKind::kReadOnly;
      break;
    default:
      break;
  }
  return reply;
}

}  // namespace cluster
