#include "proxy/node_reports.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proxy/args.h"
#include "proxy/every_node.h"
#include "resp/views.h"

namespace proxy {
namespace {

// A small reply, taken apart.
struct Value {
  char type = '_';
  std::string text;             // of a simple type: its line; of a bulk: its bytes
  std::vector<Value> elements;  // of a map, keys and values alternate
};

constexpr int kDepthMax = 8;

bool IsAggregate(char type) { return type == '*' || type == '%' || type == '~'; }

// False: too deep, or no value.
bool Parse(absl::string_view frame, int depth, Value* value) {
  if (frame.size() < 3 || depth > kDepthMax) return false;
  value->type = frame[0];
  if (resp::IsNull(frame)) {
    value->type = '_';
    return true;
  }
  if (IsAggregate(frame[0])) {
    for (const absl::string_view element : resp::ElementsOf(frame)) {
      value->elements.emplace_back();
      if (!Parse(element, depth + 1, &value->elements.back())) return false;
    }
    return true;
  }
  absl::string_view text;
  if (resp::ParseText(frame, &text)) {
    value->text = std::string(text);
  } else {
    value->text = std::string(frame.substr(1, frame.size() - 3));
  }
  return true;
}

void Write(const Value& value, resp::Protocol protocol, std::string* out) {
  resp::Encoder encoder(protocol, out);
  if (value.type == '_') return encoder.Null();
  if (IsAggregate(value.type)) {
    const auto count = static_cast<int64_t>(value.elements.size());
    if (value.type == '%') {
      encoder.Map(count / 2);
    } else if (value.type == '~') {
      encoder.Set(count);
    } else {
      encoder.Array(count);
    }
    for (const Value& element : value.elements) Write(element, protocol, out);
    return;
  }
  if (value.type == '$') return encoder.Bulk(value.text);
  if (value.type == '=') return encoder.Verbatim("txt", value.text);
  absl::StrAppend(out, absl::string_view(&value.type, 1), value.text, "\r\n");
}

int64_t Number(const Value& value) {
  int64_t number = 0;
  return value.type == ':' && absl::SimpleAtoi(value.text, &number) ? number : 0;
}

Value NumberValue(int64_t number) {
  Value value;
  value.type = ':';
  value.text = absl::StrCat(number);
  return value;
}

// What all of these have in common.
class Report : public EveryNode {
 public:
  Report(const cluster::CommandSpec& command, io::Rope frame)
      : EveryNode(command, Audience::kPrimaries, std::move(frame)) {}

 protected:
  virtual Value Unite(absl::Span<Value> values, absl::Span<Ask> answered) = 0;

  void Merge(Step* step, absl::Span<Ask> answered) override {
    std::vector<Value> values(answered.size());
    for (size_t i = 0; i < answered.size(); ++i) {
      if (!Parse(answered[i].reply.Flatten(), 0, &values[i])) {
        return step->AnswerError(kBadReplyError);
      }
    }
    if (values.empty()) return step->AnswerError(kBadReplyError);
    std::string reply;
    Write(Unite(absl::MakeSpan(values), answered), step->protocol, &reply);
    step->Answer(reply);
  }
};

std::vector<Value> Joined(absl::Span<Value> values) {
  std::vector<Value> all;
  for (Value& value : values) {
    for (Value& element : value.elements) all.push_back(std::move(element));
  }
  return all;
}

int64_t Field(const Value& entry, size_t i) {
  return i < entry.elements.size() ? Number(entry.elements[i]) : 0;
}

// SLOWLOG GET [count]: the newest first.
class SlowLog final : public Report {
 public:
  SlowLog(const cluster::CommandSpec& command, io::Rope frame, int64_t count)
      : Report(command, std::move(frame)), count_(count) {}

 private:
  Value Unite(absl::Span<Value> values, absl::Span<Ask>) override {
    Value united;
    united.type = '*';
    united.elements = Joined(values);
    std::stable_sort(united.elements.begin(), united.elements.end(),
                     [](const Value& a, const Value& b) { return Field(a, 1) > Field(b, 1); });
    if (count_ >= 0 && united.elements.size() > static_cast<size_t>(count_)) {
      united.elements.resize(static_cast<size_t>(count_));
    }
    return united;
  }
  const int64_t count_;  // negative: all
};

// LATENCY HISTORY event: pairs of time and latency, the oldest first.
class LatencyHistory final : public Report {
 public:
  using Report::Report;

 private:
  Value Unite(absl::Span<Value> values, absl::Span<Ask>) override {
    Value united;
    united.type = '*';
    united.elements = Joined(values);
    std::stable_sort(united.elements.begin(), united.elements.end(),
                     [](const Value& a, const Value& b) { return Field(a, 0) < Field(b, 0); });
    return united;
  }
};

// LATENCY LATEST: of each event its name, the time and latency of the last one, and the greatest.
class LatencyLatest final : public Report {
 public:
  using Report::Report;

