#include "proxy/log.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spdlog/async.h>
#include <spdlog/async_logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/sink.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <iterator>
#include <thread>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace proxy {
namespace {

using Clock = std::chrono::steady_clock;

// Lines that wait to be written: at most so many, of at most so many bytes together. spdlog keeps
// up to 250 bytes of a line inside its queue (half a KiB an entry) and the rest on the heap: both
// together stay below 1 MiB.
constexpr size_t kLinesMax = 1024;
constexpr size_t kBytesMax = 384 << 10;
// Room for one line more of each thread.
constexpr size_t kQueueEntries = kLinesMax + 300;
// Longer ones are cut. A pipe takes up to PIPE_BUF (4096) bytes whole or not at all.
constexpr size_t kLineBytesMax = 2000;
constexpr size_t kWriteBytesMax = 4096;
// A file that was renamed away (rotated) is noticed after this time at most.
constexpr auto kReopenInterval = std::chrono::seconds(1);
// At the end, a reader that takes nothing is given so much time.
constexpr auto kLastWrites = std::chrono::seconds(1);
constexpr auto kPollStep = std::chrono::milliseconds(50);
constexpr auto kRetryPause = std::chrono::milliseconds(1);  // should poll(2) be too hopeful

constexpr absl::string_view kLevelNames[] = {"trace", "debug", "info", "warn", "error", "off"};
constexpr spdlog::level::level_enum kSpdlogLevels[] = {spdlog::level::trace, spdlog::level::debug,
                                                       spdlog::level::info,  spdlog::level::warn,
                                                       spdlog::level::err,   spdlog::level::off};

// What is between a thread that logs and the thread that writes.
struct Backlog {
  std::atomic<size_t> lines{0};
  std::atomic<size_t> bytes{0};
  std::atomic<uint64_t> dropped{0};
  std::atomic<bool> ending{false};

  void Enter(size_t line_bytes) {
    lines.fetch_add(1, std::memory_order_relaxed);
    bytes.fetch_add(line_bytes, std::memory_order_relaxed);
  }
  void Leave(size_t line_bytes) {
    lines.fetch_sub(1, std::memory_order_relaxed);
    bytes.fetch_sub(line_bytes, std::memory_order_relaxed);
  }
  // Threads that look at the same time may pass each other: off by the number of threads at most.
  bool IsFull() const {
    return lines.load(std::memory_order_relaxed) >= kLinesMax ||
           bytes.load(std::memory_order_relaxed) >= kBytesMax;
  }
  void Drop(uint64_t n) { dropped.fetch_add(n, std::memory_order_relaxed); }
};

// The level by our names: spdlog calls one "warning".
class LevelFlag final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& out) override {
    for (size_t i = 0; i < std::size(kLevelNames); ++i) {
      if (kSpdlogLevels[i] == message.level) {
        out.append(kLevelNames[i].data(), kLevelNames[i].data() + kLevelNames[i].size());
      }
    }
  }
  std::unique_ptr<spdlog::custom_flag_formatter> clone() const override {
    return std::make_unique<LevelFlag>();
  }
};

std::unique_ptr<spdlog::formatter> MakeFormatter() {
  auto formatter =
      std::make_unique<spdlog::pattern_formatter>(spdlog::pattern_time_type::utc, "\n");
  formatter->add_flag<LevelFlag>('*');
  formatter->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %* %v");
  return formatter;
}

// Where lines end up: a descriptor and how to write to it without waiting in the kernel. Only the
// log's own thread uses it after it was opened.
class Output {
 public:
  Output() = default;
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  ~Output() {
    if (fd_ >= 0) close(fd_);
  }

  // Empty: standard error.
  absl::Status Open(const std::string& file) {
    file_ = file;
    fd_ = file.empty() ? OpenStandardError() : OpenFile();
    if (fd_ < 0) {
      return absl::InvalidArgumentError(absl::StrCat("--log-file: '", absl::CHexEscape(file),
                                                     "' cannot be opened: ", std::strerror(errno)));
    }
    Look();
    return absl::OkStatus();
  }

  // Waits until some bytes are taken; once `ending` is set, for no more than kLastWrites in all.
  // Returns how many were taken; 0: none will be.
  size_t Write(absl::string_view bytes, const std::atomic<bool>& ending) {
    ReopenIfRenamed();
    while (true) {
      const ssize_t n = WriteNow(bytes.substr(0, kWriteBytesMax));
      if (n > 0) return static_cast<size_t>(n);
      if (n < 0 && errno == EINTR) continue;
      if (n == 0 || errno != EAGAIN) return 0;  // a full disk, a closed pipe
      if (ending.load(std::memory_order_acquire)) {
        if (give_up_ == Clock::time_point()) give_up_ = Clock::now() + kLastWrites;
        if (Clock::now() >= give_up_) return 0;
      }
      std::this_thread::sleep_for(kRetryPause);
      CanWrite(kPollStep);
    }
  }

