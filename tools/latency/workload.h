#pragma once

// File: tools/latency/workload.h
//
// What is asked, and what may be answered. A value says whose it is: eight digits, the number of
// its key, and then bytes that follow from the number and their position; so every reply can be
// judged without a memory of what was written. No sockets here.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "io/slice.h"

namespace latency {

enum class OpType : uint8_t { kGet, kSet, kMGet, kMSet, kDel, kIncr, kPing };

// One kind of request of a mix.
struct Op {
  OpType type = OpType::kGet;
  uint32_t keys = 1;  // of one request; 0 of a PING
  uint32_t weight = 1;
};

// "get:80,set:20", "mget10", "get:90,mset10:5,del:4,incr:1", "ping". Without a weight: 1.
absl::StatusOr<std::vector<Op>> ParseMix(absl::string_view text);

enum class Distribution : uint8_t {
  kUniform,
  kZipf,  // theta 0.99
  kHot,   // key 0 gets half of all
};

struct WorkloadOptions {
  std::string mix_text = "get:80,set:20";
  std::vector<Op> mix;
  uint32_t keys = 100000;
  Distribution distribution = Distribution::kUniform;
  uint32_t value_bytes_min = 64;
  uint32_t value_bytes_max = 64;
  bool prefill = true;
};

// Small, fast and good enough to choose keys (SplitMix64 by Sebastiano Vigna).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // [0, below)
  uint32_t Below(uint32_t below) { return static_cast<uint32_t>((Next() >> 32) * below >> 32); }
  // [0, 1)
  double Share() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

 private:
  uint64_t state_;
};

// Keys in the order in which they are asked for, over and over. Chosen in advance: choosing costs
// nothing while measuring, all targets get the same, and a request's keys are known again from its
// position alone.
class KeySequence {
 public:
  // `count` is a power of two.
  explicit KeySequence(std::vector<uint32_t> keys) : keys_(std::move(keys)) {}
  uint32_t at(uint32_t position) const { return keys_[position & (keys_.size() - 1)]; }

 private:
  std::vector<uint32_t> keys_;
};

// One sequence for each part of the keys: `part_of` says in which part a key lies (0 … parts - 1,
// or -1: in none). Each keeps the distribution's order and frequencies of its own keys. Fails if a
// part has no key.
absl::StatusOr<std::vector<KeySequence>> MakeSequences(const WorkloadOptions& options, int parts,
                                                       const std::function<int(uint32_t)>& part_of);

// "lat:00000042". Keys are below kKeysMax.
constexpr uint32_t kKeysMax = 100000000;
std::string KeyName(uint32_t key);

enum class Verdict : uint8_t { kRight, kError, kWrong };

// What the values of the replies were.
struct Tally {
  uint64_t hits = 0;
  uint64_t misses = 0;
};

class Workload {
 public:
  explicit Workload(WorkloadOptions options);

  const WorkloadOptions& options() const { return options_; }
  const std::vector<Op>& ops() const { return options_.mix; }
  size_t ChooseOp(Random* random) const;

  // Takes the text and slices of commands in order.
  class Sink {
   public:
    // For small pieces: what is appended here goes out before what AddLarge gets later.
    virtual std::string* text() = 0;
    virtual void AddLarge(io::Slice slice) = 0;

   protected:
    ~Sink() = default;
  };
  // One request on the keys from `position` on. `apart`: as a command for each of its keys, for a
  // node of a cluster, which refuses keys of several slots. Returns how many replies it will have.
  uint32_t Write(const Op& op, const KeySequence& keys, uint32_t position, bool apart,
                 Random* random, Sink* sink) const;
  // SET of one key, to fill the target.
  void WriteFill(uint32_t key, Random* random, Sink* sink) const;

  // Judges a reply, a complete frame: the i-th of its request (0 unless it was written apart). A
  // wrong one's *why is filled.
  Verdict Judge(const Op& op, const KeySequence& keys, uint32_t position, bool apart, uint32_t i,
                absl::string_view frame, Tally* tally, std::string* why) const;

 private:
  void AppendValue(uint32_t key, Random* random, Sink* sink) const;
  // The bytes that follow the number in a value of `key`, `bytes` of them.
  absl::string_view Filler(uint32_t key, size_t bytes) const;
  bool JudgeValue(uint32_t key, absl::string_view value) const;

  const WorkloadOptions options_;
  uint32_t weights_ = 0;  // of all ops
  bool misses_allowed_ = false;
  std::string pattern_;
};

// "-ERR slot 123 …" → "ERR slot # …".
std::string KindOfError(absl::string_view frame);

}  // namespace latency
