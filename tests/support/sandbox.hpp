// What a test may do to the kernel without leaving anything behind: private mounts, cgroups, network namespaces,
// processes. Trouble in any of these ends the test program: a test that cannot have its sandbox has shown nothing.
#pragma once

#include <sys/types.h>

#include <base/unique_fd.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace shunt::test {

// Needs root. Private mount namespace with an empty bpffs at /sys/fs/bpf: what is pinned there dies with the test
// program. Call before any thread is started.
void enter_sandbox();

[[noreturn]] void die(const std::string& what);  // with errno
inline void require(bool ok, const std::string& what) {
  if (!ok) die(what);
}

std::string read_text(const std::string& path);  // empty if it cannot be read
bool write_text(const std::string& path, const std::string& text);

// What the kernel uses for itself, the page cache left out. Sockets' buffers are slab objects and pages that nobody
// else is charged with.
uint64_t kernel_bytes_used();

// Polls `condition` until it holds or `limit` has passed; returns whether it held.
bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds limit = std::chrono::seconds(10));

class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A cgroup of our own at the top of the cgroup v2 mount.
class Cgroup {
 public:
  Cgroup();
  ~Cgroup();  // takes this process out, kills what else is in there, removes the cgroup and those below
  Cgroup(const Cgroup&) = delete;
  Cgroup& operator=(const Cgroup&) = delete;

  static std::string mount_point();
  const std::string& path() const { return path_; }
  std::string name() const { return path_.substr(mount_point().size()); }  // "/shunt-test-..."

  // Sockets belong to the cgroup in which they (or their listener) were made.
  void enter() const;  // this process
  void leave() const;  // back to where it was
  void add(pid_t pid) const;
  bool holds(pid_t pid) const;

 private:
  std::string path_;
  std::string home_;
};

// Runs `work` with this process inside (or outside) a cgroup, and goes back.
class InCgroup {
 public:
  explicit InCgroup(const Cgroup& cgroup) : cgroup_(cgroup), was_inside_(cgroup.holds(0)) { cgroup_.enter(); }
  ~InCgroup() {
    if (!was_inside_) cgroup_.leave();
  }
  InCgroup(const InCgroup&) = delete;
  InCgroup& operator=(const InCgroup&) = delete;

 private:
  const Cgroup& cgroup_;
  bool was_inside_;
};

class OutOfCgroup {
 public:
  explicit OutOfCgroup(const Cgroup& cgroup) : cgroup_(cgroup), was_inside_(cgroup.holds(0)) { cgroup_.leave(); }
  ~OutOfCgroup() {
    if (was_inside_) cgroup_.enter();
  }
  OutOfCgroup(const OutOfCgroup&) = delete;
  OutOfCgroup& operator=(const OutOfCgroup&) = delete;

 private:
  const Cgroup& cgroup_;
  bool was_inside_;
};

// A process of ours, known by its pid, killed with its owner.
class Child {
 public:
  Child() = default;
  // `body` runs in the forked process, which ends with its value. With `pid` the process gets this pid; not running()
  // if somebody else has it.
  static Child fork(const std::function<int()>& body, pid_t pid = 0);
  // argv[0] is looked up in PATH; `output` (a path) gets stdout and stderr, empty: inherited. Runs in `netns_fd` if >=
  // 0.
  static Child exec(const std::vector<std::string>& argv, const std::string& output = {}, int netns_fd = -1);
  Child(Child&& other) noexcept { *this = std::move(other); }
  Child& operator=(Child&& other) noexcept;
  ~Child();

  pid_t pid() const { return pid_; }
  bool running() const { return pid_ > 0; }
  void signal(int number) const;
  // Exit code; 128 + signal; -1 if it did not end in time.
  int wait(std::chrono::milliseconds limit = std::chrono::seconds(60));

 private:
  pid_t pid_ = -1;
};

struct CommandResult {
  int exit_code = -1;
  std::string output;
};

CommandResult run_command(const std::vector<std::string>& argv, int netns_fd = -1,
                          std::chrono::milliseconds limit = std::chrono::seconds(30));
// The same, split at blanks; dies if it fails.
std::string must_run(const std::string& command, int netns_fd = -1);

// An anonymous network namespace with its loopback up: gone with its last descriptor and socket.
class NetNs {
 public:
  NetNs();
  int fd() const { return fd_.get(); }
  void run(const std::function<void()>& work) const;  // in a thread inside the namespace; sockets made there stay there
  std::string must_run(const std::string& command) const { return test::must_run(command, fd()); }

 private:
  UniqueFd fd_;
};

// A veth pair: `name_a` with `addr_a` (as "10.1.0.1/24") in `a`, `name_b` with `addr_b` in `b`.
void connect_namespaces(const NetNs& a, const std::string& name_a, const std::string& addr_a, const NetNs& b,
                        const std::string& name_b, const std::string& addr_b);

}  // namespace shunt::test
