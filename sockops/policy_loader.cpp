#include "sockops/policy_loader.hpp"

#include <bpf/bpf.h>
#include <fmt/format.h>
#include <linux/membarrier.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <sockops/policy_map.hpp>
#include <thread>
#include <tuple>

namespace shunt {
namespace {

constexpr size_t kPorts = 65536;
constexpr auto kGrace = std::chrono::milliseconds(100);
constexpr int kSearchShare = 100;  // a search may cost this part of the time
constexpr uint32_t kSweepEvery = 16;
constexpr uint32_t kFirstGeneration = 1;

Result<size_t> value_bytes(int map) {
  bpf_map_info info = {};
  uint32_t bytes = sizeof(info);
  if (bpf_obj_get_info_by_fd(map, &info, &bytes) != 0) return unexpected(errno, "cannot look at the policy's head");
  return size_t{info.value_size};
}

Unexpected too_big(const std::string& what, size_t wanted, size_t room, const std::string& remedy) {
  return unexpected(Error{E2BIG, fmt::format("the policy has {} {}, and there is room for {}", wanted, what, room),
                          remedy.empty() ? "write fewer rules" : remedy});
}

size_t blocks_for(size_t cells) { return (cells + SH_POLICY_BLOCK_CELLS - 1) / SH_POLICY_BLOCK_CELLS; }

}  // namespace

// MEMBARRIER_CMD_GLOBAL waits for the readers of RCU, which programs are.
void wait_for_programs() {
  if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) != 0) std::this_thread::sleep_for(kGrace);  // nohz_full
}

Result<sh_policy_head> read_policy_head(int heads_map) {
  sh_policy_head head = {};
  uint32_t zero = 0;
  auto bytes = value_bytes(heads_map);
  if (!bytes) return unexpected(bytes.error());
  if (*bytes != sizeof(head)) return unexpected(Error{EPROTO, "the policy's head is another version's", ""});
  if (bpf_map_lookup_elem(heads_map, &zero, &head) != 0) return unexpected(errno, "cannot read the policy's head");
  return head;
}

// Sockets remember the generation that they were asked of: a number is never given twice. Without a policy nobody reads
// `by`, and it keeps the last number.
Result<void> end_policy(int heads_map) {
  auto bytes = value_bytes(heads_map);
  if (!bytes) return unexpected(bytes.error());
  if (*bytes != sizeof(sh_policy_head)) {  // another version's: of a head of zeroes there is no policy
    const std::vector<char> zeroes(*bytes);
    const uint32_t zero = 0;
    if (bpf_map_update_elem(heads_map, &zero, zeroes.data(), BPF_ANY) == 0) return {};
    return unexpected(errno, "cannot write the policy's head");
  }
  auto head = read_policy_head(heads_map);
  if (!head) return unexpected(head.error());
  if (head->generation == 0) return {};
  sh_policy_head none = {};
  none.version = SH_POLICY_VERSION;
  none.by[0] = head->generation;
  return write_row(heads_map, uint32_t{0}, none, "head");
}

PolicyLoader::PolicyLoader(Paths paths, MapFinder map, PolicyPrograms programs,
                           std::function<Result<void>(uint64_t)> watch)
    : paths_(std::move(paths)),
      map_(std::move(map)),
      programs_(programs),
      watch_(std::move(watch)),
      halves_{{map_, 0}, {map_, 1}},
      settled_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}

Result<void> PolicyLoader::check_room(const PolicyRows& rows) const {
  const auto half = [this](const char* map) { return capacity(map_(map)) / 2; };
  const std::tuple<const char*, size_t, size_t, const char*> tables[] = {
      {"subjects", rows.subjects.size(), half("sh_pol_subjects"), ""},
      {"entries", rows.entries.size(), half("sh_pol_entries"), ""},
      {"networks", rows.cidrs.size(), half("sh_pol_cidrs"), ""},
      {"sets of http rules", rows.sets.size(), half("sh_pol_sets"), ""},
      {"workloads", rows.workloads.size(), half("sh_pol_workload"), "write fewer workloads"},
      {"blocks of cells", blocks_for(rows.cells()), half("sh_pol_blocks"), "raise policy.blocks, and restart shuntd"},
      {"results", rows.results(), half("sh_pol_results"), "raise policy.results, and restart shuntd"},
  };
  for (const auto& [what, wanted, room, remedy] : tables)
    if (wanted > room) return too_big(what, wanted, room, remedy);
  return {};
}

