#pragma once

// File: proxy/node_reports.h
//
// Commands by which a server tells of itself (SLOWLOG, LATENCY, MEMORY, FUNCTION STATS), about all
// primaries: lists are joined and put in order again, numbers added, texts put one behind the other
// with the node's address above each.

#include <memory>

#include "proxy/procedure.h"

namespace proxy {

// Null: it is none of them.
std::unique_ptr<Procedure> MakeNodeReport(const cluster::CommandSpec& command, const ArgList& args,
                                          const io::Rope& frame);

}  // namespace proxy
