#pragma once

// File: proxy/query_relay.h
//
// Control's part of the queries about clients (proxy/client_query.h): hands each to all workers and
// gives their answers back as one. A worker has at most one query out. One that has ended is not
// asked, and not waited for. Control's thread.

#include <cstdint>
#include <functional>
#include <vector>

#include "proxy/client_query.h"
#include "proxy/messages.h"

namespace proxy {

class QueryRelay {
 public:
  // `post` sends the message to that worker, some time later if it must.
  using Post = std::function<void(uint32_t worker, MessageKind kind)>;
  QueryRelay(std::vector<WorkerMail*> mail, Post post);
  QueryRelay(const QueryRelay&) = delete;
  QueryRelay& operator=(const QueryRelay&) = delete;

  void OnQuery(ClientQuery query);
  void OnAnswer(ClientAnswer answer);
  void OnWorkerGone(uint32_t worker);

 private:
  // The query that a worker has out.
  struct Open {
    size_t awaited = 0;        // answers; 0: it has none out
    std::vector<bool> awaits;  // by worker
    ClientAnswer answer;       // of those that have answered
  };
  void Take(Open* open, uint32_t worker);

  const std::vector<WorkerMail*> mail_;
  const Post post_;
  std::vector<Open> open_;  // by the worker that asks
  std::vector<bool> gone_;  // by worker
};

}  // namespace proxy
