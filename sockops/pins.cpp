#include "sockops/pins.hpp"

#include <bpf/bpf.h>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <base/mounts.hpp>
#include <cstdio>
#include <iterator>
#include <string_view>

namespace shunt {
namespace {

constexpr size_t kIteratorChunkBytes = 1 << 16;

bool is_bpffs(const std::string& dir) {
  struct statfs fs = {};
  return statfs(dir.c_str(), &fs) == 0 && static_cast<unsigned long>(fs.f_type) == BPF_FS_MAGIC;
}

Result<void> ensure_bpffs(const std::string& dir, bool mount_it) {
  if (is_bpffs(dir)) return {};
  if (!mount_it)
    return unexpected(Error{ENOENT, dir + " is not a BPF file system", "nothing of shunt is in force here"});
  if (mount("bpf", dir.c_str(), "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") != 0)
    return unexpected(errno, "cannot mount a BPF file system on " + dir, "run as root: mount -t bpf bpf " + dir);
  return {};
}

}  // namespace

Result<Paths> resolve_paths(Paths paths, bool mount_it) {
  if (paths.bpffs.empty()) paths.bpffs = "/sys/fs/bpf";
  if (paths.cgroup_root.empty()) paths.cgroup_root = find_mount("cgroup2");
  if (paths.cgroup_root.empty())
    return unexpected(
        Error{ENOENT, "no cgroup v2 is mounted",
              "mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1"});
  if (auto mounted = ensure_bpffs(paths.bpffs, mount_it); !mounted) return unexpected(mounted.error());
  if (paths.pin_dir.empty()) paths.pin_dir = paths.bpffs + "/shunt";
  if (mount_it && mkdir(paths.pin_dir.c_str(), 0700) != 0 && errno != EEXIST)
    return unexpected(errno, "cannot make " + paths.pin_dir);
  return paths;
}

std::string crossing_dir(const Paths& paths) {
  return fmt::format("{}/crossing-v{}", paths.pin_dir, SH_CROSSING_VERSION);
}
std::string links_dir(const Paths& paths) { return paths.pin_dir + "/links"; }
std::string generation_dir(const Paths& paths, uint32_t number, uint32_t layout) {
  return fmt::format("{}/gen-{}-l{}", paths.pin_dir, number, layout);
}
bool is_crossing_map(const std::string& name) {
  constexpr std::string_view kNames[] = {"sh_socks",    "sh_isns",    "sh_answers",
                                         "sh_gateways", "sh_remotes", "sh_dialled"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

Result<UniqueFd> map_for_others(int map, uint32_t flags) {
  bpf_map_info info = {};
  uint32_t bytes = sizeof(info);
  if (bpf_obj_get_info_by_fd(map, &info, &bytes) != 0) return unexpected(errno, "cannot look at a map");
  bpf_get_fd_by_id_opts options = {};
  options.sz = sizeof(options);
  options.open_flags = flags;
  UniqueFd fd(bpf_map_get_fd_by_id_opts(info.id, &options));
  if (!fd) return unexpected(errno, "cannot open a map for another process");
  return fd;
}

std::vector<std::string> list_dir(const std::string& dir) {
  std::vector<std::string> names;
  DIR* handle = opendir(dir.c_str());
  if (!handle) return names;
  while (dirent* entry = readdir(handle)) {
    std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(std::move(name));
  }
  closedir(handle);
  std::sort(names.begin(), names.end());
  return names;
}

void remove_dir(const std::string& dir) {
  for (const auto& name : list_dir(dir)) unlink((dir + "/" + name).c_str());
  rmdir(dir.c_str());
}

std::vector<Generation> generations(const Paths& paths) {
  std::vector<Generation> found;
  for (const auto& name : list_dir(paths.pin_dir)) {
    Generation generation;
    if (sscanf(name.c_str(), "gen-%u-l%u", &generation.number, &generation.layout) != 2) continue;
    generation.dir = paths.pin_dir + "/" + name;
    found.push_back(std::move(generation));
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.number < b.number; });
  return found;
}

std::optional<Generation> newest_whole_generation(const Paths& paths) {
  auto found = generations(paths);
  while (!found.empty() && !is_pinned(found.back().dir + "/prog_iter_owners")) found.pop_back();
  return found.empty() ? std::nullopt : std::optional(found.back());
}

bool is_pinned(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

Result<UniqueFd> open_pin(const std::string& path) {
  int fd = bpf_obj_get(path.c_str());
  if (fd < 0) return unexpected(fd, "cannot open " + path, fd == -EPERM || fd == -EACCES ? "run as root" : "");
  return UniqueFd(fd);
}

Result<UniqueFd> open_map(const Paths& paths, const Generation& generation, const std::string& name) {
  return open_pin((is_crossing_map(name) ? crossing_dir(paths) : generation.dir) + "/" + name);
}

Result<std::string> run_iterator(int program) {
  UniqueFd link(bpf_link_create(program, 0, BPF_TRACE_ITER, nullptr));
  if (!link) return unexpected(errno, "cannot start a BPF iterator");
  UniqueFd iterator(bpf_iter_create(link.get()));
  if (!iterator) return unexpected(errno, "cannot read a BPF iterator");
  std::string all;
  std::vector<char> chunk(kIteratorChunkBytes);
  for (;;) {
    ssize_t got = read(iterator.get(), chunk.data(), chunk.size());
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (got < 0) return unexpected(errno, "reading a BPF iterator failed");
    if (got == 0) return all;
    all.append(chunk.data(), static_cast<size_t>(got));
  }
}

}  // namespace shunt
