#include "tests/resp/scan_checks.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "resp/views.h"
#include "tests/resp/reference_scanner.h"

namespace resp {
namespace {

absl::string_view Name(ScanStatus status) {
  switch (status) {
    case ScanStatus::kNeedMore:
      return "need more";
    case ScanStatus::kComplete:
      return "complete";
    case ScanStatus::kError:
      return "error";
  }
  return "?";
}

// The pieces of the current frame, each a block of its own size, so that a sanitizer sees any read
// before or behind it.
class Chunks {
 public:
  absl::string_view Add(absl::string_view bytes) {
    blocks_.push_back(std::make_unique<char[]>(bytes.size()));
    std::copy(bytes.begin(), bytes.end(), blocks_.back().get());
    pieces_.emplace_back(blocks_.back().get(), bytes.size());
    return pieces_.back();
  }
  // The last piece ends with the frame.
  void TrimLast(size_t size) { pieces_.back() = pieces_.back().substr(0, size); }
  void Clear() {
    blocks_.clear();
    pieces_.clear();
  }
  Pieces pieces() const { return pieces_; }

 private:
  std::vector<std::unique_ptr<char[]>> blocks_;
  std::vector<absl::string_view> pieces_;
};

std::string CheckPlace(Pieces pieces, absl::string_view frame, ArgPosition position,
                       ArgPosition expected) {
  if (position.offset != expected.offset || position.length != expected.length) {
    return absl::StrCat("position ", position.offset, "+", position.length, ", not ",
                        expected.offset, "+", expected.length);
  }
  std::string scratch;
  if (ViewAt(pieces, position, &scratch) != frame.substr(expected.offset, expected.length)) {
    return absl::StrCat("bytes at ", position.offset, "+", position.length);
  }
  return "";
}

std::string CheckArgs(const RequestScanner& scanner, Pieces pieces, absl::string_view frame,
                      const ReferenceFrame& expected) {
  if (scanner.is_inline() != expected.is_inline) return "is_inline";
  if (scanner.arg_count() != expected.arg_count) return "arg_count";
  if (expected.is_inline) return "";
  ArgReader reader(pieces);
  if (reader.count() != expected.arg_count) return "ArgReader::count";
  ArgPosition position;
  for (size_t i = 0; i < expected.args.size(); ++i) {
    if (!reader.Next(&position)) return "ArgReader ends early";
    std::string wrong = CheckPlace(pieces, frame, position, expected.args[i]);
    if (wrong.empty() && i < RequestScanner::kRecordedArgs) {
      wrong = CheckPlace(pieces, frame, scanner.arg(static_cast<int>(i)), expected.args[i]);
    }
    if (!wrong.empty()) return absl::StrCat("argument ", i, ": ", wrong);
  }
  return reader.Next(&position) ? "ArgReader goes on" : "";
}

// Where the reference finds the elements of an aggregate of known size.
std::string CheckElements(Pieces pieces, absl::string_view frame) {
  ElementReader reader(pieces);
  uint64_t offset = 0;
  while (frame[offset] == '|') {
    const uint64_t pairs = std::stoull(std::string(frame.substr(offset + 1)));
    offset = frame.find('\n', offset) + 1;
    for (uint64_t i = 0; i < 2 * pairs; ++i) offset += ReferenceReply(frame.substr(offset)).bytes;
  }
  const char type = frame[offset];
  if (reader.type() != type) return "ElementReader::type";
  ArgPosition position;
  if (type != '*' && type != '~' && type != '>' && type != '%') {
    return reader.count() == -1 && !reader.Next(&position) ? "" : "elements of what has none";
  }
  int64_t count = std::stoll(std::string(frame.substr(offset + 1)));
  if (type == '%') count *= 2;
  if (reader.count() != count) return "ElementReader::count";
  offset = frame.find('\n', offset) + 1;
  for (int64_t i = 0; i < count; ++i) {
    if (!reader.Next(&position)) return "ElementReader ends early";
    const ArgPosition expected = {offset, ReferenceReply(frame.substr(offset)).bytes};
    const std::string wrong = CheckPlace(pieces, frame, position, expected);
    if (!wrong.empty()) return absl::StrCat("element ", i, ": ", wrong);
    offset += expected.length;
  }
  return reader.Next(&position) ? "ElementReader goes on" : "";
}

// What both scanners have in common. `Scan(chunk)`, `Reference(bytes)`, `CheckFrame(pieces, frame,
// expected)` and `CheckState(expected)` stand for one of them.
template <typename Scanner, typename Scan, typename Reference, typename CheckFrame,
          typename CheckState>
std::string CheckStream(absl::string_view stream, const NextChunk& next, Depth depth,
                        const Scanner& scanner, const Scan& scan, const Reference& reference,
                        const CheckFrame& check_frame, const CheckState& check_state) {
  Chunks chunks;
  size_t begin = 0;  // of the frame
  size_t at = 0;
  size_t left = 0;  // of the chunk
  const auto wrong = [&](absl::string_view what) {
    return absl::StrCat(what, " (frame at ", begin, ", input up to ", at, ", after \"",
                        absl::CHexEscape(stream.substr(begin, std::min<size_t>(at - begin, 200))),
                        "\")");
  };
  while (at < stream.size()) {
    if (left == 0) left = std::min(std::max<size_t>(next(), 1), stream.size() - at);
    if (scanner.idle() != (at == begin)) return wrong("idle");
    const absl::string_view chunk = chunks.Add(stream.substr(at, left));
    const ScanResult result = scan(chunk);
    if (result.consumed > left) return wrong("consumed more than given");
    if (result.status == ScanStatus::kNeedMore && result.consumed != left) {
      return wrong("wants more and leaves some");
    }
    at += result.consumed;
    left -= result.consumed;
    const absl::string_view frame = stream.substr(begin, at - begin);
    if (scanner.frame_bytes() != frame.size()) return wrong("frame_bytes");
    // A scanner that goes on behind the end, or stops before it, differs here, too.
    if (result.status == ScanStatus::kNeedMore && depth == Depth::kFrames) continue;
    const ReferenceFrame expected = reference(frame);
    if (result.status != expected.status || frame.size() != expected.bytes) {
      return wrong(absl::StrCat(Name(result.status), " at ", frame.size(), ", not ",
                                Name(expected.status), " at ", expected.bytes));
    }
    const std::string state = check_state(expected);
    if (!state.empty()) return wrong(state);
    if (result.status == ScanStatus::kError) return "";
    if (result.status == ScanStatus::kNeedMore) continue;
    chunks.TrimLast(result.consumed);
    const std::string difference = check_frame(chunks.pieces(), frame, expected);
    if (!difference.empty()) return wrong(difference);
    begin = at;
    chunks.Clear();
  }
  const ReferenceFrame rest = reference(stream.substr(begin));
  if (begin < stream.size() && rest.status != ScanStatus::kNeedMore) {
    return wrong("the reference needs no more");
  }
  return "";
}

}  // namespace

NextChunk WholeInput() {
  return [] { return std::numeric_limits<size_t>::max(); };
}

NextChunk Bytewise() {
  return [] { return size_t{1}; };
}

NextChunk CutAt(size_t position) {
  return [position, first = true]() mutable {
    if (!first) return std::numeric_limits<size_t>::max();
    first = false;
    return position;
  };
}

std::string CheckRequests(absl::string_view stream, const RequestLimits& limits, NextChunk next,
                          Depth depth) {
  RequestScanner scanner;
  return CheckStream(
      stream, next, depth, scanner,
      [&](absl::string_view chunk) { return scanner.Scan(chunk, limits); },
      [&](absl::string_view bytes) { return ReferenceRequest(bytes, limits); },
      [&](Pieces pieces, absl::string_view frame, const ReferenceFrame& expected) {
        return CheckArgs(scanner, pieces, frame, expected);
      },
      [&](const ReferenceFrame& expected) -> std::string {
        if (scanner.error() != expected.error) {
          return absl::StrCat("error \"", scanner.error(), "\", not \"", expected.error, "\"");
        }
        if (expected.status == ScanStatus::kError) return "";
        return scanner.bytes_missing() == expected.bytes_missing ? "" : "bytes_missing";
      });
}

std::string CheckReplies(absl::string_view stream, NextChunk next, Depth depth) {
  ReplyScanner scanner;
  return CheckStream(
      stream, next, depth, scanner, [&](absl::string_view chunk) { return scanner.Scan(chunk); },
      ReferenceReply,
      [&](Pieces pieces, absl::string_view frame, const ReferenceFrame&) {
        if (scanner.type() != frame[0]) return std::string("type");
        return CheckElements(pieces, frame);
      },
      [&](const ReferenceFrame& expected) -> std::string {
        if (scanner.error().empty() != expected.error.empty()) return "error";
        if (expected.status == ScanStatus::kError) return "";
        if (scanner.bytes_missing() != expected.bytes_missing) return "bytes_missing";
        return scanner.values_missing() == expected.values_missing ? "" : "values_missing";
      });
}

}  // namespace resp
