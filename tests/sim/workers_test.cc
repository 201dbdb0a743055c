// Many workers: clients are spread over them, and what a request costs a worker does not depend on
// how many others there are.

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "proxy/stats.h"
#include "tests/sim/scenario.h"

namespace sim {
namespace {

class WorkersTest : public ScenarioTest {
 protected:
  // Those of worker `index`.
  uint64_t Clients(uint32_t index) { return world().stats()->worker(index)->clients_open.Get(); }
};

TEST_F(WorkersTest, ClientsAreSpreadEvenlyAlsoWhenOthersHaveLeft) {
  Make({}, 4);
  std::vector<SimClient*> clients;
  for (int i = 0; i < 40; ++i) clients.push_back(world().Connect());
  world().RunUntilIdle();
  for (uint32_t i = 0; i < 4; ++i) EXPECT_EQ(Clients(i), 10u) << i;
  // All those of one worker, and as many others come.
  for (int i = 0; i < 40; i += 4) clients[i]->Close();
  world().RunUntilIdle();
  for (int i = 0; i < 10; ++i) world().Connect();
  world().RunUntilIdle();
  for (uint32_t i = 0; i < 4; ++i) EXPECT_EQ(Clients(i), 10u) << i;
}

// What all workers have done.
struct Work {
  double requests = 0;
  std::vector<std::pair<std::string, double>> counts;  // by what they are of
};

Work WorkOf(proxy::StatsRegistry* stats) {
  const auto sum = [&](proxy::Counter proxy::WorkerStats::*member) {
    return static_cast<double>(stats->Sum(member));
  };
  using Stats = proxy::WorkerStats;
  return {sum(&Stats::requests),
          {{"turns", sum(&Stats::turns)},
           {"completions", sum(&Stats::completions)},
           {"sends", sum(&Stats::sends)},
           {"requests to nodes", sum(&Stats::backend_requests)},
           {"bytes copied", sum(&Stats::payload_bytes_copied)}}};
}

TEST_F(WorkersTest, WhatARequestCostsDoesNotDependOnTheNumberOfWorkers) {
  constexpr int kClientsPerWorker = 8;
  constexpr int kDepth = 16;
  constexpr int kRounds = 100;
  // By the number of workers: per request, of each kind of work.
  std::vector<Work> works;
  for (const uint32_t workers : {1u, 2u, 8u}) {
    Make({}, workers);
    std::vector<SimClient*> clients;
    for (uint32_t i = 0; i < kClientsPerWorker * workers; ++i) clients.push_back(world().Connect());
    Work before;
    for (int round = -1; round < kRounds; ++round) {
      if (round == 0) before = WorkOf(world().stats());
      for (size_t i = 0; i < clients.size(); ++i) {
        std::string pipeline;
        for (int j = 0; j < kDepth; ++j) {
          pipeline += Command({"GET", absl::StrCat("key:", i, ":", j)});
        }
        clients[i]->Send(pipeline);
      }
      const std::string wanted = Repeated("$-1\r\n", kDepth);
      ASSERT_TRUE(world().RunUntil([&] {
        return std::all_of(clients.begin(), clients.end(), [&](SimClient* client) {
          return client->received().size() == wanted.size();
        });
      }));
      for (SimClient* client : clients) EXPECT_EQ(client->TakeReceived(), wanted);
    }
    Work work = WorkOf(world().stats());
    work.requests -= before.requests;
    ASSERT_EQ(work.requests, kRounds * kDepth * clients.size());
    for (size_t i = 0; i < work.counts.size(); ++i) {
      work.counts[i].second -= before.counts[i].second;
      work.counts[i].second /= work.requests;
      RecordProperty(absl::StrCat(work.counts[i].first, " a request, workers: ", workers),
                     absl::StrCat(work.counts[i].second));
    }
    works.push_back(work);
  }
  for (size_t i = 1; i < works.size(); ++i) {
    for (size_t j = 0; j < works[i].counts.size(); ++j) {
      const auto& [what, count] = works[i].counts[j];
      EXPECT_NEAR(count, works[0].counts[j].second, 0.05 * works[0].counts[j].second) << what;
    }
  }
}

}  // namespace
}  // namespace sim
