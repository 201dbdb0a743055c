#pragma once

// File: proxy/scan.h
//
// SCAN over the whole cluster. Goes through the slots in their order, each read as a whole at its
// owner (CLUSTER COUNTKEYSINSLOT, GETKEYSINSLOT), so that the cursor is a slot and nothing else: it
// means the same to every proxy and every node, whatever moves or fails between two calls.
//
// A slot with too many keys for one reply is read in pages by its owner's own SCAN. A position of
// that means nothing to another process, which hashes with a seed of its own: so the cursor also
// has a print of the process (11 bits of a hash of its node and run id), and where that is not the
// one that has the slot, the slot is read once more from its begin. While the slot is on the move,
// its owner's part is read, then its target's; if the move is given up meanwhile, all is read
// again.

#include <memory>
#include <string>

#include "proxy/cluster_face.h"
#include "proxy/procedure.h"

namespace proxy {

// Null: *error says what is wrong with the arguments, in the words of the connected cluster.
std::unique_ptr<Procedure> MakeScan(Worker* worker, const FaceShare& share, const ArgList& args,
                                    std::string* error);

}  // namespace proxy
