#include "microbench/worker_rig.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cluster/slot.h"
#include "cluster/topology.h"
#include "microbench/allocations.h"
#include "proxy/log.h"

namespace microbench {
namespace {

using Clock = std::chrono::steady_clock;
using Switch = AllocationCounting::Switch;

constexpr uint64_t kSeed = 1;
constexpr uint16_t kProxyPort = 6379;
constexpr int kPrimaries = 3;
// What arrives while a turn runs is what the next one finds: of virtual time.
constexpr sim::Nanos kTurnTime = 30 * sim::kMicrosecond;
// More turns than any round takes.
constexpr int kTurnsMax = 1000000;

io::Endpoint Ip(absl::string_view host, uint16_t port) { return *io::Endpoint::FromIp(host, port); }

sim::SimRing::Options RingOptions() {
  sim::SimRing::Options options;
  options.client_buffers = options.backend_buffers = 64;
  options.buffer_bytes = 16 << 10;
  options.incremental = true;
  options.drives_world = true;
  return options;
}

}  // namespace

class WorkerRig::NoLog final : public proxy::LogSink {
 public:
  void Write(proxy::LogLevel, absl::string_view) override {}
  proxy::LogLevel level() const override { return proxy::LogLevel::kInfo; }
  void set_level(proxy::LogLevel) override {}
  uint64_t dropped() const override { return 0; }
};

class WorkerRig::Nodes final : public sim::ExecutionObserver {
 public:
  explicit Nodes(sim::SimNet* net) : cluster_(net, Options(), this) {}
  void OnExecuted(const sim::Execution&) override {}
  void OnRefused(uint64_t, bool, absl::string_view) override {}
  void OnLost(uint64_t, uint32_t) override {}

  // What control would tell the worker.
  std::shared_ptr<const proxy::ClusterState> State() {
    std::string text;
    for (int i = 0; i < kPrimaries; ++i) {
      const sim::FakeNode& node = *cluster_.node(i);
      absl::StrAppend(&text, node.id(), " ", node.HostPort(), "@", node.address().port() + 10000,
                      i == 0 ? " myself,master" : " master", " - 0 0 ", i + 1, " connected");
      for (int slot = 0; slot < cluster::kSlotCount;) {
        const int begin = slot;
        const int owner = cluster_.OwnerOf(static_cast<cluster::Slot>(slot));
        while (slot < cluster::kSlotCount &&
               cluster_.OwnerOf(static_cast<cluster::Slot>(slot)) == owner) {
          ++slot;
        }
        if (owner == i) absl::StrAppend(&text, " ", begin, "-", slot - 1);
      }
      text += "\n";
    }
    auto state = std::make_shared<proxy::ClusterState>();
    state->topology = *cluster::Topology::FromNodesReply(text, {});
    for (const cluster::Node& node : state->topology->nodes()) {
      state->endpoints.push_back(Ip(node.address.host, node.address.port));
    }
    return state;
  }

 private:
  static sim::FakeCluster::Options Options() {
    sim::FakeCluster::Options options;
    options.primaries = kPrimaries;
    options.replicas = 0;
    return options;
  }

  sim::FakeCluster cluster_;
};

// The worker's ring: the simulator's, with a stop watch. What happens within is not the worker's.
class WorkerRig::MeteredRing final : public io::Ring {
 public:
  MeteredRing(sim::SimNet* net, sim::SimProcess* process)
      : net_(net), ring_(process, proxy::WorkerRing(0), RingOptions()) {}

  // Since the last call.
  Clock::duration TakeTime() { return std::exchange(within_, Clock::duration::zero()); }

