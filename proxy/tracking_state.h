#pragma once

// File: proxy/tracking_state.h
//
// What a client has said by CLIENT TRACKING and CLIENT CACHING, with the servers' rules of what
// goes together. Values only.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace proxy {

// How a client tracks, as CLIENT TRACKINGINFO tells it.
struct TrackingState {
  bool on = false;
  bool broadcast = false;
  bool opt_in = false;
  bool opt_out = false;
  bool no_loop = false;
  bool caching = false;          // CLIENT CACHING was said, for the next command
  bool broken_redirect = false;  // whom it redirects to was gone when something was to be told
  int64_t redirect = 0;          // id of the client that is told instead; 0: none
  absl::btree_set<std::string> prefixes;  // broadcast: of the keys that it is told of

  // The keys of the next command are to be noted.
  bool Notes() const {
    if (!on || broadcast) return false;
    return opt_in ? caching : !(opt_out && caching);
  }
  bool HasPrefixOf(absl::string_view key) const;
};

// CLIENT TRACKING's arguments.
struct TrackingCommand {
  bool on = false;
  bool broadcast = false;
  bool opt_in = false;
  bool opt_out = false;
  bool no_loop = false;
  // That client must be there: this is looked at before `error`.
  absl::optional<int64_t> redirect;
  std::vector<std::string> prefixes;
  std::string error;  // what is wrong with them, as a line; empty: nothing
};

inline constexpr absl::string_view kNoRedirectTarget =
    "ERR The client ID you want redirect to does not exist";

// `args`: all, with the two names.
TrackingCommand ParseTracking(absl::Span<const absl::string_view> args);
// Why a client in that state can't do what the command says, which is to switch tracking on; empty:
// it can.
std::string WhyNotTracking(const TrackingCommand& command, const TrackingState& state);
// What WhyNotTracking allows.
void SwitchTrackingOn(const TrackingCommand& command, TrackingState* state);
// CLIENT CACHING YES or NO. Returns the error, or nothing.
absl::string_view SetCaching(absl::string_view word, TrackingState* state);

}  // namespace proxy
