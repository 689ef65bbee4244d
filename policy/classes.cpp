#include <map>
#include <policy/classes.hpp>
#include <set>

namespace shunt::policy {

void Classes::add(const ByteSet& set) {
  if (set.count() == 1) {
    single_ |= set;
  } else if (set.any()) {
    sets_.insert(set);
  }
}

void Classes::finish() {
  of_.fill(0);
  uint32_t count = 1;
  const auto refine = [&](const auto& inside) {
    std::map<std::pair<uint32_t, bool>, uint32_t> fresh;
    for (unsigned c = 0; c < 256; c++) {
      const auto key = std::pair(uint32_t{of_[c]}, inside(c));
      of_[c] = static_cast<uint8_t>(fresh.emplace(key, fresh.size()).first->second);
    }
    count = static_cast<uint32_t>(fresh.size());
  };
  for (const ByteSet& set : sets_) refine([&](unsigned c) { return bool{set[c]}; });
  for (unsigned single = 0; single < 256; single++) {
    if (single_[single]) refine([&](unsigned c) { return c == single; });
  }
  byte_in_.assign(count, 0);
  for (unsigned c = 0; c < 256; c++) byte_in_[of_[c]] = static_cast<uint8_t>(c);
}

std::vector<uint8_t> Classes::in_any(const ByteSet& set) const {
  std::set<uint8_t> found;
  for (unsigned c = 0; c < 256; c++) {
    if (set[c]) found.insert(of_[c]);
  }
  return {found.begin(), found.end()};
}

std::vector<uint8_t> Classes::in(const ByteSet& set) const {
  std::vector<uint8_t> found;
  for (uint32_t i = 0; i < count(); i++) {
    if (set[byte_in_[i]]) found.push_back(static_cast<uint8_t>(i));
  }
  return found;
}

std::optional<uint8_t> Classes::split(const ByteSet& set) {
  for (unsigned c = 0; c < 256; c++) {
    const uint8_t from = of_[c];
    if (set[c] == set[byte_in_[from]]) continue;
    const auto fresh = static_cast<uint8_t>(count());
    const bool inside = set[c];
    for (unsigned other = 0; other < 256; other++) {
      if (of_[other] == from && set[other] == inside) of_[other] = fresh;
    }
    byte_in_.push_back(static_cast<uint8_t>(c));
    return from;
  }
  return std::nullopt;
}

}  // namespace shunt::policy
