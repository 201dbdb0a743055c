#pragma once

// File: tests/sim/chaos.h
//
// Moves and breaks the cluster of a world at random times, within limits that a real one has: a
// replica takes over only from a primary that is hung, gone or cut off (or by agreement), slots
// move between primaries that live.

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/sim/world.h"

namespace sim {

class Chaos {
 public:
  struct Options {
    Nanos between_min = 1 * kMillisecond, between_max = 500 * kMillisecond;
    // A slot that has moved, or a shard that has another primary, stays like that for so long.
    Nanos settle = 0;
    std::vector<cluster::Slot> slots;  // those that are of interest
    // Relative frequencies; 0: never.
    int migrate = 0, migrate_wrong_order = 0, move_at_once = 0, switch_over = 0, add_node = 0;
    int hang = 0, kill = 0, cut_off = 0, drop_connections = 0, loading = 0, down = 0, garble = 0,
        slow = 0, stall = 0, half_reply = 0, lose_writes = 0;
    Nanos trouble_min = 1 * kMillisecond, trouble_max = 3 * kSecond;

    // A node that was gone may come back at another address. Only where names lead to it.
    bool elsewhere = false;

    // Only what costs no client an error.
    static Options Moving(Random* random);
    static Options Anything(Random* random);
  };

  Chaos(World* world, const Options& options);
  // No more troubles; those that there are stay (see FakeCluster::Heal).
  void Stop();
  const std::map<std::string, uint64_t>& events() const { return events_; }

 private:
  // Something to be done later.
  struct Later {
    Later(Chaos* of, std::function<void()> what);
    Chaos* chaos;
    std::function<void()> action;
    Alarm alarm;
    bool over = false;
  };

  void Act();
  void Do(int what);
  void After(Nanos delay, std::function<void()> action);
  Nanos Duration();
  int RandomPrimary();
  void Migrate(bool wrong_order);
  void MigrateStep(cluster::Slot slot, bool wrong_order);
  void MoveAtOnce();
  void TakeOver(int primary);
  bool InTrouble(int node) const { return troubled_.count(node) != 0; }
  Random* random() { return world_->random(); }
  FakeCluster* cluster() { return world_->cluster(); }
  static void Fired(void* self) { static_cast<Chaos*>(self)->Act(); }

  World* const world_;
  const Options options_;
  Alarm next_;
  bool stopped_ = false;
  std::vector<std::unique_ptr<Later>> later_;
  std::map<cluster::Slot, Nanos> settled_;  // not moved before
  std::map<std::pair<cluster::Slot, int>, Nanos> imported_;
  Nanos switched_ = 0;           // no change of primaries before
  std::map<int, int> troubled_;  // nodes that are hung, gone or cut off
  std::map<std::string, uint64_t> events_;
};

}  // namespace sim
