#include "proxy/node_handshake.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "resp/encoder.h"
#include "resp/views.h"

namespace proxy {

std::string AuthCommand(absl::string_view username, absl::string_view password) {
  std::string text;
  if (username.empty()) {
    resp::AppendCommand({"AUTH", password}, &text);
  } else {
    resp::AppendCommand({"AUTH", username, password}, &text);
  }
  return text;
}

void NodeHandshake::Add(std::initializer_list<absl::string_view> command, Check check) {
  resp::AppendCommand(command, &commands_);
  checks_.push_back(std::move(check));
}

void NodeHandshake::Add(std::initializer_list<absl::string_view> command) {
  Add(command, [](absl::string_view) { return absl::OkStatus(); });
}

void NodeHandshake::AddRequired(std::initializer_list<absl::string_view> command) {
  Add(command, [name = absl::StrJoin(command, " ")](absl::string_view frame) {
    if (!resp::IsErrorFrame(frame)) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat(name, " refused: ", resp::ErrorLineOf(frame)));
  });
}

void NodeHandshake::AddAuth(absl::string_view username, absl::string_view password) {
  if (password.empty()) return;
  commands_ += AuthCommand(username, password);
  checks_.push_back([](absl::string_view frame) {
    if (!resp::IsErrorFrame(frame)) return absl::OkStatus();
    // The node's text may name users or quote what it was sent: only its first word is told.
    const absl::string_view line = resp::ErrorLineOf(frame);
    return absl::PermissionDeniedError(
        absl::StrCat("AUTH refused: ", line.substr(0, line.find(' '))));
  });
}

void NodeHandshake::AddMyId(absl::string_view node_id,
                            bool (*is_tolerable)(absl::string_view line)) {
  Add({"CLUSTER", "MYID"}, [node_id = std::string(node_id), is_tolerable](absl::string_view frame) {
    const bool error = resp::IsErrorFrame(frame);
    if (error && is_tolerable(resp::ErrorLineOf(frame))) return absl::OkStatus();
    absl::string_view id;
    if (!resp::ParseText(frame, &id)) {
      return absl::UnavailableError(
          absl::StrCat("CLUSTER MYID failed: ", error ? resp::ErrorLineOf(frame) : "not an id"));
    }
    if (id == node_id) return absl::OkStatus();
    return absl::NotFoundError("another node has this address now");
  });
}

absl::Status NodeHandshake::TakeReply(absl::string_view frame) {
  if (checks_.empty()) return absl::UnavailableError("surplus reply");
  const Check check = std::move(checks_.front());
  checks_.pop_front();
  return check(frame);
}

}  // namespace proxy
