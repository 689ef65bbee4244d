// Trials of the environment and of what can be attached.
#include <arpa/inet.h>
#include <bpf/abi/probe.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <probe.skel.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <base/address.hpp>
#include <cstring>
#include <fstream>
#include <sockops/namespaces.hpp>

#include "probe_trials.hpp"

namespace shunt {

namespace {

constexpr const char* kNewerKernel =
    "use a kernel of 6.1 or newer with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and CONFIG_BPF_STREAM_PARSER";

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

Finding try_read_kernel(Lab& lab) {
  std::string lockdown = first_line("/sys/kernel/security/lockdown");
  if (std::string why = lab.refusal("probe_read"); !why.empty()) {
    if (lockdown.find("[confidentiality]") != std::string::npos)
      return fatal("kernel lockdown 'confidentiality' forbids programs to read kernel memory",
                   "boot with lockdown=integrity or lockdown=none");
    return fatal(why, "give the process CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; check kernel.lockdown and seccomp");
  }
  lab.peek_address(0);
  if (lab.troubled()) return {};
  return works(lockdown.empty() ? "kernel memory is readable" : "kernel memory is readable, lockdown " + lockdown);
}

Finding try_sockops(Lab& lab) {
  if (auto attached = lab.attach_sockops(); !attached)
    return fatal(attached.error().to_string(), "another program may be attached exclusively: see bpftool cgroup tree");
  return works("attached to a private cgroup");
}

Finding try_sockhash(Lab& lab) {
  if (auto attached = lab.attach_messages(); !attached) return fatal(attached.error().to_string(), kNewerKernel);
  Pair pair = lab.connect();
  probe_sock client = lab.storage(pair.client.get()), server = lab.storage(pair.server.get());
  if (lab.troubled()) return {};
  if (client.update_error || server.update_error)
    return fatal(fmt::format("a socket at ESTABLISHED was refused: error {}", -client.update_error), kNewerKernel);
  if (!lab.in_map(PROBE_MAP_PLAIN, cookie_of(pair.client.get())) ||
      !lab.in_map(PROBE_MAP_PLAIN, cookie_of(pair.server.get())))
    return fatal("sockets put into the map are not found in it by their cookies", kNewerKernel);
  return works("both ends enter it at ESTABLISHED");
}

Finding try_sk_storage(Lab& lab) {
  Pair pair = lab.connect();
  probe_sock client = lab.storage(pair.client.get());
  if (lab.troubled()) return {};
  uint64_t cookie = cookie_of(pair.client.get());
  if (client.cookie != cookie) return fatal("socket storage holds another socket's data", kNewerKernel);
  lab.introduce(pair);
  if (send(pair.client.get(), "x", 1, 0) != 1) return fatal("send fails on a socket in the map", kNewerKernel);
  if (lab.storage(pair.client.get()).passed != 1)
    return fatal("sk_msg does not see the storage that sock_ops made", kNewerKernel);
  return works("shared by sock_ops, sk_msg and the user side");
}

Finding try_isn_pairing(Lab& lab) {
  Pair pair = lab.connect();
  probe_sock client = lab.storage(pair.client.get()), server = lab.storage(pair.server.get());
  if (lab.troubled()) return {};
  if (client.snd_nxt != server.rcv_nxt || client.rcv_nxt != server.snd_nxt)
    return fatal(fmt::format("sequence numbers at ESTABLISHED differ: {}/{} and {}/{}", client.snd_nxt, client.rcv_nxt,
                             server.rcv_nxt, server.snd_nxt),
                 kNewerKernel);
  return works("the ends' sequence numbers at ESTABLISHED match");
}

Finding try_tcp_state(Lab& lab) {
  Pair pair = lab.connect();
  if (send(pair.client.get(), "x", 1, 0) != 1) lab.trouble(errno_error(errno, "send"));
  wait_readable(pair.server.get(), kPatienceMs);
  probe_peek client = lab.peek(pair.client.get()), server = lab.peek(pair.server.get());
  if (lab.troubled()) return {};
  if (client.snd_una != client.write_seq || server.rcv_nxt != client.write_seq ||
      server.copied_seq + 1 != server.rcv_nxt)
    return fatal("the sequence numbers read from struct tcp_sock do not fit the traffic", kNewerKernel);
  return works("struct tcp_sock of the peer is readable");
}

Finding try_memory_pressure(Lab& lab) {
  Pair pair = lab.connect();
  probe_peek client = lab.peek(pair.client.get());
  if (lab.troubled()) return {};
  if (client.memory_pressure == 0)
    return missing("TCP has no memory pressure flag", "global TCP memory pressure is not seen");
  probe_peek answer = lab.peek_address(client.memory_pressure);
  if (lab.troubled()) return {};
  if (answer.address_error)
    return missing(fmt::format("the flag is not readable: error {}", -answer.address_error),
                   "global TCP memory pressure is not seen");
  return works("TCP's memory pressure flag is readable");
}

Finding try_listen_callback(Lab& lab) {
  Link link(bpf_program__attach_cgroup(lab.skel()->progs.probe_listen, lab.cgroup_fd()));
  if (!link) return missing(libbpf_last_line(), "who listens is learned by looking for listeners only");
  UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  auto& seen = lab.skel()->bss->listened;
  seen = {};
  if (listen(listener.get(), 1) != 0) return missing("listen fails in the private namespace", "not tried");
  if (seen.calls == 0)
    return missing("listen() is not reported", "who listens is learned by looking for listeners only");
  char path[4096] = {};
  ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
  const char* base = strrchr(path, '/');
  bool known = length > 0 && base && strncmp(seen.program, base + 1, sizeof(seen.program) - 1) == 0;
  if (!known || seen.tgid != static_cast<uint32_t>(getpid()))
    return missing(fmt::format("listen() is reported for '{}' ({}) instead of this process", seen.program, seen.tgid),
                   "who listens is learned by looking for listeners only");
  return works("listen() names the listening program");
}

Finding try_ring(Lab& lab) {
  static constexpr auto kCount = [](void* context, void* data, size_t size) {
    uint64_t word = 0;
    if (size == sizeof(word)) memcpy(&word, data, sizeof(word));
    if (word == 0x73686f7274) ++*static_cast<int*>(context);
    return 0;
  };
  int records = 0;
  ring_buffer* ring = ring_buffer__new(bpf_map__fd(lab.skel()->maps.sh_ring), kCount, &records, nullptr);
  if (!ring) return missing(libbpf_last_line(), "no live events");
  LIBBPF_OPTS(bpf_test_run_opts, options);
  int error = bpf_prog_test_run_opts(lab.program_fd("probe_ring"), &options);
  ring_buffer__consume(ring);
  ring_buffer__free(ring);
  if (error || records != 1) return missing(fmt::format("{} of 1 records arrived", records), "no live events");
  return works("records arrive");
}

Finding try_exec(Lab& lab) {
  static constexpr const char* kUnnoticed = "a program that is replaced by exec is noticed at its next connection only";
  Link link(bpf_program__attach(lab.skel()->progs.probe_exec));
  if (!link) return missing(libbpf_last_line(), kUnnoticed);
  uint32_t before = lab.skel()->bss->execs_seen;
  pid_t child = fork();
  if (child == 0) {
    // Stops at its first instruction: the exec happens, the program does not run.
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0) execl("/proc/self/exe", "shunt-probe", nullptr);
    _exit(1);
  }
  int status = 0;
  if (child > 0 && waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
  }
  if (lab.skel()->bss->execs_seen == before) return missing("exec is not reported", kUnnoticed);
  return works("exec is reported");
}

Finding try_setsockopt(Lab& lab) {
  Link link(bpf_program__attach_cgroup(lab.skel()->progs.probe_setopt, lab.cgroup_fd()));
  if (!link) return fatal(libbpf_last_line(), kNewerKernel);
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  int on = 1;
  bool refused = setsockopt(fd.get(), SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)) != 0 && errno == EPERM;
  bool kept = setsockopt(fd.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) == 0;
  if (!refused || !kept) return fatal("a cgroup program cannot refuse single socket options", kNewerKernel);
  return works("single socket options can be refused");
}

