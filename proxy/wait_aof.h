#pragma once

// File: proxy/wait_aof.h
//
// WAITAOF: whether what this client wrote is on the disks of the primaries it wrote to, and on
// those of how many of their replicas. A server tells that of the writes of the connection that
// asks, and the client's went over connections that it shares with others. So each of those
// primaries gets a connection that is kept for this: a write on it that leaves nothing, a key of a
// random name set and deleted in one block, comes after all writes of this client whose replies
// have come. Then the client's WAITAOF goes on that connection, again and again, in a block of its
// own, where it does not wait. More may be waited for than this client's writes, never less. The
// reply has the least of all these primaries; of all that there are, if the client has written
// nothing.
//
// Errors are the servers': of the arguments, or that a primary has no append-only file. A primary
// that takes no writes at this time (OOM, NOREPLICAS, …) can't be asked; its error says why.

#include <memory>
#include <string>

#include "proxy/procedure.h"

namespace proxy {

// Null: *error says what is wrong with the arguments.
std::unique_ptr<Procedure> MakeWaitAof(Worker* worker, const ArgList& args, std::string* error);

}  // namespace proxy
