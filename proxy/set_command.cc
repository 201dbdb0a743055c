#include "proxy/set_command.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "resp/views.h"

namespace proxy {
namespace {

using Result = SetCommand::Result;

constexpr SetCommand kSetCommands[] = {
    {"SUNION", SetOperation::kUnion, false, Result::kMembers},
    {"SINTER", SetOperation::kInter, false, Result::kMembers},
    {"SDIFF", SetOperation::kDiff, false, Result::kMembers},
    {"SINTERCARD", SetOperation::kInter, false, Result::kCount},
    {"SUNIONSTORE", SetOperation::kUnion, false, Result::kStore},
    {"SINTERSTORE", SetOperation::kInter, false, Result::kStore},
    {"SDIFFSTORE", SetOperation::kDiff, false, Result::kStore},
    {"ZUNION", SetOperation::kUnion, true, Result::kMembers},
    {"ZINTER", SetOperation::kInter, true, Result::kMembers},
    {"ZDIFF", SetOperation::kDiff, true, Result::kMembers},
    {"ZINTERCARD", SetOperation::kInter, true, Result::kCount},
    {"ZUNIONSTORE", SetOperation::kUnion, true, Result::kStore},
    {"ZINTERSTORE", SetOperation::kInter, true, Result::kStore},
    {"ZDIFFSTORE", SetOperation::kDiff, true, Result::kStore},
};

bool ParseAggregate(absl::string_view text, Aggregate* aggregate) {
  if (absl::EqualsIgnoreCase(text, "sum")) {
    *aggregate = Aggregate::kSum;
  } else if (absl::EqualsIgnoreCase(text, "min")) {
    *aggregate = Aggregate::kMin;
  } else if (absl::EqualsIgnoreCase(text, "max")) {
    *aggregate = Aggregate::kMax;
  } else {
    return false;
  }
  return true;
}

bool ParseLimit(absl::string_view text, uint64_t* limit) {
  int64_t value = 0;
  if (!resp::ParseDecimal(text, &value) || value < 0) return false;
  *limit = value == 0 ? std::numeric_limits<uint64_t>::max() : static_cast<uint64_t>(value);
  return true;
}

}  // namespace

const SetCommand* FindSetCommand(const cluster::CommandSpec& command) {
  if (!command.container.empty()) return nullptr;
  const auto it = std::find_if(std::begin(kSetCommands), std::end(kSetCommands),
                               [&](const SetCommand& set) { return set.name == command.name; });
  return it == std::end(kSetCommands) ? nullptr : it;
}

bool ParseSetOptions(const SetCommand& command, absl::Span<const absl::string_view> args,
                     size_t key_count, SetOptions* options) {
  options->weights.assign(key_count, 1);
  const bool weighs = command.sorted && command.operation != SetOperation::kDiff &&
                      command.result != Result::kCount;
  for (size_t i = 0; i < args.size();) {
    const size_t left = args.size() - i;
    const absl::string_view name = args[i++];
    if (weighs && left >= key_count + 1 && absl::EqualsIgnoreCase(name, "weights")) {
      for (double& weight : options->weights) {
        if (!ParseServerDouble(args[i++], &weight)) return false;
      }
    } else if (weighs && left >= 2 && absl::EqualsIgnoreCase(name, "aggregate")) {
      if (!ParseAggregate(args[i++], &options->aggregate)) return false;
    } else if (command.sorted && command.result == Result::kMembers &&
               absl::EqualsIgnoreCase(name, "withscores")) {
      options->with_scores = true;
    } else if (command.result == Result::kCount && left >= 2 &&
               absl::EqualsIgnoreCase(name, "limit")) {
      if (!ParseLimit(args[i++], &options->limit)) return false;
    } else {
      return false;
    }
  }
  return true;
}

bool TakeScore(absl::string_view* bytes, ScoredMember* member) {
  const bool bulk = absl::ConsumePrefix(bytes, "$");
  if (!bulk && !absl::ConsumePrefix(bytes, ",")) return false;
  for (int lines = bulk ? 2 : 1; lines > 0; --lines) {
    const size_t end = bytes->find("\r\n");
    if (end == absl::string_view::npos) return false;
    member->text = bytes->substr(0, end);
    bytes->remove_prefix(end + 2);
  }
  return absl::SimpleAtod(member->text, &member->score);
}

bool ParseMembers(absl::string_view reply, bool scores, std::vector<ScoredMember>* members) {
  const auto take_header = [&reply](char* type, int64_t* n) {
    resp::PieceCursor cursor(resp::Pieces(&reply, 1));
    if (!cursor.TakeHeader(type, n)) return false;
    reply.remove_prefix(static_cast<size_t>(cursor.offset()));
    return true;
  };
  char type = 0;
  int64_t count = 0;
  if (!take_header(&type, &count) || (type != '*' && type != '~') || count < 0) return false;
  // A list of pairs, or a list twice as long.
  const bool pairs = scores && absl::StartsWith(reply, "*");
  if (scores && !pairs) count /= 2;
  members->reserve(static_cast<size_t>(count));
  for (; count > 0; --count) {
    int64_t length = 0;
    if (pairs && (!take_header(&type, &length) || type != '*' || length != 2)) return false;
    if (!take_header(&type, &length) || type != '$' || length < 0) return false;
    const auto size = static_cast<size_t>(length);
    if (reply.size() < size + 2) return false;
    ScoredMember member;
    member.name = reply.substr(0, size);
    reply.remove_prefix(size + 2);
    if (scores && !TakeScore(&reply, &member)) return false;
    members->push_back(member);
  }
  return reply.empty();
}

}  // namespace proxy
