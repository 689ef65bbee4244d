#include <algorithm>
#include <control/gateway_services.hpp>
#include <ktls/gateway/config.hpp>

namespace shunt {
namespace {

OutboundService service_of(const gateway::Config& config, const gateway::RemoteService& remote) {
  OutboundService service;
  const Endpoint* listen = config.hook_listener(remote.address->address);
  std::copy(remote.address->address.begin(), remote.address->address.end(), service.key.addr);
  service.key.port = remote.address->port;
  std::copy(listen->address.begin(), listen->address.end(), service.value.gateway);
  service.value.port = listen->port;
  service.value.strict = remote.strict;
  const auto digest = remote.identity.front().digest();
  std::copy(digest.begin(), digest.end(), service.value.remote.digest);
  return service;
}

HostService service_of(const gateway::LocalService& local) {
  return {local.name, local.server.address, local.server.port, local.mode == gateway::ServiceMode::strict};
}

}  // namespace

Result<Gateway> read_gateway(const GatewaySettings& settings) {
  if (settings.config.empty()) return Gateway{};
  const gateway::ConfigOutcome outcome = gateway::load_config(settings.config);
  std::string problems;
  for (const Problem& problem : outcome.problems) problems += (problems.empty() ? "" : "\n") + problem.to_string();
  if (!problems.empty()) return unexpected(Error{EINVAL, problems, "shunt-gateway --check"});
  Gateway found;
  found.user = outcome.config.user;
  found.outbound.cgroups = settings.cgroups;
  for (const gateway::RemoteService& remote : outcome.config.directory)
    if (remote.address) found.outbound.services.push_back(service_of(outcome.config, remote));
  for (const gateway::LocalService& local : outcome.config.services) found.services.push_back(service_of(local));
  return found;
}

}  // namespace shunt
