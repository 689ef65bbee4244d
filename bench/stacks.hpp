// Real software, as it is deployed, with and without Shunt. The servers of each variant are started once, from the same
// configuration, in the variant's own cgroup (and network namespaces), and the load is put on them in turns.
#pragma once

#include <base/result.hpp>
#include <bench/servers.hpp>
#include <memory>
#include <string>
#include <vector>

namespace shunt::bench {

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
