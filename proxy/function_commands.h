#pragma once

// File: proxy/function_commands.h
//
// FUNCTION LOAD and DELETE: a library is on every primary, or on none.

#include <memory>

#include "proxy/procedure.h"

namespace proxy {

std::unique_ptr<Procedure> MakeFunctionLoad(const cluster::CommandSpec& command,
                                            const ArgList& args, const io::Rope& frame);
std::unique_ptr<Procedure> MakeFunctionDelete(const cluster::CommandSpec& command,
                                              const io::Rope& frame);

}  // namespace proxy
