#include <bpf/abi/gateway.h>

#include <algorithm>
#include <base/socket_storage.hpp>
#include <ktls/gateway/kernel_side.hpp>

namespace shunt::gateway {

void KernelSide::set(UniqueFd remotes, UniqueFd dialled) {
  auto fresh = std::make_shared<Maps>();
  fresh->remotes = std::move(remotes);
  fresh->dialled = std::move(dialled);
  const std::lock_guard lock(mutex_);
  maps_ = std::move(fresh);
}

bool KernelSide::stands_for(int socket, const SpiffeId& who) const {
  const auto now = maps();
  if (!now) return true;
  sh_remote remote = {};
  const auto digest = who.digest();
  std::copy(digest.begin(), digest.end(), remote.digest);
  return write_socket_storage(now->remotes.get(), socket, &remote);
}

std::optional<Endpoint> KernelSide::dialled(int socket) const {
  const auto now = maps();
  sh_dialled value = {};
  if (!now || !read_socket_storage(now->dialled.get(), socket, &value) || value.accepted == 0) return std::nullopt;
  Endpoint endpoint;
  std::copy(std::begin(value.addr), std::end(value.addr), endpoint.address.begin());
  endpoint.port = value.port;
  return endpoint;
}

}  // namespace shunt::gateway
