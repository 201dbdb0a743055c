#include "proxy/subscriptions.h"

#include <gtest/gtest.h>

#include "proxy/subscription_table.h"

namespace proxy {
namespace {

TEST(SubscriptionsTest, APatternThatMayMatchAKeyEventIsKnown) {
  const struct {
    absl::string_view pattern;
    bool may;
  } cases[] = {
      {"*", true},
      {"**", true},
      {"__keyevent@0__:expired", true},
      {"__keyevent@*", true},
      {"__key*", true},
      {"__key*__:*", true},
      {"*__:foo", true},
      {"?*", true},
      {"[_]_keyevent@", true},
      {"[a-z_]?keyevent@0__", true},
      {"\\__keyevent@x", true},
      {"[^x]_keyevent@x", true},
      {"", false},
      {"__keyevent", false},
      {"__keyspace@", false},
      {"news.*", false},
      {"[a-z]*", false},
      {"[^_]*", false},
      {"__keyeven[a-s]@*", false},
      {"_*", true},
      {"\\_", false},
      {"__KEYEVENT@*", false},
      {"\\", false},
      {"[", false},
  };
  for (const auto& each : cases) {
    SCOPED_TRACE(each.pattern);
    EXPECT_EQ(PatternMayMatchPrefix(each.pattern, "__keyevent@"), each.may);
  }
}

TEST(SubscriptionTableTest, ReceiversAreClientsAndTheConnectionsThatTheNodeCounts) {
  SubscriptionTable table;
  EXPECT_EQ(table.Of(TopicKind::kChannel, "news", "n1", table.moment()).clients, 0u);
  for (int i = 0; i < 3; ++i) table.AddClient(TopicKind::kChannel, "news", 1);
  table.AddPlace(TopicKind::kChannel, "news", "n1", 1);
  table.AddPlace(TopicKind::kChannel, "news", "n1", 1);  // of another worker
  table.AddClient(TopicKind::kPattern, "n*", 1);
  table.AddPlace(TopicKind::kPattern, "n*", "n2", 1);
  table.AddClient(TopicKind::kPattern, "*", 1);
  table.AddPlace(TopicKind::kPattern, "*", "n1", 1);
  table.AddClient(TopicKind::kPattern, "x*", 1);
  table.AddClient(TopicKind::kShardChannel, "news", 1);

  const SubscriptionTable::Receivers at_home =
      table.Of(TopicKind::kChannel, "news", "n1", table.moment());
  EXPECT_EQ(at_home.clients, 5u);
  EXPECT_EQ(at_home.connections, 3u);
  const SubscriptionTable::Receivers elsewhere =
      table.Of(TopicKind::kChannel, "news", "n2", table.moment());
  EXPECT_EQ(elsewhere.clients, 5u);
  EXPECT_EQ(elsewhere.connections, 1u);
  EXPECT_EQ(table.Of(TopicKind::kShardChannel, "news", "n1", table.moment()).clients, 1u);
  EXPECT_EQ(table.NamesAt(TopicKind::kPattern, "n1", table.moment()), 1u);
}

TEST(SubscriptionTableTest, WhatNobodyHasIsForgotten) {
  SubscriptionTable table;
  table.AddClient(TopicKind::kChannel, "a", 1);
  table.AddPlace(TopicKind::kChannel, "a", "n1", 1);
  table.AddClient(TopicKind::kChannel, "a", -1);
  ASSERT_EQ(table.List(TopicKind::kChannel, absl::nullopt).size(), 1u);
  EXPECT_EQ(table.Find(TopicKind::kChannel, "a").clients, 0u);
  table.AddPlace(TopicKind::kChannel, "a", "n1", -1);
  EXPECT_TRUE(table.List(TopicKind::kChannel, absl::nullopt).empty());
  EXPECT_EQ(table.Of(TopicKind::kChannel, "a", "n1", table.moment()).connections, 0u);
}

// The node's reply may still count what ended after the question.
TEST(SubscriptionTableTest, WhatEndedSinceTheQuestionCountsAsBeingThere) {
  SubscriptionTable table;
  table.AddPlace(TopicKind::kChannel, "a", "n1", 1);
  table.AddPlace(TopicKind::kPattern, "a*", "n1", 1);
  table.AddPlace(TopicKind::kPattern, "b*", "n1", 1);
  const uint64_t before = table.moment();
  table.AddPlace(TopicKind::kChannel, "a", "n1", -1);
  table.AddPlace(TopicKind::kPattern, "b*", "n1", -1);
  const uint64_t between = table.moment();
  table.AddPlace(TopicKind::kPattern, "a*", "n1", -1);
  const uint64_t after = table.moment();

  EXPECT_EQ(table.Of(TopicKind::kChannel, "a", "n1", before).connections, 2u);
  EXPECT_EQ(table.Of(TopicKind::kChannel, "a", "n1", between).connections, 1u);
  EXPECT_EQ(table.Of(TopicKind::kChannel, "a", "n1", after).connections, 0u);
  EXPECT_EQ(table.Of(TopicKind::kChannel, "a", "n2", before).connections, 0u);
  EXPECT_EQ(table.PlacesAt(TopicKind::kChannel, "a", "n1", before), 1u);
  EXPECT_EQ(table.PlacesAt(TopicKind::kChannel, "a", "n1", between), 0u);
  EXPECT_EQ(table.NamesAt(TopicKind::kPattern, "n1", before), 2u);
  EXPECT_EQ(table.NamesAt(TopicKind::kPattern, "n1", between), 1u);
  EXPECT_EQ(table.NamesAt(TopicKind::kPattern, "n1", after), 0u);
}

TEST(SubscriptionTableTest, NamesAreListedByPatternInOrder) {
  SubscriptionTable table;
  for (const absl::string_view name : {"b", "a2", "a1"}) {
    table.AddClient(TopicKind::kChannel, name, 1);
  }
  ASSERT_EQ(table.List(TopicKind::kChannel, "a*").size(), 2u);
  EXPECT_EQ(table.List(TopicKind::kChannel, "a*")[0].name, "a1");
  EXPECT_EQ(table.List(TopicKind::kChannel, absl::nullopt).size(), 3u);
  EXPECT_TRUE(table.List(TopicKind::kShardChannel, absl::nullopt).empty());
}

}  // namespace
}  // namespace proxy
