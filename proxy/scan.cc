#include "proxy/scan.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cluster/own_slots.h"
#include "proxy/args.h"
#include "proxy/cluster_face.h"
#include "proxy/glob.h"
#include "proxy/server_info.h"
#include "proxy/sha1.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

// A cursor: the slot in the lowest bits, then, of a slot that is read in pages, a position, whether
// its owner was moving it away meanwhile, and a print of the process whose position that is (never
// 0). All of it is below 2^53, since some clients read it as a floating-point number.
constexpr int kSlotBits = 14;
constexpr int kPositionBits = 27;
constexpr int kMovedShift = kSlotBits + kPositionBits;
constexpr int kPrintShift = kMovedShift + 1;
constexpr int kPrintBits = 53 - kPrintShift;
constexpr int kSlotCount = cluster::kSlotCount;
// A slot with more keys than this is read in pages.
constexpr int64_t kSlotKeysMax = 100000;
// A page is what a node's SCAN gives for COUNT, which is the client's within these bounds; …
constexpr int64_t kPageCountMin = 100;
constexpr int64_t kPageCountMax = 10000;
// … so many of them make a call, if that does not bring enough keys before.
constexpr int kPagesPerCallMax = 16;
// One call reads slots until it has as many keys as COUNT says, but never more than this.
constexpr int64_t kKeysPerCallMax = 65536;
// … from at most so many slots, …
constexpr size_t kPartsMax = 1024;
// … and counts the keys of so many slots at a time, more with each step, …
constexpr int kWindowMin = 8;
constexpr int kWindowMax = 1024;
// … up to so many in one call.
constexpr int kCountedMax = 4096;
constexpr size_t kTypesAtATime = 512;
// Where the topology is behind, nodes are taken at their word on who has the slot so often; after
// that, a new topology is waited for.
constexpr int kHintsMax = 5;

constexpr absl::string_view kBadReply = "ERR proxy: backend protocol error (outcome unknown)";

const cluster::CommandSpec& ClusterCommand(absl::string_view name) {
  return *cluster::FindSubcommand(*cluster::FindCommand("CLUSTER"), name);
}

struct Commands {
  const cluster::CommandSpec count = AsRead(ClusterCommand("COUNTKEYSINSLOT"));
  const cluster::CommandSpec keys = AsRead(ClusterCommand("GETKEYSINSLOT"));
  const cluster::CommandSpec nodes = AsRead(ClusterCommand("NODES"));
  const cluster::CommandSpec info = AsRead(*cluster::FindCommand("INFO"));
  const cluster::CommandSpec scan = AsRead(*cluster::FindCommand("SCAN"));
  const cluster::CommandSpec type = *cluster::FindCommand("TYPE");
};
const Commands& AllOfThem() {
  static const Commands commands;
  return commands;
}

// Where a slot that is read in pages is read on.
struct Page {
  uint64_t print = 0;  // of the process that `position` is of; 0: the slot is read from its begin
  uint64_t position = 0;  // as the process counts them
  bool moved = false;     // it is the owner's, which was moving the slot away meanwhile
};

// The process numbers its positions within each slot, not within all that it has.
bool HasPositionsBySlot(const ServerInfo& server) {
  if (!server.valkey) return IsRedisSince(server, 7, 4);
  const absl::optional<ServerVersion> version = ParseServerVersion(server.version);
  return version.has_value() && *version >= ServerVersion{8, -1, -1};
}

// Of a process: its positions mean nothing to another one, which hashes with a seed of its own.
uint64_t PrintOf(absl::string_view node_id, absl::string_view run_id) {
  const std::string digits = Sha1Hex(absl::StrCat(node_id, " ", run_id)).substr(0, 8);
  return std::strtoul(digits.c_str(), nullptr, 16) % ((uint64_t{1} << kPrintBits) - 1) + 1;
}

// Of a reply to INFO server; empty where the node does not tell it.
std::string RunIdOf(const Ask& info) {
  const std::string frame = info.reply.Flatten();
  absl::string_view text;
  return resp::ParseText(frame, &text) ? InfoField(text, "run_id") : std::string();
}

struct Options {
  int slot = 0;          // where this call begins, and …
  Page page;             // … where in this slot
  int end = kSlotCount;  // … the slot behind the last that any call tells of
  int64_t count = 10;
  bool match_all = true;
  std::string match;
  std::string type;  // empty: any
};

class Scan final : public Procedure {
 public:
  explicit Scan(Options options)
      : options_(std::move(options)),
        begin_(options_.slot),
        counted_to_(options_.slot),
        page_(options_.page) {}

