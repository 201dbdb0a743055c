#include "proxy/local_handlers.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cluster/router.h"
#include "cluster/slot.h"
#include "proxy/select.h"
#include "proxy/server_info.h"
#include "resp/views.h"

namespace proxy {
namespace {

constexpr absl::string_view kSyntaxError = "ERR syntax error";
constexpr absl::string_view kWrongPassword =
    "WRONGPASS invalid username-password pair or user is disabled.";
constexpr absl::string_view kBadClientName =
    "ERR Client names cannot contain spaces, newlines or special characters.";
constexpr absl::string_view kDefaultUser = "default";

// Takes as long for a wrong guess as for the right one: only the guess's own length shows.
bool IsSame(absl::string_view guess, absl::string_view secret) {
  unsigned difference = guess.size() == secret.size() ? 0 : 1;
  for (size_t i = 0; i < guess.size() && !secret.empty(); ++i) {
    difference |= static_cast<unsigned char>(guess[i]) ^
                  static_cast<unsigned char>(secret[i % secret.size()]);
  }
  return difference == 0;
}

// There is one user, "default", without a password if none is configured.
bool TryAuthenticate(LocalSession* session, absl::string_view user, absl::string_view password) {
  const absl::string_view secret = session->password();
  const bool right_password = secret.empty() || IsSame(password, secret);
  if (user == kDefaultUser && right_password) {
    session->Authenticate();
    return true;
  }
  session->NoteAuthFailure();
  return false;
}

// What CLIENT LIST separates by spaces.
bool IsPlainWord(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= '!' && c <= '~'; });
}

// --- the connection

void AnswerPing(const LocalCall& call) {
  if (call.args.size() == 1) {
    call.reply->append("+PONG\r\n");
  } else if (call.args.size() == 2) {
    call.Encode().Bulk(call.args[1]);
  } else {
    call.Error(cluster::WrongArityError(call.command));
  }
}

void AnswerEcho(const LocalCall& call) { call.Encode().Bulk(call.args[1]); }

void AnswerAuth(const LocalCall& call) {
  if (call.args.size() > 3) return call.Error(kSyntaxError);
  if (call.args.size() == 2 && call.session->password().empty()) {
    return call.Error(
        "ERR AUTH <password> called without any password configured for the default user. Are you "
        "sure your configuration is correct?");
  }
  const absl::string_view user = call.args.size() == 2 ? kDefaultUser : call.args[1];
  if (!TryAuthenticate(call.session, user, call.args.back())) return call.Error(kWrongPassword);
  call.Ok();
}

// What HELLO asks for. Redis 7.0 carries out each option when it meets it, later servers check all
// of them first.
struct HelloOptions {
  int64_t protocol = 0;  // 0: as it is
  bool with_auth = false;
  absl::string_view user;
  absl::string_view password;
  bool with_name = false;
  absl::string_view name;
};

void SetName(LocalSession* session, absl::string_view name) {
  session->mutable_identity()->name = std::string(name);
}

void AnswerHello(const LocalCall& call) {
  LocalSession* const session = call.session;
  const ServerInfo& server = session->server();
  const bool at_once = IsBeforeRedis72(server);
  HelloOptions options;
  const auto& args = call.args;
  if (args.size() > 1) {
    if (!resp::ParseDecimal(args[1], &options.protocol)) {
      return call.Error("ERR Protocol version is not an integer or out of range");
    }
    if (options.protocol < 2 || options.protocol > 3) {
      return call.Error("NOPROTO unsupported protocol version");
    }
  }
  for (size_t i = 2; i < args.size(); ++i) {
    const absl::string_view option = Quoted(args[i]);
    const size_t more = args.size() - 1 - i;
    if (absl::EqualsIgnoreCase(option, "AUTH") && more >= 2) {
      options.with_auth = true;
      options.user = args[i + 1];
      options.password = args[i + 2];
      i += 2;
      if (at_once && !TryAuthenticate(session, options.user, options.password)) {
        return call.Error(kWrongPassword);
      }
    } else if (absl::EqualsIgnoreCase(option, "SETNAME") && more >= 1) {
      options.with_name = true;
      options.name = args[i + 1];
      if (!IsPlainWord(options.name)) return call.Error(kBadClientName);
      i += 1;
      if (at_once) SetName(session, options.name);
    } else {
      return call.Error(absl::StrCat("ERR Syntax error in HELLO option '", option, "'"));
    }
  }
  if (!at_once && options.with_auth && !TryAuthenticate(session, options.user, options.password)) {
    return call.Error(kWrongPassword);
  }
  if (!session->authenticated()) {
    return call.Error(absl::StrCat(
        "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO ",
        at_once ? "" : "<proto> ",
        "AUTH <user> <pass> option can be used to authenticate the client and select the RESP "
        "protocol version at the same time"));
  }
  if (!at_once && options.with_name) SetName(session, options.name);
  if (options.protocol != 0) {
    session->set_protocol(static_cast<resp::Protocol>(options.protocol));
  }
  resp::Encoder out = call.Encode();
  out.Map(7);
  out.Bulk("server");
  out.Bulk(server.valkey ? "valkey" : "redis");
  out.Bulk("version");
  out.Bulk(server.version);
  out.Bulk("proto");
  out.Integer(static_cast<int64_t>(session->protocol()));
  out.Bulk("id");
  out.Integer(static_cast<int64_t>(session->client_id()));
  out.Bulk("mode");
  out.Bulk(session->has_cluster_face() ? "cluster" : "standalone");
  out.Bulk("role");
  out.Bulk("master");
  out.Bulk("modules");
  out.Array(0);
}

