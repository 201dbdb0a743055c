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
    const size_t bytes = BytesOf(keys);
    io::Rope rope;
    if (bytes < kCopyBytes) {
      client_->worker()->stats()->payload_bytes_copied.Add(bytes);
      Write(keys, client_->arena()->Reserve(bytes));
      rope.Append(client_->arena()->Commit(bytes));
      return rope;
    }
    rope.Append(client_->arena()->Copy(Header(keys)));
    for (const uint32_t key : keys) {
      const resp::ArgPosition range = RangeOf(key);
      ranges_.AppendTo(range.offset, range.length, &rope);
    }
    return rope;
  }
  size_t BytesOf(absl::Span<const uint32_t> keys) {
    size_t bytes = Header(keys).size();
    for (const uint32_t key : keys) bytes += RangeOf(key).length;
    return bytes;
  }
  // BytesOf(keys) bytes.
  void Write(absl::Span<const uint32_t> keys, char* out) {
    const absl::string_view header = Header(keys);
    memcpy(out, header.data(), header.size());
    out += header.size();
    for (const uint32_t key : keys) {
      const resp::ArgPosition range = RangeOf(key);
      if (const io::Slice* const whole = frame_.only_slice(); whole != nullptr) {
        memcpy(out, whole->data() + range.offset, range.length);
      } else {
        ranges_.CopyTo(range.offset, range.length, out);
      }
      out += range.length;
    }
  }

 private:
  // "*n\r\n$4\r\nMGET\r\n": most fragments have the same.
  absl::string_view Header(absl::Span<const uint32_t> keys) {
    const size_t args = 1 + keys.size() * args_per_key_;
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

// Gives small fragments to connections that are open and take them at once: as the client's
// requests of one key go (Client::TakeQuickly), written once, to where they are sent from.
class QuickWay {
 public:
  // All outlive it.
  QuickWay(Worker* worker, Client* client, const cluster::CommandSpec& command,
           FragmentBuilder* builder)
      : worker_(worker),
        client_(client),
        builder_(builder),
        possible_((command.flags & cluster::kFlagSlow) == 0),
        read_(command.is_read_only()) {
    LookAgain();
  }

  // After a request went another way, which may have changed what this one depends on.
  void LookAgain() {
    backends_ = {};
    if (!possible_ || !client_->QuickWayOpen()) return;
    backends_ = worker_->backends()->OpenPrimaries(client_->protocol());
  }

  // False: it goes another way.
  bool Start(Request* fragment, absl::Span<const uint32_t> keys) {
    if (backends_.empty()) return false;
    const size_t shard = worker_->cluster()->topology->ShardNumberFor(fragment->slot);
    Backend* const backend = shard < backends_.size() ? backends_[shard] : nullptr;
    if (backend == nullptr || !backend->MayGiveQuickly()) return false;
    const size_t bytes = builder_->BytesOf(keys);
    if (bytes >= kCopyBytes) return false;
    builder_->Write(keys, backend->ReserveQuickly(bytes));
    fragment->read = read_;
    backend->GiveReserved(fragment, bytes, worker_->now());
    if (!backend->dirty) worker_->MarkDirty(backend);
    cluster::SlotGroups written;
    if (!read_) written.Add(fragment->slot);
    client_->NoteGivenQuickly(1, written);
    WorkerStats* const stats = worker_->stats();
    stats->backend_requests.Add(1);
    stats->payload_bytes_copied.Add(bytes);
    stats->payload_bytes_forwarded.Add(bytes);
    return true;
  }

 private:
  Worker* const worker_;
  Client* const client_;
  FragmentBuilder* const builder_;
  const bool possible_;
  const bool read_;
  absl::Span<Backend* const> backends_;
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
  io::Slice small;  // of those copied, the last ones: neighbours
  AppendArrayHeader(client, fragments.requests.size(), &merged);
  size_t copied = 0;
  const std::vector<Request*>& requests = fragments.requests;
  for (size_t i = 0; i < requests.size(); ++i) {
    if (i + Request::kAhead < requests.size()) Request::Prefetch(requests[i + Request::kAhead]);
    const io::Slice* const slice = requests[i]->bytes.only_slice();
    if (slice == nullptr || !absl::StartsWith(slice->bytes(), kOneElement)) return io::Rope();
    const absl::string_view element = slice->bytes().substr(kOneElement.size());
    if (element.size() >= kCopyBytes) {
      merged.Append(std::move(small));
      merged.Append(slice->Sub(kOneElement.size(), element.size()));
      continue;
    }
    copied += element.size();
    if (copied > kMergedCopyMax) return io::Rope();
    io::Arena* const arena = client->arena();
    char* const copy = arena->Reserve(element.size());
    memcpy(copy, element.data(), element.size());
    if (small.TakeIn(arena->block(), absl::string_view(copy, element.size()))) {
      arena->CommitTakenIn(element.size());
    } else {
      merged.Append(std::move(small));
      small = arena->Commit(element.size());
    }
  }
  merged.Append(std::move(small));
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
  QuickWay quick_way(worker, parent->client, *parent->command, &builder);
  // The parent is answered with the last one, which is started last.
  const size_t count = plan.fragments.size();
  fragments->unanswered = static_cast<uint32_t>(count);
  bool room = true;
  for (size_t i = 0; i < count; ++i) {
    const cluster::SplitFragment& part = plan.fragments[i];
    Request* fragment = NewFragment(worker, parent, part.slot);
    const absl::Span<const uint32_t> keys = plan.KeysOf(part);
    if (quick_way.Start(fragment, keys)) continue;
    if (!worker->dispatcher()->Start(fragment, builder.Build(keys))) room = false;
    quick_way.LookAgain();
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