  void Next(Step* step) override;
  size_t held_bytes() const override { return held_bytes_; }

 private:
  enum class Phase : uint8_t { kCount, kKeys, kTarget, kSourceAgain, kPage, kTypes };
  enum class Kind : uint8_t { kNone, kCount, kKeys, kInfo, kPage, kView, kType };
  struct Node {
    std::string id;
    std::string name;
    uint16_t number = 0;
    uint64_t epoch = 0;  // its config epoch, by the topology
    size_t view = 0;     // its ask for CLUSTER NODES, which comes after all others to it
    cluster::OwnSlots own;
  };
  // A slot that has keys, to be read.
  struct Part {
    int slot = 0;
    std::string node_id;
    uint64_t epoch = 0;  // of the node, which had the slot then
  };

  void Restart(Step* step, uint64_t refresh_ask);
  void PlanCount(Step* step, uint64_t refresh_ask);
  void TakeCount(Step* step);
  void PlanKeys(Step* step);
  void TakeKeys(Step* step);
  void PlanSlotAt(Step* step, Phase phase, const std::string& node_id);
  void TakeTarget(Step* step);
  void TakeSourceAgain(Step* step);
  void PlanPage(Step* step);
  void TakePage(Step* step);
  bool TakePosition(const Ask& ask, bool* is_last);
  void EndPage(Step* step, const cluster::MovingSlot* moving);
  void PlanTypes(Step* step);
  void TakeTypes(Step* step);
  void Doubt(Step* step, int slot, absl::string_view node_id, std::string owner);
  bool DoubtsForTooLong(const Step& step);
  bool HadBefore(const Node& node, int slot) const;
  std::string OwnerByView(const Step& step, const Node& node, int slot) const;
  cluster::NodeIndex OwnerOf(const Worker& worker, int slot) const;
  void End(Step* step);
  void Answer(Step* step);

  void BeginStep(Step* step, Phase phase);
  size_t NodeFor(const cluster::Topology& topology, cluster::NodeIndex index);
  void AskNode(Step* step, size_t node, Kind kind, int slot, io::Rope frame);
  void AskViews(Step* step);
  bool TakeViews(Step* step);
  bool AddKeys(const Ask& ask, int64_t* count, std::vector<std::string>* keys);
  void Keep(std::string key);

  const Options options_;
  Phase phase_ = Phase::kCount;
  int begin_;       // all before it is read: keys_ has what it has
  int counted_to_;  // those before it without keys need not be read
  int counted_ = 0;
  int window_ = kWindowMin;
  int64_t keys_expected_ = 0;
  int doubts_ = 0;
  absl::Time doubts_since_ = absl::InfiniteFuture();
  int hint_slot_ = -1;       // of this slot, a node has said …
  std::string hint_owner_;   // … that this one has it, whatever the topology says
  std::vector<Part> parts_;  // from begin_ to counted_to_

  // Of the step that is under way.
  std::vector<Node> nodes_;
  std::vector<Node> nodes_before_;  // of the one before it
  struct Asked {
    Kind kind = Kind::kNone;
    int slot = 0;
    size_t node = 0;
  };
  std::vector<Asked> asked_;  // by ask

  // A slot on the move: read at its source, at its target, and at the source again, in case keys
  // have gone back. What both have is told once.
  int moving_slot_ = 0;
  std::string source_id_;
  uint64_t source_epoch_ = 0;
  std::string target_id_;
  absl::flat_hash_set<std::string> moving_keys_;

  // A slot that is read in pages, which is then the one at begin_: its owner's part, and then,
  // while it is on the move, that of its target. A key that is at neither of them when it is looked
  // for there would have to go back.
  Page page_;
  int pages_ = 0;
  bool at_target_ = false;
  bool positions_by_slot_ = false;

  std::vector<std::string> keys_;
  size_t typed_ = 0;  // those before it have been asked for their type
  std::vector<std::string> of_type_;
  size_t held_bytes_ = 0;
};

// --- steps

