// Runs simulations by seed, on as many cores as it is told:
//
//   simulate [--seeds A..B] [--commands N] [--jobs N] [--check-hash] [--stop-at-failure]
//            [--verbose]
//   simulate --speed [--commands N]       how fast the simulator itself is
//
// Prints each failure with its seed; exit code 1 if there was one.

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tests/sim/simulation.h"

namespace sim {
namespace {

struct Flags {
  uint64_t first = 1;
  uint64_t last = 100;
  uint32_t commands = 2000;
  int jobs = 1;
  bool check_hash = false;
  bool stop_at_failure = false;
  bool verbose = false;
  bool speed = false;
};

bool ParseFlags(int argc, char** argv, Flags* flags) {
  for (int i = 1; i < argc; ++i) {
    const absl::string_view name = argv[i];
    const bool has_value = i + 1 < argc;
    if (name == "--seeds" && has_value) {
      const std::vector<std::string> ends = absl::StrSplit(argv[++i], "..");
      if (!absl::SimpleAtoi(ends[0], &flags->first)) return false;
      flags->last = flags->first;
      if (ends.size() > 1 && !absl::SimpleAtoi(ends[1], &flags->last)) return false;
    } else if (name == "--commands" && has_value) {
      if (!absl::SimpleAtoi(argv[++i], &flags->commands)) return false;
    } else if (name == "--jobs" && has_value) {
      if (!absl::SimpleAtoi(argv[++i], &flags->jobs)) return false;
    } else if (name == "--check-hash") {
      flags->check_hash = true;
    } else if (name == "--stop-at-failure") {
      flags->stop_at_failure = true;
    } else if (name == "--speed") {
      flags->speed = true;
    } else if (name == "--verbose") {
      flags->verbose = true;
    } else {
      return false;
    }
  }
  return true;
}

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec) + 1e-6 * usage.ru_utime.tv_usec +
         static_cast<double>(usage.ru_stime.tv_sec) + 1e-6 * usage.ru_stime.tv_usec;
}

// Every jobs-th seed. Returns how many failed.
int RunSeeds(const Flags& flags, uint64_t offset) {
  int failures = 0;
  double simulated = 0;
  uint64_t answered = 0, errors = 0;
  std::map<std::string, uint64_t> errors_by_kind, events;
  for (uint64_t seed = flags.first + offset; seed <= flags.last;
       seed += static_cast<uint64_t>(flags.jobs)) {
    if (failures > 0 && flags.stop_at_failure) break;
    // Before the run: should it end the process, this is the last line.
    if (flags.verbose) printf("seed %llu …\n", static_cast<unsigned long long>(seed));
    fflush(stdout);
    SimulationResult result = RunSimulation({.seed = seed, .commands = flags.commands});
    if (flags.check_hash && result.failure.empty()) {
      const SimulationResult again = RunSimulation({.seed = seed, .commands = flags.commands});
      if (again.trace_hash != result.trace_hash) result.failure = "two runs differ";
    }
    if (flags.verbose) {
      printf("seed %llu: %s, %llu answers, %llu steps, hash %016llx\n",
             static_cast<unsigned long long>(seed), result.kind.c_str(),
             static_cast<unsigned long long>(result.answered),
             static_cast<unsigned long long>(result.steps),
             static_cast<unsigned long long>(result.trace_hash));
    }
    if (!result.failure.empty()) {
      ++failures;
      printf("SIM_SEED=%llu SIM_COMMANDS=%u (%s) %s\n", static_cast<unsigned long long>(seed),
             static_cast<unsigned>(flags.commands), result.kind.c_str(), result.failure.c_str());
      if (flags.verbose) printf("%s", result.state.c_str());
      fflush(stdout);
    }
    simulated += result.simulated_seconds;
    answered += result.answered;
    errors += result.errors;
    for (const auto& [kind, count] : result.errors_by_kind) errors_by_kind[kind] += count;
    for (const auto& [kind, count] : result.events) events[kind] += count;
  }
  const double cpu = CpuSeconds();
  printf(
      "%.0f simulated s, %llu answers, %llu errors, %.1f cpu s: %.0f simulated s and %.0f "
      "answers a cpu s\n",
      simulated, static_cast<unsigned long long>(answered), static_cast<unsigned long long>(errors),
      cpu, simulated / cpu, static_cast<double>(answered) / cpu);
  if (flags.verbose) {
    for (const auto& [kind, count] : errors_by_kind) {
      printf("%10llu %s\n", static_cast<unsigned long long>(count), kind.c_str());
    }
    for (const auto& [kind, count] : events) {
      printf("%10llu %s\n", static_cast<unsigned long long>(count), kind.c_str());
    }
  }
  fflush(stdout);
  return failures;
}

int MeasureSpeed(const Flags& flags) {
  for (const bool busy : {false, true}) {
    const double begin = CpuSeconds();
    const SimulationResult result = RunUndisturbed(
        {.seed = flags.first, .commands = busy ? flags.commands * 100 : flags.commands}, busy);
    const double cpu = CpuSeconds() - begin;
    if (!result.failure.empty()) {
      printf("%s: %s\n", result.kind.c_str(), result.failure.c_str());
      return 1;
    }
    printf(
        "%s: %.0f simulated s, %llu answers, %.2f cpu s: %.0f simulated s and %.0f answers a "
        "cpu s\n",
        result.kind.c_str(), result.simulated_seconds,
        static_cast<unsigned long long>(result.answered), cpu, result.simulated_seconds / cpu,
        static_cast<double>(result.answered) / cpu);
  }
  return 0;
}

int Main(int argc, char** argv) {
  Flags flags;
  if (!ParseFlags(argc, argv, &flags)) {
    fprintf(stderr,
            "usage: %s [--seeds A..B] [--commands N] [--jobs N] [--check-hash] "
            "[--stop-at-failure] [--verbose]\n"
            "       %s --speed [--commands N]\n",
            argv[0], argv[0]);
    return 2;
  }
  if (flags.speed) return MeasureSpeed(flags);
  if (flags.jobs <= 1) {
    flags.jobs = 1;
    return RunSeeds(flags, 0) == 0 ? 0 : 1;
  }
  std::vector<pid_t> children;
  for (int job = 0; job < flags.jobs; ++job) {
    const pid_t child = fork();
    if (child == 0) _exit(RunSeeds(flags, static_cast<uint64_t>(job)) == 0 ? 0 : 1);
    children.push_back(child);
  }
  bool failed = false;
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    failed |= status != 0;
  }
  return failed ? 1 : 0;
}

}  // namespace
}  // namespace sim

int main(int argc, char** argv) { return sim::Main(argc, argv); }
