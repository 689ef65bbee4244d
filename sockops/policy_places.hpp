// Where the workloads of a policy are on this host: cgroups and network namespaces.
#pragma once

#include <algorithm>
#include <base/result.hpp>
#include <bpf/abi/policy_rows.hpp>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <sockops/engine.hpp>
#include <string>
#include <vector>

namespace shunt {

// The workload keys of one half, and the paths that are workloads whenever they exist.
struct WorkloadRows {
  struct Less {
    template <typename K>
    bool operator()(const K& a, const K& b) const {
      return memcmp(&a, &b, sizeof(K)) < 0;
    }
  };
  std::map<sh_policy_workload_key, uint32_t, Less> keys;
  std::map<sh_policy_path_key, sh_policy_path, Less> paths;
  std::map<sh_policy_remote_key, uint32_t, Less> remotes;  // on other hosts
  uint32_t by = 0;                                         // sh_policy_head.by of the half

  bool has_keys_of(const WorkloadRows& other) const {
    return by == other.by && keys.size() == other.keys.size() &&
           std::equal(keys.begin(), keys.end(), other.keys.begin(), [](const auto& a, const auto& b) {
             return memcmp(&a.first, &b.first, sizeof(a.first)) == 0 && a.second == b.second;
           });
  }
};

// Finds each workload. What `before` says is taken over where it still holds, so that little is looked at: the same
// workloads in the same order, or empty. The tree of cgroups is searched only if `search` is set and something is not
// at its place. Folders that do not belong to root are not searched: their owner may give them any name.
std::vector<WorkloadPlace> find_places(const Paths& paths, const std::vector<PolicyRows::Workload>& workloads,
                                       const std::vector<WorkloadPlace>& before, bool search);

// Two workloads with different identities that are the same processes, or have the same SPIFFE ID, are an error, whose
// message names both.
Result<WorkloadRows> workload_rows(const std::vector<WorkloadPlace>& places, uint32_t half);

// The cgroups below which all workloads are, also those that are made again: each one's nearest folder above that is
// there. Sorted; none lies below another.
std::set<std::string> governed_cgroups(const Paths& paths, const std::vector<WorkloadPlace>& places);

// Is there any cgroup below the mount?
bool has_cgroups(const Paths& paths);

// Was this cgroup removed? Needs CAP_DAC_READ_SEARCH.
bool is_cgroup_gone(const Paths& paths, uint64_t cgroup);

}  // namespace shunt
