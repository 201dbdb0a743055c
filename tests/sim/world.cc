#include "tests/sim/world.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proxy/log.h"
#include "proxy/resolver.h"

namespace sim {
namespace {

constexpr absl::Duration kWaitMax = absl::Seconds(10);
constexpr uint64_t kStepsBetweenChecks = 256;
constexpr uint16_t kProxyPort = 6379;
constexpr size_t kLogLinesMax = 10000;

io::Endpoint Ip(absl::string_view host, uint16_t port) { return *io::Endpoint::FromIp(host, port); }

}  // namespace

class World::LogSink final : public proxy::LogSink {
 public:
  explicit LogSink(SimNet* net) : net_(net), print_(getenv("SIM_LOG") != nullptr) {}
  void Write(proxy::LogLevel, absl::string_view line) override {
    if (print_) {
      fprintf(stderr, "%12.6f log: %.*s\n", static_cast<double>(net_->now()) / kSecond,
              static_cast<int>(line.size()), line.data());
    }
    lines.emplace_back(line);
    if (lines.size() > kLogLinesMax) lines.pop_front();
  }
  proxy::LogLevel level() const override { return proxy::LogLevel::kInfo; }
  void set_level(proxy::LogLevel) override {}
  uint64_t dropped() const override { return 0; }

  std::deque<std::string> lines;

 private:
  SimNet* const net_;
  const bool print_;
};

// Knows "node-<n>": the address of that node, after a while.
class World::Resolver final : public proxy::Resolver {
 public:
  explicit Resolver(World* world)
      : world_(world), answer_(world->net()->alarms(), &Resolver::Fired, this) {}
  void Ask(absl::string_view name) override {
    asked_.push_back(std::string(name));
    answer_.SetNoLaterThan(world_->now() + world_->random()->Between(1, 10 * kMillisecond));
  }
  bool Take(proxy::Resolved* result) override {
    if (results_.empty()) return false;
    *result = std::move(results_.front());
    results_.pop_front();
    return true;
  }

 private:
  static void Fired(void* self) { static_cast<Resolver*>(self)->Answer(); }
  void Answer() {
    for (std::string& name : asked_) {
      proxy::Resolved result;
      result.name = name;
      for (int i = 0; i < world_->cluster_.size(); ++i) {
        if (name != absl::StrCat("node-", i)) continue;
        result.addresses.push_back(world_->cluster_.node(i)->address());
        result.addresses.back().set_port(0);
      }
      if (result.addresses.empty()) result.error = "no such name";
      results_.push_back(std::move(result));
    }
    asked_.clear();
    io::Message message;
    message.kind = static_cast<uint8_t>(proxy::MessageKind::kResolved);
    world_->process_.Post(proxy::kControlRing, message);
  }

