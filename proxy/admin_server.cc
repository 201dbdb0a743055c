#include "proxy/admin_server.h"

#include <httplib.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "io/socket.h"

namespace proxy {
namespace {

constexpr size_t kThreads = 2;
// Connections that wait for a thread; further ones wait in the kernel's backlog, so that a flood
// here does not take the descriptors of clients.
constexpr size_t kWaitingMax = 16;
constexpr int kBacklog = 128;
// For a connection from beginning to end, so that slow ones can't hold the threads.
constexpr auto kConnectionTimeout = std::chrono::seconds(5);
constexpr auto kPollStep = std::chrono::milliseconds(50);
constexpr size_t kBodyBytesMax = 4096;
constexpr auto kRetryPause = std::chrono::seconds(1);

constexpr char kPlainText[] = "text/plain; charset=utf-8";
constexpr char kPrometheusText[] = "text/plain; version=0.0.4; charset=utf-8";

// A thread pool whose Enqueue waits for room: httplib's own has no bound.
class BoundedPool final : public httplib::TaskQueue {
 public:
  BoundedPool() {
    for (size_t i = 0; i < kThreads; ++i) threads_.emplace_back([this] { Run(); });
  }

  void enqueue(std::function<void()> task) override {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return tasks_.size() < kWaitingMax; });
    tasks_.push_back(std::move(task));
    changed_.notify_all();
  }

  // Runs what waits: each task closes its connection.
  void shutdown() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ending_ = true;
      changed_.notify_all();
    }
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  void Run() {
    pthread_setname_np(pthread_self(), "rcproxy-http");
    while (true) {
      std::function<void()> task;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return ending_ || !tasks_.empty(); });
        if (tasks_.empty()) return;
        task = std::move(tasks_.front());
        tasks_.pop_front();
        changed_.notify_all();
      }
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;  // tasks_ or ending_
  std::deque<std::function<void()>> tasks_;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

// One connection, non-blocking below, with a time by which all must be over. httplib's own stream
// limits each read instead: a byte now and then would hold a thread, and the end, for hours.
class DeadlineStream final : public httplib::Stream {
 public:
  DeadlineStream(socket_t socket, const std::atomic<bool>* ending)
      : socket_(socket), ending_(ending), deadline_(Clock::now() + kConnectionTimeout) {}

  bool is_readable() const override { return begin_ < end_ || Wait(POLLIN); }
  bool is_writable() const override { return Wait(POLLOUT); }

  ssize_t read(char* bytes, size_t size) override {
    while (begin_ == end_) {  // httplib reads headers byte by byte
      const ssize_t n = recv(socket_, buffer_, sizeof(buffer_), MSG_DONTWAIT);
      if (n == 0) return 0;
      if (n > 0) {
        begin_ = 0;
        end_ = static_cast<size_t>(n);
      } else if (errno != EINTR && (errno != EAGAIN || !Wait(POLLIN))) {
        return -1;
      }
    }
    const size_t n = std::min(size, end_ - begin_);
    std::memcpy(bytes, buffer_ + begin_, n);
    begin_ += n;
    return static_cast<ssize_t>(n);
  }

  ssize_t write(const char* bytes, size_t size) override {
    while (true) {
      const ssize_t n = send(socket_, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n >= 0) return n;
      if (errno != EINTR && (errno != EAGAIN || !Wait(POLLOUT))) return -1;
    }
  }

  // Nobody asks.
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return socket_; }

 private:
  using Clock = std::chrono::steady_clock;

  // False: the time is over, or the server ends.
  bool Wait(int16_t events) const {
    while (Clock::now() < deadline_ && !ending_->load()) {
      pollfd entry = {.fd = socket_, .events = events, .revents = 0};
      if (poll(&entry, 1, static_cast<int>(kPollStep.count())) > 0) return true;
    }
    return false;
  }

  const socket_t socket_;
  const std::atomic<bool>* const ending_;
  const Clock::time_point deadline_;
  char buffer_[4096];
  size_t begin_ = 0;  // of what was received and not yet read, in buffer_
  size_t end_ = 0;
};

// httplib's server on our streams, one request a connection.
class HttpServer final : public httplib::Server {
 public:
  HttpServer() {
    new_task_queue = [] { return new BoundedPool; };
    // Only this: with SO_REUSEPORT, httplib's default, two proxies would share a port.
    set_socket_options([](socket_t socket) {
      const int on = 1;
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    });
    set_payload_max_length(kBodyBytesMax);
  }

  // Once bound: httplib's backlog of 5 makes a burst of connections wait for seconds.
  void WidenBacklog() { ::listen(svr_sock_, kBacklog); }

  // Once, after it runs. Connections are cut off.
  void Stop() {
    ending_ = true;
    stop();
  }

 private:
  bool process_and_close_socket(socket_t socket) override {
    bool closed = false;
    {
      DeadlineStream stream(socket, &ending_);
      if (stream.is_readable()) process_request(stream, true, closed, nullptr);
    }
    shutdown(socket, SHUT_RDWR);
    close(socket);
    return true;
  }

  std::atomic<bool> ending_{false};
};

void Answer(int status, std::string text, const char* type, httplib::Response* response) {
  response->status = status;
  response->set_content(std::move(text), type);
}

