#include "proxy/select.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proxy/args.h"
#include "proxy/config_commands.h"
#include "resp/views.h"

namespace proxy {
namespace {

class Select final : public Procedure {
 public:
  explicit Select(int64_t database) : database_(database) {}

  void Next(Step* step) override {
    if (step->asks.empty()) {
      if (database_ == int64_t{step->database}) return Answer(step);
      step->asks.push_back(AskDatabases(step->worker));
      return;
    }
    Ask& ask = step->asks[0];
    if (ask.gone) {
      step->asks[0] = AskDatabases(step->worker);
      return;
    }
    if (ask.failed()) {
      step->reply = std::move(ask.reply);
      return;
    }
    const int64_t count = ReadDatabases(ask.reply);
    if (database_ < 0 || database_ >= count) return step->AnswerError(kBadDatabaseError);
    Answer(step);
  }

 private:
  void Answer(Step* step) const {
    step->select = static_cast<uint32_t>(database_);
    step->Answer("+OK\r\n");
  }

  const int64_t database_;
};

}  // namespace

bool ParseDatabase(absl::string_view arg, int64_t* database, std::string* error) {
  constexpr int64_t kLeast = std::numeric_limits<int32_t>::min();
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (!resp::ParseDecimal(arg, database)) {
    *error = "ERR value is not an integer or out of range";
    return false;
  }
  if (*database >= kLeast && *database <= kMost) return true;
  *error = absl::StrCat("ERR value is out of range, value must between ", kLeast, " and ", kMost);
  return false;
}

std::unique_ptr<Procedure> MakeSelect(const ArgList& args, std::string* error) {
  int64_t database = 0;
  if (!ParseDatabase(args.views()[1], &database, error)) return nullptr;
  return std::make_unique<Select>(database);
}

}  // namespace proxy
