#pragma once

// File: proxy/every_node.h
//
// Commands that go to every primary, or to every node, as they are; the replies become one by the
// command's response policy.

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "cluster/own_slots.h"
#include "proxy/procedure.h"

namespace proxy {

inline constexpr absl::string_view kBadReplyError =
    "ERR proxy: backend protocol error (outcome unknown)";

// Which nodes hear of it.
enum class Audience : uint8_t {
  kPrimaries,
  kAllNodes,  // replicas too, as far as they can be reached: one that can't fails nothing
};

class EveryNode : public Procedure {
 public:
  EveryNode(const cluster::CommandSpec& command, Audience audience, io::Rope frame)
      : command_(command), audience_(audience), frame_(std::move(frame)) {}

  void Next(Step* step) override;
  size_t held_bytes() const override { return held_bytes_; }

 protected:
  // All have answered without an error.
  virtual void Merge(Step* step, absl::Span<Ask> answered) = 0;
  // What a replica says does not count, but it can be looked at: this one could be asked.
  virtual void NoteReplica(const Ask&) {}
  // Some have answered with an error.
  virtual void Fail(Step* step, absl::Span<Ask> answered);

  const cluster::CommandSpec& command_;

 private:
  bool Plan(Step* step);
  bool IsAnswered(absl::string_view node_id) const;
  bool IsObsolete(const Worker& worker, const Ask& ask) const;

  const Audience audience_;
  const io::Rope frame_;
  std::vector<Ask> answered_;
  // Of primaries that serve no slot by the topology: what they say of their slots themselves, by
  // id.
  absl::flat_hash_map<std::string, cluster::OwnSlots> own_;
  size_t held_bytes_ = 0;
  int rounds_ = 0;
};

// By the command's policies. Without a request policy: one node is asked for all.
std::unique_ptr<Procedure> MakeEveryNode(const cluster::CommandSpec& command,
                                         const io::Rope& frame);

}  // namespace proxy
