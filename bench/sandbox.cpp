#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <base/mounts.hpp>
#include <bench/sandbox.hpp>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

namespace shunt::bench {
namespace {

volatile sig_atomic_t interrupt_signal = 0;
constexpr const char* kPrefix = "shunt-bench-";
constexpr auto kTermGrace = std::chrono::seconds(5);
constexpr const char* kSearchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

std::string find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) return access(name.c_str(), X_OK) == 0 ? name : std::string();
  std::istringstream folders(kSearchPath);
  for (std::string folder; std::getline(folders, folder, ':');) {
    std::string path = folder + "/" + name;
    if (access(path.c_str(), X_OK) == 0) return path;
  }
  return {};
}

// In the forked child. Only returns on failure.
void become(const Command& command, const std::string& path, int output_fd) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setpgid(0, 0);  // a ^C at the terminal is the harness' business
  if (!command.cgroup_procs.empty()) {
    int fd = open(command.cgroup_procs.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1) return;
  }
  if (command.netns_fd >= 0 && setns(command.netns_fd, CLONE_NEWNET) != 0) return;
  if (command.cpu >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(command.cpu, &set);
    sched_setaffinity(0, sizeof(set), &set);
  }
  if (!command.user.empty()) {
    passwd* user = getpwnam(command.user.c_str());
    if (!user || initgroups(user->pw_name, user->pw_gid) != 0 || setgid(user->pw_gid) != 0 ||
        setuid(user->pw_uid) != 0) {
      return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // setuid() clears it
    if (chdir("/") != 0) return;
  }
  dup2(open("/dev/null", O_RDONLY), 0);
  dup2(output_fd, 1);
  dup2(output_fd, 2);
  std::vector<char*> argv;
  for (const std::string& word : command.argv) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  execv(path.c_str(), argv.data());
}

Result<pid_t> spawn(const Command& command, int output_fd) {
  std::string path = find_program(command.argv.at(0));
  if (path.empty()) return unexpected(Error{ENOENT, command.argv[0] + " is not installed", "install it"});
  pid_t pid = fork();
  if (pid < 0) return unexpected(errno, "fork");
  if (pid == 0) {
    become(command, path, output_fd);
    _exit(127);
  }
  return pid;
}

// The exit status, or -1 when the deadline passed first.
int wait_until(pid_t pid, std::chrono::steady_clock::time_point deadline) {
  for (;;) {
    int status = 0;
    if (waitpid(pid, &status, WNOHANG) == pid) return status;
    if (std::chrono::steady_clock::now() >= deadline) return -1;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

Result<void> loopback_up() {
  UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  snprintf(request.ifr_name, sizeof(request.ifr_name), "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (!fd || ioctl(fd.get(), SIOCSIFFLAGS, &request) != 0) return unexpected(errno, "bring loopback up");
  return {};
}

std::string last_line(const std::string& text) {
  std::istringstream lines(text);
  std::string last;
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty()) last = line;
  }
  return last;
}

// Kills what is in a cgroup and removes it. Sockets and processes that have just ended hold it for a moment.
void remove_cgroup(const std::string& path) {
  UniqueFd killer(open((path + "/cgroup.kill").c_str(), O_WRONLY | O_CLOEXEC));
  if (killer && write(killer.get(), "1", 1) != 1) return;
  for (int tries = 0; tries < 200 && rmdir(path.c_str()) != 0 && errno == EBUSY; tries++) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

// Those entries of a folder that carry the pid of a harness that is gone.
std::vector<std::filesystem::path> orphans(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> found;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(folder, none)) {
    std::string name = entry.path().filename();
    if (name.rfind(kPrefix, 0) != 0) continue;
    pid_t pid = atoi(name.c_str() + strlen(kPrefix));
    if (pid > 0 && kill(pid, 0) != 0 && errno == ESRCH) found.push_back(entry.path());
  }
  return found;
}

}  // namespace

void sweep_leftovers() {
  std::error_code none;  // what cannot be removed now is left for the next time
  for (const auto& cgroup : orphans(find_mount("cgroup2"))) {
    for (const auto& entry : std::filesystem::directory_iterator(cgroup, none)) {
      if (entry.is_directory(none)) remove_cgroup(entry.path());
    }
    remove_cgroup(cgroup);
  }
  for (const auto& folder : orphans(std::filesystem::temp_directory_path())) std::filesystem::remove_all(folder, none);
}

