// One half of a policy's maps: subjects, entries, networks, sets and ports. Remembers what it wrote there, so that the
// next policy for this half costs what differs. Only for the half that is not in force: it is neither the one policy
// nor the other meanwhile.
#pragma once

#include <base/number_ranges.hpp>
#include <base/result.hpp>
#include <bpf/abi/policy_rows.hpp>
#include <map>
#include <optional>
#include <sockops/install_settings.hpp>
#include <vector>

namespace shunt {

class PolicyHalf {
 public:
  PolicyHalf(MapFinder map, uint32_t half);

  // The half says what the rows say. On an error it is empty.
  Result<void> write(const PolicyRows& rows);
  void clear();

 private:
  template <typename K, typename V>
  using Rows = std::vector<std::pair<K, V>>;  // sorted by the bytes of their keys

  struct PlacedSet {
    PolicyRows::Set set;
    uint32_t first_cell = 0;
    uint32_t first_result = 0;
  };

  Result<void> write_differences(const PolicyRows& rows);
  Result<void> write_tables(const PolicyRows& rows);
  Result<void> write_sets(const PolicyRows& rows);
  void remove_stale_sets(const PolicyRows& rows);
  std::optional<PlacedSet> place(const PolicyRows::Set& set);
  Result<void> write_set(const PlacedSet& placed) const;
  Result<void> write_cells(const std::vector<const PlacedSet*>& fresh) const;
  Result<void> write_ports(const std::vector<sh_u16>& first_port);
  void forget();

  MapFinder map_;
  uint32_t half_;
  bool known_ = false;
  Rows<sh_policy_subject_key, sh_policy_subject> subjects_;
  Rows<sh_policy_key, sh_policy_entry> entries_;
  Rows<sh_policy_cidr_key, sh_u32> cidrs_;
  std::map<uint32_t, PlacedSet> sets_;  // by number
  NumberRanges cells_{0, 0}, results_{0, 0};
  std::vector<sh_u16> first_port_;
};

}  // namespace shunt
