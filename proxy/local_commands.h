#pragma once

// File: proxy/local_commands.h
//
// The commands that the proxy answers itself (Serve::kLocal): about itself and its clients.

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cluster/command_table.h"

namespace proxy {

class Client;

// Appends the one reply to *reply, in the client's protocol (as it is after the command: HELLO 3 is
// answered in RESP3). `args` are all arguments, with the command's name(s); the arity was checked
// and the client may run the command. May change the client (name, protocol, authentication) or
// tell it to stop after this reply (QUIT).
void ServeLocal(Client* client, const cluster::CommandSpec& command,
                absl::Span<const absl::string_view> args, std::string* reply);

}  // namespace proxy
