#include "tests/sim/sim_net.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sim {
namespace {

constexpr uint64_t kHashFactor = 0x9fb21c651e98df25;
// Attempts of a connect that nobody answers, and when it is given up (tcp_syn_retries).
constexpr Nanos kSynInterval = 1 * kSecond;
constexpr Nanos kConnectTimeout = 130 * kSecond;

uint64_t HashBytes(absl::string_view bytes) {
  uint64_t hash = bytes.size();
  while (bytes.size() >= 8) {
    uint64_t word;
    memcpy(&word, bytes.data(), 8);
    hash = (hash ^ word) * kHashFactor;
    hash ^= hash >> 29;
    bytes.remove_prefix(8);
  }
  for (const char c : bytes) hash = (hash ^ static_cast<uint8_t>(c)) * kHashFactor;
  return hash ^ hash >> 32;
}

}  // namespace

// --- Stream

Stream::Stream(SimNet* net, uint64_t id)
    : net_(net),
      id_(id),
      transfer_(net->alarms(), &Stream::TransferFired, this),
      peer_reset_(net->alarms(), &Stream::ResetFired, this),
      stall_(net->alarms(), &Stream::StallFired, this) {
  const FaultOptions& faults = *net->faults();
  send_capacity_ = net->random()->Magnitude(faults.send_buffer_min, faults.send_buffer_max);
  receive_capacity_ =
      net->random()->Magnitude(faults.receive_buffer_min, faults.receive_buffer_max);
}

void Stream::Consume(size_t n) {
  if (n == 0) return;
  incoming_.Consume(n);
  peer_->ArmTransfer();  // the window has opened
}

ssize_t Stream::Read(char* out, size_t n) {
  if (!incoming_.empty()) {  // also after a reset
    n = std::min(n, incoming_.size());
    memcpy(out, incoming_.view().data(), n);
    Consume(n);
    return static_cast<ssize_t>(n);
  }
  if (error_ != 0) return -std::exchange(error_, 0);
  return ended() ? 0 : -EAGAIN;
}

ssize_t Stream::Write(const char* bytes, size_t n) { return WriteZeroCopy(bytes, n, nullptr); }

ssize_t Stream::WriteZeroCopy(const char* bytes, size_t n, const ZeroCopyUse& use) {
  if (error_ != 0) return -std::exchange(error_, 0);
  if (write_shut_ || reset_) return -EPIPE;
  n = std::min(n, room());
  if (n == 0) return -EAGAIN;
  if (use != nullptr) {
    const uint64_t begin = arrived_at_peer_ + outgoing_.size();
    references_.push_back({begin, begin + n, bytes, use});
  }
  outgoing_.Append(bytes, n);
  ArmTransfer();
  return static_cast<ssize_t>(n);
}

void Stream::ShutdownRead() {
  read_shut_ = true;
  Notify();
}

void Stream::ShutdownWrite() {
  if (write_shut_ || reset_) return;
  write_shut_ = true;
  net_->Trace("shut", id_);
  ArmTransfer();
  Notify();
}

void Stream::Close() {
  ABSL_ASSERT(!closed_);
  if (!incoming_.empty()) return Abort();
  observer_ = nullptr;
  closed_ = true;
  closed_at_ = net_->now();
  net_->Trace("close", id_);
  if (!write_shut_ && !reset_) {
    write_shut_ = true;
    ArmTransfer();
  }
  peer_->ArmTransfer();  // what it has sent meets a closed socket
  net_->CheckGone(this);
}

void Stream::Abort() {
  ABSL_ASSERT(!closed_);
  observer_ = nullptr;
  closed_ = true;
  closed_at_ = net_->now();
  net_->Trace("abort", id_);
  if (!reset_) {
    // What is on the wire already arrives; how much of it that is, nobody knows.
    if (!frozen_ && !peer_->closed_ && !outgoing_.empty()) {
      Deliver(net_->random()->Below(std::min(outgoing_.size(), peer_->receive_room()) + 1));
    }
    reset_ = true;
    reset_unsent_ = true;
    DropOutgoing();
    peer_reset_.Set(net_->now() + net_->Latency());
  }
  net_->CheckGone(this);
}

