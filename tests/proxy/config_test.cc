#include "proxy/config.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "io/uring_ring.h"
#include "proxy/options.h"
#include "proxy/system_limits.h"

namespace proxy {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

absl::StatusOr<CommandLine> Parse(const std::vector<std::string>& args) {
  std::vector<const char*> argv = {"rcproxy"};
  for (const std::string& arg : args) argv.push_back(arg.c_str());
  return ParseCommandLine(static_cast<int>(argv.size()), argv.data());
}

std::shared_ptr<const Config> MustParse(const std::vector<std::string>& args) {
  absl::StatusOr<CommandLine> line = Parse(args);
  EXPECT_TRUE(line.ok()) << line.status();
  return line.ok() ? line->config : std::make_shared<Config>();
}

// "" if it was accepted.
std::string ErrorOf(const std::vector<std::string>& args) {
  return std::string(Parse(args).status().message());
}

std::vector<std::string> Addresses(const Config& config) {
  std::vector<std::string> addresses;
  for (const io::Endpoint& endpoint : config.listen) addresses.push_back(endpoint.ToString());
  return addresses;
}

std::vector<std::string> Nodes(const Config& config) {
  std::vector<std::string> nodes;
  for (const cluster::NodeAddress& node : config.startup_nodes) {
    nodes.push_back(absl::StrCat(node.host, " ", node.port));
  }
  return nodes;
}

class ConfigTest : public ::testing::Test {
 protected:
  ConfigTest() {
    std::string pattern = ::testing::TempDir() + "rcproxy_config_XXXXXX";
    directory_ = mkdtemp(pattern.data());
  }
  ~ConfigTest() override {
    for (const std::string& path : files_) unlink(path.c_str());
    rmdir(directory_.c_str());
  }

  // Returns its path.
  std::string File(const std::string& name, const std::string& content, mode_t mode = 0600) {
    const std::string path = absl::StrCat(directory_, "/", name);
    std::ofstream(path) << content;
    chmod(path.c_str(), mode);
    files_.push_back(path);
    return path;
  }

