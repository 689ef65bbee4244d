#include <algorithm>
#include <policy/rows.hpp>
#include <set>

namespace shunt::policy {
namespace {

constexpr uint32_t kAddressBegins = 32;  // the bits of a key before the address
constexpr uint8_t kV4MappedBits = 96;

// Blocks lie one after the other without gaps, and so do their cells.
std::span<const sh_u16> cells_of(const Automaton& automaton) {
  static_assert(sizeof(struct sh_policy_block) == SH_POLICY_BLOCK_CELLS * sizeof(sh_u16));
  return {reinterpret_cast<const sh_u16*>(automaton.blocks.data()), automaton.set.cells};
}

void add_entries(const SubjectTable& table, std::set<uint32_t>& sets, PolicyRows& rows) {
  for (const auto& [where, entry] : table.entries) {
    const sh_policy_entry& value = entry.entry;
    if (value.verdict == SH_POLICY_RULES) {
      const Automaton& automaton = *entry.automaton;
      if (sets.insert(value.set).second)
        rows.sets.push_back({value.set, entry.automaton, &automaton.set, cells_of(automaton), automaton.results});
      rows.requests = true;
      rows.counted.push_back({value.origin, entry.counters});
    }
    rows.entries.push_back({{table.number, where.first, where.second, 0}, value});
  }
}

void add_cidr(const Cidr& cidr, uint32_t identity, PolicyRows& rows) {
  sh_policy_cidr_key key = {};
  key.prefix_bits = kAddressBegins + cidr.prefix_bits;
  std::copy(std::begin(cidr.addr), std::end(cidr.addr), key.addr);
  rows.cidrs.emplace_back(key, identity);
}

// To a trie of 128-bit addresses IPv4 lies within ::/0, ::ffff:0:0/90 and the like. To rules it does not: unless they
// name all of IPv4 themselves, it is stopped at its own prefix.
void add_cidrs(const Tables& tables, PolicyRows& rows) {
  Cidr all_v4;
  std::copy(std::begin(kV4MappedPrefix), std::end(kV4MappedPrefix), all_v4.addr);
  all_v4.prefix_bits = kV4MappedBits;
  bool named = false;
  for (const auto& [cidr, identity] : tables.cidrs) {
    add_cidr(cidr, identity, rows);
    named |= is_v4(cidr) && cidr.prefix_bits == kV4MappedBits;
  }
  if (!named) add_cidr(all_v4, SH_IDENTITY_WORLD, rows);
}

// Policies mean the port where the workload listens; a client may connect to that of a service in front of it.
void find_judged(const Model& model, const Tables& tables, PolicyRows& rows) {
  std::vector<bool> intervals(65'536, false);
  bool any = false;
  for (const auto& [key, entry] : rows.entries) {
    if (entry.verdict != SH_POLICY_RULES) continue;
    intervals[key.port] = true;
    any |= key.port == 0;
  }
  rows.judged.assign(65'536, any);
  for (size_t port = 1; port < rows.judged.size(); port++) {
    if (intervals[tables.first_port[port]]) rows.judged[port] = true;
  }
  const std::vector<bool> targets = rows.judged;
  for (const Service& service : model.services) {
    for (const ServicePort& port : service.ports) {
      if (targets[port.target_port]) rows.judged[port.port] = true;
    }
  }
}

sh_remote remote_of(const Workload& workload) {
  sh_remote remote = {};
  if (!workload.spiffe) return remote;
  const auto digest = workload.spiffe->digest();
  std::copy(digest.begin(), digest.end(), remote.digest);
  return remote;
}

}  // namespace

PolicyRows rows_of(const Model& model, const Tables& tables) {
  PolicyRows rows;
  std::set<uint32_t> sets;
  for (const auto& [subject, table] : tables.subjects) {
    rows.subjects.push_back({{subject.first, static_cast<sh_u8>(subject.second), 0, 0}, {table->number, 0}});
    add_entries(*table, sets, rows);
  }
  add_cidrs(tables, rows);
  rows.first_port = tables.first_port;
  find_judged(model, tables, rows);
  std::map<Labels, uint32_t> identities;
  for (const Identity& identity : tables.identities) identities.emplace(identity.labels, identity.number);
  for (const Workload& workload : model.workloads) {
    const WorkloadMatch& match = workload.match;
    rows.workloads.push_back({workload.title(), identities.at(workload.labels), match.cgroup, match.unit,
                              match.container_id, match.uid, match.network_namespace,
                              workload.spiffe ? workload.spiffe->text() : std::string(), remote_of(workload)});
  }
  return rows;
}

}  // namespace shunt::policy
