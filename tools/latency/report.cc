#include "tools/latency/report.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "tools/json.h"

namespace latency {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
// A generator that is busy for more than this share of the time may be what limits a closed loop.
constexpr double kGeneratorBusy = 0.95;
// An open loop was not kept up with if less than this share was answered within the time, and what
// was not is more than is due in so many seconds.
constexpr double kKeptUpShare = 0.99;
constexpr double kKeptUpSeconds = 0.05;

struct MetricInfo {
  Metric metric;
  absl::string_view json;
  absl::string_view heading;  // empty: not in the table
};
constexpr MetricInfo kMetrics[] = {
    {kRequestsPerSecond, "requests_per_second", "requests/s"},
    {kP50, "p50_ms", "p50 ms"},
    {kP90, "p90_ms", "p90 ms"},
    {kP99, "p99_ms", "p99 ms"},
    {kP999, "p999_ms", "p99.9 ms"},
    {kMax, "max_ms", "max ms"},
    {kMean, "mean_ms", ""},
    {kTargetCpu, "target_cpu_us", "CPU µs"},
    {kServersCpu, "servers_cpu_us", "servers µs"},
    {kTotalCpu, "total_cpu_us", "both µs"},
    {kGeneratorCpu, "generator_cpu_share", ""},
    {kAnsweredShare, "answered_share", ""},
};
constexpr Metric kRatios[] = {kRequestsPerSecond, kP50, kP99, kP999, kTotalCpu};

const MetricInfo& InfoOf(Metric metric) {
  return *std::find_if(std::begin(kMetrics), std::end(kMetrics),
                       [metric](const MetricInfo& info) { return info.metric == metric; });
}

Spread SpreadOfMetric(const Target& target, Metric metric) {
  std::vector<double> values;
  for (const Metrics& round : target.rounds()) values.push_back(round[metric]);
  return SpreadOf(std::move(values));
}

// To the reference in the same round: what disturbs a round disturbs both.
Spread RatioOf(const Target& target, const Target& reference, Metric metric) {
  std::vector<double> values;
  const size_t rounds = std::min(target.rounds().size(), reference.rounds().size());
  for (size_t i = 0; i < rounds; ++i) {
    values.push_back(target.rounds()[i][metric] / reference.rounds()[i][metric]);
  }
  return SpreadOf(std::move(values));
}

// Three digits or more.
std::string Show(double value) {
  if (!std::isfinite(value)) return "-";
  const int decimals = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;
  return absl::StrFormat("%.*f", decimals, value);
}

std::string ShowRange(const Spread& spread) {
  if (std::isnan(spread.median)) return "-";
  return absl::StrCat(Show(spread.least), "..", Show(spread.most));
}

// Columns, the first one flush left. Widths are of characters, not bytes.
std::string Layout(const std::vector<std::vector<std::string>>& rows) {
  const auto width = [](absl::string_view text) {
    return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
      return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    }));
  };
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]));
  }
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string blanks(widths[i] - width(row[i]), ' ');
      absl::StrAppend(&text, i == 0 ? "" : "  ", i == 0 ? row[i] : blanks,
                      i == 0 ? blanks : row[i]);
    }
    text += '\n';
  }
  return text;
}

using Row = std::vector<std::string>;

std::vector<Row> MetricRows(const Targets& targets, absl::string_view title,
                            const std::function<std::string(const Spread&)>& show) {
  std::vector<Row> rows = {{std::string(title)}};
  for (const MetricInfo& info : kMetrics) {
    if (!info.heading.empty()) rows[0].emplace_back(info.heading);
  }
  for (const auto& target : targets) {
    rows.push_back({target->spec().name});
    for (const MetricInfo& info : kMetrics) {
      if (info.heading.empty()) continue;
      rows.back().push_back(show(SpreadOfMetric(*target, info.metric)));
    }
  }
  return rows;
}

std::vector<Row> RatioRows(const Targets& targets, const Target& reference) {
  std::vector<Row> rows = {{absl::StrCat("to ", reference.spec().name)}};
  for (const Metric metric : kRatios) rows[0].emplace_back(InfoOf(metric).heading);
  for (const auto& target : targets) {
    if (target.get() == &reference) continue;
    rows.push_back({target->spec().name});
    for (const Metric metric : kRatios) {
      const Spread ratio = RatioOf(*target, reference, metric);
      rows.back().push_back(
          std::isnan(ratio.median)
              ? "-"
              : absl::StrFormat("%.2f (%.2f..%.2f)", ratio.median, ratio.least, ratio.most));
    }
  }
  return rows;
}

