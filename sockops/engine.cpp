#include "sockops/engine.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdarg>
#include <cstring>
#include <set>
#include <sockops/channels.hpp>
#include <sockops/guards.hpp>
#include <sockops/install_settings.hpp>
#include <sockops/links.hpp>
#include <sockops/map_walk.hpp>
#include <sockops/namespaces.hpp>
#include <sockops/outbound.hpp>
#include <sockops/owners.hpp>
#include <sockops/pins.hpp>
#include <sockops/policy_ends.hpp>
#include <sockops/policy_loader.hpp>
#include <sockops/policy_tables.hpp>
#include <sockops/steering.hpp>
#include <sockops/strict_services.hpp>
#include <utility>

#ifdef SHUNT_SKELETON  // a test's variant
#include SHUNT_SKELETON
#else
#include "shunt.skel.h"
#endif

namespace shunt {
namespace {

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

Result<void> make_dir(const std::string& dir) {
  if (mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST) return unexpected(errno, "cannot make " + dir);
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

// Only what a policy needs is allotted: the arrays of its cells and results are as large as the operator says. Those
// that are pinned already and larger stay as they are.
Result<void> size_policy_maps(shunt_bpf* skeleton, const Settings& settings, const std::string& dir) {
  const std::pair<bpf_map*, uint32_t> sizes[] = {{skeleton->maps.sh_pol_blocks, settings.policy_blocks},
                                                 {skeleton->maps.sh_pol_results, settings.policy_results},
                                                 {skeleton->maps.sh_pol_hits, settings.policy_results}};
  for (const auto& [map, wanted] : sizes) {
    uint32_t size = wanted;
    bpf_map_info info = {};
    uint32_t bytes = sizeof(info);
    if (auto pinned = open_pin(dir + "/" + bpf_map__name(map)))
      if (bpf_obj_get_info_by_fd(pinned->get(), &info, &bytes) == 0) size = std::max(size, info.max_entries);
    if (int err = bpf_map__set_max_entries(map, size); err != 0)
      return unexpected(err, "cannot size the policy's maps");
  }
  return {};
}

Result<Skeleton> load_skeleton(const Paths& paths, const Settings& settings, const std::string& dir) {
  if (auto made = make_dir(dir); !made) return unexpected(made.error());
  auto skeleton = open_skeleton(paths, dir);
  if (!skeleton) return skeleton;
  if (auto sized = size_policy_maps(skeleton->get(), settings, dir); !sized) return unexpected(sized.error());
  if (int err = shunt_bpf__load(skeleton->get()); err != 0)
    return unexpected(err, "the kernel refused the BPF programs: " + last_complaint, "run: shunt check");
  return skeleton;
}

// SH_EV_LISTENS comes before listen() has done its work: the server may be there at the second look only.
constexpr int kLooksForServer = 2;

// Where the records of one read of the ring go: to the caller, but for those that the engine answers itself.
struct EventSink {
  const std::function<void(const sh_event&)>* on_event = nullptr;
  std::vector<sh_event> to_reset;
  std::vector<uint64_t> unguarded;  // cgroups
  int looks = 0;                    // that a server which has come is worth
  bool server_came = false;

  void server_comes() {
    looks = kLooksForServer;
    server_came = true;
  }
};

int take_event(void* context, void* data, size_t bytes) {
  auto* sink = static_cast<EventSink*>(context);
  if (bytes < sizeof(sh_event)) return 0;
  const auto& event = *static_cast<const sh_event*>(data);
  if (event.kind == SH_EV_ABANDONED || (event.kind == SH_EV_FORBIDDEN && event.reason == SH_R_POLICY))
    sink->to_reset.push_back(event);
  if (event.kind == SH_EV_GUARD)
    sink->unguarded.push_back(event.cgroup);
  else if (event.kind == SH_EV_LISTENS)
    sink->server_comes();
  else if (event.kind != SH_EV_ABANDONED && sink->on_event)
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
  std::optional<PolicyLoader> policy;
  Outbound outbound;
  std::optional<OwnAddresses> addresses;
  std::optional<SynPrograms> syn_programs;
  std::optional<Steering> steering;
  std::optional<StrictServices> strict;
  bool attached = false;  // by this process
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
  Result<void> tie_socket_map() const;
  Result<void> install(const Settings& wanted, const Settings* before) const {
    return install_settings(paths, probe, wanted, before, [this](const std::string& name) { return map(name); });
  }
  PolicyPrograms policy_programs() const;
  Result<void> attach_outbound() const;
};

namespace {

// A pinned generation without sockets, other than the one in force, has nothing left to do.
void remove_empty_generations(const Paths& paths, const Generation& in_force) {
  const auto pinned = generations(paths);
  if (pinned.size() <= 1) return;
  auto rows = pinned_list(paths);
  if (!rows) return;
  for (const auto& generation : pinned) {
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
    auto adopted = load_skeleton(paths, settings, pinned.back().dir);
    if (adopted) {
      generation = pinned.back();
      skeleton = std::move(*adopted);
      return {};
    }
  }
  generation.number = pinned.empty() ? 1 : pinned.back().number + 1;
  generation.layout = SH_LAYOUT_VERSION;
  generation.dir = generation_dir(paths, generation.number, generation.layout);
  auto fresh = load_skeleton(paths, settings, generation.dir);
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

PolicyPrograms Engine::State::policy_programs() const {
  const auto& progs = skeleton->progs;
  return {bpf_program__fd(progs.sh_connect4), bpf_program__fd(progs.sh_connect6), bpf_program__fd(progs.sh_gate_in),
          bpf_program__fd(progs.sh_gate_out), bpf_program__fd(progs.sh_on_mkdir)};
}

Result<void> Engine::State::attach_outbound() const {
  const auto& progs = skeleton->progs;
  return shunt::attach_outbound(
      paths,
      {bpf_program__fd(progs.sh_dial4), bpf_program__fd(progs.sh_dial6), bpf_program__fd(progs.sh_peer4),
       bpf_program__fd(progs.sh_peer6), bpf_program__fd(progs.sh_getsockopt)},
      outbound.cgroups);
}

// The programs of sockets that are enrolled from now on, and the programs behind the dispatcher, which live sockets run
// too. The judge comes last: it calls the others.
Result<void> Engine::State::wire_socket_map() const {
  const std::pair<uint32_t, const bpf_program*> slots[] = {{SH_MSG_RESP, skeleton->progs.sh_msg_resp},
                                                           {SH_MSG_L7, skeleton->progs.sh_msg_l7},
                                                           {SH_MSG_CARRY, skeleton->progs.sh_msg_carry},
                                                           {SH_MSG_CHANNEL, skeleton->progs.sh_msg_channel},
                                                           {SH_MSG_JUDGE, skeleton->progs.sh_msg_judge}};
  static_assert(std::size(slots) == SH_MSG_SLOTS);
  for (const auto& [slot, program] : slots) {
    int fd = bpf_program__fd(program);
    if (int err = bpf_map_update_elem(map("sh_msg_progs"), &slot, &fd, BPF_ANY); err != 0)
      return unexpected(err, "cannot put the sk_msg programs in force");
  }
  if (auto tied = tie_socket_map(); !tied) return tied;
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

// The map must outlive its sockets: when it goes, the kernel takes the last ones out, and what they have not read is
// lost. A socket holds its programs; those hold the map only if they use it, and the dispatcher's table is emptied with
// its last pin.
Result<void> Engine::State::tie_socket_map() const {
  for (const bpf_program* program : {skeleton->progs.sh_msg_entry, skeleton->progs.sh_pass})
    if (int err = bpf_prog_bind_map(bpf_program__fd(program), map("sh_socks"), nullptr); err != 0)
      return unexpected(err, "cannot tie the socket map to its programs");
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
  state->settings = settings;
  for (const auto& dir : {crossing_dir(*paths), links_dir(*paths)})
    if (auto made = make_dir(dir); !made) return unexpected(made.error());
  if (auto loaded = state->load(); !loaded) return unexpected(loaded.error());
  state->policy.emplace(
      state->paths, [state = state.get()](const std::string& name) { return state->map(name); },
      state->policy_programs(),
      [state = state.get()](uint64_t cgroup) { return guard_cgroup(state->guards(), cgroup); });
  const MapFinder map = [state = state.get()](const std::string& name) { return state->map(name); };
  state->addresses.emplace(map("sh_own_addrs"));
  state->syn_programs.emplace(state->paths, map);
  state->steering.emplace(state->paths, state->generation, map, *state->addresses, *state->syn_programs);
  state->strict.emplace(state->paths, map, *state->addresses, *state->syn_programs);
  std::unique_ptr<Engine> engine(new Engine(std::move(state)));
  auto& s = *engine->state_;
  // What an earlier daemon attached keeps its programs until attach(): those of a new generation know no policy yet.
  if (auto installed = s.install(settings, nullptr); !installed) return unexpected(installed.error());
  if (auto pinned = s.pin_programs(); !pinned) return unexpected(pinned.error());
  s.on_exec.reset(bpf_program__attach(s.skeleton->progs.sh_on_exec));  // without it, the first connection asks
  s.ring.reset(ring_buffer__new(s.map("sh_events"), take_event, &s.sink, nullptr));
  if (!s.ring) return unexpected(errno, "cannot open the event ring");
  if (linked_cgroups(s.paths, "ops").empty()) remove_empty_generations(s.paths, s.generation);
  return engine;
}

// What is in force already is not written again: a policy that changed is a reload too. But for cgroups, which are
// named by paths: another one may be there now.
Result<void> Engine::apply(const Settings& settings) {
  const InOut<std::string>& cgroups = settings.selection.cgroups;
  const bool by_path = !cgroups.include.empty() || !cgroups.exclude.empty();
  if (by_path || !(settings == state_->settings)) {
    if (auto installed = state_->install(settings, &state_->settings); !installed) return installed;
    state_->settings = settings;
  }
  return linked_cgroups(state_->paths, "ops").empty() ? Result<void>{} : attach();
}

// The socket map comes first, and with it programs that know the policy: what is enrolled meanwhile is judged by them.
Result<void> Engine::attach() {
  auto& s = *state_;
  if (auto wired = s.wire_socket_map(); !wired) return wired;
  auto cgroups = s.settings.selection.cgroups.include;
  if (cgroups.empty()) cgroups.push_back("/");
  std::set<uint64_t> ids;
  for (const auto& cgroup : cgroups) {
    auto id = attach_link(s.paths, cgroup, bpf_program__fd(s.skeleton->progs.sh_sock_ops), BPF_CGROUP_SOCK_OPS, "ops");
    if (!id) return unexpected(id.error());
    ids.insert(*id);
  }
  detach_links(s.paths, "ops", ids);
  if (auto policed = s.policy->attach(cgroups); !policed) return policed;
  if (auto turned = s.attach_outbound(); !turned) return turned;
  if (auto renewed = renew_guards(s.guards()); !renewed) return renewed;
  if (auto on = write_mode(s.map("sh_configs"), SH_MODE_ON); !on) return on;
  s.attached = true;
  if (const StrictReport report = s.strict->look(true, false); report.error) return unexpected(*report.error);
  remove_empty_generations(s.paths, s.generation);  // from now on they enrol nothing
  return {};
}

Result<void> Engine::guard(const std::string& cgroup) {
  auto id = cgroup_id(state_->paths, cgroup);
  return id ? guard_cgroup(state_->guards(), *id) : unexpected(id.error());
}

Result<DrainReport> Engine::detach(std::chrono::milliseconds deadline, const DrainProgress& progress) {
  auto report = drain_pinned(state_->paths, deadline, true, progress);
  if (!report) return report;
  state_->policy->detached();
  state_->syn_programs->detach_all();
  state_->attached = false;
  return report;
}

Result<void> Engine::set_policy(const PolicyRows* rows, sh_policy_existing existing) {
  return rows ? state_->policy->put(*rows, existing) : state_->policy->drop();
}
Result<bool> Engine::refresh_policy() { return state_->policy->refresh(); }
int Engine::policy_settled_fd() const { return state_->policy->settled_fd(); }
PolicyReport Engine::policy() const { return state_->policy->report(); }
std::vector<uint64_t> Engine::policy_hits() const { return state_->policy->hits(); }
Result<std::vector<ResponseRow>> Engine::responses() const { return read_responses(state_->map("sh_responses")); }
void Engine::forget_responses(uint32_t generation) const {
  shunt::forget_responses(state_->map("sh_responses"), generation);
}
std::unique_ptr<PolicyTables> Engine::policy_tables() const {
  return read_policy_tables([state = state_.get()](const std::string& name) { return state->map(name); });
}

Result<std::vector<sh_live>> Engine::live_connections() const {
  const auto& s = *state_;
  wait_for_programs();  // they may be judging by the policy before
  auto raw = run_iterator_in(namespaces_with_sockets(s.paths), bpf_program__fd(s.skeleton->progs.sh_iter_police));
  if (!raw) return unexpected(raw.error());
  std::vector<sh_live> live(raw->size() / sizeof(sh_live));
  if (!live.empty()) memcpy(live.data(), raw->data(), live.size() * sizeof(sh_live));
  return live;
}

Result<size_t> Engine::end_connections(std::vector<sh_event> connections) const {
  const auto owners = socket_owners(state_->generation);
  const ResetReport report = reset_sockets(connections, owners ? *owners : std::vector<sh_owner>());
  for (sh_event& event : connections) {
    event.kind = SH_EV_FORBIDDEN;
    event.reason = SH_R_POLICY_CHANGED;
    bpf_test_run_opts run = {};
    run.sz = sizeof(run);
    run.ctx_in = &event;
    run.ctx_size_in = sizeof(event);
    (void)bpf_prog_test_run_opts(bpf_program__fd(state_->skeleton->progs.sh_tell_ended), &run);  // it is ended, untold
  }
  return report.result ? Result<size_t>(report.reset) : unexpected(report.result.error());
}

Result<PolicyEnd> Engine::end_of_process(uint32_t tgid) const { return shunt::end_of_process(state_->paths, tgid); }
Result<PolicyEnd> Engine::end_of_cgroup(const std::string& name) const {
  return shunt::end_of_cgroup(state_->paths, name);
}
Result<PolicyPair> Engine::find_pair(const std::string& local, const std::string& remote) const {
  return shunt::find_pair(state_->paths, state_->generation, local, remote);
}

Result<Status> Engine::status() const { return pinned_status(state_->paths); }
Result<std::vector<Row>> Engine::list() const { return pinned_list(state_->paths); }
Result<Counters> Engine::counters() const { return pinned_counters(state_->paths); }

Result<std::vector<ProfileRow>> Engine::profiles() const {
  std::vector<ProfileRow> rows;
  int map = state_->map("sh_profiles");
  for_each_key<uint64_t>(map, [&](uint64_t key) {
    ProfileRow row;
    row.id = key;
    if (bpf_map_lookup_elem(map, &key, &row.value) == 0) rows.push_back(row);
  });
  return rows;
}

Result<PuntChannels> Engine::make_channels(uint32_t count) {
  return make_punt_channels([this](const std::string& name) { return state_->map(name); }, count);
}

Result<void> Engine::end_channels() {
  return end_punt_channels([this](const std::string& name) { return state_->map(name); });
}

bool Engine::owns_channels(int page) const {
  const auto map = [this](const std::string& name) { return state_->map(name); };
  return same_map(page, map("sh_punt_pages")) && any_punt_channel(map);
}

Result<GatewayMaps> Engine::admit_gateway(uint32_t uid, const std::string& cgroup, uint32_t netns) {
  if (!state_->settings.selection.reaches(cgroup))
    return unexpected(Error{EINVAL, "the gateway's cgroup " + cgroup + " is not within selection.cgroups",
                            "select it, too: its connections are not seen otherwise"});
  const auto id = cgroup_id(state_->paths, cgroup);
  if (!id) return unexpected(id.error());
  if (auto guarded = guard_cgroup(state_->guards(), *id); !guarded) return unexpected(guarded.error());
  if (auto governed = state_->policy->govern_also(cgroup); !governed) return unexpected(governed.error());
  state_->strict->gateway_is_in(netns);
  return shunt::admit_gateway([this](const std::string& name) { return state_->map(name); }, uid, *id);
}

Result<void> Engine::dismiss_gateway() {
  return shunt::dismiss_gateway([this](const std::string& name) { return state_->map(name); });
}

Result<void> Engine::set_outbound(Outbound outbound) {
  auto written = write_services([this](const std::string& name) { return state_->map(name); }, outbound.services);
  if (!written) return written;
  state_->outbound = std::move(outbound);
  return linked_cgroups(state_->paths, "ops").empty() ? Result<void>{} : state_->attach_outbound();
}

Result<void> Engine::set_local_services(std::vector<HostService> services) {
  if (auto set = state_->strict->set(std::move(services)); !set) return set;
  if (!state_->attached) return {};
  const StrictReport report = state_->strict->look(true, false);
  return report.error ? Result<void>(unexpected(*report.error)) : Result<void>{};
}

StrictReport Engine::keep_strict() {
  if (!state_->attached) return {};
  return state_->strict->look(false, std::exchange(state_->sink.server_came, false));
}

Result<UniqueFd> Engine::admit_proxy(uint32_t tgid, bool keeps) { return state_->steering->admit(tgid, keeps); }
void Engine::end_steering() { state_->steering->end(); }

SteeredServers Engine::steered_servers(bool scan) {
  const bool told = state_->sink.looks > 0;
  SteeredServers servers = state_->steering->look(scan, told);
  if (told && servers.scanned) state_->sink.looks--;
  return servers;
}

int Engine::events_fd() const { return ring_buffer__epoll_fd(state_->ring.get()); }

Result<int> Engine::read_events(const std::function<void(const sh_event&)>& on_event) {
  auto& sink = state_->sink;
  sink.on_event = &on_event;
  int read = ring_buffer__consume(state_->ring.get());
  sink.on_event = nullptr;
  auto to_reset = std::exchange(sink.to_reset, {});
  auto unguarded = std::exchange(sink.unguarded, {});
  if (read < 0) return unexpected(read, "cannot read the event ring");
  // One that fails does not hold up the others; the first error is told.
  Result<void> done = reset_sockets(to_reset).result;
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
  int failed = 0;
  for_each_key<sh_process_key>(map, [&](const sh_process_key& key) {
    sh_process now = {};
    if (key.tgid != tgid || bpf_map_lookup_elem(map, &key, &now) != 0 || now.reason != SH_R_PROGRAM_UNVERIFIED) return;
    if (bpf_map_update_elem(map, &key, &verdict, BPF_ANY) != 0) failed = errno;
  });
  if (failed != 0) return unexpected(failed, fmt::format("cannot record the verdict on process {}", tgid));
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
