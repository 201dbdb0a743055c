#include "proxy/log.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spdlog/details/log_msg.h>
#include <spdlog/pattern_formatter.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <iterator>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace proxy {
namespace {

using Clock = std::chrono::steady_clock;

// Lines that wait to be written: at most so many, of at most so many bytes together.
constexpr size_t kLinesMax = 1024;
constexpr size_t kBytesMax = 384 << 10;
// After it has written, the log's thread rests for so long, or until half of what may wait does, or
// a warning: a stream of lines must not cost a switch of threads for each.
constexpr auto kRest = std::chrono::milliseconds(10);
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

// Lines as they were handed in, their texts one behind the other.
struct Batch {
  struct Line {
    spdlog::log_clock::time_point time;
    LogLevel level;
    size_t bytes;
  };
  std::vector<Line> lines;
  std::string text;
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

class AsyncLogSink final : public LogSink {
 public:
  AsyncLogSink(std::unique_ptr<Output> output, LogLevel level)
      : level_(level), output_(std::move(output)), thread_([this] { Run(); }) {}

  ~AsyncLogSink() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ending_.store(true, std::memory_order_release);
    }
    work_.notify_one();
    thread_.join();  // writes what waits
  }

  void Write(LogLevel level, absl::string_view line) override {
    if (level < this->level() || level >= LogLevel::kOff) return;
    line = line.substr(0, kLineBytesMax);
    bool wake = false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      // The newest is dropped.
      if (lines_ >= kLinesMax || bytes_ >= kBytesMax || !Append(level, line)) return Drop(1);
      ++lines_;
      bytes_ += line.size();
      if (level >= LogLevel::kWarn || lines_ >= kLinesMax / 2 || bytes_ >= kBytesMax / 2) {
        wake = !std::exchange(hurried_, true);
      }
      wake = wake || !resting_;
    }
    if (wake) work_.notify_one();
  }
  LogLevel level() const override { return level_.load(std::memory_order_relaxed); }
  void set_level(LogLevel level) override { level_.store(level, std::memory_order_relaxed); }
  uint64_t dropped() const override { return dropped_.load(std::memory_order_relaxed); }
  void Flush(absl::Duration limit) override {
    std::unique_lock<std::mutex> lock(mutex_);
    hurried_ = true;
    work_.notify_one();
    all_written_.wait_for(lock, absl::ToChronoMilliseconds(limit), [this] { return lines_ == 0; });
  }

 private:
  // False: there is no memory.
  bool Append(LogLevel level, absl::string_view line) {
    try {
      waiting_.lines.reserve(kLinesMax);
      waiting_.text.append(line.data(), line.size());
      waiting_.lines.push_back(
          {.time = spdlog::log_clock::now(), .level = level, .bytes = line.size()});
      return true;
    } catch (const std::exception&) {
      return false;
    }
  }
  void Drop(uint64_t n) { dropped_.fetch_add(n, std::memory_order_relaxed); }

  // From here on: the log's thread.

  void Run() {
    pthread_setname_np(pthread_self(), "rcproxy-log");
    // SIGPIPE of a closed pipe and SIGXFSZ of a full file are errors of a write, no more.
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    buffer_.reserve(2 * kWriteBytesMax);
    Batch batch;
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      work_.wait(lock, [this] { return !waiting_.lines.empty() || ending_; });
      if (waiting_.lines.empty()) return;
      std::swap(batch, waiting_);
      resting_ = true;  // or soon
      hurried_ = false;
      lock.unlock();
      WriteBatch(batch);
      batch.lines.clear();
      batch.text.clear();
      lock.lock();
      work_.wait_for(lock, kRest, [this] { return hurried_ || ending_; });
      resting_ = false;
    }
  }

  void WriteBatch(const Batch& batch) {
    size_t at = 0;
    for (const Batch::Line& line : batch.lines) {
      try {
        Format(line, absl::string_view(batch.text).substr(at, line.bytes));
      } catch (const std::exception&) {  // no memory
        Drop(1);
      }
      ++buffered_lines_;
      buffered_bytes_ += line.bytes;
      at += line.bytes;
    }
    WriteBuffer();
  }

  void Format(const Batch::Line& line, absl::string_view text) {
    spdlog::memory_buf_t formatted;
    const spdlog::details::log_msg message(line.time, spdlog::source_loc(), "",
                                           kSpdlogLevels[static_cast<size_t>(line.level)],
                                           spdlog::string_view_t(text.data(), text.size()));
    formatter_->format(message, formatted);
    // One line is one line, whatever is in it.
    std::replace_if(
        formatted.begin(), formatted.end() - 1, [](char c) { return absl::ascii_iscntrl(c); }, ' ');
    if (buffer_.size() + formatted.size() > kWriteBytesMax) WriteBuffer();
    buffer_.append(formatted.data(), formatted.size());
  }

  void WriteBuffer() {
    if (buffered_lines_ == 0) return;
    // A line that was begun has to be ended before the next.
    if (line_broken_) buffer_.insert(buffer_.begin(), '\n');
    TellDropped();
    size_t done = 0;
    while (done < buffer_.size()) {
      const size_t n = output_->Write(absl::string_view(buffer_).substr(done), ending_);
      if (n == 0) break;
      done += n;
    }
    if (done > 0) line_broken_ = buffer_[done - 1] != '\n';
    if (done < buffer_.size()) Drop(buffered_lines_);
    buffer_.clear();
    // Only now: what is being written still counts, so that a stuck output stops the intake.
    std::lock_guard<std::mutex> lock(mutex_);
    lines_ -= std::exchange(buffered_lines_, 0);
    bytes_ -= std::exchange(buffered_bytes_, 0);
    if (lines_ == 0) all_written_.notify_all();
  }

  void TellDropped() {
    const uint64_t dropped = this->dropped();
    if (dropped == told_) return;
    spdlog::memory_buf_t line;
    try {
      const std::string text =
          absl::StrCat(dropped - told_, " log lines were dropped: they could not be written");
      formatter_->format(spdlog::details::log_msg("", spdlog::level::warn, text), line);
      buffer_.append(line.data(), line.size());
      told_ = dropped;
    } catch (const std::exception&) {  // no memory: told the next time
    }
  }

  std::atomic<LogLevel> level_;
  std::atomic<uint64_t> dropped_{0};
  std::atomic<bool> ending_{false};  // written with mutex_ held

  std::mutex mutex_;
  std::condition_variable work_;         // for the log's thread
  std::condition_variable all_written_;  // lines_ is 0
  Batch waiting_;
  size_t lines_ = 0;  // not written yet: in waiting_, and what the log's thread has taken
  size_t bytes_ = 0;
  bool resting_ = false;  // the log's thread comes by itself
  bool hurried_ = false;  // it comes at once

  const std::unique_ptr<Output> output_;
  const std::unique_ptr<spdlog::formatter> formatter_ = MakeFormatter();
  std::string buffer_;  // whole lines
  size_t buffered_lines_ = 0;
  size_t buffered_bytes_ = 0;
  uint64_t told_ = 0;
  bool line_broken_ = false;
  std::thread thread_;  // the last: it uses all others
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
