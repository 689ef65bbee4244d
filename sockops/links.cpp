#include "sockops/links.hpp"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <sockops/install_settings.hpp>

namespace shunt {
namespace {

std::string pin_of(const Paths& paths, const std::string& kind, uint64_t cgroup) {
  return fmt::format("{}/{}-{}", links_dir(paths), kind, cgroup);
}

}  // namespace

Result<void> replace_pin(int fd, const std::string& path) {
  const size_t name_at = path.rfind('/') + 1;
  const std::string beside = path.substr(0, name_at) + "new_" + path.substr(name_at);  // bpffs allows no dots
  unlink(beside.c_str());
  if (int err = bpf_obj_pin(fd, beside.c_str()); err != 0) return unexpected(err, "cannot pin " + beside);
  if (rename(beside.c_str(), path.c_str()) != 0) return unexpected(errno, "cannot pin " + path);
  return {};
}

Result<uint64_t> attach_link(const Paths& paths, const std::string& cgroup, int program, bpf_attach_type type,
                             const std::string& kind) {
  auto id = cgroup_id(paths, cgroup);
  if (!id) return id;
  std::string pin = pin_of(paths, kind, *id);
  if (access(pin.c_str(), F_OK) == 0) {
    auto link = open_pin(pin);
    if (link && bpf_link_update(link->get(), program, nullptr) == 0) return id;
    unlink(pin.c_str());  // of a cgroup that was removed and whose id was given out again
  }
  std::string dir = paths.cgroup_root + (cgroup.starts_with('/') ? "" : "/") + cgroup;
  UniqueFd fd(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return unexpected(errno, "cannot open " + dir);
  UniqueFd link(bpf_link_create(program, fd.get(), type, nullptr));
  if (!link)
    return unexpected(errno, "cannot attach to " + dir,
                      errno == EPERM ? "another program forbids more: bpftool cgroup show" : "");
  if (int err = bpf_obj_pin(link.get(), pin.c_str()); err != 0) return unexpected(err, "cannot pin " + pin);
  return id;
}

void detach_links(const Paths& paths, const std::string& kind, const std::set<uint64_t>& wanted) {
  for (uint64_t cgroup : linked_cgroups(paths, kind)) {
    if (wanted.contains(cgroup)) continue;
    std::string pin = pin_of(paths, kind, cgroup);
    if (auto link = open_pin(pin)) bpf_link_detach(link->get());
    unlink(pin.c_str());
  }
}

std::set<uint64_t> linked_cgroups(const Paths& paths, const std::string& kind) {
  std::set<uint64_t> cgroups;
  const std::string prefix = kind + "-";
  for (const auto& name : list_dir(links_dir(paths)))
    if (name.starts_with(prefix)) cgroups.insert(strtoull(name.c_str() + prefix.size(), nullptr, 10));
  return cgroups;
}

}  // namespace shunt
