#include "proxy/config.h"

// Errors of toml++ come as values, not as exceptions.
#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <sys/stat.h>
#include <toml++/toml.h>

#include <algorithm>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "proxy/cluster_face.h"
#include "proxy/options.h"
#include "proxy/small_file.h"
#include "proxy/stats.h"
#include "proxy/system_limits.h"

namespace proxy {
namespace {

constexpr size_t kConfigFileBytesMax = 1 << 20;

// What one source gave for one option, and how errors name that place.
struct Given {
  std::string place;  // "--workers" or "rcproxy.toml:3: workers"
  std::vector<std::string> values;
};
using GivenOptions = std::map<const Option*, Given>;

struct Flags {
  GivenOptions given;
  std::string config_file;  // --config
  bool help = false;
  bool version = false;
};

// One line, whatever the value holds.
std::string Quoted(absl::string_view value) {
  constexpr size_t kShown = 200;
  return absl::StrCat("'", absl::CHexEscape(value.substr(0, kShown)),
                      value.size() > kShown ? "…" : "", "'");
}

absl::Status Error(absl::string_view place, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(place, ": ", what));
}

void Append(const Option& option, absl::string_view text, std::vector<std::string>* values) {
  if (option.clear == nullptr) {
    values->emplace_back(text);
    return;
  }
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    values->emplace_back(absl::StripAsciiWhitespace(part));
  }
}

// --- flags

absl::StatusOr<Flags> ReadFlags(int argc, const char* const* argv) {
  Flags flags;
  for (int i = 1; i < argc; ++i) {
    absl::string_view name = argv[i];
    if (name == "-h") name = "--help";
    if (!absl::ConsumePrefix(&name, "--")) {
      return absl::InvalidArgumentError(absl::StrCat(Quoted(argv[i]), " is not a flag"));
    }
    absl::optional<absl::string_view> value;
    if (const size_t equals = name.find('='); equals != absl::string_view::npos) {
      value = name.substr(equals + 1);
      name = name.substr(0, equals);
    }
    const std::string place = absl::StrCat("--", absl::CHexEscape(name));
    if (name == "help" || name == "version") {
      if (value.has_value()) return Error(place, "takes no value");
      (name == "help" ? flags.help : flags.version) = true;
      continue;
    }
    const Option* option = FindOption(name);
    if (option == nullptr && name != "config") return Error(place, "there is no such flag");
    const bool next_is_value = i + 1 < argc && !absl::StartsWith(argv[i + 1], "--");
    if (!value.has_value() && option != nullptr && option->is_switch) {
      const absl::string_view next = next_is_value ? argv[i + 1] : "";
      value = next == "true" || next == "false" ? argv[++i] : "true";
    }
    if (!value.has_value()) {
      if (!next_is_value) return Error(place, "needs a value");
      value = argv[++i];
    }
    if (option == nullptr) {
      if (value->empty()) return Error(place, "needs a value");
      flags.config_file = std::string(*value);
      continue;
    }
    Given& given = flags.given[option];
    given.place = place;
    if (option->clear == nullptr) given.values.clear();  // the last one counts
    Append(*option, *value, &given.values);
  }
  return flags;
}

// --- the file

// A TOML value as the text that the flag would have. False: of no type that an option can have.
bool ValueText(const toml::node& node, std::string* text) {
  if (const auto* string = node.as_string()) {
    *text = string->get();
  } else if (const auto* integer = node.as_integer()) {
    *text = absl::StrCat(integer->get());
  } else if (const auto* boolean = node.as_boolean()) {
    *text = boolean->get() ? "true" : "false";
  } else {
    return false;
  }
  return true;
}