void Stream::ArmTransfer() {
  if (transfer_.armed() || reset_) return;
  if (outgoing_.empty() && !(write_shut_ && !output_ended_)) return;
  if (user_timeout_ != 0 && !outgoing_.empty() && !stall_.armed()) {
    stall_.Set(net_->now() + user_timeout_);
  }
  if (frozen_) return;
  if (!outgoing_.empty() && !peer_->closed_ && peer_->receive_room() == 0) return;
  transfer_.Set(net_->now() + net_->Latency());
}

void Stream::Transfer() {
  Random* random = net_->random();
  if (!closed_ && !peer_->closed_ && random->Chance(net_->faults()->reset)) {
    net_->Trace("cut", id_);
    ArriveReset(ECONNRESET);
    peer_->ArriveReset(ECONNRESET);
    return;
  }
  if (peer_->closed_ && !outgoing_.empty()) {
    net_->Trace("refused", id_, outgoing_.size());
    ArriveReset(ECONNRESET);
    return;
  }
  size_t n = std::min(outgoing_.size(), peer_->receive_room());
  if (n > 1 && random->Chance(net_->faults()->partial_transfer)) n = 1 + random->Below(n);
  if (n > 0) Deliver(n);
  if (outgoing_.empty() && write_shut_ && !output_ended_) {
    output_ended_ = true;
    peer_->input_ended_ = true;
    net_->Trace("end", id_);
    peer_->Notify();
  }
  ArmTransfer();
  net_->CheckGone(this);
}

void Stream::Deliver(size_t n) {
  if (n == 0) return;
  const uint64_t end = arrived_at_peer_ + n;
  // Zero copy: what leaves is what lies in the sender's memory now.
  for (const Reference& reference : references_) {
    if (reference.begin >= end) break;
    const uint64_t from = std::max(reference.begin, arrived_at_peer_);
    const uint64_t to = std::min(reference.end, end);
    const char* now = reference.bytes + (from - reference.begin);
    char* then = outgoing_.data() + (from - arrived_at_peer_);
    if (memcmp(then, now, to - from) != 0) {
      net_->Fail("the bytes of a zero-copy send changed before they were released");
      memcpy(then, now, to - from);
    }
  }
  peer_->incoming_.Append(outgoing_.data(), n);
  net_->Trace("carry", id_, HashBytes(outgoing_.view().substr(0, n)));
  outgoing_.Consume(n);
  arrived_at_peer_ = end;
  while (!references_.empty() && references_.front().end <= end) references_.pop_front();
  stall_.Stop();
  peer_->Notify();
  Notify();
}

void Stream::DropOutgoing() {
  arrived_at_peer_ += outgoing_.size();
  outgoing_.Clear();
  references_.clear();
  transfer_.Stop();
  stall_.Stop();
}

void Stream::SendReset() {
  if (frozen_) return;
  reset_unsent_ = false;
  peer_->ArriveReset(ECONNRESET);
  net_->CheckGone(this);
}

void Stream::ArriveReset(int error) {
  if (reset_) return;
  net_->Trace("reset", id_, static_cast<uint64_t>(error));
  reset_ = true;
  error_ = input_ended_ ? EPIPE : error;
  DropOutgoing();
  Notify();
  net_->CheckGone(this);
}

void Stream::TimeOut() { ArriveReset(ETIMEDOUT); }

void Stream::SetFrozen(bool frozen) {
  frozen_ = frozen;
  if (frozen) {
    transfer_.Stop();
    ArmTransfer();  // its time runs
    return;
  }
  if (reset_unsent_) peer_reset_.Set(net_->now() + net_->Latency());
  ArmTransfer();
}

bool Stream::Gone() const {
  return closed_ && !reset_unsent_ && (reset_ || (outgoing_.empty() && output_ended_));
}

// --- Listener

Listener::~Listener() {
  net_->listeners_.erase(address_.ToString());
  for (Stream* stream : backlog_) stream->Abort();
}

Stream* Listener::Accept() {
  if (backlog_.empty()) return nullptr;
  Stream* stream = backlog_.front();
  backlog_.pop_front();
  return stream;
}

