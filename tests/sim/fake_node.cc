#include "tests/sim/fake_node.h"

#include <algorithm>
#include <cerrno>
#include <limits>
#include <set>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "proxy/glob.h"
#include "proxy/sha1.h"
#include "resp/encoder.h"
#include "tests/sim/fake_cluster.h"

namespace sim {
namespace {

// One read, as the servers do.
constexpr size_t kReadBytes = 16 << 10;
// Commands of slow nodes are executed one a turn.
constexpr Nanos kSlowService = 500 * kMicrosecond;
constexpr size_t kCommandsPerTurn = 64;
// No handshake with such a node gets its replies in time, beside all else that it is to do.
constexpr Nanos kDeafService = 20 * kMillisecond;
constexpr Nanos kResumeMax = 200 * kMillisecond;
constexpr size_t kToldKept = 64;
constexpr Nanos kLately = 6 * kSecond;
constexpr int64_t kRangeEnd = 1'000'000'000;

constexpr absl::string_view kTryAgain = "TRYAGAIN Multiple keys request during rehashing of slot";
constexpr absl::string_view kNotServed = "CLUSTERDOWN Hash slot not served";
constexpr absl::string_view kDown = "CLUSTERDOWN The cluster is down";
constexpr absl::string_view kReadOnly = "READONLY You can't write against a read only replica.";
constexpr absl::string_view kLoading = "LOADING Redis is loading the dataset in memory";
constexpr absl::string_view kPrimaryDown =
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.";
constexpr absl::string_view kWrongType =
    "WRONGTYPE Operation against a key holding the wrong kind of value";

int64_t ToInt(absl::string_view text) {
  int64_t value = 0;
  return absl::SimpleAtoi(text, &value) ? value : 0;
}

// A header line's number; moves *at behind it. 1: taken, 0: not all there, -1: not of that form.
int TakeNumber(absl::string_view input, char type, size_t* at, int64_t* number) {
  const size_t end = input.find('\n', *at);
  if (*at < input.size() && input[*at] != type) return -1;
  if (end == absl::string_view::npos) return 0;
  if (!absl::SimpleAtoi(input.substr(*at + 1, end - *at - 2), number)) return -1;
  *at = end + 1;
  return 1;
}

std::string Bulk(absl::string_view bytes) {
  return absl::StrCat("$", bytes.size(), "\r\n", bytes, "\r\n");
}
std::string Integer(int64_t value) { return absl::StrCat(":", value, "\r\n"); }
std::string Null(bool resp3) { return resp3 ? "_\r\n" : "$-1\r\n"; }
std::string ErrorLine(absl::string_view line) { return absl::StrCat("-", line, "\r\n"); }

// Where the keys of a data command are, and whether it writes. keys_step 0: it is none.
struct CommandShape {
  absl::string_view name;
  bool write;
  int first_key;
  int keys_step;  // 0: one key
  bool all;       // keys up to the last argument
};
constexpr CommandShape kShapes[] = {
    {"GET", false, 1, 0, false},        {"SET", true, 1, 0, false},
    {"APPEND", true, 1, 0, false},      {"GETRANGE", false, 1, 0, false},
    {"INCR", true, 1, 0, false},        {"INCRBY", true, 1, 0, false},
    {"EXPIRE", true, 1, 0, false},      {"LPUSH", true, 1, 0, false},
    {"RPUSH", true, 1, 0, false},       {"LPOP", true, 1, 0, false},
    {"RPOP", true, 1, 0, false},        {"LRANGE", false, 1, 0, false},
    {"STRLEN", false, 1, 0, false},     {"EVAL", true, 3, 0, false},
    {"DEL", true, 1, 1, true},          {"UNLINK", true, 1, 1, true},
    {"EXISTS", false, 1, 1, true},      {"MGET", false, 1, 1, true},
    {"MSET", true, 1, 2, true},         {"TOUCH", false, 1, 1, true},
    {"LLEN", false, 1, 0, false},       {"EVALSHA", true, 3, 0, false},
    {"SADD", true, 1, 0, false},        {"SMEMBERS", false, 1, 0, false},
    {"SMISMEMBER", false, 1, 0, false}, {"SCARD", false, 1, 0, false},
    {"ZCARD", false, 1, 0, false},      {"DUMP", false, 1, 0, false},
    {"RESTORE", true, 1, 0, false},     {"PEXPIRETIME", false, 1, 0, false},
};

const CommandShape* FindShape(absl::string_view name) {
  for (const CommandShape& shape : kShapes) {
    if (shape.name == name) return &shape;
  }
  return nullptr;
}

uint64_t IdOf(absl::string_view name, absl::Span<const absl::string_view> args) {
  if (args.size() < 3) return 0;
  if (name == "SET" || name == "APPEND" || name == "LPUSH" || name == "RPUSH" || name == "INCRBY" ||
      name == "MSET") {
    return LeadingId(args[2]);
  }
  if (name == "EXPIRE") return LeadingId(args[2].substr(1));
  if (name == "GETRANGE" && args.size() > 3) {
    return static_cast<uint64_t>(std::max<int64_t>(0, ToInt(args[3]) - kRangeEnd));
  }
  if ((name == "EVAL" || name == "EVALSHA") && args.size() > 4) return LeadingId(args[4]);
  return 0;
}

}  // namespace

uint64_t LeadingId(absl::string_view text) {
  uint64_t id = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') break;
    id = id * 10 + static_cast<uint64_t>(c - '0');
  }
  return id;
}

// --- KeyTable

uint32_t KeyTable::Intern(absl::string_view name) {
  const auto it = numbers_.find(name);
  if (it != numbers_.end()) return it->second;
  const uint32_t number = static_cast<uint32_t>(keys_.size());
  keys_.push_back({std::string(name), cluster::SlotOf(name)});
  numbers_[keys_.back().name] = number;
  by_slot_[keys_.back().slot].push_back(number);
  return number;
}

// --- FakeNode

struct FakeNode::Connection final : Stream::Observer {
  FakeNode* node;
  Stream* stream;  // null: closed
  uint64_t client_id;
  std::string name;
  bool resp3 = false;
  bool readonly = false;
  bool asking = false;
  bool authenticated = false;
  bool tracking = false;  // is told of all changes
  bool ready = false;     // on the node's list
  bool had_data = false;  // a data command has come
  Nanos not_before = 0;   // not looked at
  bool queueing = false;  // after MULTI
  bool abort = false;     // a command could not be queued
  std::vector<std::vector<std::string>> queued;
  std::vector<std::pair<uint32_t, ValuePtr>> watched;  // keys, and what was there
  std::set<std::string> topics;  // that it is subscribed to, as in FakeNode::Subscribers
  ByteQueue input;
  ByteQueue output;

  void OnStream(Stream*) override { node->Ready(this); }
};

