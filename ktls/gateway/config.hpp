// The configuration of shunt-gateway: one YAML file and a directory of services, see shunt-gateway.yaml(5). Unknown
// keys are errors.
#pragma once

#include <base/clock.hpp>
#include <base/log.hpp>
#include <base/problem.hpp>
#include <base/sockets.hpp>
#include <base/spiffe_id.hpp>
#include <base/yaml_reader.hpp>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace shunt::gateway {

inline constexpr const char* kDefaultConfigFile = "/etc/shunt/gateway.yaml";
inline constexpr const char* kDefaultUser = "shunt-gateway";
inline constexpr const char* kDefaultStatusSocket = "/run/shunt-gateway/status.sock";

enum class KtlsUse {
  required,   // without it nothing is forwarded
  preferred,  // OpenSSL encrypts where the kernel cannot
  off,        // OpenSSL always encrypts
};

// Whose certificates are taken, and which CAs vouch for them.
struct TrustedDomain {
  std::string name;
  std::string bundle;  // PEM file
  std::string crl;     // PEM file: what its CAs have revoked; empty: nobody asks
};

// From whom a service takes connections, beside the programs of its own host.
enum class ServiceMode {
  permissive,  // from other hosts through the gateway, or in plaintext
  strict,      // from other hosts through the gateway alone: shuntd refuses plaintext
  off,         // in plaintext alone: the gateway refuses
};

// A service of this host: what comes for it from the mesh goes to `server`.
struct LocalService {
  std::string name;
  Endpoint server;
  ServiceMode mode = ServiceMode::permissive;
  std::vector<SpiffeId> allow;  // empty: everybody whom the trusted domains vouch for
};

// A service of another host: what comes to `listen`, or is dialled at `address`, goes to the gateway there.
struct RemoteService {
  std::string name;
  std::optional<Endpoint> listen;   // a listener of its own
  std::optional<Endpoint> address;  // shuntd's hooks turn connections to it to the listeners of `hooks`
  bool strict = true;               // at that address it is not reached without this gateway
  Endpoint gateway;
  std::vector<SpiffeId> identity;  // one: whom the gateway there must be
};

struct AccessLogSettings {
  std::string path = "-";  // empty: none; "-": standard output
  LogFormat format = LogFormat::logfmt;
};

struct Timeouts {
  Milliseconds handshake{10'000};
  Milliseconds connect{3'000};
  Milliseconds stop{30'000};  // for what runs when SIGTERM comes
};

struct Limits {
  uint64_t connections = 4096;
  uint64_t handshakes = 512;  // unfinished ones of the mesh
};

struct Config {
  std::string user = kDefaultUser;  // to become, when started as root
  uint64_t threads = 0;             // 0: as many as CPUs
  KtlsUse ktls = KtlsUse::required;
  std::string certificate;
  std::string key;
  std::vector<TrustedDomain> trust;
  std::string deny;                    // file: SPIFFE IDs that are not taken, one a line; empty: none
  Milliseconds max_connection_age{0};  // 0: as long as they last
  std::vector<Endpoint> listen;        // for the mesh
  std::vector<LocalService> services;
  std::vector<RemoteService> directory;
  std::vector<Endpoint> hooks;                    // listeners for what is dialled: one for each family at most
  std::string shuntd;                             // its socket; empty: it has no part
  std::string status = kDefaultStatusSocket;      // empty: none
  std::string metrics_listen = "127.0.0.1:9617";  // empty: no metrics
  LogSettings log;
  AccessLogSettings access_log;
  Timeouts timeouts;
  Limits limits;

  const LocalService* service(std::string_view name) const;
  const Endpoint* hook_listener(const Address& address) const;  // of its family; null: there is none
};

struct ConfigOutcome {
  Config config;  // to be used only without problems
  std::vector<Problem> problems;
  bool ok() const { return problems.empty(); }
};

// Never throws or aborts, whatever the texts are.
ConfigOutcome load_config(const std::string& file);

}  // namespace shunt::gateway
