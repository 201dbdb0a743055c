// The part of Dispatcher (proxy/dispatcher.h) that concerns WATCH, and the EXEC that ends it.

#include <algorithm>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "proxy/backend.h"
#include "proxy/backend_pool.h"
#include "proxy/client.h"
#include "proxy/dispatcher.h"
#include "proxy/request_keys.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

// A WATCH of so many bytes has its keys remembered.
constexpr size_t kMovedKeysBytesMax = 4 << 10;

}  // namespace

// The connection of the client's watch; one is taken for its first WATCH.
Dispatcher::Route Dispatcher::FindWatchRoute(Request* request) {
  Watch* const watch = request->transaction->watch.get();
  if (request->is_burst && MayHaveKeysElsewhere(*request)) watch->lost = true;
  Route route;
  route.backend = watch->connection.Find(*worker_);
  const bool there = route.backend != nullptr && route.backend->usable() && route.backend->fenced();
  if (there && !IsWatchOver(*request)) {
    route.node = route.backend->node();
    return route;
  }
  route.backend = nullptr;
  if (request->is_burst || watch->requests > 1) watch->lost = true;
  Hold* const hold = EnsureHold(request);
  if (IsWatchOver(*request)) {
    hold->deadline = worker_->now();
    return route;
  }
  if (!MayLease(request)) return route;
  route.node = NodeFor(request);
  if (route.node == nullptr) return route;
  route.backend = worker_->backends()->Private(route.node, SessionOf(*request), false);
  if (route.backend == nullptr) return route;
  watch->connection.Take(route.backend);
  return route;
}

// Of a burst that its procedure wants on the connection of the ones before it: that one, or, for
// the first of them, one to the node that has to get it.
Dispatcher::Route Dispatcher::FindKeptRoute(Request* request) {
  KeptConnection* const kept = request->transaction->kept.get();
  Route route;
  route.node = NodeFor(request);
  if (route.node == nullptr) return route;
  if (kept->was_taken()) {
    Backend* const backend = kept->Find(*worker_);
    if (backend == nullptr || !backend->usable()) {
      EndHold(request, kKeptLostError);
    } else if (backend->node() != route.node) {
      EndHold(request, kSlotMovedError);
    } else {
      route.backend = backend;
    }
    return route;
  }
  if (!MayLease(request)) return route;
  route.backend = worker_->backends()->Private(route.node, SessionOf(*request), false);
  if (route.backend != nullptr) kept->Take(route.backend);
  return route;
}

// A key of the block that is not watched may still be where the slot comes from. ASKING would have
// a command on it run at the target all the same, on nothing.
bool Dispatcher::MayHaveKeysElsewhere(const Request& burst) const {
  const Watch& watch = *burst.transaction->watch;
  if (!watch.asking) return false;
  const absl::flat_hash_set<std::string> keys = KeysOf(*worker_, burst);
  return !std::all_of(keys.begin(), keys.end(),
                      [&watch](const std::string& key) { return watch.moved_keys.contains(key); });
}

// The watch of the request is not, or will not be, one.
bool Dispatcher::IsWatchOver(const Request& request) const {
  const Watch& watch = *request.transaction->watch;
  return watch.lost || (watch.over && !request.is_burst);
}

// EXEC: as if a key had changed. WATCH: that is what its EXEC will answer.
void Dispatcher::OnWatchOver(Request* request) {
  if (!request->is_burst) return request->client->Answer(request, "+OK\r\n");
  // Its connection, if it has one still, watches at its node, too.
  request->transaction->watch->Release(*worker_, false);
  const bool resp3 = request->protocol == resp::Protocol::kResp3;
  request->client->Answer(request, resp3 ? "_\r\n" : "*-1\r\n");
}

// What a single command would wait for or follow. False: the error is for the client.
bool Dispatcher::OnWatchRefused(Request* request, cluster::ErrorKind kind) {
  if (kind == cluster::ErrorKind::kOther) return false;
  Watch* const watch = request->transaction->watch.get();
  if (!request->is_burst && watch->requests == 1) {
    // Nothing is watched yet: by the redirection, on another connection.
    watch->asking = false;
    if (watch->over) {
      OnWatchOver(request);
      return true;
    }
    watch->Release(*worker_, true);
    watch->over = false;
    return false;
  }
  watch->lost = true;
  worker_->HintRefresh("");
  OnWatchOver(request);
  return true;
}

// It goes on that connection now.
void Dispatcher::PrepareWatched(Request* request) {
  Watch* const watch = request->transaction->watch.get();
  if (request->is_burst) {
    request->asking = watch->asking;
  } else if (request->asking) {
    watch->asking = true;
    watch->moved_keys.clear();
    if (request->bytes.size() <= kMovedKeysBytesMax) {
      watch->moved_keys = KeysOf(*worker_, *request);
    }
  }
}

}  // namespace proxy
