// Reading what the kernel side knows, from the pins alone.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>

#include <base/address.hpp>
#include <cstring>
#include <fstream>
#include <set>
#include <sockops/engine.hpp>
#include <sockops/install_settings.hpp>
#include <sockops/namespaces.hpp>
#include <sockops/owners.hpp>
#include <sockops/pins.hpp>
#include <sockops/policy_loader.hpp>
#include <sockops/read.hpp>
#include <unordered_map>
#include <unordered_set>

namespace shunt {
namespace {

size_t map_value_bytes(int map) {
  bpf_map_info info = {};
  uint32_t bytes = sizeof(info);
  return bpf_obj_get_info_by_fd(map, &info, &bytes) == 0 ? info.value_size : 0;
}

// An older or newer generation may keep more or less for each socket: what both know is at the head. A socket that is
// seen twice, because the kernel's table changed under the iterator, is listed once.
Result<std::vector<Row>> list_generation(const Paths& paths, const Generation& generation,
                                         const std::vector<UniqueFd>& namespaces, CgroupNames& names) {
  auto program = open_pin(generation.dir + "/prog_iter_list");
  if (!program && program.error().code == ENOENT)
    return std::vector<Row>{};  // a daemon died while making this generation
  if (!program) return unexpected(program.error());
  auto map = open_map(paths, generation, "sh_sockets");
  if (!map) return unexpected(map.error());
  auto raw = run_iterator_in(namespaces, program->get());
  if (!raw) return unexpected(raw.error());
  auto sock_bytes = map_value_bytes(map->get());
  size_t stride = sock_bytes + sizeof(sh_row_tail);
  std::vector<Row> rows;
  std::unordered_set<uint64_t> seen;
  for (size_t at = 0; at + stride <= raw->size(); at += stride) {
    Row row;
    memcpy(&row.raw.sock, raw->data() + at, std::min(sock_bytes, sizeof(sh_sock)));
    memcpy(&row.raw.tail, raw->data() + at + sock_bytes, sizeof(sh_row_tail));
    uint64_t cookie = row.raw.sock.shared.cookie;
    if (cookie && !seen.insert(cookie).second) continue;
    row.unit = names.name(row.raw.sock.cgroup);
    row.generation = generation.number;
    rows.push_back(std::move(row));
  }
  return rows;
}

// The kernel's own figure: "memlock" of a map's or program's fdinfo, in bytes.
uint64_t memlock_bytes(int fd) {
  std::ifstream info(fmt::format("/proc/self/fdinfo/{}", fd));
  for (std::string key; info >> key;)
    if (key == "memlock:") {
      uint64_t bytes = 0;
      info >> bytes;
      return bytes;
    }
  return 0;
}

uint64_t pinned_memory_bytes(const Paths& paths) {
  uint64_t bytes = 0;
  for (const auto& dir : list_dir(paths.pin_dir))
    for (const auto& name : list_dir(paths.pin_dir + "/" + dir))
      if (auto fd = open_pin(paths.pin_dir + "/" + dir + "/" + name)) bytes += memlock_bytes(fd->get());
  return bytes;
}

// Attachments, from the names of their pins: "ops-<cgroup id>", "opt-<cgroup id>".
std::vector<std::string> attach_points(const Paths& paths, CgroupNames& names) {
  std::vector<std::string> points;
  for (const auto& name : list_dir(links_dir(paths))) {
    if (!name.starts_with("ops-")) continue;
    std::string cgroup = names.name(strtoull(name.c_str() + 4, nullptr, 10));
    points.push_back(cgroup.empty() ? "(a removed cgroup)" : cgroup);
  }
  return points;
}

bool matches(const WhyQuery& query, const sh_owner& owner) {
  if (query.tgid) return owner.tgid == query.tgid;
  std::string local = format_endpoint(owner.local_addr, owner.local_port),
              remote = format_endpoint(owner.remote_addr, owner.remote_port);
  if (query.addr.starts_with(':'))
    return query.addr == fmt::format(":{}", owner.local_port) || query.addr == fmt::format(":{}", owner.remote_port);
  return query.addr == local || query.addr == remote;
}

std::string remedy_for(uint32_t reason, const sh_owner& owner) {
  std::string text = reason_text(reason);
  if (reason == SH_R_PROGRAM_UNKNOWN)
    return fmt::format(
        "{}: add \"{}\" to receivers in /etc/shunt/shunt.yaml if it reads its sockets with plain recv or read", text,
        owner.program);
  if (reason == SH_R_ONE_SHOT || reason == SH_R_ONE_WAY || reason == SH_R_BULK)
    return text + ": plain TCP is faster here; one connection in a sample is still tried";
  if (reason == SH_R_NO_PEER) return text + ": look at the other end with shunt why";
  return text;
}

WhyRow explain(const sh_owner& owner, const Row* row, int skipped_map) {
  WhyRow why;
  why.local = format_endpoint(owner.local_addr, owner.local_port);
  why.remote = format_endpoint(owner.remote_addr, owner.remote_port);
  why.program = owner.program;
  why.tgid = owner.tgid;
  if (row) {
    why.enrolled = row->raw.tail.in_map;
    why.state = row->raw.sock.state;
    why.reason = row->raw.sock.reason;
  } else {
    sh_skipped skipped = {};
    uint32_t slot = owner.cookie & (SH_SKIPPED_MAX - 1);
    bool found =
        bpf_map_lookup_elem(skipped_map, &slot, &skipped) == 0 && owner.cookie && skipped.cookie == owner.cookie;
    bool forgotten = !found && owner.cookie && skipped.cookie;  // the kernel side gave it a cookie when it judged it
    why.reason = found ? skipped.reason : forgotten ? uint32_t{SH_R_FORGOTTEN} : uint32_t{SH_R_OLDER};
    uint32_t inspected = found ? uint32_t{SH_R_NONE} : inspect_process(owner.tgid);
    if (inspected) why.reason = inspected;
  }
  why.detail = why.reason ? remedy_for(why.reason, owner) : "accelerated: its messages go from socket to socket";
  return why;
}

}  // namespace

Result<std::vector<Row>> list_in(const Paths& paths, const std::vector<UniqueFd>& namespaces) {
  CgroupNames names(paths.cgroup_root);
  std::vector<Row> all;
  for (const auto& generation : generations(paths)) {
    auto rows = list_generation(paths, generation, namespaces, names);
    if (!rows) return rows;
    all.insert(all.end(), std::make_move_iterator(rows->begin()), std::make_move_iterator(rows->end()));
  }
  return all;
}

Result<std::vector<Row>> pinned_list(const Paths& wanted) {
  auto paths = resolve_paths(wanted, false);
  if (!paths) return unexpected(paths.error());
  return list_in(*paths, namespaces_with_sockets(*paths));
}

Result<Counters> pinned_counters(const Paths& wanted) {
  auto paths = resolve_paths(wanted, false);
  if (!paths) return unexpected(paths.error());
  Counters sum;
  std::vector<sh_counts> per_cpu(static_cast<size_t>(std::max(1, libbpf_num_possible_cpus())));
  for (const auto& generation : generations(*paths)) {
    auto map = open_map(*paths, generation, "sh_counts");
    if (!map && map.error().code == ENOENT) continue;
    if (!map) return unexpected(map.error());
    uint32_t zero = 0;
    if (bpf_map_lookup_elem(map->get(), &zero, per_cpu.data()) != 0)
      return unexpected(errno, "cannot read the counters");
    for (const auto& counts : per_cpu) {
      for (int i = 0; i < SH_COUNTER_COUNT; i++) sum.counters[i] += counts.counters[i];
      for (int i = 0; i < SH_REASON_COUNT; i++) sum.reasons[i] += counts.reasons[i];
    }
  }
  return sum;
}

Result<Status> pinned_status(const Paths& wanted) {
  auto paths = resolve_paths(wanted, false);
  if (!paths) return unexpected(paths.error());
  Status status;
  CgroupNames names(paths->cgroup_root);
  for (const auto& generation : generations(*paths)) {
    auto map = open_map(*paths, generation, "sh_configs");
    if (!map && map.error().code == ENOENT) continue;
    if (!map) return unexpected(map.error());
    auto config = read_config(map->get());
    if (!config) return unexpected(config.error());
    status.mode = config->mode;
    status.verdict = config->verdict;
    status.generation = generation.number;
    status.generations.push_back(generation.number);
    auto heads = open_map(*paths, generation, "sh_pol_heads");
    auto head = heads ? read_policy_head(heads->get()) : Result<sh_policy_head>(unexpected(heads.error()));
    status.policy_generation = head ? head->generation : 0;
  }
  status.attach_points = attach_points(*paths, names);
  status.attached = !status.attach_points.empty();
  status.memory_bytes = pinned_memory_bytes(*paths);
  auto rows = pinned_list(*paths);
  if (!rows) return unexpected(rows.error());
  for (const auto& row : *rows) {
    if (!row.raw.tail.in_map) continue;
    status.sockets++;
    if (row.raw.sock.peer_cookie && (row.raw.sock.flags & SH_SOCK_ACTIVE)) status.pairs++;
  }
  return status;
}

Result<std::vector<WhyRow>> pinned_why(const Paths& wanted, const WhyQuery& query) {
  auto paths = resolve_paths(wanted, false);
  if (!paths) return unexpected(paths.error());
  auto newest = newest_whole_generation(*paths);
  if (!newest) return unexpected(Error{ENOENT, "nothing of shunt is in force", "start shuntd"});
  auto owners = socket_owners(*newest);
  if (!owners) return unexpected(owners.error());
  auto rows = list_in(*paths, network_namespaces(*owners));
  if (!rows) return unexpected(rows.error());
  auto skipped = open_map(*paths, *newest, "sh_skipped");
  if (!skipped) return unexpected(skipped.error());
  std::unordered_map<uint64_t, const Row*> by_cookie;
  for (const auto& row : *rows) by_cookie[row.raw.sock.shared.cookie] = &row;
  std::vector<WhyRow> answers;
  std::set<std::pair<uint64_t, uint32_t>> seen;  // a socket may be held by several descriptors
  for (const auto& owner : *owners) {
    if (owner.tcp_state == kTcpListen || !matches(query, owner)) continue;
    if (owner.cookie && !seen.emplace(owner.cookie, owner.tgid).second) continue;
    auto row = by_cookie.find(owner.cookie);
    answers.push_back(explain(owner, owner.cookie && row != by_cookie.end() ? row->second : nullptr, skipped->get()));
  }
  return answers;
}

}  // namespace shunt
