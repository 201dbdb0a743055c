// The HELP of the containers whose subcommands the proxy answers itself: the servers' texts, of the
// subcommands that are served.

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proxy/local_handlers.h"
#include "proxy/server_info.h"

namespace proxy {
namespace {

struct HelpRow {
  absl::string_view container;
  absl::string_view subcommand;        // empty: the container itself
  absl::string_view text;              // one or more lines
  absl::string_view valkey_text = {};  // where it differs
  bool of_cluster_face = false;        // told only by a node of a cluster
};

constexpr HelpRow kHelp[] = {
    {"CLIENT", "CAPA",
     "CAPA <option> [options...]\n    The client claims its some capability options. Options are:\n"
     "    * REDIRECT\n"
     "      The client can handle redirection during primary and replica failover in standalone "
     "mode."},
    {"CLIENT", "GETREDIR",
     "GETREDIR\n    Return the client ID we are redirecting to when tracking is enabled."},
    {"CLIENT", "GETNAME", "GETNAME\n    Return the name of the current connection."},
    {"CLIENT", "ID", "ID\n    Return the ID of the current connection."},
    {"CLIENT", "INFO", "INFO\n    Return information about the current client connection."},
    {"CLIENT", "KILL",
     "KILL <ip:port>\n    Kill connection made from <ip:port>.\n"
     "KILL <option> <value> [<option> <value> [...]]\n    Kill connections. Options are:\n"
     "    * ADDR (<ip:port>|<unixsocket>:0)\n      Kill connections made from the specified "
     "address\n"
     "    * LADDR (<ip:port>|<unixsocket>:0)\n"
     "      Kill connections made to specified local address\n"
     "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)\n      Kill connections by type.\n"
     "    * USER <username>\n      Kill connections authenticated by <username>.\n"
     "    * SKIPME (YES|NO)\n      Skip killing current connection (default: yes).",
     "KILL <ip:port>\n    Kill connection made from <ip:port>.\n"
     "KILL <option> <value> [<option> <value> [...]]\n    Kill connections. Options are:\n"
     "    * ADDR (<ip:port>|<unixsocket>:0)\n      Kill connections made from the specified "
     "address\n"
     "    * LADDR (<ip:port>|<unixsocket>:0)\n"
     "      Kill connections made to specified local address\n"
     "    * TYPE (NORMAL|PRIMARY|REPLICA|PUBSUB)\n      Kill connections by type.\n"
     "    * USER <username>\n      Kill connections authenticated by <username>.\n"
     "    * SKIPME (YES|NO)\n      Skip killing current connection (default: yes).\n"
     "    * ID <client-id>\n      Kill connections by client id.\n"
     "    * MAXAGE <maxage>\n      Kill connections older than the specified age."},
    {"CLIENT", "LIST",
     "LIST [options ...]\n    Return information about client connections. Options:\n"
     "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)\n      Return clients of specified type.",
     "LIST [options ...]\n    Return information about client connections. Options:\n"
     "    * TYPE (NORMAL|PRIMARY|REPLICA|PUBSUB)\n      Return clients of specified type."},
    {"CLIENT", "UNPAUSE", "UNPAUSE\n    Stop the current client pause, resuming traffic."},
    {"CLIENT", "PAUSE",
     "PAUSE <timeout> [WRITE|ALL]\n    Suspend all, or just write, clients for <timeout> "
     "milliseconds."},
    {"CLIENT", "REPLY",
     "REPLY (ON|OFF|SKIP)\n    Control the replies sent to the current connection."},
    {"CLIENT", "SETNAME", "SETNAME <name>\n    Assign the name <name> to the current connection."},
    {"CLIENT", "SETINFO",
     "SETINFO <option> <value>\n    Set client meta attr. Options are:\n"
     "    * LIB-NAME: the client lib name.\n    * LIB-VER: the client lib version."},
    {"CLIENT", "UNBLOCK",
     "UNBLOCK <clientid> [TIMEOUT|ERROR]\n    Unblock the specified blocked client."},
    {"CLIENT", "TRACKINGINFO",
     "TRACKINGINFO\n    Report tracking status for the current connection."},
    {"CLIENT", "NO-EVICT",
     "NO-EVICT (ON|OFF)\n    Protect current client connection from eviction."},
    {"CLIENT", "NO-TOUCH",
     "NO-TOUCH (ON|OFF)\n    Will not touch LRU/LFU stats when this mode is on."},
    {"CLUSTER", "COUNTKEYSINSLOT",
     "COUNTKEYSINSLOT <slot>\n    Return the number of keys in <slot>."},
    {"CLUSTER", "GETKEYSINSLOT",
     "GETKEYSINSLOT <slot> <count>\n    Return key names stored by current node in a slot."},
    {.container = "CLUSTER",
     .subcommand = "INFO",
     .text = "INFO\n    Return information about the cluster.",
     .of_cluster_face = true},
    {"CLUSTER", "KEYSLOT", "KEYSLOT <key>\n    Return the hash slot for <key>."},
    {"CLUSTER", "MYID", "MYID\n    Return the node id."},
    {.container = "CLUSTER",
     .subcommand = "MYSHARDID",
     .text = "MYSHARDID\n    Return the node's shard id.",
     .of_cluster_face = true},
    {.container = "CLUSTER",
     .subcommand = "NODES",
     .text = "NODES\n    Return cluster configuration seen by node. Output format:\n"
             "    <id> <ip:port> <flags> <master> <pings> <pongs> <epoch> <link> <slot> ...",
     .valkey_text = "NODES\n    Return cluster configuration seen by node. Output format:\n"
                    "    <id> <ip:port@bus-port[,hostname]> <flags> <primary> <pings> <pongs> "
                    "<epoch> <link> <slot> ...",
     .of_cluster_face = true},
    {.container = "CLUSTER",
     .subcommand = "REPLICAS",
     .text = "REPLICAS <node-id>\n    Return <node-id> replicas.",
     .of_cluster_face = true},
    {.container = "CLUSTER",
     .subcommand = "SLOTS",
     .text = "SLOTS\n    Return information about slots range mappings. Each range is made of:\n"
             "    start, end, master and replicas IP addresses, ports and ids",
     .valkey_text =
         "SLOTS\n    Return information about slots range mappings. Each range is made of:\n"
         "    start, end, primary and replicas IP addresses, ports and ids",
     .of_cluster_face = true},
    {.container = "CLUSTER",
     .subcommand = "SHARDS",
     .text = "SHARDS\n    Return information about slot range mappings and the nodes associated "
             "with them.",
     .of_cluster_face = true},
    {.container = "CLUSTER",
     .subcommand = "COUNT-FAILURE-REPORTS",
     .text = "COUNT-FAILURE-REPORTS <node-id>\n    Return number of failure reports for <node-id>.",
     .of_cluster_face = true},
    {.container = "CLUSTER",
     .subcommand = "LINKS",
     .text = "LINKS\n    Return information about all network links between this node and its "
             "peers.\n    Output format is an array where each array element is a map containing "
             "attributes of a link",
     .of_cluster_face = true},
    {"COMMAND", "", "(no subcommand)\n    Return details about all Redis commands.",
     "(no subcommand)\n    Return details about all commands."},
    {"COMMAND", "COUNT", "COUNT\n    Return the total number of commands in this Redis server.",
     "COUNT\n    Return the total number of commands in this server."},
    {"COMMAND", "LIST", "LIST\n    Return a list of all commands in this Redis server.",
     "LIST\n    Return a list of all commands in this server."},
    {"COMMAND", "INFO",
     "INFO [<command-name> ...]\n    Return details about multiple Redis commands.\n"
     "    If no command names are given, documentation details for all\n"
     "    commands are returned.",
     "INFO [<command-name> ...]\n    Return details about multiple commands.\n"
     "    If no command names are given, documentation details for all\n"
     "    commands are returned."},
    {"COMMAND", "DOCS",
     "DOCS [<command-name> ...]\n    Return documentation details about multiple Redis commands.\n"
     "    If no command names are given, documentation details for all\n"
     "    commands are returned.",
     "DOCS [<command-name> ...]\n    Return documentation details about multiple commands.\n"
     "    If no command names are given, documentation details for all\n"
     "    commands are returned."},
    {"COMMAND", "GETKEYS", "GETKEYS <full-command>\n    Return the keys from a full Redis command.",
     "GETKEYS <full-command>\n    Return the keys from a full command."},
    {"COMMAND", "GETKEYSANDFLAGS",
     "GETKEYSANDFLAGS <full-command>\n"
     "    Return the keys and the access flags from a full Redis command.",
     "GETKEYSANDFLAGS <full-command>\n"
     "    Return the keys and the access flags from a full command."},
};

bool IsKnown(const LocalSession& session, const HelpRow& row) {
  if (row.of_cluster_face && !session.has_cluster_face()) return false;
  if (row.subcommand.empty()) return true;
  const cluster::CommandSpec* container = cluster::FindCommand(row.container);
  const cluster::CommandSpec* command = cluster::FindSubcommand(*container, row.subcommand);
  return command == nullptr || IsKnownTo(session.server(), *command);
}

}  // namespace

void AnswerHelp(const LocalCall& call) {
  const ServerInfo& server = call.session->server();
  const absl::string_view container = call.command.container;
  std::vector<absl::string_view> lines;
  for (const HelpRow& row : kHelp) {
    if (row.container != container || !IsKnown(*call.session, row)) continue;
    const bool valkey = server.valkey && !row.valkey_text.empty();
    for (absl::string_view line : absl::StrSplit(valkey ? row.valkey_text : row.text, '\n')) {
      lines.push_back(line);
    }
  }
  lines.push_back("HELP");
  lines.push_back(IsBeforeRedis72(server) ? "    Prints this help." : "    Print this help.");
  resp::Encoder out = call.Encode();
  out.Array(static_cast<int64_t>(lines.size()) + 1);
  out.Simple(absl::StrCat(container, " <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
  for (const absl::string_view line : lines) out.Simple(line);
}

}  // namespace proxy
