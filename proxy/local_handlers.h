#pragma once

// File: proxy/local_handlers.h
//
// The replies of the commands that the proxy answers itself (Serve::kLocal), each by one handler.
// Knows the client and the proxy by LocalSession only. Texts follow the family and version of the
// connected cluster: redis-server 7.0 and valkey-server 8 are the measure.

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cluster/command_table.h"
#include "proxy/local_session.h"
#include "resp/encoder.h"

namespace proxy {

// One command to answer.
struct LocalCall {
  LocalSession* session;
  const cluster::CommandSpec& command;
  absl::Span<const absl::string_view> args;  // all, with the name(s); the arity was checked
  std::string* reply;

  // Writes the reply in the protocol that the client has at this moment.
  resp::Encoder Encode() const { return resp::Encoder(session->protocol(), reply); }
  void Error(absl::string_view line) const { Encode().Error(line); }
  void Ok() const { Encode().Simple("OK"); }
};

using LocalHandler = void (*)(const LocalCall& call);

// Null: the command has none.
LocalHandler FindLocalHandler(const cluster::CommandSpec& command);

// False: servers of that version say that there is no such subcommand, and so does the proxy.
bool IsKnownTo(const ServerInfo& server, const cluster::CommandSpec& command);

// Appends the one reply to *reply: see ServeLocal.
void AnswerLocal(LocalSession* session, const cluster::CommandSpec& command,
                 absl::Span<const absl::string_view> args, std::string* reply);

// An argument as the servers' C functions see it: up to a zero byte, and no more of it in an error
// than they quote of a command's name.
absl::string_view Quoted(absl::string_view arg);

// 40 hexadecimal digits, another for each process.
const std::string& RunId();

// --- handlers that live elsewhere

// proxy/acl_replies.cc
void AnswerAclCat(const LocalCall& call);
void AnswerAclDryRun(const LocalCall& call);
void AnswerAclGenPass(const LocalCall& call);
void AnswerAclGetUser(const LocalCall& call);
void AnswerAclList(const LocalCall& call);
void AnswerAclLog(const LocalCall& call);
void AnswerAclUsers(const LocalCall& call);
void AnswerAclWhoAmI(const LocalCall& call);
// proxy/client_options.cc
void AnswerClientCapa(const LocalCall& call);
void AnswerClientGetRedir(const LocalCall& call);
void AnswerClientNoEvict(const LocalCall& call);
void AnswerClientNoTouch(const LocalCall& call);
void AnswerClientTrackingInfo(const LocalCall& call);
// proxy/cluster_replies.cc
void AnswerAsking(const LocalCall& call);
void AnswerClusterCountFailureReports(const LocalCall& call);
void AnswerClusterInfo(const LocalCall& call);
void AnswerClusterLinks(const LocalCall& call);
void AnswerClusterMyId(const LocalCall& call);
void AnswerClusterMyShardId(const LocalCall& call);
void AnswerClusterNodes(const LocalCall& call);
void AnswerClusterReplicas(const LocalCall& call);
void AnswerClusterShards(const LocalCall& call);
void AnswerClusterSlots(const LocalCall& call);
void AnswerClusterSlotStats(const LocalCall& call);
// proxy/command_replies.cc
void AnswerCommand(const LocalCall& call);
void AnswerCommandCount(const LocalCall& call);
void AnswerCommandDocs(const LocalCall& call);
void AnswerCommandGetKeys(const LocalCall& call);
void AnswerCommandGetKeysAndFlags(const LocalCall& call);
void AnswerCommandInfo(const LocalCall& call);
void AnswerCommandList(const LocalCall& call);
// proxy/help_replies.cc: CLIENT, CLUSTER and COMMAND HELP
void AnswerHelp(const LocalCall& call);
// proxy/info_reply.cc
void AnswerInfo(const LocalCall& call);

}  // namespace proxy
