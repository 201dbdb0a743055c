#include "proxy/log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace proxy {
namespace {

using ::testing::ContainsRegex;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::SizeIs;

constexpr absl::Duration kPatience = absl::Seconds(20);

class LogSinkTest : public ::testing::Test {
 protected:
  LogSinkTest() {
    std::string pattern = ::testing::TempDir() + "rcproxy_log_XXXXXX";
    directory_ = mkdtemp(pattern.data());
  }
  ~LogSinkTest() override { std::filesystem::remove_all(directory_); }

  std::string Path(const std::string& name) const { return directory_ + "/" + name; }

  static std::unique_ptr<LogSink> MustMake(const std::string& file,
                                           LogLevel level = LogLevel::kInfo) {
    absl::StatusOr<std::unique_ptr<LogSink>> sink = MakeLogSink(file, level);
    EXPECT_TRUE(sink.ok()) << sink.status();
    return *std::move(sink);
  }

  static std::vector<std::string> Lines(const std::string& path) {
    std::ifstream file(path);
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
  }

  std::string directory_;
};

// All that comes out of a pipe's end until its writers have gone.
std::string ReadAll(int fd) {
  std::string all;
  char buffer[65536];
  while (true) {
    const ssize_t n = read(fd, buffer, sizeof(buffer));
    if (n <= 0) return all;
    all.append(buffer, static_cast<size_t>(n));
  }
}

// A named pipe, its reading end open: nothing is read until the test does.
class Fifo {
 public:
  explicit Fifo(const std::string& path) : path_(path) {
    EXPECT_EQ(mkfifo(path.c_str(), 0600), 0);
    fd_ = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    EXPECT_GE(fd_, 0);
    fcntl(fd_, F_SETFL, 0);  // blocks from here on, once there is a writer
  }
  ~Fifo() { CloseReader(); }
  void CloseReader() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  int fd() const { return fd_; }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
  int fd_ = -1;
};

TEST_F(LogSinkTest, ALineHasTimeInUtcLevelAndText) {
  const absl::Time before = absl::Now();
  MustMake(Path("log"))->Write(LogLevel::kWarn, "some text");
  const absl::Time after = absl::Now();
  const std::vector<std::string> lines = Lines(Path("log"));
  ASSERT_THAT(lines, SizeIs(1));
  EXPECT_THAT(lines[0], MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}"
                                     "\\.[0-9]{3}Z warn some text"));
  absl::Time written;
  std::string error;
  ASSERT_TRUE(
      absl::ParseTime(absl::RFC3339_full, lines[0].substr(0, lines[0].find(' ')), &written, &error))
      << error;
  EXPECT_GE(written, before - absl::Milliseconds(1));
  EXPECT_LE(written, after);
}

TEST_F(LogSinkTest, OnlyLinesFromTheLevelOnAreWrittenAndItCanBeChanged) {
  const std::unique_ptr<LogSink> sink = MustMake(Path("log"), LogLevel::kWarn);
  sink->Write(LogLevel::kInfo, "1");
  sink->Write(LogLevel::kWarn, "2");
  sink->set_level(LogLevel::kTrace);
  EXPECT_EQ(sink->level(), LogLevel::kTrace);
  sink->Write(LogLevel::kTrace, "3");
  sink->Write(LogLevel::kDebug, "4");
  sink->Write(LogLevel::kError, "5");
  sink->set_level(LogLevel::kOff);
  sink->Write(LogLevel::kError, "6");
  sink->Write(LogLevel::kOff, "7");
  sink->Flush(kPatience);
  EXPECT_THAT(Lines(Path("log")), ElementsAre(EndsWith("Z warn 2"), EndsWith("Z trace 3"),
                                              EndsWith("Z debug 4"), EndsWith("Z error 5")));
  EXPECT_EQ(sink->dropped(), 0u);
}

