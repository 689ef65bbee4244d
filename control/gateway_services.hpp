// What the daemon takes from the gateway's configuration: who the gateway is, the services on other hosts that local
// processes dial, and which of this host take no plaintext from other hosts. Only root writes that file; the gateway
// itself could not be asked, it has no say in where connections go.
#pragma once

#include <base/result.hpp>
#include <control/config.hpp>
#include <sockops/engine.hpp>
#include <string>
#include <vector>

namespace shunt {

struct Gateway {
  std::string user;  // empty: no gateway is configured
  Outbound outbound;
  std::vector<HostService> services;  // of this host
};

Result<Gateway> read_gateway(const GatewaySettings& settings);

}  // namespace shunt