FakeNode::FakeNode(FakeCluster* cluster, int number, const io::Endpoint& address)
    : cluster_(cluster),
      net_(cluster->net_),
      number_(number),
      id_(absl::StrFormat("%08x%08x%08x%08x%08x", 0x9e3779b1u * static_cast<uint32_t>(number + 1),
                          0x85ebca6bu, 0xc2b2ae35u, 0x27d4eb2fu, static_cast<uint32_t>(number))),
      address_(address),
      turn_(net_->alarms(), &FakeNode::TurnFired, this),
      gossip_(net_->alarms(), &FakeNode::GossipFired, this),
      bus_(net_->alarms(), &FakeNode::BusFired, this) {}

FakeNode::~FakeNode() { Kill(); }

void FakeNode::Start(const io::Endpoint& address) {
  address_ = address;
  auto listener = net_->Listen(address, 128, this);
  ABSL_ASSERT(listener.ok());
  listener_ = std::move(*listener);
  back_at_ = net_->now();
  gossip_.SetNoLaterThan(net_->now() + cluster_->options_.gossip_max);
}

void FakeNode::Kill() {
  if (listener_ == nullptr) return;
  net_->Trace("kill", static_cast<uint64_t>(number_));
  listener_.reset();
  DropConnections();
  Purge();
  turn_.Stop();
  gossip_.Stop();
  bus_.Stop();
  published_.clear();
  scripts_.clear();
  hung_ = false;
  resumed_at_ = 0;
}

void FakeNode::DropConnections() {
  for (const std::unique_ptr<Connection>& connection : connections_) {
    if (connection->stream != nullptr) Close(connection.get(), true);
  }
}

void FakeNode::SetHung(bool hung) {
  net_->Trace(hung ? "hang" : "resume", static_cast<uint64_t>(number_));
  const bool deaf = IsDeaf();
  if (hung && !hung_) hung_at_ = net_->now();
  hung_ = hung;
  NoteDeafness(deaf);
  if (hung || !alive()) {
    turn_.Stop();
    return;
  }
  back_at_ = resumed_at_ = net_->now();
  DeliverDue();
  // Whom it turns to first is its own affair.
  for (const std::unique_ptr<Connection>& connection : connections_) {
    if (net_->random()->Below(3) != 0) continue;
    connection->not_before = net_->now() + net_->random()->Between(0, kResumeMax);
  }
  turn_.SetNoLaterThan(net_->now());
  gossip_.SetNoLaterThan(net_->now() + net_->random()->Between(cluster_->options_.gossip_min,
                                                               cluster_->options_.gossip_max));
}

bool FakeNode::IsLately(Nanos when) const {
  if (net_->now() - when < kLately) return true;
  if (hung_at_ - when >= kLately) return false;
  return hung_ || (resumed_at_ > when && net_->now() - resumed_at_ < kLately);
}

void FakeNode::SetCutOff(bool cut_off) {
  const bool deaf = IsDeaf();
  net_->SetUnreachable(address_, cut_off);
  NoteDeafness(deaf);
}

void FakeNode::set_service_time(Nanos low, Nanos high) {
  const bool deaf = IsDeaf();
  service_min_ = low;
  service_max_ = high;
  NoteDeafness(deaf);
}

bool FakeNode::IsDeaf() const {
  return hung_ || service_max_ >= kDeafService || net_->IsUnreachable(address_);
}

void FakeNode::NoteDeafness(bool before) {
  const bool deaf = IsDeaf();
  if (deaf == before) return;
  if (deaf && net_->now() - deaf_until_ >= kLately) deaf_from_ = net_->now();
  deaf_until_ = net_->now();
}

bool FakeNode::CouldBeTold(Nanos since) const {
  if (deaf_from_ - since >= kLately) return true;
  return !IsDeaf() && net_->now() - std::max(since, deaf_until_) >= kLately;
}

void FakeNode::HoldReplies(bool hold) {
  hold_replies_ = hold;
  if (hold) return;
  for (const std::unique_ptr<Connection>& connection : connections_) Flush(connection.get());
}

void FakeNode::HoldAllButInvalidations(bool hold) {
  hold_all_but_invalidations_ = hold;
  if (!hold) HoldReplies(false);
}

void FakeNode::AnswerNext(absl::string_view command, std::string reply) {
  answers_.emplace_back(std::string(command), std::move(reply));
}

void FakeNode::SendUnasked(absl::string_view bytes) {
  for (const std::unique_ptr<Connection>& connection : connections_) {
    if (connection->stream == nullptr || !connection->had_data) continue;
    connection->output.Append(bytes.data(), bytes.size());
    Flush(connection.get());
  }
}

uint64_t FakeNode::commands(absl::string_view name) const {
  const auto it = seen_.find(name);
  return it == seen_.end() ? 0 : it->second;
}

const Value* FakeNode::Find(uint32_t key) const {
  return key < data_.size() ? data_[key].get() : nullptr;
}

// --- its turns

void FakeNode::OnAcceptable(Listener*) {
  if (!hung_) turn_.SetNoLaterThan(net_->now() + service_min_);
}

void FakeNode::Ready(Connection* connection) {
  if (connection->ready || connection->stream == nullptr) return;
  connection->ready = true;
  ready_.push_back(connection);
  if (!hung_) turn_.SetNoLaterThan(net_->now() + service_min_);
}

void FakeNode::Turn() {
  if (hung_) return;
  while (Stream* stream = listener_ != nullptr ? listener_->Accept() : nullptr) {
    auto connection = std::make_unique<Connection>();
    connection->node = this;
    connection->stream = stream;
    connection->client_id = ++last_client_id_;
    stream->set_observer(connection.get());
    Ready(connection.get());
    connections_.push_back(std::move(connection));
  }
  ApplyEffects(false);
  const bool slow = service_min_ >= kSlowService;
  size_t commands_left = slow ? 1 : kCommandsPerTurn;
  const size_t commands_at_first = commands_left;
  std::vector<Connection*> batch;
  batch.swap(ready_);
  for (Connection* connection : batch) connection->ready = false;
  Nanos next = kNever;  // when there is more to do, but for what comes anew
  for (size_t i = 0; i < batch.size(); ++i) {
    std::swap(batch[i], batch[i + net_->random()->Below(batch.size() - i)]);
    if (batch[i]->not_before > net_->now()) {
      Ready(batch[i]);
      next = std::min(next, batch[i]->not_before);
    } else if (commands_left == 0) {
      Ready(batch[i]);
    } else if (batch[i]->stream != nullptr) {
      ReadFrom(batch[i], &commands_left);
    }
  }
  Purge();
  Nanos busy = 0;
  for (size_t i = commands_left; i < commands_at_first; ++i) {
    busy += net_->random()->Between(service_min_, service_max_);
    if (!slow && i > commands_left + 4) break;
  }
  turn_.Stop();
  if (std::any_of(ready_.begin(), ready_.end(),
                  [this](const Connection* each) { return each->not_before <= net_->now(); }) ||
      (listener_ != nullptr && listener_->can_accept())) {
    next = net_->now();
  }
  if (next == kNever || hung_ || !alive()) return;
  turn_.Set(std::max(next, net_->now() + std::max(busy, service_min_)));
}