 private:
  Value Unite(absl::Span<Value> values, absl::Span<Ask>) override {
    Value united;
    united.type = '*';
    for (Value& event : Joined(values)) {
      if (event.elements.size() < 4) continue;
      const auto same = std::find_if(
          united.elements.begin(), united.elements.end(),
          [&](const Value& other) { return other.elements[0].text == event.elements[0].text; });
      if (same == united.elements.end()) {
        united.elements.push_back(std::move(event));
        continue;
      }
      const int64_t greatest = std::max(Field(*same, 3), Field(event, 3));
      if (Field(event, 1) > Field(*same, 1)) {
        same->elements[1] = event.elements[1];
        same->elements[2] = event.elements[2];
      }
      same->elements[3] = NumberValue(greatest);
      // Newer servers add a sum and a count.
      for (size_t i = 4; i < std::min(same->elements.size(), event.elements.size()); ++i) {
        same->elements[i] = NumberValue(Field(*same, i) + Field(event, i));
      }
    }
    return united;
  }
};

// LATENCY HISTOGRAM, MEMORY STATS: maps of numbers, some within maps. Whole numbers are added; of
// others the mean is told.
class SummedMap final : public Report {
 public:
  using Report::Report;

 private:
  Value Unite(absl::Span<Value> values, absl::Span<Ask>) override {
    std::vector<const Value*> all;
    for (const Value& value : values) all.push_back(&value);
    return UniteAll(all);
  }

  static Value UniteAll(const std::vector<const Value*>& values) {
    const Value& first = *values[0];
    if (IsAggregate(first.type)) return UniteMaps(values);
    if (first.type == ':') {
      int64_t sum = 0;
      for (const Value* value : values) sum += Number(*value);
      return NumberValue(sum);
    }
    Value united = first;
    double sum = 0;
    for (const Value* value : values) {
      double number = 0;
      if (!absl::SimpleAtod(value->text, &number)) return united;
      sum += number;
    }
    united.text = absl::StrCat(sum / static_cast<double>(values.size()));
    return united;
  }

  static Value UniteMaps(const std::vector<const Value*>& maps) {
    Value united;
    united.type = maps[0]->type;
    std::vector<std::pair<Value, std::vector<const Value*>>> entries;
    std::map<std::string, size_t> places;
    for (const Value* map : maps) {
      for (size_t i = 0; i + 1 < map->elements.size(); i += 2) {
        const auto [place, is_new] = places.emplace(map->elements[i].text, entries.size());
        if (is_new) entries.push_back({map->elements[i], {}});
        entries[place->second].second.push_back(&map->elements[i + 1]);
      }
    }
    // The buckets of a histogram.
    if (!entries.empty() && entries[0].first.type == ':') {
      std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
        return Number(a.first) < Number(b.first);
      });
    }
    for (auto& [key, values] : entries) {
      united.elements.push_back(std::move(key));
      united.elements.push_back(UniteAll(values));
    }
    return united;
  }
};

// FUNCTION STATS: of the node that runs a script, if one does.
class FunctionStats final : public Report {
 public:
  using Report::Report;

 private:
  Value Unite(absl::Span<Value> values, absl::Span<Ask>) override {
    for (Value& value : values) {
      if (value.elements.size() > 1 && value.elements[1].type != '_') return std::move(value);
    }
    return std::move(values[0]);
  }
};

// LATENCY DOCTOR and GRAPH, MEMORY DOCTOR and MALLOC-STATS.
class Texts final : public Report {
 public:
  using Report::Report;

 private:
  Value Unite(absl::Span<Value> values, absl::Span<Ask> answered) override {
    Value united = values[0];
    const bool alike = std::all_of(values.begin(), values.end(), [&](const Value& value) {
      return value.text == values[0].text;
    });
    if (alike) return united;
    united.text.clear();
    for (size_t i = 0; i < values.size(); ++i) {
      absl::StrAppend(&united.text, "# node ", answered[i].node_name, "\n", values[i].text);
      if (!absl::EndsWith(united.text, "\n")) united.text += '\n';
    }
    return united;
  }

  // LATENCY GRAPH: not every node has samples of the event.
  void Fail(Step* step, absl::Span<Ask> answered) override {
    std::vector<Ask> with_samples;
    for (const Ask& ask : answered) {
      if (!ask.failed()) {
        with_samples.push_back(ask);
      } else if (!absl::StartsWith(ask.ErrorLine(), "ERR No samples available")) {
        return EveryNode::Fail(step, answered);
      }
    }
    if (with_samples.empty()) return EveryNode::Fail(step, answered);
    Merge(step, absl::MakeSpan(with_samples));
  }
};

}  // namespace

std::unique_ptr<Procedure> MakeNodeReport(const cluster::CommandSpec& command, const ArgList& args,
                                          const io::Rope& frame) {
  const absl::string_view container = command.container;
  const absl::string_view name = command.name;
  if (container == "SLOWLOG" && name == "GET") {
    int64_t count = 10;
    if (args.views().size() > 2) (void)absl::SimpleAtoi(args.views()[2], &count);
    return std::make_unique<SlowLog>(command, KeepFrame(frame), count);
  }
  if (container == "FUNCTION" && name == "STATS") {
    return std::make_unique<FunctionStats>(command, KeepFrame(frame));
  }
  if (container == "LATENCY") {
    if (name == "HISTORY") return std::make_unique<LatencyHistory>(command, KeepFrame(frame));
    if (name == "LATEST") return std::make_unique<LatencyLatest>(command, KeepFrame(frame));
    if (name == "HISTOGRAM") return std::make_unique<SummedMap>(command, KeepFrame(frame));
    if (name != "RESET") return std::make_unique<Texts>(command, KeepFrame(frame));
  }
  if (container == "MEMORY") {
    if (name == "STATS") return std::make_unique<SummedMap>(command, KeepFrame(frame));
    if (name != "PURGE") return std::make_unique<Texts>(command, KeepFrame(frame));
  }
  return nullptr;
}

}  // namespace proxy
