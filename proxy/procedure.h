#pragma once

// File: proxy/procedure.h
//
// A request that the proxy answers by asking nodes, in one step or several. A step is a list of
// asks, each one command to one node; when all are answered, the procedure makes the next step or
// gives the reply. It begins when all earlier requests of its client are answered, and its client
// takes no other request until it is answered itself (Client::MoveProcedureOn): what came before is
// done, and what comes after has not begun. It may wait between two steps (BLPOP over several
// slots, WAIT), until its client, or who speaks for it, ends that. Owned by its request; one
// worker's thread.

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "cluster/command_table.h"
#include "cluster/slot.h"
#include "cluster/topology.h"
#include "io/slice.h"
#include "proxy/blocking.h"
#include "resp/encoder.h"

namespace proxy {

class ArgList;
struct FaceShare;
struct KeptConnection;
struct Watch;
class Worker;

// One command to one node.
struct Ask {
  enum class To : uint8_t {
    kOwner,    // of the slot, whoever that is when it goes
    kPrimary,  // the node, as long as it is a primary
    kNode,     // the node, whatever its role
    kNobody,   // not sent: is over as soon as it is time and some node serves the slot
  };

  To to = To::kOwner;
  cluster::Slot slot = 0;  // asks with the same number go in order, on one connection
  std::string node_id;     // kPrimary, kNode
  std::string node_name;   // "host:port", for errors
  const cluster::CommandSpec* command = nullptr;
  io::Rope frame;
  absl::Time not_before = absl::InfinitePast();
  // Not handed over so long after that: given up. Less than the hold timeout.
  absl::Duration patience = absl::InfiniteDuration();
  // `frame` is MULTI, so many commands, and EXEC: only EXEC's reply is the ask's.
  bool is_burst = false;
  uint32_t burst_commands = 0;
  // Of a burst, or a WATCH: goes on its connection; null: watches nothing.
  std::shared_ptr<Watch> watch;
  // Of a burst: goes on this connection, which is taken with the first one, and never afterwards on
  // another; null: on any.
  std::shared_ptr<KeptConnection> kept;
  uint64_t refresh_ask = 0;  // waits until this ask for a view is answered (Worker::AskRefresh)

  // --- when it is answered
  // Was not handed over, and never will be: its node has left or changed its role, so the step was
  // planned by a topology that is over; or kNobody has ended. There is no reply then.
  bool gone = false;
  bool handed_over = false;  // some byte of it may have reached the node
  bool cut = false;          // the reply was longer than is kept: Procedure::reply_bytes_max
  // Was not taken at first (LOADING) and went again: later ones of its step may have run before it.
  bool refused = false;
  io::Rope reply;  // whole, from the node or an error of the proxy

  bool failed() const { return !reply.empty() && IsErrorType(reply.slices()[0].data()[0]); }
  // Without the type and the line end.
  std::string ErrorLine() const;
  // The node did it, or may have.
  bool may_have_run() const;

 private:
  static bool IsErrorType(char type) { return type == '-' || type == '!'; }
};

// What a procedure does next.
struct Step {
  Worker* const worker;
  const resp::Protocol protocol;  // of the client
  // Where the client has written.
  const cluster::SlotGroups written;
  const uint32_t database;  // that its client has selected
  std::vector<Ask> asks;    // of the last step, answered; to be replaced by the next one's
  // One of these, instead of asks, is the end:
  io::Rope reply = {};
  std::unique_ptr<Block> block = nullptr;  // its request waits at the owner of `slot`, as `frame`
  cluster::Slot slot = 0;
  io::Rope frame = {};
  bool close = false;                    // its client's connection ends without a reply
  absl::optional<uint32_t> select = {};  // its client's database from now on

  void Answer(absl::string_view reply_bytes);
  void AnswerError(absl::string_view line);
};

class Procedure {
 public:
  Procedure() = default;
  virtual ~Procedure() = default;
  Procedure(const Procedure&) = delete;
  Procedure& operator=(const Procedure&) = delete;

  // Replaces the answered asks by those of the next step, at least one, or sets the reply. Called
  // with no asks at first.
  virtual void Next(Step* step) = 0;
  // What it keeps between steps, to be charged to the client.
  virtual size_t held_bytes() const { return 0; }
  // So much at most may that be together with the replies of a step: what is more of one that comes
  // in pieces is not kept (Ask::cut).
  virtual size_t reply_bytes_max() const { return std::numeric_limits<size_t>::max(); }

  // Why one that waits is to stop: the time is up, or as if it were; CLIENT UNBLOCK ERROR; its
  // client ends.
  enum class End : uint8_t { kTimeout, kError, kClose };
  // The step that is under way is the last one, if it does not bring what is waited for: what is on
  // its way is taken, what is not sent yet is given up. False: it never waits.
  virtual bool EndWait(End) { return false; }

  // The asks of the step that is under way, by the number of their request in Fragments.
  std::vector<Ask> asks;
};

// The procedure of a command with Serve::kWholeCluster. Null: *error says what is wrong with the
// arguments. `frame` holds them; `share` is what the client is told of the cluster.
std::unique_ptr<Procedure> MakeProcedure(Worker* worker, const cluster::CommandSpec& command,
                                         const FaceShare& share, const ArgList& args,
                                         const io::Rope& frame, std::string* error);

// --- for procedures

// Whether the ask can't be sent any more: see Ask::gone.
bool IsGone(const Worker& worker, const Ask& ask);

// "host:port" of a node.
std::string NodeName(const cluster::Topology& topology, cluster::NodeIndex node);

// An ask that ends when there is a topology with an owner for every slot, or with an error when
// that takes too long. Without one, what the whole cluster has can't be told. False: there is one.
bool WaitForCoverage(const Worker& worker, std::vector<Ask>* asks);

// The error line for a step of which some ask failed. The servers' own, if all say the same; else
// one that names the node. `write`: that the others' parts have run is told, too.
std::string FailureLine(absl::Span<const Ask> asks, bool write);

// The command as one that changes nothing, and may be asked again when its connection is lost: how
// it is meant here, whatever its row says of it in general.
cluster::CommandSpec AsRead(const cluster::CommandSpec& command);

// An error line, to be told within another one: without what the proxy's own begin and end with.
std::string ToldWithin(absl::string_view line);

// An ask about a key, of its slot's owner.
Ask AskOfKey(const cluster::CommandSpec& command, absl::string_view key, io::Rope frame);

// A frame of the request's, kept beyond the turn without holding receive buffers.
io::Rope KeepFrame(const io::Rope& frame);
// A command as a frame.
io::Rope MakeFrame(absl::Span<const absl::string_view> args);

}  // namespace proxy
