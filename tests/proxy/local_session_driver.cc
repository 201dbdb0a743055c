// A proxy of one client without a network: reads requests from standard input and writes to
// standard output what the proxy would answer by itself. local_commands_check.py compares it with
// servers.
//
//   local_session_driver redis|valkey VERSION [PASSWORD]

#include <cstdio>
#include <iostream>
#include <iterator>
#include <string>

#include "cluster/router.h"
#include "proxy/args.h"
#include "proxy/local_handlers.h"
#include "resp/scanner.h"

namespace proxy {
namespace {

class DriverSession final : public LocalSession {
 public:
  DriverSession(ServerInfo server, std::string password)
      : server_(std::move(server)), password_(std::move(password)) {
    authenticated_ = password_.empty();
  }
  bool ended() const { return ended_; }

  const ServerInfo& server() const override { return server_; }
  const LearnedCommands* learned() const override { return nullptr; }
  absl::string_view password() const override { return password_; }
  ProxyFacts DescribeProxy() const override {
    ProxyFacts facts;
    facts.stats = &stats_;
    facts.workers = 1;
    facts.clients_max = 10000;
    facts.memory_limit_bytes = 1 << 30;
    facts.tcp_port = 8088;
    facts.instance_name = "driver";
    facts.ring_features = "none";
    return facts;
  }
  bool has_cluster_face() const override { return false; }
  ClusterFace DescribeClusterFace() const override { return ClusterFace(Config(), ""); }
  uint64_t client_id() const override { return 7; }
  resp::Protocol protocol() const override { return protocol_; }
  void set_protocol(resp::Protocol protocol) override { protocol_ = protocol; }
  bool authenticated() const override { return authenticated_; }
  void Authenticate() override { authenticated_ = true; }
  void NoteAuthFailure() override {}
  const Client::Identity& identity() const override { return identity_; }
  Client::Identity* mutable_identity() override { return &identity_; }
  ClientFacts DescribeClient() const override {
    ClientFacts facts;
    facts.address = "127.0.0.1:40000";
    facts.local_address = "127.0.0.1:8088";
    facts.fd = 9;
    facts.id = client_id();
    facts.name = identity_.name;
    facts.library_name = identity_.library_name;
    facts.library_version = identity_.library_version;
    facts.no_evict = identity_.no_evict;
    facts.no_touch = identity_.no_touch;
    facts.last_command = cluster::FindSubcommand(*cluster::FindCommand("CLIENT"), "INFO");
    facts.protocol = protocol_;
    return facts;
  }
  void Unwatch() override {}
  void Reset() override {
    identity_.name.clear();
    protocol_ = resp::Protocol::kResp2;
    authenticated_ = password_.empty();
  }
  void EndAfterReply() override { ended_ = true; }

 private:
  const ServerInfo server_;
  const std::string password_;
  StatsRegistry stats_{1};
  Client::Identity identity_;
  resp::Protocol protocol_ = resp::Protocol::kResp2;
  bool authenticated_ = true;
  bool ended_ = false;
};

// As Client does with a whole request.
void Answer(DriverSession* session, absl::Span<const absl::string_view> args, std::string* reply) {
  const auto error = [&](absl::string_view line) {
    resp::Encoder(session->protocol(), reply).Error(line);
  };
  const cluster::CommandSpec* command = nullptr;
  const absl::string_view second = args.size() > 1 ? args[1] : absl::string_view();
  switch (cluster::LookUpCommand(args[0], second, static_cast<int64_t>(args.size()), &command)) {
    case cluster::Lookup::kUnknownCommand:
      return error(cluster::UnknownCommandError(args));
    case cluster::Lookup::kUnknownSubcommand:
      return error(cluster::UnknownSubcommandError(*command, second));
    case cluster::Lookup::kWrongArity:
      return error(cluster::WrongArityError(*command));
    case cluster::Lookup::kFound:
      break;
  }
  if (!session->authenticated() && (command->flags & cluster::kFlagNoAuth) == 0) {
    return error("NOAUTH Authentication required.");
  }
  if (command->serve != cluster::Serve::kLocal) return error("ERR driver: not local");
  AnswerLocal(session, *command, args, reply);
}

int Run(int argc, char** argv) {
  if (argc < 3) return 2;
  ServerInfo server;
  server.valkey = absl::string_view(argv[1]) == "valkey";
  server.version = argv[2];
  server.compatible_redis_version = server.valkey ? "7.2.4" : argv[2];
  DriverSession session(server, argc > 3 ? argv[3] : "");
  const std::string input((std::istreambuf_iterator<char>(std::cin)),
                          std::istreambuf_iterator<char>());
  resp::RequestScanner scanner;
  std::string output;
  for (absl::string_view rest = input; !rest.empty() && !session.ended();) {
    const resp::ScanResult result = scanner.Scan(rest, resp::RequestLimits());
    if (result.status != resp::ScanStatus::kComplete || scanner.is_inline()) return 1;
    const absl::string_view frame = rest.substr(0, result.consumed);
    rest.remove_prefix(result.consumed);
    const ArgList args(absl::MakeConstSpan(&frame, 1));
    Answer(&session, args.views(), &output);
  }
  std::fwrite(output.data(), 1, output.size(), stdout);
  return 0;
}

}  // namespace
}  // namespace proxy

int main(int argc, char** argv) { return proxy::Run(argc, argv); }
