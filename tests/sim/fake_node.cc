#include "tests/sim/fake_node.h"

#include <algorithm>
#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "resp/encoder.h"
#include "tests/sim/fake_cluster.h"
#include "tests/sim/fake_node_parts.h"

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

// A header line's number; moves *at behind it. 1: taken, 0: not all there, -1: not of that form.
int TakeNumber(absl::string_view input, char type, size_t* at, int64_t* number) {
  const size_t end = input.find('\n', *at);
  if (*at < input.size() && input[*at] != type) return -1;
  if (end == absl::string_view::npos) return 0;
  if (!absl::SimpleAtoi(input.substr(*at + 1, end - *at - 2), number)) return -1;
  *at = end + 1;
  return 1;
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

// --- its view

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
