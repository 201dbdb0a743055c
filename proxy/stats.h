#pragma once

// File: proxy/stats.h
//
// Counters and gauges of one worker (or of control). One thread writes, any may read: a plain load,
// add and store on the worker's own cache lines. The reader sums over workers.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace proxy {

// A single-writer number.
class Counter {
 public:
  void Add(uint64_t n) {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  void Sub(uint64_t n) { Add(~n + 1); }
  void Set(uint64_t n) { value_.store(n, std::memory_order_relaxed); }
  uint64_t Get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// Every number with its metric name (without the prefix "rcproxy_"), its kind and its help text:
// X(member, "metric_name", kind, "help")
#define RCPROXY_WORKER_STATS(X)                                                                   \
  X(clients_accepted, "clients_accepted_total", kCounter, "Client connections taken")             \
  X(clients_open, "clients", kGauge, "Client connections open")                                   \
  X(blocked_clients, "blocked_clients", kGauge, "Clients whose command waits for what comes")     \
  X(clients_refused_for_memory, "clients_refused_for_memory_total", kCounter,                     \
    "Client connections refused for want of memory")                                              \
  X(slow_client_closed, "slow_client_closed_total", kCounter, "Clients closed for unread output") \
  X(memory_closed, "memory_closed_total", kCounter, "Clients closed for the memory limit")        \
  X(protocol_errors, "client_protocol_errors_total", kCounter, "Clients closed for bad RESP")     \
  X(auth_failures, "client_auth_failures_total", kCounter, "Failed AUTH of clients")              \
  X(requests, "requests_total", kCounter, "Requests of clients")                                  \
  X(local_requests, "local_requests_total", kCounter, "Requests answered by the proxy itself")    \
  X(split_requests, "split_requests_total", kCounter, "Requests split over slots")                \
  X(cross_slot_transactions, "cross_slot_transactions_total", kCounter,                           \
    "Transactions run in several parts, one a slot")                                              \
  X(cross_slot_partly, "cross_slot_partly_executed_total", kCounter,                              \
    "Of these, and of those below, those of which a part failed when others had run")             \
  X(cross_slot_requests, "cross_slot_requests_total", kCounter,                                   \
    "Other requests over slots that --cross-slot split lets through")                             \
  X(fragments, "fragments_total", kCounter, "Fragments of split requests")                        \
  X(refused_requests, "refused_requests_total", kCounter, "Requests refused by the proxy")        \
  X(proxy_errors, "proxy_errors_total", kCounter, "Errors made by the proxy")                     \
  X(unknown_outcomes, "unknown_outcomes_total", kCounter, "Errors with (outcome unknown)")        \
  X(backend_requests, "backend_requests_total", kCounter, "Requests given to nodes")              \
  X(backend_replies, "backend_replies_total", kCounter, "Replies of nodes")                       \
  X(backend_connects, "backend_connects_total", kCounter, "Connections begun to nodes")           \
  X(backend_connect_failures, "backend_connect_failures_total", kCounter, "Failed connects")      \
  X(backend_open, "backend_connections", kGauge, "Connections to nodes that are open")            \
  X(backend_lost, "backend_lost_total", kCounter, "Connections to nodes that broke")              \
  X(backend_timeouts, "backend_timeouts_total", kCounter, "Nodes that did not reply in time")     \
  X(backend_protocol_errors, "backend_protocol_errors_total", kCounter, "Bad bytes of nodes")     \
  X(backend_auth_failures, "backend_auth_failures_total", kCounter, "Nodes that refused us")      \
  X(moved, "redirections_moved_total", kCounter, "MOVED replies")                                 \
  X(asked, "redirections_ask_total", kCounter, "ASK replies")                                     \
  X(try_again, "redirections_tryagain_total", kCounter, "TRYAGAIN replies")                       \
  X(malformed_redirections, "redirections_malformed_total", kCounter, "Malformed redirections")   \
  X(script_repairs, "script_repairs_total", kCounter, "Scripts that nodes lacked, as they said")  \
  X(held_requests, "held_requests", kGauge, "Requests waiting for the cluster")                   \
  X(requests_in_flight, "requests_in_flight", kGauge, "Requests of clients not yet answered")     \
  X(payload_bytes_forwarded, "payload_bytes_forwarded", kCounter, "Bytes forwarded")              \
  X(payload_bytes_copied, "payload_bytes_copied", kCounter, "Of these, bytes copied on the way")  \
  X(charged_bytes, "charged_bytes", kGauge, "Bytes held for clients")                             \
  X(subscriptions, "subscriptions", kGauge, "Subscriptions of clients")                           \
  X(subscribed_topics, "subscribed_topics", kGauge,                                               \
    "Channels and patterns that workers are subscribed to")                                       \
  X(subscriber_links, "subscriber_connections", kGauge, "Connections to nodes for subscriptions") \
  X(subscriptions_lost, "subscriptions_lost_total", kCounter,                                     \
    "Subscriptions at nodes that broke and were made anew")                                       \
  X(messages_received, "published_messages_received_total", kCounter,                             \
    "Published messages of nodes that some client gets")                                          \
  X(messages_delivered, "published_messages_delivered_total", kCounter,                           \
    "Published messages given to clients")                                                        \
  X(slow_subscriber_closed, "slow_subscriber_closed_total", kCounter,                             \
    "Subscribers closed for unread messages")                                                     \
  X(tracking_clients, "tracking_clients", kGauge, "Clients that track")                           \
  X(tracking_links, "tracking_connections", kGauge, "Connections to nodes for tracking")          \
  X(tracked_keys, "tracked_keys", kGauge, "Keys noted for clients that track")                    \
  X(tracked_items, "tracked_items", kGauge, "Of these, each for each of its readers")             \
  X(tracking_prefixes, "tracking_prefixes", kGauge, "Prefixes of keys that clients track")        \
  X(keys_invalidated, "tracking_keys_changed_total", kCounter, "Changes of keys that nodes told") \
  X(all_invalidated, "tracking_all_changed_total", kCounter,                                      \
    "Times that all keys may have changed for clients that track")                                \
  X(pubsub_clients, "pubsub_clients", kGauge, "Clients with subscriptions")                       \
  X(watching_clients, "watching_clients", kGauge, "Clients that watch keys")                      \
  X(clients_in_timeout_table, "blocked_clients_with_timeout", kGauge,                             \
    "Of the blocked clients, those that do not wait for ever")                                    \
  X(monitors, "monitors", kGauge, "Clients that are shown all commands (MONITOR)")                \
  X(monitor_lines, "monitor_lines_total", kCounter, "Commands shown to them")                     \
  X(slow_monitor_closed, "slow_monitor_closed_total", kCounter,                                   \
    "Of these clients, those closed for unread lines")                                            \
  X(turns, "turns_total", kCounter, "Turns of the loop")                                          \
  X(completions, "completions_total", kCounter, "Completions handled")                            \
  X(sends, "sends_total", kCounter, "Send operations")                                            \
  X(late_completions, "late_completions_total", kCounter, "Completions for a reused index")       \
  X(topology_swaps, "topology_swaps_total", kCounter, "Topologies taken over")

enum class StatKind : uint8_t { kCounter, kGauge };

struct alignas(128) WorkerStats {
#define RCPROXY_STAT_MEMBER(member, name, kind, help) Counter member;
  RCPROXY_WORKER_STATS(RCPROXY_STAT_MEMBER)
#undef RCPROXY_STAT_MEMBER
};

#define RCPROXY_CONTROL_STATS(X)                                                               \
  X(refreshes, "topology_refreshes_total", kCounter, "Topology refreshes begun")               \
  X(refresh_failures, "topology_refresh_failures_total", kCounter, "Refreshes without a view") \
  X(topology_published, "topology_changes_total", kCounter, "Topologies given to the workers") \
  X(topology_refused, "topology_refused_total", kCounter, "Views not taken over")              \
  X(topology_ready, "topology_ready", kGauge, "1 once a topology is there")                    \
  X(draining, "draining", kGauge, "1 once a drain has begun")                                  \
  X(cluster_nodes, "cluster_nodes", kGauge, "Nodes of the topology")                           \
  X(covered_slots, "cluster_slots_covered", kGauge, "Slots that a node serves")                \
  X(functions_missing, "functions_missing_total", kCounter,                                    \
    "Primaries that joined without the others' libraries")                                     \
  X(functions_given, "functions_given_total", kCounter,                                        \
    "Of these, primaries that were given them")                                                \
  X(accept_failures, "accept_failures_total", kCounter, "Failed accepts")                      \
  X(clients_over_limit, "clients_refused_total", kCounter, "Clients refused: too many")

struct alignas(128) ControlStats {
#define RCPROXY_STAT_MEMBER(member, name, kind, help) Counter member;
  RCPROXY_CONTROL_STATS(RCPROXY_STAT_MEMBER)
#undef RCPROXY_STAT_MEMBER
};

// The statistics of all threads of one proxy. Any thread may read.
class StatsRegistry {
 public:
  explicit StatsRegistry(uint32_t workers);

  WorkerStats* worker(uint32_t index) { return workers_[index].get(); }
  ControlStats* control() { return &control_; }
  const ControlStats& control() const { return control_; }
  uint32_t workers() const { return static_cast<uint32_t>(workers_.size()); }
  // Summed over the workers.
  uint64_t Sum(Counter WorkerStats::*member) const;
  // All numbers in Prometheus' text format, each with the prefix "rcproxy_"; sums over workers.
  // `log_dropped` and the build's version are among them.
  std::string PrometheusText(uint64_t log_dropped) const;

 private:
  std::vector<std::unique_ptr<WorkerStats>> workers_;
  ControlStats control_;
};

constexpr char kVersion[] = "0.1.0";

}  // namespace proxy
