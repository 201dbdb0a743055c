#include "proxy/set_algebra.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace proxy {
namespace {

double NotNan(double value) { return std::isnan(value) ? 0 : value; }

// The shortest digits that read back as `value`, which is finite and not 0, laid out as the servers
// do: whole numbers and small fractions plain, others with an exponent.
std::string ShortestText(double value) {
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), std::fabs(value),
                                 std::chars_format::scientific);
  const absl::string_view text(buffer, static_cast<size_t>(end.ptr - buffer));
  const size_t e = text.find('e');
  int exponent = 0;  // of the first digit
  // "+05" and "-07": absl takes both signs.
  const bool parsed = absl::SimpleAtoi(text.substr(e + 1), &exponent);
  if (!parsed) return std::string(text);
  std::string digits;
  for (const char c : text.substr(0, e)) {
    if (c != '.') digits.push_back(c);
  }
  const int count = static_cast<int>(digits.size());
  const int last = exponent - (count - 1);  // of the last digit
  const int size = std::abs(exponent);
  const absl::string_view sign = value < 0 ? "-" : "";
  if (last >= 0 && size < count + 7) {
    return absl::StrCat(sign, digits, std::string(static_cast<size_t>(last), '0'));
  }
  if (last < 0 && (last > -7 || size < 4)) {
    const int whole = count + last;  // digits before the point
    if (whole <= 0) {
      return absl::StrCat(sign, "0.", std::string(static_cast<size_t>(-whole), '0'), digits);
    }
    return absl::StrCat(sign, digits.substr(0, static_cast<size_t>(whole)), ".",
                        digits.substr(static_cast<size_t>(whole)));
  }
  std::string result = absl::StrCat(sign, digits.substr(0, 1));
  if (count > 1) absl::StrAppend(&result, ".", digits.substr(1));
  return absl::StrCat(result, "e", exponent < 0 ? "-" : "+", size);
}

}  // namespace

std::vector<uint32_t> OrderOfOperands(SetOperation operation, absl::Span<const uint64_t> sizes) {
  std::vector<uint32_t> order(sizes.size());
  std::iota(order.begin(), order.end(), 0);
  if (operation == SetOperation::kDiff) return order;
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return sizes[a] < sizes[b]; });
  return order;
}

void SetCombination::Add(absl::Span<const ScoredMember> operand, double weight) {
  const bool first = !std::exchange(began_, true);
  // The first one is what there is, however it goes on.
  if (first || operation_ == SetOperation::kUnion) return Unite(operand, weight);
  if (operation_ == SetOperation::kInter) return Intersect(operand, weight);
  Subtract(operand);
}

void SetCombination::Unite(absl::Span<const ScoredMember> operand, double weight) {
  index_.reserve(std::max(index_.size(), operand.size()));
  for (const ScoredMember& member : operand) {
    const double value = NotNan(weight * member.score);
    const absl::string_view text = weight == 1 ? member.text : absl::string_view();
    const auto [place, is_new] =
        index_.try_emplace(member.name, static_cast<uint32_t>(members_.size()));
    if (!is_new) {
      Fold(value, text, &members_[place->second]);
      continue;
    }
    members_.push_back({member.name, value, text, false, true});
    ++alive_;
  }
}

void SetCombination::Intersect(absl::Span<const ScoredMember> operand, double weight) {
  for (const ScoredMember& other : operand) {
    const auto place = index_.find(other.name);
    if (place == index_.end()) continue;
    Member& member = members_[place->second];
    member.found = true;
    Fold(weight * other.score, absl::string_view(), &member);
  }
  for (Member& member : members_) {
    if (!member.alive || std::exchange(member.found, false)) continue;
    member.alive = false;
    --alive_;
  }
}

void SetCombination::Subtract(absl::Span<const ScoredMember> operand) {
  for (const ScoredMember& other : operand) {
    const auto place = index_.find(other.name);
    if (place == index_.end() || !members_[place->second].alive) continue;
    members_[place->second].alive = false;
    --alive_;
  }
}

void SetCombination::Fold(double value, absl::string_view text, Member* member) const {
  switch (aggregate_) {
    case Aggregate::kSum:
      member->score = NotNan(member->score + value);  // inf and -inf
      member->text = {};
      return;
    case Aggregate::kMin:
      if (!(value < member->score)) return;
      break;
    case Aggregate::kMax:
      if (!(value > member->score)) return;
      break;
  }
  member->score = value;
  member->text = text;
}

std::vector<absl::string_view> SetCombination::Names() const {
  std::vector<absl::string_view> names;
  names.reserve(alive_);
  for (const Member& member : members_) {
    if (member.alive) names.push_back(member.name);
  }
  return names;
}

std::vector<ScoredMember> SetCombination::Take() {
  std::vector<ScoredMember> result;
  result.reserve(alive_);
  for (const Member& member : members_) {
    if (member.alive) result.push_back({member.name, member.score, member.text});
  }
  members_.clear();
  index_.clear();
  return result;
}

std::vector<ScoredMember> SetCombination::TakeSorted() {
  std::vector<ScoredMember> result = Take();
  std::sort(result.begin(), result.end(), [](const ScoredMember& a, const ScoredMember& b) {
    return a.score != b.score ? a.score < b.score : a.name < b.name;
  });
  return result;
}

std::string ScoreText(double score, bool before_redis_7_2) {
  if (std::isnan(score)) return "nan";
  if (std::isinf(score)) return score > 0 ? "inf" : "-inf";
  if (before_redis_7_2) {
    char buffer[40];
    return std::string(buffer,
                       static_cast<size_t>(snprintf(buffer, sizeof(buffer), "%.17g", score)));
  }
  if (score == 0) return std::signbit(score) ? "-0" : "0";
  // A whole number is written with all its digits.
  constexpr double kWholeMax = 4611686018427387904.0;  // 2^62
  if (std::fabs(score) <= kWholeMax && score == std::trunc(score)) {
    return absl::StrCat(static_cast<int64_t>(score));
  }
  return ShortestText(score);
}

bool ParseServerDouble(absl::string_view text, double* value) {
  if (text.empty() || std::isspace(static_cast<unsigned char>(text[0])) != 0) return false;
  const std::string copy(text);
  char* end = nullptr;
  errno = 0;
  *value = std::strtod(copy.c_str(), &end);
  if (end != copy.c_str() + copy.size() || std::isnan(*value)) return false;
  return errno != ERANGE || (!std::isinf(*value) && *value != 0);
}

}  // namespace proxy
