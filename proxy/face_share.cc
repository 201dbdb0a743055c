#include "proxy/face_share.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proxy/every_node.h"
#include "resp/encoder.h"
#include "resp/views.h"

namespace proxy {
namespace {

class KeysOfShare final : public EveryNode {
 public:
  KeysOfShare(const cluster::CommandSpec& command, const FaceShare& share, io::Rope frame)
      : EveryNode(command, Audience::kPrimaries, std::move(frame)), share_(share) {}

 private:
  void Merge(Step* step, absl::Span<Ask> answered) override {
    std::string elements;
    int64_t count = 0;
    for (const Ask& ask : answered) {
      const auto pieces = ask.reply.Views();
      resp::ElementReader reader(pieces);
      if (reader.type() != '*' || reader.count() < 0) return step->AnswerError(kBadReplyError);
      std::string scratch;
      resp::ArgPosition position;
      while (reader.Next(&position)) {
        const absl::string_view element = resp::ViewAt(pieces, position, &scratch);
        absl::string_view key;
        if (!resp::ParseText(element, &key)) return step->AnswerError(kBadReplyError);
        if (!share_.Has(key)) continue;
        elements.append(element.data(), element.size());
        ++count;
      }
    }
    step->Answer(absl::StrCat("*", count, "\r\n", elements));
  }

  const FaceShare share_;
};

// How many keys lie in these slots, each node would have to be asked slot by slot: thousands of
// commands. Of the sum of all proxies each tells its part instead.
class PartOfSize final : public EveryNode {
 public:
  PartOfSize(const cluster::CommandSpec& command, const FaceShare& share, io::Rope frame)
      : EveryNode(command, Audience::kPrimaries, std::move(frame)), share_(share) {}

 private:
  void Merge(Step* step, absl::Span<Ask> answered) override {
    int64_t sum = 0;
    for (const Ask& ask : answered) {
      int64_t value = 0;
      if (!resp::ParseInteger(ask.reply.Flatten(), &value) || value < 0 ||
          __builtin_add_overflow(sum, value, &sum)) {
        return step->AnswerError(kBadReplyError);
      }
    }
    step->Answer(absl::StrCat(":", share_.PartOf(sum), "\r\n"));
  }

  const FaceShare share_;
};

}  // namespace

std::unique_ptr<Procedure> MakeFaceShare(const cluster::CommandSpec& command,
                                         const FaceShare& share, const io::Rope& frame) {
  if (!command.container.empty()) return nullptr;
  if (command.name == "KEYS") {
    return std::make_unique<KeysOfShare>(command, share, KeepFrame(frame));
  }
  if (command.name == "DBSIZE") {
    return std::make_unique<PartOfSize>(command, share, KeepFrame(frame));
  }
  return nullptr;
}

}  // namespace proxy
