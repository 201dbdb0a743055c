#pragma once

// File: proxy/dispatcher.h
//
// Where a request goes next: on which connection, or that it waits, or with which error it ends.
// Keeps the order of one client's requests on one slot (the slot gate), follows redirections within
// their budgets, and holds what the cluster cannot serve right now. One worker's thread.
//
// The slot gate: a request may be sent on a connection only if no earlier unanswered request of its
// client for that slot waits or is on another connection; and a request that a node refused only
// when no later one of its client and slot is still out. If a later one ran and shares a key with
// it, that one runs again if it is a read; else the refused one is answered with an error instead.

#include <memory>
#include <string>

#include "absl/base/attributes.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "cluster/redirection.h"
#include "proxy/client.h"
#include "proxy/request.h"

namespace proxy {

struct NodeBackends;
class Worker;

inline constexpr absl::string_view kConnectionLostError =
    "ERR proxy: backend connection lost (outcome unknown)";
// To an ask on a kept connection: that is no more, or its slot is another node's.
inline constexpr absl::string_view kKeptLostError =
    "ERR proxy: kept connection lost (not executed)";
inline constexpr absl::string_view kSlotMovedError = "ERR proxy: the slot has moved (not executed)";

class Dispatcher {
 public:
  explicit Dispatcher(Worker* worker) : worker_(worker) {}

  // A new one-slot request (or fragment): command, slot and client are set; `frame` has its bytes.
  // False: it waits because its backend is full, and its client should not take more.
  bool Start(Request* request, const io::Rope& frame);
  // A fragment made after TRYAGAIN: waits a little, then goes. `frame` is kept.
  void StartOneKeyFragment(Request* request, const io::Rope& frame);

  // A request of a procedure's step: waits for Wake.
  void StartAsk(Request* request, const Ask& ask);

  // A request of a procedure's step, if it still waits: it is answered with an error at the next
  // Wake, whatever it waits for.
  void GiveUp(Request* request);

  // Looks at the client's waiting requests: sends what may go, answers what has run out of time.
  void Wake(Client* client);

  // A whole error reply from the backend: `line` without '-' and CRLF. True: dealt with, the error
  // is not for the client. False: pass it on.
  bool OnErrorReply(Request* request, Backend* backend, absl::string_view line);
  // The request ran, or may have: the refused ones before it that share a key with it can't run any
  // more. It still has its place among its client's unanswered requests.
  void NoteMayHaveRun(Request* request);
  // It is a read that has its whole reply, but ran before an earlier one on its key, which a node
  // had refused. True: the reply is to be dropped, it runs again after that one.
  bool RunsAgain(Request* request);
  // NoteMayHaveRun, and the answer: an error that says "(outcome unknown)".
  void AnswerUnknown(Request* request, absl::string_view line);
  // Its connection ended before it was handed over.
  void OnNotHandedOver(Request* request);
  // Its connection ended after it was handed over. True: it may run once more (a read).
  bool MayRepeat(const Request& request);
  void Repeat(Request* request);

 private:
  struct Route {
    NodeBackends* node = nullptr;  // null: nobody serves the slot
    Backend* backend = nullptr;    // null: the node can't be connected to now
    bool plain = false;            // a shared connection to the slot's primary
  };
  enum class Verdict : uint8_t { kGo, kNotYet, kExpired };

  static BackendSession SessionOf(const Request& request) {
    return {request.protocol, request.client->database()};
  }
  NodeBackends* ChooseNode(Request* request, bool* read_only, bool* by_slot);
  ABSL_ATTRIBUTE_NOINLINE NodeBackends* NodeFor(Request* request);
  Route FindRoute(Request* request);
  bool IsOvertakenByTopology(const Request& request);
  bool MayForge(const Request& request, const io::Rope& frame);
  bool MayLease(Request* request);
  bool GateOpen(Request* request, const Route& route);
  ABSL_ATTRIBUTE_NOINLINE bool MayGoApart(const Request& request);
  bool EarlierInTheWay(const Request& request, const Backend* backend);
  void Send(Request* request, const Route& route);
  void NoteWrite(const Request& request);
  ABSL_ATTRIBUTE_NOINLINE void PreparePrivate(Request* request, Backend* backend);

  // --- waiting
  void Wait(Request* request);
  void LeaveWaiting(Request* request);
  Hold* EnsureHold(Request* request);
  void EndHold(Request* request, absl::string_view line);
  bool TakePlace(Request* request, const Route& route, uint64_t bytes);
  void TakePlaceOrExpire(Request* request, const Route& route);
  void HoldWhileOpening(Request* request, const Backend& backend);
  void HoldForNode(Request* request, const Route& route);
  Verdict CheckHold(Request* request);
  void Expire(Request* request);

  // --- watches: proxy/dispatcher_watch.cc
  ABSL_ATTRIBUTE_NOINLINE Route FindWatchRoute(Request* request);
  ABSL_ATTRIBUTE_NOINLINE Route FindKeptRoute(Request* request);
  bool MayHaveKeysElsewhere(const Request& burst) const;
  bool IsWatchOver(const Request& request) const;
  void OnWatchOver(Request* request);
  bool OnWatchRefused(Request* request, cluster::ErrorKind kind);
  void PrepareWatched(Request* request);

  // --- what a node has refused: proxy/dispatcher_refusals.cc
  bool OnUnblocked(Request* request, absl::string_view line);
  bool OnRedirection(Request* request, Backend* backend, const cluster::ErrorReply& error);
  bool IsHalfMoved(const Request& burst) const;
  bool HasRefusedBefore(const Request& request);
  bool OnNoScript(Request* request, Backend* backend, absl::string_view line);
  void WaitAndRetry(Request* request, absl::string_view line);
  Hold* HoldRefused(Request* request);
  Verdict CheckRepair(Request* request);
  Verdict FindTarget(Request* request);
  bool HasStoppedMoving(const Request& request);
  Verdict ConfirmScript(Request* request);
  Verdict AskAgain(Request* request);

  Worker* const worker_;
  // For slots that nobody serves.
  const std::shared_ptr<WaitingCount> uncovered_ = std::make_shared<WaitingCount>();
};

}  // namespace proxy
