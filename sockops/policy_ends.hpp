// Who is at the ends of connections, as far as policies tell: cgroups, namespace, user.
#pragma once

#include <sockops/engine.hpp>
#include <sockops/pins.hpp>
#include <string>

namespace shunt {

// The end that a process holds open; its addresses are as the socket has them.
PolicyEnd end_of_owner(const Paths& paths, const sh_owner& owner);

// As those of Engine. `paths` are resolved.
Result<PolicyEnd> end_of_process(const Paths& paths, uint32_t tgid);
Result<PolicyEnd> end_of_cgroup(const Paths& paths, const std::string& name);
Result<PolicyPair> find_pair(const Paths& paths, const Generation& generation, const std::string& local,
                             const std::string& remote);

}  // namespace shunt
