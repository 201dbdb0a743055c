// The other half of command_table.h: where a request's keys are, and whether it blocks.

#include <algorithm>
#include <limits>

#include "absl/strings/match.h"
#include "cluster/command_table.h"
#include "resp/views.h"

namespace cluster {

namespace {

using Args = absl::Span<const absl::string_view>;
using Indexes = std::vector<uint32_t>;

// --- by specification (the servers' documentation, "Command key specifications")

// The argument after the keyword, or where the index says. 0: there is none.
int64_t BeginOf(const KeySpec& spec, Args args) {
  const auto count = static_cast<int64_t>(args.size());
  if (spec.begin == BeginSearch::kIndex) return spec.index;
  if (spec.begin == BeginSearch::kUnknown) return 0;
  // A negative index starts that far from the end and searches towards the front.
  const bool forward = spec.index > 0;
  const int64_t step = forward ? 1 : -1;
  for (int64_t i = forward ? spec.index : count + spec.index; i > 0 && i < count; i += step) {
    if (absl::EqualsIgnoreCase(args[static_cast<size_t>(i)], spec.keyword)) return i + 1;
  }
  return 0;
}

// Appends first, first + step, … up to last. What lies outside the arguments is a syntax error for
// the node to report: it has no keys.
void AppendRange(int64_t first, int64_t last, int64_t step, int64_t count, Indexes* indexes) {
  if (first >= count || last >= count) return;
  for (int64_t i = first; i <= last; i += step) indexes->push_back(static_cast<uint32_t>(i));
}

// What atoi() makes of it: a number after white space, up to what is no digit; 0 if there is none;
// of a great one the lowest 32 bits.
int32_t ReadAsAtoi(absl::string_view text) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  size_t i = 0;
  while (i < text.size() && (text[i] == ' ' || (text[i] >= '\t' && text[i] <= '\r'))) ++i;
  const bool negative = i < text.size() && text[i] == '-';
  if (negative || (i < text.size() && text[i] == '+')) ++i;
  int64_t value = 0;
  bool too_great = false;
  for (; i < text.size() && text[i] >= '0' && text[i] <= '9'; ++i) {
    const int64_t digit = text[i] - '0';
    too_great |= value > (kMost - digit) / 10;
    if (!too_great) value = value * 10 + digit;
  }
  if (too_great) return negative ? 0 : -1;  // of the least and the greatest of 64 bits
  return static_cast<int32_t>(static_cast<uint32_t>(negative ? -value : value));
}

KeySearch AppendKeys(const KeySpec& spec, Args args, Indexes* indexes) {
  const auto count = static_cast<int64_t>(args.size());
  int64_t first = BeginOf(spec, args);
  if (first == 0) return KeySearch::kOk;
  if (spec.find == FindKeys::kRange) {
    int64_t last = first + spec.last_key;
    if (spec.last_key < 0) {
      last = spec.limit > 1 ? first + (count - first) / spec.limit + spec.last_key
                            : count + spec.last_key;
    }
    AppendRange(first, last, spec.key_step, count, indexes);
    return KeySearch::kOk;
  }
  if (spec.find != FindKeys::kKeyNum) return KeySearch::kOk;
  const int64_t at = first + spec.keynum_index;
  if (at >= count) return KeySearch::kInvalid;
  first += spec.first_key;
  const int64_t most = (count - first + spec.key_step - 1) / spec.key_step;
  const absl::string_view text = args[static_cast<size_t>(at)];
  int64_t keys = 0;
  if (!resp::ParseDecimal(text, &keys) || keys < 0 || keys > most) {
    // The servers' second look, which decides where it is refused: " 1" and "1x" are 1 there.
    keys = ReadAsAtoi(text);
    if (keys < 1 || keys > most) return KeySearch::kInvalid;
  }
  AppendRange(first, first + (keys - 1) * spec.key_step, spec.key_step, count, indexes);
  return KeySearch::kOk;
}

// --- by code, where the specifications say "unknown", or where an option's value may look like the
// keyword. Each does what the servers' own search for that command does, since it decides there
// which node serves the request.

// SORT key [BY pattern] [LIMIT offset count] [GET pattern …] … [STORE destination]: the last STORE.
void AppendSortKeys(Args args, Indexes* indexes) {
  indexes->push_back(1);
  uint32_t destination = 0;
  for (size_t i = 2; i < args.size(); ++i) {
    if (absl::EqualsIgnoreCase(args[i], "LIMIT")) {
      i += 2;
    } else if (absl::EqualsIgnoreCase(args[i], "GET") || absl::EqualsIgnoreCase(args[i], "BY")) {
      i += 1;
    } else if (absl::EqualsIgnoreCase(args[i], "STORE") && i + 1 < args.size()) {
      destination = static_cast<uint32_t>(i + 1);
    }
  }
  if (destination != 0) indexes->push_back(destination);
}

// GEORADIUS … [STORE key] [STOREDIST key]: the last of both counts.
void AppendGeoRadiusKeys(Args args, Indexes* indexes) {
  indexes->push_back(1);
  uint32_t destination = 0;
  for (size_t i = 5; i + 1 < args.size(); ++i) {
    if (absl::EqualsIgnoreCase(args[i], "STORE") || absl::EqualsIgnoreCase(args[i], "STOREDIST")) {
      destination = static_cast<uint32_t>(++i);
    }
  }
  if (destination != 0) indexes->push_back(destination);
}

// XREAD and XREADGROUP: [GROUP group consumer] [COUNT n] [BLOCK ms] [NOACK] STREAMS key … id …
struct StreamOptions {
  size_t streams = 0;  // the argument STREAMS; 0: none before the first unknown option
  size_t block = 0;    // the last BLOCK's argument
};

StreamOptions FindStreamOptions(Args args) {
  StreamOptions found;
  for (size_t i = 1; i < args.size(); ++i) {
    if (absl::EqualsIgnoreCase(args[i], "STREAMS")) {
      found.streams = i;
      break;
    }
    if (absl::EqualsIgnoreCase(args[i], "BLOCK")) {
      found.block = ++i;
    } else if (absl::EqualsIgnoreCase(args[i], "COUNT")) {
      i += 1;
    } else if (absl::EqualsIgnoreCase(args[i], "GROUP")) {
      i += 2;
    } else if (!absl::EqualsIgnoreCase(args[i], "NOACK")) {
      break;
    }
  }
  return found;
}

void AppendStreamKeys(Args args, Indexes* indexes) {
  const size_t streams = FindStreamOptions(args).streams;
  if (streams == 0) return;
  const size_t rest = args.size() - streams - 1;
  if (rest % 2 != 0) return;  // "Unbalanced 'xread' list of streams", says the node
  for (size_t i = 1; i <= rest / 2; ++i) indexes->push_back(static_cast<uint32_t>(streams + i));
}

// Commands whose keys are found by code, by the first letter and what tells them apart.
enum class Search : uint8_t { kBySpecs, kSort, kGeoRadius, kStreams };

Search SearchOf(const CommandSpec& command) {
  if ((command.flags & kFlagMovableKeys) == 0) return Search::kBySpecs;
  const absl::string_view name = command.name;
  if (name == "SORT" || name == "SORT_RO") return Search::kSort;
  if (name == "GEORADIUS" || name == "GEORADIUSBYMEMBER") return Search::kGeoRadius;
  if (name == "XREAD" || name == "XREADGROUP") return Search::kStreams;
  return Search::kBySpecs;
}

}  // namespace

