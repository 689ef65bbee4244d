// Who holds which socket: processes, programs, units. The kernel side knows the program that called connect() or
// listen(); this looks at the descriptors of live processes.
#pragma once

#include <base/result.hpp>
#include <sockops/pins.hpp>
#include <string>
#include <unordered_map>
#include <vector>

namespace shunt {

constexpr uint32_t kTcpListen = 10;  // sh_owner.tcp_state: enum of include/net/tcp_states.h

// All TCP sockets that processes hold open, in all network namespaces; one entry for each descriptor.
Result<std::vector<sh_owner>> socket_owners(const Generation& generation);

// Every network namespace that may hold enrolled sockets; those without a process are found through the sockets'
// owners.
std::vector<UniqueFd> namespaces_with_sockets(const Paths& paths);

// Cgroup ids to names: the systemd unit, or the path below the mount.
class CgroupNames {
 public:
  explicit CgroupNames(std::string root) : root_(std::move(root)) {}
  std::string name(uint64_t id);  // empty if it is gone

 private:
  void scan();
  std::string root_;
  bool scanned_ = false;
  std::unordered_map<uint64_t, std::string> names_;
};

// enum sh_reason: why this process may not receive redirected bytes (a Go binary, splicing configured), or SH_R_NONE.
uint32_t inspect_process(uint32_t tgid);

}  // namespace shunt