TEST_F(LogSinkTest, AFileIsAppendedTo) {
  MustMake(Path("log"))->Write(LogLevel::kInfo, "first run");
  MustMake(Path("log"))->Write(LogLevel::kInfo, "second run");
  EXPECT_THAT(Lines(Path("log")),
              ElementsAre(EndsWith("info first run"), EndsWith("info second run")));
}

TEST_F(LogSinkTest, AFileThatCannotBeOpenedIsNamedWithTheReason) {
  EXPECT_EQ(MakeLogSink("/nonexistent/x.log", LogLevel::kInfo).status().message(),
            "--log-file: '/nonexistent/x.log' cannot be opened: No such file or directory");
  EXPECT_EQ(MakeLogSink(directory_, LogLevel::kInfo).status().message(),
            absl::StrCat("--log-file: '", directory_, "' cannot be opened: Is a directory"));
}

TEST_F(LogSinkTest, OneLineStaysOneLineAndIsCutWhenTooLong) {
  const std::unique_ptr<LogSink> sink = MustMake(Path("log"));
  sink->Write(LogLevel::kInfo, "a\nforged info line\r\x1b[31m");
  sink->Write(LogLevel::kInfo, std::string(100000, 'x'));
  sink->Flush(kPatience);
  const std::vector<std::string> lines = Lines(Path("log"));
  ASSERT_THAT(lines, SizeIs(2));
  EXPECT_THAT(lines[0], EndsWith("info a forged info line  [31m"));
  EXPECT_EQ(std::count(lines[1].begin(), lines[1].end(), 'x'), 2000);
}

TEST_F(LogSinkTest, LinesOfManyThreadsAreWholeAndInOrderPerThread) {
  constexpr int kThreads = 8;
  constexpr int kLines = 2000;
  uint64_t dropped = 0;
  {
    const std::unique_ptr<LogSink> sink = MustMake(Path("log"));
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&sink, t] {
        for (int i = 0; i < kLines; ++i) sink->Write(LogLevel::kInfo, absl::StrCat(t, " ", i, "."));
      });
    }
    for (std::thread& thread : threads) thread.join();
    sink->Flush(kPatience);
    dropped = sink->dropped();
  }
  std::map<int, int> next;
  int seen = 0;
  for (const std::string& line : Lines(Path("log"))) {
    if (absl::StrContains(line, "were dropped")) continue;
    int thread = 0;
    int number = 0;
    ASSERT_EQ(std::sscanf(line.c_str(), "%*s info %d %d.", &thread, &number), 2) << line;
    EXPECT_GE(number, next[thread]);
    next[thread] = number + 1;
    ++seen;
  }
  EXPECT_EQ(seen + static_cast<int>(dropped), kThreads * kLines);
}

TEST_F(LogSinkTest, AFullDiskCostsLinesThatAreCountedAndNothingElse) {
  const std::unique_ptr<LogSink> sink = MustMake("/dev/full");
  for (int i = 0; i < 100; ++i) sink->Write(LogLevel::kInfo, "lost");
  sink->Flush(kPatience);
  EXPECT_EQ(sink->dropped(), 100u);
}

TEST_F(LogSinkTest, AStoppedReaderBlocksNobodyAndNotTheEnd) {
  Fifo fifo(Path("fifo"));
  std::unique_ptr<LogSink> sink = MustMake(fifo.path());
  constexpr uint64_t kLines = 200000;
  const std::string text(1000, 'x');
  const absl::Time start = absl::Now();
  for (uint64_t i = 0; i < kLines; ++i) sink->Write(LogLevel::kInfo, text);
  // 200 MB were offered. A pipe holds 64 KiB and we keep less than 1 MiB.
  EXPECT_GT(sink->dropped(), kLines - (1 << 20) / text.size() - 100);
  EXPECT_LT(absl::Now() - start, kPatience);
  const absl::Time end = absl::Now();
  sink.reset();
  EXPECT_LT(absl::Now() - end, absl::Seconds(5));
  // What was taken before was whole lines.
  const std::string written = ReadAll(fifo.fd());
  EXPECT_FALSE(written.empty());
  EXPECT_TRUE(absl::EndsWith(written, "\n"));
  for (absl::string_view line : absl::StrSplit(written, '\n', absl::SkipEmpty())) {
    EXPECT_TRUE(absl::EndsWith(line, text) || absl::StrContains(line, "lines were dropped"))
        << line.substr(0, 100);
  }
}

