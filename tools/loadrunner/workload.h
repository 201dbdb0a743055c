#pragma once

// File: tools/loadrunner/workload.h
//
// What the load runner writes, and what it may therefore read. Every key has one writer, which
// numbers its writes; so every reply can be judged:
//
//   registers   SET key "<key>:<n>:<padding>", n = 1, 2, …; the padding follows from key and n
//   counters    INCR key, or EVAL of the same
//   lists       RPUSH key "<key>:<n>"; each is read whole after 50 of them, then a new one begins
//
// An `Actor` is one connection's part in this: a writer on keys of its own, or a reader of
// anybody's. No sockets here: commands out, replies in.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/container/inlined_vector.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "resp/encoder.h"
#include "tools/loadrunner/report.h"

namespace loadrunner {

struct Plan {
  size_t writers = 100;
  size_t readers = 500;
  size_t keys = 3000;  // in all, at least three for each writer
  size_t tags = 100;   // hash tags, so slots, that they lie in
  size_t value_bytes_min = 16;
  size_t value_bytes_max = 256;
  size_t scripts_percent = 0;  // of increments that are made by EVAL
  // In every key's name: what an earlier run has left is never taken for this one's.
  uint32_t nonce = 0;
};

// A register or a counter.
struct Key {
  bool is_counter = false;
  std::string name;
  uint32_t tag = 0;
  uint32_t sent = 0;  // number of the last write that was sent
  // As its writer knows it from replies: number of the last acknowledged write of a register, value
  // of a counter.
  uint32_t base = 0;
  // Increments since then of which nobody knows whether they ran. The replies of one connection
  // come in order, so the next known value settles them.
  uint32_t unknown = 0;
  // The same of connections that have closed: those may still run at any time.
  uint32_t detached = 0;
  // No read that is sent from now on may find less.
  uint32_t floor = 0;
  // How often less was found. Reads that were sent before that have no floor any more.
  uint32_t losses = 0;
  absl::flat_hash_set<uint32_t> refused;  // writes of a register that must not have run
};

enum class Outcome : uint8_t { kPending, kDone, kRefused, kUnknown, kDetached };

struct List {
  std::string name;
  uint32_t tag = 0;
  std::vector<Outcome> pushes;  // that of number n at n - 1
};

struct Op {
  enum class Type : uint8_t { kHello, kSet, kIncrement, kPush, kGet, kMGet, kRange, kUnlink };
  struct Read {
    Key* key;
    uint32_t floor;
    uint32_t losses;
  };
  bool is_write() const {
    return type == Type::kSet || type == Type::kIncrement || type == Type::kPush ||
           type == Type::kUnlink;
  }

  Type type = Type::kGet;
  bool own = false;     // a read by the key's writer
  bool last = false;    // a read after all writes
  uint32_t number = 0;  // of a write
  absl::Time sent;
  absl::InlinedVector<Read, 1> reads;  // the keys; of a write, the first one's is written
  std::shared_ptr<List> list;
};

class Workload {
 public:
  // The report outlives it.
  Workload(const Plan& plan, Report* report);

  // The value of a register's n-th write.
  std::string ValueOf(const Key& key, uint32_t number) const;
  // The number of a value found under `key`; false if no writer has made it for that key.
  bool NumberOf(const Key& key, absl::string_view value, uint32_t* number) const;

  // --- judgement; what is found goes to the report
  // A reply to the owner's INCR.
  void JudgeIncrement(Key* key, uint32_t value, absl::Time now);
  // A value found by a read.
  void JudgeRead(const Op& op, const Op::Read& read, uint32_t found, absl::Time now);
  // The elements of a list, none of whose pushes is pending.
  void JudgeList(const List& list, const std::vector<absl::string_view>& elements, absl::Time now);

  // --- choosing
  size_t Random(size_t below) { return static_cast<size_t>(random_() % below); }
  Key* AnyKey() { return &keys_[Random(keys_.size())]; }
  Key* AnyKeyWithTag(uint32_t tag) { return by_tag_[tag][Random(by_tag_[tag].size())]; }
  std::vector<Key*> KeysOfWriter(size_t writer);
  std::shared_ptr<List> NewList(size_t writer);
  size_t lists_per_writer() const { return lists_per_writer_; }
  bool IncrementByScript() { return Random(100) < plan_.scripts_percent; }
  Report* report() { return report_; }

 private:
  void Find(Finding finding, absl::string_view key, uint64_t found, uint64_t expected,
            absl::string_view detail, absl::Time now) {
    report_->OnFinding(finding, key, found, expected, detail, now);
  }

  const Plan plan_;
  Report* const report_;
  std::mt19937_64 random_;
  size_t lists_per_writer_ = 1;
  std::vector<Key> keys_;  // of writer 0, of writer 1, …
  std::vector<std::vector<Key*>> by_tag_;
  uint32_t lists_ = 0;  // made so far
};

class Actor {
 public:
  enum class Role : uint8_t { kWriter, kReader };
  // The workload outlives it. `writer`: which one, of a writer.
  Actor(Workload* workload, Role role, size_t writer);

  // The next command, appended to *out. False: all is done.
  bool Next(Op* op, std::string* out);
  // From here on Next gives only the last reads of a writer's keys, until each has been read.
  void BeginVerify();
  // Keys and lists that are still to be read.
  size_t unverified() const { return to_verify_.size() + ranges_.size(); }
  // The reply: one whole frame. `later`: the connection's further requests in flight.
  void OnReply(const Op& op, absl::string_view frame, std::deque<Op>* later, absl::Time now);
  // The connection closed without a reply.
  void OnDetached(const Op& op);

 private:
  void NextWrite(Op* op, std::string* out);
  void NextRead(Op* op, std::string* out);
  void Range(std::shared_ptr<List> list, Op* op, std::string* out);
  void OnError(const Op& op, absl::string_view text, absl::Time now);
  void Settle(const Op& op, Outcome outcome);
  void Retry(const Op& op);
  void OnFound(const Op& op, const Op::Read& read, absl::string_view frame, std::deque<Op>* later,
               absl::Time now);
  void OnList(const Op& op, absl::string_view frame, absl::Time now);

  Workload* const workload_;
  const Role role_;
  const size_t writer_;
  bool verifying_ = false;
  std::vector<Key*> keys_;
  std::vector<std::shared_ptr<List>> lists_;  // that are being written
  // Whole lists: to be read, and, found to be right, to be deleted.
  std::deque<std::shared_ptr<List>> ranges_;
  std::deque<std::shared_ptr<List>> unlinks_;
  std::deque<Key*> to_verify_;
};

// The hash tags of the request's keys as the text of a JSON array.
std::string TagsOf(const Op& op);

}  // namespace loadrunner
