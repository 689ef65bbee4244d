#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <bench/channel.hpp>
#include <bench/memory.hpp>
#include <fstream>
#include <vector>

namespace shunt::bench {
namespace {

constexpr uint32_t kConnectionsPerAddress = 20000;  // fewer than there are ephemeral ports
constexpr uint32_t kRequestBytes = 64;
constexpr uint32_t kOtherFiles = 1024;  // those of the engines, which a forked process inherits, count too

// Kernel memory that sockets, their psocks and socket storage live in.
uint64_t kernel_memory_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  uint64_t total = 0;
  for (std::string line; std::getline(meminfo, line);) {
    for (const char* name : {"Slab:", "Percpu:", "KernelStack:"}) {
      if (line.rfind(name, 0) == 0) total += std::strtoull(line.c_str() + strlen(name), nullptr, 10) * 1024;
    }
  }
  return total;
}

sockaddr_in loopback_address(uint32_t host_part, uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(0x7f000000u + host_part);
  return address;
}

Result<UniqueFd> listen_on_all(uint16_t* port) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  socklen_t length = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (!fd || bind(fd.get(), generic, length) != 0 || listen(fd.get(), 128) != 0 ||
      getsockname(fd.get(), generic, &length) != 0) {
    return unexpected(errno, "listen");
  }
  *port = ntohs(address.sin_port);
  return fd;
}

Result<void> exchange(Channel* from, Channel* to) {
  char message[kRequestBytes] = {1};
  if (auto sent = from->send_all(message, sizeof(message)); !sent) return sent;
  return to->receive_all(message, sizeof(message));
}

// How many connections one process can hold with both their ends, within the limit of open files that it was given.
uint32_t connections_per_process() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return uint32_t(std::min<rlim_t>(limit.rlim_max, 1u << 20) / 2 - kOtherFiles);
}

Result<void> open_all(uint32_t connections, std::vector<SocketChannel>* held) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return unexpected(errno, "raise the limit of open files");
  uint16_t port = 0;
  Result<UniqueFd> listener = listen_on_all(&port);
  if (!listener) return unexpected(listener.error());
  held->reserve(connections * 2);
  for (uint32_t i = 0; i < connections; i++) {
    sockaddr_in address = loopback_address(2 + i / kConnectionsPerAddress, port);
    UniqueFd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!client || connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
      return unexpected(errno, "connection " + std::to_string(i));
    }
    Result<UniqueFd> server = accept_one(listener->get());
    if (!server) return unexpected(server.error());
    held->emplace_back(std::move(client));
    held->emplace_back(std::move(*server));
    SocketChannel *a = &(*held)[2 * i], *b = &(*held)[2 * i + 1];
    if (auto asked = exchange(a, b); !asked) return asked;
    if (auto answered = exchange(b, a); !answered) return answered;
  }
  return {};
}

// The process that holds them: writes one line, waits until `release` ends.
int hold(const std::string& cgroup_procs, uint32_t connections, int report, int release) {
  UniqueFd procs(open(cgroup_procs.c_str(), O_WRONLY | O_CLOEXEC));
  std::vector<SocketChannel> held;
  Result<void> opened;
  if (!procs || write(procs.get(), "0", 1) != 1) opened = unexpected(errno, cgroup_procs);
  if (opened) opened = open_all(connections, &held);
  std::string line = opened ? "ok" : opened.error().to_string();
  if (write(report, line.data(), line.size()) < 0) return 1;
  char byte;
  return read(release, &byte, 1) < 0 || !opened;
}

struct Holder {
  pid_t pid = -1;
  UniqueFd release;
  std::string said;

  ~Holder() {
    // A byte, not the end of file: processes that were started later have a copy of this descriptor.
    char byte = 0;
    if (pid > 0 && write(release.get(), &byte, 1) != 1) kill(pid, SIGKILL);
    if (pid > 0) waitpid(pid, nullptr, 0);
  }
};

Result<void> start_holder(const std::string& cgroup_procs, uint32_t connections, Holder* holder) {
  int report[2], release[2];
  if (pipe2(report, O_CLOEXEC) != 0) return unexpected(errno, "pipe");
  UniqueFd report_read(report[0]), report_write(report[1]);
  if (pipe2(release, O_CLOEXEC) != 0) return unexpected(errno, "pipe");
  UniqueFd release_read(release[0]);
  holder->release.reset(release[1]);
  holder->pid = fork();
  if (holder->pid < 0) return unexpected(errno, "fork");
  if (holder->pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    holder->release.reset();
    _exit(hold(cgroup_procs, connections, report_write.get(), release_read.get()));
  }
  report_write.reset();
  char line[256];
  ssize_t got = read(report_read.get(), line, sizeof(line));
  holder->said.assign(line, got > 0 ? size_t(got) : 0);
  if (holder->said != "ok")
    return unexpected(Error{EIO, "holding " + std::to_string(connections) + " connections: " + holder->said, {}});
  return {};
}

}  // namespace

Result<Json> measure_memory(EngineHost* host, Variant variant, uint32_t connections) {
  const std::string name = variant_info(variant).name;
  const bool has_engine = variant_info(variant).needs_engine;
  if (has_engine) {
    if (auto attached = host->attach(name); !attached) return unexpected(attached.error());
  }
  uint64_t before = kernel_memory_bytes();
  uint64_t paired = 0, maps_bytes = 0;
  double each = 0;
  {
    std::vector<std::unique_ptr<Holder>> holders;
    for (uint32_t left = connections; left > 0;) {
      uint32_t some = std::min(left, connections_per_process());
      holders.push_back(std::make_unique<Holder>());
      auto held = start_holder(host->cgroup(name).procs_file(), some, holders.back().get());
      if (!held) return unexpected(held.error());
      left -= some;
    }
    uint64_t after = kernel_memory_bytes();
    each = after > before ? double(after - before) / connections : 0;
    if (has_engine) {
      Result<Status> status = host->status(name);
      if (!status) return unexpected(status.error());
      paired = status->pairs;
      maps_bytes = status->memory_bytes;
    }
  }
  if (has_engine) {
    if (auto detached = host->detach(name); !detached) return unexpected(detached.error());
  }
  return Json{{"variant", name},
              {"connections", connections},
              {"paired", paired},
              {"bytes_per_connection", each},
              {"maps_bytes", maps_bytes}};
}

}  // namespace shunt::bench
