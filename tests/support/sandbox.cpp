#include "support/sandbox.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

namespace shunt::test {

namespace {

constexpr auto kPollInterval = std::chrono::milliseconds(5);

int counter() {
  static int value = 0;
  return ++value;
}

[[noreturn]] void exec_or_exit(const std::vector<std::string>& argv, const std::string& output, int netns_fd) {
  std::vector<char*> pointers;
  for (const auto& arg : argv) pointers.push_back(const_cast<char*>(arg.c_str()));
  pointers.push_back(nullptr);
  if (!output.empty()) {
    const int fd = open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    close(fd);
  }
  if (netns_fd >= 0 && setns(netns_fd, CLONE_NEWNET) != 0) _exit(126);
  execvp(pointers[0], pointers.data());
  _exit(127);
}

uint64_t meminfo_bytes(const std::string& key) {
  std::istringstream text(read_text("/proc/meminfo"));
  for (std::string name; text >> name;) {
    uint64_t kib = 0;
    text >> kib;
    std::string unit;
    std::getline(text, unit);
    if (name == key + ":") return kib << 10;
  }
  return 0;
}

std::vector<pid_t> pids_in(const std::string& cgroup) {
  std::istringstream text(read_text(cgroup + "/cgroup.procs"));
  std::vector<pid_t> pids;
  for (pid_t pid; text >> pid;) pids.push_back(pid);
  return pids;
}

void remove_cgroup(const std::string& path) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(path, ignored)) {
    if (entry.is_directory()) remove_cgroup(entry.path());
  }
  const bool gone = eventually([&] {
    for (const pid_t pid : pids_in(path)) kill(pid, SIGKILL);
    return rmdir(path.c_str()) == 0 || errno == ENOENT;
  });
  if (!gone) fmt::print(stderr, "cannot remove the cgroup {}: {}\n", path, std::strerror(errno));
}

// A test program that was killed or crashed could not take its cgroup away: the next one does. Only empty ones go.
void remove_cgroups_of_dead_processes() {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(Cgroup::mount_point(), ignored)) {
    int pid = 0;
    const std::string name = entry.path().filename();
    if (std::sscanf(name.c_str(), "shunt-test-%d-", &pid) == 1 && kill(pid, 0) != 0 && errno == ESRCH)
      rmdir(entry.path().c_str());
  }
}

}  // namespace

void die(const std::string& what) {
  fmt::print(stderr, "test sandbox: {}: {}\n", what, std::strerror(errno));
  std::_Exit(99);
}

void enter_sandbox() {
  if (geteuid() != 0) {
    errno = EPERM;
    die("these tests need root");
  }
  require(unshare(CLONE_NEWNS) == 0, "unshare the mount namespace");
  require(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, "make the mounts private");
  require(mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=0700") == 0, "mount a bpffs at /sys/fs/bpf");
  signal(SIGPIPE, SIG_IGN);
  remove_cgroups_of_dead_processes();
}

std::string read_text(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

bool write_text(const std::string& path, const std::string& text) {
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  return fd.valid() && write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

uint64_t kernel_bytes_used() {
  const uint64_t free =
      meminfo_bytes("MemFree") + meminfo_bytes("Buffers") + meminfo_bytes("Cached") + meminfo_bytes("AnonPages");
  return meminfo_bytes("MemTotal") - free;
}

bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(kPollInterval);
  }
  return true;
}

TempDir::TempDir() {
  char name[] = "/tmp/shunt-test-XXXXXX";
  require(mkdtemp(name) != nullptr, "make a temporary folder");
  path_ = name;
  chmod(name, 0755);  // workers of the servers under test run as another user
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string Cgroup::mount_point() {
  static const std::string found = [] {
    std::istringstream mounts(read_text("/proc/self/mounts"));
    std::string device, where, type, rest;
    while (mounts >> device >> where >> type && std::getline(mounts, rest)) {
      if (type == "cgroup2") return where;
    }
    errno = ENOENT;
    die("find the cgroup v2 mount");
  }();
  return found;
}

Cgroup::Cgroup() : path_(fmt::format("{}/shunt-test-{}-{}", mount_point(), getpid(), counter())) {
  std::istringstream text(read_text("/proc/self/cgroup"));
  for (std::string line; std::getline(text, line);) {
    if (line.starts_with("0::")) home_ = mount_point() + line.substr(3);
  }
  require(!home_.empty(), "find the own cgroup");
  require(mkdir(path_.c_str(), 0755) == 0, "make " + path_);
}

Cgroup::~Cgroup() {
  leave();
  remove_cgroup(path_);
}

void Cgroup::add(pid_t pid) const {
  require(write_text(path_ + "/cgroup.procs", std::to_string(pid)), "move a process into " + path_);
}

void Cgroup::enter() const { add(0); }

void Cgroup::leave() const { require(write_text(home_ + "/cgroup.procs", "0"), "move this process into " + home_); }

bool Cgroup::holds(pid_t pid) const {
  const std::string process = pid == 0 ? "self" : std::to_string(pid);
  return read_text("/proc/" + process + "/cgroup").find("0::" + name()) != std::string::npos;
}

Child Child::fork(const std::function<int()>& body, pid_t pid) {
  Child child;
  if (pid == 0) {
    child.pid_ = ::fork();
  } else {
    clone_args args{};
    args.exit_signal = SIGCHLD;
    args.set_tid = reinterpret_cast<uintptr_t>(&pid);
    args.set_tid_size = 1;
    child.pid_ = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof(args)));
    if (child.pid_ < 0 && errno == EEXIST) return child;
  }
  require(child.pid_ >= 0, "fork");
  if (child.pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    _exit(body());
  }
  return child;
}

