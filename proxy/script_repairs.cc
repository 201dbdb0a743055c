#include "proxy/script_repairs.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "proxy/args.h"
#include "proxy/backend.h"
#include "proxy/backend_pool.h"
#include "proxy/procedure.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

// More are not begun: then the refusals stand.
constexpr size_t kRepairsMax = 1000;
// A new connection begins with so much. What is missing then is given when it is called.
constexpr size_t kGiveAllBytesMax = 512 << 10;
constexpr size_t kGiveAllMax = 500;
// A burst's scripts are sent again after that time: somebody may have flushed them past the proxy.
constexpr absl::Duration kGiveAgain = absl::Seconds(10);
constexpr size_t kGivenScriptsMax = 1000;
// What is needed of a reply is short.
constexpr size_t kReplyBytesMax = 1 << 10;

// Of EVALSHA and EVALSHA_RO.
std::string ScriptName(const Request& request) {
  const auto pieces = request.bytes.Views();
  const ArgList args(pieces);
  return args.views().size() < 2 ? std::string() : std::string(args.views()[1]);
}

}  // namespace

std::shared_ptr<const ScriptRepair> ScriptRepairs::Begin(const Request& request, Backend* backend) {
  const std::string name = absl::AsciiStrToLower(ScriptName(request));
  // To a private one it was given before the call, if its text is known: the script says so itself.
  if (backend->options().is_private) return nullptr;
  // One that takes nothing new has a successor.
  if (!backend->usable()) {
    backend = worker_->backends()->Shared(backend->node(), backend->options().session,
                                          backend->options().read_only, request.slot);
  }
  if (backend == nullptr) return nullptr;
  if (auto repair = Find(*backend, name); repair != nullptr) return repair;
  const std::shared_ptr<const std::string> text = table_->Find(name);
  if (text == nullptr || repairs_.size() >= kRepairsMax) return nullptr;
  auto repair = std::make_shared<ScriptRepair>();
  repair->name = name;
  repair->backend_index = backend->index();
  repair->backend_generation = backend->generation();
  repairs_.push_back(repair);
  worker_->stats()->script_repairs.Add(1);
  backend->EnqueueOwn(Make({repair, false, {}}, "EXISTS", name));
  backend->EnqueueOwn(Make({repair, true, {}}, "LOAD", *text));
  return repair;
}

std::shared_ptr<ScriptRepair> ScriptRepairs::Find(const Backend& backend,
                                                  absl::string_view name) const {
  const auto found = std::find_if(repairs_.begin(), repairs_.end(), [&](const auto& repair) {
    return repair->backend_index == backend.index() &&
           repair->backend_generation == backend.generation() && repair->name == name;
  });
  return found == repairs_.end() ? nullptr : *found;
}

void ScriptRepairs::GiveAll(Backend* backend) {
  for (const ScriptTable::Known& script : table_->CalledByName(kGiveAllBytesMax, kGiveAllMax)) {
    // Its repair, which waited for the connection, asks first whether the node has it.
    if (Find(*backend, script.name) != nullptr) continue;
    TakeNote(backend->given_scripts(), script.name);
    backend->GiveOwn(Make({nullptr, true, {}}, "LOAD", *script.text));
  }
}

void ScriptRepairs::GiveBefore(const Request& request, Backend* backend) {
  if (request.is_burst) {
    for (const std::string& name : request.transaction->burst->scripts()) GiveOne(name, backend);
  } else if (absl::StartsWith(request.command->name, "EVALSHA")) {
    GiveOne(absl::AsciiStrToLower(ScriptName(request)), backend);
  }
}

void ScriptRepairs::GiveOne(const std::string& name, Backend* backend) {
  // Nobody repairs what is missing to a private one: that is given it each time.
  const bool shared = !backend->options().is_private;
  if (shared && !TakeNote(backend->given_scripts(), name)) return;
  const std::shared_ptr<const std::string> text = table_->Find(name);
  if (text == nullptr) {
    if (shared) backend->given_scripts()->when.erase(name);
    return;
  }
  backend->EnqueueOwn(Make({nullptr, true, {}}, "LOAD", *text));
}

// False: it was sent lately.
bool ScriptRepairs::TakeNote(GivenScripts* given, const std::string& name) {
  if (given->clears != table_->clears() || given->when.size() >= kGivenScriptsMax) {
    given->clears = table_->clears();
    given->when.clear();
  }
  const auto [note, is_new] = given->when.emplace(name, worker_->now());
  if (!is_new && worker_->now() < note->second + kGiveAgain) return false;
  note->second = worker_->now();
  return true;
}

Request* ScriptRepairs::Make(Awaited awaited, absl::string_view subcommand,
                             absl::string_view argument) {
  Request* const request = worker_->requests()->Take();
  request->is_script_repair = true;
  request->command = cluster::FindSubcommand(*cluster::FindCommand("SCRIPT"), subcommand);
  request->fragment = ++last_number_;
  request->bytes = MakeFrame({"SCRIPT", subcommand, argument});
  awaited_[request->fragment] = std::move(awaited);
  return request;
}

void ScriptRepairs::OnReplyPiece(Request* request, absl::string_view piece, bool complete) {
  const auto found = awaited_.find(request->fragment);
  ABSL_ASSERT(found != awaited_.end());
  Awaited& awaited = found->second;
  if (awaited.reply.size() + piece.size() <= kReplyBytesMax) {
    awaited.reply.append(piece.data(), piece.size());
  }
  if (!complete) return;
  const Awaited whole = std::move(awaited);
  awaited_.erase(found);
  worker_->requests()->Give(request);
  OnReply(whole);
}

void ScriptRepairs::OnReply(const Awaited& awaited) {
  ScriptRepair* const repair = awaited.repair.get();
  if (repair == nullptr || repair->state != ScriptRepair::State::kAsked) return;
  if (!awaited.load) {
    int64_t exists = 1;
    const std::vector<absl::string_view> elements = resp::ElementsOf(awaited.reply);
    repair->missing =
        elements.size() == 1 && resp::ParseInteger(elements[0], &exists) && exists == 0;
    if (!repair->missing) End(repair, ScriptRepair::State::kFailed);
    return;
  }
  absl::string_view name;
  const bool taken =
      resp::ParseText(awaited.reply, &name) && absl::EqualsIgnoreCase(name, repair->name);
  End(repair, taken ? ScriptRepair::State::kDone : ScriptRepair::State::kFailed);
}

void ScriptRepairs::OnLost(Request* request) {
  const auto found = awaited_.find(request->fragment);
  ABSL_ASSERT(found != awaited_.end());
  const std::shared_ptr<ScriptRepair> repair = std::move(found->second.repair);
  awaited_.erase(found);
  worker_->requests()->Give(request);
  if (repair == nullptr || repair->state != ScriptRepair::State::kAsked) return;
  // That it was missing is known: whoever has the slot next is called, and given it if need be.
  End(repair.get(), repair->missing ? ScriptRepair::State::kDone : ScriptRepair::State::kFailed);
}

void ScriptRepairs::End(ScriptRepair* repair, ScriptRepair::State state) {
  repair->state = state;
  repairs_.erase(std::remove_if(repairs_.begin(), repairs_.end(),
                                [&](const auto& other) { return other.get() == repair; }),
                 repairs_.end());
  worker_->WakeAllWaiting();
}

}  // namespace proxy
