// Servers of a variant: where they are started, how they are waited for, and the two hosts between which they stand.
#pragma once

#include <base/result.hpp>
#include <bench/cells.hpp>
#include <bench/sandbox.hpp>
#include <functional>
#include <string>
#include <vector>

namespace shunt::bench {

struct StackContext {
  std::string folder;                   // for configurations, logs and data of this stack and variant
  std::string cgroup_procs;             // of the variant
  std::function<double()> cpu_seconds;  // of the variant's cgroup
  int cpu = -1;                         // all on this CPU; -1: on all
};

// A running stack. Goes with its owner: load generators, servers, namespaces, files.
struct RunningStack {
  std::vector<UniqueFd> namespaces;
  std::vector<Process> servers;
  // One measurement. `check` runs look at each answer and are not timed.
  std::function<Sample(int concurrency, double seconds, bool check)> load;
};

Command in_context(const StackContext& context, std::vector<std::string> argv, int netns_fd = -1);
Result<void> start_server(RunningStack* stack, Command command, const std::string& log);
// Until `ready` says so; the servers' death ends the wait.
Result<void> wait_ready(RunningStack* stack, const std::function<bool()>& ready, const std::string& log);
// Commands one after another, their words parted by blanks.
Result<void> run_all(const std::vector<std::string>& lines, int netns_fd);

inline constexpr const char* kClientHost = "10.99.0.1";
inline constexpr const char* kServerHost = "10.99.0.2";

// Two network namespaces with these addresses, joined by a veth pair: the client's and the server's host.
Result<void> make_two_hosts(RunningStack* stack);

}  // namespace shunt::bench