Result<void> PolicyLoader::check_places(const std::vector<WorkloadPlace>& places) const {
  const bool any_cgroup = has_cgroups(paths_);
  for (const WorkloadPlace& place : places) {
    if (place.has_cgroup && !any_cgroup)
      return unexpected(Error{ENOENT,
                              fmt::format("{} has no cgroups: the workload {} cannot be told apart by its",
                                          paths_.cgroup_root, place.title),
                              "boot with systemd.unified_cgroup_hierarchy=1, or name it by uid or networkNamespace"});
    if (place.has_cgroup && !place.comes_back && place.cgroup == 0 && !place.path.empty() &&
        place.path.size() >= SH_POLICY_CGROUP_PATH_BYTES)
      return unexpected(
          Error{ENAMETOOLONG,
                fmt::format("the cgroup of the workload {} has a path of {} bytes", place.title, place.path.size()),
                fmt::format("at most {} are possible before it exists", SH_POLICY_CGROUP_PATH_BYTES - 1)});
  }
  return {};
}

Result<void> PolicyLoader::write_judged(const std::vector<bool>& judged, uint32_t half) {
  const int map = map_("sh_pol_judged");
  if (judged_.empty()) {
    judged_.resize(kPorts);
    for (uint32_t port = 0; port < kPorts; port++)
      if (bpf_map_lookup_elem(map, &port, &judged_[port]) != 0)
        return unexpected(errno, "cannot read the policy's ports");
  }
  const auto bit = static_cast<uint8_t>(1U << half);
  for (uint32_t port = 0; port < kPorts; port++) {
    const auto wanted = static_cast<uint8_t>((judged_[port] & ~bit) | (judged[port] ? bit : 0));
    if (wanted == judged_[port]) continue;
    if (auto done = write_row(map, port, wanted, "ports"); !done) return done;
    judged_[port] = wanted;
  }
  return {};
}

Result<void> PolicyLoader::write_workloads(const WorkloadRows& rows) const {
  for (const auto& [key, path] : rows.paths)
    if (auto done = write_row(map_("sh_pol_paths"), key, path, "workloads"); !done) return done;
  for (const auto& [key, identity] : rows.keys)
    if (auto done = write_row(map_("sh_pol_workload"), key, identity, "workloads"); !done) return done;
  for (const auto& [key, identity] : rows.remotes)
    if (auto done = write_row(map_("sh_pol_remotes"), key, identity, "workloads"); !done) return done;
  return {};
}

Result<void> PolicyLoader::write_half(const PolicyRows& rows, const WorkloadRows& workloads, uint32_t half) {
  hits_.begin(rows.counted, half);
  if (auto done = halves_[half].write(rows); !done) return done;
  if (auto done = write_judged(rows.judged, half); !done) return done;
  return write_workloads(workloads);
}

// Small, and the kernel side adds to them: they are written anew each time.
void PolicyLoader::clear_workloads(uint32_t half) {
  const auto of_half = [half](const auto& key) { return key.half == half; };
  remove_if<sh_policy_workload_key>(map_("sh_pol_workload"), of_half);
  remove_if<sh_policy_path_key>(map_("sh_pol_paths"), of_half);
  remove_if<sh_policy_remote_key>(map_("sh_pol_remotes"), of_half);
}

void PolicyLoader::clear_half(uint32_t half) {
  clear_workloads(half);
  halves_[half].clear();
}

// The head is more than the kernel copies at once. What belongs to the new half alone goes first, then its number; what
// both share is meanwhile what both can bear.
Result<void> PolicyLoader::switch_to(uint32_t generation, const PolicyRows& rows, uint32_t by,
                                     sh_policy_existing existing) const {
  const int map = map_("sh_pol_heads");
  auto head = read_policy_head(map);
  if (!head) return unexpected(head.error());
  const bool first = head->generation == 0;
  head->version = SH_POLICY_VERSION;
  head->by[generation & 1] = by;
  head->requests = (!first && head->requests) || rows.requests;
  if (first) head->existing = existing;
  if (auto done = write_row(map, uint32_t{0}, *head, "head"); !done) return done;
  head->generation = generation;
  if (auto done = write_row(map, uint32_t{0}, *head, "head"); !done) return done;
  head->requests = rows.requests;
  head->existing = existing;
  return write_row(map, uint32_t{0}, *head, "head");
}

