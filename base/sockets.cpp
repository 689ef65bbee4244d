#include <sys/socket.h>

#include <base/sockets.hpp>
#include <base/values.hpp>

namespace shunt {
namespace {

constexpr int kBacklog = 1024;

}  // namespace

Result<Endpoint> parse_endpoint(const std::string& text) {
  const auto listen = parse_listen_address(text);
  if (!listen) return unexpected(listen.error());
  Endpoint endpoint;
  std::copy(listen->addr, listen->addr + sizeof(listen->addr), endpoint.address.begin());
  endpoint.port = listen->port;
  return endpoint;
}

socklen_t to_sockaddr(const Endpoint& endpoint, sockaddr_in6& address) {
  address = {};
  if (is_v4_mapped(endpoint.address.data())) {
    auto& v4 = reinterpret_cast<sockaddr_in&>(address);
    v4.sin_family = AF_INET;
    v4.sin_port = htons(endpoint.port);
    std::memcpy(&v4.sin_addr, endpoint.address.data() + sizeof(kV4MappedPrefix), sizeof(v4.sin_addr));
    return sizeof(v4);
  }
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(endpoint.port);
  std::memcpy(&address.sin6_addr, endpoint.address.data(), endpoint.address.size());
  return sizeof(address);
}

Endpoint from_sockaddr(const sockaddr_in6& address) {
  Endpoint endpoint;
  endpoint.port = ntohs(address.sin6_port);
  if (address.sin6_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    std::memcpy(endpoint.address.data(), kV4MappedPrefix, sizeof(kV4MappedPrefix));
    std::memcpy(endpoint.address.data() + sizeof(kV4MappedPrefix), &v4.sin_addr, sizeof(v4.sin_addr));
  } else {
    std::memcpy(endpoint.address.data(), &address.sin6_addr, endpoint.address.size());
  }
  return endpoint;
}

Result<UniqueFd> bind_to(const Endpoint& endpoint, int type_flags) {
  sockaddr_in6 address;
  const socklen_t length = to_sockaddr(endpoint, address);
  UniqueFd fd(::socket(address.sin6_family, SOCK_STREAM | SOCK_CLOEXEC | type_flags, 0));
  if (!fd) return unexpected(errno, "cannot make a socket");
  const int yes = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (address.sin6_family == AF_INET6) setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof(yes));
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0)
    return unexpected(errno, "cannot listen on " + endpoint.to_string());
  return fd;
}

Result<void> start_listening(int socket, const Endpoint& endpoint) {
  if (listen(socket, kBacklog) != 0) return unexpected(errno, "cannot listen on " + endpoint.to_string());
  return {};
}

Result<UniqueFd> listen_on(const Endpoint& endpoint, int type_flags) {
  auto fd = bind_to(endpoint, type_flags);
  if (!fd) return fd;
  if (auto listening = start_listening(fd->get(), endpoint); !listening) return unexpected(listening.error());
  return fd;
}

}  // namespace shunt
