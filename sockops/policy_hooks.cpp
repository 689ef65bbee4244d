#include "sockops/policy_hooks.hpp"

#include <bpf/bpf.h>
#include <fmt/format.h>
#include <unistd.h>

#include <sockops/links.hpp>

namespace shunt {
namespace {

constexpr const char* kConnect4 = "con4";
constexpr const char* kConnect6 = "con6";
constexpr const char* kGateIn = "gin";
constexpr const char* kGateOut = "gout";
constexpr const char* kOnMkdir = "mkdir";

std::string mkdir_pin(const Paths& paths) { return links_dir(paths) + "/" + kOnMkdir; }

// 0: no such object.
template <typename Info>
Info info_of(int fd) {
  Info info = {};
  uint32_t bytes = sizeof(info);
  return bpf_obj_get_info_by_fd(fd, &info, &bytes) == 0 ? info : Info{};
}

bool is_attached_on_mkdir(const Paths& paths, int program) {
  const auto link = open_pin(mkdir_pin(paths));
  const uint32_t id = info_of<bpf_prog_info>(program).id;
  return link && id != 0 && info_of<bpf_link_info>(link->get()).prog_id == id;
}

// A link of a tracepoint cannot be given another program: the new one takes the old one's place, which takes
// milliseconds.
Result<void> attach_on_mkdir(const Paths& paths, int program) {
  if (is_attached_on_mkdir(paths, program)) return {};
  UniqueFd link(bpf_raw_tracepoint_open("cgroup_mkdir", program));
  // Before Linux 6.10 a program cannot be attached twice: then it is the pinned one.
  if (!link && errno == EEXIST && is_pinned(mkdir_pin(paths))) return {};
  if (!link) return unexpected(errno, "cannot attach to the making of cgroups");
  return replace_pin(link.get(), mkdir_pin(paths));
}

Result<void> renew(const Paths& paths, const std::string& kind, int program, std::set<uint64_t>& renewed) {
  for (uint64_t cgroup : linked_cgroups(paths, kind)) {
    const std::string pin = fmt::format("{}/{}-{}", links_dir(paths), kind, cgroup);
    auto link = open_pin(pin);
    if (!link) return unexpected(link.error());
    if (bpf_link_update(link->get(), program, nullptr) == 0)
      renewed.insert(cgroup);
    else if (errno != ENOLINK)  // its cgroup was removed
      return unexpected(errno, "cannot put the program in force at " + pin);
  }
  return {};
}

}  // namespace

Result<PolicyHooks> attach_policy_hooks(const Paths& paths, const PolicyPrograms& programs,
                                        const std::vector<std::string>& connect_cgroups,
                                        const std::set<std::string>& governed) {
  PolicyHooks hooks;
  if (auto made = attach_on_mkdir(paths, programs.on_mkdir); !made) return unexpected(made.error());
  for (const std::string& cgroup : connect_cgroups) {
    auto v4 = attach_link(paths, cgroup, programs.connect4, BPF_CGROUP_INET4_CONNECT, kConnect4);
    if (!v4) return unexpected(v4.error());
    auto v6 = attach_link(paths, cgroup, programs.connect6, BPF_CGROUP_INET6_CONNECT, kConnect6);
    if (!v6) return unexpected(v6.error());
    hooks.connect.insert(*v6);
  }
  for (const std::string& cgroup : governed) {
    auto in = attach_link(paths, cgroup, programs.gate_in, BPF_CGROUP_INET_INGRESS, kGateIn);
    if (!in) return unexpected(in.error());
    auto out = attach_link(paths, cgroup, programs.gate_out, BPF_CGROUP_INET_EGRESS, kGateOut);
    if (!out) return unexpected(out.error());
    hooks.gate.insert(*out);
  }
  return hooks;
}

Result<PolicyHooks> renew_policy_hooks(const Paths& paths, const PolicyPrograms& programs) {
  PolicyHooks hooks;
  if (auto made = attach_on_mkdir(paths, programs.on_mkdir); !made) return unexpected(made.error());
  if (auto done = renew(paths, kConnect4, programs.connect4, hooks.connect); !done) return unexpected(done.error());
  if (auto done = renew(paths, kConnect6, programs.connect6, hooks.connect); !done) return unexpected(done.error());
  if (auto done = renew(paths, kGateIn, programs.gate_in, hooks.gate); !done) return unexpected(done.error());
  if (auto done = renew(paths, kGateOut, programs.gate_out, hooks.gate); !done) return unexpected(done.error());
  return hooks;
}

void keep_policy_hooks(const Paths& paths, const PolicyHooks& wanted) {
  detach_links(paths, kConnect4, wanted.connect);
  detach_links(paths, kConnect6, wanted.connect);
  detach_links(paths, kGateIn, wanted.gate);
  detach_links(paths, kGateOut, wanted.gate);
}

void detach_policy_hooks(const Paths& paths) {
  keep_policy_hooks(paths, {});
  unlink(mkdir_pin(paths).c_str());
}

}  // namespace shunt
