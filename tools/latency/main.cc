// File: tools/latency/main.cc
//
// Measures servers side by side: see --help.

#include <sys/prctl.h>
#include <sys/resource.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "io/ring_directory.h"
#include "io/uring_ring.h"
#include "tools/latency/options.h"
#include "tools/latency/report.h"
#include "tools/latency/runner.h"

namespace latency {
namespace {

// False, with a line on standard error, if it can't be written.
bool WriteFile(const std::string& path, const std::string& text) {
  if (path.empty()) return true;
  FILE* const file = std::fopen(path.c_str(), "we");
  bool written = file != nullptr && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (file != nullptr) written = std::fclose(file) == 0 && written;
  if (!written) absl::FPrintF(stderr, "latency: %s: %s\n", path, std::strerror(errno));
  return written;
}

int Main(int argc, char** argv) {
  const absl::StatusOr<Options> options = ParseOptions(argc, argv);
  if (!options.ok()) {
    absl::FPrintF(stderr, "latency: %s\n", options.status().message());
    return 2;
  }
  if (options->help) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  std::signal(SIGPIPE, SIG_IGN);
  // Sleeps end when they should: by default the kernel may add 50 µs.
  prctl(PR_SET_TIMERSLACK, 1UL);
  rlimit files = {};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  io::RingDirectory directory(1);
  std::vector<std::string> warnings;
  const absl::StatusOr<std::unique_ptr<io::Ring>> ring =
      io::MakeUringRing(&directory, 0, io::RingOptions(), &warnings);
  if (!ring.ok()) {
    absl::FPrintF(stderr, "latency: %s\n", ring.status().message());
    return 2;
  }
  Runner runner(&*options, ring->get());
  const absl::Status status = runner.Run();
  if (!status.ok()) {
    absl::FPrintF(stderr, "latency: %s\n", status.message());
    return 2;
  }
  absl::PrintF("%s", TextReport(*options, runner.targets()));
  std::fflush(stdout);
  if (!WriteFile(options->json, JsonReport(*options, runner.targets())) ||
      !WriteFile(options->html, HtmlReport(*options, runner.targets()))) {
    return 2;
  }
  return AllIsWell(runner.targets()) ? 0 : 1;
}

}  // namespace
}  // namespace latency

int main(int argc, char** argv) { return latency::Main(argc, argv); }
