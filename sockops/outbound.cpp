#include "sockops/outbound.hpp"

#include <bpf/bpf.h>

#include <cstring>
#include <set>
#include <sockops/links.hpp>
#include <sockops/policy_map.hpp>

namespace shunt {
namespace {

// The kernel copies it in parts: in between there is no gateway. Not where it is the same as before, as after a restart
// of shuntd: its live connections would be anybody's for that moment.
Result<void> write_gateway(const MapFinder& map, const sh_gateway& gateway) {
  const uint32_t zero = 0;
  sh_gateway before = {};
  if (bpf_map_lookup_elem(map("sh_gateways"), &zero, &before) == 0 && memcmp(&before, &gateway, sizeof(gateway)) == 0)
    return {};
  for (const sh_gateway& value : {sh_gateway{}, gateway})
    if (bpf_map_update_elem(map("sh_gateways"), &zero, &value, BPF_ANY) != 0)
      return unexpected(errno, "cannot say who the gateway is");
  return {};
}

}  // namespace

Result<GatewayMaps> admit_gateway(const MapFinder& map, uint32_t uid, uint64_t cgroup) {
  GatewayMaps maps;
  auto remotes = map_for_others(map("sh_remotes"), BPF_F_WRONLY);
  if (!remotes) return unexpected(remotes.error());
  auto dialled = map_for_others(map("sh_dialled"), BPF_F_RDONLY);
  if (!dialled) return unexpected(dialled.error());
  maps.remotes = std::move(*remotes);
  maps.dialled = std::move(*dialled);
  if (auto written = write_gateway(map, {cgroup, uid, 1}); !written) return unexpected(written.error());
  return maps;
}

Result<void> dismiss_gateway(const MapFinder& map) { return write_gateway(map, {}); }

Result<void> write_services(const MapFinder& map, const std::vector<OutboundService>& services) {
  struct Less {
    bool operator()(const sh_service_key& a, const sh_service_key& b) const { return memcmp(&a, &b, sizeof(a)) < 0; }
  };
  const int table = map("sh_services");
  if (services.size() > capacity(table))
    return unexpected(Error{E2BIG, "more than " + std::to_string(capacity(table)) + " services on other hosts", ""});
  std::set<sh_service_key, Less> wanted;
  for (const OutboundService& service : services) wanted.insert(service.key);
  // First what makes room.
  remove_if<sh_service_key>(table, [&](const sh_service_key& key) { return !wanted.contains(key); });
  for (const OutboundService& service : services)
    if (bpf_map_update_elem(table, &service.key, &service.value, BPF_ANY) != 0)
      return unexpected(errno, "cannot write the services on other hosts");
  return {};
}

// The names come first: a connection that is turned tells what it dialled from its beginning.
Result<void> attach_outbound(const Paths& paths, const OutboundPrograms& programs,
                             const std::vector<std::string>& cgroups) {
  const struct {
    const char* kind;
    int program;
    bpf_attach_type type;
  } hooks[] = {{"peer4", programs.getpeername4, BPF_CGROUP_INET4_GETPEERNAME},
               {"peer6", programs.getpeername6, BPF_CGROUP_INET6_GETPEERNAME},
               {"gopt", programs.getsockopt, BPF_CGROUP_GETSOCKOPT},
               {"dial4", programs.connect4, BPF_CGROUP_INET4_CONNECT},
               {"dial6", programs.connect6, BPF_CGROUP_INET6_CONNECT}};
  for (const auto& hook : hooks) {
    std::set<uint64_t> ids;
    for (const std::string& cgroup : cgroups) {
      auto id = attach_link(paths, cgroup, hook.program, hook.type, hook.kind);
      if (!id) return unexpected(id.error());
      ids.insert(*id);
    }
    detach_links(paths, hook.kind, ids);
  }
  return {};
}

}  // namespace shunt
