#include "proxy/procedure.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "io/buffer_pool.h"
#include "proxy/config_commands.h"
#include "proxy/every_node.h"
#include "proxy/face_share.h"
#include "proxy/function_commands.h"
#include "proxy/node_reports.h"
#include "proxy/random_key.h"
#include "proxy/scan.h"
#include "proxy/script_commands.h"
#include "proxy/wait.h"
#include "proxy/wait_aof.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

constexpr absl::string_view kNotExecuted = " (not executed)";
constexpr absl::string_view kOutcomeUnknown = " (outcome unknown)";
// Errors of the proxy's own have this behind their code.
constexpr absl::string_view kOwnMark = " proxy: ";
// A frame below this is copied; a larger one keeps what it lies in, but for receive buffers.
constexpr size_t kCopiedFrameBytesMax = 64 << 10;

bool IsProxyError(absl::string_view line) {
  const size_t code = line.find(' ');
  return code != absl::string_view::npos && absl::StartsWith(line.substr(code), kOwnMark);
}

}  // namespace

std::string Ask::ErrorLine() const { return std::string(resp::ErrorLineOf(reply.Flatten())); }

bool Ask::may_have_run() const {
  if (gone) return false;
  if (!failed()) return true;
  return absl::EndsWith(ErrorLine(), kOutcomeUnknown);
}

void Step::Answer(absl::string_view reply_bytes) { reply = io::Rope(io::CopyToHeap(reply_bytes)); }

void Step::AnswerError(absl::string_view line) {
  worker->stats()->proxy_errors.Add(1);
  std::string text;
  resp::Encoder(protocol, &text).Error(line);
  Answer(text);
}

bool IsGone(const Worker& worker, const Ask& ask) {
  const ClusterState* state = worker.cluster();
  if (state == nullptr) return false;
  const cluster::Topology& topology = *state->topology;
  switch (ask.to) {
    case Ask::To::kOwner:
      return false;
    case Ask::To::kNobody:
      return ask.not_before <= worker.now() && topology.ShardFor(ask.slot) != nullptr;
    case Ask::To::kPrimary:
    case Ask::To::kNode:
      break;
  }
  const cluster::NodeIndex node = topology.FindById(ask.node_id);
  if (node == cluster::kNoNode || !topology.node(node).usable()) return true;
  return ask.to == Ask::To::kPrimary && !topology.node(node).is_primary;
}

std::string NodeName(const cluster::Topology& topology, cluster::NodeIndex node) {
  const cluster::NodeAddress& address = topology.node(node).address;
  return absl::StrCat(address.host, ":", address.port);
}

bool WaitForCoverage(const Worker& worker, std::vector<Ask>* asks) {
  const ClusterState* state = worker.cluster();
  cluster::Slot slot = 0;
  if (state != nullptr) {
    const cluster::Topology& topology = *state->topology;
    if (topology.covered_slots() == cluster::kSlotCount) return false;
    while (slot + 1 < cluster::kSlotCount && topology.ShardFor(slot) != nullptr) ++slot;
    if (topology.ShardFor(slot) != nullptr) return false;
  }
  asks->clear();
  Ask ask;
  ask.to = Ask::To::kNobody;
  ask.slot = slot;
  ask.command = cluster::FindCommand("PING");
  asks->push_back(std::move(ask));
  return true;
}

