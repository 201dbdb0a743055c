#pragma once

// File: cluster/split.h
//
// A multi-key request over several slots → fragments, one a slot; and the fragments' replies → one
// reply. Pure decisions on positions: the caller moves the bytes.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cluster/command_table.h"
#include "cluster/slot.h"

namespace cluster {

struct SplitFragment {
  Slot slot = 0;
  // Its keys: a range of SplitPlan::keys.
  uint32_t first_key = 0;
  uint32_t key_count = 0;
};

struct SplitPlan {
  std::vector<SplitFragment> fragments;   // in the order of their first keys
  std::vector<uint32_t> fragment_of_key;  // by key number (0 = the request's first key)
  std::vector<uint32_t> keys;             // numbers, fragment by fragment, each in request order

  absl::Span<const uint32_t> KeysOf(const SplitFragment& fragment) const {
    return absl::MakeConstSpan(keys).subspan(fragment.first_key, fragment.key_count);
  }
  void Clear() {
    fragments.clear();
    fragment_of_key.clear();
    keys.clear();
  }
};

// Groups keys by slot. One for many plans: it keeps a table of slots.
class SplitPlanner {
 public:
  // `slots` has one entry per key, in request order. Replaces *plan, in its memory.
  void Plan(absl::Span<const Slot> slots, SplitPlan* plan);

 private:
  // The slot's fragment, added if there is none: by search, or by the table of slots.
  uint32_t Search(Slot slot, SplitPlan* plan);
  uint32_t LookUp(Slot slot, SplitPlan* plan);

  std::vector<uint16_t> fragment_of_slot_;  // empty until needed; outside Plan no entry
};

// Merges the fragments' error or status lines and integers.
class MergedStatus {
 public:
  explicit MergedStatus(Merge merge) : merge_(merge) {}
  // One fragment's complete, contiguous reply ("+OK\r\n", ":2\r\n", "-ERR …\r\n").
  // `may_have_run`: the fragment ran, or it is unknown whether it did.
  void Add(absl::string_view reply, bool may_have_run);
  // True if some fragment's reply was an error, or did not have the merge's form.
  bool failed() const { return !first_error_.empty(); }
  // The one reply: "+OK\r\n" for kAllSucceeded, ":sum\r\n" for kSum; or, if one failed and any part
  // ran or may have run: "-ERR proxy: partly executed, <first error without its suffix> (outcome
  // unknown)\r\n"; if none did: the first error.
  std::string Reply() const;

 private:
  // The reply is what a successful fragment of this merge says; an integer is added to the sum.
  bool HasForm(absl::string_view reply);

  const Merge merge_;
  int64_t sum_ = 0;
  bool any_may_have_run_ = false;
  std::string first_error_;  // the line without '-' and CRLF
};

}  // namespace cluster