// --- Connecting

Connecting::Connecting(SimNet* net, const io::Endpoint& local, const io::Endpoint& peer,
                       Observer* observer)
    : net_(net),
      local_(local),
      peer_(peer),
      observer_(observer),
      alarm_(net->alarms(), &Connecting::Fired, this) {
  const FaultOptions& faults = *net->faults();
  Nanos delay = net->Latency() + net->Latency();
  if (net->random()->Chance(faults.connect_slow)) {
    delay += net->random()->Between(faults.connect_slow_min, faults.connect_slow_max);
  }
  hangs_ = net->random()->Chance(faults.connect_hangs);
  give_up_at_ = net->now() + kConnectTimeout;
  alarm_.Set(net->now() + delay);
}

Connecting::~Connecting() {
  if (!alarm_.armed() || hangs_ || net_->random()->Below(2) == 0) return;
  // The handshake was through, only the news of it was not.
  const auto it = net_->listeners_.find(peer_.ToString());
  if (it == net_->listeners_.end() || net_->IsUnreachable(peer_)) return;
  if (it->second->backlog_.size() >= it->second->backlog_max_) return;
  net_->NewLink(local_, it->second)->Abort();
}

void Connecting::Fired(void* self) {
  Connecting* connecting = static_cast<Connecting*>(self);
  connecting->net_->TryConnect(connecting);
}

// --- SimNet

SimNet::SimNet(uint64_t seed, const FaultOptions& faults)
    : faults_(faults), random_(seed), print_trace_(getenv("SIM_TRACE") != nullptr) {}

SimNet::~SimNet() = default;

bool SimNet::Step() {
  ++steps_;
  const bool any = alarms_.RunNext();
  if (!gone_links_.empty()) PurgeGone();
  return any;
}

absl::StatusOr<std::unique_ptr<Listener>> SimNet::Listen(const io::Endpoint& address,
                                                         size_t backlog,
                                                         Listener::Observer* observer) {
  io::Endpoint bound = address;
  if (!bound.is_unix() && bound.port() == 0) {
    do {
      bound.set_port(++next_port_);
    } while (listeners_.count(bound.ToString()) != 0);
  }
  Listener*& entry = listeners_[bound.ToString()];
  if (entry != nullptr) {
    return absl::AlreadyExistsError(
        absl::StrCat("cannot listen on ", bound.ToString(), ": Address already in use"));
  }
  std::unique_ptr<Listener> listener(new Listener(this, bound, backlog, observer));
  entry = listener.get();
  return listener;
}

std::unique_ptr<Connecting> SimNet::Connect(const io::Endpoint& local_host,
                                            const io::Endpoint& peer,
                                            Connecting::Observer* observer) {
  io::Endpoint local = local_host;
  if (peer.is_unix()) {  // the connecting end has no name
    sockaddr unnamed = {};
    unnamed.sa_family = AF_UNIX;
    local = io::Endpoint::FromSockaddr(&unnamed, sizeof(unnamed.sa_family));
  } else {
    if (next_port_ < 20000 || next_port_ > 60000) next_port_ = 20000;
    local.set_port(++next_port_);
  }
  return std::unique_ptr<Connecting>(new Connecting(this, local, peer, observer));
}

void SimNet::TryConnect(Connecting* connecting) {
  const std::string address = connecting->peer_.ToString();
  Connecting::Observer* observer = connecting->observer_;
  if (now() >= connecting->give_up_at_) {
    return observer->OnConnected(connecting, ETIMEDOUT, nullptr);
  }
  if (connecting->hangs_ || IsUnreachable(connecting->peer_)) {
    return connecting->alarm_.Set(now() + kSynInterval);
  }
  const auto it = listeners_.find(address);
  if (it == listeners_.end() || random_.Chance(faults_.connect_refused)) {
    Trace("refuse");
    const int error = connecting->peer_.is_unix() && it == listeners_.end() ? ENOENT : ECONNREFUSED;
    return observer->OnConnected(connecting, error, nullptr);
  }
  Listener* listener = it->second;
  if (listener->backlog_.size() >= listener->backlog_max_) {
    return connecting->alarm_.Set(now() + kSynInterval);
  }
  Stream* stream = NewLink(connecting->local_, listener);
  Trace("connect", stream->id());
  observer->OnConnected(connecting, 0, stream);
}

