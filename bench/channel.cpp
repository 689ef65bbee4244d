#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <algorithm>
#include <bench/channel.hpp>
#include <cstdio>

namespace shunt::bench {
namespace {

constexpr int kSpins = 2000;
constexpr int kBacklog = 4096;

// Only to be waited for by the two processes of one run; the caller looks again after any return.
void futex_wait(std::atomic<uint32_t>* word, uint32_t seen) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAIT, seen, nullptr, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>* word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

template <typename Ready>
void wait_until(Ready ready, std::atomic<uint32_t>* waits, std::atomic<uint32_t>* event, bool spin) {
  for (int i = 0; spin && i < kSpins; i++) {
    if (ready()) return;
    __builtin_ia32_pause();
  }
  while (!ready()) {
    uint32_t seen = event->load();
    waits->store(1);
    if (ready()) return;  // a left-over flag costs the other end one useless wake
    futex_wait(event, seen);
  }
}

void notify(std::atomic<uint32_t>* waits, std::atomic<uint32_t>* event) {
  if (waits->load() == 0 || waits->exchange(0) == 0) return;
  event->fetch_add(1);
  futex_wake(event);
}

socklen_t fill_address(const SocketAddress& address, sockaddr_storage* storage) {
  if (address.port) {
    auto* in = reinterpret_cast<sockaddr_in*>(storage);
    in->sin_family = AF_INET;
    in->sin_port = htons(address.port);
    in->sin_addr.s_addr = htonl(address.ip);
    return sizeof(*in);
  }
  auto* un = reinterpret_cast<sockaddr_un*>(storage);
  un->sun_family = AF_UNIX;  // sun_path[0] stays 0: an abstract name, which leaves no file
  int length = snprintf(un->sun_path + 1, sizeof(un->sun_path) - 1, "shunt-bench-%llx",
                        static_cast<unsigned long long>(address.unix_id));
  return socklen_t(offsetof(sockaddr_un, sun_path) + 1 + size_t(length));
}

Result<UniqueFd> new_socket(const SocketAddress& address) {
  UniqueFd fd(socket(address.port ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return unexpected(errno, "socket");
  return fd;
}

}  // namespace

Result<void> Channel::receive_all(void* data, size_t bytes) {
  auto* at = static_cast<unsigned char*>(data);
  while (bytes > 0) {
    Result<size_t> got = receive_some(at, bytes);
    if (!got) return unexpected(got.error());
    if (*got == 0) return unexpected(ECONNRESET, "the stream ended inside a message");
    at += *got;
    bytes -= *got;
  }
  return {};
}

Result<void> SocketChannel::send_all(const void* data, size_t bytes) {
  auto* at = static_cast<const unsigned char*>(data);
  while (bytes > 0) {
    ssize_t sent = send(socket_.get(), at, bytes, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return unexpected(errno, "send");
    at += sent;
    bytes -= size_t(sent);
  }
  return {};
}

Result<size_t> SocketChannel::receive_some(void* data, size_t bytes) {
  for (;;) {
    ssize_t got = recv(socket_.get(), data, bytes, 0);
    if (got >= 0) return size_t(got);
    if (errno != EINTR) return unexpected(errno, "recv");
  }
}

Result<void> SocketChannel::finish_sending() {
  if (shutdown(socket_.get(), SHUT_WR) != 0) return unexpected(errno, "shutdown");
  return {};
}

void ShmRing::write(const void* source, size_t bytes, bool spin) {
  auto* from = static_cast<const unsigned char*>(source);
  uint64_t at = tail.load(std::memory_order_relaxed);
  while (bytes > 0) {
    wait_until([&] { return at - head.load() < kBytes; }, &writer_waits, &space_event, spin);
    size_t offset = at % kBytes;
    size_t chunk = std::min({bytes, size_t(kBytes - (at - head.load())), size_t(kBytes) - offset});
    std::memcpy(data + offset, from, chunk);
    at += chunk;
    from += chunk;
    bytes -= chunk;
    tail.store(at);
    notify(&reader_waits, &data_event);
  }
}

size_t ShmRing::read(void* target, size_t bytes, bool spin) {
  uint64_t at = head.load(std::memory_order_relaxed);
  wait_until([&] { return tail.load() != at || closed.load(); }, &reader_waits, &data_event, spin);
  size_t offset = at % kBytes;
  size_t chunk = std::min({bytes, size_t(tail.load() - at), size_t(kBytes) - offset});
  std::memcpy(target, data + offset, chunk);
  head.store(at + chunk);
  notify(&writer_waits, &space_event);
  return chunk;
}

void ShmRing::close() {
  closed.store(1);
  data_event.fetch_add(1);
  futex_wake(&data_event);
}

Result<void> ShmChannel::send_all(const void* data, size_t bytes) {
  out_->write(data, bytes, spin_);
  return {};
}

Result<size_t> ShmChannel::receive_some(void* data, size_t bytes) { return in_->read(data, bytes, spin_); }

Result<void> ShmChannel::finish_sending() {
  out_->close();
  return {};
}

Result<UniqueFd> listen_at(const SocketAddress& address) {
  Result<UniqueFd> fd = new_socket(address);
  if (!fd) return fd;
  int on = 1;
  if (setsockopt(fd->get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0) return unexpected(errno, "SO_REUSEADDR");
  sockaddr_storage storage{};
  socklen_t length = fill_address(address, &storage);
  if (bind(fd->get(), reinterpret_cast<sockaddr*>(&storage), length) != 0) {
    return unexpected(errno, "bind to port " + std::to_string(address.port));
  }
  if (listen(fd->get(), kBacklog) != 0) return unexpected(errno, "listen");
  return fd;
}

Result<UniqueFd> accept_one(int listener) {
  for (;;) {
    UniqueFd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (fd) return fd;
    if (errno != EINTR) return unexpected(errno, "accept");
  }
}

Result<UniqueFd> connect_to(const SocketAddress& address) {
  Result<UniqueFd> fd = new_socket(address);
  if (!fd) return fd;
  sockaddr_storage storage{};
  socklen_t length = fill_address(address, &storage);
  if (connect(fd->get(), reinterpret_cast<sockaddr*>(&storage), length) != 0) return unexpected(errno, "connect");
  return fd;
}

Result<void> set_no_delay(int fd) {
  int on = 1;
  if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0) return unexpected(errno, "TCP_NODELAY");
  return {};
}

Result<uint16_t> free_port() {
  // Below the ephemeral range, so that no outgoing connection of this host sits on it between two runs.
  static uint16_t next = uint16_t(20000 + uint32_t(getpid()) * 97 % 8000);
  for (int tries = 0; tries < 4000; tries++) {
    uint16_t port = next;
    next = next >= 31999 ? 20000 : uint16_t(next + 1);
    if (listen_at({.port = port})) return port;
  }
  return unexpected(EADDRINUSE, "no free TCP port between 20000 and 32000");
}

}  // namespace shunt::bench