void FakeNode::ReadFrom(Connection* connection, size_t* commands_left) {
  Flush(connection);
  Stream* stream = connection->stream;
  if (stream == nullptr) return;
  const absl::string_view arrived = stream->arrived().substr(0, kReadBytes);
  if (!arrived.empty()) {
    connection->input.Append(arrived.data(), arrived.size());
    stream->Consume(arrived.size());
  }
  Args args;
  size_t at = 0;  // consumed of the input
  while (*commands_left > 0 && connection->stream != nullptr) {
    size_t used = 0;
    args.clear();
    if (!ParseCommand(connection->input.view().substr(at), &used, &args)) {
      net_->Fail(absl::StrCat("node ", number_, " got bytes that are no command: ",
                              absl::CHexEscape(connection->input.view().substr(at, 64))));
      return Close(connection, true);
    }
    if (used == 0) break;
    at += used;
    --*commands_left;
    if (!args.empty()) Execute(connection, args);
  }
  if (connection->stream == nullptr) return;
  connection->input.Consume(at);
  Flush(connection);
  if (connection->stream == nullptr) return;
  if (*commands_left == 0 || !stream->arrived().empty()) return Ready(connection);
  if (stream->ended()) Close(connection, false);
}

// False: not a request array. *used 0: not complete.
bool FakeNode::ParseCommand(absl::string_view input, size_t* used, Args* args) {
  size_t at = 0;
  int64_t count = 0;
  int taken = TakeNumber(input, '*', &at, &count);
  for (; taken == 1 && count > 0; --count) {
    int64_t length = 0;
    taken = TakeNumber(input, '$', &at, &length);
    if (taken != 1) break;
    if (input.size() < at + static_cast<size_t>(length) + 2) return true;
    args->push_back(input.substr(at, static_cast<size_t>(length)));
    at += static_cast<size_t>(length);
    if (input[at] != '\r' || input[at + 1] != '\n') return false;
    at += 2;
  }
  if (taken == 1) *used = at;
  return taken >= 0;
}

// --- commands

void FakeNode::Execute(Connection* connection, const Args& args) {
  char upper[32];
  const size_t length = std::min(args[0].size(), sizeof(upper));
  for (size_t i = 0; i < length; ++i) upper[i] = absl::ascii_toupper(args[0][i]);
  const absl::string_view name(upper, length);
  if (!answers_.empty() && answers_.front().first == name) {
    const std::string reply = std::move(answers_.front().second);
    answers_.pop_front();
    connection->asking &= connection->queueing;
    return Reply(connection, reply);
  }
  if (!cluster_->options_.password.empty() && !connection->authenticated && name != "AUTH") {
    return Reply(connection, ErrorLine("NOAUTH Authentication required."));
  }
  if (name == "MULTI" || name == "EXEC" || name == "DISCARD" || name == "WATCH") {
    ++seen_[std::string(name)];
    return ExecuteTransaction(connection, name, args);
  }
  if (connection->queueing) return Queue(connection, name, args);
  if (FindShape(name) != nullptr) return ExecuteOnData(connection, name, args);
  std::string full(name);
  if ((name == "CLUSTER" || name == "CLIENT" || name == "SCRIPT" || name == "FUNCTION") &&
      args.size() > 1) {
    absl::StrAppend(&full, " ", absl::AsciiStrToUpper(std::string(args[1])));
  }
  ++seen_[full];
  if (cluster_->options_.journals && name == "ASKING") journal_.push_back("ASKING");
  ExecuteOnConnection(connection, full, args);
}

void FakeNode::ExecuteOnConnection(Connection* connection, absl::string_view name,
                                   const Args& args) {
  if (name != "ASKING") connection->asking = false;
  if (name == "PING") return Reply(connection, "+PONG\r\n");
  if (name == "ASKING") {
    connection->asking = true;
    return Reply(connection, "+OK\r\n");
  }
  if (name == "READONLY" || name == "READWRITE") {
    connection->readonly = name == "READONLY";
    return Reply(connection, "+OK\r\n");
  }
  if (name == "AUTH") {
    connection->authenticated = args.back() == cluster_->options_.password;
    return Reply(connection, connection->authenticated
                                 ? "+OK\r\n"
                                 : "-WRONGPASS invalid username-password pair or user is "
                                   "disabled.\r\n");
  }
  if (name == "HELLO") {
    connection->resp3 = args.size() > 1 && args[1] == "3";
    std::string reply;
    resp::Encoder encoder(connection->resp3 ? resp::Protocol::kResp3 : resp::Protocol::kResp2,
                          &reply);
    encoder.Map(2);
    encoder.Bulk("server");
    encoder.Bulk(cluster_->options_.valkey ? "valkey" : "redis");
    encoder.Bulk("proto");
    encoder.Integer(connection->resp3 ? 3 : 2);
    return Reply(connection, reply);
  }
  if (name == "CLIENT SETNAME") {
    connection->name = std::string(args[2]);
    return Reply(connection, "+OK\r\n");
  }
  if (name == "CLIENT TRACKING") {  // ON BCAST
    connection->tracking = true;
    return Reply(connection, "+OK\r\n");
  }
  if (name == "CLIENT ID") {
    return Reply(connection, Integer(static_cast<int64_t>(connection->client_id)));
  }
  if (name == "CLIENT LIST" || name == "CLIENT KILL") {
    const uint64_t wanted = LeadingId(args.back());
    Connection* found = nullptr;
    for (const std::unique_ptr<Connection>& other : connections_) {
      if (other->stream != nullptr && other->client_id == wanted) found = other.get();
    }
    if (name == "CLIENT LIST") {
      const std::string line =
          found == nullptr
              ? ""
              : absl::StrCat("id=", found->client_id, " addr=10.9.9.9:1 laddr=", HostPort(),
                             " fd=8 name=", found->name, " age=1\n");
      return Reply(connection, Bulk(line));
    }
    if (found != nullptr) Close(found, false);
    if (found == connection) return;
    return Reply(connection, Integer(found != nullptr ? 1 : 0));
  }
  if (name == "CLUSTER MYID") return Reply(connection, Bulk(id_));
  if (name == "CLUSTER NODES") {
    const std::string text = NodesText();
    return Reply(connection, connection->resp3
                                 ? absl::StrCat("=", text.size() + 4, "\r\ntxt:", text, "\r\n")
                                 : Bulk(text));
  }
  if (name == "INFO" && args.size() > 1 && args[1] == "server") {
    return Reply(connection, Bulk(ServerText()));
  }
  if (name == "CLUSTER COUNTKEYSINSLOT" || name == "CLUSTER GETKEYSINSLOT") {
    return Reply(connection, KeysInSlot(args));
  }
  if (name == "INFO" && args.size() > 1) return Reply(connection, Bulk(ReplicationText()));
  if (name == "WAIT") return Reply(connection, Integer(AskReplicas()));
  if (name == "INFO") {
    return Reply(connection, Bulk(absl::StrCat(ServerText(), "maxmemory_policy:noeviction\r\n")));
  }
  if (name == "COMMAND") return Reply(connection, "*0\r\n");
  if (name == "FUNCTION LIST") return Reply(connection, "*0\r\n");
  if (absl::StartsWith(name, "SCRIPT ")) return Reply(connection, RunOnScripts(name, args));
  if (name == "DBSIZE" || name == "KEYS" || name == "FLUSHALL") {
    return Reply(connection, RunOnAllKeys(name));
  }
  if (ExecutePubSub(connection, name, args)) return;
  net_->Fail(absl::StrCat("node ", number_, " got a command that it does not expect: ", name));
  Reply(connection, ErrorLine(absl::StrCat("ERR unknown command '", args[0], "'")));
}

