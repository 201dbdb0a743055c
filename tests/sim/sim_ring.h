#pragma once

// File: tests/sim/sim_ring.h
//
// `io::Ring` in a simulated world. No kinder than the kernel: a send waits until its bytes fit into
// the socket and reads them, and its iovecs, only then; buffers are chosen when bytes are received,
// dozens for one socket in one turn; multishot operations end when they like; closing a descriptor
// does not end what is armed on its socket; descriptor numbers are used again, lowest first; a
// cancel may find nothing, or come too late. What is against the contract of the interface (two
// sends at once on a socket, bytes that change before their send has completed) fails the world.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/buffer_pool.h"
#include "io/ring.h"
#include "tests/sim/sim_net.h"

namespace sim {

class SimFile;
class SimRing;

// The descriptors of one process, shared by its rings. Outlives them.
class SimProcess : public io::Poster {
 public:
  // `host` is where its connections come from; its port does not matter.
  SimProcess(SimNet* net, const io::Endpoint& host);
  ~SimProcess();
  SimProcess(const SimProcess&) = delete;
  SimProcess& operator=(const SimProcess&) = delete;

  // More than so many: EMFILE.
  void set_descriptors_max(size_t n) { descriptors_max_ = n; }
  size_t open_descriptors() const;
  // From outside all rings: name resolution, signals.
  void Post(io::RingId receiver, io::Message message) override;

 private:
  friend class SimRing;
  // -EMFILE if there are too many.
  io::Fd Install(std::shared_ptr<SimFile> file);
  std::shared_ptr<SimFile> Find(io::Fd fd) const;
  bool Remove(io::Fd fd);
  bool full() const { return open_descriptors() >= descriptors_max_; }

  SimNet* const net_;
  const io::Endpoint host_;
  size_t descriptors_max_ = 1 << 20;
  std::vector<std::shared_ptr<SimFile>> files_;  // by descriptor; null: free
  std::map<io::RingId, SimRing*> rings_;
  Nanos last_post_ = 0;
};

class SimRing final : public io::Ring {
 public:
  struct Options {
    uint32_t client_buffers = 16;
    uint32_t backend_buffers = 16;
    size_t buffer_bytes = 4096;
    bool incremental = false;        // a buffer takes what arrives for one socket after another
    size_t completions_max = 16384;  // beyond it, multishot operations end
    size_t submissions_max = 4096;   // beyond it, it submits at once
    bool zero_copy_send = false;
    // SubmitAndWait makes the world go on until it has something, as the kernel would; else it
    // returns at once, and wake_at() says when to come back.
    bool drives_world = false;
    // The bytes of a send stay as they are until it has completed. Of ours they must; the kernel
    // would not mind.
    bool bytes_must_stay = true;
  };

  SimRing(SimProcess* process, io::RingId id, const Options& options);
  ~SimRing() override;

  io::RingId id() const override { return id_; }
  absl::StatusOr<io::Fd> Listen(const io::Endpoint& address,
                                const io::ListenOptions& options) override;
  absl::StatusOr<io::Fd> OpenSocket(const io::Endpoint& peer) override;
  std::string PeerName(io::Fd socket) override;
  std::string LocalName(io::Fd socket) override;
  void Accept(io::OpToken token, io::Fd listener) override;
  void Connect(io::OpToken token, io::Fd socket, const io::Endpoint& peer) override;
  void Recv(io::OpToken token, io::Fd socket, io::BufferGroup group) override;
  void RecvInto(io::OpToken token, io::Fd socket, char* memory, size_t capacity) override;
  void Send(io::OpToken token, io::Fd socket, const msghdr* message, io::Notice notice) override;
  void SendZeroCopy(io::OpToken token, io::Fd socket, absl::string_view bytes) override;
  bool zero_copy_send() const override { return options_.zero_copy_send; }
  void Cancel(io::OpToken token, io::OpToken target) override;
  void Shutdown(io::OpToken token, io::Fd socket, int how) override;
  void Close(io::OpToken token, io::Fd fd) override;
  void Post(io::OpToken token, io::RingId receiver, io::Message message) override;
  size_t SubmitAndWait(absl::Duration limit, absl::Span<io::Completion> out) override;
  absl::Time Now() const override;
  double FreeBufferShare(io::BufferGroup group) const override;
  std::string Describe() const override { return "sim"; }