void Scan::Next(Step* step) {
  bool again = false;
  bool failed = false;
  for (const Ask& ask : step->asks) {
    // Planned by a topology that is over; or not read before its node's view.
    again |= ask.gone || (ask.refused && phase_ != Phase::kTypes);
    failed |= ask.failed();
  }
  if (failed) return step->AnswerError(FailureLine(step->asks, false));
  if (step->asks.empty()) {
    positions_by_slot_ = HasPositionsBySlot(step->worker->server());
    if (begin_ >= options_.end) return End(step);
    if (page_.print != 0) return PlanPage(step);
    return PlanCount(step, 0);
  }
  if (again) {
    // Once more from where all is read.
    hint_slot_ = -1;
    if (DoubtsForTooLong(*step)) {
      return step->AnswerError(
          "CLUSTERDOWN proxy: the cluster's nodes keep changing (outcome unknown)");
    }
    return Restart(step, 0);
  }
  switch (phase_) {
    case Phase::kCount:
      return TakeCount(step);
    case Phase::kKeys:
      return TakeKeys(step);
    case Phase::kTarget:
      return TakeTarget(step);
    case Phase::kSourceAgain:
      return TakeSourceAgain(step);
    case Phase::kPage:
      return TakePage(step);
    case Phase::kTypes:
      return TakeTypes(step);
  }
}

void Scan::BeginStep(Step* step, Phase phase) {
  phase_ = phase;
  step->asks.clear();
  nodes_before_ = std::exchange(nodes_, {});
  asked_.clear();
}

size_t Scan::NodeFor(const cluster::Topology& topology, cluster::NodeIndex index) {
  const cluster::Node& node = topology.node(index);
  // Neighbouring slots have the same owner, mostly.
  for (size_t i = nodes_.size(); i-- > 0;) {
    if (nodes_[i].id == node.id) return i;
  }
  nodes_.emplace_back();
  nodes_.back().id = node.id;
  nodes_.back().name = NodeName(topology, index);
  nodes_.back().number = index;
  nodes_.back().epoch = node.config_epoch;
  return nodes_.size() - 1;
}

void Scan::AskNode(Step* step, size_t node, Kind kind, int slot, io::Rope frame) {
  Ask ask;
  ask.to = Ask::To::kPrimary;
  ask.slot = static_cast<cluster::Slot>(nodes_[node].number % kSlotCount);
  ask.node_id = nodes_[node].id;
  ask.node_name = nodes_[node].name;
  ask.frame = std::move(frame);
  const Commands& commands = AllOfThem();
  switch (kind) {
    case Kind::kCount:
      ask.command = &commands.count;
      break;
    case Kind::kKeys:
      ask.command = &commands.keys;
      break;
    case Kind::kInfo:
      ask.command = &commands.info;
      break;
    case Kind::kPage:
      ask.command = &commands.scan;
      break;
    case Kind::kNone:
    case Kind::kView:
    case Kind::kType:
      ask.command = &commands.nodes;
      break;
  }
  step->asks.push_back(std::move(ask));
  asked_.push_back({kind, slot, node});
}

// After all else: what a node says then holds for what was read before.
void Scan::AskViews(Step* step) {
  for (size_t node = 0; node < nodes_.size(); ++node) {
    nodes_[node].view = step->asks.size();
    AskNode(step, node, Kind::kView, 0, MakeFrame({"CLUSTER", "NODES"}));
  }
}

// False: a reply is not what it must be.
bool Scan::TakeViews(Step* step) {
  for (Node& node : nodes_) {
    const std::string reply = step->asks[node.view].reply.Flatten();
    absl::string_view text;
    if (!resp::ParseText(reply, &text)) return false;
    auto own = cluster::OwnSlots::FromNodesReply(text);
    if (!own.ok()) return false;
    node.own = *std::move(own);
  }
  return true;
}

// From where all is read, once the ask for a view (if it is not 0) is answered.
void Scan::Restart(Step* step, uint64_t refresh_ask) {
  parts_.clear();
  keys_expected_ = 0;
  counted_to_ = begin_;
  at_target_ = false;
  page_ = Page();
  PlanCount(step, refresh_ask);
}

// How many keys each of the next slots has. Slots without any cost nothing more.
void Scan::PlanCount(Step* step, uint64_t refresh_ask) {
  BeginStep(step, Phase::kCount);
  const Worker& worker = *step->worker;
  if (OwnerOf(worker, counted_to_) == cluster::kNoNode) {
    Ask ask;
    ask.to = Ask::To::kNobody;
    ask.slot = static_cast<cluster::Slot>(counted_to_);
    ask.command = cluster::FindCommand("PING");
    step->asks.push_back(std::move(ask));
    asked_.push_back({});
    return;
  }
  const int end = std::min(counted_to_ + window_, options_.end);
  for (int slot = counted_to_; slot < end; ++slot) {
    const cluster::NodeIndex owner = OwnerOf(worker, slot);
    if (owner == cluster::kNoNode) break;
    AskNode(step, NodeFor(*worker.cluster()->topology, owner), Kind::kCount, slot,
            MakeFrame({"CLUSTER", "COUNTKEYSINSLOT", absl::StrCat(slot)}));
  }
  AskViews(step);
  for (Ask& ask : step->asks) ask.refresh_ask = refresh_ask;
}

