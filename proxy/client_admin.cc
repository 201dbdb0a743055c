// The part of Client (proxy/client.h) that concerns the administration of clients: CLIENT LIST,
// KILL, UNBLOCK, PAUSE and UNPAUSE, which all workers carry out, and CLIENT REPLY.

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "proxy/args.h"
#include "proxy/client.h"
#include "proxy/client_line.h"
#include "proxy/monitors.h"
#include "proxy/subscriber.h"
#include "proxy/tracker.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

constexpr absl::string_view kOutOfMemory = "OOM proxy memory limit (not executed)";
constexpr absl::string_view kNoAnswer = "ERR proxy: a worker did not answer in time";

}  // namespace

// --- what all workers are asked

void Client::TakeAdministration(const cluster::CommandSpec& command, const resp::Pieces& pieces,
                                const io::Rope& frame) {
  if (command.name == "MONITOR") return TakeMonitor(command, frame);
  const ArgList args(pieces);
  if (command.name == "REPLY") return TakeReplyMode(args.views(), frame);
  if (command.name == "TRACKING") return TakeTracking(command, args.views());
  if (command.name == "CACHING") return TakeCaching(args.views()[2]);
  ClientQuery query;
  std::string error;
  if (!MakeQuery(command, args.views(), &query, &error)) return AnswerNewError(error);
  answer_first_ = NewRequest(command, 0);
  worker_->client_queries()->Ask(this, std::move(query));
}

bool Client::MakeQuery(const cluster::CommandSpec& command,
                       absl::Span<const absl::string_view> args, ClientQuery* query,
                       std::string* error) {
  if (!ParseClientQuery(command, args, worker_->server(), worker_->now(), query, error)) {
    return false;
  }
  // A list may be large; what frees memory is done all the same.
  if (query->kind != ClientQuery::Kind::kList || !worker_->MemoryExhausted()) return true;
  *error = std::string(kOutOfMemory);
  return false;
}

void Client::OnQueryAnswered(const ClientQuery& query, ClientAnswer answer) {
  if (answer_first_ == nullptr) return;
  if (query.kind == ClientQuery::Kind::kFind) return OnRedirectTargetFound(answer.clients > 0);
  const bool ends = answer.asker_too;
  const std::string reply = ClientQueryReply(query, std::move(answer), protocol_);
  if (answer_first_->is_burst) {
    return OnLocalReply(answer_first_, io::Rope(arena_.Copy(reply)), ends);
  }
  Answer(answer_first_, reply);
  if (query.kind == ClientQuery::Kind::kMonitor) return OnMonitorAnswered(true);
  if (!ends) return;
  stop_after_this_ = true;
  BeginDrain();
}

// What was asked for may have been done all the same.
void Client::OnQueryFailed() {
  if (answer_first_ == nullptr) return;
  if (answer_first_->is_burst) {
    std::string reply;
    resp::Encoder(protocol_, &reply).Error(kNoAnswer);
    return OnLocalReply(answer_first_, io::Rope(arena_.Copy(reply)), false);
  }
  AnswerError(answer_first_, kNoAnswer);
  if (monitor_ != nullptr && !monitor_->begun) OnMonitorAnswered(false);
}

bool Client::Matches(const ClientQuery& query) const {
  if (state_ != State::kOpen && state_ != State::kDraining) return false;
  const ClientFilter& filter = query.filter;
  if (filter.not_asker && id_ == query.asker) return false;
  if (filter.ids.has_value() &&
      !std::binary_search(filter.ids->begin(), filter.ids->end(), static_cast<int64_t>(id_))) {
    return false;
  }
  if (filter.type.has_value()) {
    const bool subscribed = subscriber_ != nullptr && subscriber_->subscriptions() > 0;
    if (*filter.type != (subscribed ? ClientType::kPubSub : ClientType::kNormal)) return false;
  }
  if (worker_->now() - opened_at_ < filter.age_min) return false;
  if (filter.address.has_value() && PeerName() != *filter.address) return false;
  return !filter.local_address.has_value() || LocalName() == *filter.local_address;
}

