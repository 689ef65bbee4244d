// Numbers that are given out, and again when they came back: they stay as low as what is in use allows.
#pragma once

#include <cstdint>
#include <iterator>
#include <map>
#include <optional>

namespace shunt {

class NumberRanges {
 public:
  explicit NumberRanges(uint32_t first, uint32_t end = UINT32_MAX) { free_.emplace(first, end - first); }

  // The first of `count` numbers in a row, a multiple of `step`; nothing: there is no such range.
  std::optional<uint32_t> take(uint32_t count, uint32_t step = 1) {
    for (auto range = free_.begin(); range != free_.end(); ++range) {
      const auto [begin, size] = *range;
      const uint64_t first = (uint64_t{begin} + step - 1) / step * step;
      const uint64_t left = uint64_t{begin} + size;
      if (first + count > left) continue;
      free_.erase(range);
      if (first > begin) free_.emplace(begin, static_cast<uint32_t>(first - begin));
      if (first + count < left)
        free_.emplace(static_cast<uint32_t>(first + count), static_cast<uint32_t>(left - first - count));
      return static_cast<uint32_t>(first);
    }
    return std::nullopt;
  }

  // Of what was taken.
  void give_back(uint32_t first, uint32_t count) {
    auto range = free_.emplace(first, count).first;
    const auto next = std::next(range);
    if (next != free_.end() && first + count == next->first) {
      range->second += next->second;
      free_.erase(next);
    }
    if (range == free_.begin()) return;
    const auto before = std::prev(range);
    if (before->first + before->second != first) return;
    before->second += range->second;
    free_.erase(range);
  }

 private:
  std::map<uint32_t, uint32_t> free_;  // first to count; no two touch
};

}  // namespace shunt
