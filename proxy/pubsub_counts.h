#pragma once

// File: proxy/pubsub_counts.h
//
// PUBSUB CHANNELS, NUMSUB, NUMPAT, SHARDCHANNELS and SHARDNUMSUB: asked of each primary, one
// fragment each. The nodes know the workers' subscriptions, not the clients behind them: in the
// reply these take the place of those.

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "io/slice.h"
#include "proxy/request.h"

namespace proxy {

class Client;
class Worker;

// Starts the fragments. `pattern` is the argument of CHANNELS and SHARDCHANNELS, if there is one.
// False: one of them waits because its backend is full.
bool StartPubSubCounts(Worker* worker, Request* parent, absl::optional<absl::string_view> pattern,
                       const io::Rope& frame);
// The reply, when all are answered. An error of one is the whole reply.
io::Rope PubSubCountsReply(Worker* worker, Client* client, const Request& parent);

}  // namespace proxy
