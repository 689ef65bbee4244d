// A compiled policy as rows in the layout of policy.h: what the compiler hands to whoever puts it in force. Tables,
// sets and origins keep their numbers from one policy to the next as long as they are the same, and have half 0; which
// half it goes to, and where its cells lie, is for who installs it.
#ifndef SHUNT_ABI_POLICY_ROWS_HPP
#define SHUNT_ABI_POLICY_ROWS_HPP

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "policy.h"

namespace shunt {

struct PolicyRows {
  // One set.
  struct Set {
    uint32_t number = 0;
    std::shared_ptr<const void> owner;   // of all below: as long as it lives, the same address is the same set
    const sh_policy_set* set = nullptr;  // with first_cell and first_result 0
    std::span<const sh_u16> cells;
    std::span<const sh_policy_result> results;
  };

  // The processes of a workload: all that is given must hold. At most one of cgroup, unit and container_id. Nothing but
  // a SPIFFE ID: it is on other hosts alone.
  struct Workload {
    std::string title;
    uint32_t identity = 0;
    std::string cgroup;  // "/system.slice/api.service", below the cgroup v2 mount
    std::string unit;    // "api.service", "web.slice"
    std::string container_id;
    std::optional<uint32_t> uid;
    std::string network_namespace;  // the path of its file
    std::string spiffe;             // who it is on other hosts ...
    sh_remote remote = {};          // ... to the kernel side

    bool has_cgroup() const { return !cgroup.empty() || !unit.empty() || !container_id.empty(); }
    bool is_here() const { return spiffe.empty() || has_cgroup() || uid || !network_namespace.empty(); }
  };

  // The counters of an entry that names a set: of no rule, and of each of its rules. The keys belong to the tables that
  // the rows were made of, which must outlive them.
  struct Counted {
    uint32_t origin = 0;
    std::span<const uint64_t> keys;
  };

  std::vector<std::pair<sh_policy_subject_key, sh_policy_subject>> subjects;
  std::vector<std::pair<sh_policy_key, sh_policy_entry>> entries;
  std::vector<std::pair<sh_policy_cidr_key, sh_u32>> cidrs;
  std::vector<Set> sets;  // different numbers
  std::vector<Counted> counted;
  std::vector<sh_u16> first_port;  // 65,536, as in Tables
  std::vector<bool> judged;        // 65,536: ports on which requests are judged
  std::vector<Workload> workloads;
  bool requests = false;  // an entry names a set

  // Where a set may begin at or behind a cell: no row lies in two blocks.
  static size_t first_cell(size_t at, const Set& set) {
    const size_t row = size_t{1} << set.set->row_shift;
    return (at + row - 1) / row * row;
  }
  // Of all sets, with what lies unused between them.
  size_t cells() const {
    size_t count = 0;
    for (const Set& set : sets) count = first_cell(count, set) + set.cells.size();
    return count;
  }
  size_t results() const {
    size_t count = 0;
    for (const Set& set : sets) count += set.results.size();
    return count;
  }
};

}  // namespace shunt

#endif
