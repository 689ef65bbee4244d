// Servers of this host whose clients from elsewhere are steered here, each to a listening socket of its own that shuntd
// made. What such a socket accepts has the server's own address as its local one.
#pragma once

#include <atomic>
#include <base/sockets.hpp>
#include <base/unique_fd.hpp>
#include <map>
#include <memory>
#include <vector>

namespace shunt::proxy {

class SteeredServer {
 public:
  // Its number in one policy of the kernel side.
  struct Who {
    uint32_t generation = 0;
    uint32_t identity = 0;
  };

  // `listens`: where the server does; an address of zeroes is any.
  SteeredServer(UniqueFd socket, const Endpoint& listens) : socket_(std::move(socket)), listens_(listens) {}

  int socket() const { return socket_.get(); }
  uint16_t port() const { return listens_.port; }
  // Was this connection steered? Whoever finds out where the proxy's own socket listens could call it there.
  bool was_called(const Endpoint& local) const {
    return local.port == listens_.port && (listens_.address == Address{} || local.address == listens_.address);
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
  std::atomic<uint64_t> who_{0};
};

using SteeredServers = std::vector<std::shared_ptr<const SteeredServer>>;

}  // namespace shunt::proxy
