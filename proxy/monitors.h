#pragma once

// File: proxy/monitors.h
//
// A worker's part of MONITOR. A client that says it is shown what the clients of all workers send;
// that is the proxy's own view: the nodes would show fragments, and the proxy's connections for
// clients. Its worker asks all workers (proxy/client_query.h) to show their clients' commands;
// each keeps the lines of a turn together and gives them to the workers that have such clients, by
// one message a turn. While nobody watches, nothing of it costs anything: commands are looked at
// where a pause stops them, too (Worker::attentive). One worker's thread.
//
//   client's worker ─kMonitor▶ control ─▶ each worker     each worker ─lines▶ client's worker

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "io/slice.h"
#include "proxy/monitor_mail.h"

namespace proxy {

class Client;
class Worker;

// What a client has that is one, or waits to become one.
struct Monitor {
  bool begun = false;
  io::Rope held;  // lines that came while a reply was leaving piece by piece
};

class Monitors {
 public:
  // `mail` null: there is one worker.
  Monitors(Worker* worker, MonitorMail* mail);
  Monitors(const Monitors&) = delete;
  Monitors& operator=(const Monitors&) = delete;

  // --- clients of this worker that watch (Client::TakeMonitor)
  // It wants to; all workers are asked, and it hears of it by Client::OnQueryAnswered.
  void Ask(Client* client);
  // They show: it gets the lines from here on.
  void Begin(Client* client);
  // It does not want to any more, whether it has begun or not.
  void Leave(Client* client);
  // The mailbox has lines of other workers.
  void OnLines();

  // --- the commands of this worker's clients
  bool watched() const { return !receivers_.empty(); }
  // That worker has clients that watch, or none.
  void SetReceiver(uint32_t worker, bool watches);
  // Adds a line; `quoted` as QuoteForMonitors makes it.
  void Show(const Client& client, absl::string_view quoted);
  // One is too long to be shown.
  void Lose() { lost_ = true; }

  // Once a turn.
  void Flush() {
    if (!lines_.empty() || lost_ || !clients_.empty()) FlushLines();
  }

 private:
  void FlushLines();
  void Deliver(const std::string& lines);
  void CloseAll();

  Worker* const worker_;
  MonitorMail* const mail_;
  uint32_t wanting_ = 0;             // clients that asked and have not left
  std::vector<Client*> clients_;     // that get lines
  std::vector<uint32_t> receivers_;  // workers, ascending
  std::string lines_;                // of this turn
  bool lost_ = false;                // there were more, for which there is no room
  // The last client that was shown: many commands of one come together.
  uint64_t named_id_ = 0;
  std::string named_;
};

}  // namespace proxy
