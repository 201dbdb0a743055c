#include "proxy/learned_commands.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <tuple>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "resp/views.h"

namespace proxy {
namespace {

using cluster::CommandSpec;
using cluster::RequestPolicy;
using cluster::ResponsePolicy;
using cluster::Serve;

// Modules may be loaded at any time.
constexpr absl::Duration kLearnAgain = absl::Minutes(10);
// Of nodes that are in no topology any more.
constexpr size_t kNodesMax = 10000;

// What makes a command unfit for a connection that clients share, or for several nodes at once
// (tools/command_table/review.py has the same list).
constexpr uint32_t kStateful =
    cluster::kFlagAdmin | cluster::kFlagPubSub | cluster::kFlagNoScript | cluster::kFlagBlocking |
    cluster::kFlagNoMulti | cluster::kFlagNoAuth | cluster::kFlagAllowBusy | cluster::kFlagAsking;

using Frames = std::vector<absl::string_view>;

// The text of a simple or bulk string; empty for anything else.
absl::string_view TextOf(absl::string_view frame) {
  absl::string_view text;
  return resp::ParseText(frame, &text) ? text : absl::string_view();
}

// False: no number, or not one of this size.
bool NumberOf(absl::string_view frame, int16_t* number) {
  int64_t value = 0;
  if (!resp::ParseInteger(frame, &value)) return false;
  if (value < std::numeric_limits<int16_t>::min() || value > std::numeric_limits<int16_t>::max()) {
    return false;
  }
  *number = static_cast<int16_t>(value);
  return true;
}

// Words of a set, with spaces between them: those that are words.
std::string WordsOf(absl::string_view frame) {
  std::string words;
  for (const absl::string_view element : resp::ElementsOf(frame)) {
    const absl::string_view word = TextOf(element);
    const bool plain = !word.empty() && std::all_of(word.begin(), word.end(),
                                                    [](char c) { return c > ' ' && c < 0x7f; });
    if (plain) absl::StrAppend(&words, words.empty() ? "" : " ", word);
  }
  return words;
}

// The value of a map's key; empty: it has none.
absl::string_view FieldOf(const Frames& map, absl::string_view key) {
  for (size_t i = 0; i + 1 < map.size(); i += 2) {
    if (TextOf(map[i]) == key) return map[i + 1];
  }
  return absl::string_view();
}

bool IsName(absl::string_view name) {
  return !name.empty() && name.size() <= CommandLearner::kNameBytesMax &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

uint32_t FlagsOf(absl::string_view words) {
  uint32_t flags = 0;
  for (const absl::string_view word : absl::StrSplit(words, ' ')) {
    for (const auto& [flag, name] : CommandFlagNames()) {
      if (word == name) flags |= flag;
    }
  }
  return flags;
}

RequestPolicy RequestPolicyOf(absl::string_view tips) {
  for (absl::string_view tip : absl::StrSplit(tips, ' ')) {
    if (!absl::ConsumePrefix(&tip, "request_policy:")) continue;
    if (tip == "all_nodes") return RequestPolicy::kAllNodes;
    if (tip == "all_shards") return RequestPolicy::kAllShards;
    if (tip == "multi_shard") return RequestPolicy::kMultiShard;
    return RequestPolicy::kSpecial;
  }
  return RequestPolicy::kNone;
}

ResponsePolicy ResponsePolicyOf(absl::string_view tips) {
  for (absl::string_view tip : absl::StrSplit(tips, ' ')) {
    if (!absl::ConsumePrefix(&tip, "response_policy:")) continue;
    if (tip == "one_succeeded") return ResponsePolicy::kOneSucceeded;
    if (tip == "all_succeeded") return ResponsePolicy::kAllSucceeded;
    if (tip == "agg_logical_and") return ResponsePolicy::kAggLogicalAnd;
    if (tip == "agg_sum") return ResponsePolicy::kAggSum;
    return ResponsePolicy::kSpecial;
  }
  return ResponsePolicy::kNone;
}

// How it is served, by flag, not by list.
Serve ServeOf(const CommandSpec& spec) {
  if (spec.has_subcommands || (spec.flags & kStateful) != 0) return Serve::kRefused;
  const bool routable = std::any_of(spec.key_specs.begin(), spec.key_specs.end(),
                                    [](const cluster::KeySpec& key_spec) {
                                      return key_spec.begin != cluster::BeginSearch::kUnknown &&
                                             key_spec.find != cluster::FindKeys::kUnknown;
                                    });
  if (routable) return Serve::kOneSlot;
  // It has keys, and nobody says where.
  if (!spec.key_specs.empty() || (spec.flags & cluster::kFlagMovableKeys) != 0) {
    return Serve::kRefused;
  }
  if (spec.request_policy == RequestPolicy::kAllNodes ||
      spec.request_policy == RequestPolicy::kAllShards) {
    switch (spec.response_policy) {
      case ResponsePolicy::kOneSucceeded:
      case ResponsePolicy::kAllSucceeded:
      case ResponsePolicy::kAggLogicalAnd:
      case ResponsePolicy::kAggSum:
        return Serve::kWholeCluster;
      default:
        return Serve::kRefused;
    }
  }
  // One node answers for all, if it changes nothing.
  const bool any_node =
      spec.request_policy == RequestPolicy::kNone && (spec.flags & cluster::kFlagWrite) == 0;
  return any_node ? Serve::kKeyless : Serve::kRefused;
}

// --- key specifications

bool ParseBegin(absl::string_view frame, cluster::KeySpec* spec, std::string* keyword) {
  const Frames begin = resp::ElementsOf(frame);
  const absl::string_view type = TextOf(FieldOf(begin, "type"));
  const Frames how = resp::ElementsOf(FieldOf(begin, "spec"));
  if (type == "index") {
    spec->begin = cluster::BeginSearch::kIndex;
    return NumberOf(FieldOf(how, "index"), &spec->index) && spec->index > 0;
  }
  if (type == "keyword") {
    spec->begin = cluster::BeginSearch::kKeyword;
    *keyword = std::string(TextOf(FieldOf(how, "keyword")));
    return IsName(*keyword) && NumberOf(FieldOf(how, "startfrom"), &spec->index) &&
           spec->index != 0;
  }
  return type == "unknown";
}

bool ParseFind(absl::string_view frame, cluster::KeySpec* spec) {
  const Frames find = resp::ElementsOf(frame);
  const absl::string_view type = TextOf(FieldOf(find, "type"));
  const Frames how = resp::ElementsOf(FieldOf(find, "spec"));
  if (type == "range") {
    spec->find = cluster::FindKeys::kRange;
    return NumberOf(FieldOf(how, "lastkey"), &spec->last_key) &&
           NumberOf(FieldOf(how, "keystep"), &spec->key_step) && spec->key_step > 0 &&
           NumberOf(FieldOf(how, "limit"), &spec->limit) && spec->limit >= 0;
  }
  if (type == "keynum") {
    spec->find = cluster::FindKeys::kKeyNum;
    return NumberOf(FieldOf(how, "keynumidx"), &spec->keynum_index) && spec->keynum_index >= 0 &&
           NumberOf(FieldOf(how, "firstkey"), &spec->first_key) && spec->first_key >= 0 &&
           NumberOf(FieldOf(how, "keystep"), &spec->key_step) && spec->key_step > 0;
  }
  return type == "unknown";
}

bool ParseKeySpecs(absl::string_view frame, LearnedCommand* command) {
  const Frames specs = resp::ElementsOf(frame);
  if (specs.size() > CommandLearner::kKeySpecsMax) return false;
  for (const absl::string_view element : specs) {
    const Frames map = resp::ElementsOf(element);
    cluster::KeySpec spec;
    std::string keyword;
    if (!ParseBegin(FieldOf(map, "begin_search"), &spec, &keyword) ||
        !ParseFind(FieldOf(map, "find_keys"), &spec)) {
      return false;
    }
    std::string flags = WordsOf(FieldOf(map, "flags"));
    spec.not_key = absl::StrContains(flags, "not_key");
    spec.incomplete = absl::StrContains(flags, "incomplete");
    command->key_specs.push_back(spec);
    command->keywords.push_back(std::move(keyword));
    command->key_flags.push_back(std::move(flags));
  }
  return true;
}

// What servers say that have no key specifications.
void KeySpecFromPositions(const CommandDocs& docs, LearnedCommand* command) {
  if (docs.first_key <= 0 || docs.key_step <= 0) return;
  cluster::KeySpec spec;
  spec.begin = cluster::BeginSearch::kIndex;
  spec.index = docs.first_key;
  spec.find = cluster::FindKeys::kRange;
  spec.last_key =
      docs.last_key < 0 ? docs.last_key : static_cast<int16_t>(docs.last_key - docs.first_key);
  spec.key_step = docs.key_step;
  command->key_specs.push_back(spec);
  command->keywords.emplace_back();
  command->key_flags.emplace_back();
}

// The views of what it owns, when that does not change any more.
void Finish(LearnedCommand* command) {
  for (size_t i = 0; i < command->key_specs.size(); ++i) {
    command->key_specs[i].keyword = command->keywords[i];
    command->key_docs.push_back({command->key_flags[i]});
  }
  CommandSpec& spec = command->spec;
  spec.name = command->name;
  spec.container = command->container;
  spec.id = std::numeric_limits<uint16_t>::max();  // no row of the table
  spec.key_specs = command->key_specs;
  spec.request_policy = RequestPolicyOf(command->tips);
  spec.response_policy = ResponsePolicyOf(command->tips);
  spec.serve = ServeOf(spec);
  spec.single_first_key =
      spec.serve == Serve::kOneSlot && spec.key_specs.size() == 1 &&
      spec.key_specs[0].begin == cluster::BeginSearch::kIndex && spec.key_specs[0].index == 1 &&
      spec.key_specs[0].find == cluster::FindKeys::kRange && spec.key_specs[0].last_key == 0;
  CommandDocs& docs = command->docs;
  docs.id = spec.id;
  docs.categories = command->categories;
  docs.tips = command->tips;
  docs.key_specs = command->key_docs;
  docs.group = "module";
}

// All that is told of it, in one text.
std::string FactsOf(const LearnedCommand& command) {
  const CommandSpec& spec = command.spec;
  std::string facts = absl::StrCat(
      command.container, "|", command.name, " ", spec.arity, " ", spec.flags, " ",
      spec.has_subcommands ? 1 : 0, " ", command.docs.first_key, " ", command.docs.last_key, " ",
      command.docs.key_step, "\n", command.categories, "\n", command.tips);
  for (size_t i = 0; i < command.key_specs.size(); ++i) {
    const cluster::KeySpec& key = command.key_specs[i];
    absl::StrAppend(&facts, "\n", static_cast<int>(key.begin), " ", key.index, " ",
                    static_cast<int>(key.find), " ", key.last_key, " ", key.key_step, " ");
    absl::StrAppend(&facts, key.limit, " ", key.keynum_index, " ", key.first_key, " ",
                    command.keywords[i], " ", command.key_flags[i]);
  }
  return facts;
}

// One element of COMMAND's reply, not finished; null: it can't be read. The name is the full one.
std::unique_ptr<LearnedCommand> Parse(const Frames& fields) {
  if (fields.size() < 6) return nullptr;
  auto command = std::make_unique<LearnedCommand>();
  CommandSpec& spec = command->spec;
  CommandDocs& docs = command->docs;
  const std::string full_name = absl::AsciiStrToUpper(TextOf(fields[0]));
  const std::pair<absl::string_view, absl::string_view> names =
      absl::StrSplit(full_name, absl::MaxSplits('|', 1));
  const bool is_subcommand = absl::StrContains(full_name, '|');
  if (!IsName(names.first) || (is_subcommand && !IsName(names.second))) return nullptr;
  command->name = std::string(is_subcommand ? names.second : names.first);
  if (is_subcommand) command->container = std::string(names.first);
  if (!NumberOf(fields[1], &spec.arity) || spec.arity == 0 ||
      !NumberOf(fields[3], &docs.first_key) || !NumberOf(fields[4], &docs.last_key) ||
      !NumberOf(fields[5], &docs.key_step)) {
    return nullptr;
  }
  spec.flags = FlagsOf(WordsOf(fields[2]));
  if (fields.size() > 6) command->categories = WordsOf(fields[6]);
  if (fields.size() > 7) command->tips = WordsOf(fields[7]);
  if (fields.size() > 8) {
    if (!ParseKeySpecs(fields[8], command.get())) return nullptr;
  } else {
    KeySpecFromPositions(docs, command.get());
  }
  if (fields.size() > 9) spec.has_subcommands = !resp::ElementsOf(fields[9]).empty();
  return command;
}

uint64_t NextNumber() {
  static std::atomic<uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

bool Before(const LearnedCommand* a, const LearnedCommand* b) {
  return std::tie(a->container, a->name) < std::tie(b->container, b->name);
}

}  // namespace

// --- LearnedCommands

LearnedCommands::LearnedCommands(std::vector<const LearnedCommand*> all,
                                 std::shared_ptr<const void> keep)
    : number_(NextNumber()), all_(std::move(all)), keep_(std::move(keep)) {}

const LearnedCommand* LearnedCommands::Find(absl::string_view container,
                                            absl::string_view name) const {
  if (name.size() > CommandLearner::kNameBytesMax) return nullptr;
  const std::string wanted = absl::AsciiStrToUpper(name);
  const std::string within = absl::AsciiStrToUpper(container);
  const auto found = std::lower_bound(
      all_.begin(), all_.end(), wanted, [&](const LearnedCommand* command, const std::string&) {
        return std::tie(command->container, command->name) < std::tie(within, wanted);
      });
  if (found == all_.end() || (*found)->container != within || (*found)->name != wanted) {
    return nullptr;
  }
  return *found;
}

cluster::Lookup LookUpLearned(const LearnedCommands* learned, cluster::Lookup before,
                              absl::string_view first, absl::string_view second, int64_t arg_count,
                              const CommandSpec** command) {
  if (learned == nullptr) return before;
  const LearnedCommand* found = nullptr;
  if (before == cluster::Lookup::kUnknownSubcommand) {
    found = learned->Find(first, second);
    if (found == nullptr) return before;
  } else {
    found = learned->Find("", first);
    if (found == nullptr) return before;
    if (found->spec.has_subcommands && arg_count > 1) {
      *command = &found->spec;
      found = learned->Find(first, second);
      if (found == nullptr) return cluster::Lookup::kUnknownSubcommand;
    }
  }
  *command = &found->spec;
  return cluster::ArityAccepts(found->spec, arg_count) ? cluster::Lookup::kFound
                                                       : cluster::Lookup::kWrongArity;
}

// --- CommandLearner

// Grows only. Touched by the learner's thread alone; others hold what is in it.
struct CommandLearner::Store {
  absl::btree_map<std::string, std::unique_ptr<const LearnedCommand>> by_facts;
};

CommandLearner::CommandLearner() : store_(std::make_shared<Store>()) {}

bool CommandLearner::Wants(absl::string_view node_id, absl::Time now) const {
  const auto node = nodes_.find(node_id);
  return node == nodes_.end() || node->second.outdated ||
         node->second.learned_at + kLearnAgain < now;
}

void CommandLearner::NoteVersion(absl::string_view node_id, absl::string_view version) {
  const auto node = nodes_.find(node_id);
  if (node != nodes_.end() && node->second.version != version) node->second.outdated = true;
}

void CommandLearner::Learn(absl::string_view node_id, absl::string_view version,
                           absl::string_view reply, absl::Time now) {
  if (nodes_.size() >= kNodesMax) nodes_.clear();
  Node& node = nodes_[node_id];
  node.version = std::string(version);
  node.learned_at = now;
  node.outdated = false;
  node.commands = TakeAll(reply);
}

std::vector<const LearnedCommand*> CommandLearner::TakeAll(absl::string_view reply) {
  std::vector<const LearnedCommand*> taken;
  const auto take = [&](const Frames& fields) {
    std::unique_ptr<LearnedCommand> command = Parse(fields);
    if (command == nullptr || taken.size() >= kOfOneNodeMax) return;
    const LearnedCommand* const kept = Intern(std::move(command));
    if (kept != nullptr) taken.push_back(kept);
  };
  if (reply.empty() || reply[0] != '*') return taken;
  for (const absl::string_view element : resp::ElementsOf(reply)) {
    const Frames fields = resp::ElementsOf(element);
    if (fields.empty()) continue;
    const CommandSpec* const known = cluster::FindCommand(TextOf(fields[0]));
    if (known == nullptr) take(fields);
    if (fields.size() < 10) continue;
    for (const absl::string_view sub_element : resp::ElementsOf(fields[9])) {
      const Frames sub_fields = resp::ElementsOf(sub_element);
      if (sub_fields.empty()) continue;
      const std::pair<absl::string_view, absl::string_view> names =
          absl::StrSplit(TextOf(sub_fields[0]), absl::MaxSplits('|', 1));
      const bool is_known = known != nullptr && known->has_subcommands &&
                            cluster::FindSubcommand(*known, names.second) != nullptr;
      // A command that has got subcommands since would need them looked for.
      if (!is_known && (known == nullptr || known->has_subcommands)) take(sub_fields);
    }
  }
  std::sort(taken.begin(), taken.end(), Before);
  taken.erase(
      std::unique(taken.begin(), taken.end(),
                  [](const LearnedCommand* a, const LearnedCommand* b) { return !Before(a, b); }),
      taken.end());
  return taken;
}

// Null: there are too many.
const LearnedCommand* CommandLearner::Intern(std::unique_ptr<LearnedCommand> command) {
  const std::string facts = FactsOf(*command);
  const auto known = store_->by_facts.find(facts);
  if (known != store_->by_facts.end()) return known->second.get();
  if (store_->by_facts.size() >= kEverMax) return nullptr;
  Finish(command.get());
  const LearnedCommand* const kept = command.get();
  store_->by_facts.emplace(facts, std::move(command));
  return kept;
}

std::shared_ptr<const LearnedCommands> CommandLearner::Of(const cluster::Topology& topology) {
  absl::btree_map<std::pair<absl::string_view, absl::string_view>, const LearnedCommand*> by_name;
  for (const cluster::Node& node : topology.nodes()) {
    const auto known = nodes_.find(node.id);
    if (known == nodes_.end() || !node.usable()) continue;
    for (const LearnedCommand* command : known->second.commands) {
      const LearnedCommand*& chosen = by_name[{command->container, command->name}];
      // Of several versions the one that asks for most care: no node may take it for less.
      const auto care = [](const LearnedCommand& of) {
        return std::pair(of.spec.serve == Serve::kRefused, of.spec.flags & cluster::kFlagWrite);
      };
      if (chosen == nullptr || care(*chosen) < care(*command)) chosen = command;
    }
  }
  std::vector<const LearnedCommand*> all;
  for (const auto& [name, command] : by_name) all.push_back(command);
  if (all != current_all_) {
    current_all_ = all;
    current_ =
        all.empty() ? nullptr : std::make_shared<const LearnedCommands>(std::move(all), store_);
  }
  return current_;
}

}  // namespace proxy
