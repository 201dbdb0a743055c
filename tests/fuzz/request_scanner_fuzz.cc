// Requests: whole input = input cut anywhere = reference, with the arguments that the views find.
// The first byte chooses the limits, the next two bytes the cuts; the rest is the stream.

#include <cstdint>

#include "tests/fuzz/scan_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  resp::RequestLimits limits;
  limits.authenticated = (data[0] & 1) != 0;
  if ((data[0] & 2) != 0) limits.inline_bytes_max = 64;
  if ((data[0] & 4) != 0) limits.args_max = 100;
  if ((data[0] & 8) != 0) limits.bulk_bytes_max = 50;
  if ((data[0] & 16) != 0) limits.args_max = INT32_MAX;
  const absl::string_view stream(reinterpret_cast<const char*>(data) + 3, size - 3);
  resp::CheckInChunks(data[1], data[2], stream.size(),
                      [&](const resp::NextChunk& next, resp::Depth depth) {
                        return resp::CheckRequests(stream, limits, next, depth);
                      });
  return 0;
}
