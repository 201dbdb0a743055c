#include "tests/sim/sim_ring.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sim {
namespace {

constexpr char kPoison = '\xA5';
// TCP_USER_TIMEOUT of the proxy's sockets (io::SetStreamOptions).
constexpr Nanos kUserTimeout = 30 * kSecond;
constexpr io::Fd kFirstDescriptor = 3;

enum Kind : int {
  kAccept,
  kConnect,
  kRecv,
  kRecvInto,
  kSend,
  kSendZeroCopy,
  kCancel,
  kShutdown,
  kClose,
  kPost
};

}  // namespace

struct SimRing::Op {
  int kind;
  io::OpToken token;
  io::Fd fd;
  std::shared_ptr<SimFile> file;
  SimRing* ring;
  size_t place = 0;       // in armed_
  bool ready = false;     // in ready_
  bool held = false;      // waits for a buffer
  bool canceled = false;  // ends with the next attempt, whatever that brings
  bool over = false;      // its result stands and is told at `not_before`
  Nanos not_before = 0;   // of its place in ready_
  int result = 0;

  io::BufferGroup group = io::BufferGroup::kClients;  // kRecv
  char* memory = nullptr;                             // kRecvInto
  size_t capacity = 0;                                // kRecvInto
  const msghdr* message = nullptr;                    // kSend
  bool quiet = false;                                 // kSend
  absl::string_view bytes;                            // kSendZeroCopy
  std::shared_ptr<ZeroCopy> zero_copy;                // kSendZeroCopy
  std::string expected;                               // what was to be sent when it was submitted
  size_t sent = 0;
  io::OpToken target;       // kCancel
  io::Endpoint peer;        // kConnect
  int how = 0;              // kShutdown
  io::RingId receiver = 0;  // kPost
  io::Message post;         // kPost
};

// Tells the ring when the network has let go of all the bytes.
struct SimRing::ZeroCopy {
  std::shared_ptr<SimRing*> ring;
  io::OpToken token;
  bool told = false;  // the send has completed with `more`, or is about to
  ~ZeroCopy() {
    if (!told || *ring == nullptr) return;
    SimNet* net = (*ring)->net_;
    const FaultOptions& faults = *net->faults();
    Nanos when = net->now();
    if (net->random()->Chance(faults.late_release)) {
      when += net->random()->Between(0, faults.release_late_max);
    }
    (*ring)->OnZeroCopyReleased(token, when, net->random()->Chance(faults.release_copied));
  }
};

// What a descriptor stands for. Lives as long as a descriptor or an operation needs it.
class SimFile final : public Stream::Observer,
                      public Listener::Observer,
                      public Connecting::Observer {
 public:
  SimFile() = default;
  ~SimFile() {
    if (stream != nullptr) stream->Close();
  }
  SimFile(const SimFile&) = delete;
  SimFile& operator=(const SimFile&) = delete;

  void Attach(Stream* to) {
    stream = to;
    stream->set_observer(this);
    stream->set_user_timeout(kUserTimeout);
  }
  void OnStream(Stream*) override {
    if (recv != nullptr && stream->can_read()) recv->ring->MakeReady(recv);
    if (send != nullptr && stream->can_write()) send->ring->MakeReady(send);
  }
  void OnAcceptable(Listener*) override {
    if (accept != nullptr) accept->ring->MakeReady(accept);
  }
  void OnConnected(Connecting*, int error, Stream* to) override {
    connecting.reset();
    if (to != nullptr) Attach(to);
    if (connect == nullptr) return;
    connect->result = -error;
    connect->over = true;
    connect->ring->MakeReady(connect);
  }

  Stream* stream = nullptr;
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Connecting> connecting;
  SimRing::Op* recv = nullptr;
  SimRing::Op* send = nullptr;
  SimRing::Op* accept = nullptr;
  SimRing::Op* connect = nullptr;
};

// --- SimProcess

SimProcess::SimProcess(SimNet* net, const io::Endpoint& host) : net_(net), host_(host) {}
SimProcess::~SimProcess() = default;

