// Which of the known words was meant?
#pragma once

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shunt {

// The candidate nearest to `text` by edit distance, if near enough to have been meant.
inline std::optional<std::string> nearest(std::string_view text, const std::vector<std::string>& candidates) {
  constexpr size_t kTextMax = 64;
  if (text.empty() || text.size() > kTextMax) return std::nullopt;
  const std::string* best = nullptr;
  size_t best_distance = std::max<size_t>(2, text.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    std::vector<size_t> row(candidate.size() + 1);
    std::iota(row.begin(), row.end(), size_t{0});
    for (size_t i = 1; i <= text.size(); i++) {
      size_t diagonal = std::exchange(row[0], i);
      for (size_t j = 1; j <= candidate.size(); j++) {
        const size_t substituted = diagonal + (text[i - 1] == candidate[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
      }
    }
    if (row.back() < best_distance && row.back() < candidate.size()) {
      best_distance = row.back();
      best = &candidate;
    }
  }
  return best != nullptr ? std::optional(*best) : std::nullopt;
}

}  // namespace shunt
