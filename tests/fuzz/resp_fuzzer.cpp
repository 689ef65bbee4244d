// Redis commands from any bytes: the first byte chooses where the input is split. No read behind the end, the same
// result however the bytes arrive, and all that is named lies in what was parsed.
#include <cstdlib>
#include <vector>

#include "support/l7_vectors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shunt;
  if (size < 1) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  // Memory of its own, so that a read behind its end is seen.
  const std::vector<char> part(bytes.data(), bytes.data() + data[0] * bytes.size() / 255);

  l7::RespCommand once, resumed;
  once.parse(bytes);
  const l7_verdict early = resumed.parse({part.data(), part.size()});
  if (early != L7_INCOMPLETE && early != once.outcome().verdict) abort();
  resumed.parse(bytes);
  if (!test::l7_same_result(once.raw(), resumed.raw())) abort();
  if (once.outcome().verdict != L7_SIMPLE) return 0;
  const l7_outcome& out = once.outcome();
  if (out.head_bytes > bytes.size() || out.unit_bytes < out.head_bytes) abort();
  if (once.name().empty() || once.key_count() > L7_RESP_KEYS_MAX) abort();
  for (size_t i = 0; i < once.key_count(); i++) {
    const l7_range key = once.raw().keys[i];
    if (key.off + key.len + 2u > out.head_bytes || bytes.substr(key.off + key.len, 2) != "\r\n") abort();
  }
  return 0;
}