void Scan::TakeCount(Step* step) {
  if (!TakeViews(step)) return step->AnswerError(kBadReply);
  bool enough = false;
  bool huge = false;
  int doubtful = -1;
  std::string doubtful_node;
  std::string owner;
  for (size_t i = 0; i < step->asks.size() && asked_[i].kind == Kind::kCount && !enough; ++i) {
    const int slot = asked_[i].slot;
    const Node& node = nodes_[asked_[i].node];
    int64_t count = 0;
    if (!resp::ParseInteger(step->asks[i].reply.Flatten(), &count)) {
      return step->AnswerError(kBadReply);
    }
    if (!node.own.Owns(static_cast<cluster::Slot>(slot))) {
      doubtful = slot;
      doubtful_node = node.id;
      owner = OwnerByView(*step, node, slot);
      break;
    }
    huge = count > kSlotKeysMax;
    if (huge) break;
    const bool moving = node.own.FindMoving(static_cast<cluster::Slot>(slot)) != nullptr;
    // One that it has got only now may have been empty here while its keys were elsewhere.
    if (count > 0 || moving || !HadBefore(node, slot)) {
      parts_.push_back({slot, node.id, node.own.config_epoch()});
    }
    keys_expected_ += count;
    counted_to_ = slot + 1;
    ++counted_;
    enough = keys_expected_ >= std::min(options_.count, kKeysPerCallMax) ||
             parts_.size() >= kPartsMax || moving;
  }
  enough |= counted_to_ == options_.end || counted_ >= kCountedMax || doubtful >= 0 || huge;
  if (enough && !parts_.empty()) return PlanKeys(step);
  if (huge) {
    begin_ = counted_to_;
    return PlanPage(step);
  }
  if (doubtful >= 0) {
    begin_ = counted_to_;
    return Doubt(step, doubtful, doubtful_node, std::move(owner));
  }
  if (enough) {
    begin_ = counted_to_;
    return End(step);
  }
  window_ = std::min(window_ * 4, kWindowMax);
  PlanCount(step, 0);
}

// The node had the slot before the step began, and has not lost it since.
bool Scan::HadBefore(const Node& node, int slot) const {
  const uint64_t epoch = node.own.config_epoch();
  if (slot != hint_slot_ && epoch == node.epoch) return true;
  return std::any_of(nodes_before_.begin(), nodes_before_.end(), [&](const Node& before) {
    return before.id == node.id && before.own.Owns(static_cast<cluster::Slot>(slot)) &&
           before.own.config_epoch() == epoch;
  });
}

void Scan::PlanKeys(Step* step) {
  BeginStep(step, Phase::kKeys);
  const cluster::Topology& topology = *step->worker->cluster()->topology;
  for (const Part& part : parts_) {
    const cluster::NodeIndex index = topology.FindById(part.node_id);
    if (index == cluster::kNoNode) return Doubt(step, begin_, part.node_id, "");
    AskNode(step, NodeFor(topology, index), Kind::kKeys, part.slot,
            MakeFrame({"CLUSTER", "GETKEYSINSLOT", absl::StrCat(part.slot),
                       absl::StrCat(kSlotKeysMax + 1)}));
  }
  AskViews(step);
}

void Scan::TakeKeys(Step* step) {
  if (!TakeViews(step)) return step->AnswerError(kBadReply);
  for (size_t i = 0; i < step->asks.size() && asked_[i].kind == Kind::kKeys; ++i) {
    const int slot = asked_[i].slot;
    const Node& node = nodes_[asked_[i].node];
    if (!node.own.Owns(static_cast<cluster::Slot>(slot))) {
      return Doubt(step, slot, node.id, OwnerByView(*step, node, slot));
    }
    if (node.own.config_epoch() != parts_[i].epoch) return Doubt(step, slot, node.id, node.id);
    int64_t count = 0;
    std::vector<std::string> keys;
    if (!AddKeys(step->asks[i], &count, &keys)) return step->AnswerError(kBadReply);
    begin_ = slot;
    if (count > kSlotKeysMax) return keys_.empty() ? PlanPage(step) : End(step);
    const cluster::MovingSlot* moving = node.own.FindMoving(static_cast<cluster::Slot>(slot));
    if (moving != nullptr) {
      moving_slot_ = slot;
      source_id_ = node.id;
      source_epoch_ = node.own.config_epoch();
      target_id_ = moving->other_id;
      moving_keys_.clear();
      for (std::string& key : keys) moving_keys_.insert(std::move(key));
      return PlanSlotAt(step, Phase::kTarget, target_id_);
    }
    for (std::string& key : keys) Keep(std::move(key));
    begin_ = slot + 1;
  }
  begin_ = counted_to_;
  End(step);
}

