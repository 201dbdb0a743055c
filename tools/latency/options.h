#pragma once

// File: tools/latency/options.h
//
// What the command line asks for.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/latency/target.h"
#include "tools/latency/workload.h"

namespace latency {

struct Options {
  std::vector<TargetSpec> targets;
  size_t reference = 0;  // index of the target that the others are compared with
  LoadOptions load;
  WorkloadOptions workload;
  int rounds = 7;
  double seconds = 2;  // of each target in each round
  double warm_up = 0.2;
  double timeout = 10;
  std::string json;
  std::string html;
  bool help = false;
};

extern const char kUsage[];

// The error is one line that names the flag.
absl::StatusOr<Options> ParseOptions(int argc, char** argv);

// "50 clients, pipeline 1, …": the load in words.
std::string Describe(const Options& options);

}  // namespace latency
