#include "tests/sim/chaos.h"

#include <algorithm>
#include <utility>

namespace sim {
namespace {

enum What : int {
  kMigrate,
  kMigrateWrongOrder,
  kMoveAtOnce,
  kSwitchOver,
  kAddNode,
  kHang,
  kKill,
  kCutOff,
  kDropConnections,
  kLoading,
  kDown,
  kGarble,
  kSlow,
  kStall,
  kHalfReply,
  kWhats
};
constexpr absl::string_view kNames[kWhats] = {
    "migrate",   "migrate wrong order", "move at once", "switch over", "add node", "hang", "kill",
    "cut off",   "drop connections",    "loading",      "down",        "garble",   "slow", "stall",
    "half reply"};

// A primary that says nothing for so long is replaced, if it has a replica.
constexpr Nanos kNodeTimeout = 1 * kSecond;
constexpr Nanos kStallMax = 3 * kSecond;
constexpr Nanos kReimport = 2 * kSecond;
constexpr Nanos kReimportLate = 30 * kSecond;
constexpr int kNodesMax = 12;

int Sometimes(Random* random) { return random->Below(2) == 0 ? 0 : 1 << random->Below(4); }

}  // namespace

Chaos::Options Chaos::Options::Moving(Random* random) {
  Options options;
  options.between_max = static_cast<Nanos>(random->Magnitude(2 * kMillisecond, kSecond));
  options.settle = static_cast<Nanos>(random->Magnitude(300 * kMillisecond, 2 * kSecond));
  options.migrate = 1 + Sometimes(random);
  options.migrate_wrong_order = Sometimes(random);
  options.move_at_once = Sometimes(random);
  options.switch_over = Sometimes(random);
  options.add_node = Sometimes(random) > 2 ? 1 : 0;
  options.slow = Sometimes(random);
  options.trouble_max = static_cast<Nanos>(random->Magnitude(10 * kMillisecond, kSecond));
  return options;
}

Chaos::Options Chaos::Options::Anything(Random* random) {
  Options options;
  options.between_max = static_cast<Nanos>(random->Magnitude(5 * kMillisecond, 2 * kSecond));
  options.migrate = Sometimes(random);
  options.migrate_wrong_order = Sometimes(random);
  options.move_at_once = Sometimes(random);
  options.switch_over = Sometimes(random);
  options.add_node = Sometimes(random) > 2 ? 1 : 0;
  options.hang = Sometimes(random);
  options.kill = Sometimes(random);
  options.cut_off = Sometimes(random);
  options.drop_connections = Sometimes(random);
  options.loading = Sometimes(random);
  options.down = Sometimes(random);
  options.garble = Sometimes(random);
  options.slow = Sometimes(random);
  options.stall = Sometimes(random);
  options.half_reply = Sometimes(random);
  options.lose_writes = static_cast<int>(random->Below(2));
  options.trouble_max = static_cast<Nanos>(random->Magnitude(50 * kMillisecond, 12 * kSecond));
  return options;
}

Chaos::Later::Later(Chaos* of, std::function<void()> what)
    : chaos(of),
      action(std::move(what)),
      alarm(
          of->world_->net()->alarms(),
          [](void* self) {
            Later* later = static_cast<Later*>(self);
            later->over = true;
            if (!later->chaos->stopped_) later->action();
          },
          this) {}

Chaos::Chaos(World* world, const Options& options)
    : world_(world), options_(options), next_(world->net()->alarms(), &Chaos::Fired, this) {
  next_.Set(world->now() + random()->Between(options.between_min, options.between_max));
}

void Chaos::Stop() {
  stopped_ = true;
  next_.Stop();
  later_.clear();
}

void Chaos::After(Nanos delay, std::function<void()> action) {
  later_.erase(
      std::remove_if(later_.begin(), later_.end(),
                     [](const auto& later) { return later->over && !later->alarm.armed(); }),
      later_.end());
  later_.push_back(std::make_unique<Later>(this, std::move(action)));
  later_.back()->alarm.Set(world_->now() + delay);
}

Nanos Chaos::Duration() {
  return static_cast<Nanos>(random()->Magnitude(static_cast<uint64_t>(options_.trouble_min),
                                                static_cast<uint64_t>(options_.trouble_max)));
}

void Chaos::Act() {
  const int weights[kWhats] = {options_.migrate,
                               options_.migrate_wrong_order,
                               options_.move_at_once,
                               options_.switch_over,
                               options_.add_node,
                               options_.hang,
                               options_.kill,
                               options_.cut_off,
                               options_.drop_connections,
                               options_.loading,
                               options_.down,
                               options_.garble,
                               options_.slow,
                               options_.stall,
                               options_.half_reply};
  int total = 0;
  for (const int weight : weights) total += weight;
  if (total > 0) {
    int pick = static_cast<int>(random()->Below(static_cast<uint64_t>(total)));
    int what = 0;
    while ((pick -= weights[what]) >= 0) ++what;
    Do(what);
  }
  next_.Set(world_->now() + random()->Between(options_.between_min, options_.between_max));
}

int Chaos::RandomPrimary() {
  const std::vector<int> primaries = cluster()->Primaries();
  return primaries[random()->Below(primaries.size())];
}

void Chaos::Do(int what) {
  const int number = static_cast<int>(random()->Below(static_cast<uint64_t>(cluster()->size())));
  FakeNode* node = cluster()->node(number);
  const Nanos duration = Duration();
  switch (what) {
    case kMigrate:
      Migrate(false);
      break;
    case kMigrateWrongOrder:
      Migrate(true);
      break;
    case kMoveAtOnce:
      MoveAtOnce();
      break;
    case kSwitchOver: {
      const int primary = RandomPrimary();
      const std::vector<int> replicas = cluster()->ReplicasOf(primary);
      if (replicas.empty() || InTrouble(primary) || switched_ > world_->now()) return;
      // Who is asked to confirm a redirection to it would name another node.
      if (options_.settle > 0 && cluster()->IsInMigration(primary)) return;
      switched_ = world_->now() + options_.settle;
      const int replica = replicas[random()->Below(replicas.size())];
      if (InTrouble(replica)) return;
      cluster()->SwitchOver(replica);
      break;
    }
    case kAddNode:
      if (cluster()->size() >= kNodesMax) return;
      cluster()->AddNode();
      break;
    case kHang:
      if (InTrouble(number)) return;
      ++troubled_[number];
      node->SetHung(true);
      After(duration, [this, number] {
        troubled_.erase(number);
        if (cluster()->node(number)->hung()) cluster()->node(number)->SetHung(false);
      });
      if (duration > kNodeTimeout) After(kNodeTimeout, [this, number] { TakeOver(number); });
      break;
    case kKill: {
      if (InTrouble(number)) return;
      ++troubled_[number];
      node->Kill();
      const bool elsewhere = options_.elsewhere && random()->Below(3) == 0;
      After(duration, [this, number, elsewhere] {
        troubled_.erase(number);
        if (!cluster()->node(number)->alive()) cluster()->Restart(number, elsewhere);
      });
      if (duration > kNodeTimeout) After(kNodeTimeout, [this, number] { TakeOver(number); });
      break;
    }
    case kCutOff: {
      if (InTrouble(number)) return;
      ++troubled_[number];
      node->SetCutOff(true);
      After(duration, [this, number] {
        troubled_.erase(number);
        cluster()->node(number)->SetCutOff(false);
      });
      if (duration > kNodeTimeout && random()->Below(2) == 0) {
        After(kNodeTimeout, [this, number] { TakeOver(number); });
      }
      break;
    }
    case kDropConnections:
      node->DropConnections();
      break;
    case kLoading:
      node->set_loading(true);
      After(duration, [this, number] { cluster()->node(number)->set_loading(false); });
      break;
    case kDown:
      for (int i = 0; i < cluster()->size(); ++i) {
        if (random()->Below(2) == 0) continue;
        cluster()->node(i)->set_cluster_down(true);
        After(duration, [this, i] { cluster()->node(i)->set_cluster_down(false); });
      }
      break;
    case kGarble:
      node->set_garble(0.02);
      After(duration, [this, number] { cluster()->node(number)->set_garble(0); });
      break;
    case kSlow:
      node->set_service_time(duration / 100, duration / 10);
      After(5 * duration, [this, number] {
        cluster()->node(number)->set_service_time(2 * kMicrosecond, 10 * kMicrosecond);
      });
      break;
    case kStall:
      world_->Stall(std::min(duration, kStallMax));
      break;
    case kHalfReply:
      node->CutReplyAfter(1 + random()->Below(64));
      break;
  }
  ++events_[std::string(kNames[what])];
}

void Chaos::Migrate(bool wrong_order) {
  if (options_.slots.empty()) return;
  const cluster::Slot slot = options_.slots[random()->Below(options_.slots.size())];
  const int from = cluster()->OwnerOf(slot);
  const int to = RandomPrimary();
  if (from == to || from < 0 || cluster()->IsMigrating(slot)) return;
  if (InTrouble(from) || InTrouble(to) || settled_[slot] > world_->now()) return;
  // A command that was sent to the target the first time, and comes there the second time, with its
  // ASKING, is taken and runs on nothing. Scripts are held until somebody confirms their
  // redirection, and the network may hold back anything.
  Nanos& imported = imported_[{slot, to}];
  const Nanos pause = options_.cut_off + options_.hang > 0 ? kReimportLate : kReimport;
  if (imported > 0 && imported + pause > world_->now()) return;
  imported = world_->now();
  cluster()->BeginMigration(slot, to);
  MigrateStep(slot, wrong_order);
}

// A key now and then, and at last the slot.
void Chaos::MigrateStep(cluster::Slot slot, bool wrong_order) {
  After(Duration() / 4, [this, slot, wrong_order] {
    if (!cluster()->IsMigrating(slot)) return;
    const std::vector<uint32_t>& keys = cluster()->keys()->keys_of(slot);
    if (keys.empty() || random()->Below(8) == 0) {
      cluster()->EndMigration(slot, wrong_order);
      settled_[slot] = world_->now() + options_.settle;
      return;
    }
    const uint64_t count = random()->Magnitude(1, 8);
    for (uint64_t i = 0; i < count; ++i) {
      cluster()->MigrateKey(keys[random()->Below(keys.size())]);
    }
    MigrateStep(slot, wrong_order);
  });
}

void Chaos::MoveAtOnce() {
  const int to = RandomPrimary();
  if (InTrouble(to)) return;
  std::vector<cluster::Slot> slots;
  for (const cluster::Slot slot : options_.slots) {
    if (settled_[slot] > world_->now() || InTrouble(cluster()->OwnerOf(slot))) continue;
    if (random()->Below(3) != 0) continue;
    slots.push_back(slot);
    settled_[slot] = world_->now() + options_.settle;
  }
  if (!slots.empty()) cluster()->MoveSlots(slots, to);
}

// If it is still away, and a primary, a replica takes over.
void Chaos::TakeOver(int primary) {
  if (!InTrouble(primary) || cluster()->truth().peers[static_cast<size_t>(primary)].primary >= 0) {
    return;
  }
  for (const int replica : cluster()->ReplicasOf(primary)) {
    if (InTrouble(replica) || !cluster()->MayTakeOver(replica)) continue;
    cluster()->FailOver(replica, options_.lose_writes != 0 && random()->Below(2) == 0);
    ++events_["failover"];
    return;
  }
}

}  // namespace sim
