// ACL's reads: of a server with one user, "default", who may do everything. Its password, if there
// is one, is the proxy's.

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cluster/router.h"
#include "proxy/command_docs.h"
#include "proxy/local_handlers.h"
#include "proxy/server_info.h"
#include "resp/views.h"

namespace proxy {
namespace {

constexpr absl::string_view kDefaultUser = "default";
// Where servers tell the hash of a user's password: a weak one could be found from it.
constexpr absl::string_view kHiddenHash =
    "0000000000000000000000000000000000000000000000000000000000000000";
constexpr absl::string_view kNotAnInteger = "ERR value is not an integer or out of range";
constexpr absl::string_view kCategories[] = {
    "keyspace", "read",   "write",       "set",       "sortedset",  "list",        "hash",
    "string",   "bitmap", "hyperloglog", "geo",       "stream",     "pubsub",      "admin",
    "fast",     "slow",   "blocking",    "dangerous", "connection", "transaction", "scripting"};
constexpr int64_t kPasswordBitsMax = 4096;

// Up to a zero byte, as a server prints it, and in one line.
std::string Printed(absl::string_view text) {
  std::string printed(text.substr(0, text.find('\0')));
  std::replace_if(
      printed.begin(), printed.end(), [](char c) { return c == '\r' || c == '\n'; }, ' ');
  return printed;
}

// "Unknown subcommand or wrong number": of a subcommand that takes an argument or none.
void TooManyArguments(const LocalCall& call) {
  call.Error(absl::StrCat("ERR unknown subcommand or wrong number of arguments for '",
                          Quoted(call.args[1]), "'. Try ACL HELP."));
}

std::vector<absl::string_view> UserFlags(const LocalSession& session) {
  std::vector<absl::string_view> flags = {"on"};
  if (session.password().empty()) flags.push_back("nopass");
  if (!IsBeforeRedis72(session.server())) flags.push_back("sanitize-payload");
  return flags;
}

bool IsInCategory(const CommandDocs& docs, absl::string_view category) {
  for (const absl::string_view name : absl::StrSplit(docs.categories, ' ', absl::SkipEmpty())) {
    if (name.substr(1) == category) return true;
  }
  return false;
}

}  // namespace

void AnswerAclWhoAmI(const LocalCall& call) { call.Encode().Bulk(kDefaultUser); }

void AnswerAclUsers(const LocalCall& call) {
  resp::Encoder out = call.Encode();
  out.Array(1);
  out.Bulk(kDefaultUser);
}

void AnswerAclList(const LocalCall& call) {
  std::string user = absl::StrCat("user ", kDefaultUser);
  for (const absl::string_view flag : UserFlags(*call.session)) absl::StrAppend(&user, " ", flag);
  if (!call.session->password().empty()) absl::StrAppend(&user, " #", kHiddenHash);
  absl::StrAppend(&user, " ~* &* +@all");
  resp::Encoder out = call.Encode();
  out.Array(1);
  out.Bulk(user);
}

void AnswerAclGetUser(const LocalCall& call) {
  resp::Encoder out = call.Encode();
  if (call.args[2] != kDefaultUser) return out.Null();
  const std::vector<absl::string_view> flags = UserFlags(*call.session);
  out.Map(6);
  out.Bulk("flags");
  out.Set(static_cast<int64_t>(flags.size()));
  for (const absl::string_view flag : flags) out.Bulk(flag);
  out.Bulk("passwords");
  const bool has_password = !call.session->password().empty();
  out.Array(has_password ? 1 : 0);
  if (has_password) out.Bulk(kHiddenHash);
  constexpr std::pair<absl::string_view, absl::string_view> kRules[] = {
      {"commands", "+@all"}, {"keys", "~*"}, {"channels", "&*"}};
  for (const auto& [name, rule] : kRules) {
    out.Bulk(name);
    out.Bulk(rule);
  }
  out.Bulk("selectors");
  out.Array(0);
}

// The commands are those that the proxy serves.
void AnswerAclCat(const LocalCall& call) {
  if (call.args.size() > 3) return TooManyArguments(call);
  resp::Encoder out = call.Encode();
  if (call.args.size() == 2) {
    out.Array(static_cast<int64_t>(std::size(kCategories)));
    for (const absl::string_view category : kCategories) out.Bulk(category);
    return;
  }
  const std::string category =
      absl::AsciiStrToLower(call.args[2].substr(0, call.args[2].find('\0')));
  if (std::find(std::begin(kCategories), std::end(kCategories), category) ==
      std::end(kCategories)) {
    return call.Error(absl::StrCat("ERR Unknown category '", Printed(Quoted(call.args[2])), "'"));
  }
  std::vector<std::string> names;
  for (const cluster::CommandSpec& command : cluster::AllCommands()) {
    const CommandDocs* docs = FindCommandDocs(command);
    if (docs == nullptr || !IsInCategory(*docs, category)) continue;
    names.push_back(cluster::FullName(command));
  }
  out.Array(static_cast<int64_t>(names.size()));
  for (const std::string& name : names) out.Bulk(name);
}

void AnswerAclGenPass(const LocalCall& call) {
  if (call.args.size() > 3) return TooManyArguments(call);
  int64_t bits = 256;
  if (call.args.size() == 3 && !resp::ParseDecimal(call.args[2], &bits)) {
    return call.Error(kNotAnInteger);
  }
  if (bits <= 0 || bits > kPasswordBitsMax) {
    return call.Error(
        "ERR ACL GENPASS argument must be the number of bits for the output password, a positive "
        "number up to 4096");
  }
  // The kernel's own, since it becomes a password; up to 256 bytes it gives them all at once.
  std::array<unsigned char, 256> random = {};
  const size_t digits = static_cast<size_t>(bits + 3) / 4;
  std::string password;
  while (password.size() < digits) {
    if (getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(random.size())) {
      return call.Error("ERR proxy: no random numbers (not executed)");
    }
    for (size_t i = 0; i < random.size() && password.size() < digits; ++i) {
      password.push_back("0123456789abcdef"[random[i] % 16]);
    }
  }
  call.Encode().Bulk(password);
}

// The proxy counts what was refused (auth_failures_total) and keeps no list of it.
void AnswerAclLog(const LocalCall& call) {
  if (call.args.size() > 3) return TooManyArguments(call);
  if (call.args.size() == 3) {
    if (absl::EqualsIgnoreCase(call.args[2], "reset")) return call.Ok();
    int64_t count = 0;
    if (!resp::ParseDecimal(call.args[2], &count)) return call.Error(kNotAnInteger);
  }
  call.Encode().Array(0);
}

void AnswerAclDryRun(const LocalCall& call) {
  if (call.args[2] != kDefaultUser) {
    return call.Error(absl::StrCat("ERR User '", Printed(call.args[2]), "' not found"));
  }
  const auto args = call.args.subspan(3);
  const cluster::CommandSpec* command = cluster::FindCommand(args[0]);
  if (command != nullptr && command->has_subcommands && args.size() > 1) {
    command = cluster::FindSubcommand(*command, args[1]);
  }
  if (command == nullptr) {
    return call.Error(absl::StrCat("ERR Command '", Printed(args[0]), "' not found"));
  }
  const auto count = static_cast<int64_t>(args.size());
  const int64_t arity = command->arity;
  if (arity >= 0 ? count != arity : count < -arity) {
    return call.Error(cluster::WrongArityError(*command));
  }
  call.Ok();
}

}  // namespace proxy
