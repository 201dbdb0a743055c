// COMMAND and its subcommands: the servers' replies about the commands that the proxy serves.

#include <algorithm>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "cluster/router.h"
#include "proxy/command_docs.h"
#include "proxy/glob.h"
#include "proxy/learned_commands.h"
#include "proxy/local_handlers.h"
#include "proxy/server_info.h"

namespace proxy {
namespace {

using cluster::CommandSpec;
using cluster::FullName;
using Args = absl::Span<const absl::string_view>;
using Words = std::vector<absl::string_view>;

Words SplitWords(absl::string_view text) { return absl::StrSplit(text, ' ', absl::SkipEmpty()); }

// A command or subcommand with what clients are told of it.
struct Told {
  const CommandSpec* command = nullptr;
  const CommandDocs* docs = nullptr;  // null: none
};

// Nothing of what is refused, as of the table's.
Told ToldBy(const LearnedCommand* learned) {
  if (learned == nullptr) return Told();
  const CommandSpec& spec = learned->spec;
  if (spec.serve == cluster::Serve::kRefused && !spec.has_subcommands) return Told();
  return Told{&spec, &learned->docs};
}

// By its full name, "get" or "client|id", in any case.
Told FindTold(absl::string_view full_name, const LearnedCommands* learned) {
  const std::pair<absl::string_view, absl::string_view> names =
      absl::StrSplit(full_name, absl::MaxSplits('|', 1));
  Told told;
  told.command = cluster::FindCommand(names.first);
  if (told.command != nullptr && absl::StrContains(full_name, '|')) {
    told.command = cluster::FindSubcommand(*told.command, names.second);
  }
  if (told.command != nullptr) told.docs = FindCommandDocs(*told.command);
  if (told.command != nullptr || learned == nullptr) return told;
  const bool is_subcommand = absl::StrContains(full_name, '|');
  return ToldBy(learned->Find(is_subcommand ? names.first : absl::string_view(),
                              is_subcommand ? names.second : names.first));
}

// Learned ones of the container that are served, or have subcommands that are.
std::vector<Told> LearnedOf(absl::string_view container, const LearnedCommands* learned) {
  std::vector<Told> all;
  if (learned == nullptr) return all;
  const auto is_served = [](const LearnedCommand* command) {
    return command->spec.serve != cluster::Serve::kRefused;
  };
  for (const LearnedCommand* command : learned->all()) {
    if (command->container != container) continue;
    const bool has_served =
        command->spec.has_subcommands &&
        std::any_of(learned->all().begin(), learned->all().end(), [&](const LearnedCommand* other) {
          return other->container == command->name && is_served(other);
        });
    if (is_served(command) || has_served) all.push_back(ToldBy(command));
  }
  return all;
}

// Of the table's container with that name; of the empty one: all commands that are no subcommands.
std::vector<Told> ToldOf(absl::string_view container) {
  std::vector<Told> all;
  for (const CommandSpec& command : cluster::AllCommands()) {
    if (command.container != container) continue;
    const CommandDocs* docs = FindCommandDocs(command);
    if (docs != nullptr) all.push_back({&command, docs});
  }
  return all;
}

std::vector<Told> SubcommandsOf(const CommandSpec& command, const LearnedCommands* learned) {
  if (!command.has_subcommands) return {};
  std::vector<Told> all = ToldOf(command.name);
  for (const Told& told : LearnedOf(command.name, learned)) all.push_back(told);
  return all;
}

// Simple strings, as the servers write flags and categories.
void WriteWordSet(const Words& words, resp::Encoder* out) {
  out->Set(static_cast<int64_t>(words.size()));
  for (const absl::string_view word : words) out->Simple(word);
}

// --- COMMAND, COMMAND INFO

void WriteBeginSearch(const cluster::KeySpec& spec, resp::Encoder* out) {
  out->Bulk("begin_search");
  out->Map(2);
  out->Bulk("type");
  switch (spec.begin) {
    case cluster::BeginSearch::kUnknown:
      out->Bulk("unknown");
      out->Bulk("spec");
      out->Map(0);
      break;
    case cluster::BeginSearch::kIndex:
      out->Bulk("index");
      out->Bulk("spec");
      out->Map(1);
      out->Bulk("index");
      out->Integer(spec.index);
      break;
    case cluster::BeginSearch::kKeyword:
      out->Bulk("keyword");
      out->Bulk("spec");
      out->Map(2);
      out->Bulk("keyword");
      out->Bulk(spec.keyword);
      out->Bulk("startfrom");
      out->Integer(spec.index);
      break;
  }
}

void WriteFindKeys(const cluster::KeySpec& spec, resp::Encoder* out) {
  out->Bulk("find_keys");
  out->Map(2);
  out->Bulk("type");
  switch (spec.find) {
    case cluster::FindKeys::kUnknown:
      out->Bulk("unknown");
      out->Bulk("spec");
      out->Map(0);
      break;
    case cluster::FindKeys::kRange:
      out->Bulk("range");
      out->Bulk("spec");
      out->Map(3);
      out->Bulk("lastkey");
      out->Integer(spec.last_key);
      out->Bulk("keystep");
      out->Integer(spec.key_step);
      out->Bulk("limit");
      out->Integer(spec.limit);
      break;
    case cluster::FindKeys::kKeyNum:
      out->Bulk("keynum");
      out->Bulk("spec");
      out->Map(3);
      out->Bulk("keynumidx");
      out->Integer(spec.keynum_index);
      out->Bulk("firstkey");
      out->Integer(spec.first_key);
      out->Bulk("keystep");
      out->Integer(spec.key_step);
      break;
  }
}

void WriteKeySpecs(const Told& told, resp::Encoder* out) {
  const auto& specs = told.command->key_specs;
  out->Set(static_cast<int64_t>(specs.size()));
  for (size_t i = 0; i < specs.size(); ++i) {
    const KeySpecDocs& docs = told.docs->key_specs[i];
    out->Map(docs.notes.empty() ? 3 : 4);
    if (!docs.notes.empty()) {
      out->Bulk("notes");
      out->Bulk(docs.notes);
    }
    out->Bulk("flags");
    WriteWordSet(SplitWords(docs.flags), out);
    WriteBeginSearch(specs[i], out);
    WriteFindKeys(specs[i], out);
  }
}

void WriteInfo(const Told& told, const LearnedCommands* learned, resp::Encoder* out) {
  if (told.docs == nullptr) return out->Null();
  const CommandSpec& command = *told.command;
  out->Array(10);
  out->Bulk(FullName(command));
  out->Integer(command.arity);
  Words flags;
  for (const auto& [flag, name] : CommandFlagNames()) {
    if ((command.flags & flag) != 0) flags.push_back(name);
  }
  WriteWordSet(flags, out);
  out->Integer(told.docs->first_key);
  out->Integer(told.docs->last_key);
  out->Integer(told.docs->key_step);
  WriteWordSet(SplitWords(told.docs->categories), out);
  const Words tips = SplitWords(told.docs->tips);
  out->Set(static_cast<int64_t>(tips.size()));
  for (const absl::string_view tip : tips) out->Bulk(tip);
  WriteKeySpecs(told, out);
  const std::vector<Told> subcommands = SubcommandsOf(command, learned);
  if (!command.has_subcommands) return out->Set(0);  // sic
  out->Array(static_cast<int64_t>(subcommands.size()));
  for (const Told& subcommand : subcommands) WriteInfo(subcommand, learned, out);
}

std::vector<Told> AllCommands(const LearnedCommands* learned) {
  std::vector<Told> all = ToldOf("");
  for (const Told& told : LearnedOf("", learned)) all.push_back(told);
  return all;
}

void WriteAllInfo(const LearnedCommands* learned, resp::Encoder* out) {
  const std::vector<Told> all = AllCommands(learned);
  out->Array(static_cast<int64_t>(all.size()));
  for (const Told& told : all) WriteInfo(told, learned, out);
}

// --- COMMAND DOCS

// The pairs of one map: counted before they are written.
class DocsMap {
 public:
  void Text(absl::string_view key, absl::string_view value) {
    if (value.empty()) return;
    Always(key, [value](resp::Encoder* out) { out->Bulk(value); });
  }
  void WordSet(absl::string_view key, absl::string_view words) {
    if (words.empty()) return;
    Always(key, [words](resp::Encoder* out) { WriteWordSet(SplitWords(words), out); });
  }
  template <typename Write>
  void If(bool present, absl::string_view key, Write write) {
    if (present) Always(key, std::move(write));
  }
  void Write(resp::Encoder* out) const {
    out->Map(static_cast<int64_t>(pairs_.size()));
    for (const auto& [key, write] : pairs_) {
      out->Bulk(key);
      write(out);
    }
  }

