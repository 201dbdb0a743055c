#include "proxy/function_repair.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "resp/encoder.h"
#include "resp/views.h"

namespace proxy {
namespace {

// Whoever adds a node may be about to give it the libraries.
constexpr absl::Duration kBeforeLook = absl::Seconds(3);
// A FUNCTION DELETE that was on its way has reached all nodes by then.
constexpr absl::Duration kBeforeCheck = absl::Seconds(10);
constexpr absl::Duration kBetweenTries = absl::Seconds(2);
constexpr int kTriesMax = 5;
// So many of the others are asked.
constexpr size_t kOthersMax = 3;
constexpr size_t kNewMax = 1000;
constexpr size_t kSeenMax = 100000;
constexpr size_t kReplyBytesMax = 16 << 20;
constexpr absl::Duration kReplyTimeoutMax = absl::Seconds(5);

std::string Command(std::initializer_list<absl::string_view> args) {
  std::string text;
  resp::AppendCommand(args, &text);
  return text;
}

// The names of FUNCTION LIST's libraries.
std::set<std::string> LibraryNames(absl::string_view frame) {
  std::set<std::string> names;
  for (const absl::string_view library : resp::ElementsOf(frame)) {
    const std::vector<absl::string_view> fields = resp::ElementsOf(library);
    for (size_t i = 0; i + 1 < fields.size(); i += 2) {
      absl::string_view key, name;
      if (!resp::ParseText(fields[i], &key) || key != "library_name") continue;
      if (resp::ParseText(fields[i + 1], &name)) names.insert(std::string(name));
    }
  }
  return names;
}

std::string Joined(const std::set<std::string>& names) {
  return EscapeForLog(absl::StrJoin(names, ", "));
}

}  // namespace

FunctionRepair::FunctionRepair(const ControlContext& context)
    : env_(context),
      query_(env_.ring, env_.timers, static_cast<uint8_t>(Party::kFunctions), 0),
      timer_(env_.timers, &FunctionRepair::TimerFired, this) {}

void FunctionRepair::OnTopology(std::shared_ptr<const ClusterState> state) {
  const bool first = state_ == nullptr;
  state_ = std::move(state);
  if (seen_.size() > kSeenMax) seen_.clear();
  for (const cluster::Node& node : state_->topology->nodes()) {
    if (!node.usable() || !seen_.insert(node.id).second || first) continue;
    if (new_.size() < kNewMax) new_.push_back({node.id, *env_.now + kBeforeLook, 0});
  }
  Advance();
}

void FunctionRepair::OnCompletion(io::Completion* completion) {
  query_.OnCompletion(*env_.now, completion);
  Advance();
}

void FunctionRepair::Stop() {
  stopped_ = true;
  timer_.Stop();
  query_.Cancel();
}

// --- step by step

void FunctionRepair::Advance() {
  if (advancing_) return;
  advancing_ = true;
  while (!stopped_ && query_.idle() && StepOn()) {
  }
  advancing_ = false;
}

// False: it goes on with a reply, or with the timer.
bool FunctionRepair::StepOn() {
  if (step_ == Step::kIdle) {
    if (new_.empty()) return false;
    if (new_.front().due > *env_.now) {
      timer_.Set(new_.front().due);
      return false;
    }
    Begin();
    return true;
  }
  if (next_due_ > *env_.now) {
    timer_.Set(next_due_);
    return false;
  }
  const cluster::NodeIndex index = state_->topology->FindById(next_node_);
  if (index == cluster::kNoNode || !state_->endpoints[index].has_value()) {
    End();
    return true;
  }
  NodeQuery::Options options;
  options.username = env_.config->backend_username;
  options.password = env_.config->backend_password;
  options.connect_timeout = env_.config->connect_timeout;
  options.reply_timeout = std::min(kReplyTimeoutMax, env_.config->reply_timeout);
  options.reply_bytes_max = kReplyBytesMax;
  query_.Start(*env_.now, *state_->endpoints[index], options, next_commands_,
               [this](Replies replies) { OnReplies(std::move(replies)); });
  return query_.idle();  // it has failed at once
}

// The next question, as soon as the query is free.
void FunctionRepair::AskNext(Step step, const std::string& node,
                             std::vector<std::string> commands) {
  step_ = step;
  next_node_ = node;
  next_commands_ = std::move(commands);
  next_due_ = *env_.now;
}

void FunctionRepair::Begin() {
  node_ = std::move(new_.front());
  new_.pop_front();
  has_.clear();
  libraries_.clear();
  source_.clear();
  others_.clear();
  all_agree_ = true;
  const cluster::Topology& topology = *state_->topology;
  const cluster::NodeIndex index = topology.FindById(node_.id);
  // A replica has what its primary has.
  if (index == cluster::kNoNode || !topology.node(index).is_primary) return End();
  for (const cluster::Shard& shard : topology.shards()) {
    const cluster::Node& other = topology.node(shard.primary);
    if (other.id == node_.id || other.failed || others_.size() >= kOthersMax) continue;
    others_.push_back(other.id);
  }
  if (others_.empty()) return End();
  AskNext(Step::kListNew, node_.id, {Command({"FUNCTION", "LIST"})});
}

void FunctionRepair::AskOther() {
  const std::string other = std::move(others_.back());
  others_.pop_back();
  if (source_.empty()) source_ = other;
  AskNext(Step::kListOther, other, {Command({"FUNCTION", "LIST"})});
}

void FunctionRepair::OnReplies(Replies replies) {
  if (stopped_) return;
  if (!replies.ok()) return OnFailed();
  const std::string& reply = replies->front();
  switch (step_) {
    case Step::kListNew:
      // It is older than functions, or says nothing of them to us.
      if (resp::IsErrorFrame(reply)) return End();
      has_ = LibraryNames(reply);
      return AskOther();
    case Step::kListOther:
      if (resp::IsErrorFrame(reply)) return End();
      return OnOtherListed(LibraryNames(reply));
    case Step::kDump: {
      absl::string_view dump;
      if (!resp::ParseText(reply, &dump)) return End();
      return AskNext(Step::kRestore, node_.id, {Command({"FUNCTION", "RESTORE", dump})});
    }
    case Step::kRestore:
      if (resp::IsErrorFrame(reply)) {
        env_.log->Warn(absl::StrCat("node ", node_.id, " does not take the function libraries"));
        return End();
      }
      env_.stats->functions_given.Add(1);
      env_.log->Info(absl::StrCat("node ", node_.id, " was given the function libraries ",
                                  Joined(libraries_)));
      AskNext(Step::kCheck, source_, {Command({"FUNCTION", "LIST"})});
      next_due_ = *env_.now + kBeforeCheck;
      return;
    case Step::kCheck:
      return resp::IsErrorFrame(reply) ? End() : OnChecked(LibraryNames(reply));
    case Step::kDelete:
    case Step::kIdle:
      return End();
  }
}

// Not now: tried again, a few times. Once something was given, that is looked after.
void FunctionRepair::OnFailed() {
  const bool given = step_ == Step::kCheck || step_ == Step::kDelete;
  const bool again = ++node_.tries < kTriesMax;
  if (given && again) {
    next_due_ = *env_.now + kBetweenTries;
    return;
  }
  if (again) new_.push_back({node_.id, *env_.now + kBetweenTries, node_.tries});
  End();
}

void FunctionRepair::OnOtherListed(const Names& names) {
  if (next_node_ == source_) libraries_ = names;
  all_agree_ &= libraries_ == names;
  if (!others_.empty()) return AskOther();
  // They are being loaded or deleted: soon all have the same.
  if (!all_agree_) return OnFailed();
  Names missing;
  std::set_difference(libraries_.begin(), libraries_.end(), has_.begin(), has_.end(),
                      std::inserter(missing, missing.end()));
  if (missing.empty()) return End();
  env_.stats->functions_missing.Add(1);
  env_.log->Warn(absl::StrCat("node ", node_.id, " has joined without the function libraries ",
                              Joined(missing)));
  if (!has_.empty()) return End();
  AskNext(Step::kDump, source_, {Command({"FUNCTION", "DUMP"})});
}

// What was deleted while it was given.
void FunctionRepair::OnChecked(const Names& names) {
  std::vector<std::string> commands;
  for (const std::string& name : libraries_) {
    if (names.count(name) == 0) commands.push_back(Command({"FUNCTION", "DELETE", name}));
  }
  if (commands.empty()) return End();
  AskNext(Step::kDelete, node_.id, std::move(commands));
}

void FunctionRepair::End() {
  step_ = Step::kIdle;
  next_commands_.clear();
}

}  // namespace proxy
