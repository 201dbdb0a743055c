#include "proxy/monitors.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "io/buffer_pool.h"
#include "proxy/client.h"
#include "proxy/monitor_line.h"
#include "proxy/worker.h"

namespace proxy {

Monitors::Monitors(Worker* worker, MonitorMail* mail) : worker_(worker), mail_(mail) {}

// --- clients that watch

void Monitors::Ask(Client* client) {
  ++wanting_;
  ClientQuery query;
  query.kind = ClientQuery::Kind::kMonitor;
  worker_->client_queries()->Ask(client, std::move(query));
}

void Monitors::Begin(Client* client) {
  clients_.push_back(client);
  worker_->stats()->monitors.Add(1);
}

void Monitors::Leave(Client* client) {
  const auto it = std::find(clients_.begin(), clients_.end(), client);
  if (it != clients_.end()) {
    clients_.erase(it);
    worker_->stats()->monitors.Sub(1);
  }
  if (--wanting_ > 0) return;
  ClientQuery query;
  query.kind = ClientQuery::Kind::kEndMonitor;
  worker_->client_queries()->Tell(std::move(query));
}

void Monitors::OnLines() {
  MonitorMail::Taken taken = mail_->Take(worker_->index());
  for (const MonitorMail::Lines& lines : taken.lines) Deliver(*lines);
  if (taken.lost) CloseAll();
}

void Monitors::Deliver(const std::string& lines) {
  if (clients_.empty()) return;
  const io::Rope shared(io::CopyToHeap(lines));  // one copy for all
  for (Client* client : clients_) client->OnMonitorLines(shared);
}

// A gap in what they see would go unnoticed.
void Monitors::CloseAll() {
  const std::vector<Client*> clients = clients_;  // they leave
  for (Client* client : clients) client->CloseSlow();
}

// --- commands

void Monitors::SetReceiver(uint32_t worker, bool watches) {
  const auto it = std::lower_bound(receivers_.begin(), receivers_.end(), worker);
  const bool is_there = it != receivers_.end() && *it == worker;
  if (watches && !is_there) receivers_.insert(it, worker);
  if (!watches && is_there) receivers_.erase(it);
  worker_->UpdateAttentive();
}

void Monitors::Show(const Client& client, absl::string_view quoted) {
  if (lost_) return;
  if (lines_.size() + quoted.size() > MonitorMail::kBytesMax) {
    lost_ = true;
    return;
  }
  if (named_id_ != client.id()) {
    named_id_ = client.id();
    named_ = client.PeerName();
    if (named_.empty()) named_ = client.LocalName();  // a Unix socket's other end has no name
  }
  AppendMonitorLine(absl::Now(), client.database(), named_, quoted, &lines_);
  worker_->stats()->monitor_lines.Add(1);
}

void Monitors::FlushLines() {
  for (Client* client : clients_) client->SendHeldLines();
  if (lines_.empty() && !lost_) return;
  const auto lines = std::make_shared<const std::string>(std::exchange(lines_, std::string()));
  const bool lost = std::exchange(lost_, false);
  for (const uint32_t receiver : receivers_) {
    if (receiver == worker_->index()) {
      Deliver(*lines);
      if (lost) CloseAll();
      continue;
    }
    mail_->Put(receiver, lines);
    if (lost) mail_->Put(receiver, nullptr);
    worker_->PostToWorker(receiver, MessageKind::kMonitorLines);
  }
}

}  // namespace proxy
