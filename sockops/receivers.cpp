// What is shipped: the programs that may receive redirected bytes, and what is left alone.
//
// A receiver reads its sockets with read, readv, recv, recvfrom or recvmsg and takes what it gets. It does not splice from
// them, does not ask for MSG_WAITALL, does not discard with recv(NULL, MSG_TRUNC), and does not wait with SO_RCVLOWAT.
// FIONREAD is marked, because some kernels misreport it on sockets in a map.
#include "settings.hpp"

namespace shunt {

std::vector<ProgramEntry> shipped_receivers() {
  return {
      // Servers.
      {.name = "nginx", .uses_fionread = true},
      {.name = "haproxy", .verify = true},
      {.name = "redis-server"},
      {.name = "memcached"},
      {.name = "postgres"},
      {.name = "nghttpd"},
      {.name = "envoy"},
      // Clients.
      {.name = "curl"},
      {.name = "wrk"},
      {.name = "h2load"},
      {.name = "redis-cli"},
      {.name = "redis-benchmark"},
      {.name = "psql"},
      {.name = "pgbench"},
      // Languages.
      {.name = "python3"},
      {.name = "node"},
      {.name = "java", .uses_fionread = true},
  };
}

Selection default_selection() {
  Selection selection;
  selection.ports.exclude = {{15008, 15008}};
  selection.programs.exclude = {"ztunnel", "cilium-agent", "linkerd2-proxy"};
  return selection;
}

}  // namespace shunt
