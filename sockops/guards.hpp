// Guards: the attachments of the setsockopt program. Only cgroups whose sockets are enrolled have one, because every
// setsockopt() below it pays for the program; the kernel side asks (SH_EV_GUARD) and enrols nothing before it is there.
// A generation's guards are pinned in its own folder, because its programs alone know its sockets.
#pragma once

#include <base/result.hpp>
#include <functional>
#include <sockops/pins.hpp>

namespace shunt {

// What attaching needs of a loaded generation. Descriptors stay the caller's.
struct GuardContext {
  const Paths& paths;
  const Generation& generation;
  int program;  // the setsockopt program
  int map;      // sh_guards
};

// The folder of a cgroup by its id; empty with errno: ESTALE if it is gone. Needs CAP_DAC_READ_SEARCH.
UniqueFd open_cgroup(const Paths& paths, uint64_t cgroup);

// Attaches the program to the cgroup, unless one above has it already, and says so to the kernel side. A cgroup that is
// gone, or lies outside of those that shunt is attached to, is left alone and is no error.
Result<void> guard_cgroup(const GuardContext& context, uint64_t cgroup);

// Every cgroup that was guarded before is so again, with this program; those that are gone are forgotten, and where it
// fails nothing is enrolled any more. To be called before the mode is ON.
Result<void> renew_guards(const GuardContext& context);

// Forgets the guards of cgroups that are gone: their pins would gather where containers come and go.
void forget_gone(const GuardContext& context);

// Detaches all guards of a generation, whose entries stay: renew_guards() finds them.
void detach_guards(const Generation& generation);

}  // namespace shunt
