#include "cluster/split.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "resp/views.h"

namespace cluster {
namespace {

// Up to so many keys, a search over the fragments costs less than the table of slots.
constexpr size_t kSearchedKeysMax = 16;
constexpr uint16_t kNoFragment = 0xffff;

uint32_t AddFragment(Slot slot, SplitPlan* plan) {
  plan->fragments.emplace_back().slot = slot;
  return static_cast<uint32_t>(plan->fragments.size() - 1);
}

}  // namespace

uint32_t SplitPlanner::Search(Slot slot, SplitPlan* plan) {
  for (size_t i = 0; i < plan->fragments.size(); ++i) {
    if (plan->fragments[i].slot == slot) return static_cast<uint32_t>(i);
  }
  return AddFragment(slot, plan);
}

uint32_t SplitPlanner::LookUp(Slot slot, SplitPlan* plan) {
  uint16_t& entry = fragment_of_slot_[slot];
  if (entry == kNoFragment) entry = static_cast<uint16_t>(AddFragment(slot, plan));
  return entry;
}

void SplitPlanner::Plan(absl::Span<const Slot> slots, SplitPlan* plan) {
  plan->Clear();
  plan->fragment_of_key.reserve(slots.size());
  const bool search = slots.size() <= kSearchedKeysMax;
  if (!search) fragment_of_slot_.resize(kSlotCount, kNoFragment);
  for (const Slot slot : slots) {
    const uint32_t fragment = search ? Search(slot, plan) : LookUp(slot, plan);
    ++plan->fragments[fragment].key_count;
    plan->fragment_of_key.push_back(fragment);
  }
  uint32_t first = 0;
  for (SplitFragment& fragment : plan->fragments) {
    if (!search) fragment_of_slot_[fragment.slot] = kNoFragment;
    fragment.first_key = first;
    first += std::exchange(fragment.key_count, 0);
  }
  plan->keys.resize(slots.size());
  for (uint32_t key = 0; key < slots.size(); ++key) {
    SplitFragment& fragment = plan->fragments[plan->fragment_of_key[key]];
    plan->keys[fragment.first_key + fragment.key_count++] = key;
  }
}

void MergedStatus::Add(absl::string_view reply, bool may_have_run) {
  any_may_have_run_ |= may_have_run;
  if (!first_error_.empty()) return;
  if (absl::StartsWith(reply, "-")) {
    absl::string_view line = absl::StripSuffix(reply.substr(1), "\r\n");
    first_error_ = line.empty() ? "ERR" : std::string(line);
    return;
  }
  if (!HasForm(reply)) first_error_ = "ERR proxy: backend protocol error (outcome unknown)";
}

bool MergedStatus::HasForm(absl::string_view reply) {
  switch (merge_) {
    case Merge::kAllSucceeded:
      return reply == "+OK\r\n";
    case Merge::kSum: {
      int64_t value = 0;
      return resp::ParseInteger(reply, &value) && !__builtin_add_overflow(sum_, value, &sum_);
    }
    case Merge::kInKeyOrder:
      return absl::StartsWith(reply, "*");
    case Merge::kForward:
      return true;
  }
  return false;
}

std::string MergedStatus::Reply() const {
  if (first_error_.empty()) {
    return merge_ == Merge::kSum ? absl::StrCat(":", sum_, "\r\n") : "+OK\r\n";
  }
  if (!any_may_have_run_) return absl::StrCat("-", first_error_, "\r\n");
  absl::string_view text = first_error_;
  if (!absl::ConsumeSuffix(&text, " (not executed)")) {
    absl::ConsumeSuffix(&text, " (outcome unknown)");
  }
  return absl::StrCat("-ERR proxy: partly executed, ", text, " (outcome unknown)\r\n");
}

}  // namespace cluster
