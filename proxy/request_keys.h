#pragma once

// File: proxy/request_keys.h
//
// The keys that a request names, read again from its bytes: for the rare questions that its slot
// alone can't answer.

#include <cstdint>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "proxy/request.h"

namespace proxy {

class Worker;

// Of a burst (MULTI … EXEC): the keys of all its commands. `worker` knows the commands.
absl::flat_hash_set<std::string> KeysOf(const Worker& worker, const Request& request);

// Whether there is a key that both name.
bool ShareKey(const Worker& worker, const Request& a, const Request& b);

// How many commands of the burst name a key.
uint32_t CountCommandsWithKeys(const Worker& worker, const Request& burst);

}  // namespace proxy
