#include "proxy/client_line.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proxy/local_handlers.h"
#include "proxy/messages.h"
#include "proxy/server_info.h"

namespace proxy {
namespace {

// In the servers' order.
std::string FlagsOf(const ClientFacts& facts) {
  const bool is_unix = absl::StartsWith(facts.local_address, "/");
  const std::pair<bool, char> flags[] = {
      {facts.monitor, 'O'},
      {facts.subscribed, 'P'},
      {facts.queueing, 'x'},
      {facts.blocked, 'b'},
      {facts.tracking.on, 't'},
      {facts.tracking.broken_redirect, 'R'},
      {facts.tracking.broadcast, 'B'},
      {facts.watch_lost, 'd'},
      {facts.ending, 'c'},
      {is_unix, 'U'},
      {facts.no_evict, 'e'},
      {facts.no_touch, 'T'},
  };
  std::string text;
  for (const auto& [is_set, letter] : flags) {
    if (is_set) text += letter;
  }
  return text.empty() ? "N" : text;
}

std::string NameOf(const cluster::CommandSpec* command) {
  return command == nullptr ? "NULL" : cluster::FullName(*command);
}

}  // namespace

void AppendClientLine(const ClientFacts& facts, const ServerInfo& server, std::string* out) {
  absl::StrAppend(out, "id=", facts.id, " addr=", facts.address, " laddr=", facts.local_address,
                  " fd=", facts.fd, " name=", facts.name, " age=", absl::ToInt64Seconds(facts.age),
                  " idle=", absl::ToInt64Seconds(facts.idle), " flags=", FlagsOf(facts));
  absl::StrAppend(out, " db=", facts.database, " sub=", facts.channels, " psub=", facts.patterns,
                  " ssub=", facts.shard_channels, " multi=");
  if (facts.queueing) {
    absl::StrAppend(out, facts.queued_commands);
  } else {
    out->append("-1");
  }
  if (!IsBeforeRedis72(server)) absl::StrAppend(out, " watch=", facts.watched_keys);
  absl::StrAppend(out, " qbuf=", facts.input_bytes,
                  " qbuf-free=0 argv-mem=0 multi-mem=", facts.queued_bytes,
                  " rbs=0 rbp=0 obl=0 oll=", facts.output_bytes > 0 ? 1 : 0,
                  " omem=", facts.output_bytes, " tot-mem=", facts.held_bytes,
                  " events=", facts.sending ? "rw" : "r", " cmd=", NameOf(facts.last_command));
  absl::StrAppend(out, " user=default redir=", facts.tracking.on ? facts.tracking.redirect : -1,
                  " resp=", static_cast<int>(facts.protocol), " lib-name=", facts.library_name,
                  " lib-ver=", facts.library_version);
}

}  // namespace proxy