TEST_F(LogSinkTest, WhenTheReaderGoesOnItIsToldHowManyLinesItMissed) {
  Fifo fifo(Path("fifo"));
  std::unique_ptr<LogSink> sink = MustMake(fifo.path());
  constexpr uint64_t kLines = 10000;
  for (uint64_t i = 0; i < kLines; ++i) sink->Write(LogLevel::kInfo, std::string(500, 'x'));
  const uint64_t dropped = sink->dropped();
  EXPECT_GT(dropped, 0u);
  std::string written;
  std::thread reader([&] { written = ReadAll(fifo.fd()); });
  sink->Flush(kPatience);
  sink->Write(LogLevel::kInfo, "after");
  sink.reset();
  reader.join();
  uint64_t told = 0;
  uint64_t seen = 0;
  for (absl::string_view line : absl::StrSplit(written, '\n', absl::SkipEmpty())) {
    if (!absl::StrContains(line, " log lines were dropped: they could not be written")) {
      ++seen;
      continue;
    }
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    uint64_t lines = 0;
    ASSERT_EQ(words[1], "warn");
    ASSERT_TRUE(absl::SimpleAtoi(words[2], &lines));
    told += lines;
  }
  EXPECT_EQ(told, dropped);
  EXPECT_EQ(seen, kLines - dropped + 1);
  EXPECT_TRUE(absl::EndsWith(written, "info after\n"));
}

TEST_F(LogSinkTest, AReaderThatHasGoneIsNoReasonToDie) {
  Fifo fifo(Path("fifo"));
  const std::unique_ptr<LogSink> sink = MustMake(fifo.path());
  fifo.CloseReader();
  sink->Write(LogLevel::kInfo, "nobody reads this");  // SIGPIPE would end the test
  sink->Flush(kPatience);
  EXPECT_EQ(sink->dropped(), 1u);
}

TEST_F(LogSinkTest, ARenamedFileIsOpenedAnewAndNoLineIsLost) {
  const std::unique_ptr<LogSink> sink = MustMake(Path("log"));
  sink->Write(LogLevel::kInfo, "0");
  sink->Flush(kPatience);
  ASSERT_EQ(rename(Path("log").c_str(), Path("log.1").c_str()), 0);
  int last = 0;
  for (const absl::Time end = absl::Now() + kPatience;
       access(Path("log").c_str(), F_OK) != 0 && absl::Now() < end;) {
    sink->Write(LogLevel::kInfo, absl::StrCat(++last));
    sink->Flush(kPatience);
  }
  std::vector<std::string> lines = Lines(Path("log.1"));
  const std::vector<std::string> rest = Lines(Path("log"));
  EXPECT_THAT(rest, ::testing::Not(IsEmpty()));
  lines.insert(lines.end(), rest.begin(), rest.end());
  ASSERT_THAT(lines, SizeIs(last + 1));
  for (int i = 0; i <= last; ++i) {
    EXPECT_THAT(lines[static_cast<size_t>(i)], EndsWith(absl::StrCat("info ", i)));
  }
}

// How often the log's thread of this process has gone to sleep.
uint64_t SleepsOfTheLogsThread() {
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream status(task.path() / "status");
    const std::string text((std::istreambuf_iterator<char>(status)), {});
    constexpr absl::string_view kSleeps = "\nvoluntary_ctxt_switches:\t";
    const size_t at = text.find(kSleeps.data());
    uint64_t sleeps = 0;
    if (absl::StartsWith(text, "Name:\trcproxy-log\n") && at != std::string::npos &&
        std::sscanf(text.c_str() + at + kSleeps.size(), "%" SCNu64, &sleeps) == 1) {
      return sleeps;
    }
  }
  ADD_FAILURE() << "there is no such thread";
  return 0;
}

