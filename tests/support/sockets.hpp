// TCP sockets as tests want them: short to write, dying on what must not fail.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <base/unique_fd.hpp>
#include <chrono>
#include <cstdint>
#include <string>

namespace shunt::test {

struct Endpoint {
  sockaddr_storage addr{};
  socklen_t length = 0;
  int family() const { return addr.ss_family; }
  uint16_t port() const;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&addr); }
};

Endpoint endpoint(const std::string& address, uint16_t port);
Endpoint local_endpoint(int fd);
Endpoint remote_endpoint(int fd);

struct ListenOptions {
  std::string address = "127.0.0.1";
  uint16_t port = 0;
  bool reuse_port = false;
  bool dual_stack = false;  // with an IPv6 address: IPv4 as v4-mapped too
  int defer_accept_seconds = 0;
  int receive_buffer = 0;
};

UniqueFd listen_tcp(const ListenOptions& options = {});
UniqueFd connect_tcp(const Endpoint& to);
UniqueFd accept_tcp(int listener, std::chrono::milliseconds limit = std::chrono::seconds(10));

// The two ends of one connection.
struct Connection {
  UniqueFd client;
  UniqueFd server;
};
Connection connect_pair(const ListenOptions& options = {});
Connection connect_through(int listener, const Endpoint& to);

uint64_t socket_cookie(int fd);
void set_nonblocking(int fd, bool on);
void set_option(int fd, int level, int name, int value);
void set_receive_timeout(int fd, std::chrono::milliseconds limit);
void set_send_timeout(int fd, std::chrono::milliseconds limit);
int readable_bytes(int fd);                                   // FIONREAD
bool wait_readable(int fd, std::chrono::milliseconds limit);  // POLLIN

void send_all(int fd, const std::string& bytes);
// Reads exactly `bytes`, or what came until EOF, an error or `limit`.
std::string receive_exactly(int fd, size_t bytes, std::chrono::milliseconds limit = std::chrono::seconds(10));
std::string receive_to_eof(int fd, std::chrono::milliseconds limit = std::chrono::seconds(10));

// `turns` requests and responses of `bytes` each; false if one did not come back as it was sent.
bool ping_pong(const Connection& connection, int turns, size_t bytes = 64);

// Bytes that differ at every position, so that a lost, doubled or moved byte shows.
std::string pattern(uint64_t seed, size_t bytes);

}  // namespace shunt::test
