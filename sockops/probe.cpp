#include "probe.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <base/mounts.hpp>
#include <base/unique_fd.hpp>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "kernel_faults.hpp"
#include "probe_trials.hpp"

namespace shunt {

namespace {

using Clock = std::chrono::steady_clock;

// A trial never waits longer than half a second; a kernel that hangs in one is abandoned after this.
constexpr int kTimeoutMs = 30'000;
constexpr const char* kCgroupPrefix = "shunt-probe.";

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

ProbeItem make_item(std::string name, Finding finding, double seconds = 0) {
  return {std::move(name),           finding.verdict, std::move(finding.found), std::move(finding.meaning),
          std::move(finding.remedy), seconds};
}

// ---- records from the laboratory's process to its parent: a kind, then strings with their lengths ----

void put_string(std::string& out, const std::string& text) {
  uint32_t length = text.size();
  out.append(reinterpret_cast<const char*>(&length), sizeof(length)).append(text);
}

std::string encode(const ProbeItem& item) {
  std::string out(1, 'I');
  out += static_cast<char>(item.verdict);
  out.append(reinterpret_cast<const char*>(&item.seconds), sizeof(item.seconds));
  for (const std::string* text : {&item.name, &item.found, &item.meaning, &item.remedy}) put_string(out, *text);
  return out;
}

struct Reader {
  const std::string& bytes;
  size_t at = 0;
  bool ok = true;

  void take(void* to, size_t size) {
    ok = ok && bytes.size() - at >= size;
    if (!ok) return;
    memcpy(to, bytes.data() + at, size);
    at += size;
  }
  std::string take_string() {
    uint32_t length = 0;
    take(&length, sizeof(length));
    ok = ok && bytes.size() - at >= length;
    std::string text = ok ? bytes.substr(at, length) : std::string();
    if (ok) at += length;
    return text;
  }
};

// Fills the items; returns the name of the trial that was begun and not finished.
std::string decode(const std::string& bytes, std::vector<ProbeItem>& items) {
  std::string begun;
  Reader reader{bytes};
  while (reader.ok && reader.at < bytes.size()) {
    char kind = 0;
    reader.take(&kind, 1);
    if (kind == 'B') {
      begun = reader.take_string();
      continue;
    }
    ProbeItem item;
    char verdict = 0;
    reader.take(&verdict, 1);
    reader.take(&item.seconds, sizeof(item.seconds));
    item.verdict = static_cast<ProbeVerdict>(verdict);
    for (std::string* text : {&item.name, &item.found, &item.meaning, &item.remedy}) *text = reader.take_string();
    if (reader.ok) items.push_back(std::move(item));
    begun.clear();
  }
  return begun;
}

// ---- the laboratory's process ----

class Reporter {
 public:
  explicit Reporter(int fd) : fd_(fd) {}

  void begin(const std::string& name) {
    std::string record(1, 'B');
    put_string(record, name);
    send(record);
    start_ = Clock::now();
  }
  void end(const std::string& name, Finding finding) {
    failed_ = failed_ || finding.verdict == ProbeVerdict::fatal;
    send(encode(make_item(name, std::move(finding), seconds_since(start_))));
  }
  bool failed() const { return failed_; }