ClientFacts Client::Describe() const {
  ClientFacts facts;
  facts.id = id_;
  facts.database = database_;
  facts.address = PeerName();
  facts.local_address = LocalName();
  facts.fd = fd();
  const Identity& identity = identity_or_empty();
  facts.name = identity.name;
  facts.library_name = identity.library_name;
  facts.library_version = identity.library_version;
  facts.no_evict = identity.no_evict;
  facts.no_touch = identity.no_touch;
  facts.age = worker_->now() - opened_at_;
  facts.idle = worker_->now() - last_input_;
  if (subscriber_ != nullptr) {
    facts.subscribed = subscriber_->subscriptions() > 0;
    facts.channels = subscriber_->subscriptions(TopicKind::kChannel);
    facts.patterns = subscriber_->subscriptions(TopicKind::kPattern);
    facts.shard_channels = subscriber_->subscriptions(TopicKind::kShardChannel);
  }
  if (tracker_ != nullptr) facts.tracking = tracker_->state;
  if (transaction_ != nullptr) {
    facts.queueing = transaction_->queueing();
    facts.queued_commands = transaction_->queued();
    facts.queued_bytes = transaction_->charged();
    if (transaction_->watch != nullptr) {
      facts.watched_keys = transaction_->watch->keys;
      facts.watch_lost = transaction_->watch->lost;
    }
  }
  facts.monitor = monitor_ != nullptr;
  facts.blocked = answer_first_ != nullptr && answer_first_->is_blocking &&
                  answer_first_->state == Request::State::kSent;
  facts.ending = state_ == State::kDraining || stop_after_this_;
  facts.input_bytes = input_bytes_ + partial_.size();
  facts.output_bytes = connection_.unsent_bytes() + reply_bytes_;
  facts.held_bytes = charged_;
  facts.sending = !connection_.send_idle();
  facts.last_command = last_command_;
  facts.protocol = protocol_;
  return facts;
}

// --- commands that may not begin yet

// The command goes back to the input: that is all that waits, and so the limits of what a client
// may send ahead hold for it, too.
void Client::HoldBack(const io::Rope& frame, HeldBack until) {
  held_back_ = until;
  std::vector<io::Slice> slices;
  if (frame.size() < kCopyBytes) {
    slices.push_back(io::CopyToHeap(frame.Flatten()));
  } else {
    slices.assign(frame.slices().begin(), frame.slices().end());
  }
  input_bytes_ += frame.size();
  input_.insert(input_.begin() + static_cast<std::ptrdiff_t>(input_head_), slices.begin(),
                slices.end());
  worker_->stats()->requests.Sub(1);  // it is counted when it comes again
}

void Client::EndHoldBack(HeldBack until) {
  if (held_back_ != until) return;
  held_back_ = HeldBack::kNo;
  worker_->MarkRunnable(this);
}

void Client::OnPauseEnded() { EndHoldBack(HeldBack::kUntilPauseEnds); }

// As on the servers: of a transaction, its EXEC counts, and each command that it queues.
bool Client::WaitsForPause(const cluster::CommandSpec& command, const io::Rope& frame) {
  bool may_write = (command.flags & (cluster::kFlagWrite | cluster::kFlagMayReplicate)) != 0;
  if (IsQueueing() && command.serve == cluster::Serve::kTransaction && command.name == "EXEC") {
    may_write = transaction_->may_write();
  }
  if (!worker_->client_queries()->Pauses(may_write)) return false;
  if (reply_mode_ == ReplyMode::kSkipping) reply_mode_ = ReplyMode::kSkipNext;  // it comes again
  HoldBack(frame, HeldBack::kUntilPauseEnds);
  return true;
}

// --- CLIENT REPLY
//
// The mode belongs to all requests that are not answered: it changes when there is none.

bool Client::WaitsForReplyMode(const resp::Pieces& pieces, const io::Rope& frame) {
  switch (reply_mode_) {
    case ReplyMode::kOn:
      return false;
    case ReplyMode::kSkipNext:
      reply_mode_ = ReplyMode::kSkipping;
      return false;
    case ReplyMode::kSkipping:
      if (head_ != nullptr) break;
      reply_mode_ = ReplyMode::kOn;
      return false;
    case ReplyMode::kOff: {
      if (head_ == nullptr) return false;
      const ArgList args(pieces);
      if (!absl::EqualsIgnoreCase(args.views()[0], "reset")) return false;
      break;
    }
  }
  HoldBack(frame, HeldBack::kUntilAnswered);
  return true;
}

void Client::TakeReplyMode(absl::Span<const absl::string_view> args, const io::Rope& frame) {
  if (head_ != nullptr) return HoldBack(frame, HeldBack::kUntilAnswered);
  if (absl::EqualsIgnoreCase(args[2], "on")) {
    reply_mode_ = ReplyMode::kOn;
    return AnswerNew("+OK\r\n");
  }
  if (absl::EqualsIgnoreCase(args[2], "off")) {
    reply_mode_ = ReplyMode::kOff;
  } else if (absl::EqualsIgnoreCase(args[2], "skip")) {
    if (reply_mode_ != ReplyMode::kOff) reply_mode_ = ReplyMode::kSkipNext;
  } else {
    AnswerNewError("ERR syntax error");
  }
}

}  // namespace proxy