// What a reader must know besides the numbers.
std::vector<std::string> NotesOn(const Options& options, const Target& target) {
  std::vector<std::string> notes;
  const auto note = [&](absl::string_view text) {
    notes.push_back(absl::StrCat(target.spec().name, ": ", text));
  };
  if (target.failed()) note(absl::StrCat("given up: ", target.failure()));
  if (target.wrong() > 0) note(absl::StrCat(target.wrong(), " WRONG replies"));
  for (const std::string& example : target.wrong_examples()) note(absl::StrCat("wrong: ", example));
  for (const auto& [kind, count] : target.errors()) note(absl::StrCat(count, " × ", kind));
  const double busy = SpreadOfMetric(target, kGeneratorCpu).median;
  if (options.load.rate > 0) {
    const Spread share = SpreadOfMetric(target, kAnsweredShare);
    if (!KeptUp(options, target)) {
      note(absl::StrFormat("did not keep up: %.1f %% of the intended requests (at worst %.1f %%)",
                           100 * share.median, 100 * share.least));
    }
    if (target.unanswered() > 0) {
      note(absl::StrCat(target.unanswered(), " requests were due and never sent; they count as if",
                        " answered when given up"));
    }
    const Histogram& lag = target.generator_lag();
    note(absl::StrFormat("this generator was late by p50 %.3f, p99 %.3f, max %.3f ms, %.0f %% busy",
                         static_cast<double>(lag.Quantile(0.5)) / 1e6,
                         static_cast<double>(lag.Quantile(0.99)) / 1e6,
                         static_cast<double>(lag.max()) / 1e6, 100 * busy));
  } else if (busy > kGeneratorBusy) {
    note(absl::StrFormat("this generator was %.0f %% busy: it may be what limits the rate",
                         100 * busy));
  }
  const Tally tally = target.tally();
  if (tally.misses > 0) {
    note(absl::StrFormat(
        "%.1f %% of the values read were there",
        100.0 * static_cast<double>(tally.hits) / static_cast<double>(tally.hits + tally.misses)));
  }
  return notes;
}

std::string ProcessesOf(const Target& target) {
  std::string text;
  if (!target.spec().pids.empty()) {
    absl::StrAppend(&text, " process ", absl::StrJoin(target.spec().pids, ","));
  }
  if (!target.spec().servers.empty()) {
    absl::StrAppend(&text, text.empty() ? "" : ",", " servers ",
                    absl::StrJoin(target.spec().servers, ","));
  }
  return text.empty() ? " (processes unknown)" : text;
}

// Bytes beyond ASCII are UTF-8 of our own, or escaped already.
std::string Quoted(absl::string_view text) {
  return tools::JsonString(text, tools::HighBytes::kUtf8);
}

std::string JsonNumber(double value) {
  return std::isfinite(value) ? absl::StrFormat("%.9g", value) : "null";
}

std::string JsonMetrics(const std::function<double(Metric)>& get) {
  std::string json = "{";
  for (const MetricInfo& info : kMetrics) {
    absl::StrAppend(&json, json.size() > 1 ? "," : "", "\"", info.json,
                    "\":", JsonNumber(get(info.metric)));
  }
  return json += '}';
}

// Shares of requests, ever closer to 1, as long as there are requests beyond them.
std::vector<double> SharesOf(const Histogram& histogram) {
  constexpr double kStepsPerDecade = 20;
  std::vector<double> shares = {0};
  const auto count = static_cast<double>(histogram.count());
  for (int i = 1;; ++i) {
    const double beyond = std::pow(10, -i / kStepsPerDecade);
    if (beyond * count < 1) break;
    shares.push_back(1 - beyond);
  }
  return shares;
}

