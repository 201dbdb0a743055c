#pragma once

// File: cluster/router.h
//
// Where a request goes: command + topology → slot and node, or the error to reply.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cluster/command_table.h"
#include "cluster/slot.h"
#include "cluster/topology.h"

namespace cluster {

// --- the command

// Finds the row for the arguments (container and subcommand resolved), checks arity, and says what
// is to be refused at once.
enum class Lookup : uint8_t { kFound, kUnknownCommand, kUnknownSubcommand, kWrongArity };
// `first` and `second` are the first two arguments (second empty if there is none).
Lookup LookUpCommand(absl::string_view first, absl::string_view second, int64_t arg_count,
                     const CommandSpec** command);
// The servers' texts, without the leading '-':
// "ERR unknown command 'x', with args beginning with: 'a' 'b' " (128 bytes of arguments, as they
// do)
std::string UnknownCommandError(absl::Span<const absl::string_view> args);
// "ERR unknown subcommand 'x'. Try CLIENT HELP."
std::string UnknownSubcommandError(const CommandSpec& container, absl::string_view subcommand);
// "ERR wrong number of arguments for 'get' command" ('client|setname' for subcommands)
std::string WrongArityError(const CommandSpec& command);
// "ERR Can't execute 'get': only (P|S)SUBSCRIBE / … are allowed in this context"
std::string SubscriberModeError(const CommandSpec& command);
// "ERR proxy: command 'x' is blocked": --block-commands names it.
std::string BlockedError(const CommandSpec& command);
// "ERR proxy: command 'x' is not supported"
std::string NotSupportedError(const CommandSpec& command);

constexpr absl::string_view kCrossSlotError =
    "CROSSSLOT Keys in request don't hash to the same slot";

// --- the slot

// The slot that all keys share. False: they don't (CROSSSLOT). No keys: *slot is 0, the slot whose
// owner serves keyless commands.
bool CommonSlot(absl::Span<const absl::string_view> args, absl::Span<const uint32_t> key_indexes,
                Slot* slot);

// The slot that a request names (CLUSTER COUNTKEYSINSLOT). What is none goes to slot 0's owner, who
// says so.
Slot SlotArgument(absl::string_view arg);

// --- the node

// --read-prefer: where reads go.
enum class ReadPrefer : uint8_t { kPrimary = 0, kReplica = 1, kSameZoneReplica = 2 };

// Chooses the node for a read among the slot's replicas that `usable` (by node index; empty: all)
// says may be asked, starting at `turn` (round robin); the primary if there is none; kNoNode if
// nobody serves the slot. `same_zone` (by node index; may be empty) restricts kSameZoneReplica:
// without a usable replica in the zone any usable replica serves.
NodeIndex ChooseReadNode(const Topology& topology, Slot slot, ReadPrefer prefer, uint32_t turn,
                         absl::Span<const bool> usable, absl::Span<const bool> same_zone);

}  // namespace cluster
