// Taking live sockets out of the map, and removing what is pinned.
#include <bpf/abi/punt.h>
#include <bpf/bpf.h>
#include <fmt/format.h>

#include <sockops/engine.hpp>
#include <sockops/guards.hpp>
#include <sockops/install_settings.hpp>
#include <sockops/map_walk.hpp>
#include <sockops/namespaces.hpp>
#include <sockops/owners.hpp>
#include <sockops/pins.hpp>
#include <sockops/policy_hooks.hpp>
#include <sockops/policy_loader.hpp>
#include <sockops/read.hpp>
#include <thread>
#include <unordered_set>

namespace shunt {
namespace {

constexpr auto kDrainStep = std::chrono::milliseconds(10);  // a busy socket is quiet between two calls, not for long
constexpr int kProgressEvery = 10;

using Clock = std::chrono::steady_clock;

// Runs the iterator that takes quiet sockets out, in each namespace; it sees only those of the namespace it is opened
// in.
Result<uint32_t> leave_once(const Generation& generation, const std::vector<UniqueFd>& namespaces) {
  auto program = open_pin(generation.dir + "/prog_iter_leave");
  if (!program) return program.error().code == ENOENT ? Result<uint32_t>(0) : unexpected(program.error());
  auto cookies = run_iterator_in(namespaces, program->get());
  if (!cookies) return unexpected(cookies.error());
  return static_cast<uint32_t>(cookies->size() / sizeof(uint64_t));
}

Result<void> set_modes(const Paths& paths, sh_mode mode) {
  for (const auto& generation : generations(paths)) {
    auto config = open_map(paths, generation, "sh_configs");
    if (!config && config.error().code == ENOENT) continue;  // a daemon died while making this generation
    if (!config) return unexpected(config.error());
    if (auto written = write_mode(config->get(), mode); !written) return written;
  }
  return {};
}

Result<std::vector<Row>> rows_in_map(const Paths& paths, const std::vector<UniqueFd>& namespaces) {
  std::vector<Row> in_map;
  auto rows = list_in(paths, namespaces);
  if (!rows) return rows;
  for (auto& row : *rows)
    if (row.raw.tail.in_map) in_map.push_back(std::move(row));
  return in_map;
}

// Adds the sockets that the proxy was given; they go with it.
Result<void> add_channels(const Paths& paths, const Generation& generation, std::unordered_set<uint64_t>& cookies) {
  auto channels = open_map(paths, generation, "sh_channels");
  if (!channels && channels.error().code == ENOENT) return {};
  if (!channels) return unexpected(channels.error());
  for (uint32_t index = 0; index < SH_CHANNELS_MAX; index++) {
    sh_channel channel{};
    if (bpf_map_lookup_elem(channels->get(), &index, &channel) == 0 && channel.cookie) cookies.insert(channel.cookie);
  }
  return {};
}

// No iterator over TCP's sockets shows one that both ends have closed, though its program may have bytes to read and it
// is in the map.
Result<uint32_t> closed_in_map(const Paths& paths, const std::vector<Row>& live) {
  std::unordered_set<uint64_t> known;
  for (const Row& row : live) known.insert(row.raw.sock.shared.cookie);
  const auto pinned = generations(paths);
  for (const Generation& generation : pinned)
    if (auto added = add_channels(paths, generation, known); !added) return unexpected(added.error());
  if (pinned.empty()) return 0;
  auto sockets = open_map(paths, pinned.back(), "sh_socks");  // that of all generations
  if (!sockets && sockets.error().code == ENOENT) return 0;
  if (!sockets) return unexpected(sockets.error());
  uint32_t closed = 0;
  for_each_key<uint64_t>(sockets->get(), [&](uint64_t cookie) { closed += known.insert(cookie).second; });
  return closed;
}

// Sockets that stay in the map for a while are no longer enrolled anew: judged requests could not be seen. So a policy
// ends first.
Result<void> end_policies(const Paths& paths) {
  for (const auto& generation : generations(paths)) {
    auto heads = open_map(paths, generation, "sh_pol_heads");
    if (!heads && heads.error().code == ENOENT) continue;
    if (!heads) return unexpected(heads.error());
    if (auto ended = end_policy(heads->get()); !ended) return ended;
  }
  detach_policy_hooks(paths);
  return {};
}

// Detaching ends the attachment at once, also where somebody else holds the link open.
void detach_all_links(const Paths& paths) {
  std::string dir = links_dir(paths);
  for (const auto& name : list_dir(dir)) {
    if (auto link = open_pin(dir + "/" + name)) bpf_link_detach(link->get());
    unlink((dir + "/" + name).c_str());
  }
}

}  // namespace

Result<DrainReport> drain_pinned(const Paths& wanted, std::chrono::milliseconds deadline, bool keep_pins,
                                 const DrainProgress& progress) {
  auto paths = resolve_paths(wanted, false);
  if (!paths) return unexpected(paths.error());
  if (auto ended = end_policies(*paths); !ended) return unexpected(ended.error());
  if (auto stopped = set_modes(*paths, SH_MODE_DRAIN); !stopped) return unexpected(stopped.error());
  DrainReport report;
  auto end = Clock::now() + deadline;
  for (int round = 0;; round++) {
    auto namespaces = namespaces_with_sockets(*paths);
    for (const auto& generation : generations(*paths)) {
      auto left = leave_once(generation, namespaces);
      if (!left) return unexpected(left.error());
      report.left += *left;
    }
    auto kept = rows_in_map(*paths, namespaces);
    if (!kept) return unexpected(kept.error());
    report.kept = std::move(*kept);
    if (progress && round % kProgressEvery == 0) progress(static_cast<uint32_t>(report.kept.size()));
    if (report.kept.empty() || Clock::now() >= end) break;
    std::this_thread::sleep_for(kDrainStep);
  }
  auto closed = closed_in_map(*paths, report.kept);
  if (!closed) return unexpected(closed.error());
  report.closed = *closed;
  detach_all_links(*paths);
  for (const auto& generation : generations(*paths)) detach_guards(generation);
  if (auto off = set_modes(*paths, SH_MODE_OFF); !off) return unexpected(off.error());
  if (keep_pins) return report;
  for (const auto& generation : generations(*paths)) remove_dir(generation.dir);
  for (const auto& name : list_dir(paths->pin_dir)) remove_dir(paths->pin_dir + "/" + name);
  rmdir(paths->pin_dir.c_str());
  return report;
}

}  // namespace shunt
