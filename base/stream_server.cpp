#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <base/address.hpp>
#include <base/stream_server.hpp>
#include <base/values.hpp>
#include <cstring>

namespace shunt {
namespace {

constexpr int kBacklog = 64;

uid_t peer_uid(int fd) {
  ucred peer{};
  socklen_t length = sizeof(peer);
  // A TCP socket has no peer credentials; its handlers do not ask.
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return static_cast<uid_t>(-1);
  return peer.uid;
}

}  // namespace

StreamServer::~StreamServer() {
  while (!connections_.empty()) close(*connections_.begin()->second);
  close_listener();
}

Result<void> StreamServer::listen(UniqueFd socket) {
  close_listener();
  auto added = loop_.add(socket.get(), EPOLLIN, [this](uint32_t) { accept_all(); });
  if (added) listener_ = std::move(socket);
  return added;
}

void StreamServer::close_listener() {
  if (!listener_) return;
  loop_.remove(listener_.get());
  listener_.reset();
}

void StreamServer::accept_all() {
  constexpr int kAtOnce = 16;
  for (int i = 0; i < kAtOnce; i++) {
    UniqueFd client(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!client) return;
    if (admitted(peer_uid(client.get()))) (void)adopt(std::move(client)).has_value();
  }
}

bool StreamServer::admitted(uid_t uid) const {
  if (connections_.size() >= limits_.clients) return false;
  if (uid == 0) return true;
  size_t others = 0;
  size_t same = 0;
  for (const auto& [fd, connection] : connections_) {
    others += connection->uid != 0 ? 1 : 0;
    same += connection->uid == uid ? 1 : 0;
  }
  return others < limits_.clients_of_others && same < limits_.clients_of_one_uid;
}

Result<void> StreamServer::adopt(UniqueFd client) {
  const int fd = client.get();
  auto added = loop_.add(fd, EPOLLIN, [this, fd](uint32_t events) { serve(fd, events); });
  if (!added) return added;
  auto connection = std::make_unique<Connection>();
  connection->uid = peer_uid(fd);
  connection->fd_ = std::move(client);
  connection->progress_ = std::chrono::steady_clock::now();
  handler_.on_connect(*(connections_[fd] = std::move(connection)));
  return {};
}

void StreamServer::serve(int fd, uint32_t events) {
  const auto found = connections_.find(fd);
  if (found == connections_.end()) return;
  Connection& connection = *found->second;
  if ((events & EPOLLERR) != 0 || ((events & EPOLLIN) != 0 && !receive(connection))) {
    close(connection);
    return;
  }
  // A hang-up is reported even where nothing is waited for: the peer reads no more, so nobody is left to serve.
  if ((events & EPOLLHUP) != 0) {
    close(connection);
    return;
  }
  settle(connection);
}

bool StreamServer::receive(Connection& connection) {
  char buffer[4096];
  const size_t room = limits_.input_bytes > connection.in.size() ? limits_.input_bytes - connection.in.size() : 0;
  if (connection.paused || room == 0) return true;
  const ssize_t count = recv(connection.fd_.get(), buffer, std::min(room, sizeof(buffer)), 0);
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  connection.peer_done_ = count == 0;
  connection.progress_ = std::chrono::steady_clock::now();
  connection.in.append(buffer, static_cast<size_t>(count));
  if (count > 0) handler_.on_input(connection);
  return true;
}

bool StreamServer::transmit(Connection& connection) {
  while (!connection.out_.empty()) {
    const ssize_t count =
        ::send(connection.fd_.get(), connection.out_.data(), connection.out_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    connection.out_.erase(0, static_cast<size_t>(count));
    connection.progress_ = std::chrono::steady_clock::now();
  }
  return true;
}

void StreamServer::settle(Connection& connection) {
  bool alive = transmit(connection);
  // A handler that streams gets a few turns, then the others are served.
  constexpr int kTurns = 4;
  int turn = 0;
  for (; alive && turn < kTurns && connection.out_.empty() && !connection.closing_; turn++) {
    handler_.on_room(connection);
    if (connection.out_.empty()) break;
    alive = transmit(connection);
  }
  const bool more = turn == kTurns;
  // A peer that shut down only its sending side still gets what it asked for; that it is gone altogether shows as a
  // hang-up.
  const bool unserved = more || connection.paused || connection.patient;
  const bool done = connection.out_.empty() && (connection.closing_ || (connection.peer_done_ && !unserved));
  if (!alive || done) {
    close(connection);
    return;
  }
  const bool reads = !connection.peer_done_ && !connection.paused && !connection.closing_ &&
                     connection.in.size() < limits_.input_bytes;
  loop_.modify(connection.fd_.get(), (reads ? EPOLLIN : 0u) | (connection.out_.empty() && !more ? 0u : EPOLLOUT));
}

void StreamServer::flush(Connection& connection) { settle(connection); }

void StreamServer::close(Connection& connection) {
  handler_.on_close(connection);
  const int fd = connection.fd_.get();
  loop_.remove(fd);
  connections_.erase(fd);
}

void StreamServer::sweep() {
  const auto now = std::chrono::steady_clock::now();
  for_each([&](Connection& connection) {
    const auto quiet = now - connection.progress_;
    const bool stalled = !connection.out_.empty() && quiet > limits_.stalled;
    const bool idle = connection.out_.empty() && !connection.patient && quiet > limits_.idle;
    if (stalled || idle) close(connection);
  });
}

Result<UniqueFd> listen_unix(const std::string& path, mode_t mode) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path))
    return unexpected(ENAMETOOLONG, path, "set control.socket to a shorter path");
  path.copy(address.sun_path, path.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return unexpected(errno, "socket");
  struct stat status {};
  // Only a socket that an earlier daemon left is removed; the caller holds the lock, so nobody listens on it.
  if (lstat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode)) unlink(path.c_str());
  if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
    return unexpected(errno, "bind " + path);
  if (chmod(path.c_str(), mode) != 0) return unexpected(errno, "chmod " + path);
  if (::listen(socket.get(), kBacklog) != 0) return unexpected(errno, "listen " + path);
  return socket;
}

Result<UniqueFd> listen_tcp(const std::string& text) {
  const auto listen = parse_listen_address(text);
  if (!listen) return unexpected(listen.error());
  sockaddr_storage storage{};
  socklen_t length = sizeof(sockaddr_in6);
  if (is_v4_mapped(listen->addr)) {
    auto& address = reinterpret_cast<sockaddr_in&>(storage);
    address.sin_family = AF_INET;
    address.sin_port = htons(listen->port);
    std::memcpy(&address.sin_addr, listen->addr + sizeof(kV4MappedPrefix), sizeof(address.sin_addr));
    length = sizeof(sockaddr_in);
  } else {
    auto& address = reinterpret_cast<sockaddr_in6&>(storage);
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(listen->port);
    std::memcpy(&address.sin6_addr, listen->addr, sizeof(address.sin6_addr));
  }
  UniqueFd socket(::socket(storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return unexpected(errno, "socket");
  const int on = 1;
  setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&storage), length) != 0 ||
      ::listen(socket.get(), kBacklog) != 0) {
    return unexpected(errno, "listen on " + text, "set metrics.listen to a free address, or to \"\" for no metrics");
  }
  return socket;
}

}  // namespace shunt
