// What CLIENT says of a connection, beside its names: options that matter to a server's memory and
// caches, taken as a server takes them, and how the connection tracks.

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "proxy/local_handlers.h"

namespace proxy {
namespace {

constexpr absl::string_view kSyntaxError = "ERR syntax error";

void SetOption(const LocalCall& call, bool Client::Identity::*option) {
  const bool on = absl::EqualsIgnoreCase(call.args[2], "on");
  if (!on && !absl::EqualsIgnoreCase(call.args[2], "off")) return call.Error(kSyntaxError);
  call.session->mutable_identity()->*option = on;
  call.Ok();
}

}  // namespace

// The proxy closes clients by what they hold, whatever they ask for: see --memory-limit.
void AnswerClientNoEvict(const LocalCall& call) { SetOption(call, &Client::Identity::no_evict); }

// Reads of all clients share connections: they count for the nodes' eviction in any case.
void AnswerClientNoTouch(const LocalCall& call) { SetOption(call, &Client::Identity::no_touch); }

// "redirect": the client could be sent elsewhere. It never is.
void AnswerClientCapa(const LocalCall& call) { call.Ok(); }

void AnswerClientGetRedir(const LocalCall& call) {
  const TrackingState tracking = call.session->DescribeClient().tracking;
  call.Encode().Integer(tracking.on ? tracking.redirect : -1);
}

void AnswerClientTrackingInfo(const LocalCall& call) {
  const TrackingState tracking = call.session->DescribeClient().tracking;
  const std::pair<bool, absl::string_view> all[] = {
      {!tracking.on, "off"},
      {tracking.on, "on"},
      {tracking.broadcast, "bcast"},
      {tracking.opt_in, "optin"},
      {tracking.opt_in && tracking.caching, "caching-yes"},
      {tracking.opt_out, "optout"},
      {tracking.opt_out && tracking.caching, "caching-no"},
      {tracking.no_loop, "noloop"},
      {tracking.broken_redirect, "broken_redirect"},
  };
  resp::Encoder out = call.Encode();
  out.Map(3);
  out.Bulk("flags");
  out.Set(
      std::count_if(std::begin(all), std::end(all), [](const auto& flag) { return flag.first; }));
  for (const auto& [is_set, name] : all) {
    if (is_set) out.Bulk(name);
  }
  out.Bulk("redirect");
  out.Integer(tracking.on ? tracking.redirect : -1);
  out.Bulk("prefixes");
  out.Array(static_cast<int64_t>(tracking.prefixes.size()));
  for (const std::string& prefix : tracking.prefixes) out.Bulk(prefix);
}

}  // namespace proxy
