#include "proxy/split_request.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/strings/match.h"
#include "cluster/split.h"
#include "proxy/client.h"
#include "proxy/publish.h"
#include "proxy/pubsub_counts.h"
#include "proxy/worker.h"
#include "resp/encoder.h"
#include "resp/views.h"

namespace proxy {
namespace {

// So much of small values is copied into one reply, while the fragments' replies are still there.
constexpr size_t kMergedCopyMax = 64 << 10;

// Makes the bytes of fragments: a header, and the arguments of their keys.
class FragmentBuilder {
 public:
  // The parent's arguments and frame live as long as the builder. `keys_with_values`: each key's
  // value follows it.
  FragmentBuilder(Client* client, const cluster::CommandSpec& command, bool keys_with_values,
                  const ArgList& args, const io::Rope& frame)
      : client_(client),
        command_(command),
        args_per_key_(keys_with_values ? 2 : 1),
        args_(args),
        frame_(frame),
        ranges_(frame) {}

  // `keys` are the numbers of the fragment's keys among those of the frame.
  io::Rope Build(absl::Span<const uint32_t> keys) {
    const absl::string_view header = Header(1 + keys.size() * args_per_key_);
    size_t bytes = header.size();
    for (const uint32_t key : keys) bytes += RangeOf(key).length;
    io::Rope rope;
    if (bytes >= kCopyBytes || frame_.slices().size() != 1) {
      rope.Append(client_->arena()->Copy(header));
      for (const uint32_t key : keys) {
        const resp::ArgPosition range = RangeOf(key);
        ranges_.AppendTo(range.offset, range.length, &rope);
      }
      return rope;
    }
    client_->worker()->stats()->payload_bytes_copied.Add(bytes);
    char* out = client_->arena()->Reserve(bytes);
    memcpy(out, header.data(), header.size());
    out += header.size();
    for (const uint32_t key : keys) {
      const resp::ArgPosition range = RangeOf(key);
      memcpy(out, frame_.slices()[0].data() + range.offset, range.length);
      out += range.length;
    }
    rope.Append(client_->arena()->Commit(bytes));
    return rope;
  }

 private:
  // "*n\r\n$4\r\nMGET\r\n": most fragments have the same.
  absl::string_view Header(size_t args) {
    if (args == header_args_) return header_;
    char number[24];
    header_.assign(number, resp::WriteHeader('*', static_cast<int64_t>(args), number));
    header_.append(number,
                   resp::WriteHeader('$', static_cast<int64_t>(command_.name.size()), number));
    header_.append(command_.name.data(), command_.name.size());
    header_ += "\r\n";
    header_args_ = args;
    return header_;
  }
  // Of a key's arguments in the frame.
  resp::ArgPosition RangeOf(uint32_t key) const {
    const size_t first = 1 + key * args_per_key_;
    resp::ArgPosition range = args_.Raw(first);
    if (args_per_key_ == 2) range.length += args_.Raw(first + 1).length;
    return range;
  }

  Client* const client_;
  const cluster::CommandSpec& command_;
  const size_t args_per_key_;
  const ArgList& args_;
  const io::Rope& frame_;
  const io::RopeRanges ranges_;
  std::string header_;
  size_t header_args_ = 0;
};

bool IsArray(const io::Rope& reply) { return !reply.empty() && reply.slices()[0].data()[0] == '*'; }

void AppendArrayHeader(Client* client, size_t count, io::Rope* out) {
  char header[24];
  const size_t bytes = resp::WriteHeader('*', static_cast<int64_t>(count), header);
  out->Append(client->arena()->Copy(absl::string_view(header, bytes)));
}

// Of fragments of one key each: their only elements, one after the other. Small ones are copied:
// each would be a part of a send. Empty if a reply is in pieces, or not as it must be, or if all
// are too much to hold twice.
io::Rope MergeOneKeyReplies(Client* client, const Fragments& fragments) {
  constexpr absl::string_view kOneElement = "*1\r\n";
  io::Rope merged;
  AppendArrayHeader(client, fragments.requests.size(), &merged);
  size_t copied = 0;
  const std::vector<Request*>& requests = fragments.requests;
  for (size_t i = 0; i < requests.size(); ++i) {
    if (i + Request::kAhead < requests.size()) Request::Prefetch(requests[i + Request::kAhead]);
    const io::Rope& reply = requests[i]->bytes;
    if (reply.slices().size() != 1) return io::Rope();
    const io::Slice& slice = reply.slices()[0];
    if (!absl::StartsWith(slice.bytes(), kOneElement)) return io::Rope();
    const absl::string_view element = slice.bytes().substr(kOneElement.size());
    if (element.size() >= kCopyBytes) {
      merged.Append(slice.Sub(kOneElement.size(), element.size()));
      continue;
    }
    copied += element.size();
    if (copied > kMergedCopyMax) return io::Rope();
    merged.Append(client->arena()->Copy(element));
  }
  client->worker()->stats()->payload_bytes_copied.Add(copied);
  return merged;
}

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
    pieces[i] = fragments.requests[i]->bytes.Views();
    readers.emplace_back(pieces[i]);
    ranges.emplace_back(fragments.requests[i]->bytes);
  }
  io::Rope merged;
  AppendArrayHeader(client, fragments.plan.fragment_of_key.size(), &merged);
  for (const uint32_t fragment : fragments.plan.fragment_of_key) {
    resp::ArgPosition element;
    if (!readers[fragment].Next(&element)) return io::Rope();
    ranges[fragment].AppendTo(element.offset, element.length, &merged);
  }
  return merged;
}

}  // namespace