  World* const world_;
  Alarm answer_;
  std::vector<std::string> asked_;
  std::deque<proxy::Resolved> results_;
};

World::Party::Party(World* of, SimRing* with, std::function<bool()> what)
    : world(of),
      ring(with),
      turn(std::move(what)),
      alarm(of->net()->alarms(), &Party::Fired, this) {
  ring->set_on_ready([this] {
    if (!done) alarm.SetNoLaterThan(std::max(world->now(), busy_until));
  });
  alarm.Set(world->now());
}

void World::Party::Fired(void* self) {
  Party* party = static_cast<Party*>(self);
  party->world->RunParty(party);
}

World::World(const WorldOptions& options)
    : net_(options.seed, options.faults),
      oracle_(&net_),
      cluster_(&net_, options.cluster, &oracle_),
      log_(std::make_unique<LogSink>(&net_)),
      config_(MakeConfig(options)),
      process_(&net_, Ip("10.9.0.1", 0)),
      stats_(options.workers),
      monitor_mail_(options.workers) {
  oracle_.set_cluster(&cluster_);
  oracle_.set_redirects_max(config_->redirections_max);
  std::vector<proxy::WorkerMail*> mail;
  for (uint32_t i = 0; i < options.workers; ++i) {
    worker_mail_.push_back(std::make_unique<proxy::WorkerMail>());
    mail.push_back(worker_mail_.back().get());
  }
  auto control_ring = std::make_unique<SimRing>(&process_, proxy::kControlRing, options.ring);
  SimRing* control_with = control_ring.get();
  proxy::Control::Environment environment;
  environment.ring = std::move(control_ring);
  environment.config = config_;
  environment.resolver = std::make_unique<Resolver>(this);
  environment.mail = &control_mail_;
  environment.worker_mail = mail;
  environment.stats = &stats_;
  environment.log = log_.get();
  environment.random_seed = random()->Next();
  control_ = std::make_unique<proxy::Control>(std::move(environment));
  parties_.push_back(
      std::make_unique<Party>(this, control_with, [this] { return control_->Turn(kWaitMax); }));
  for (uint32_t i = 0; i < options.workers; ++i) {
    auto ring = std::make_unique<SimRing>(&process_, proxy::WorkerRing(i), options.ring);
    SimRing* with = ring.get();
    proxy::Worker::Environment worker;
    worker.index = i;
    worker.ring = std::move(ring);
    worker.config = config_;
    worker.mail = mail[i];
    worker.control_mail = &control_mail_;
    worker.stats = stats_.worker(i);
    worker.log = log_.get();
    worker.random_seed = random()->Next();
    worker.all_stats = &stats_;
    worker.subscription_table = &subscription_table_;
    worker.script_table = &script_table_;
    worker.monitor_mail = &monitor_mail_;
    workers_.push_back(std::make_unique<proxy::Worker>(std::move(worker)));
    parties_.push_back(
        std::make_unique<Party>(this, with, [this, i] { return workers_[i]->Turn(kWaitMax); }));
  }
  const absl::Status listening = control_->Listen();
  if (!listening.ok()) net_.Fail(listening.message());
  control_->Start();
}

World::~World() {
  if (!shut_down_ && failure().empty()) Shutdown();
  clients_.clear();
  // After a failure it is in no state to be taken apart: it stays as it is.
  for (auto& worker : workers_) (void)worker.release();
  (void)control_.release();
}

std::shared_ptr<const proxy::Config> World::MakeConfig(const WorldOptions& options) {
  auto config = std::make_shared<proxy::Config>();
  config->listen = {Ip("10.9.0.1", kProxyPort)};
  for (int i = 0; i < cluster_.size(); ++i) {
    const io::Endpoint& address = cluster_.node(i)->address();
    const std::string host =
        options.names ? absl::StrCat("node-", i) : io::ParseHostPort(address.ToString())->host;
    config->startup_nodes.push_back({host, address.port()});
  }
  config->workers = options.workers;
  config->memory_limit_bytes = 256 << 20;
  config->log_every_n = 0;
  config->zero_copy_send = options.ring.zero_copy_send;
  config->backend_password = options.cluster.password;
  if (options.configure) options.configure(config.get());
  return config;
}

const std::deque<std::string>& World::log() const { return log_->lines; }

SimClient* World::Connect(const ClientProfile& profile) {
  const io::Endpoint host = Ip(absl::StrCat("10.8.0.", 1 + clients_.size() % 250), 0);
  clients_.push_back(std::make_unique<SimClient>(&net_, &oracle_, host, address(), profile));
  return clients_.back().get();
}

// --- running

void World::RunParty(Party* party) {
  if (party->done) return;
  const FaultOptions& faults = *net_.faults();
  const bool more = party->turn();
  if (!more) {
    party->done = true;
    party->alarm.Stop();
    // A thread that ends takes its ring with it.
    for (size_t i = 0; i < workers_.size(); ++i) {
      if (parties_[i + 1].get() != party) continue;
      CheckLeftovers();
      workers_[i].reset();
    }
    return;
  }
  Nanos cost = random()->Between(faults.turn_min, faults.turn_max);
  if (random()->Chance(faults.slow_turn)) cost += random()->Between(0, faults.slow_turn_max);
  // It has counted how long it may sleep from the time of the turn before: that may be done only if
  // there was nothing to do since.
  const bool idle = party->ring->took() == 0 && now() <= party->busy_until;
  party->busy_until = idle ? now() : now() + cost;
  party->alarm.Set(idle ? std::max(now(), party->ring->wake_at()) : party->busy_until);
}

bool World::RunUntil(const std::function<bool()>& done, Nanos limit) {
  const Nanos end = now() + limit;
  while (failure().empty()) {
    if (done()) return true;
    if (net_.alarms()->next() > end) {
      net_.alarms()->AdvanceTo(std::min(end, net_.alarms()->next()));
      return done();
    }
    net_.Step();
    if (net_.steps() >= next_check_) {
      CheckBounds();
      next_check_ = net_.steps() + kStepsBetweenChecks;
    }
  }
  return false;
}

void World::RunFor(Nanos duration) {
  RunUntil([] { return false; }, duration);
}

void World::RunUntilIdle(Nanos quiet) {
  RunUntil([this, quiet] { return net_.alarms()->next() > now() + quiet; }, 3600 * kSecond);
}

void World::Stall(Nanos duration) {
  if (now() < stalled_until_) return;
  stalled_until_ = now() + duration;
  net_.Trace("stall", static_cast<uint64_t>(duration));
  for (const auto& party : parties_) {
    if (party->done) continue;
    party->busy_until = std::max(party->busy_until, now() + duration);
    party->alarm.Set(party->busy_until);
  }
  for (const auto& client : clients_) client->NoteStall(duration);
}

void World::EndStall() {
  stalled_until_ = 0;
  for (const auto& party : parties_) {
    if (party->done) continue;
    party->busy_until = now();
    party->alarm.SetNoLaterThan(now());
  }
}

void World::BeginShutdown() {
  shut_down_ = true;
  for (const auto& client : clients_) client->set_may_be_cut_off(true);
  io::Message message;
  message.kind = static_cast<uint8_t>(proxy::MessageKind::kSignal);
  message.value = SIGTERM;
  process_.Post(proxy::kControlRing, message);
}

void World::Shutdown() {
  if (!shut_down_) BeginShutdown();
  const auto ended = [this] {
    return std::all_of(parties_.begin(), parties_.end(),
                       [](const auto& party) { return party->done; });
  };
  const Nanos limit = absl::ToInt64Nanoseconds(config_->drain_timeout) + 5 * kSecond;
  if (!RunUntil(ended, limit)) return net_.Fail("the proxy does not end");
  control_.reset();
  if (process_.open_descriptors() != 0) {
    net_.Fail(absl::StrCat(process_.open_descriptors(), " descriptors are left"));
  }
}

std::string World::DescribeState() {
  std::string text;
  for (size_t i = 0; i < parties_.size(); ++i) {
    if (parties_[i]->done) continue;
    absl::StrAppend(&text, parties_[i]->ring->DescribeState(), "\n");
    if (i == 0 || workers_[i - 1] == nullptr) continue;
    const proxy::WorkerStats& stats = *workers_[i - 1]->stats();
    absl::StrAppend(&text, "  ", stats.requests_in_flight.Get(), " requests in flight, ",
                    stats.held_requests.Get(), " held, ", stats.backend_open.Get(),
                    " backends open, ", stats.charged_bytes.Get(), " bytes charged\n");
  }
  return text;
}

// Of workers that have ended, before they are destroyed.
void World::CheckLeftovers() {
  for (size_t i = 0; i < workers_.size(); ++i) {
    if (workers_[i] == nullptr || !parties_[i + 1]->done) continue;
    proxy::Worker* worker = workers_[i].get();
    const SimRing* ring = parties_[i + 1]->ring;
    const auto check = [&](size_t left, absl::string_view what) {
      if (left != 0) net_.Fail(absl::StrCat("worker ", i, " ends with ", left, " ", what));
    };
    check(worker->requests()->in_use(), "requests");
    check(worker->timers()->size(), "timers");
    // Else the kernel may still send what lies there, without a copy.
    if (worker->connections_left() == 0) {
      check(worker->backend_blocks()->in_use(), "blocks of backends");
      check(worker->client_blocks()->in_use(), "blocks of clients");
      check(ring->operations_in_flight(), "operations in flight");
      check(ring->buffers_held(), "receive buffers");
    }
    check(worker->stats()->requests_in_flight.Get(), "requests in flight by the statistics");
    check(worker->stats()->held_requests.Get(), "held requests by the statistics");
    if (worker->connections_left() == 0) {
      check(worker->stats()->clients_open.Get(), "clients by the statistics");
    }
    check(worker->stats()->backend_open.Get(), "backends by the statistics");
    check(worker->stats()->charged_bytes.Get(), "bytes charged");
  }
}

// No slot goes back to an owner of an older epoch, unless the cluster did, or the newer one is not
// there or does not know.
void World::CheckTopology(size_t worker) {
  const proxy::ClusterState* state = workers_[worker]->cluster();
  if (state == nullptr) return;
  topologies_.resize(workers_.size());
  const std::shared_ptr<const cluster::Topology> before =
      std::exchange(topologies_[worker], state->topology);
  if (before == nullptr || before == state->topology) return;
  for (int i = 0; i < cluster::kSlotCount; ++i) {
    const auto slot = static_cast<cluster::Slot>(i);
    const uint64_t epoch = state->topology->EpochOf(slot);
    if (epoch >= before->EpochOf(slot)) continue;
    const absl::string_view newer = before->OwnerId(slot);
    if (state->topology->OwnerId(slot) == newer) continue;
    const int owner = cluster_.OwnerOf(slot);
    if (owner < 0 || cluster_.truth().peers[static_cast<size_t>(owner)].epoch <= epoch) continue;
    if (!cluster_.Claims(newer, slot, before->EpochOf(slot))) continue;
    return net_.Fail(absl::StrCat("worker ", worker, " went back to an older view: slot ", slot,
                                  " from epoch ", before->EpochOf(slot), " of ", newer, " to ",
                                  epoch));
  }
}

void World::CheckBounds() {
  for (size_t i = 0; i < workers_.size(); ++i) {
    proxy::Worker* worker = workers_[i].get();
    if (worker == nullptr) continue;
    CheckTopology(i);
    const uint64_t limit = config_->memory_limit_bytes / config_->workers;
    const uint64_t charged = worker->stats()->charged_bytes.Get();
    if (charged > limit + limit / 4) {
      net_.Fail(absl::StrCat("worker ", i, " holds ", charged, " bytes of ", limit));
    }
    // A client may have its fill of requests, and a batch more; each of some fragments.
    const uint64_t most = (clients_.size() + 1) * (config_->requests_per_client_max + 256) * 16;
    if (worker->requests()->in_use() > most) {
      net_.Fail(absl::StrCat("worker ", i, " has ", worker->requests()->in_use(), " requests"));
    }
  }
}

}  // namespace sim
