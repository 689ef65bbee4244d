// Rows as maps would hold them.
#pragma once

#include <gtest/gtest.h>

#include <bpf/abi/policy_rows.hpp>
#include <bpf/abi/policy_source.hpp>
#include <map>
#include <tuple>
#include <vector>

namespace shunt::test {

// The sets lie one after the other.
class RowSource : public PolicySource {
 public:
  explicit RowSource(const PolicyRows& rows) : rows_(rows) {
    for (const auto& [key, value] : rows.subjects) subjects_[{key.identity, key.direction}] = value;
    for (const auto& [key, value] : rows.entries) entries_[{key.table, key.peer, key.port}] = value;
    EXPECT_EQ(subjects_.size(), rows.subjects.size());
    EXPECT_EQ(entries_.size(), rows.entries.size());
    for (const PolicyRows::Set& set : rows.sets) {
      sh_policy_set& placed = sets_[set.number] = *set.set;
      cells_.resize(PolicyRows::first_cell(cells_.size(), set));
      placed.first_cell = static_cast<sh_u32>(cells_.size());
      placed.first_result = static_cast<sh_u32>(results_.size());
      cells_.insert(cells_.end(), set.cells.begin(), set.cells.end());
      results_.insert(results_.end(), set.results.begin(), set.results.end());
    }
    EXPECT_EQ(cells_.size(), rows.cells());
    blocks_.resize((cells_.size() + SH_POLICY_BLOCK_CELLS - 1) / SH_POLICY_BLOCK_CELLS);
    for (size_t i = 0; i < cells_.size(); i++)
      blocks_[i / SH_POLICY_BLOCK_CELLS].cells[i % SH_POLICY_BLOCK_CELLS] = cells_[i];
  }
  sh_u8 half() const override { return 0; }
  bool subject(const sh_policy_subject_key& key, sh_policy_subject& value) const override {
    const auto found = subjects_.find({key.identity, key.direction});
    if (found != subjects_.end()) value = found->second;
    return found != subjects_.end();
  }
  bool entry(const sh_policy_key& key, sh_policy_entry& value) const override {
    const auto found = entries_.find({key.table, key.peer, key.port});
    if (found != entries_.end()) value = found->second;
    return found != entries_.end();
  }
  sh_u16 first_port(sh_u16 port) const override { return rows_.first_port[port]; }
  bool judged(sh_u16 port) const override { return rows_.judged[port]; }
  bool set(sh_u32 number, sh_policy_set& value) const override {
    const auto found = sets_.find(number);
    if (found != sets_.end()) value = found->second;
    return found != sets_.end();
  }
  const struct sh_policy_block* block(sh_u32 number) const override {
    return number < blocks_.size() ? &blocks_[number] : nullptr;
  }
  sh_policy_result result(sh_u32 index) const override { return results_.at(index); }

  // As a trie does: the longest prefix, over all 128 bits.
  sh_u32 identity_of(const std::array<sh_u8, SH_ADDR_BYTES>& address) const override {
    sh_u32 identity = SH_IDENTITY_WORLD;
    sh_u32 longest = 0;
    for (const auto& [key, value] : rows_.cidrs) {
      EXPECT_EQ(key.half, 0);
      EXPECT_GE(key.prefix_bits, 32u);
      bool inside = true;
      for (sh_u32 bit = 0; bit + 32 < key.prefix_bits; bit++)
        inside &= ((key.addr[bit / 8] ^ address[bit / 8]) >> (7 - bit % 8) & 1) == 0;
      if (!inside || key.prefix_bits < longest) continue;
      longest = key.prefix_bits;
      identity = value;
    }
    return identity;
  }

 private:
  const PolicyRows& rows_;
  std::map<std::pair<sh_u32, int>, sh_policy_subject> subjects_;
  std::map<std::tuple<sh_u32, sh_u32, sh_u16>, sh_policy_entry> entries_;
  std::map<sh_u32, sh_policy_set> sets_;
  std::vector<sh_u16> cells_;
  std::vector<struct sh_policy_block> blocks_;
  std::vector<sh_policy_result> results_;
};

}  // namespace shunt::test
