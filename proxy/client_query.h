#pragma once

// File: proxy/client_query.h
//
// What one client asks all workers about their clients, or wants done to them: CLIENT LIST, KILL,
// UNBLOCK, PAUSE and UNPAUSE; MONITOR and its end. The client's worker puts the query to control,
// control gives it to every worker (its own included) and makes one answer of theirs. Values only:
// any thread.
//
//   worker ─query▶ control ─query▶ each worker ─answer▶ control ─answers as one▶ worker

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "cluster/command_table.h"
#include "resp/encoder.h"

namespace proxy {

struct ServerInfo;

enum class ClientType : uint8_t { kNormal, kPrimary, kReplica, kPubSub };

// Which clients a query means: those to which everything applies that is given.
struct ClientFilter {
  absl::optional<ClientType> type;
  absl::optional<std::vector<int64_t>> ids;  // ascending
  absl::optional<std::string> address;
  absl::optional<std::string> local_address;
  absl::Duration age_min = absl::ZeroDuration();
  bool not_asker = false;
};

struct ClientQuery {
  // kFind: only counts them.
  enum class Kind : uint8_t {
    kList,
    kKill,
    kUnblock,
    kPause,
    kUnpause,
    kMonitor,
    kEndMonitor,
    kFind
  };

  Kind kind = Kind::kList;
  uint32_t worker = 0;  // that asks
  uint64_t number = 0;  // the worker's own numbering, ascending
  uint64_t asker = 0;   // the client's id
  ClientFilter filter;
  bool one_address = false;  // CLIENT KILL address: the reply says whether it was there
  bool with_error = false;   // kUnblock
  absl::Time pause_until;    // kPause
  bool pause_writes_only = false;
};

// The query that the command is. False: *error is the line to answer.
bool ParseClientQuery(const cluster::CommandSpec& command, absl::Span<const absl::string_view> args,
                      const ServerInfo& server, absl::Time now, ClientQuery* query,
                      std::string* error);

// Of one worker, or of all.
struct ClientAnswer {
  uint32_t asked_by = 0;  // the query's worker and number
  uint64_t number = 0;
  uint32_t worker = 0;                                  // that answers
  uint64_t clients = 0;                                 // that were found, killed or unblocked
  bool asker_too = false;                               // it ends when it has its reply
  std::vector<std::pair<uint64_t, std::string>> lines;  // kList: by id

  void Add(ClientAnswer more);
};

// The reply to the client.
std::string ClientQueryReply(const ClientQuery& query, ClientAnswer answer,
                             resp::Protocol protocol);

}  // namespace proxy