// --- a slot on the move

void Scan::PlanSlotAt(Step* step, Phase phase, const std::string& node_id) {
  BeginStep(step, phase);
  const cluster::Topology& topology = *step->worker->cluster()->topology;
  const cluster::NodeIndex index = topology.FindById(node_id);
  if (index == cluster::kNoNode) return Doubt(step, moving_slot_, source_id_, "");
  AskNode(step, NodeFor(topology, index), Kind::kKeys, moving_slot_,
          MakeFrame({"CLUSTER", "GETKEYSINSLOT", absl::StrCat(moving_slot_),
                     absl::StrCat(kSlotKeysMax + 1)}));
  AskViews(step);
}

void Scan::TakeTarget(Step* step) {
  if (!TakeViews(step)) return step->AnswerError(kBadReply);
  int64_t count = 0;
  std::vector<std::string> keys;
  if (!AddKeys(step->asks[0], &count, &keys)) return step->AnswerError(kBadReply);
  if (count > kSlotKeysMax) return keys_.empty() ? PlanPage(step) : End(step);
  const auto slot = static_cast<cluster::Slot>(moving_slot_);
  const cluster::OwnSlots& own = nodes_[0].own;
  const cluster::MovingSlot* moving = own.FindMoving(slot);
  const bool takes =
      !own.Owns(slot) && moving != nullptr && moving->importing && moving->other_id == source_id_;
  if (!takes) {
    // It has none of the slot's keys for anybody. If it, too, says that the slot is the source's,
    // the move was given up; else the source does not know yet that it is over.
    std::string owner = own.Owns(slot) ? target_id_ : OwnerByView(*step, nodes_[0], moving_slot_);
    if (owner != source_id_) return Doubt(step, moving_slot_, source_id_, std::move(owner));
  }
  for (std::string& key : keys) moving_keys_.insert(std::move(key));
  PlanSlotAt(step, Phase::kSourceAgain, source_id_);
}

void Scan::TakeSourceAgain(Step* step) {
  if (!TakeViews(step)) return step->AnswerError(kBadReply);
  const auto slot = static_cast<cluster::Slot>(moving_slot_);
  const cluster::OwnSlots& own = nodes_[0].own;
  const cluster::MovingSlot* moving = own.FindMoving(slot);
  if (!own.Owns(slot)) {
    return Doubt(step, moving_slot_, source_id_, OwnerByView(*step, nodes_[0], moving_slot_));
  }
  // All the time it was this move, and no other one.
  if (own.config_epoch() != source_epoch_ || moving == nullptr || moving->other_id != target_id_) {
    return Doubt(step, moving_slot_, source_id_, source_id_);
  }
  int64_t count = 0;
  std::vector<std::string> keys;
  if (!AddKeys(step->asks[0], &count, &keys)) return step->AnswerError(kBadReply);
  for (std::string& key : keys) moving_keys_.insert(std::move(key));
  for (const std::string& key : moving_keys_) Keep(key);
  moving_keys_.clear();
  begin_ = moving_slot_ + 1;
  End(step);
}

// The node that has the slot in the view of another that said it has it not; empty: it can't tell.
std::string Scan::OwnerByView(const Step& step, const Node& node, int slot) const {
  const std::string reply = step.asks[node.view].reply.Flatten();
  absl::string_view text;
  if (!resp::ParseText(reply, &text)) return "";
  const auto view = cluster::Topology::FromNodesReply(text, cluster::NodeAddress());
  if (!view.ok()) return "";
  return std::string((*view)->OwnerId(static_cast<cluster::Slot>(slot)));
}

cluster::NodeIndex Scan::OwnerOf(const Worker& worker, int slot) const {
  if (worker.cluster() == nullptr) return cluster::kNoNode;
  const cluster::Topology& topology = *worker.cluster()->topology;
  if (slot == hint_slot_) {
    const cluster::NodeIndex hint = topology.FindById(hint_owner_);
    if (hint != cluster::kNoNode && topology.node(hint).usable() &&
        topology.node(hint).is_primary) {
      return hint;
    }
  }
  const cluster::Shard* shard = topology.ShardFor(static_cast<cluster::Slot>(slot));
  return shard == nullptr ? cluster::kNoNode : shard->primary;
}

