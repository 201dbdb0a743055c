#pragma once

// File: tools/latency/session.h
//
// One client: a connection to its target, its requests in flight, in order, and the judgement of
// their replies. What is sent when is the owner's to decide. One thread.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "io/buffer_pool.h"
#include "io/connection.h"
#include "io/ring.h"
#include "resp/scanner.h"
#include "tools/latency/workload.h"

namespace latency {

class Session final : private Workload::Sink {
 public:
  // All times are ns of the monotonic clock.
  class Owner {
   public:
    // The last reply of a request that was started at `start` has come.
    virtual void OnAnswer(int64_t start, int64_t now) = 0;
    // The reply to a StartFill has come.
    virtual void OnFilled(int64_t now) = 0;
    // What was answered by an error, and by what no server may answer.
    virtual void OnError(absl::string_view frame) = 0;
    virtual void OnWrong(absl::string_view why) = 0;
    // Replies were taken: there may be room for more.
    virtual void OnRoom(Session* session) = 0;
    // Something waits for Flush.
    virtual void OnUnflushed(Session* session) = 0;
    virtual void OnConnected() = 0;
    // The connection is of no use any more, and closing.
    virtual void OnLost(absl::string_view why) = 0;

   protected:
    ~Owner() = default;
  };

  struct Options {
    io::Endpoint peer;
    bool resp3 = false;
    // A request on several keys goes as a command for each (a node of a cluster).
    bool apart = false;
    size_t requests_max = 1;  // in flight
    size_t part = 0;          // of the keys
    uint32_t index = 0;       // of its completions
    uint64_t number = 0;      // among its target's; each one's choices follow from it
  };

  // All pointers outlive it.
  Session(io::Ring* ring, io::Arena* arena, const Workload* workload, const KeySequence* keys,
          Owner* owner, const Options& options);

  // False: there are no sockets to be had.
  bool Connect();
  void OnCompletion(io::Completion* completion, int64_t now);

  bool ready() const { return ready_; }
  bool has_room() const { return in_flight_ < options_.requests_max; }
  size_t in_flight() const { return in_flight_; }
  size_t part() const { return options_.part; }
  uint64_t number() const { return options_.number; }
  // One more request, of the mix. Its time counts from `intended`, or, if that is kWhenFlushed,
  // from the Flush that hands it over. Only if ready() and has_room().
  static constexpr int64_t kWhenFlushed = -1;
  void Start(int64_t intended);
  // One more request: SET of this key. At most kFillMax at a time, whatever the limit of others.
  static constexpr size_t kFillMax = 64;
  void StartFill(uint32_t key);
  // Hands over what was started; `now` is the time.
  void Flush(int64_t now);
  void BeginClose();
  bool closed() const { return connection_.closed(); }

  const Tally& tally() const { return tally_; }

  // The owner's own: how many of an open loop's requests it has started here.
  uint64_t started = 0;

 private:
  struct Request {
    int64_t start;
    uint32_t position;  // in the keys
    uint32_t replies;   // that it will have
    uint32_t replies_taken;
    uint16_t op;  // or one of these
  };
  static constexpr uint16_t kFill = 0xffff;
  static constexpr uint16_t kHello = 0xfffe;

  std::string* text() override { return &output_; }
  void AddLarge(io::Slice slice) override;
  Request* Push(uint16_t op, int64_t start);
  void SendText();
  void OnConnected(const io::Completion& completion);
  void OnData(absl::string_view data, int64_t now);
  void OnFrame(absl::string_view frame, int64_t now);
  void Lose(absl::string_view why);

  io::Arena* const arena_;
  io::Ring* const ring_;
  const Workload* const workload_;
  const KeySequence* const keys_;
  Owner* const owner_;
  const Options options_;
  io::Connection connection_;
  bool ready_ = false;
  Random random_;
  uint32_t position_;

  // A ring of requests: the oldest is at first_.
  std::vector<Request> requests_;
  size_t mask_;
  size_t first_ = 0;
  size_t in_flight_ = 0;
  size_t unflushed_ = 0;  // the last of them

  std::string output_;  // of what was started since the last Flush
  std::string input_;   // from the start of an incomplete reply
  size_t scanned_ = 0;  // of it
  resp::ReplyScanner scanner_;
  std::string why_;
  Tally tally_;
};

}  // namespace latency