size_t SimProcess::open_descriptors() const {
  return static_cast<size_t>(std::count_if(files_.begin(), files_.end(),
                                           [](const auto& file) { return file != nullptr; }));
}

io::Fd SimProcess::Install(std::shared_ptr<SimFile> file) {
  if (full()) return -EMFILE;
  auto place = std::find(files_.begin(), files_.end(), nullptr);
  if (place == files_.end()) place = files_.insert(files_.end(), nullptr);
  *place = std::move(file);
  return kFirstDescriptor + static_cast<io::Fd>(place - files_.begin());
}

std::shared_ptr<SimFile> SimProcess::Find(io::Fd fd) const {
  const size_t index = static_cast<size_t>(fd - kFirstDescriptor);
  return fd >= kFirstDescriptor && index < files_.size() ? files_[index] : nullptr;
}

bool SimProcess::Remove(io::Fd fd) {
  if (Find(fd) == nullptr) return false;
  files_[static_cast<size_t>(fd - kFirstDescriptor)] = nullptr;
  return true;
}

void SimProcess::Post(io::RingId receiver, io::Message message) {
  const auto it = rings_.find(receiver);
  if (it == rings_.end()) return;
  last_post_ = std::max(last_post_, net_->now() + it->second->Late(net_->faults()->late_post));
  SimRing::Mail mail;
  mail.message = message;
  it->second->AddMail(last_post_, mail);
}

// --- SimRing

SimRing::SimRing(SimProcess* process, io::RingId id, const Options& options)
    : process_(process),
      net_(process->net_),
      id_(id),
      options_(options),
      self_(std::make_shared<SimRing*>(this)),
      wake_(net_->alarms(), &SimRing::WakeFired, this) {
  ABSL_ASSERT(process_->rings_[id] == nullptr);
  process_->rings_[id] = this;
  const uint32_t counts[io::kBufferGroups] = {options.client_buffers, options.backend_buffers};
  for (size_t g = 0; g < io::kBufferGroups; ++g) {
    groups_[g].pool = std::make_unique<io::BufferPool>(counts[g], options.buffer_bytes);
    groups_[g].used.resize(counts[g]);
    for (uint32_t i = 0; i < counts[g]; ++i) groups_[g].free.push_back(i);
  }
}

SimRing::~SimRing() {
  *self_ = nullptr;
  process_->rings_.erase(id_);
  for (auto& [when, mail] : mail_) {
    if (mail.sender != nullptr) mail.sender->Complete(mail.op, -EOWNERDEAD, false, io::Slice());
  }
  for (auto& [other_id, other] : process_->rings_) {
    for (auto& [when, mail] : other->mail_) {
      if (mail.sender != this) continue;
      mail.sender = nullptr;
      mail.op = nullptr;
    }
  }
  for (Op* op : std::vector<Op*>(armed_)) Finish(op);
  for (Op* op : submissions_) delete op;
  for (Op* op : spare_) delete op;
  for (Group& group : groups_) group.current.Drop();
}

absl::Time SimRing::Now() const { return absl::UnixEpoch() + absl::Nanoseconds(now_); }

double SimRing::FreeBufferShare(io::BufferGroup g) const {
  const size_t free = group(g).free.size() + (group(g).current ? 1 : 0);
  return static_cast<double>(free) / static_cast<double>(group(g).pool->count());
}

size_t SimRing::operations_in_flight() const {
  return static_cast<size_t>(
      std::count_if(armed_.begin(), armed_.end(), [](const Op* op) { return op->kind != kPost; }));
}

size_t SimRing::buffers_held() const {
  size_t held = 0;
  for (const Group& group : groups_) {
    held += group.pool->count() - group.free.size() - group.pool->returned().size() -
            (group.current ? 1 : 0);
  }
  return held;
}

std::string SimRing::DescribeState() const {
  std::string text =
      absl::StrCat("ring ", id_, ": ", armed_.size(), " armed, ", ready_.size(), " ready, ",
                   submissions_.size(), " to submit, ", completed_.size(), " completed, wakes at ",
                   static_cast<double>(wake_at_) / kSecond);
  for (const Group& group : groups_) {
    absl::StrAppend(&text, "; buffers: ", group.free.size(), " free of ", group.pool->count(),
                    group.current ? ", one in use" : "", ", ", group.held.size(), " receives wait");
  }
  return text;
}

