#include "proxy/monitor_line.h"

#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "proxy/monitor_mail.h"

namespace proxy {
namespace {

std::string Quote(const std::vector<absl::string_view>& args) {
  const cluster::CommandSpec* command = cluster::FindCommand(args[0]);
  if (command->has_subcommands) command = cluster::FindSubcommand(*command, args[1]);
  return QuoteForMonitors(*command, args);
}

TEST(MonitorLineTest, ArgumentsAreQuotedAsTheServersDo) {
  // What redis-server 7.0.15 and valkey-server 8.0.1 show of these bytes.
  const absl::string_view bytes("q\"\\\x00\x01\x7f\x80\xff\n\r\t\a\b\x1b ~", 16);
  EXPECT_EQ(Quote({"sEt", "", bytes}), R"x("sEt" "" "q\"\\\x00\x01\x7f\x80\xff\n\r\t\a\b\x1b ~")x");
}

TEST(MonitorLineTest, PasswordsAreHidden) {
  const std::pair<absl::string_view, absl::string_view> cases[] = {
      {"AUTH pw", R"x("AUTH" "(redacted)")x"},
      {"auth user pw", R"x("auth" "(redacted)" "(redacted)")x"},
      {"AUTH a pw b", R"x("AUTH" "(redacted)" "(redacted)" "(redacted)")x"},
      {"HELLO 3", R"x("HELLO" "3")x"},
      {"HELLO 3 AUTH user pw", R"x("HELLO" "3" "AUTH" "(redacted)" "(redacted)")x"},
      {"HELLO 9 auth user pw SETNAME me",
       R"x("HELLO" "9" "auth" "(redacted)" "(redacted)" "SETNAME" "me")x"},
      {"HELLO 3 SETNAME AUTH AUTH user pw",
       R"x("HELLO" "3" "SETNAME" "AUTH" "AUTH" "(redacted)" "(redacted)")x"},
      {"HELLO 3 AUTH pw", R"x("HELLO" "3" "AUTH" "(redacted)")x"},
      {"HELLO 3 AUTH", R"x("HELLO" "3" "AUTH")x"},
      {"SET AUTH pw", R"x("SET" "AUTH" "pw")x"},
  };
  for (const auto& [words, shown] : cases) {
    SCOPED_TRACE(words);
    EXPECT_EQ(Quote(absl::StrSplit(words, ' ')), shown);
  }
}

TEST(MonitorLineTest, AdministrationIsNotShown) {
  const auto shown = [](absl::string_view name, absl::string_view subcommand = "") {
    const cluster::CommandSpec* command = cluster::FindCommand(name);
    if (!subcommand.empty()) command = cluster::FindSubcommand(*command, subcommand);
    return IsShownToMonitors(*command);
  };
  EXPECT_TRUE(shown("GET"));
  EXPECT_TRUE(shown("EVAL"));
  EXPECT_TRUE(shown("AUTH"));
  EXPECT_TRUE(shown("CLIENT", "ID"));
  EXPECT_FALSE(shown("MONITOR"));
  EXPECT_FALSE(shown("CLIENT", "LIST"));
  EXPECT_FALSE(shown("CONFIG", "SET"));
  EXPECT_FALSE(shown("ACL", "SETUSER"));
}

TEST(MonitorLineTest, TheLineIsTheServers) {
  std::string text;
  AppendMonitorLine(absl::FromUnixMicros(1795861428048087), 0, "127.0.0.1:55824", "\"PING\"",
                    &text);
  AppendMonitorLine(absl::FromUnixMicros(1795861428000007), 3, "/run/p.sock", "\"PING\"", &text);
  EXPECT_EQ(text,
            "+1795861428.048087 [0 127.0.0.1:55824] \"PING\"\r\n"
            "+1795861428.000007 [3 unix:/run/p.sock] \"PING\"\r\n");
}

TEST(MonitorMailTest, AFullMailboxSaysThatLinesWereLost) {
  MonitorMail mail(2);
  const auto half = std::make_shared<const std::string>(MonitorMail::kBytesMax / 2, 'x');
  mail.Put(1, half);
  mail.Put(1, half);
  EXPECT_FALSE(mail.Take(0).lost);
  MonitorMail::Taken taken = mail.Take(1);
  EXPECT_FALSE(taken.lost);
  EXPECT_EQ(taken.lines.size(), 2u);
  for (int i = 0; i < 3; ++i) mail.Put(1, half);
  taken = mail.Take(1);
  EXPECT_TRUE(taken.lost);
  EXPECT_EQ(taken.lines.size(), 2u);
  mail.Put(1, half);
  mail.Put(1, nullptr);
  EXPECT_TRUE(mail.Take(1).lost);
  EXPECT_FALSE(mail.Take(1).lost);
}

}  // namespace
}  // namespace proxy
