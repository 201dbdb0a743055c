#include "proxy/config_commands.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cluster/router.h"
#include "proxy/args.h"
#include "proxy/every_node.h"
#include "proxy/log.h"
#include "proxy/server_info.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

constexpr absl::string_view kEventsParameter = "notify-keyspace-events";
constexpr absl::string_view kDatabasesParameter = "cluster-databases";

// Sorted. Those that the proxy decides itself are in OwnValue.
constexpr absl::string_view kShown[] = {
    "activedefrag",
    "appendfsync",
    "appendonly",
    "busy-reply-threshold",
    "client-output-buffer-limit",
    "client-query-buffer-limit",
    "cluster-enabled",
    "databases",
    "hash-max-listpack-entries",
    "hash-max-listpack-value",
    "hash-max-ziplist-entries",
    "hash-max-ziplist-value",
    "hll-sparse-max-bytes",
    "latency-monitor-threshold",
    "latency-tracking",
    "lazyfree-lazy-eviction",
    "lazyfree-lazy-expire",
    "lazyfree-lazy-server-del",
    "lazyfree-lazy-user-del",
    "lazyfree-lazy-user-flush",
    "lfu-decay-time",
    "lfu-log-factor",
    "list-compress-depth",
    "list-max-listpack-size",
    "list-max-ziplist-size",
    "lua-time-limit",
    "maxclients",
    "maxmemory",
    "maxmemory-clients",
    "maxmemory-eviction-tenacity",
    "maxmemory-policy",
    "maxmemory-samples",
    "notify-keyspace-events",
    "proto-max-bulk-len",
    "save",
    "set-max-intset-entries",
    "set-max-listpack-entries",
    "set-max-listpack-value",
    "slowlog-log-slower-than",
    "slowlog-max-len",
    "stream-node-max-bytes",
    "stream-node-max-entries",
    "timeout",
    "tracking-table-max-keys",
    "zset-max-listpack-entries",
    "zset-max-listpack-value",
    "zset-max-ziplist-entries",
    "zset-max-ziplist-value",
};

bool IsShown(absl::string_view lower_name) {
  return std::binary_search(std::begin(kShown), std::end(kShown), lower_name);
}

// What is the proxy's, whatever the node has. False: it is the node's.
bool OwnValue(const Config& config, int64_t databases, absl::string_view lower_name,
              std::string* value) {
  if (lower_name == "databases") {
    *value = absl::StrCat(databases);
  } else if (lower_name == "cluster-enabled") {
    *value = config.cluster_face ? "yes" : "no";
  } else if (lower_name == "maxclients") {
    *value = absl::StrCat(config.clients_max);
  } else if (lower_name == "proto-max-bulk-len") {
    *value = absl::StrCat(config.bulk_bytes_max);
  } else if (lower_name == "timeout") {
    *value = "0";  // of clients that say nothing
  } else {
    return false;
  }
  return true;
}

// The name's and value's texts of a parameter's pair of elements.
struct Parameter {
  absl::string_view name;
  absl::string_view value;
};

// False: not what a node answers to CONFIG GET.
bool ParseParameters(absl::string_view reply, std::vector<Parameter>* parameters) {
  if (reply.empty() || (reply[0] != '*' && reply[0] != '%')) return false;
  const std::vector<absl::string_view> elements = resp::ElementsOf(reply);
  if (elements.size() % 2 != 0) return false;
  for (size_t i = 0; i < elements.size(); i += 2) {
    Parameter parameter;
    if (!resp::ParseText(elements[i], &parameter.name) ||
        !resp::ParseText(elements[i + 1], &parameter.value)) {
      return false;
    }
    parameters->push_back(parameter);
  }
  return true;
}

// One primary answers: it knows its parameters and how they are matched. The list and the proxy's
// own values are put over that.
class ConfigGet final : public Procedure {
 public:
  ConfigGet(const cluster::CommandSpec& command, io::Rope frame)
      : command_(command), frame_(std::move(frame)) {}

  void Next(Step* step) override {
    if (step->asks.empty()) {
      Ask ask;
      ask.command = &command_;
      ask.frame = frame_;
      step->asks.push_back(std::move(ask));
      if (HasDatabases(step->worker->server())) step->asks.push_back(AskDatabases(step->worker));
      return;
    }
    for (Ask& ask : step->asks) {
      if (!ask.failed()) continue;
      step->reply = std::move(ask.reply);
      return;
    }
    const int64_t databases = step->asks.size() > 1 ? ReadDatabases(step->asks[1].reply) : 1;
    const std::string reply = step->asks[0].reply.Flatten();
    std::vector<Parameter> parameters;
    if (!ParseParameters(reply, &parameters)) return step->AnswerError(kBadReplyError);
    std::string pairs;
    resp::Encoder encoder(step->protocol, &pairs);
    int64_t count = 0;
    for (const Parameter& parameter : parameters) {
      const std::string name = absl::AsciiStrToLower(parameter.name);
      if (!IsShown(name)) continue;
      std::string own;
      const bool is_own = OwnValue(step->worker->config(), databases, name, &own);
      encoder.Bulk(parameter.name);  // as the client spells it
      encoder.Bulk(is_own ? own : parameter.value);
      ++count;
    }
    std::string shown;
    resp::Encoder(step->protocol, &shown).Map(count);
    step->Answer(absl::StrCat(shown, pairs));
  }
  size_t held_bytes() const override { return frame_.size(); }

