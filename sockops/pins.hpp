// Where the kernel side is kept while no process of ours runs: the pinned maps, programs and links.
//
//   <pin_dir>/crossing-v1/   maps shared by all generations (the crossing layout of bpf/abi/shunt.h)
//   <pin_dir>/gen-N-lL/      maps, programs and guards (setsockopt) of generation N, which has layout L
//   <pin_dir>/links/         the sock_ops attachments, one for each cgroup; a new generation takes them over
#pragma once

#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <optional>
#include <sockops/engine.hpp>
#include <string>
#include <vector>

namespace shunt {

struct Generation {
  uint32_t number = 0;
  uint32_t layout = 0;
  std::string dir;
};

// Fills what is empty: finds the mounts, mounts bpffs if `mount` is set, makes the pin folder with mode 0700.
Result<Paths> resolve_paths(Paths paths, bool mount);

std::string crossing_dir(const Paths& paths);
std::string links_dir(const Paths& paths);
std::string generation_dir(const Paths& paths, uint32_t number, uint32_t layout);
bool is_crossing_map(const std::string& name);

// Oldest first. Empty if nothing is pinned.
std::vector<Generation> generations(const Paths& paths);
// The newest one that has all its programs pinned: a daemon may have died while making a newer one. Empty if there is
// none.
std::optional<Generation> newest_whole_generation(const Paths& paths);

bool is_pinned(const std::string& path);
Result<UniqueFd> open_pin(const std::string& path);
// The pinned map of a generation, wherever it is kept.
Result<UniqueFd> open_map(const Paths& paths, const Generation& generation, const std::string& name);

// Another descriptor of an open map, for a process that may do less with it: `flags` is BPF_F_RDONLY or BPF_F_WRONLY.
Result<UniqueFd> map_for_others(int map, uint32_t flags);

// Names of the entries of a folder, without . and .., sorted.
std::vector<std::string> list_dir(const std::string& dir);
void remove_dir(const std::string& dir);  // with its entries; not recursive: pins have no subfolders

// Runs an iterator program and returns all that it wrote.
Result<std::string> run_iterator(int program);

}  // namespace shunt
