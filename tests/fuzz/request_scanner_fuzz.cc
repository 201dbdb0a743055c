// Requests: whole input = input cut anywhere = reference, with the arguments that the views find.
// The first byte chooses the limits, the next two bytes the cuts; the rest is the stream.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/resp/scan_checks.h"

namespace {

void Expect(const std::string& difference) {
  if (difference.empty()) return;
  std::fprintf(stderr, "%s\n", difference.c_str());
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  resp::RequestLimits limits;
  limits.authenticated = (data[0] & 1) != 0;
  if ((data[0] & 2) != 0) limits.inline_bytes_max = 64;
  if ((data[0] & 4) != 0) limits.args_max = 100;
  if ((data[0] & 8) != 0) limits.bulk_bytes_max = 50;
  if ((data[0] & 16) != 0) limits.args_max = INT32_MAX;
  const absl::string_view stream(reinterpret_cast<const char*>(data) + 3, size - 3);
  Expect(resp::CheckRequests(stream, limits, resp::WholeInput(), resp::Depth::kEveryChunk));
  Expect(resp::CheckRequests(stream, limits, resp::CutAt(data[1]), resp::Depth::kEveryChunk));
  // A small linear congruence is chaos enough for the sizes of chunks.
  uint32_t state = data[1] * 256u + data[2];
  const uint32_t most = 1 + data[2] % 24;
  const auto next = [&state, most] {
    state = state * 1664525 + 1013904223;
    return size_t{1} + (state >> 16) % most;
  };
  Expect(resp::CheckRequests(stream, limits, next, resp::Depth::kEveryChunk));
  return 0;
}
