#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <bench/cells.hpp>
#include <bench/ends.hpp>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <new>

namespace shunt::bench {

const std::vector<VariantInfo> kVariants = {
    {Variant::plain, "plain", "TCP on loopback, nothing attached", false},
    {Variant::shortcut, "shortcut", "Shunt, destinations learned", true},
    {Variant::first, "first", "Shunt without learning: the first connections to a destination", true},
    {Variant::bare, "bare", "a redirect that checks nothing: the limit of redirects on this host", true},
    {Variant::pass, "pass", "enrolled, but every message goes through TCP", true},
    {Variant::excluded, "excluded", "Shunt attached, everything excluded", true},
    {Variant::half, "half", "Shunt on the client alone: a peer that cannot be enrolled", true},
    {Variant::unix, "unix", "Unix stream sockets", false},
    {Variant::shm, "shm", "a ring in shared memory: the limit", false},
};

const VariantInfo& variant_info(Variant variant) {
  for (const VariantInfo& info : kVariants) {
    if (info.variant == variant) return info;
  }
  return kVariants.front();
}

const char* kind_name(CellKind kind) {
  switch (kind) {
    case CellKind::one_way:
      return "one-way";
    case CellKind::ping_pong:
      return "ping-pong";
    case CellKind::connect:
      return "connect";
    case CellKind::slow_reader:
      return "slow-reader";
    case CellKind::set_option:
      return "setsockopt";
    case CellKind::set_option_echo:
      return "setsockopt-echo";
    case CellKind::request:
      return "request";
  }
  return "?";
}

namespace {

constexpr double kRunGraceSeconds = 20;  // a run that takes longer than its time and this hangs

std::string size_name(uint32_t bytes) {
  if (bytes >= (1u << 20)) return std::to_string(bytes >> 20) + "MiB";
  if (bytes >= (1u << 10)) return std::to_string(bytes >> 10) + "KiB";
  return std::to_string(bytes) + "B";
}

// A mapping of one run, shared with its two processes.
class SharedRun {
 public:
  SharedRun() {
    void* at = mmap(nullptr, sizeof(RunMemory), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at != MAP_FAILED) memory_ = new (at) RunMemory();
  }
  ~SharedRun() {
    if (memory_) munmap(memory_, sizeof(RunMemory));
  }
  SharedRun(const SharedRun&) = delete;
  SharedRun& operator=(const SharedRun&) = delete;
  RunMemory* get() const { return memory_; }

 private:
  RunMemory* memory_ = nullptr;
};

Result<void> join_cgroup(const std::string& procs_file) {
  if (procs_file.empty()) return {};
  UniqueFd fd(open(procs_file.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd || write(fd.get(), "0", 1) != 1) return unexpected(errno, procs_file);
  return {};
}

Result<void> enter_netns(int netns_fd) {
  if (netns_fd >= 0 && setns(netns_fd, CLONE_NEWNET) != 0) return unexpected(errno, "enter a network namespace");
  return {};
}

Result<void> pin_to_cpu(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof(set), &set) != 0) return unexpected(errno, "pin to CPU " + std::to_string(cpu));
  return {};
}

using End = Result<void> (*)(const RunSpec&, const RunSignals&, RunMemory*);

Result<void> run_end(const RunSpec& spec, End end, bool is_server, const RunSignals& signals, RunMemory* memory) {
  if (auto joined = join_cgroup(is_server ? spec.cgroup_of_server : spec.cgroup_of_client); !joined) return joined;
  if (auto entered = enter_netns(is_server ? spec.netns_of_server : spec.netns_of_client); !entered) return entered;
  if (auto pinned = pin_to_cpu(is_server ? spec.cpu_of_server : spec.cpu_of_client); !pinned) return pinned;
  return end(spec, signals, memory);
}

// The pipe ends that the other process writes are closed here, so that its death is an end of file.
struct Pipes {
  UniqueFd listening[2];
  UniqueFd finished[2];

