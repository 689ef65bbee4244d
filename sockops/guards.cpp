#include "sockops/guards.hpp"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cstring>
#include <sockops/map_walk.hpp>
#include <vector>

namespace shunt {
namespace {

constexpr const char* kPinPrefix = "guard-";
constexpr int kFileidKernfs = 0xfe;  // include/linux/exportfs.h: FILEID_KERNFS, whose handle is the 64-bit id
constexpr int kDepthMax = 64;

std::string pin_of(const Generation& generation, uint64_t cgroup) {
  return fmt::format("{}/{}{}", generation.dir, kPinPrefix, cgroup);
}

uint64_t inode_of(int fd) {
  struct stat info = {};
  return fstat(fd, &info) == 0 ? info.st_ino : 0;
}

// The ids of the cgroup itself and of all above it, up to the root of the mount.
std::vector<uint64_t> lineage(const Paths& paths, int cgroup_fd) {
  struct stat root = {};
  std::vector<uint64_t> ids = {inode_of(cgroup_fd)};
  UniqueFd at(dup(cgroup_fd));
  if (stat(paths.cgroup_root.c_str(), &root) != 0) return ids;
  for (int depth = 0; depth < kDepthMax && ids.back() != root.st_ino; depth++) {
    at.reset(openat(at.get(), "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!at) break;
    ids.push_back(inode_of(at.get()));
  }
  return ids;
}

// Shunt is attached to it or to one above.
bool is_covered(const Paths& paths, const std::vector<uint64_t>& ids) {
  for (uint64_t id : ids)
    if (is_pinned(fmt::format("{}/ops-{}", links_dir(paths), id))) return true;
  return false;
}

// A pin that is there already gets this program in place: there is no moment without one.
Result<void> attach_guard(const GuardContext& context, int cgroup_fd, uint64_t cgroup) {
  std::string pin = pin_of(context.generation, cgroup);
  if (is_pinned(pin)) {
    auto link = open_pin(pin);
    if (link && bpf_link_update(link->get(), context.program, nullptr) == 0) return {};
    unlink(pin.c_str());
  }
  UniqueFd link(bpf_link_create(context.program, cgroup_fd, BPF_CGROUP_SETSOCKOPT, nullptr));
  if (!link)
    return unexpected(errno, fmt::format("cannot watch cgroup {} for socket options", cgroup),
                      errno == EPERM ? "another program forbids more: bpftool cgroup tree" : "");
  if (int err = bpf_obj_pin(link.get(), pin.c_str()); err != 0) return unexpected(err, "cannot pin " + pin);
  return {};
}

Result<void> mark(const GuardContext& context, uint64_t cgroup, bool guarded) {
  sh_guard guard = {};
  guard.guarded = guarded;
  if (bpf_map_update_elem(context.map, &cgroup, &guard, BPF_ANY) != 0)
    return unexpected(errno, "cannot record that a cgroup is watched for socket options");
  return {};
}

void forget(const GuardContext& context, uint64_t cgroup) {
  bpf_map_delete_elem(context.map, &cgroup);
  unlink(pin_of(context.generation, cgroup).c_str());
}

std::vector<uint64_t> guarded_cgroups(int map) {
  std::vector<uint64_t> found;
  for_each_key<uint64_t>(map, [&](uint64_t key) {
    sh_guard guard = {};
    if (bpf_map_lookup_elem(map, &key, &guard) == 0 && guard.guarded) found.push_back(key);
  });
  return found;
}

}  // namespace

UniqueFd open_cgroup(const Paths& paths, uint64_t cgroup) {
  UniqueFd root(open(paths.cgroup_root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root) return {};
  struct {
    file_handle head;
    uint64_t id;
  } handle = {};
  handle.head.handle_bytes = sizeof(handle.id);
  handle.head.handle_type = kFileidKernfs;
  memcpy(handle.head.f_handle, &cgroup, sizeof(cgroup));
  return UniqueFd(open_by_handle_at(root.get(), &handle.head, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

Result<void> guard_cgroup(const GuardContext& context, uint64_t cgroup) {
  UniqueFd fd = open_cgroup(context.paths, cgroup);
  if (!fd && errno != ESTALE) return unexpected(errno, fmt::format("cannot open cgroup {}", cgroup));
  if (!fd) {
    forget(context, cgroup);
    return {};
  }
  auto ids = lineage(context.paths, fd.get());
  if (!is_covered(context.paths, ids)) return {};
  bool inherited = false;
  for (size_t i = 1; i < ids.size(); i++) inherited |= is_pinned(pin_of(context.generation, ids[i]));
  if (!inherited)
    if (auto attached = attach_guard(context, fd.get(), cgroup); !attached) return attached;
  return mark(context, cgroup, true);
}

Result<void> renew_guards(const GuardContext& context) {
  for (uint64_t cgroup : guarded_cgroups(context.map)) {
    if (guard_cgroup(context, cgroup)) continue;
    if (auto marked = mark(context, cgroup, false); !marked) return marked;
  }
  return {};
}

void forget_gone(const GuardContext& context) {
  for (const auto& name : list_dir(context.generation.dir)) {
    if (!name.starts_with(kPinPrefix)) continue;
    uint64_t cgroup = strtoull(name.c_str() + strlen(kPinPrefix), nullptr, 10);
    if (!open_cgroup(context.paths, cgroup) && errno == ESTALE) forget(context, cgroup);
  }
}

void detach_guards(const Generation& generation) {
  for (const auto& name : list_dir(generation.dir)) {
    if (!name.starts_with(kPinPrefix)) continue;
    std::string pin = generation.dir + "/" + name;
    if (auto link = open_pin(pin)) bpf_link_detach(link->get());
    unlink(pin.c_str());
  }
}

}  // namespace shunt
