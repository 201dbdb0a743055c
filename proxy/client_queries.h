#pragma once

// File: proxy/client_queries.h
//
// A worker's part of the queries about clients (proxy/client_query.h): asks those of its clients,
// one after the other, and answers those of all workers about the clients that it has. A client
// that asks takes no other command until it is answered; when the others do not answer in time, it
// is told so. Also the pause that a client wished for (CLIENT PAUSE). One worker's thread.

#include <cstdint>
#include <deque>
#include <string>

#include "absl/time/time.h"
#include "cluster/command_table.h"
#include "io/timers.h"
#include "proxy/client_query.h"

namespace proxy {

class Client;
class Worker;

class ClientQueries {
 public:
  explicit ClientQueries(Worker* worker);
  ClientQueries(const ClientQueries&) = delete;
  ClientQueries& operator=(const ClientQueries&) = delete;

  // The client gets the reply by Client::OnQueryAnswered or OnQueryFailed.
  void Ask(Client* client, ClientQuery query);
  // Nobody waits for the answer.
  void Tell(ClientQuery query);
  // The worker's mailbox has queries to answer; it has answers.
  void OnQueries();
  void OnAnswers();
  // Its clients have gone.
  void Close();

  // --- the pause
  bool paused() const { return paused_; }
  // It may not begin now; `may_write`: it is what a pause of writes concerns.
  bool Pauses(bool may_write) const { return paused_ && (may_write || !writes_only_); }
  void EndPause();

 private:
  struct Asked {
    bool told = false;  // for no client
    uint32_t client_index = 0;
    uint32_t client_generation = 0;
    absl::Time deadline;
    ClientQuery query;
  };
  Client* AskerOf(const Asked& asked) const;
  void Add(Asked asked);
  void SendFirst();
  void OnTimer();
  ClientAnswer Answer(const ClientQuery& query);
  void BeginPause(const ClientQuery& query);
  static void TimerFired(void* self) { static_cast<ClientQueries*>(self)->OnTimer(); }
  static void PauseTimerFired(void* self) { static_cast<ClientQueries*>(self)->EndPause(); }

  Worker* const worker_;
  std::deque<Asked> asked_;  // in order; the first one is out, if `out_`
  bool out_ = false;
  uint64_t numbers_ = 0;
  io::Timer timer_;  // the first one's deadline

  bool paused_ = false;
  bool writes_only_ = false;
  absl::Time paused_until_ = absl::InfinitePast();
  io::Timer pause_timer_;
};

}  // namespace proxy