std::string FailureLine(absl::Span<const Ask> asks, bool write) {
  const Ask* first = nullptr;
  bool all_alike = true;
  bool any_ran = false;
  bool any_handed_over = false;
  std::string line;
  for (const Ask& ask : asks) {
    if (ask.gone) continue;
    any_ran |= ask.may_have_run();
    any_handed_over |= ask.handed_over;
    if (!ask.failed()) {
      all_alike = false;
    } else if (first == nullptr) {
      first = &ask;
      line = ask.ErrorLine();
    } else {
      all_alike &= ask.ErrorLine() == line;
    }
  }
  if (first == nullptr) return "ERR proxy: no node was asked (not executed)";
  if (all_alike && !IsProxyError(line)) return line;
  absl::string_view text = line;
  const bool own = IsProxyError(text);
  if (!absl::ConsumeSuffix(&text, kNotExecuted)) absl::ConsumeSuffix(&text, kOutcomeUnknown);
  absl::string_view code = text.substr(0, text.find(' '));
  text.remove_prefix(std::min(text.size(), code.size() + (own ? kOwnMark.size() : 1)));
  const std::string node =
      first->node_name.empty() ? std::string() : absl::StrCat("node ", first->node_name, ": ");
  if (write && any_ran) {
    return absl::StrCat("ERR proxy: partly executed, ", node, own ? "" : code, own ? "" : " ", text,
                        kOutcomeUnknown);
  }
  const absl::string_view suffix = any_handed_over ? kOutcomeUnknown : kNotExecuted;
  return absl::StrCat(code, kOwnMark, node, text, own ? suffix : "");
}

Ask AskOfKey(const cluster::CommandSpec& command, absl::string_view key, io::Rope frame) {
  Ask ask;
  ask.slot = cluster::SlotOf(key);
  ask.command = &command;
  ask.frame = std::move(frame);
  return ask;
}

cluster::CommandSpec AsRead(const cluster::CommandSpec& command) {
  cluster::CommandSpec read(command);
  read.flags |= cluster::kFlagReadOnly;
  return read;
}

std::string ToldWithin(absl::string_view line) {
  if (!absl::ConsumeSuffix(&line, kNotExecuted)) absl::ConsumeSuffix(&line, kOutcomeUnknown);
  const size_t code = line.find(' ');
  absl::string_view rest = line.substr(std::min(code, line.size()));
  return std::string(absl::ConsumePrefix(&rest, kOwnMark) ? rest : line);
}

io::Rope KeepFrame(const io::Rope& frame) {
  if (frame.size() < kCopiedFrameBytesMax) return io::Rope(io::CopyToHeap(frame.Flatten()));
  io::Rope kept;
  for (const io::Slice& slice : frame.slices()) {
    const bool copy = slice.buffer() && slice.buffer()->scarce;
    kept.Append(copy ? io::CopyToHeap(slice.bytes()) : slice);
  }
  return kept;
}

io::Rope MakeFrame(absl::Span<const absl::string_view> args) {
  std::string frame;
  resp::AppendCommand(args, &frame);
  return io::Rope(io::CopyToHeap(frame));
}

std::unique_ptr<Procedure> MakeProcedure(Worker* worker, const cluster::CommandSpec& command,
                                         const FaceShare& share, const ArgList& args,
                                         const io::Rope& frame, std::string* error) {
  if (command.container.empty()) {
    if (command.name == "SCAN") return MakeScan(worker, share, args, error);
    if (command.name == "RANDOMKEY") return MakeRandomKey(command);
    if (command.name == "WAIT") return MakeWait(worker, args, error);
    if (command.name == "WAITAOF") return MakeWaitAof(worker, args, error);
  }
  if (command.container == "CONFIG") {
    if (command.name == "GET") return MakeConfigGet(command, frame);
    return MakeConfigSet(command, args, error);
  }
  if (command.container == "SCRIPT") {
    if (command.name == "LOAD") return MakeScriptLoad(command, args, frame);
    if (command.name == "FLUSH") return MakeScriptFlush(command, args, frame);
  }
  if (command.container == "FUNCTION") {
    if (command.name == "LOAD") return MakeFunctionLoad(command, args, frame);
    if (command.name == "DELETE") return MakeFunctionDelete(command, frame);
  }
  if (!share.is_all()) {
    if (auto part = MakeFaceShare(command, share, frame)) return part;
  }
  if (auto report = MakeNodeReport(command, args, frame)) return report;
  return MakeEveryNode(command, frame);
}

}  // namespace proxy
