// INFO: the servers' sections about the proxy's own process, and one of its own. A field that only
// a node could fill truthfully is left out.

#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "proxy/local_handlers.h"
#include "proxy/server_info.h"

namespace proxy {
namespace {

// Initialised when the program is loaded: uptime counts from here.
const std::chrono::steady_clock::time_point kLoadedAt = std::chrono::steady_clock::now();

struct InfoInput {
  const ServerInfo& server;
  const ProxyFacts& proxy;
  const bool cluster_face;

  absl::string_view mode() const { return cluster_face ? "cluster" : "standalone"; }
  uint64_t Sum(Counter WorkerStats::*member) const { return proxy.stats->Sum(member); }
};

// The servers' bytesToHuman.
std::string Human(uint64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, "B");
  double value = static_cast<double>(bytes) / 1024;
  const char* unit = "KMGTP";
  while (value >= 1024 && unit[1] != '\0') {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.2f%c", value, *unit);
}

// 0: not known.
uint64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t total_pages = 0, resident_pages = 0;
  if (!(file >> total_pages >> resident_pages)) return 0;
  return resident_pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

void AppendServer(const InfoInput& in, std::string* out) {
  const absl::string_view compatible = in.server.compatible_redis_version.empty()
                                           ? in.server.version
                                           : in.server.compatible_redis_version;
  absl::StrAppend(out, "redis_version:", in.server.valkey ? compatible : in.server.version, "\r\n");
  if (in.server.valkey) {
    absl::StrAppend(out, "server_name:valkey\r\nvalkey_version:", in.server.version,
                    "\r\nserver_mode:", in.mode(), "\r\n");
  }
  utsname system = {};
  uname(&system);
  const int64_t uptime =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - kLoadedAt)
          .count();
  absl::StrAppend(out, "redis_mode:", in.mode(), "\r\nos:", system.sysname, " ", system.release,
                  " ", system.machine, "\r\narch_bits:", sizeof(void*) * 8,
                  "\r\nmultiplexing_api:io_uring\r\nprocess_id:", getpid(), "\r\nrun_id:", RunId(),
                  "\r\ntcp_port:", in.proxy.tcp_port);
  absl::StrAppend(out, "\r\nserver_time_usec:", absl::ToUnixMicros(absl::Now()),
                  "\r\nuptime_in_seconds:", uptime,
                  "\r\nuptime_in_days:", uptime / (int64_t{24} * 3600),
                  "\r\nio_threads_active:", in.proxy.workers > 1 ? 1 : 0, "\r\n");
}

void AppendClients(const InfoInput& in, std::string* out) {
  absl::StrAppend(out, "connected_clients:", in.Sum(&WorkerStats::clients_open),
                  "\r\nmaxclients:", in.proxy.clients_max,
                  "\r\nblocked_clients:", in.Sum(&WorkerStats::blocked_clients),
                  "\r\ntracking_clients:", in.Sum(&WorkerStats::tracking_clients), "\r\n");
  if (in.server.valkey || IsRedisSince(in.server, 7, 4)) {
    absl::StrAppend(out, "pubsub_clients:", in.Sum(&WorkerStats::pubsub_clients),
                    "\r\nwatching_clients:", in.Sum(&WorkerStats::watching_clients), "\r\n");
  }
  absl::StrAppend(out, "clients_in_timeout_table:", in.Sum(&WorkerStats::clients_in_timeout_table),
                  "\r\n");
}

void AppendMemory(const InfoInput& in, std::string* out) {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const uint64_t used = in.Sum(&WorkerStats::charged_bytes);
  const uint64_t resident = ResidentBytes();
  const uint64_t peak = std::max(resident, static_cast<uint64_t>(usage.ru_maxrss) * 1024);
  const uint64_t machine =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const std::pair<absl::string_view, uint64_t> sizes[] = {
      {"used_memory", used},
      {"used_memory_rss", resident},
      {"used_memory_peak", peak},
      {"total_system_memory", machine},
      {"maxmemory", in.proxy.memory_limit_bytes},
  };
  for (const auto& [name, bytes] : sizes) {
    absl::StrAppend(out, name, ":", bytes, "\r\n", name, "_human:", Human(bytes), "\r\n");
  }
  // The cluster's: applications look here for what becomes of their keys.
  absl::StrAppend(out, "maxmemory_policy:", in.server.maxmemory_policy, "\r\n");
}

void AppendPersistence(const InfoInput&, std::string* out) {
  out->append(
      "loading:0\r\nasync_loading:0\r\nrdb_bgsave_in_progress:0\r\nrdb_last_bgsave_status:ok\r\n"
      "aof_enabled:0\r\naof_rewrite_in_progress:0\r\naof_rewrite_scheduled:0\r\n"
      "aof_last_bgrewrite_status:ok\r\naof_last_write_status:ok\r\n");
}

void AppendStats(const InfoInput& in, std::string* out) {
  absl::StrAppend(out, "total_connections_received:", in.Sum(&WorkerStats::clients_accepted),
                  "\r\ntotal_commands_processed:", in.Sum(&WorkerStats::requests),
                  "\r\nrejected_connections:", in.proxy.stats->control().clients_over_limit.Get(),
                  "\r\ntracking_total_keys:", in.Sum(&WorkerStats::tracked_keys),
                  "\r\ntracking_total_items:", in.Sum(&WorkerStats::tracked_items),
                  "\r\ntracking_total_prefixes:", in.Sum(&WorkerStats::tracking_prefixes),
                  "\r\ntotal_error_replies:", in.Sum(&WorkerStats::proxy_errors), "\r\n");
}

void AppendReplication(const InfoInput&, std::string* out) {
  absl::StrAppend(out,
                  "role:master\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\n"
                  "master_replid:",
                  RunId(), "\r\nmaster_replid2:", std::string(40, '0'),
                  "\r\nmaster_repl_offset:0\r\nsecond_repl_offset:-1\r\nrepl_backlog_active:0\r\n"
                  "repl_backlog_size:0\r\nrepl_backlog_first_byte_offset:0\r\n"
                  "repl_backlog_histlen:0\r\n");
}

void AppendCpu(const InfoInput&, std::string* out) {
  const auto append = [out](absl::string_view suffix, int who) {
    rusage usage = {};
    getrusage(who, &usage);
    absl::StrAppendFormat(out, "used_cpu_sys%s:%d.%06d\r\nused_cpu_user%s:%d.%06d\r\n", suffix,
                          usage.ru_stime.tv_sec, usage.ru_stime.tv_usec, suffix,
                          usage.ru_utime.tv_sec, usage.ru_utime.tv_usec);
  };
  append("", RUSAGE_SELF);
  append("_children", RUSAGE_CHILDREN);
}

void AppendNothing(const InfoInput&, std::string*) {}

void AppendCluster(const InfoInput& in, std::string* out) {
  absl::StrAppend(out, "cluster_enabled:", in.cluster_face ? 1 : 0, "\r\n");
}

// Whole numbers under their metric names, so that INFO and the metrics say the same.
void AppendProxy(const InfoInput& in, std::string* out) {
  absl::StrAppend(out, "rcproxy_version:", kVersion, "\r\ninstance:", in.proxy.instance_name,
                  "\r\nworkers:", in.proxy.workers, "\r\nring:", in.proxy.ring_features,
                  "\r\ncluster_known:", in.proxy.has_topology ? 1 : 0,
                  "\r\ncluster_family:", in.server.valkey ? "valkey" : "redis",
                  "\r\ncluster_version:", in.server.version, "\r\n");
#define RCPROXY_APPEND_STAT(member, name, kind, help) \
  absl::StrAppend(out, name, ":", in.Sum(&WorkerStats::member), "\r\n");
  RCPROXY_WORKER_STATS(RCPROXY_APPEND_STAT)
#undef RCPROXY_APPEND_STAT
#define RCPROXY_APPEND_STAT(member, name, kind, help) \
  absl::StrAppend(out, name, ":", in.proxy.stats->control().member.Get(), "\r\n");
  RCPROXY_CONTROL_STATS(RCPROXY_APPEND_STAT)
#undef RCPROXY_APPEND_STAT
}

// In the servers' order; `by_default`: without arguments, too.
struct Section {
  absl::string_view name;
  absl::string_view title;
  bool by_default;
  void (*append)(const InfoInput& in, std::string* out);
  absl::string_view other_name = {};
};

constexpr Section kSections[] = {
    {"server", "Server", true, AppendServer},
    {"clients", "Clients", true, AppendClients},
    {"memory", "Memory", true, AppendMemory},
    {"persistence", "Persistence", true, AppendPersistence},
    {"stats", "Stats", true, AppendStats},
    {"replication", "Replication", true, AppendReplication},
    {"cpu", "CPU", true, AppendCpu},
    {"modules", "Modules", true, AppendNothing, "module_list"},
    {"commandstats", "Commandstats", false, AppendNothing},
    {"errorstats", "Errorstats", true, AppendNothing},
    {"latencystats", "Latencystats", false, AppendNothing},
    {"cluster", "Cluster", true, AppendCluster},
    {"keyspace", "Keyspace", true, AppendNothing},
    {"proxy", "Proxy", true, AppendProxy},
};

bool IsWanted(const Section& section, absl::Span<const absl::string_view> names) {
  if (names.empty()) return section.by_default;
  for (const absl::string_view name : names) {
    if (absl::EqualsIgnoreCase(name, "all") || absl::EqualsIgnoreCase(name, "everything")) {
      return true;
    }
    if (absl::EqualsIgnoreCase(name, "default") && section.by_default) return true;
    if (absl::EqualsIgnoreCase(name, section.name)) return true;
    if (!section.other_name.empty() && absl::EqualsIgnoreCase(name, section.other_name)) {
      return true;
    }
  }
  return false;
}

}  // namespace

void AnswerInfo(const LocalCall& call) {
  const ProxyFacts facts = call.session->DescribeProxy();
  const InfoInput input{call.session->server(), facts, call.session->has_cluster_face()};
  std::string text;
  for (const Section& section : kSections) {
    if (!IsWanted(section, call.args.subspan(1))) continue;
    absl::StrAppend(&text, text.empty() ? "" : "\r\n", "# ", section.title, "\r\n");
    section.append(input, &text);
  }
  call.Encode().Verbatim("txt", text);
}

const std::string& RunId() {
  static const std::string& id = *new std::string([] {
    std::random_device random;
    std::string digits;
    for (int i = 0; i < 5; ++i) absl::StrAppendFormat(&digits, "%08x", random());
    return digits;
  }());
  return id;
}

}  // namespace proxy
