// Where connections come from: listening sockets, made from the configuration, passed by a service manager, or by
// shuntd (steered.hpp). Whatever else brings connections hands them to Worker::take() as Arrivals.
#pragma once

#include <base/unique_fd.hpp>
#include <fallback-proxy/config.hpp>
#include <fallback-proxy/steered.hpp>
#include <vector>

namespace shunt::proxy {

// A client, of one listener of the configuration, or of one server if it was steered.
struct Origin {
  size_t listener = 0;
  Endpoint client;
  std::shared_ptr<const SteeredServer> server;  // null: it was not
  Endpoint called;                              // by the client, of this server
};

struct Arrival {
  UniqueFd socket;
  Origin origin;
};

struct ListeningSocket {
  UniqueFd socket;
  size_t listener = 0;
};

// All sockets that the configuration names. Passed descriptors (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES, as in
// sd_listen_fds(3)) that no listener names are an error, as are names without a descriptor.
Result<std::vector<ListeningSocket>> open_sources(const Config& config);

// Do both name the same sources, in the same order?
bool same_sources(const Config& a, const Config& b);

}  // namespace shunt::proxy
