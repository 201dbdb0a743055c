#pragma once

// File: proxy/config_commands.h
//
// CONFIG GET and SET. What clients may see of the servers' parameters is a list: those that tell
// how the data behaves, none that tells of one server's machine, files or secrets. Nothing is ever
// set: SET of notify-keyspace-events is OK where all nodes have it so.

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "proxy/procedure.h"

namespace proxy {

std::unique_ptr<Procedure> MakeConfigGet(const cluster::CommandSpec& command,
                                         const io::Rope& frame);
// Null: *error is the reply.
std::unique_ptr<Procedure> MakeConfigSet(const cluster::CommandSpec& command, const ArgList& args,
                                         std::string* error);

// Of a node: how many databases its cluster has (Valkey 9), and what it said. 1: it does not know.
Ask AskDatabases(Worker* worker);
int64_t ReadDatabases(const io::Rope& reply);

// A value of notify-keyspace-events as the set of its classes, each letter once and in order, 'A'
// taken apart. False: no server takes the value.
bool ParseKeyspaceEvents(absl::string_view value, std::string* classes);

}  // namespace proxy
