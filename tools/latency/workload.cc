#include "tools/latency/workload.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/numeric/bits.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "resp/encoder.h"
#include "resp/views.h"

namespace latency {
namespace {

constexpr size_t kNumberDigits = 8;
// The period of the values' pattern, a prime: neighbours in memory never look alike.
constexpr uint32_t kPatternPeriod = 61;
// Larger pieces of values are sent from where they lie.
constexpr size_t kLargeBytes = 1024;
constexpr uint32_t kKeysPerRequestMax = 10000;
constexpr uint32_t kSequenceMin = 1 << 16;
constexpr uint32_t kSequenceMax = 1 << 22;
constexpr double kTheta = 0.99;

void AppendNumber(uint32_t key, std::string* out) {
  char digits[kNumberDigits];
  for (size_t i = kNumberDigits; i > 0; --i) {
    digits[i - 1] = static_cast<char>('0' + key % 10);
    key /= 10;
  }
  out->append(digits, kNumberDigits);
}

void AppendHeader(char type, int64_t n, std::string* out) {
  char header[24];
  out->append(header, resp::WriteHeader(type, n, header));
}

void AppendKey(uint32_t key, absl::string_view prefix, std::string* out) {
  AppendHeader('$', static_cast<int64_t>(prefix.size() + kNumberDigits), out);
  out->append(prefix.data(), prefix.size());
  AppendNumber(key, out);
  out->append("\r\n");
}

constexpr absl::string_view kKeyPrefix = "lat:";
constexpr absl::string_view kCounterPrefix = "lat:n:";

absl::string_view NameOf(OpType type) {
  switch (type) {
    case OpType::kGet:
      return "GET";
    case OpType::kSet:
      return "SET";
    case OpType::kMGet:
      return "MGET";
    case OpType::kMSet:
      return "MSET";
    case OpType::kDel:
      return "DEL";
    case OpType::kIncr:
      return "INCR";
    case OpType::kPing:
      return "PING";
  }
  return "";
}

// The command that does to one key what `type` does to several.
OpType SingleOf(OpType type) {
  if (type == OpType::kMGet) return OpType::kGet;
  return type == OpType::kMSet ? OpType::kSet : type;
}

bool IsNull(absl::string_view frame) { return frame == "$-1\r\n" || frame == "_\r\n"; }

absl::StatusOr<Op> ParseOp(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits(':', 1));
  Op op;
  if (absl::StrContains(text, ':') &&
      (!absl::SimpleAtoi(parts.second, &op.weight) || op.weight == 0 || op.weight > 1000000)) {
    return absl::InvalidArgumentError(absl::StrCat("bad weight: ", text));
  }
  const size_t digits = std::min(parts.first.find_first_of("0123456789"), parts.first.size());
  const std::string name = absl::AsciiStrToUpper(parts.first.substr(0, digits));
  const absl::string_view number = parts.first.substr(digits);
  for (const OpType type : {OpType::kGet, OpType::kSet, OpType::kMGet, OpType::kMSet, OpType::kDel,
                            OpType::kIncr, OpType::kPing}) {
    if (name != NameOf(type)) continue;
    op.type = type;
    op.keys = type == OpType::kPing ? 0 : 1;
    const bool many = type == OpType::kMGet || type == OpType::kMSet || type == OpType::kDel;
    if (number.empty() && (!many || type == OpType::kDel)) return op;
    if (many && absl::SimpleAtoi(number, &op.keys) && op.keys > 0 && op.keys <= kKeysPerRequestMax)
      return op;
    return absl::InvalidArgumentError(
        absl::StrCat("bad number of keys: ", text, " (as in mget10, mset10, del, del10)"));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "no such request: ", text, " (there are get, set, mgetN, msetN, del, delN, incr, ping)"));
}

// Ranks 0 … n - 1, rank r with a probability in proportion to 1 / (r + 1)^theta (Gray et al.,
// "Quickly generating billion-record synthetic databases", 1994).
class Zipf {
 public:
  explicit Zipf(uint32_t n) : n_(n) {
    double zeta2 = 0;
    for (uint32_t i = 1; i <= n; ++i) {
      zeta_ += 1 / std::pow(i, kTheta);
      if (i <= 2) zeta2 = zeta_;
    }
    alpha_ = 1 / (1 - kTheta);
    eta_ = n > 2 ? (1 - std::pow(2.0 / n, 1 - kTheta)) / (1 - zeta2 / zeta_) : 0;
  }
  uint32_t Next(Random* random) const {
    const double u = random->Share();
    const double uz = u * zeta_;
    if (uz < 1 || n_ == 1) return 0;
    if (uz < 1 + std::pow(0.5, kTheta) || n_ == 2) return 1;
    const double rank = n_ * std::pow(eta_ * u - eta_ + 1, alpha_);
    return std::min(n_ - 1, static_cast<uint32_t>(rank));
  }