std::vector<WorkloadPlace> PolicyLoader::find(const std::vector<PolicyRows::Workload>& workloads,
                                              const std::vector<WorkloadPlace>& before, bool search) {
  const auto begin = Clock::now();
  auto places = find_places(paths_, workloads, before, search);
  const auto end = Clock::now();
  if (search) next_search_ = end + (end - begin) * kSearchShare;
  return places;
}

// A unit that was found once is waited for where it was, also under the next policy.
std::vector<WorkloadPlace> PolicyLoader::known_places(const std::vector<PolicyRows::Workload>& workloads) const {
  std::map<std::pair<std::string, std::string>, size_t> known;
  for (size_t i = 0; i < workloads_.size() && i < report_.workloads.size(); i++)
    known.emplace(std::pair(workloads_[i].unit, workloads_[i].container_id), i);
  std::vector<WorkloadPlace> places(workloads.size());
  for (size_t i = 0; i < workloads.size(); i++) {
    const auto found = known.find({workloads[i].unit, workloads[i].container_id});
    if (found != known.end() && workloads[i].cgroup.empty()) places[i] = report_.workloads[found->second];
  }
  return places;
}

std::set<std::pair<std::string, uint64_t>> PolicyLoader::governed(const std::vector<WorkloadPlace>& places) const {
  std::set<std::pair<std::string, uint64_t>> folders;
  auto names = governed_cgroups(paths_, places);
  if (!governed_too_.empty()) names.insert(governed_too_);
  for (const std::string& folder : names) {
    auto id = cgroup_id(paths_, folder);
    if (id) folders.emplace(folder, *id);
  }
  return folders;
}

// Links that are there stay until the policy that needs them is gone.
Result<void> PolicyLoader::attach_hooks(const std::vector<WorkloadPlace>& places) {
  auto folders = governed(places);
  std::set<std::string> names;
  for (const auto& [name, id] : folders) names.insert(name);
  auto hooks = attach_policy_hooks(paths_, programs_, cgroups_, names);
  if (!hooks) return unexpected(hooks.error());
  for (const auto& [name, id] : folders)
    if (auto watched = watch_(id); !watched) return watched;
  for (const WorkloadPlace& place : places)
    if (place.cgroup != 0)
      if (auto watched = watch_(place.cgroup); !watched) return watched;
  hooks_ = std::move(*hooks);
  governed_ = std::move(folders);
  return {};
}

Result<void> PolicyLoader::put(const PolicyRows& rows, sh_policy_existing existing) {
  settle();
  if (auto room = check_room(rows); !room) return room;
  if (auto opened = hits_.is_open() ? Result<void>{} : hits_.open(map_("sh_pol_hits")); !opened) return opened;
  auto places = find(rows.workloads, known_places(rows.workloads), true);
  if (auto checked = check_places(places); !checked) return checked;
  auto head = read_policy_head(map_("sh_pol_heads"));
  if (!head) return unexpected(head.error());
  const bool none = head->generation == 0;
  uint32_t next = (none ? head->by[0] : head->generation) + 1;
  if (next == 0) next = kFirstGeneration;  // it wrapped
  const uint32_t half = next & 1;
  auto workloads = workload_rows(places, half);
  if (!workloads) return unexpected(workloads.error());
  clear_workloads(half);  // what a daemon left that died here
  Result<void> done = write_half(rows, *workloads, half);
  if (done && attached_) done = attach_hooks(places);
  if (done) done = switch_to(next, rows, workloads->by, existing);
  if (!done) {
    clear_half(half);
    if (attached_ && none) detach_policy_hooks(paths_);
    return done;
  }
  known_ = true;
  workloads_ = rows.workloads;
  written_ = std::move(*workloads);
  report_ = {next,
             rows.subjects.size(),
             rows.entries.size(),
             rows.cidrs.size(),
             rows.sets.size(),
             blocks_for(rows.cells()),
             capacity(map_("sh_pol_blocks")) / 2,
             rows.results(),
             capacity(map_("sh_pol_results")) / 2,
             std::move(places)};
  begin_settling(half);
  return {};
}

// A program that found the old generation in the head and then its entries removed would take the subject for one that
// no policy selects. Nobody who asked for the policy has to wait for that: programs that start now find the new one.
void PolicyLoader::begin_settling(uint32_t half) {
  settling_half_ = half;
  last_readers_ = std::async(std::launch::async, [fd = settled_.get()] {
    wait_for_programs();
    eventfd_write(fd, 1);
  });
}

