// Replies: whole input = input cut anywhere = reference, with the elements that the views find. The
// first two bytes choose the cuts; the rest is the stream.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "resp/views.h"
#include "tests/resp/scan_checks.h"

namespace {

void Expect(const std::string& difference) {
  if (difference.empty()) return;
  std::fprintf(stderr, "%s\n", difference.c_str());
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const absl::string_view stream(reinterpret_cast<const char*>(data) + 2, size - 2);
  Expect(resp::CheckReplies(stream, resp::WholeInput(), resp::Depth::kEveryChunk));
  Expect(resp::CheckReplies(stream, resp::CutAt(data[0]), resp::Depth::kEveryChunk));
  uint32_t state = data[0] * 256u + data[1];
  const uint32_t most = 1 + data[1] % 24;
  const auto next = [&state, most] {
    state = state * 1664525 + 1013904223;
    return size_t{1} + (state >> 16) % most;
  };
  Expect(resp::CheckReplies(stream, next, resp::Depth::kEveryChunk));
  return 0;
}