Request* NewFragment(Worker* worker, Request* parent, cluster::Slot slot) {
  Request* fragment = worker->requests()->Take();
  fragment->client = parent->client;
  fragment->command = parent->command;
  fragment->parent = parent;
  fragment->protocol = parent->protocol;
  fragment->slot = slot;
  fragment->fragment = static_cast<uint32_t>(parent->fragments->requests.size());
  parent->fragments->requests.push_back(fragment);
  worker->stats()->fragments.Add(1);
  return fragment;
}

bool StartFragments(Worker* worker, Request* parent, const ArgList& args, const io::Rope& frame) {
  Fragments* fragments = parent->fragments.get();
  const cluster::SplitPlan& plan = fragments->plan;
  FragmentBuilder builder(parent->client, *parent->command, fragments->keys_with_values, args,
                          frame);
  // The parent is answered with the last one, which is started last.
  const size_t count = plan.fragments.size();
  fragments->unanswered = static_cast<uint32_t>(count);
  bool room = true;
  for (size_t i = 0; i < count; ++i) {
    const cluster::SplitFragment& part = plan.fragments[i];
    Request* fragment = NewFragment(worker, parent, part.slot);
    if (!worker->dispatcher()->Start(fragment, builder.Build(plan.KeysOf(part)))) room = false;
  }
  return room;
}

bool SplitIntoOneKeyFragments(Worker* worker, Request* request) {
  const io::Rope frame = request->bytes;
  const auto pieces = frame.Views();
  const ArgList args(pieces);
  const bool pairs = request->command->split == cluster::Split::kKeyValuePairs;
  const auto key_count = static_cast<uint32_t>((args.views().size() - 1) / (pairs ? 2 : 1));
  if (key_count < 2) return false;
  FragmentBuilder builder(request->client, *request->command, pairs, args, frame);
  const bool whole = !request->is_fragment();
  Request* const parent = whole ? request : request->parent;
  if (whole) {
    // All keys are in one slot: it went as it came. It becomes the parent of what it asked for.
    parent->state = Request::State::kNew;
    parent->bytes.Clear();
    parent->hold.reset();
    parent->fragments = worker->requests()->TakeFragments();
    parent->fragments->keys_with_values = pairs;
    cluster::SplitPlan* plan = &parent->fragments->plan;
    plan->keys.resize(key_count);
    std::iota(plan->keys.begin(), plan->keys.end(), 0);
    plan->fragment_of_key.resize(key_count);
  }
  Fragments* fragments = parent->fragments.get();
  cluster::SplitPlan* plan = &fragments->plan;
  // Where the keys' numbers in the parent are listed.
  const uint32_t first_key = whole ? 0 : plan->fragments[request->fragment].first_key;
  std::vector<Request*> started;
  for (uint32_t i = 0; i < key_count; ++i) {
    Request* one = request;
    if (i > 0 || whole) {
      one = NewFragment(worker, parent, request->slot);
      one->redirections = request->redirections;
      ++fragments->unanswered;
      plan->fragments.push_back({request->slot, first_key + i, 1});
      plan->fragment_of_key[plan->keys[first_key + i]] = one->fragment;
    }
    started.push_back(one);
  }
  if (!whole) plan->fragments[request->fragment].key_count = 1;
  for (uint32_t i = 0; i < key_count; ++i) {
    worker->dispatcher()->StartOneKeyFragment(started[i], builder.Build({i}));
  }
  worker->WakeClient(parent->client);
  return true;
}

io::Rope MergeReplies(Worker* worker, Client* client, Request* parent) {
  if (parent->command->serve == cluster::Serve::kPublish) {
    return PublishReply(worker, client, *parent);
  }
  if (parent->command->serve == cluster::Serve::kPubSubCount) {
    return PubSubCountsReply(worker, client, *parent);
  }
  const Fragments& fragments = *parent->fragments;
  if (parent->command->merge == cluster::Merge::kInKeyOrder) {
    io::Rope merged;
    // One key each, in order, unless some fragments were made later.
    const std::vector<uint32_t>& order = fragments.plan.fragment_of_key;
    if (fragments.requests.size() == order.size() && std::is_sorted(order.begin(), order.end())) {
      merged = MergeOneKeyReplies(client, fragments);
    }
    if (merged.empty() &&
        std::all_of(fragments.requests.begin(), fragments.requests.end(),
                    [](const Request* fragment) { return IsArray(fragment->bytes); })) {
      merged = MergeInKeyOrder(client, *parent);
    }
    if (!merged.empty()) return merged;
  }
  cluster::MergedStatus status(parent->command->merge);
  for (const Request* fragment : fragments.requests) {
    status.Add(fragment->bytes.Flatten(), fragment->handed_over);
  }
  if (status.failed()) worker->stats()->proxy_errors.Add(1);
  io::Rope merged;
  merged.Append(client->arena()->Copy(status.Reply()));
  return merged;
}

}  // namespace proxy
