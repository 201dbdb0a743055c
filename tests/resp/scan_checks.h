#pragma once

// File: tests/resp/scan_checks.h
//
// Runs a scanner over a stream that is cut into chunks, and compares what it and the views say with
// the reference, after each chunk and for each frame. For tests and fuzz targets.

#include <cstddef>
#include <functional>
#include <string>

#include "absl/strings/string_view.h"
#include "resp/scanner.h"

namespace resp {

// The size of the next chunk, at least 1; what is over the end is cut off.
using NextChunk = std::function<size_t()>;

NextChunk WholeInput();
NextChunk Bytewise();
NextChunk CutAt(size_t position);

// How much is compared after each chunk besides frames. The reference reads a frame from its start
// each time, so this is quadratic.
enum class Depth { kFrames, kEveryChunk };

// "" if all agree, else what differs and where.
std::string CheckRequests(absl::string_view stream, const RequestLimits& limits, NextChunk next,
                          Depth depth);
std::string CheckReplies(absl::string_view stream, NextChunk next, Depth depth);

}  // namespace resp
