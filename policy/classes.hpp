// The classes of bytes that no expression and no header of a set tells apart.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <policy/regex.hpp>
#include <unordered_set>
#include <vector>

namespace shunt::policy {

class Classes {
 public:
  // Sets that must be unions of classes; then finish().
  void add(const ByteSet& set);
  void finish();

  uint32_t count() const { return static_cast<uint32_t>(byte_in_.size()); }
  uint8_t of(unsigned byte) const { return of_[byte]; }
  // Those that have at least one byte of the set, whether or not it was added; sorted.
  std::vector<uint8_t> in_any(const ByteSet& set) const;
  // Those of a set that was added; sorted.
  std::vector<uint8_t> in(const ByteSet& set) const;

  // Makes two of one class that has bytes inside the set and outside; the new one has the highest number. Returns the
  // number of the other; absent: the set is a union of classes already.
  std::optional<uint8_t> split(const ByteSet& set);

 private:
  ByteSet single_;
  std::unordered_set<ByteSet> sets_;
  std::array<uint8_t, 256> of_{};
  std::vector<uint8_t> byte_in_;  // of each class
};

}  // namespace shunt::policy
