#pragma once

// File: proxy/options.h
//
// The table of all options: what each is called, what it takes, what it means, where its value
// goes. Flags, the configuration file and --help are all made from it.

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proxy/config.h"

namespace proxy {

struct Option {
  const char* name;   // "workers": --workers, and the key of the file
  const char* takes;  // "N", "DURATION", …
  const char* help;
  // Takes over one value. An error's message goes on behind the quoted value: "is not …".
  std::function<absl::Status(absl::string_view text, Config* config)> set;
  // The value as text, to show the default.
  std::function<std::string(const Config& config)> show;
  // Lists may be given several times and take commas; this empties the list first. Null: no list.
  std::function<void(Config* config)> clear = nullptr;
  // The flag may stand without a value.
  bool is_switch = false;
  // The value names a file with a secret.
  bool is_secret_file = false;
};

struct OptionSection {
  const char* title;
  std::vector<Option> options;
};

// In the order of --help.
absl::Span<const OptionSection> OptionSections();
// Null: there is none of this name.
const Option* FindOption(absl::string_view name);

// The configuration that holds when nothing is given.
Config DefaultConfig();

// "512mb", "64kb", "1gb", "4096": bytes. False: it is none of these, or does not fit.
bool ParseBytes(absl::string_view text, uint64_t* bytes);
std::string FormatBytes(uint64_t bytes);

}  // namespace proxy