std::string FakeNode::RunOnScripts(absl::string_view name, const Args& args) {
  if (loading_) return ErrorLine(kLoading);
  if (name == "SCRIPT LOAD") {
    const std::string sha1 = proxy::Sha1Hex(args[2]);
    LearnScript(args[2]);
    return Bulk(sha1);
  }
  if (name == "SCRIPT FLUSH") {
    scripts_.clear();
    return "+OK\r\n";
  }
  if (name != "SCRIPT EXISTS") return ErrorLine("ERR unknown subcommand");
  std::string reply = absl::StrCat("*", args.size() - 2, "\r\n");
  for (size_t i = 2; i < args.size(); ++i) {
    absl::StrAppend(&reply, Integer(static_cast<int64_t>(scripts_.count(std::string(args[i])))));
  }
  return reply;
}

void FakeNode::LearnScript(absl::string_view text) {
  if (scripts_.emplace(proxy::Sha1Hex(text), std::string(text)).second)
    learned_script_at_ = net_->now();
}

// EVALSHA of a script that the node does not have: the error line; else empty.
std::string FakeNode::NoScript(absl::string_view name, const Args& args) const {
  if (name != "EVALSHA" || scripts_.count(absl::AsciiStrToLower(args[1])) > 0) return "";
  return cluster_->options_.valkey ? "NOSCRIPT No matching script."
                                   : "NOSCRIPT No matching script. Please use EVAL.";
}

// INFO server.
std::string FakeNode::ServerText() const {
  const FakeCluster::Options& options = cluster_->options_;
  std::string text = "# Server\r\nredis_version:7.2.4\r\n";
  if (options.valkey) absl::StrAppend(&text, "valkey_version:", options.valkey_version, "\r\n");
  absl::StrAppend(&text, "redis_mode:cluster\r\navailability_zone:", zone_, "\r\n");
  return text;
}

// INFO replication.
std::string FakeNode::ReplicationText() {
  if (!IsPrimary()) return absl::StrCat("role:slave\r\nmaster_repl_offset:", offset_, "\r\n");
  std::string text = "role:master\r\n";
  int number = 0;
  for (const int replica : cluster_->ReplicasOf(number_)) {
    const FakeNode& node = *cluster_->node(replica);
    if (!node.alive()) continue;
    absl::StrAppend(&text, "slave", number++, ":ip=", node.address_.ToString(),
                    ",state=online,offset=", node.acknowledged_, ",lag=0\r\n");
  }
  absl::StrAppend(&text, "master_replid:", id_, "\r\nmaster_repl_offset:", offset_, "\r\n");
  return text;
}

// WAIT for more replicas than there are, on a connection that has written nothing: who can says how
// far it has come, and nobody is waited for.
int64_t FakeNode::AskReplicas() {
  int64_t count = 0;
  for (const int replica : cluster_->ReplicasOf(number_)) {
    FakeNode& node = *cluster_->node(replica);
    if (!node.alive()) continue;
    ++count;
    if (node.hung_ || node.needs_copy_) continue;
    node.ApplyEffects(false);
    node.acknowledged_ = offset_ - static_cast<int64_t>(node.effects_.size());
  }
  return count;
}

// KEYS without a pattern.
std::string FakeNode::RunOnAllKeys(absl::string_view name) {
  if (cluster_->options_.journals) journal_.push_back(std::string(name));
  if (loading_) return ErrorLine(kLoading);
  if (name == "FLUSHALL" && !IsPrimary()) return ErrorLine(kReadOnly);
  int64_t count = 0;
  std::string elements;
  flushing_ = name == "FLUSHALL";
  for (uint32_t key = 0; key < data_.size(); ++key) {
    if (data_[key] == nullptr) continue;
    ++count;
    absl::StrAppend(&elements, Bulk(cluster_->keys_.name(key)));
    if (name == "FLUSHALL") Write(key, 0, nullptr);
  }
  flushing_ = false;
  if (name == "FLUSHALL") {
    TellOfAll();
    return "+OK\r\n";
  }
  return name == "DBSIZE" ? Integer(count) : absl::StrCat("*", count, "\r\n", elements);
}

// CLUSTER COUNTKEYSINSLOT and GETKEYSINSLOT tell what is here, whoever has the slot.
std::string FakeNode::KeysInSlot(const Args& args) {
  if (loading_) return ErrorLine(kLoading);
  const bool all = args.size() < 4;
  const int64_t limit = all ? std::numeric_limits<int64_t>::max() : ToInt(args[3]);
  int64_t count = 0;
  std::string elements;
  for (const uint32_t key : cluster_->keys_.keys_of(static_cast<cluster::Slot>(ToInt(args[2])))) {
    if (count == limit || Find(key) == nullptr) continue;
    ++count;
    absl::StrAppend(&elements, Bulk(cluster_->keys_.name(key)));
  }
  return all ? Integer(count) : absl::StrCat("*", count, "\r\n", elements);
}

// --- publish and subscribe

// False: the command is another one.
bool FakeNode::ExecutePubSub(Connection* connection, absl::string_view name, const Args& args) {
  const bool shard = name == "SPUBLISH" || name == "SSUBSCRIBE" || name == "SUNSUBSCRIBE";
  if (shard) {
    const cluster::Slot slot = cluster::SlotOf(args[1]);
    const int owner = view_->owner[slot];
    if (owner != number_) {
      Reply(connection,
            ErrorLine(owner < 0 ? "CLUSTERDOWN Hash slot not served"
                                : absl::StrCat("MOVED ", slot, " ",
                                               view_->peers[owner].address.ToString())));
      return true;
    }
  }
  if (name == "PUBLISH" || name == "SPUBLISH") {
    const int receivers = Deliver(args[1], args[2], shard);
    if (!shard) cluster_->Broadcast(number_, args[1], args[2]);
    Reply(connection, Integer(receivers));
    return true;
  }
  if (name == "PUBSUB") {
    Reply(connection, PubSubCount(args));
    return true;
  }
  if (!absl::EndsWith(name, "SUBSCRIBE")) return false;
  for (size_t i = 1; i < args.size(); ++i) Subscribe(connection, name, args[i]);
  return true;
}

