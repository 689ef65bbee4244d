// The self-test's laboratory: a private network namespace and cgroup in which the probe programs run, pairs of
// connected sockets in it, and a look at their kernel state. Used by one process that has nothing else to do (it
// changes its namespace).
#pragma once

#include <bpf/abi/probe.h>

#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <map>
#include <memory>
#include <string>
#include <vector>

struct probe_bpf;
struct bpf_link;

namespace shunt {

struct LinkDeleter {
  void operator()(bpf_link* link) const;
};
using Link = std::unique_ptr<bpf_link, LinkDeleter>;

// Two connected sockets, both non-blocking.
struct Pair {
  UniqueFd client;
  UniqueFd server;
};

struct PairOptions {
  probe_map client = PROBE_MAP_PLAIN;
  probe_map server = PROBE_MAP_PLAIN;
  int server_rcvbuf = 0;  // 0: the kernel's default
  int client_sndbuf = 0;
  bool rtt_delete = false;
};

class Lab {
 public:
  Lab();
  ~Lab();

  // Enters a new network namespace and the cgroup; brings up lo; listens.
  Result<void> enter(const std::string& cgroup);
  // Is this upper layer protocol loaded? As it was before enter(): other network namespaces do not tell.
  bool has_ulp(const std::string& name) const { return ulps_.find(name) != std::string::npos; }
  // Loads every program that the kernel accepts. An error says that even the maps could not be made.
  Result<void> load();
  // Why a program was refused; empty: it is loaded.
  std::string refusal(const std::string& program) const;
  size_t refused_count() const { return refusals_.size(); }
  // Attaches the sock_ops program to the cgroup; and the message (and verdict) program to the maps.
  Result<void> attach_sockops();
  Result<void> attach_messages();
  Result<void> attach_verdict();

  // The first thing that went wrong in the calls below, which go on harmlessly after it; cleared by take_trouble().
  void trouble(Error error);
  Error take_trouble();
  bool troubled() const { return !trouble_.message.empty(); }

  Pair connect(const PairOptions& options = {});
  // Makes the two ends of a pair each other's redirect target.
  void introduce(const Pair& pair);
  void set_mode(int fd, probe_mode mode);
  // Sends `size` bytes from the client in one message.
  void send_message(const Pair& pair, size_t size);
  probe_sock storage(int fd);
  probe_peek peek(int fd);
  probe_peek peek_address(uint64_t address);
  bool in_map(probe_map map, uint64_t cookie);
  // Puts a socket into the map from here: 0, or the error.
  int put_into_map(probe_map map, int fd);
  void set_message_program(const char* program);

  probe_bpf* skel() { return skel_; }
  int cgroup_fd() const { return cgroup_.get(); }
  int program_fd(const char* program) const;

 private:
  Result<void> try_load(const std::vector<std::string>& refused);
  void find_refused();
  probe_peek run_read(probe_peek arg);
  void update_storage(int fd, const probe_sock& value);
  int storage_fd() const;

  probe_bpf* skel_ = nullptr;
  std::string ulps_;
  UniqueFd cgroup_;
  UniqueFd listener_;
  uint16_t port_be_ = 0;
  Link sockops_;
  bool has_verdict_ = false;
  std::map<std::string, std::string> refusals_;
  Error trouble_;
};

// How long to wait for what must come: on a loaded machine a woken process, or the kernel's own threads, may wait for
// seconds.
constexpr int kPatienceMs = 4000;

// Waits until the socket is readable (or at its end).
bool wait_readable(int fd, int timeout_ms);
int fionread(int fd);
// FIONREAD of a readable socket, once it is `wanted` or does not become so.
int settled_fionread(int fd, int wanted, int timeout_ms = 20);
uint64_t cookie_of(int fd);
// The last line that libbpf logged in this thread of control.
const std::string& libbpf_last_line();

}  // namespace shunt