std::string JsonTarget(const Options& options, const Target& target, const Target& reference) {
  std::string json =
      absl::StrCat("{\"name\":", Quoted(target.spec().name),
                   ",\"address\":", Quoted(target.spec().address.ToString()),
                   ",\"cluster\":", target.spec().cluster ? "true" : "false", ",\"pids\":[",
                   absl::StrJoin(target.spec().pids, ","), "],\"servers_pids\":[",
                   absl::StrJoin(target.spec().servers, ","),
                   "],\"failure\":", target.failed() ? Quoted(target.failure()) : "null",
                   ",\"requests\":", target.requests(),
                   ",\"recorded\":", target.latencies().count(), ",\"hits\":", target.tally().hits,
                   ",\"misses\":", target.tally().misses, ",\"wrong\":", target.wrong());
  absl::StrAppend(&json, ",\"wrong_examples\":[",
                  absl::StrJoin(target.wrong_examples(), ",",
                                [](std::string* out, const std::string& example) {
                                  absl::StrAppend(out, Quoted(example));
                                }),
                  "],\"errors\":{",
                  absl::StrJoin(target.errors(), ",",
                                [](std::string* out, const auto& error) {
                                  absl::StrAppend(out, Quoted(error.first), ":", error.second);
                                }),
                  "},\"unanswered\":", target.unanswered(), ",\"kept_up\":",
                  options.load.rate == 0    ? "null"
                  : KeptUp(options, target) ? "true"
                                            : "false");
  const Histogram& lag = target.generator_lag();
  absl::StrAppend(&json, ",\"generator_lag_p99_ms\":",
                  JsonNumber(static_cast<double>(lag.Quantile(0.99)) / 1e6),
                  ",\"generator_lag_max_ms\":", JsonNumber(static_cast<double>(lag.max()) / 1e6));
  absl::StrAppend(&json, ",\n \"rounds\":[",
                  absl::StrJoin(target.rounds(), ",\n  ",
                                [](std::string* out, const Metrics& round) {
                                  absl::StrAppend(out, JsonMetrics([&](Metric metric) {
                                                    return round[metric];
                                                  }));
                                }),
                  "]");
  const auto add = [&json](absl::string_view name, const std::function<double(Metric)>& get) {
    absl::StrAppend(&json, ",\n \"", name, "\":", JsonMetrics(get));
  };
  add("median", [&](Metric metric) { return SpreadOfMetric(target, metric).median; });
  add("min", [&](Metric metric) { return SpreadOfMetric(target, metric).least; });
  add("max", [&](Metric metric) { return SpreadOfMetric(target, metric).most; });
  add("ratio_median", [&](Metric metric) { return RatioOf(target, reference, metric).median; });
  add("ratio_min", [&](Metric metric) { return RatioOf(target, reference, metric).least; });
  add("ratio_max", [&](Metric metric) { return RatioOf(target, reference, metric).most; });
  absl::StrAppend(&json, ",\n \"distribution\":[",
                  absl::StrJoin(SharesOf(target.latencies()), ",",
                                [&](std::string* out, double share) {
                                  const auto ns = target.latencies().Quantile(share);
                                  absl::StrAppendFormat(out, "[%.7g,%.6g]", share,
                                                        static_cast<double>(ns) / 1e6);
                                }),
                  "]}");
  return json;
}

// --- the plot