 private:
  void Always(absl::string_view key, std::function<void(resp::Encoder*)> write) {
    pairs_.emplace_back(key, std::move(write));
  }
  std::vector<std::pair<absl::string_view, std::function<void(resp::Encoder*)>>> pairs_;
};

void WriteArguments(absl::Span<const ArgumentDocs> arguments, resp::Encoder* out) {
  out->Array(static_cast<int64_t>(arguments.size()));
  for (const ArgumentDocs& argument : arguments) {
    DocsMap map;
    map.Text("name", argument.name);
    map.Text("type", argument.type);
    map.Text("display_text", argument.display_text);
    map.If(argument.key_spec_index >= 0, "key_spec_index",
           [&](resp::Encoder* to) { to->Integer(argument.key_spec_index); });
    map.If(argument.token != nullptr, "token",
           [&](resp::Encoder* to) { to->Bulk(argument.token); });
    map.Text("summary", argument.summary);
    map.Text("since", argument.since);
    map.Text("deprecated_since", argument.deprecated_since);
    map.WordSet("flags", argument.flags);
    map.If(!argument.arguments.empty(), "arguments",
           [&](resp::Encoder* to) { WriteArguments(argument.arguments, to); });
    map.Write(out);
  }
}

void WriteHistory(absl::Span<const HistoryNote> history, resp::Encoder* out) {
  out->Set(static_cast<int64_t>(history.size()));
  for (const HistoryNote& note : history) {
    out->Array(2);
    out->Bulk(note.since);
    out->Bulk(note.change);
  }
}

void WriteDocsMap(const std::vector<Told>& commands, const LearnedCommands* learned,
                  resp::Encoder* out);

void WriteDocs(const Told& told, const LearnedCommands* learned, resp::Encoder* out) {
  const CommandDocs& docs = *told.docs;
  const std::vector<Told> subcommands = SubcommandsOf(*told.command, learned);
  DocsMap map;
  map.Text("summary", docs.summary);
  map.Text("since", docs.since);
  map.Text("group", docs.group);
  map.Text("complexity", docs.complexity);
  map.WordSet("doc_flags", docs.doc_flags);
  map.Text("deprecated_since", docs.deprecated_since);
  map.Text("replaced_by", docs.replaced_by);
  map.If(!docs.history.empty(), "history",
         [&](resp::Encoder* to) { WriteHistory(docs.history, to); });
  map.If(!docs.arguments.empty(), "arguments",
         [&](resp::Encoder* to) { WriteArguments(docs.arguments, to); });
  map.If(!subcommands.empty(), "subcommands",
         [&](resp::Encoder* to) { WriteDocsMap(subcommands, learned, to); });
  map.Write(out);
}

void WriteDocsMap(const std::vector<Told>& commands, const LearnedCommands* learned,
                  resp::Encoder* out) {
  out->Map(static_cast<int64_t>(commands.size()));
  for (const Told& told : commands) {
    out->Bulk(FullName(*told.command));
    WriteDocs(told, learned, out);
  }
}

void WriteAllDocs(const LearnedCommands* learned, resp::Encoder* out) {
  WriteDocsMap(AllCommands(learned), learned, out);
}

// A reply about all commands. Every client gets the same bytes, and writing them takes as long as
// serving hundreds of requests: it is done once, and again when other commands were learned.
class WholeReply {
 public:
  using Write = void (*)(const LearnedCommands* learned, resp::Encoder* out);
  explicit WholeReply(Write write) : write_(write) {}

