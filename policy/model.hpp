// What the documents say, after they were checked: workloads, services and rules. Nothing here knows YAML or tables.
#pragma once

#include <base/address.hpp>
#include <base/spiffe_id.hpp>
#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace shunt::policy {

// Where something was written. Lines count from the document's own first line, so that a document that only moves
// within its file stays the same.
struct Place {
  int line = 0;
  int column = 0;
};

using Labels = std::map<std::string, std::string>;

// Keys that the loader adds to the labels of workloads, spelled as Cilium spells them.
inline constexpr const char* kNamespaceLabel = "io.kubernetes.pod.namespace";
inline constexpr const char* kNamespaceLabelsPrefix = "io.cilium.k8s.namespace.labels.";
inline constexpr const char* kNamespaceNameLabel = "kubernetes.io/metadata.name";
inline constexpr const char* kReservedPrefix = "reserved:";

struct Requirement {
  enum class Operator { in, not_in, exists, does_not_exist };
  std::string key;
  Operator op = Operator::exists;
  std::vector<std::string> values;  // sorted

  auto operator<=>(const Requirement&) const = default;
};

// All requirements must hold; none: everything matches. As in Kubernetes, not_in holds where the key is absent.
struct Selector {
  std::vector<Requirement> requirements;  // sorted

  bool matches(const Labels& labels) const;
  auto operator<=>(const Selector&) const = default;
};

// A network without some of its parts. It selects addresses outside this host alone, as in Cilium.
struct CidrBlock {
  Cidr cidr;
  std::vector<Cidr> except;
};

bool is_v4(const Cidr& cidr);
bool contains(const Cidr& outer, const Cidr& inner);  // of the same family
std::string format_cidr(const Cidr& cidr);

// Who is at the other end: any of the alternatives. Without `any` and without alternatives: nobody.
struct Peers {
  bool any = false;
  std::vector<Selector> selectors;
  std::vector<CidrBlock> cidrs;
};

struct PortSpec {
  uint16_t first = 0;  // host order; 0 with an empty name: every port
  uint16_t last = 0;   // inclusive
  std::string name;    // of a port of the services in front of the destination

  auto operator<=>(const PortSpec&) const = default;
};

struct HeaderCondition {
  std::string name;                  // in lower case
  std::optional<std::string> value;  // exact; absent: the header must be there

  auto operator<=>(const HeaderCondition&) const = default;
};

// A header that need not be as the condition says: where it is not, the proxy is told, and writes it before the request
// goes on (`mismatch` of Cilium's headerMatches).
struct HeaderRewrite {
  enum class Action {
    log,      // only the access log tells
    add,      // one more header of that name
    replace,  // in place of all of that name
    remove,   // all of that name
  };
  HeaderCondition wanted;
  Action action = Action::log;
  std::string written;  // the name as the document spells it

  auto operator<=>(const HeaderRewrite&) const = default;
};

// The expressions match the whole of their field. Empty: anything.
struct HttpRule {
  std::string method;
  std::string path;
  std::string host;
  std::vector<HeaderCondition> headers;  // sorted, without duplicates; all must hold
  std::vector<HeaderRewrite> rewrites;   // in the document's order; of every rule that matches, not of the first alone
  Place place;

  bool same(const HttpRule& other) const {
    return method == other.method && path == other.path && host == other.host && headers == other.headers &&
           rewrites == other.rewrites;
  }
};

// A Redis command and one of its keys. A command with several keys must be allowed with each of them.
struct RedisRule {
  std::string command;             // in lower case; empty: any
  std::optional<std::string> key;  // absent: any, and commands without keys
  bool key_is_prefix = false;      // the key begins with it
  Place place;
};

enum class Direction { ingress, egress };

// What is spoken; tcp: nobody looks into it.
enum class Protocol { tcp, http, resp };
const char* protocol_name(Protocol protocol);

// One entry of ingress, egress, ingressDeny or egressDeny, with one group of ports.
struct Rule {
  Direction direction = Direction::ingress;
  bool deny = false;
  Peers peers;
  bool any_port = true;
  std::vector<PortSpec> ports;        // only without any_port; empty: no TCP port
  Protocol protocol = Protocol::tcp;  // http, resp: requests must match one of `http`, or of `redis`
  std::vector<HttpRule> http;
  std::vector<RedisRule> redis;
  std::string path;  // "spec.ingress[0].toPorts[1]"
  Place place;
};

// One policy: a spec of a document.
struct Policy {
  std::string kind;
  std::string name_space;  // empty: clusterwide
  std::string name;
  Selector subject;
  bool ingress = false;  // default deny for the subject, unless a rule allows
  bool egress = false;
  std::vector<Rule> rules;

  std::string title() const { return kind + " " + (name_space.empty() ? name : name_space + "/" + name); }
};

// The processes that a workload is made of: all given conditions must hold.
struct WorkloadMatch {
  std::string cgroup;  // below the cgroup v2 mount, with its subtree
  std::string unit;    // a systemd unit or slice
  std::string container_id;
  std::optional<uint32_t> uid;
  std::string network_namespace;  // a path, or a name below /run/netns
};

struct Workload {
  std::string name_space;
  std::string name;
  Labels labels;                   // with those of the namespace
  WorkloadMatch match;             // nothing: no process of this host
  std::optional<SpiffeId> spiffe;  // who it is on other hosts

  std::string title() const { return name_space + "/" + name; }
};

struct ServicePort {
  std::string name;
  uint16_t port = 0;         // host order, what clients connect to
  uint16_t target_port = 0;  // where the workloads listen; policies mean this one
  Protocol protocol = Protocol::tcp;
  Place place;
};

struct Service {
  std::string name_space;
  std::string name;
  Selector workloads;
  std::vector<Address> addresses;
  std::vector<ServicePort> ports;

  std::string title() const { return name_space + "/" + name; }
};

// A policy and where its document stands.
struct PlacedPolicy {
  std::shared_ptr<const Policy> policy;
  std::string file;
  int lines_before = 0;

  // "FILE:LINE"
  std::string at(const Place& place) const { return file + ":" + std::to_string(lines_before + place.line); }
};

struct Model {
  std::vector<PlacedPolicy> policies;  // in the order of their sources
  std::vector<Workload> workloads;
  std::vector<Service> services;

  const Workload* workload(const std::string& name_space, const std::string& name) const;
  const Service* service(const std::string& name_space, const std::string& name) const;
};

}  // namespace shunt::policy
