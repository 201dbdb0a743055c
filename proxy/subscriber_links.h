#pragma once

// File: proxy/subscriber_links.h
//
// A worker's links of one purpose (proxy/subscriber_link.h), one a node: found, made and used
// again, and what the worker does with all of them. One worker's thread.

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "io/ring.h"
#include "proxy/subscriber_link.h"

namespace proxy {

class SubscriberLinks {
 public:
  // Both outlive it. The observer passes MarkDirty on.
  SubscriberLinks(Worker* worker, SubscriberLink::Observer* observer,
                  SubscriberLink::Purpose purpose)
      : worker_(worker), observer_(observer), purpose_(purpose) {}
  SubscriberLinks(const SubscriberLinks&) = delete;
  SubscriberLinks& operator=(const SubscriberLinks&) = delete;

  // Null: there is none.
  SubscriberLink* Find(absl::string_view node_id) const;
  // Made if there is none: in the place of one whose node has left, if `is_free` allows that.
  SubscriberLink* To(absl::string_view node_id,
                     absl::FunctionRef<bool(const SubscriberLink&)> is_free);
  // By index. Those that `fn` makes are among them.
  void ForEach(absl::FunctionRef<void(SubscriberLink*)> fn) const {
    for (size_t i = 0; i < links_.size(); ++i) fn(links_[i].get());
  }

  void OnCompletion(io::Completion* completion);
  void MarkDirty(SubscriberLink* link);
  // Once a turn, if there is something.
  bool dirty() const { return !dirty_.empty(); }
  void Flush();
  bool all_idle() const;

 private:
  Worker* const worker_;
  SubscriberLink::Observer* const observer_;
  const SubscriberLink::Purpose purpose_;
  std::deque<std::unique_ptr<SubscriberLink>> links_;  // by index; kept
  absl::btree_map<std::string, uint32_t> by_node_;     // node id → index
  std::vector<SubscriberLink*> dirty_;
};

}  // namespace proxy
