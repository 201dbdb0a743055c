#include "proxy/system_limits.h"

#include <sched.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <thread>

#include "gtest/gtest.h"

namespace proxy {
namespace {

constexpr uint64_t kMachine = uint64_t{8} << 30;

// A tree of files in the place of /proc and /sys.
class MemoryAvailableTest : public ::testing::Test {
 protected:
  MemoryAvailableTest() {
    std::string pattern = ::testing::TempDir() + "rcproxy_limits_XXXXXX";
    root_ = mkdtemp(pattern.data());
  }
  ~MemoryAvailableTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& content) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << content;
  }
  uint64_t Available() const { return MemoryAvailable(kMachine, root_); }

 private:
  std::string root_;
};

TEST(PinThisThreadTest, LeavesTheThreadOneOfItsCpus) {
  cpu_set_t all;
  ASSERT_EQ(sched_getaffinity(0, sizeof(all), &all), 0);
  std::set<int> used;
  for (uint32_t number = 0; number < 2 * CpusAvailable(); ++number) {
    std::thread([&] {
      ASSERT_TRUE(PinThisThread(number));
      cpu_set_t mine;
      ASSERT_EQ(sched_getaffinity(0, sizeof(mine), &mine), 0);
      EXPECT_EQ(CPU_COUNT(&mine), 1);
      for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &mine)) continue;
        EXPECT_TRUE(CPU_ISSET(cpu, &all));
        used.insert(cpu);
      }
    }).join();
  }
  EXPECT_EQ(used.size(), CpusAvailable());
}

TEST_F(MemoryAvailableTest, WithoutControlGroupsItIsTheMachines) {
  EXPECT_EQ(Available(), kMachine);
}

TEST_F(MemoryAvailableTest, Version2TakesTheLeastOfAllGroupsAbove) {
  Write("/proc/self/cgroup", "0::/a/b\n");
  Write("/sys/fs/cgroup/a/b/memory.max", "max\n");
  EXPECT_EQ(Available(), kMachine);
  Write("/sys/fs/cgroup/a/memory.max", "3000000\n");
  EXPECT_EQ(Available(), 3000000u);
  Write("/sys/fs/cgroup/a/b/memory.max", "2000000\n");
  EXPECT_EQ(Available(), 2000000u);
}

TEST_F(MemoryAvailableTest, Version2InsideAContainerIsTheMountPointsOwn) {
  Write("/proc/self/cgroup", "0::/\n");
  Write("/sys/fs/cgroup/memory.max", "5000000\n");
  EXPECT_EQ(Available(), 5000000u);
}

TEST_F(MemoryAvailableTest, Version1IsReadFromTheMemoryController) {
  Write("/proc/self/cgroup", "5:cpu,cpuacct:/c\n4:hugetlb,memory:/x/y\n0::/\n");
  Write("/sys/fs/cgroup/memory/x/y/memory.limit_in_bytes", "9223372036854771712\n");  // no limit
  EXPECT_EQ(Available(), kMachine);
  Write("/sys/fs/cgroup/memory/x/y/memory.limit_in_bytes", "4000000\n");
  EXPECT_EQ(Available(), 4000000u);
}

TEST_F(MemoryAvailableTest, Version1PathOfOutsideTheContainerFallsBackToTheMountPoint) {
  Write("/proc/self/cgroup", "4:memory:/docker/0123\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "6000000\n");
  EXPECT_EQ(Available(), 6000000u);
}

TEST_F(MemoryAvailableTest, GarbageIsNoLimit) {
  Write("/proc/self/cgroup", "garbage\n::\n0::/\n4:memory\n");
  Write("/sys/fs/cgroup/memory.max", "lots\n");
  EXPECT_EQ(Available(), kMachine);
}

TEST(ClientsThatFitTest, DescriptorsForNodesAndOurselvesComeFirst) {
  Config config;
  config.workers = 2;
  config.backend_connections = 1;
  config.backend_idle_connections = 16;
  config.clients_max = 10000;
  // 2 workers × (16 nodes × 2 protocols + 16 private) = 96, twice, and 64.
  EXPECT_EQ(ClientsThatFit(20000, config), 10000u);
  EXPECT_EQ(ClientsThatFit(1024, config), (1024u - 256) * 3 / 4);
  EXPECT_EQ(ClientsThatFit(257, config), 1u);
  EXPECT_EQ(ClientsThatFit(256, config), 0u);
  EXPECT_EQ(ClientsThatFit(0, config), 0u);
  config.startup_nodes.resize(100);  // 2 × (100 × 2 + 16) = 432
  EXPECT_EQ(ClientsThatFit(1024, config), (1024u - 864 - 64) * 3 / 4);
  config.private_connections_max = 5;
  EXPECT_EQ(ClientsThatFit(1024, config), 1024u - 864 - 64 - 10);
}

TEST(SystemLimitsTest, TheSoftLimitOfOpenFilesIsRaisedToTheHardOne) {
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit before = limit;
  limit.rlim_cur = limit.rlim_max / 2;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_EQ(RaiseOpenFileLimit(), before.rlim_max);
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_EQ(limit.rlim_cur, before.rlim_max);
  setrlimit(RLIMIT_NOFILE, &before);
}

TEST(SystemLimitsTest, ThisMachineHasMemoryAndCpus) {
  EXPECT_GE(CpusAvailable(), 1u);
  EXPECT_GT(MachineMemory(), uint64_t{64} << 20);
  EXPECT_LE(MemoryAvailable(MachineMemory()), MachineMemory());
}

}  // namespace
}  // namespace proxy
