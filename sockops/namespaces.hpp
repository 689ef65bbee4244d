// The host's network namespaces, and work inside them.
#pragma once

#include <bpf/abi/shunt.h>

#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <functional>
#include <string>
#include <vector>

namespace shunt {

// One descriptor for each network namespace that a process lives in, that `ip netns` keeps, or to which one of the
// sockets belongs (`owners`: a namespace may have no process and no name, only sockets in it); the caller's own first.
std::vector<UniqueFd> network_namespaces(const std::vector<sh_owner>& owners = {});

// Runs `work` inside each, on a thread of its own, until it returns false. A namespace that cannot be entered is left
// out.
void in_namespaces(const std::vector<UniqueFd>& namespaces, const std::function<bool()>& work);

// What an iterator over a namespace's sockets writes in each of them, one after the other.
Result<std::string> run_iterator_in(const std::vector<UniqueFd>& namespaces, int program);

// The cookie of the calling thread's network namespace; 0: unknown.
uint64_t own_netns_cookie();

struct ResetReport {
  size_t reset = 0;     // or were gone already
  Result<void> result;  // the first error; one that fails does not hold up the others
};

// Ends the TCP connections that the events are about with a reset (SOCK_DESTROY). The cookie makes sure that it is that
// very socket; one that is gone is no error. Needs CAP_NET_ADMIN, and CAP_SYS_ADMIN for another namespace.
// `owners`: as of network_namespaces().
ResetReport reset_sockets(const std::vector<sh_event>& events, const std::vector<sh_owner>& owners = {});
inline Result<void> reset_socket(const sh_event& event) { return reset_sockets({event}).result; }

}  // namespace shunt
