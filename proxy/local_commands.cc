#include "proxy/local_commands.h"

#include "proxy/client.h"
#include "proxy/local_handlers.h"
#include "proxy/local_session.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

class WorkerSession final : public LocalSession {
 public:
  explicit WorkerSession(Client* client) : client_(client), worker_(*client->worker()) {}

  const ServerInfo& server() const override { return worker_.server(); }
  const LearnedCommands* learned() const override { return worker_.learned(); }
  absl::string_view password() const override { return worker_.config().password; }
  ProxyFacts DescribeProxy() const override;
  bool has_cluster_face() const override { return worker_.config().cluster_face; }
  ClusterFace DescribeClusterFace() const override {
    return ClusterFace(worker_.config(), client_->LocalName());
  }

  uint64_t client_id() const override { return client_->id(); }
  resp::Protocol protocol() const override { return client_->protocol(); }
  void set_protocol(resp::Protocol protocol) override { client_->set_protocol(protocol); }
  bool authenticated() const override { return client_->authenticated(); }
  void Authenticate() override { client_->set_authenticated(true); }
  void NoteAuthFailure() override { client_->NoteAuthFailure(); }
  const Client::Identity& identity() const override { return client_->identity_or_empty(); }
  Client::Identity* mutable_identity() override { return client_->identity(); }
  ClientFacts DescribeClient() const override { return client_->Describe(); }
  void Unwatch() override { client_->Unwatch(); }
  void Reset() override;
  void EndAfterReply() override {
    client_->StopAfterThis();
    client_->BeginDrain();
  }

 private:
  Client* const client_;
  Worker& worker_;
};

ProxyFacts WorkerSession::DescribeProxy() const {
  const Config& config = worker_.config();
  ProxyFacts facts;
  facts.stats = worker_.all_stats();
  facts.workers = config.workers;
  facts.clients_max = config.clients_max;
  facts.memory_limit_bytes = config.memory_limit_bytes;
  for (const io::Endpoint& endpoint : config.listen) {
    if (facts.tcp_port == 0 && !endpoint.is_unix()) facts.tcp_port = endpoint.port();
  }
  facts.instance_name = worker_.instance_name();
  facts.ring_features = worker_.ring()->Describe();
  facts.has_topology = worker_.cluster() != nullptr;
  return facts;
}

void WorkerSession::Reset() {
  // The library behind the connection is still the same: the servers keep its name, too.
  const Client::Identity before = client_->identity_or_empty();
  client_->ResetSession();
  if (before.library_name.empty() && before.library_version.empty()) return;
  client_->identity()->library_name = before.library_name;
  client_->identity()->library_version = before.library_version;
}

}  // namespace

void ServeLocal(Client* client, const cluster::CommandSpec& command,
                absl::Span<const absl::string_view> args, std::string* reply) {
  WorkerSession session(client);
  AnswerLocal(&session, command, args, reply);
}

}  // namespace proxy
