#include "proxy/local_handlers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "absl/strings/ascii.h"
#include "proxy/command_docs.h"

namespace proxy {
namespace {

using cluster::CommandSpec;
using cluster::Serve;

std::string UpperName(const CommandSpec& command) {
  return absl::AsciiStrToUpper(cluster::FullName(command));
}

bool IsServed(const CommandSpec& command) { return command.serve != cluster::Serve::kRefused; }

TEST(LocalHandlersTest, EveryLocalCommandAndNoOtherHasAHandler) {
  for (const CommandSpec& command : cluster::AllCommands()) {
    EXPECT_EQ(FindLocalHandler(command) != nullptr, command.serve == Serve::kLocal)
        << UpperName(command);
  }
}

TEST(LocalHandlersTest, WhatIsQuotedEndsAtAZeroByteAndAt128Bytes) {
  EXPECT_EQ(Quoted("name"), "name");
  EXPECT_EQ(Quoted(absl::string_view("na\0me", 5)), "na");
  EXPECT_EQ(Quoted(std::string(300, 'x')), std::string(128, 'x'));
  EXPECT_EQ(Quoted(""), "");
}

// COMMAND reads the two side by side.
TEST(CommandDocsTest, ServedCommandsHaveDocsThatFitTheTable) {
  std::set<absl::string_view> containers;
  for (const CommandSpec& command : cluster::AllCommands()) {
    if (IsServed(command) && !command.container.empty()) containers.insert(command.container);
  }
  for (const CommandSpec& command : cluster::AllCommands()) {
    SCOPED_TRACE(UpperName(command));
    const CommandDocs* docs = FindCommandDocs(command);
    const bool told =
        IsServed(command) || (command.container.empty() && containers.count(command.name) != 0);
    ASSERT_EQ(docs != nullptr, told);
    if (docs == nullptr) continue;
    EXPECT_EQ(docs->id, command.id);
    EXPECT_EQ(docs->key_specs.size(), command.key_specs.size());
    EXPECT_FALSE(docs->summary.empty());
    EXPECT_FALSE(docs->group.empty());
    EXPECT_EQ(command.single_first_key && docs->first_key != 1, false);
  }
}

}  // namespace
}  // namespace proxy
