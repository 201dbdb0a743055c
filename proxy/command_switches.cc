#include "proxy/command_switches.h"

#include <algorithm>
#include <iterator>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"

namespace proxy {
namespace {

// Of those that are refused. They do to every node what they do to a single server.
constexpr absl::string_view kAllowable[] = {
    "acl|deluser", "acl|load",         "acl|save",       "acl|setuser", "bgrewriteaof",
    "bgsave",      "config|resetstat", "config|rewrite", "config|set",  "debug",
    "module|load", "module|loadex",    "module|unload",  "save",
};

// "config|set", also of "CONFIG SET".
std::string FullNameOf(absl::string_view name) {
  std::string lower = absl::AsciiStrToLower(absl::StripAsciiWhitespace(name));
  std::replace(lower.begin(), lower.end(), ' ', '|');
  return lower;
}

// All of the table's that the name stands for; none: it is no command's.
std::vector<const cluster::CommandSpec*> FindAll(absl::string_view full_name) {
  std::vector<const cluster::CommandSpec*> found;
  for (const cluster::CommandSpec& command : cluster::AllCommands()) {
    const std::string own = cluster::FullName(command);
    const bool within =
        !command.container.empty() && absl::AsciiStrToLower(command.container) == full_name;
    if (own == full_name || within) found.push_back(&command);
  }
  return found;
}

// As they are served.
using Commands = absl::flat_hash_map<const cluster::CommandSpec*, cluster::CommandSpec>;
const Commands& AllowableCommands() {
  static const Commands* const kCommands = [] {
    auto* commands = new Commands;
    for (const cluster::CommandSpec& command : cluster::AllCommands()) {
      const auto end = std::end(kAllowable);
      if (std::find(std::begin(kAllowable), end, cluster::FullName(command)) == end) continue;
      cluster::CommandSpec allowed(command);
      allowed.flags |= cluster::kFlagSlow;  // some take their time
      allowed.request_policy = cluster::RequestPolicy::kAllNodes;
      allowed.response_policy = cluster::ResponsePolicy::kAllSucceeded;
      commands->emplace(&command, allowed);
    }
    return commands;
  }();
  return *kCommands;
}

void Remember(absl::string_view name, std::vector<std::string>* names) {
  if (std::find(names->begin(), names->end(), name) == names->end()) names->emplace_back(name);
}

}  // namespace

absl::Status CommandSwitches::Block(absl::string_view name) {
  const std::string full_name = FullNameOf(name);
  const std::vector<const cluster::CommandSpec*> found = FindAll(full_name);
  // Modules' have a point in their names, and are known only to the nodes that have the module.
  if (found.empty() && full_name.find('.') == std::string::npos) {
    return absl::InvalidArgumentError("is not a command");
  }
  Remember(full_name, &blocked_names_);
  // Also of one that is known: newer nodes may have more subcommands of it.
  blocked_unknown_.insert(full_name);
  for (const cluster::CommandSpec* command : found) {
    blocked_.insert(command);
    blocks_one_key_commands_ |=
        command->single_first_key || command->serve == cluster::Serve::kSplit;
  }
  return absl::OkStatus();
}

absl::Status CommandSwitches::Allow(absl::string_view name) {
  const std::string full_name = FullNameOf(name);
  const std::vector<const cluster::CommandSpec*> found = FindAll(full_name);
  if (found.empty()) return absl::InvalidArgumentError("is not a command");
  bool any = false;
  for (const cluster::CommandSpec* command : found) {
    if (!AllowableCommands().contains(command)) continue;
    allowed_.insert(command);
    any = true;
  }
  if (!any) return absl::InvalidArgumentError("is not a command that can be allowed");
  Remember(full_name, &allowed_names_);
  return absl::OkStatus();
}

void CommandSwitches::ClearBlocked() {
  blocked_names_.clear();
  blocked_.clear();
  blocked_unknown_.clear();
  blocks_one_key_commands_ = false;
}

void CommandSwitches::ClearAllowed() {
  allowed_names_.clear();
  allowed_.clear();
}

bool CommandSwitches::IsBlocked(const cluster::CommandSpec& command) const {
  if (blocked_.contains(&command)) return true;
  if (blocked_unknown_.empty()) return false;
  return blocked_unknown_.contains(cluster::FullName(command)) ||
         blocked_unknown_.contains(absl::AsciiStrToLower(command.container));
}

const cluster::CommandSpec* CommandSwitches::FindAllowed(
    const cluster::CommandSpec& command) const {
  return allowed_.contains(&command) ? &AllowableCommands().at(&command) : nullptr;
}

}  // namespace proxy