Finding try_connect_hook(Lab& lab) {
  Link link(bpf_program__attach_cgroup(lab.skel()->progs.probe_connect, lab.cgroup_fd()));
  if (!link) return fatal(libbpf_last_line(), kNewerKernel);
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in nowhere = {};
  nowhere.sin_family = AF_INET;
  nowhere.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  nowhere.sin_port = htons(1);
  (void)::connect(fd.get(), reinterpret_cast<sockaddr*>(&nowhere), sizeof(nowhere));
  lab.storage(fd.get());
  if (lab.troubled()) return {};
  return works("connect() is seen with its socket's storage");
}

Finding try_iterator(Lab& lab) {
  Pair pair = lab.connect();
  lab.introduce(pair);
  uint64_t cookie = cookie_of(pair.client.get());
  probe_mark mark = {};
  int marks = bpf_map__fd(lab.skel()->maps.sh_marks);
  if (int error = bpf_map_update_elem(marks, &cookie, &mark, BPF_ANY))
    lab.trouble(errno_error(error, "the map of marks"));
  Link link(bpf_program__attach_iter(lab.skel()->progs.probe_iter, nullptr));
  if (!link) return missing(libbpf_last_line(), "live sockets cannot be taken out of the map by the kernel itself");
  UniqueFd reader(bpf_iter_create(bpf_link__fd(link.get())));
  char buffer[64];
  while (read(reader.get(), buffer, sizeof(buffer)) > 0) {
  }
  bpf_map_lookup_elem(marks, &cookie, &mark);
  bpf_map_delete_elem(marks, &cookie);
  if (lab.troubled()) return {};
  if (mark.seen == 0)
    return missing("the iterator does not see the socket", "live sockets stay in the map until they close");
  if (mark.error || lab.in_map(PROBE_MAP_PLAIN, cookie))
    return missing(fmt::format("the iterator cannot delete: error {}", -mark.error),
                   "live sockets stay in the map until they close");
  if (send(pair.server.get(), "abc", 3, 0) != 3 || settled_fionread(pair.client.get(), 3) != 3)
    return quirk("deleted, but FIONREAD is wrong afterwards", "live sockets stay in the map until they close");
  return works(mark.lock_owned ? "deletes a live socket, under the socket's lock"
                               : "deletes a live socket, under the socket's spin lock");
}

