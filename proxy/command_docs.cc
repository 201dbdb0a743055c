#include "proxy/command_docs.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace proxy {
namespace {

constexpr std::pair<uint32_t, absl::string_view> kFlagNames[] = {
    {cluster::kFlagWrite, "write"},
    {cluster::kFlagReadOnly, "readonly"},
    {cluster::kFlagDenyOom, "denyoom"},
    {cluster::kFlagAdmin, "admin"},
    {cluster::kFlagPubSub, "pubsub"},
    {cluster::kFlagNoScript, "noscript"},
    {cluster::kFlagBlocking, "blocking"},
    {cluster::kFlagLoading, "loading"},
    {cluster::kFlagStale, "stale"},
    {cluster::kFlagSkipMonitor, "skip_monitor"},
    {cluster::kFlagSkipSlowlog, "skip_slowlog"},
    {cluster::kFlagAsking, "asking"},
    {cluster::kFlagFast, "fast"},
    {cluster::kFlagNoAuth, "no_auth"},
    {cluster::kFlagNoMandatoryKeys, "no_mandatory_keys"},
    {cluster::kFlagNoAsyncLoading, "no_async_loading"},
    {cluster::kFlagNoMulti, "no_multi"},
    {cluster::kFlagMovableKeys, "movablekeys"},
    {cluster::kFlagAllowBusy, "allow_busy"},
};

#include "proxy/command_docs_data.inc"

constexpr bool IsSortedById() {
  for (size_t i = 1; i < std::size(kDocs); ++i) {
    if (kDocs[i - 1].id >= kDocs[i].id) return false;
  }
  return true;
}
static_assert(IsSortedById(), "rows must be sorted by id, each once");

}  // namespace

absl::Span<const std::pair<uint32_t, absl::string_view>> CommandFlagNames() { return kFlagNames; }

const CommandDocs* FindCommandDocs(const cluster::CommandSpec& command) {
  const CommandDocs* const found =
      std::lower_bound(std::begin(kDocs), std::end(kDocs), command.id,
                       [](const CommandDocs& docs, uint16_t id) { return docs.id < id; });
  return found != std::end(kDocs) && found->id == command.id ? found : nullptr;
}

}  // namespace proxy
