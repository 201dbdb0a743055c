// Replies: whole input = input cut anywhere = reference, with the elements that the views find. The
// first two bytes choose the cuts; the rest is the stream.

#include <cstdint>

#include "tests/fuzz/scan_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const absl::string_view stream(reinterpret_cast<const char*>(data) + 2, size - 2);
  resp::CheckInChunks(data[0], data[1], stream.size(),
                      [&](const resp::NextChunk& next, resp::Depth depth) {
                        return resp::CheckReplies(stream, next, depth);
                      });
  return 0;
}
