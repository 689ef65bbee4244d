// Shunt as the harness turns it on: the engine itself, without a daemon, on cgroups of the harness' own and with its
// pins in a bpffs that only this process sees. Nothing is left when the process ends.
#pragma once

#include <atomic>
#include <base/result.hpp>
#include <bench/bare.hpp>
#include <bench/sandbox.hpp>
#include <map>
#include <memory>
#include <sockops/engine.hpp>
#include <string>
#include <thread>

namespace shunt::bench {

struct Redirected {
  uint64_t fast_bytes = 0;
  uint64_t tcp_bytes = 0;
  // Of `payload_bytes`, or (0) of what the enrolled sockets sent; -1: there was nothing.
  double share(double payload_bytes = 0) const {
    double all = payload_bytes > 0 ? payload_bytes : double(fast_bytes + tcp_bytes);
    return all > 0 ? double(fast_bytes) / all : -1;
  }
};

class EngineHost {
 public:
  // Needs root. Moves the process into a mount namespace of its own: before the first thread.
  static Result<std::unique_ptr<EngineHost>> open();
  ~EngineHost();
  EngineHost(const EngineHost&) = delete;
  EngineHost& operator=(const EngineHost&) = delete;

  // A cgroup of this name: with nothing on it, or with an engine or the bare redirect that is not yet attached.
  Result<void> add_cgroup(const std::string& name);
  Result<void> add_bare(const std::string& name);
  Result<void> add_engine(const std::string& name, Settings settings);

  Result<void> attach(const std::string& name);
  Result<void> detach(const std::string& name);

  const Cgroup& cgroup(const std::string& name) const { return slots_.at(name)->cgroup; }
  // Bytes of the sockets that have closed since the last call; nothing is known of those without an engine.
  Redirected take_redirected(const std::string& name);
  Result<Status> status(const std::string& name) const { return slots_.at(name)->engine->status(); }
  const ProbeReport& probe() const { return probe_; }

 private:
  struct Slot {
    explicit Slot(Cgroup made) : cgroup(std::move(made)) {}
    Cgroup cgroup;
    Paths paths;
    std::unique_ptr<Engine> engine;      // null in a cgroup without one
    std::unique_ptr<BareRedirect> bare;  // while it is attached
    bool has_bare = false;
    bool attached = false;
    std::atomic<bool> stop{false};
    std::thread pump;
    uint64_t fast_bytes = 0;
    uint64_t tcp_bytes = 0;
  };
  EngineHost(Cgroup top, ProbeReport probe) : top_(std::move(top)), probe_(std::move(probe)) {}

  Cgroup top_;  // declared before the slots: removed after them
  ProbeReport probe_;
  std::map<std::string, std::unique_ptr<Slot>> slots_;
};

// The settings of the synthetic variants: every program is a receiver, because the ends are the harness itself.
Settings synthetic_settings();

}  // namespace shunt::bench