bool Scan::DoubtsForTooLong(const Step& step) {
  const absl::Time now = step.worker->now();
  doubts_since_ = std::min(doubts_since_, now);
  return now - doubts_since_ > step.worker->config().hold_timeout;
}

// Who has the slot is not what the topology says. What is read so far is an answer; else another
// node is asked, or the topology is looked at anew.
void Scan::Doubt(Step* step, int slot, absl::string_view node_id, std::string owner) {
  begin_ = slot;
  if (begin_ > options_.slot || !keys_.empty()) {
    step->worker->HintRefresh(node_id);
    return End(step);
  }
  if (DoubtsForTooLong(*step)) {
    return step->AnswerError(
        absl::StrCat("CLUSTERDOWN proxy: the nodes do not agree on the owner of slot ", slot,
                     " (outcome unknown)"));
  }
  if (owner == node_id) return Restart(step, 0);  // it has it, but not all the time
  if (!owner.empty() && ++doubts_ <= kHintsMax) {
    hint_slot_ = slot;
    hint_owner_ = std::move(owner);
    step->worker->HintRefresh(node_id);
    return Restart(step, 0);
  }
  hint_slot_ = -1;
  Restart(step, step->worker->AskRefresh(node_id));
}

// --- a slot in pages

// The next one, at the slot's owner, or at its target if the owner's part is read. SCAN gives keys
// of other slots, too: where positions are not those of a slot, all that the node has is gone
// through.
void Scan::PlanPage(Step* step) {
  BeginStep(step, Phase::kPage);
  const Worker& worker = *step->worker;
  const cluster::NodeIndex owner = OwnerOf(worker, begin_);
  if (owner == cluster::kNoNode) return Restart(step, 0);
  const cluster::Topology& topology = *worker.cluster()->topology;
  const size_t source = NodeFor(topology, owner);
  size_t node = source;
  if (at_target_) {
    const cluster::NodeIndex target = topology.FindById(target_id_);
    if (target == cluster::kNoNode) return Doubt(step, begin_, nodes_[source].id, "");
    node = NodeFor(topology, target);
  }
  const uint64_t cursor = positions_by_slot_
                              ? page_.position << kSlotBits | static_cast<uint64_t>(begin_)
                              : page_.position;
  const int64_t count = std::clamp(options_.count, kPageCountMin, kPageCountMax);
  AskNode(step, node, Kind::kInfo, begin_, MakeFrame({"INFO", "server"}));
  AskNode(step, node, Kind::kPage, begin_,
          MakeFrame({"SCAN", absl::StrCat(cursor), "COUNT", absl::StrCat(count)}));
  AskNode(step, node, Kind::kInfo, begin_, MakeFrame({"INFO", "server"}));
  AskViews(step);
}

void Scan::TakePage(Step* step) {
  if (!TakeViews(step)) return step->AnswerError(kBadReply);
  const auto slot = static_cast<cluster::Slot>(begin_);
  const Node& source = nodes_[0];
  const Node& node = nodes_.back();
  if (!source.own.Owns(slot)) {
    const std::string owner = OwnerByView(*step, source, begin_);
    // The move is over: what is left of the slot is all with its target.
    if (at_target_ && owner == target_id_) {
      at_target_ = false;
      hint_slot_ = begin_;
      hint_owner_ = owner;
      step->worker->HintRefresh(source.id);
      return PlanPage(step);
    }
    return Doubt(step, begin_, source.id, owner);
  }
  if (!HadBefore(source, begin_)) return PlanPage(step);
  const cluster::MovingSlot* moving = source.own.FindMoving(slot);
  if (at_target_ && (moving == nullptr || moving->other_id != target_id_)) {
    return Restart(step, 0);  // given up: keys may have gone back
  }
  const absl::optional<ServerInfo> server = ReadServerInfo(step->asks[0].reply.Flatten());
  const uint64_t print = PrintOf(node.id, RunIdOf(step->asks[0]));
  const bool by_slot = server.has_value() ? HasPositionsBySlot(*server) : positions_by_slot_;
  const bool begins = page_.print == 0;
  const uint64_t print_after = PrintOf(node.id, RunIdOf(step->asks[2]));
  if (print_after != print) return PlanPage(step);  // it was started again meanwhile
  if (by_slot != positions_by_slot_ || (!begins && print != page_.print)) {
    if (++doubts_ > kHintsMax && DoubtsForTooLong(*step)) {
      return step->AnswerError(
          "CLUSTERDOWN proxy: the cluster's nodes keep changing (outcome unknown)");
    }
    positions_by_slot_ = by_slot;
    if (begins) return PlanPage(step);
    if (!at_target_ && moving != nullptr) {
      // It may be the target's.
      at_target_ = true;
      target_id_ = moving->other_id;
      return PlanPage(step);
    }
    // It is nobody's any more: once more from the slot's begin.
    page_ = Page();
    at_target_ = false;
    return PlanPage(step);
  }
  page_.print = print;
  page_.moved |= !at_target_ && moving != nullptr;
  ++pages_;
  bool is_last = false;
  if (!TakePosition(step->asks[1], &is_last)) return step->AnswerError(kBadReply);
  if (is_last) return EndPage(step, moving);
  if (page_.position >= uint64_t{1} << kPositionBits) {
    return step->AnswerError(
        absl::StrCat("ERR proxy: slot ", begin_, " has too many keys for SCAN (not executed)"));
  }
  const bool enough = static_cast<int64_t>(keys_.size()) >= options_.count;
  if (enough || pages_ >= kPagesPerCallMax) return End(step);
  PlanPage(step);
}

