#pragma once

// File: proxy/blocking_pop.h
//
// BLPOP, BRPOP, BZPOPMIN, BZPOPMAX, BLMPOP and BZMPOP over keys of several slots. No node can wait
// for them, so the proxy looks by itself, again and again: at the first key by taking from it, at
// the others, and later at all, by asking for their lengths. Only from what is there it takes, one
// key at a time in their order, so that at most one element (or COUNT of them) is ever on its way
// to a client, and none without it. An error to that, also one that leaves open whether something
// was taken, ends the command.

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proxy/procedure.h"

namespace proxy {

// Whether it is one of those.
bool IsPop(const cluster::CommandSpec& command);

// `keys`: the numbers of the arguments that are keys. Null: *error says what is wrong with the
// timeout; with the rest a node says it.
std::unique_ptr<Procedure> MakePopOverSlots(const Worker& worker,
                                            const cluster::CommandSpec& command,
                                            absl::Span<const absl::string_view> args,
                                            absl::Span<const uint32_t> keys, std::string* error);

}  // namespace proxy
