// CLIENT TRACKING's arguments, and what goes together (proxy/tracking_state.h). The texts are those
// of redis-server 7.0 and valkey-server 8.

#include "proxy/tracking_state.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace proxy {
namespace {

using ::testing::ElementsAre;

// What the words behind CLIENT TRACKING come to. "": they are carried out.
std::string Say(absl::string_view words, TrackingState* state) {
  std::vector<absl::string_view> args = {"CLIENT", "TRACKING"};
  for (const absl::string_view word : absl::StrSplit(words, ' ')) args.push_back(word);
  const TrackingCommand command = ParseTracking(args);
  if (!command.error.empty()) return command.error;
  if (!command.on) {
    *state = {};
    return "";
  }
  const std::string error = WhyNotTracking(command, *state);
  if (error.empty()) SwitchTrackingOn(command, state);
  return error;
}
std::string Say(absl::string_view words) {
  TrackingState state;
  return Say(words, &state);
}

TEST(TrackingStateTest, WhatDoesNotGoTogetherIsAnErrorOfTheServers) {
  const std::string syntax = "ERR syntax error";
  const struct {
    absl::string_view words;
    std::string error;
  } cases[] = {
      {"foo", syntax},
      {"on foo", syntax},
      {"ON PREFIX", syntax},
      {"ON REDIRECT", syntax},
      {"OFF FOO", syntax},
      {"OFF PREFIX a", ""},
      {"ON REDIRECT x", "ERR value is not an integer or out of range"},
      {"ON REDIRECT 4 REDIRECT 4", "ERR A client can only redirect to a single other client"},
      {"ON PREFIX a", "ERR PREFIX option requires BCAST mode to be enabled"},
      {"ON BCAST OPTIN", "ERR OPTIN and OPTOUT are not compatible with BCAST"},
      {"ON OPTIN OPTOUT", "ERR You can't specify both OPTIN mode and OPTOUT mode"},
      {"ON BCAST PREFIX x PREFIX foo PREFIX foobar",
       "ERR Prefix 'foo' overlaps with another provided prefix 'foobar'. Prefixes for a single "
       "client must not overlap."},
  };
  for (const auto& each : cases) {
    SCOPED_TRACE(each.words);
    EXPECT_EQ(Say(each.words), each.error);
  }
}

TEST(TrackingStateTest, TheRedirectIsLookedAtBeforeLaterErrors) {
  const std::vector<absl::string_view> args = {"client", "tracking", "on", "redirect", "5", "foo"};
  const TrackingCommand command = ParseTracking(args);
  EXPECT_EQ(command.redirect, 5);
  EXPECT_EQ(command.error, "ERR syntax error");
}

TEST(TrackingStateTest, ModesChangeOnlyByWayOfOff) {
  TrackingState state;
  EXPECT_EQ(Say("on optin noloop", &state), "");
  EXPECT_THAT(Say("on bcast", &state), ::testing::HasSubstr("can't switch BCAST"));
  EXPECT_THAT(Say("on optout", &state), ::testing::HasSubstr("can't switch OPTIN/OPTOUT"));
  EXPECT_EQ(Say("on", &state), "");
  EXPECT_FALSE(state.opt_in || state.no_loop);
  EXPECT_EQ(Say("on optout", &state), "");
  EXPECT_EQ(Say("off", &state), "");
  EXPECT_EQ(Say("on bcast", &state), "");
}

TEST(TrackingStateTest, PrefixesAreAddedUnlessTheyOverlap) {
  TrackingState state;
  EXPECT_EQ(Say("on bcast prefix zz prefix foo", &state), "");
  EXPECT_EQ(Say("on bcast prefix a", &state), "");
  EXPECT_EQ(Say("on bcast prefix foobar", &state),
            "ERR Prefix 'foobar' overlaps with an existing prefix 'foo'. Prefixes for a single "
            "client must not overlap.");
  EXPECT_THAT(state.prefixes, ElementsAre("a", "foo", "zz"));
  EXPECT_TRUE(state.HasPrefixOf("foo1"));
  EXPECT_FALSE(state.HasPrefixOf("fo"));
  // As the servers have it: no prefix at all overlaps with nothing.
  EXPECT_EQ(Say("on bcast", &state), "");
  EXPECT_THAT(state.prefixes, ElementsAre("", "a", "foo", "zz"));
}

TEST(TrackingStateTest, CachingIsForTheModesThatAskForIt) {
  TrackingState state;
  EXPECT_THAT(SetCaching("yes", &state), ::testing::HasSubstr("can be called only when"));
  EXPECT_EQ(Say("on", &state), "");
  EXPECT_TRUE(state.Notes());
  EXPECT_THAT(SetCaching("yes", &state), ::testing::HasSubstr("CACHING YES is only valid"));
  EXPECT_THAT(SetCaching("no", &state), ::testing::HasSubstr("CACHING NO is only valid"));
  EXPECT_EQ(SetCaching("foo", &state), "ERR syntax error");
  EXPECT_EQ(Say("on optin", &state), "");
  EXPECT_FALSE(state.Notes());
  EXPECT_EQ(SetCaching("YES", &state), "");
  EXPECT_TRUE(state.Notes());
  EXPECT_EQ(Say("off", &state), "");
  EXPECT_EQ(Say("on optout", &state), "");
  EXPECT_TRUE(state.Notes());
  EXPECT_EQ(SetCaching("no", &state), "");
  EXPECT_FALSE(state.Notes());
}

}  // namespace
}  // namespace proxy