 private:
  const uint32_t n_;
  double zeta_ = 0;
  double alpha_ = 0;
  double eta_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<Op>> ParseMix(absl::string_view text) {
  std::vector<Op> mix;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    absl::StatusOr<Op> op = ParseOp(part);
    if (!op.ok()) return op.status();
    mix.push_back(*op);
  }
  return mix;
}

absl::StatusOr<std::vector<KeySequence>> MakeSequences(
    const WorkloadOptions& options, int parts, const std::function<int(uint32_t)>& part_of) {
  std::vector<int> part_of_key(options.keys);
  std::vector<uint32_t> keys_of_part(static_cast<size_t>(parts));
  for (uint32_t key = 0; key < options.keys; ++key) {
    part_of_key[key] = part_of(key);
    if (part_of_key[key] >= 0) ++keys_of_part[static_cast<size_t>(part_of_key[key])];
  }
  for (const uint32_t count : keys_of_part) {
    if (count == 0) return absl::InvalidArgumentError("too few --keys: a node has none of them");
  }
  const uint32_t count = absl::bit_ceil(std::clamp(options.keys, kSequenceMin, kSequenceMax));
  std::vector<std::vector<uint32_t>> sequences(static_cast<size_t>(parts));
  Random random(1);
  const Zipf zipf(options.distribution == Distribution::kZipf ? options.keys : 1);
  size_t full = 0;
  while (full < sequences.size()) {
    uint32_t key = 0;
    switch (options.distribution) {
      case Distribution::kUniform:
        key = random.Below(options.keys);
        break;
      case Distribution::kZipf:
        // A prime larger than any number of keys: popular keys are far apart.
        key = static_cast<uint32_t>(uint64_t{zipf.Next(&random)} * 2654435761 % options.keys);
        break;
      case Distribution::kHot:
        key = random.Below(2) == 0 ? 0 : random.Below(options.keys);
        break;
    }
    const int part = part_of_key[key];
    if (part < 0) continue;
    std::vector<uint32_t>& sequence = sequences[static_cast<size_t>(part)];
    if (sequence.size() == count) continue;
    sequence.push_back(key);
    if (sequence.size() == count) ++full;
  }
  std::vector<KeySequence> result;
  result.reserve(sequences.size());
  for (std::vector<uint32_t>& sequence : sequences) result.emplace_back(std::move(sequence));
  return result;
}

std::string KeyName(uint32_t key) {
  std::string name(kKeyPrefix);
  AppendNumber(key, &name);
  return name;
}

Workload::Workload(WorkloadOptions options) : options_(std::move(options)) {
  misses_allowed_ = !options_.prefill;
  for (const Op& op : options_.mix) {
    weights_ += op.weight;
    if (op.type == OpType::kDel) misses_allowed_ = true;
  }
  pattern_.resize(options_.value_bytes_max + kPatternPeriod);
  for (size_t i = 0; i < pattern_.size(); ++i) {
    pattern_[i] = static_cast<char>('A' + i % kPatternPeriod);
  }
}

size_t Workload::ChooseOp(Random* random) const {
  if (options_.mix.size() == 1) return 0;
  uint32_t dice = random->Below(weights_);
  size_t i = 0;
  while (dice >= options_.mix[i].weight) dice -= options_.mix[i++].weight;
  return i;
}

uint32_t Workload::Write(const Op& op, const KeySequence& keys, uint32_t position, bool apart,
                         Random* random, Sink* sink) const {
  const uint32_t commands = apart && op.keys > 1 ? op.keys : 1;
  const uint32_t keys_each = op.keys / commands;
  const OpType type = apart ? SingleOf(op.type) : op.type;
  const bool values = type == OpType::kSet || type == OpType::kMSet;
  const absl::string_view name = NameOf(type);
  for (uint32_t i = 0; i < commands; ++i) {
    std::string* const text = sink->text();
    AppendHeader('*', 1 + int64_t{keys_each} * (values ? 2 : 1), text);
    AppendHeader('$', static_cast<int64_t>(name.size()), text);
    text->append(name.data(), name.size());
    text->append("\r\n");
    for (uint32_t k = 0; k < keys_each; ++k) {
      const uint32_t key = keys.at(position + i + k);
      AppendKey(key, type == OpType::kIncr ? kCounterPrefix : kKeyPrefix, sink->text());
      if (values) AppendValue(key, random, sink);
    }
  }
  return commands;
}

void Workload::WriteFill(uint32_t key, Random* random, Sink* sink) const {
  sink->text()->append("*3\r\n$3\r\nSET\r\n");
  AppendKey(key, kKeyPrefix, sink->text());
  AppendValue(key, random, sink);
}