// A reply of SCAN: its keys of the slot, and where it goes on. False: it is none.
bool Scan::TakePosition(const Ask& ask, bool* is_last) {
  const std::string reply = ask.reply.Flatten();
  const std::vector<absl::string_view> elements = resp::ElementsOf(reply);
  absl::string_view text;
  uint64_t cursor = 0;
  if (elements.size() != 2 || !resp::ParseText(elements[0], &text) ||
      !absl::SimpleAtoi(text, &cursor)) {
    return false;
  }
  for (const absl::string_view element : resp::ElementsOf(elements[1])) {
    absl::string_view key;
    if (!resp::ParseText(element, &key)) return false;
    if (cluster::SlotOf(key) != begin_) continue;
    if (!options_.match_all && !GlobMatches(options_.match, key, GlobCase::kSensitive)) continue;
    Keep(std::string(key));
  }
  *is_last = cursor == 0;
  page_.position = cursor;
  if (positions_by_slot_) {
    *is_last |= static_cast<int>(cursor & (kSlotCount - 1)) != begin_;
    page_.position = cursor >> kSlotBits;
  }
  return true;
}

// All of the node's part of the slot is read.
void Scan::EndPage(Step* step, const cluster::MovingSlot* moving) {
  if (!at_target_ && moving != nullptr) {
    at_target_ = true;
    target_id_ = moving->other_id;
    page_ = Page();
    return PlanPage(step);
  }
  // The move was given up: keys may have gone back.
  const bool again = !at_target_ && page_.moved;
  at_target_ = false;
  page_ = Page();
  if (again && pages_ < kPagesPerCallMax) return PlanPage(step);
  if (!again) ++begin_;
  End(step);
}

// --- keys

// Those that match. False: no array of strings.
bool Scan::AddKeys(const Ask& ask, int64_t* count, std::vector<std::string>* keys) {
  const auto pieces = ask.reply.Views();
  resp::ElementReader reader(pieces);
  *count = reader.count();
  if (reader.type() != '*' || *count < 0) return false;
  std::string scratch;
  resp::ArgPosition position;
  while (reader.Next(&position)) {
    const absl::string_view frame = resp::ViewAt(pieces, position, &scratch);
    absl::string_view key;
    if (!resp::ParseText(frame, &key)) return false;
    if (!options_.match_all && !GlobMatches(options_.match, key, GlobCase::kSensitive)) continue;
    keys->emplace_back(key);
  }
  return true;
}

void Scan::Keep(std::string key) {
  held_bytes_ += key.size() + sizeof(key);
  keys_.push_back(std::move(key));
}

void Scan::End(Step* step) {
  if (!options_.type.empty() && typed_ < keys_.size()) return PlanTypes(step);
  Answer(step);
}

void Scan::PlanTypes(Step* step) {
  BeginStep(step, Phase::kTypes);
  const size_t end = std::min(keys_.size(), typed_ + kTypesAtATime);
  for (size_t i = typed_; i < end; ++i) {
    step->asks.push_back(AskOfKey(AllOfThem().type, keys_[i], MakeFrame({"TYPE", keys_[i]})));
  }
}

