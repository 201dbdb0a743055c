#pragma once

// File: proxy/scan.h
//
// SCAN over the whole cluster. Goes through the slots in their order, each read as a whole at its
// owner (CLUSTER COUNTKEYSINSLOT, GETKEYSINSLOT), so that the cursor is a slot and nothing else: it
// means the same to every proxy and every node, whatever moves or fails between two calls. (A
// position within a node's hash table would mean nothing after a failover: each process hashes
// with a seed of its own.) A slot with too many keys for one reply is an error.

#include <memory>
#include <string>

#include "proxy/cluster_face.h"
#include "proxy/procedure.h"

namespace proxy {

// Null: *error says what is wrong with the arguments, in the words of the connected cluster.
std::unique_ptr<Procedure> MakeScan(Worker* worker, const FaceShare& share, const ArgList& args,
                                    std::string* error);

}  // namespace proxy
