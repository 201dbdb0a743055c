// Scenarios in a simulated world, by name.

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/sim/world.h"

namespace sim {
namespace {

TEST(SimTest, APipelineOverAllNodesIsAnsweredInOrder) {
  World world({.seed = 7});
  SimClient* client = world.Connect();
  client->SendCommand("SET a x");
  client->SendCommand("GET a");
  client->SendCommand("PING");
  world.RunUntilIdle();
  EXPECT_EQ(client->received(), "+OK\r\n$1\r\nx\r\n+PONG\r\n");
  world.Shutdown();
  EXPECT_EQ(world.failure(), "");
}

}  // namespace
}  // namespace sim
