#include "sockops/policy_ends.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <base/address.hpp>
#include <filesystem>
#include <fstream>
#include <sockops/guards.hpp>
#include <sockops/owners.hpp>
#include <sockops/policy_places.hpp>

namespace shunt {
namespace {

namespace fs = std::filesystem;

Unexpected not_found(std::string message, std::string remedy) {
  return unexpected(Error{EINVAL, std::move(message), std::move(remedy)});
}

uint64_t inode(const std::string& path) {
  struct stat info = {};
  return stat(path.c_str(), &info) == 0 ? info.st_ino : 0;
}

// The cgroup and those above it, up to the root of the hierarchy.
void climb(const Paths& paths, const std::string& cgroup, PolicyEnd& end) {
  end.path = cgroup;
  for (fs::path path = cgroup;; path = path.parent_path()) {
    end.cgroups.push_back(inode(paths.cgroup_root + path.string()));
    if (path == path.parent_path()) break;
  }
}

// A socket's cgroup may be gone: then nothing above it is known either.
void climb_from(const Paths& paths, uint64_t cgroup, PolicyEnd& end) {
  const UniqueFd folder = open_cgroup(paths, cgroup);
  std::error_code code;
  const std::string path =
      folder ? fs::read_symlink(fmt::format("/proc/self/fd/{}", folder.get()), code).string() : std::string();
  if (!path.starts_with(paths.cgroup_root)) {
    end.cgroups.push_back(cgroup);
    return;
  }
  climb(paths, path == paths.cgroup_root ? "/" : path.substr(paths.cgroup_root.size()), end);
}

// Sockets get the user that the kernel makes files for.
bool read_user(const std::string& process, PolicyEnd& end) {
  std::ifstream status(process + "/status");
  for (std::string word; status >> word;) {
    if (word == "Name:") status >> end.program;
    if (word != "Uid:") continue;
    uint32_t real = 0, effective = 0, saved = 0;
    return static_cast<bool>(status >> real >> effective >> saved >> end.uid);
  }
  return false;
}

bool read_process(uint32_t tgid, PolicyEnd& end) {
  const std::string process = fmt::format("/proc/{}", tgid);
  end.netns = static_cast<uint32_t>(inode(process + "/ns/net"));
  end.tgid = tgid;
  return read_user(process, end) && end.netns != 0;
}

}  // namespace

PolicyEnd end_of_owner(const Paths& paths, const sh_owner& owner) {
  PolicyEnd end;
  climb_from(paths, owner.cgroup, end);
  end.netns = owner.netns_inode;
  end.uid = owner.uid;
  end.tgid = owner.tgid;
  end.program = owner.program;
  end.local = format_endpoint(owner.local_addr, owner.local_port);
  end.port = owner.local_port;
  end.cookie = owner.cookie;
  return end;
}

Result<PolicyEnd> end_of_process(const Paths& paths, uint32_t tgid) {
  PolicyEnd end;
  std::ifstream cgroups(fmt::format("/proc/{}/cgroup", tgid));
  for (std::string line; std::getline(cgroups, line);)
    if (line.starts_with("0::/")) climb(paths, line.substr(3), end);
  if (end.cgroups.empty() || !read_process(tgid, end))
    return not_found(fmt::format("there is no process {}", tgid), "look with ps, or name a workload");
  return end;
}

Result<PolicyEnd> end_of_cgroup(const Paths& paths, const std::string& name) {
  PolicyRows::Workload wanted;
  (name.starts_with('/') ? wanted.cgroup : wanted.unit) = name;
  const auto places = find_places(paths, {wanted}, {}, true);
  if (places[0].cgroup == 0)
    return not_found(fmt::format("there is no cgroup {} now", places[0].path), "name a workload, or start the unit");
  PolicyEnd end;
  climb(paths, places[0].path, end);
  std::ifstream processes(paths.cgroup_root + places[0].path + "/cgroup.procs");
  uint32_t tgid = 0;
  if (processes >> tgid) read_process(tgid, end);
  return end;
}

Result<PolicyPair> find_pair(const Paths& paths, const Generation& generation, const std::string& local,
                             const std::string& remote) {
  auto owners = socket_owners(generation);
  if (!owners) return unexpected(owners.error());
  const auto find = [&](auto&& wanted) {
    const auto found = std::find_if(owners->begin(), owners->end(), wanted);
    return found == owners->end() ? nullptr : &*found;
  };
  const auto between = [&](const std::string& here, const std::string& there) {
    return find([&](const sh_owner& owner) {
      return format_endpoint(owner.local_addr, owner.local_port) == here &&
             format_endpoint(owner.remote_addr, owner.remote_port) == there && owner.tcp_state != kTcpListen;
    });
  };
  const sh_owner* own = between(local, remote);
  const sh_owner* other = between(remote, local);
  auto rows = pinned_list(paths);
  if (!rows) return unexpected(rows.error());
  bool own_is_client = true;
  for (const Row& row : *rows) {
    const sh_sock& sock = row.raw.sock;
    if (own == nullptr || sock.shared.cookie != own->cookie) continue;
    own_is_client = sock.flags & SH_SOCK_ACTIVE;
    if (sock.peer_cookie != 0) other = find([&](const sh_owner& owner) { return owner.cookie == sock.peer_cookie; });
  }
  if (own == nullptr || other == nullptr)
    return not_found(fmt::format("{} -> {} is no connection of which both ends are on this host", local, remote),
                     "see 'shunt list', or name processes or workloads");
  PolicyPair pair{end_of_owner(paths, *own), end_of_owner(paths, *other)};
  if (!own_is_client) std::swap(pair.client, pair.server);
  for (const Row& row : *rows) {
    const sh_sock& sock = row.raw.sock;
    for (PolicyEnd* end : {&pair.client, &pair.server}) {
      if (sock.shared.cookie != end->cookie) continue;
      end->remote = sock.remote;
      if (sock.service_port != 0) end->port = sock.service_port;
    }
  }
  return pair;
}

}  // namespace shunt