 private:
  void send(const std::string& record) {
    if (write(fd_, record.data(), record.size()) < 0) _exit(1);  // the parent is gone
  }
  int fd_;
  bool failed_ = false;
  Clock::time_point start_;
};

Finding run_trial(const Trial& trial, Lab& lab, bool failed) {
  for (const char* program : trial.programs) {
    std::string why = lab.refusal(program);
    if (why.empty()) continue;
    why = std::string(program) + ": " + why;
    if (trial.needed) return fatal(why, "use a kernel of 6.1 or newer");
    return missing(why, "not used");
  }
  if (failed && !trial.needed)
    return missing("not tried", "something that the shortcut cannot do without failed before");
  lab.take_trouble();
  Finding finding = trial.run(lab);
  if (!lab.troubled()) return finding;
  std::string what = lab.take_trouble().to_string();
  if (trial.needed) return fatal(what, "report this with the kernel's version");
  return quirk("the trial failed: " + what, "treated as not working");
}

void run_lab(const std::string& cgroup, Reporter& reporter) {
  Lab lab;
  reporter.begin("laboratory");
  auto entered = lab.enter(cgroup);
  if (entered) {
    reporter.end("laboratory", works("private cgroup and network namespace"));
  } else {
    return reporter.end("laboratory", fatal(entered.error().message, "run it as root on the host"));
  }
  reporter.begin("load");
  auto loaded = lab.load();
  if (!loaded) {
    return reporter.end("load", fatal(loaded.error().message,
                                      "give the process CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and "
                                      "CAP_SYS_ADMIN, and use a kernel with CONFIG_DEBUG_INFO_BTF"));
  }
  reporter.end("load", lab.refused_count() == 0 ? works("every program is accepted")
                                                : quirk(std::to_string(lab.refused_count()) + " programs are refused",
                                                        "see the items that need them"));
  for (auto group : {attachment_trials(), stream_trials(), blocking_trials(), verdict_trials()}) {
    for (const Trial& trial : group) {
      reporter.begin(trial.name);
      reporter.end(trial.name, run_trial(trial, lab, reporter.failed()));
    }
  }
}

// ---- its parent ----

// Made below the mount, removed always; also those of runs that were killed.
class PrivateCgroup {
 public:
  explicit PrivateCgroup(const std::string& root) {
    remove_stale(root);
    path_ = root + "/" + kCgroupPrefix + std::to_string(getpid());
    if (mkdir(path_.c_str(), 0700) != 0) error_ = errno;
  }
  ~PrivateCgroup() {
    for (int tries = 0; rmdir(path_.c_str()) != 0 && errno == EBUSY && tries < 200; tries++) usleep(5000);
  }
  PrivateCgroup(const PrivateCgroup&) = delete;
  PrivateCgroup& operator=(const PrivateCgroup&) = delete;

  const std::string& path() const { return path_; }
  int error() const { return error_; }

 private:
  static void remove_stale(const std::string& root) {
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(root, ignored)) {
      std::string name = entry.path().filename();
      if (name.rfind(kCgroupPrefix, 0) != 0) continue;
      pid_t owner = atoi(name.c_str() + strlen(kCgroupPrefix));
      if (owner > 0 && kill(owner, 0) != 0 && errno == ESRCH) rmdir(entry.path().c_str());
    }
  }
  std::string path_;
  int error_ = 0;
};

// Everything that the child writes until it ends or the time is up.
std::string read_until_end(int fd, Clock::time_point start) {
  std::string bytes;
  char buffer[4096];
  for (;;) {
    int left_ms = kTimeoutMs - static_cast<int>(seconds_since(start) * 1000);
    pollfd wanted = {fd, POLLIN, 0};
    if (left_ms <= 0 || poll(&wanted, 1, left_ms) == 0) return bytes;
    ssize_t got = read(fd, buffer, sizeof(buffer));
    if (got == 0 || (got < 0 && errno != EINTR)) return bytes;
    if (got > 0) bytes.append(buffer, got);
  }
}

void run_in_child(const std::string& cgroup, std::vector<ProbeItem>& items) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    items.push_back(
        make_item("laboratory", fatal(std::string("pipe: ") + strerror(errno), "raise the limit of open files")));
    return;
  }
  UniqueFd reading(ends[0]), writing(ends[1]);
  auto start = Clock::now();
  pid_t parent = getpid();
  pid_t child = fork();
  if (child < 0) {
    items.push_back(
        make_item("laboratory", fatal(std::string("fork: ") + strerror(errno), "raise the limit of processes")));
    return;
  }
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    signal(SIGPIPE, SIG_IGN);
    Reporter reporter(writing.get());
    run_lab(cgroup, reporter);
    _exit(0);
  }
  writing.reset();
  std::string begun = decode(read_until_end(reading.get(), start), items);
  kill(child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (begun.empty()) return;
  std::string how = seconds_since(start) * 1000 >= kTimeoutMs ? "did not end" : "ended the self-test's process";
  items.push_back(make_item(begun, fatal("this trial " + how, "report this with the kernel's version and log")));
}

