#pragma once

// File: tests/sim/sim_client.h
//
// A client in a simulated world. Either driven by hand (Send, received()), or by itself: it sends
// commands of its profile, with unique ids and values, and hands each reply to the oracle.

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "resp/scanner.h"
#include "tests/sim/oracle.h"
#include "tests/sim/sim_net.h"

namespace sim {

// Scripts that some clients call by name: one that sets, and one that lies after that.
inline constexpr absl::string_view kNamedScripts[] = {
    "set", "fail NOSCRIPT No matching script. Please use EVAL."};

struct ClientProfile {
  uint32_t commands = 0;  // 0: driven by hand
  size_t depth = 8;       // requests on their way, at most
  bool resp3 = false;
  std::vector<std::string> tags;  // hash tags of its keys
  int keys = 3;                   // of each kind
  size_t value_bytes_max = 64;
  double large_values = 0;  // up to large_bytes_max
  size_t large_bytes_max = 64 << 10;
  // Relative frequencies.
  int reads = 4, writes = 4, lists = 1, scripts = 0, forging_scripts = 0, multi_key = 1, local = 1,
      shared = 1, transactions = 0;
  double drip = 0;   // a write is of a few bytes only
  double pause = 0;  // before the next command, up to pause_max
  Nanos pause_max = 5 * kMillisecond;
  double slow_read = 0;  // reads a little only, and then not for up to slow_read_max
  Nanos slow_read_max = 20 * kMillisecond;
  double leave = 0;         // before any command: closes, as it is
  bool half_close = false;  // at its end; else it closes when all is answered
  // An answer takes no longer; 0: not checked.
  Nanos answer_max = 0;
  // The proxy may end it at any time: little memory (L8).
  bool may_be_cut_off = false;

  // One of many kinds of clients.
  static ClientProfile Mixture(Random* random, const std::vector<std::string>& tags,
                               uint32_t commands, bool tiny_buffers);
};

class SimClient final : public Stream::Observer, public Connecting::Observer {
 public:
  // All outlive it.
  SimClient(SimNet* net, Oracle* oracle, const io::Endpoint& host, const io::Endpoint& proxy,
            const ClientProfile& profile);
  ~SimClient();

  // Of its connection: after another connect it is another client to everybody.
  uint32_t number() const { return number_; }
  bool connected() const { return stream_ != nullptr; }
  // It has nothing more to do.
  bool done() const { return state_ == State::kDone; }
  size_t outstanding() const { return expected_.size(); }
  uint32_t answered() const { return answered_; }

  // --- by hand
  void Send(absl::string_view bytes);
  // An array of the words, separated by spaces.
  void SendCommand(absl::string_view words);
  // All that has come; TakeReceived() takes it out.
  const std::string& received() const { return received_; }
  std::string TakeReceived() { return std::exchange(received_, ""); }
  bool ended() const { return ended_; }
  bool was_reset() const { return reset_; }
  void PauseReading(bool pause);
  void HalfClose();
  void Close();
  void Abort();

  // --- by itself
  // So many commands more.
  void AddCommands(uint32_t more);
  uint32_t commands_left() const { return commands_left_; }
  void DropCommandsLeft() { commands_left_ = 0; }
  // The first request that is not answered.
  std::string DescribeFirst() const { return oracle_->Describe(IdOf(expected_.front())); }
  std::string DescribeState() const;
  // Sends what it still has to and ends; as told by its profile.
  void FinishUp();
  // Now it behaves: reads and writes as fast as it can, and stays.
  void Behave();
  // The time in which the process did not run does not count.
  void NoteStall(Nanos by) { stalled_ += by; }
  // The proxy may end the connection though it owes replies: it is ending itself.
  void set_may_be_cut_off(bool may) { may_be_cut_off_ = may; }

 private:
  enum class State : uint8_t { kConnecting, kOpen, kDone };
  struct Expected {
    uint64_t id = 0;  // 0: of a part of a transaction that is to be answered with `text`
    std::string forged;
    Nanos written_at = 0;
    absl::string_view text = {};
    std::vector<uint64_t> block = {};  // EXEC: its requests
    bool watched = false;
  };

  void OnStream(Stream* stream) override;
  void OnConnected(Connecting* connecting, int error, Stream* stream) override;
  void Act();
  void Read();
  void TakeFrame(absl::string_view frame);
  void Fill();
  void AddCommand();
  void AddTransaction();
  void TakeExec(const Expected& expected, absl::string_view frame);
  uint64_t Append(Op op, std::vector<std::string> keys, std::vector<std::string> args,
                  std::string forged);
  Expected& Expect();
  static uint64_t IdOf(const Expected& expected) {
    return expected.block.empty() ? expected.id : expected.block.front();
  }
  void Issue(Op op, std::vector<std::string> keys, std::vector<std::string> args,
             std::string forged = "");
  std::string Key(char kind);
  std::string AppendKey();
  std::string ValueOf(uint64_t id);
  void Write();
  void End();
  void Left();
  void ConnectAgain();
  static void ActFired(void* self) { static_cast<SimClient*>(self)->Act(); }

  SimNet* const net_;
  Oracle* const oracle_;
  uint32_t number_ = 0;
  const io::Endpoint host_;
  const io::Endpoint proxy_;
  ClientProfile profile_;
  State state_ = State::kConnecting;
  std::unique_ptr<Connecting> connecting_;
  Stream* stream_ = nullptr;
  Alarm act_;
  int attempts_ = 0;

  uint32_t commands_left_ = 0;
  uint32_t answered_ = 0;
  uint32_t appends_ = 0;
  bool finishing_ = false;
  bool reading_paused_ = false;
  Nanos read_after_ = 0;
  Nanos send_after_ = 0;
  std::deque<Expected> expected_;
  Nanos waiting_since_ = 0;  // for the first of them
  Nanos stalled_ = 0;
  std::string output_;
  size_t output_head_ = 0;
  bool hello_due_ = false;
  bool write_shut_ = false;
  bool may_be_cut_off_ = false;
  std::string received_;  // by hand: all; else the current frame
  resp::ReplyScanner scanner_;
  bool ended_ = false;
  bool reset_ = false;
};

}  // namespace sim
