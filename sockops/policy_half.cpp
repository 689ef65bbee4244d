#include "sockops/policy_half.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <sockops/policy_map.hpp>

namespace shunt {
namespace {

constexpr uint32_t kPortBlocksOfHalf = SH_POLICY_PORT_BLOCKS / 2;

template <typename T>
bool same(const T& a, const T& b) {
  return memcmp(&a, &b, sizeof(T)) == 0;
}

template <typename K, typename V>
void sort_by_key(std::vector<std::pair<K, V>>& rows) {
  std::sort(rows.begin(), rows.end(),
            [](const auto& a, const auto& b) { return memcmp(&a.first, &b.first, sizeof(K)) < 0; });
}

// Walks through two sorted lists: each key once, with its row in either list or null.
template <typename K, typename V, typename See>
Result<void> compare(const std::vector<std::pair<K, V>>& before, const std::vector<std::pair<K, V>>& now, See see) {
  auto old = before.begin();
  auto fresh = now.begin();
  while (old != before.end() || fresh != now.end()) {
    const int order = old == before.end() ? 1 : fresh == now.end() ? -1 : memcmp(&old->first, &fresh->first, sizeof(K));
    auto seen = see(order <= 0 ? &*old : nullptr, order >= 0 ? &*fresh : nullptr);
    if (!seen) return seen;
    if (order <= 0) ++old;
    if (order >= 0) ++fresh;
  }
  return {};
}

// What is gone is removed first, so that there is room for what comes.
template <typename K, typename V>
Result<void> replace_rows(int map, std::vector<std::pair<K, V>>& before, std::vector<std::pair<K, V>> now,
                          const char* what) {
  using Row = std::pair<K, V>;
  sort_by_key(now);
  auto done = compare(before, now, [&](const Row* old, const Row* fresh) -> Result<void> {
    if (fresh || bpf_map_delete_elem(map, &old->first) == 0 || errno == ENOENT) return {};
    return unexpected(errno, std::string("cannot remove the policy's ") + what);
  });
  if (!done) return done;
  done = compare(before, now, [&](const Row* old, const Row* fresh) -> Result<void> {
    if (!fresh || (old && same(old->second, fresh->second))) return {};
    return write_row(map, fresh->first, fresh->second, what);
  });
  before = std::move(now);
  return done;
}

// Changes cells of blocks, from the first to the last: a block of which some cells stay is read once, and many are
// written together.
class BlockEditor {
 public:
  explicit BlockEditor(int map) : map_(map) {}

  Result<void> write(uint32_t first_cell, std::span<const sh_u16> cells) {
    while (!cells.empty()) {
      const uint32_t number = first_cell / SH_POLICY_BLOCK_CELLS, at = first_cell % SH_POLICY_BLOCK_CELLS;
      const size_t part = std::min(cells.size(), size_t{SH_POLICY_BLOCK_CELLS} - at);
      if (auto turned = turn_to(number, part == SH_POLICY_BLOCK_CELLS); !turned) return turned;
      std::copy_n(cells.begin(), part, blocks_.back().cells + at);
      cells = cells.subspan(part);
      first_cell += static_cast<uint32_t>(part);
    }
    return {};
  }

  Result<void> flush() {
    auto done = write_rows(map_, numbers_, blocks_.data(), "cells");
    numbers_.clear();
    blocks_.clear();
    return done;
  }

 private:
  static constexpr size_t kBlocksMax = 128;  // in memory: 1 MiB

  Result<void> turn_to(uint32_t number, bool whole) {
    if (!numbers_.empty() && numbers_.back() == number) return {};
    if (numbers_.size() == kBlocksMax)
      if (auto flushed = flush(); !flushed) return flushed;
    numbers_.push_back(number);
    blocks_.emplace_back();
    if (whole || bpf_map_lookup_elem(map_, &number, &blocks_.back()) == 0) return {};
    return unexpected(errno, "cannot read the policy's cells");
  }

