// Random policies and requests about a handful of workloads, the same for the same seed.
#pragma once

#include <policy/compiler.hpp>
#include <random>
#include <string>
#include <vector>

namespace shunt::policy {

inline const char* const kWorkloads = R"(
apiVersion: shunt.dev/v1
kind: Workload
metadata: {name: a, labels: {app: a, env: x}}
spec: {match: {unit: a.service}}
---
apiVersion: shunt.dev/v1
kind: Workload
metadata: {name: b, labels: {app: b, env: x}}
spec: {match: {unit: b.service}}
---
apiVersion: shunt.dev/v1
kind: Workload
metadata: {name: c, labels: {app: c}}
spec: {match: {unit: c.service}}
---
apiVersion: shunt.dev/v1
kind: Workload
metadata: {name: d, namespace: other, labels: {app: a}}
spec: {match: {unit: d.service}}
---
apiVersion: shunt.dev/v1
kind: Service
metadata: {name: s}
spec: {selector: {matchLabels: {env: x}}, ports: [{name: web, port: 80}]}
)";

inline const std::vector<std::string> kEnds = {"a",     "b",        "c",        "other/d",    "host",
                                               "world", "10.1.1.1", "10.2.1.1", "2001:db8::1"};
inline const std::vector<std::string> kPaths = {"/v1",     "/v1/.*",       "/(a|b)+/x",  "/[a-z]*",
                                                ".*x",     "/v[0-9]{1,2}", "/.*/x",      "^/v1$",
                                                "(?i)/V1", "/t/(a|b)\\1",  "/n/(?!x).*", "/a/.*b.*c.*"};

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  uint32_t below(uint32_t n) { return engine_() % n; }
  bool one_in(uint32_t n) { return below(n) == 0; }
  std::string of(const std::vector<std::string>& list) { return list[below(static_cast<uint32_t>(list.size()))]; }

 private:
  std::mt19937 engine_;
};

inline std::string selector(Random& random) {
  return random.of({"{}", "{matchLabels: {app: a}}", "{matchLabels: {'k8s:app': b}}", "{matchLabels: {env: x}}",
                    "{matchExpressions: [{key: app, operator: NotIn, values: [a, c]}]}",
                    "{matchExpressions: [{key: env, operator: DoesNotExist}]}",
                    "{matchExpressions: [{key: app, operator: In, values: [a, b]}, {key: env, operator: Exists}]}"});
}

inline std::string http_rule(Random& random) {
  std::string rule;
  const auto add = [&](const std::string& text) { rule += (rule.empty() ? "" : ", ") + text; };
  if (random.one_in(2)) add("method: '" + random.of({"GET", "POST", "GET|PUT", "P.*"}) + "'");
  if (!random.one_in(4)) add("path: '" + random.of(kPaths) + "'");
  if (random.one_in(4)) add("host: '" + random.of({"h", "[a-h]+[.]x", ".*"}) + "'");
  if (random.one_in(3)) add("headers: ['" + random.of({"X-A", "X-A: 1", "X-A: 12", "X-B: yes"}) + "']");
  std::string matches;
  if (random.one_in(6)) matches = "{name: X-B, value: 'no way'}";
  if (random.one_in(6)) {
    matches += (matches.empty() ? "{" : ", {") + random.of({"name: X-A, value: '1'", "name: X-B, value: 'yes'"}) +
               ", mismatch: " + random.of({"LOG", "ADD", "REPLACE", "DELETE"}) + "}";
  }
  if (!matches.empty()) add("headerMatches: [" + matches + "]");
  return "{" + rule + "}";
}

inline std::string rules(Random& random, bool ingress, bool deny) {
  std::string list;
  for (uint32_t i = random.below(4); i > 0 || list.empty(); i = i == 0 ? 0 : i - 1) {
    const std::string to = ingress ? "from" : "to";
    std::string rule;
    switch (random.below(5)) {
      case 0:
        rule = to + "Endpoints: [" + selector(random) + ", " + selector(random) + "]";
        break;
      case 1:
        rule = to + "Entities: [" + random.of({"all", "host", "world", "cluster"}) + "]";
        break;
      case 2:
        rule = to + "CIDR: [" + random.of({"10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "'::/0'"}) + "]";
        break;
      case 3:
        rule = to + "CIDRSet: [{cidr: 10.0.0.0/8, except: [10.2.0.0/16]}]";
        break;
      default:
        rule = to + "Endpoints: [" + selector(random) + "]";
    }
    if (random.one_in(6)) rule.clear();
    if (!random.one_in(4)) {
      const bool http = !deny && !random.one_in(3);
      std::string text = "{ports: [{port: '" + random.of({"80", "443", "web", "0"}) + "', protocol: TCP}";
      if (random.one_in(3)) text += ", {port: '70', endPort: 8100, protocol: TCP}";
      text += "]";
      if (http) text += ", rules: {http: [" + http_rule(random) + ", " + http_rule(random) + "]}";
      rule += (rule.empty() ? "" : ", ") + ("toPorts: [" + text + "}]");
    }
    list += (list.empty() ? "" : ", ") + ("{" + rule + "}");
  }
  return "[" + list + "]";
}

inline std::string documents(Random& random) {
  std::string text = kWorkloads;
  for (uint32_t i = 1 + random.below(4); i > 0; i--) {
    const bool wide = random.one_in(4);
    text += "---\napiVersion: cilium.io/v2\nkind: Cilium" + std::string(wide ? "Clusterwide" : "") +
            "NetworkPolicy\nmetadata: {name: p" + std::to_string(i) +
            "}\nspec:\n  endpointSelector: " + selector(random) + "\n";
    const bool ingress = !random.one_in(3);
    if (ingress) text += "  ingress: " + rules(random, true, false) + "\n";
    if (!ingress || random.one_in(2)) text += "  egress: " + rules(random, false, false) + "\n";
    if (random.one_in(4)) text += "  ingressDeny: " + rules(random, true, true) + "\n";
    if (random.one_in(6)) text += "  egressDeny: " + rules(random, false, true) + "\n";
  }
  return text;
}

inline HttpRequest request(Random& random) {
  HttpRequest one;
  one.method = random.of({"GET", "POST", "PUT", "DELETE"});
  one.path = random.of({"/v1",      "/v1/x",       "/a/b/x", "/abc",      "/V1",     "/v12",
                        "/t/aa",    "/n/y",        "/a/bc",  "/x",        "/v1?q=1", "/v1//x",
                        "/v1/../x", "/v1/%78",     "/v1/.",  "/.x",       "/v1/x#y", "/a/\xc3\xa9/x",
                        "/v1/..x",  "/v1/x?a=%2e", "*",      "/a/bbc?c=x"});
  one.host = random.of({"", "h", "abc.x", "\xc3\xa9"});
  if (random.one_in(2)) one.headers.emplace_back(random.of({"X-A", "x-a", "X-C"}), random.of({"1", "12", "", "2"}));
  if (random.one_in(2)) one.headers.emplace_back("X-b", random.of({"yes", "no way", "no"}));
  if (random.one_in(10)) one.headers.emplace_back("X-B", "yes");
  return one;
}

}  // namespace shunt::policy
