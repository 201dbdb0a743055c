#include "resp/encoder.h"

#include <charconv>
#include <cmath>
#include <cstring>

#include "absl/base/macros.h"

namespace resp {
namespace {

constexpr size_t kHeaderBytesMax = 24;

void AppendHeader(char type, int64_t n, std::string* out) {
  char header[kHeaderBytesMax];
  out->append(header, WriteHeader(type, n, header));
}

void AppendBulk(char type, absl::string_view bytes, std::string* out) {
  AppendHeader(type, static_cast<int64_t>(bytes.size()), out);
  out->append(bytes.data(), bytes.size());
  out->append("\r\n");
}

// Appends text that must stay on one line.
void AppendLine(char type, absl::string_view text, std::string* out) {
  out->push_back(type);
  for (const char c : text) out->push_back(c == '\r' || c == '\n' ? ' ' : c);
  out->append("\r\n");
}

}  // namespace

size_t WriteHeader(char type, int64_t n, char* out) {
  out[0] = type;
  char* const end = std::to_chars(out + 1, out + kHeaderBytesMax - 2, n).ptr;
  end[0] = '\r';
  end[1] = '\n';
  return static_cast<size_t>(end + 2 - out);
}

void Encoder::Simple(absl::string_view text) { AppendLine('+', text, out_); }

void Encoder::Error(absl::string_view text) { AppendLine('-', text, out_); }

void Encoder::Integer(int64_t value) { Header(':', value); }

void Encoder::Bulk(absl::string_view bytes) { AppendBulk('$', bytes, out_); }

void Encoder::Null() { out_->append(protocol_ == Protocol::kResp3 ? "_\r\n" : "$-1\r\n"); }

void Encoder::NullArray() { out_->append(protocol_ == Protocol::kResp3 ? "_\r\n" : "*-1\r\n"); }

void Encoder::Bool(bool value) {
  if (protocol_ == Protocol::kResp2) return Integer(value ? 1 : 0);
  out_->append(value ? "#t\r\n" : "#f\r\n");
}

void Encoder::Double(double value) {
  // The shortest digits that read back as the same value; "inf" and "-inf" as they are, and one
  // "nan" without its sign.
  char digits[32];
  const std::to_chars_result end =
      std::to_chars(digits, digits + sizeof(digits), std::isnan(value) ? std::fabs(value) : value);
  ABSL_ASSERT(end.ec == std::errc());
  const absl::string_view text(digits, static_cast<size_t>(end.ptr - digits));
  if (protocol_ == Protocol::kResp2) return Bulk(text);
  AppendLine(',', text, out_);
}

void Encoder::Verbatim(absl::string_view format, absl::string_view text) {
  ABSL_ASSERT(format.size() == 3);
  if (protocol_ == Protocol::kResp2) return Bulk(text);
  Header('=', static_cast<int64_t>(format.size() + 1 + text.size()));
  out_->append(format.data(), format.size());
  out_->push_back(':');
  out_->append(text.data(), text.size());
  out_->append("\r\n");
}

void Encoder::Array(int64_t count) { Header('*', count); }

void Encoder::Map(int64_t pairs) {
  if (protocol_ == Protocol::kResp2) return Header('*', 2 * pairs);
  Header('%', pairs);
}

void Encoder::Set(int64_t count) { Header(protocol_ == Protocol::kResp2 ? '*' : '~', count); }

void Encoder::Push(int64_t count) { Header(protocol_ == Protocol::kResp2 ? '*' : '>', count); }

void Encoder::Header(char type, int64_t n) { AppendHeader(type, n, out_); }

void AppendCommand(absl::Span<const absl::string_view> args, std::string* out) {
  AppendHeader('*', static_cast<int64_t>(args.size()), out);
  for (const absl::string_view arg : args) AppendBulk('$', arg, out);
}

void AppendCommand(std::initializer_list<absl::string_view> args, std::string* out) {
  AppendCommand(absl::MakeConstSpan(args.begin(), args.size()), out);
}

}  // namespace resp
