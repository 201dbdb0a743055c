#include "proxy/request_keys.h"

#include <algorithm>
#include <vector>

#include "absl/strings/string_view.h"
#include "cluster/router.h"
#include "proxy/args.h"
#include "proxy/worker.h"
#include "resp/scanner.h"

namespace proxy {
namespace {

using KeySet = absl::flat_hash_set<std::string>;

void AddKeys(const cluster::CommandSpec& command, const resp::Pieces& pieces, KeySet* keys) {
  const ArgList args(pieces);
  std::vector<uint32_t> indexes;
  if (cluster::FindKeyIndexes(command, args.views(), &indexes) != cluster::KeySearch::kOk) return;
  for (const uint32_t index : indexes) keys->insert(std::string(args.views()[index]));
}

// Calls fn(command, pieces) for each of a burst's commands that is known, MULTI and EXEC, too.
template <typename Fn>
void ForEachCommand(const Worker& worker, const Request& burst, Fn fn) {
  const std::string bytes = burst.bytes.Flatten();
  absl::string_view rest = bytes;
  resp::RequestScanner scanner;
  while (!rest.empty()) {
    const resp::ScanResult result = scanner.Scan(rest, {});
    if (result.status != resp::ScanStatus::kComplete) return;
    const absl::string_view frame = rest.substr(0, result.consumed);
    rest.remove_prefix(result.consumed);
    const resp::Pieces pieces(&frame, 1);
    const ArgList args(pieces);
    const absl::string_view second = args.views().size() > 1 ? args.views()[1] : "";
    const cluster::CommandSpec* command = nullptr;
    worker.LookUp(args.views()[0], second, static_cast<int64_t>(args.views().size()), &command);
    if (command != nullptr) fn(*command, pieces);
  }
}

}  // namespace

KeySet KeysOf(const Worker& worker, const Request& request) {
  KeySet keys;
  if (!request.is_burst) {
    AddKeys(*request.command, request.bytes.Views(), &keys);
    return keys;
  }
  ForEachCommand(worker, request,
                 [&keys](const cluster::CommandSpec& command, const resp::Pieces& pieces) {
                   AddKeys(command, pieces, &keys);
                 });
  return keys;
}

bool ShareKey(const Worker& worker, const Request& a, const Request& b) {
  const KeySet keys_a = KeysOf(worker, a);
  const KeySet keys_b = KeysOf(worker, b);
  return std::any_of(keys_a.begin(), keys_a.end(),
                     [&](const std::string& key) { return keys_b.contains(key); });
}

uint32_t CountCommandsWithKeys(const Worker& worker, const Request& burst) {
  uint32_t with_keys = 0;
  ForEachCommand(worker, burst,
                 [&with_keys](const cluster::CommandSpec& command, const resp::Pieces& pieces) {
                   KeySet keys;
                   AddKeys(command, pieces, &keys);
                   if (!keys.empty()) ++with_keys;
                 });
  return with_keys;
}

}  // namespace proxy
