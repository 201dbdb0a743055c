#include "tests/sim/oracle.h"

#include <algorithm>
#include <iterator>

#include "absl/algorithm/container.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "resp/views.h"

namespace sim {
namespace {

constexpr absl::string_view kOpNames[] = {
    "GET",  "SET",       "APPEND", "GETRANGE", "INCRBY", "EXPIRE", "RPUSH", "LPOP",
    "EVAL", "EVAL fail", "MSET",   "MGET",     "DEL",    "EXISTS", "PING",  "ECHO"};

// No reply takes longer to its client, in a slow network and through a proxy that stalls.
constexpr Nanos kReplyUnread = 12 * kSecond;

uint64_t Hash(absl::string_view bytes) {
  uint64_t hash = 0xcbf29ce484222325 + bytes.size();
  for (const char c : bytes) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return hash;
}

// The bytes of a bulk, or null; false: neither.
bool ReadBulk(absl::string_view frame, bool* null, absl::string_view* bytes) {
  *null = frame == "$-1\r\n" || frame == "_\r\n";
  return *null || (!frame.empty() && frame[0] == '$' && resp::ParseText(frame, bytes));
}

bool Writes(Op op) {
  return op != Op::kGet && op != Op::kGetRange && op != Op::kMget && op != Op::kExists &&
         op != Op::kPing && op != Op::kEcho;
}

}  // namespace

std::string Oracle::Describe(uint64_t id) const {
  if (id == 0) return "a part of a transaction";
  const Request& request = requests_[id - 1];
  std::string text =
      absl::StrCat("request ", id, " (client ", request.client, ", its ", request.sequence, "th, ",
                   kOpNames[static_cast<size_t>(request.op)]);
  for (const uint32_t key : request.keys) {
    absl::StrAppend(&text, " ", cluster_->keys()->name(key), "#", key);
  }
  return text + ")";
}

void Oracle::Fail(absl::string_view what, uint64_t id) {
  net_->Fail(absl::StrCat(what, ": ", Describe(id)));
}

Oracle::LastWrite& Oracle::History::last_write(uint32_t client) {
  for (LastWrite& last : last_writes) {
    if (last.client == client) return last;
  }
  last_writes.push_back({client, 0, -1});
  return last_writes.back();
}

Oracle::History& Oracle::history(uint32_t key) {
  if (histories_.size() <= key) histories_.resize(key + 1);
  return histories_[key];
}

uint64_t Oracle::OnIssue(uint32_t client, Op op, absl::Span<const std::string> keys, bool resp3,
                         absl::string_view forged) {
  Request& request = requests_.emplace_back();
  const uint64_t id = requests_.size();
  if (sequences_.size() <= client) sequences_.resize(client + 1);
  request.client = client;
  request.sequence = ++sequences_[client];
  request.op = op;
  request.resp3 = resp3;
  request.issued_at = net_->now();
  request.forges_redirection = absl::StartsWith(forged, "MOVED ") ||
                               absl::StartsWith(forged, "ASK ") ||
                               absl::StartsWith(forged, "TRYAGAIN ");
  for (const std::string& name : keys) {
    const uint32_t key = cluster_->keys()->Intern(name);
    if (std::find(request.keys.begin(), request.keys.end(), key) != request.keys.end()) continue;
    request.keys.push_back(key);
    if (Writes(op) && op != Op::kPop && op != Op::kDel) history(key).writes.push_back(id);
  }
  request.executions.resize(request.keys.size());
  if (net_->printing()) net_->Note(absl::StrCat("issue ", Describe(id), " ", forged));
  return id;
}

void Oracle::OnDiscarded(uint64_t id) {
  Request& request = requests_[id - 1];
  ABSL_ASSERT(request.outcome == Outcome::kPending);
  ++answered_;
  request.outcome = Outcome::kNotExecuted;
  CheckNotRan(id);
}

void Oracle::OnAbandoned(uint64_t id) {
  Request& request = requests_[id - 1];
  if (request.outcome == Outcome::kPending) request.outcome = Outcome::kUnknown;
}

void Oracle::OldValues::Add(absl::string_view value, Nanos now) {
  const uint64_t hash = Hash(value);
  const auto useless = [&](const Read& read) { return read.hash == hash || read.until <= now; };
  reads_.erase(std::remove_if(reads_.begin(), reads_.end(), useless), reads_.end());
  reads_.push_back({hash, now + kReplyUnread});
}

bool Oracle::OldValues::Contains(absl::string_view value, Nanos now) const {
  const auto same = [hash = Hash(value), now](const Read& read) {
    return read.hash == hash && now < read.until;
  };
  return absl::c_any_of(reads_, same);
}

// --- what nodes do

void Oracle::OnExecuted(const Execution& execution) {
  ++executed_;
  // A node that hangs, or a slow network, has held back what was sent after ASKING, or the proxy
  // has held a script until its redirection was confirmed. Nobody can take it back, and no node can
  // tell that it is meant for an earlier move.
  if (execution.asked_too_late && execution.write) {
    CheckAskedForEarlierMove(execution);
    OnLost(0, execution.key);
  }
  // What it left there comes to light when the key is deleted where it was: the same as if the
  // delete, and all before it, had been lost.
  if (execution.uncovers) {
    History& uncovered = history(execution.key);
    for (const uint64_t write : uncovered.writes) {
      if (execution.id == 0 || write <= execution.id) uncovered.lost.insert(write);
    }
    uncovered.gone.clear();
    uncovered.any_lost = true;
  }
  // Nor does a primary know, when it goes on after a pause, that it was replaced meanwhile; who has
  // not heard of that from others may well ask it. (CheckTopology: who has heard must not.)
  if (!execution.write && (execution.asked_too_late || !execution.authoritative)) {
    history(execution.key)
        .old_values.Add(execution.stored == nullptr ? "" : execution.stored->text, net_->now());
  }
  if (execution.id == 0) {
    if (execution.command == "LPOP" && execution.reply[0] == '$' && execution.reply[1] != '-') {
      absl::string_view element;
      resp::ParseText(execution.reply, &element);
      if (!history(execution.key).gone.insert(std::string(element)).second &&
          execution.authoritative && !Lost(execution.key, LeadingId(element))) {
        Fail("an element was popped twice", LeadingId(element));
      }
    }
    return;
  }
  if (execution.id > requests_.size()) {
    return net_->Fail(absl::StrCat("a node executed a command of nobody, id ", execution.id));
  }
  Request& request = requests_[execution.id - 1];
  const auto place = std::find(request.keys.begin(), request.keys.end(), execution.key);
  if (place == request.keys.end()) return Fail("executed with a key of another", execution.id);
  uint8_t& executions = request.executions[place - request.keys.begin()];
  executions = static_cast<uint8_t>(std::min(executions + 1, 255));
  if (execution.write && executions > 1) {
    // A script that says what a moving slot's node would say, while its slot does move.
    if (request.forges_redirection && slots_move_) return;
    return Fail("executed twice", execution.id);
  }
  if (request.outcome == Outcome::kNotExecuted && execution.write) {
    return Fail("executed, though the client was told that it was not", execution.id);
  }
  LastWrite& last = history(execution.key).last_write(request.client);
  if (execution.write) {
    if (execution.authoritative && !(request.forges_redirection && slots_move_)) {
      // Nobody can end what lies unread at a node that can't be told to. If another one serves the
      // slot meanwhile, and it is back before the first one is told, it still runs there.
      // Its client may not have read yet that nothing is known of it.
      if (last.sequence >= request.sequence && request.outcome != Outcome::kDone &&
          execution.left_behind && last.node != execution.node) {
        return PutBehindWhatRan(execution.id, execution.key);
      }
      if (last.sequence >= request.sequence) {
        return Fail(
            absl::StrCat("executed after the client's ", last.sequence, "th on the same key"),
            execution.id);
      }
      last.sequence = request.sequence;
      last.node = execution.node;
    }
  } else if (last.sequence > request.sequence) {
    return;  // too late to be the answer
  }
  request.replies.push_back(Hash(execution.reply));
}

// The write takes effect now, after those that overtook it: a value shows it there, not where it
// was issued. Nothing of the others is lost by that.
void Oracle::PutBehindWhatRan(uint64_t id, uint32_t key) {
  std::vector<uint64_t>& writes = history(key).writes;
  const auto ran = [this, key](uint64_t write) {
    const Request& request = requests_[write - 1];
    return request.executions[absl::c_find(request.keys, key) - request.keys.begin()] > 0;
  };
  const auto late = absl::c_find(writes, id);
  const auto after_late = std::make_reverse_iterator(late + 1);
  std::rotate(late, late + 1, std::find_if(writes.rbegin(), after_late, ran).base());
}

// In this move the key was never missing where the slot comes from, unless that has lost its
// delete.
void Oracle::CheckAskedForEarlierMove(const Execution& execution) {
  if (execution.id == 0 || execution.id > requests_.size()) return;
  const Request& request = requests_[execution.id - 1];
  const Nanos began = cluster_->MoveBegan(cluster_->keys()->slot(execution.key));
  if (began < 0 || request.issued_at <= began || history(execution.key).any_lost) return;
  Fail("executed after ASKING at a node that does not have its key yet", execution.id);
}

void Oracle::OnRefused(uint64_t id, bool asked, absl::string_view line) {
  if (id == 0 || id > requests_.size()) return;
  Request& request = requests_[id - 1];
  const Nanos now = net_->now();
  if (request.refused_at == 0) request.refused_at = now;
  // The last one, an ASK, went stale and was not followed: it is time that bounds this.
  const Nanos told_at = request.told_to_ask_at;
  const bool dropped = told_at >= 0 && !asked && now - told_at > kAskIsStale;
  if (dropped && request.redirects > 0) --request.redirects;
  const bool ask = absl::StartsWith(line, "ASK ");
  request.told_to_ask_at = ask ? now : -1;
  if (!ask && !absl::StartsWith(line, "MOVED ")) {
    request.redirects = 0;  // waited out; it is time that bounds this
    return;
  }
  if (request.keys.size() > 1 || request.forges_redirection) return;  // of its fragments
  // A read whose refusal was lost on the way is sent once more.
  const int more = Writes(request.op) ? 1 : 2;
  if (++request.redirects > redirects_max_ + more) Fail("redirected too often", id);
}

void Oracle::OnLost(uint64_t id, uint32_t key) {
  History& lost = history(key);
  if (id != 0) {
    lost.lost.insert(id);
  } else {  // the whole key, when it had moved
    lost.lost.insert(lost.writes.begin(), lost.writes.end());
  }
  lost.gone.clear();  // what was popped may be back
  lost.any_lost = true;
}

// --- what clients get

void Oracle::OnReply(uint64_t id, absl::string_view frame, absl::string_view forged) {
  Request& request = requests_[id - 1];
  ABSL_ASSERT(request.outcome == Outcome::kPending);
  ++answered_;
  if (net_->printing()) {
    net_->Note(absl::StrCat("answer ", Describe(id), " ", absl::CHexEscape(frame.substr(0, 80))));
  }
  if (frame[0] == '-') {
    if (!TakeError(id, frame.substr(1, frame.size() - 3), forged)) return;
    if (request.outcome == Outcome::kNotExecuted) CheckNotRan(id);
    return;
  }
  request.outcome = Outcome::kDone;
  CheckDone(id, frame);
}

// False: the error stands for success (a script's own).
bool Oracle::TakeError(uint64_t id, absl::string_view line, absl::string_view forged) {
  Request& request = requests_[id - 1];
  if (absl::StartsWith(line, "MOVED ") || absl::StartsWith(line, "ASK ")) {
    Fail(absl::StrCat("the client got a redirection, ", line), id);
    return false;
  }
  if (request.op == Op::kEvalFail && line == forged) {
    // A node in trouble may have said the same without running it.
    request.outcome = Outcome::kUnknown;
    return false;
  }
  const bool script = request.op == Op::kEval || request.op == Op::kEvalFail;
  const bool of_server =
      absl::StartsWith(line, "TRYAGAIN ") || absl::StartsWith(line, "CLUSTERDOWN ") ||
      absl::StartsWith(line, "LOADING ") || absl::StartsWith(line, "MASTERDOWN ") ||
      absl::StartsWith(line, "READONLY ");
  if (absl::EndsWith(line, "(not executed)")) {
    request.outcome = Outcome::kNotExecuted;
  } else if (absl::EndsWith(line, "(outcome unknown)")) {
    request.outcome = Outcome::kUnknown;
  } else if (script && absl::StartsWith(line, "NOSCRIPT ")) {
    // A worker may have given the node the script while another's call was refused.
    request.outcome = Outcome::kNotExecuted;
  } else if (of_server) {
    // A read may have run before, and its reply have been lost.
    request.outcome = script || !Writes(request.op) ? Outcome::kUnknown : Outcome::kNotExecuted;
  } else {
    Fail(absl::StrCat("unexpected error '", line, "'"), id);
    return false;
  }
  ++error_count_;
  std::string kind(line);
  // Slot numbers would make a kind of each.
  for (char& c : kind) {
    if (c >= '0' && c <= '9') c = '#';
  }
  ++errors_[kind];
  // Part of a group of keys may be refused while the slot moves, when a later command has run. When
  // the slot comes back to the node that had refused the first of several commands, the later ones
  // run there; and of a script it can't be told any more whether that node told the truth.
  const bool came_back = std::any_of(
      request.keys.begin(), request.keys.end(),
      [this](uint32_t key) { return cluster_->CameBackLately(cluster_->keys()->slot(key)); });
  const bool overtaken = slots_move_ &&
                         (request.keys.size() > 1 || request.in_block || came_back) &&
                         absl::StrContains(line, "overtaken");
  // Nothing but the end of the move helps a transaction whose keys are on both sides.
  const bool half_moved = slots_move_ && request.in_block && absl::StartsWith(line, "TRYAGAIN ");
  // What runs beside it may run before it would be sent again; and a node that has been given the
  // script meanwhile, by another worker, can't be asked any more whether it lacked it.
  const bool no_script = absl::StartsWith(line, "NOSCRIPT ") &&
                         (HasBeside(id) || cluster_->AnyLearnedAScriptSince(request.issued_at));
  const bool unconfirmed =
      slots_move_ && script && came_back && absl::StrContains(line, "not confirmed");
  if (!errors_allowed_ && request.op != Op::kEvalFail && !overtaken && !unconfirmed &&
      !half_moved && !no_script) {
    Fail(absl::StrCat("error without a cause, '", line, "'"), id);
  }
  return true;
}

// Of the same client and slot, unanswered.
bool Oracle::HasBeside(uint64_t id) const {
  const Request& request = requests_[id - 1];
  const auto slot_of = [this](const Request& each) { return cluster_->keys()->slot(each.keys[0]); };
  return std::any_of(requests_.begin(), requests_.end(), [&](const Request& other) {
    return &other != &request && other.client == request.client &&
           other.outcome == Outcome::kPending && !other.keys.empty() &&
           slot_of(other) == slot_of(request);
  });
}

void Oracle::CheckNotRan(uint64_t id) {
  const Request& request = requests_[id - 1];
  if (!Writes(request.op)) return;  // a read that ran, and whose reply was lost, changed nothing
  for (const uint8_t executions : request.executions) {
    if (executions > 0) Fail("the client was told that it was not executed, but it was", id);
  }
}

// Of commands that carry an id: each key once, and the reply is the node's.
void Oracle::CheckRan(uint64_t id, absl::string_view frame) {
  const Request& request = requests_[id - 1];
  for (const uint8_t executions : request.executions) {
    if (executions == 0) return Fail("acknowledged, but not executed", id);
  }
  if (std::find(request.replies.begin(), request.replies.end(), Hash(frame)) ==
      request.replies.end()) {
    Fail(absl::StrCat("the reply is not the node's: ", absl::CHexEscape(frame.substr(0, 100))), id);
  }
}

void Oracle::CheckDone(uint64_t id, absl::string_view frame) {
  const Request& request = requests_[id - 1];
  const auto wrong = [&] {
    Fail(absl::StrCat("wrong reply ", absl::CHexEscape(frame.substr(0, 100))), id);
  };
  bool null = false;
  absl::string_view bytes;
  int64_t number = 0;
  switch (request.op) {
    case Op::kGet:
      if (!ReadBulk(frame, &null, &bytes)) return wrong();
      return CheckValue(id, request.keys[0], null ? nullptr : &bytes, request.client,
                        request.sequence);
    case Op::kSet:
    case Op::kEval:
    case Op::kMset:
      if (frame != "+OK\r\n") return wrong();
      return CheckRan(id, frame);
    case Op::kEvalFail:
      return wrong();
    case Op::kGetRange:
      if (!ReadBulk(frame, &null, &bytes) || null) return wrong();
      CheckTokens(id, request.keys[0], bytes, request.sequence);
      return CheckRan(id, frame);
    case Op::kAppend:
    case Op::kIncrBy:
    case Op::kExpire:
    case Op::kPush:
      if (!resp::ParseInteger(frame, &number)) return wrong();
      return CheckRan(id, frame);
    case Op::kPop:
      if (!ReadBulk(frame, &null, &bytes)) return wrong();
      if (!null) {
        const uint64_t element = LeadingId(bytes);
        if (element == 0 || element > requests_.size() ||
            requests_[element - 1].client != request.client ||
            requests_[element - 1].keys[0] != request.keys[0]) {
          return wrong();
        }
      }
      return;
    case Op::kMget: {
      resp::ElementReader reader(absl::MakeConstSpan(&frame, 1));
      resp::ArgPosition at;
      // A key may stand there twice, which the client avoids.
      if (reader.count() != static_cast<int64_t>(request.keys.size())) return wrong();
      for (const uint32_t key : request.keys) {
        if (!reader.Next(&at)) return wrong();
        if (!ReadBulk(frame.substr(at.offset, at.length), &null, &bytes)) return wrong();
        CheckValue(id, key, null ? nullptr : &bytes, request.client, request.sequence);
      }
      return;
    }
    case Op::kDel:
    case Op::kExists:
      if (!resp::ParseInteger(frame, &number) || number < 0 ||
          number > static_cast<int64_t>(request.keys.size())) {
        return wrong();
      }
      return;
    case Op::kPing:
      if (frame != "+PONG\r\n") return wrong();
      return;
    case Op::kEcho:
      if (!ReadBulk(frame, &null, &bytes) || null || bytes != absl::StrCat(id)) return wrong();
      return;
  }
}

void Oracle::CheckValue(uint64_t id, uint32_t key, const absl::string_view* value, uint32_t client,
                        uint32_t before) {
  const uint64_t seen = value == nullptr ? 0 : LeadingId(*value);
  if (value != nullptr) {
    if (seen == 0 || seen > requests_.size()) return Fail("read a value of nobody", id);
    const Request& writer = requests_[seen - 1];
    const bool wrote = std::find(writer.keys.begin(), writer.keys.end(), key) != writer.keys.end();
    if (!wrote || !Writes(writer.op)) return Fail("read a value of another key", id);
    if (writer.outcome == Outcome::kNotExecuted) {
      return Fail(absl::StrCat("read the value of what was not executed, ", Describe(seen)), id);
    }
    // What looks as if it had been refused lets an earlier one pass.
    if (writer.client == client && writer.sequence >= before && !writer.forges_redirection) {
      return Fail(absl::StrCat("read what was written later, ", Describe(seen)), id);
    }
  }
  if (cluster_->keys()->name(key)[0] == 'd') return;  // deleted without an id
  if (before != UINT32_MAX && OldReadAllowed(key, value == nullptr ? "" : *value)) return;
  const bool own = IsPrivate(key);
  const std::vector<uint64_t>& writes = history(key).writes;
  for (size_t i = writes.size(); i-- > 0;) {
    const uint64_t write = writes[i];
    const Request& writer = requests_[write - 1];
    if (!own && writer.client != client) {
      // Others' writes may have come at any time.
      if (seen == write) return;
      continue;
    }
    if (writer.sequence >= before && !(writer.forges_redirection && seen == write)) continue;
    const bool deletes = writer.op == Op::kExpire;
    if (writer.outcome != Outcome::kNotExecuted && (deletes ? value == nullptr : seen == write)) {
      return;
    }
    if (writer.outcome == Outcome::kDone && !Lost(key, write)) {
      // Of shared keys: another's write may have replaced it.
      if (!own && value != nullptr && requests_[seen - 1].client != client) return;
      return Fail(
          absl::StrCat("read ",
                       value == nullptr ? "nothing" : absl::StrCat("the value of ", Describe(seen)),
                       " after the acknowledged ", Describe(write)),
          id);
    }
  }
}

// "17;23;…": tokens of its client, in order, none missing that was acknowledged.
void Oracle::CheckTokens(uint64_t id, uint32_t key, absl::string_view text, uint32_t before) {
  const std::vector<uint64_t>& writes = history(key).writes;
  const bool old = before != UINT32_MAX && OldReadAllowed(key, text);
  size_t next = 0;
  const auto skip_to = [&](uint64_t token) {
    for (; next < writes.size() && writes[next] != token; ++next) {
      const Request& missing = requests_[writes[next] - 1];
      if (missing.sequence >= before) break;
      if (missing.outcome == Outcome::kDone && !Lost(key, writes[next]) && !old) {
        Fail(absl::StrCat("an acknowledged append is missing: ", Describe(writes[next])), id);
        return;
      }
    }
  };
  while (!text.empty()) {
    const size_t end = text.find(';');
    const uint64_t token = LeadingId(text);
    if (end == absl::string_view::npos || token == 0) return Fail("a torn token", id);
    text.remove_prefix(end + 1);
    skip_to(token);
    if (next == writes.size() || writes[next] != token || requests_[token - 1].sequence >= before ||
        requests_[token - 1].outcome == Outcome::kNotExecuted) {
      return Fail(absl::StrCat("a token that does not belong there, ", token), id);
    }
    ++next;
  }
  skip_to(0);
}

// Elements of its client, in order, none missing that was acknowledged.
void Oracle::CheckList(uint32_t key, const std::vector<std::string>& list) {
  const History& pushed = history(key);
  size_t in_order = 0;
  std::vector<uint64_t> missing;
  for (const uint64_t write : pushed.writes) {
    if (in_order < list.size() && LeadingId(list[in_order]) == write) {
      ++in_order;
    } else {
      missing.push_back(write);
    }
  }
  if (in_order < list.size()) return Fail("a list is out of order", LeadingId(list[in_order]));
  for (const uint64_t write : missing) {
    if (requests_[write - 1].outcome == Outcome::kDone && !Lost(key, write) &&
        !pushed.gone.contains(absl::StrCat(write)) && !pushed.any_lost) {
      Fail("an acknowledged element is missing", write);
    }
  }
}

void Oracle::CheckFinalState() {
  KeyTable* keys = cluster_->keys();
  for (uint32_t key = 0; key < histories_.size() && key < keys->size(); ++key) {
    const std::vector<uint64_t>& writes = histories_[key].writes;
    const int owner = cluster_->OwnerOf(keys->slot(key));
    if (writes.empty() || owner < 0) continue;
    const Value* value = cluster_->node(owner)->Find(key);
    const uint64_t last = writes.back();
    const uint32_t client = requests_[last - 1].client;
    const char kind = keys->name(key)[0];
    if (kind == 's') {
      const absl::string_view text = value == nullptr ? absl::string_view() : value->text;
      CheckValue(last, key, value == nullptr ? nullptr : &text, client, UINT32_MAX);
    } else if (kind == 'a') {
      CheckTokens(last, key, value == nullptr ? absl::string_view() : value->text, UINT32_MAX);
    } else if (kind == 'l') {
      CheckList(key, value == nullptr ? std::vector<std::string>() : value->list);
    }
  }
}

}  // namespace sim
