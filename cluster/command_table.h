#pragma once

// File: cluster/command_table.h
//
// One row per command and subcommand of redis 7.0 and valkey 8: its facts, as the servers tell them
// (COMMAND, COMMAND DOCS), and how the proxy serves it. The rows are generated
// (tools/gen_command_table.py → cluster/command_table_data.inc); reviewed overrides live in the
// tool.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace cluster {

// How the proxy serves a command.
enum class Serve : uint8_t {
  kOneSlot,       // all keys in one slot: forwarded on a shared connection
  kSplit,         // keys may lie in several slots: one fragment a slot, see Split and Merge
  kKeyless,       // no keys, changes nothing, same answer anywhere: forwarded to slot 0's owner
  kLocal,         // answered by the proxy
  kBySlot,        // argument 2 is a slot: forwarded to its owner, like a read of a key there
  kTransaction,   // MULTI and what ends it, WATCH
  kWholeCluster,  // asks several nodes, in steps: see proxy/procedure.h
  kPublish,       // goes to its channel's home, and the number in the reply is corrected
  kPubSubCount,   // asks each primary, and the numbers in the reply are corrected
  kClients,       // describes or changes clients of all workers: see proxy/client_query.h
  kPubSub,        // changes what the client is subscribed to
  kRefused,       // administration of a single server: refused
};

// How a kSplit request's arguments go with its keys.
enum class Split : uint8_t { kNever, kKeys, kKeyValuePairs };
// How the replies of fragments become one.
enum class Merge : uint8_t { kForward, kInKeyOrder, kSum, kAllSucceeded };

// Command flags as COMMAND INFO names them.
enum CommandFlag : uint32_t {
  kFlagWrite = 1u << 0,
  kFlagReadOnly = 1u << 1,
  kFlagDenyOom = 1u << 2,
  kFlagAdmin = 1u << 3,
  kFlagPubSub = 1u << 4,
  kFlagNoScript = 1u << 5,
  kFlagBlocking = 1u << 6,
  kFlagLoading = 1u << 7,
  kFlagStale = 1u << 8,
  kFlagSkipMonitor = 1u << 9,
  kFlagSkipSlowlog = 1u << 10,
  kFlagAsking = 1u << 11,
  kFlagFast = 1u << 12,
  kFlagNoAuth = 1u << 13,
  kFlagMayReplicate = 1u << 14,
  kFlagMovableKeys = 1u << 15,
  kFlagNoMulti = 1u << 16,
  kFlagAllowBusy = 1u << 17,
  kFlagNoAsyncLoading = 1u << 18,
  kFlagNoMandatoryKeys = 1u << 19,
  // The proxy's own:
  kFlagScript = 1u << 24,  // EVAL, EVALSHA, FCALL and _RO: an error does not prove that nothing ran
  kFlagSlow = 1u << 25,    // unbounded run time: a longer reply deadline for its node
  kFlagOverSlots = 1u << 26,  // kOneSlot, but with --cross-slot split its keys may lie anywhere
};

enum class BeginSearch : uint8_t { kUnknown, kIndex, kKeyword };
enum class FindKeys : uint8_t { kUnknown, kRange, kKeyNum };

// One key specification (COMMAND INFO, "Key specifications"): where the search begins, and how the
// keys are found from there.
struct KeySpec {
  BeginSearch begin = BeginSearch::kUnknown;
  int16_t index = 0;  // kIndex: argument index; kKeyword: where the search starts (may be negative)
  absl::string_view keyword = {};  // kKeyword
  FindKeys find = FindKeys::kUnknown;
  int16_t last_key = 0;  // kRange: last key relative to the first; negative: from the end
  int16_t key_step = 1;
  int16_t limit = 0;         // kRange with last_key -1: 0 or 1 no limit, 2 half, …
  int16_t keynum_index = 0;  // kKeyNum: relative to the begin
  int16_t first_key = 0;     // kKeyNum: relative to the begin
  bool not_key = false;      // a channel or the like: routes, but is not a key
  bool incomplete = false;
};

enum class RequestPolicy : uint8_t { kNone, kAllNodes, kAllShards, kMultiShard, kSpecial };
enum class ResponsePolicy : uint8_t {
  kNone,
  kOneSucceeded,
  kAllSucceeded,
  kAggLogicalAnd,
  kAggLogicalOr,
  kAggMin,
  kAggMax,
  kAggSum,
  kSpecial
};

struct CommandSpec {
  absl::string_view name;            // upper case; a subcommand's own name, without its container
  absl::string_view container = {};  // upper case; empty for a command
  int16_t arity = 0;                 // with the name(s); negative: at least
  // A dense number for each local command's handler and for statistics: the row's index.
  uint16_t id = 0;
  uint32_t flags = 0;  // CommandFlag
  absl::Span<const KeySpec> key_specs = {};
  RequestPolicy request_policy = RequestPolicy::kNone;
  ResponsePolicy response_policy = ResponsePolicy::kNone;
  Serve serve = Serve::kRefused;
  Split split = Split::kNever;
  Merge merge = Merge::kForward;
  bool has_subcommands = false;
  // The key is argument 1 and there is no other (GET, SET, HSET, …): no search is needed.
  bool single_first_key = false;

  bool is_write() const { return (flags & kFlagWrite) != 0; }
  bool is_read_only() const { return (flags & kFlagReadOnly) != 0; }
  bool is_script() const { return (flags & kFlagScript) != 0; }
};

// All rows, sorted by (container, name).
absl::Span<const CommandSpec> AllCommands();
// "get", "config|set".
std::string FullName(const CommandSpec& command);
// By name, any case. Null: unknown. No allocation.
const CommandSpec* FindCommand(absl::string_view name);
// A container's subcommand, any case. Null: unknown.
const CommandSpec* FindSubcommand(const CommandSpec& container, absl::string_view name);

// Also false for key-value pairs (kKeyValuePairs) of which the last has no value.
bool ArityAccepts(const CommandSpec& command, int64_t arg_count);

enum class KeySearch : uint8_t {
  kOk,  // `indexes` has the positions (maybe none)
  // numkeys is not a number, also not at its beginning, or larger than the arguments. Every node
  // refuses the request without running it, each with the same text: it may go to any.
  kInvalid,
};
// The argument indexes of all keys, by the key specs, in the order of the specs. `args` includes
// the command name(s). Channels (not_key) count: they route too. Replaces *indexes.
KeySearch FindKeyIndexes(const CommandSpec& command, absl::Span<const absl::string_view> args,
                         std::vector<uint32_t>* indexes);

// Where a request that may wait says for how long.
struct BlockingTimeout {
  uint32_t arg = 0;           // its number; 0: it is missing
  bool milliseconds = false;  // else seconds, with a fraction
};
// Whether a node may let the request wait, and with it all that follows on its connection. XREAD
// and XREADGROUP do so only with the option BLOCK, though their rows have kFlagBlocking.
absl::optional<BlockingTimeout> FindBlockingTimeout(const CommandSpec& command,
                                                    absl::Span<const absl::string_view> args);

}  // namespace cluster
