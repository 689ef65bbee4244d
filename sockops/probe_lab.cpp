#include "probe_lab.hpp"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <net/if.h>
#include <poll.h>
#include <probe.skel.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>

namespace shunt {

namespace {

std::string last_line;
bool verifier_spoke = false;

bool starts_with(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

// The last line of a verifier's log that is not statistics: what it objects to.
std::string objection(const std::string& log) {
  std::istringstream lines(log);
  std::string found;
  for (std::string line; std::getline(lines, line);) {
    bool statistics =
        starts_with(line, "processed ") || starts_with(line, "verification time") || starts_with(line, "stack depth");
    if (!line.empty() && !statistics && line.find(" PROG LOAD LOG --") == std::string::npos) found = line;
  }
  return found;
}

// Keeps what libbpf says last; a verifier's objection is worth more than the failures that follow from it.
int keep_last_line(libbpf_print_level level, const char* format, va_list args) {
  if (level != LIBBPF_WARN || verifier_spoke) return 0;
  std::vector<char> text(1 << 16);
  vsnprintf(text.data(), text.size(), format, args);
  std::string line(text.data());
  if (line.find("-- BEGIN PROG LOAD LOG --") != std::string::npos) {
    line = objection(line);
    verifier_spoke = !line.empty();
  }
  if (starts_with(line, "libbpf: ")) line.erase(0, strlen("libbpf: "));
  if (line.empty() || starts_with(line, "failed to load ")) return 0;  // the object: the program was named before
  last_line = line.substr(0, line.find('\n'));
  return 0;
}

Result<void> loopback_up() {
  UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = {};
  request.ifr_name[0] = 'l';
  request.ifr_name[1] = 'o';
  if (!fd || ioctl(fd.get(), SIOCGIFFLAGS, &request) != 0) return unexpected(errno, "lo of the private namespace");
  request.ifr_flags |= IFF_UP;
  if (ioctl(fd.get(), SIOCSIFFLAGS, &request) != 0) return unexpected(errno, "lo of the private namespace");
  return {};
}

int map_fd(const probe_bpf* skel, probe_map map) {
  return bpf_map__fd(map == PROBE_MAP_VERDICT ? skel->maps.sh_verdict : skel->maps.sh_plain);
}

}  // namespace

void LinkDeleter::operator()(bpf_link* link) const { bpf_link__destroy(link); }

const std::string& libbpf_last_line() { return last_line; }

Lab::Lab() { libbpf_set_print(keep_last_line); }

Lab::~Lab() {
  sockops_.reset();
  if (skel_) probe_bpf::destroy(skel_);
}

Result<void> Lab::enter(const std::string& cgroup) {
  std::getline(std::ifstream("/proc/sys/net/ipv4/tcp_available_ulp") >> std::ws, ulps_);
  cgroup_.reset(open(cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  UniqueFd procs(openat(cgroup_.get(), "cgroup.procs", O_WRONLY | O_CLOEXEC));
  if (!cgroup_ || !procs || write(procs.get(), "0", 1) != 1) return unexpected(errno, "cannot move into " + cgroup);
  if (unshare(CLONE_NEWNET) != 0)
    return unexpected(errno, "cannot make a network namespace", "run as root, with CAP_SYS_ADMIN");
  if (auto up = loopback_up(); !up) return up;
  listener_.reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener_.get(), generic, length) != 0 || listen(listener_.get(), 8) != 0 ||
      getsockname(listener_.get(), generic, &length) != 0)
    return unexpected(errno, "cannot listen on 127.0.0.1 of the private namespace");
  port_be_ = address.sin_port;
  return {};
}

Result<void> Lab::try_load(const std::vector<std::string>& refused) {
  if (skel_) probe_bpf::destroy(skel_);
  skel_ = probe_bpf::open();
  if (!skel_) return unexpected(errno, "cannot open the probe object");
  auto is_refused = [&](const std::string& name) { return std::count(refused.begin(), refused.end(), name) > 0; };
  bpf_program* program;
  bpf_object__for_each_program(program, skel_->obj) {
    bpf_program__set_autoload(program, !is_refused(bpf_program__name(program)));
  }
  if (is_refused("probe_ring")) bpf_map__set_autocreate(skel_->maps.sh_ring, false);
  last_line.clear();
  verifier_spoke = false;
  if (int error = probe_bpf::load(skel_)) return unexpected(Error{-error, last_line, {}});
  return {};
}

// One program at a time: only on kernels that refuse something.
void Lab::find_refused() {
  std::vector<std::string> all;
  bpf_program* program;
  bpf_object__for_each_program(program, skel_->obj) all.push_back(bpf_program__name(program));
  for (const std::string& name : all) {
    std::vector<std::string> others;
    std::copy_if(all.begin(), all.end(), std::back_inserter(others), [&](const auto& other) { return other != name; });
    if (auto loaded = try_load(others); !loaded) refusals_[name] = loaded.error().message;
  }
}

Result<void> Lab::load() {
  auto loaded = try_load({});
  if (!loaded && skel_) {
    find_refused();
    std::vector<std::string> refused;
    for (const auto& [name, why] : refusals_) refused.push_back(name);
    loaded = try_load(refused);
  }
  if (loaded) set_message_program("probe_msg_mode");
  return loaded;
}

std::string Lab::refusal(const std::string& program) const {
  auto found = refusals_.find(program);
  return found == refusals_.end() ? std::string() : found->second;
}

int Lab::program_fd(const char* program) const {
  return bpf_program__fd(bpf_object__find_program_by_name(skel_->obj, program));
}

Result<void> Lab::attach_sockops() {
  sockops_.reset(bpf_program__attach_cgroup(skel_->progs.probe_sockops, cgroup_.get()));
  if (!sockops_) return unexpected(errno, "attaching sock_ops to a cgroup");
  return {};
}

Result<void> Lab::attach_messages() {
  for (probe_map map : {PROBE_MAP_PLAIN, PROBE_MAP_VERDICT}) {
    if (int error = bpf_prog_attach(program_fd("probe_msg"), map_fd(skel_, map), BPF_SK_MSG_VERDICT, 0))
      return unexpected(error, "attaching sk_msg to a sockhash");
  }
  return {};
}

Result<void> Lab::attach_verdict() {
  if (int error =
          bpf_prog_attach(program_fd("probe_verdict"), map_fd(skel_, PROBE_MAP_VERDICT), BPF_SK_SKB_STREAM_VERDICT, 0))
    return unexpected(error, "attaching sk_skb/stream_verdict to a sockhash");
  has_verdict_ = true;
  return {};
}

void Lab::trouble(Error error) {
  if (!troubled()) trouble_ = std::move(error);
}

Error Lab::take_trouble() { return std::exchange(trouble_, Error{}); }

Pair Lab::connect(const PairOptions& options) {
  if ((options.client == PROBE_MAP_VERDICT || options.server == PROBE_MAP_VERDICT) && !has_verdict_)
    trouble(Error{0, "the verdict is not attached", {}});
  skel_->bss->probe_config = {options.client, options.server, options.rtt_delete, 0};
  int rcvbuf = options.server_rcvbuf;
  UniqueFd listener;  // its own, because accepted sockets inherit the buffer size
  Pair pair;
  pair.client.reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = port_be_;
  socklen_t length = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  int accept_from = listener_.get();
  if (rcvbuf > 0) {
    listener.reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    address.sin_port = 0;
    setsockopt(listener.get(), SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof(rcvbuf));
    if (bind(listener.get(), generic, length) != 0 || listen(listener.get(), 1) != 0 ||
        getsockname(listener.get(), generic, &length) != 0)
      trouble(errno_error(errno, "cannot listen with a small buffer"));
    accept_from = listener.get();
  }
  if (options.client_sndbuf > 0)
    setsockopt(pair.client.get(), SOL_SOCKET, SO_SNDBUFFORCE, &options.client_sndbuf, sizeof(int));
  if (::connect(pair.client.get(), generic, length) != 0) trouble(errno_error(errno, "cannot connect to 127.0.0.1"));
  pollfd incoming = {accept_from, POLLIN, 0};
  if (poll(&incoming, 1, kPatienceMs) == 1)
    pair.server.reset(accept4(accept_from, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!pair.server) trouble(errno_error(ETIMEDOUT, "cannot accept a connection"));
  fcntl(pair.client.get(), F_SETFL, O_NONBLOCK);
  skel_->bss->probe_config = {};
  return pair;
}

int Lab::storage_fd() const { return bpf_map__fd(skel_->maps.sh_socks); }

probe_sock Lab::storage(int fd) {
  probe_sock value = {};
  if (int error = bpf_map_lookup_elem(storage_fd(), &fd, &value))
    trouble(errno_error(error, "the socket has no storage"));
  return value;
}

void Lab::update_storage(int fd, const probe_sock& value) {
  if (int error = bpf_map_update_elem(storage_fd(), &fd, &value, BPF_EXIST))
    trouble(errno_error(error, "cannot write socket storage"));
}

void Lab::introduce(const Pair& pair) {
  probe_sock client = storage(pair.client.get()), server = storage(pair.server.get());
  client.peer_cookie = server.cookie;
  server.peer_cookie = client.cookie;
  update_storage(pair.client.get(), client);
  update_storage(pair.server.get(), server);
}

void Lab::set_mode(int fd, probe_mode mode) {
  probe_sock value = storage(fd);
  value.mode = mode;
  update_storage(fd, value);
}

void Lab::send_message(const Pair& pair, size_t size) {
  std::string bytes(size, 'm');
  ssize_t sent = send(pair.client.get(), bytes.data(), size, MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(size)) trouble(errno_error(sent < 0 ? errno : EAGAIN, "send"));
}

probe_peek Lab::run_read(probe_peek arg) {
  LIBBPF_OPTS(bpf_test_run_opts, options, .ctx_in = &arg, .ctx_size_in = sizeof(arg));
  if (int error = bpf_prog_test_run_opts(program_fd("probe_read"), &options))
    trouble(errno_error(error, "cannot run the program that reads kernel memory"));
  return arg;
}

probe_peek Lab::peek(int fd) {
  probe_sock value = storage(fd);
  probe_peek arg = {};
  arg.sock = value.sock;
  arg.cookie = value.cookie;
  probe_peek answer = run_read(arg);
  if (!answer.found) trouble(Error{0, "the address noted for a socket is not that socket's", {}});
  return answer;
}

probe_peek Lab::peek_address(uint64_t address) {
  probe_peek arg = {};
  arg.address = address;
  return run_read(arg);
}

bool Lab::in_map(probe_map map, uint64_t cookie) {
  uint64_t value;
  return bpf_map_lookup_elem(map_fd(skel_, map), &cookie, &value) == 0;
}

int Lab::put_into_map(probe_map map, int fd) {
  const uint64_t cookie = cookie_of(fd), value = static_cast<uint64_t>(fd);
  return bpf_map_update_elem(map_fd(skel_, map), &cookie, &value, BPF_NOEXIST) == 0 ? 0 : errno;
}

void Lab::set_message_program(const char* program) {
  uint32_t slot = 0;
  int fd = program_fd(program);
  if (fd < 0) return;
  if (int error = bpf_map_update_elem(bpf_map__fd(skel_->maps.sh_jump), &slot, &fd, BPF_ANY))
    trouble(errno_error(error, "cannot put a program into the tail-call array"));
}

bool wait_readable(int fd, int timeout_ms) {
  pollfd wanted = {fd, POLLIN, 0};
  return poll(&wanted, 1, timeout_ms) == 1;
}

int fionread(int fd) {
  int bytes = -1;
  return ioctl(fd, FIONREAD, &bytes) == 0 ? bytes : -1;
}

int settled_fionread(int fd, int wanted, int timeout_ms) {
  wait_readable(fd, kPatienceMs);
  for (int waited_ms = 0;; waited_ms++) {
    int bytes = fionread(fd);
    if (bytes == wanted || waited_ms >= timeout_ms) return bytes;
    usleep(1000);
  }
}

uint64_t cookie_of(int fd) {
  uint64_t cookie = 0;
  socklen_t length = sizeof(cookie);
  getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length);
  return cookie;
}

}  // namespace shunt
