#pragma once

// File: proxy/cross_slot_transaction.h
//
// EXEC of a transaction whose keys lie in several slots (--cross-slot split). Each slot's part is
// one MULTI … EXEC at its node; the parts run one after the other in the order of their first
// commands, so that who sees a later one's effect (a job in a queue) finds those of all before it
// (the job). The part of the watched slot comes first: where it answers null, nothing has run. The
// first part that fails ends it, and the error says which commands have run.

#include <memory>

#include "proxy/procedure.h"
#include "proxy/transaction.h"

namespace proxy {

// `exec` is the row of EXEC. `watch` may be null; the procedure takes care of it from now on.
std::unique_ptr<Procedure> MakeCrossSlotTransaction(Worker* worker,
                                                    const cluster::CommandSpec& exec,
                                                    CrossSlotQueue queue,
                                                    std::shared_ptr<Watch> watch);

}  // namespace proxy
