#include "proxy/split_request.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "cluster/split.h"
#include "proxy/client.h"
#include "proxy/worker.h"
#include "resp/encoder.h"
#include "resp/views.h"

namespace proxy {
namespace {

// "*n\r\n$4\r\nMGET\r\n"
std::string FragmentHeader(const cluster::CommandSpec& command, size_t args) {
  char header[24];
  std::string text(header, resp::WriteHeader('*', static_cast<int64_t>(args), header));
  text.append(header, resp::WriteHeader('$', static_cast<int64_t>(command.name.size()), header));
  text.append(command.name.data(), command.name.size());
  text += "\r\n";
  return text;
}

// Arguments per key: the key, or the key and its value.
size_t ArgsPerKey(const Fragments& fragments) { return fragments.keys_with_values ? 2 : 1; }

// The fragment's bytes: a header, and the arguments of its keys by reference to `frame`.
// `key_positions` are the argument indexes of its keys in `args`.
io::Rope BuildFragment(Client* client, const Request& parent, const std::vector<uint32_t>& keys,
                       const ArgList& args, const io::RopeRanges& frame) {
  const size_t step = ArgsPerKey(*parent.fragments);
  io::Rope rope;
  rope.Append(client->arena()->Copy(FragmentHeader(*parent.command, 1 + keys.size() * step)));
  for (const uint32_t key : keys) {
    for (size_t i = 0; i < step; ++i) {
      const resp::ArgPosition raw = args.Raw(1 + key * step + i);
      frame.AppendTo(raw.offset, raw.length, &rope);
    }
  }
  return rope;
}

Request* NewFragment(Worker* worker, Request* parent, cluster::Slot slot) {
  Request* fragment = worker->requests()->Take();
  fragment->client = parent->client;
  fragment->command = parent->command;
  fragment->parent = parent;
  fragment->protocol = parent->protocol;
  fragment->slot = slot;
  fragment->arrived = worker->now();
  ++parent->fragments->unanswered;
  worker->stats()->fragments.Add(1);
  return fragment;
}

bool IsArray(const io::Rope& reply) { return !reply.empty() && reply.slices()[0].data()[0] == '*'; }

// "*n\r\n" and the elements in the order of the request's keys. Empty if a reply is not as it must
// be.
io::Rope MergeInKeyOrder(Client* client, const Request& parent) {
  const Fragments& fragments = *parent.fragments;
  const size_t count = fragments.requests.size();
  std::vector<absl::InlinedVector<absl::string_view, 4>> pieces(count);
  std::vector<resp::ElementReader> readers;
  std::vector<io::RopeRanges> ranges;
  readers.reserve(count);
  ranges.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    pieces[i] = fragments.requests[i]->reply.Views();
    readers.emplace_back(pieces[i]);
    ranges.emplace_back(fragments.requests[i]->reply);
  }
  char header[24];
  const size_t header_bytes =
      resp::WriteHeader('*', static_cast<int64_t>(fragments.plan.fragment_of_key.size()), header);
  io::Rope merged;
  merged.Append(client->arena()->Copy(absl::string_view(header, header_bytes)));
  for (const uint32_t fragment : fragments.plan.fragment_of_key) {
    resp::ArgPosition element;
    if (!readers[fragment].Next(&element)) return io::Rope();
    ranges[fragment].AppendTo(element.offset, element.length, &merged);
  }
  return merged;
}

}  // namespace

bool StartFragments(Worker* worker, Request* parent, const ArgList& args, const io::Rope& frame) {
  Fragments* fragments = parent->fragments.get();
  Client* client = parent->client;
  const size_t count = fragments->plan.fragments.size();
  fragments->requests.reserve(count);
  // All are made before the first is started: one may be answered at once.
  std::vector<io::Rope> bytes(count);
  const io::RopeRanges ranges(frame);
  for (size_t i = 0; i < count; ++i) {
    const cluster::SplitFragment& plan = fragments->plan.fragments[i];
    Request* fragment = NewFragment(worker, parent, plan.slot);
    fragment->fragment = static_cast<uint32_t>(i);
    fragments->requests.push_back(fragment);
    bytes[i] = BuildFragment(client, *parent, plan.keys, args, ranges);
  }
  // The parent may be answered, and gone, with the last one.
  const std::vector<Request*> requests = fragments->requests;
  bool room = true;
  for (size_t i = 0; i < count; ++i) {
    if (!worker->dispatcher()->Start(requests[i], bytes[i])) room = false;
  }
  return room;
}

bool SplitIntoOneKeyFragments(Worker* worker, Request* request) {
  const io::Rope frame = request->bytes;
  const auto pieces = frame.Views();
  const ArgList args(pieces);
  const io::RopeRanges ranges(frame);
  const bool pairs = request->command->split == cluster::Split::kKeyValuePairs;
  const size_t key_count = (args.views().size() - 1) / (pairs ? 2 : 1);
  if (key_count < 2) return false;
  const bool whole = !request->is_fragment();
  Request* const parent = whole ? request : request->parent;
  if (whole) {
    // All keys are in one slot: it went as it came. It becomes the parent of what it asked for.
    parent->state = Request::State::kNew;
    parent->bytes.Clear();
    parent->hold.reset();
    parent->fragments = std::make_unique<Fragments>();
    parent->fragments->keys_with_values = pairs;
  }
  Fragments* fragments = parent->fragments.get();
  // Numbers of the keys in the parent.
  std::vector<uint32_t> keys(key_count);
  if (whole) {
    std::iota(keys.begin(), keys.end(), 0);
    fragments->plan.fragment_of_key.resize(key_count);
  } else {
    keys = fragments->plan.fragments[request->fragment].keys;
  }
  std::vector<Request*> started;
  std::vector<io::Rope> bytes;
  for (size_t i = 0; i < key_count; ++i) {
    Request* one = request;
    if (i > 0 || whole) {
      one = NewFragment(worker, parent, request->slot);
      one->fragment = static_cast<uint32_t>(fragments->requests.size());
      one->redirections = request->redirections;
      fragments->requests.push_back(one);
      fragments->plan.fragments.push_back({request->slot, {keys[i]}});
      fragments->plan.fragment_of_key[keys[i]] = one->fragment;
    }
    started.push_back(one);
    // Key i of the request's own bytes.
    bytes.push_back(
        BuildFragment(parent->client, *parent, {static_cast<uint32_t>(i)}, args, ranges));
  }
  if (!whole) fragments->plan.fragments[request->fragment].keys = {keys[0]};
  for (size_t i = 0; i < key_count; ++i) {
    worker->dispatcher()->StartOneKeyFragment(started[i], bytes[i]);
  }
  worker->WakeClient(parent->client);
  return true;
}

io::Rope MergeReplies(Worker* worker, Client* client, Request* parent) {
  const Fragments& fragments = *parent->fragments;
  if (parent->command->merge == cluster::Merge::kInKeyOrder) {
    const bool all_arrays =
        std::all_of(fragments.requests.begin(), fragments.requests.end(),
                    [](const Request* fragment) { return IsArray(fragment->reply); });
    if (all_arrays) {
      io::Rope merged = MergeInKeyOrder(client, *parent);
      if (!merged.empty()) return merged;
    }
  }
  cluster::MergedStatus status(parent->command->merge);
  for (const Request* fragment : fragments.requests) {
    status.Add(fragment->reply.Flatten(), fragment->handed_over);
  }
  if (status.failed()) worker->stats()->proxy_errors.Add(1);
  io::Rope merged;
  merged.Append(client->arena()->Copy(status.Reply()));
  return merged;
}

}  // namespace proxy
