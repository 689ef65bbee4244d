// The engine on a private cgroup and a private bpffs, as a test fixture.
#pragma once

#include <gtest/gtest.h>
#include <linux/bpf.h>

#include <memory>
#include <optional>
#include <sockops/engine.hpp>
#include <vector>

#include "support/sandbox.hpp"
#include "support/sockets.hpp"

namespace shunt::test {

// Every program is a receiver, nothing is learned, no periodic message through TCP: what a test does not ask for does
// not happen.
Settings plain_settings();

const ProbeReport& host_probe();  // made once

// Owns the engine and its cgroup. Sockets made while the process is inside the cgroup are enrolled.
class Accelerated {
 public:
  // Its cgroup is watched for socket options from the beginning, so that already the first connection is enrolled, or
  // when the kernel side has asked for it and the events are read, as on a host.
  enum class Guard { at_once, on_request };
  explicit Accelerated(Settings settings = plain_settings(), Guard guard = Guard::at_once,
                       const ProbeReport& probe = host_probe());
  ~Accelerated();  // drains, and removes the pins
  Accelerated(const Accelerated&) = delete;
  Accelerated& operator=(const Accelerated&) = delete;

  Engine& engine() { return *engine_; }
  const Cgroup& cgroup() const { return cgroup_; }
  const Paths& paths() const { return paths_; }

  void destroy_engine() { engine_.reset(); }  // what a crash of the daemon leaves: the pins
  void open_engine();                         // as the daemon does at its start

  void apply(Settings settings);

  std::vector<Row> rows();
  std::optional<Row> row(int fd);  // of one of our sockets
  bool is_in_map(int fd);
  size_t entries(const std::string& map);  // of the newest generation
  uint64_t counter(sh_counter which);
  uint64_t reason_count(sh_reason which);
  size_t guard_pins();    // of all generations
  std::string summary();  // all counters and reasons that are not 0

  // Requests and responses until both directions are on the shortcut; false if that never happens.
  bool make_fast(const Connection& connection);
  bool is_fast(const Connection& connection);

 private:
  Settings settings_;
  Guard guard_;
  ProbeReport probe_;
  Paths paths_;
  Cgroup cgroup_;
  std::unique_ptr<Engine> engine_;
};

// Programs of this kind on the cgroup itself: BPF_CGROUP_SOCK_OPS, BPF_CGROUP_SETSOCKOPT ...
uint32_t programs_attached(const Cgroup& cgroup, bpf_attach_type type);
// Of every kind that shunt may attach.
uint32_t programs_attached(const Cgroup& cgroup);

// Its base name, as the programs see it.
std::string own_program();

// One line for a failed expectation: what the kernel keeps about a socket.
std::string describe(const std::optional<Row>& row);
std::string describe(const std::vector<Row>& rows);

}  // namespace shunt::test
