// Redis commands from any bytes: the first byte chooses where the input is split. No read behind the end, the same
// result however the bytes arrive, and all that is named lies in what was parsed.
#include <cstdlib>

#include "both_ways.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shunt;
  if (size < 1) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const l7::RespCommand once = test::parsed_both_ways(l7::RespCommand(), bytes, data[0]);
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