// --- synchronous

absl::StatusOr<io::Fd> SimRing::Listen(const io::Endpoint& address,
                                       const io::ListenOptions& options) {
  if (process_->full()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot listen on ", address.ToString(), ": Too many open files"));
  }
  auto file = std::make_shared<SimFile>();
  auto listener = net_->Listen(address, static_cast<size_t>(options.backlog), file.get());
  if (!listener.ok()) return listener.status();
  file->listener = std::move(*listener);
  return process_->Install(std::move(file));
}

absl::StatusOr<io::Fd> SimRing::OpenSocket(const io::Endpoint& peer) {
  const io::Fd fd = process_->Install(std::make_shared<SimFile>());
  if (fd >= 0) return fd;
  return absl::ErrnoToStatus(-fd, absl::StrCat("cannot open a socket for ", peer.ToString()));
}

std::string SimRing::PeerName(io::Fd socket) {
  const std::shared_ptr<SimFile> file = process_->Find(socket);
  if (file == nullptr || file->stream == nullptr) return "";
  const io::Endpoint& peer = file->stream->remote();
  return peer.is_unix() && peer.unix_path().empty() ? "" : peer.ToString();
}

std::string SimRing::LocalName(io::Fd socket) {
  const std::shared_ptr<SimFile> file = process_->Find(socket);
  if (file == nullptr) return "";
  if (file->listener != nullptr) return file->listener->address().ToString();
  if (file->stream == nullptr) return "";
  const io::Endpoint& local = file->stream->local();
  return local.is_unix() && local.unix_path().empty() ? "" : local.ToString();
}

// --- preparing

SimRing::Op* SimRing::NewOp(int kind, io::OpToken token, io::Fd fd) {
  Op* op;
  if (spare_.empty()) {
    op = new Op;
  } else {
    op = spare_.back();
    spare_.pop_back();
  }
  op->kind = kind;
  op->token = token;
  op->fd = fd;
  op->ring = this;
  return op;
}

void SimRing::Queue(Op* op) {
  ++submission_count_;
  submissions_.push_back(op);
  if (submissions_.size() >= options_.submissions_max ||
      net_->random()->Chance(net_->faults()->early_submit)) {
    Submit();
  }
}

void SimRing::Accept(io::OpToken token, io::Fd listener) { Queue(NewOp(kAccept, token, listener)); }

void SimRing::Connect(io::OpToken token, io::Fd socket, const io::Endpoint& peer) {
  Op* op = NewOp(kConnect, token, socket);
  op->peer = peer;
  Queue(op);
}

void SimRing::Recv(io::OpToken token, io::Fd socket, io::BufferGroup group) {
  Op* op = NewOp(kRecv, token, socket);
  op->group = group;
  Queue(op);
}

void SimRing::RecvInto(io::OpToken token, io::Fd socket, char* memory, size_t capacity) {
  Op* op = NewOp(kRecvInto, token, socket);
  op->memory = memory;
  op->capacity = capacity;
  Queue(op);
}

void SimRing::Send(io::OpToken token, io::Fd socket, const msghdr* message, io::Notice notice) {
  Op* op = NewOp(kSend, token, socket);
  op->message = message;
  op->quiet = notice == io::Notice::kQuiet;
  Queue(op);
}

void SimRing::SendZeroCopy(io::OpToken token, io::Fd socket, absl::string_view bytes) {
  Op* op = NewOp(kSendZeroCopy, token, socket);
  op->bytes = bytes;
  Queue(op);
}

void SimRing::Cancel(io::OpToken token, io::OpToken target) {
  Op* op = NewOp(kCancel, token, -1);
  op->target = target;
  Queue(op);
}

void SimRing::Shutdown(io::OpToken token, io::Fd socket, int how) {
  Op* op = NewOp(kShutdown, token, socket);
  op->how = how;
  Queue(op);
}

