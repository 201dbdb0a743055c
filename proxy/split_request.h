#pragma once

// File: proxy/split_request.h
//
// A multi-key request over several slots: its fragments, made and started; their replies, merged.

#include "io/slice.h"
#include "proxy/args.h"
#include "proxy/request.h"

namespace proxy {

class Client;
class Worker;

// A new fragment of the request, which has its Fragments.
Request* NewFragment(Worker* worker, Request* parent, cluster::Slot slot);

// Makes the fragments of parent->fragments->plan and starts them. `args` and `frame` are the
// parent's. False: one of them found its backend full.
bool StartFragments(Worker* worker, Request* parent, const ArgList& args, const io::Rope& frame);

// Replaces a request or fragment of several keys by fragments of one key each, and starts them:
// each key alone can be served while its slot moves. False: it has but one key.
bool SplitIntoOneKeyFragments(Worker* worker, Request* request);

// The one reply, when every fragment is answered.
io::Rope MergeReplies(Worker* worker, Client* client, Request* parent);

}  // namespace proxy
