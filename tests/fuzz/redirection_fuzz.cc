// A node's error line: what is taken for a redirection is one, and says the same when written anew.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "cluster/redirection.h"

namespace {

void Require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using cluster::ErrorKind;
  const absl::string_view line(reinterpret_cast<const char*>(data), size);
  const cluster::ErrorReply reply = cluster::ParseErrorReply(line);
  if (reply.kind != ErrorKind::kMoved && reply.kind != ErrorKind::kAsk) {
    Require(reply.host.empty() && reply.port == 0 && reply.slot == 0);
    return 0;
  }
  Require(reply.slot < cluster::kSlotCount && reply.port != 0 && reply.host.size() <= 255);
  if (!reply.host.empty()) {
    Require(reply.host.data() > line.data());
    Require(reply.host.data() + reply.host.size() < line.data() + line.size());
  }
  // In brackets, since one pair of them is taken off.
  const std::string host = reply.host.empty() ? "" : absl::StrCat("[", reply.host, "]");
  const std::string again = absl::StrCat(reply.kind == ErrorKind::kMoved ? "MOVED " : "ASK ",
                                         reply.slot, " ", host, ":", reply.port);
  const cluster::ErrorReply same = cluster::ParseErrorReply(again);
  Require(same.kind == reply.kind && same.slot == reply.slot && same.host == reply.host &&
          same.port == reply.port);
  return 0;
}
