// Regular expressions in the syntax of RE2, which Envoy and so Cilium use, for matching the whole of an ASCII text.
// They become position automata: each character of the text is matched by one position, and no position stands for the
// empty text.
#pragma once

#include <base/result.hpp>
#include <bitset>
#include <cstdint>
#include <string>
#include <vector>

namespace shunt::policy {

using ByteSet = std::bitset<256>;

struct Expression {
  // Why this cannot become an automaton ("a backreference"), though it may be right; the rest is empty then.
  std::string refused;
  std::string prefix;  // what every matching text begins with, as far as it is simple to tell

  std::vector<ByteSet> positions;
  std::vector<std::vector<uint32_t>> follow;  // the positions that may come after each; sorted
  std::vector<uint32_t> first;                // that may come first; sorted
  std::vector<bool> last;                     // may the text end after it?
  bool nullable = false;                      // matches the empty text
  size_t loops = 0;                           // as ExpressionCache counts them

  bool matches(const std::string& text) const;
};

inline constexpr uint32_t kPositionsMax = 4096;        // of one expression, after repetitions are written out
inline constexpr size_t kFollowMax = size_t{1} << 20;  // pairs of positions that follow each other, of one expression

// Is the syntax right? An error says what is wrong and where, counting bytes from 1. Backreferences and assertions that
// look around are right here, though RE2 knows none: they are what cannot be compiled.
Result<void> check_regex(const std::string& text);

// For a text that check_regex() accepts.
Expression compile_regex(const std::string& text);

// Matches any text, as an empty field of a rule does.
Expression any_text();

}  // namespace shunt::policy
