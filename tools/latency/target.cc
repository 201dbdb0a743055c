#include "tools/latency/target.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <ctime>
#include <limits>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cluster/slot.h"
#include "resp/scanner.h"
#include "resp/views.h"

namespace latency {
namespace {

constexpr size_t kWrongShown = 5;
constexpr size_t kErrorKindsMax = 20;
// Values that fill a target: no more of them are in flight on one connection.
constexpr size_t kFillBytesMax = 4 << 20;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Sends the request and waits for the reply: one frame.
absl::StatusOr<std::string> Ask(const io::Endpoint& peer, absl::string_view request) {
  const auto failure = [&peer](absl::string_view what) {
    return absl::UnavailableError(
        absl::StrCat("cannot ask ", peer.ToString(), ": ", what, ": ", std::strerror(errno)));
  };
  const int fd = socket(peer.family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return failure("socket");
  const absl::Cleanup closer = [fd] { close(fd); };
  const timeval limit = {.tv_sec = 5, .tv_usec = 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (connect(fd, peer.address(), peer.length()) != 0) return failure("connect");
  if (send(fd, request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return failure("send");
  }
  std::string reply;
  resp::ReplyScanner scanner;
  char block[4096];
  while (true) {
    const ssize_t n = recv(fd, block, sizeof block, 0);
    if (n < 0 && errno == EINTR) continue;  // a ring of this thread has work for it
    if (n == 0) errno = ECONNRESET;
    if (n <= 0) return failure("no reply");
    const absl::string_view bytes(block, static_cast<size_t>(n));
    reply.append(block, static_cast<size_t>(n));
    const resp::ScanResult result = scanner.Scan(bytes);
    if (result.status == resp::ScanStatus::kComplete) return reply;
    if (result.status == resp::ScanStatus::kError) {
      errno = EPROTO;
      return failure("no RESP");
    }
  }
}

double Milliseconds(int64_t ns) { return static_cast<double>(ns) / 1e6; }

double Sum(double a, double b) { return std::isnan(a) ? b : std::isnan(b) ? a : a + b; }

}  // namespace

int64_t ClockNs() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000000000 + now.tv_nsec;
}

absl::StatusOr<TargetSpec> ParseTarget(absl::string_view text) {
  const size_t equals = text.find('=');
  if (equals == absl::string_view::npos || equals == 0) {
    return absl::InvalidArgumentError(absl::StrCat("not NAME=HOST:PORT: ", text));
  }
  TargetSpec spec;
  spec.name = std::string(text.substr(0, equals));
  absl::string_view rest = text.substr(equals + 1);
  const size_t at = rest.rfind('@');
  if (at != absl::string_view::npos) {
    for (const absl::string_view pid : absl::StrSplit(rest.substr(at + 1), ',')) {
      spec.pids.push_back(0);
      if (!absl::SimpleAtoi(pid, &spec.pids.back()) || spec.pids.back() <= 0) {
        return absl::InvalidArgumentError(absl::StrCat("not a process id: ", pid));
      }
    }
    rest = rest.substr(0, at);
  }
  absl::StatusOr<io::Endpoint> address = io::Endpoint::Parse(rest);
  if (!address.ok()) return address.status();
  spec.address = *address;
  return spec;
}

// --- opening

absl::Status Target::AskCluster() {
  const absl::StatusOr<std::string> reply =
      Ask(spec_.address, "*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n");
  if (!reply.ok()) return reply.status();
  const auto bad = [&] {
    return absl::UnavailableError(
        absl::StrCat(spec_.address.ToString(),
                     " does not tell its slots: ", absl::CHexEscape(reply->substr(0, 80))));
  };
  std::vector<int> part_of_slot(cluster::kSlotCount, -1);
  for (const absl::string_view range : resp::ElementsOf(*reply)) {
    const std::vector<absl::string_view> fields = resp::ElementsOf(range);
    int64_t first = 0;
    int64_t last = 0;
    int64_t port = 0;
    absl::string_view host;
    if (fields.size() < 3) return bad();
    const std::vector<absl::string_view> node = resp::ElementsOf(fields[2]);
    if (!resp::ParseInteger(fields[0], &first) || !resp::ParseInteger(fields[1], &last) ||
        node.size() < 2 || !resp::ParseInteger(node[1], &port) || first < 0 || last < first ||
        last >= cluster::kSlotCount) {
      return bad();
    }
    io::Endpoint address = spec_.address;  // a node that does not know its own address says none
    if (resp::ParseText(node[0], &host) && !host.empty()) {
      absl::StatusOr<io::Endpoint> named = io::Endpoint::FromIp(host, 0);
      if (!named.ok()) return named.status();
      address = *named;
    }
    address.set_port(static_cast<uint16_t>(port));
    size_t part = 0;
    while (part < parts_.size() && !(parts_[part].address == address)) ++part;
    if (part == parts_.size()) parts_.push_back({.address = address, .keys = {}});
    for (int64_t slot = first; slot <= last; ++slot) {
      part_of_slot[static_cast<size_t>(slot)] = static_cast<int>(part);
    }
  }
  if (parts_.empty()) return bad();
  if (parts_.size() > load_->clients) {  // the further nodes have no client
    parts_.resize(load_->clients);
    for (int& part : part_of_slot) {
      if (part >= static_cast<int>(parts_.size())) part = -1;
    }
  }
  const auto part_of = [&](uint32_t key) { return part_of_slot[cluster::SlotOf(KeyName(key))]; };
  for (uint32_t key = 0; key < workload_->options().keys; ++key) {
    const int part = part_of(key);
    if (part >= 0) parts_[static_cast<size_t>(part)].keys.push_back(key);
  }
  absl::StatusOr<std::vector<KeySequence>> sequences =
      MakeSequences(workload_->options(), static_cast<int>(parts_.size()), part_of);
  if (!sequences.ok()) return sequences.status();
  sequences_ = *std::move(sequences);
  return absl::OkStatus();
}

absl::Status Target::Open(io::Ring* ring, io::Arena* arena, uint32_t index) {
  if (spec_.cluster) {
    absl::Status status = AskCluster();
    if (!status.ok()) return status;
  } else {
    parts_.push_back({.address = spec_.address, .keys = {}});
    absl::StatusOr<std::vector<KeySequence>> sequences =
        MakeSequences(workload_->options(), 1, [](uint32_t) { return 0; });
    if (!sequences.ok()) return sequences.status();
    sequences_ = *std::move(sequences);
  }
  for (size_t i = 0; i < load_->clients; ++i) {
    const size_t part = i % parts_.size();
    const Session::Options options = {.peer = parts_[part].address,
                                      .resp3 = load_->resp3,
                                      .apart = spec_.cluster,
                                      .requests_max = load_->requests_max,
                                      .part = part,
                                      .index = index + static_cast<uint32_t>(i),
                                      .number = i};
    sessions_.push_back(
        std::make_unique<Session>(ring, arena, workload_, &sequences_[part], this, options));
    if (!sessions_.back()->Connect()) {
      return absl::ResourceExhaustedError(absl::StrCat("no more sockets: ", std::strerror(errno)));
    }
  }
  return absl::OkStatus();
}

void Target::FindProcesses() {
  if (spec_.cluster) {
    // Its nodes are the servers; nothing is in front of them.
    if (spec_.servers.empty()) spec_.servers = std::exchange(spec_.pids, {});
    if (!spec_.servers.empty()) return;
    for (const Part& part : parts_) {
      for (const pid_t pid : ListenersOf(part.address)) spec_.servers.push_back(pid);
    }
    return;
  }
  if (spec_.pids.empty()) spec_.pids = ListenersOf(spec_.address);
  if (spec_.servers.empty()) spec_.servers = BackendsOf(spec_.pids);
}

// --- load

void Target::BeginFill(int64_t now) {
  mode_ = Mode::kFill;
  last_answer_ = now;
  for (const auto& session : sessions_) OnRoom(session.get());
}

bool Target::filled() const {
  return in_flight() == 0 && std::all_of(parts_.begin(), parts_.end(), [this](const Part& part) {
           return part.filled == (spec_.cluster ? part.keys.size() : workload_->options().keys);
         });
}

void Target::BeginLoad(int64_t now) {
  mode_ = load_->rate > 0 ? Mode::kOpenLoop : Mode::kClosedLoop;
  last_answer_ = now;
  due_ = started_ = 0;
  due_end_ = UINT64_MAX;
  for (const auto& session : sessions_) session->started = 0;
  if (mode_ == Mode::kOpenLoop) {
    schedule_ = Schedule(load_->rate, now);
    return StartDue(now);
  }
  for (const auto& session : sessions_) OnRoom(session.get());
}

void Target::BeginWindow(int64_t now, int64_t end) {
  window_ = true;
  window_begin_ = now;
  window_end_ = end;
  answered_ = answered_in_all_ = 0;
  round_.Clear();
  due_end_ = mode_ == Mode::kOpenLoop ? schedule_.DueBy(end - 1) : UINT64_MAX;
  cpu_ = CpuReading::Of(spec_.pids);
  servers_cpu_ = CpuReading::Of(spec_.servers);
  // What was in flight while /proc was read has waited for that.
  record_from_ = ClockNs();
}

void Target::EndWindow(int64_t now) {
  StartDue(now);  // what fell due since the last turn counts, too
  window_ = false;
  window_end_ = now;
  if (mode_ == Mode::kClosedLoop) mode_ = Mode::kIdle;
}

uint64_t Target::backlog() const { return due_ - started_; }

void Target::DropBacklog(int64_t now) {
  if (mode_ != Mode::kOpenLoop) return;
  const size_t clients = sessions_.size();
  for (size_t i = 0; i < clients; ++i) {
    // Those of this client that were due: i, i + clients, …
    for (uint64_t n = i + sessions_[i]->started * clients; n < due_; n += clients) {
      const int64_t intended = schedule_.TimeOf(n);
      if (intended < record_from_) continue;
      round_.Record(now - intended);  // at least so long
      ++unanswered_;
    }
  }
  mode_ = Mode::kIdle;
}

void Target::FinishRound(double generator_seconds) {
  mode_ = Mode::kIdle;
  record_from_ = INT64_MAX;
  const double seconds = static_cast<double>(window_end_ - window_begin_) / 1e9;
  Metrics metrics;
  metrics.fill(kNaN);
  metrics[kRequestsPerSecond] = static_cast<double>(answered_) / seconds;
  if (round_.count() > 0) {
    metrics[kP50] = Milliseconds(round_.Quantile(0.5));
    metrics[kP90] = Milliseconds(round_.Quantile(0.9));
    metrics[kP99] = Milliseconds(round_.Quantile(0.99));
    metrics[kP999] = Milliseconds(round_.Quantile(0.999));
    metrics[kMax] = Milliseconds(round_.max());
    metrics[kMean] = round_.mean() / 1e6;
  }
  if (answered_in_all_ > 0) {
    const double per_request = 1e6 / static_cast<double>(answered_in_all_);
    metrics[kTargetCpu] = CpuReading::Of(spec_.pids).SecondsSince(cpu_) * per_request;
    metrics[kServersCpu] = CpuReading::Of(spec_.servers).SecondsSince(servers_cpu_) * per_request;
    metrics[kTotalCpu] = Sum(metrics[kTargetCpu], metrics[kServersCpu]);
  }
  metrics[kGeneratorCpu] = generator_seconds / seconds;
  if (load_->rate > 0) {
    metrics[kAnsweredShare] = static_cast<double>(answered_) / (load_->rate * seconds);
  }
  rounds_.push_back(metrics);
  latencies_.Merge(round_);
}

void Target::StartDue(int64_t now) {
  if (mode_ != Mode::kOpenLoop || failed()) return;
  const uint64_t due = std::min(schedule_.DueBy(now), due_end_);
  for (; due_ < due; ++due_) {
    const auto clients = static_cast<uint64_t>(sessions_.size());
    Session* const session = sessions_[due_ % clients].get();
    if (session->started != due_ / clients || !session->has_room() || !session->ready()) continue;
    const int64_t intended = schedule_.TimeOf(due_);
    if (intended >= record_from_) lag_.Record(now - intended);
    session->Start(intended);
    ++session->started;
    ++started_;
  }
}

int64_t Target::NextDue() const {
  if (mode_ != Mode::kOpenLoop || due_ >= due_end_) return INT64_MAX;
  return schedule_.TimeOf(due_);
}

size_t Target::in_flight() const {
  size_t count = 0;
  for (const auto& session : sessions_) count += session->in_flight();
  return count;
}

void Target::Fail(absl::string_view why) {
  if (failed()) return;
  failure_ = std::string(why);
  mode_ = Mode::kIdle;
  BeginClose();
}

void Target::BeginClose() {
  for (const auto& session : sessions_) session->BeginClose();
}

bool Target::closed() const {
  return std::all_of(sessions_.begin(), sessions_.end(),
                     [](const auto& session) { return session->closed(); });
}

Tally Target::tally() const {
  Tally sum;
  for (const auto& session : sessions_) {
    sum.hits += session->tally().hits;
    sum.misses += session->tally().misses;
  }
  return sum;
}

// --- Session::Owner

void Target::OnAnswer(int64_t start, int64_t now) {
  last_answer_ = now;
  ++requests_;
  ++answered_in_all_;
  if (window_ && now < window_end_) ++answered_;
  if (start >= record_from_) round_.Record(now - start);
}

void Target::OnError(absl::string_view frame) {
  std::string kind = KindOfError(frame);
  if (errors_.size() >= kErrorKindsMax && errors_.count(kind) == 0) kind = "(others)";
  ++errors_[kind];
}

void Target::OnWrong(absl::string_view why) {
  ++wrong_;
  if (wrong_examples_.size() < kWrongShown) wrong_examples_.emplace_back(why);
}

void Target::OnRoom(Session* session) {
  if (failed() || !session->ready()) return;
  const auto clients = static_cast<uint64_t>(sessions_.size());
  switch (mode_) {
    case Mode::kIdle:
      return;
    case Mode::kClosedLoop:
      while (session->has_room()) session->Start(Session::kWhenFlushed);
      return;
    case Mode::kOpenLoop:
      while (session->has_room()) {
        const uint64_t n = session->number() + session->started * clients;
        if (n >= due_) return;
        session->Start(schedule_.TimeOf(n));
        ++session->started;
        ++started_;
      }
      return;
    case Mode::kFill: {
      Part& part = parts_[session->part()];
      const size_t most = std::clamp<size_t>(kFillBytesMax / workload_->options().value_bytes_max,
                                             1, Session::kFillMax);
      const size_t all = spec_.cluster ? part.keys.size() : workload_->options().keys;
      while (part.filled < all && session->in_flight() < most) {
        session->StartFill(spec_.cluster ? part.keys[part.filled]
                                         : static_cast<uint32_t>(part.filled));
        ++part.filled;
      }
      return;
    }
  }
}

void Target::OnUnflushed(Session* session) { unflushed_->push_back(session); }

void Target::OnLost(absl::string_view why) { Fail(why); }

}  // namespace latency
