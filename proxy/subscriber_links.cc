#include "proxy/subscriber_links.h"

#include "absl/algorithm/container.h"
#include "proxy/worker.h"

namespace proxy {

SubscriberLink* SubscriberLinks::Find(absl::string_view node_id) const {
  const auto it = by_node_.find(node_id);
  return it == by_node_.end() ? nullptr : links_[it->second].get();
}

SubscriberLink* SubscriberLinks::To(absl::string_view node_id,
                                    absl::FunctionRef<bool(const SubscriberLink&)> is_free) {
  if (SubscriberLink* const link = Find(node_id); link != nullptr) return link;
  // That of a node which has left will do: there are no more links than nodes at a time.
  const auto may_go = [&](const SubscriberLink& link) {
    return !link.wanted() && link.idle() && !link.dirty && is_free(link);
  };
  uint32_t index = 0;
  while (index < links_.size() && !may_go(*links_[index])) ++index;
  uint32_t generation = 0;
  if (index == links_.size()) {
    links_.emplace_back();
  } else {
    by_node_.erase(links_[index]->node_id());
    generation = links_[index]->generation();
  }
  links_[index] = std::make_unique<SubscriberLink>(worker_, observer_, purpose_, index, generation,
                                                   std::string(node_id));
  by_node_[std::string(node_id)] = index;
  return links_[index].get();
}

void SubscriberLinks::OnCompletion(io::Completion* completion) {
  const uint32_t index = completion->token.index();
  if (index >= links_.size()) return worker_->stats()->late_completions.Add(1);
  links_[index]->OnCompletion(completion);
}

void SubscriberLinks::MarkDirty(SubscriberLink* link) {
  if (link->dirty) return;
  link->dirty = true;
  dirty_.push_back(link);
}

void SubscriberLinks::Flush() {
  for (size_t i = 0; i < dirty_.size(); ++i) dirty_[i]->Flush();
  dirty_.clear();
}

bool SubscriberLinks::all_idle() const {
  return absl::c_all_of(links_, [](const auto& link) { return link->idle(); });
}

}  // namespace proxy
