#!/usr/bin/env python3
"""Writes copies of the proxy's sources with bugs planted in them, each off until it is chosen.

  plant.py SOURCE_DIR OUTPUT_DIR     every source that has a bug to plant, under its own name
  plant.py --names                   the canaries' names, a line each

A bug is a replacement of one place in one source. If the place is not there, or there twice, the
build ends with an error that names it: the canaries follow the code.
"""

import os
import sys

# name: (what is missing, (source, place, replacement)…). PLANTED stands for "this one is chosen".
CANARIES = {
    "swapped_replies": (
        "replies go to the requests in the order in which these were sent",
        ("proxy/backend.cc",
         "    if (request->client != nullptr) {\n      request->client->OnReplyPiece(",
         "    if (PLANTED && complete && !pending_.empty() && pending_.front().request != nullptr &&\n"
         "        worker_->Random(16) == 0) {\n"
         "      std::swap(request, pending_.front().request);\n"
         "    }\n"
         "    if (request->client != nullptr) {\n      request->client->OnReplyPiece(")),
    "resend_after_send": (
        "what may have been executed is not sent again",
        ("proxy/backend.cc",
         "  if (!handed_over) {\n    request->handed_over = false;",
         "  if (!handed_over || PLANTED) {\n    request->handed_over = false;")),
    "asking_not_adjacent": (
        "ASKING stands directly before its command",
        ("proxy/backend.cc",
         "    connection_.Send(io::Slice::Static(kAsking));\n",
         "    connection_.Send(io::Slice::Static(kAsking));\n"
         "    if (PLANTED && worker_->Random(4) == 0) {\n"
         "      Expect(nullptr, kPing.size(), worker_->now());\n"
         "      connection_.Send(io::Slice::Static(kPing));\n"
         "    }\n")),
    "no_slot_gate": (
        "a request waits for its client's earlier ones of the slot that are elsewhere",
        ("proxy/dispatcher.cc",
         "  bool found = false;\n  request.client->ForEachUnanswered(",
         "  if (PLANTED) return false;\n"
         "  bool found = false;\n  request.client->ForEachUnanswered(")),
    "no_generation_check": (
        "an index has a new user only after the last completion, and that is looked at",
        ("proxy/worker.cc",
         "found->generation() == generation ? found",
         "(found->generation() == generation || PLANTED) ? found"),
        ("proxy/client.cc",
         "  } else if (state_ == State::kClosing && connection_.closed()) {",
         "  } else if (state_ == State::kClosing && (connection_.closed() || PLANTED)) {")),
    "stray_reply_kept": (
        "a reply that nobody awaits ends the connection",
        ("proxy/backend.cc",
         "  absl::string_view bytes = data.bytes();\n  while (!bytes.empty()) {\n    if (pending_",
         "  static auto* const kept = new std::map<const Backend*, std::string>;\n"
         "  if (PLANTED && pending_.empty()) {\n"
         "    (*kept)[this].append(data.data(), data.size());\n"
         "    return;\n"
         "  }\n"
         "  if (PLANTED && !(*kept)[this].empty()) {\n"
         "    data = io::CopyToHeap((*kept)[this].append(data.data(), data.size()));\n"
         "    kept->erase(this);\n"
         "  }\n"
         "  absl::string_view bytes = data.bytes();\n  while (!bytes.empty()) {\n    if (pending_")),
    "no_fence": (
        "what a node has not read of a lost connection is ended before the next one is used",
        ("proxy/backend.cc",
         "  fences_seen_ = node_->fences;\n",
         "  fences_seen_ = node_->fences;\n"
         "  if (PLANTED) node_->old_connections.clear();\n")),
    "stale_topology": (
        "a view that knows less is not taken on one node's word",
        ("proxy/topology_refresh.cc",
         "bool IsWorse(const cluster::Topology& view, const cluster::Topology& known) {\n",
         "bool IsWorse(const cluster::Topology& view, const cluster::Topology& known) {\n"
         "  if (PLANTED) return false;\n")),
    "overtaken_resent": (
        "what a later command on the same key has overtaken is not sent again",
        ("proxy/dispatcher_refusals.cc",
         "  if (request->client->waiting == 0) return;\n  bool before = true;",
         "  if (request->client->waiting == 0 || PLANTED) return;\n  bool before = true;")),
    "read_after_write_repeated": (
        "a read is not repeated after a later write of its slot",
        ("proxy/dispatcher.cc",
         "  return !written;\n",
         "  return !written || PLANTED;\n")),
    "script_redirection_trusted": (
        "a redirection that a script returns is confirmed before it is followed",
        ("proxy/dispatcher_refusals.cc",
         "  const bool script = request->command->is_script();\n  const bool ask",
         "  const bool script = request->command->is_script() && !PLANTED;\n  const bool ask")),
}


def plant(source_dir, output_dir):
    texts = {}
    for name, (_, *edits) in CANARIES.items():
        for path, place, replacement in edits:
            if path not in texts:
                with open(os.path.join(source_dir, path), encoding="utf-8") as file:
                    texts[path] = file.read()
            found = texts[path].count(place)
            if found != 1:
                sys.exit("canary '%s': its place is %d times in %s" % (name, found, path))
            planted = replacement.replace("PLANTED", 'sim::Planted("%s")' % name)
            texts[path] = texts[path].replace(place, planted)
    for path, text in texts.items():
        output = os.path.join(output_dir, os.path.basename(path))
        with open(output, "w", encoding="utf-8") as file:
            file.write('#include "tests/sim/canary/planted.h"\n#line 1 "%s"\n%s' %
                       (os.path.join(source_dir, path), text))


def main():
    if sys.argv[1:] == ["--names"]:
        print("\n".join(CANARIES))
    elif len(sys.argv) == 3:
        plant(sys.argv[1], sys.argv[2])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
