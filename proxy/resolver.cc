#include "proxy/resolver.h"

#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proxy/messages.h"

namespace proxy {
namespace {

constexpr size_t kThreadsMax = 4;
constexpr size_t kAddressesMax = 16;   // of one name
constexpr size_t kNameBytesMax = 255;  // RFC 1035

// No look-up is needed to know that this is no name.
bool IsNameText(absl::string_view name) {
  return !name.empty() && name.size() <= kNameBytesMax &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                  c == '-' || c == '_' || c == '.';
         });
}

// Blocks.
Resolved LookUp(const std::string& name) {
  Resolved result;
  result.name = name;
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;  // else each address comes once per type
  addrinfo* list = nullptr;
  const int error = getaddrinfo(name.c_str(), nullptr, &hints, &list);
  if (error != 0) {
    result.error = error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error);
    return result;
  }
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    if (entry->ai_family != AF_INET && entry->ai_family != AF_INET6) continue;
    const io::Endpoint address = io::Endpoint::FromSockaddr(entry->ai_addr, entry->ai_addrlen);
    const auto& known = result.addresses;
    if (std::find(known.begin(), known.end(), address) != known.end()) continue;
    if (known.size() == kAddressesMax) break;
    result.addresses.push_back(address);
  }
  freeaddrinfo(list);
  if (result.addresses.empty()) result.error = "no address";
  return result;
}

// What the owner and the threads share. The threads keep it alive: one that hangs in a look-up
// outlives the resolver.
struct Shared {
  struct Lookup {
    std::string name;
    size_t asks = 0;  // as many results are due
    bool running = false;
  };

  std::mutex mutex;
  std::condition_variable work;
  io::Poster* poster = nullptr;  // not used once `stopped`
  io::RingId receiver = 0;
  bool stopped = false;
  std::deque<Lookup> lookups;  // waiting and running, in the order they were asked for
  std::deque<Resolved> results;
  size_t idle_threads = 0;

  // With the mutex held: after the resolver's end nobody posts.
  void PutResult(const Resolved& result, size_t asks) {
    if (stopped) return;
    results.insert(results.end(), asks, result);
    io::Message message;
    message.kind = static_cast<uint8_t>(MessageKind::kResolved);
    poster->Post(receiver, message);
  }
};

class ThreadResolver final : public Resolver {
 public:
  ThreadResolver(io::Poster* poster, io::RingId receiver) : shared_(std::make_shared<Shared>()) {
    shared_->poster = poster;
    shared_->receiver = receiver;
  }

  ~ThreadResolver() override {
    std::vector<bool> busy;
    {
      std::lock_guard<std::mutex> lock(shared_->mutex);
      shared_->stopped = true;
      for (const Worker& worker : workers_) busy.push_back(*worker.busy);
    }
    shared_->work.notify_all();
    for (size_t i = 0; i < workers_.size(); ++i) {
      // getaddrinfo can't be interrupted and may take half a minute.
      if (busy[i]) {
        workers_[i].thread.detach();
      } else {
        workers_[i].thread.join();
      }
    }
  }

  void Ask(absl::string_view name) override {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    if (const auto literal = io::Endpoint::FromIp(name, 0); literal.ok()) {
      return shared_->PutResult({std::string(name), {*literal}, ""}, 1);
    }
    if (!IsNameText(name)) return shared_->PutResult({std::string(name), {}, "not a name"}, 1);
    for (Shared::Lookup& lookup : shared_->lookups) {
      if (lookup.name == name) {
        ++lookup.asks;
        return;
      }
    }
    if (!MakeThreadIfNeeded()) {
      return shared_->PutResult({std::string(name), {}, "no thread to look it up"}, 1);
    }
    shared_->lookups.push_back({std::string(name), 1, false});
    shared_->work.notify_one();
  }

  bool Take(Resolved* result) override {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    if (shared_->results.empty()) return false;
    *result = std::move(shared_->results.front());
    shared_->results.pop_front();
    return true;
  }

 private:
  struct Worker {
    std::thread thread;
    std::shared_ptr<bool> busy;  // guarded by the mutex: it is in a look-up
  };

  // With the mutex held. False: there is none and none can be made.
  bool MakeThreadIfNeeded() {
    const size_t waiting = static_cast<size_t>(
        std::count_if(shared_->lookups.begin(), shared_->lookups.end(),
                      [](const Shared::Lookup& lookup) { return !lookup.running; }));
    if (shared_->idle_threads > waiting || workers_.size() == kThreadsMax) return true;
    // Signals are for the thread that waits for them.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      auto busy = std::make_shared<bool>(false);
      workers_.push_back({std::thread(&ThreadResolver::Loop, shared_, busy), busy});
      ++shared_->idle_threads;
    } catch (const std::system_error&) {  // no more threads: those that are there must do
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return !workers_.empty();
  }

  // The thread owns what it is given.
  static void Loop(const std::shared_ptr<Shared>& shared, const std::shared_ptr<bool>& busy) {
    std::unique_lock<std::mutex> lock(shared->mutex);
    while (true) {
      auto next = shared->lookups.end();
      shared->work.wait(lock, [&] {
        next = std::find_if(shared->lookups.begin(), shared->lookups.end(),
                            [](const Shared::Lookup& lookup) { return !lookup.running; });
        return shared->stopped || next != shared->lookups.end();
      });
      if (shared->stopped) return;
      next->running = true;
      const std::string name = next->name;
      --shared->idle_threads;
      *busy = true;
      lock.unlock();
      const Resolved result = LookUp(name);
      lock.lock();
      *busy = false;
      ++shared->idle_threads;
      const auto done =
          std::find_if(shared->lookups.begin(), shared->lookups.end(),
                       [&](const Shared::Lookup& lookup) { return lookup.name == name; });
      shared->PutResult(result, done->asks);
      shared->lookups.erase(done);
    }
  }

  const std::shared_ptr<Shared> shared_;
  std::vector<Worker> workers_;
};

}  // namespace

std::unique_ptr<Resolver> MakeThreadResolver(io::Poster* poster, io::RingId receiver) {
  return std::make_unique<ThreadResolver>(poster, receiver);
}

}  // namespace proxy
