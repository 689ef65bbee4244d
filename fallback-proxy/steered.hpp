// Servers of this host whose clients are steered here if nobody else can judge their requests, each to a listening
// socket of its own that shuntd made. What such a socket accepts has the server's own address as its local one.
#pragma once

#include <bpf/abi/steer.h>

#include <atomic>
#include <base/socket_storage.hpp>
#include <base/sockets.hpp>
#include <base/unique_fd.hpp>
#include <map>
#include <memory>
#include <optional>
#include <vector>

namespace shunt::proxy {

class SteeredServer {
 public:
  // Its number in one policy of the kernel side.
  struct Who {
    uint32_t generation = 0;
    uint32_t identity = 0;
  };

  // `listens`: where the server does; an address of zeroes is any. `clients`: a map, as Engine::admit_proxy() returns
  // it.
  SteeredServer(UniqueFd socket, const Endpoint& listens, std::shared_ptr<const UniqueFd> clients)
      : socket_(std::move(socket)), listens_(listens), clients_(std::move(clients)) {}

  int socket() const { return socket_.get(); }
  uint16_t port() const { return listens_.port; }
  // Was this connection steered? Whoever finds out where the proxy's own socket listens could call it there.
  bool was_called(const Endpoint& local) const {
    return local.port == listens_.port && (listens_.address == Address{} || local.address == listens_.address);
  }

  // Who is at the other end of a connection that socket() has accepted; nothing: it is not known now. From any thread.
  std::optional<sh_steered> client_of(int accepted) const {
    sh_steered one{}, two{};
    for (int i = 0; i < SH_STEERED_LOOKS; i++) {
      if (!read_socket_storage(clients_->get(), accepted, &one) ||
          !read_socket_storage(clients_->get(), accepted, &two))
        return std::nullopt;
      if (one.generation == two.generation && one.identity == two.identity) return one;
    }
    return std::nullopt;
  }

  // From any thread.
  Who who() const {
    const uint64_t both = who_.load();
    return {static_cast<uint32_t>(both >> 32), static_cast<uint32_t>(both)};
  }
  void is(Who who) { who_ = uint64_t{who.generation} << 32 | who.identity; }

 private:
  UniqueFd socket_;
  Endpoint listens_;
  std::shared_ptr<const UniqueFd> clients_;
  std::atomic<uint64_t> who_{0};
};

using SteeredServers = std::vector<std::shared_ptr<const SteeredServer>>;

}  // namespace shunt::proxy
