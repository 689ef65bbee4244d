// An input of the fuzzers of HTTP/1 heads: the first byte chooses what is parsed, the second where the input is split.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <optional>

#include "both_ways.hpp"
#include "support/l7_judge.hpp"

namespace shunt::test {

struct Http1Input {
  l7_http1_kind kind;
  std::string_view bytes;
  l7::Http1Head head;  // of all bytes
};

// Ends the program if something else comes out when the bytes arrive in parts, or what is simple is read otherwise by
// another parser. Absent: too short.
inline std::optional<Http1Input> http1_input(const uint8_t* data, size_t size) {
  if (size < 2) return std::nullopt;
  const auto kind = l7_http1_kind(data[0] % 3);
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  const l7::Http1Head once = parsed_both_ways(l7::Http1Head(kind), bytes, data[1]);
  if (once.outcome().verdict == L7_SIMPLE) {
    const std::string difference = l7_judge(once, bytes);
    if (!difference.empty()) {
      fprintf(stderr, "%s\n", difference.c_str());
      abort();
    }
  }
  return Http1Input{kind, bytes, once};
}

}  // namespace shunt::test
