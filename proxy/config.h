#pragma once

// File: proxy/config.h
//
// The configuration: validated once, immutable after. Filled from flags and a TOML file; the flags
// win. A reload makes a new one.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cluster/router.h"
#include "cluster/topology.h"
#include "io/socket.h"
#include "proxy/command_switches.h"

namespace proxy {

// --cross-slot: a transaction, or a command of cluster::kFlagOverSlots, whose keys lie in several
// slots.
enum class CrossSlot : uint8_t {
  kRefuse,  // CROSSSLOT, as a cluster's nodes say
  kSplit,   // served in several steps; only what of it concerns one slot is atomic
};

enum class LogLevel : uint8_t { kTrace, kDebug, kInfo, kWarn, kError, kOff };

struct Config {
  // --- listening
  std::vector<io::Endpoint> listen;    // --addr
  uint32_t clients_max = 10000;        // --max-clients (L1)
  std::string password;                // content of --requirepass-file; empty: none
  bool allow_unauthenticated = false;  // --allow-unauthenticated

  // --- the cluster
  std::vector<cluster::NodeAddress> startup_nodes;           // --startup-nodes
  absl::Duration connect_timeout = absl::Milliseconds(250);  // --connect-timeout
  absl::Duration reply_timeout = absl::Seconds(5);           // --reply-timeout (L11)
  absl::Duration slow_reply_timeout = absl::Seconds(30);     // --slow-reply-timeout (L11)
  absl::Duration slots_reload_interval = absl::Seconds(3);   // --slots-reload-interval (L12)
  absl::Duration hold_timeout = absl::Seconds(5);            // --hold-timeout (L10)
  std::string backend_username;                              // --backend-username
  std::string backend_password;                              // content of --backend-password-file
  uint32_t backend_connections = 1;  // --backend-connections: shared, per worker, node, protocol
  uint32_t backend_idle_connections =
      16;  // --backend-idle-connections: private ones kept, per worker
  // --private-connections: at most so many stay with one client (WATCH, …), per worker
  uint32_t private_connections_max = 1000;
  cluster::ReadPrefer read_prefer = cluster::ReadPrefer::kPrimary;  // --read-prefer
  std::string zone;         // --zone: the proxy's own, for ReadPrefer::kSameZoneReplica
  bool retry_reads = true;  // --retry-reads: a lost read may run once more

  CrossSlot cross_slot = CrossSlot::kRefuse;  // --cross-slot
  // --cross-slot-max-bytes: what one command over slots may hold of its keys' contents
  uint64_t cross_slot_bytes_max = 64u << 20;

  CommandSwitches commands;  // --block-commands, --allow-commands

  // --- the proxies as a cluster (proxy/cluster_face.h)
  bool cluster_face = false;                             // --cluster-face
  cluster::NodeAddress cluster_face_address;             // --cluster-face-address; no host: none
  std::vector<cluster::NodeAddress> cluster_face_nodes;  // --cluster-face-nodes

  // --- limits
  // --memory-limit; ParseCommandLine turns 0 into 75 % of what the machine or cgroup has
  uint64_t memory_limit_bytes = 0;
  int64_t args_max = 1 << 20;                        // --max-args (L3)
  int64_t bulk_bytes_max = int64_t{512} << 20;       // --max-bulk-bytes (L4)
  uint32_t requests_per_client_max = 4096;           // --max-client-requests (L6)
  uint64_t client_output_bytes_max = 256u << 20;     // --max-client-output (L7)
  uint64_t tracking_keys_max = 1000000;              // --tracking-table-max-keys
  int redirections_max = 5;                          // --max-redirections (L9)
  absl::Duration drain_timeout = absl::Seconds(10);  // --drain-timeout (L14)
  absl::Duration auth_timeout = absl::Seconds(10);   // --auth-timeout (L16)

  // --- threads and the ring
  uint32_t workers = 1;                              // --workers; default: one a CPU
  uint32_t ring_entries = 4096;                      // --ring-entries
  bool zero_copy_send = false;                       // --zero-copy-send
  uint64_t zero_copy_bytes_min = 32 << 10;           // --zero-copy-min-bytes
  std::vector<std::string> disabled_features;        // --disable-feature
  bool pin_workers = false;                          // --pin
  absl::Duration busy_poll = absl::ZeroDuration();   // --busy-poll
  absl::Duration batch_wait = absl::ZeroDuration();  // --batch-wait
  bool submission_thread = false;                    // --sqpoll

  // --- telling
  LogLevel log_level = LogLevel::kInfo;  // --log-level
  std::string log_file;                  // --log-file; empty: standard error
  uint64_t log_every_n = 100;            // --log-every-n; 0: no access lines
  std::string debug_address;             // --debug-addr "host:port"; empty: none
};

// What the command line asks for: a configuration, or a text to print (--help, --version).
struct CommandLine {
  std::shared_ptr<const Config> config;  // null: print `text` and exit 0
  std::string text;
  std::vector<std::string> warnings;  // one line each, for the log
};

// Errors: one line that names the flag, key or file, and the value. Reads the files that are named.
absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv);

}  // namespace proxy