// PUBSUB CHANNELS, NUMPAT or NUMSUB, without a pattern, of one channel.
std::string FakeNode::PubSubCount(const Args& args) const {
  if (args[1] == "NUMSUB") {
    return absl::StrCat(
        "*2\r\n", Bulk(args[2]),
        Integer(static_cast<int64_t>(Subscribers(absl::StrCat("channel:", args[2])))));
  }
  const absl::string_view kind = args[1] == "NUMPAT" ? "pattern:" : "channel:";
  std::set<std::string> names;
  for (const std::unique_ptr<Connection>& each : connections_) {
    if (each->stream == nullptr) continue;
    for (const std::string& topic : each->topics) {
      if (absl::StartsWith(topic, kind)) names.insert(topic.substr(kind.size()));
    }
  }
  if (args[1] == "NUMPAT") return Integer(static_cast<int64_t>(names.size()));
  std::string reply = absl::StrCat("*", names.size(), "\r\n");
  for (const std::string& each : names) absl::StrAppend(&reply, Bulk(each));
  return reply;
}

void FakeNode::Subscribe(Connection* connection, absl::string_view command,
                         absl::string_view name) {
  const absl::string_view kind =
      command[0] == 'P'                                                        ? "pattern:"
      : absl::StartsWith(command, "SSUB") || absl::StartsWith(command, "SUNS") ? "shard:"
                                                                               : "channel:";
  const std::string topic = absl::StrCat(kind, name);
  if (absl::StrContains(command, "UNSUBSCRIBE")) {
    connection->topics.erase(topic);
  } else {
    connection->topics.insert(topic);
  }
  Reply(connection, absl::StrCat(connection->resp3 ? ">" : "*", "3\r\n",
                                 Bulk(absl::AsciiStrToLower(std::string(command))), Bulk(name),
                                 Integer(static_cast<int64_t>(connection->topics.size()))));
}

size_t FakeNode::Subscribers(absl::string_view topic) const {
  return static_cast<size_t>(
      std::count_if(connections_.begin(), connections_.end(), [&](const auto& connection) {
        return connection->stream != nullptr && connection->topics.count(std::string(topic)) > 0;
      }));
}

int FakeNode::Deliver(absl::string_view channel, absl::string_view text, bool shard) {
  int receivers = 0;
  for (const std::unique_ptr<Connection>& connection : connections_) {
    if (connection->stream == nullptr) continue;
    const absl::string_view type = connection->resp3 ? ">" : "*";
    const size_t before = connection->output.size();
    for (const std::string& topic : connection->topics) {
      const absl::string_view name = absl::string_view(topic).substr(topic.find(':') + 1);
      std::string push;
      if (absl::StartsWith(topic, "pattern:")) {
        if (shard || !proxy::GlobMatches(name, channel, proxy::GlobCase::kSensitive)) continue;
        push = absl::StrCat(type, "4\r\n", Bulk("pmessage"), Bulk(name));
      } else {
        if (name != channel || shard != absl::StartsWith(topic, "shard:")) continue;
        push = absl::StrCat(type, "3\r\n", Bulk(shard ? "smessage" : "message"));
      }
      absl::StrAppend(&push, Bulk(channel), Bulk(text));
      connection->output.Append(push.data(), push.size());
      ++receivers;
    }
    if (connection->output.size() != before) Flush(connection.get());
  }
  return receivers;
}

void FakeNode::DeliverDue() {
  if (hung_ || !alive()) return;
  while (!published_.empty() && published_.front().due <= net_->now()) {
    const Published published = std::move(published_.front());
    published_.pop_front();
    Deliver(published.channel, published.text, false);
  }
  bus_.Stop();
  if (!published_.empty()) bus_.Set(published_.front().due);
}

// --- tracking

void FakeNode::TellOfChange(absl::string_view key) {
  if (!flushing_) TellTrackers(absl::StrCat("*1\r\n", Bulk(key)));
}

void FakeNode::TellTrackers(absl::string_view value) {
  const std::string push = absl::StrCat(">2\r\n", Bulk("invalidate"), value);
  for (const std::unique_ptr<Connection>& connection : connections_) {
    if (connection->stream == nullptr || !connection->tracking) continue;
    connection->output.Append(push.data(), push.size());
    Flush(connection.get());
  }
}

size_t FakeNode::Trackers() const {
  return static_cast<size_t>(
      std::count_if(connections_.begin(), connections_.end(), [](const auto& connection) {
        return connection->stream != nullptr && connection->tracking;
      }));
}

void FakeNode::DropTrackers() {
  for (const std::unique_ptr<Connection>& connection : connections_) {
    if (connection->stream != nullptr && connection->tracking) Close(connection.get(), true);
  }
}

// Who is subscribed to a shard channel whose slot has left is told that this is over.
void FakeNode::EndLostShardChannels() {
  for (const std::unique_ptr<Connection>& connection : connections_) {
    if (connection->stream == nullptr) continue;
    for (auto it = connection->topics.begin(); it != connection->topics.end();) {
      const std::string name = it->substr(it->find(':') + 1);
      if (!absl::StartsWith(*it, "shard:") || view_->owner[cluster::SlotOf(name)] == number_) {
        ++it;
        continue;
      }
      it = connection->topics.erase(it);
      const std::string push =
          absl::StrCat(connection->resp3 ? ">" : "*", "3\r\n", Bulk("sunsubscribe"), Bulk(name),
                       Integer(static_cast<int64_t>(connection->topics.size())));
      connection->output.Append(push.data(), push.size());
      Flush(connection.get());
    }
  }
}

FakeNode::Keys FakeNode::KeysOf(absl::string_view name, const Args& args) {
  const CommandShape* shape = FindShape(name);
  Keys keys;
  for (size_t i = static_cast<size_t>(shape->first_key); i < args.size();
       i += static_cast<size_t>(std::max(1, shape->keys_step))) {
    keys.push_back(cluster_->keys_.Intern(args[i]));
    if (!shape->all) break;
  }
  return keys;
}

void FakeNode::EndTransaction(Connection* connection) {
  connection->queueing = connection->abort = false;
  connection->queued.clear();
  connection->watched.clear();
}

void FakeNode::Queue(Connection* connection, absl::string_view name, const Args& args) {
  if (FindShape(name) == nullptr) {
    net_->Fail(absl::StrCat("node ", number_, " can't queue ", name));
    connection->abort = true;
    return Reply(connection, ErrorLine("ERR not known here"));
  }
  const Keys keys = KeysOf(name, args);
  const std::string refusal = Refusal(connection, FindShape(name)->write, keys);
  if (!refusal.empty()) {
    net_->Trace(absl::StrCat("not queued: ", refusal),
                static_cast<uint64_t>(number_) * 1000000 + keys[0], IdOf(name, args));
    connection->abort = true;
    return Reply(connection, ErrorLine(refusal));
  }
  connection->queued.emplace_back(args.begin(), args.end());
  Reply(connection, "+QUEUED\r\n");
}

