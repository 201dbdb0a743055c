// CLUSTER, of the proxies themselves where --cluster-face shows them as one; else as a server
// outside a cluster.

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cluster/router.h"
#include "proxy/cluster_face.h"
#include "proxy/local_handlers.h"

namespace proxy {
namespace {

constexpr absl::string_view kDisabled = "ERR This instance has cluster support disabled";

// Null after an error: there is no node of that id.
const FaceNode* FindNamedNode(const LocalCall& call, const ClusterFace& face) {
  const FaceNode* node = face.FindNode(call.args[2]);
  if (node == nullptr) call.Error(absl::StrCat("ERR Unknown node ", Quoted(call.args[2])));
  return node;
}

using FaceHandler = void (*)(const LocalCall& call, const ClusterFace& face);

void AnswerByFace(const LocalCall& call, FaceHandler handler) {
  if (!call.session->has_cluster_face()) return call.Error(kDisabled);
  handler(call, call.session->DescribeClusterFace());
}

}  // namespace

// The client's next command may be for a slot on the move; whatever it is for, the proxy knows.
void AnswerAsking(const LocalCall& call) {
  if (!call.session->has_cluster_face()) return call.Error(kDisabled);
  call.Ok();
}

void AnswerClusterCountFailureReports(const LocalCall& call) {
  AnswerByFace(call, [](const LocalCall& it, const ClusterFace& face) {
    if (FindNamedNode(it, face) != nullptr) it.Encode().Integer(0);
  });
}

void AnswerClusterInfo(const LocalCall& call) {
  AnswerByFace(call, [](const LocalCall& it, const ClusterFace& face) {
    it.Encode().Verbatim("txt", ClusterInfoText(face, it.session->DescribeProxy().has_topology));
  });
}

// Proxies know nothing of each other.
void AnswerClusterLinks(const LocalCall& call) {
  AnswerByFace(call, [](const LocalCall& it, const ClusterFace&) { it.Encode().Array(0); });
}

void AnswerClusterMyId(const LocalCall& call) {
  if (!call.session->has_cluster_face()) return call.Encode().Bulk(RunId());
  call.Encode().Bulk(call.session->DescribeClusterFace().self().id);
}

void AnswerClusterMyShardId(const LocalCall& call) {
  AnswerByFace(call, [](const LocalCall& it, const ClusterFace& face) {
    it.Encode().Bulk(face.self().shard_id);
  });
}

void AnswerClusterNodes(const LocalCall& call) {
  AnswerByFace(call, [](const LocalCall& it, const ClusterFace& face) {
    it.Encode().Verbatim("txt", ClusterNodesText(face, absl::Now()));
  });
}

// Each proxy is a primary without any.
void AnswerClusterReplicas(const LocalCall& call) {
  AnswerByFace(call, [](const LocalCall& it, const ClusterFace& face) {
    if (FindNamedNode(it, face) != nullptr) it.Encode().Array(0);
  });
}

void AnswerClusterShards(const LocalCall& call) {
  AnswerByFace(call, [](const LocalCall& it, const ClusterFace& face) {
    resp::Encoder out = it.Encode();
    AppendClusterShards(face, &out);
  });
}

void AnswerClusterSlots(const LocalCall& call) {
  AnswerByFace(call, [](const LocalCall& it, const ClusterFace& face) {
    resp::Encoder out = it.Encode();
    AppendClusterSlots(face, &out);
  });
}

// Each node counts what goes to its slots; for its operator, there.
void AnswerClusterSlotStats(const LocalCall& call) {
  AnswerByFace(call, [](const LocalCall& it, const ClusterFace&) {
    it.Error(cluster::NotSupportedError(it.command));
  });
}

}  // namespace proxy
