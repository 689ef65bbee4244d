// Addresses with ports, and sockets that listen on them.
#pragma once

#include <netinet/in.h>

#include <base/address.hpp>
#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <string>

namespace shunt {

struct Endpoint {
  Address address{};
  uint16_t port = 0;  // host order

  std::string to_string() const { return format_endpoint(address.data(), port); }
};

Result<Endpoint> parse_endpoint(const std::string& text);  // "127.0.0.1:80", "[::1]:80"

// The address as the socket calls take it; IPv4 in its own family. The length of it.
socklen_t to_sockaddr(const Endpoint& endpoint, sockaddr_in6& address);
Endpoint from_sockaddr(const sockaddr_in6& address);

// A socket that does not listen yet. `type_flags`: SOCK_NONBLOCK or 0.
Result<UniqueFd> bind_to(const Endpoint& endpoint, int type_flags = 0);
Result<void> start_listening(int socket, const Endpoint& endpoint);
Result<UniqueFd> listen_on(const Endpoint& endpoint, int type_flags = 0);

}  // namespace shunt