void SimRing::Close(io::OpToken token, io::Fd fd) { Queue(NewOp(kClose, token, fd)); }

void SimRing::Post(io::OpToken token, io::RingId receiver, io::Message message) {
  Op* op = NewOp(kPost, token, -1);
  op->receiver = receiver;
  op->post = message;
  Queue(op);
}

// --- submitting

void SimRing::Submit() {
  // Issuing prepares nothing new.
  std::vector<Op*> batch;
  batch.swap(submissions_);
  for (Op* op : batch) {
    op->place = armed_.size();
    armed_.push_back(op);
    Issue(op);
  }
  batch.clear();
  if (submissions_.empty()) submissions_.swap(batch);
}

void SimRing::Issue(Op* op) {
  if (op->fd >= 0) {
    op->file = process_->Find(op->fd);
    if (op->file == nullptr) return Complete(op, -EBADF, false, io::Slice());
  }
  SimFile* file = op->file.get();
  switch (op->kind) {
    case kAccept:
      if (file->listener == nullptr) return Complete(op, -EINVAL, false, io::Slice());
      file->accept = op;
      return Attempt(op);
    case kConnect:
      if (file->stream != nullptr) return Complete(op, -EISCONN, false, io::Slice());
      if (file->connecting != nullptr) return Complete(op, -EALREADY, false, io::Slice());
      file->connect = op;
      file->connecting = net_->Connect(process_->host_, op->peer, file);
      return;
    case kRecv:
    case kRecvInto:
      return IssueRecv(op);
    case kSend:
    case kSendZeroCopy:
      return IssueSend(op);
    case kCancel:
      return IssueCancel(op);
    case kShutdown:
      return Complete(op, DoShutdown(file, op->how), false, io::Slice());
    case kClose: {
      process_->Remove(op->fd);
      const bool error = net_->random()->Chance(net_->faults()->close_error);
      return Complete(op, error ? -EIO : 0, false, io::Slice());
    }
    case kPost:
      return IssuePost(op);
  }
}

void SimRing::IssueRecv(Op* op) {
  SimFile* file = op->file.get();
  if (file->stream == nullptr) return Complete(op, -ENOTCONN, false, io::Slice());
  if (file->recv != nullptr) net_->Fail("two receives on one socket");
  file->recv = op;
  if (op->kind == kRecv) {
    Group& from = group(op->group);
    if (from.free.empty() && !from.current &&
        net_->random()->Chance(net_->faults()->no_buffers_early)) {
      return Complete(op, -ENOBUFS, false, io::Slice());
    }
    if (!from.held.empty() || (from.free.empty() && !from.current)) {
      op->held = true;
      from.held.push_back(op);
      return;
    }
  }
  const Nanos late = Late(net_->faults()->late_ready);
  if (late > 0) return MakeReady(op, late);
  Attempt(op);
}

void SimRing::IssueSend(Op* op) {
  SimFile* file = op->file.get();
  if (file->stream == nullptr) return Complete(op, -ENOTCONN, false, io::Slice());
  if (file->send != nullptr) net_->Fail("two sends at once on one socket");
  file->send = op;
  op->expected.clear();
  if (op->kind == kSend) {
    for (size_t i = 0; i < op->message->msg_iovlen; ++i) {
      const iovec& part = op->message->msg_iov[i];
      op->expected.append(static_cast<const char*>(part.iov_base), part.iov_len);
    }
  } else {
    op->expected.assign(op->bytes.data(), op->bytes.size());
    if (!file->stream->local().is_unix()) {
      op->zero_copy = std::make_shared<ZeroCopy>();
      op->zero_copy->ring = self_;
      op->zero_copy->token = op->token;
    }
  }
  // What is queued is not sent yet: later, in its own time, it is.
  const Nanos late = Late(net_->faults()->send_later);
  if (late > 0) return MakeReady(op, late);
  Attempt(op);
}