 private:
  const cluster::CommandSpec& command_;
  const io::Rope frame_;
};

// --- CONFIG SET

constexpr absl::string_view kBadEvents =
    "ERR CONFIG SET failed (possibly related to argument 'notify-keyspace-events') - Invalid event "
    "class character. Use 'Ag$lshzxeKEtmdn'.";

// Asks all nodes what they have: a replica's turn comes with the next failover.
class ConfigSetEvents final : public EveryNode {
 public:
  ConfigSetEvents(absl::string_view wanted, std::string classes)
      : EveryNode(*cluster::FindSubcommand(*cluster::FindCommand("CONFIG"), "GET"),
                  Audience::kAllNodes, MakeFrame({"CONFIG", "GET", kEventsParameter})),
        wanted_(wanted),
        classes_(std::move(classes)) {}

 private:
  void NoteReplica(const Ask& ask) override {
    if (!ask.failed()) Compare(ask);
  }

  void Merge(Step* step, absl::Span<Ask> answered) override {
    for (const Ask& ask : answered) Compare(ask);
    if (missing_.empty()) return step->Answer("+OK\r\n");
    step->AnswerError(absl::StrCat("ERR proxy: CONFIG SET ", kEventsParameter,
                                   " is not supported, and not all nodes have it so: ", missing_,
                                   " (not executed)"));
  }

  void Compare(const Ask& ask) {
    if (!missing_.empty()) return;
    const std::string reply = ask.reply.Flatten();
    std::vector<Parameter> parameters;
    std::string has;
    const bool known = ParseParameters(reply, &parameters) && parameters.size() == 1 &&
                       ParseKeyspaceEvents(parameters[0].value, &has);
    if (known && std::includes(has.begin(), has.end(), classes_.begin(), classes_.end())) return;
    const std::string value = known ? std::string(parameters[0].value) : std::string();
    missing_ =
        absl::StrCat("node ", ask.node_name, " has '", value, "', wanted is '", wanted_, "'");
  }

  const std::string wanted_;
  const std::string classes_;
  std::string missing_;  // which node lacks it; empty: none does
};

}  // namespace

Ask AskDatabases(Worker* worker) {
  static const cluster::CommandSpec* const kCommand = new cluster::CommandSpec(
      AsRead(*cluster::FindSubcommand(*cluster::FindCommand("CONFIG"), "GET")));
  Ask ask;
  ask.command = kCommand;
  ask.frame = MakeFrame({"CONFIG", "GET", kDatabasesParameter});
  if (worker->cluster() == nullptr) return ask;
  // Whoever is there: all have the same number, or should.
  const cluster::Topology& topology = *worker->cluster()->topology;
  const absl::Span<const bool> usable = worker->backends()->Usable();
  for (const cluster::Shard& shard : topology.shards()) {
    if (!usable[shard.primary]) continue;
    ask.to = Ask::To::kPrimary;
    ask.node_id = topology.node(shard.primary).id;
    ask.node_name = NodeName(topology, shard.primary);
    break;
  }
  return ask;
}

int64_t ReadDatabases(const io::Rope& reply) {
  const std::string text = reply.Flatten();
  std::vector<Parameter> parameters;
  int64_t databases = 0;
  const bool told = ParseParameters(text, &parameters) && parameters.size() == 1 &&
                    absl::SimpleAtoi(parameters[0].value, &databases);
  return told ? databases : 1;
}

bool ParseKeyspaceEvents(absl::string_view value, std::string* classes) {
  // Redis, "Redis keyspace notifications": what 'A' stands for, and the others.
  constexpr absl::string_view kAll = "g$lshzxetd";
  constexpr absl::string_view kOthers = "KEmn";
  classes->clear();
  for (const char letter : value) {
    if (letter == 'A') {
      absl::StrAppend(classes, kAll);
    } else if (absl::StrContains(kAll, letter) || absl::StrContains(kOthers, letter)) {
      classes->push_back(letter);
    } else {
      return false;
    }
  }
  std::sort(classes->begin(), classes->end());
  classes->erase(std::unique(classes->begin(), classes->end()), classes->end());
  return true;
}

std::unique_ptr<Procedure> MakeConfigGet(const cluster::CommandSpec& command,
                                         const io::Rope& frame) {
  return std::make_unique<ConfigGet>(command, KeepFrame(frame));
}

std::unique_ptr<Procedure> MakeConfigSet(const cluster::CommandSpec&, const ArgList& args,
                                         std::string* error) {
  const absl::Span<const absl::string_view> pairs = args.views().subspan(2);
  if (pairs.size() % 2 != 0) {
    *error = "ERR syntax error";
    return nullptr;
  }
  for (size_t i = 0; i < pairs.size(); i += 2) {
    if (absl::EqualsIgnoreCase(pairs[i], kEventsParameter)) continue;
    *error = absl::StrCat("ERR proxy: CONFIG SET of '", EscapeForLog(pairs[i].substr(0, 128)),
                          "' is not supported (not executed)");
    return nullptr;
  }
  if (pairs.size() > 2) {
    *error = absl::StrCat("ERR CONFIG SET failed (possibly related to argument '", pairs[2],
                          "') - duplicate parameter");
    return nullptr;
  }
  std::string classes;
  if (!ParseKeyspaceEvents(pairs[1], &classes)) {
    *error = std::string(kBadEvents);
    return nullptr;
  }
  return std::make_unique<ConfigSetEvents>(pairs[1], std::move(classes));
}

}  // namespace proxy