void FakeNode::ExecuteTransaction(Connection* connection, absl::string_view name,
                                  const Args& args) {
  const bool asked = connection->asking;
  if (name != "MULTI" && !connection->queueing) connection->asking = false;
  if (name == "MULTI") {
    connection->queueing = true;
    return Reply(connection, "+OK\r\n");
  }
  if (name == "WATCH") {
    for (size_t i = 1; i < args.size(); ++i) {
      const uint32_t key = cluster_->keys_.Intern(args[i]);
      connection->asking = asked;
      const std::string refusal = Refusal(connection, false, {key});
      connection->asking = false;
      if (!refusal.empty()) return Reply(connection, ErrorLine(refusal));
      connection->watched.emplace_back(key, key < data_.size() ? data_[key] : nullptr);
    }
    return Reply(connection, "+OK\r\n");
  }
  if (!connection->queueing) {
    return Reply(connection, ErrorLine(absl::StrCat("ERR ", name, " without MULTI")));
  }
  const bool abort = connection->abort;
  const auto queued = std::move(connection->queued);
  const auto watched = std::move(connection->watched);
  EndTransaction(connection);
  if (name == "DISCARD") {
    connection->asking = false;
    return Reply(connection, "+OK\r\n");
  }
  Keys keys;
  bool write = false;
  for (const std::vector<std::string>& command : queued) {
    const Args views(command.begin(), command.end());
    const std::string upper = absl::AsciiStrToUpper(command[0]);
    write |= FindShape(upper)->write;
    for (const uint32_t key : KeysOf(upper, views)) keys.push_back(key);
  }
  const std::string refusal =
      abort || keys.empty() ? std::string() : Refusal(connection, write, keys);
  connection->asking = false;
  if (abort) {
    return Reply(connection,
                 ErrorLine("EXECABORT Transaction discarded because of previous errors."));
  }
  if (!refusal.empty()) return Reply(connection, ErrorLine(refusal));
  for (const auto& [key, value] : watched) {
    if ((key < data_.size() ? data_[key] : nullptr) == value) continue;
    return Reply(connection, connection->resp3 ? "_\r\n" : "*-1\r\n");
  }
  if (cluster_->options_.journals) journal_.push_back("EXEC");
  std::string replies = absl::StrCat("*", queued.size(), "\r\n");
  for (const std::vector<std::string>& command : queued) {
    const Args views(command.begin(), command.end());
    const std::string upper = absl::AsciiStrToUpper(command[0]);
    const Keys command_keys = KeysOf(upper, views);
    if (cluster_->options_.journals) {
      journal_.push_back(absl::StrCat(upper, " ", cluster_->keys_.name(command_keys[0])));
    }
    const std::string no_script = NoScript(upper, views);
    absl::StrAppend(&replies, no_script.empty()
                                  ? RunObserved(connection, upper, views, command_keys, asked)
                                  : ErrorLine(no_script));
  }
  Reply(connection, replies);
}

void FakeNode::ExecuteOnData(Connection* connection, absl::string_view name, const Args& args) {
  connection->had_data = true;
  const CommandShape* shape = FindShape(name);
  const Keys keys = KeysOf(name, args);
  if (keys.empty()) {
    return Reply(connection,
                 ErrorLine(absl::StrCat("ERR wrong number of arguments for '",
                                        absl::AsciiStrToLower(std::string(name)), "' command")));
  }
  const uint64_t id = IdOf(name, args);
  std::string refusal = Refusal(connection, shape->write, keys);
  if (refusal.empty()) refusal = NoScript(name, args);
  const bool asked = std::exchange(connection->asking, false);
  if (cluster_->options_.journals) {
    journal_.push_back(
        absl::StrCat(refusal.empty() ? "" : "!", name, " ", cluster_->keys_.name(keys[0])));
  }
  if (!refusal.empty()) {
    net_->Trace(refusal, static_cast<uint64_t>(number_) * 1000000 + keys[0], id);
    cluster_->observer_->OnRefused(id, asked, refusal);
    return Reply(connection, ErrorLine(refusal));
  }
  Reply(connection, RunObserved(connection, name, args, keys, asked));
}

// Runs it, and tells the observer. Returns the reply.
std::string FakeNode::RunObserved(Connection* connection, absl::string_view name, const Args& args,
                                  const Keys& keys, bool asked) {
  const CommandShape* shape = FindShape(name);
  const uint64_t id = IdOf(name, args);
  net_->Trace(asked ? "runs asked" : "runs", static_cast<uint64_t>(number_) * 1000000 + keys[0],
              id);
  bool wrote = false;
  scratch_ = Run(name, args, keys, connection->resp3, &wrote);
  Execution execution;
  execution.node = number_;
  execution.id = id;
  execution.write = shape->write;
  execution.asked = asked;
  execution.connection = connection->client_id;
  const Nanos left_at = connection->stream->peer_closed_at();
  execution.left_behind = left_at >= 0 && !CouldBeTold(left_at);
  execution.command = name;
  execution.reply = scratch_;
  for (const uint32_t key : keys) {
    const cluster::Slot slot = cluster_->keys_.slot(key);
    execution.key = key;
    execution.stored = Find(key);
    execution.authoritative =
        cluster_->truth_->owner[slot] == number_ || cluster_->MigrationTarget(slot) == number_;
    // Of a replica's reads: as far as it has followed.
    if (!IsPrimary()) execution.authoritative = true;
    execution.asked_too_late = asked && cluster_->IsStillToCome(slot, key, number_);
    execution.uncovers =
        execution.stored == nullptr && shape->write && cluster_->IsAtTarget(slot, key, number_);
    cluster_->observer_->OnExecuted(execution);
    if (!execution.authoritative && shape->write) cluster_->observer_->OnLost(id, key);
  }
  return scratch_;
}

std::string FakeNode::Refusal(Connection* connection, bool write, absl::Span<const uint32_t> keys) {
  const cluster::Slot slot = cluster_->keys_.slot(keys[0]);
  size_t there = 0;
  for (const uint32_t key : keys) {
    if (cluster_->keys_.slot(key) != slot) {
      return "CROSSSLOT Keys in request don't hash to the same slot";
    }
    if (Find(key) != nullptr) ++there;
  }
  const bool missing = there < keys.size();
  const int owner = view_->owner[slot];
  if (owner < 0) return std::string(kNotServed);
  if (cluster_down_ || rejoining_) return std::string(kDown);
  const auto migrating = migrating_.find(slot);
  const bool importing = importing_.count(slot) != 0;
  if (owner == number_) {
    if (migrating != migrating_.end() && missing) {
      if (there > 0) return std::string(kTryAgain);
      return absl::StrCat("ASK ", slot, " ", cluster_->node(migrating->second)->HostPort());
    }
  } else if (importing && connection->asking) {
    if (keys.size() > 1 && missing) return std::string(kTryAgain);
  } else {
    const bool replica_read =
        connection->readonly && !write && view_->peers[number_].primary == owner;
    if (!replica_read) {
      return absl::StrCat("MOVED ", slot, " ", view_->peers[owner].address.ToString());
    }
    if (primary_down_) return std::string(kPrimaryDown);
  }
  if (loading_) return std::string(kLoading);
  return "";
}

