// The conformance suite on the simulated rings: with nothing going wrong, and with tiny buffers,
// buffers that are shared, and everything late.

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/io/ring_conformance.h"
#include "tests/sim/sim_ring.h"

namespace sim {
namespace {

class SimRingWorld final : public io::RingWorld {
 public:
  SimRingWorld(const io::RingWorldOptions& world, uint64_t seed, const FaultOptions& faults,
               SimRing::Options options)
      : net_(seed, faults), process_(&net_, *io::Endpoint::FromIp("127.0.0.1", 0)) {
    options.client_buffers = world.client_buffers;
    options.backend_buffers = world.backend_buffers;
    options.submissions_max = world.entries;
    options.drives_world = true;
    options.bytes_must_stay = false;
    for (io::RingId id = 0; id < 2; ++id) {
      rings_[id] = std::make_unique<SimRing>(&process_, id, options);
    }
  }
  ~SimRingWorld() override { EXPECT_EQ(net_.failure(), ""); }

  io::Ring* ring(size_t number) override { return rings_[number].get(); }
  void End(size_t number) override { rings_[number].reset(); }
  io::Endpoint TcpAddress() override { return *io::Endpoint::FromIp("127.0.0.1", 0); }
  io::Endpoint UnixAddress() override {
    return *io::Endpoint::FromUnixPath(absl::StrCat("/sim/", ++paths_));
  }
  bool multishot_recv() const override { return true; }

 private:
  SimNet net_;
  SimProcess process_;
  std::unique_ptr<SimRing> rings_[2];
  int paths_ = 0;
};

// Faults that the suite leaves room for: it expects of a quiet kernel, for one, that what was sent
// at once is received at once.
FaultOptions Unkind() {
  FaultOptions faults;
  faults.slow_transfer = 0.01;
  faults.slow_max = 2 * kMillisecond;
  faults.send_later = 0.3;
  faults.short_send = 0.1;
  faults.late_ready = 0.2;
  faults.late_completion = 0.2;
  faults.late_max = 500 * kMicrosecond;
  faults.early_submit = 0.3;
  faults.late_post = 0.3;
  faults.late_release = 0.5;
  return faults;
}

io::RingFactory Factory(std::string name, const FaultOptions& faults,
                        const SimRing::Options& options) {
  return {.name = std::move(name), .make = [=](const io::RingWorldOptions& world) {
            return std::make_unique<SimRingWorld>(world, 1, faults, options);
          }};
}

io::RingFactory WithIncrementalBuffers(std::string name, const FaultOptions& faults) {
  return Factory(std::move(name), faults, {.buffer_bytes = 16384, .incremental = true});
}

using RingConformanceTest = io::RingConformanceTest;
INSTANTIATE_TEST_SUITE_P(
    Sim, RingConformanceTest,
    testing::Values(Factory("calm", FaultOptions::None(), {}),
                    Factory("zero_copy", FaultOptions::None(), {.zero_copy_send = true}),
                    WithIncrementalBuffers("incremental", FaultOptions::None()),
                    Factory("unkind", Unkind(), {.zero_copy_send = true}),
                    WithIncrementalBuffers("unkind_incremental", Unkind())),
    io::RingFactoryName);

}  // namespace
}  // namespace sim
