#pragma once

// File: proxy/random_key.h
//
// RANDOMKEY: each shard is as likely as it has keys; null only if all are empty.

#include <memory>

#include "proxy/procedure.h"

namespace proxy {

std::unique_ptr<Procedure> MakeRandomKey(const cluster::CommandSpec& command);

}  // namespace proxy
