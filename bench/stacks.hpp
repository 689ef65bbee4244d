// Real software, as it is deployed, with and without Shunt. The servers of each variant are started once, from the same
// configuration, in the variant's own cgroup (and network namespaces), and the load is put on them in turns.
#pragma once

#include <base/result.hpp>
#include <bench/cells.hpp>
#include <bench/sandbox.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace shunt::bench {

struct StackContext {
  std::string folder;                   // for configurations, logs and data of this stack and variant
  std::string cgroup_procs;             // of the variant
  std::function<double()> cpu_seconds;  // of the variant's cgroup
  int cpu = -1;                         // all on this CPU; -1: on all
  int index = 0;                        // of the variant: makes addresses and ports differ
};

// A running stack. Goes with its owner: load generators, servers, namespaces, files.
struct RunningStack {
  std::vector<UniqueFd> namespaces;
  std::vector<Process> servers;
  // One measurement. `check` runs look at each answer and are not timed.
  std::function<Sample(int concurrency, double seconds, bool check)> load;
};

struct StackCell {
  std::string name;  // "nginx-chain/c16"
  std::string stack;
  int concurrency = 0;
};

struct StackKind {
  const char* name;
  const char* text;
  std::vector<const char*> programs;  // that must be installed
  std::vector<int> concurrencies;
  Result<std::unique_ptr<RunningStack>> (*start)(const StackContext& context);
  bool one_hop = false;  // from loopback to loopback, so that ports alone tell connections apart
};
extern const std::vector<StackKind> kStacks;
const StackKind& stack_kind(const std::string& name);  // which exists

std::vector<StackCell> all_stack_cells();

}  // namespace shunt::bench
