// Live connections under a policy that came into force after them: those that it forbids are ended, idle ones too.
#pragma once

#include <sockops/engine.hpp>
#include <vector>

namespace shunt {

struct SweepReport {
  size_t looked_at = 0;  // ends of connections
  size_t ended = 0;
};

// Those that the policy in force forbids at L3 and L4, or whose requests nobody can judge. One record for each: who is
// reset, and why. `live` is what Engine::live_connections() returned under this policy.
std::vector<sh_event> forbidden_connections(const std::vector<sh_live>& live, const PolicyTables& tables);

// Finds and ends them. Nothing is ended for a policy that is no longer in force by then: after each switch follows
// another sweep. May run beside everything else that is done with the engine.
Result<SweepReport> sweep_connections(const Engine& engine);

}  // namespace shunt
