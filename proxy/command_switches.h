#pragma once

// File: proxy/command_switches.h
//
// What the operator says of single commands: --block-commands, which nobody gets, and
// --allow-commands, which are refused otherwise. A name is that of a command ("keys") or of a
// subcommand ("config|set"); a container's stands for all its subcommands.
//
// Of the refused commands, those can be allowed that are to each node what they are to a single
// server. They go to all nodes, replicas too, as far as these can be reached; the reply is that of
// the primaries, or an error that names the first one that refused.

#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "cluster/command_table.h"

namespace proxy {

class CommandSwitches {
 public:
  // An error's message goes on behind the quoted name: "is not …".
  absl::Status Block(absl::string_view name);
  absl::Status Allow(absl::string_view name);
  void ClearBlocked();
  void ClearAllowed();
  // As they were given.
  const std::vector<std::string>& blocked_names() const { return blocked_names_; }
  const std::vector<std::string>& allowed_names() const { return allowed_names_; }

  bool any_blocked() const { return !blocked_names_.empty(); }
  // One of those that clients send most.
  bool blocks_one_key_commands() const { return blocks_one_key_commands_; }
  bool IsBlocked(const cluster::CommandSpec& command) const;
  // How a refused command is served all the same; null: it is not. Lives for ever.
  const cluster::CommandSpec* FindAllowed(const cluster::CommandSpec& command) const;

 private:
  std::vector<std::string> blocked_names_;
  std::vector<std::string> allowed_names_;
  absl::flat_hash_set<const cluster::CommandSpec*> blocked_;
  absl::flat_hash_set<std::string> blocked_unknown_;  // by name: of what only the nodes know
  bool blocks_one_key_commands_ = false;
  absl::flat_hash_set<const cluster::CommandSpec*> allowed_;
};

}  // namespace proxy