std::string FakeNode::Run(absl::string_view name, const Args& args, absl::Span<const uint32_t> keys,
                          bool resp3, bool* wrote) {
  const uint32_t key = keys[0];
  const uint64_t id = IdOf(name, args);
  const Value* value = Find(key);
  const auto text_of = [&](uint32_t k) -> std::string {
    const Value* found = Find(k);
    const bool is_text = found != nullptr && !found->is_list && !found->is_set;
    return is_text ? Bulk(found->text) : Null(resp3);
  };
  const auto set = [&](uint32_t k, absl::string_view text) {
    auto next = std::make_shared<Value>();
    next->text.assign(text.data(), text.size());
    Write(k, id, std::move(next));
    *wrote = true;
  };
  const bool list_command = name == "LPUSH" || name == "RPUSH" || name == "LPOP" ||
                            name == "RPOP" || name == "LRANGE" || name == "LLEN";
  const bool any_type = name == "SET" || name == "DEL" || name == "UNLINK" || name == "EXISTS" ||
                        name == "EXPIRE" || name == "MGET" || name == "MSET" || name == "TOUCH" ||
                        name == "EVAL" || name == "EVALSHA" || name == "DUMP" ||
                        name == "RESTORE" || name == "PEXPIRETIME";
  const bool set_command =
      name == "SADD" || name == "SMEMBERS" || name == "SCARD" || name == "SMISMEMBER";
  if (value != nullptr && !any_type &&
      (value->is_list != list_command || value->is_set != set_command || name == "ZCARD")) {
    return ErrorLine(kWrongType);
  }
  if (set_command) return RunOnSet(name, args, key, resp3, wrote);
  if (name == "ZCARD") return Integer(0);  // there are no sorted sets
  if (name == "PEXPIRETIME") return Integer(value == nullptr ? -2 : -1);
  if (name == "DUMP") {
    if (value == nullptr) return Null(resp3);
    const absl::string_view kind = value->is_set ? "set " : value->is_list ? "list " : "text ";
    return Bulk(absl::StrCat(
        kind, value->is_set || value->is_list ? absl::StrJoin(value->list, "\n") : value->text));
  }
  if (name == "RESTORE") {
    if (value != nullptr && !absl::c_linear_search(args, "REPLACE")) {
      return ErrorLine("BUSYKEY Target key name already exists.");
    }
    auto next = std::make_shared<Value>();
    absl::string_view payload = args[3];
    next->is_set = absl::ConsumePrefix(&payload, "set ");
    next->is_list = absl::ConsumePrefix(&payload, "list ");
    if (next->is_set || next->is_list) {
      next->list = absl::StrSplit(payload, '\n');
    } else if (absl::ConsumePrefix(&payload, "text ")) {
      next->text = std::string(payload);
    } else {
      return ErrorLine("ERR DUMP payload version or checksum are wrong");
    }
    Write(key, 0, std::move(next));
    *wrote = true;
    return "+OK\r\n";
  }
  if (name == "GET") return text_of(key);
  if (name == "SET") {
    set(key, args[2]);
    return "+OK\r\n";
  }
  if (name == "STRLEN") return Integer(value == nullptr ? 0 : value->text.size());
  if (name == "GETRANGE") return Bulk(value == nullptr ? "" : value->text);
  if (name == "APPEND") {
    const std::string text = absl::StrCat(value == nullptr ? "" : value->text, args[2]);
    set(key, text);
    return Integer(static_cast<int64_t>(text.size()));
  }
  if (name == "INCR" || name == "INCRBY") {
    const int64_t sum =
        (value == nullptr ? 0 : ToInt(value->text)) + (name == "INCR" ? 1 : ToInt(args[2]));
    set(key, absl::StrCat(sum));
    return Integer(sum);
  }
  if (name == "EXPIRE") {
    if (value == nullptr) return Integer(0);
    if (ToInt(args[2]) < 0) Write(key, id, nullptr);
    *wrote = true;
    return Integer(1);
  }
  if (name == "EVALSHA") {
    Args with_text = args;
    with_text[1] = scripts_[absl::AsciiStrToLower(args[1])];
    return Run("EVAL", with_text, keys, resp3, wrote);
  }
  if (name == "EVAL") {
    LearnScript(args[1]);
    // Scripts: "set", "get", or "fail <error>" after a set.
    if (args[1] == "get") return text_of(key);
    set(key, args[4]);
    absl::string_view script = args[1];
    if (absl::ConsumePrefix(&script, "fail ")) return ErrorLine(script);
    return "+OK\r\n";
  }
  if (name == "LPUSH" || name == "RPUSH") {
    auto next = value == nullptr ? std::make_shared<Value>() : std::make_shared<Value>(*value);
    next->is_list = true;
    const std::string element(args[2]);
    if (name == "LPUSH") {
      next->list.insert(next->list.begin(), element);
    } else {
      next->list.push_back(element);
    }
    const int64_t length = static_cast<int64_t>(next->list.size());
    Write(key, id, std::move(next));
    *wrote = true;
    return Integer(length);
  }
  if (name == "LPOP" || name == "RPOP") {
    if (value == nullptr) return Null(resp3);
    auto next = std::make_shared<Value>(*value);
    const std::string element = name == "LPOP" ? next->list.front() : next->list.back();
    if (name == "LPOP") {
      next->list.erase(next->list.begin());
    } else {
      next->list.pop_back();
    }
    if (next->list.empty()) next = nullptr;
    Write(key, 0, std::move(next));
    *wrote = true;
    return Bulk(element);
  }
  if (name == "LLEN") return Integer(value == nullptr ? 0 : value->list.size());
  if (name == "LRANGE") {
    std::string reply = absl::StrCat("*", value == nullptr ? 0 : value->list.size(), "\r\n");
    if (value != nullptr) {
      for (const std::string& element : value->list) absl::StrAppend(&reply, Bulk(element));
    }
    return reply;
  }
  if (name == "MGET") {
    std::string reply = absl::StrCat("*", keys.size(), "\r\n");
    for (const uint32_t k : keys) absl::StrAppend(&reply, text_of(k));
    return reply;
  }
  if (name == "MSET") {
    for (size_t i = 0; i < keys.size(); ++i) set(keys[i], args[2 + 2 * i]);
    return "+OK\r\n";
  }
  int64_t count = 0;  // DEL, UNLINK, EXISTS, TOUCH
  for (const uint32_t k : keys) {
    if (Find(k) == nullptr) continue;
    ++count;
    if (name == "DEL" || name == "UNLINK") Write(k, 0, nullptr);
  }
  *wrote = count > 0;
  return Integer(count);
}

std::string FakeNode::RunOnSet(absl::string_view name, const Args& args, uint32_t key, bool resp3,
                               bool* wrote) {
  const Value* value = Find(key);
  if (name == "SCARD") return Integer(value == nullptr ? 0 : value->list.size());
  if (name == "SMEMBERS") {
    std::string reply =
        absl::StrCat(resp3 ? "~" : "*", value == nullptr ? 0 : value->list.size(), "\r\n");
    if (value != nullptr) {
      for (const std::string& member : value->list) absl::StrAppend(&reply, Bulk(member));
    }
    return reply;
  }
  if (name == "SMISMEMBER") {
    std::string reply = absl::StrCat("*", args.size() - 2, "\r\n");
    for (size_t i = 2; i < args.size(); ++i) {
      const bool there = value != nullptr && absl::c_linear_search(value->list, args[i]);
      absl::StrAppend(&reply, Integer(there ? 1 : 0));
    }
    return reply;
  }
  auto next = value == nullptr ? std::make_shared<Value>() : std::make_shared<Value>(*value);
  next->is_set = true;
  int64_t added = 0;
  for (size_t i = 2; i < args.size(); ++i) {
    if (absl::c_linear_search(next->list, args[i])) continue;
    next->list.emplace_back(args[i]);
    ++added;
  }
  Write(key, 0, std::move(next));
  *wrote = true;
  return Integer(added);
}

