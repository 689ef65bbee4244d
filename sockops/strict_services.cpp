#include "sockops/strict_services.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <base/address.hpp>
#include <cstring>
#include <sockops/namespaces.hpp>
#include <sockops/owners.hpp>
#include <sockops/policy_map.hpp>

namespace shunt {
namespace {

uint32_t own_namespace() {
  struct stat info {};
  return stat("/proc/self/ns/net", &info) == 0 ? static_cast<uint32_t>(info.st_ino) : 0;
}

// In the namespace of whoever connects to it: the gateway.
bool is_of_gateway(const HostService& service) {
  constexpr Address kAny6{}, kLoopback6{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  const uint8_t* v4 = service.address.data() + sizeof(kV4MappedPrefix);
  if (is_v4_mapped(service.address.data())) return v4[0] == 127 || v4[0] == 0;
  return service.address == kAny6 || service.address == kLoopback6;
}

sh_admission_key row_key(uint16_t port, uint32_t netns, const HostService* address = nullptr) {
  sh_admission_key key = {};
  key.port = port;
  key.netns = netns;
  if (address != nullptr) memcpy(key.addr, address->address.data(), sizeof(key.addr));
  return key;
}

}  // namespace

StrictServices::StrictServices(const Paths& paths, MapFinder map, OwnAddresses& addresses, SynPrograms& programs)
    : paths_(paths),
      map_(std::move(map)),
      addresses_(addresses),
      programs_(programs),
      gateway_netns_(own_namespace()) {}

bool StrictServices::Less::operator()(const sh_admission_key& a, const sh_admission_key& b) const {
  return memcmp(&a, &b, sizeof(a)) < 0;
}

bool StrictServices::any_strict() const {
  return std::any_of(services_.begin(), services_.end(), [](const HostService& service) { return service.strict; });
}

// Clients are known by what their connect() leaves, so that comes first.
Result<void> StrictServices::set(std::vector<HostService> services) {
  services_ = std::move(services);
  times_.at_once();
  looked_ = false;
  return write_strict_services(map_("sh_configs"), any_strict());
}

void StrictServices::gateway_is_in(uint32_t netns) {
  if (netns == 0 || netns == gateway_netns_) return;
  gateway_netns_ = netns;
  times_.at_once();
}

// Where two services have one place, the strict one decides.
std::set<uint64_t> StrictServices::place(Rows& rows, StrictReport& report) const {
  std::set<uint64_t> namespaces;
  const auto put = [&rows](const sh_admission_key& key, uint32_t admission) {
    uint32_t& row = rows[key];
    row = std::max(row, admission);
  };
  for (const HostService& service : services_) {
    const bool of_gateway = is_of_gateway(service);
    if (!of_gateway) put(row_key(service.port, 0, &service), service.strict ? SH_ADMIT_LOCAL : SH_ADMIT_ALL);
    if (!service.strict) continue;
    report.strict++;
    put(row_key(service.port, 0), SH_ADMIT_LOCAL);
    const uint32_t netns = of_gateway ? gateway_netns_ : addresses_.namespace_of(service.address);
    if (netns == 0) {
      report.nowhere.push_back(service.name);
      continue;
    }
    put(row_key(service.port, netns), SH_ADMIT_LOCAL);
    namespaces.insert(netns);
  }
  return namespaces;
}

// What is new comes first: a service that stays strict is strict throughout.
Result<void> StrictServices::write(const Rows& rows) {
  const int map = map_("sh_admissions");
  if (rows.size() > capacity(map))
    return unexpected(
        Error{E2BIG, "the services of this host have more than " + std::to_string(capacity(map)) + " addresses", ""});
  for (const auto& [key, admission] : rows)
    if (bpf_map_update_elem(map, &key, &admission, BPF_ANY) != 0)
      return unexpected(errno, "cannot write which services are strict");
  remove_if<sh_admission_key>(map, [&rows](const sh_admission_key& key) { return !rows.contains(key); });
  return {};
}

// Namespaces are looked for only where that is needed: it means to look at all processes.
Result<void> StrictServices::scan(StrictReport& report) {
  std::vector<UniqueFd> namespaces;
  const bool by_address = std::any_of(services_.begin(), services_.end(), [](const HostService& service) {
    return service.strict && !is_of_gateway(service);
  });
  if (by_address) {
    namespaces = namespaces_with_sockets(paths_);
    if (auto looked = addresses_.look(namespaces); !looked) return looked;
  }
  Rows rows;
  const std::set<uint64_t> wanted = place(rows, report);
  if (auto written = write(rows); !written) return written;
  Result<void> done;
  for (const uint64_t inode : wanted) {
    const auto netns = static_cast<uint32_t>(inode);
    if (programs_.attached(netns)) continue;
    if (namespaces.empty()) namespaces = network_namespaces();
    if (auto attached = programs_.attach(netns, namespaces); !attached) done = attached;
  }
  programs_.keep(SynPrograms::kStrictServices, wanted);
  return done;
}

StrictReport StrictServices::look(bool now, bool told) {
  // Rows of strict services that were taken away are gone with the first look.
  if (!now && (!times_.are_due(told) || (looked_ && !any_strict()))) return last_;
  StrictReport report;
  times_.begin();
  if (auto scanned = scan(report); !scanned) report.error = scanned.error();
  times_.end();
  looked_ = !report.error;
  return last_ = std::move(report);
}

}  // namespace shunt