// The initial namespaces have fixed inode numbers (include/linux/proc_ns.h).
Finding check_namespaces() {
  static constexpr struct {
    const char* path;
    ino_t initial;
    const char* name;
  } kNamespaces[] = {{"/proc/self/ns/user", 0xEFFFFFFD, "user"},
                     {"/proc/self/ns/pid", 0xEFFFFFFC, "pid"},
                     {"/proc/self/ns/cgroup", 0xEFFFFFFB, "cgroup"}};
  for (const auto& space : kNamespaces) {
    struct stat status = {};
    if (stat(space.path, &status) != 0) continue;  // a kernel without this kind has only the initial one
    if (status.st_ino != space.initial)
      return fatal(std::string("not in the initial ") + space.name + " namespace",
                   "run it on the host itself, or in a container with the host's pid, user and cgroup namespaces");
  }
  return works("user, pid and cgroup namespaces are the initial ones");
}

Finding check_btf() {
  if (access("/sys/kernel/btf/vmlinux", R_OK) == 0) return works("/sys/kernel/btf/vmlinux");
  return fatal("/sys/kernel/btf/vmlinux is not readable", "use a kernel with CONFIG_DEBUG_INFO_BTF");
}

Finding check_cgroup_mount(const std::string& root) {
  if (!root.empty()) return works(root);
  return fatal("no cgroup v2 is mounted",
               "mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1");
}

void run_on_host(const std::string& wanted_root, std::vector<ProbeItem>& items) {
  std::string root = wanted_root.empty() ? find_mount("cgroup2") : wanted_root;
  items.push_back(make_item("initial-namespaces", check_namespaces()));
  items.push_back(make_item("cgroup2-mount", check_cgroup_mount(root)));
  items.push_back(make_item("btf", check_btf()));
  utsname name{};
  uname(&name);
  items.push_back(make_item("kernel-faults", check_kernel_faults(name.release, name.version)));
  for (const ProbeItem& item : items) {
    if (item.verdict == ProbeVerdict::fatal) return;
  }
  PrivateCgroup cgroup(root);
  if (cgroup.error()) {
    items.push_back(make_item("laboratory", fatal("cannot make a cgroup in " + root + ": " + strerror(cgroup.error()),
                                                  "run as root, with the cgroup file system writable")));
    return;
  }
  run_in_child(cgroup.path(), items);
}

}  // namespace

const char* probe_verdict_name(ProbeVerdict verdict) {
  switch (verdict) {
    case ProbeVerdict::ok:
      return "ok";
    case ProbeVerdict::quirk:
      return "quirk";
    case ProbeVerdict::missing:
      return "missing";
    case ProbeVerdict::fatal:
      return "fatal";
  }
  return "?";
}

ProbeReport probe_kernel(const std::string& cgroup_root) {
  ProbeReport report;
  run_on_host(cgroup_root, report.items);
  auto ok = [&](const char* name) {
    return std::any_of(report.items.begin(), report.items.end(),
                       [&](const ProbeItem& item) { return item.name == name && item.verdict == ProbeVerdict::ok; });
  };
  report.usable = std::none_of(report.items.begin(), report.items.end(),
                               [](const ProbeItem& item) { return item.verdict == ProbeVerdict::fatal; });
  report.fionread_redirected = ok("fionread-redirected");
  report.fionread_tcp = ok("fionread-tcp");
  report.fionread_verdict = ok("fionread-verdict");
  report.rmem_charged = ok("rmem-charged");
  report.verdict_works = ok("verdict-order") && ok("verdict-window") && ok("verdict-fin") && ok("verdict-reset") &&
                         ok("blocked-reader-verdict");
  return report;
}

}  // namespace shunt
