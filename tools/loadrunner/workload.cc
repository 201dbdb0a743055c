#include "tools/loadrunner/workload.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "resp/views.h"

namespace loadrunner {
namespace {

constexpr size_t kPushesPerList = 50;
constexpr size_t kMGetKeysMax = 4;

// splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
uint64_t Mix(uint64_t* state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

bool TakeNumber(absl::string_view digits, uint32_t* number) {
  int64_t value = 0;
  if (!resp::ParseDecimal(digits, &value) || value < 0 || value > UINT32_MAX) return false;
  *number = static_cast<uint32_t>(value);
  return true;
}

bool IsNull(absl::string_view frame) {
  return frame == "_\r\n" || frame == "$-1\r\n" || frame == "*-1\r\n";
}

// The text of an error reply; false if it is none.
bool TakeError(absl::string_view frame, absl::string_view* text) {
  if (frame[0] != '-' && frame[0] != '!') return false;
  if (frame[0] == '!') frame.remove_prefix(frame.find('\n'));
  frame.remove_prefix(1);
  *text = absl::StripSuffix(frame, "\r\n");
  return true;
}

}  // namespace

// --- Workload

Workload::Workload(const Plan& plan, Report* report)
    : plan_(plan), report_(report), random_(plan.nonce), by_tag_(plan.tags) {
  const size_t each = std::max<size_t>(plan.keys / std::max<size_t>(plan.writers, 1), 3) / 3;
  lists_per_writer_ = each;
  keys_.resize(plan.writers * 2 * each);
  for (size_t i = 0; i < keys_.size(); ++i) {
    Key& key = keys_[i];
    key.is_counter = i % 2 == 1;
    key.tag = static_cast<uint32_t>(Random(plan.tags));
    key.name = absl::StrFormat("%s:{%d}:%08x:%d:%d", key.is_counter ? "c" : "r", key.tag,
                               plan.nonce, i / (2 * each), i);
    by_tag_[key.tag].push_back(&key);
  }
}

std::vector<Key*> Workload::KeysOfWriter(size_t writer) {
  const size_t each = 2 * lists_per_writer_;
  std::vector<Key*> keys;
  for (size_t i = writer * each; i < (writer + 1) * each; ++i) keys.push_back(&keys_[i]);
  return keys;
}

std::shared_ptr<List> Workload::NewList(size_t writer) {
  auto list = std::make_shared<List>();
  list->tag = static_cast<uint32_t>(Random(plan_.tags));
  list->name = absl::StrFormat("l:{%d}:%08x:%d:%d", list->tag, plan_.nonce, writer, lists_++);
  return list;
}

std::string Workload::ValueOf(const Key& key, uint32_t number) const {
  uint64_t state = uint64_t{plan_.nonce} << 32 ^ uint64_t { number } << 20 ^
                   static_cast<uint64_t>(&key - keys_.data());
  const size_t spread = plan_.value_bytes_max - plan_.value_bytes_min + 1;
  const size_t bytes = plan_.value_bytes_min + Mix(&state) % spread;
  std::string value = absl::StrCat(key.name, ":", number, ":");
  value.reserve(bytes);
  while (value.size() < bytes) {
    uint64_t word = Mix(&state);
    for (int i = 0; i < 10 && value.size() < bytes; ++i, word >>= 6) {
      value += static_cast<char>('0' + (word & 63));
    }
  }
  return value;
}

bool Workload::NumberOf(const Key& key, absl::string_view value, uint32_t* number) const {
  absl::string_view rest = value;
  if (!absl::ConsumePrefix(&rest, key.name) || !absl::ConsumePrefix(&rest, ":")) return false;
  return TakeNumber(rest.substr(0, rest.find(':')), number) && value == ValueOf(key, *number);
}

void Workload::JudgeIncrement(Key* key, uint32_t value, absl::Time now) {
  const uint32_t least = key->base + 1;
  const uint32_t most = least + key->unknown + key->detached;
  key->base = value;
  key->unknown = 0;
  if (value < least) {
    Find(Finding::kLost, key->name, value, least, "INCR's reply", now);
    ++key->losses;
    key->floor = value;
  } else if (value > most) {
    Find(Finding::kDuplicated, key->name, value, most, "INCR's reply", now);
  }
  key->floor = std::max(key->floor, value);
}

void Workload::JudgeRead(const Op& op, const Op::Read& read, uint32_t found, absl::Time now) {
  Key* const key = read.key;
  if (key->refused.contains(found)) {
    Find(Finding::kWrong, key->name, found, key->base, "a refused write ran", now);
  }
  if (!op.own) {
    if (found > key->sent) {
      Find(key->is_counter ? Finding::kDuplicated : Finding::kWrong, key->name, found, key->sent,
           "never sent", now);
    } else if (key->losses != read.losses) {
      return;
    } else if (found < read.floor) {
      Find(Finding::kStale, key->name, found, read.floor, "a reader's", now);
      ++key->losses;
      if (key->floor == read.floor) key->floor = found;
    } else {
      key->floor = std::max(key->floor, found);
    }
    return;
  }
  // All earlier writes of this connection are settled, and none of the later ones may have run.
  const uint32_t most = key->is_counter ? key->base + key->unknown + key->detached : op.number;
  if (found < key->base) {
    Find(op.last ? Finding::kLost : Finding::kStale, key->name, found, key->base, "the writer's",
         now);
    ++key->losses;
    key->floor = found;
  } else if (found > most) {
    Find(key->is_counter ? Finding::kDuplicated : Finding::kReordered, key->name, found, most,
         "the writer's", now);
  }
  key->base = found;
  key->unknown = 0;
  key->floor = std::max(key->floor, found);
}

void Workload::JudgeList(const List& list, const std::vector<absl::string_view>& elements,
                         absl::Time now) {
  std::vector<bool> seen(list.pushes.size());
  uint32_t last = 0;
  for (const absl::string_view element : elements) {
    absl::string_view rest;
    uint32_t number = 0;
    if (!resp::ParseText(element, &rest) || !absl::ConsumePrefix(&rest, list.name) ||
        !absl::ConsumePrefix(&rest, ":") || !TakeNumber(rest, &number) || number == 0 ||
        number > list.pushes.size()) {
      Find(Finding::kWrong, list.name, number, list.pushes.size(), "not an element", now);
      continue;
    }
    const Outcome outcome = list.pushes[number - 1];
    if (outcome == Outcome::kRefused) {
      Find(Finding::kWrong, list.name, number, last + 1, "a refused write ran", now);
    } else if (seen[number - 1]) {
      Find(Finding::kDuplicated, list.name, number, last + 1, "an element", now);
    } else if (number < last && outcome != Outcome::kDetached) {
      Find(Finding::kReordered, list.name, number, last + 1, "an element", now);
    }
    seen[number - 1] = true;
    if (outcome != Outcome::kDetached) last = std::max(last, number);
  }
  for (uint32_t i = 0; i < seen.size(); ++i) {
    if (!seen[i] && list.pushes[i] == Outcome::kDone) {
      Find(Finding::kLost, list.name, 0, i + 1, "an element", now);
    }
  }
}

// --- Actor: commands

Actor::Actor(Workload* workload, Role role, size_t writer)
    : workload_(workload), role_(role), writer_(writer) {
  if (role == Role::kReader) return;
  keys_ = workload->KeysOfWriter(writer);
  for (size_t i = 0; i < workload->lists_per_writer(); ++i) {
    lists_.push_back(workload->NewList(writer));
  }
}

void Actor::BeginVerify() {
  verifying_ = true;
  to_verify_.assign(keys_.begin(), keys_.end());
  for (const std::shared_ptr<List>& list : lists_) ranges_.push_back(list);
}

bool Actor::Next(Op* op, std::string* out) {
  *op = Op();
  if (!unlinks_.empty()) {
    op->type = Op::Type::kUnlink;
    op->list = std::move(unlinks_.front());
    unlinks_.pop_front();
    resp::AppendCommand({"UNLINK", op->list->name}, out);
  } else if (!ranges_.empty()) {
    op->type = Op::Type::kRange;
    op->list = std::move(ranges_.front());
    ranges_.pop_front();
    resp::AppendCommand({"LRANGE", op->list->name, "0", "-1"}, out);
  } else if (!verifying_) {
    role_ == Role::kWriter ? NextWrite(op, out) : NextRead(op, out);
  } else if (!to_verify_.empty()) {
    Key* const key = to_verify_.front();
    to_verify_.pop_front();
    op->own = op->last = true;
    op->number = key->sent;
    op->reads = {{key, 0, 0}};
    resp::AppendCommand({"GET", key->name}, out);
  } else {
    return false;
  }
  return true;
}

void Actor::NextWrite(Op* op, std::string* out) {
  const size_t dice = workload_->Random(10);
  if (dice < 3) {
    const size_t which = workload_->Random(lists_.size());
    op->type = Op::Type::kPush;
    op->list = lists_[which];
    op->list->pushes.push_back(Outcome::kPending);
    op->number = static_cast<uint32_t>(op->list->pushes.size());
    const std::string element = absl::StrCat(op->list->name, ":", op->number);
    resp::AppendCommand({"RPUSH", op->list->name, element}, out);
    if (op->number < kPushesPerList) return;
    ranges_.push_back(std::exchange(lists_[which], workload_->NewList(writer_)));
    return;
  }
  Key* const key = keys_[workload_->Random(keys_.size())];
  op->reads = {{key, 0, 0}};
  if (dice == 9) {
    op->own = true;
    op->number = key->sent;
    resp::AppendCommand({"GET", key->name}, out);
    return;
  }
  op->number = ++key->sent;
  if (key->is_counter) {
    op->type = Op::Type::kIncrement;
    if (workload_->IncrementByScript()) {
      resp::AppendCommand({"EVAL", "return redis.call('INCR', KEYS[1])", "1", key->name}, out);
    } else {
      resp::AppendCommand({"INCR", key->name}, out);
    }
  } else {
    op->type = Op::Type::kSet;
    resp::AppendCommand({"SET", key->name, workload_->ValueOf(*key, op->number)}, out);
  }
}

void Actor::NextRead(Op* op, std::string* out) {
  const auto add = [op](Key* key) { op->reads.push_back({key, key->floor, key->losses}); };
  add(workload_->AnyKey());
  if (workload_->Random(5) != 0) {
    resp::AppendCommand({"GET", op->reads[0].key->name}, out);
    return;
  }
  op->type = Op::Type::kMGet;
  // Half of them within one slot, which stays one command until the slot is moved.
  const bool one_slot = workload_->Random(2) == 0;
  for (size_t more = workload_->Random(kMGetKeysMax); more > 0; --more) {
    add(one_slot ? workload_->AnyKeyWithTag(op->reads[0].key->tag) : workload_->AnyKey());
  }
  std::vector<absl::string_view> args = {"MGET"};
  for (const Op::Read& read : op->reads) args.push_back(read.key->name);
  resp::AppendCommand(args, out);
}

// --- Actor: replies

void Actor::OnReply(const Op& op, absl::string_view frame, std::deque<Op>* later, absl::Time now) {
  absl::string_view text;
  if (TakeError(frame, &text)) return OnError(op, text, now);
  int64_t value = 0;
  switch (op.type) {
    case Op::Type::kHello:
    case Op::Type::kUnlink:
      return;
    case Op::Type::kSet:
      if (frame == "+OK\r\n") return Settle(op, Outcome::kDone);
      break;
    case Op::Type::kPush:
      if (resp::ParseInteger(frame, &value)) return Settle(op, Outcome::kDone);
      break;
    case Op::Type::kIncrement:
      if (!resp::ParseInteger(frame, &value)) break;
      return workload_->JudgeIncrement(op.reads[0].key, static_cast<uint32_t>(value), now);
    case Op::Type::kGet:
      return OnFound(op, op.reads[0], frame, later, now);
    case Op::Type::kRange:
      if (frame[0] != '*') break;
      return OnList(op, frame, now);
    case Op::Type::kMGet: {
      const std::vector<absl::string_view> elements = resp::ElementsOf(frame);
      if (frame[0] != '*' || elements.size() != op.reads.size()) break;
      for (size_t i = 0; i < elements.size(); ++i) {
        OnFound(op, op.reads[i], elements[i], later, now);
      }
      return;
    }
  }
  workload_->report()->OnFinding(
      Finding::kWrong, op.list ? op.list->name : op.reads[0].key->name, 0, 0,
      absl::StrCat("not a reply to this command: ", frame.substr(0, 60)), now);
}

void Actor::OnFound(const Op& op, const Op::Read& read, absl::string_view frame,
                    std::deque<Op>* later, absl::Time now) {
  uint32_t found = 0;
  absl::string_view value;
  if (!IsNull(frame) && !(resp::ParseText(frame, &value) && frame[0] == '$' &&
                          (read.key->is_counter ? TakeNumber(value, &found)
                                                : workload_->NumberOf(*read.key, value, &found)))) {
    workload_->report()->OnFinding(Finding::kWrong, read.key->name, 0, read.key->sent,
                                   absl::StrCat("not its value: ", frame.substr(0, 80)), now);
    return;
  }
  workload_->JudgeRead(op, read, found, now);
  if (op.last && workload_->report()->clean()) {
    auto key = std::make_shared<List>();
    key->name = read.key->name;
    key->tag = read.key->tag;
    unlinks_.push_back(std::move(key));
  }
  // Reads of one key on one connection run in order.
  for (Op& next : *later) {
    for (Op::Read& again : next.reads) {
      if (again.key != read.key || again.losses != read.losses) continue;
      again.floor = std::max(again.floor, found);
    }
  }
}

void Actor::OnList(const Op& op, absl::string_view frame, absl::Time now) {
  workload_->JudgeList(*op.list, resp::ElementsOf(frame), now);
  if (workload_->report()->clean()) unlinks_.push_back(op.list);
}

void Actor::OnError(const Op& op, absl::string_view text, absl::Time now) {
  workload_->report()->OnError(text, TagsOf(op), op.is_write(), op.sent, now);
  if (absl::StartsWith(text, "MOVED ") || absl::StartsWith(text, "ASK ")) {
    workload_->report()->OnFinding(Finding::kWrong, op.list ? op.list->name : "", 0, 0,
                                   absl::StrCat("a raw redirection: ", text), now);
  }
  const bool unknown = absl::EndsWith(text, "(outcome unknown)");
  if (unknown) workload_->report()->OnUnknownOutcome();
  if (op.is_write()) {
    Settle(op, unknown ? Outcome::kUnknown : Outcome::kRefused);
  } else {
    Retry(op);
  }
}

void Actor::OnDetached(const Op& op) {
  workload_->report()->OnUnknownOutcome();
  if (op.is_write()) {
    Settle(op, Outcome::kDetached);
  } else {
    Retry(op);
  }
}

void Actor::Settle(const Op& op, Outcome outcome) {
  if (op.type == Op::Type::kPush) {
    op.list->pushes[op.number - 1] = outcome;
    return;
  }
  if (op.type == Op::Type::kUnlink) return;  // what is left of it disturbs nobody
  Key* const key = op.reads[0].key;
  if (key->is_counter) {
    if (outcome == Outcome::kUnknown) ++key->unknown;
    if (outcome == Outcome::kDetached) ++key->detached;
  } else if (outcome == Outcome::kDone) {
    key->base = op.number;
    key->floor = std::max(key->floor, key->base);
  } else if (outcome == Outcome::kRefused) {
    key->refused.insert(op.number);
  }
}

// What must be read, and was not, is read again.
void Actor::Retry(const Op& op) {
  if (op.type == Op::Type::kRange) ranges_.push_back(op.list);
  if (op.last) to_verify_.push_back(op.reads[0].key);
}

std::string TagsOf(const Op& op) {
  std::string tags = "[";
  if (op.list) absl::StrAppend(&tags, op.list->tag);
  for (size_t i = 0; i < op.reads.size(); ++i) {
    absl::StrAppend(&tags, op.list || i > 0 ? "," : "", op.reads[i].key->tag);
  }
  return tags += "]";
}

}  // namespace loadrunner
