#include "proxy/client_query.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proxy/local_handlers.h"
#include "proxy/messages.h"
#include "proxy/server_info.h"
#include "resp/views.h"

namespace proxy {
namespace {

constexpr absl::string_view kSyntaxError = "ERR syntax error";
constexpr absl::string_view kNoSuchClient = "ERR No such client";

// A command's arguments, its query, and what is wrong with it.
struct Parser {
  const cluster::CommandSpec& command;
  absl::Span<const absl::string_view> args;
  const ServerInfo& server;
  absl::Time now;
  ClientQuery* query;
  std::string* error;

  bool Fail(absl::string_view line) const {
    *error = std::string(line);
    return false;
  }
  // What the servers say of a subcommand with too many arguments.
  bool FailArity() const {
    return Fail(absl::StrCat("ERR unknown subcommand or wrong number of arguments for '",
                             Quoted(args[1]), "'. Try CLIENT HELP."));
  }
  bool TakeType(absl::string_view text) const {
    ClientFilter& filter = query->filter;
    if (absl::EqualsIgnoreCase(text, "normal")) {
      filter.type = ClientType::kNormal;
    } else if (absl::EqualsIgnoreCase(text, "pubsub")) {
      filter.type = ClientType::kPubSub;
    } else if (absl::EqualsIgnoreCase(text, "replica") || absl::EqualsIgnoreCase(text, "slave")) {
      filter.type = ClientType::kReplica;
    } else if (absl::EqualsIgnoreCase(text, "master") ||
               (server.valkey && absl::EqualsIgnoreCase(text, "primary"))) {
      filter.type = ClientType::kPrimary;
    } else {
      return Fail(absl::StrCat("ERR Unknown client type '", Quoted(text), "'"));
    }
    return true;
  }
  bool List() const;
  bool Kill() const;
  bool TakeKillOption(absl::string_view option, absl::string_view value) const;
  bool Unblock() const;
  bool Pause() const;
};

bool Parser::List() const {
  query->kind = ClientQuery::Kind::kList;
  if (args.size() == 2) return true;
  if (args.size() == 4 && absl::EqualsIgnoreCase(args[2], "type")) return TakeType(args[3]);
  if (args.size() < 4 || !absl::EqualsIgnoreCase(args[2], "id")) return Fail(kSyntaxError);
  std::vector<int64_t> ids;
  for (const absl::string_view text : args.subspan(3)) {
    int64_t id = 0;
    if (!resp::ParseDecimal(text, &id)) return Fail("ERR Invalid client ID");
    ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  query->filter.ids = std::move(ids);
  return true;
}

bool Parser::Kill() const {
  query->kind = ClientQuery::Kind::kKill;
  ClientFilter& filter = query->filter;
  if (args.size() == 3) {
    query->one_address = true;
    filter.address = std::string(args[2]);
    return true;
  }
  filter.not_asker = true;
  for (size_t i = 2; i < args.size(); i += 2) {
    if (i + 1 == args.size()) return Fail(kSyntaxError);
    if (!TakeKillOption(args[i], args[i + 1])) return false;
  }
  return true;
}

bool Parser::TakeKillOption(absl::string_view option, absl::string_view value) const {
  ClientFilter& filter = query->filter;
  const bool has_age = server.valkey || IsRedisSince(server, 7, 4);
  int64_t number = 0;
  if (absl::EqualsIgnoreCase(option, "id")) {
    if (!resp::ParseDecimal(value, &number) || number < 1) {
      return Fail("ERR client-id should be greater than 0");
    }
    filter.ids = std::vector<int64_t>{number};
  } else if (absl::EqualsIgnoreCase(option, "maxage") && has_age) {
    if (!resp::ParseDecimal(value, &number)) {
      return Fail("ERR maxage is not an integer or out of range");
    }
    if (number < 1) return Fail("ERR maxage should be greater than 0");
    filter.age_min = absl::Seconds(number);
  } else if (absl::EqualsIgnoreCase(option, "type")) {
    return TakeType(value);
  } else if (absl::EqualsIgnoreCase(option, "addr")) {
    filter.address = std::string(value);
  } else if (absl::EqualsIgnoreCase(option, "laddr")) {
    filter.local_address = std::string(value);
  } else if (absl::EqualsIgnoreCase(option, "user")) {
    // There is one.
    if (value != "default") return Fail(absl::StrCat("ERR No such user '", Quoted(value), "'"));
  } else if (absl::EqualsIgnoreCase(option, "skipme")) {
    if (!absl::EqualsIgnoreCase(value, "yes") && !absl::EqualsIgnoreCase(value, "no")) {
      return Fail(kSyntaxError);
    }
    filter.not_asker = absl::EqualsIgnoreCase(value, "yes");
  } else {
    return Fail(kSyntaxError);
  }
  return true;
}

bool Parser::Unblock() const {
  query->kind = ClientQuery::Kind::kUnblock;
  if (args.size() > 4) return FailArity();
  if (args.size() == 4) {
    query->with_error = absl::EqualsIgnoreCase(args[3], "error");
    if (!query->with_error && !absl::EqualsIgnoreCase(args[3], "timeout")) {
      return Fail("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
    }
  }
  int64_t id = 0;
  if (!resp::ParseDecimal(args[2], &id)) {
    return Fail("ERR value is not an integer or out of range");
  }
  query->filter.ids = std::vector<int64_t>{id};
  return true;
}

bool Parser::Pause() const {
  query->kind = ClientQuery::Kind::kPause;
  if (args.size() > 4) return FailArity();
  if (args.size() == 4) {
    query->pause_writes_only = absl::EqualsIgnoreCase(args[3], "write");
    if (!query->pause_writes_only && !absl::EqualsIgnoreCase(args[3], "all")) {
      return Fail("ERR CLIENT PAUSE mode must be WRITE or ALL");
    }
  }
  int64_t milliseconds = 0;
  if (!resp::ParseDecimal(args[2], &milliseconds)) {
    return Fail("ERR timeout is not an integer or out of range");
  }
  if (milliseconds < 0) return Fail("ERR timeout is negative");
  if (milliseconds > std::numeric_limits<int64_t>::max() - absl::ToUnixMillis(absl::Now())) {
    return Fail("ERR timeout is out of range");
  }
  query->pause_until = now + absl::Milliseconds(milliseconds);
  return true;
}

}  // namespace

bool ParseClientQuery(const cluster::CommandSpec& command, absl::Span<const absl::string_view> args,
                      const ServerInfo& server, absl::Time now, ClientQuery* query,
                      std::string* error) {
  const Parser parser{command, args, server, now, query, error};
  if (command.name == "LIST") return parser.List();
  if (command.name == "KILL") return parser.Kill();
  if (command.name == "UNBLOCK") return parser.Unblock();
  if (command.name == "PAUSE") return parser.Pause();
  ABSL_ASSERT(command.name == "UNPAUSE");
  query->kind = ClientQuery::Kind::kUnpause;
  return true;
}

void ClientAnswer::Add(ClientAnswer more) {
  clients += more.clients;
  asker_too = asker_too || more.asker_too;
  std::move(more.lines.begin(), more.lines.end(), std::back_inserter(lines));
}

std::string ClientQueryReply(const ClientQuery& query, ClientAnswer answer,
                             resp::Protocol protocol) {
  std::string reply;
  resp::Encoder out(protocol, &reply);
  switch (query.kind) {
    case ClientQuery::Kind::kList: {
      std::sort(answer.lines.begin(), answer.lines.end());
      std::string text;
      for (const auto& [id, line] : answer.lines) absl::StrAppend(&text, line, "\n");
      out.Verbatim("txt", text);
      break;
    }
    case ClientQuery::Kind::kKill:
      if (!query.one_address) {
        out.Integer(static_cast<int64_t>(answer.clients));
      } else if (answer.clients > 0) {
        out.Simple("OK");
      } else {
        out.Error(kNoSuchClient);
      }
      break;
    case ClientQuery::Kind::kUnblock:
    case ClientQuery::Kind::kFind:
      out.Integer(static_cast<int64_t>(answer.clients));
      break;
    case ClientQuery::Kind::kPause:
    case ClientQuery::Kind::kUnpause:
    case ClientQuery::Kind::kMonitor:
    case ClientQuery::Kind::kEndMonitor:
      out.Simple("OK");
      break;
  }
  return reply;
}

}  // namespace proxy
