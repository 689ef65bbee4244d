#include "sockops/namespaces.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <base/address.hpp>
#include <cstring>
#include <set>
#include <sockops/pins.hpp>
#include <string>
#include <thread>

namespace shunt {
namespace {

#ifndef SO_NETNS_COOKIE
constexpr int SO_NETNS_COOKIE = 71;  // include/uapi/asm-generic/socket.h
#endif

struct DestroyRequest {
  nlmsghdr header;
  inet_diag_req_v2 body;
};

void fill_address(__be32* to, const uint8_t* addr, uint32_t family) {
  if (family == AF_INET) {
    memcpy(to, addr + sizeof(kV4MappedPrefix), 4);
  } else {
    memcpy(to, addr, 16);
  }
}

DestroyRequest destroy_request(const sh_event& event) {
  DestroyRequest request = {};
  request.header.nlmsg_len = sizeof(request);
  request.header.nlmsg_type = SOCK_DESTROY;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  request.body.sdiag_family = static_cast<uint8_t>(event.family);
  request.body.sdiag_protocol = IPPROTO_TCP;
  request.body.idiag_states = ~0u;
  request.body.id.idiag_sport = htons(event.local_port);
  request.body.id.idiag_dport = htons(event.remote_port);
  fill_address(request.body.id.idiag_src, event.local_addr, event.family);
  fill_address(request.body.id.idiag_dst, event.remote_addr, event.family);
  request.body.id.idiag_cookie[0] = static_cast<uint32_t>(event.cookie);
  request.body.id.idiag_cookie[1] = static_cast<uint32_t>(event.cookie >> 32);
  return request;
}

Result<void> destroy(int netlink, const sh_event& event) {
  auto request = destroy_request(event);
  if (send(netlink, &request, sizeof(request), 0) < 0) return unexpected(errno, "cannot ask for SOCK_DESTROY");
  struct {
    nlmsghdr header;
    nlmsgerr error;
  } answer = {};
  if (recv(netlink, &answer, sizeof(answer), 0) < 0) return unexpected(errno, "no answer to SOCK_DESTROY");
  if (answer.error.error != 0 && answer.error.error != -ENOENT) return unexpected(answer.error.error, "SOCK_DESTROY");
  return {};
}

// Those of the calling thread's network namespace, with as many as were reset.
void destroy_here(const std::vector<sh_event>& events, ResetReport& report) {
  const uint64_t here = own_netns_cookie();
  UniqueFd netlink;
  for (const sh_event& event : events) {
    if (event.netns != here) continue;
    if (!netlink) netlink.reset(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
    auto done = netlink ? destroy(netlink.get(), event) : unexpected(errno, "cannot open a sock_diag socket");
    if (done)
      report.reset++;
    else if (report.result)
      report.result = done;
  }
}

// Through a duplicate of the process's descriptor; empty if the process or the descriptor has gone.
UniqueFd namespace_of_socket(const sh_owner& owner) {
  UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, owner.tgid, 0)));
  if (!process) return {};
  UniqueFd socket_fd(static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), owner.fd, 0)));
  if (!socket_fd) return {};
  return UniqueFd(ioctl(socket_fd.get(), SIOCGSKNS));
}

}  // namespace

std::vector<UniqueFd> network_namespaces(const std::vector<sh_owner>& owners) {
  std::vector<UniqueFd> found;
  std::set<ino_t> seen;
  auto add = [&](UniqueFd fd) {
    struct stat info = {};
    if (fd && fstat(fd.get(), &info) == 0 && seen.insert(info.st_ino).second) found.push_back(std::move(fd));
  };
  auto add_path = [&](const std::string& path) { add(UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC))); };
  add_path("/proc/thread-self/ns/net");
  for (const auto& name : list_dir("/proc"))
    if (isdigit(static_cast<unsigned char>(name[0]))) add_path("/proc/" + name + "/ns/net");
  for (const auto& name : list_dir("/run/netns")) add_path("/run/netns/" + name);
  for (const auto& owner : owners)
    if (!seen.contains(owner.netns_inode)) add(namespace_of_socket(owner));
  return found;
}

void in_namespaces(const std::vector<UniqueFd>& namespaces, const std::function<bool()>& work) {
  std::thread worker([&] {
    for (const auto& ns : namespaces) {
      if (setns(ns.get(), CLONE_NEWNET) != 0) continue;
      if (!work()) return;
    }
  });
  worker.join();
}

Result<std::string> run_iterator_in(const std::vector<UniqueFd>& namespaces, int program) {
  Result<std::string> all = std::string();
  in_namespaces(namespaces, [&] {
    auto part = run_iterator(program);
    if (part)
      all->append(*part);
    else
      all = unexpected(part.error());
    return part.has_value();
  });
  return all;
}

uint64_t own_netns_cookie() {
  UniqueFd socket_fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  uint64_t cookie = 0;
  socklen_t bytes = sizeof(cookie);
  if (!socket_fd || getsockopt(socket_fd.get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &bytes) != 0) return 0;
  return cookie;
}

ResetReport reset_sockets(const std::vector<sh_event>& events, const std::vector<sh_owner>& owners) {
  ResetReport report;
  const uint64_t own = own_netns_cookie();
  const auto is_here = [&](const sh_event& event) { return event.netns == own; };
  if (std::any_of(events.begin(), events.end(), is_here)) destroy_here(events, report);
  if (std::all_of(events.begin(), events.end(), is_here)) return report;
  in_namespaces(network_namespaces(owners), [&] {
    if (own_netns_cookie() != own) destroy_here(events, report);
    return true;
  });
  return report;
}

}  // namespace shunt
