// Reads the policy in force from its maps.
#pragma once

#include <memory>
#include <sockops/engine.hpp>
#include <sockops/install_settings.hpp>

namespace shunt {

std::unique_ptr<PolicyTables> read_policy_tables(MapFinder map);

}  // namespace shunt
