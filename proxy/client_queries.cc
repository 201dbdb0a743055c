#include "proxy/client_queries.h"

#include <algorithm>
#include <utility>

#include "proxy/client.h"
#include "proxy/client_line.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

// Longer than any worker's turn should take, and than control's attempts to deliver a message.
constexpr absl::Duration kAnswerMax = absl::Seconds(5);

}  // namespace

ClientQueries::ClientQueries(Worker* worker)
    : worker_(worker),
      timer_(worker->timers(), &ClientQueries::TimerFired, this),
      pause_timer_(worker->timers(), &ClientQueries::PauseTimerFired, this) {}

// --- asking

void ClientQueries::Ask(Client* client, ClientQuery query) {
  query.asker = client->id();
  Asked asked;
  asked.client_index = client->index();
  asked.client_generation = client->generation();
  asked.query = std::move(query);
  Add(std::move(asked));
}

void ClientQueries::Tell(ClientQuery query) {
  Asked asked;
  asked.told = true;
  asked.query = std::move(query);
  Add(std::move(asked));
}

void ClientQueries::Add(Asked asked) {
  asked.deadline = worker_->now() + kAnswerMax;
  asked.query.worker = worker_->index();
  asked.query.number = ++numbers_;
  asked_.push_back(std::move(asked));
  SendFirst();
}

Client* ClientQueries::AskerOf(const Asked& asked) const {
  return asked.told ? nullptr : worker_->FindClient(asked.client_index, asked.client_generation);
}

void ClientQueries::SendFirst() {
  if (out_) return;
  // Nobody wants to know any more.
  const auto unwanted = [&] { return !asked_.front().told && AskerOf(asked_.front()) == nullptr; };
  while (!asked_.empty() && unwanted()) asked_.pop_front();
  if (asked_.empty()) return timer_.Stop();
  out_ = true;
  timer_.Set(asked_.front().deadline);
  worker_->SendQuery(asked_.front().query);
}

void ClientQueries::OnAnswers() {
  while (auto answer = worker_->mail()->answers.Take()) {
    // A late one is to a query that was given up.
    if (!out_ || answer->number != asked_.front().query.number) continue;
    Asked asked = std::move(asked_.front());
    asked_.pop_front();
    out_ = false;
    if (Client* client = AskerOf(asked); client != nullptr) {
      client->OnQueryAnswered(asked.query, *std::move(answer));
    }
    SendFirst();
  }
}

void ClientQueries::OnTimer() {
  out_ = false;
  while (!asked_.empty() && asked_.front().deadline <= worker_->now()) {
    Client* const client = AskerOf(asked_.front());
    asked_.pop_front();
    if (client != nullptr) client->OnQueryFailed();
  }
  SendFirst();
}

void ClientQueries::Close() {
  asked_.clear();
  out_ = false;
  timer_.Stop();
}

// --- answering

void ClientQueries::OnQueries() {
  while (auto query = worker_->mail()->queries.Take()) worker_->SendAnswer(Answer(**query));
}

ClientAnswer ClientQueries::Answer(const ClientQuery& query) {
  ClientAnswer answer;
  answer.asked_by = query.worker;
  answer.number = query.number;
  answer.worker = worker_->index();
  switch (query.kind) {
    case ClientQuery::Kind::kPause:
      BeginPause(query);
      return answer;
    case ClientQuery::Kind::kUnpause:
      EndPause();
      return answer;
    case ClientQuery::Kind::kMonitor:
    case ClientQuery::Kind::kEndMonitor:
      worker_->monitors()->SetReceiver(query.worker, query.kind == ClientQuery::Kind::kMonitor);
      return answer;
    default:
      break;
  }
  worker_->ForEachClient([&](Client* client) {
    if (!client->Matches(query)) return;
    switch (query.kind) {
      case ClientQuery::Kind::kList: {
        std::string line;
        AppendClientLine(client->Describe(), worker_->server(), &line);
        answer.lines.emplace_back(client->id(), std::move(line));
        return;
      }
      case ClientQuery::Kind::kUnblock:
        if (client->Unblock(query.with_error)) ++answer.clients;
        return;
      case ClientQuery::Kind::kFind:
        ++answer.clients;
        return;
      default:
        break;
    }
    ++answer.clients;
    if (client->id() == query.asker) {
      answer.asker_too = true;
    } else {
      client->BeginClose();
    }
  });
  return answer;
}

// --- the pause

// As the servers: a longer one, and one of all commands, stay what they are.
void ClientQueries::BeginPause(const ClientQuery& query) {
  if (query.pause_until <= worker_->now() || worker_->draining()) return;
  writes_only_ = query.pause_writes_only && (!paused_ || writes_only_);
  paused_until_ = paused_ ? std::max(paused_until_, query.pause_until) : query.pause_until;
  paused_ = true;
  pause_timer_.Set(paused_until_);
  worker_->UpdateAttentive();
}

void ClientQueries::EndPause() {
  if (!paused_) return;
  paused_ = false;
  worker_->UpdateAttentive();
  pause_timer_.Stop();
  worker_->ForEachClient([](Client* client) { client->OnPauseEnded(); });
}

}  // namespace proxy
