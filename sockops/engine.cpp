#include "sockops/engine.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cstdarg>
#include <cstring>
#include <set>
#include <sockops/guards.hpp>
#include <sockops/install_settings.hpp>
#include <sockops/namespaces.hpp>
#include <sockops/owners.hpp>
#include <sockops/pins.hpp>
#include <utility>

#ifdef SHUNT_SKELETON  // a test's variant
#include SHUNT_SKELETON
#else
#include "shunt.skel.h"
#endif

namespace shunt {
namespace {

constexpr uint32_t kTcpListen = 10;  // enum of include/net/tcp_states.h

// The last thing libbpf complained about, for the error that the caller gets.
thread_local std::string last_complaint;

int keep_complaint(libbpf_print_level level, const char* format, va_list args) {
  if (level != LIBBPF_WARN) return 0;
  char line[1024];
  vsnprintf(line, sizeof(line), format, args);
  if (std::string text = line; text.starts_with("libbpf:")) last_complaint = text.substr(0, text.find('\n'));
  return 0;
}

struct SkeletonCloser {
  void operator()(shunt_bpf* skeleton) const { shunt_bpf__destroy(skeleton); }
};
using Skeleton = std::unique_ptr<shunt_bpf, SkeletonCloser>;

struct LinkCloser {
  void operator()(bpf_link* link) const { bpf_link__destroy(link); }
};

struct RingCloser {
  void operator()(ring_buffer* ring) const { ring_buffer__free(ring); }
};

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

Result<void> make_dir(const std::string& dir) {
  if (mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST) return unexpected(errno, "cannot make " + dir);
  return {};
}

// Puts a pin where another may be: the new one takes the old one's name at once. Were the name missing when the daemon
// is killed, nobody could take the live sockets out of the map.
Result<void> replace_pin(int fd, const std::string& path) {
  const size_t name_at = path.rfind('/') + 1;
  const std::string beside = path.substr(0, name_at) + "new_" + path.substr(name_at);  // bpffs allows no dots
  unlink(beside.c_str());
  if (int err = bpf_obj_pin(fd, beside.c_str()); err != 0) return unexpected(err, "cannot pin " + beside);
  if (rename(beside.c_str(), path.c_str()) != 0) return unexpected(errno, "cannot pin " + path);
  return {};
}

Result<Skeleton> open_skeleton(const Paths& paths, const std::string& dir) {
  Skeleton skeleton(shunt_bpf__open());
  if (!skeleton) return unexpected(errno, "cannot open the BPF programs", last_complaint);
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, skeleton->obj) {
    std::string name = bpf_map__name(map);
    if (bpf_map__is_internal(map)) continue;
    std::string path = (is_crossing_map(name) ? crossing_dir(paths) : dir) + "/" + name;
    if (int err = bpf_map__set_pin_path(map, path.c_str()); err != 0)
      return unexpected(err, "cannot place map " + name);
  }
  return skeleton;
}

Result<Skeleton> load_skeleton(const Paths& paths, const std::string& dir) {
  if (auto made = make_dir(dir); !made) return unexpected(made.error());
  auto skeleton = open_skeleton(paths, dir);
  if (!skeleton) return skeleton;
  if (int err = shunt_bpf__load(skeleton->get()); err != 0)
    return unexpected(err, "the kernel refused the BPF programs: " + last_complaint, "run: shunt check");
  return skeleton;
}

// Where the records of one read of the ring go: to the caller, but for those that the engine answers itself.
struct EventSink {
  const std::function<void(const sh_event&)>* on_event = nullptr;
  std::vector<sh_event> abandoned;
  std::vector<uint64_t> unguarded;  // cgroups
};

int take_event(void* context, void* data, size_t bytes) {
  auto* sink = static_cast<EventSink*>(context);
  if (bytes < sizeof(sh_event)) return 0;
  const auto& event = *static_cast<const sh_event*>(data);
  if (event.kind == SH_EV_ABANDONED)
    sink->abandoned.push_back(event);
  else if (event.kind == SH_EV_GUARD)
    sink->unguarded.push_back(event.cgroup);
  else if (sink->on_event)
    (*sink->on_event)(event);
  return 0;
}

}  // namespace

struct Engine::State {
  Paths paths;
  ProbeReport probe;
  Settings settings;
  Generation generation;
  Skeleton skeleton;
  std::unique_ptr<bpf_link, LinkCloser> on_exec;
  std::unique_ptr<ring_buffer, RingCloser> ring;
  EventSink sink;

