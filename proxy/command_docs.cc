#include "proxy/command_docs.h"

#include <algorithm>
#include <iterator>

namespace proxy {
namespace {

#include "proxy/command_docs_data.inc"

constexpr bool IsSortedById() {
  for (size_t i = 1; i < std::size(kDocs); ++i) {
    if (kDocs[i - 1].id >= kDocs[i].id) return false;
  }
  return true;
}
static_assert(IsSortedById(), "rows must be sorted by id, each once");

}  // namespace

const CommandDocs* FindCommandDocs(const cluster::CommandSpec& command) {
  const CommandDocs* const found =
      std::lower_bound(std::begin(kDocs), std::end(kDocs), command.id,
                       [](const CommandDocs& docs, uint16_t id) { return docs.id < id; });
  return found != std::end(kDocs) && found->id == command.id ? found : nullptr;
}

}  // namespace proxy
