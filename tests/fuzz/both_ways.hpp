// A parser core must come to the same however its input arrives.
#pragma once

#include <cstdlib>
#include <vector>

#include "support/l7_vectors.hpp"

namespace shunt::test {

// What `begun` makes of the bytes at once. Ends the program if it makes something else of them when the first
// cut / 255 of them come before the rest.
template <typename Parser>
Parser parsed_both_ways(const Parser& begun, std::string_view bytes, uint8_t cut) {
  // Memory of its own, so that a read behind its end is seen.
  const std::vector<char> part(bytes.data(), bytes.data() + cut * bytes.size() / 255);
  Parser once = begun, resumed = begun;
  once.parse(bytes);
  const l7_verdict early = resumed.parse({part.data(), part.size()});
  if (early != L7_INCOMPLETE && early != once.outcome().verdict) abort();
  resumed.parse(bytes);
  if (!l7_same_result(once.raw(), resumed.raw())) abort();
  return once;
}

}  // namespace shunt::test
