#include "proxy/options.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "io/socket.h"
#include "io/uring_ring.h"
#include "proxy/cluster_face.h"
#include "proxy/log.h"
#include "proxy/small_file.h"
#include "proxy/system_limits.h"

namespace proxy {
namespace {

constexpr uint64_t kKilo = 1 << 10;
constexpr uint64_t kMega = 1 << 20;
constexpr uint64_t kGiga = 1 << 30;
constexpr uint64_t kAny = std::numeric_limits<uint64_t>::max();

absl::Status Bad(std::string what) { return absl::InvalidArgumentError(std::move(what)); }

// Digits only: absl::SimpleAtoi alone would let white space and a sign pass.
bool IsNumber(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

// --- kinds of options: what they take, and how their values are read and shown

template <typename T>
Option Number(const char* name, T Config::*member, uint64_t min, uint64_t max, const char* help) {
  auto set = [=](absl::string_view text, Config* config) {
    uint64_t value = 0;
    if (!IsNumber(text) || !absl::SimpleAtoi(text, &value) || value < min || value > max) {
      return max == kAny ? Bad(absl::StrCat("is not a number from ", min, " on"))
                         : Bad(absl::StrCat("is not between ", min, " and ", max));
    }
    config->*member = static_cast<T>(value);
    return absl::OkStatus();
  };
  auto show = [=](const Config& config) { return absl::StrCat(config.*member); };
  return {.name = name, .takes = "N", .help = help, .set = set, .show = show};
}

template <typename T>
Option Bytes(const char* name, T Config::*member, uint64_t min, uint64_t max, const char* help) {
  auto set = [=](absl::string_view text, Config* config) {
    uint64_t value = 0;
    if (!ParseBytes(text, &value)) return Bad("is not a size (65536, 64kb, 512mb, 1gb)");
    if (value < min || value > max) {
      return Bad(absl::StrCat("is not between ", FormatBytes(min), " and ", FormatBytes(max)));
    }
    config->*member = static_cast<T>(value);
    return absl::OkStatus();
  };
  auto show = [=](const Config& config) {
    return FormatBytes(static_cast<uint64_t>(config.*member));
  };
  return {.name = name, .takes = "SIZE", .help = help, .set = set, .show = show};
}

Option Duration(const char* name, absl::Duration Config::*member, absl::Duration min,
                absl::Duration max, const char* help) {
  auto set = [=](absl::string_view text, Config* config) {
    const bool zero = text == "0" && min == absl::ZeroDuration();
    if (IsNumber(text) && !zero) {
      return Bad(absl::StrCat("has no unit: ", text, "ms or ", text, "s?"));
    }
    absl::Duration value;
    if (!absl::ParseDuration(text, &value)) return Bad("is not a duration (250ms, 3s, 1m)");
    if (value < min || value > max) {
      return Bad(absl::StrCat("is not between ", absl::FormatDuration(min), " and ",
                              absl::FormatDuration(max)));
    }
    config->*member = value;
    return absl::OkStatus();
  };
  auto show = [=](const Config& config) { return absl::FormatDuration(config.*member); };
  return {.name = name, .takes = "DURATION", .help = help, .set = set, .show = show};
}

Option Switch(const char* name, bool Config::*member, const char* help) {
  auto set = [=](absl::string_view text, Config* config) {
    if (text != "true" && text != "false") return Bad("is neither true nor false");
    config->*member = text == "true";
    return absl::OkStatus();
  };
  auto show = [=](const Config& config) { return config.*member ? "true" : "false"; };
  return {.name = name,
          .takes = "true|false",
          .help = help,
          .set = set,
          .show = show,
          .is_switch = true};
}

Option Text(const char* name, std::string Config::*member, const char* takes, const char* empty,
            const char* help) {
  auto set = [=](absl::string_view text, Config* config) {
    config->*member = std::string(text);
    return absl::OkStatus();
  };
  auto show = [=](const Config& config) {
    return (config.*member).empty() ? std::string(empty) : config.*member;
  };
  return {.name = name, .takes = takes, .help = help, .set = set, .show = show};
}

// The file's content without the newline at its end. Messages say nothing of the content.
Option SecretFile(const char* name, std::string Config::*member, const char* help) {
  auto set = [=](absl::string_view path, Config* config) {
    absl::StatusOr<std::string> content = ReadSmallFile(std::string(path), 64 * kKilo);
    if (!content.ok()) return Bad(std::string(content.status().message()));
    absl::string_view secret = *content;
    if (absl::ConsumeSuffix(&secret, "\n")) absl::ConsumeSuffix(&secret, "\r");
    if (secret.empty()) return Bad("is empty");
    config->*member = std::string(secret);
    return absl::OkStatus();
  };
  auto show = [](const Config&) { return "none"; };
  return {.name = name,
          .takes = "FILE",
          .help = help,
          .set = set,
          .show = show,
          .is_secret_file = true};
}

// --- options of a kind of their own

Option Addr() {
  auto set = [](absl::string_view text, Config* config) {
    absl::StatusOr<io::Endpoint> endpoint = io::Endpoint::Parse(text);
    if (!endpoint.ok()) return Bad("is not an address (127.0.0.1:8088, [::1]:8088, unix:/path)");
    config->listen.push_back(*endpoint);
    return absl::OkStatus();
  };
  auto show = [](const Config& config) {
    return absl::StrJoin(config.listen, ",", [](std::string* out, const io::Endpoint& endpoint) {
      absl::StrAppend(out, endpoint.ToString());
    });
  };
  return {.name = "addr",
          .takes = "ADDRESS,...",
          .help = "where clients connect: IP:PORT or unix:/PATH",
          .set = set,
          .show = show,
          .clear = [](Config* config) { config->listen.clear(); }};
}

// A name or an address, and a port. False: it is something else.
bool ParseNodeAddress(absl::string_view text, cluster::NodeAddress* address) {
  absl::StatusOr<io::HostPort> node = io::ParseHostPort(text);
  // The last part of an IPv6 address without brackets would be taken for the port.
  const bool ipv6 = node.ok() && absl::StrContains(node->host, ':');
  if (!node.ok() || node->host.empty() || node->port == 0 || ipv6 != absl::StartsWith(text, "[") ||
      !std::all_of(node->host.begin(), node->host.end(), [](unsigned char c) {
        return absl::ascii_isalnum(c) || absl::StrContains("-._:%", static_cast<char>(c));
      })) {
    return false;
  }
  *address = {std::move(node->host), node->port};
  return true;
}

std::string ShowNodes(const std::vector<cluster::NodeAddress>& nodes) {
  return absl::StrJoin(nodes, ",", [](std::string* out, const cluster::NodeAddress& node) {
    out->append(io::FormatHostPort(node.host, node.port));
  });
}

Option StartupNodes() {
  auto set = [](absl::string_view text, Config* config) {
    cluster::NodeAddress node;
    if (!ParseNodeAddress(text, &node)) {
      return Bad("is not HOST:PORT (10.0.0.1:7001, node-a:7001, [::1]:7001)");
    }
    config->startup_nodes.push_back(std::move(node));
    return absl::OkStatus();
  };
  auto show = [](const Config& config) { return ShowNodes(config.startup_nodes); };
  return {.name = "startup-nodes",
          .takes = "HOST:PORT,...",
          .help = "nodes to ask for the cluster's topology: names or addresses",
          .set = set,
          .show = show,
          .clear = [](Config* config) { config->startup_nodes.clear(); }};
}

Option ReadPreferOption() {
  auto set = [](absl::string_view text, Config* config) {
    if (text != "0" && text != "1" && text != "2") return Bad("is not 0, 1 or 2");
    config->read_prefer = static_cast<cluster::ReadPrefer>(text[0] - '0');
    return absl::OkStatus();
  };
  auto show = [](const Config& config) {
    return absl::StrCat(static_cast<int>(config.read_prefer));
  };
  return {.name = "read-prefer",
          .takes = "0|1|2",
          .help = "who serves reads: 0 the primary, 1 replicas, 2 replicas in the proxy's zone",
          .set = set,
          .show = show};
}

Option CrossSlotOption() {
  auto set = [](absl::string_view text, Config* config) {
    if (text != "refuse" && text != "split") return Bad("is neither refuse nor split");
    config->cross_slot = text == "split" ? CrossSlot::kSplit : CrossSlot::kRefuse;
    return absl::OkStatus();
  };
  auto show = [](const Config& config) {
    return config.cross_slot == CrossSlot::kSplit ? "split" : "refuse";
  };
  return {.name = "cross-slot",
          .takes = "refuse|split",
          .help = "MULTI, SUNION, RENAME, ... over several slots: refuse it, or serve it in steps",
          .set = set,
          .show = show};
}

using SwitchCommand = absl::Status (CommandSwitches::*)(absl::string_view name);

Option CommandList(const char* name, SwitchCommand add, void (CommandSwitches::*clear)(),
                   const std::vector<std::string>& (CommandSwitches::*names)() const,
                   const char* help) {
  return {
      .name = name,
      .takes = "NAME,...",
      .help = help,
      .set = [=](absl::string_view text, Config* config) { return (config->commands.*add)(text); },
      .show =
          [=](const Config& config) {
            const std::vector<std::string>& list = (config.commands.*names)();
            return list.empty() ? std::string("none") : absl::StrJoin(list, ",");
          },
      .clear = [=](Config* config) { (config->commands.*clear)(); }};
}

// What clients are told to connect to, written as the servers write it.
absl::Status ParseFaceAddress(absl::string_view text, cluster::NodeAddress* address) {
  if (!ParseNodeAddress(text, address)) {
    return Bad("is not HOST:PORT (10.0.0.1:8088, proxy-a:8088, [::1]:8088)");
  }
  address->host = FaceHost(address->host);
  if (IsWildcard(address->host)) return Bad("is no address that clients could connect to");
  return absl::OkStatus();
}

Option ClusterFaceAddress() {
  auto set = [](absl::string_view text, Config* config) {
    return ParseFaceAddress(text, &config->cluster_face_address);
  };
  auto show = [](const Config& config) {
    const cluster::NodeAddress& address = config.cluster_face_address;
    return address.host.empty() ? "none" : io::FormatHostPort(address.host, address.port);
  };
  return {
      .name = "cluster-face-address",
      .takes = "HOST:PORT",
      .help = "this proxy's own for --cluster-face; without it the one that a client connected to",
      .set = set,
      .show = show};
}

Option ClusterFaceNodes() {
  auto set = [](absl::string_view text, Config* config) {
    cluster::NodeAddress node;
    const absl::Status status = ParseFaceAddress(text, &node);
    if (!status.ok()) return status;
    std::vector<cluster::NodeAddress>* const nodes = &config->cluster_face_nodes;
    if (std::find(nodes->begin(), nodes->end(), node) != nodes->end()) {
      return Bad("is there twice");
    }
    if (nodes->size() == kFaceNodesMax) {
      return Bad(absl::StrCat("is one more than the ", kFaceNodesMax, " that there may be"));
    }
    nodes->push_back(std::move(node));
    return absl::OkStatus();
  };
  auto show = [](const Config& config) {
    if (config.cluster_face_nodes.empty()) return std::string("none");
    return ShowNodes(config.cluster_face_nodes);
  };
  return {.name = "cluster-face-nodes",
          .takes = "HOST:PORT,...",
          .help = "all proxies that --cluster-face shows, the same list at each",
          .set = set,
          .show = show,
          .clear = [](Config* config) { config->cluster_face_nodes.clear(); }};
}

Option MemoryLimit() {
  constexpr uint64_t kMin = 16 * kMega;
  auto set = [](absl::string_view text, Config* config) {
    uint64_t value = 0;
    if (!ParseBytes(text, &value)) return Bad("is not a size (512mb, 1gb, or 0)");
    if (value != 0 && value < kMin) {
      return Bad(absl::StrCat("is neither 0 nor at least ", FormatBytes(kMin)));
    }
    config->memory_limit_bytes = value;
    return absl::OkStatus();
  };
  auto show = [](const Config&) { return "0"; };
  return {.name = "memory-limit",
          .takes = "SIZE",
          .help = "bytes held for clients; 0: 75 % of the memory of machine or control group",
          .set = set,
          .show = show};
}

Option DisableFeature() {
  auto set = [](absl::string_view text, Config* config) {
    const std::vector<absl::string_view> known = io::RingFeatureNames();
    if (std::find(known.begin(), known.end(), text) == known.end()) {
      return Bad(absl::StrCat("is not one of ", absl::StrJoin(known, ", ")));
    }
    config->disabled_features.emplace_back(text);
    return absl::OkStatus();
  };
  auto show = [](const Config& config) {
    return config.disabled_features.empty() ? "none" : absl::StrJoin(config.disabled_features, ",");
  };
  return {.name = "disable-feature",
          .takes = "NAME,...",
          .help = "features of io_uring to do without",
          .set = set,
          .show = show,
          .clear = [](Config* config) { config->disabled_features.clear(); }};
}

Option LogLevelOption() {
  auto set = [](absl::string_view text, Config* config) {
    if (!ParseLogLevel(text, &config->log_level)) {
      return Bad("is not one of trace, debug, info, warn, error, off");
    }
    return absl::OkStatus();
  };
  auto show = [](const Config& config) { return std::string(LogLevelName(config.log_level)); };
  return {.name = "log-level",
          .takes = "LEVEL",
          .help = "trace, debug, info, warn, error or off",
          .set = set,
          .show = show};
}

Option DebugAddr() {
  auto set = [](absl::string_view text, Config* config) {
    absl::StatusOr<io::HostPort> address = io::ParseHostPort(text);
    if (!address.ok() || address->host.empty()) {
      return Bad("is not HOST:PORT (127.0.0.1:8089, [::1]:8089)");
    }
    config->debug_address = std::string(text);
    return absl::OkStatus();
  };
  auto show = [](const Config& config) {
    return config.debug_address.empty() ? "none" : config.debug_address;
  };
  return {.name = "debug-addr",
          .takes = "HOST:PORT",
          .help = "HTTP with /metrics, /healthz, /readyz and /loglevel",
          .set = set,
          .show = show};
}

// --- the table

constexpr absl::Duration kShort = absl::Milliseconds(1);

std::vector<OptionSection> MakeSections() {
  return {
      {"Clients",
       {
           Addr(),
           Number("max-clients", &Config::clients_max, 1, 1000000,
                  "connections of clients; lowered to what open files allow"),
           SecretFile("requirepass-file", &Config::password, "holds the password of clients"),
           Switch("allow-unauthenticated", &Config::allow_unauthenticated,
                  "let clients without a password use --backend-password-file"),
           Duration("auth-timeout", &Config::auth_timeout, kShort, absl::Hours(1),
                    "time that a client has to authenticate"),
       }},
      {"Cluster",
       {
           StartupNodes(),
           Text("backend-username", &Config::backend_username, "NAME", "none",
                "ACL user for connections to nodes"),
           SecretFile("backend-password-file", &Config::backend_password,
                      "holds the password for connections to nodes"),
           Duration("connect-timeout", &Config::connect_timeout, kShort, absl::Minutes(1),
                    "to connect to a node; each reply of the handshake has 1 s"),
           Duration("reply-timeout", &Config::reply_timeout, kShort, absl::Hours(1),
                    "for a node's reply"),
           Duration("slow-reply-timeout", &Config::slow_reply_timeout, kShort, absl::Hours(24),
                    "the same while a command of unbounded run time is out there"),
           Duration("hold-timeout", &Config::hold_timeout, kShort, absl::Hours(1),
                    "how long a request waits for the cluster to become able to serve it"),
           Duration("slots-reload-interval", &Config::slots_reload_interval, kShort, absl::Hours(1),
                    "shortest time between refreshes that nothing asks for"),
           Number("backend-connections", &Config::backend_connections, 1, 64,
                  "shared connections per worker, node and protocol version"),
           Number("backend-idle-connections", &Config::backend_idle_connections, 0, 10000,
                  "private connections that each worker keeps for later use"),
           Number("private-connections", &Config::private_connections_max, 1, 1000000,
                  "connections per worker for one client each: WATCH, commands that wait"),
           ReadPreferOption(),
           Text("zone", &Config::zone, "NAME", "none",
                "the proxy's zone, as the nodes' availability-zone has it"),
           Switch("retry-reads", &Config::retry_reads,
                  "send a read once more when its connection broke"),
           Number("max-redirections", &Config::redirections_max, 1, 100,
                  "MOVED and ASK that one request follows"),
           CrossSlotOption(),
           Bytes("cross-slot-max-bytes", &Config::cross_slot_bytes_max, 64 * kKilo, 16 * kGiga,
                 "contents of keys that a command over slots (SUNION, RENAME, ...) may hold"),
           CommandList("block-commands", &CommandSwitches::Block, &CommandSwitches::ClearBlocked,
                       &CommandSwitches::blocked_names,
                       "commands that are refused: keys, flushall, config|set, ..."),
           CommandList("allow-commands", &CommandSwitches::Allow, &CommandSwitches::ClearAllowed,
                       &CommandSwitches::allowed_names,
                       "administration that is served, by all nodes: config|set, bgsave, ..."),
       }},
      {"The proxies as a cluster",
       {
           Switch("cluster-face", &Config::cluster_face,
                  "look like a cluster's node, for clients that want a cluster"),
           ClusterFaceAddress(),
           ClusterFaceNodes(),
       }},
      {"Limits",
       {
           MemoryLimit(),
           Number("max-args", &Config::args_max, 1, std::numeric_limits<int32_t>::max(),
                  "arguments of a command"),
           Bytes("max-bulk-bytes", &Config::bulk_bytes_max, kKilo, 512 * kMega,
                 "length of an argument"),
           Number("max-client-requests", &Config::requests_per_client_max, 1, 65536,
                  "requests of a client in flight; more are not read yet"),
           Bytes("max-client-output", &Config::client_output_bytes_max, kMega, 1024 * kGiga,
                 "unread replies at which a client is closed"),
           Number("tracking-table-max-keys", &Config::tracking_keys_max, 1, 1000000000,
                  "keys noted for clients that track, each for each of them"),
           Duration("drain-timeout", &Config::drain_timeout, absl::ZeroDuration(), absl::Hours(1),
                    "time to finish requests after SIGTERM"),
       }},
      {"Threads",
       {
           Number("workers", &Config::workers, 1, 256,
                  "threads that serve clients; by default one a CPU"),
           Number("ring-entries", &Config::ring_entries, 256, 32768,
                  "submission queue of each io_uring"),
           Switch("zero-copy-send", &Config::zero_copy_send,
                  "send large values without copying where the kernel can; locks memory"),
           Bytes("zero-copy-min-bytes", &Config::zero_copy_bytes_min, kKilo, kGiga,
                 "the least length that is sent so"),
           Switch("pin", &Config::pin_workers, "each worker on a CPU of its own"),
           Duration("busy-poll", &Config::busy_poll, absl::ZeroDuration(), absl::Seconds(1),
                    "how long a worker looks for work before it sleeps; takes a CPU a worker"),
           Duration("batch-wait", &Config::batch_wait, absl::ZeroDuration(), absl::Milliseconds(10),
                    "how long a worker under load may wait for more, at most a third of what nodes "
                    "take to answer; 0: never"),
           Switch("sqpoll", &Config::submission_thread,
                  "let the kernel submit on a thread of its own; takes another CPU a worker"),
           DisableFeature(),
       }},
      {"Log and metrics",
       {
           LogLevelOption(),
           Text("log-file", &Config::log_file, "FILE", "standard error",
                "appended to; opened anew when it was renamed"),
           Number("log-every-n", &Config::log_every_n, 0, kAny,
                  "an access line for every n-th command; 0: none"),
           DebugAddr(),
       }},
  };
}

}  // namespace

absl::Span<const OptionSection> OptionSections() {
  // Never destroyed: usable until the very end of the process.
  static const auto* const kSections = new std::vector<OptionSection>(MakeSections());
  return *kSections;
}

const Option* FindOption(absl::string_view name) {
  for (const OptionSection& section : OptionSections()) {
    for (const Option& option : section.options) {
      if (name == option.name) return &option;
    }
  }
  return nullptr;
}

Config DefaultConfig() {
  Config config;
  config.listen.push_back(*io::Endpoint::FromIp("0.0.0.0", 8088));
  config.startup_nodes.push_back({"127.0.0.1", 7001});
  config.workers = std::min(CpusAvailable(), 256u);
  return config;
}

bool ParseBytes(absl::string_view text, uint64_t* bytes) {
  const std::string lower = absl::AsciiStrToLower(text);
  absl::string_view digits = lower;
  const uint64_t unit = absl::ConsumeSuffix(&digits, "kb")   ? kKilo
                        : absl::ConsumeSuffix(&digits, "mb") ? kMega
                        : absl::ConsumeSuffix(&digits, "gb") ? kGiga
                                                             : 1;
  uint64_t number = 0;
  if (!IsNumber(digits) || !absl::SimpleAtoi(digits, &number) || number > kAny / unit) {
    return false;
  }
  *bytes = number * unit;
  return true;
}

std::string FormatBytes(uint64_t bytes) {
  if (bytes != 0 && bytes % kGiga == 0) return absl::StrCat(bytes / kGiga, "gb");
  if (bytes != 0 && bytes % kMega == 0) return absl::StrCat(bytes / kMega, "mb");
  if (bytes != 0 && bytes % kKilo == 0) return absl::StrCat(bytes / kKilo, "kb");
  return absl::StrCat(bytes);
}

}  // namespace proxy
