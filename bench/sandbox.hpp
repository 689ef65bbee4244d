// What the harness makes on the host and takes away again: cgroups, processes, network namespaces, a folder for files.
#pragma once

#include <sys/types.h>

#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <string>
#include <vector>

namespace shunt::bench {

// Set by SIGINT and SIGTERM: what is running ends, everything is taken down, the report says that it is not whole.
bool interrupted();
void catch_interrupts();

// Ends and removes what a harness that was killed left behind: servers whose parent does not take them along, its
// cgroups and folders. Known by the pid in their name, which nobody has any more.
void sweep_leftovers();

// A cgroup below the cgroup v2 mount. At the end, what still runs in it is killed and it is removed. Children first.
class Cgroup {
 public:
  static Result<Cgroup> make(const std::string& path);  // "/shunt-bench-1/plain", below the mount
  Cgroup(Cgroup&& other) noexcept : path_(std::exchange(other.path_, {})), full_(std::move(other.full_)) {}
  Cgroup& operator=(Cgroup&&) = delete;
  ~Cgroup();
  const std::string& path() const { return path_; }
  const std::string& folder() const { return full_; }  // as mounted
  std::string procs_file() const { return full_ + "/cgroup.procs"; }
  double cpu_seconds() const;  // used by all that was in it; 0 if unknown

 private:
  Cgroup(std::string path, std::string full) : path_(std::move(path)), full_(std::move(full)) {}
  std::string path_;
  std::string full_;
};

class TempDir {
 public:
  static Result<TempDir> make();  // readable by all: servers give up root
  TempDir(TempDir&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TempDir& operator=(TempDir&&) = delete;
  ~TempDir();
  const std::string& path() const { return path_; }

 private:
  explicit TempDir(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

struct Command {
  std::vector<std::string> argv;  // argv[0] is searched in PATH and the sbin folders
  std::string cgroup_procs;       // empty: stays
  int netns_fd = -1;              // -1: stays
  int cpu = -1;                   // -1: all
  std::string user;               // empty: stays
  std::string output;             // file for stdout and stderr; empty: captured by run_command, /dev/null for Process
};

// A server of ours: ended by its pid with its owner, or by the kernel if the harness dies.
class Process {
 public:
  static Result<Process> start(const Command& command);
  Process(Process&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  Process& operator=(Process&&) = delete;
  ~Process();  // SIGTERM, after five seconds SIGKILL
  bool running();

 private:
  explicit Process(pid_t pid) : pid_(pid) {}
  pid_t pid_;
};

// Runs to the end; the text is stdout and stderr. A failure's Error carries the last line.
Result<std::string> run_command(const Command& command, double seconds_max);

bool program_exists(const std::string& name);

// An anonymous network namespace with loopback up; gone with its last descriptor and process.
Result<UniqueFd> make_netns();

Result<void> write_file(const std::string& path, const std::string& text);
std::string read_file(const std::string& path);  // empty if it cannot be read

}  // namespace shunt::bench