bool interrupted() { return interrupt_signal != 0; }

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = [](int number) { interrupt_signal = number; };
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGHUP, &action, nullptr);
}

Result<Cgroup> Cgroup::make(const std::string& path) {
  std::string mount = find_mount("cgroup2");
  if (mount.empty()) return unexpected(Error{ENOENT, "no cgroup v2 is mounted", "mount one on /sys/fs/cgroup"});
  std::string full = mount + path;
  if (mkdir(full.c_str(), 0755) != 0) return unexpected(errno, "make the cgroup " + full);
  return Cgroup(path, full);
}

Cgroup::~Cgroup() {
  if (!path_.empty()) remove_cgroup(full_);
}

double Cgroup::cpu_seconds() const {
  std::ifstream stat(full_ + "/cpu.stat");
  std::string name;
  for (double value; stat >> name >> value;) {
    if (name == "usage_usec") return value / 1e6;
  }
  return 0;
}

Result<TempDir> TempDir::make() {
  std::string path =
      (std::filesystem::temp_directory_path() / (kPrefix + std::to_string(getpid()) + "-XXXXXX")).string();
  if (!mkdtemp(path.data())) return unexpected(errno, "make a temporary folder");
  chmod(path.c_str(), 0755);
  return TempDir(path);
}

TempDir::~TempDir() {
  std::error_code ignored;  // nothing can be done about a file that stays
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

Result<Process> Process::start(const Command& command) {
  std::string output = command.output.empty() ? "/dev/null" : command.output;
  UniqueFd fd(open(output.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!fd) return unexpected(errno, output);
  Result<pid_t> pid = spawn(command, fd.get());
  if (!pid) return unexpected(pid.error());
  return Process(*pid);
}

Process::~Process() {
  if (pid_ <= 0) return;
  kill(pid_, SIGTERM);
  if (wait_until(pid_, std::chrono::steady_clock::now() + kTermGrace) == -1) {
    kill(-pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
}

bool Process::running() {
  if (pid_ > 0 && waitpid(pid_, nullptr, WNOHANG) == pid_) pid_ = -1;
  return pid_ > 0;
}

Result<std::string> run_command(const Command& command, double seconds_max) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return unexpected(errno, "pipe");
  UniqueFd reader(fds[0]), writer(fds[1]);
  Result<pid_t> pid = spawn(command, writer.get());
  if (!pid) return unexpected(pid.error());
  writer.reset();
  auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(int64_t(seconds_max * 1000));
  std::string text;
  for (bool open = true; open && std::chrono::steady_clock::now() < deadline && !interrupted();) {
    pollfd poll_fd = {reader.get(), POLLIN, 0};
    if (poll(&poll_fd, 1, 200) <= 0) continue;
    char buffer[4096];
    ssize_t got = read(reader.get(), buffer, sizeof(buffer));
    open = got > 0;
    if (got > 0) text.append(buffer, size_t(got));
  }
  int status =
      wait_until(*pid, interrupted() ? std::chrono::steady_clock::now() : deadline + std::chrono::milliseconds(50));
  if (status == -1) {
    kill(-*pid, SIGKILL);
    waitpid(*pid, nullptr, 0);
    return unexpected(Error{ETIMEDOUT, command.argv[0] + " did not end in time: " + last_line(text), {}});
  }
  if (WIFSIGNALED(status)) {
    return unexpected(Error{EIO, command.argv[0] + " died: " + strsignal(WTERMSIG(status)), {}});
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return unexpected(Error{EIO, command.argv[0] + " failed: " + last_line(text), {}});
  }
  return text;
}

bool program_exists(const std::string& name) { return !find_program(name).empty(); }

Result<UniqueFd> make_netns() {
  UniqueFd fd;
  Result<void> made;
  std::thread([&] {  // in a thread of its own: this process stays where it is
    if (unshare(CLONE_NEWNET) != 0) {
      made = unexpected(errno, "make a network namespace");
      return;
    }
    made = loopback_up();
    fd.reset(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  })
      .join();
  if (!made) return unexpected(made.error());
  if (!fd) return unexpected(ENOENT, "/proc/thread-self/ns/net");
  return fd;
}

Result<void> write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  if (!file) return unexpected(EIO, "write " + path);
  return {};
}

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace shunt::bench
