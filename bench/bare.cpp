#include <bpf/bpf.h>
#include <fcntl.h>

#include <base/unique_fd.hpp>
#include <bench/bare.hpp>

#include "bare.skel.h"

namespace shunt::bench {

Result<std::unique_ptr<BareRedirect>> BareRedirect::attach(const std::string& cgroup_folder) {
  UniqueFd cgroup(open(cgroup_folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup) return unexpected(errno, "open " + cgroup_folder);
  bare_bpf* programs = bare_bpf__open_and_load();
  if (!programs) return unexpected(errno, "load the bare redirect");
  std::unique_ptr<BareRedirect> bare(new BareRedirect(programs));
  const int program = bpf_program__fd(programs->progs.bare_redirect);
  if (bpf_prog_attach(program, bpf_map__fd(programs->maps.bare_socks), BPF_SK_MSG_VERDICT, 0) != 0)
    return unexpected(errno, "attach the bare redirect to its map");
  bare->link_ = bpf_program__attach_cgroup(programs->progs.bare_enrol, cgroup.get());
  if (!bare->link_) return unexpected(errno, "attach the bare redirect to " + cgroup_folder);
  return bare;
}

BareRedirect::~BareRedirect() {
  bpf_link__destroy(link_);
  bare_bpf__destroy(programs_);
}

}  // namespace shunt::bench
