#include "sockops/policy_places.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <sockops/guards.hpp>

namespace shunt {
namespace {

constexpr int kSearchDepthMax = 64;

// The inode of a folder or file; 0: it is not there.
uint64_t inode_of(const std::string& path) {
  struct stat info = {};
  return stat(path.c_str(), &info) == 0 ? info.st_ino : 0;
}

std::string parent_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == 0 || slash == std::string::npos ? "/" : path.substr(0, slash);
}

// The folders of root below the mount, nearest first.
class Tree {
 public:
  explicit Tree(const std::string& root) : root_(root) {
    std::vector<std::string> level = {""};
    for (int depth = 0; depth < kSearchDepthMax && !level.empty(); depth++) {
      std::vector<std::string> below;
      for (const std::string& folder : level) add_below(folder, below);
      std::sort(below.begin(), below.end());
      all_.insert(all_.end(), below.begin(), below.end());
      level = std::move(below);
    }
  }

  // The nearest folder of this name, or whose name contains it.
  std::string find(const std::string& name, bool whole) const {
    for (const std::string& path : all_) {
      const std::string base = path.substr(path.rfind('/') + 1);
      if (whole ? base == name : base.find(name) != std::string::npos) return path;
    }
    return {};
  }

 private:
  void add_below(const std::string& folder, std::vector<std::string>& below) const {
    DIR* handle = opendir((root_ + folder).c_str());
    if (!handle) return;
    while (const dirent* entry = readdir(handle)) {
      const std::string name = entry->d_name;
      struct stat info = {};
      if (entry->d_type != DT_DIR || name == "." || name == "..") continue;
      if (fstatat(dirfd(handle), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 || info.st_uid != 0) continue;
      below.push_back(folder + "/" + name);
    }
    closedir(handle);
  }

  std::string root_;
  std::vector<std::string> all_;
};

// Where systemd puts a unit that is not there now: a slice below those that its name counts up, all else below
// system.slice unless its file says otherwise.
std::string usual_path(const std::string& unit) {
  const std::string suffix = ".slice";
  if (!unit.ends_with(suffix)) return "/system.slice/" + unit;
  std::string path;
  for (size_t dash = unit.find('-'); dash != std::string::npos; dash = unit.find('-', dash + 1))
    path += "/" + unit.substr(0, dash) + suffix;
  return path + "/" + unit;
}

void find_cgroup(const Paths& paths, const PolicyRows::Workload& workload, const WorkloadPlace& before,
                 std::optional<Tree>& tree, bool search, WorkloadPlace& place) {
  const bool by_path = !workload.cgroup.empty();
  place.path = by_path ? workload.cgroup : before.path;
  if (place.path.empty() && !workload.unit.empty()) place.path = usual_path(workload.unit);
  if (!place.path.empty()) place.cgroup = inode_of(paths.cgroup_root + place.path);
  if (place.cgroup == 0 && !by_path && search) {
    if (!tree) tree.emplace(paths.cgroup_root);
    const bool whole = !workload.unit.empty();
    const std::string found = tree->find(whole ? workload.unit : workload.container_id, whole);
    if (!found.empty()) place.path = found;
    if (!found.empty()) place.cgroup = inode_of(paths.cgroup_root + found);
  }
  place.comes_back = workload.container_id.empty();  // a container that is made anew has another id
  if (place.comes_back && place.path.size() >= SH_POLICY_CGROUP_PATH_BYTES) {
    place.comes_back = false;
    place.note = fmt::format(
        "the path of its cgroup is longer than {} bytes: when it is made again, it is a workload "
        "again only after a second",
        SH_POLICY_CGROUP_PATH_BYTES - 1);
  }
  if (place.cgroup != 0) return;
  place.note = place.path.empty() ? "no cgroup of this container is there now" : "no cgroup " + place.path + " now";
}

}  // namespace

std::vector<WorkloadPlace> find_places(const Paths& paths, const std::vector<PolicyRows::Workload>& workloads,
                                       const std::vector<WorkloadPlace>& before, bool search) {
  std::vector<WorkloadPlace> places;
  std::optional<Tree> tree;
  for (size_t i = 0; i < workloads.size(); i++) {
    const PolicyRows::Workload& workload = workloads[i];
    WorkloadPlace place;
    place.title = workload.title;
    place.identity = workload.identity;
    place.uid = workload.uid;
    place.is_here = workload.is_here();
    place.spiffe = workload.spiffe;
    place.remote = workload.remote;
    place.has_cgroup = workload.has_cgroup();
    if (place.has_cgroup) find_cgroup(paths, workload, i < before.size() ? before[i] : place, tree, search, place);
    place.has_netns = !workload.network_namespace.empty();
    if (place.has_netns) place.netns = static_cast<uint32_t>(inode_of(workload.network_namespace));
    if (place.has_netns && place.netns == 0)
      place.note += (place.note.empty() ? "" : "; ") + ("no network namespace " + workload.network_namespace + " now");
    places.push_back(std::move(place));
  }
  return places;
}

namespace {

// False: another workload, which `owners` names, has the same SPIFFE ID.
bool add_remote(const WorkloadPlace& place, uint32_t half, WorkloadRows& rows,
                std::map<std::string, const WorkloadPlace*>& owners) {
  if (place.spiffe.empty()) return true;
  const auto owner = owners.emplace(place.spiffe, &place).first;
  rows.remotes[{place.remote, half, 0}] = place.identity;
  return owner->second->identity == place.identity;
}

}  // namespace

Result<WorkloadRows> workload_rows(const std::vector<WorkloadPlace>& places, uint32_t half) {
  WorkloadRows rows;
  std::map<sh_policy_workload_key, const WorkloadPlace*, WorkloadRows::Less> owners;
  std::map<sh_policy_path_key, const WorkloadPlace*, WorkloadRows::Less> path_owners;
  const auto conflict = [](const WorkloadPlace& a, const WorkloadPlace& b) {
    return unexpected(Error{EINVAL, fmt::format("the workloads {} and {} are the same processes", a.title, b.title),
                            "give them the same labels, or tell them apart by cgroup, uid or networkNamespace"});
  };
  std::map<std::string, const WorkloadPlace*> remote_owners;
  for (const WorkloadPlace& place : places) {
    if (!add_remote(place, half, rows, remote_owners))
      return unexpected(Error{EINVAL,
                              fmt::format("the workloads {} and {} are both {}", remote_owners[place.spiffe]->title,
                                          place.title, place.spiffe),
                              "give them the same labels, or one of them another SPIFFE ID"});
    if (!place.is_here || (place.has_netns && place.netns == 0)) continue;  // nobody is in it
    const uint32_t uid = place.uid.value_or(SH_POLICY_UID_ANY);
    const uint32_t by = (place.has_netns ? SH_POLICY_BY_NETNS : 0) | (place.uid ? SH_POLICY_BY_UID : 0);
    if (!place.has_cgroup || place.cgroup != 0) {
      const sh_policy_workload_key key = {place.cgroup, place.netns, uid, half, 0};
      const auto [owner, fresh] = owners.emplace(key, &place);
      if (!fresh && owner->second->identity != place.identity) return conflict(*owner->second, place);
      rows.keys[key] = place.identity;
      rows.by |= 1U << by;
    }
    if (place.has_cgroup && place.comes_back) {
      sh_policy_path_key key = {};
      memcpy(key.path, place.path.data(), std::min(place.path.size(), sizeof(key.path) - 1));
      key.half = half;
      // A path has room for one entry: the one with fewest conditions, and the daemon adds the others.
      const auto [owner, fresh] = path_owners.emplace(key, &place);
      const auto conditions = [](const WorkloadPlace& one) { return one.has_netns + one.uid.has_value(); };
      if (!fresh && conditions(*owner->second) <= conditions(place)) continue;
      owner->second = &place;
      rows.paths[key] = {place.identity, place.netns, uid, 0};
      rows.by |= 1U << by;
    }
  }
  return rows;
}

std::set<std::string> governed_cgroups(const Paths& paths, const std::vector<WorkloadPlace>& places) {
  std::set<std::string> wanted;
  for (const WorkloadPlace& place : places) {
    if (!place.is_here || (place.has_cgroup && place.path.empty())) continue;  // governed when it is found
    std::string folder = place.has_cgroup ? parent_of(place.path) : "/";
    while (folder != "/" && inode_of(paths.cgroup_root + folder) == 0) folder = parent_of(folder);
    wanted.insert(folder);
  }
  if (wanted.contains("/")) return {"/"};
  std::set<std::string> least;
  for (const std::string& folder : wanted) {
    bool covered = false;
    for (std::string above = parent_of(folder); above != "/" && !covered; above = parent_of(above))
      covered = wanted.contains(above);
    if (!covered) least.insert(folder);
  }
  return least;
}

bool has_cgroups(const Paths& paths) {
  struct stat info = {};
  // Of a folder's links, one is its name, one its own ".", the others those of the folders below.
  return stat(paths.cgroup_root.c_str(), &info) == 0 && info.st_nlink > 2;
}

bool is_cgroup_gone(const Paths& paths, uint64_t cgroup) { return !open_cgroup(paths, cgroup) && errno == ESTALE; }

}  // namespace shunt
