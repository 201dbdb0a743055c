#pragma once

// File: proxy/function_repair.h
//
// Function libraries are on every primary. One that joins without the libraries that the others
// have is told of, and given them if it has none at all: then nobody has put others there. Each
// node is looked at once, some time after it was first seen in the topology, so that this can't
// fight with who loads and deletes: what is deleted later is deleted there, too, and what was
// deleted while it was given is looked for at the end. Runs on the control thread.
//
//   kIdle ─a new node, a while ago▶ kListNew ─▶ kListOther (each) ─▶ kDump ─▶ kRestore ─later▶
//   kCheck ─▶ kDelete ─▶ kIdle; from each: ─nothing more to do▶ kIdle

#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "io/ring.h"
#include "io/timers.h"
#include "proxy/control_context.h"
#include "proxy/messages.h"
#include "proxy/node_query.h"

namespace proxy {

class FunctionRepair {
 public:
  // Destroyed when idle(), or when its ring makes no more turns.
  explicit FunctionRepair(const ControlContext& context);
  FunctionRepair(const FunctionRepair&) = delete;
  FunctionRepair& operator=(const FunctionRepair&) = delete;

  // Has been published. The nodes of the first one are not new.
  void OnTopology(std::shared_ptr<const ClusterState> state);
  void OnCompletion(io::Completion* completion);
  // Nothing more is begun.
  void Stop();
  bool idle() const { return query_.idle(); }

 private:
  enum class Step : uint8_t { kIdle, kListNew, kListOther, kDump, kRestore, kCheck, kDelete };
  struct New {
    std::string id;
    absl::Time due;
    int tries = 0;
  };
  using Names = std::set<std::string>;
  using Replies = absl::StatusOr<std::vector<std::string>>;

  void Advance();
  bool StepOn();
  void Begin();
  void AskOther();
  void AskNext(Step step, const std::string& node, std::vector<std::string> commands);
  void OnReplies(Replies replies);
  void OnFailed();
  void OnOtherListed(const Names& names);
  void OnChecked(const Names& names);
  void End();
  static void TimerFired(void* self) { static_cast<FunctionRepair*>(self)->Advance(); }

  const ControlContext env_;
  NodeQuery query_;
  io::Timer timer_;
  bool stopped_ = false;
  bool advancing_ = false;
  std::shared_ptr<const ClusterState> state_;
  std::set<std::string> seen_;  // node ids, ever
  std::deque<New> new_;         // to be looked at

  Step step_ = Step::kIdle;  // under way, or the next as soon as it may begin:
  std::string next_node_;
  std::vector<std::string> next_commands_;
  absl::Time next_due_;
  // Of the node that is looked at:
  New node_;
  Names has_;
  std::vector<std::string> others_;  // primaries that are still to be asked
  std::string source_;               // the first of them
  Names libraries_;                  // that the source has
  bool all_agree_ = true;            // the others have the same
};

}  // namespace proxy
