#pragma once

// File: proxy/info_of_nodes.h
//
// What INFO tells of the nodes, where it is asked for by name: the sections Keyspace, Commandstats
// and Errorstats, as the sums over all primaries. They are empty where one of these does not tell,
// and in a bare INFO, which many clients send when they connect: that asks no node.

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proxy/procedure.h"

namespace proxy {

// Whether INFO with these arguments (with the command's name) is to ask the nodes.
bool AsksNodesForInfo(absl::Span<const absl::string_view> args);

// `own` is the proxy's own text, in which the nodes' sections are empty.
std::unique_ptr<Procedure> MakeInfoOfNodes(std::string own);

// The text of `own` with the nodes' sections, of which `texts` has one reply for each node. Lines
// "name:field=value,…" of the same name become one: numbers are added, averages weighted.
std::string MergeInfo(absl::string_view own, const std::vector<std::string>& texts);

}  // namespace proxy