 private:
  std::string directory_;
  std::vector<std::string> files_;
};

TEST_F(ConfigTest, NothingGivenGivesTheDefaultsOfTheSeedProject) {
  const std::shared_ptr<const Config> config = MustParse({});
  EXPECT_THAT(Addresses(*config), ElementsAre("0.0.0.0:8088"));
  EXPECT_THAT(Nodes(*config), ElementsAre("127.0.0.1 7001"));
  EXPECT_EQ(config->workers, std::min(CpusAvailable(), 256u));
  EXPECT_EQ(config->connect_timeout, absl::Milliseconds(250));
  EXPECT_EQ(config->slots_reload_interval, absl::Seconds(3));
  EXPECT_EQ(config->log_every_n, 100u);
  EXPECT_EQ(config->read_prefer, cluster::ReadPrefer::kPrimary);
  EXPECT_EQ(config->password, "");
  EXPECT_EQ(config->memory_limit_bytes, MemoryAvailable(MachineMemory()) / 4 * 3);
}

TEST_F(ConfigTest, EveryFlagReachesItsField) {
  const std::shared_ptr<const Config> config = MustParse({
      "--max-clients=11",
      "--connect-timeout",
      "1s",
      "--reply-timeout=2s",
      "--slow-reply-timeout",
      "3s",
      "--hold-timeout=4s",
      "--auth-timeout=5s",
      "--slots-reload-interval=6s",
      "--backend-connections=7",
      "--read-prefer=2",
      "--zone=a",
      "--backend-idle-connections=8",
      "--retry-reads=false",
      "--max-redirections=9",
      "--cross-slot=split",
      "--cluster-face",
      "--cluster-face-address=b:2",
      "--cluster-face-nodes=a:1,b:2",
      "--cross-slot-max-bytes=19mb",
      "--memory-limit=64mb",
      "--max-args=10",
      "--max-bulk-bytes=12kb",
      "--max-client-requests=13",
      "--max-client-output=14mb",
      "--tracking-table-max-keys=18",
      "--drain-timeout=15s",
      "--workers=16",
      "--ring-entries=512",
      "--zero-copy-send",
      "--zero-copy-min-bytes=17kb",
      "--pin",
      "--busy-poll=50us",
      "--batch-wait=70us",
      "--sqpoll=true",
      "--disable-feature=send_zc",
      "--log-level=WARN",
      "--log-file=/tmp/x.log",
      "--log-every-n=0",
      "--debug-addr=[::1]:0",
  });
  EXPECT_EQ(config->clients_max, 11u);
  EXPECT_EQ(config->connect_timeout, absl::Seconds(1));
  EXPECT_EQ(config->reply_timeout, absl::Seconds(2));
  EXPECT_EQ(config->slow_reply_timeout, absl::Seconds(3));
  EXPECT_EQ(config->hold_timeout, absl::Seconds(4));
  EXPECT_EQ(config->auth_timeout, absl::Seconds(5));
  EXPECT_EQ(config->slots_reload_interval, absl::Seconds(6));
  EXPECT_EQ(config->backend_connections, 7u);
  EXPECT_EQ(config->backend_idle_connections, 8u);
  EXPECT_EQ(config->read_prefer, cluster::ReadPrefer::kSameZoneReplica);
  EXPECT_EQ(config->zone, "a");
  EXPECT_FALSE(config->retry_reads);
  EXPECT_EQ(config->redirections_max, 9);
  EXPECT_EQ(config->cross_slot, CrossSlot::kSplit);
  EXPECT_TRUE(config->cluster_face);
  EXPECT_EQ(config->cluster_face_address, (cluster::NodeAddress{"b", 2}));
  EXPECT_THAT(config->cluster_face_nodes,
              ElementsAre(cluster::NodeAddress{"a", 1}, cluster::NodeAddress{"b", 2}));
  EXPECT_EQ(config->cross_slot_bytes_max, 19u << 20);
  EXPECT_EQ(config->memory_limit_bytes, 64u << 20);
  EXPECT_EQ(config->args_max, 10);
  EXPECT_EQ(config->bulk_bytes_max, 12 << 10);
  EXPECT_EQ(config->requests_per_client_max, 13u);
  EXPECT_EQ(config->client_output_bytes_max, 14u << 20);
  EXPECT_EQ(config->tracking_keys_max, 18u);
  EXPECT_EQ(config->drain_timeout, absl::Seconds(15));
  EXPECT_EQ(config->workers, 16u);
  EXPECT_EQ(config->ring_entries, 512u);
  EXPECT_TRUE(config->zero_copy_send);
  EXPECT_EQ(config->zero_copy_bytes_min, 17u << 10);
  EXPECT_TRUE(config->pin_workers);
  EXPECT_EQ(config->busy_poll, absl::Microseconds(50));
  EXPECT_EQ(config->batch_wait, absl::Microseconds(70));
  EXPECT_TRUE(config->submission_thread);
  EXPECT_THAT(config->disabled_features, ElementsAre("send_zc"));
  EXPECT_EQ(config->log_level, LogLevel::kWarn);
  EXPECT_EQ(config->log_file, "/tmp/x.log");
  EXPECT_EQ(config->log_every_n, 0u);
  EXPECT_EQ(config->debug_address, "[::1]:0");
}

TEST_F(ConfigTest, ListsTakeCommasAndRepeatedFlags) {
  const std::shared_ptr<const Config> config = MustParse(
      {"--addr", "127.0.0.1:1,[::1]:2", "--addr=unix:/run/rcproxy.sock", "--startup-nodes",
       "node-a.example:7001, [fe80::1%eth0]:7002", "--startup-nodes=10.0.0.1:7003"});
  EXPECT_THAT(Addresses(*config), ElementsAre("127.0.0.1:1", "[::1]:2", "unix:/run/rcproxy.sock"));
  EXPECT_THAT(Nodes(*config),
              ElementsAre("node-a.example 7001", "fe80::1%eth0 7002", "10.0.0.1 7003"));
}

TEST_F(ConfigTest, TheLastOfSeveralSingleValuesCounts) {
  EXPECT_EQ(MustParse({"--workers=1", "--workers=3"})->workers, 3u);
}

TEST_F(ConfigTest, SwitchesTakeAValueOnlyIfItIsOne) {
  EXPECT_TRUE(MustParse({"--zero-copy-send"})->zero_copy_send);
  EXPECT_TRUE(MustParse({"--zero-copy-send", "true"})->zero_copy_send);
  EXPECT_FALSE(MustParse({"--zero-copy-send", "false"})->zero_copy_send);
  EXPECT_FALSE(MustParse({"--zero-copy-send=false"})->zero_copy_send);
  EXPECT_EQ(MustParse({"--zero-copy-send", "--workers=3"})->workers, 3u);
  EXPECT_EQ(ErrorOf({"--zero-copy-send=yes"}), "--zero-copy-send: 'yes' is neither true nor false");
}

TEST_F(ConfigTest, ABadValueIsOneLineWithFlagAndValue) {
  const struct {
    std::vector<std::string> args;
    std::string error;
  } cases[] = {
      {{"--workers", "0"}, "--workers: '0' is not between 1 and 256"},
      {{"--workers=257"}, "--workers: '257' is not between 1 and 256"},
      {{"--workers=two"}, "--workers: 'two' is not between 1 and 256"},
      {{"--workers=-1"}, "--workers: '-1' is not between 1 and 256"},
      {{"--workers= 1"}, "--workers: ' 1' is not between 1 and 256"},
      {{"--workers=99999999999999999999"},
       "--workers: '99999999999999999999' is not between 1 and 256"},
      {{"--workers"}, "--workers: needs a value"},
      {{"--workers", "--zero-copy-send"}, "--workers: needs a value"},
      {{"--workers="}, "--workers: '' is not between 1 and 256"},
      {{"--log-every-n=x"}, "--log-every-n: 'x' is not a number from 0 on"},
      {{"--connect-timeout=250"}, "--connect-timeout: '250' has no unit: 250ms or 250s?"},
      {{"--connect-timeout=0"}, "--connect-timeout: '0' has no unit: 0ms or 0s?"},
      {{"--connect-timeout=-1s"}, "--connect-timeout: '-1s' is not between 1ms and 1m"},
      {{"--connect-timeout=inf"}, "--connect-timeout: 'inf' is not between 1ms and 1m"},
      {{"--connect-timeout=soon"}, "--connect-timeout: 'soon' is not a duration (250ms, 3s, 1m)"},
      {{"--max-bulk-bytes=1tb"}, "--max-bulk-bytes: '1tb' is not a size (65536, 64kb, 512mb, 1gb)"},
      {{"--max-bulk-bytes=513mb"}, "--max-bulk-bytes: '513mb' is not between 1kb and 512mb"},
      {{"--memory-limit=18446744073709551615gb"},
       "--memory-limit: '18446744073709551615gb' is not a size (512mb, 1gb, or 0)"},
      {{"--memory-limit=1mb"}, "--memory-limit: '1mb' is neither 0 nor at least 16mb"},
      {{"--addr=example.com:80"},
       "--addr: 'example.com:80' is not an address (127.0.0.1:8088, [::1]:8088, unix:/path)"},
      {{"--addr=127.0.0.1:80,"},
       "--addr: '' is not an address (127.0.0.1:8088, [::1]:8088, unix:/path)"},
      {{"--startup-nodes=::1:7001"},
       "--startup-nodes: '::1:7001' is not HOST:PORT (10.0.0.1:7001, node-a:7001, [::1]:7001)"},
      {{"--startup-nodes=a:0"},
       "--startup-nodes: 'a:0' is not HOST:PORT (10.0.0.1:7001, node-a:7001, [::1]:7001)"},
      {{"--startup-nodes=a b:1"},
       "--startup-nodes: 'a b:1' is not HOST:PORT (10.0.0.1:7001, node-a:7001, [::1]:7001)"},
      {{"--read-prefer=3"}, "--read-prefer: '3' is not 0, 1 or 2"},
      {{"--read-prefer=2"}, "--read-prefer: '2' needs --zone"},
      {{"--zone=a", "--read-prefer=1"}, "--zone: 'a' needs --read-prefer 2"},
      {{"--log-level=loud"},
       "--log-level: 'loud' is not one of trace, debug, info, warn, error, off"},
      {{"--debug-addr=8089"}, "--debug-addr: '8089' is not HOST:PORT (127.0.0.1:8089, [::1]:8089)"},
      {{"--backend-username=u"}, "--backend-username: 'u' needs --backend-password-file"},
      {{"--requirepass-file=/nonexistent/p"},
       "--requirepass-file: '/nonexistent/p' cannot be read: No such file or directory"},
      {{"--config=/nonexistent/c"},
       "--config: '/nonexistent/c' cannot be read: No such file or directory"},
      {{"--log-level=a\nb"},
       "--log-level: 'a\\nb' is not one of trace, debug, info, warn, error, off"},
      {{"serve"}, "'serve' is not a flag"},
      {{"-workers=2"}, "'-workers=2' is not a flag"},
      {{"--version=1"}, "--version: takes no value"},
  };
  for (const auto& c : cases) EXPECT_EQ(ErrorOf(c.args), c.error);
}

TEST_F(ConfigTest, AnUnknownFlagIsNamedWithoutItsValue) {
  EXPECT_EQ(ErrorOf({"--requirepass=hunter2"}), "--requirepass: there is no such flag");
}

TEST_F(ConfigTest, TheFileHasTheFlagsNamesAsKeys) {
  const std::string path = File("rcproxy.toml",
                                "# comment\n"
                                "addr = ['127.0.0.1:1', 'unix:/x']\n"
                                "startup-nodes = 'a:1,b:2'\n"
                                "workers = 3\n"
                                "hold-timeout = '7s'\n"
                                "max-client-output = '2mb'\n"
                                "memory-limit = 33554432\n"
                                "zero-copy-send = true\n"
                                "retry-reads = false\n");
  const std::shared_ptr<const Config> config = MustParse({"--config", path});
  EXPECT_THAT(Addresses(*config), ElementsAre("127.0.0.1:1", "unix:/x"));
  EXPECT_THAT(Nodes(*config), ElementsAre("a 1", "b 2"));
  EXPECT_EQ(config->workers, 3u);
  EXPECT_EQ(config->hold_timeout, absl::Seconds(7));
  EXPECT_EQ(config->client_output_bytes_max, 2u << 20);
  EXPECT_EQ(config->memory_limit_bytes, 32u << 20);
  EXPECT_TRUE(config->zero_copy_send);
  EXPECT_FALSE(config->retry_reads);
}

TEST_F(ConfigTest, FlagsWinOverTheFileAlsoForLists) {
  const std::string path =
      File("rcproxy.toml", "workers = 3\naddr = ['127.0.0.1:1', '127.0.0.1:2']\nlog-every-n = 5\n");
  for (const bool file_first : {true, false}) {
    std::vector<std::string> args = {"--workers=4", "--addr=127.0.0.1:9"};
    args.insert(file_first ? args.begin() : args.end(), "--config=" + path);
    const std::shared_ptr<const Config> config = MustParse(args);
    EXPECT_EQ(config->workers, 4u);
    EXPECT_THAT(Addresses(*config), ElementsAre("127.0.0.1:9"));
    EXPECT_EQ(config->log_every_n, 5u);
  }
}

TEST_F(ConfigTest, ErrorsOfTheFileNameFileLineAndKey) {
  const struct {
    std::string content;
    std::string error;
  } cases[] = {
      {"\n\nworkerz = 3\n", ":3: workerz: there is no such key"},
      {"workers = 0\n", ":1: workers: '0' is not between 1 and 256"},
      {"\nworkers = -1\n", ":2: workers: '-1' is not between 1 and 256"},
      {"config = 'x'\n", ":1: config: there is no such key"},
      {"[workers]\nn = 1\n", ":1: workers: takes N as a string, a whole number or true or false"},
      {"workers = 1.5\n", ":1: workers: takes N as a string, a whole number or true or false"},
      {"workers = [1]\n", ":1: workers: takes N as a string, a whole number or true or false"},
      {"hold-timeout = 5\n", ":1: hold-timeout: '5' has no unit: 5ms or 5s?"},
      {"addr = []\n", ":1: addr: the list is empty"},
      {"addr = [['x']]\n", ":1: addr: the list holds more than strings"},
      {"addr = ['127.0.0.1:1',\n 'oops']\n",
       ":1: addr: 'oops' is not an address (127.0.0.1:8088, [::1]:8088, unix:/path)"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.content);
    const std::string path = File("rcproxy.toml", c.content);
    EXPECT_EQ(ErrorOf({"--config", path}), path + c.error);
  }
}

TEST_F(ConfigTest, AFileThatIsNotTomlIsOneLineWithItsPlace) {
  for (const std::string content :
       {"workers = \n", "workers\n", "x = 'a\n", "workers = 1\nworkers = 2\n", "\xff\xfe\n",
        "= 3\n", "[a\n", "a = [1,\n"}) {
    SCOPED_TRACE(content);
    const std::string path = File("rcproxy.toml", content);
    const std::string error = ErrorOf({"--config", path});
    EXPECT_TRUE(absl::StartsWith(error, path + ":")) << error;
    EXPECT_THAT(error, Not(HasSubstr("\n")));
  }
}

TEST_F(ConfigTest, APasswordIsTheFileWithoutItsLastNewline) {
  const std::string backend = File("b", " back end \r\n");
  const std::string clients = File("c", "line1\nline2\n\n");
  const std::shared_ptr<const Config> config =
      MustParse({"--backend-username=u", "--backend-password-file", backend,
                 "--requirepass-file=" + clients});
  EXPECT_EQ(config->backend_username, "u");
  EXPECT_EQ(config->backend_password, " back end ");
  EXPECT_EQ(config->password, "line1\nline2\n");
}

TEST_F(ConfigTest, AnEmptyPasswordFileIsRefused) {
  for (const std::string content : {"", "\n", "\r\n"}) {
    const std::string path = File("p", content);
    EXPECT_EQ(ErrorOf({"--requirepass-file", path}),
              absl::StrCat("--requirepass-file: '", path, "' is empty"));
  }
}

TEST_F(ConfigTest, OnlyAPasswordFileThatAllCanReadGivesAWarning) {
  const std::string open_file = File("open", "secret-of-all", 0644);
  absl::StatusOr<CommandLine> line = Parse({"--requirepass-file", open_file});
  ASSERT_TRUE(line.ok());
  EXPECT_THAT(line->warnings, ElementsAre(absl::StrCat("--requirepass-file: '", open_file,
                                                       "' can be read by every user (chmod o-r)")));
  line = Parse({"--requirepass-file", File("closed", "secret", 0640)});
  ASSERT_TRUE(line.ok());
  EXPECT_THAT(line->warnings, IsEmpty());
}

TEST_F(ConfigTest, BackendCredentialsAreNotLentToClientsWithoutAPassword) {
  const std::string backend = "--backend-password-file=" + File("b", "hunter2");
  const std::string clients = "--requirepass-file=" + File("c", "hunter3");
  const auto refused = [](const std::string& address) {
    return absl::StrCat("--addr: '", address,
                        "' would let anyone use --backend-password-file: give"
                        " --requirepass-file, or --allow-unauthenticated");
  };
  EXPECT_EQ(ErrorOf({backend}), refused("0.0.0.0:8088"));
  EXPECT_EQ(ErrorOf({backend, "--addr=127.0.0.1:1,[::]:2"}), refused("[::]:2"));
  EXPECT_EQ(ErrorOf({backend, "--addr=10.0.0.1:1"}), refused("10.0.0.1:1"));
  EXPECT_EQ(ErrorOf({backend, "--addr=127.0.0.1:1,127.9.9.9:1,[::1]:2,unix:/x"}), "");
  EXPECT_EQ(ErrorOf({backend, clients}), "");
  EXPECT_EQ(ErrorOf({backend, "--allow-unauthenticated"}), "");
}

TEST_F(ConfigTest, AddressesOfTheClusterFaceAreWrittenAsServersWriteThem) {
  const std::shared_ptr<const Config> config =
      MustParse({"--cluster-face", "--cluster-face-address=[0:0::1]:1",
                 "--cluster-face-nodes=[fe80::1%nosuch]:1,[::1]:1,Proxy-A:1,10.0.0.1:1"});
  EXPECT_EQ(config->cluster_face_address.host, "::1");
  std::vector<std::string> hosts;
  for (const cluster::NodeAddress& node : config->cluster_face_nodes) hosts.push_back(node.host);
  EXPECT_THAT(hosts, ElementsAre("fe80::1", "::1", "Proxy-A", "10.0.0.1"));
}

TEST_F(ConfigTest, AClusterFaceThatCannotBeShownIsRefused) {
  const struct {
    std::vector<std::string> args;
    std::string error;
  } cases[] = {
      {{"--cluster-face=yes"}, "--cluster-face: 'yes' is neither true nor false"},
      {{"--cluster-face-address=a:1"}, "--cluster-face-address: 'a:1' needs --cluster-face"},
      {{"--cluster-face-nodes=[::1]:1,a:1"},
       "--cluster-face-nodes: '[::1]:1' needs --cluster-face"},
      {{"--cluster-face", "--cluster-face-address=::1:1"},
       "--cluster-face-address: '::1:1' is not HOST:PORT (10.0.0.1:8088, proxy-a:8088,"
       " [::1]:8088)"},
      {{"--cluster-face", "--cluster-face-address=0.0.0.0:1"},
       "--cluster-face-address: '0.0.0.0:1' is no address that clients could connect to"},
      {{"--cluster-face", "--cluster-face-nodes=a:1,[::]:1"},
       "--cluster-face-nodes: '[::]:1' is no address that clients could connect to"},
      {{"--cluster-face", "--cluster-face-nodes=a:1,a:0"},
       "--cluster-face-nodes: 'a:0' is not HOST:PORT (10.0.0.1:8088, proxy-a:8088, [::1]:8088)"},
      {{"--cluster-face", "--cluster-face-nodes=a:1,b:1,a:1"},
       "--cluster-face-nodes: 'a:1' is there twice"},
      {{"--cluster-face", "--cluster-face-nodes=[::1]:1,[0::1]:1"},
       "--cluster-face-nodes: '[0::1]:1' is there twice"},
      {{"--cluster-face", "--cluster-face-nodes=a:1,b:1", "--cluster-face-address=c:1"},
       "--cluster-face-address: 'c:1' is not one of --cluster-face-nodes"},
      {{"--cluster-face", "--addr=unix:/x"},
       "--addr: 'unix:/x' has no port that --cluster-face could tell: give"
       " --cluster-face-address"},
      {{"--cluster-face", "--addr=unix:/x,127.0.0.1:0"},
       "--addr: 'unix:/x' has no port that --cluster-face could tell: give"
       " --cluster-face-address"},
  };
  for (const auto& c : cases) EXPECT_EQ(ErrorOf(c.args), c.error);
  EXPECT_EQ(ErrorOf({"--cluster-face", "--addr=unix:/x,127.0.0.1:1"}), "");
  EXPECT_EQ(ErrorOf({"--cluster-face", "--addr=unix:/x", "--cluster-face-address=a:1"}), "");
  EXPECT_EQ(ErrorOf({"--cluster-face", "--addr=unix:/x", "--cluster-face-nodes=a:1"}), "");
  EXPECT_EQ(ErrorOf({"--cluster-face", "--addr=127.0.0.1:0"}), "");

  std::string list = "a:1";
  for (int port = 2; port <= 257; ++port) absl::StrAppend(&list, ",a:", port);
  EXPECT_EQ(ErrorOf({"--cluster-face", "--cluster-face-nodes=" + list}),
            "--cluster-face-nodes: 'a:257' is one more than the 256 that there may be");
}

TEST_F(ConfigTest, NoErrorShowsASecret) {
  const std::string secret = File("s", "hunter2\n");
  const std::string toml = File("c.toml", "workers = 0\nrequirepass-file = '" + secret + "'\n");
  for (const std::vector<std::string>& args :
       std::vector<std::vector<std::string>>{{"--backend-password-file", secret},
                                             {"--requirepass-file", secret, "--workers=0"},
                                             {"--config", toml},
                                             {"--requirepass=hunter2"},
                                             {"--help", "--requirepass-file", secret}}) {
    const absl::StatusOr<CommandLine> line = Parse(args);
    EXPECT_THAT(line.ok() ? line->text : std::string(line.status().message()),
                Not(HasSubstr("hunter2")));
  }
}

TEST_F(ConfigTest, HelpShowsEveryOptionWithItsDefault) {
  const absl::StatusOr<CommandLine> line = Parse({"--workers=3", "--help"});
  ASSERT_TRUE(line.ok());
  EXPECT_EQ(line->config, nullptr);
  const Config defaults = DefaultConfig();
  for (const OptionSection& section : OptionSections()) {
    EXPECT_THAT(line->text, HasSubstr(section.title));
    for (const Option& option : section.options) {
      EXPECT_THAT(line->text, HasSubstr(absl::StrCat("  --", option.name)));
      EXPECT_THAT(line->text,
                  HasSubstr(absl::StrCat(option.help, " (default ", option.show(defaults), ")")));
    }
  }
  for (const char* flag : {"--config FILE", "--help", "--version"}) {
    EXPECT_THAT(line->text, HasSubstr(flag));
  }
}

TEST_F(ConfigTest, VersionIsOneLine) {
  const absl::StatusOr<CommandLine> line = Parse({"--version"});
  ASSERT_TRUE(line.ok());
  EXPECT_EQ(line->text, "rcproxy 0.1.0\n");
  EXPECT_EQ(line->config, nullptr);
}

// What is shown as a default can be given: --help never lies about what an option takes.
TEST_F(ConfigTest, EveryDefaultIsAValueThatItsOptionTakes) {
  const Config defaults = DefaultConfig();
  for (const OptionSection& section : OptionSections()) {
    for (const Option& option : section.options) {
      const std::string shown = option.show(defaults);
      if (shown == "none" || shown == "standard error") continue;
      Config config = defaults;
      if (option.clear != nullptr) option.clear(&config);
      EXPECT_TRUE(option.set(shown, &config).ok()) << option.name << " " << shown;
      EXPECT_EQ(option.show(config), shown) << option.name;
    }
  }
}

TEST_F(ConfigTest, ADefaultFieldOfConfigIsTheDefaultOfItsOption) {
  const Config fresh;
  const std::shared_ptr<const Config> parsed = MustParse({});
  for (const OptionSection& section : OptionSections()) {
    for (const Option& option : section.options) {
      const std::string name = option.name;
      // These depend on the machine, or have no useful value in a test's Config.
      if (name == "workers" || name == "addr" || name == "startup-nodes") continue;
      EXPECT_EQ(option.show(fresh), option.show(*parsed)) << name;
    }
  }
}

TEST_F(ConfigTest, AnIpv6NodeIsShownSoThatItCanBeReadAgain) {
  const std::shared_ptr<const Config> config = MustParse({"--startup-nodes=a:1,[::1]:7001"});
  for (const OptionSection& section : OptionSections()) {
    for (const Option& option : section.options) {
      if (absl::string_view(option.name) != "startup-nodes") continue;
      EXPECT_EQ(option.show(*config), "a:1,[::1]:7001");
      return;
    }
  }
  FAIL();
}

// Each of them is offered under the name by which a ring is told.
TEST_F(ConfigTest, TheRingKnowsEveryFeatureThatCanBeDisabled) {
  const std::string error = ErrorOf({"--disable-feature=x"});
  const std::string marker = "'x' is not one of ";
  const size_t at = error.find(marker);
  ASSERT_NE(at, std::string::npos);
  const std::string names = absl::StrReplaceAll(error.substr(at + marker.size()), {{", ", ","}});
  const std::shared_ptr<const Config> config = MustParse({"--disable-feature", names});
  EXPECT_GE(config->disabled_features.size(), 8u);
  io::RingDirectory directory(1);
  std::vector<std::string> warnings;
  for (const std::string& feature : config->disabled_features) {
    io::RingOptions options;
    options.disabled_features = {feature};
    const auto ring = io::MakeUringRing(&directory, 0, options, &warnings);
    EXPECT_NE(ring.status().code(), absl::StatusCode::kInvalidArgument) << ring.status();
  }
}

TEST(ParseBytesTest, UnitsAreBinaryAndOverflowIsAnError) {
  const struct {
    const char* text;
    uint64_t bytes;
  } good[] = {{"0", 0},
              {"1", 1},
              {"64kb", 64 << 10},
              {"512MB", 512u << 20},
              {"1Gb", 1u << 30},
              {"18446744073709551615", UINT64_MAX},
              {"17179869183gb", uint64_t{17179869183} << 30}};
  for (const auto& c : good) {
    uint64_t bytes = 1234;
    EXPECT_TRUE(ParseBytes(c.text, &bytes)) << c.text;
    EXPECT_EQ(bytes, c.bytes) << c.text;
  }
  for (const char* text : {"", "kb", "-1", "+1", " 1", "1 kb", "1k", "1.5mb", "0x10",
                           "18446744073709551616", "17179869184gb"}) {
    uint64_t bytes = 0;
    EXPECT_FALSE(ParseBytes(text, &bytes)) << text;
  }
}

}  // namespace
}  // namespace proxy