void Scan::TakeTypes(Step* step) {
  for (const Ask& ask : step->asks) {
    absl::string_view type;
    const std::string reply = ask.reply.Flatten();
    if (!resp::ParseText(reply, &type)) return step->AnswerError(kBadReply);
    if (absl::EqualsIgnoreCase(type, options_.type)) of_type_.push_back(std::move(keys_[typed_]));
    ++typed_;
  }
  if (typed_ < keys_.size()) return PlanTypes(step);
  Answer(step);
}

void Scan::Answer(Step* step) {
  const std::vector<std::string>& keys = options_.type.empty() ? keys_ : of_type_;
  uint64_t cursor = begin_ >= options_.end ? 0 : static_cast<uint64_t>(begin_);
  cursor |= page_.position << kSlotBits | uint64_t{page_.moved} << kMovedShift |
            page_.print << kPrintShift;
  // 0 is the end: slot 0 that is to be read once more has a position.
  if (begin_ == 0 && cursor == 0) cursor = uint64_t{1} << kSlotBits;
  std::string reply;
  resp::Encoder encoder(step->protocol, &reply);
  encoder.Array(2);
  encoder.Bulk(absl::StrCat(cursor));
  encoder.Array(static_cast<int64_t>(keys.size()));
  for (const std::string& key : keys) encoder.Bulk(key);
  step->Answer(reply);
}

// --- arguments

// As the servers read it: redis by strtoul, valkey more strictly.
bool ParseCursor(absl::string_view text, bool valkey, uint64_t* cursor) {
  const std::string copy(text);
  if (valkey && (copy.empty() || copy[0] == '-')) return false;
  if (!copy.empty() && absl::ascii_isspace(static_cast<unsigned char>(copy[0]))) return false;
  char* end = nullptr;
  errno = 0;
  *cursor = std::strtoull(copy.c_str(), &end, 10);
  return errno == 0 && end == copy.c_str() + copy.size();
}

bool IsKnownType(absl::string_view type) {
  for (const absl::string_view known : {"string", "list", "set", "zset", "hash", "stream"}) {
    if (absl::EqualsIgnoreCase(type, known)) return true;
  }
  return false;
}

}  // namespace

std::unique_ptr<Procedure> MakeScan(Worker* worker, const FaceShare& share, const ArgList& args,
                                    std::string* error) {
  const absl::Span<const absl::string_view> words = args.views();
  const bool valkey = worker->cluster() != nullptr && worker->cluster()->server.valkey;
  Options options;
  uint64_t cursor = 0;
  if (!ParseCursor(words[1], valkey, &cursor)) {
    *error = "ERR invalid cursor";
    return nullptr;
  }
  options.slot = cursor & (kSlotCount - 1);
  options.page.position = cursor >> kSlotBits & ((uint64_t{1} << kPositionBits) - 1);
  options.page.moved = (cursor >> kMovedShift & 1) != 0;
  options.page.print = cursor >> kPrintShift & ((uint64_t{1} << kPrintBits) - 1);
  if (options.slot < share.first || options.page.print == 0) options.page = Page();
  options.slot = std::max<int>(options.slot, share.first);
  options.end = share.last + 1;
  for (size_t i = 2; i < words.size(); i += 2) {
    const absl::string_view option = words[i];
    const bool has_value = i + 1 < words.size();
    if (absl::EqualsIgnoreCase(option, "COUNT") && has_value) {
      if (!resp::ParseDecimal(words[i + 1], &options.count)) {
        *error = "ERR value is not an integer or out of range";
        return nullptr;
      }
      if (options.count < 1) break;
    } else if (absl::EqualsIgnoreCase(option, "MATCH") && has_value) {
      options.match = std::string(words[i + 1]);
      options.match_all = options.match == "*";
    } else if (absl::EqualsIgnoreCase(option, "TYPE") && has_value) {
      options.type = std::string(words[i + 1]);
      if (valkey && !IsKnownType(options.type)) {
        *error = absl::StrCat("ERR unknown type name '", options.type, "'");
        return nullptr;
      }
    } else if (valkey && absl::EqualsIgnoreCase(option, "NOVALUES")) {
      *error = "ERR NOVALUES option can only be used in HSCAN";
      return nullptr;
    } else {
      options.count = 0;
      break;
    }
  }
  if (options.count < 1) {
    *error = "ERR syntax error";
    return nullptr;
  }
  return std::make_unique<Scan>(std::move(options));
}

}  // namespace proxy