// The port.
uint16_t take_address(const sockaddr_in& from, uint8_t* address) {
  memcpy(address, kV4MappedPrefix, sizeof(kV4MappedPrefix));
  memcpy(address + sizeof(kV4MappedPrefix), &from.sin_addr, sizeof(from.sin_addr));
  return ntohs(from.sin_port);
}

// The kernel says the same, ENOENT, of a socket that is gone and of a family that it has nothing for.
Finding try_reset(Lab& lab) {
  Pair pair = lab.connect();
  sh_event event = {};
  event.netns = own_netns_cookie();
  event.cookie = cookie_of(pair.client.get());
  event.family = AF_INET;
  sockaddr_in local = {}, remote = {};
  socklen_t length = sizeof(local);
  getsockname(pair.client.get(), reinterpret_cast<sockaddr*>(&local), &length);
  getpeername(pair.client.get(), reinterpret_cast<sockaddr*>(&remote), &length);
  event.local_port = take_address(local, event.local_addr);
  event.remote_port = take_address(remote, event.remote_addr);
  if (lab.troubled()) return {};
  const auto asked = reset_socket(event);
  char byte;
  const bool ended = recv(pair.client.get(), &byte, 1, 0) < 0 && errno == ECONNABORTED;
  if (asked && ended) return works("a connection ends when it is asked to (SOCK_DESTROY)");
  return missing(asked ? "the kernel knows no such socket: it has no tcp_diag" : asked.error().to_string(),
                 "what a policy forbids is not reset, but times out: load the module tcp_diag, or use a kernel with "
                 "CONFIG_INET_DIAG_DESTROY");
}

// A socket in a map whose records the kernel makes can send plaintext. That a socket of a map takes no keys, the
// program at setsockopt() sees to. Whoever asks for the ULP has the kernel load its module: not here.
Finding try_kernel_tls(Lab& lab) {
  constexpr char kName[] = "tls";
  if (!lab.has_ulp(kName)) return works("no kTLS is loaded");
  Pair pair = lab.connect({.client = PROBE_MAP_NONE, .server = PROBE_MAP_NONE});
  if (setsockopt(pair.client.get(), IPPROTO_TCP, TCP_ULP, kName, sizeof(kName)) != 0)
    lab.trouble(errno_error(errno, "TCP_ULP"));
  if (lab.troubled()) return {};
  const int error = lab.put_into_map(PROBE_MAP_PLAIN, pair.client.get());
  if (error != 0) return works(std::string("a map refuses a socket with kTLS: ") + strerror(error));
  return quirk("a map takes a socket with kTLS", "never put there: its plaintext could go out");
}

}  // namespace

std::vector<Trial> attachment_trials() {
  return {
      {"bpf-permission", {}, true, try_read_kernel},
      {"sockops-attach", {"probe_sockops"}, true, try_sockops},
      {"sockhash", {"probe_sockops", "probe_msg", "probe_msg_mode"}, true, try_sockhash},
      {"sk-storage", {"probe_sockops", "probe_msg_mode"}, true, try_sk_storage},
      {"isn-pairing", {"probe_sockops"}, true, try_isn_pairing},
      {"tcp-state", {"probe_read"}, true, try_tcp_state},
      {"connect-hook", {"probe_connect"}, true, try_connect_hook},
      {"setsockopt-hook", {"probe_setopt"}, true, try_setsockopt},
      {"listen-callback", {"probe_listen"}, false, try_listen_callback},
      {"exec-tracepoint", {"probe_exec"}, false, try_exec},
      {"ring-buffer", {"probe_ring"}, false, try_ring},
      {"memory-pressure", {"probe_read"}, false, try_memory_pressure},
      {"iterator-delete", {"probe_iter", "probe_sockops"}, false, try_iterator},
      {"socket-reset", {}, false, try_reset},
      {"ktls-outside-maps", {"probe_sockops"}, false, try_kernel_tls},
  };
}

}  // namespace shunt