  void AppendTo(const LocalCall& call) {
    const LearnedCommands* const learned = call.session->learned();
    const uint64_t number = learned == nullptr ? 0 : learned->number();
    const std::lock_guard<std::mutex> lock(mutex_);
    if (resp2_.empty() || number != learned_) {
      resp2_.clear();
      resp3_.clear();
      resp::Encoder resp2(resp::Protocol::kResp2, &resp2_);
      write_(learned, &resp2);
      resp::Encoder resp3(resp::Protocol::kResp3, &resp3_);
      write_(learned, &resp3);
      learned_ = number;
    }
    call.reply->append(call.session->protocol() == resp::Protocol::kResp2 ? resp2_ : resp3_);
  }

 private:
  const Write write_;
  std::mutex mutex_;  // all workers use it
  std::string resp2_;
  std::string resp3_;
  uint64_t learned_ = 0;  // LearnedCommands::number that they tell of; 0: none
};

// --- COMMAND LIST

// FILTERBY ACLCAT category, FILTERBY PATTERN glob; whose module a command is nobody says.
struct ListFilter {
  enum class Kind : uint8_t { kNone, kModule, kCategory, kPattern };
  Kind kind = Kind::kNone;
  absl::string_view value;

  bool Takes(const Told& told) const {
    switch (kind) {
      case Kind::kNone:
        return true;
      case Kind::kModule:
        return false;
      case Kind::kCategory: {
        const Words categories = SplitWords(told.docs->categories);
        return std::any_of(categories.begin(), categories.end(), [&](absl::string_view category) {
          return absl::EqualsIgnoreCase(category.substr(1), value);
        });
      }
      case Kind::kPattern:
        return GlobMatches(value, FullName(*told.command), GlobCase::kIgnored);
    }
    return false;
  }
};

bool ParseListFilter(Args args, ListFilter* filter) {
  if (args.empty()) return true;
  if (args.size() != 3 || !absl::EqualsIgnoreCase(args[0], "FILTERBY")) return false;
  filter->value = args[2];
  if (absl::EqualsIgnoreCase(args[1], "MODULE")) {
    filter->kind = ListFilter::Kind::kModule;
  } else if (absl::EqualsIgnoreCase(args[1], "ACLCAT")) {
    filter->kind = ListFilter::Kind::kCategory;
  } else if (absl::EqualsIgnoreCase(args[1], "PATTERN")) {
    filter->kind = ListFilter::Kind::kPattern;
  } else {
    return false;
  }
  return true;
}

// --- COMMAND GETKEYS, COMMAND GETKEYSANDFLAGS

struct KeyFound {
  uint32_t index;  // among the arguments of the command asked about
  absl::string_view flags;
};

// SET and BITFIELD read only, or write only, by their options ("variable_flags").
absl::string_view VariableFlags(const CommandSpec& command, Args args) {
  if (command.name == "SET") {
    const bool get =
        std::any_of(args.begin() + std::min<size_t>(3, args.size()), args.end(),
                    [](absl::string_view a) { return absl::EqualsIgnoreCase(a, "GET"); });
    return get ? "RW access update" : "OW update";
  }
  for (size_t i = 2; i < args.size(); ++i) {  // BITFIELD
    const size_t more = args.size() - i - 1;
    if (absl::EqualsIgnoreCase(args[i], "GET") && more >= 2) {
      i += 2;
    } else if (absl::EqualsIgnoreCase(args[i], "OVERFLOW") && more >= 1) {
      i += 1;
    } else {
      return "RW access update";
    }
  }
  return "RO access";
}

std::vector<KeyFound> FindKeysWithFlags(const Told& told, Args args) {
  std::vector<uint32_t> indexes;
  if (cluster::FindKeyIndexes(*told.command, args, &indexes) == cluster::KeySearch::kInvalid) {
    return {};
  }
  // Which specification finds which key.
  std::vector<KeyFound> by_spec;
  for (size_t i = 0; i < told.command->key_specs.size(); ++i) {
    CommandSpec one_spec = *told.command;
    one_spec.key_specs = told.command->key_specs.subspan(i, 1);
    std::vector<uint32_t> found;
    if (cluster::FindKeyIndexes(one_spec, args, &found) == cluster::KeySearch::kInvalid) continue;
    absl::string_view flags = told.docs->key_specs[i].flags;
    if (absl::StrContains(flags, "variable_flags")) flags = VariableFlags(*told.command, args);
    for (const uint32_t index : found) by_spec.push_back({index, flags});
  }
  if (by_spec.size() == indexes.size()) return by_spec;
  // SORT and GEORADIUS search for all keys at once: the first is read, the other is STORE's.
  std::vector<KeyFound> keys;
  for (const uint32_t index : indexes) {
    const bool first = keys.empty();
    keys.push_back(
        {index, first ? told.docs->key_specs.front().flags : told.docs->key_specs.back().flags});
  }
  return keys;
}

enum class KeyFlags : uint8_t { kWithout, kWith };

void AnswerKeys(const LocalCall& call, KeyFlags with) {
  // The arity of 7.2 is the table's.
  if (call.args.size() < 4 && IsBeforeRedis72(call.session->server())) {
    return call.Error(cluster::WrongArityError(call.command));
  }
  const Args args = call.args.subspan(2);
  const LearnedCommands* const learned = call.session->learned();
  Told told;
  told.command = cluster::FindCommand(args[0]);
  if (told.command != nullptr && told.command->has_subcommands && args.size() > 1) {
    told.command = cluster::FindSubcommand(*told.command, args[1]);
    if (told.command == nullptr && learned != nullptr)
      told = ToldBy(learned->Find(args[0], args[1]));
  } else if (told.command == nullptr && learned != nullptr) {
    const LearnedCommand* command = learned->Find("", args[0]);
    if (command != nullptr && command->spec.has_subcommands && args.size() > 1) {
      command = learned->Find(args[0], args[1]);
    }
    told = ToldBy(command);
  }
  if (told.command != nullptr && told.docs == nullptr) told.docs = FindCommandDocs(*told.command);
  if (told.docs == nullptr) return call.Error("ERR Invalid command specified");
  const auto& specs = told.command->key_specs;
  if (std::none_of(specs.begin(), specs.end(),
                   [](const cluster::KeySpec& spec) { return !spec.not_key; })) {
    return call.Error("ERR The command has no key arguments");
  }
  const auto count = static_cast<int64_t>(args.size());
  const int64_t arity = told.command->arity;
  if (arity > 0 ? count != arity : count < -arity) {
    return call.Error("ERR Invalid number of arguments specified for command");
  }
  const std::vector<KeyFound> keys = FindKeysWithFlags(told, args);
  if (keys.empty() && (told.command->flags & cluster::kFlagNoMandatoryKeys) == 0) {
    return call.Error("ERR Invalid arguments specified for command");
  }
  resp::Encoder out = call.Encode();
  out.Array(static_cast<int64_t>(keys.size()));
  for (const KeyFound& key : keys) {
    if (with == KeyFlags::kWith) out.Array(2);
    out.Bulk(args[key.index]);
    if (with == KeyFlags::kWith) WriteWordSet(SplitWords(key.flags), &out);
  }
}

}  // namespace

void AnswerCommand(const LocalCall& call) {
  static WholeReply& reply = *new WholeReply(WriteAllInfo);
  reply.AppendTo(call);
}

void AnswerCommandInfo(const LocalCall& call) {
  if (call.args.size() == 2) return AnswerCommand(call);
  resp::Encoder out = call.Encode();
  out.Array(static_cast<int64_t>(call.args.size() - 2));
  const LearnedCommands* const learned = call.session->learned();
  for (const absl::string_view name : call.args.subspan(2)) {
    WriteInfo(FindTold(name, learned), learned, &out);
  }
}

void AnswerCommandCount(const LocalCall& call) {
  call.Encode().Integer(static_cast<int64_t>(AllCommands(call.session->learned()).size()));
}

void AnswerCommandDocs(const LocalCall& call) {
  if (call.args.size() == 2) {
    static WholeReply& reply = *new WholeReply(WriteAllDocs);
    return reply.AppendTo(call);
  }
  const LearnedCommands* const learned = call.session->learned();
  std::vector<Told> wanted;
  for (const absl::string_view name : call.args.subspan(2)) {
    const Told told = FindTold(name, learned);
    if (told.docs != nullptr) wanted.push_back(told);
  }
  resp::Encoder out = call.Encode();
  WriteDocsMap(wanted, learned, &out);
}

void AnswerCommandList(const LocalCall& call) {
  ListFilter filter;
  if (!ParseListFilter(call.args.subspan(2), &filter)) return call.Error("ERR syntax error");
  std::vector<std::string> names;
  for (const CommandSpec& command : cluster::AllCommands()) {
    const Told told = {&command, FindCommandDocs(command)};
    if (told.docs != nullptr && filter.Takes(told)) names.push_back(FullName(command));
  }
  if (const LearnedCommands* const learned = call.session->learned(); learned != nullptr) {
    for (const LearnedCommand* command : learned->all()) {
      const Told told = ToldBy(command);
      if (command->spec.serve != cluster::Serve::kRefused && filter.Takes(told)) {
        names.push_back(FullName(command->spec));
      }
    }
  }
  resp::Encoder out = call.Encode();
  out.Array(static_cast<int64_t>(names.size()));
  for (const std::string& name : names) out.Bulk(name);
}

void AnswerCommandGetKeys(const LocalCall& call) { AnswerKeys(call, KeyFlags::kWithout); }

void AnswerCommandGetKeysAndFlags(const LocalCall& call) { AnswerKeys(call, KeyFlags::kWith); }

}  // namespace proxy
