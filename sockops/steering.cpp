#include "sockops/steering.hpp"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <sockops/links.hpp>
#include <sockops/namespaces.hpp>
#include <sockops/owners.hpp>
#include <sockops/policy_ends.hpp>
#include <sockops/policy_loader.hpp>
#include <sockops/policy_map.hpp>
#include <sockops/policy_tables.hpp>
#include <sstream>
#include <tuple>

namespace shunt {
namespace {

constexpr int kBacklog = 4096;
constexpr int kAttachesMax = 4;  // in one look: loading a program takes tens of milliseconds
constexpr uint8_t kMappedLoopback[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1};
constexpr int kStartField = 20;  // of /proc/PID/stat, counted from the one behind the name

// In clock ticks since boot; 0: there is no such process.
uint64_t start_of(uint32_t process) {
  std::ifstream file(fmt::format("/proc/{}/stat", process));
  std::string text;
  std::getline(file, text);
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(text.substr(name_end + 1));
  std::string field;
  for (int i = 0; i < kStartField && fields >> field; i++) {
  }
  return strtoull(field.c_str(), nullptr, 10);
}

void switch_on(int socket, int level, int option) {
  const int one = 1;
  setsockopt(socket, level, option, &one, sizeof(one));
}

// In the calling thread's namespace, on the loopback, at a port of the kernel's choice: nobody is meant to call it
// there. Where IPv6 is to be had, it takes connections of both families: bound to an address of IPv6 it would not.
UniqueFd listen_here() {
  const int zero = 0;
  UniqueFd v6(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in6 address6{};
  address6.sin6_family = AF_INET6;
  memcpy(address6.sin6_addr.s6_addr, kMappedLoopback, sizeof(kMappedLoopback));
  switch_on(v6.get(), SOL_IP, IP_FREEBIND);  // the loopback may be down
  setsockopt(v6.get(), IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
  if (v6 && bind(v6.get(), reinterpret_cast<sockaddr*>(&address6), sizeof(address6)) == 0 &&
      listen(v6.get(), kBacklog) == 0)
    return v6;
  UniqueFd v4(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  switch_on(v4.get(), SOL_IP, IP_FREEBIND);
  if (v4 && bind(v4.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
      listen(v4.get(), kBacklog) == 0)
    return v4;
  return {};
}

Result<UniqueFd> listen_in(const UniqueFd& netns) {
  std::vector<UniqueFd> one;
  one.emplace_back(fcntl(netns.get(), F_DUPFD_CLOEXEC, 0));
  UniqueFd made;
  int error = ENOENT;
  in_namespaces(one, [&] {
    made = listen_here();
    error = errno;
    return false;
  });
  if (!made) return unexpected(error, "cannot listen for the proxy");
  return made;
}

sh_steer_key key_of(const sh_owner& owner) {
  sh_steer_key key = {};
  key.netns = owner.netns_inode;
  key.port = owner.local_port;
  key.family = static_cast<uint16_t>(owner.family);
  memcpy(key.addr, owner.local_addr, sizeof(key.addr));
  return key;
}

}  // namespace

bool Steering::Less::operator()(const sh_steer_key& a, const sh_steer_key& b) const {
  return memcmp(&a, &b, sizeof(a)) < 0;
}

// What an earlier daemon handed out is still the proxy's, as far as it listens.
void Steering::adopt() {
  const int steers = map_("sh_steers");
  servers_.clear();
  remove_if<sh_steer_key>(steers, [&](const sh_steer_key& key) {
    Server server;
    uint64_t cookie = 0;
    const bool whole = bpf_map_lookup_elem(steers, &key, &server.row) == 0 &&
                       bpf_map_lookup_elem(map_("sh_steer_socks"), &server.row.slot, &cookie) == 0;
    if (!whole) return true;
    server.handed_out = true;
    servers_[key] = server;
    return false;
  });
}

Result<UniqueFd> Steering::admit(uint32_t proxy, bool keeps) {
  sh_proxy_process process = {};
  process.tgid = proxy;
  process.start_ticks = start_of(proxy);
  const auto own = end_of_process(paths_, proxy);
  if (process.start_ticks == 0 || !own) return unexpected(ESRCH, "the proxy");
  if (!is_seen(*own))
    return unexpected(Error{EINVAL, "the proxy's cgroup is not one of selection.cgroups",
                            "clients that only it can judge are refused"});
  auto clients = map_for_others(map_("sh_steered"), BPF_F_RDONLY);
  if (!clients) return clients;
  process.netns = own->netns;
  if (keeps)
    adopt();
  else
    end();
  const uint32_t zero = 0;
  if (bpf_map_update_elem(map_("sh_proxies"), &zero, &process, BPF_ANY) != 0)
    return unexpected(errno, "cannot admit the proxy");
  proxy_ = proxy;
  return clients;
}

void Steering::end() {
  const uint32_t zero = 0;
  const sh_proxy_process nobody = {};
  proxy_ = 0;
  bpf_map_update_elem(map_("sh_proxies"), &zero, &nobody, BPF_ANY);
  remove_if<sh_steer_key>(map_("sh_steers"), [](const sh_steer_key&) { return true; });
  for (uint32_t slot = 0; slot < SH_STEERS_MAX; slot++) bpf_map_delete_elem(map_("sh_steer_socks"), &slot);
  servers_.clear();
  programs_.keep(SynPrograms::kSteering, {});
}

void Steering::forget(const sh_steer_key& key, uint32_t slot) {
  bpf_map_delete_elem(map_("sh_steers"), &key);
  bpf_map_delete_elem(map_("sh_steer_socks"), &slot);
}

// Do the programs see the connections of this end?
bool Steering::is_seen(const PolicyEnd& end) const {
  const std::set<uint64_t> attached = linked_cgroups(paths_, "ops");
  return std::any_of(end.cgroups.begin(), end.cgroups.end(), [&](uint64_t id) { return attached.contains(id); });
}

// Are requests judged, and is somebody there who could do it?
bool Steering::is_wanted() const {
  const auto head = read_policy_head(map_("sh_pol_heads"));
  return proxy_ != 0 && head && head->generation != 0 && head->requests;
}

// Servers in workloads, on ports where requests are judged, in cgroups whose connections the programs see.
Result<void> Steering::scan_servers(const std::vector<sh_owner>& owners, Servers& found) const {
  if (!is_wanted()) return {};
  const auto tables = read_policy_tables(map_);
  for (const sh_owner& owner : owners) {
    if (owner.tcp_state != kTcpListen || owner.tgid == proxy_ || !tables->judged(owner.local_port)) continue;
    const PolicyEnd end = end_of_owner(paths_, owner);
    const uint32_t identity = tables->identity_of_end(end);
    if (identity < SH_IDENTITY_WORKLOADS || !is_seen(end)) continue;
    Server& server = found[key_of(owner)];
    // Of several sockets at one address always the same.
    if (server.row.sock != 0 && std::tie(server.row.cookie, server.row.sock) < std::tie(owner.cookie, owner.sock))
      continue;
    server.row.sock = owner.sock;
    server.row.cookie = owner.cookie;
    server.identity = identity;
  }
  return {};
}

Result<uint32_t> Steering::free_slot() const {
  std::set<uint32_t> used;
  for (const auto& [key, server] : servers_)
    if (server.handed_out) used.insert(server.row.slot);
  uint32_t slot = 0;
  while (used.contains(slot)) slot++;
  if (slot < SH_STEERS_MAX) return slot;
  return unexpected(Error{ENOSPC, fmt::format("more than {} servers need the proxy", SH_STEERS_MAX),
                          "clients that only it can judge do not reach the others"});
}

// The proxy's socket is marked and in the map before the row says that there is one. Empty: it has it already.
Result<UniqueFd> Steering::put_one(const sh_steer_key& key, Server& server, const std::vector<UniqueFd>& namespaces) {
  const int steers = map_("sh_steers");
  UniqueFd listener;
  if (!server.handed_out) {
    auto slot = free_slot();
    if (!slot) return unexpected(slot.error());
    const UniqueFd* netns = find_namespace(namespaces, key.netns);
    if (netns == nullptr) return unexpected(Error{ENOENT, "the network namespace of a server is gone", ""});
    auto made = listen_in(*netns);
    if (!made) return made;
    server.row.slot = *slot;
    listener = std::move(*made);
    const int fd = listener.get();
    const uint32_t mark = 1;
    const auto value = static_cast<uint64_t>(fd);
    if (bpf_map_update_elem(map_("sh_steer_marks"), &fd, &mark, BPF_ANY) != 0)
      return unexpected(errno, "cannot mark a socket of the proxy");
    if (bpf_map_update_elem(map_("sh_steer_socks"), &server.row.slot, &value, BPF_ANY) != 0)
      return unexpected(errno, "cannot record a socket of the proxy");
    server.handed_out = true;
  }
  if (bpf_map_update_elem(steers, &key, &server.row, BPF_ANY) != 0)
    return unexpected(errno, "cannot record a server of the proxy");
  return listener;
}

// One that fails does not hold up the others; it is tried again.
void Steering::put(Servers found, const std::vector<UniqueFd>& namespaces, SteeredServers& out) {
  std::set<uint64_t> wanted;
  int attaches = 0;
  for (auto& [key, server] : servers_) {
    const auto now = found.find(key);
    if (now == found.end() && server.handed_out) forget(key, server.row.slot);
    if (now == found.end()) continue;
    now->second.row.slot = server.row.slot;
    now->second.handed_out = server.handed_out;
  }
  servers_ = std::move(found);
  for (auto& [key, server] : servers_) {
    Result<void> done;
    wanted.insert(key.netns);
    if (!programs_.attached(key.netns)) {
      if (attaches++ >= kAttachesMax) {
        times_.at_once();
        continue;
      }
      done = programs_.attach(key.netns, namespaces);
    }
    Result<UniqueFd> socket = done ? put_one(key, server, namespaces) : Result<UniqueFd>(unexpected(done.error()));
    if (!socket) {
      out.error = socket.error();
      continue;
    }
    SteeredServer& one = out.servers.emplace_back();
    one.slot = server.row.slot;
    std::copy(std::begin(key.addr), std::end(key.addr), one.address.begin());
    one.port = key.port;
    one.identity = server.identity;
    one.socket = std::move(*socket);
  }
  programs_.keep(SynPrograms::kSteering, std::move(wanted));
}

Result<void> Steering::scan(SteeredServers& out) {
  auto owners = socket_owners(generation_);
  if (!owners) return unexpected(owners.error());
  const std::vector<UniqueFd> namespaces = network_namespaces(*owners);
  if (auto looked = addresses_.look(namespaces); !looked) return looked;
  Servers found;
  if (auto scanned = scan_servers(*owners, found); !scanned) return scanned;
  put(std::move(found), namespaces, out);
  return {};
}

SteeredServers Steering::look(bool now, bool told) {
  SteeredServers out;
  if (!now && !times_.are_due(told)) return out;
  if (servers_.empty() && !is_wanted()) {
    out.scanned = true;
    return out;
  }
  times_.begin();
  auto scanned = scan(out);
  times_.end();
  out.scanned = scanned.has_value();
  if (!scanned) out.error = scanned.error();
  return out;
}

}  // namespace shunt