std::string Escaped(absl::string_view text) {
  return absl::StrReplaceAll(text,
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

constexpr absl::string_view kColors[] = {"#0b62c4", "#d1491b", "#2b8a3e", "#862e9c",
                                         "#b58900", "#0c8599", "#495057"};

// Latency, on a logarithmic axis, over 1 / (1 - share): each further nine has as much room.
class Plot {
 public:
  explicit Plot(const Targets& targets) {
    for (const auto& target : targets) {
      const Histogram& latencies = target->latencies();
      if (latencies.count() == 0) continue;
      decades_ = std::max(decades_, std::ceil(std::log10(static_cast<double>(latencies.count()))));
      least_ = std::min(least_, static_cast<double>(std::max<int64_t>(latencies.Quantile(0), 1)));
      most_ = std::max(most_, static_cast<double>(latencies.max()));
    }
    if (most_ == 0) least_ = most_ = 1e6;
    floor_ = std::log10(StepDown(least_));
    ceiling_ = std::log10(StepUp(std::max(most_, 2 * least_)));
    AddGrid();
    size_t number = 0;
    for (const auto& target : targets) AddCurve(*target, number++);
  }

  std::string Svg() const {
    return absl::StrFormat(
        "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"latency by percentile\">\n%s</svg>\n",
        kWidth, kHeight, body_);
  }

 private:
  static constexpr int kWidth = 960;
  static constexpr int kHeight = 520;
  static constexpr int kLeft = 80;
  static constexpr int kRight = 20;
  static constexpr int kTop = 20;
  static constexpr int kBottom = 60;

  // The nearest of 1, 2, 5, 10, 20, … that is not more, or not less.
  static double StepDown(double value) {
    const double ten = std::pow(10, std::floor(std::log10(value)));
    return value >= 5 * ten ? 5 * ten : value >= 2 * ten ? 2 * ten : ten;
  }
  static double StepUp(double value) {
    const double step = StepDown(value);
    return step >= value ? step : StepDown(2.5 * step);
  }
  double X(double share, double beyond_min) const {
    const double position = -std::log10(std::max(1 - share, beyond_min)) / decades_;
    return kLeft + std::min(position, 1.0) * (kWidth - kLeft - kRight);
  }
  double Y(double ns) const {
    const double position = (std::log10(std::max(ns, 1.0)) - floor_) / (ceiling_ - floor_);
    return kHeight - kBottom - position * (kHeight - kTop - kBottom);
  }
  void Line(double x1, double y1, double x2, double y2) {
    absl::StrAppendFormat(
        &body_, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"grid\"/>\n", x1, y1,
        x2, y2);
  }
  void Label(double x, double y, absl::string_view anchor, absl::string_view text) {
    absl::StrAppendFormat(&body_, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x,
                          y, anchor, Escaped(text));
  }

  void AddGrid() {
    const int last = static_cast<int>(decades_);
    for (int decade = 0; decade <= last; ++decade) {
      const double beyond = std::pow(10, -decade);
      const double x = X(1 - beyond, beyond);
      Line(x, kTop, x, kHeight - kBottom);
      Label(x, kHeight - kBottom + 20, decade == last ? "end" : "middle",
            decade == 0 ? "0"
                        : absl::StrFormat("%.*f %%", std::max(decade - 2, 0), 100 - 100 * beyond));
    }
    const double end = 1.01 * std::pow(10, ceiling_);
    double ns = std::pow(10, floor_);
    while (ns < end) {
      Line(kLeft, Y(ns), kWidth - kRight, Y(ns));
      Label(kLeft - 8, Y(ns) + 4, "end", absl::StrFormat("%g ms", ns / 1e6));
      ns = StepUp(1.01 * ns);
    }
    Label((kLeft + kWidth - kRight) / 2.0, kHeight - 12, "middle",
          "share of requests that took no longer");
  }

  void AddCurve(const Target& target, size_t number) {
    const Histogram& latencies = target.latencies();
    const absl::string_view color = kColors[number % std::size(kColors)];
    const double y = kTop + 20 + 20 * static_cast<double>(number);
    absl::StrAppendFormat(&body_,
                          "<rect x=\"%d\" y=\"%.1f\" width=\"14\" height=\"4\" fill=\"%s\"/>\n",
                          kLeft + 16, y - 6, color);
    Label(kLeft + 36, y, "start", target.spec().name);
    if (latencies.count() == 0) return;
    std::string points;
    for (const double share : SharesOf(latencies)) {
      absl::StrAppendFormat(&points, "%.1f,%.1f ", X(share, 1e-12),
                            Y(static_cast<double>(latencies.Quantile(share))));
    }
    absl::StrAppendFormat(&points, "%.1f,%.1f", X(1, 1 / static_cast<double>(latencies.count())),
                          Y(static_cast<double>(latencies.max())));
    absl::StrAppendFormat(
        &body_, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n",
        points, color);
  }

  double decades_ = 1;  // of 1 / (1 - share)
  double least_ = 1e15;
  double most_ = 0;
  double floor_ = 0;  // logarithms of the ends of the axis of latency, in ns
  double ceiling_ = 0;
  std::string body_;
};

std::string HtmlTable(const std::vector<Row>& rows) {
  std::string html = "<table>\n";
  for (size_t i = 0; i < rows.size(); ++i) {
    html += "<tr>";
    for (const std::string& cell : rows[i]) {
      const absl::string_view tag = i == 0 ? "th" : "td";
      absl::StrAppend(&html, "<", tag, ">", Escaped(cell), "</", tag, ">");
    }
    html += "</tr>\n";
  }
  return html += "</table>\n";
}

constexpr absl::string_view kStyle =
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;"
    "color:#222;background:#fff}"
    "table{border-collapse:collapse;margin:1em 0}th,td{padding:.2em .7em;text-align:right;"
    "border-bottom:1px solid #ddd;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}"
    "svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#333}"
    ".grid{stroke:#e3e3e3}.wide{overflow-x:auto}";

std::string ShowMedian(const Spread& spread) { return Show(spread.median); }

}  // namespace

Spread SpreadOf(std::vector<double> values) {
  values.erase(
      std::remove_if(values.begin(), values.end(), [](double value) { return std::isnan(value); }),
      values.end());
  if (values.empty()) return {kNaN, kNaN, kNaN};
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

std::string TextReport(const Options& options, const Targets& targets) {
  const Target& reference = *targets[options.reference];
  std::string text =
      absl::StrCat(Describe(options), "\n\n", Layout(MetricRows(targets, "median", ShowMedian)),
                   "\n", Layout(MetricRows(targets, "least..most", ShowRange)));
  if (targets.size() > 1) absl::StrAppend(&text, "\n", Layout(RatioRows(targets, reference)));
  std::string notes;
  for (const auto& target : targets) {
    for (const std::string& note : NotesOn(options, *target)) absl::StrAppend(&notes, note, "\n");
  }
  for (const auto& target : targets) {
    absl::StrAppend(&notes, target->spec().name, ": ", target->spec().address.ToString(),
                    target->spec().cluster ? ", its cluster directly," : ",", ProcessesOf(*target),
                    "\n");
  }
  return absl::StrCat(text, "\n", notes);
}

std::string JsonReport(const Options& options, const Targets& targets) {
  const Target& reference = *targets[options.reference];
  std::string json = absl::StrFormat(
      "{\"load\":%s,\n\"clients\":%d,\"pipeline\":%d,\"rate\":%g,\"mix\":%s,\"keys\":%d,"
      "\"value_bytes_min\":%d,\"value_bytes_max\":%d,\"resp\":%d,\"seconds\":%g,\"reference\":%s,\n"
      "\"targets\":[\n",
      Quoted(Describe(options)), options.load.clients, options.load.requests_max, options.load.rate,
      Quoted(options.workload.mix_text), options.workload.keys, options.workload.value_bytes_min,
      options.workload.value_bytes_max, options.load.resp3 ? 3 : 2, options.seconds,
      Quoted(reference.spec().name));
  for (size_t i = 0; i < targets.size(); ++i) {
    absl::StrAppend(&json, i > 0 ? ",\n" : "", JsonTarget(options, *targets[i], reference));
  }
  return json += "]}\n";
}

std::string HtmlReport(const Options& options, const Targets& targets) {
  std::string notes;
  for (const auto& target : targets) {
    for (const std::string& note : NotesOn(options, *target)) {
      absl::StrAppend(&notes, "<li>", Escaped(note), "</li>\n");
    }
  }
  return absl::StrCat(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<title>Latency</title>\n<style>",
      kStyle, "</style></head>\n<body>\n<h1>Latency</h1>\n<p>", Escaped(Describe(options)),
      "</p>\n", Plot(targets).Svg(), "<div class=\"wide\">",
      HtmlTable(MetricRows(targets, "median", ShowMedian)),
      HtmlTable(MetricRows(targets, "least..most", ShowRange)),
      targets.size() > 1 ? HtmlTable(RatioRows(targets, *targets[options.reference])) : "",
      "</div>\n<p>CPU: processor time of a request, of the target, of the servers behind it, and "
      "of "
      "both.</p>\n<ul>\n",
      notes, "</ul>\n</body></html>\n");
}

bool KeptUp(const Options& options, const Target& target) {
  const double missing = 1 - SpreadOfMetric(target, kAnsweredShare).median;
  return !(missing > 1 - kKeptUpShare && missing * options.seconds > kKeptUpSeconds);
}

bool AllIsWell(const Targets& targets) {
  return std::all_of(targets.begin(), targets.end(), [](const auto& target) {
    return !target->failed() && target->wrong() == 0 && target->errors().empty();
  });
}

}  // namespace latency
