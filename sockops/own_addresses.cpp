#include "sockops/own_addresses.hpp"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/nsfs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <base/address.hpp>
#include <memory>
#include <sockops/namespaces.hpp>
#include <sockops/policy_map.hpp>

namespace shunt {
namespace {

struct AddressesCloser {
  void operator()(ifaddrs* first) const { freeifaddrs(first); }
};

ino_t namespace_inode(int fd) {
  struct stat info {};
  return fstat(fd, &info) == 0 ? info.st_ino : 0;
}

// Anybody may make a namespace in a user namespace of his own, and give it whatever address he likes.
bool belongs_to_root(int netns) {
  struct stat own {};
  const UniqueFd owner(ioctl(netns, NS_GET_USERNS));
  return owner && stat("/proc/self/ns/user", &own) == 0 && namespace_inode(owner.get()) == own.st_ino;
}

bool read_address(const sockaddr* from, std::array<uint8_t, 16>& to) {
  if (from == nullptr) return false;
  if (from->sa_family == AF_INET) {
    const auto& v4 = *reinterpret_cast<const sockaddr_in*>(from);
    std::copy(std::begin(kV4MappedPrefix), std::end(kV4MappedPrefix), to.begin());
    memcpy(to.data() + sizeof(kV4MappedPrefix), &v4.sin_addr, sizeof(v4.sin_addr));
    return true;
  }
  if (from->sa_family != AF_INET6) return false;
  memcpy(to.data(), &reinterpret_cast<const sockaddr_in6*>(from)->sin6_addr, to.size());
  return true;
}

// Of the calling thread's namespace.
template <typename Found>
void add_addresses(uint32_t netns, Found& found) {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return;
  const std::unique_ptr<ifaddrs, AddressesCloser> all(first);
  for (const ifaddrs* at = first; at != nullptr; at = at->ifa_next) {
    std::array<uint8_t, 16> address{};
    if (!read_address(at->ifa_addr, address)) continue;
    const auto [known, fresh] = found.emplace(address, netns);
    if (!fresh && known->second != netns) known->second = 0;
  }
}

}  // namespace

Result<void> OwnAddresses::look(const std::vector<UniqueFd>& namespaces) {
  Found found;
  std::vector<UniqueFd> of_root;
  for (const UniqueFd& netns : namespaces)
    if (belongs_to_root(netns.get())) of_root.emplace_back(fcntl(netns.get(), F_DUPFD_CLOEXEC, 0));
  in_namespaces(of_root, [&found] {
    struct stat info {};
    if (stat("/proc/thread-self/ns/net", &info) == 0) add_addresses(static_cast<uint32_t>(info.st_ino), found);
    return true;
  });
  return write(found);
}

uint32_t OwnAddresses::namespace_of(const std::array<uint8_t, 16>& address) const {
  const auto found = written_.find(address);
  return found == written_.end() ? 0 : found->second;
}

Result<void> OwnAddresses::write(const Found& found) {
  using Key = std::array<uint8_t, 16>;
  if (!known_) remove_if<Key>(map_, [&found](const Key& key) { return !found.contains(key); });
  for (const auto& [address, netns] : found) {
    const auto before = written_.find(address);
    if (known_ && before != written_.end() && before->second == netns) continue;
    if (bpf_map_update_elem(map_, address.data(), &netns, BPF_ANY) != 0)
      return unexpected(errno, "cannot record this host's addresses");
  }
  for (const auto& [address, netns] : written_)
    if (!found.contains(address)) bpf_map_delete_elem(map_, address.data());
  written_ = found;
  known_ = true;
  return {};
}

}  // namespace shunt
