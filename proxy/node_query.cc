#include "proxy/node_query.h"

#include <utility>

#include "absl/base/macros.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "io/buffer_pool.h"
#include "io/slice.h"
#include "proxy/log.h"
#include "proxy/node_handshake.h"
#include "resp/encoder.h"

namespace proxy {
namespace {

constexpr uint32_t kGenerationMask = 0xffffff;  // what a token holds of it
constexpr size_t kLargeBytes = 64 << 10;

}  // namespace

std::string ErrorWord(absl::string_view frame) {
  if (frame.empty() || frame[0] != '-') return "unexpected reply";
  frame.remove_prefix(1);
  return EscapeForLog(frame.substr(0, frame.find_first_of(" \r\n")));
}

NodeQuery::NodeQuery(io::Ring* ring, io::Timers* timers, uint8_t party, uint32_t index)
    : ring_(ring),
      party_(party),
      index_(index),
      connection_(ring),
      timer_(timers, &NodeQuery::TimerFired, this) {}

void NodeQuery::Become(State next) {
  ABSL_ASSERT((state_ == State::kIdle && next == State::kConnecting) ||
              (state_ == State::kConnecting && next == State::kAsking) ||
              (state_ == State::kConnecting && next == State::kClosing) ||
              (state_ == State::kAsking && next == State::kClosing) ||
              (state_ == State::kClosing && next == State::kIdle));
  state_ = next;
}

void NodeQuery::Start(absl::Time now, const io::Endpoint& node, const Options& options,
                      const std::vector<std::string>& commands, Done done) {
  ABSL_ASSERT(idle() && !commands.empty());
  absl::StatusOr<io::Fd> socket = ring_->OpenSocket(node);
  if (!socket.ok()) return done(socket.status());

  generation_ = (generation_ + 1) & kGenerationMask;
  options_ = options;
  done_ = std::move(done);
  auth_due_ = !options.password.empty();
  request_ = auth_due_ ? AuthCommand(options.username, options.password) : std::string();
  for (const std::string& command : commands) request_ += command;
  replies_due_ = commands.size();
  replies_.clear();
  frame_.clear();
  reply_bytes_ = 0;
  scanner_ = resp::ReplyScanner();

  Become(State::kConnecting);
  io::Connection::Options connection_options;
  connection_options.party = party_;
  connection_options.index = index_;
  connection_options.generation = generation_;
  connection_options.group = io::BufferGroup::kBackends;
  connection_.Open(*socket, connection_options);
  connection_.Connect(node);
  timer_.Set(now + options_.connect_timeout);
}

void NodeQuery::Cancel() {
  if (state_ != State::kConnecting && state_ != State::kAsking) return;
  done_ = nullptr;
  BeginClose();
}

void NodeQuery::OnCompletion(absl::Time now, io::Completion* completion) {
  if (completion->token.generation() != generation_ || idle()) return;
  switch (completion->token.kind()) {
    case io::OpKind::kConnect:
      OnConnected(now, *completion);
      break;
    case io::OpKind::kRecv:
      OnRecv(completion);
      break;
    case io::OpKind::kSend:
      switch (connection_.OnSent(*completion)) {
        case io::Connection::SendEvent::kNothing:
          break;
        case io::Connection::SendEvent::kProgress:
          connection_.Flush();
          break;
        case io::Connection::SendEvent::kError:
          Fail(absl::ErrnoToStatus(connection_.error(), "send"));
          break;
      }
      break;
    default:
      connection_.OnControl(*completion);
      break;
  }
  if (state_ == State::kClosing && connection_.closed()) Become(State::kIdle);
}

void NodeQuery::OnConnected(absl::Time now, const io::Completion& completion) {
  const int result = connection_.OnConnected(completion);
  if (state_ != State::kConnecting) return;
  if (result < 0) return Fail(absl::ErrnoToStatus(-result, "connect"));
  Become(State::kAsking);
  timer_.Set(now + options_.reply_timeout);
  connection_.Send(io::CopyToHeap(request_));
  request_.clear();
  connection_.StartRecv();
  connection_.Flush();
}

void NodeQuery::OnRecv(io::Completion* completion) {
  io::Slice data;
  const io::Connection::RecvEvent event = connection_.OnRecv(completion, &data);
  if (state_ != State::kAsking) return;
  switch (event) {
    case io::Connection::RecvEvent::kNothing:
      return;
    case io::Connection::RecvEvent::kData:
      return OnData(data.bytes());
    case io::Connection::RecvEvent::kEnd:
      return Fail(absl::UnavailableError("the node closed the connection"));
    case io::Connection::RecvEvent::kError:
      return Fail(absl::ErrnoToStatus(connection_.error(), "receive"));
  }
}

void NodeQuery::OnData(absl::string_view bytes) {
  while (!bytes.empty()) {
    if (replies_due_ == 0) return Fail(absl::DataLossError("more bytes than replies"));
    const resp::ScanResult result = scanner_.Scan(bytes);
    if (result.status == resp::ScanStatus::kError) {
      return Fail(absl::DataLossError(absl::StrCat("not a reply: ", scanner_.error())));
    }
    reply_bytes_ += result.consumed;
    // A body that has only been announced counts.
    if (reply_bytes_ + scanner_.bytes_missing() > options_.reply_bytes_max) {
      return Fail(absl::ResourceExhaustedError(
          absl::StrCat("replies of more than ", options_.reply_bytes_max, " bytes")));
    }
    // A view may be of some MiB: growing by doubling would take twice that.
    const size_t missing = scanner_.bytes_missing();
    if (missing >= kLargeBytes) frame_.reserve(frame_.size() + result.consumed + missing);
    frame_.append(bytes.data(), result.consumed);
    bytes.remove_prefix(result.consumed);
    if (result.status == resp::ScanStatus::kNeedMore) return;
    if (!OnFrame()) return;
  }
  if (replies_due_ == 0) Finish(std::move(replies_));
}

bool NodeQuery::OnFrame() {
  if (scanner_.type() == '>') {  // nobody asked for any
    Fail(absl::DataLossError("a push instead of a reply"));
    return false;
  }
  if (auth_due_) {
    auth_due_ = false;
    if (frame_ != "+OK\r\n") {
      Fail(absl::PermissionDeniedError(absl::StrCat("AUTH refused: ", ErrorWord(frame_))));
      return false;
    }
  } else {
    replies_.push_back(std::move(frame_));
    --replies_due_;
  }
  frame_.clear();
  return true;
}

void NodeQuery::Finish(absl::StatusOr<std::vector<std::string>> result) {
  Done done = std::move(done_);
  done_ = nullptr;
  BeginClose();
  done(std::move(result));
}

void NodeQuery::BeginClose() {
  timer_.Stop();
  Become(State::kClosing);
  connection_.BeginClose();
  request_.clear();
  options_.password.clear();
  frame_ = {};
  replies_ = {};
}

void NodeQuery::TimerFired(void* self) { static_cast<NodeQuery*>(self)->OnTimer(); }

void NodeQuery::OnTimer() {
  const bool connecting = state_ == State::kConnecting;
  Fail(absl::DeadlineExceededError(
      connecting
          ? absl::StrCat("no connection within ", absl::FormatDuration(options_.connect_timeout))
          : absl::StrCat("no reply within ", absl::FormatDuration(options_.reply_timeout))));
}

}  // namespace proxy
