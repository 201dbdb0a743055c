#pragma once

// File: tools/latency/report.h
//
// The results: a table to read, JSON, and a page with a plot.

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "tools/latency/options.h"
#include "tools/latency/target.h"

namespace latency {

using Targets = std::vector<std::unique_ptr<Target>>;

// Of some numbers, without those that are NaN; all NaN if there are none.
struct Spread {
  double median;
  double least;
  double most;
};
Spread SpreadOf(std::vector<double> values);

std::string TextReport(const Options& options, const Targets& targets);
std::string JsonReport(const Options& options, const Targets& targets);
std::string HtmlReport(const Options& options, const Targets& targets);

// An open loop's target answered as many as were intended: in the median round at least 99 %, or
// all but what takes 50 ms.
bool KeptUp(const Options& options, const Target& target);
// No reply was wrong or an error, and no target was lost.
bool AllIsWell(const Targets& targets);

}  // namespace latency