  bool open() {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) return false;
    listening[0].reset(fds[0]), listening[1].reset(fds[1]);
    if (pipe2(fds, O_CLOEXEC) != 0) return false;
    finished[0].reset(fds[0]), finished[1].reset(fds[1]);
    return true;
  }
  RunSignals signals() const { return {listening[0].get(), listening[1].get(), finished[0].get(), finished[1].get()}; }
};

pid_t fork_end(const RunSpec& spec, End end, bool is_server, Pipes* pipes, RunMemory* memory) {
  pid_t parent = getpid();
  pid_t pid = fork();
  if (pid != 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  EndReport& report = is_server ? memory->server : memory->client;
  if (!is_server) pipes->listening[1].reset(), pipes->finished[1].reset();
  Result<void> result = run_end(spec, end, is_server, pipes->signals(), memory);
  if (result) {
    report.done = true;
  } else {
    snprintf(report.error, sizeof(report.error), "%s", result.error().to_string().c_str());
  }
  _exit(result ? 0 : 1);
}

// A process of ours, waited for through its pidfd: a harness that polls would take CPU time from what it measures.
struct Child {
  pid_t pid = 0;
  UniqueFd pidfd;
};

bool watch_child(Child* child) {
  child->pidfd.reset(int(syscall(SYS_pidfd_open, child->pid, 0)));
  return child->pidfd.valid();
}

void kill_and_reap(Child* child) {
  if (child->pid <= 0) return;
  kill(child->pid, SIGKILL);
  waitpid(child->pid, nullptr, 0);
  child->pid = 0;
}

// Waits for both; when one fails, or the time is up, the other is killed: it may wait for ever.
bool reap(Child* client, Child* server, double seconds) {
  auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds + kRunGraceSeconds);
  bool all_well = watch_child(client) && watch_child(server);
  while (all_well && (client->pid || server->pid)) {
    pollfd fds[2] = {{client->pid ? client->pidfd.get() : -1, POLLIN, 0},
                     {server->pid ? server->pidfd.get() : -1, POLLIN, 0}};
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    int ready = left.count() > 0 ? poll(fds, 2, int(left.count())) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) all_well = false;
    for (Child* child : {client, server}) {
      int status = 0;
      if (!child->pid || waitpid(child->pid, &status, WNOHANG) != child->pid) continue;
      child->pid = 0;
      all_well = all_well && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
  }
  kill_and_reap(client);
  kill_and_reap(server);
  return all_well;
}

std::string run_error(const RunMemory& memory) {
  // The end that noticed first is not known: an integrity failure says most, then the server's word.
  if (strncmp(memory.client.error, "integrity:", 10) == 0) return memory.client.error;
  if (memory.server.error[0]) return std::string("server: ") + memory.server.error;
  if (memory.client.error[0]) return std::string("client: ") + memory.client.error;
  return "integrity: an end of the run stalled or died";
}

void add_cost(const RunSpec& spec, const RunMemory& memory, Sample* sample) {
  if (!spec.cost) return;
  const double all = memory.cost_end.all - memory.cost_start.all;
  const double gateways = memory.cost_end.gateways - memory.cost_start.gateways;
  const double bytes = double(memory.client.bytes), messages = double(memory.client.messages);
  if (bytes > 0) sample->cost_per_byte = all / bytes, sample->gateway_cost_per_byte = gateways / bytes;
  if (messages > 0) sample->cost_per_message = all / messages, sample->gateway_cost_per_message = gateways / messages;
}

