// The part of FakeNode (tests/sim/fake_node.h) that concerns keys: the commands on them, alone and
// in transactions, scripts, and when a node refuses.

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "proxy/sha1.h"
#include "tests/sim/fake_cluster.h"
#include "tests/sim/fake_node.h"
#include "tests/sim/fake_node_parts.h"

namespace sim {
namespace {

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

const CommandShape* FindShape(absl::string_view name) {
  for (const CommandShape& shape : kShapes) {
    if (shape.name == name) return &shape;
  }
  return nullptr;
}

// --- commands on keys

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

const Value* FakeNode::Find(uint32_t key) const {
  return key < data_.size() ? data_[key].get() : nullptr;
}

// --- transactions

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

// --- scripts

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

}  // namespace sim
