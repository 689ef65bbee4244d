#include "sockops/syn_programs.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <sockops/links.hpp>

#include "steer.skel.h"

namespace shunt {
namespace {

constexpr const char* kKind = "steer";

struct SteerCloser {
  void operator()(steer_bpf* skeleton) const { steer_bpf__destroy(skeleton); }
};
using SteerSkeleton = std::unique_ptr<steer_bpf, SteerCloser>;

std::string pin_of(const Paths& paths, uint64_t netns) {
  return fmt::format("{}/{}-{}", links_dir(paths), kKind, netns);
}

// With the maps of the other programs.
Result<SteerSkeleton> load_program(uint32_t netns, const MapFinder& map) {
  SteerSkeleton skeleton(steer_bpf__open());
  if (!skeleton) return unexpected(errno, "cannot open the program that looks at SYNs");
  skeleton->rodata->sh_steer_netns = netns;
  bpf_map* one = nullptr;
  bpf_object__for_each_map(one, skeleton->obj) {
    if (bpf_map__is_internal(one)) continue;
    if (int err = bpf_map__reuse_fd(one, map(bpf_map__name(one))); err != 0)
      return unexpected(err, fmt::format("cannot share the map {}", bpf_map__name(one)));
  }
  if (int err = steer_bpf__load(skeleton.get()); err != 0)
    return unexpected(err, "the kernel refused the program that looks at SYNs");
  return skeleton;
}

}  // namespace

const UniqueFd* find_namespace(const std::vector<UniqueFd>& namespaces, uint32_t inode) {
  for (const UniqueFd& netns : namespaces) {
    struct stat info {};
    if (fstat(netns.get(), &info) == 0 && info.st_ino == inode) return &netns;
  }
  return nullptr;
}

// A link outlives its namespace.
bool SynPrograms::attached(uint32_t netns) const {
  if (!attached_.contains(netns)) return false;
  const auto link = open_pin(pin_of(paths_, netns));
  bpf_link_info info = {};
  uint32_t bytes = sizeof(info);
  return link && bpf_obj_get_info_by_fd(link->get(), &info, &bytes) == 0 && info.netns.netns_ino == netns;
}

Result<void> SynPrograms::attach(uint32_t netns, const std::vector<UniqueFd>& namespaces) {
  if (attached(netns)) return {};
  const UniqueFd* fd = find_namespace(namespaces, netns);
  if (fd == nullptr) return unexpected(Error{ENOENT, fmt::format("the network namespace {} is gone", netns), ""});
  auto loaded = load_program(netns, map_);
  if (!loaded) return unexpected(loaded.error());
  const int program = bpf_program__fd((*loaded)->progs.sh_steer);
  const std::string pin = pin_of(paths_, netns);
  if (is_pinned(pin)) {
    auto link = open_pin(pin);
    if (link && bpf_link_update(link->get(), program, nullptr) == 0) {
      attached_.insert(netns);
      return {};
    }
    unlink(pin.c_str());  // of a namespace that is gone and whose inode was given out again
  }
  const UniqueFd link(bpf_link_create(program, fd->get(), BPF_SK_LOOKUP, nullptr));
  if (!link) return unexpected(errno, "cannot attach to a network namespace");
  if (int err = bpf_obj_pin(link.get(), pin.c_str()); err != 0) return unexpected(err, "cannot pin " + pin);
  attached_.insert(netns);
  return {};
}

void SynPrograms::keep(User user, std::set<uint64_t> wanted) {
  wanted_[user] = std::move(wanted);
  std::set<uint64_t> all;
  bool all_known = true;
  for (const auto& of_user : wanted_) {
    all_known &= of_user.has_value();
    if (of_user) all.insert(of_user->begin(), of_user->end());
  }
  std::set<uint64_t> kept = all;
  if (!all_known)
    for (const uint64_t netns : linked_cgroups(paths_, kKind))
      if (!attached_.contains(netns)) kept.insert(netns);
  detach_links(paths_, kKind, kept);
  std::erase_if(attached_, [&](uint64_t netns) { return !all.contains(netns); });
}

void SynPrograms::detach_all() {
  detach_links(paths_, kKind);
  attached_.clear();
}

}  // namespace shunt