Sample evaluate(const RunSpec& spec, const RunMemory& memory) {
  Sample sample;
  const bool stream = spec.cell.kind == CellKind::one_way || spec.cell.kind == CellKind::slow_reader;
  if (stream && (memory.client.bytes != memory.server.bytes || memory.client.hash != memory.server.hash)) {
    sample.error = "integrity: sent " + std::to_string(memory.client.bytes) + " bytes, received " +
                   std::to_string(memory.server.bytes) + ", hashes " +
                   (memory.client.hash == memory.server.hash ? "equal" : "different");
    return sample;
  }
  uint64_t end_ns = stream ? memory.server.end_ns : memory.client.end_ns;
  double seconds = double(end_ns - memory.client.start_ns) / 1e9;
  double cpu_ns = double(memory.client.cpu_ns + memory.server.cpu_ns);
  double bytes = double(memory.client.bytes), messages = double(memory.client.messages);
  sample.value = (stream ? bytes : messages) / seconds;
  sample.cpu_ns_per_byte = bytes > 0 ? cpu_ns / bytes : 0;
  sample.cpu_ns_per_message = messages > 0 ? cpu_ns / messages : 0;
  add_cost(spec, memory, &sample);
  sample.p50_us = memory.latencies.quantile_ns(0.5) / 1000;
  sample.p99_us = memory.latencies.quantile_ns(0.99) / 1000;
  sample.p999_us = memory.latencies.quantile_ns(0.999) / 1000;
  sample.queued_bytes_max = double(memory.queued_bytes_max);
  sample.payload_bytes =
      spec.cell.kind == CellKind::ping_pong || spec.cell.kind == CellKind::set_option_echo ? 2 * bytes : bytes;
  return sample;
}

}  // namespace

std::string Cell::name() const {
  std::string name = kind_name(kind);
  if (kind == CellKind::one_way || kind == CellKind::ping_pong || kind == CellKind::request)
    name += "/" + size_name(message_bytes);
  if (kind == CellKind::request) name += "/c" + std::to_string(connections);
  return name + "/" + std::to_string(cpus) + "cpu";
}

const char* Cell::unit() const {
  switch (kind) {
    case CellKind::one_way:
    case CellKind::slow_reader:
      return "B/s";
    case CellKind::ping_pong:
    case CellKind::set_option_echo:
      return "round trips/s";
    case CellKind::connect:
      return "connections/s";
    case CellKind::set_option:
      return "calls/s";
    case CellKind::request:
      return "requests/s";
  }
  return "";
}

std::vector<Cell> all_cells(int cpus_available) {
  std::vector<Cell> cells;
  for (int cpus = 1; cpus <= std::min(cpus_available, 2); cpus++) {
    for (uint32_t bytes : {64u, 1u << 10, 16u << 10}) cells.push_back({CellKind::ping_pong, bytes, cpus});
    for (uint32_t bytes : {64u, 1u << 10, 16u << 10, 64u << 10, 256u << 10, 1u << 20}) {
      cells.push_back({CellKind::one_way, bytes, cpus});
    }
    cells.push_back({CellKind::connect, 640, cpus});
    cells.push_back({CellKind::slow_reader, 16 << 10, cpus});
    if (cpus > 1) continue;  // what the hook costs does not depend on where the other end is
    for (CellKind kind : {CellKind::set_option, CellKind::set_option_echo}) cells.push_back({kind, 64, cpus});
  }
  return cells;
}

bool cell_has_variant(const Cell& cell, Variant variant) {
  if (variant == Variant::bare) return cell.kind == CellKind::ping_pong;  // it knows no backpressure
  if (variant == Variant::half) return cell.kind == CellKind::one_way || cell.kind == CellKind::ping_pong;
  if (cell.kind == CellKind::connect) return variant != Variant::shm;
  if (cell.kind == CellKind::set_option || cell.kind == CellKind::set_option_echo) {
    return variant != Variant::unix && variant != Variant::shm;
  }
  return true;
}

std::vector<int> usable_cpus() {
  cpu_set_t set;
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return {0};
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

Sample run_cell(const RunSpec& spec) {
  Sample failed;
  SharedRun shared;
  Pipes pipes;
  if (!shared.get() || !pipes.open()) {
    failed.error = errno_error(errno, "set up a run").to_string();
    return failed;
  }
  Child server, client;
  server.pid = fork_end(spec, serve, true, &pipes, shared.get());
  if (server.pid > 0) client.pid = fork_end(spec, drive, false, &pipes, shared.get());
  pipes.listening[1].reset();
  pipes.finished[1].reset();
  if (server.pid <= 0 || client.pid <= 0) {
    failed.error = errno_error(errno, "fork").to_string();
    kill_and_reap(&server);
    return failed;
  }
  if (!reap(&client, &server, spec.seconds)) {
    failed.error = run_error(*shared.get());
    return failed;
  }
  return evaluate(spec, *shared.get());
}

}  // namespace shunt::bench
