#include "tests/sim/sim_client.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proxy/sha1.h"
#include "resp/encoder.h"
#include "resp/views.h"

namespace sim {
namespace {

constexpr Nanos kConnectAgain = 20 * kMillisecond;
constexpr Nanos kConnectTimeout = 1 * kSecond;
constexpr Nanos kReplyMax = 5 * kSecond;  // L11
constexpr size_t kReadBytes = 64 << 10;
constexpr uint32_t kAppendsOfARound = 32;

constexpr absl::string_view kOk = "+OK\r\n";

// What a script can say to fool a proxy.
constexpr absl::string_view kForged[] = {
    "MOVED 1 10.0.0.66:6379",
    "MOVED %s 10.0.0.66:6379",
    "ASK %s 10.0.0.66:6379",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN The cluster is down",
    "LOADING Redis is loading the dataset in memory",
    "READONLY You can't write against a read only replica.",
    "MOVED 99999 x",
    "NOSCRIPT No matching script. Please use EVAL.",
};

}  // namespace

ClientProfile ClientProfile::Mixture(Random* random, const std::vector<std::string>& tags,
                                     uint32_t commands, bool tiny_buffers) {
  ClientProfile profile;
  profile.commands = commands;
  profile.tags = tags;
  profile.depth = random->Magnitude(1, tiny_buffers ? 16 : 128);
  profile.resp3 = random->Below(3) == 0;
  profile.keys = static_cast<int>(random->Magnitude(1, 8));
  profile.value_bytes_max = random->Magnitude(1, tiny_buffers ? 128 : 4096);
  if (!tiny_buffers && random->Below(4) == 0) profile.large_values = 0.02;
  profile.scripts = random->Below(3) == 0 ? 1 : 0;
  profile.forging_scripts = random->Below(6) == 0 ? 1 : 0;
  profile.lists = static_cast<int>(random->Below(3));
  profile.multi_key = static_cast<int>(random->Below(4));
  profile.reads = static_cast<int>(1 + random->Below(6));
  profile.writes = static_cast<int>(1 + random->Below(6));
  profile.shared = static_cast<int>(random->Below(3));
  profile.transactions = random->Below(3) == 0 ? 1 : 0;
  if (random->Below(4) == 0) profile.drip = tiny_buffers ? 0.05 : 0.3;
  if (random->Below(2) == 0) profile.pause = 0.2;
  if (random->Below(5) == 0) profile.slow_read = 0.2;
  if (random->Below(5) == 0) profile.leave = 0.002;
  profile.half_close = random->Below(2) == 0;
  return profile;
}

SimClient::SimClient(SimNet* net, Oracle* oracle, const io::Endpoint& host,
                     const io::Endpoint& proxy, const ClientProfile& profile)
    : net_(net),
      oracle_(oracle),
      host_(host),
      proxy_(proxy),
      profile_(profile),
      act_(net->alarms(), &SimClient::ActFired, this),
      commands_left_(profile.commands) {
  ConnectAgain();
}

SimClient::~SimClient() {
  if (stream_ != nullptr) stream_->Close();
}

void SimClient::ConnectAgain() {
  ++attempts_;
  connecting_ = net_->Connect(host_, proxy_, this);
  act_.Set(net_->now() + kConnectTimeout);
}

void SimClient::OnConnected(Connecting*, int error, Stream* stream) {
  connecting_.reset();
  if (error != 0) {
    state_ = State::kConnecting;
    act_.Set(net_->now() + kConnectAgain);
    return;
  }
  state_ = State::kOpen;
  number_ = oracle_->NewClient();
  stream_ = stream;
  stream_->set_observer(this);
  scanner_ = resp::ReplyScanner();
  write_shut_ = false;
  ended_ = reset_ = false;
  if (profile_.commands > 0) received_.clear();
  if (profile_.resp3 && profile_.commands > 0) {
    hello_due_ = true;
    resp::AppendCommand({"HELLO", "3"}, &output_);
  }
  act_.SetNoLaterThan(net_->now());
}

void SimClient::OnStream(Stream*) {
  act_.SetNoLaterThan(std::max(net_->now(), reading_paused_ ? send_after_ : read_after_));
}

void SimClient::Act() {
  if (state_ == State::kDone) return;
  if (stream_ == nullptr) return ConnectAgain();
  Read();
  if (stream_ == nullptr || state_ != State::kOpen) return;
  if (profile_.commands > 0) Fill();
  if (stream_ == nullptr) return;
  Write();
  if (stream_ == nullptr) return;
  const bool all_sent = output_head_ == output_.size() && !hello_due_ && commands_left_ == 0;
  if (!finishing_ || !all_sent || write_shut_) return;
  if (profile_.half_close) return HalfClose();
  if (expected_.empty()) Close();
}

// --- reading

void SimClient::Read() {
  if (reading_paused_) return;
  if (net_->now() < read_after_) return act_.SetNoLaterThan(read_after_);
  while (stream_ != nullptr && stream_->can_read()) {
    size_t limit = kReadBytes;
    const bool slow = net_->random()->Chance(profile_.slow_read);
    if (slow) limit = 1 + net_->random()->Below(64);
    const absl::string_view arrived = stream_->arrived().substr(0, limit);
    if (arrived.empty()) {
      char none;
      reset_ |= stream_->Read(&none, 1) < 0;
      return End();
    }
    const std::string bytes(arrived.data(), arrived.size());
    stream_->Consume(bytes.size());
    if (profile_.commands == 0) {
      received_ += bytes;
    } else {
      absl::string_view rest = bytes;
      while (!rest.empty() && stream_ != nullptr) {
        const resp::ScanResult result = scanner_.Scan(rest);
        if (result.status == resp::ScanStatus::kError) {
          net_->Fail(absl::StrCat("client ", number_, " got bytes that are no reply: ",
                                  absl::CHexEscape(bytes.substr(0, 100))));
          return Close();
        }
        received_.append(rest.data(), result.consumed);
        rest.remove_prefix(result.consumed);
        if (result.status == resp::ScanStatus::kNeedMore) break;
        const std::string frame = std::move(received_);
        received_.clear();
        TakeFrame(frame);
      }
    }
    if (slow) {
      read_after_ = net_->now() + net_->random()->Between(1, profile_.slow_read_max);
      waiting_since_ = std::max(waiting_since_, read_after_);
      return act_.SetNoLaterThan(read_after_);
    }
  }
}

void SimClient::TakeFrame(absl::string_view frame) {
  if (hello_due_) {
    hello_due_ = false;
    if (frame[0] != '%') {
      net_->Fail(absl::StrCat("client ", number_, ": HELLO 3 was answered ",
                              absl::CHexEscape(frame.substr(0, 100))));
    }
    return;
  }
  if (expected_.empty()) {
    return net_->Fail(absl::StrCat("client ", number_, " got a reply that it did not ask for: ",
                                   absl::CHexEscape(frame.substr(0, 100))));
  }
  const Expected expected = std::move(expected_.front());
  expected_.pop_front();
  ++answered_;
  Nanos since = std::max(waiting_since_, expected.written_at);
  // The hold time begins with a refusal, which may have taken a whole reply time.
  const Nanos refused_at = oracle_->refused_at(IdOf(expected));
  if (refused_at > since) since = std::min(refused_at, since + kReplyMax);
  const Nanos took = net_->now() - since - stalled_;
  if (profile_.answer_max != 0 && expected.written_at != 0 && took > profile_.answer_max) {
    net_->Fail(absl::StrCat("the answer took ", static_cast<double>(took) / kSecond,
                            " s: ", oracle_->Describe(IdOf(expected))));
  }
  waiting_since_ = net_->now();
  stalled_ = 0;
  if (!expected.block.empty()) return TakeExec(expected, frame);
  if (expected.id != 0) return oracle_->OnReply(expected.id, frame, expected.forged);
  if (frame == expected.text) return;
  // A WATCH may fail; without it EXEC may do what it wants.
  if (expected.text == kOk && frame[0] == '-' && expected.watched) return;
  net_->Fail(absl::StrCat("client ", number_, " got ", absl::CHexEscape(frame.substr(0, 100)),
                          " instead of ", absl::CHexEscape(expected.text)));
}

void SimClient::TakeExec(const Expected& expected, absl::string_view frame) {
  const bool null = frame == "*-1\r\n" || frame == "_\r\n";
  if (null && expected.watched) {
    for (const uint64_t id : expected.block) oracle_->OnDiscarded(id);
    return;
  }
  if (frame[0] == '-') {
    for (const uint64_t id : expected.block) oracle_->OnReply(id, frame);
    return;
  }
  resp::ElementReader reader(absl::MakeConstSpan(&frame, 1));
  if (reader.count() != static_cast<int64_t>(expected.block.size())) {
    return net_->Fail(absl::StrCat("client ", number_, ": EXEC of ", expected.block.size(),
                                   " commands gave ", absl::CHexEscape(frame.substr(0, 100))));
  }
  resp::ArgPosition at;
  for (const uint64_t id : expected.block) {
    reader.Next(&at);
    oracle_->OnReply(id, frame.substr(at.offset, at.length));
  }
}

// The proxy has ended the connection.
void SimClient::End() {
  ended_ = true;
  stream_->Close();
  // In the middle of a reply that it could not complete, it must; in between, all are answered.
  if (!expected_.empty() && scanner_.idle() && !reset_ && !may_be_cut_off_ &&
      !profile_.may_be_cut_off) {
    net_->Fail(absl::StrCat(
        "client ", number_, " was closed with ", expected_.size(),
        " requests unanswered, the first: ", oracle_->Describe(IdOf(expected_.front()))));
  }
  Left();
}

// The stream is closed.
void SimClient::Left() {
  stream_ = nullptr;
  for (const Expected& expected : expected_) {
    if (expected.id != 0) oracle_->OnAbandoned(expected.id);
    for (const uint64_t id : expected.block) oracle_->OnAbandoned(id);
  }
  expected_.clear();
  output_.clear();
  output_head_ = 0;
  hello_due_ = false;
  state_ = State::kDone;
  if (profile_.commands == 0 || (finishing_ && commands_left_ == 0)) return;
  state_ = State::kConnecting;
  act_.Set(net_->now() + kConnectAgain);
}

// --- commands

void SimClient::AddCommands(uint32_t more) {
  commands_left_ += more;
  profile_.commands += more;
  if (state_ == State::kDone) state_ = State::kConnecting;
  if (connecting_ == nullptr) act_.SetNoLaterThan(net_->now());
}

std::string SimClient::DescribeState() const {
  std::string text =
      absl::StrCat("client ", number_, stream_ != nullptr ? " connected" : " not connected",
                   connecting_ != nullptr ? ", connecting" : "", ", ", commands_left_, " to send, ",
                   output_.size() - output_head_, " bytes to write, ", expected_.size(), " owed");
  if (stream_ != nullptr) absl::StrAppend(&text, ", ", stream_->unsent(), " bytes on the way");
  if (!expected_.empty()) absl::StrAppend(&text, ", first ", DescribeFirst());
  return text;
}

void SimClient::FinishUp() {
  finishing_ = true;
  act_.SetNoLaterThan(net_->now());
}

void SimClient::Behave() {
  profile_.drip = profile_.pause = profile_.slow_read = profile_.leave = 0;
  profile_.forging_scripts = 0;
  read_after_ = send_after_ = 0;
  act_.Set(net_->now());
}

std::string SimClient::Key(char kind) {
  const std::string& tag = profile_.tags[net_->random()->Below(profile_.tags.size())];
  const uint64_t number = net_->random()->Below(static_cast<uint64_t>(profile_.keys));
  if (kind == 'S') return absl::StrCat("S", number, "{", tag, "}");
  return absl::StrCat(std::string(1, kind), number_, ".", number, "{", tag, "}");
}

// Others after a while, lest the texts grow without end.
std::string SimClient::AppendKey() {
  return absl::StrCat("a", appends_ / kAppendsOfARound, "-", Key('.'));
}

std::string SimClient::ValueOf(uint64_t id) {
  size_t most = profile_.value_bytes_max;
  if (net_->random()->Chance(profile_.large_values)) most = profile_.large_bytes_max;
  std::string value = absl::StrCat(id, ":");
  value.append(net_->random()->Below(most), static_cast<char>('a' + id % 26));
  return value;
}

void SimClient::Issue(Op op, std::vector<std::string> keys, std::vector<std::string> args,
                      std::string forged) {
  const uint64_t id = Append(op, std::move(keys), std::move(args), forged);
  Expected& expected = Expect();
  expected.id = id;
  expected.forged = std::move(forged);
}

SimClient::Expected& SimClient::Expect() {
  if (expected_.empty()) waiting_since_ = net_->now();
  return expected_.emplace_back();
}

// One to four commands on keys of one tag.
void SimClient::AddTransaction() {
  Random* random = net_->random();
  const uint64_t tag = random->Below(profile_.tags.size());
  const auto key = [&](char kind) {
    const uint64_t number = random->Below(static_cast<uint64_t>(profile_.keys));
    return absl::StrCat(std::string(1, kind), number_, ".", number, "{", profile_.tags[tag], "}");
  };
  const bool watched = random->Below(3) == 0;
  if (watched) {
    const std::string name = key('s');
    resp::AppendCommand({"WATCH", name}, &output_);
    Expected& watch = Expect();
    watch.text = kOk;
    watch.watched = true;
  }
  resp::AppendCommand({"MULTI"}, &output_);
  Expect().text = kOk;
  const uint64_t count = 1 + random->Below(4);
  const bool one_key = random->Below(2) == 0;
  const std::string string_key = key('s');
  std::vector<uint64_t> block;
  for (uint64_t i = 0; i < count; ++i) {
    const std::string name = one_key ? string_key : key('s');
    switch (random->Below(one_key ? 3 : 5)) {
      case 0:
        block.push_back(Append(Op::kGet, {name}, {"GET", name}, ""));
        break;
      case 3: {
        const std::string counter = key('c');
        block.push_back(Append(Op::kIncrBy, {counter}, {"INCRBY", counter, "<id>"}, ""));
        break;
      }
      case 4: {
        const std::string list = key('l');
        block.push_back(Append(Op::kPush, {list}, {"RPUSH", list, "<id>"}, ""));
        break;
      }
      default:
        block.push_back(Append(Op::kSet, {name}, {"SET", name, "<value>"}, ""));
        break;
    }
    oracle_->SetInBlock(block.back());
    Expect().text = "+QUEUED\r\n";
  }
  resp::AppendCommand({"EXEC"}, &output_);
  Expected& exec = Expect();
  exec.block = std::move(block);
  exec.watched = watched;
}

// Puts it into the output; returns its id.
uint64_t SimClient::Append(Op op, std::vector<std::string> keys, std::vector<std::string> args,
                           std::string forged) {
  const uint64_t id = oracle_->OnIssue(number_, op, keys, profile_.resp3, forged);
  std::vector<std::string> filled;
  for (std::string& arg : args) {
    if (arg == "<value>") arg = ValueOf(id);
    if (arg == "<id>") arg = absl::StrCat(id);
    if (arg == "<token>") arg = absl::StrCat(id, ";");
    if (arg == "<negative>") arg = absl::StrCat("-", id);
    if (arg == "<range>") arg = absl::StrCat(1'000'000'000 + id);
  }
  const std::vector<absl::string_view> views(args.begin(), args.end());
  resp::AppendCommand(views, &output_);
  return id;
}

void SimClient::AddCommand() {
  Random* random = net_->random();
  const ClientProfile& p = profile_;
  int64_t pick = random->Between(0, p.reads + p.writes + p.lists + p.scripts + p.forging_scripts +
                                        p.multi_key + p.local + p.shared + p.transactions - 1);
  const auto is = [&pick](int weight) {
    pick -= weight;
    return pick < 0;
  };
  if (is(p.reads)) {
    if (random->Below(3) == 0) {
      const std::string key = AppendKey();
      return Issue(Op::kGetRange, {key}, {"GETRANGE", key, "0", "<range>"});
    }
    const std::string key = Key('s');
    return Issue(Op::kGet, {key}, {"GET", key});
  }
  if (is(p.writes)) {
    switch (random->Below(8)) {
      case 0: {
        ++appends_;
        const std::string key = AppendKey();
        return Issue(Op::kAppend, {key}, {"APPEND", key, "<token>"});
      }
      case 1: {
        const std::string key = Key('c');
        return Issue(Op::kIncrBy, {key}, {"INCRBY", key, "<id>"});
      }
      case 2: {
        const std::string key = Key('s');
        return Issue(Op::kExpire, {key}, {"EXPIRE", key, "<negative>"});
      }
      default: {
        const std::string key = Key('s');
        return Issue(Op::kSet, {key}, {"SET", key, "<value>"});
      }
    }
  }
  if (is(p.lists)) {
    const std::string key = Key('l');
    if (random->Below(5) < 2) return Issue(Op::kPush, {key}, {"RPUSH", key, "<id>"});
    return Issue(Op::kPop, {key}, {"LPOP", key});
  }
  if (is(p.scripts)) {
    const std::string key = Key('s');
    if (random->Below(2) == 0) {
      return Issue(Op::kEval, {key},
                   {"EVALSHA", proxy::Sha1Hex(kNamedScripts[0]), "1", key, "<value>"});
    }
    return Issue(Op::kEval, {key}, {"EVAL", "set", "1", key, "<value>"});
  }
  if (is(p.forging_scripts)) {
    const std::string key = Key('s');
    std::string text(kForged[random->Below(std::size(kForged))]);
    const size_t at = text.find("%s");
    if (at != std::string::npos) text.replace(at, 2, absl::StrCat(cluster::SlotOf(key)));
    const std::string script = absl::StrCat("fail ", text);
    if (script == kNamedScripts[1] && random->Below(2) == 0) {
      return Issue(Op::kEvalFail, {key}, {"EVALSHA", proxy::Sha1Hex(script), "1", key, "<value>"},
                   text);
    }
    return Issue(Op::kEvalFail, {key}, {"EVAL", script, "1", key, "<value>"}, text);
  }
  if (is(p.multi_key)) {
    const int count = static_cast<int>(random->Magnitude(1, 12));
    const bool one_slot = random->Below(3) == 0;
    const uint64_t what = random->Below(4);
    const char kind = what < 2 ? 's' : 'd';
    std::vector<std::string> keys;
    for (int i = 0; i < count; ++i) {
      std::string key = Key(kind);
      if (one_slot && !keys.empty()) {
        key = key.substr(0, key.find('{')) + keys[0].substr(keys[0].find('{'));
      }
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
    }
    std::vector<std::string> args;
    if (what == 0) {
      args = {"MSET"};
      for (const std::string& key : keys) {
        args.push_back(key);
        args.push_back("<value>");
      }
      return Issue(Op::kMset, keys, args);
    }
    args = keys;
    if (what == 1) {
      args.insert(args.begin(), "MGET");
      return Issue(Op::kMget, keys, args);
    }
    if (random->Below(2) == 0) return Issue(Op::kSet, {keys[0]}, {"SET", keys[0], "<value>"});
    args.insert(args.begin(), what == 2 ? "DEL" : "EXISTS");
    return Issue(what == 2 ? Op::kDel : Op::kExists, keys, args);
  }
  if (is(p.transactions)) return AddTransaction();
  if (is(p.local)) {
    if (random->Below(2) == 0) return Issue(Op::kPing, {}, {"PING"});
    return Issue(Op::kEcho, {}, {"ECHO", "<id>"});
  }
  const std::string key = Key('S');
  if (random->Below(2) == 0) return Issue(Op::kGet, {key}, {"GET", key});
  Issue(Op::kSet, {key}, {"SET", key, "<value>"});
}

void SimClient::Fill() {
  if (write_shut_) return;
  if (net_->now() < send_after_) return act_.SetNoLaterThan(send_after_);
  while (commands_left_ > 0 && expected_.size() < profile_.depth &&
         output_.size() - output_head_ < (256 << 10)) {
    if (net_->random()->Chance(profile_.leave)) {
      --commands_left_;
      return net_->random()->Below(2) == 0 ? Close() : Abort();
    }
    --commands_left_;
    AddCommand();
    if (net_->random()->Chance(profile_.pause)) {
      send_after_ = net_->now() + net_->random()->Between(1, profile_.pause_max);
      return act_.SetNoLaterThan(send_after_);
    }
  }
}

void SimClient::Write() {
  while (output_head_ < output_.size()) {
    size_t n = output_.size() - output_head_;
    const bool drip = net_->random()->Chance(profile_.drip);
    if (drip) n = 1 + net_->random()->Below(std::min<size_t>(n, 3));
    const ssize_t result = stream_->Write(output_.data() + output_head_, n);
    if (result == -EAGAIN) break;
    if (result < 0) {
      // There may be replies to read still, and then the end.
      reset_ = true;
      output_.clear();
      output_head_ = 0;
      return;
    }
    output_head_ += static_cast<size_t>(result);
    if (drip && output_head_ < output_.size()) {
      return act_.SetNoLaterThan(net_->now() + net_->random()->Between(1, 100 * kMicrosecond));
    }
  }
  if (output_head_ == output_.size()) {
    output_.clear();
    output_head_ = 0;
    for (auto it = expected_.rbegin(); it != expected_.rend() && it->written_at == 0; ++it) {
      it->written_at = net_->now();
    }
  }
}

// --- by hand

void SimClient::Send(absl::string_view bytes) {
  output_.append(bytes.data(), bytes.size());
  act_.SetNoLaterThan(net_->now());
}

void SimClient::SendCommand(absl::string_view words) {
  const std::vector<absl::string_view> args = absl::StrSplit(words, ' ');
  resp::AppendCommand(args, &output_);
  act_.SetNoLaterThan(net_->now());
}

void SimClient::PauseReading(bool pause) {
  reading_paused_ = pause;
  act_.SetNoLaterThan(net_->now());
}

void SimClient::HalfClose() {
  if (stream_ == nullptr) return;
  write_shut_ = true;
  stream_->ShutdownWrite();
}

void SimClient::Close() {
  if (stream_ == nullptr) return;
  stream_->Close();
  Left();
}

void SimClient::Abort() {
  if (stream_ == nullptr) return;
  stream_->Abort();
  Left();
}

}  // namespace sim