void SimRing::IssueCancel(Op* op) {
  Random* random = net_->random();
  Op* target = nullptr;
  for (Op* armed : armed_) {
    if (armed->token == op->target && armed != op) target = armed;
  }
  if (target == nullptr) return Complete(op, -ENOENT, false, io::Slice());
  if (target->over || target->canceled) {
    return Complete(op, random->Below(2) == 0 ? -ENOENT : -EALREADY, false, io::Slice());
  }
  net_->Trace("cancel", target->token.value());
  if (random->Chance(net_->faults()->cancel_races)) {
    // It was quicker: what had arrived is taken; perhaps it has even ended by that.
    const io::OpToken token = target->token;
    const size_t before = completed_.size();
    Attempt(target);
    const bool ended =
        std::none_of(armed_.begin(), armed_.end(), [&](Op* armed) { return armed == target; }) ||
        !(target->token == token);
    if (ended && completed_.size() > before) {
      return Complete(op, random->Below(2) == 0 ? -ENOENT : -EALREADY, false, io::Slice());
    }
    if (target->over) return Complete(op, -EALREADY, false, io::Slice());
  }
  if (random->Chance(net_->faults()->cancel_already)) {
    target->canceled = true;
    MakeReady(target, 1 + random->Between(0, net_->faults()->late_max));
    return Complete(op, -EALREADY, false, io::Slice());
  }
  if (random->Below(2) == 0) {
    Complete(op, 0, false, io::Slice());
    EndCanceled(target);
  } else {
    EndCanceled(target);
    Complete(op, 0, false, io::Slice());
  }
}

void SimRing::IssuePost(Op* op) {
  const auto it = process_->rings_.find(op->receiver);
  if (it == process_->rings_.end()) return Complete(op, -EOWNERDEAD, false, io::Slice());
  Nanos& last = last_post_[op->receiver];
  last = std::max(last, net_->now() + Late(net_->faults()->late_post));
  Mail mail;
  mail.message = op->post;
  mail.sender = this;
  mail.op = op;
  it->second->AddMail(last, mail);
}

int SimRing::DoShutdown(SimFile* file, int how) {
  if (file->listener != nullptr && how != SHUT_WR) {
    if (file->accept != nullptr) Complete(file->accept, -EINVAL, false, io::Slice());
    return 0;
  }
  if (file->connecting != nullptr && how == SHUT_RDWR) {
    file->connecting.reset();
    if (file->connect != nullptr) Complete(file->connect, -ECONNRESET, false, io::Slice());
    return 0;
  }
  if (file->stream == nullptr || file->stream->reset()) return -ENOTCONN;
  if (how != SHUT_WR) file->stream->ShutdownRead();
  if (how != SHUT_RD) file->stream->ShutdownWrite();
  return 0;
}

// --- attempts

void SimRing::Attempt(Op* op) {
  if (op->over) return Complete(op, op->result, false, io::Slice());
  if (op->held) return;
  switch (op->kind) {
    case kAccept:
      return AttemptAccept(op);
    case kRecv:
      return AttemptRecv(op);
    case kRecvInto:
      return AttemptRecvInto(op);
    case kSend:
    case kSendZeroCopy:
      return AttemptSend(op);
    default:
      return;
  }
}

void SimRing::AttemptAccept(Op* op) {
  Listener* listener = op->file->listener.get();
  while (listener->can_accept()) {
    if (process_->full()) return Complete(op, -EMFILE, false, io::Slice());
    Stream* stream = listener->Accept();
    if (net_->random()->Chance(net_->faults()->accept_error)) {
      stream->Abort();
      return Complete(op, -ECONNABORTED, false, io::Slice());
    }
    auto file = std::make_shared<SimFile>();
    file->Attach(stream);
    const bool more = completed_.size() < options_.completions_max &&
                      !net_->random()->Chance(net_->faults()->multishot_ends);
    Complete(op, process_->Install(std::move(file)), more, io::Slice());
    if (!more) return;
  }
}

