// The daemon's end of its links to other programs (base/proxy_link.hpp): who may come.
#pragma once

#include <sys/socket.h>

#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <optional>
#include <string>

namespace shunt {

// Everybody may connect: SO_PEERCRED says who may stay.
Result<UniqueFd> listen_for_link(const std::string& path);

// The next one, if it is root or this user; those that are not are sent away, with a word in the log.
struct LinkPeer {
  UniqueFd socket;
  ucred credentials{};
};
std::optional<LinkPeer> accept_link(int listener, const std::string& user, const char* what);

}  // namespace shunt
