#include "tools/latency/options.h"

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace latency {

const char kUsage[] =
    R"(Measures latency, throughput and processor time of servers that speak RESP, side by side.

  latency --target rcproxy=127.0.0.1:8088 --target redis=127.0.0.1:6379 --clients 50
  latency --target rcproxy=127.0.0.1:8088 --cluster direct=127.0.0.1:7001 --rate 20000 --html a.html

Targets take turns: in each round each is measured once, in an order drawn anew. What is reported
are medians over the rounds, and the least and the most. All targets get the same requests.

  --target NAME=ADDR[@PID,…]   a proxy, a plain server, anything that speaks RESP. ADDR is
                               HOST:PORT or unix:/PATH; the process is found by its port if it is
                               not given. May be repeated
  --cluster NAME=ADDR[@PID,…]  a cluster without a proxy, by the address of any node: each client
                               is connected to one node and asks for keys of that node only.
                               mgetN, msetN and delN are N pipelined commands there
  --servers-pids NAME=PID,…    the servers behind a target; else found by its connections
  --reference NAME             the target that the others are compared with (default: the first)

  --clients N          connections to each target (default 50)
  --pipeline N         requests that each keeps in flight (default 1). With --rate: the most that
                       it may have in flight (default 1000)
  --rate R             requests a second, of all clients together, at fixed times: an open loop.
                       Latency counts from the time at which a request was meant to be sent, so
                       what a slow reply delays counts too. 0: a closed loop (default)
  --mix OP[:WEIGHT],…  get, set, mgetN, msetN, del, delN, incr, ping (default get:80,set:20)
  --keys N             keys (default 100000): lat:00000000 …
  --distribution D     of the keys: uniform (default), zipf (theta 0.99), hot (one gets 50 %)
  --value-bytes N      of each value, at least 8; or A..B: each length is as likely (default 64)
  --prefill 0|1        write all keys first, so that reads find them (default 1)
  --resp 2|3           protocol version (default 2)

  --rounds N           (default 7)
  --seconds S          of each target in each round (default 2)
  --warm-up S          before each of them, not measured (default 0.2)
  --timeout S          a target that answers nothing for so long is given up (default 10)
  --json FILE          the results, of each round too
  --html FILE          the results with a plot of the latencies: one file, nothing to load

Every reply is judged: its type, the number of elements, and that each value is one of its key, to
the last byte. One thread makes the load; when that thread is what limits it, that is said. Keys are
left where they are. Exit codes: 0 measured; 1 a reply was wrong or an error, or a target was lost;
2 it could not run.
)";

namespace {

using Setter = std::function<absl::Status(absl::string_view)>;

absl::Status Bad(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat("bad value: ", text));
}

template <typename Number>
Setter Whole(Number* target, int64_t least, int64_t most) {
  return [=](absl::string_view text) {
    int64_t value = 0;
    if (!absl::SimpleAtoi(text, &value)) return Bad(text);
    if (value < least || value > most) {
      return absl::InvalidArgumentError(absl::StrCat("not in ", least, " … ", most, ": ", text));
    }
    *target = static_cast<Number>(value);
    return absl::OkStatus();
  };
}

Setter Real(double* target, double least, double most) {
  return [=](absl::string_view text) {
    double value = 0;
    if (!absl::SimpleAtod(text, &value)) return Bad(text);
    if (!(value >= least && value <= most)) {
      return absl::InvalidArgumentError(absl::StrCat("not in ", least, " … ", most, ": ", text));
    }
    *target = value;
    return absl::OkStatus();
  };
}

Setter Text(std::string* target) {
  return [target](absl::string_view text) {
    *target = std::string(text);
    return absl::OkStatus();
  };
}

absl::Status ParseValueBytes(absl::string_view text, WorkloadOptions* workload) {
  constexpr int64_t kMost = 512 << 20;
  const std::pair<absl::string_view, absl::string_view> ends =
      absl::StrSplit(text, absl::MaxSplits("..", 1));
  const bool range = absl::StrContains(text, "..");
  absl::Status status = Whole(&workload->value_bytes_min, 8, kMost)(ends.first);
  if (status.ok()) {
    status = Whole(&workload->value_bytes_max, workload->value_bytes_min,
                   kMost)(range ? ends.second : ends.first);
  }
  return status;
}

absl::Status ParseDistribution(absl::string_view text, WorkloadOptions* workload) {
  const std::map<absl::string_view, Distribution> known = {{"uniform", Distribution::kUniform},
                                                           {"zipf", Distribution::kZipf},
                                                           {"hot", Distribution::kHot}};
  const auto found = known.find(text);
  if (found == known.end()) return Bad(text);
  workload->distribution = found->second;
  return absl::OkStatus();
}

absl::string_view NameOf(Distribution distribution) {
  switch (distribution) {
    case Distribution::kUniform:
      return "uniform";
    case Distribution::kZipf:
      return "zipf";
    case Distribution::kHot:
      return "one key gets half";
  }
  return "";
}

}  // namespace