  int map(const std::string& name) const {
    bpf_map* found = bpf_object__find_map_by_name(skeleton->obj, name.c_str());
    return found ? bpf_map__fd(found) : -1;
  }

  GuardContext guards() const {
    return {paths, generation, bpf_program__fd(skeleton->progs.sh_setsockopt), map("sh_guards")};
  }
  Result<void> load();
  Result<void> pin_programs() const;
  Result<void> wire_socket_map() const;
  Result<void> attach_cgroup(const std::string& cgroup, const bpf_program* program, const char* kind) const;
  Result<void> detach_others(const std::vector<std::string>& wanted) const;
};

namespace {

// A pinned generation without sockets, other than the one in force, has nothing left to do.
void remove_empty_generations(const Paths& paths, const Generation& in_force) {
  auto rows = pinned_list(paths);
  if (!rows) return;
  for (const auto& generation : generations(paths)) {
    if (generation.number == in_force.number) continue;
    bool used = false;
    for (const auto& row : *rows) used |= row.generation == generation.number && row.raw.tail.in_map;
    if (!used) remove_dir(generation.dir);
  }
}

}  // namespace

// Adopts the newest generation if it has this layout and its maps fit; else makes the next one beside it.
Result<void> Engine::State::load() {
  auto pinned = generations(paths);
  if (!pinned.empty() && pinned.back().layout == SH_LAYOUT_VERSION) {
    auto adopted = load_skeleton(paths, pinned.back().dir);
    if (adopted) {
      generation = pinned.back();
      skeleton = std::move(*adopted);
      return {};
    }
  }
  generation.number = pinned.empty() ? 1 : pinned.back().number + 1;
  generation.layout = SH_LAYOUT_VERSION;
  generation.dir = generation_dir(paths, generation.number, generation.layout);
  auto fresh = load_skeleton(paths, generation.dir);
  if (!fresh) {
    remove_dir(generation.dir);
    return unexpected(fresh.error());
  }
  skeleton = std::move(*fresh);
  return {};
}

// The iterators, so that the command line works with the daemon dead. The last one says that the generation is whole.
Result<void> Engine::State::pin_programs() const {
  const std::pair<const bpf_program*, const char*> pins[] = {{skeleton->progs.sh_iter_list, "prog_iter_list"},
                                                             {skeleton->progs.sh_iter_leave, "prog_iter_leave"},
                                                             {skeleton->progs.sh_iter_owners, "prog_iter_owners"}};
  for (const auto& [program, name] : pins)
    if (auto pinned = replace_pin(bpf_program__fd(program), generation.dir + "/" + name); !pinned) return pinned;
  return {};
}

// The programs of sockets that are enrolled from now on, and the program behind the dispatcher, which live sockets run
// too.
Result<void> Engine::State::wire_socket_map() const {
  uint32_t slot = 0;
  int judge = bpf_program__fd(skeleton->progs.sh_msg_judge);
  if (int err = bpf_map_update_elem(map("sh_msg_progs"), &slot, &judge, BPF_ANY); err != 0)
    return unexpected(err, "cannot put the sk_msg program in force");
  int sockets = map("sh_socks");
  int entry = bpf_program__fd(skeleton->progs.sh_msg_entry);
  if (int err = bpf_prog_attach(entry, sockets, BPF_SK_MSG_VERDICT, 0); err != 0)
    return unexpected(err, "cannot attach the sk_msg program to the socket map");
  int pass = bpf_program__fd(skeleton->progs.sh_pass);
  if (!probe.verdict_works) {
    bpf_prog_detach2(pass, sockets, BPF_SK_SKB_STREAM_VERDICT);
    return {};
  }
  if (int err = bpf_prog_attach(pass, sockets, BPF_SK_SKB_STREAM_VERDICT, 0); err != 0)
    return unexpected(err, "cannot attach the verdict program to the socket map");
  return {};
}

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}
Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::open(const Paths& wanted, const ProbeReport& probe, const Settings& settings) {
  libbpf_set_print(keep_complaint);
  auto paths = resolve_paths(wanted, true);
  if (!paths) return unexpected(paths.error());
  auto state = std::make_unique<State>();
  state->paths = *paths;
  state->probe = probe;
  for (const auto& dir : {crossing_dir(*paths), links_dir(*paths)})
    if (auto made = make_dir(dir); !made) return unexpected(made.error());
  if (auto loaded = state->load(); !loaded) return unexpected(loaded.error());
  std::unique_ptr<Engine> engine(new Engine(std::move(state)));
  if (auto applied = engine->apply(settings); !applied) return unexpected(applied.error());
  auto& s = *engine->state_;
  if (auto pinned = s.pin_programs(); !pinned) return unexpected(pinned.error());
  if (auto wired = s.wire_socket_map(); !wired) return unexpected(wired.error());
  s.on_exec.reset(bpf_program__attach(s.skeleton->progs.sh_on_exec));  // without it, the first connection asks
  s.ring.reset(ring_buffer__new(s.map("sh_events"), take_event, &s.sink, nullptr));
  if (!s.ring) return unexpected(errno, "cannot open the event ring");
  remove_empty_generations(s.paths, s.generation);
  return engine;
}

