// The attachments that a policy needs, besides those of the shortcut.
#pragma once

#include <set>
#include <sockops/pins.hpp>
#include <string>
#include <vector>

namespace shunt {

// Descriptors of a loaded generation's programs. They stay the caller's.
struct PolicyPrograms {
  int connect4 = -1, connect6 = -1;  // judge what a client connects to
  int gate_in = -1;                  // delivers nothing of a forbidden connection
  int gate_out = -1;                 // and sends nothing
  int on_mkdir = -1;                 // gives a cgroup that is made again its identity
};

// Which links are to stay: ids of cgroups.
struct PolicyHooks {
  std::set<uint64_t> connect;
  std::set<uint64_t> gate;
};

// Attaches the programs, or puts them into the links that are there; every other link stays as it is.
Result<PolicyHooks> attach_policy_hooks(const Paths& paths, const PolicyPrograms& programs,
                                        const std::vector<std::string>& connect_cgroups,
                                        const std::set<std::string>& governed);

// Puts the programs into all links of a policy that are there.
Result<PolicyHooks> renew_policy_hooks(const Paths& paths, const PolicyPrograms& programs);

// Detaches the others.
void keep_policy_hooks(const Paths& paths, const PolicyHooks& wanted);
void detach_policy_hooks(const Paths& paths);

}  // namespace shunt
