// File: proxy/main.cc
//
// Flags → Config → threads. Wiring and nothing else: control runs on the main thread, each worker,
// the signals, the log and the admin port on threads of their own.

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <future>
#include <memory>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "io/uring_ring.h"
#include "proxy/admin_server.h"
#include "proxy/config.h"
#include "proxy/control.h"
#include "proxy/log.h"
#include "proxy/messages.h"
#include "proxy/monitor_mail.h"
#include "proxy/resolver.h"
#include "proxy/script_table.h"
#include "proxy/stats.h"
#include "proxy/subscription_table.h"
#include "proxy/system_limits.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

constexpr int kExitCannotStart = 2;
constexpr absl::Duration kLastLines = absl::Seconds(1);

int CannotStart(absl::string_view reason) {
  std::fprintf(stderr, "rcproxy: %.*s\n", static_cast<int>(reason.size()), reason.data());
  return kExitCannotStart;
}

uint64_t RandomSeed() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

// A descriptor 0, 1 or 2 that was closed would be given to a client, who then got our messages.
void OpenStandardDescriptors() {
  int fd = 0;
  do {
    fd = open("/dev/null", O_RDWR);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) close(fd);
}

// --- signals

sigset_t OurSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  return signals;
}

// Takes the signals that all threads block, and tells control.
class SignalThread {
 public:
  explicit SignalThread(io::Poster* poster) : thread_([this, poster] { Run(poster); }) {}
  ~SignalThread() {
    ending_ = true;
    pthread_kill(thread_.native_handle(), SIGHUP);  // wakes it
    thread_.join();
  }

 private:
  void Run(io::Poster* poster) {
    pthread_setname_np(pthread_self(), "rcproxy-signals");
    const sigset_t signals = OurSignals();
    int ends = 0;
    while (true) {
      int signal = 0;
      if (sigwait(&signals, &signal) != 0) continue;
      if (ending_) return;
      // Control ends at the second. Should it be stuck, nobody waits for it any longer.
      if (signal != SIGHUP && ++ends > 2) _exit(1);
      poster->Post(kControlRing,
                   {static_cast<uint8_t>(MessageKind::kSignal), static_cast<uint32_t>(signal)});
    }
  }

  std::atomic<bool> ending_{false};
  std::thread thread_;
};

// --- workers

io::RingOptions RingOptionsOf(const Config& config) {
  io::RingOptions options;
  options.entries = config.ring_entries;
  options.zero_copy_send = config.zero_copy_send;
  options.disabled_features = config.disabled_features;
  return options;
}

io::RingOptions WorkerRingOptionsOf(const Config& config) {
  io::RingOptions options = RingOptionsOf(config);
  options.busy_poll = config.busy_poll;
  options.submission_thread = config.submission_thread;
  return options;
}

// The threads of all workers. Each makes its ring itself (the kernel ties a ring to its thread),
// says how that went, and then waits to be let go.
class WorkerThreads {
 public:
  // Where all threads of the proxy meet; outlives the threads.
  struct Shared {
    io::RingDirectory* directory;
    std::shared_ptr<const Config> config;
    ControlMail* control_mail;
    std::vector<WorkerMail*> worker_mail;
    StatsRegistry* stats;
    SubscriptionTable* subscription_table;
    ScriptTable* script_table;
    MonitorMail* monitor_mail;
    LogSink* log;
  };

  // If a ring can't be made: the first reason. Warnings are added, each once.
  absl::Status Start(const Shared& shared, std::vector<std::string>* warnings) {
    std::shared_future<bool> go = go_.get_future().share();
    std::vector<std::future<Report>> reports;
    for (uint32_t i = 0; i < shared.config->workers; ++i) {
      std::promise<Report> report;
      reports.push_back(report.get_future());
      threads_.emplace_back(Run, i, shared, std::move(report), go);
    }
    absl::Status status;
    for (std::future<Report>& future : reports) {
      const Report report = future.get();
      status.Update(report.status);
      ring_description_ = report.ring_description;  // all have the same
      for (const std::string& warning : report.warnings) {
        if (std::find(warnings->begin(), warnings->end(), warning) == warnings->end()) {
          warnings->push_back(warning);
        }
      }
    }
    return status;
  }

  const std::string& ring_description() const { return ring_description_; }

  // Lets them serve.
  void Go() {
    go_.set_value(true);
    gone_ = true;
  }