// The connecting end; the other one is in the listener's backlog.
Stream* SimNet::NewLink(const io::Endpoint& local, Listener* listener) {
  std::unique_ptr<Link> link = std::make_unique<Link>(this, next_link_++);
  link->address = listener->address_.ToString();
  link->ends[0].peer_ = &link->ends[1];
  link->ends[1].peer_ = &link->ends[0];
  link->ends[0].local_ = local;
  link->ends[1].local_ = listener->address_;
  if (free_links_.empty()) {
    free_links_.push_back(links_.size());
    links_.emplace_back();
  }
  const size_t index = free_links_.back();
  free_links_.pop_back();
  link->ends[0].link_ = link->ends[1].link_ = index;
  Stream* stream = &link->ends[0];
  listener->backlog_.push_back(&link->ends[1]);
  links_[index] = std::move(link);
  if (listener->observer_ != nullptr) listener->observer_->OnAcceptable(listener);
  return stream;
}

void SimNet::CheckGone(Stream* stream) {
  if (!stream->Gone() || !stream->peer_->Gone()) return;
  Link* link = links_[stream->link_].get();
  if (std::exchange(link->gone, true)) return;
  gone_links_.push_back(stream->link_);
}

// Only when nobody up the stack holds a pointer to them.
void SimNet::PurgeGone() {
  for (const size_t index : gone_links_) {
    links_[index].reset();
    free_links_.push_back(index);
  }
  gone_links_.clear();
}

bool SimNet::IsUnreachable(const io::Endpoint& address) const {
  return !unreachable_.empty() && unreachable_.count(address.ToString()) != 0;
}

Nanos SimNet::ReachableSince(const io::Endpoint& address) const {
  if (reachable_since_.empty()) return 0;
  const auto it = reachable_since_.find(address.ToString());
  return it == reachable_since_.end() ? 0 : it->second;
}

void SimNet::SetUnreachable(const io::Endpoint& address, bool unreachable) {
  const std::string key = address.ToString();
  Trace(unreachable ? "unreachable" : "reachable", address.port());
  if (unreachable) {
    unreachable_[key] = true;
  } else {
    unreachable_.erase(key);
    reachable_since_[key] = now();
  }
  for (const std::unique_ptr<Link>& link : links_) {
    if (link == nullptr || link->address != key) continue;
    for (Stream& end : link->ends) end.SetFrozen(unreachable);
  }
}

Nanos SimNet::Latency() {
  Nanos latency = random_.Between(faults_.latency_min, faults_.latency_max);
  if (random_.Chance(faults_.slow_transfer)) latency += random_.Between(0, faults_.slow_max);
  return latency;
}

void SimNet::Trace(absl::string_view what, uint64_t a, uint64_t b) {
  uint64_t hash = trace_hash_;
  for (const char c : what) hash = (hash ^ static_cast<uint8_t>(c)) * kHashFactor;
  for (const uint64_t word : {a, b, static_cast<uint64_t>(now())}) {
    hash = (hash ^ word) * kHashFactor;
    hash ^= hash >> 29;
  }
  trace_hash_ = hash;
  if (print_trace_) {
    fprintf(stderr, "%12.6f %.*s %llu %llu\n", static_cast<double>(now()) / kSecond,
            static_cast<int>(what.size()), what.data(), static_cast<unsigned long long>(a),
            static_cast<unsigned long long>(b));
  }
}

void SimNet::Note(absl::string_view text) {
  if (!print_trace_) return;
  fprintf(stderr, "%12.6f %.*s\n", static_cast<double>(now()) / kSecond,
          static_cast<int>(text.size()), text.data());
}

void SimNet::Fail(absl::string_view what) {
  Trace("fail");
  Note(absl::StrCat("FAIL ", what));
  if (failure_.empty()) {
    failure_ = absl::StrCat("at ", static_cast<double>(now()) / kSecond, " s: ", what);
  }
}

}  // namespace sim
