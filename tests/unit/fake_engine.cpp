// An engine without a kernel, put behind control/ by the linker: it remembers what it was told and answers from
// FakeKernel.
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdlib>
#include <sockops/probe.hpp>
#include <tests/unit/fake_engine.hpp>
#include <thread>

namespace shunt {

FakeKernel& fake_kernel() {
  static FakeKernel kernel;
  return kernel;
}

namespace {

int event_signal() {
  static const UniqueFd signal(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  return signal.get();
}

}  // namespace

void fake_engine_has_events() {
  const uint64_t one = 1;
  if (::write(event_signal(), &one, sizeof(one)) < 0) abort();
}

struct Engine::State {
  UniqueFd settled{eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
};

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}
Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::open(const Paths&, const ProbeReport&, const Settings& settings) {
  FakeKernel& kernel = fake_kernel();
  if (kernel.open_error) return unexpected(*kernel.open_error);
  const std::lock_guard guard(kernel.lock);
  kernel.applied.push_back(settings);
  return std::unique_ptr<Engine>(new Engine(std::make_unique<State>()));
}

Result<void> Engine::apply(const Settings& settings) {
  FakeKernel& kernel = fake_kernel();
  if (kernel.apply_error) return unexpected(*kernel.apply_error);
  const std::lock_guard guard(kernel.lock);
  kernel.applied.push_back(settings);
  return {};
}

Result<void> Engine::attach() {
  fake_kernel().status.attached = true;
  fake_kernel().status.mode = SH_MODE_ON;
  return {};
}

Result<DrainReport> Engine::detach(std::chrono::milliseconds deadline, const DrainProgress& progress) {
  return drain_pinned({}, deadline, true, progress);
}

Result<void> Engine::set_policy(const PolicyRows* rows, sh_policy_existing) {
  FakeKernel& kernel = fake_kernel();
  if (kernel.policy_error) return unexpected(*kernel.policy_error);
  kernel.policies_put += rows != nullptr;
  const uint32_t generation = kernel.policy.generation + 1;
  kernel.policy = {};
  if (rows == nullptr) return {};
  kernel.policy.generation = generation;
  kernel.policy_rows = *rows;
  kernel.policy.entries = rows->entries.size();
  for (const PolicyRows::Workload& workload : rows->workloads) {
    WorkloadPlace place;
    place.title = workload.title;
    place.identity = workload.identity;
    kernel.policy.workloads.push_back(place);
  }
  return {};
}
Result<PuntChannels> Engine::make_channels(uint32_t count) {
  PuntChannels made;
  made.page.reset(dup(event_signal()));
  for (uint32_t i = 0; i < count; i++)
    made.channels.push_back({i, UniqueFd(dup(event_signal())), UniqueFd(dup(event_signal()))});
  fake_kernel().channels_made += count;
  return made;
}
Result<void> Engine::end_channels() {
  fake_kernel().channels_ended++;
  return {};
}
Result<UniqueFd> Engine::admit_proxy(uint32_t, bool) { return UniqueFd(dup(event_signal())); }
void Engine::end_steering() { fake_kernel().steering_ended++; }
SteeredServers Engine::steered_servers(bool scan) {
  SteeredServers found;
  found.scanned = scan;
  for (const auto& [slot, identity, fresh] : fake_kernel().steered) {
    SteeredServer& server = found.servers.emplace_back();
    server.slot = slot;
    server.port = 80;
    server.identity = identity;
    if (fresh) server.socket.reset(dup(event_signal()));
  }
  return found;
}
bool Engine::owns_channels(int) const { return fake_kernel().owns_channels; }

Result<GatewayMaps> Engine::admit_gateway(uint32_t uid, const std::string& cgroup, uint32_t) {
  FakeKernel& kernel = fake_kernel();
  kernel.gateways.push_back(std::to_string(uid) + " " + cgroup);
  GatewayMaps maps;
  maps.remotes.reset(dup(event_signal()));
  maps.dialled.reset(dup(event_signal()));
  return maps;
}
Result<void> Engine::dismiss_gateway() {
  fake_kernel().gateways.push_back("none");
  return {};
}
Result<void> Engine::set_local_services(std::vector<HostService> services) {
  fake_kernel().services = std::move(services);
  return {};
}
StrictReport Engine::keep_strict() {
  StrictReport report;
  for (const HostService& service : fake_kernel().services) report.strict += service.strict;
  return report;
}
Result<void> Engine::set_outbound(Outbound outbound) {
  fake_kernel().outbound = std::move(outbound);
  return {};
}

Result<bool> Engine::refresh_policy() { return false; }
int Engine::policy_settled_fd() const { return state_->settled.get(); }
Result<std::vector<sh_live>> Engine::live_connections() const {
  const std::lock_guard guard(fake_kernel().lock);
  return fake_kernel().live;
}
Result<size_t> Engine::end_connections(std::vector<sh_event> connections) const {
  const std::lock_guard guard(fake_kernel().lock);
  for (const sh_event& event : connections) fake_kernel().ended.push_back(event);
  return connections.size();
}
PolicyReport Engine::policy() const { return fake_kernel().policy; }
std::vector<uint64_t> Engine::policy_hits() const { return fake_kernel().hits; }
Result<std::vector<ResponseRow>> Engine::responses() const { return std::vector<ResponseRow>{}; }
void Engine::forget_responses(uint32_t) const {}
std::unique_ptr<PolicyTables> Engine::policy_tables() const { return fake_kernel().tables(); }

Result<PolicyEnd> Engine::end_of_process(uint32_t) const { return end_of_cgroup(""); }
Result<PolicyEnd> Engine::end_of_cgroup(const std::string&) const {
  const FakeKernel& kernel = fake_kernel();
  return kernel.no_end ? Result<PolicyEnd>(unexpected(*kernel.no_end)) : kernel.end;
}
Result<PolicyPair> Engine::find_pair(const std::string& local, const std::string& remote) const {
  PolicyPair pair{fake_kernel().end, fake_kernel().end};
  pair.client.local = local;
  pair.server.local = remote;
  pair.server.port = 80;
  return pair;
}

Result<Status> Engine::status() const { return pinned_status({}); }
Result<std::vector<Row>> Engine::list() const { return pinned_list({}); }
Result<Counters> Engine::counters() const { return pinned_counters({}); }
Result<std::vector<ProfileRow>> Engine::profiles() const { return fake_kernel().profiles; }

int Engine::events_fd() const { return event_signal(); }

Result<int> Engine::read_events(const std::function<void(const sh_event&)>& on_event) {
  uint64_t count = 0;
  if (::read(event_signal(), &count, sizeof(count)) < 0) return 0;
  for (const sh_event& event : fake_kernel().events) on_event(event);
  return static_cast<int>(std::exchange(fake_kernel().events, {}).size());
}

void Engine::want_events(bool wanted) { fake_kernel().events_wanted = wanted; }

Result<void> Engine::verify_process(uint32_t tgid) {
  fake_kernel().verified.push_back(tgid);
  return {};
}

Result<void> Engine::scan_sockets() { return {}; }

Result<Status> pinned_status(const Paths&) {
  const std::lock_guard guard(fake_kernel().lock);
  return fake_kernel().status;
}
Result<std::vector<Row>> pinned_list(const Paths&) { return fake_kernel().rows; }
Result<Counters> pinned_counters(const Paths&) { return fake_kernel().counters; }
Result<std::vector<WhyRow>> pinned_why(const Paths&, const WhyQuery&) { return fake_kernel().why; }

Result<DrainReport> drain_pinned(const Paths&, std::chrono::milliseconds, bool, const DrainProgress& progress) {
  FakeKernel& kernel = fake_kernel();
  for (uint32_t remaining = 3; remaining > 0; remaining--) {
    progress(remaining);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  const std::lock_guard guard(kernel.lock);
  kernel.status.attached = false;
  kernel.status.mode = SH_MODE_OFF;
  kernel.policy = {};
  return kernel.drained;
}

ProbeReport probe_kernel(const std::string&) { return fake_kernel().probe; }
const char* probe_verdict_name(ProbeVerdict verdict) { return verdict == ProbeVerdict::fatal ? "fatal" : "ok"; }

}  // namespace shunt