absl::StatusOr<Options> ParseOptions(int argc, char** argv) {
  Options options;
  size_t pipeline = 0;
  std::string reference;
  std::map<std::string, std::vector<pid_t>> servers;
  int resp = 2;
  const auto add_target = [&options](bool cluster) -> Setter {
    return [&options, cluster](absl::string_view text) -> absl::Status {
      absl::StatusOr<TargetSpec> target = ParseTarget(text);
      if (!target.ok()) return target.status();
      target->cluster = cluster;
      for (const TargetSpec& other : options.targets) {
        if (other.name == target->name) {
          return absl::InvalidArgumentError(absl::StrCat("there is another ", target->name));
        }
      }
      options.targets.push_back(*std::move(target));
      return absl::OkStatus();
    };
  };
  const auto add_servers = [&servers](absl::string_view text) -> absl::Status {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(text, absl::MaxSplits('=', 1));
    std::vector<pid_t>& pids = servers[std::string(parts.first)];
    for (const absl::string_view pid : absl::StrSplit(parts.second, ',')) {
      pids.push_back(0);
      if (!absl::SimpleAtoi(pid, &pids.back()) || pids.back() <= 0) return Bad(text);
    }
    return absl::OkStatus();
  };
  const std::map<absl::string_view, Setter> flags = {
      {"target", add_target(false)},
      {"cluster", add_target(true)},
      {"servers-pids", add_servers},
      {"reference", Text(&reference)},
      {"clients", Whole(&options.load.clients, 1, 100000)},
      {"pipeline", Whole(&pipeline, 1, 100000)},
      {"rate", Real(&options.load.rate, 0, 1e8)},
      {"mix",
       [&options](absl::string_view text) -> absl::Status {
         absl::StatusOr<std::vector<Op>> mix = ParseMix(text);
         if (!mix.ok()) return mix.status();
         options.workload.mix = *std::move(mix);
         options.workload.mix_text = std::string(text);
         return absl::OkStatus();
       }},
      {"keys", Whole(&options.workload.keys, 1, kKeysMax)},
      {"distribution",
       [&options](absl::string_view text) { return ParseDistribution(text, &options.workload); }},
      {"value-bytes",
       [&options](absl::string_view text) { return ParseValueBytes(text, &options.workload); }},
      {"prefill", Whole(&options.workload.prefill, 0, 1)},
      {"resp", Whole(&resp, 2, 3)},
      {"rounds", Whole(&options.rounds, 1, 10000)},
      {"seconds", Real(&options.seconds, 0.01, 86400)},
      {"warm-up", Real(&options.warm_up, 0, 3600)},
      {"timeout", Real(&options.timeout, 0.1, 86400)},
      {"json", Text(&options.json)},
      {"html", Text(&options.html)},
  };
  for (int i = 1; i < argc; ++i) {
    const absl::string_view argument = argv[i];
    if (argument == "--help") {
      options.help = true;
      return options;
    }
    const size_t equals = argument.find('=');
    const auto flag =
        argument.substr(0, 2) == "--" ? flags.find(argument.substr(2, equals - 2)) : flags.end();
    if (flag == flags.end()) {
      return absl::InvalidArgumentError(absl::StrCat("no such flag: ", argument, "; see --help"));
    }
    if (equals == absl::string_view::npos && i + 1 == argc) {
      return absl::InvalidArgumentError(absl::StrCat(argument, " needs a value"));
    }
    const absl::string_view value = equals == absl::string_view::npos ? absl::string_view(argv[++i])
                                                                      : argument.substr(equals + 1);
    const absl::Status status = flag->second(value);
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--", flag->first, ": ", status.message()));
    }
  }
  if (options.targets.empty()) {
    return absl::InvalidArgumentError("--target or --cluster is needed; see --help");
  }
  const auto find = [&options](absl::string_view name) {
    return std::find_if(options.targets.begin(), options.targets.end(),
                        [&](const TargetSpec& target) { return target.name == name; });
  };
  for (const auto& [name, pids] : servers) {
    const auto target = find(name);
    if (target == options.targets.end()) {
      return absl::InvalidArgumentError(absl::StrCat("--servers-pids: no such target: ", name));
    }
    target->servers = pids;
  }
  if (!reference.empty()) {
    const auto target = find(reference);
    if (target == options.targets.end()) {
      return absl::InvalidArgumentError(absl::StrCat("--reference: no such target: ", reference));
    }
    options.reference = static_cast<size_t>(target - options.targets.begin());
  }
  for (const TargetSpec& target : options.targets) {
    for (const auto* pids : {&target.pids, &target.servers}) {
      for (const pid_t pid : *pids) {
        if (ProcessExists(pid)) continue;
        return absl::InvalidArgumentError(
            absl::StrCat("--target ", target.name, ": no process ", pid));
      }
    }
  }
  if (options.workload.mix.empty()) {
    options.workload.mix = *ParseMix(options.workload.mix_text);
  }
  options.load.resp3 = resp == 3;
  options.load.requests_max = pipeline > 0 ? pipeline : options.load.rate > 0 ? 1000 : 1;
  return options;
}

std::string Describe(const Options& options) {
  const LoadOptions& load = options.load;
  const WorkloadOptions& workload = options.workload;
  std::string text = absl::StrCat(load.clients, load.clients == 1 ? " client" : " clients");
  if (load.rate > 0) {
    absl::StrAppendFormat(&text, ", open loop of %g requests/s, at most %d in flight each",
                          load.rate, load.requests_max);
  } else {
    absl::StrAppend(&text, ", closed loop, pipeline ", load.requests_max);
  }
  absl::StrAppend(&text, "; ", workload.mix_text, "; values of ", workload.value_bytes_min);
  if (workload.value_bytes_max != workload.value_bytes_min) {
    absl::StrAppend(&text, "..", workload.value_bytes_max);
  }
  absl::StrAppendFormat(&text, " bytes; %d keys, %s; RESP%d; %d rounds of %g s", workload.keys,
                        NameOf(workload.distribution), load.resp3 ? 3 : 2, options.rounds,
                        options.seconds);
  return text;
}

}  // namespace latency
