#pragma once

// File: proxy/learned_commands.h
//
// Commands that the table lacks (cluster/command_table.h): those of modules and of newer servers,
// as the nodes' COMMAND tells of them. Their flags and key specifications decide how they are
// served. The control thread learns (CommandLearner); workers get immutable snapshots
// (ClusterState) and look into them only for what the table does not have.

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cluster/command_table.h"
#include "cluster/router.h"
#include "cluster/topology.h"
#include "proxy/command_docs.h"

namespace proxy {

// One of them. `spec` and `docs` point into the rest. Never changed, and there as long as the
// process: requests hold pointers to it.
struct LearnedCommand {
  std::string name;  // upper case
  std::string container;
  std::string categories;
  std::string tips;
  std::vector<std::string> keywords;   // by key specification; empty: none
  std::vector<std::string> key_flags;  // the same
  std::vector<cluster::KeySpec> key_specs;
  std::vector<KeySpecDocs> key_docs;
  cluster::CommandSpec spec;
  CommandDocs docs;
};

class LearnedCommands {
 public:
  // All, sorted by container and name. `keep` owns them.
  LearnedCommands(std::vector<const LearnedCommand*> all, std::shared_ptr<const void> keep);

  // Any case. Null: unknown. `container` is empty for a command.
  const LearnedCommand* Find(absl::string_view container, absl::string_view name) const;
  absl::Span<const LearnedCommand* const> all() const { return all_; }
  // Another for each.
  uint64_t number() const { return number_; }

 private:
  const uint64_t number_;
  const std::vector<const LearnedCommand*> all_;
  const std::shared_ptr<const void> keep_;
};

// What cluster::LookUpCommand did not find; `before` is what it said. `learned` may be null.
cluster::Lookup LookUpLearned(const LearnedCommands* learned, cluster::Lookup before,
                              absl::string_view first, absl::string_view second, int64_t arg_count,
                              const cluster::CommandSpec** command);

// Keeps what each node says. One thread.
class CommandLearner {
 public:
  // Never more, of a node and of all that was ever learned. What is beyond is not served.
  static constexpr size_t kOfOneNodeMax = 2000;
  static constexpr size_t kEverMax = 10000;
  static constexpr size_t kNameBytesMax = 64;
  static constexpr size_t kKeySpecsMax = 16;

  CommandLearner();
  CommandLearner(const CommandLearner&) = delete;
  CommandLearner& operator=(const CommandLearner&) = delete;

  // The node is to be asked for COMMAND: it never was, was of another version then, or that is long
  // ago: modules come and go.
  bool Wants(absl::string_view node_id, absl::Time now) const;
  // What it said: the reply to COMMAND. An error: nothing is learned.
  void Learn(absl::string_view node_id, absl::string_view version, absl::string_view reply,
             absl::Time now);
  // It says its version with each view.
  void NoteVersion(absl::string_view node_id, absl::string_view version);
  // What the nodes of the topology have together. The same object as long as that is the same;
  // null: nothing.
  std::shared_ptr<const LearnedCommands> Of(const cluster::Topology& topology);

 private:
  struct Store;
  struct Node {
    std::string version;
    absl::Time learned_at;
    bool outdated = false;
    std::vector<const LearnedCommand*> commands;
  };

  std::vector<const LearnedCommand*> TakeAll(absl::string_view reply);
  const LearnedCommand* Intern(std::unique_ptr<LearnedCommand> command);

  const std::shared_ptr<Store> store_;
  absl::btree_map<std::string, Node> nodes_;
  std::vector<const LearnedCommand*> current_all_;
  std::shared_ptr<const LearnedCommands> current_;
};

}  // namespace proxy