void AnswerSelect(const LocalCall& call) {
  int64_t index = 0;
  std::string error;
  if (!ParseDatabase(call.args[1], &index, &error)) return call.Error(error);
  // Within a block: elsewhere it is a procedure (proxy/select.h).
  const uint32_t selected = call.session->DescribeClient().database;
  if (selected != 0 || HasDatabases(call.session->server())) {
    return index == int64_t{selected} ? call.Ok() : call.Error(kBadDatabaseError);
  }
  if (index < 0 && !call.session->has_cluster_face()) return call.Error(kBadDatabaseError);
  if (index != 0) return call.Error("ERR SELECT is not allowed in cluster mode");
  call.Ok();
}

void AnswerQuit(const LocalCall& call) {
  call.Ok();
  call.session->EndAfterReply();
}

void AnswerReset(const LocalCall& call) {
  call.session->Reset();
  call.Encode().Simple("RESET");
}

void AnswerUnwatch(const LocalCall& call) {
  call.session->Unwatch();
  call.Ok();
}

// READONLY and READWRITE: where reads go is the proxy's matter (--read-prefer).
void AnswerOk(const LocalCall& call) { call.Ok(); }

// --- the proxy

void AnswerTime(const LocalCall& call) {
  const int64_t now_us = absl::ToUnixMicros(absl::Now());
  resp::Encoder out = call.Encode();
  out.Array(2);
  out.Bulk(absl::StrCat(now_us / 1000000));
  out.Bulk(absl::StrCat(now_us % 1000000));
}

void AnswerRole(const LocalCall& call) {
  resp::Encoder out = call.Encode();
  out.Array(3);
  out.Bulk("master");
  out.Integer(0);
  out.Array(0);
}

void AnswerKeySlot(const LocalCall& call) { call.Encode().Integer(cluster::SlotOf(call.args[2])); }

// --- CLIENT

void AnswerClientId(const LocalCall& call) {
  call.Encode().Integer(static_cast<int64_t>(call.session->client_id()));
}

void AnswerClientGetName(const LocalCall& call) {
  const std::string& name = call.session->identity().name;
  if (name.empty()) return call.Encode().Null();
  call.Encode().Bulk(name);
}

void AnswerClientSetName(const LocalCall& call) {
  if (!IsPlainWord(call.args[2])) return call.Error(kBadClientName);
  SetName(call.session, call.args[2]);
  call.Ok();
}

// Redis has it since 7.2; here it is served whatever the cluster is.
void AnswerClientSetInfo(const LocalCall& call) {
  const absl::string_view attribute = Quoted(call.args[2]);
  const absl::string_view value = call.args[3];
  std::string Client::Identity::*member = nullptr;
  if (absl::EqualsIgnoreCase(attribute, "lib-name")) {
    member = &Client::Identity::library_name;
  } else if (absl::EqualsIgnoreCase(attribute, "lib-ver")) {
    member = &Client::Identity::library_version;
  } else {
    return call.Error(absl::StrCat("ERR Unrecognized option '", attribute, "'"));
  }
  if (!IsPlainWord(value)) {
    return call.Error(
        absl::StrCat("ERR ", attribute, " cannot contain spaces, newlines or special characters."));
  }
  call.session->mutable_identity()->*member = std::string(value);
  call.Ok();
}

void AnswerClientInfo(const LocalCall& call) {
  std::string line;
  AppendClientLine(call.session->DescribeClient(), call.session->server(), &line);
  line += '\n';
  call.Encode().Verbatim("txt", line);
}

// --- the table

// What a cluster's version has: older ones say that there is no such subcommand.
enum class Since : uint8_t { kAlways, kRedis72, kValkey };

struct HandlerRow {
  absl::string_view container;
  absl::string_view name;
  LocalHandler handler;
  Since since = Since::kAlways;
};