absl::StatusOr<GivenOptions> ReadConfigFile(const std::string& path) {
  absl::StatusOr<std::string> content = ReadSmallFile(path, kConfigFileBytesMax);
  if (!content.ok()) {
    return Error("--config", absl::StrCat(Quoted(path), " ", content.status().message()));
  }
  const toml::parse_result parsed = toml::parse(*content, path);
  if (!parsed) {
    const toml::parse_error& error = parsed.error();
    return Error(absl::StrCat(path, ":", error.source().begin.line),
                 absl::CHexEscape({error.description().data(), error.description().size()}));
  }
  GivenOptions all;
  for (const auto& [key, node] : parsed.table()) {
    const absl::string_view name(key.str().data(), key.str().size());
    const std::string place =
        absl::StrCat(path, ":", key.source().begin.line, ": ", absl::CHexEscape(name));
    const Option* option = FindOption(name);
    if (option == nullptr) return Error(place, "there is no such key");
    Given given = {.place = place, .values = {}};
    std::string text;
    if (const toml::array* array = node.as_array(); array != nullptr && option->clear != nullptr) {
      for (const toml::node& element : *array) {
        if (!ValueText(element, &text)) return Error(place, "the list holds more than strings");
        given.values.push_back(text);
      }
      if (given.values.empty()) return Error(place, "the list is empty");
    } else if (ValueText(node, &text)) {
      Append(*option, text, &given.values);
    } else {
      return Error(place, absl::StrCat("takes ", option->takes, " as a string, a whole number",
                                       " or true or false"));
    }
    all.emplace(option, std::move(given));
  }
  return all;
}

// --- what is given → Config

void WarnIfReadableByAll(const std::string& place, const std::string& path,
                         std::vector<std::string>* warnings) {
  struct stat status = {};
  if (stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) && (status.st_mode & S_IROTH)) {
    warnings->push_back(
        absl::StrCat(place, ": ", Quoted(path), " can be read by every user (chmod o-r)"));
  }
}

absl::Status Apply(const Option& option, const Given& given, Config* config,
                   std::vector<std::string>* warnings) {
  if (option.clear != nullptr) option.clear(config);
  for (const std::string& value : given.values) {
    const absl::Status status = option.set(value, config);
    if (!status.ok()) {
      return Error(given.place, absl::StrCat(Quoted(value), " ", status.message()));
    }
    if (option.is_secret_file) WarnIfReadableByAll(given.place, value, warnings);
  }
  return absl::OkStatus();
}

bool IsLoopback(const io::Endpoint& endpoint) {
  if (endpoint.is_unix()) return true;
  const std::string text = endpoint.ToString();
  return absl::StartsWith(text, "127.") || absl::StartsWith(text, "[::1]:");
}

absl::Status CheckClusterFace(const Config& config) {
  const cluster::NodeAddress& own = config.cluster_face_address;
  const std::vector<cluster::NodeAddress>& nodes = config.cluster_face_nodes;
  if (!config.cluster_face) {
    // Else nobody would find out that it has no effect.
    constexpr absl::string_view kNeeds = " needs --cluster-face";
    if (!own.host.empty()) {
      return Error("--cluster-face-address",
                   absl::StrCat(Quoted(io::FormatHostPort(own.host, own.port)), kNeeds));
    }
    if (nodes.empty()) return absl::OkStatus();
    return Error("--cluster-face-nodes",
                 absl::StrCat(Quoted(io::FormatHostPort(nodes[0].host, nodes[0].port)), kNeeds));
  }
  if (!own.host.empty()) {
    if (nodes.empty() || std::find(nodes.begin(), nodes.end(), own) != nodes.end()) {
      return absl::OkStatus();
    }
    return Error("--cluster-face-address",
                 absl::StrCat(Quoted(io::FormatHostPort(own.host, own.port)),
                              " is not one of --cluster-face-nodes"));
  }
  if (!nodes.empty()) return absl::OkStatus();
  const auto is_unix = [](const io::Endpoint& endpoint) { return endpoint.is_unix(); };
  const auto has_port = [](const io::Endpoint& endpoint) { return endpoint.port() != 0; };
  const auto without = std::find_if(config.listen.begin(), config.listen.end(), is_unix);
  if (without == config.listen.end() ||
      std::any_of(config.listen.begin(), config.listen.end(), has_port)) {
    return absl::OkStatus();
  }
  return Error("--addr",
               absl::StrCat(Quoted(without->ToString()), " has no port that --cluster-face",
                            " could tell: give --cluster-face-address"));
}

