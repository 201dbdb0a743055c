#pragma once

// File: proxy/script_commands.h
//
// SCRIPT LOAD and FLUSH: as on all nodes, so in the table of scripts that the proxy knows.

#include <memory>

#include "proxy/procedure.h"

namespace proxy {

std::unique_ptr<Procedure> MakeScriptLoad(const cluster::CommandSpec& command, const ArgList& args,
                                          const io::Rope& frame);
std::unique_ptr<Procedure> MakeScriptFlush(const cluster::CommandSpec& command, const ArgList& args,
                                           const io::Rope& frame);

}  // namespace proxy
