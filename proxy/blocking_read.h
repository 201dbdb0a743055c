#pragma once

// File: proxy/blocking_read.h
//
// XREAD BLOCK with the id '$': what comes from now on. Whenever such a request is sent, '$' is the
// last id of that time; but it may be sent again, when its slot has moved or its node was replaced,
// and what came in between must not be lost. So '$' becomes the stream's last id first.

#include <memory>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proxy/procedure.h"

namespace proxy {

// Null: the request is another one. `keys`: the numbers of the arguments that are keys, all of that
// slot.
std::unique_ptr<Procedure> MakeTailRead(const cluster::CommandSpec& command,
                                        absl::Span<const absl::string_view> args,
                                        absl::Span<const uint32_t> keys, cluster::Slot slot,
                                        absl::Time now);

}  // namespace proxy
