// What documents are refused for, by name and line, and what is only noted.
#include <gtest/gtest.h>

#include <l7parsers/resp.hpp>
#include <policy/compiler.hpp>
#include <policy/documents.hpp>
#include <policy/explain.hpp>

namespace shunt::policy {
namespace {

Loaded load(const std::string& text) {
  Loader loader;
  return loader.load({{"p.yaml", text}});
}

// A CiliumNetworkPolicy whose spec begins on line 4.
std::string cilium(const std::string& spec) {
  return "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec:\n  endpointSelector: {}\n" +
         spec;
}

std::string kubernetes(const std::string& spec) {
  return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  podSelector: {}\n" +
         spec;
}

std::string http(const std::string& rule) {
  return cilium(
      "  ingress:\n  - toPorts:\n    - ports: [{port: '80', protocol: TCP}]\n      rules:\n        http:\n        - " +
      rule + "\n");
}

std::string redis(const std::string& rules) {
  return cilium("  ingress:\n  - toPorts:\n    - ports: [{port: '6379', protocol: TCP}]\n      rules:\n        " +
                rules + "\n");
}

struct Refusal {
  const char* name;
  std::string text;
  int line;
  const char* message;
};

class PolicyRefusals : public testing::TestWithParam<Refusal> {};

TEST_P(PolicyRefusals, NameTheConstructAndItsLine) {
  const Loaded loaded = load(GetParam().text);
  ASSERT_FALSE(loaded.ok()) << GetParam().text;
  const Problem& problem = loaded.problems.front();
  EXPECT_EQ(problem.file, "p.yaml");
  EXPECT_EQ(problem.line, GetParam().line) << problem.to_string();
  EXPECT_NE(problem.message.find(GetParam().message), std::string::npos) << problem.to_string();
}

const std::vector<Refusal> kRefusals = {
    {"Kind", "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n", 2, "'v1 Pod' is not supported"},
    {"KindMistyped", "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicies\n", 2, "is not supported"},
    {"NoKind", "metadata: {name: p}\n", 1, "needs apiVersion and kind"},
    {"NoName", "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nspec: {endpointSelector: {}, ingress: [{}]}\n", 1,
     "metadata.name"},
    {"UnknownKey", cilium("  ingres: []\n"), 6, "unknown key 'ingres'"},
    {"TwiceTheSameKey", cilium("  ingress: [{}]\n  ingress: [{}]\n"), 7, "stands here twice"},
    {"NodeSelector", cilium("  nodeSelector: {}\n  ingress: [{}]\n"), 6, "'nodeSelector' is not supported"},
    {"NoDefaultDeny", cilium("  enableDefaultDeny: {ingress: false}\n  ingress: [{}]\n"), 6, "enableDefaultDeny"},
    {"NoRules", cilium("  ingress: []\n"), 5, "without rules"},
    {"Fqdns", cilium("  egress:\n  - toFQDNs: [{matchName: example.com}]\n"), 7, "'toFQDNs' is not supported"},
    {"Services", cilium("  egress:\n  - toServices: []\n"), 7, "'toServices' is not supported"},
    {"Requires", cilium("  ingress:\n  - fromRequires: []\n"), 7, "'fromRequires' is not supported"},
    {"Nodes", cilium("  ingress:\n  - fromNodes: []\n"), 7, "'fromNodes' is not supported"},
    {"Icmps", cilium("  ingress:\n  - icmps: []\n"), 7, "'icmps' is not supported"},
    {"Authentication", cilium("  ingress:\n  - authentication: {mode: required}\n"), 7,
     "'authentication' is not supported"},
    {"Entity", cilium("  ingress:\n  - fromEntities: [kube-apiserver]\n"), 7, "'kube-apiserver' is not supported"},
    {"EntityUnknown", cilium("  ingress:\n  - fromEntities: [mars]\n"), 7, "'mars' is not an entity"},
    {"TwoKindsOfPeers", cilium("  ingress:\n  - fromEntities: [host]\n    fromCIDR: [10.0.0.0/8]\n"), 8, "in one rule"},
    {"CidrGroup", cilium("  ingress:\n  - fromCIDRSet: [{cidrGroupRef: g}]\n"), 7, "'cidrGroupRef' is not supported"},
    {"Cidr", cilium("  ingress:\n  - fromCIDR: [10.0.0.300/8]\n"), 7, "not an address"},
    {"CidrBits", cilium("  ingress:\n  - fromCIDR: [10.0.0.1/8]\n"), 7, "bits set after its prefix"},
    {"Except", cilium("  ingress:\n  - fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]\n"), 7, "not a part"},
    {"Reserved", cilium("  ingress:\n  - fromEndpoints: [{matchLabels: {'reserved:health': ''}}]\n"), 7,
     "'reserved:health'"},
    {"LabelSource", cilium("  ingress:\n  - fromEndpoints: [{matchLabels: {'container:x': y}}]\n"), 7,
     "source 'container'"},
    {"Operator",
     cilium("  ingress:\n  - fromEndpoints: [{matchExpressions: [{key: a, operator: Gt, values: ['1']}]}]\n"), 7,
     "is not one of"},
    {"InWithoutValues", cilium("  ingress:\n  - fromEndpoints: [{matchExpressions: [{key: a, operator: In}]}]\n"), 7,
     "need values"},
    {"ExistsWithValues",
     cilium("  ingress:\n  - fromEndpoints: [{matchExpressions: [{key: a, operator: Exists, values: [x]}]}]\n"), 7,
     "take no values"},
    {"PortsWithout", cilium("  ingress:\n  - toPorts: [{}]\n"), 7, "toPorts without ports"},
    {"PortTooLarge", cilium("  ingress:\n  - toPorts: [{ports: [{port: '70000'}]}]\n"), 7, "70000"},
    {"PortRange", cilium("  ingress:\n  - toPorts: [{ports: [{port: '80', endPort: 70}]}]\n"), 7, "endPort is lower"},
    {"ServerNames", cilium("  ingress:\n  - toPorts: [{ports: [{port: '80'}], serverNames: [a]}]\n"), 7,
     "'serverNames' is not supported"},
    {"Listener", cilium("  egress:\n  - toPorts: [{ports: [{port: '80'}], listener: {}}]\n"), 7,
     "'listener' is not supported"},
    {"Dns",
     cilium("  egress:\n  - toPorts: [{ports: [{port: '53', protocol: ANY}], rules: {dns: [{matchPattern: '*'}]}}]\n"),
     7, "'dns' is not supported"},
    {"Kafka", cilium("  ingress:\n  - toPorts: [{ports: [{port: '9092'}], rules: {kafka: []}}]\n"), 7,
     "'kafka' is not supported"},
    {"L7Proto", cilium("  ingress:\n  - toPorts: [{ports: [{port: '1'}], rules: {l7proto: x}}]\n"), 7,
     "the l7proto 'x' is not supported"},
    {"L7WithoutProto", redis("l7: [{}]"), 10, "l7 without l7proto"},
    {"L7Empty", redis("l7proto: redis"), 10, "l7proto without rules"},
    {"L7AndHttp", redis("{l7proto: redis, l7: [{}], http: [{}]}"), 10, "http and l7proto in one rule"},
    {"RedisKey", redis("{l7proto: redis, l7: [{cmd: GET}]}"), 10, "'cmd' is not supported"},
    {"RedisUnknown", redis("{l7proto: redis, l7: [{database: 1}]}"), 10, "unknown key 'database'"},
    {"RedisCommand", redis("{l7proto: redis, l7: [{command: CONFIG GET}]}"), 10,
     "is not the name of one Redis command"},
    {"RedisCommandPattern", redis("{l7proto: redis, l7: [{command: '*'}]}"), 10,
     "is not the name of one Redis command"},
    {"RedisPattern", redis("{l7proto: redis, l7: [{command: GET, key: 'a*b*'}]}"), 10, "only a '*' at the end"},
    {"RedisRange", redis("{l7proto: redis, l7: [{command: GET, key: 'a[0-9]'}]}"), 10, "only a '*' at the end"},
    {"RedisKeysOfScripts", redis("{l7proto: redis, l7: [{command: EVAL, key: 'a*'}]}"), 10,
     "keys of 'eval' are not known"},
    {"RedisKeysOfPing", redis("{l7proto: redis, l7: [{command: PING, key: a}]}"), 10, "keys of 'ping' are not known"},
    {"RedisKeysOfModules", redis("{l7proto: redis, l7: [{command: JSON.GET, key: a}]}"), 10, "are not known"},
    {"HttpEmpty", cilium("  ingress:\n  - toPorts: [{ports: [{port: '1', protocol: TCP}], rules: {http: []}}]\n"), 7,
     "http without rules"},
    {"DenyWithRules", cilium("  ingressDeny:\n  - toPorts: [{ports: [{port: '1'}], rules: {http: [{}]}}]\n"), 7,
     "'rules' is not supported"},
    {"HttpUnknownKey", http("{pat: /x}"), 11, "unknown key 'pat'"},
    {"Regex", http("{path: '/v1/(x'}"), 11, "a '(' without ')'"},
    {"Mismatch", http("{headerMatches: [{name: X, value: a, mismatch: WARN}]}"), 11, "'WARN'"},
    {"MismatchValue", http("{headerMatches: [{name: X, mismatch: ADD}]}"), 11, "needs a value"},
    {"MismatchLength", http("{headerMatches: [{name: Content_Length, value: '3', mismatch: REPLACE}]}"), 11,
     "says where a request ends"},
    {"MismatchConnection", http("{headerMatches: [{name: Connection, value: close, mismatch: DELETE}]}"), 11,
     "concerns one connection alone"},
    {"MismatchHost", http("{headerMatches: [{name: Host, value: x, mismatch: REPLACE}]}"), 11,
     "not matched as a header"},
    {"Secret", http("{headerMatches: [{name: X, secret: {name: s}}]}"), 11, "'secret' is not supported"},
    {"HostHeader", http("{headers: ['Host: x']}"), 11, "not matched as a header"},
    {"HeaderColon", http("{headers: ['X-Y:']}"), 11, "colon and no value"},
    {"HeaderMap", http("{headers: [X-Y: z]}"), 11, "one text"},
    {"ForeignNamespace",
     "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec:\n"
     "  endpointSelector: {matchLabels: {io.kubernetes.pod.namespace: other}}\n  ingress: [{}]\n",
     5, "its own namespace"},
    {"PeerEmpty", kubernetes("  ingress:\n  - from: [{}]\n"), 7, "a peer needs"},
    {"PeerMixed", kubernetes("  ingress:\n  - from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]\n"), 7,
     "stands alone"},
    {"PolicyType", kubernetes("  policyTypes: [Ingres]\n"), 6, "is not one of"},
    {"EndPortNamed", kubernetes("  ingress:\n  - ports: [{port: web, endPort: 90}]\n"), 7, "endPort needs a port"},
    {"PodSelector",
     "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  ingress: []\n", 5,
     "podSelector is missing"},
    {"Anchor", cilium("  ingress: &x [{}]\n"), 6, "anchors and aliases"},
    {"SecondSame", cilium("  ingress: [{}]\n") + "---\n" + cilium("  ingress: [{}]\n"), 8, "is here twice"},
    {"LineOfSecondDocument", cilium("  ingress: [{}]\n") + "---\n" + cilium("  ingres: [{}]\n"), 13, "unknown key"},
    {"WorkloadTwoPlaces",
     "apiVersion: shunt.dev/v1\nkind: Workload\nmetadata: {name: w}\nspec:\n  match: {unit: a.service, cgroup: /x}\n",
     5, "same thing"},
    {"WorkloadOfATrustDomain",
     "apiVersion: shunt.dev/v1\nkind: Workload\nmetadata: {name: w}\nspec:\n  spiffe: spiffe://mesh.example\n", 5,
     "names a trust domain"},
    {"WorkloadNowhere", "apiVersion: shunt.dev/v1\nkind: Workload\nmetadata: {name: w}\nspec: {}\n", 1,
     "spec.match is missing"},
    {"WorkloadNothing", "apiVersion: shunt.dev/v1\nkind: Workload\nmetadata: {name: w}\nspec:\n  match: {}\n", 5,
     "needs processes"},
    {"ServiceWithoutSelector",
     "apiVersion: shunt.dev/v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 80}]}\n", 4,
     "selector is missing"},
    {"NotYaml", "a: [\n", 2, "not valid YAML"},
};

INSTANTIATE_TEST_SUITE_P(All, PolicyRefusals, testing::ValuesIn(kRefusals),
                         [](const auto& info) { return info.param.name; });

TEST(PolicyDocuments, UdpIsNotedAndOpensNoTcpPort) {
  const Loaded loaded = load(kubernetes("  egress:\n  - ports: [{protocol: UDP, port: 53}]\n"));
  ASSERT_TRUE(loaded.ok());
  ASSERT_EQ(loaded.notes.size(), 1u);
  EXPECT_EQ(loaded.notes[0].line, 7);
  ASSERT_EQ(loaded.model.policies[0].policy->rules.size(), 1u);
  EXPECT_FALSE(loaded.model.policies[0].policy->rules[0].any_port);
  EXPECT_TRUE(loaded.model.policies[0].policy->rules[0].ports.empty());
}

TEST(PolicyDocuments, RulesOfADirectionThatIsNotNamedAreNoted) {
  const Loaded loaded = load(kubernetes("  policyTypes: [Ingress]\n  egress: [{}]\n"));
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(loaded.notes.size(), 1u);
  EXPECT_FALSE(loaded.model.policies[0].policy->egress);
}

TEST(PolicyDocuments, ListsAndStatusAreAccepted) {
  const Loaded loaded = load(
      "apiVersion: v1\nkind: List\nitems:\n- apiVersion: cilium.io/v2\n  kind: CiliumNetworkPolicy\n"
      "  metadata: {name: p, uid: x, annotations: {a: b}}\n  spec: {endpointSelector: {}, ingress: [{}]}\n  status: "
      "{}\n");
  for (const Problem& problem : loaded.problems) ADD_FAILURE() << problem.to_string();
  EXPECT_EQ(loaded.model.policies.size(), 1u);
}

TEST(PolicyDocuments, AMovedDocumentKeepsItsPolicy) {
  Loader loader;
  const std::string text = "---\n" + cilium("  ingress: [{}]\n");
  const Loaded first = loader.load({{"p.yaml", text}});
  const Loaded second = loader.load({{"q.yaml", "# one line more\n" + text}});
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first.model.policies[0].policy, second.model.policies[0].policy);
  EXPECT_EQ(second.model.policies[0].at({5, 1}), "q.yaml:6");
}

TEST(PolicyDocuments, ADocumentThatWasRefusedIsNotKept) {
  Loader loader;
  std::string many;
  for (int i = 0; i < 60; i++) many += "bad" + std::to_string(i) + ": 1\n";
  const std::string wrong = cilium("  ingres: [{}]\n");
  EXPECT_FALSE(
      loader
          .load({{"m.yaml", "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: q}\n" + many},
                 {"p.yaml", wrong}})
          .ok());
  EXPECT_FALSE(loader.load({{"p.yaml", wrong}}).ok());
}

TEST(PolicyCompiler, KeepsWhatDidNotChange) {
  const std::string workloads =
      "---\napiVersion: shunt.dev/v1\nkind: Workload\nmetadata: {name: w, labels: {app: w}}\nspec: {match: {unit: "
      "w.service}}\n"
      "---\napiVersion: shunt.dev/v1\nkind: Workload\nmetadata: {name: v, labels: {app: v}}\nspec: {match: {unit: "
      "v.service}}\n";
  const auto policy = [](const std::string& name, const std::string& path) {
    return "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: " + name +
           "}\nspec: {endpointSelector: {matchLabels: {app: " + name +
           "}}, ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{path: '" + path +
           "'}]}}]}]}\n";
  };
  Loader loader;
  Compiler compiler;
  const Loaded one = loader.load({{"p.yaml", policy("w", "/a") + policy("v", "/b") + workloads}});
  ASSERT_TRUE(one.ok());
  const Tables before = compiler.compile(one.model);
  const Loaded two = loader.load({{"p.yaml", policy("w", "/changed") + policy("v", "/b") + workloads}});
  const Tables after = compiler.compile(two.model);
  size_t same = 0;
  for (const auto& [key, table] : after.subjects) same += before.subjects.at(key) == table;
  EXPECT_EQ(after.subjects.size(), 2u);
  EXPECT_EQ(same, 1u);
  EXPECT_EQ(after.generation, before.generation + 1);
}

TEST(PolicyAutomaton, TooLargeRulesArePuntedAndTheOthersAreNot) {
  ExpressionCache expressions;
  HttpRule large, plain;
  large.path = "/big/(a|b)*a(a|b){18}";
  plain.path = "/plain";
  const auto automaton = build_automaton({&large, &plain}, expressions, {});
  EXPECT_FALSE(automaton->refused[0].empty());
  EXPECT_TRUE(automaton->refused[1].empty());
  EXPECT_EQ(match(*automaton, {"GET", "/plain", "", {}}).verdict, SH_POLICY_ALLOW);
  EXPECT_EQ(match(*automaton, {"GET", "/big/x", "", {}}).verdict, SH_POLICY_PUNT);
  EXPECT_EQ(match(*automaton, {"GET", "/other", "", {}}).verdict, SH_POLICY_DENY);
}

TEST(PolicyAutomaton, RulesThatAreNotToldApartStillDecide) {
  ExpressionCache expressions;
  std::vector<HttpRule> rules(60);
  std::vector<const HttpRule*> pointers;
  for (size_t i = 0; i < rules.size(); i++) {
    rules[i].path = "/" + std::to_string(i) + "/end";
    pointers.push_back(&rules[i]);
  }
  const auto all = build_automaton(pointers, expressions, {});
  const auto few = build_automaton(pointers, expressions, {100});
  EXPECT_TRUE(all->names_rules);
  EXPECT_FALSE(few->names_rules);
  EXPECT_LE(few->states(), 100u);
  EXPECT_EQ(match(*all, {"GET", "/42/end", "", {}}).rule, 42);
  EXPECT_EQ(match(*few, {"GET", "/42/end", "", {}}).verdict, SH_POLICY_ALLOW);
  EXPECT_EQ(match(*few, {"GET", "/60/end", "", {}}).verdict, SH_POLICY_DENY);
  const auto none = build_automaton(pointers, expressions, {4});
  EXPECT_EQ(match(*none, {"GET", "/60/end", "", {}}).verdict, SH_POLICY_PUNT);
}

TEST(PolicyAutomaton, KeysAreBytes) {
  const RedisRule prefix{"get", "user:", true, {}}, exact{"get", std::string("k\0\xff\n", 4), false, {}},
      any{"ping", {}, false, {}};
  const auto automaton = build_automaton({&prefix, &exact, &any});
  const auto verdict = [&](const std::string& name, const std::vector<std::string>& keys) {
    const std::string bytes = bytes_of({name, keys});
    l7::RespCommand command;
    command.parse(bytes);
    return match(*automaton, command.raw(), bytes).verdict;
  };
  for (const char* tail : {"", "x", "\xff", "\n\r", "user:"}) {
    EXPECT_EQ(verdict("GET", {std::string("user:") + tail}), SH_POLICY_ALLOW) << tail;
    EXPECT_EQ(verdict("GET", {std::string("usex:") + tail}), SH_POLICY_DENY) << tail;
    EXPECT_EQ(verdict("PING", {tail}), SH_POLICY_ALLOW) << "an argument is no key";
  }
  EXPECT_EQ(verdict("GET", {*exact.key}), SH_POLICY_ALLOW);
  EXPECT_EQ(verdict("GET", {*exact.key + "x"}), SH_POLICY_DENY);
  EXPECT_EQ(verdict("GET", {exact.key->substr(0, 3)}), SH_POLICY_DENY);
  EXPECT_EQ(verdict("GET", {"=user:"}), SH_POLICY_DENY);
  EXPECT_EQ(verdict("GET", {std::string("user:") + std::string(3000, 'x')}), SH_POLICY_ALLOW);
}

// The cost of a command does not depend on how many rules there are: one state for each byte.
TEST(PolicyAutomaton, ManyRedisRulesAreOneAutomaton) {
  std::vector<RedisRule> rules;
  for (int i = 0; i < 3000; i++) rules.push_back({"get", "tenant" + std::to_string(i) + ":", true, {}});
  std::vector<const RedisRule*> pointers;
  for (const RedisRule& rule : rules) pointers.push_back(&rule);
  const auto automaton = build_automaton(pointers);
  EXPECT_TRUE(automaton->names_rules);
  const std::string bytes = bytes_of({"GET", {"tenant2718:x"}});
  l7::RespCommand command;
  command.parse(bytes);
  EXPECT_EQ(match(*automaton, command.raw(), bytes).verdict, SH_POLICY_ALLOW);
  EXPECT_EQ(match(*automaton, command.raw(), bytes).rule, 2718);
}

TEST(PolicyAutomaton, ConditionsBeyondThirtyTwoArePunted) {
  ExpressionCache expressions;
  std::vector<HttpRule> rules(34);
  std::vector<const HttpRule*> pointers;
  for (size_t i = 0; i < rules.size(); i++) {
    rules[i].path = "/" + std::to_string(i);
    rules[i].headers = {{"x-" + std::to_string(i), std::nullopt}};
    pointers.push_back(&rules[i]);
  }
  const auto automaton = build_automaton(pointers, expressions, {});
  EXPECT_EQ(match(*automaton, {"GET", "/3", "", {{"X-3", "y"}}}).verdict, SH_POLICY_ALLOW);
  EXPECT_EQ(match(*automaton, {"GET", "/3", "", {{"X-4", "y"}}}).verdict, SH_POLICY_DENY);
  EXPECT_EQ(match(*automaton, {"GET", "/33", "", {}}).verdict, SH_POLICY_PUNT);
}

}  // namespace
}  // namespace shunt::policy
