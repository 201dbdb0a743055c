#pragma once

// File: proxy/small_file.h

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace proxy {

// All bytes of a file. Errors say why ("cannot be read: No such file or directory", "is larger than
// …"), to go on behind the file's name.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t bytes_max);

}  // namespace proxy
