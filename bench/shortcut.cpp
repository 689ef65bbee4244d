#include <poll.h>
#include <sched.h>
#include <sys/mount.h>

#include <bench/shortcut.hpp>
#include <cstdio>

namespace shunt::bench {
namespace {

constexpr const char* kBpffs = "/sys/fs/bpf";
constexpr auto kDrainLimit = std::chrono::milliseconds(3000);

Result<void> private_bpffs() {
  if (unshare(CLONE_NEWNS) != 0) return unexpected(errno, "a mount namespace of our own");
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return unexpected(errno, "make mounts private");
  if (mount("bpf", kBpffs, "bpf", 0, nullptr) != 0) return unexpected(errno, "mount a bpffs on " + std::string(kBpffs));
  return {};
}

std::string fatal_items(const ProbeReport& probe) {
  std::string text;
  for (const ProbeItem& item : probe.items) {
    if (item.verdict == ProbeVerdict::fatal) text += (text.empty() ? "" : "; ") + item.name + ": " + item.found;
  }
  return text;
}

// Does the daemon's part: answers what the programs ask.
void answer_events(Engine* engine, const std::atomic<bool>* stop) {
  while (!stop->load()) {
    pollfd fd = {engine->events_fd(), POLLIN, 0};
    if (poll(&fd, 1, 50) <= 0) continue;
    auto read = engine->read_events([&](const sh_event& event) {
      if (event.kind != SH_EV_VERIFY) return;
      if (auto verified = engine->verify_process(event.tgid); !verified) {
        fprintf(stderr, "shunt-bench: process %u: %s\n", event.tgid, verified.error().to_string().c_str());
      }
    });
    if (!read) return;
  }
}

}  // namespace

Settings synthetic_settings() {
  Settings settings;
  settings.any_program = true;
  return settings;
}

Result<std::unique_ptr<EngineHost>> EngineHost::open() {
  if (geteuid() != 0) {
    return unexpected(
        Error{EPERM, "the variants with Shunt need root", "run as root, or leave them out with --variants"});
  }
  sweep_leftovers();
  if (auto mounted = private_bpffs(); !mounted) return unexpected(mounted.error());
  ProbeReport probe = probe_kernel();
  if (!probe.usable) {
    return unexpected(
        Error{ENOTSUP, "this kernel cannot run the shortcut: " + fatal_items(probe), "see `shunt check`"});
  }
  Result<Cgroup> top = Cgroup::make("/shunt-bench-" + std::to_string(getpid()));
  if (!top) return unexpected(top.error());
  return std::unique_ptr<EngineHost>(new EngineHost(std::move(*top), std::move(probe)));
}

EngineHost::~EngineHost() {
  for (auto& [name, slot] : slots_) {
    if (!slot->engine) continue;
    if (auto detached = detach(name); !detached) {
      fprintf(stderr, "shunt-bench: %s: %s\n", name.c_str(), detached.error().to_string().c_str());
    }
    slot->engine.reset();
    auto drained = drain_pinned(slot->paths, kDrainLimit, false);
    if (!drained) fprintf(stderr, "shunt-bench: %s: %s\n", name.c_str(), drained.error().to_string().c_str());
  }
}

Result<void> EngineHost::add_cgroup(const std::string& name) {
  Result<Cgroup> cgroup = Cgroup::make(top_.path() + "/" + name);
  if (!cgroup) return unexpected(cgroup.error());
  slots_[name] = std::make_unique<Slot>(std::move(*cgroup));
  return {};
}

Result<void> EngineHost::add_bare(const std::string& name) {
  if (auto added = add_cgroup(name); !added) return added;
  slots_.at(name)->has_bare = true;
  return {};
}

Result<void> EngineHost::add_engine(const std::string& name, Settings settings) {
  if (auto added = add_cgroup(name); !added) return added;
  Slot& slot = *slots_.at(name);
  slot.paths = {.bpffs = kBpffs, .pin_dir = std::string(kBpffs) + "/bench-" + name, .cgroup_root = {}};
  settings.selection.cgroups.include = {slot.cgroup.path()};
  auto engine = Engine::open(slot.paths, probe_, settings);
  if (!engine) return unexpected(engine.error());
  slot.engine = std::move(*engine);
  return {};
}

Result<void> EngineHost::attach(const std::string& name) {
  Slot& slot = *slots_.at(name);
  if (slot.attached) return {};
  if (slot.has_bare) {
    auto bare = BareRedirect::attach(slot.cgroup.folder());
    if (!bare) return unexpected(bare.error());
    slot.bare = std::move(*bare);
    slot.attached = true;
    return {};
  }
  if (auto attached = slot.engine->attach(); !attached) return attached;
  slot.attached = true;
  slot.stop = false;
  slot.pump = std::thread(answer_events, slot.engine.get(), &slot.stop);
  return {};
}

Result<void> EngineHost::detach(const std::string& name) {
  Slot& slot = *slots_.at(name);
  if (!slot.attached) return {};
  if (slot.has_bare) {
    slot.bare.reset();
    slot.attached = false;
    return {};
  }
  slot.stop = true;
  if (slot.pump.joinable()) slot.pump.join();
  auto report = slot.engine->detach(kDrainLimit);
  if (!report) return unexpected(report.error());
  slot.attached = false;
  return {};
}

Redirected EngineHost::take_redirected(const std::string& name) {
  Slot& slot = *slots_.at(name);
  if (!slot.engine) return {};
  auto counters = slot.engine->counters();
  if (!counters) return {};
  uint64_t fast = counters->counters[SH_C_FAST_BYTES], tcp = counters->counters[SH_C_TCP_BYTES];
  Redirected since = {fast - slot.fast_bytes, tcp - slot.tcp_bytes};
  slot.fast_bytes = fast;
  slot.tcp_bytes = tcp;
  return since;
}

}  // namespace shunt::bench