  // --- for the world
  // Called when SubmitAndWait would have something. Set an alarm, do not call into the ring.
  void set_on_ready(std::function<void()> on_ready) { on_ready_ = std::move(on_ready); }
  // When the last SubmitAndWait would have returned if nothing had come.
  Nanos wake_at() const { return wake_at_; }
  // How many completions it has given.
  size_t took() const { return took_; }
  // Operations that have not completed, but posts.
  size_t operations_in_flight() const;
  // Completions not taken, and what waits to be submitted.
  size_t backlog() const { return completed_.size() + submissions_.size(); }
  // Receive buffers that somebody still holds.
  size_t buffers_held() const;
  uint64_t submissions() const { return submission_count_; }
  // For the report of a failure.
  std::string DescribeState() const;

 private:
  friend class SimFile;
  friend class SimProcess;
  struct Op;
  struct ZeroCopy;
  struct Group {
    std::unique_ptr<io::BufferPool> pool;
    std::deque<uint32_t> free;  // in the order they came back
    io::BufferRef current;      // incremental: being filled
    size_t current_used = 0;
    std::vector<size_t> used;  // by buffer: bytes that were received into it
    std::deque<Op*> held;      // receives that wait for a buffer
  };
  struct Mail {
    io::Message message;
    SimRing* sender = nullptr;
    Op* op = nullptr;  // of the sender
  };

  Op* NewOp(int kind, io::OpToken token, io::Fd fd);
  void Queue(Op* op);
  void Submit();
  void Issue(Op* op);
  void IssueRecv(Op* op);
  void IssueSend(Op* op);
  void IssueCancel(Op* op);
  void IssuePost(Op* op);
  int DoShutdown(SimFile* file, int how);
  void Attempt(Op* op);
  void AttemptAccept(Op* op);
  void AttemptRecv(Op* op);
  void AttemptRecvInto(Op* op);
  void AttemptSend(Op* op);
  io::Slice TakeBuffer(Group* group, Stream* stream);
  void EndSend(Op* op, int result);
  void DeliverQuiet();
  void EndCanceled(Op* op);
  void Complete(Op* op, int result, bool more, io::Slice data);
  void Finish(Op* op);
  void MakeReady(Op* op, Nanos delay_max = 0);
  void ProcessReady();
  void ProcessHeld();
  void TakeMail();
  void ReturnBuffers();
  void OnZeroCopyReleased(io::OpToken token, Nanos when, bool copied);
  void AddMail(Nanos when, const Mail& mail);
  void WakeAt(Nanos when);
  Nanos Late(double chance);
  size_t Deliver(absl::Span<io::Completion> out);
  Group& group(io::BufferGroup g) { return groups_[static_cast<size_t>(g)]; }
  const Group& group(io::BufferGroup g) const { return groups_[static_cast<size_t>(g)]; }
  static void WakeFired(void* self);

  SimProcess* const process_;
  SimNet* const net_;
  const io::RingId id_;
  const Options options_;
  std::function<void()> on_ready_;
  Group groups_[io::kBufferGroups];
  std::vector<Op*> submissions_;  // prepared, not submitted
  std::vector<Op*> armed_;        // submitted, not completed
  std::vector<Op*> ready_;        // of these: worth an attempt
  std::vector<Op*> spare_;
  std::deque<io::Completion> completed_;
  std::vector<io::Completion> quiet_;              // completed, but wake nobody
  std::multimap<Nanos, io::Completion> releases_;  // of zero-copy sends, to come
  std::multimap<Nanos, Mail> mail_;                // to come
  std::map<io::RingId, Nanos> last_post_;          // by receiver: posts arrive in order
  std::shared_ptr<SimRing*> self_;                 // what outlives the ring finds null there
  Alarm wake_;
  Nanos now_ = 0;
  Nanos wake_at_ = 0;
  size_t took_ = 0;
  uint64_t submission_count_ = 0;
};

}  // namespace sim