// What no single option can tell.
absl::Status CheckTogether(const Config& config) {
  const bool by_zone = config.read_prefer == cluster::ReadPrefer::kSameZoneReplica;
  if (by_zone && config.zone.empty()) return Error("--read-prefer", "'2' needs --zone");
  if (!by_zone && !config.zone.empty()) {
    return Error("--zone", absl::StrCat(Quoted(config.zone), " needs --read-prefer 2"));
  }
  if (!config.backend_username.empty() && config.backend_password.empty()) {
    return Error("--backend-username",
                 absl::StrCat(Quoted(config.backend_username), " needs --backend-password-file"));
  }
  // Whoever reaches the proxy would act with its rights in the cluster.
  if (!config.backend_password.empty() && config.password.empty() &&
      !config.allow_unauthenticated) {
    for (const io::Endpoint& endpoint : config.listen) {
      if (IsLoopback(endpoint)) continue;
      return Error("--addr", absl::StrCat(Quoted(endpoint.ToString()),
                                          " would let anyone use --backend-password-file: give"
                                          " --requirepass-file, or --allow-unauthenticated"));
    }
  }
  return CheckClusterFace(config);
}

// --- texts

void AppendFlagHelp(absl::string_view flag, absl::string_view text, std::string* out) {
  constexpr size_t kColumn = 38;
  const size_t used = flag.size() + 2;
  absl::StrAppend(out, "  ", flag,
                  used + 2 <= kColumn ? std::string(kColumn - used, ' ')
                                      : absl::StrCat("\n", std::string(kColumn, ' ')),
                  text, "\n");
}

std::string HelpText() {
  std::string out = absl::StrCat(
      "rcproxy ", kVersion,
      ": makes a Redis or Valkey Cluster look like one plain Redis.\n\n"
      "usage: rcproxy [--flag value | --flag=value]...\n\n"
      "  DURATION takes a unit (250ms, 3s, 1m), SIZE may (64kb, 512mb, 1gb); a list has commas or\n"
      "  its flag several times.\n");
  const Config defaults = DefaultConfig();
  for (const OptionSection& section : OptionSections()) {
    absl::StrAppend(&out, "\n", section.title, "\n");
    for (const Option& option : section.options) {
      AppendFlagHelp(option.is_switch ? absl::StrCat("--", option.name, "[=true|false]")
                                      : absl::StrCat("--", option.name, " ", option.takes),
                     absl::StrCat(option.help, " (default ", option.show(defaults), ")"), &out);
    }
  }
  absl::StrAppend(&out, "\nOther\n");
  AppendFlagHelp("--config FILE", "TOML with the names above as keys; flags win (default none)",
                 &out);
  AppendFlagHelp("--help", "prints this", &out);
  AppendFlagHelp("--version", "prints the version", &out);
  return out;
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv) {
  absl::StatusOr<Flags> flags = ReadFlags(argc, argv);
  if (!flags.ok()) return flags.status();
  CommandLine result;
  if (flags->help) {
    result.text = HelpText();
    return result;
  }
  if (flags->version) {
    result.text = absl::StrCat("rcproxy ", kVersion, "\n");
    return result;
  }
  GivenOptions given = std::move(flags->given);
  if (!flags->config_file.empty()) {
    absl::StatusOr<GivenOptions> of_file = ReadConfigFile(flags->config_file);
    if (!of_file.ok()) return of_file.status();
    given.merge(*of_file);  // keeps what a flag gave
  }
  Config config = DefaultConfig();
  // In the table's order, so that of several errors always the same one is told.
  for (const OptionSection& section : OptionSections()) {
    for (const Option& option : section.options) {
      const auto it = given.find(&option);
      if (it == given.end()) continue;
      const absl::Status status = Apply(option, it->second, &config, &result.warnings);
      if (!status.ok()) return status;
    }
  }
  const absl::Status status = CheckTogether(config);
  if (!status.ok()) return status;
  if (config.memory_limit_bytes == 0) {
    config.memory_limit_bytes = MemoryAvailable(MachineMemory()) / 4 * 3;
  }
  result.config = std::make_shared<const Config>(std::move(config));
  return result;
}

}  // namespace proxy
