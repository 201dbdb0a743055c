#include "tools/loadrunner/session.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "io/buffer_pool.h"

namespace loadrunner {
namespace {

constexpr absl::Duration kReconnectDelay = absl::Milliseconds(100);

}  // namespace

size_t Session::Advance() {
  if (connection_.closed() && !paused_ && ring_->Now() >= next_connect_) Connect();
  if (!ready_ || paused_ || ops_.size() > options_->pipeline / 2) return 0;
  size_t count = 0;
  output_.clear();
  Op op;
  while (ops_.size() < options_->pipeline && actor_.Next(&op, &output_)) {
    op.sent = ring_->Now();
    ops_.push_back(std::move(op));
    ++count;
  }
  if (!output_.empty()) connection_.Send(io::CopyToHeap(output_));
  connection_.Flush();
  return count;
}

void Session::BeginVerify() {
  paused_ = false;
  actor_.BeginVerify();
}

void Session::Connect() {
  next_connect_ = ring_->Now() + kReconnectDelay;
  const absl::StatusOr<io::Fd> fd = ring_->OpenSocket(options_->peer);
  if (!fd.ok()) return;
  connection_.Open(*fd, {.index = index_, .generation = ++generation_});
  connection_.Connect(options_->peer);
}

void Session::OnCompletion(io::Completion* completion) {
  io::Slice data;
  switch (completion->token.kind()) {
    case io::OpKind::kConnect:
      return OnConnected(*completion);
    case io::OpKind::kRecv:
      switch (connection_.OnRecv(completion, &data)) {
        case io::Connection::RecvEvent::kNothing:
          return;
        case io::Connection::RecvEvent::kData:
          input_.append(data.data(), data.size());
          return TakeReplies();
        case io::Connection::RecvEvent::kEnd:
        case io::Connection::RecvEvent::kError:
          return Lose();
      }
      return;
    case io::OpKind::kSend:
      switch (connection_.OnSent(*completion)) {
        case io::Connection::SendEvent::kNothing:
          return;
        case io::Connection::SendEvent::kProgress:
          return connection_.Flush();
        case io::Connection::SendEvent::kError:
          return Lose();
      }
      return;
    default:
      return connection_.OnControl(*completion);
  }
}

void Session::OnConnected(const io::Completion& completion) {
  if (connection_.OnConnected(completion) != 0) return connection_.BeginClose();
  if (connection_.state() != io::Connection::State::kOpen) return;
  ready_ = true;
  if (was_open_) report_->OnReconnect();
  was_open_ = true;
  connection_.StartRecv();
  if (!options_->resp3) return;
  Op hello;
  hello.type = Op::Type::kHello;
  hello.sent = ring_->Now();
  ops_.push_back(std::move(hello));
  connection_.Send(io::Slice::Static("*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"));
  connection_.Flush();
}

void Session::TakeReplies() {
  size_t begin = 0;
  while (scanned_ < input_.size()) {
    const resp::ScanResult result = scanner_.Scan(absl::string_view(input_).substr(scanned_));
    scanned_ += result.consumed;
    if (result.status == resp::ScanStatus::kNeedMore) break;
    if (result.status == resp::ScanStatus::kError || ops_.empty()) {
      report_->OnFinding(Finding::kWrong, "", 0, 0,
                         ops_.empty() ? "a reply that nobody asked for"
                                      : absl::StrCat("not RESP: ", scanner_.error()),
                         ring_->Now());
      return Lose();
    }
    const absl::string_view frame = absl::string_view(input_).substr(begin, scanned_ - begin);
    begin = scanned_;
    const Op op = std::move(ops_.front());
    ops_.pop_front();
    report_->OnAnswer(op.is_write(), op.sent, ring_->Now());
    actor_.OnReply(op, frame, &ops_, ring_->Now());
  }
  input_.erase(0, begin);
  scanned_ -= begin;
}

void Session::Lose() {
  connection_.BeginClose();
  ready_ = false;
  for (const Op& op : ops_) {
    if (op.type != Op::Type::kHello) actor_.OnDetached(op);
  }
  ops_.clear();
  input_.clear();
  scanned_ = 0;
  scanner_ = resp::ReplyScanner();
}

}  // namespace loadrunner
