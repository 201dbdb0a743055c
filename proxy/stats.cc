#include "proxy/stats.h"

#include <dirent.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace proxy {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily Family(std::string name, std::string help, StatKind kind, double value) {
  ClientMetric metric;
  if (kind == StatKind::kCounter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  return {.name = std::move(name),
          .help = std::move(help),
          .type = kind == StatKind::kCounter ? MetricType::Counter : MetricType::Gauge,
          .metric = {std::move(metric)}};
}

// A gauge's parts are read at slightly different times: its sum may be a little below 0.
double Value(StatKind kind, uint64_t sum) {
  if (kind == StatKind::kCounter) return static_cast<double>(sum);
  return static_cast<double>(std::max<int64_t>(static_cast<int64_t>(sum), 0));
}

// --- the process (proc(5)); what can't be read is left out

std::string ReadFile(const char* path) {
  std::ifstream file(path);
  std::stringstream content;
  content << file.rdbuf();
  return content.str();
}

// Seconds since the epoch at which the machine was started; 0: not known.
double BootTime() {
  const std::string stat = ReadFile("/proc/stat");
  for (absl::string_view line : absl::StrSplit(stat, '\n')) {
    double seconds = 0;
    if (absl::ConsumePrefix(&line, "btime ") && absl::SimpleAtod(line, &seconds)) return seconds;
  }
  return 0;
}

int OpenDescriptors() {
  DIR* const directory = opendir("/proc/self/fd");
  if (directory == nullptr) return 0;
  int entries = 0;
  while (readdir(directory) != nullptr) ++entries;
  closedir(directory);
  return entries - 3;  // ".", ".." and the directory itself
}

void AppendProcess(std::vector<MetricFamily>* families) {
  const std::string stat = ReadFile("/proc/self/stat");
  // The second field is the name, in parentheses; it may hold spaces. The next is field 3.
  const size_t name_end = stat.rfind(") ");
  if (name_end == std::string::npos) return;
  const std::vector<absl::string_view> fields =
      absl::StrSplit(absl::string_view(stat).substr(name_end + 2), ' ');
  const auto field = [&](size_t number) {
    double value = 0;
    if (number - 3 >= fields.size() || !absl::SimpleAtod(fields[number - 3], &value)) return 0.0;
    return value;
  };
  const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  const auto page = static_cast<double>(sysconf(_SC_PAGESIZE));
  families->push_back(Family("process_cpu_seconds_total", "CPU time of user and system",
                             StatKind::kCounter, (field(14) + field(15)) / ticks));
  families->push_back(Family("process_start_time_seconds", "Start, since the epoch",
                             StatKind::kGauge, BootTime() + field(22) / ticks));
  families->push_back(
      Family("process_virtual_memory_bytes", "Virtual memory", StatKind::kGauge, field(23)));
  families->push_back(Family("process_resident_memory_bytes", "Resident memory", StatKind::kGauge,
                             field(24) * page));
  families->push_back(
      Family("process_open_fds", "Open descriptors", StatKind::kGauge, OpenDescriptors()));
}

}  // namespace

StatsRegistry::StatsRegistry(uint32_t workers) {
  workers_.reserve(workers);
  for (uint32_t i = 0; i < workers; ++i) workers_.push_back(std::make_unique<WorkerStats>());
}

uint64_t StatsRegistry::Sum(Counter WorkerStats::*member) const {
  uint64_t sum = 0;
  for (const auto& worker : workers_) sum += (worker.get()->*member).Get();
  return sum;
}

std::string StatsRegistry::PrometheusText(uint64_t log_dropped) const {
  std::vector<MetricFamily> families;
#define RCPROXY_ADD(member, name, kind, help)                      \
  families.push_back(Family("rcproxy_" name, help, StatKind::kind, \
                            Value(StatKind::kind, Sum(&WorkerStats::member))));
  RCPROXY_WORKER_STATS(RCPROXY_ADD)
#undef RCPROXY_ADD
#define RCPROXY_ADD(member, name, kind, help)                      \
  families.push_back(Family("rcproxy_" name, help, StatKind::kind, \
                            Value(StatKind::kind, control_.member.Get())));
  RCPROXY_CONTROL_STATS(RCPROXY_ADD)
#undef RCPROXY_ADD
  families.push_back(Family("rcproxy_log_lines_dropped_total",
                            "Log lines that could not be written", StatKind::kCounter,
                            static_cast<double>(log_dropped)));
  families.push_back(
      Family("rcproxy_workers", "Threads that serve clients", StatKind::kGauge, workers()));
  MetricFamily build = Family("rcproxy_build_info", "The build, in labels", StatKind::kGauge, 1);
  build.metric[0].label.push_back({"version", kVersion});
  families.push_back(std::move(build));
  AppendProcess(&families);
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace proxy