constexpr HandlerRow kHandlers[] = {
    {"", "ASKING", AnswerAsking},
    {"", "AUTH", AnswerAuth},
    {"", "COMMAND", AnswerCommand},
    {"", "ECHO", AnswerEcho},
    {"", "HELLO", AnswerHello},
    {"", "INFO", AnswerInfo},
    {"", "PING", AnswerPing},
    {"", "QUIT", AnswerQuit},
    {"", "READONLY", AnswerOk},
    {"", "READWRITE", AnswerOk},
    {"", "RESET", AnswerReset},
    {"", "ROLE", AnswerRole},
    {"", "SELECT", AnswerSelect},
    {"", "TIME", AnswerTime},
    {"", "UNWATCH", AnswerUnwatch},
    {"ACL", "CAT", AnswerAclCat},
    {"ACL", "DRYRUN", AnswerAclDryRun},
    {"ACL", "GENPASS", AnswerAclGenPass},
    {"ACL", "GETUSER", AnswerAclGetUser},
    {"ACL", "LIST", AnswerAclList},
    {"ACL", "LOG", AnswerAclLog},
    {"ACL", "USERS", AnswerAclUsers},
    {"ACL", "WHOAMI", AnswerAclWhoAmI},
    {"CLIENT", "CAPA", AnswerClientCapa, Since::kValkey},
    {"CLIENT", "GETNAME", AnswerClientGetName},
    {"CLIENT", "GETREDIR", AnswerClientGetRedir},
    {"CLIENT", "HELP", AnswerHelp},
    {"CLIENT", "ID", AnswerClientId},
    {"CLIENT", "INFO", AnswerClientInfo},
    {"CLIENT", "NO-EVICT", AnswerClientNoEvict},
    {"CLIENT", "NO-TOUCH", AnswerClientNoTouch, Since::kRedis72},
    {"CLIENT", "SETINFO", AnswerClientSetInfo},
    {"CLIENT", "SETNAME", AnswerClientSetName},
    {"CLIENT", "TRACKINGINFO", AnswerClientTrackingInfo},
    {"CLUSTER", "COUNT-FAILURE-REPORTS", AnswerClusterCountFailureReports},
    {"CLUSTER", "HELP", AnswerHelp},
    {"CLUSTER", "INFO", AnswerClusterInfo},
    {"CLUSTER", "KEYSLOT", AnswerKeySlot},
    {"CLUSTER", "LINKS", AnswerClusterLinks},
    {"CLUSTER", "MYID", AnswerClusterMyId},
    {"CLUSTER", "MYSHARDID", AnswerClusterMyShardId, Since::kRedis72},
    {"CLUSTER", "NODES", AnswerClusterNodes},
    {"CLUSTER", "REPLICAS", AnswerClusterReplicas},
    {"CLUSTER", "SHARDS", AnswerClusterShards},
    {"CLUSTER", "SLAVES", AnswerClusterReplicas},
    {"CLUSTER", "SLOT-STATS", AnswerClusterSlotStats, Since::kValkey},
    {"CLUSTER", "SLOTS", AnswerClusterSlots},
    {"COMMAND", "COUNT", AnswerCommandCount},
    {"COMMAND", "DOCS", AnswerCommandDocs},
    {"COMMAND", "GETKEYS", AnswerCommandGetKeys},
    {"COMMAND", "GETKEYSANDFLAGS", AnswerCommandGetKeysAndFlags},
    {"COMMAND", "HELP", AnswerHelp},
    {"COMMAND", "INFO", AnswerCommandInfo},
    {"COMMAND", "LIST", AnswerCommandList},
};

// By command id, so that a call compares no names.
std::vector<const HandlerRow*> IndexHandlers() {
  std::vector<const HandlerRow*> by_id(cluster::AllCommands().size(), nullptr);
  for (const HandlerRow& row : kHandlers) {
    const cluster::CommandSpec* command =
        cluster::FindCommand(row.container.empty() ? row.name : row.container);
    if (command != nullptr && !row.container.empty()) {
      command = cluster::FindSubcommand(*command, row.name);
    }
    ABSL_ASSERT(command != nullptr);
    if (command != nullptr) by_id[command->id] = &row;
  }
  return by_id;
}

const HandlerRow* FindRow(const cluster::CommandSpec& command) {
  static const auto& by_id = *new std::vector<const HandlerRow*>(IndexHandlers());
  return by_id[command.id];
}

bool Has(const ServerInfo& server, const HandlerRow& row) {
  switch (row.since) {
    case Since::kAlways:
      return true;
    case Since::kRedis72:
      return !IsBeforeRedis72(server);
    case Since::kValkey:
      return server.valkey;
  }
  return true;
}

}  // namespace

LocalHandler FindLocalHandler(const cluster::CommandSpec& command) {
  const HandlerRow* row = FindRow(command);
  return row == nullptr ? nullptr : row->handler;
}

bool IsKnownTo(const ServerInfo& server, const cluster::CommandSpec& command) {
  const HandlerRow* row = FindRow(command);
  return row == nullptr || Has(server, *row);
}

void AnswerLocal(LocalSession* session, const cluster::CommandSpec& command,
                 absl::Span<const absl::string_view> args, std::string* reply) {
  const LocalCall call{session, command, args, reply};
  const HandlerRow* row = FindRow(command);
  if (row == nullptr) return call.Error(cluster::NotSupportedError(command));
  if (row->since != Since::kAlways && !Has(session->server(), *row)) {
    return call.Error(
        cluster::UnknownSubcommandError(*cluster::FindCommand(command.container), args[1]));
  }
  row->handler(call);
}

absl::string_view Quoted(absl::string_view arg) {
  constexpr size_t kQuotedBytesMax = 128;
  arg = arg.substr(0, kQuotedBytesMax);
  return arg.substr(0, arg.find('\0'));
}

}  // namespace proxy