  // Waits for their end; those that were not let go end at once.
  void Join() {
    if (!std::exchange(gone_, true)) go_.set_value(false);
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  ~WorkerThreads() { Join(); }

 private:
  struct Report {
    absl::Status status;
    std::vector<std::string> warnings;
    std::string ring_description;
  };

  static void Run(uint32_t index, const Shared& shared, std::promise<Report> report,
                  const std::shared_future<bool>& go) {
    pthread_setname_np(pthread_self(), absl::StrCat("rcproxy-w", index).c_str());
    Report result;
    if (shared.config->pin_workers && !PinThisThread(index)) {
      result.warnings.push_back(absl::StrCat("--pin: a worker can't be pinned: ", strerror(errno)));
    }
    absl::StatusOr<std::unique_ptr<io::Ring>> ring = io::MakeUringRing(
        shared.directory, WorkerRing(index), WorkerRingOptionsOf(*shared.config), &result.warnings);
    result.status = ring.status();
    if (ring.ok()) result.ring_description = (*ring)->Describe();
    report.set_value(std::move(result));
    if (!go.get() || !ring.ok()) return;
    Worker worker({.index = index,
                   .ring = *std::move(ring),
                   .config = shared.config,
                   .mail = shared.worker_mail[index],
                   .control_mail = shared.control_mail,
                   .stats = shared.stats->worker(index),
                   .log = shared.log,
                   .random_seed = RandomSeed(),
                   .all_stats = shared.stats,
                   .subscription_table = shared.subscription_table,
                   .script_table = shared.script_table,
                   .monitor_mail = shared.monitor_mail});
    worker.Run();
  }

  std::promise<bool> go_;
  bool gone_ = false;
  std::string ring_description_;
  std::vector<std::thread> threads_;
};

// --- start

// L1: the configuration with as many clients as there are descriptors for.
absl::StatusOr<std::shared_ptr<const Config>> FitToOpenFiles(std::shared_ptr<const Config> config,
                                                             Log* log) {
  const uint64_t open_files = RaiseOpenFileLimit();
  const uint32_t clients = ClientsThatFit(open_files, *config);
  if (clients == 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("--workers: '", config->workers, "' needs more than the ", open_files,
                     " open files that are allowed: raise the limit (ulimit -n, LimitNOFILE=)"));
  }
  if (clients == config->clients_max) return config;
  log->Warn(absl::StrCat("at most ", clients, " clients instead of --max-clients ",
                         config->clients_max, ": only ", open_files, " open files are allowed"));
  auto fitting = std::make_shared<Config>(*config);
  fitting->clients_max = clients;
  return fitting;
}

// Once the log is there; members are made before what uses them and outlive it.
int Serve(std::shared_ptr<const Config> config, LogSink* sink, Log* log) {
  absl::StatusOr<std::shared_ptr<const Config>> fitting = FitToOpenFiles(std::move(config), log);
  if (!fitting.ok()) return CannotStart(fitting.status().message());
  config = *fitting;

  StatsRegistry stats(config->workers);
  SubscriptionTable subscription_table;
  ScriptTable script_table;
  MonitorMail monitor_mail(config->workers);
  ControlMail control_mail;
  std::vector<std::unique_ptr<WorkerMail>> worker_mail;
  std::vector<WorkerMail*> worker_mail_views;
  for (uint32_t i = 0; i < config->workers; ++i) {
    worker_mail.push_back(std::make_unique<WorkerMail>());
    worker_mail_views.push_back(worker_mail.back().get());
  }
  io::RingDirectory directory(config->workers + 1);

  std::vector<std::string> warnings;
  absl::StatusOr<std::unique_ptr<io::Ring>> ring =
      io::MakeUringRing(&directory, kControlRing, RingOptionsOf(*config), &warnings);
  if (!ring.ok()) return CannotStart(ring.status().message());

  WorkerThreads workers;
  absl::Status status = workers.Start({.directory = &directory,
                                       .config = config,
                                       .control_mail = &control_mail,
                                       .worker_mail = worker_mail_views,
                                       .stats = &stats,
                                       .subscription_table = &subscription_table,
                                       .script_table = &script_table,
                                       .monitor_mail = &monitor_mail,
                                       .log = sink},
                                      &warnings);
  if (!status.ok()) return CannotStart(status.message());
  for (const std::string& warning : warnings) log->Warn(warning);

  Control control(Control::Environment{.ring = *std::move(ring),
                                       .config = config,
                                       .resolver = MakeThreadResolver(&directory, kControlRing),
                                       .mail = &control_mail,
                                       .worker_mail = worker_mail_views,
                                       .stats = &stats,
                                       .log = sink,
                                       .random_seed = RandomSeed()});
  status = control.Listen();
  if (!status.ok()) return CannotStart(status.message());
  std::unique_ptr<AdminServer> admin;
  if (!config->debug_address.empty()) {
    absl::StatusOr<std::unique_ptr<AdminServer>> started =
        StartAdminServer(config->debug_address, &stats, sink);
    if (!started.ok()) return CannotStart(started.status().message());
    admin = *std::move(started);
    log->Info(absl::StrCat("metrics and health on http://", admin->address()));
  }
  log->Info(absl::StrCat("listening on ", control.ListenAddresses(), ", ", config->workers,
                         " workers, ", workers.ring_description()));

  workers.Go();
  int exit_code = 0;
  {
    const SignalThread signals(&directory);
    control.Start();
    exit_code = control.Run();
  }
  if (exit_code != 0) {
    // Cut short: threads and rings may have much left to do. Nobody waits for that.
    sink->Flush(kLastLines);
    _exit(exit_code);
  }
  workers.Join();
  return exit_code;
}

int Main(int argc, const char* const* argv) {
  OpenStandardDescriptors();
  absl::StatusOr<CommandLine> command_line = ParseCommandLine(argc, argv);
  if (!command_line.ok()) return CannotStart(command_line.status().message());
  if (command_line->config == nullptr) {
    std::fputs(command_line->text.c_str(), stdout);
    return std::fflush(stdout) == 0 ? 0 : 1;
  }
  // Before there is another thread: each inherits these.
  signal(SIGPIPE, SIG_IGN);
  const sigset_t signals = OurSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  try {
    const Config& config = *command_line->config;
    absl::StatusOr<std::unique_ptr<LogSink>> sink = MakeLogSink(config.log_file, config.log_level);
    if (!sink.ok()) return CannotStart(sink.status().message());
    const absl::Time start = absl::Now();
    Log log(sink->get(), &start);
    for (const std::string& warning : command_line->warnings) log.Warn(warning);
    return Serve(command_line->config, sink->get(), &log);
  } catch (const std::system_error& error) {
    return CannotStart(absl::StrCat("a thread cannot be started: ", error.code().message()));
  }
}

}  // namespace
}  // namespace proxy

int main(int argc, char** argv) { return proxy::Main(argc, argv); }
