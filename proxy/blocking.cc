#include "proxy/blocking.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "io/buffer_pool.h"
#include "proxy/args.h"
#include "resp/encoder.h"

namespace proxy {

Block MakeBlock(const cluster::BlockingTimeout& timeout, absl::string_view arg, absl::Time now) {
  Block block;
  block.timeout = timeout;
  double number = 0;
  if (!absl::SimpleAtod(arg, &number) || !std::isfinite(number) || number <= 0) return block;
  block.until = now + (timeout.milliseconds ? absl::Milliseconds(number) : absl::Seconds(number));
  return block;
}

io::Rope WithTimeLeft(const Block& block, const io::Rope& frame, absl::Time now) {
  if (block.until == absl::InfiniteFuture()) return frame;
  const auto pieces = frame.Views();
  const ArgList args(pieces);
  std::vector<absl::string_view> changed(args.views().begin(), args.views().end());
  const int64_t left = std::max<int64_t>(1, absl::ToInt64Milliseconds(block.until - now));
  const std::string text = block.timeout.milliseconds
                               ? absl::StrCat(left)
                               : absl::StrFormat("%d.%03d", left / 1000, left % 1000);
  changed[block.timeout.arg] = text;
  std::string bytes;
  resp::AppendCommand(changed, &bytes);
  return io::Rope(io::CopyToHeap(bytes));
}

}  // namespace proxy
