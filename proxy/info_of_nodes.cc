#include "proxy/info_of_nodes.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/container/btree_map.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "proxy/every_node.h"
#include "proxy/worker.h"
#include "resp/views.h"

namespace proxy {
namespace {

// As they are asked for, and as their titles are.
constexpr absl::string_view kSections[] = {"Keyspace", "Commandstats", "Errorstats"};

// An average, of which each node's counts as often as another of its fields says.
struct Average {
  absl::string_view field;
  absl::string_view weight;
  int decimals;
};
constexpr Average kAverages[] = {
    {"avg_ttl", "expires", 0},
    {"usec_per_call", "calls", 2},
};

const Average* FindAverage(absl::string_view field) {
  const auto it = std::find_if(std::begin(kAverages), std::end(kAverages),
                               [&](const Average& average) { return average.field == field; });
  return it == std::end(kAverages) ? nullptr : it;
}

// The fields of one line, in the order in which they came first.
class Line {
 public:
  void Add(absl::string_view fields) {
    std::vector<std::pair<absl::string_view, double>> values;
    for (const absl::string_view field : absl::StrSplit(fields, ',')) {
      const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(field, '=');
      double value = 0;
      if (absl::SimpleAtod(parts.second, &value)) values.emplace_back(parts.first, value);
    }
    const auto value_of = [&](absl::string_view name) {
      for (const auto& [field, value] : values) {
        if (field == name) return value;
      }
      return 0.0;
    };
    for (const auto& [field, value] : values) {
      const Average* const average = FindAverage(field);
      Sum(field) += average == nullptr ? value : value * value_of(average->weight);
    }
  }

  std::string Text() {
    std::string text;
    for (const auto& [field, sum] : sums_) {
      const Average* const average = FindAverage(field);
      const double weight = average == nullptr ? 1 : Sum(average->weight);
      const double value = weight == 0 ? 0 : sum / weight;
      const int decimals = average == nullptr ? 0 : average->decimals;
      absl::StrAppendFormat(&text, "%s%s=%.*f", text.empty() ? "" : ",", field, decimals, value);
    }
    return text;
  }

 private:
  double& Sum(absl::string_view field) {
    for (auto& [name, sum] : sums_) {
      if (name == field) return sum;
    }
    return sums_.emplace_back(std::string(field), 0).second;
  }

  std::vector<std::pair<std::string, double>> sums_;
};

using Lines = absl::btree_map<std::string, Line>;

// By section title.
absl::btree_map<std::string, Lines> AddUp(const std::vector<std::string>& texts) {
  absl::btree_map<std::string, Lines> sections;
  for (const std::string& text : texts) {
    Lines* lines = nullptr;
    for (absl::string_view line : absl::StrSplit(text, '\n')) {
      absl::ConsumeSuffix(&line, "\r");
      if (absl::ConsumePrefix(&line, "# ")) {
        lines = &sections[std::string(line)];
        continue;
      }
      const std::pair<absl::string_view, absl::string_view> parts =
          absl::StrSplit(line, absl::MaxSplits(':', 1));
      if (lines != nullptr && !parts.second.empty()) {
        (*lines)[std::string(parts.first)].Add(parts.second);
      }
    }
  }
  return sections;
}

const cluster::CommandSpec& InfoCommand() {
  static const cluster::CommandSpec* const kCommand =
      new cluster::CommandSpec(AsRead(*cluster::FindCommand("INFO")));
  return *kCommand;
}

class InfoOfNodes final : public EveryNode {
 public:
  explicit InfoOfNodes(std::string own)
      : EveryNode(InfoCommand(), Audience::kPrimaries,
                  MakeFrame({"INFO", kSections[0], kSections[1], kSections[2]})),
        own_(std::move(own)) {}

 private:
  void Merge(Step* step, absl::Span<Ask> answered) override {
    std::vector<std::string> texts;
    for (const Ask& ask : answered) {
      const std::string reply = ask.reply.Flatten();
      absl::string_view text;
      if (!resp::ParseText(reply, &text)) return step->AnswerError(kBadReplyError);
      texts.emplace_back(text);
    }
    Tell(step, MergeInfo(own_, texts));
  }
  void Fail(Step* step, absl::Span<Ask>) override { Tell(step, own_); }

  static void Tell(Step* step, absl::string_view text) {
    std::string reply;
    resp::Encoder(step->protocol, &reply).Verbatim("txt", text);
    step->Answer(reply);
  }

  const std::string own_;
};

}  // namespace

bool AsksNodesForInfo(absl::Span<const absl::string_view> args) {
  return std::any_of(args.begin() + 1, args.end(), [](absl::string_view name) {
    return absl::EqualsIgnoreCase(name, "all") || absl::EqualsIgnoreCase(name, "everything") ||
           std::any_of(std::begin(kSections), std::end(kSections), [&](absl::string_view section) {
             return absl::EqualsIgnoreCase(name, section);
           });
  });
}

std::unique_ptr<Procedure> MakeInfoOfNodes(std::string own) {
  return std::make_unique<InfoOfNodes>(std::move(own));
}

std::string MergeInfo(absl::string_view own, const std::vector<std::string>& texts) {
  absl::btree_map<std::string, Lines> sections = AddUp(texts);
  std::string merged(own);
  for (const absl::string_view title : kSections) {
    const std::string header = absl::StrCat("# ", title, "\r\n");
    const size_t place = merged.find(header);
    if (place == std::string::npos) continue;
    std::string lines;
    for (auto& [name, line] : sections[std::string(title)]) {
      absl::StrAppend(&lines, name, ":", line.Text(), "\r\n");
    }
    merged.insert(place + header.size(), lines);
  }
  return merged;
}

}  // namespace proxy
