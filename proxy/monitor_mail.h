#pragma once

// File: proxy/monitor_mail.h
//
// What MONITOR shows, on its way from the worker of the client that sent it to the workers of the
// clients that watch. Shared by all workers; touched only while some client watches.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace proxy {

class MonitorMail {
 public:
  using Lines = std::shared_ptr<const std::string>;
  // Of one receiver. A worker that is so far behind has lost some: see Taken.
  static constexpr size_t kBytesMax = 32 << 20;

  struct Taken {
    std::vector<Lines> lines;  // whole ones
    bool lost = false;         // there were more, for which there was no room
  };

  explicit MonitorMail(uint32_t workers) {
    for (uint32_t i = 0; i < workers; ++i) boxes_.push_back(std::make_unique<Box>());
  }

  // `lines` null: some were lost before.
  void Put(uint32_t receiver, Lines lines) {
    Box& box = *boxes_[receiver];
    std::lock_guard<std::mutex> lock(box.mutex);
    if (lines == nullptr || box.bytes + lines->size() > kBytesMax) {
      box.content.lost = true;
      return;
    }
    box.bytes += lines->size();
    box.content.lines.push_back(std::move(lines));
  }
  Taken Take(uint32_t receiver) {
    Box& box = *boxes_[receiver];
    std::lock_guard<std::mutex> lock(box.mutex);
    box.bytes = 0;
    return std::exchange(box.content, Taken());
  }

 private:
  struct Box {
    std::mutex mutex;
    Taken content;
    size_t bytes = 0;
  };
  std::vector<std::unique_ptr<Box>> boxes_;  // by worker
};

}  // namespace proxy
