#pragma once

// File: tests/sim/scenario.h
//
// What scenario tests share: a world of one worker, driven by hand.

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "resp/scanner.h"
#include "tests/sim/world.h"

namespace sim {

inline constexpr absl::string_view kLost =
    "-ERR proxy: backend connection lost (outcome unknown)\r\n";
inline constexpr absl::string_view kTimeout = "-ERR proxy: backend timeout (outcome unknown)\r\n";
inline constexpr absl::string_view kGarbled =
    "-ERR proxy: backend protocol error (outcome unknown)\r\n";

inline std::string Command(std::vector<absl::string_view> args) {
  std::string text = absl::StrCat("*", args.size(), "\r\n");
  for (absl::string_view arg : args) absl::StrAppend(&text, "$", arg.size(), "\r\n", arg, "\r\n");
  return text;
}

inline std::string Repeated(absl::string_view text, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) absl::StrAppend(&result, text);
  return result;
}

// After each test the proxy is shut down, after which nothing of it may be left.
class ScenarioTest : public testing::Test {
 protected:
  ScenarioTest() { Make({}); }
  ~ScenarioTest() override {
    if (world_->failure().empty()) world_->Shutdown();
    EXPECT_EQ(world_->failure(), "");
  }

  // Another world than the default one: one worker, three shards with a replica each, journals.
  void Make(WorldOptions options, uint32_t workers = 1) {
    world_.reset();
    options.workers = workers;
    options.cluster.journals = true;
    world_ = std::make_unique<World>(options);
    world_->RunUntil([this] { return world_->stats()->control()->topology_ready.Get() == 1; });
    world_->RunUntilIdle();
  }
  World& world() { return *world_; }
  FakeCluster& cluster() { return *world_->cluster(); }
  // The node that serves the key.
  FakeNode& NodeOf(absl::string_view key) { return *cluster().NodeOf(key); }
  int OtherThan(int number) {
    for (const int primary : cluster().Primaries()) {
      if (primary != number) return primary;
    }
    return -1;
  }
  // Sends one command and returns its reply; all the world goes on meanwhile.
  std::string Ask(SimClient* client, absl::string_view words, Nanos limit = 60 * kSecond) {
    client->TakeReceived();
    client->SendCommand(words);
    world_->RunUntil([&] { return Complete(client->received()); }, limit);
    return client->TakeReceived();
  }
  static bool Complete(absl::string_view bytes) {
    resp::ReplyScanner scanner;
    return scanner.Scan(bytes).status == resp::ScanStatus::kComplete;
  }
  // Of all journals, those lines that contain the text, in the order of the nodes.
  std::vector<std::string> Journal(absl::string_view text) {
    std::vector<std::string> lines;
    for (int i = 0; i < cluster().size(); ++i) {
      for (const std::string& line : cluster().node(i)->journal()) {
        if (absl::StrContains(line, text)) lines.push_back(line);
      }
    }
    return lines;
  }
  void ClearJournals() {
    for (int i = 0; i < cluster().size(); ++i) cluster().node(i)->journal().clear();
  }

 private:
  std::unique_ptr<World> world_;
};

}  // namespace sim
