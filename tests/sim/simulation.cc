#include "tests/sim/simulation.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proxy/sha1.h"
#include "tests/sim/chaos.h"
#include "tests/sim/world.h"

namespace sim {
namespace {

// L10 and L11, and what the simulated network may take on top.
constexpr Nanos kAnswerMax = 10 * kSecond;
constexpr Nanos kSlowAnswerMax = 35 * kSecond;
constexpr Nanos kAnswerSlack = 2 * kSecond;
// Where buffers hold a few bytes a slow node takes many turns to write a reply, and each byte is
// progress for L11.
constexpr Nanos kTinyAnswerSlack = 12 * kSecond;
// "Two seconds after the cluster is stable again, so are we."
constexpr Nanos kConvergence = 2 * kSecond;
constexpr Nanos kServedAfterwards = 2 * kSecond;
constexpr Nanos kLongest = 600 * kSecond;
constexpr Nanos kQuiet = 100 * kMillisecond;

enum class Kind { kCalm, kMoving, kChaos };

SimRing::Options RingOf(Random* random) {
  SimRing::Options ring;
  ring.buffer_bytes = random->Magnitude(64, 16 << 10);
  ring.client_buffers = static_cast<uint32_t>(random->Magnitude(4, 64));
  ring.backend_buffers = static_cast<uint32_t>(random->Magnitude(4, 64));
  ring.incremental = random->Below(2) == 0;
  ring.completions_max = random->Magnitude(16, 16384);
  ring.submissions_max = random->Magnitude(4, 4096);
  ring.zero_copy_send = random->Below(3) == 0;
  return ring;
}

// Of a network in which nothing gets lost.
void KeepHarmless(FaultOptions* faults) {
  faults->reset = 0;
  faults->connect_refused = 0;
  faults->connect_slow = 0;
  faults->connect_hangs = 0;
  faults->accept_error = 0;
}

bool AllAnswered(const World& world) {
  return std::all_of(world.clients().begin(), world.clients().end(), [](const auto& client) {
    return client->commands_left() == 0 && client->outstanding() == 0;
  });
}

// Ends the proxy and takes the result.
SimulationResult Finish(World* world, absl::string_view kind) {
  if (world->failure().empty()) world->oracle()->CheckFinalState();
  if (world->failure().empty()) world->Shutdown();
  SimulationResult result;
  result.failure = world->failure();
  if (!result.failure.empty()) result.state = world->DescribeState();
  result.trace_hash = world->trace_hash();
  result.kind = std::string(kind);
  result.simulated_seconds = static_cast<double>(world->now()) / kSecond;
  result.issued = world->oracle()->issued();
  result.answered = world->oracle()->answered();
  result.errors = world->oracle()->error_count();
  result.steps = world->net()->steps();
  result.errors_by_kind = world->oracle()->errors();
  return result;
}

// While nothing is on its way: whoever took such a reply for that to the next request would be
// wrong about all that follow.
void SendStrayReplies(World* world) {
  world->RunFor(kQuiet);
  for (int i = 0; i < world->cluster()->size(); ++i) {
    FakeNode* node = world->cluster()->node(i);
    if (node->alive()) node->SendUnasked("+OK\r\n");
  }
  world->RunFor(kQuiet);
}

// That clients call by name: as if somebody had loaded them before.
void AddScripts(World* world) {
  for (const absl::string_view text : kNamedScripts) {
    world->scripts()->Add(proxy::Sha1Hex(text), text, proxy::ScriptTable::Origin::kLoaded);
  }
}

}  // namespace

SimulationResult RunUndisturbed(const SimulationOptions& options, bool busy) {
  WorldOptions world_options;
  world_options.seed = options.seed;
  World world(world_options);
  AddScripts(&world);
  world.oracle()->set_errors_allowed(false);
  world.oracle()->set_slots_move(false);
  constexpr uint32_t kClients = 16;
  for (uint32_t i = 0; i < kClients; ++i) {
    ClientProfile profile;
    profile.commands = options.commands / kClients;
    for (int tag = 0; tag < 16; ++tag) profile.tags.push_back(absl::StrCat("t", tag));
    profile.depth = busy ? 128 : 1;
    profile.pause = busy ? 0 : 1;
    profile.pause_max = 2 * kSecond;
    profile.multi_key = 0;
    world.Connect(profile);
  }
  if (!world.RunUntil([&] { return AllAnswered(world); }, kNever / 2) && world.failure().empty()) {
    world.net()->Fail("clients are not done");
  }
  return Finish(&world, busy ? "busy" : "quiet");
}

SimulationResult RunSimulation(const SimulationOptions& options) {
  Random random(options.seed * 0x9e3779b97f4a7c15 + 1);
  const uint64_t roll = random.Below(10);
  const Kind kind = roll == 0 ? Kind::kCalm : roll < 4 ? Kind::kMoving : Kind::kChaos;

  WorldOptions world_options;
  world_options.seed = random.Next();
  world_options.faults = FaultOptions::Mixture(&random);
  if (kind != Kind::kChaos) KeepHarmless(&world_options.faults);
  world_options.workers = static_cast<uint32_t>(1 + random.Below(3));
  world_options.ring = RingOf(&random);
  world_options.names = random.Below(4) == 0;
  FakeCluster::Options& cluster = world_options.cluster;
  cluster.primaries = static_cast<int>(1 + random.Below(4));
  cluster.replicas = static_cast<int>(random.Below(3));
  cluster.gossip_max = static_cast<Nanos>(random.Magnitude(1 * kMillisecond, 500 * kMillisecond));
  cluster.replication_max =
      static_cast<Nanos>(random.Magnitude(100 * kMicrosecond, 20 * kMillisecond));
  if (random.Below(4) == 0) cluster.password = "secret";
  cluster.lost_node = random.Below(4) == 0;
  // Scripts on private connections.
  if (random.Below(8) == 0) cluster.valkey_version = "8.0.1";
  const uint32_t requests_max = static_cast<uint32_t>(random.Magnitude(2, 4096));
  const uint64_t zero_copy_min = random.Magnitude(16, 32 << 10);
  const uint32_t backend_connections = random.Below(4) == 0 ? 2 : 1;
  const uint64_t read_prefer = random.Below(4);
  const bool retry_reads = random.Below(4) != 0;
  const bool small_memory = kind == Kind::kChaos && random.Below(8) == 0;
  // Where errors are allowed: a slow network alone can take that long.
  const bool impatient = random.Below(3) == 0 && kind == Kind::kChaos;
  world_options.configure = [=](proxy::Config* config) {
    if (read_prefer == 0) config->read_prefer = cluster::ReadPrefer::kReplica;
    config->retry_reads = retry_reads;
    if (small_memory) config->memory_limit_bytes = 1 << 20;
    if (impatient) config->reply_timeout = absl::Milliseconds(700);
    config->requests_per_client_max = requests_max;
    config->zero_copy_bytes_min = zero_copy_min;
    config->backend_connections = backend_connections;
  };
  World world(world_options);
  AddScripts(&world);
  if (kind != Kind::kChaos) world.oracle()->set_errors_allowed(false);
  if (kind == Kind::kCalm) world.oracle()->set_slots_move(false);
  // A replica may not have heard yet that a slot has left its primary.
  if (kind != Kind::kCalm && read_prefer == 0) world.oracle()->set_old_reads_allowed(true);

  std::vector<std::string> tags;
  Chaos::Options chaos_options =
      kind == Kind::kChaos ? Chaos::Options::Anything(&random) : Chaos::Options::Moving(&random);
  chaos_options.elsewhere = world_options.names;
  if (kind != Kind::kChaos && chaos_options.migrate_wrong_order > 0) {
    world.oracle()->set_errors_allowed(true);
  }
  const uint64_t tag_count = random.Magnitude(1, 24);
  for (uint64_t i = 0; i < tag_count; ++i) {
    tags.push_back(absl::StrCat("t", i));
    chaos_options.slots.push_back(cluster::SlotOf(tags.back()));
  }

  const bool tiny =
      std::min(world_options.faults.send_buffer_min, world_options.faults.receive_buffer_min) < 512;
  const uint64_t client_count = random.Magnitude(1, 24);
  bool scripts = false;
  std::vector<ClientProfile> profiles;
  for (uint64_t i = 0; i < client_count; ++i) {
    const uint32_t commands = static_cast<uint32_t>(std::max<uint64_t>(
        1,
        options.commands / client_count / 2 + random.Below(options.commands / client_count + 1)));
    profiles.push_back(ClientProfile::Mixture(&random, tags, commands, tiny));
    scripts |= profiles.back().scripts > 0 || profiles.back().forging_scripts > 0;
  }
  for (ClientProfile& profile : profiles) {
    profile.answer_max =
        (scripts ? kSlowAnswerMax : kAnswerMax) + (tiny ? kTinyAnswerSlack : kAnswerSlack);
    profile.may_be_cut_off = small_memory;
    world.Connect(profile);
  }
  // Each redirection of a script is confirmed by another view of the cluster, five in a second at
  // most; what waits behind scripts would wait for too long if all moved on faster than that.
  if (scripts && kind == Kind::kMoving) {
    chaos_options.settle = std::max(chaos_options.settle, 2 * kSecond);
  }
  std::unique_ptr<Chaos> chaos;
  if (kind != Kind::kCalm) chaos = std::make_unique<Chaos>(&world, chaos_options);

  // Until most is done, or enough time has passed.
  const Nanos length = 120 * kSecond;
  const auto all_answered = [&world] { return AllAnswered(world); };
  world.RunUntil(all_answered, length);

  // All is well again: what is on its way is answered, what comes then has no errors.
  if (chaos != nullptr) chaos->Stop();
  *world.net()->faults() = FaultOptions::None();  // buffers stay as small as they are
  world.cluster()->Heal();
  world.EndStall();
  for (const auto& client : world.clients()) {
    client->Behave();
    client->DropCommandsLeft();
  }
  world.RunFor(kConvergence);
  const auto none_outstanding = [&world] {
    return std::all_of(world.clients().begin(), world.clients().end(),
                       [](const auto& client) { return client->outstanding() == 0; });
  };
  if (world.failure().empty() && !none_outstanding()) {
    for (const auto& client : world.clients()) {
      if (client->outstanding() == 0) continue;
      world.net()->Fail(
          absl::StrCat("not answered within 2 s of stable times: ", client->outstanding(),
                       " requests, the first: ", client->DescribeFirst()));
    }
  }
  world.oracle()->set_errors_allowed(false);
  for (const auto& client : world.clients()) client->AddCommands(20);
  if (!world.RunUntil(all_answered, kServedAfterwards) && world.failure().empty()) {
    std::string text = "not served within 2 s, 2 s after all was well again:";
    for (const auto& client : world.clients()) {
      if (client->outstanding() + client->commands_left() > 0) {
        absl::StrAppend(&text, " ", client->DescribeState(), ";");
      }
    }
    world.net()->Fail(text);
  }
  if (world.failure().empty()) SendStrayReplies(&world);
  if (world.failure().empty()) {
    for (const auto& client : world.clients()) client->AddCommands(5);
    if (!world.RunUntil(all_answered, kServedAfterwards) && world.failure().empty()) {
      world.net()->Fail("not served after replies that nobody awaited");
    }
  }
  for (const auto& client : world.clients()) client->FinishUp();
  const auto all_done = [&world] {
    return std::all_of(world.clients().begin(), world.clients().end(),
                       [](const auto& client) { return client->done(); });
  };
  if (!world.RunUntil(all_done, kLongest) && world.failure().empty()) {
    world.net()->Fail("clients are not done");
  }
  SimulationResult result = Finish(&world, kind == Kind::kCalm     ? "calm"
                                           : kind == Kind::kMoving ? "moving"
                                                                   : "chaos");
  if (chaos != nullptr) result.events = chaos->events();
  return result;
}

}  // namespace sim
