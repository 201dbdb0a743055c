#include "io/ring_directory.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "absl/strings/str_cat.h"

namespace io {

RingDirectory::RingDirectory(size_t rings) {
  entries_.reserve(rings);
  for (size_t i = 0; i < rings; ++i) entries_.push_back(std::make_unique<Entry>());
}

RingDirectory::~RingDirectory() {
  for (const std::unique_ptr<Entry>& entry : entries_) {
    ABSL_ASSERT(!entry->open);
    if (entry->event_fd >= 0) close(entry->event_fd);
  }
  for (Fd fd : retired_) close(fd);
}

void RingDirectory::Post(RingId receiver, Message message) {
  Entry* entry = Find(receiver);
  if (entry != nullptr) Put(entry, message);
}

absl::Status RingDirectory::Enter(RingId id, Fd ring_fd) {
  Entry* entry = Find(id);
  if (entry == nullptr) {
    return absl::OutOfRangeError(absl::StrCat("no ring ", id, " among ", entries_.size()));
  }
  std::lock_guard<std::mutex> lock(entry->mutex);
  if (entry->open) return absl::AlreadyExistsError(absl::StrCat("there is a ring ", id));
  // Blocking on purpose: a ring's read of a non-blocking eventfd fails at once instead of waiting.
  if (entry->event_fd < 0) entry->event_fd = eventfd(0, EFD_CLOEXEC);
  if (entry->event_fd < 0) return absl::ErrnoToStatus(errno, "no eventfd for a ring");
  Fd duplicate = -1;
  if (ring_fd >= 0) {
    duplicate = fcntl(ring_fd, F_DUPFD_CLOEXEC, 0);
    if (duplicate < 0) return absl::ErrnoToStatus(errno, "no descriptor for a ring");
  }
  entry->open = true;
  entry->ring_fd.store(duplicate, std::memory_order_release);
  return absl::OkStatus();
}

void RingDirectory::Leave(RingId id) {
  Entry* entry = Find(id);
  Fd duplicate;
  {
    std::lock_guard<std::mutex> lock(entry->mutex);
    if (!entry->open) return;
    entry->open = false;
    entry->announced = false;  // the next ring may wake up once for nothing, but never miss one
    entry->mail.clear();
    duplicate = entry->ring_fd.exchange(-1, std::memory_order_acq_rel);
  }
  if (duplicate < 0) return;
  std::lock_guard<std::mutex> lock(retired_mutex_);
  retired_.push_back(duplicate);
}

bool RingDirectory::Put(Entry* entry, Message message) {
  std::lock_guard<std::mutex> lock(entry->mutex);
  if (!entry->open) return false;
  entry->mail.push_back(message);
  if (entry->announced) return true;
  entry->announced = true;
  // The counter is at most 1 here, so the write neither blocks nor fails but for a signal.
  const uint64_t one = 1;
  while (write(entry->event_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
  }
  return true;
}

void RingDirectory::Take(Entry* entry, std::vector<Message>* mail) {
  std::lock_guard<std::mutex> lock(entry->mutex);
  mail->swap(entry->mail);
  entry->announced = false;
}

}  // namespace io
