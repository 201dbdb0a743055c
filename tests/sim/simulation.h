#pragma once

// File: tests/sim/simulation.h
//
// One whole simulation from one seed: a world of some kind, clients of many kinds, a cluster that
// is moved, broken and healed meanwhile, and at the end the proof that all of it works again and
// that nothing is left.

#include <cstdint>
#include <map>
#include <string>

namespace sim {

struct SimulationOptions {
  uint64_t seed = 1;
  uint32_t commands = 2000;  // of all clients together, about
};

struct SimulationResult {
  std::string failure;  // empty: all promises were kept
  std::string state;    // of the rings and workers, after a failure
  uint64_t trace_hash = 0;
  std::string kind;  // "calm", "moving", "chaos"
  double simulated_seconds = 0;
  uint64_t issued = 0;
  uint64_t answered = 0;
  uint64_t errors = 0;
  uint64_t steps = 0;
  std::map<std::string, uint64_t> errors_by_kind;
  std::map<std::string, uint64_t> events;  // what the chaos has done
};

SimulationResult RunSimulation(const SimulationOptions& options);

// Nothing goes wrong and nothing moves: to measure the simulator itself. Busy: deep pipelines of
// small commands; else a few clients that rarely say anything.
SimulationResult RunUndisturbed(const SimulationOptions& options, bool busy);

}  // namespace sim
