// The configuration: /etc/shunt/shunt.yaml, then conf.d/*.yaml beside it in byte order of their names. Of one value
// given twice the later file wins; lists are appended, without duplicates. Unknown keys, duplicate keys and second
// documents are errors: nothing is silently ignored.
#pragma once

#include <bpf/abi/policy.h>

#include <base/log.hpp>
#include <base/yaml_reader.hpp>
#include <chrono>
#include <sockops/engine.hpp>
#include <sockops/settings.hpp>
#include <string>
#include <vector>

namespace shunt {

inline constexpr const char* kDefaultConfigFile = "/etc/shunt/shunt.yaml";
inline constexpr const char* kDefaultSocket = "/run/shunt/shunt.sock";

// What concerns the daemon rather than the shortcut.
struct DaemonSettings {
  LogSettings log;
  std::string socket = kDefaultSocket;            // the lock file and the "off" marker stand beside it
  std::string metrics_listen = "127.0.0.1:9615";  // empty: no metrics
  std::string proxy_user = "shunt-proxy";         // who besides root may be the fallback proxy
  std::chrono::milliseconds drain_deadline{10'000};
  std::string state_dir = "/var/lib/shunt";  // what outlives a boot

  std::string kept_policy() const { return state_dir + "/policy"; }  // the documents that were put in force last
};

// The policy in force: what the documents of a folder say.
struct PolicySettings {
  std::string directory = "/etc/shunt/policy";
  bool directory_named = false;  // by the operator: it must be there
  sh_policy_existing existing = SH_POLICY_EXISTING_RESET;
};

// The gateway to other hosts, by its own configuration: who it is, where it listens, which services it knows.
struct GatewaySettings {
  std::string config;                // empty: there is none
  std::vector<std::string> cgroups;  // whose connections to those services are brought to it
};

struct Config {
  Settings settings;
  DaemonSettings daemon;
  PolicySettings policy;
  GatewaySettings gateway;
  Paths paths;
  std::vector<std::string> files;  // that were read, in order
};

using ConfigProblem = Problem;

struct ConfigOutcome {
  Config config;  // to be used only without problems
  std::vector<ConfigProblem> problems;
  bool ok() const { return problems.empty(); }
};

using ConfigSource = TextSource;

// The shipped defaults: what an empty file means.
Config default_config();

// Never throws or aborts, whatever the text is.
ConfigOutcome parse_config(const std::vector<ConfigSource>& sources);

// Reads `file` and conf.d beside it. A missing file is a problem only if `required`; else it stands for the defaults.
ConfigOutcome load_config(const std::string& file, bool required);

}  // namespace shunt
