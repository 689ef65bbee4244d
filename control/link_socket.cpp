#include <pwd.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <base/log.hpp>
#include <control/link_socket.hpp>

namespace shunt {
namespace {

constexpr mode_t kLinkSocketMode = 0666;
constexpr int kBacklog = 4;

// Root may, and the user that the program becomes.
bool may_come(const ucred& peer, const std::string& name) {
  if (peer.uid == 0) return true;
  const passwd* user = getpwnam(name.c_str());
  return user != nullptr && user->pw_uid == peer.uid;
}

}  // namespace

Result<UniqueFd> listen_for_link(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return unexpected(ENAMETOOLONG, path);
  path.copy(address.sun_path, path.size());
  UniqueFd listener(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  ::unlink(path.c_str());
  if (!listener || bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      chmod(path.c_str(), kLinkSocketMode) != 0 || ::listen(listener.get(), kBacklog) != 0)
    return unexpected(errno, "cannot listen on " + path);
  return listener;
}

std::optional<LinkPeer> accept_link(int listener, const std::string& user, const char* what) {
  LinkPeer peer;
  peer.socket.reset(accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!peer.socket) return std::nullopt;
  socklen_t length = sizeof(peer.credentials);
  const bool known = getsockopt(peer.socket.get(), SOL_SOCKET, SO_PEERCRED, &peer.credentials, &length) == 0;
  if (known && may_come(peer.credentials, user)) return peer;
  log_warning(std::string("somebody who is not the ") + what + " was sent away",
              {{"uid", std::to_string(peer.credentials.uid)}});
  return std::nullopt;
}

}  // namespace shunt
