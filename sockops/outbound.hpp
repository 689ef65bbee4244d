// What leaves the host: which process is the gateway, which services it carries connections to, and the programs that
// bring them to it.
#pragma once

#include <base/result.hpp>
#include <sockops/engine.hpp>
#include <sockops/install_settings.hpp>
#include <string>
#include <vector>

namespace shunt {

// Descriptors of a loaded generation's programs. They stay the caller's.
struct OutboundPrograms {
  int connect4 = -1, connect6 = -1;
  int getpeername4 = -1, getpeername6 = -1;
  int getsockopt = -1;
};

// As Engine::admit_gateway() and Engine::dismiss_gateway(). `cgroup`: its id.
Result<GatewayMaps> admit_gateway(const MapFinder& map, uint32_t uid, uint64_t cgroup);
Result<void> dismiss_gateway(const MapFinder& map);

// Puts these services into the kernel's table and takes all others out. Those that stay are there throughout.
Result<void> write_services(const MapFinder& map, const std::vector<OutboundService>& services);

// Attaches the programs to these cgroups, and to no others.
Result<void> attach_outbound(const Paths& paths, const OutboundPrograms& programs,
                             const std::vector<std::string>& cgroups);

}  // namespace shunt