  io::RingId id() const override { return ring_.id(); }
  absl::StatusOr<io::Fd> Listen(const io::Endpoint& address,
                                const io::ListenOptions& options) override {
    const Outside outside(this);
    return ring_.Listen(address, options);
  }
  absl::StatusOr<io::Fd> OpenSocket(const io::Endpoint& peer) override {
    const Outside outside(this);
    return ring_.OpenSocket(peer);
  }
  std::string PeerName(io::Fd socket) override { return ring_.PeerName(socket); }
  std::string LocalName(io::Fd socket) override { return ring_.LocalName(socket); }
  void Accept(io::OpToken token, io::Fd listener) override {
    const Outside outside(this);
    ring_.Accept(token, listener);
  }
  void Connect(io::OpToken token, io::Fd socket, const io::Endpoint& peer) override {
    const Outside outside(this);
    ring_.Connect(token, socket, peer);
  }
  void Recv(io::OpToken token, io::Fd socket, io::BufferGroup group) override {
    const Outside outside(this);
    ring_.Recv(token, socket, group);
  }
  void RecvInto(io::OpToken token, io::Fd socket, char* memory, size_t capacity) override {
    const Outside outside(this);
    ring_.RecvInto(token, socket, memory, capacity);
  }
  void Send(io::OpToken token, io::Fd socket, const msghdr* message, io::Notice notice) override {
    const Outside outside(this);
    ring_.Send(token, socket, message, notice);
  }
  void SendZeroCopy(io::OpToken token, io::Fd socket, absl::string_view bytes) override {
    const Outside outside(this);
    ring_.SendZeroCopy(token, socket, bytes);
  }
  bool zero_copy_send() const override { return ring_.zero_copy_send(); }
  void Cancel(io::OpToken token, io::OpToken target) override {
    const Outside outside(this);
    ring_.Cancel(token, target);
  }
  void Shutdown(io::OpToken token, io::Fd socket, int how) override {
    const Outside outside(this);
    ring_.Shutdown(token, socket, how);
  }
  void Close(io::OpToken token, io::Fd fd) override {
    const Outside outside(this);
    ring_.Close(token, fd);
  }
  void Post(io::OpToken token, io::RingId receiver, io::Message message) override {
    const Outside outside(this);
    ring_.Post(token, receiver, message);
  }
  size_t SubmitAndWait(absl::Duration limit, absl::Span<io::Completion> out) override {
    const Outside outside(this);
    const sim::Nanos end = net_->now() + kTurnTime;
    while (net_->alarms()->next() <= end) net_->Step();
    return ring_.SubmitAndWait(limit, out);
  }
  absl::Time Now() const override { return ring_.Now(); }
  double FreeBufferShare(io::BufferGroup group) const override {
    return ring_.FreeBufferShare(group);
  }
  std::string Describe() const override { return ring_.Describe(); }

 private:
  class Outside {
   public:
    explicit Outside(MeteredRing* ring)
        : ring_(ring), counting_(Switch::kOff), begin_(Clock::now()) {}
    ~Outside() { ring_->within_ += Clock::now() - begin_; }

   private:
    MeteredRing* const ring_;
    const AllocationCounting counting_;
    const Clock::time_point begin_;
  };

  sim::SimNet* const net_;
  sim::SimRing ring_;
  Clock::duration within_ = Clock::duration::zero();
};

// Sends its pipeline and takes what comes, until it has a reply for each request.
class WorkerRig::Client final : public sim::Stream::Observer, public sim::Connecting::Observer {
 public:
  Client(sim::SimNet* net, int number)
      : net_(net),
        act_(net->alarms(), &Client::Fired, this),
        connecting_(net->Connect(Ip(absl::StrCat("10.8.0.", 1 + number % 250), 0),
                                 Ip("10.9.0.1", kProxyPort), this)) {}
  ~Client() {
    if (stream_ != nullptr) stream_->Close();
  }

  void SetPipeline(std::string bytes, uint32_t requests) {
    pipeline_ = std::move(bytes);
    requests_ = requests;
  }
  uint32_t requests() const { return requests_; }
  void Start() {
    sent_ = 0;
    awaited_ = requests_;
    replies_.clear();
    act_.Set(net_->now());
  }
  bool done() const { return awaited_ == 0; }
  const std::string& replies() const { return replies_; }

 private:
  static void Fired(void* self) { static_cast<Client*>(self)->Act(); }
  void OnConnected(sim::Connecting*, int error, sim::Stream* stream) override {
    connecting_.reset();
    if (error != 0) return net_->Fail(absl::StrCat("a client cannot connect: ", error));
    stream_ = stream;
    stream_->set_observer(this);
    act_.Set(net_->now());
  }
  void OnStream(sim::Stream*) override { act_.SetNoLaterThan(net_->now()); }

  void Act() {
    if (stream_ == nullptr) return;
    while (sent_ < pipeline_.size()) {
      const ssize_t n = stream_->Write(pipeline_.data() + sent_, pipeline_.size() - sent_);
      if (n <= 0) break;
      sent_ += static_cast<size_t>(n);
    }
    absl::string_view arrived = stream_->arrived();
    replies_.append(arrived.data(), arrived.size());
    const size_t bytes = arrived.size();
    while (!arrived.empty()) {
      const resp::ScanResult result = scanner_.Scan(arrived);
      if (result.status == resp::ScanStatus::kError || awaited_ == 0) {
        return net_->Fail("a client got what is no reply to it");
      }
      arrived.remove_prefix(result.consumed);
      if (result.status != resp::ScanStatus::kComplete) continue;
      if (scanner_.type() == '-') return net_->Fail("a client got an error");
      --awaited_;
    }
    if (bytes > 0) stream_->Consume(bytes);
    if (stream_->ended()) net_->Fail("a client's connection has ended");
  }

