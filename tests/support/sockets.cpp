#include "support/sockets.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

#include "support/checked_bytes.hpp"
#include "support/sandbox.hpp"

namespace shunt::test {

namespace {

constexpr int kBacklog = 1024;

using Clock = std::chrono::steady_clock;

int milliseconds_until(Clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return left < 0 ? 0 : static_cast<int>(left);
}

std::string receive(int fd, size_t bytes, std::chrono::milliseconds limit) {
  const auto deadline = Clock::now() + limit;
  std::string got;
  char buffer[65536];
  while (got.size() < bytes) {
    pollfd waiting{fd, POLLIN, 0};
    if (poll(&waiting, 1, milliseconds_until(deadline)) <= 0) break;
    const ssize_t n = recv(fd, buffer, std::min(sizeof(buffer), bytes - got.size()), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
      if (Clock::now() > deadline) break;
      continue;
    }
    if (n <= 0) break;
    got.append(buffer, static_cast<size_t>(n));
  }
  return got;
}

void set_timeout(int fd, int name, std::chrono::milliseconds limit) {
  timeval value{};
  value.tv_sec = limit.count() / 1000;
  value.tv_usec = limit.count() % 1000 * 1000;
  require(setsockopt(fd, SOL_SOCKET, name, &value, sizeof(value)) == 0, "set a timeout");
}

}  // namespace

uint16_t Endpoint::port() const {
  return ntohs(family() == AF_INET ? reinterpret_cast<const sockaddr_in*>(&addr)->sin_port
                                   : reinterpret_cast<const sockaddr_in6*>(&addr)->sin6_port);
}

Endpoint endpoint(const std::string& address, uint16_t port) {
  Endpoint result;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&result.addr);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&result.addr);
  if (inet_pton(AF_INET, address.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    result.length = sizeof(*v4);
  } else {
    require(inet_pton(AF_INET6, address.c_str(), &v6->sin6_addr) == 1, "parse the address " + address);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    result.length = sizeof(*v6);
  }
  return result;
}

Endpoint local_endpoint(int fd) {
  Endpoint result;
  result.length = sizeof(result.addr);
  require(getsockname(fd, reinterpret_cast<sockaddr*>(&result.addr), &result.length) == 0, "getsockname");
  return result;
}

Endpoint remote_endpoint(int fd) {
  Endpoint result;
  result.length = sizeof(result.addr);
  require(getpeername(fd, reinterpret_cast<sockaddr*>(&result.addr), &result.length) == 0, "getpeername");
  return result;
}

UniqueFd listen_tcp(const ListenOptions& options) {
  const Endpoint at = endpoint(options.address, options.port);
  UniqueFd fd(socket(at.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  require(fd.valid(), "socket");
  set_option(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (options.reuse_port) set_option(fd.get(), SOL_SOCKET, SO_REUSEPORT, 1);
  if (at.family() == AF_INET6) set_option(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, options.dual_stack ? 0 : 1);
  if (options.receive_buffer > 0) set_option(fd.get(), SOL_SOCKET, SO_RCVBUF, options.receive_buffer);
  if (options.defer_accept_seconds > 0) {
    set_option(fd.get(), IPPROTO_TCP, TCP_DEFER_ACCEPT, options.defer_accept_seconds);
  }
  require(bind(fd.get(), at.get(), at.length) == 0, "bind " + options.address);
  require(listen(fd.get(), kBacklog) == 0, "listen");
  return fd;
}

UniqueFd connect_tcp(const Endpoint& to) {
  UniqueFd fd(socket(to.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  require(fd.valid(), "socket");
  require(connect(fd.get(), to.get(), to.length) == 0, "connect");
  set_option(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  return fd;
}

UniqueFd accept_tcp(int listener, std::chrono::milliseconds limit) {
  if (!wait_readable(listener, limit)) errno = ETIMEDOUT, die("accept");
  UniqueFd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  require(fd.valid(), "accept");
  set_option(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  return fd;
}

Connection connect_through(int listener, const Endpoint& to) {
  Connection connection;
  connection.client = connect_tcp(to);
  connection.server = accept_tcp(listener);
  return connection;
}

Connection connect_pair(const ListenOptions& options) {
  const UniqueFd listener = listen_tcp(options);
  return connect_through(listener.get(), local_endpoint(listener.get()));
}

uint64_t socket_cookie(int fd) {
  uint64_t cookie = 0;
  socklen_t length = sizeof(cookie);
  require(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) == 0, "SO_COOKIE");
  return cookie;
}

void set_nonblocking(int fd, bool on) {
  const int flags = fcntl(fd, F_GETFL);
  require(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) == 0, "O_NONBLOCK");
}

void set_option(int fd, int level, int name, int value) {
  require(setsockopt(fd, level, name, &value, sizeof(value)) == 0, "setsockopt " + std::to_string(name));
}

void set_receive_timeout(int fd, std::chrono::milliseconds limit) { set_timeout(fd, SO_RCVTIMEO, limit); }
void set_send_timeout(int fd, std::chrono::milliseconds limit) { set_timeout(fd, SO_SNDTIMEO, limit); }

int readable_bytes(int fd) {
  int bytes = -1;
  require(ioctl(fd, FIONREAD, &bytes) == 0, "FIONREAD");
  return bytes;
}

bool wait_readable(int fd, std::chrono::milliseconds limit) {
  pollfd waiting{fd, POLLIN, 0};
  return poll(&waiting, 1, static_cast<int>(limit.count())) == 1;
}

void send_all(int fd, const std::string& bytes) {
  for (size_t sent = 0; sent < bytes.size();) {
    const ssize_t n = send(fd, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    require(n > 0, "send");
    sent += static_cast<size_t>(n);
  }
}

std::string receive_exactly(int fd, size_t bytes, std::chrono::milliseconds limit) { return receive(fd, bytes, limit); }

std::string receive_to_eof(int fd, std::chrono::milliseconds limit) {
  return receive(fd, static_cast<size_t>(-1), limit);
}

bool ping_pong(const Connection& connection, int turns, size_t bytes) {
  for (int turn = 0; turn < turns; ++turn) {
    const std::string request = pattern(static_cast<uint64_t>(turn) * 2, bytes);
    const std::string response = pattern(static_cast<uint64_t>(turn) * 2 + 1, bytes);
    send_all(connection.client.get(), request);
    if (receive_exactly(connection.server.get(), bytes) != request) return false;
    send_all(connection.server.get(), response);
    if (receive_exactly(connection.client.get(), bytes) != response) return false;
  }
  return true;
}

std::string pattern(uint64_t seed, size_t bytes) {
  std::string text(bytes, '\0');
  fill_pattern(seed, 0, text.data(), bytes);
  return text;
}

}  // namespace shunt::test
