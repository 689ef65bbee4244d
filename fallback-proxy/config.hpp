// The configuration of shunt-proxy: one YAML file, see shunt-proxy.yaml(5). Unknown keys are errors.
#pragma once

#include <base/clock.hpp>
#include <base/log.hpp>
#include <base/problem.hpp>
#include <base/sockets.hpp>
#include <base/values.hpp>
#include <base/yaml_reader.hpp>
#include <chrono>
#include <string>
#include <vector>

namespace shunt::proxy {

inline constexpr const char* kDefaultConfigFile = "/etc/shunt/shunt-proxy.yaml";
inline constexpr const char* kDefaultUser = "shunt-proxy";

struct NameValue {
  std::string name;
  std::string value;
};

// Applied in this order: remove, set, add.
struct HeaderRules {
  std::vector<std::string> remove;
  std::vector<NameValue> set;  // in place of all fields of that name
  std::vector<NameValue> add;

  bool empty() const { return remove.empty() && set.empty() && add.empty(); }
};

// Whose address a network is: a workload as NAMESPACE/NAME or NAME, host or world.
struct SourceRule {
  Cidr network;
  std::string identity;
  Problem place;  // where it stands, for what only the policies can tell
};

struct Route {
  std::string path;  // "/v1" stands for itself and all below; "/v1/" for all below
  HeaderRules headers;
};

struct Listener {
  std::string name;
  std::vector<Endpoint> listen;          // sockets to make
  std::vector<std::string> descriptors;  // names of passed sockets (LISTEN_FDNAMES)
  std::string destination;               // identity of the servers
  Problem destination_place;
  uint16_t port = 0;  // of the servers, as policies mean it; 0: the upstream's
  std::vector<SourceRule> sources;
  std::vector<Endpoint> upstreams;
  HeaderRules headers;
  std::vector<Route> routes;

  uint16_t policy_port() const { return port != 0 ? port : upstreams.front().port; }
};

struct AccessLogSettings {
  std::string path;  // empty: none; "-": standard output
  LogFormat format = LogFormat::logfmt;
  uint64_t sample = 1;  // one in so many forwarded requests; what was refused is always written
};

struct Timeouts {
  Milliseconds idle{60'000};      // a connection without a request
  Milliseconds head{10'000};      // from the first byte of a head to its last
  Milliseconds connect{3'000};    // to one upstream
  Milliseconds exchange{60'000};  // without a byte in either direction
  Milliseconds stop{30'000};      // for what runs when SIGTERM comes
};

struct Limits {
  uint64_t head_bytes = 64 << 10;
  uint64_t connections = 4096;
  uint64_t discard_bytes = 64 << 10;  // of a refused request's body, to keep its connection
};

// Punted requests of local connections, over the link to shuntd.
struct ChannelSettings {
  std::string socket;  // of shuntd, for its proxy; empty: none
  uint64_t count = 256;
  uint64_t body_bytes = 1 << 20;  // of one request
};

struct Config {
  std::string user = kDefaultUser;  // to become, when started as root
  uint64_t threads = 0;             // 0: as many as CPUs
  std::vector<std::string> policies;
  LogSettings log;
  AccessLogSettings access_log;
  std::string metrics_listen = "127.0.0.1:9616";  // empty: no metrics
  bool tell_responses = false;                    // in metrics with Istio's names
  Timeouts timeouts;
  Limits limits;
  ChannelSettings channels;
  std::vector<Listener> listeners;
};

struct ConfigOutcome {
  Config config;  // to be used only without problems
  std::vector<Problem> problems;
  bool ok() const { return problems.empty(); }
};

// Never throws or aborts, whatever the text is.
ConfigOutcome parse_config(const TextSource& source);
ConfigOutcome load_config(const std::string& file);

}  // namespace shunt::proxy
