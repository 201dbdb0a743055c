#pragma once

// File: proxy/publish.h
//
// PUBLISH and SPUBLISH: go to the home of their channel, after all earlier requests of their client
// are answered. The reply is the number of receivers, in which the node counts each worker's own
// connection: those are replaced by the clients behind them.

#include "absl/strings/string_view.h"
#include "io/slice.h"
#include "proxy/request.h"

namespace proxy {

class Client;
class Worker;

// Starts the one fragment of the request. False: it waits because its backend is full.
bool StartPublish(Worker* worker, Request* parent, absl::string_view channel,
                  const io::Rope& frame);
// The reply, when that is answered.
io::Rope PublishReply(Worker* worker, Client* client, const Request& parent);

}  // namespace proxy
