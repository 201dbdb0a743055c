// The part of Client (proxy/client.h) that concerns MONITOR, and what of commands is looked at
// before they begin: whether a pause stops them, and who is shown them.

#include <string>
#include <utility>
#include <vector>

#include "proxy/args.h"
#include "proxy/client.h"
#include "proxy/local_handlers.h"
#include "proxy/monitor_line.h"
#include "proxy/monitors.h"
#include "proxy/server_info.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

// The servers' words: a monitor is a kind of replica to them.
constexpr absl::string_view kNoKeyspace = "ERR Replica can't interact with the keyspace";

constexpr uint32_t kTouchesKeyspace =
    cluster::kFlagWrite | cluster::kFlagReadOnly | cluster::kFlagMayReplicate;

// No monitor could take it, and to quote it would cost up to four times as much.
bool TooLongToShow(const resp::Pieces& pieces) {
  size_t bytes = 0;
  for (const absl::string_view piece : pieces) bytes += piece.size();
  return bytes > MonitorMail::kBytesMax;
}

}  // namespace

// False: it does not begin now, or is answered.
bool Client::MayBegin(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                      const io::Rope& frame) {
  if (monitor_ != nullptr) {
    if ((command.flags & kTouchesKeyspace) != 0) {
      RejectNew(&command, kNoKeyspace);
      return false;
    }
  } else if (worker_->client_queries()->paused() && WaitsForPause(command, frame)) {
    return false;  // the servers never pause a monitor
  }
  if (worker_->monitors()->watched()) Show(command, pieces);
  return true;
}

// --- what this client sends

void Client::Show(const cluster::CommandSpec& command, const resp::Pieces& pieces) {
  if (!IsShownToMonitors(command)) return;
  if (command.serve == cluster::Serve::kRefused) return;
  if (TooLongToShow(pieces)) return worker_->monitors()->Lose();
  const bool transaction = command.serve == cluster::Serve::kTransaction;
  const bool reply_mode = command.serve == cluster::Serve::kClients && command.name == "REPLY";
  if (reply_mode && head_ != nullptr) return;  // it waits, and comes again (TakeReplyMode)
  const ArgList args(pieces);
  if (IsQueueing()) {
    if (!ActsInTransaction(command)) return;  // it is shown when it runs
    if (transaction && command.name == "EXEC") return ShowBlock(command, args.views());
    // Later servers refuse these before they would run.
    const bool nested = transaction && (command.name == "MULTI" || command.name == "WATCH");
    if (nested && !IsBeforeRedis72(worker_->server())) return;
  }
  worker_->monitors()->Show(*this, QuoteForMonitors(command, args.views()));
}

// A transaction's commands come before its EXEC, as the servers run them. Where keys are watched,
// only the reply tells whether they have run.
void Client::ShowBlock(const cluster::CommandSpec& exec, absl::Span<const absl::string_view> args) {
  if (transaction_->charged() > MonitorMail::kBytesMax) return worker_->monitors()->Lose();
  std::vector<std::string> lines;
  if (!transaction_->aborted()) {
    transaction_->ForEachQueued([&](absl::Span<const absl::string_view> queued) {
      const absl::string_view second = queued.size() > 1 ? queued[1] : "";
      const cluster::CommandSpec* command = nullptr;
      worker_->LookUp(queued[0], second, static_cast<int64_t>(queued.size()), &command);
      if (command == nullptr || !IsShownToMonitors(*command)) return;
      lines.push_back(QuoteForMonitors(*command, queued));
    });
  }
  lines.push_back(QuoteForMonitors(exec, args));
  if (transaction_->watch != nullptr && !transaction_->aborted()) {
    transaction_->unshown = std::move(lines);
    return;
  }
  for (const std::string& line : lines) worker_->monitors()->Show(*this, line);
}

// `reply`: how EXEC's begins.
void Client::ShowWatchedBlock(Request* request, absl::string_view reply) {
  const std::vector<std::string> lines = std::exchange(request->transaction->unshown, {});
  if (lines.empty() || !worker_->monitors()->watched()) return;
  const bool ran = reply.size() > 1 && reply[0] == '*' && reply[1] != '-';
  for (size_t i = ran ? 0 : lines.size() - 1; i < lines.size(); ++i) {
    worker_->monitors()->Show(*this, lines[i]);
  }
}

// --- what it is shown

// As CLIENT REPLY, it changes what all replies are: they are out before it begins.
void Client::TakeMonitor(const cluster::CommandSpec& command, const io::Rope& frame) {
  if (monitor_ != nullptr) return;  // nor do the servers answer
  if (head_ != nullptr) return HoldBack(frame, HeldBack::kUntilAnswered);
  monitor_ = std::make_unique<Monitor>();
  answer_first_ = NewRequest(command, 0);
  worker_->monitors()->Ask(this);
}

void Client::OnMonitorAnswered(bool shown) {
  if (monitor_ == nullptr) return;
  if (!shown || state_ != State::kOpen) return LeaveMonitor();
  monitor_->begun = true;
  worker_->monitors()->Begin(this);
}

void Client::OnMonitorLines(const io::Rope& lines) {
  if (state_ != State::kOpen || reply_mode_ == ReplyMode::kOff) return;
  SendBetweenReplies(lines, &monitor_->held);
}

void Client::SendHeldLines() { SendHeld(&monitor_->held); }

void Client::LeaveMonitor() {
  if (monitor_ == nullptr) return;
  reply_bytes_ -= monitor_->held.size();
  worker_->monitors()->Leave(this);
  monitor_.reset();
}

}  // namespace proxy