std::string FakeNode::NodesText() {
  if (text_view_ != view_) {
    text_view_ = view_;
    text_.clear();
    const ClusterView& view = *view_;
    std::vector<std::string> ranges(view.peers.size());
    for (int slot = 0; slot < cluster::kSlotCount;) {
      const int owner = view.owner[slot];
      const int begin = slot;
      while (slot < cluster::kSlotCount && view.owner[slot] == owner) ++slot;
      if (owner < 0) continue;
      absl::StrAppend(&ranges[owner], " ", begin);
      if (slot - 1 > begin) absl::StrAppend(&ranges[owner], "-", slot - 1);
    }
    for (size_t i = 0; i < view.peers.size(); ++i) {
      const ClusterView::Peer& peer = view.peers[i];
      if (peer.gone) continue;
      const bool me = static_cast<int>(i) == number_;
      const int of = peer.primary >= 0 ? peer.primary : static_cast<int>(i);
      absl::StrAppend(&text_, cluster_->node(static_cast<int>(i))->id(), " ",
                      (me ? address_ : peer.address).ToString(), "@", peer.address.port() + 10000,
                      " ", me ? "myself," : "", peer.primary < 0 ? "master" : "slave",
                      peer.failed && !me ? ",fail" : "", " ",
                      peer.primary < 0 ? "-" : cluster_->node(peer.primary)->id(), " 0 0 ",
                      view.peers[of].epoch, " connected", ranges[i], me ? "\t" : "", "\n");
    }
    if (cluster_->options_.lost_node) {
      absl::StrAppend(&text_, std::string(40, 'f'), " :0@0 slave,noaddr ", cluster_->node(0)->id(),
                      " 0 0 1 disconnected\n");
    }
  }
  told_.emplace_back(view_, net_->now());
  while (told_.size() > kToldKept) told_.pop_front();
  std::string marks;
  for (const auto& [slot, to] : migrating_) {
    absl::StrAppend(&marks, " [", slot, "->-", cluster_->node(to)->id(), "]");
  }
  for (const auto& [slot, from] : importing_) {
    absl::StrAppend(&marks, " [", slot, "-<-", cluster_->node(from)->id(), "]");
  }
  std::string text = text_;
  text.replace(text.find('\t'), 1, marks);
  return text;
}

// --- data

void FakeNode::Write(uint32_t key, uint64_t id, ValuePtr value) {
  if (data_.size() <= key) data_.resize(cluster_->keys_.size());
  cluster_->Replicate(number_, key, id, value);
  data_[key] = std::move(value);
  TellOfChange(cluster_->keys_.name(key));
}

void FakeNode::ApplyEffects(bool all) {
  while (!effects_.empty() && (all || effects_.front().due <= net_->now())) {
    Effect& effect = effects_.front();
    if (data_.size() <= effect.key) data_.resize(effect.key + 1);
    data_[effect.key] = std::move(effect.value);
    TellOfChange(cluster_->keys_.name(effect.key));
    effects_.pop_front();
  }
}

void FakeNode::AdoptView(std::shared_ptr<const ClusterView> view) {
  rejoining_ = false;
  if (view == view_) return;
  const int before = view_ == nullptr ? -2 : view_->peers[number_].primary;
  view_ = std::move(view);
  const int now = view_->peers[number_].primary;
  for (auto it = migrating_.begin(); it != migrating_.end();) {
    const bool over = cluster_->MigrationTarget(it->first) < 0;
    it = view_->owner[it->first] == number_ && !over ? std::next(it) : migrating_.erase(it);
  }
  for (auto it = importing_.begin(); it != importing_.end();) {
    const bool over = cluster_->MigrationTarget(it->first) != number_;
    it = view_->owner[it->first] != number_ && !over ? std::next(it) : importing_.erase(it);
  }
  if (now >= 0 && (now != before || needs_copy_) && before != -2) {
    needs_copy_ = false;
    effects_.clear();
    cluster_->CopyData(now, number_);
  }
  EndLostShardChannels();
  net_->Trace("learns", static_cast<uint64_t>(number_));
}

void FakeNode::GossipFired(void* self) {
  FakeNode* node = static_cast<FakeNode*>(self);
  if (!node->hung_ && node->alive()) node->AdoptView(node->cluster_->truth_);
}

// --- bytes

void FakeNode::Reply(Connection* connection, absl::string_view bytes) {
  if (connection->stream == nullptr) return;
  if (net_->random()->Chance(garble_)) {
    static constexpr absl::string_view kGarbage[] = {
        "?what\r\n",        "$-2\r\n",  "$3\r\nabcd\r\n",
        "*99999999999\r\n", ":12a\r\n", ">2\r\n$3\r\nfoo\r\n$3\r\nbar\r\n"};
    const uint64_t kind = net_->random()->Below(std::size(kGarbage) + 1);
    if (kind < std::size(kGarbage)) {
      bytes = kGarbage[kind];
    } else {
      cut_after_ = 1 + net_->random()->Below(bytes.size());
    }
  }
  if (cut_after_ > 0) {
    bytes = bytes.substr(0, std::exchange(cut_after_, 0));
    connection->output.Append(bytes.data(), bytes.size());
    Flush(connection);
    if (connection->stream != nullptr) Close(connection, false);
    return;
  }
  connection->output.Append(bytes.data(), bytes.size());
}

void FakeNode::Flush(Connection* connection) {
  if (connection->stream == nullptr || hold_replies_) return;
  if (hold_all_but_invalidations_ && !connection->tracking) return;
  while (!connection->output.empty()) {
    const absl::string_view bytes = connection->output.view();
    const ssize_t n = connection->stream->Write(bytes.data(), bytes.size());
    if (n == -EAGAIN) return;
    if (n < 0) return Close(connection, false);
    connection->output.Consume(static_cast<size_t>(n));
  }
}

// It stays in the table until the end of the turn.
void FakeNode::Close(Connection* connection, bool reset) {
  Stream* stream = std::exchange(connection->stream, nullptr);
  if (reset) {
    stream->Abort();
  } else {
    stream->Close();
  }
}

void FakeNode::Purge() {
  const auto gone = [](const auto& connection) { return connection->stream == nullptr; };
  if (std::none_of(connections_.begin(), connections_.end(), gone)) return;
  ready_.erase(std::remove_if(ready_.begin(), ready_.end(), gone), ready_.end());
  connections_.erase(std::remove_if(connections_.begin(), connections_.end(), gone),
                     connections_.end());
}

}  // namespace sim
