// networking.k8s.io/v1 NetworkPolicy and v1 Namespace, as Kubernetes means them.
#include <algorithm>
#include <policy/document_reader.hpp>

namespace shunt::policy {

void DocumentReader::read_namespace(const Node& node) {
  const Metadata metadata = read_metadata(node, false);
  yaml_.mapping(node, top_keys({ignored("spec")}));
  title(node, "Namespace", metadata);
  document_.namespaces.push_back({metadata.name, metadata.labels});
}

void DocumentReader::read_network_policy(const Node& node) {
  const Metadata metadata = read_metadata(node, true);
  title(node, "NetworkPolicy", metadata);
  auto policy = std::make_shared<Policy>();
  policy->kind = "NetworkPolicy";
  policy->name_space = metadata.name_space;
  policy->name = metadata.name;
  const Node spec = find(node, "spec");
  yaml_.mapping(node, top_keys({ignored("spec")}));
  if (absent(spec)) return yaml_.problem(node, "spec is missing", "add a spec with a podSelector");
  bool has_types = false;
  const auto rules = [&](Direction direction, const char* path) {
    return [this, &policy, direction, path](const Node& list) {
      size_t index = 0;
      yaml_.list(list, [&](const Node& item) {
        read_network_rule(item, direction, "spec." + std::string(path) + "[" + std::to_string(index++) + "]", *policy);
      });
    };
  };
  yaml_.mapping(
      spec, {{"podSelector", [&](const Node& value) { policy->subject = read_selector(value, KeyStyle::kubernetes); }},
             {"policyTypes",
              [&](const Node& list) {
                yaml_.list(list, [&](const Node& item) {
                  bool* type = nullptr;
                  yaml_.choice<bool*>(type, item, {{"Ingress", &policy->ingress}, {"Egress", &policy->egress}});
                  if (type != nullptr) *type = has_types = true;
                });
              }},
             {"ingress", rules(Direction::ingress, "ingress")},
             {"egress", rules(Direction::egress, "egress")}});
  if (absent(find(spec, "podSelector"))) {
    yaml_.problem(spec, "podSelector is missing", "podSelector: {} selects every workload of the namespace");
  }
  if (!has_types) {
    // The default of Kubernetes: Ingress always, Egress where there are egress rules.
    policy->ingress = true;
    policy->egress = !absent(find(spec, "egress"));
  }
  for (const auto& [key, in_force] : {std::pair{"ingress", policy->ingress}, {"egress", policy->egress}}) {
    const Node list = find(spec, key);
    if (in_force || absent(list) || list.size() == 0) continue;
    note(list, std::string("policyTypes does not name this direction: the ") + key + " rules have no effect",
         "add it to policyTypes, or remove the rules");
  }
  std::erase_if(policy->rules, [&](const Rule& rule) {
    return rule.direction == Direction::ingress ? !policy->ingress : !policy->egress;
  });
  policy->subject.requirements.push_back({kNamespaceLabel, Requirement::Operator::in, {policy->name_space}});
  std::sort(policy->subject.requirements.begin(), policy->subject.requirements.end());
  document_.policies.push_back(std::move(policy));
}

void DocumentReader::read_network_rule(const Node& node, Direction direction, const std::string& path, Policy& policy) {
  Rule rule;
  rule.direction = direction;
  rule.path = path;
  rule.place = place(node);
  rule.peers.any = true;
  const auto peers = [&](const Node& list) {
    yaml_.list(list, [&](const Node& item) {
      rule.peers.any = false;
      read_network_peer(item, policy.name_space, rule.peers);
    });
  };
  const auto ports = [&](const Node& list) {
    yaml_.list(list, [&](const Node& item) {
      rule.any_port = false;
      read_network_port(item, rule.ports);
    });
  };
  yaml_.mapping(node, {{direction == Direction::ingress ? "from" : "to", peers}, {"ports", ports}});
  add_rule(policy, std::move(rule));
}

void DocumentReader::read_network_peer(const Node& node, const std::string& name_space, Peers& peers) {
  Node pods = find(node, "podSelector");
  Node namespaces = find(node, "namespaceSelector");
  Node block = find(node, "ipBlock");
  yaml_.mapping(node, {ignored("podSelector"), ignored("namespaceSelector"), ignored("ipBlock")});
  const bool selects = !absent(pods) || !absent(namespaces);
  if (!absent(block)) {
    if (selects) return yaml_.problem(node, "ipBlock stands alone in its peer", "write two peers");
    return read_ip_block(block, peers.cidrs);
  }
  if (!selects) {
    if (!node.IsMap() && !node.IsNull()) return;
    return yaml_.problem(node, "a peer needs podSelector, namespaceSelector or ipBlock",
                         "podSelector: {} selects every workload of the namespace");
  }
  Selector selector;
  const auto append = [&](const Selector& more) {
    selector.requirements.insert(selector.requirements.end(), more.requirements.begin(), more.requirements.end());
  };
  if (!absent(pods)) append(read_selector(pods, KeyStyle::kubernetes));
  if (absent(namespaces)) {
    append({{{kNamespaceLabel, Requirement::Operator::in, {name_space}}}});
  } else {
    append(read_selector(namespaces, KeyStyle::kubernetes, kNamespaceLabelsPrefix));
    // Workloads alone have a namespace: neither the host nor the world does, whatever NotIn says.
    append({{{kNamespaceLabel, Requirement::Operator::exists, {}}}});
  }
  std::sort(selector.requirements.begin(), selector.requirements.end());
  peers.selectors.push_back(std::move(selector));
}

void DocumentReader::read_ip_block(const Node& node, std::vector<CidrBlock>& cidrs) {
  yaml_.mapping(node, {ignored("cidr"), ignored("except")});
  const Node cidr = find(node, "cidr");
  if (absent(cidr)) return yaml_.problem(node, "an ipBlock needs a cidr", "add cidr: 10.0.0.0/8");
  read_cidr_block(cidr, find(node, "except"), cidrs);
}

void DocumentReader::read_network_port(const Node& node, std::vector<PortSpec>& ports) {
  std::string protocol = "TCP";
  std::optional<uint16_t> last;
  yaml_.mapping(node,
                {{"protocol",
                  [&](const Node& value) {
                    yaml_.choice<std::string>(protocol, value, {{"TCP", "TCP"}, {"UDP", "UDP"}, {"SCTP", "SCTP"}});
                  }},
                 ignored("port"),
                 {"endPort", [&](const Node& value) { last = read_port_number(value); }}});
  if (!node.IsMap()) return;
  const Node port = find(node, "port");
  if (absent(port) && !absent(find(node, "endPort"))) {
    return yaml_.problem(node, "endPort without port", "add the first port of the range");
  }
  if (protocol != "TCP") {
    return note(node, "a rule for " + protocol + " has no effect: Shunt governs TCP",
                "keep something else in front of " + protocol);
  }
  if (absent(port)) return ports.push_back({0, 0, {}});
  if (const auto text = yaml_.scalar(port)) add_port(port, *text, last, ports);
}

}  // namespace shunt::policy
