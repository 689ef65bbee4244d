// Puts compiled policies in force: the maps of bpf/abi/policy.h of one generation of the programs.
//
// A policy is written into the half that is not in force, as far as it differs from what lies there; then the head
// switches. Its tables and sets have numbers of which the lowest bit is the half, its cells and results lie in the
// half's part of the arrays: nothing that is in force is touched. What was in force before stays until the next policy
// is written over it, when no program can be looking at it any more.
#pragma once

#include <base/result.hpp>
#include <bpf/abi/policy_rows.hpp>
#include <chrono>
#include <functional>
#include <future>
#include <sockops/engine.hpp>
#include <sockops/install_settings.hpp>
#include <sockops/policy_half.hpp>
#include <sockops/policy_hits.hpp>
#include <sockops/policy_hooks.hpp>
#include <sockops/policy_places.hpp>
#include <string>
#include <vector>

namespace shunt {

class PolicyLoader {
 public:
  // `watch` has the socket options of a cgroup watched, by its id: where requests are judged no connection may be left
  // out because that comes too late.
  PolicyLoader(Paths paths, MapFinder map, PolicyPrograms programs, std::function<Result<void>(uint64_t)> watch);

  // As Engine::set_policy. Attaches what it needs, if attach() was called before. What the policy before leaves is
  // cleared by the next call of any that is not const; settled_fd() is readable when that need not wait any more.
  Result<void> put(const PolicyRows& rows, sh_policy_existing existing);
  Result<void> drop();
  Result<bool> refresh();

  // The policy's programs join those of the shortcut in these cgroups; without a policy they are detached.
  Result<void> attach(const std::vector<std::string>& cgroups);
  // The gate stands before the sockets of this cgroup, too, in place of the one named before.
  Result<void> govern_also(const std::string& cgroup);
  // All is detached and no policy is in force any more; somebody else did that.
  void detached();

  uint32_t generation() const;  // in force; 0: none
  PolicyReport report() const;
  std::vector<uint64_t> hits();  // as Engine::policy_hits
  int settled_fd() const { return settled_.get(); }

 private:
  using Clock = std::chrono::steady_clock;

  Result<void> check_room(const PolicyRows& rows) const;
  Result<void> check_places(const std::vector<WorkloadPlace>& places) const;
  Result<void> write_half(const PolicyRows& rows, const WorkloadRows& workloads, uint32_t half);
  Result<void> write_judged(const std::vector<bool>& judged, uint32_t half);
  Result<void> write_workloads(const WorkloadRows& rows) const;
  Result<void> remove_workloads(const WorkloadRows& rows, uint32_t half);
  void clear_workloads(uint32_t half);
  void clear_half(uint32_t half);
  Result<void> switch_to(uint32_t generation, const PolicyRows& rows, uint32_t by, sh_policy_existing existing) const;
  void begin_settling(uint32_t half);
  void settle();
  Result<void> attach_hooks(const std::vector<WorkloadPlace>& places);
  std::vector<WorkloadPlace> known_places(const std::vector<PolicyRows::Workload>& workloads) const;
  std::set<std::pair<std::string, uint64_t>> governed(const std::vector<WorkloadPlace>& places) const;
  std::vector<WorkloadPlace> find(const std::vector<PolicyRows::Workload>& workloads,
                                  const std::vector<WorkloadPlace>& before, bool search);

  Paths paths_;
  MapFinder map_;
  PolicyPrograms programs_;
  std::function<Result<void>(uint64_t)> watch_;
  bool attached_ = false;
  std::vector<std::string> cgroups_;  // of the shortcut
  std::string governed_too_;          // empty: none
  bool known_ = false;                // the policy in force was put in force by this loader
  std::vector<PolicyRows::Workload> workloads_;
  WorkloadRows written_;                                 // of the half in force
  std::set<std::pair<std::string, uint64_t>> governed_;  // folders that the gate is attached to, with their ids
  PolicyHooks hooks_;
  PolicyReport report_;
  PolicyHits hits_;
  PolicyHalf halves_[2];
  std::vector<uint8_t> judged_;  // as it lies in the map; empty: not read yet
  Clock::time_point next_search_;
  uint32_t refreshes_ = 0;
  UniqueFd settled_;
  uint32_t settling_half_ = 0;      // in force since the last switch
  std::future<void> last_readers_;  // valid until settle(): ends when no program uses the other half any more
};

// Returns when every program that was running has ended. Any thread may call it.
void wait_for_programs();

// The head of a generation's maps: no policy is in force.
Result<void> end_policy(int heads_map);

Result<sh_policy_head> read_policy_head(int heads_map);

}  // namespace shunt