// Each time costs a worker a system call and the machine a switch of threads.
TEST_F(LogSinkTest, AStreamOfLinesDoesNotWakeTheThreadForEach) {
  constexpr int kLines = 2000;
  const std::unique_ptr<LogSink> sink = MustMake(Path("log"));
  sink->Write(LogLevel::kInfo, "the thread has its name");
  sink->Flush(kPatience);
  const uint64_t before = SleepsOfTheLogsThread();
  const absl::Time start = absl::Now();
  absl::Time next = start;
  for (int i = 0; i < kLines; ++i) {
    while (absl::Now() < next) continue;
    next = absl::Now() + absl::Microseconds(100);
    sink->Write(LogLevel::kInfo, "line");
  }
  // One for each rest, and a few where the threads are in each other's way.
  const int64_t rests = (absl::Now() - start) / absl::Milliseconds(10);
  EXPECT_LT(SleepsOfTheLogsThread() - before, static_cast<uint64_t>(kLines / 10 + 3 * rests));
  sink->Flush(kPatience);
  EXPECT_EQ(sink->dropped(), 0u);
  EXPECT_THAT(Lines(Path("log")), SizeIs(kLines + 1));
}

TEST_F(LogSinkTest, AWarningAndALotOfBytesEndTheThreadsRest) {
  // The least time of many tries in which `count` lines are written, each right after the one
  // before.
  const auto least_of = [this](const std::string& name, LogLevel level, const std::string& text,
                               uintmax_t count) {
    const std::unique_ptr<LogSink> sink = MustMake(Path(name));
    const uintmax_t line_bytes =
        absl::string_view("2000-01-01T00:00:00.000Z warn \n").size() + text.size();
    uintmax_t bytes = 0;
    absl::Duration least = absl::InfiniteDuration();
    for (int round = 0; round <= 50; ++round) {
      const absl::Time start = absl::Now();
      for (uintmax_t i = 0; i < count; ++i) sink->Write(level, text);
      bytes += count * line_bytes;
      while (std::filesystem::file_size(Path(name)) < bytes && absl::Now() - start < kPatience) {
      }
      if (round > 0) least = std::min(least, absl::Now() - start);  // else the thread does not rest
    }
    EXPECT_EQ(sink->dropped(), 0u);
    return least;
  };
  EXPECT_LT(least_of("warn", LogLevel::kWarn, std::string(100, 'x'), 1), absl::Milliseconds(5));
  EXPECT_LT(least_of("info", LogLevel::kInfo, std::string(2000, 'x'), 150), absl::Milliseconds(5));
}

// The other processes that share a terminal or pipe must not find it non-blocking.
TEST_F(LogSinkTest, StandardErrorIsWrittenToAndKeepsItsMode) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const int saved = dup(STDERR_FILENO);
  ASSERT_GE(dup2(ends[1], STDERR_FILENO), 0);
  close(ends[1]);
  std::unique_ptr<LogSink> sink = MustMake("");
  const int mode = fcntl(STDERR_FILENO, F_GETFL);
  sink->Write(LogLevel::kInfo, "to standard error");
  sink.reset();
  dup2(saved, STDERR_FILENO);
  close(saved);
  EXPECT_EQ(mode & O_NONBLOCK, 0);
  EXPECT_THAT(ReadAll(ends[0]), EndsWith("info to standard error\n"));
  close(ends[0]);
}

// Keeps what is written, to look at `Log` alone.
class Lines final : public LogSink {
 public:
  void Write(LogLevel level, absl::string_view line) override {
    lines.push_back(absl::StrCat(LogLevelName(level), " ", line));
  }
  LogLevel level() const override { return level_; }
  void set_level(LogLevel level) override { level_ = level; }
  uint64_t dropped() const override { return 0; }

