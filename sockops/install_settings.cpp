#include "sockops/install_settings.hpp"

#include <bpf/bpf.h>
#include <sys/stat.h>
#include <time.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <map>
#include <sockops/map_walk.hpp>

namespace shunt {
namespace {

// The kernel's tick, which the coarse clock's resolution tells.
uint32_t to_jiffies(std::chrono::milliseconds time) {
  timespec tick = {};
  clock_getres(CLOCK_MONOTONIC_COARSE, &tick);
  return tick.tv_nsec > 0 ? static_cast<uint32_t>(time.count() * 1'000'000 / tick.tv_nsec) : 0;
}

sh_program_key program_key(const std::string& name) {
  sh_program_key key = {};
  memcpy(key.name, name.data(), std::min(name.size(), sizeof(key.name) - 1));
  return key;
}

struct KeyLess {
  template <typename K>
  bool operator()(const K& a, const K& b) const {
    return memcmp(&a, &b, sizeof(K)) < 0;
  }
};

template <typename K, typename V>
using Wanted = std::map<K, V, KeyLess>;

// Makes a hash-like map hold exactly `wanted`: new entries first, so that no connection meets a gap.
template <typename K, typename V>
Result<void> replace_entries(int map, const Wanted<K, V>& wanted, const char* what) {
  for (const auto& [key, value] : wanted)
    if (bpf_map_update_elem(map, &key, &value, BPF_ANY) != 0)
      return unexpected(errno, std::string("cannot write ") + what);
  std::vector<K> stale;
  for_each_key<K>(map, [&](const K& key) {
    if (!wanted.contains(key)) stale.push_back(key);
  });
  for (const auto& gone : stale) bpf_map_delete_elem(map, &gone);
  return {};
}

Wanted<sh_program_key, uint32_t> wanted_programs(const Settings& settings) {
  Wanted<sh_program_key, uint32_t> wanted;
  for (const auto& entry : settings.receivers)
    wanted[program_key(entry.name)] |= SH_PROGRAM_RECEIVER | (entry.uses_fionread ? SH_PROGRAM_FIONREAD : 0) |
                                       (entry.verify ? SH_PROGRAM_VERIFY : 0) |
                                       (entry.may_block ? SH_PROGRAM_BLOCKS : 0);
  for (const auto& name : settings.selection.programs.include) wanted[program_key(name)] |= SH_PROGRAM_INCLUDED;
  for (const auto& name : settings.selection.programs.exclude) wanted[program_key(name)] |= SH_PROGRAM_EXCLUDED;
  return wanted;
}

template <typename K, typename T, typename MakeKey>
Wanted<K, uint32_t> wanted_selectors(const InOut<T>& selector, MakeKey make_key) {
  Wanted<K, uint32_t> wanted;
  for (const auto& entry : selector.include) wanted[make_key(entry)] = SH_SELECT_IN;
  for (const auto& entry : selector.exclude) wanted[make_key(entry)] = SH_SELECT_OUT;
  return wanted;
}

Result<void> install_ports(int map, const InOut<PortRange>& ports) {
  std::vector<uint8_t> wanted(65536, 0);
  for (const auto& range : ports.include)
    for (uint32_t port = range.first; port <= range.last; port++) wanted[port] = SH_SELECT_IN;
  for (const auto& range : ports.exclude)
    for (uint32_t port = range.first; port <= range.last; port++) wanted[port] = SH_SELECT_OUT;
  // Read in one call: what differs is little. What was not read is written.
  constexpr uint8_t kNotRead = 0xff;
  std::vector<uint8_t> now(wanted.size(), kNotRead);
  std::vector<uint32_t> keys(wanted.size());
  uint32_t batch = 0, count = static_cast<uint32_t>(wanted.size());
  (void)bpf_map_lookup_batch(map, nullptr, &batch, keys.data(), now.data(), &count, nullptr);
  for (uint32_t port = 0; port < wanted.size(); port++) {
    if (now[port] == wanted[port]) continue;
    if (bpf_map_update_elem(map, &port, &wanted[port], BPF_ANY) != 0)
      return unexpected(errno, "cannot write the selected ports");
  }
  return {};
}

Result<void> check_limits(const Settings& settings) {
  const auto& s = settings.selection;
  size_t most =
      std::max({s.cidrs.include.size() + s.cidrs.exclude.size(), s.cgroups.include.size() + s.cgroups.exclude.size(),
                s.users.include.size() + s.users.exclude.size(),
                s.programs.include.size() + s.programs.exclude.size() + settings.receivers.size()});
  if (most > SH_SELECT_MAX)
    return unexpected(Error{E2BIG,
                            "a selection list has " + std::to_string(most) + " entries, at most " +
                                std::to_string(SH_SELECT_MAX) + " are possible",
                            "use wider entries"});
  if (settings.profile_sample == 0 || (settings.profile_sample & (settings.profile_sample - 1)) != 0)
    return unexpected(Error{EINVAL, "the profile's sample must be a power of two", "for example 64"});
  return {};
}

sh_config make_config(const ProbeReport& probe, const Settings& settings) {
  const auto& s = settings.selection;
  sh_config config = {};
  config.verdict = probe.verdict_works;
  config.firewall_jiffies = to_jiffies(settings.firewall_interval);
  config.spill_bytes = settings.spill_bytes;
  config.spill_msgs = settings.spill_messages;
  config.fionread_ok = probe.fionread_redirected && (probe.verdict_works ? probe.fionread_verdict : probe.fionread_tcp);
  config.rmem_charged = probe.rmem_charged;
  config.refuse_options = 1;
  config.profile_on = settings.profile;
  config.sample_mask = settings.profile_sample - 1;
  config.one_shot_turns = settings.one_shot_turns;
  config.one_way_msgs = settings.one_way_messages;
  config.bulk_bytes = settings.bulk_bytes;
  config.ports_out = static_cast<uint32_t>(s.ports.exclude.size());
  config.ports_in = static_cast<uint32_t>(s.ports.include.size());
  config.cidrs_out = static_cast<uint32_t>(s.cidrs.exclude.size());
  config.cidrs_in = static_cast<uint32_t>(s.cidrs.include.size());
  config.cgroups_out = static_cast<uint32_t>(s.cgroups.exclude.size());
  config.users_out = static_cast<uint32_t>(s.users.exclude.size());
  config.users_in = static_cast<uint32_t>(s.users.include.size());
  config.programs_in = static_cast<uint32_t>(s.programs.include.size());
  config.memory_check = 1;
  config.any_program = settings.any_program;
  config.tell_responses = settings.tell_responses;
  return config;
}

// Included cgroups are where the programs are attached; only excluded ones are looked up.
Result<Wanted<uint64_t, uint32_t>> wanted_cgroups(const Paths& paths, const InOut<std::string>& cgroups) {
  Wanted<uint64_t, uint32_t> wanted;
  for (const auto& path : cgroups.include)
    if (auto id = cgroup_id(paths, path); !id) return unexpected(id.error());
  for (const auto& path : cgroups.exclude) {
    auto id = cgroup_id(paths, path);
    if (!id) return unexpected(id.error());
    wanted[*id] = SH_SELECT_OUT;
  }
  return wanted;
}

// The value as it lies in the map, whose layout may be another generation's.
Result<std::vector<char>> raw_config(int config_map) {
  bpf_map_info info = {};
  uint32_t bytes = sizeof(info), zero = 0;
  if (bpf_obj_get_info_by_fd(config_map, &info, &bytes) != 0)
    return unexpected(errno, "cannot look at the kernel side's settings");
  std::vector<char> raw(info.value_size);
  if (bpf_map_lookup_elem(config_map, &zero, raw.data()) != 0)
    return unexpected(errno, "cannot read the kernel side's settings");
  return raw;
}

// Writes the head of the value and leaves what lies behind it.
Result<void> write_config(int config_map, const void* head, size_t head_bytes) {
  auto raw = raw_config(config_map);
  if (!raw) return unexpected(raw.error());
  memcpy(raw->data(), head, std::min(head_bytes, raw->size()));
  uint32_t zero = 0;
  if (bpf_map_update_elem(config_map, &zero, raw->data(), BPF_ANY) != 0)
    return unexpected(errno, "cannot write the kernel side's settings");
  return {};
}

}  // namespace

Result<uint64_t> cgroup_id(const Paths& paths, const std::string& path) {
  struct stat info = {};
  std::string full = paths.cgroup_root + (path.starts_with('/') ? "" : "/") + path;
  if (stat(full.c_str(), &info) != 0 || !S_ISDIR(info.st_mode))
    return unexpected(ENOENT, "no cgroup " + full, "name a folder below the cgroup v2 mount, as in /proc/PID/cgroup");
  return static_cast<uint64_t>(info.st_ino);
}

Result<sh_config> read_config(int config_map) {
  auto raw = raw_config(config_map);
  if (!raw) return unexpected(raw.error());
  sh_config config = {};
  memcpy(&config, raw->data(), std::min(raw->size(), sizeof(config)));
  return config;
}

Result<void> write_mode(int config_map, sh_mode mode) {
  static_assert(offsetof(sh_config, mode) == 0);
  uint32_t value = mode;
  return write_config(config_map, &value, sizeof(value));
}

Result<void> write_events_wanted(int config_map, bool wanted) {
  auto config = read_config(config_map);
  if (!config) return unexpected(config.error());
  config->events = wanted;
  return write_config(config_map, &*config, sizeof(*config));
}

Result<void> write_strict_services(int config_map, bool any) {
  auto config = read_config(config_map);
  if (!config) return unexpected(config.error());
  config->strict_services = any;
  return write_config(config_map, &*config, sizeof(*config));
}

Result<void> install_settings(const Paths& paths, const ProbeReport& probe, const Settings& settings,
                              const Settings* before, const MapFinder& map) {
  if (auto checked = check_limits(settings); !checked) return checked;
  auto cgroups = wanted_cgroups(paths, settings.selection.cgroups);
  if (!cgroups) return unexpected(cgroups.error());
  auto in_force = read_config(map("sh_configs"));
  if (!in_force) return unexpected(in_force.error());

  auto users = wanted_selectors<uint32_t>(settings.selection.users, [](uint32_t uid) { return uid; });
  auto cidrs = wanted_selectors<sh_cidr_key>(settings.selection.cidrs, [](const Cidr& cidr) {
    sh_cidr_key key = {};
    key.prefix_bits = cidr.prefix_bits;
    memcpy(key.addr, cidr.addr, sizeof(key.addr));
    return key;
  });
  if (auto done = replace_entries(map("sh_programs"), wanted_programs(settings), "the programs"); !done) return done;
  if (auto done = replace_entries(map("sh_users"), users, "the selected users"); !done) return done;
  if (auto done = replace_entries(map("sh_cidrs"), cidrs, "the selected addresses"); !done) return done;
  if (auto done = replace_entries(map("sh_cgroups"), *cgroups, "the selected cgroups"); !done) return done;
  // Reading 65,536 ports takes 15 ms, which each reload would take.
  if (before == nullptr || !(before->selection.ports == settings.selection.ports))
    if (auto done = install_ports(map("sh_ports"), settings.selection.ports); !done) return done;

  sh_config config = make_config(probe, settings);
  config.mode = in_force->mode;
  config.events = in_force->events;
  config.strict_services = in_force->strict_services;
  return write_config(map("sh_configs"), &config, sizeof(config));
}

}  // namespace shunt
