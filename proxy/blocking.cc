#include "proxy/blocking.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "io/buffer_pool.h"
#include "proxy/args.h"
#include "resp/encoder.h"
#include "resp/views.h"

namespace proxy {

Block MakeBlock(const cluster::BlockingTimeout& timeout, absl::string_view arg, absl::Time now) {
  Block block;
  block.timeout = timeout;
  double number = 0;
  if (!absl::SimpleAtod(arg, &number) || !std::isfinite(number) || number <= 0) return block;
  block.until = now + (timeout.milliseconds ? absl::Milliseconds(number) : absl::Seconds(number));
  return block;
}

bool ParseTimeout(absl::string_view arg, bool milliseconds, bool old_texts, absl::Time now,
                  absl::Time* until, std::string* error) {
  constexpr double kMost = 9223372036854775807.0;
  const auto fail = [error](absl::string_view line) {
    *error = std::string(line);
    return false;
  };
  double wanted = 0;  // milliseconds
  if (milliseconds) {
    int64_t number = 0;
    if (!resp::ParseDecimal(arg, &number)) {
      return fail("ERR timeout is not an integer or out of range");
    }
    wanted = static_cast<double>(number);
  } else {
    const std::string text(arg);
    char* end = nullptr;
    errno = 0;
    const long double number = strtold(text.c_str(), &end);
    if (text.empty() || absl::ascii_isspace(static_cast<unsigned char>(text[0])) ||
        end != text.c_str() + text.size() || errno == ERANGE || std::isnan(number)) {
      return fail("ERR timeout is not a float or out of range");
    }
    wanted = std::ceil(static_cast<double>(number * 1000));
  }
  if (wanted < 0) return fail("ERR timeout is negative");
  const double most = kMost - static_cast<double>(absl::ToUnixMillis(now));
  if (wanted > kMost && old_texts) return fail("ERR timeout is negative");
  if (wanted > most && !old_texts) return fail("ERR timeout is out of range");
  *until = wanted == 0 || wanted > most ? absl::InfiniteFuture() : now + absl::Milliseconds(wanted);
  return true;
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
