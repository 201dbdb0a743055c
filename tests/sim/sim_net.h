#pragma once

// File: tests/sim/sim_net.h
//
// The network of a simulated world, and its clock: stream connections with finite buffers at both
// ends, listeners with a backlog, connects that are refused, late or never answered. One seed
// decides everything; every step goes into a hash, so that two runs can be compared. One thread.

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "io/socket.h"
#include "tests/sim/alarms.h"
#include "tests/sim/faults.h"
#include "tests/sim/random.h"

namespace sim {

class SimNet;

// Bytes, first in, first out.
class ByteQueue {
 public:
  void Append(const char* bytes, size_t n) { bytes_.append(bytes, n); }
  absl::string_view view() const { return absl::string_view(bytes_).substr(head_); }
  char* data() { return &bytes_[head_]; }
  size_t size() const { return bytes_.size() - head_; }
  bool empty() const { return size() == 0; }
  void Consume(size_t n) {
    head_ += n;
    if (head_ == bytes_.size()) return Clear();
    if (head_ >= 4096 && head_ > bytes_.size() / 2) {
      bytes_.erase(0, head_);
      head_ = 0;
    }
  }
  void Clear() {
    bytes_.clear();
    head_ = 0;
  }

 private:
  std::string bytes_;
  size_t head_ = 0;
};

// Lives as long as the network may read the sender's memory, in which the bytes of a zero-copy send
// still are.
using ZeroCopyUse = std::shared_ptr<void>;

// One end of a connection. Belongs to whoever got it, until Close or Abort: then it goes its own
// way (what was written still arrives) and must not be touched any more.
class Stream {
 public:
  class Observer {
   public:
    // There may be something to read, or room to write, or an end. Called while others' handlers
    // run: take note, act later.
    virtual void OnStream(Stream* stream) = 0;

   protected:
    ~Observer() = default;
  };

  Stream(SimNet* net, uint64_t id);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void set_observer(Observer* observer) { observer_ = observer; }
  uint64_t id() const { return id_; }
  const io::Endpoint& local() const { return local_; }
  const io::Endpoint& remote() const { return peer_->local_; }

  // --- reading
  // What has arrived and was not consumed.
  absl::string_view arrived() const { return incoming_.view(); }
  void Consume(size_t n);
  // Bytes, 0 at the end, -EAGAIN, or an error (once), as recv(2).
  ssize_t Read(char* out, size_t n);
  // Nothing more will ever be read: the end, or an error.
  bool ended() const { return input_ended_ || reset_ || read_shut_; }
  bool can_read() const { return !incoming_.empty() || ended(); }

  // --- writing
  // How much is taken now, -EAGAIN, or an error, as send(2).
  ssize_t Write(const char* bytes, size_t n);
  // The same; the bytes are read from the caller's memory when they leave.
  ssize_t WriteZeroCopy(const char* bytes, size_t n, const ZeroCopyUse& use);
  bool can_write() const { return reset_ || write_shut_ || room() > 0; }
  size_t room() const {
    return outgoing_.size() < send_capacity_ ? send_capacity_ - outgoing_.size() : 0;
  }
  bool reset() const { return reset_; }
  bool write_shut() const { return write_shut_; }
  // What was written and has not arrived.
  size_t unsent() const { return outgoing_.size(); }
  // When the other end's owner let go of it; -1: it is there.
  Nanos peer_closed_at() const { return peer_->closed_at_; }

  // --- ending
  void ShutdownRead();
  void ShutdownWrite();
  // Unread input makes a reset of it.
  void Close();
  // A reset: some of what is on the way still arrives.
  void Abort();

  // Gives the peer up after so long without an acknowledgement, as TCP_USER_TIMEOUT; 0: never.
  void set_user_timeout(Nanos timeout) { user_timeout_ = timeout; }
  void set_capacity(size_t send, size_t receive) {
    send_capacity_ = send;
    receive_capacity_ = receive;
  }

 private:
  friend class SimNet;
  struct Reference {
    uint64_t begin;  // offset in the output
    uint64_t end;
    const char* bytes;
    ZeroCopyUse use;
  };

  size_t receive_room() const {
    return incoming_.size() < receive_capacity_ ? receive_capacity_ - incoming_.size() : 0;
  }
  void Notify() {
    if (observer_ != nullptr && !closed_) observer_->OnStream(this);
  }
  void ArmTransfer();
  void Transfer();
  void Deliver(size_t n);
  void DropOutgoing();
  void SendReset();
  void ArriveReset(int error);
  void TimeOut();
  void SetFrozen(bool frozen);
  bool Gone() const;
  static void TransferFired(void* self) { static_cast<Stream*>(self)->Transfer(); }
  static void ResetFired(void* self) { static_cast<Stream*>(self)->SendReset(); }
  static void StallFired(void* self) { static_cast<Stream*>(self)->TimeOut(); }

  SimNet* const net_;
  const uint64_t id_;
  size_t link_ = 0;  // its place in the net's table
  Stream* peer_ = nullptr;
  Observer* observer_ = nullptr;
  io::Endpoint local_;
  bool frozen_ = false;  // nothing gets through

