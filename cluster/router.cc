#include "cluster/router.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "resp/views.h"

namespace cluster {

namespace {

// The servers' "%.128s".
constexpr size_t kQuotedBytesMax = 128;

// What a server's "%.*s" prints: up to a zero byte.
absl::string_view Printed(absl::string_view text, size_t bytes_max) {
  text = text.substr(0, bytes_max);
  return text.substr(0, text.find('\0'));
}

// An error is one line.
std::string WithoutLineEnds(std::string text) {
  for (char& c : text) {
    if (c == '\r' || c == '\n') c = ' ';
  }
  return text;
}

}  // namespace

Lookup LookUpCommand(absl::string_view first, absl::string_view second, int64_t arg_count,
                     const CommandSpec** command) {
  *command = FindCommand(first);
  if (*command == nullptr) return Lookup::kUnknownCommand;
  if ((*command)->has_subcommands && arg_count > 1) {
    const CommandSpec* subcommand = FindSubcommand(**command, second);
    if (subcommand == nullptr) return Lookup::kUnknownSubcommand;
    *command = subcommand;
  }
  return ArityAccepts(**command, arg_count) ? Lookup::kFound : Lookup::kWrongArity;
}

std::string UnknownCommandError(absl::Span<const absl::string_view> args) {
  std::string begin;
  for (size_t i = 1; i < args.size() && begin.size() < kQuotedBytesMax; ++i) {
    absl::StrAppend(&begin, "'", Printed(args[i], kQuotedBytesMax - begin.size()), "' ");
  }
  const absl::string_view name = args.empty() ? absl::string_view() : args[0];
  return WithoutLineEnds(absl::StrCat("ERR unknown command '", Printed(name, kQuotedBytesMax),
                                      "', with args beginning with: ", begin));
}

std::string UnknownSubcommandError(const CommandSpec& container, absl::string_view subcommand) {
  return WithoutLineEnds(absl::StrCat("ERR unknown subcommand '",
                                      Printed(subcommand, kQuotedBytesMax), "'. Try ",
                                      container.name, " HELP."));
}

std::string WrongArityError(const CommandSpec& command) {
  return absl::StrCat("ERR wrong number of arguments for '", FullName(command), "' command");
}

std::string SubscriberModeError(const CommandSpec& command) {
  return absl::StrCat("ERR Can't execute '", FullName(command),
                      "': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed "
                      "in this context");
}

std::string BlockedError(const CommandSpec& command) {
  return absl::StrCat("ERR proxy: command '", FullName(command), "' is blocked");
}

std::string NotSupportedError(const CommandSpec& command) {
  return absl::StrCat("ERR proxy: command '", FullName(command), "' is not supported");
}

bool CommonSlot(absl::Span<const absl::string_view> args, absl::Span<const uint32_t> key_indexes,
                Slot* slot) {
  *slot = 0;
  if (key_indexes.empty()) return true;
  const Slot first = SlotOf(args[key_indexes[0]]);
  *slot = first;
  return std::all_of(key_indexes.begin() + 1, key_indexes.end(),
                     [&](uint32_t index) { return SlotOf(args[index]) == first; });
}

Slot SlotArgument(absl::string_view arg) {
  int64_t slot = 0;
  const bool is_slot = resp::ParseDecimal(arg, &slot) && slot >= 0 && slot < kSlotCount;
  return is_slot ? static_cast<Slot>(slot) : Slot{0};
}

NodeIndex ChooseReadNode(const Topology& topology, Slot slot, ReadPrefer prefer, uint32_t turn,
                         absl::Span<const bool> usable, absl::Span<const bool> same_zone) {
  const Shard* shard = topology.ShardFor(slot);
  if (shard == nullptr) return kNoNode;
  const std::vector<NodeIndex>& replicas = shard->replicas;
  if (prefer == ReadPrefer::kPrimary || replicas.empty()) return shard->primary;
  // A node that the caller's list does not reach is one it says nothing good of.
  const auto says = [](absl::Span<const bool> list, NodeIndex node) {
    return node < list.size() && list[node];
  };
  const size_t start = turn % replicas.size();
  NodeIndex any = kNoNode;
  for (size_t i = 0; i < replicas.size(); ++i) {
    const NodeIndex node = replicas[(start + i) % replicas.size()];
    if (!usable.empty() && !says(usable, node)) continue;
    if (prefer == ReadPrefer::kReplica || says(same_zone, node)) return node;
    if (any == kNoNode) any = node;
  }
  return any != kNoNode ? any : shard->primary;
}

}  // namespace cluster
