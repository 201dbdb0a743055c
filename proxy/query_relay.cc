#include "proxy/query_relay.h"

#include <memory>
#include <utility>

namespace proxy {

QueryRelay::QueryRelay(std::vector<WorkerMail*> mail, Post post)
    : mail_(std::move(mail)),
      post_(std::move(post)),
      open_(mail_.size()),
      gone_(mail_.size(), false) {}

void QueryRelay::OnQuery(ClientQuery query) {
  Open& open = open_[query.worker];
  // One that it had before is not waited for any more: it asks the next when it has given up.
  open = Open();
  open.answer.asked_by = query.worker;
  open.answer.number = query.number;
  open.awaits.resize(mail_.size(), false);
  const auto shared = std::make_shared<const ClientQuery>(std::move(query));
  for (uint32_t worker = 0; worker < mail_.size(); ++worker) {
    if (gone_[worker]) continue;
    open.awaits[worker] = true;
    ++open.awaited;
    mail_[worker]->queries.Put(shared);
    post_(worker, MessageKind::kClientQuery);
  }
}

void QueryRelay::OnAnswer(ClientAnswer answer) {
  Open& open = open_[answer.asked_by];
  const uint32_t worker = answer.worker;
  if (open.awaited == 0 || open.answer.number != answer.number || !open.awaits[worker]) return;
  open.answer.Add(std::move(answer));
  Take(&open, worker);
}

void QueryRelay::OnWorkerGone(uint32_t worker) {
  gone_[worker] = true;
  for (Open& open : open_) {
    if (open.awaited > 0 && open.awaits[worker]) Take(&open, worker);
  }
}

void QueryRelay::Take(Open* open, uint32_t worker) {
  open->awaits[worker] = false;
  if (--open->awaited > 0) return;
  const uint32_t asked_by = open->answer.asked_by;
  if (gone_[asked_by]) return;
  mail_[asked_by]->answers.Put(std::move(open->answer));
  open->answer = ClientAnswer();
  post_(asked_by, MessageKind::kClientAnswer);
}

}  // namespace proxy