// As many buffers as it takes: whoever has sent much gets them all.
void SimRing::AttemptRecv(Op* op) {
  Stream* stream = op->file->stream;
  Group& from = group(op->group);
  while (stream->can_read()) {
    if (stream->arrived().empty()) {
      char none;
      const ssize_t result = stream->Read(&none, 1);
      return Complete(op, static_cast<int>(result), false, io::Slice());
    }
    if (net_->random()->Chance(net_->faults()->transient_error)) {
      return Complete(op, net_->random()->Below(2) == 0 ? -EINTR : -EAGAIN, false, io::Slice());
    }
    if (from.free.empty() && !from.current) {
      return Complete(op, -ENOBUFS, false, io::Slice());
    }
    io::Slice data = TakeBuffer(&from, stream);
    const int n = static_cast<int>(data.size());
    const bool more = completed_.size() < options_.completions_max &&
                      !net_->random()->Chance(net_->faults()->multishot_ends);
    Complete(op, n, more, std::move(data));
    if (!more) return;
  }
}

io::Slice SimRing::TakeBuffer(Group* from, Stream* stream) {
  if (!from->current) {
    from->current = io::BufferRef(from->pool->block(from->free.front()));
    from->free.pop_front();
    from->current_used = 0;
  }
  io::Block* block = from->current.get();
  size_t n = std::min(block->size - from->current_used, stream->arrived().size());
  if (n > 1 && net_->random()->Chance(net_->faults()->short_receive)) {
    n = 1 + net_->random()->Below(n);
  }
  char* to = block->data + from->current_used;
  const ssize_t got = stream->Read(to, n);
  ABSL_ASSERT(got == static_cast<ssize_t>(n));
  (void)got;
  from->current_used += n;
  from->used[block->index] = from->current_used;
  io::Slice data(from->current, absl::string_view(to, n));
  if (!options_.incremental || from->current_used == block->size) from->current.Drop();
  return data;
}

void SimRing::AttemptRecvInto(Op* op) {
  Stream* stream = op->file->stream;
  if (!stream->can_read()) return;
  if (net_->random()->Chance(net_->faults()->transient_error)) {
    return Complete(op, net_->random()->Below(2) == 0 ? -EINTR : -EAGAIN, false, io::Slice());
  }
  size_t n = op->capacity;
  if (n > 1 && net_->random()->Chance(net_->faults()->short_receive)) {
    n = 1 + net_->random()->Below(n);
  }
  Complete(op, static_cast<int>(stream->Read(op->memory, n)), false, io::Slice());
}

void SimRing::AttemptSend(Op* op) {
  Stream* stream = op->file->stream;
  const size_t total = op->expected.size();
  if (op->sent == 0 && net_->random()->Chance(net_->faults()->transient_error)) {
    return EndSend(op, net_->random()->Below(2) == 0 ? -EINTR : -EAGAIN);
  }
  while (op->sent < total) {
    // From the caller's memory as it is now, not as it was when the send was submitted.
    const char* next;
    size_t n;
    if (op->kind == kSendZeroCopy) {
      next = op->bytes.data() + op->sent;
      n = op->bytes.size() - op->sent;
    } else {
      size_t skip = op->sent;
      const iovec* part = op->message->msg_iov;
      for (; skip >= part->iov_len; ++part) skip -= part->iov_len;
      next = static_cast<const char*>(part->iov_base) + skip;
      n = part->iov_len - skip;
    }
    n = std::min({n, total - op->sent, std::max<size_t>(stream->room(), 1)});
    if (options_.bytes_must_stay && memcmp(op->expected.data() + op->sent, next, n) != 0) {
      net_->Fail("the bytes of a send changed before it had completed");
    }
    const ssize_t result = op->kind == kSendZeroCopy ? stream->WriteZeroCopy(next, n, op->zero_copy)
                                                     : stream->Write(next, n);
    if (result == -EAGAIN) {
      if (op->sent > 0 && net_->random()->Chance(net_->faults()->short_send)) break;
      if (op->quiet) return EndSend(op, op->sent > 0 ? static_cast<int>(op->sent) : -EAGAIN);
      return;  // waits for room
    }
    if (result < 0) {
      return EndSend(op, op->sent > 0 ? static_cast<int>(op->sent) : static_cast<int>(result));
    }
    op->sent += static_cast<size_t>(result);
  }
  EndSend(op, static_cast<int>(op->sent));
}