  ByteQueue incoming_;  // arrived, unread
  ByteQueue outgoing_;  // taken from the writer, not arrived
  std::deque<Reference> references_;
  uint64_t arrived_at_peer_ = 0;  // bytes of the output
  size_t send_capacity_ = 0;
  size_t receive_capacity_ = 0;
  bool input_ended_ = false;   // the peer's end of output has arrived
  bool output_ended_ = false;  // ours has arrived there
  bool read_shut_ = false;
  bool write_shut_ = false;
  bool reset_ = false;
  bool closed_ = false;        // its owner has let go of it
  Nanos closed_at_ = -1;       // and when
  bool reset_unsent_ = false;  // the peer is to be told of a reset
  int error_ = 0;              // not told yet
  Nanos user_timeout_ = 0;
  Alarm transfer_;
  Alarm peer_reset_;  // a reset is on its way to the peer
  Alarm stall_;
};

// Takes connections at an address. Those not accepted at its end are reset.
class Listener {
 public:
  class Observer {
   public:
    virtual void OnAcceptable(Listener* listener) = 0;

   protected:
    ~Observer() = default;
  };
  ~Listener();
  // The next connection; null: none waits.
  Stream* Accept();
  bool can_accept() const { return !backlog_.empty(); }
  const io::Endpoint& address() const { return address_; }
  void set_observer(Observer* observer) { observer_ = observer; }

 private:
  friend class SimNet;
  friend class Connecting;
  Listener(SimNet* net, const io::Endpoint& address, size_t backlog_max, Observer* observer)
      : net_(net), address_(address), backlog_max_(backlog_max), observer_(observer) {}
  SimNet* const net_;
  const io::Endpoint address_;
  const size_t backlog_max_;
  Observer* observer_;
  std::deque<Stream*> backlog_;
};

// A connect on its way. Destroying it gives it up; the listener may have got it nevertheless.
class Connecting {
 public:
  class Observer {
   public:
    // `error` is 0 or an errno. The stream is the observer's.
    virtual void OnConnected(Connecting* connecting, int error, Stream* stream) = 0;

   protected:
    ~Observer() = default;
  };
  ~Connecting();

 private:
  friend class SimNet;
  Connecting(SimNet* net, const io::Endpoint& local, const io::Endpoint& peer, Observer* observer);
  static void Fired(void* self);
  SimNet* const net_;
  const io::Endpoint local_;
  const io::Endpoint peer_;
  Observer* const observer_;
  bool hangs_ = false;
  Nanos give_up_at_ = 0;
  Alarm alarm_;
};

class SimNet {
 public:
  SimNet(uint64_t seed, const FaultOptions& faults);
  ~SimNet();
  SimNet(const SimNet&) = delete;
  SimNet& operator=(const SimNet&) = delete;

  Random* random() { return &random_; }
  Alarms* alarms() { return &alarms_; }
  Nanos now() const { return alarms_.now(); }
  FaultOptions* faults() { return &faults_; }

  // One event. False: nothing will ever happen any more.
  bool Step();

  // Port 0: one is chosen. Error: somebody listens there.
  absl::StatusOr<std::unique_ptr<Listener>> Listen(const io::Endpoint& address, size_t backlog,
                                                   Listener::Observer* observer);
  // `local_host` is where it comes from; a port is chosen.
  std::unique_ptr<Connecting> Connect(const io::Endpoint& local_host, const io::Endpoint& peer,
                                      Connecting::Observer* observer);
  // No packet reaches the address, or leaves it: connects hang, connections stand still.
  void SetUnreachable(const io::Endpoint& address, bool unreachable);
  bool IsUnreachable(const io::Endpoint& address) const;
  // If it was ever unreachable.
  Nanos ReachableSince(const io::Endpoint& address) const;

  Nanos Latency();

  // --- telling
  // Goes into the hash of the run; printed if SIM_TRACE is set in the environment.
  void Trace(absl::string_view what, uint64_t a = 0, uint64_t b = 0);
  // Printed only: for what is not an event.
  void Note(absl::string_view text);
  bool printing() const { return print_trace_; }
  uint64_t trace_hash() const { return trace_hash_; }
  uint64_t steps() const { return steps_; }
  // Something that must not be. The first one is kept.
  void Fail(absl::string_view what);
  const std::string& failure() const { return failure_; }
  size_t open_links() const { return links_.size() - free_links_.size(); }

 private:
  friend class Stream;
  friend class Listener;
  friend class Connecting;

  struct Link {
    Link(SimNet* net, uint64_t id) : ends{{net, 2 * id}, {net, 2 * id + 1}} {}
    Stream ends[2];  // who connected, who listened
    std::string address;
    bool gone = false;
  };

  void TryConnect(Connecting* connecting);
  Stream* NewLink(const io::Endpoint& local, Listener* listener);
  void CheckGone(Stream* stream);
  void PurgeGone();

  FaultOptions faults_;
  Random random_;
  Alarms alarms_;
  std::map<std::string, Listener*> listeners_;
  std::map<std::string, bool> unreachable_;
  std::map<std::string, Nanos> reachable_since_;
  std::vector<std::unique_ptr<Link>> links_;  // null: free
  std::vector<size_t> free_links_;
  std::vector<size_t> gone_links_;
  uint64_t next_link_ = 1;
  uint16_t next_port_ = 20000;
  uint64_t trace_hash_ = 0x9e3779b97f4a7c15;
  uint64_t steps_ = 0;
  bool print_trace_ = false;
  std::string failure_;
};

}  // namespace sim
