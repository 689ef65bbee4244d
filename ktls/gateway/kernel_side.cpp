#include <bpf/abi/gateway.h>
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <ktls/gateway/kernel_side.hpp>

namespace shunt::gateway {
namespace {

// The element of a socket, by its descriptor: nothing that needs a privilege once the map is open.
bool call_map(bpf_cmd command, int map, int socket, void* value) {
  bpf_attr attr{};
  attr.map_fd = static_cast<uint32_t>(map);
  attr.key = reinterpret_cast<uint64_t>(&socket);
  attr.value = reinterpret_cast<uint64_t>(value);
  return syscall(SYS_bpf, command, &attr, sizeof(attr)) == 0;
}

}  // namespace

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
  return call_map(BPF_MAP_UPDATE_ELEM, now->remotes.get(), socket, &remote);
}

std::optional<Endpoint> KernelSide::dialled(int socket) const {
  const auto now = maps();
  sh_dialled value = {};
  if (!now || !call_map(BPF_MAP_LOOKUP_ELEM, now->dialled.get(), socket, &value) || value.accepted == 0)
    return std::nullopt;
  Endpoint endpoint;
  std::copy(std::begin(value.addr), std::end(value.addr), endpoint.address.begin());
  endpoint.port = value.port;
  return endpoint;
}

}  // namespace shunt::gateway