// The result of a send stands. It may be told later: a reply can be here before that.
void SimRing::EndSend(Op* op, int result) {
  const Nanos late = Late(net_->faults()->late_completion);
  if (late == 0 && op->quiet && result == static_cast<int>(op->expected.size())) {
    io::Completion completion;
    completion.token = op->token;
    completion.result = result;
    net_->Trace("quiet", op->token.value(), static_cast<uint64_t>(result));
    quiet_.push_back(std::move(completion));
    return Finish(op);
  }
  if (late == 0) return Complete(op, result, false, io::Slice());
  op->result = result;
  op->over = true;
  MakeReady(op, late);
}

void SimRing::EndCanceled(Op* op) {
  if (op->kind == kConnect) op->file->connecting.reset();
  // What was sent of it was sent.
  const bool partly = (op->kind == kSend || op->kind == kSendZeroCopy) && op->sent > 0;
  Complete(op, partly ? static_cast<int>(op->sent) : -ECANCELED, false, io::Slice());
}

// --- completing

void SimRing::Complete(Op* op, int result, bool more, io::Slice data) {
  io::Completion completion;
  completion.token = op->token;
  completion.result = result;
  completion.more = more;
  completion.data = std::move(data);
  if (op->kind == kSendZeroCopy && op->zero_copy != nullptr &&
      (result > 0 || net_->random()->Below(2) == 0)) {
    completion.more = true;
    op->zero_copy->told = true;
  }
  net_->Trace("done", op->token.value(), static_cast<uint64_t>(result));
  if (op->token.kind() != io::OpKind::kNone) completed_.push_back(std::move(completion));
  if (!more) Finish(op);
  WakeAt(net_->now());
}

void SimRing::Finish(Op* op) {
  if (op->ready) ready_.erase(std::find(ready_.begin(), ready_.end(), op));
  if (op->held) {
    std::deque<Op*>& held = group(op->group).held;
    const auto it = std::find(held.begin(), held.end(), op);
    if (it != held.end()) held.erase(it);
  }
  if (op->file != nullptr) {
    for (Op** mine : {&op->file->recv, &op->file->send, &op->file->accept, &op->file->connect}) {
      if (*mine == op) *mine = nullptr;
    }
  }
  armed_[op->place] = armed_.back();
  armed_[op->place]->place = op->place;
  armed_.pop_back();
  std::string expected = std::move(op->expected);
  expected.clear();
  *op = Op();
  op->expected = std::move(expected);
  spare_.push_back(op);
}

void SimRing::MakeReady(Op* op, Nanos delay) {
  if (op->ready || (op->held && !op->canceled)) return;
  if (delay == 0) delay = Late(net_->faults()->late_ready);
  op->ready = true;
  op->not_before = net_->now() + delay;
  ready_.push_back(op);
  WakeAt(op->not_before);
}

// What is ready, in any order.
void SimRing::ProcessReady() {
  size_t due = 0;
  Nanos next = kNever;
  for (size_t i = 0; i < ready_.size(); ++i) {
    if (ready_[i]->not_before > net_->now()) {
      next = std::min(next, ready_[i]->not_before);
    } else {
      std::swap(ready_[due++], ready_[i]);
    }
  }
  std::vector<Op*> batch(ready_.begin(), ready_.begin() + static_cast<ptrdiff_t>(due));
  ready_.erase(ready_.begin(), ready_.begin() + static_cast<ptrdiff_t>(due));
  for (Op* op : batch) op->ready = false;
  for (size_t i = 0; i < batch.size(); ++i) {
    std::swap(batch[i], batch[i + net_->random()->Below(batch.size() - i)]);
    Op* op = batch[i];
    const bool canceled = op->canceled;
    const io::OpToken token = op->token;
    Attempt(op);
    if (canceled && op->canceled && op->token == token) EndCanceled(op);
  }
  if (next != kNever) WakeAt(next);
}

// Receives that had no buffer, in the order they came.
void SimRing::ProcessHeld() {
  for (Group& group : groups_) {
    while (!group.held.empty() && (!group.free.empty() || group.current)) {
      Op* op = group.held.front();
      group.held.pop_front();
      op->held = false;
      Attempt(op);
    }
  }
}

