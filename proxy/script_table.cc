#include "proxy/script_table.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "proxy/sha1.h"

namespace proxy {
namespace {

// Any two texts have different ones but for bad luck, which costs a repair that is not made. Four
// at a time: one after the other they would wait for each multiplication.
uint64_t HashOf(absl::string_view text) {
  constexpr uint64_t kFactor = 0x9e3779b97f4a7c15;
  uint64_t lanes[4] = {text.size(), 1, 2, 3};
  const char* at = text.data();
  size_t left = text.size();
  for (; left >= 32; left -= 32, at += 32) {
    for (size_t i = 0; i < 4; ++i) {
      uint64_t word;
      memcpy(&word, at + 8 * i, 8);
      lanes[i] = (lanes[i] ^ word) * kFactor;
      lanes[i] ^= lanes[i] >> 29;
    }
  }
  uint64_t tail[4] = {};
  if (left > 0) memcpy(tail, at, left);
  uint64_t hash = 0;
  for (size_t i = 0; i < 4; ++i) {
    hash = (hash ^ lanes[i]) * kFactor;
    hash = (hash ^ hash >> 32 ^ tail[i]) * kFactor;
  }
  return hash ^ hash >> 32;
}

}  // namespace

void ScriptTable::Add(absl::string_view name, absl::string_view text, Origin origin) {
  if (text.size() > kTextBytesMax) return;
  std::lock_guard<std::mutex> lock(mutex_);
  const auto known = by_name_.find(name);
  if (known != by_name_.end()) return Use(known->second, origin);
  Scripts* const list = ListOf(origin);
  list->push_front({std::string(name), std::make_shared<const std::string>(text), origin});
  by_name_[list->front().name] = list->begin();
  bytes_ += text.size();
  Evict();
}

void ScriptTable::Evict() {
  const auto too_many = [this] { return bytes_ > kBytesMax || by_name_.size() > kScriptsMax; };
  while (!run_.empty() && (run_.size() > kOnlyRunMax || too_many())) Drop(&run_);
  while (!loaded_.empty() && too_many()) Drop(&loaded_);
}

void ScriptTable::Drop(Scripts* from) {
  bytes_ -= from->back().text->size();
  by_name_.erase(from->back().name);
  from->pop_back();
}

std::shared_ptr<const std::string> ScriptTable::Find(absl::string_view name) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto known = by_name_.find(absl::AsciiStrToLower(name));
  if (known == by_name_.end()) return nullptr;
  Use(known->second, Origin::kLoaded);
  return known->second->text;
}

void ScriptTable::Use(Scripts::iterator script, Origin origin) {
  Scripts* const from = ListOf(script->origin);
  if (origin == Origin::kLoaded) script->origin = Origin::kLoaded;
  Scripts* const to = ListOf(script->origin);
  to->splice(to->begin(), *from, script);
}

void ScriptTable::Clear() {
  std::lock_guard<std::mutex> lock(mutex_);
  by_name_.clear();
  loaded_.clear();
  run_.clear();
  bytes_ = 0;
  clears_.fetch_add(1, std::memory_order_relaxed);
}

std::vector<ScriptTable::Known> ScriptTable::CalledByName(size_t bytes_max,
                                                          size_t count_max) const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Known> known;
  for (const Script& script : loaded_) {
    if (known.size() >= count_max || script.text->size() > bytes_max) break;
    bytes_max -= script.text->size();
    known.push_back({script.name, script.text});
  }
  return known;
}

size_t ScriptTable::scripts() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return by_name_.size();
}

size_t ScriptTable::bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return bytes_;
}

// --- EvalRecorder

void EvalRecorder::Note(absl::string_view text, absl::Time now) {
  if (text.size() > ScriptTable::kTextBytesMax) return;
  if (clears_ != table_->clears()) {
    clears_ = table_->clears();
    seen_ = {};
  }
  const uint64_t hash = HashOf(text);
  Seen& seen = seen_[hash % kSeenCount];
  const bool known = seen.hash == hash && seen.size == text.size() && !seen.name.empty();
  if (known && now < seen.told_at + kTellAgain) return;
  if (!known) {
    if (!TakeBudget(now)) return;
    seen.hash = hash;
    seen.size = text.size();
    seen.name = Sha1Hex(text);
  }
  seen.told_at = now;
  table_->Add(seen.name, text, ScriptTable::Origin::kRun);
}

bool EvalRecorder::TakeBudget(absl::Time now) {
  if (budget_ < kNewBurst) {
    const absl::Duration passed = now - budget_at_;
    const auto more = static_cast<int>(
        std::min(absl::ToDoubleSeconds(passed) * kNewPerSecond, static_cast<double>(kNewBurst)));
    if (more > 0) {
      budget_ = std::min(kNewBurst, budget_ + more);
      budget_at_ = now;
    }
  } else {
    budget_at_ = now;
  }
  if (budget_ == 0) return false;
  --budget_;
  return true;
}

}  // namespace proxy