// What is in the other half differs little from what will be written there next.
void PolicyLoader::settle() {
  if (!last_readers_.valid()) return;
  last_readers_.get();
  clear_workloads(settling_half_ ^ 1);
  hits_.carry_over(settling_half_);
  if (attached_) keep_policy_hooks(paths_, hooks_);
}

Result<void> PolicyLoader::drop() {
  settle();
  if (auto ended = end_policy(map_("sh_pol_heads")); !ended) return ended;
  if (attached_) detach_policy_hooks(paths_);
  wait_for_programs();
  for (uint32_t half : {0U, 1U}) clear_half(half);
  known_ = false;
  report_ = {};
  return {};
}

Result<void> PolicyLoader::remove_workloads(const WorkloadRows& rows, uint32_t half) {
  std::set<uint64_t> wanted;
  for (const auto& [key, identity] : rows.keys) wanted.insert(key.cgroup);
  remove_if<sh_policy_workload_key>(map_("sh_pol_workload"), [&](const sh_policy_workload_key& key) {
    if (key.half != half || rows.keys.contains(key)) return false;
    // What the kernel side has added since the look is found next time.
    return key.cgroup == 0 || wanted.contains(key.cgroup) || is_cgroup_gone(paths_, key.cgroup);
  });
  return {};
}

// Cgroups that were made while the policy changed have their identity in the old half until they are looked for.
Result<bool> PolicyLoader::refresh() {
  settle();
  const uint32_t now = generation();
  if (!known_ || now == 0) return false;
  const uint32_t half = now & 1;
  auto places = find(workloads_, report_.workloads, Clock::now() >= next_search_);
  auto rows = workload_rows(places, half);
  if (!rows) return unexpected(rows.error());
  if (attached_ && governed(places) != governed_) {
    if (auto done = attach_hooks(places); !done) return unexpected(done.error());
    keep_policy_hooks(paths_, hooks_);
  }
  const bool changed = !rows->has_keys_of(written_);
  report_.workloads = std::move(places);
  if (changed) {
    const int heads = map_("sh_pol_heads");
    auto head = read_policy_head(heads);
    if (!head) return unexpected(head.error());
    head->by[half] |= rows->by;
    if (auto done = write_row(heads, uint32_t{0}, *head, "head"); !done) return unexpected(done.error());
    if (auto done = write_workloads(*rows); !done) return unexpected(done.error());
    written_ = std::move(*rows);
  }
  if (changed || ++refreshes_ % kSweepEvery == 0)
    if (auto removed = remove_workloads(written_, half); !removed) return unexpected(removed.error());
  return changed;
}

Result<void> PolicyLoader::attach(const std::vector<std::string>& cgroups) {
  settle();
  cgroups_ = cgroups;
  attached_ = true;
  if (generation() == 0) {
    detach_policy_hooks(paths_);
    return {};
  }
  if (known_) {
    if (auto done = attach_hooks(report_.workloads); !done) return done;
  } else {
    auto renewed = renew_policy_hooks(paths_, programs_);
    if (!renewed) return unexpected(renewed.error());
    hooks_ = std::move(*renewed);
    auto added = attach_policy_hooks(paths_, programs_, cgroups_, {});
    if (!added) return unexpected(added.error());
    hooks_.connect = added->connect;
  }
  keep_policy_hooks(paths_, hooks_);
  return {};
}

Result<void> PolicyLoader::govern_also(const std::string& cgroup) {
  governed_too_ = cgroup;
  auto refreshed = refresh();
  if (!refreshed) return unexpected(refreshed.error());
  return {};
}

void PolicyLoader::detached() {
  settle();
  attached_ = false;
  known_ = false;
  governed_.clear();
  hooks_ = {};
  report_ = {};
  wait_for_programs();
  for (uint32_t half : {0U, 1U}) clear_half(half);
}

uint32_t PolicyLoader::generation() const {
  auto head = read_policy_head(map_("sh_pol_heads"));
  return head ? head->generation : 0;
}

std::vector<uint64_t> PolicyLoader::hits() {
  settle();
  const uint32_t now = generation();
  return known_ && now != 0 ? hits_.read(now & 1) : std::vector<uint64_t>{};
}

PolicyReport PolicyLoader::report() const {
  PolicyReport report = report_;
  report.generation = generation();
  return report;
}

}  // namespace shunt
