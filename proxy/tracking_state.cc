#include "proxy/tracking_state.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "resp/views.h"

namespace proxy {
namespace {

constexpr absl::string_view kSyntaxError = "ERR syntax error";

bool Overlap(absl::string_view a, absl::string_view b) {
  const size_t common = std::min(a.size(), b.size());
  return a.substr(0, common) == b.substr(0, common);
}

// As the servers' C functions print it.
absl::string_view Printed(absl::string_view text) { return text.substr(0, text.find('\0')); }

std::string OverlapError(absl::string_view prefix, absl::string_view what,
                         absl::string_view other) {
  return absl::StrCat("ERR Prefix '", Printed(prefix), "' overlaps with ", what, " prefix '",
                      Printed(other), "'. Prefixes for a single client must not overlap.");
}

// A server that finds an overlap behind the first of the new prefixes answers with the error and
// with OK; here it is an error only.
std::string FindOverlap(const std::vector<std::string>& added, const TrackingState& state) {
  for (size_t i = 0; i < added.size(); ++i) {
    for (const std::string& other : state.prefixes) {
      if (Overlap(other, added[i])) return OverlapError(added[i], "an existing", other);
    }
    for (size_t j = i + 1; j < added.size(); ++j) {
      if (Overlap(added[i], added[j])) {
        return OverlapError(added[i], "another provided", added[j]);
      }
    }
  }
  return "";
}

}  // namespace

bool TrackingState::HasPrefixOf(absl::string_view key) const {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [key](const std::string& prefix) { return absl::StartsWith(key, prefix); });
}

TrackingCommand ParseTracking(absl::Span<const absl::string_view> args) {
  TrackingCommand command;
  const auto fail = [&command](absl::string_view line) {
    command.error = std::string(line);
    return command;
  };
  for (size_t i = 3; i < args.size(); ++i) {
    const bool more = i + 1 < args.size();
    if (absl::EqualsIgnoreCase(args[i], "redirect") && more) {
      if (command.redirect.has_value()) {
        return fail("ERR A client can only redirect to a single other client");
      }
      int64_t id = 0;
      if (!resp::ParseDecimal(args[++i], &id)) {
        return fail("ERR value is not an integer or out of range");
      }
      command.redirect = id;
    } else if (absl::EqualsIgnoreCase(args[i], "bcast")) {
      command.broadcast = true;
    } else if (absl::EqualsIgnoreCase(args[i], "optin")) {
      command.opt_in = true;
    } else if (absl::EqualsIgnoreCase(args[i], "optout")) {
      command.opt_out = true;
    } else if (absl::EqualsIgnoreCase(args[i], "noloop")) {
      command.no_loop = true;
    } else if (absl::EqualsIgnoreCase(args[i], "prefix") && more) {
      command.prefixes.emplace_back(args[++i]);
    } else {
      return fail(kSyntaxError);
    }
  }
  command.on = absl::EqualsIgnoreCase(args[2], "on");
  if (!command.on && !absl::EqualsIgnoreCase(args[2], "off")) return fail(kSyntaxError);
  return command;
}

std::string WhyNotTracking(const TrackingCommand& command, const TrackingState& state) {
  if (!command.broadcast && !command.prefixes.empty()) {
    return "ERR PREFIX option requires BCAST mode to be enabled";
  }
  if (state.on && state.broadcast != command.broadcast) {
    return "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and "
           "then re-enabling it with a different mode.";
  }
  if (command.broadcast && (command.opt_in || command.opt_out)) {
    return "ERR OPTIN and OPTOUT are not compatible with BCAST";
  }
  if (command.opt_in && command.opt_out) {
    return "ERR You can't specify both OPTIN mode and OPTOUT mode";
  }
  if ((command.opt_in && state.opt_out) || (command.opt_out && state.opt_in)) {
    return "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and "
           "then re-enabling it with a different mode.";
  }
  return FindOverlap(command.prefixes, state);
}

void SwitchTrackingOn(const TrackingCommand& command, TrackingState* state) {
  state->on = true;
  state->broadcast = command.broadcast;
  state->opt_in = command.opt_in;
  state->opt_out = command.opt_out;
  state->no_loop = command.no_loop;
  state->broken_redirect = false;
  state->redirect = command.redirect.value_or(0);
  if (!command.broadcast) return;
  state->prefixes.insert(command.prefixes.begin(), command.prefixes.end());
  if (command.prefixes.empty()) state->prefixes.insert("");
}

absl::string_view SetCaching(absl::string_view word, TrackingState* state) {
  if (!state->on) {
    return "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN "
           "or OPTOUT mode enabled";
  }
  const bool yes = absl::EqualsIgnoreCase(word, "yes");
  if (!yes && !absl::EqualsIgnoreCase(word, "no")) return kSyntaxError;
  if (yes && !state->opt_in) {
    return "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.";
  }
  if (!yes && !state->opt_out) {
    return "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.";
  }
  state->caching = true;
  return "";
}

}  // namespace proxy