void Workload::AppendValue(uint32_t key, Random* random, Sink* sink) const {
  const uint32_t range = options_.value_bytes_max - options_.value_bytes_min + 1;
  const uint32_t bytes = options_.value_bytes_min + (range > 1 ? random->Below(range) : 0);
  AppendHeader('$', bytes, sink->text());
  AppendNumber(key, sink->text());
  const absl::string_view filler = Filler(key, bytes - kNumberDigits);
  if (filler.size() < kLargeBytes) {
    sink->text()->append(filler.data(), filler.size());
  } else {
    sink->AddLarge(io::Slice::Static(filler));  // the workload outlives the connections
  }
  sink->text()->append("\r\n");
}

absl::string_view Workload::Filler(uint32_t key, size_t bytes) const {
  return absl::string_view(pattern_).substr(key % kPatternPeriod, bytes);
}

bool Workload::JudgeValue(uint32_t key, absl::string_view value) const {
  if (value.size() < options_.value_bytes_min || value.size() > options_.value_bytes_max) {
    return false;
  }
  for (size_t i = kNumberDigits; i > 0; --i, key /= 10) {
    if (value[i - 1] != static_cast<char>('0' + key % 10)) return false;
  }
  return true;
}

Verdict Workload::Judge(const Op& op, const KeySequence& keys, uint32_t position, bool apart,
                        uint32_t i, absl::string_view frame, Tally* tally, std::string* why) const {
  if (frame[0] == '-' || frame[0] == '!') return Verdict::kError;
  const OpType type = apart ? SingleOf(op.type) : op.type;
  const auto wrong = [&](absl::string_view what) {
    *why = absl::StrCat(NameOf(type), " ", KeyName(keys.at(position + i)), ": ", what, ": ",
                        absl::CHexEscape(frame.substr(0, 60)), frame.size() > 60 ? "…" : "");
    return Verdict::kWrong;
  };
  int64_t number = 0;
  switch (type) {
    case OpType::kPing:
      return frame == "+PONG\r\n" ? Verdict::kRight : wrong("not a PONG");
    case OpType::kSet:
    case OpType::kMSet:
      return frame == "+OK\r\n" ? Verdict::kRight : wrong("not an OK");
    case OpType::kIncr:
      return frame[0] == ':' && resp::ParseInteger(frame, &number) && number > 0
                 ? Verdict::kRight
                 : wrong("not a counter's value");
    case OpType::kDel:
      return frame[0] == ':' && resp::ParseInteger(frame, &number) && number >= 0 &&
                     number <= (apart ? 1 : op.keys)
                 ? Verdict::kRight
                 : wrong("not a number of keys");
    case OpType::kGet:
    case OpType::kMGet:
      break;
  }
  // The frame is complete RESP: lengths are right, the ends are there.
  const resp::Pieces pieces(&frame, 1);
  resp::PieceCursor cursor(pieces);
  char kind = 0;
  uint32_t elements = 1;
  if (type == OpType::kMGet) {
    if (!cursor.TakeHeader(&kind, &number) || kind != '*') return wrong("not an array");
    if (number != op.keys) return wrong("another number of elements");
    elements = op.keys;
  }
  for (uint32_t k = 0; k < elements; ++k) {
    const absl::string_view rest = cursor.rest();
    const absl::string_view line = rest.substr(0, rest.find('\n') + 1);
    if (IsNull(line)) {
      ++tally->misses;
      if (!misses_allowed_) return wrong("no value");
      cursor.Skip(line.size());
      continue;
    }
    if (!cursor.TakeHeader(&kind, &number) || kind != '$' || number < 0) {
      return wrong("not a bulk string");
    }
    const uint32_t key = keys.at(position + i + k);
    const absl::string_view value = cursor.rest().substr(0, static_cast<size_t>(number));
    if (!JudgeValue(key, value) ||
        value.substr(kNumberDigits) != Filler(key, value.size() - kNumberDigits)) {
      return wrong(absl::StrCat("not a value of ", KeyName(key)));
    }
    ++tally->hits;
    cursor.Skip(static_cast<uint64_t>(number) + 2);
  }
  return Verdict::kRight;
}

std::string KindOfError(absl::string_view frame) {
  std::string kind;
  if (frame[0] == '!') frame.remove_prefix(std::min(frame.find('\n'), frame.size() - 1));
  for (const char c : absl::StripAsciiWhitespace(frame.substr(1, 200))) {
    if (!absl::ascii_isdigit(c)) {
      kind += c;
    } else if (kind.empty() || kind.back() != '#') {
      kind += '#';
    }
  }
  return kind;
}

}  // namespace latency
