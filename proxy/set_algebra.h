#pragma once

// File: proxy/set_algebra.h
//
// Union, intersection and difference of sets and sorted sets as the servers compute them, with the
// same floating point operations in the same order; and how they write scores. Pure: values in,
// values out.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace proxy {

enum class SetOperation : uint8_t { kUnion, kInter, kDiff };
enum class Aggregate : uint8_t { kSum, kMin, kMax };

// A member of a set has the score 1.
struct ScoredMember {
  absl::string_view name;
  double score = 1;
  absl::string_view text = {};  // the score as a server wrote it; empty: nobody has
};

// In which order the operands, of so many members each, are combined: the servers take the small
// ones first, but for a difference. Sums of scores depend on it.
std::vector<uint32_t> OrderOfOperands(SetOperation operation, absl::Span<const uint64_t> sizes);

// What is combined so far of operands that come one after the other.
class SetCombination {
 public:
  // What a member costs besides its name.
  static constexpr size_t kMemberBytes = 112;

  SetCombination(SetOperation operation, Aggregate aggregate)
      : operation_(operation), aggregate_(aggregate) {}

  // The next operand, each name at most once. Of the first one, and of each in a union, the names
  // and texts live as long as this.
  void Add(absl::Span<const ScoredMember> operand, double weight);

  uint64_t size() const { return alive_; }
  std::vector<absl::string_view> Names() const;
  // Whatever comes, it stays empty.
  bool stays_empty() const { return began_ && alive_ == 0 && operation_ != SetOperation::kUnion; }
  // The members, in the order in which they came.
  std::vector<ScoredMember> Take();
  // By score, then by the names' bytes: a sorted set's order.
  std::vector<ScoredMember> TakeSorted();

 private:
  struct Member {
    absl::string_view name;
    double score;
    absl::string_view text;
    bool found;  // by the operand that is being added
    bool alive;
  };
  void Unite(absl::Span<const ScoredMember> operand, double weight);
  void Intersect(absl::Span<const ScoredMember> operand, double weight);
  void Subtract(absl::Span<const ScoredMember> operand);
  // `text`: of the value, if it is known and lives long enough.
  void Fold(double value, absl::string_view text, Member* member) const;

  const SetOperation operation_;
  const Aggregate aggregate_;
  bool began_ = false;
  std::vector<Member> members_;
  absl::flat_hash_map<absl::string_view, uint32_t> index_;  // of `members_`, by name
  uint64_t alive_ = 0;
};

// A score as the servers write it: with 17 digits before redis 7.2, with the shortest ones since.
std::string ScoreText(double score, bool before_redis_7_2);

// What the servers take for a number with a fraction (a weight).
bool ParseServerDouble(absl::string_view text, double* value);

}  // namespace proxy
