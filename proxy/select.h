#pragma once

// File: proxy/select.h
//
// SELECT, where the cluster may have several databases (Valkey 9, cluster-databases): how many
// there are, a node is asked. The database that a client has selected is part of what its
// connections to the nodes are (BackendSession), so it changes while none of its requests is
// unanswered. WATCH has a connection in the database of then: it can't be left before EXEC.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "proxy/procedure.h"

namespace proxy {

inline constexpr absl::string_view kBadDatabaseError = "ERR DB index is out of range";

// SELECT's argument. False: *error says what the servers say.
bool ParseDatabase(absl::string_view arg, int64_t* database, std::string* error);

// Null: *error says what is wrong with the arguments.
std::unique_ptr<Procedure> MakeSelect(const ArgList& args, std::string* error);

}  // namespace proxy
