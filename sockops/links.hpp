// Attachments that outlive the process: links that are pinned in the links folder as KIND-CGROUP_ID.
#pragma once

#include <linux/bpf.h>

#include <base/result.hpp>
#include <cstdint>
#include <set>
#include <sockops/pins.hpp>
#include <string>

namespace shunt {

// Puts a pin where another may be: the new one takes the old one's name at once. Were the name missing when the daemon
// is killed, nobody could take the live sockets out of the map.
Result<void> replace_pin(int fd, const std::string& path);

// Attaches a program to a cgroup (a path below the mount) through a pinned link. A link of this kind that is there
// already, of this or an older generation, is updated in place: there is no moment without a program. Returns the
// cgroup's id.
Result<uint64_t> attach_link(const Paths& paths, const std::string& cgroup, int program, bpf_attach_type type,
                             const std::string& kind);

// Detaches the links of this kind, but for those of the cgroups in `wanted`. Detaching ends the attachment at once,
// also where somebody else holds the link open.
void detach_links(const Paths& paths, const std::string& kind, const std::set<uint64_t>& wanted = {});

// The cgroups that have a link of this kind.
std::set<uint64_t> linked_cgroups(const Paths& paths, const std::string& kind);

}  // namespace shunt
