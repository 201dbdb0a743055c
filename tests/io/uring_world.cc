// The conformance suite on the kernel's rings, with each feature masked in turn.

#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "io/uring_ring.h"
#include "tests/io/ring_conformance.h"

namespace io {
namespace {

class UringWorld final : public RingWorld {
 public:
  UringWorld(const RingWorldOptions& world, RingOptions options, absl::Duration gather_time)
      : directory_(3) {
    options.entries = world.entries;
    options.client_buffers = world.client_buffers;
    options.backend_buffers = world.backend_buffers;
    for (RingId id = 0; id < 2; ++id) {
      std::vector<std::string> warnings;
      absl::StatusOr<std::unique_ptr<Ring>> ring =
          MakeUringRing(&directory_, id, options, &warnings);
      if (!ring.ok()) {
        ADD_FAILURE() << ring.status();
        abort();
      }
      rings_[id] = *std::move(ring);
      rings_[id]->SetGatherTime(gather_time);
    }
    for (const std::string& feature : options.disabled_features) {
      EXPECT_NE(rings_[0]->Describe().find(absl::StrCat(" ", feature, "=0")), std::string::npos);
    }
    multishot_recv_ = rings_[0]->Describe().find(" multishot_recv=1") != std::string::npos;
  }
  ~UringWorld() override {
    for (const std::string& path : paths_) unlink(path.c_str());
  }

  Ring* ring(size_t number) override { return rings_[number].get(); }
  void End(size_t number) override { rings_[number].reset(); }
  Endpoint TcpAddress() override { return *Endpoint::FromIp("127.0.0.1", 0); }
  Endpoint UnixAddress() override {
    paths_.push_back(absl::StrCat(testing::TempDir(), "/ring_", getpid(), "_", paths_.size()));
    unlink(paths_.back().c_str());
    return *Endpoint::FromUnixPath(paths_.back());
  }
  bool multishot_recv() const override { return multishot_recv_; }

 private:
  RingDirectory directory_;
  std::unique_ptr<Ring> rings_[2];
  bool multishot_recv_ = false;
  std::vector<std::string> paths_;
};

RingFactory With(std::string name, const RingOptions& options,
                 absl::Duration gather_time = absl::ZeroDuration()) {
  return {.name = std::move(name), .make = [options, gather_time](const RingWorldOptions& world) {
            return std::make_unique<UringWorld>(world, options, gather_time);
          }};
}

RingFactory Masked(std::vector<std::string> disabled, bool zero_copy = false) {
  std::string name = disabled.empty() ? "all" : absl::StrCat("no_", absl::StrJoin(disabled, "_"));
  if (zero_copy) absl::StrAppend(&name, "_zero_copy");
  RingOptions options;
  options.zero_copy_send = zero_copy;
  options.disabled_features = std::move(disabled);
  return With(std::move(name), options);
}

INSTANTIATE_TEST_SUITE_P(
    Uring, RingConformanceTest,
    testing::Values(Masked({}), Masked({}, /*zero_copy=*/true), Masked({"defer_taskrun"}),
                    Masked({"registered_ring"}), Masked({"multishot_accept"}),
                    Masked({"multishot_recv"}), Masked({"buffer_ring"}),
                    Masked({"incremental_buffers"}), Masked({"msg_ring"}), Masked({"quiet_send"}),
                    Masked({"lasting_timeout"}), Masked({"send_zc_report"}, true),
                    Masked({"send_zc_fixed"}, true),
                    Masked({"multishot_accept", "multishot_recv", "buffer_ring", "msg_ring",
                            "registered_ring", "defer_taskrun", "quiet_send", "lasting_timeout"}),
                    With("sqpoll", {.submission_thread = true}),
                    With("busy_poll", {.busy_poll = absl::Milliseconds(2)}),
                    With("busy_poll_mail",
                         {.busy_poll = absl::Milliseconds(2), .disabled_features = {"msg_ring"}}),
                    With("gather", {}, absl::Milliseconds(2))),
    RingFactoryName);

}  // namespace
}  // namespace io
