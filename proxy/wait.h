#pragma once

// File: proxy/wait.h
//
// WAIT: how many replicas have what this client wrote. Its writes went over connections that it
// shares with others, to several primaries, so no node can tell: to a WAIT, a server counts who has
// acknowledged the last write of the connection it comes on. So each primary that the client may
// have written to is asked how far its replication stream is (it has run all writes of this client,
// whose replies have come), and then how far its replicas say they are, until enough of them have
// passed that. It is not known what others have written since, and what the servers themselves put
// into the stream: more may be waited for than this client's writes, never less. The reply is that
// of the shard with the fewest such replicas.

#include <memory>
#include <string>

#include "proxy/procedure.h"

namespace proxy {

// Null: *error says what is wrong with the arguments.
std::unique_ptr<Procedure> MakeWait(Worker* worker, const ArgList& args, std::string* error);

}  // namespace proxy
