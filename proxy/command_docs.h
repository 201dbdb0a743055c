#pragma once

// File: proxy/command_docs.h
//
// What COMMAND and COMMAND DOCS tell of a command beyond cluster/command_table.h. Of no use for
// routing: cold data, generated with the table (tools/gen_command_table.py →
// proxy/command_docs_data.inc).

#include <cstdint>
#include <utility>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cluster/command_table.h"

namespace proxy {

// Beside each KeySpec of the table.
struct KeySpecDocs {
  absl::string_view flags;  // "RW access update"
  absl::string_view notes = {};
};

struct HistoryNote {
  absl::string_view since;
  absl::string_view change;
};

struct ArgumentDocs {
  absl::string_view name;
  absl::string_view type;
  absl::string_view display_text = {};
  int8_t key_spec_index = -1;   // -1: not a key
  const char* token = nullptr;  // may be the empty string
  absl::string_view summary = {};
  absl::string_view since = {};
  absl::string_view deprecated_since = {};
  absl::string_view flags = {};                   // "optional multiple"
  absl::Span<const ArgumentDocs> arguments = {};  // of a oneof or a block
};

struct CommandDocs {
  uint16_t id;            // CommandSpec::id
  int16_t first_key = 0;  // 0: no keys; as servers before key specifications said it
  int16_t last_key = 0;
  int16_t key_step = 0;
  absl::string_view categories = {};  // "@read @string @fast"
  absl::string_view tips = {};        // "nondeterministic_output request_policy:all_shards"
  absl::Span<const KeySpecDocs> key_specs = {};
  absl::string_view summary = {};
  absl::string_view since = {};
  absl::string_view group = {};
  absl::string_view complexity = {};
  absl::string_view doc_flags = {};  // "deprecated"
  absl::string_view deprecated_since = {};
  absl::string_view replaced_by = {};
  absl::Span<const HistoryNote> history = {};
  absl::Span<const ArgumentDocs> arguments = {};
};

// The flags that the servers tell of, in their order, as they call them.
absl::Span<const std::pair<uint32_t, absl::string_view>> CommandFlagNames();

// Null: clients are not told of the command, because the proxy does not serve it.
const CommandDocs* FindCommandDocs(const cluster::CommandSpec& command);

}  // namespace proxy