 private:
  int OpenFile() const {
    return open(file_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
                0640);
  }

  static int OpenStandardError() {
    struct stat status = {};
    if (fstat(STDERR_FILENO, &status) != 0) return open("/dev/null", O_WRONLY | O_CLOEXEC);
    // A pipe or terminal is opened once more, for a non-blocking mode that does not reach the
    // other processes which share it. A file is not: its position would be shared no longer.
    if (S_ISFIFO(status.st_mode) || S_ISCHR(status.st_mode)) {
      const int own =
          open("/proc/self/fd/2", O_WRONLY | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
      if (own >= 0) return own;
    }
    return fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
  }

  void Look() {
    struct stat status = {};
    if (fstat(fd_, &status) != 0) return;
    is_socket_ = S_ISSOCK(status.st_mode);
    is_regular_ = S_ISREG(status.st_mode);
    device_ = status.st_dev;
    inode_ = status.st_ino;
    next_look_ = Clock::now() + kReopenInterval;
  }

  // Never waits in the kernel, also where the descriptor is one that does.
  ssize_t WriteNow(absl::string_view bytes) const {
    if (is_socket_) return send(fd_, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (CanWrite(std::chrono::milliseconds(0))) return write(fd_, bytes.data(), bytes.size());
    errno = EAGAIN;
    return -1;
  }

  // Files always can for poll(2), whatever the disk says later.
  bool CanWrite(std::chrono::milliseconds wait) const {
    pollfd entry = {.fd = fd_, .events = POLLOUT, .revents = 0};
    return poll(&entry, 1, static_cast<int>(wait.count())) > 0;
  }

  void ReopenIfRenamed() {
    if (file_.empty() || !is_regular_ || Clock::now() < next_look_) return;
    next_look_ = Clock::now() + kReopenInterval;
    struct stat status = {};
    if (stat(file_.c_str(), &status) == 0 && status.st_dev == device_ && status.st_ino == inode_) {
      return;
    }
    const int fd = OpenFile();
    if (fd < 0) return;  // the old one still takes the lines; tried again later
    close(fd_);
    fd_ = fd;
    Look();
  }

  std::string file_;
  int fd_ = -1;
  bool is_socket_ = false;
  bool is_regular_ = false;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  Clock::time_point next_look_;
  Clock::time_point give_up_;
};

// Gathers lines while more are waiting, and writes them whole. On the log's thread.
class OutputSink final : public spdlog::sinks::sink {
 public:
  OutputSink(std::unique_ptr<Output> output, Backlog* backlog)
      : output_(std::move(output)), backlog_(backlog), formatter_(MakeFormatter()) {}

  void log(const spdlog::details::log_msg& message) override {
    // Only at the end: what is being written still counts, so that a stuck output stops the intake.
    const auto leave = absl::MakeCleanup([&] { backlog_->Leave(message.payload.size()); });
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    // One line is one line, whatever is in it.
    std::replace_if(
        line.begin(), line.end() - 1, [](char c) { return absl::ascii_iscntrl(c); }, ' ');
    if (buffer_.size() + line.size() > kWriteBytesMax) Flush();
    buffer_.append(line.data(), line.size());
    ++buffered_lines_;
    // No other line waits, or is about to.
    if (backlog_->lines.load(std::memory_order_relaxed) == 1) Flush();
  }
  void flush() override { Flush(); }
  void set_pattern(const std::string&) override {}
  void set_formatter(std::unique_ptr<spdlog::formatter>) override {}

 private:
  void Flush() {
    if (buffer_.empty()) return;
    // A line that was begun has to be ended before the next.
    if (line_broken_) buffer_.insert(buffer_.begin(), '\n');
    TellDropped();
    size_t done = 0;
    while (done < buffer_.size()) {
      const size_t n = output_->Write(absl::string_view(buffer_).substr(done), backlog_->ending);
      if (n == 0) break;
      done += n;
    }
    if (done > 0) line_broken_ = buffer_[done - 1] != '\n';
    if (done < buffer_.size()) {
      backlog_->Drop(buffered_lines_);
    }
    buffer_.clear();
    buffered_lines_ = 0;
  }

  void TellDropped() {
    const uint64_t dropped = backlog_->dropped.load(std::memory_order_relaxed);
    if (dropped == told_) return;
    const std::string text =
        absl::StrCat(dropped - told_, " log lines were dropped: they could not be written");
    told_ = dropped;
    spdlog::memory_buf_t line;
    formatter_->format(spdlog::details::log_msg("", spdlog::level::warn, text), line);
    buffer_.append(line.data(), line.size());
  }

  const std::unique_ptr<Output> output_;
  Backlog* const backlog_;
  const std::unique_ptr<spdlog::formatter> formatter_;
  std::string buffer_;
  uint64_t buffered_lines_ = 0;
  uint64_t told_ = 0;
  bool line_broken_ = false;
};

class AsyncLogSink final : public LogSink {
 public:
  AsyncLogSink(std::unique_ptr<Output> output, LogLevel level)
      : level_(level),
        pool_(std::make_shared<spdlog::details::thread_pool>(kQueueEntries, 1, PrepareThread)) {
    auto sink = std::make_shared<OutputSink>(std::move(output), &backlog_);
    logger_ = std::make_shared<spdlog::async_logger>("", std::move(sink), pool_,
                                                     spdlog::async_overflow_policy::overrun_oldest);
    logger_->set_level(spdlog::level::trace);
    // On the log's thread: no memory to format a line.
    logger_->set_error_handler([this](const std::string&) { backlog_.Drop(1); });
  }

  ~AsyncLogSink() override {
    backlog_.ending.store(true, std::memory_order_release);
    pool_.reset();  // writes what waits and joins the thread
  }

  void Write(LogLevel level, absl::string_view line) override {
    if (level < this->level() || level >= LogLevel::kOff) return;
    // The newest is dropped, so that spdlog's queue is never full: its own ways then are to block
    // or to lose lines silently.
    if (backlog_.IsFull()) return backlog_.Drop(1);
    line = line.substr(0, kLineBytesMax);
    backlog_.Enter(line.size());
    try {
      pool_->post_log(std::shared_ptr<spdlog::async_logger>(logger_),
                      spdlog::details::log_msg("", kSpdlogLevels[static_cast<size_t>(level)],
                                               spdlog::string_view_t(line.data(), line.size())),
                      spdlog::async_overflow_policy::overrun_oldest);
    } catch (const std::exception&) {  // no memory
      backlog_.Leave(line.size());
      backlog_.Drop(1);
    }
  }
  LogLevel level() const override { return level_.load(std::memory_order_relaxed); }
  void set_level(LogLevel level) override { level_.store(level, std::memory_order_relaxed); }
  uint64_t dropped() const override { return backlog_.dropped.load(std::memory_order_relaxed); }
  void Flush(absl::Duration limit) override {
    const auto until = Clock::now() + absl::ToChronoMilliseconds(limit);
    while (backlog_.lines.load(std::memory_order_relaxed) != 0 && Clock::now() < until) {
      std::this_thread::sleep_for(kRetryPause);
    }
  }

 private:
  static void PrepareThread() {
    pthread_setname_np(pthread_self(), "rcproxy-log");
    // SIGPIPE of a closed pipe and SIGXFSZ of a full file are errors of a write, no more.
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
  }

  std::atomic<LogLevel> level_;
  Backlog backlog_;
  std::shared_ptr<spdlog::details::thread_pool> pool_;
  std::shared_ptr<spdlog::async_logger> logger_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LogSink>> MakeLogSink(const std::string& file, LogLevel level) {
  auto output = std::make_unique<Output>();
  const absl::Status status = output->Open(file);
  if (!status.ok()) return status;
  return std::make_unique<AsyncLogSink>(std::move(output), level);
}

void Log::WarnEvery(absl::string_view topic, absl::string_view text, absl::Duration interval) {
  constexpr size_t kTopicsMax = 1024;
  if (!wants(LogLevel::kWarn)) return;
  if (topics_.size() >= kTopicsMax && !topics_.contains(topic)) {
    if (*now_ < next_sweep_) return;
    next_sweep_ = *now_ + kInterval;
    // Nodes come and go; what was quiet for an interval limits nothing any more.
    absl::erase_if(topics_, [this](const auto& topic_and_entry) {
      return topic_and_entry.second.next <= *now_;
    });
    if (topics_.size() >= kTopicsMax) return;
  }
  Topic& entry = topics_[topic];
  if (*now_ < entry.next) {
    ++entry.left_out;
    return;
  }
  entry.next = *now_ + interval;
  if (entry.left_out == 0) {
    Write(LogLevel::kWarn, text);
  } else {
    Write(LogLevel::kWarn, absl::StrCat(text, " (", entry.left_out, " like it left out)"));
    entry.left_out = 0;
  }
}

absl::string_view LogLevelName(LogLevel level) { return kLevelNames[static_cast<size_t>(level)]; }

bool ParseLogLevel(absl::string_view name, LogLevel* level) {
  for (size_t i = 0; i < std::size(kLevelNames); ++i) {
    if (!absl::EqualsIgnoreCase(name, kLevelNames[i])) continue;
    *level = static_cast<LogLevel>(i);
    return true;
  }
  return false;
}

std::string EscapeForLog(absl::string_view bytes) {
  constexpr size_t kShown = 64;
  constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  for (const char c : bytes.substr(0, kShown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\\') {
      out += "\\\\";
    } else if (byte < 0x20 || byte >= 0x7f) {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 0xf];
    } else {
      out += c;
    }
  }
  if (bytes.size() > kShown) out += "...";
  return out;
}

}  // namespace proxy
