#include "tools/latency/session.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/numeric/bits.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace latency {
namespace {

// What was written is moved on in pieces that fit into an arena's block.
constexpr size_t kTextBytesMax = 16 << 10;

}  // namespace

Session::Session(io::Ring* ring, io::Arena* arena, const Workload* workload,
                 const KeySequence* keys, Owner* owner, const Options& options)
    : arena_(arena),
      ring_(ring),
      workload_(workload),
      keys_(keys),
      owner_(owner),
      options_(options),
      connection_(ring),
      random_(options.number),
      position_(static_cast<uint32_t>(random_.Next())),
      requests_(absl::bit_ceil(std::max(options.requests_max, kFillMax) + 1)),
      mask_(requests_.size() - 1) {}

bool Session::Connect() {
  const absl::StatusOr<io::Fd> fd = ring_->OpenSocket(options_.peer);
  if (!fd.ok()) return false;
  connection_.Open(*fd, {.index = options_.index, .generation = 1});
  connection_.Connect(options_.peer);
  return true;
}

Session::Request* Session::Push(uint16_t op, int64_t start) {
  Request* const request = &requests_[(first_ + in_flight_) & mask_];
  *request = {.start = start, .position = position_, .replies = 1, .replies_taken = 0, .op = op};
  ++in_flight_;
  if (unflushed_++ == 0) owner_->OnUnflushed(this);
  return request;
}

void Session::Start(int64_t intended) {
  const size_t op = workload_->ChooseOp(&random_);
  Request* const request = Push(static_cast<uint16_t>(op), intended);
  const Op& what = workload_->ops()[op];
  request->replies = workload_->Write(what, *keys_, position_, options_.apart, &random_, this);
  position_ += what.keys;
  if (output_.size() >= kTextBytesMax) SendText();
}

void Session::StartFill(uint32_t key) {
  Push(kFill, kWhenFlushed);
  workload_->WriteFill(key, &random_, this);
}

void Session::AddLarge(io::Slice slice) {
  SendText();
  connection_.Send(std::move(slice));
}

void Session::SendText() {
  connection_.Send(arena_->Copy(output_));
  output_.clear();
}

void Session::Flush(int64_t now) {
  for (size_t i = in_flight_ - std::min(unflushed_, in_flight_); i < in_flight_; ++i) {
    Request& request = requests_[(first_ + i) & mask_];
    if (request.start == kWhenFlushed) request.start = now;
  }
  unflushed_ = 0;
  if (connection_.state() != io::Connection::State::kOpen) return output_.clear();
  SendText();
  connection_.Flush();
}

void Session::OnCompletion(io::Completion* completion, int64_t now) {
  io::Slice data;
  switch (completion->token.kind()) {
    case io::OpKind::kConnect:
      return OnConnected(*completion);
    case io::OpKind::kRecv:
      switch (connection_.OnRecv(completion, &data)) {
        case io::Connection::RecvEvent::kNothing:
          return;
        case io::Connection::RecvEvent::kData:
          OnData(data.bytes(), now);
          if (ready_) owner_->OnRoom(this);
          return;
        case io::Connection::RecvEvent::kEnd:
          return Lose("it closed a connection");
        case io::Connection::RecvEvent::kError:
          return Lose(absl::StrCat("a connection broke: ", std::strerror(connection_.error())));
      }
      return;
    case io::OpKind::kSend:
      switch (connection_.OnSent(*completion)) {
        case io::Connection::SendEvent::kNothing:
          return;
        case io::Connection::SendEvent::kProgress:
          return connection_.Flush();
        case io::Connection::SendEvent::kError:
          return Lose(absl::StrCat("a connection broke: ", std::strerror(connection_.error())));
      }
      return;
    default:
      return connection_.OnControl(*completion);
  }
}

void Session::OnConnected(const io::Completion& completion) {
  const int result = connection_.OnConnected(completion);
  if (connection_.state() != io::Connection::State::kOpen) return;
  if (result != 0) return Lose(absl::StrCat("cannot connect: ", std::strerror(-result)));
  connection_.StartRecv();
  if (options_.resp3) {
    Push(kHello, kWhenFlushed);
    output_.append("*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n");
    return;
  }
  ready_ = true;
  owner_->OnConnected();
}

void Session::OnData(absl::string_view data, int64_t now) {
  // A reply that is whole is judged where it was received.
  const bool in_place = input_.empty();
  if (!in_place) input_.append(data.data(), data.size());
  const absl::string_view bytes = in_place ? data : absl::string_view(input_);
  size_t begin = 0;
  size_t scanned = scanned_;
  while (scanned < bytes.size()) {
    const resp::ScanResult result = scanner_.Scan(bytes.substr(scanned));
    scanned += result.consumed;
    if (result.status == resp::ScanStatus::kNeedMore) break;
    const absl::string_view frame = bytes.substr(begin, scanned - begin);
    if (result.status == resp::ScanStatus::kError) {
      owner_->OnWrong(absl::StrCat("not RESP: ", scanner_.error()));
      return Lose("it does not speak RESP");
    }
    begin = scanned;
    if (frame[0] == '>') continue;  // a push of RESP3 answers nothing
    if (in_flight_ == 0) {
      owner_->OnWrong(
          absl::StrCat("a reply that nobody asked for: ", absl::CHexEscape(frame.substr(0, 60))));
      return Lose("it sent a reply that nobody asked for");
    }
    OnFrame(frame, now);
    if (connection_.state() != io::Connection::State::kOpen) return;
  }
  if (in_place) {
    input_.assign(bytes.data() + begin, bytes.size() - begin);
  } else {
    input_.erase(0, begin);
  }
  scanned_ = scanned - begin;
}

void Session::OnFrame(absl::string_view frame, int64_t now) {
  Request& request = requests_[first_ & mask_];
  Verdict verdict = Verdict::kRight;
  if (request.op == kHello) {
    if (frame[0] != '%') {
      return Lose(absl::StrCat("HELLO 3: ", absl::CHexEscape(frame.substr(0, 60))));
    }
    ready_ = true;
    owner_->OnConnected();
  } else if (request.op == kFill) {
    verdict = frame == "+OK\r\n"                   ? Verdict::kRight
              : frame[0] == '-' || frame[0] == '!' ? Verdict::kError
                                                   : Verdict::kWrong;
    if (verdict == Verdict::kWrong) {
      why_ = absl::StrCat("SET: not an OK: ", absl::CHexEscape(frame.substr(0, 60)));
    }
  } else {
    verdict = workload_->Judge(workload_->ops()[request.op], *keys_, request.position,
                               options_.apart, request.replies_taken, frame, &tally_, &why_);
  }
  if (verdict == Verdict::kError) owner_->OnError(frame);
  if (verdict == Verdict::kWrong) owner_->OnWrong(why_);
  if (++request.replies_taken < request.replies) return;
  const int64_t start = request.start;
  const uint16_t op = request.op;
  first_ = (first_ + 1) & mask_;
  --in_flight_;
  if (op < kHello) owner_->OnAnswer(start, now);
  if (op == kFill) owner_->OnFilled(now);
}

void Session::Lose(absl::string_view why) {
  if (connection_.state() != io::Connection::State::kOpen) return;
  BeginClose();
  owner_->OnLost(why);
}

void Session::BeginClose() {
  connection_.BeginClose();
  ready_ = false;
  in_flight_ = unflushed_ = 0;
  output_.clear();
}

}  // namespace latency