Child Child::exec(const std::vector<std::string>& argv, const std::string& output, int netns_fd) {
  return fork([&]() -> int { exec_or_exit(argv, output, netns_fd); });
}

Child& Child::operator=(Child&& other) noexcept {
  std::swap(pid_, other.pid_);
  return *this;
}

Child::~Child() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void Child::signal(int number) const {
  if (pid_ > 0) kill(pid_, number);
}

int Child::wait(std::chrono::milliseconds limit) {
  int status = 0;
  const bool ended = eventually([&] { return waitpid(pid_, &status, WNOHANG) == pid_; }, limit);
  if (!ended) return -1;
  pid_ = -1;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

CommandResult run_command(const std::vector<std::string>& argv, int netns_fd, std::chrono::milliseconds limit) {
  TempDir dir;
  Child child = Child::exec(argv, dir / "out", netns_fd);
  CommandResult result;
  result.exit_code = child.wait(limit);
  result.output = read_text(dir / "out");
  return result;
}

std::string must_run(const std::string& command, int netns_fd) {
  std::istringstream text(command);
  std::vector<std::string> argv;
  for (std::string word; text >> word;) argv.push_back(word);
  const CommandResult result = run_command(argv, netns_fd);
  if (result.exit_code != 0) {
    errno = EIO;
    die(fmt::format("`{}` ended with {}: {}", command, result.exit_code, result.output));
  }
  return result.output;
}

NetNs::NetNs() {
  std::thread maker([this] {
    require(unshare(CLONE_NEWNET) == 0, "make a network namespace");
    fd_.reset(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    require(fd_.valid(), "open the network namespace");
  });
  maker.join();
  test::must_run("ip link set lo up", fd());
}

void NetNs::run(const std::function<void()>& work) const {
  std::thread worker([&] {
    require(setns(fd_.get(), CLONE_NEWNET) == 0, "enter a network namespace");
    work();
  });
  worker.join();
}

void connect_namespaces(const NetNs& a, const std::string& name_a, const std::string& addr_a, const NetNs& b,
                        const std::string& name_b, const std::string& addr_b) {
  const std::string b_path = fmt::format("/proc/{}/fd/{}", getpid(), b.fd());
  a.must_run(fmt::format("ip link add {} type veth peer name {} netns {}", name_a, name_b, b_path));
  a.must_run(fmt::format("ip addr add {} dev {}", addr_a, name_a));
  b.must_run(fmt::format("ip addr add {} dev {}", addr_b, name_b));
  a.must_run("ip link set " + name_a + " up");
  b.must_run("ip link set " + name_b + " up");
}

}  // namespace shunt::test