class HttpAdminServer final : public AdminServer {
 public:
  HttpAdminServer(io::HostPort where, const StatsRegistry* stats, LogSink* log)
      : where_(std::move(where)), stats_(stats), log_(log) {
    const auto serve = [this](const httplib::Request& request, httplib::Response& response) {
      Serve(request, &response);
    };
    // Before httplib waits for a body that a PUT without Content-Length (curl -X PUT) never sends.
    server_.set_pre_routing_handler(
        [serve](const httplib::Request& request, httplib::Response& response) {
          if (request.has_header("Content-Length") || request.has_header("Transfer-Encoding")) {
            return httplib::Server::HandlerResponse::Unhandled;
          }
          serve(request, response);
          return httplib::Server::HandlerResponse::Handled;
        });
    server_.Get(".*", serve);
    server_.Put(".*", serve);
    server_.Post(".*", serve);
  }

  ~HttpAdminServer() override {
    if (!thread_.joinable()) return;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ending_ = true;
      changed_.notify_all();
    }
    server_.Stop();
    thread_.join();
  }

  absl::Status Start() {
    const absl::Status status = Bind();
    if (!status.ok()) return status;
    thread_ = std::thread([this] { Run(); });
    // stop() has no effect before the server runs, and no other sign says that it does.
    while (!server_.is_running()) std::this_thread::yield();
    return absl::OkStatus();
  }

  std::string address() const override { return io::FormatHostPort(where_.host, where_.port); }

 private:
  absl::Status Bind() {
    // httplib does not say why it can't listen. Of an unknown name we find out here; for the rest
    // errno still holds the reason.
    addrinfo hints = {};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* addresses = nullptr;
    if (const int error = getaddrinfo(where_.host.c_str(), nullptr, &hints, &addresses)) {
      return CannotListen(gai_strerror(error));
    }
    freeaddrinfo(addresses);
    errno = 0;
    if (where_.port == 0) {
      const int port = server_.bind_to_any_port(where_.host);
      if (port <= 0) return CannotListen(nullptr);
      where_.port = static_cast<uint16_t>(port);
    } else if (!server_.bind_to_port(where_.host, where_.port)) {
      return CannotListen(nullptr);
    }
    server_.WidenBacklog();
    return absl::OkStatus();
  }

  absl::Status CannotListen(const char* reason) const {
    if (reason == nullptr) reason = errno != 0 ? std::strerror(errno) : "unknown reason";
    return absl::UnavailableError(
        absl::StrCat("--debug-addr: '", address(), "' cannot be listened on: ", reason));
  }

  // httplib gives up on some errors of accept(2) that pass: then we listen anew.
  void Run() {
    pthread_setname_np(pthread_self(), "rcproxy-admin");
    while (true) {
      server_.listen_after_bind();
      std::unique_lock<std::mutex> lock(mutex_);
      do {
        changed_.wait_for(lock, kRetryPause, [this] { return ending_; });
        if (ending_) return;
      } while (!Bind().ok());
    }
  }

  void Serve(const httplib::Request& request, httplib::Response* response) const {
    const bool get = request.method == "GET" || request.method == "HEAD";
    const bool set = request.method == "PUT" || request.method == "POST";
    if (request.path == "/metrics" && get) {
      Answer(200, stats_->PrometheusText(log_->dropped()), kPrometheusText, response);
    } else if (request.path == "/healthz" && get) {
      Answer(200, "ok\n", kPlainText, response);
    } else if (request.path == "/readyz" && get) {
      ServeReady(response);
    } else if (request.path == "/loglevel" && get) {
      Answer(200, absl::StrCat(LogLevelName(log_->level()), "\n"), kPlainText, response);
    } else if (request.path == "/loglevel" && set) {
      SetLogLevel(request.get_param_value("level"), response);
    } else {
      Answer(404, "not found\n", kPlainText, response);
    }
  }

  void ServeReady(httplib::Response* response) const {
    const ControlStats& control = stats_->control();
    if (control.draining.Get() != 0) {
      Answer(503, "draining\n", kPlainText, response);
    } else if (control.topology_ready.Get() == 0) {
      Answer(503, "no topology yet\n", kPlainText, response);
    } else {
      Answer(200, "ok\n", kPlainText, response);
    }
  }

  void SetLogLevel(const std::string& name, httplib::Response* response) const {
    LogLevel level;
    if (!ParseLogLevel(name, &level)) {
      return Answer(400, "level is not one of trace, debug, info, warn, error, off\n", kPlainText,
                    response);
    }
    const absl::string_view text = LogLevelName(level);
    log_->Write(LogLevel::kWarn, absl::StrCat("log level is now ", text, ", set by HTTP"));
    log_->set_level(level);
    Answer(200, absl::StrCat(text, "\n"), kPlainText, response);
  }

  io::HostPort where_;  // the port: once bound, the real one
  const StatsRegistry* const stats_;
  LogSink* const log_;
  HttpServer server_;
  std::mutex mutex_;
  std::condition_variable changed_;  // ending_
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<AdminServer>> StartAdminServer(absl::string_view address,
                                                              const StatsRegistry* stats,
                                                              LogSink* log) {
  absl::StatusOr<io::HostPort> where = io::ParseHostPort(address);
  if (!where.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--debug-addr: '", address, "' is not HOST:PORT"));
  }
  auto server = std::make_unique<HttpAdminServer>(*std::move(where), stats, log);
  const absl::Status status = server->Start();
  if (!status.ok()) return status;
  return server;
}

}  // namespace proxy
