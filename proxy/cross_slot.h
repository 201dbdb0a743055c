#pragma once

// File: proxy/cross_slot.h
//
// Commands whose keys lie in several slots, with --cross-slot split: which of them are served, and
// how. None of it is atomic. (Transactions: proxy/cross_slot_transaction.h. What is split over
// slots with or without the option: proxy/split_request.h.)

#include <cstdint>
#include <memory>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proxy/procedure.h"

namespace proxy {

inline constexpr absl::string_view kTooLargeOverSlotsError =
    "ERR proxy: over slots: more than --cross-slot-max-bytes (not executed)";

// The procedure of a command with cluster::kFlagOverSlots. `keys`: the numbers of the arguments
// that are keys, at least two. Null: it can't be served over slots after all.
std::unique_ptr<Procedure> MakeOverSlots(Worker* worker, const cluster::CommandSpec& command,
                                         absl::Span<const absl::string_view> args,
                                         absl::Span<const uint32_t> keys);

// --- the parts of it; null: the command is none of theirs

// Unions, intersections and differences of sets and sorted sets.
std::unique_ptr<Procedure> MakeSetsOverSlots(Worker* worker, const cluster::CommandSpec& command,
                                             absl::Span<const absl::string_view> args,
                                             absl::Span<const uint32_t> keys);
// PFCOUNT.
std::unique_ptr<Procedure> MakeCountOverSlots(Worker* worker, const cluster::CommandSpec& command,
                                              absl::Span<const absl::string_view> args,
                                              absl::Span<const uint32_t> keys);
// RENAME, RENAMENX, COPY.
std::unique_ptr<Procedure> MakeMoveOverSlots(Worker* worker, const cluster::CommandSpec& command,
                                             absl::Span<const absl::string_view> args,
                                             absl::Span<const uint32_t> keys);

}  // namespace proxy