  std::vector<std::string> lines;

 private:
  LogLevel level_ = LogLevel::kInfo;
};

TEST(LogTest, OnlyWhatIsWantedReachesTheSink) {
  Lines sink;
  const absl::Time now = absl::UnixEpoch();
  Log log(&sink, &now);
  log.Debug("a");
  log.Info("b");
  log.Warn("c");
  log.Error("d");
  EXPECT_FALSE(log.wants(LogLevel::kDebug));
  sink.set_level(LogLevel::kError);
  log.Warn("e");
  log.WarnEvery("t", "f");
  EXPECT_THAT(sink.lines, ElementsAre("info b", "warn c", "error d"));
}

TEST(LogTest, ATopicWarnsOnceASecondAndSaysHowManyWereLeftOut) {
  Lines sink;
  absl::Time now = absl::UnixEpoch();
  Log log(&sink, &now);
  log.WarnEvery("a", "a1");
  log.WarnEvery("a", "a2");
  now += absl::Milliseconds(999);
  log.WarnEvery("a", "a3");
  log.WarnEvery("b", "b1");
  EXPECT_THAT(sink.lines, ElementsAre("warn a1", "warn b1"));
  now += absl::Milliseconds(1);
  log.WarnEvery("a", "a4");
  log.WarnEvery("a", "a5");
  now += absl::Seconds(100);
  log.WarnEvery("a", "a6");
  log.WarnEvery("b", "b2");
  EXPECT_THAT(sink.lines, ElementsAre("warn a1", "warn b1", "warn a4 (2 like it left out)",
                                      "warn a6 (1 like it left out)", "warn b2"));
}

TEST(LogTest, TopicsWithoutEndAreBounded) {
  Lines sink;
  absl::Time now = absl::UnixEpoch();
  Log log(&sink, &now);
  for (int i = 0; i < 100000; ++i) log.WarnEvery(absl::StrCat("node ", i), "down");
  EXPECT_LE(sink.lines.size(), 1024u);
  now += absl::Seconds(1);
  sink.lines.clear();
  log.WarnEvery("another", "x");
  EXPECT_THAT(sink.lines, ElementsAre("warn x"));
}

TEST(LogLevelTest, NamesAreReadBackInAnyCase) {
  for (const LogLevel level : {LogLevel::kTrace, LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarn,
                               LogLevel::kError, LogLevel::kOff}) {
    LogLevel read = LogLevel::kInfo;
    EXPECT_TRUE(ParseLogLevel(LogLevelName(level), &read));
    EXPECT_EQ(read, level);
  }
  LogLevel level = LogLevel::kOff;
  EXPECT_TRUE(ParseLogLevel("WaRn", &level));
  EXPECT_EQ(level, LogLevel::kWarn);
  for (const char* name : {"", "warning", "warn ", "3"}) EXPECT_FALSE(ParseLogLevel(name, &level));
}

TEST(EscapeForLogTest, OnlyPlainBytesStayAndOnly64OfThem) {
  EXPECT_EQ(EscapeForLog(""), "");
  EXPECT_EQ(EscapeForLog("plain ~text'"), "plain ~text'");
  EXPECT_EQ(EscapeForLog(absl::string_view("\0\n\r\x1b\x1f", 5)), "\\x00\\x0a\\x0d\\x1b\\x1f");
  EXPECT_EQ(EscapeForLog("\x7f\x80\xff"), "\\x7f\\x80\\xff");
  EXPECT_EQ(EscapeForLog("a\\x00"), "a\\\\x00");
  EXPECT_EQ(EscapeForLog(std::string(64, 'a')), std::string(64, 'a'));
  EXPECT_EQ(EscapeForLog(std::string(65, 'a')), std::string(64, 'a') + "...");
}

}  // namespace
}  // namespace proxy
