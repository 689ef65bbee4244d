#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <base/printable.hpp>
#include <base/privileges.hpp>
#include <cerrno>
#include <vector>

namespace shunt {
namespace {

Result<void> become(const std::string& name) {
  std::vector<char> buffer(16384);
  passwd entry{};
  passwd* found = nullptr;
  const int code = getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (found == nullptr)
    return unexpected(Error{code, "there is no user " + in_quotes(name),
                            "create it, or name another one: user: in the configuration"});
  if (entry.pw_uid == 0)
    return unexpected(Error{EPERM, in_quotes(name) + " is root", "name a user without privileges"});
  // The bounding set can be emptied only with privileges.
  for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++) {
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) return unexpected(errno, "cannot give up a capability");
  }
  if (initgroups(name.c_str(), entry.pw_gid) != 0 || setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid) != 0 ||
      setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid) != 0)
    return unexpected(errno, "cannot become " + in_quotes(name));
  return {};
}

struct Capabilities {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};
};

}  // namespace

Result<void> drop_privileges(const std::string& user) {
  if (geteuid() == 0 || getuid() == 0) {
    const auto became = become(user);
    if (!became) return became;
  }
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  Capabilities none;
  if (syscall(SYS_capset, &none.header, none.sets) != 0) return unexpected(errno, "cannot give up the capabilities");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return unexpected(errno, "cannot renounce new privileges");
  Capabilities left;
  if (syscall(SYS_capget, &left.header, left.sets) != 0) return unexpected(errno, "cannot read the capabilities");
  for (const __user_cap_data_struct& set : left.sets) {
    if ((set.effective | set.permitted | set.inheritable) != 0)
      return unexpected(Error{EPERM, "capabilities are left", "start the program without any"});
  }
  if (geteuid() == 0 || setuid(0) == 0) return unexpected(Error{EPERM, "the program is still root", {}});
  return {};
}

void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace shunt
