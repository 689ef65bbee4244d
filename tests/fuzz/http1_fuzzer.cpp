// Heads of HTTP/1 from any bytes: the first byte chooses what is parsed, the second where the input is split. No read
// behind the end, the same result however the bytes arrive, and what is simple is read alike by another parser.
#include <cstdio>
#include <cstdlib>

#include "both_ways.hpp"
#include "support/l7_judge.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shunt;
  if (size < 2) return 0;
  const auto kind = l7_http1_kind(data[0] % 3);
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  const l7::Http1Head once = test::parsed_both_ways(l7::Http1Head(kind), bytes, data[1]);
  if (once.outcome().verdict != L7_SIMPLE) return 0;
  const std::string difference = test::l7_judge(once, bytes);
  if (!difference.empty()) {
    fprintf(stderr, "%s\n", difference.c_str());
    abort();
  }
  return 0;
}