  int map_;
  std::vector<uint32_t> numbers_;
  std::vector<sh_policy_block> blocks_;
};

}  // namespace

PolicyHalf::PolicyHalf(MapFinder map, uint32_t half) : map_(std::move(map)), half_(half) {}

Result<void> PolicyHalf::write(const PolicyRows& rows) {
  if (!known_) clear();
  auto done = write_differences(rows);
  if (!done) clear();
  return done;
}

Result<void> PolicyHalf::write_differences(const PolicyRows& rows) {
  if (auto done = write_tables(rows); !done) return done;
  if (auto done = write_sets(rows); !done) return done;
  return write_ports(rows.first_port);
}

Result<void> PolicyHalf::write_tables(const PolicyRows& rows) {
  auto subjects = rows.subjects;
  for (auto& [key, value] : subjects) {
    key.half = static_cast<sh_u8>(half_);
    value.table = in_half(value.table, half_);
  }
  auto entries = rows.entries;
  for (auto& [key, value] : entries) {
    key.table = in_half(key.table, half_);
    value.origin = in_half(value.origin, half_);
    if (value.verdict == SH_POLICY_RULES) value.set = in_half(value.set, half_);
  }
  auto cidrs = rows.cidrs;
  for (auto& item : cidrs) item.first.half = static_cast<sh_u8>(half_);
  auto done = replace_rows(map_("sh_pol_subjects"), subjects_, std::move(subjects), "subjects");
  if (done) done = replace_rows(map_("sh_pol_entries"), entries_, std::move(entries), "entries");
  if (done) done = replace_rows(map_("sh_pol_cidrs"), cidrs_, std::move(cidrs), "networks");
  return done;
}

// A set never changes: it is there or not.
void PolicyHalf::remove_stale_sets(const PolicyRows& rows) {
  std::map<uint32_t, const sh_policy_set*> wanted;
  for (const PolicyRows::Set& set : rows.sets) wanted.emplace(set.number, set.set);
  std::erase_if(sets_, [&](const auto& item) {
    const auto& [number, placed] = item;
    const auto found = wanted.find(number);
    if (found != wanted.end() && found->second == placed.set.set) return false;
    const uint32_t key = in_half(number, half_);
    bpf_map_delete_elem(map_("sh_pol_sets"), &key);
    cells_.give_back(placed.first_cell, static_cast<uint32_t>(placed.set.cells.size()));
    results_.give_back(placed.first_result, static_cast<uint32_t>(placed.set.results.size()));
    return true;
  });
}

// No row lies in two blocks.
std::optional<PolicyHalf::PlacedSet> PolicyHalf::place(const PolicyRows::Set& set) {
  const auto cells = static_cast<uint32_t>(set.cells.size()), results = static_cast<uint32_t>(set.results.size());
  const auto first_cell = cells_.take(cells, 1U << set.set->row_shift);
  if (!first_cell) return std::nullopt;
  const auto first_result = results_.take(results);
  if (first_result) return PlacedSet{set, *first_cell, *first_result};
  cells_.give_back(*first_cell, cells);
  return std::nullopt;
}

// What is free may lie in pieces that are too small; one after the other there is room for all.
Result<void> PolicyHalf::write_sets(const PolicyRows& rows) {
  remove_stale_sets(rows);
  std::vector<const PlacedSet*> fresh;
  for (const PolicyRows::Set& set : rows.sets) {
    if (sets_.contains(set.number)) continue;
    const auto placed = place(set);
    if (!placed && sets_.size() == fresh.size()) return unexpected(Error{E2BIG, "the policy's sets do not fit", ""});
    if (!placed) {
      remove_stale_sets({});
      return write_sets(rows);
    }
    fresh.push_back(&sets_.emplace(set.number, *placed).first->second);
  }
  std::sort(fresh.begin(), fresh.end(),
            [](const PlacedSet* a, const PlacedSet* b) { return a->first_cell < b->first_cell; });
  if (auto done = write_cells(fresh); !done) return done;
  for (const PlacedSet* placed : fresh)
    if (auto done = write_set(*placed); !done) return done;
  return {};
}

Result<void> PolicyHalf::write_cells(const std::vector<const PlacedSet*>& fresh) const {
  BlockEditor blocks(map_("sh_pol_blocks"));
  for (const PlacedSet* placed : fresh)
    if (auto done = blocks.write(placed->first_cell, placed->set.cells); !done) return done;
  return blocks.flush();
}

Result<void> PolicyHalf::write_set(const PlacedSet& placed) const {
  std::vector<uint32_t> numbers(placed.set.results.size());
  std::iota(numbers.begin(), numbers.end(), placed.first_result);
  if (auto done = write_rows(map_("sh_pol_results"), numbers, placed.set.results.data(), "results"); !done) return done;
  sh_policy_set set = *placed.set.set;
  set.first_cell = placed.first_cell;
  set.first_result = placed.first_result;
  return write_row(map_("sh_pol_sets"), in_half(placed.set.number, half_), set, "sets");
}

Result<void> PolicyHalf::write_ports(const std::vector<sh_u16>& first_port) {
  for (uint32_t i = 0; i < kPortBlocksOfHalf; i++) {
    const auto begin = first_port.begin() + i * SH_POLICY_BLOCK_CELLS;
    if (!first_port_.empty() &&
        std::equal(begin, begin + SH_POLICY_BLOCK_CELLS, first_port_.begin() + i * SH_POLICY_BLOCK_CELLS))
      continue;
    sh_policy_block block;
    std::copy_n(begin, SH_POLICY_BLOCK_CELLS, block.cells);
    if (auto done = write_row(map_("sh_pol_ports"), half_ * kPortBlocksOfHalf + i, block, "ports"); !done) return done;
  }
  first_port_ = first_port;
  return {};
}

void PolicyHalf::forget() {
  subjects_.clear();
  entries_.clear();
  cidrs_.clear();
  sets_.clear();
  first_port_.clear();
  const uint32_t cells = capacity(map_("sh_pol_blocks")) / 2 * SH_POLICY_BLOCK_CELLS;
  const uint32_t results = capacity(map_("sh_pol_results")) / 2;
  cells_ = NumberRanges(half_ * cells, (half_ + 1) * cells);
  results_ = NumberRanges(half_ * results, (half_ + 1) * results);
}

void PolicyHalf::clear() {
  const auto of_half = [this](const auto& key) { return key.half == half_; };
  remove_if<sh_policy_subject_key>(map_("sh_pol_subjects"), of_half);
  remove_if<sh_policy_cidr_key>(map_("sh_pol_cidrs"), of_half);
  remove_if<sh_policy_key>(map_("sh_pol_entries"), [this](const auto& key) { return (key.table & 1) == half_; });
  remove_if<uint32_t>(map_("sh_pol_sets"), [this](uint32_t number) { return (number & 1) == half_; });
  forget();
  known_ = true;
}

}  // namespace shunt
