#pragma once

// File: proxy/script_table.h
//
// The scripts that clients have loaded (SCRIPT LOAD) or run (EVAL) through this proxy, by name: a
// node that lacks one gets it from here (proxy/script_repairs.h). Texts are forgotten with SCRIPT
// FLUSH, and those that were used longest ago when there are too many.
//
// Shared by all workers under one mutex: touched where scripts come and go, never by a script that
// is called as before. EVAL looks at one atomic number only (EvalRecorder).

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace proxy {

class ScriptTable {
 public:
  // Larger ones are not kept.
  static constexpr size_t kTextBytesMax = 1 << 20;
  static constexpr size_t kBytesMax = 16 << 20;  // of all texts
  static constexpr size_t kScriptsMax = 10000;
  // Those that were only run go first, as at the servers: they may have values of one call in them.
  static constexpr size_t kOnlyRunMax = 1000;

  enum class Origin : uint8_t {
    kLoaded,  // or called by its name
    kRun,
  };

  ScriptTable() = default;
  ScriptTable(const ScriptTable&) = delete;
  ScriptTable& operator=(const ScriptTable&) = delete;

  // Keeps the text, or notes that it was used again. `name` is its SHA-1, in lower case.
  void Add(absl::string_view name, absl::string_view text, Origin origin);
  // By its name, in any case, because it is called by that; null: not known.
  std::shared_ptr<const std::string> Find(absl::string_view name);
  // SCRIPT FLUSH.
  void Clear();
  // Counts the calls of Clear.
  uint64_t clears() const { return clears_.load(std::memory_order_relaxed); }

  // Those that are called by name, last used first, up to so many bytes and so many.
  struct Known {
    std::string name;
    std::shared_ptr<const std::string> text;
  };
  std::vector<Known> CalledByName(size_t bytes_max, size_t count_max) const;

  size_t scripts() const;
  size_t bytes() const;

 private:
  struct Script {
    std::string name;
    std::shared_ptr<const std::string> text;
    Origin origin;
  };
  using Scripts = std::list<Script>;  // last used first

  Scripts* ListOf(Origin origin) { return origin == Origin::kLoaded ? &loaded_ : &run_; }
  void Use(Scripts::iterator script, Origin origin);
  void Evict();
  void Drop(Scripts* from);

  std::atomic<uint64_t> clears_{0};
  mutable std::mutex mutex_;
  Scripts loaded_;
  Scripts run_;
  absl::btree_map<std::string, Scripts::iterator> by_name_;
  size_t bytes_ = 0;
};

// Tells the table what EVAL runs. Called at each EVAL, so most calls must cost little: a text that
// was here lately is known by a hash of its own, and only a new one gets a SHA-1 — so many a second
// at most, for texts with values of one call in them are always new. One worker's.
class EvalRecorder {
 public:
  explicit EvalRecorder(ScriptTable* table) : table_(table) {}

  void Note(absl::string_view text, absl::Time now);

 private:
  static constexpr size_t kSeenCount = 64;
  static constexpr int kNewBurst = 500;
  static constexpr int kNewPerSecond = 100;
  // It is told again so that the table knows that it is in use.
  static constexpr absl::Duration kTellAgain = absl::Seconds(10);

  struct Seen {
    uint64_t hash = 0;
    size_t size = 0;
    std::string name;  // empty: none
    absl::Time told_at;
  };

  bool TakeBudget(absl::Time now);

  ScriptTable* const table_;
  uint64_t clears_ = 0;  // of the table when `seen_` began
  std::array<Seen, kSeenCount> seen_;
  int budget_ = kNewBurst;
  absl::Time budget_at_ = absl::InfinitePast();  // when it was filled up last
};

}  // namespace proxy
