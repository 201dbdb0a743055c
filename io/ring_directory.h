#pragma once

// File: io/ring_directory.h
//
// Where the rings of one process find each other: how to post to each, whether it still lives, and
// a mailbox for messages that don't travel as ring messages. Made before the rings, outlives them,
// used by all threads.

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "io/ring.h"

namespace io {

class RingDirectory final : public Poster {
 public:
  // Rings 0 … rings - 1 can be entered.
  explicit RingDirectory(size_t rings);
  ~RingDirectory() override;
  RingDirectory(const RingDirectory&) = delete;
  RingDirectory& operator=(const RingDirectory&) = delete;

  // By the mailbox; from any thread.
  void Post(RingId receiver, Message message) override;

 private:
  friend class UringRing;

  struct Entry {
    // The receiver's ring, for ring messages; -1: there is none now. A duplicate, kept open until
    // the directory ends: a sender that has prepared a message for a ring that then goes must never
    // meet another file under the same number.
    std::atomic<Fd> ring_fd{-1};
    // Readable when mail waits. Made with the first ring that enters; stays.
    Fd event_fd = -1;

    std::mutex mutex;
    bool open = false;          // guarded by mutex: a ring will read the mail
    bool announced = false;     // guarded by mutex: event_fd has been written for this mail
    std::vector<Message> mail;  // guarded by mutex
    // What a ring message's two ends are ordered by. Nobody reads it: it is an address for the
    // thread sanitizer, which can't see that the kernel orders them.
    char ring_message_order = 0;
  };

  // Null if the number is out of range.
  Entry* Find(RingId id) { return id < entries_.size() ? entries_[id].get() : nullptr; }
  // Opens the entry for a ring that is about to read; ring_fd is -1 if it can't be sent ring
  // messages. Fails if the id is out of range or taken, or if there are no descriptors.
  absl::Status Enter(RingId id, Fd ring_fd);
  // From here on posts fail; mail that was not read is dropped.
  void Leave(RingId id);
  // False if no ring will read it.
  static bool Put(Entry* entry, Message message);
  // Moves the waiting mail to *mail, which is empty, and forgets the announcement.
  static void Take(Entry* entry, std::vector<Message>* mail);

  std::vector<std::unique_ptr<Entry>> entries_;
  std::mutex retired_mutex_;
  std::vector<Fd> retired_;  // guarded by retired_mutex_: ring_fds of rings that have left
};

}  // namespace io
