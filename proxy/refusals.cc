#include "proxy/refusals.h"

#include <utility>

namespace proxy {
namespace {

constexpr size_t kRefusedMax = 1024;
constexpr size_t kLingeringMax = 64;
constexpr absl::Duration kLingerTime = absl::Seconds(1);
constexpr size_t kDroppedBytesMax = 64 << 10;  // of what a refused client sends
constexpr uint32_t kGenerationMask = 0xffffff;

}  // namespace

Refusals::Refused::Refused(Refusals* refusals, uint32_t its_index)
    : owner(refusals),
      index(its_index),
      connection(refusals->ring_),
      timer(refusals->timers_, &Refusals::TimerFired, this) {}

Refusals::Refusals(io::Ring* ring, io::Timers* timers, uint8_t party)
    : ring_(ring), timers_(timers), party_(party) {}

void Refusals::Refuse(absl::Time now, io::Fd fd, absl::string_view text, Ending ending) {
  if (free_.empty() && refused_.size() == kRefusedMax) {
    return ring_->Close(io::OpToken(io::OpKind::kClose, party_, kRefusedMax, 0), fd);
  }
  if (free_.empty()) {
    free_.push_back(static_cast<uint32_t>(refused_.size()));
    refused_.push_back(std::make_unique<Refused>(this, free_.back()));
  }
  Refused* refused = refused_[free_.back()].get();
  free_.pop_back();
  ++open_;
  refused->generation = (refused->generation + 1) & kGenerationMask;
  refused->dropped_bytes = 0;
  refused->linger = ending == Ending::kLinger && lingering_ < kLingeringMax;
  if (refused->linger) ++lingering_;
  io::Connection::Options options;
  options.party = party_;
  options.index = refused->index;
  options.generation = refused->generation;
  options.group = io::BufferGroup::kClients;
  refused->connection.Open(fd, options);
  refused->connection.Send(io::Slice::Static(text));
  refused->connection.Flush();
  if (refused->linger) refused->connection.StartRecv();
  refused->timer.Set(now + kLingerTime);
}

void Refusals::OnCompletion(io::Completion* completion) {
  const uint32_t index = completion->token.index();
  if (index >= refused_.size()) return;
  Refused* refused = refused_[index].get();
  if (completion->token.generation() != refused->generation) return;
  io::Connection* connection = &refused->connection;
  if (connection->closed()) return;
  switch (completion->token.kind()) {
    case io::OpKind::kSend:
      if (connection->OnSent(*completion) == io::Connection::SendEvent::kError) {
        connection->BeginClose();
      } else {
        OnSent(refused);
      }
      break;
    case io::OpKind::kRecv: {
      io::Slice data;
      const io::Connection::RecvEvent event = connection->OnRecv(completion, &data);
      refused->dropped_bytes += data.size();
      const bool over =
          event == io::Connection::RecvEvent::kError || refused->dropped_bytes > kDroppedBytesMax;
      if (over || (event == io::Connection::RecvEvent::kEnd && connection->send_idle())) {
        connection->BeginClose();
      }
      break;
    }
    default:
      connection->OnControl(*completion);
      break;
  }
  if (!connection->closed()) return;
  refused->timer.Stop();
  if (refused->linger) --lingering_;
  --open_;
  free_.push_back(index);
}

void Refusals::OnSent(Refused* refused) {
  io::Connection* connection = &refused->connection;
  if (connection->state() != io::Connection::State::kOpen) return;
  if (!connection->send_idle()) return connection->Flush();
  if (refused->linger && !connection->end_of_input()) return connection->ShutdownWrite();
  connection->BeginClose();
}

void Refusals::TimerFired(void* refused) {
  static_cast<Refused*>(refused)->connection.BeginClose();
}

void Refusals::CloseAll() {
  for (const std::unique_ptr<Refused>& refused : refused_) refused->connection.BeginClose();
}

}  // namespace proxy
