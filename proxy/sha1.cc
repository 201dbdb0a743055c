#include "proxy/sha1.h"

#include <openssl/evp.h>

#include "absl/base/macros.h"
#include "absl/strings/escaping.h"

namespace proxy {

std::string Sha1Hex(absl::string_view text) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  const int done = EVP_Digest(text.data(), text.size(), digest, &size, EVP_sha1(), nullptr);
  ABSL_HARDENING_ASSERT(done == 1);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest), static_cast<size_t>(size)));
}

}  // namespace proxy