void SimRing::ReturnBuffers() {
  for (Group& group : groups_) {
    std::vector<uint32_t>& returned = group.pool->returned();
    for (const uint32_t index : returned) {
      // Whoever still looks into it must not find what was there.
      memset(group.pool->block(index)->data, kPoison, group.used[index]);
      group.free.push_back(index);
    }
    returned.clear();
  }
}

void SimRing::OnZeroCopyReleased(io::OpToken token, Nanos when, bool copied) {
  io::Completion completion;
  completion.token = token;
  completion.send_released = true;
  completion.send_copied = copied;
  releases_.emplace(when, std::move(completion));
  WakeAt(when);
}

void SimRing::AddMail(Nanos when, const Mail& mail) {
  mail_.emplace(when, mail);
  WakeAt(when);
}

void SimRing::TakeMail() {
  while (!mail_.empty() && mail_.begin()->first <= net_->now()) {
    const Mail mail = mail_.begin()->second;
    mail_.erase(mail_.begin());
    io::Completion completion;
    completion.token = io::OpToken(io::OpKind::kMessage, 0, 0, 0);
    completion.message_kind = mail.message.kind;
    completion.result = static_cast<int32_t>(mail.message.value);
    completed_.push_back(std::move(completion));
    if (mail.sender != nullptr) mail.sender->Complete(mail.op, 0, false, io::Slice());
  }
  while (!releases_.empty() && releases_.begin()->first <= net_->now()) {
    completed_.push_back(std::move(releases_.begin()->second));
    releases_.erase(releases_.begin());
  }
  if (!mail_.empty()) WakeAt(mail_.begin()->first);
  if (!releases_.empty()) WakeAt(releases_.begin()->first);
}

// --- turns

Nanos SimRing::Late(double chance) {
  if (!net_->random()->Chance(chance)) return 0;
  return 1 +
         static_cast<Nanos>(net_->random()->Below(static_cast<uint64_t>(net_->faults()->late_max)));
}

void SimRing::WakeAt(Nanos when) { wake_.SetNoLaterThan(when); }

void SimRing::WakeFired(void* self) {
  SimRing* ring = static_cast<SimRing*>(self);
  if (ring->on_ready_) ring->on_ready_();
}

size_t SimRing::SubmitAndWait(absl::Duration limit, absl::Span<io::Completion> out) {
  const auto turn = [this] {
    ReturnBuffers();
    Submit();
    TakeMail();
    ProcessReady();
    ProcessHeld();
  };
  DeliverQuiet();
  turn();
  const Nanos begin = net_->now();
  const Nanos wait =
      limit >= absl::Hours(24) ? 24 * 3600 * kSecond : absl::ToInt64Nanoseconds(limit);
  if (options_.drives_world && completed_.empty()) {
    Alarm timeout(
        net_->alarms(), [](void*) {}, nullptr);
    timeout.Set(begin + wait);
    while (completed_.empty() && net_->now() < begin + wait && net_->Step()) turn();
  }
  now_ = net_->now();
  if (!completed_.empty() || wait == 0) DeliverQuiet();
  const size_t n = Deliver(out);
  took_ = n;
  wake_at_ = n > 0 ? now_ : begin + wait;
  return n;
}

// Those of earlier calls: whatever has led to this one ended the sleep. Those of this one:
// something else does.
void SimRing::DeliverQuiet() {
  completed_.insert(completed_.begin(), std::make_move_iterator(quiet_.begin()),
                    std::make_move_iterator(quiet_.end()));
  quiet_.clear();
}

size_t SimRing::Deliver(absl::Span<io::Completion> out) {
  size_t n = std::min(out.size(), completed_.size());
  if (n > 1 && net_->random()->Chance(net_->faults()->few_completions)) {
    n = 1 + net_->random()->Below(std::min<size_t>(n, 4));
  }
  for (size_t i = 0; i < n; ++i) {
    out[i] = std::move(completed_.front());
    completed_.pop_front();
  }
  if (!completed_.empty()) WakeAt(net_->now());
  return n;
}

}  // namespace sim