Result<void> Engine::apply(const Settings& settings) {
  auto& s = *state_;
  auto installed = install_settings(s.paths, s.probe, settings, [&](const std::string& name) { return s.map(name); });
  if (!installed) return installed;
  s.settings = settings;
  auto status = this->status();
  return status && status->attached ? attach() : Result<void>{};
}

// Attaches through a pinned link. A link that is there already, of this or an older generation, is updated in place:
// there is no moment without a program.
Result<void> Engine::State::attach_cgroup(const std::string& cgroup, const bpf_program* program,
                                          const char* kind) const {
  auto id = cgroup_id(paths, cgroup);
  if (!id) return unexpected(id.error());
  std::string pin = fmt::format("{}/{}-{}", links_dir(paths), kind, *id);
  if (exists(pin)) {
    auto link = open_pin(pin);
    if (link && bpf_link_update(link->get(), bpf_program__fd(program), nullptr) == 0) return {};
    unlink(pin.c_str());  // of a cgroup that was removed and whose id was given out again
  }
  std::string dir = paths.cgroup_root + (cgroup.starts_with('/') ? "" : "/") + cgroup;
  UniqueFd fd(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return unexpected(errno, "cannot open " + dir);
  UniqueFd link(
      bpf_link_create(bpf_program__fd(program), fd.get(), bpf_program__expected_attach_type(program), nullptr));
  if (!link)
    return unexpected(errno, "cannot attach to " + dir,
                      errno == EPERM ? "another program forbids more: bpftool cgroup show" : "");
  if (int err = bpf_obj_pin(link.get(), pin.c_str()); err != 0) return unexpected(err, "cannot pin " + pin);
  return {};
}

Result<void> Engine::State::detach_others(const std::vector<std::string>& wanted) const {
  for (const auto& name : list_dir(links_dir(paths))) {
    if (std::find(wanted.begin(), wanted.end(), name.substr(4)) != wanted.end()) continue;
    std::string pin = links_dir(paths) + "/" + name;
    if (auto link = open_pin(pin)) bpf_link_detach(link->get());
    unlink(pin.c_str());
  }
  return {};
}

Result<void> Engine::attach() {
  auto& s = *state_;
  auto cgroups = s.settings.selection.cgroups.include;
  if (cgroups.empty()) cgroups.push_back("/");
  std::vector<std::string> ids;
  for (const auto& cgroup : cgroups) {
    auto id = cgroup_id(s.paths, cgroup);
    if (!id) return unexpected(id.error());
    ids.push_back(std::to_string(*id));
    auto ops = s.attach_cgroup(cgroup, s.skeleton->progs.sh_sock_ops, "ops");
    if (!ops) return ops;
  }
  if (auto detached = s.detach_others(ids); !detached) return detached;
  if (auto renewed = renew_guards(s.guards()); !renewed) return renewed;
  return write_mode(s.map("sh_configs"), SH_MODE_ON);
}

Result<void> Engine::guard(const std::string& cgroup) {
  auto id = cgroup_id(state_->paths, cgroup);
  return id ? guard_cgroup(state_->guards(), *id) : unexpected(id.error());
}

Result<DrainReport> Engine::detach(std::chrono::milliseconds deadline, const DrainProgress& progress) {
  return drain_pinned(state_->paths, deadline, true, progress);
}

Result<Status> Engine::status() const { return pinned_status(state_->paths); }
Result<std::vector<Row>> Engine::list() const { return pinned_list(state_->paths); }
Result<Counters> Engine::counters() const { return pinned_counters(state_->paths); }

Result<std::vector<ProfileRow>> Engine::profiles() const {
  std::vector<ProfileRow> rows;
  int map = state_->map("sh_profiles");
  uint64_t key = 0, next = 0;
  for (int more = bpf_map_get_next_key(map, nullptr, &next); more == 0; more = bpf_map_get_next_key(map, &key, &next)) {
    key = next;
    ProfileRow row;
    row.id = key;
    if (bpf_map_lookup_elem(map, &key, &row.value) == 0) rows.push_back(row);
    if (rows.size() >= SH_PROFILES_MAX) break;  // the map changes under the walk
  }
  return rows;
}

int Engine::events_fd() const { return ring_buffer__epoll_fd(state_->ring.get()); }

Result<int> Engine::read_events(const std::function<void(const sh_event&)>& on_event) {
  auto& sink = state_->sink;
  sink.on_event = &on_event;
  int read = ring_buffer__consume(state_->ring.get());
  sink.on_event = nullptr;
  auto abandoned = std::exchange(sink.abandoned, {});
  auto unguarded = std::exchange(sink.unguarded, {});
  if (read < 0) return unexpected(read, "cannot read the event ring");
  // One that fails does not hold up the others; the first error is told.
  Result<void> done;
  for (const auto& event : abandoned)
    if (auto reset = reset_socket(event); !reset && done) done = reset;
  if (!unguarded.empty()) forget_gone(state_->guards());
  for (uint64_t cgroup : unguarded)
    if (auto guarded = guard_cgroup(state_->guards(), cgroup); !guarded && done) done = guarded;
  if (!done) return unexpected(done.error());
  return read;
}

void Engine::want_events(bool wanted) {
  auto written = write_events_wanted(state_->map("sh_configs"), wanted);
  (void)written;  // a monitor without events shows none; nothing else depends on it
}

// The kernel side left an unverified entry under (pid, start time): every such entry of this pid gets the verdict. A
// stale one belongs to a process that is gone. With BPF_EXIST the verdict could be lost: an update of a full LRU map
// makes room first, and what it pushes out may be the very entry.
Result<void> Engine::verify_process(uint32_t tgid) {
  int map = state_->map("sh_processes");
  sh_process verdict = {};
  verdict.reason = inspect_process(tgid);
  sh_process_key key = {}, next = {};
  for (int more = bpf_map_get_next_key(map, nullptr, &next); more == 0; more = bpf_map_get_next_key(map, &key, &next)) {
    key = next;
    sh_process now = {};
    if (key.tgid != tgid || bpf_map_lookup_elem(map, &key, &now) != 0 || now.reason != SH_R_PROGRAM_UNVERIFIED)
      continue;
    if (bpf_map_update_elem(map, &key, &verdict, BPF_ANY) != 0)
      return unexpected(errno, fmt::format("cannot record the verdict on process {}", tgid));
  }
  return {};
}

namespace {

sh_listener listener_of(const sh_owner& owner) {
  sh_listener listener = {};
  memcpy(listener.program, owner.program, sizeof(listener.program));
  listener.start_boottime_ns = owner.start_boottime_ns;
  listener.cgroup = owner.cgroup;
  listener.tgid = owner.tgid;
  listener.uid = owner.uid;
  listener.nonblocking = owner.nonblocking;
  return listener;
}

bool is_receiver(const Settings& settings, const sh_owner& owner) {
  for (const auto& entry : settings.receivers)
    if (entry.name.compare(0, SH_PROGRAM_NAME_BYTES - 1, owner.program) == 0) return true;
  return settings.any_program;
}

}  // namespace

Result<void> Engine::scan_sockets() {
  auto owners = socket_owners(state_->generation);
  if (!owners) return unexpected(owners.error());
  int map = state_->map("sh_listeners");
  std::set<uint64_t> cgroups;
  for (const auto& owner : *owners) {
    if (is_receiver(state_->settings, owner)) cgroups.insert(owner.cgroup);
    if (owner.tcp_state != kTcpListen) continue;
    sh_listener_key key = {};
    key.netns = owner.netns;
    memcpy(key.addr, owner.local_addr, sizeof(key.addr));
    key.port = owner.local_port;
    key.family = static_cast<uint16_t>(owner.family);
    auto listener = listener_of(owner);
    // What listen() recorded is not overwritten, but by the process that holds the socket now if that one is gone.
    if (bpf_map_update_elem(map, &key, &listener, BPF_NOEXIST) != 0 && errno != EEXIST)
      return unexpected(errno, "cannot record a listener");
  }
  for (uint64_t cgroup : cgroups)
    if (auto guarded = guard_cgroup(state_->guards(), cgroup); !guarded) return guarded;
  return {};
}

}  // namespace shunt
