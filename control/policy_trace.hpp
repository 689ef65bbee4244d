// `shunt policy trace`: what the policy in force says about two ends that are there now, asked of the kernel's maps.
#pragma once

#include <control/policy_state.hpp>
#include <control/protocol.hpp>

namespace shunt {

// `state` gives names to numbers, as far as this daemon has put the policy in force.
Result<Json> trace_policy(const Engine& engine, const PolicyState& state, const TraceQuery& query);

}  // namespace shunt