KeySearch FindKeyIndexes(const CommandSpec& command, Args args, Indexes* indexes) {
  indexes->clear();
  // Too few arguments for a key at 1: ArityAccepts refuses them first.
  if (args.size() < 2) return KeySearch::kOk;
  switch (SearchOf(command)) {
    case Search::kSort:
      AppendSortKeys(args, indexes);
      return KeySearch::kOk;
    case Search::kGeoRadius:
      AppendGeoRadiusKeys(args, indexes);
      return KeySearch::kOk;
    case Search::kStreams:
      AppendStreamKeys(args, indexes);
      return KeySearch::kOk;
    case Search::kBySpecs:
      break;
  }
  for (const KeySpec& spec : command.key_specs) {
    if (AppendKeys(spec, args, indexes) == KeySearch::kInvalid) {
      indexes->clear();
      return KeySearch::kInvalid;
    }
  }
  return KeySearch::kOk;
}

absl::optional<BlockingTimeout> FindBlockingTimeout(const CommandSpec& command, Args args) {
  if ((command.flags & kFlagBlocking) == 0) return absl::nullopt;
  BlockingTimeout timeout;
  if (SearchOf(command) == Search::kStreams) {
    timeout.arg = static_cast<uint32_t>(FindStreamOptions(args).block);
    timeout.milliseconds = true;
    if (timeout.arg == 0) return absl::nullopt;
    if (timeout.arg >= args.size()) timeout.arg = 0;  // a syntax error, says the node
    return timeout;
  }
  // BLMPOP and BZMPOP begin with it, the others end with it.
  const bool first = command.name == "BLMPOP" || command.name == "BZMPOP";
  timeout.arg = static_cast<uint32_t>(first ? 1 : args.size() - 1);
  return timeout;
}

}  // namespace cluster
