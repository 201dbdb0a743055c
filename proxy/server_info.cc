#include "proxy/server_info.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "resp/views.h"

namespace proxy {

std::string InfoField(absl::string_view info, absl::string_view name) {
  while (!info.empty()) {
    const size_t end = info.find('\n');
    absl::string_view line = info.substr(0, end);
    info.remove_prefix(end == absl::string_view::npos ? info.size() : end + 1);
    absl::ConsumeSuffix(&line, "\r");
    if (!absl::ConsumePrefix(&line, name) || !absl::ConsumePrefix(&line, ":")) continue;
    const bool plain = line.size() <= 32 && std::all_of(line.begin(), line.end(), [](char c) {
                         return absl::ascii_isalnum(c) || c == '.' || c == '-' || c == '_';
                       });
    return plain ? std::string(line) : std::string();
  }
  return "";
}

absl::optional<ServerInfo> ReadServerInfo(absl::string_view info_frame) {
  absl::string_view text;
  if (!resp::ParseText(info_frame, &text)) return absl::nullopt;
  ServerInfo info;
  const std::string redis = InfoField(text, "redis_version");
  const std::string valkey = InfoField(text, "valkey_version");
  if (redis.empty() && valkey.empty()) return absl::nullopt;
  info.valkey = !valkey.empty();
  info.version = info.valkey ? valkey : redis;
  info.compatible_redis_version = redis.empty() ? info.version : redis;
  return info;
}

absl::optional<ServerVersion> ParseServerVersion(absl::string_view text) {
  ServerVersion version;
  version.fill(-1);
  const std::vector<absl::string_view> parts = absl::StrSplit(text, '.');
  if (parts.size() > version.size()) return absl::nullopt;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!absl::SimpleAtoi(parts[i], &version[i])) return absl::nullopt;
  }
  return version;
}

bool IsRedisSince(const ServerInfo& server, int major, int minor) {
  if (server.valkey) return false;
  const absl::optional<ServerVersion> version = ParseServerVersion(server.version);
  return !version.has_value() || *version >= ServerVersion{major, minor, -1};
}

bool HasDatabases(const ServerInfo& server) {
  if (!server.valkey) return false;
  const absl::optional<ServerVersion> version = ParseServerVersion(server.version);
  return version.has_value() && *version >= ServerVersion{9, -1, -1};
}

bool IsBeforeRedis72(const ServerInfo& server) {
  return !server.valkey && !IsRedisSince(server, 7, 2);
}

}  // namespace proxy