  sim::SimNet* const net_;
  sim::Alarm act_;
  std::unique_ptr<sim::Connecting> connecting_;
  sim::Stream* stream_ = nullptr;
  std::string pipeline_;
  uint32_t requests_ = 0;
  size_t sent_ = 0;
  uint32_t awaited_ = 0;
  std::string replies_;
  resp::ReplyScanner scanner_;
};

WorkerRig::WorkerRig(const WorkerRigOptions& options)
    : net_(kSeed, sim::FaultOptions::None()),
      nodes_(std::make_unique<Nodes>(&net_)),
      process_(&net_, Ip("10.9.0.1", 0)),
      log_(std::make_unique<NoLog>()),
      stats_(1) {
  auto config = std::make_shared<proxy::Config>();
  config->memory_limit_bytes = 256 << 20;
  config->log_every_n = options.log_every_n;
  config_ = std::move(config);
  auto ring = std::make_unique<MeteredRing>(&net_, &process_);
  ring_ = ring.get();
  proxy::Worker::Environment worker;
  worker.ring = std::move(ring);
  worker.config = config_;
  worker.mail = &mail_;
  worker.control_mail = &control_mail_;
  worker.stats = stats_.worker(0);
  worker.log = log_.get();
  worker.all_stats = &stats_;
  worker_ = std::make_unique<proxy::Worker>(std::move(worker));

  mail_.states.Put(nodes_->State());
  Tell(proxy::MessageKind::kClusterState, 0);
  ConnectClients(options.clients);
}

WorkerRig::~WorkerRig() = default;

void WorkerRig::Tell(proxy::MessageKind kind, uint32_t value) {
  io::Message message;
  message.kind = static_cast<uint8_t>(kind);
  message.value = value;
  process_.Post(proxy::WorkerRing(0), message);
}

// Accepts them, as control would.
void WorkerRig::ConnectClients(int count) {
  const io::Endpoint address = Ip("10.9.0.1", kProxyPort);
  sim::SimRing control(&process_, proxy::kControlRing, RingOptions());
  const absl::StatusOr<io::Fd> listener = control.Listen(address, {});
  if (!listener.ok()) return net_.Fail(listener.status().message());
  control.Accept(io::OpToken(io::OpKind::kAccept, 0, 0, 0), *listener);
  for (int i = 0; i < count; ++i) clients_.push_back(std::make_unique<Client>(&net_, i));
  std::vector<io::Completion> completions(64);
  for (int adopted = 0; adopted < count;) {
    const size_t n = control.SubmitAndWait(absl::Seconds(1), absl::MakeSpan(completions));
    if (n == 0) return net_.Fail("the clients do not connect");
    for (size_t i = 0; i < n; ++i, ++adopted) {
      Tell(proxy::MessageKind::kAdoptClient, static_cast<uint32_t>(completions[i].result));
    }
  }
}

void WorkerRig::SetPipeline(int i, std::string bytes, uint32_t requests) {
  clients_[static_cast<size_t>(i)]->SetPipeline(std::move(bytes), requests);
}

const std::string& WorkerRig::replies(int i) const {
  return clients_[static_cast<size_t>(i)]->replies();
}

void WorkerRig::Turn() {
  const AllocationCounting counting(warming_up_ ? Switch::kOff : Switch::kOn);
  const uint64_t allocations = CountedAllocations();
  const Clock::time_point begin = Clock::now();
  worker_->Turn(absl::Seconds(1));
  const Clock::duration time = Clock::now() - begin - ring_->TakeTime();
  usage_.allocations += CountedAllocations() - allocations;
  usage_.time += absl::FromChrono(time);
  ++usage_.turns;
}

bool WorkerRig::Round() {
  for (const std::unique_ptr<Client>& client : clients_) {
    client->Start();
    usage_.requests += client->requests();
  }
  int turns = 0;
  size_t done = 0;  // these first ones
  while (failure().empty()) {
    while (done < clients_.size() && clients_[done]->done()) ++done;
    if (done == clients_.size()) return true;
    if (++turns > kTurnsMax) net_.Fail("a round does not end");
    Turn();
  }
  return false;
}

bool WorkerRig::WarmUp(int rounds) {
  warming_up_ = true;
  bool good = true;
  for (int i = 0; i < rounds && good; ++i) good = Round();
  warming_up_ = false;
  return good;
}

}  // namespace microbench
