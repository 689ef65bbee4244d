// What is shipped: the programs that may receive redirected bytes, and what is left alone.
//
// A receiver takes its bytes with read, readv, recv, recvfrom or recvmsg and is content with what it gets. It does
// not splice from its sockets, does not ask for MSG_WAITALL, does not discard with recv(NULL, MSG_TRUNC), and does
// not wait with SO_RCVLOWAT. It reads after poll or epoll, or with non-blocking descriptors: a recv() that *blocks*
// on a socket in a map answers EAGAIN to any wake-up without data (a signal, SIGSTOP and SIGCONT, another thread that
// reads or sends).
//
// "Checked by strace" means: its reads of TCP sockets were recorded while it did its usual work, large and small, and
// were of these kinds only.
#include "settings.hpp"

namespace shunt {

namespace {

// Left out on purpose, although they are common:
//  - redis-cli: hiredis blocks in recv() without poll (checked by strace with redis-cli 7.0) and reports EAGAIN as
//  error.
//  - java: the same name is every JDK; before 13 its sockets block in recv() without poll, and InputStream.available()
//  is
//    FIONREAD (checked by strace with OpenJDK 17).
//  - Go programs (caddy, etcd, hey, traefik, docker-proxy): io.Copy between two TCP connections splices.
//  - dotnet: FIONREAD, and never tried here.
const std::vector<ProgramEntry> kServers = {
    // epoll, recv and readv of non-blocking sockets. FIONREAD after a read tells it whether to read again, with an
    // edge-triggered epoll: a wrong 0 stalls it for good. Checked by strace with nginx 1.22 serving, proxying and
    // taking uploads.
    {.name = "nginx", .uses_fionread = true},
    // epoll, recv of non-blocking sockets; recv(NULL, MSG_TRUNC) only where it falls back to a plain recv. The
    // splicing options make it splice: the daemon looks for them in its configuration. Checked by strace with haproxy
    // 2.6, HTTP, without them.
    {.name = "haproxy", .verify = true},
    // epoll, read of non-blocking sockets. Checked by strace with redis-server 7.0 under redis-benchmark.
    // Debian's redis-server is a link to redis-check-rdb: the three are one executable.
    {.name = "redis-server"},
    {.name = "redis-check-rdb"},
    {.name = "redis-check-aof"},
    // libevent, read of non-blocking sockets. Checked by strace with memcached 1.6.
    {.name = "memcached"},
    // recv of non-blocking sockets, then epoll; SO_KEEPALIVE and TCP_NODELAY only. Checked by strace with PostgreSQL
    // 15 under psql and pgbench.
    {.name = "postgres"},
    // epoll, read of non-blocking sockets. Checked by strace with Apache 2.4, mpm_event, serving and taking uploads.
    {.name = "apache2"},
    // libev, read of non-blocking sockets. Checked by strace with nghttpd 1.52.
    {.name = "nghttpd"},
    // libevent, readv of non-blocking sockets; listener filters look with MSG_PEEK, which works on redirected bytes.
    // By its documentation; not tried.
    {.name = "envoy"},
};

const std::vector<ProgramEntry> kClients = {
    // poll, recv of non-blocking sockets. Checked by strace with curl 7.88, down- and uploads.
    {.name = "curl"},
    // epoll, read of non-blocking sockets. It asks FIONREAD only after a read that filled its buffer, and a wrong 0
    // only sends it back to a level-triggered epoll. Checked by strace with wrk 4.1.
    {.name = "wrk"},
    // epoll, read of non-blocking sockets. Checked by strace with ab 2.3.
    {.name = "ab"},
    // libev, read of non-blocking sockets. Checked by strace with h2load 1.52.
    {.name = "h2load"},
    // Non-blocking after connect(), unlike redis-cli. Checked by strace with redis-benchmark 7.0.
    {.name = "redis-benchmark"},
    // libpq: non-blocking sockets, poll, recv. Checked by strace with psql and pgbench 15.
    {.name = "psql"},
    {.name = "pgbench"},
};

// The base name in /proc/PID/exe carries the version.
const std::vector<ProgramEntry> kLanguages = {
    // libuv: epoll, read of non-blocking sockets; streams are piped through user space. Checked by strace with node
    // 20, as server and client. Debian's is "node", older ones "nodejs".
    {.name = "node"},
    {.name = "nodejs"},
    // asyncio and every socket with a timeout: non-blocking, epoll or poll, recv. A socket without a timeout blocks in
    // recv()
    // and stays on TCP. Checked by strace with Python 3.11: urllib, asyncio, http.server.
    {.name = "python3", .may_block = true},
    {.name = "python3.9", .may_block = true},
    {.name = "python3.10", .may_block = true},
    {.name = "python3.11", .may_block = true},
    {.name = "python3.12", .may_block = true},
    {.name = "python3.13", .may_block = true},
    {.name = "python3.14", .may_block = true},
};

}  // namespace

std::vector<ProgramEntry> shipped_receivers() {
  std::vector<ProgramEntry> all;
  for (const auto* group : {&kServers, &kClients, &kLanguages}) all.insert(all.end(), group->begin(), group->end());
  return all;
}

// Connections between applications and their sidecars are what the shortcut is for: the sidecars' data ports (Istio
// and Kuma 15001 and 15006, Linkerd 4140, Consul 21000) and users (Istio 1337, Linkerd 2102, Kuma 5678) are therefore
// *not* excluded. What carries encrypted tunnels, configuration or administration of a mesh is left alone: it is not
// request traffic of applications, and an operator who looks for a fault there must not find another mechanism in it.
Selection default_selection() {
  Selection selection;
  selection.ports.exclude = {
      {4143, 4143},    // Linkerd: inbound proxy, mutual TLS between proxies
      {4190, 4191},    // Linkerd: control of the proxy, its admin and metrics
      {5678, 5681},    // Kuma: configuration of its proxies, API
      {8502, 8503},    // Consul: gRPC and xDS
      {9901, 9901},    // Envoy: admin
      {15000, 15000},  // Istio: Envoy's admin
      {15004, 15004},  // Istio: debug interface
      {15008, 15008},  // Istio: HBONE, the ambient mesh's encrypted tunnel
      {15010, 15012},  // Istio: xDS and certificates, plain and TLS
      {15014, 15014},  // Istio: the control plane's monitoring
      {15017, 15017},  // Istio: webhooks
      {15020, 15021},  // Istio: merged metrics, health
      {15053, 15053},  // Istio: captured DNS over TCP
      {15090, 15090},  // Istio: Envoy's metrics
      {19000, 19000},  // Consul: Envoy's admin
  };
  selection.programs.exclude = {
      "ztunnel",          // Istio's ambient proxy: owns both ends of what it tunnels
      "pilot-agent",      // Istio's agent beside each sidecar: certificates and health
      "pilot-discovery",  // Istio's control plane
      "linkerd2-proxy",   // untried as a reader, and its traffic to other proxies is mutual TLS
      "cilium-agent",     // Cilium judges packets and may put sockets into maps of its own
      "cilium-envoy",     // ... and tells its proxy's connections by marks on packets
      "kmesh-daemon",     // attaches programs of its own to connections
  };
  return selection;
}

}  // namespace shunt
