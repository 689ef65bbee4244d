// cilium.io/v2 CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy, as Cilium means them.
#include <algorithm>
#include <l7parsers/fields.hpp>
#include <l7parsers/resp.hpp>
#include <policy/document_reader.hpp>
#include <policy/regex.hpp>

namespace shunt::policy {
namespace {

constexpr const char* kOnlyOnePeerHint = "write two rules";

// What can stand for the other end in one rule, by the direction.
struct PeerKeys {
  const char* endpoints;
  const char* entities;
  const char* cidr;
  const char* cidr_set;
};

PeerKeys peer_keys(Direction direction) {
  return direction == Direction::ingress ? PeerKeys{"fromEndpoints", "fromEntities", "fromCIDR", "fromCIDRSet"}
                                         : PeerKeys{"toEndpoints", "toEntities", "toCIDR", "toCIDRSet"};
}

void add_refused(Direction direction, bool deny, std::vector<YamlReader::Key>& keys) {
  if (direction == Direction::ingress) {
    keys.push_back(unsupported("fromRequires", "write the labels into fromEndpoints"));
    keys.push_back(unsupported("fromGroups", "write the addresses into fromCIDR"));
    keys.push_back(unsupported("fromNodes", "write the addresses of the nodes into fromCIDR"));
  } else {
    keys.push_back(unsupported("toRequires", "write the labels into toEndpoints"));
    keys.push_back(unsupported("toGroups", "write the addresses into toCIDR"));
    keys.push_back(unsupported("toNodes", "write the addresses of the nodes into toCIDR"));
    keys.push_back(unsupported("toFQDNs", "names change their addresses: write the addresses into toCIDR"));
    keys.push_back(unsupported("toServices", "write the labels of the service's workloads into toEndpoints"));
  }
  keys.push_back(unsupported("icmps", "Shunt governs TCP: remove it"));
  if (!deny)
    keys.push_back(unsupported("authentication", "mutual authentication is not a matter of policies here: remove it"));
}

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

bool is_token(const std::string& text) {
  constexpr std::string_view kOthers = "!#$%&'*+-.^_`|~";  // RFC 9110, 5.6.2
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || kOthers.find(c) != std::string_view::npos;
  });
}

}  // namespace

void DocumentReader::read_cilium_policy(const Node& node, bool clusterwide) {
  const Metadata metadata = read_metadata(node, !clusterwide);
  title(node, clusterwide ? "CiliumClusterwideNetworkPolicy" : "CiliumNetworkPolicy", metadata);
  yaml_.mapping(node, top_keys({{"spec",
                                 [&](const Node& spec) {
                                   if (!spec.IsNull()) read_cilium_spec(spec, metadata, "spec", clusterwide);
                                 }},
                                {"specs", [&](const Node& list) {
                                   size_t index = 0;
                                   yaml_.list(list, [&](const Node& spec) {
                                     const std::string path = "specs[" + std::to_string(index++) + "]";
                                     read_cilium_spec(spec, metadata, path, clusterwide);
                                   });
                                 }}}));
  const Node specs = find(node, "specs");
  if (absent(find(node, "spec")) && (absent(specs) || specs.size() == 0)) {
    yaml_.problem(node, "spec is missing", "add a spec with an endpointSelector, or specs");
  }
}

void DocumentReader::read_cilium_spec(const Node& node, const Metadata& metadata, const std::string& path,
                                      bool clusterwide) {
  auto policy = std::make_shared<Policy>();
  policy->kind = clusterwide ? "CiliumClusterwideNetworkPolicy" : "CiliumNetworkPolicy";
  policy->name_space = metadata.name_space;
  policy->name = metadata.name;
  const auto rules = [&](const char* key, Direction direction, bool deny) {
    return YamlReader::Key{key, [this, &policy, &path, key, direction, deny](const Node& list) {
                             read_cilium_rules(list, direction, deny, path + "." + key, *policy);
                           }};
  };
  const auto default_deny = [this](const Node& value) {
    bool wanted = true;
    yaml_.choice<bool>(wanted, value, {{"true", true}, {"false", false}});
    if (!wanted) yaml_.problem(value, "enableDefaultDeny: false is not supported", "write rules that allow the rest");
  };
  yaml_.mapping(
      node, {ignored("description"),
             ignored("labels"),
             {"endpointSelector", [&](const Node& value) { policy->subject = read_selector(value, KeyStyle::cilium); }},
             unsupported("nodeSelector", "Shunt has no policies for whole nodes: select workloads"),
             {"enableDefaultDeny",
              [&](const Node& value) {
                yaml_.mapping(value, {{"ingress", default_deny}, {"egress", default_deny}});
              }},
             rules("ingress", Direction::ingress, false),
             rules("ingressDeny", Direction::ingress, true),
             rules("egress", Direction::egress, false),
             rules("egressDeny", Direction::egress, true)});
  if (!node.IsMap()) return;
  if (absent(find(node, "endpointSelector"))) {
    yaml_.problem(node, "endpointSelector is missing", "endpointSelector: {} selects every workload");
  }
  if (!policy->ingress && !policy->egress) {
    yaml_.problem(node, "a policy without rules has no effect",
                  "ingress: [{}] allows nothing; or add ingress, egress, ingressDeny or egressDeny");
  }
  for (const Requirement& requirement : policy->subject.requirements) {
    const bool foreign =
        !clusterwide && requirement.key == kNamespaceLabel &&
        (requirement.op != Requirement::Operator::in || requirement.values != std::vector{policy->name_space});
    if (foreign) {
      yaml_.problem(find(node, "endpointSelector"),
                    "a CiliumNetworkPolicy selects workloads of its own namespace alone",
                    "write a CiliumClusterwideNetworkPolicy, or remove the namespace");
    }
    if (requirement.key.starts_with(kReservedPrefix)) {
      yaml_.problem(find(node, "endpointSelector"), "policies for " + in_quotes(requirement.key) + " are not supported",
                    "select workloads");
    }
  }
  Requirement scope{kNamespaceLabel, Requirement::Operator::in, {policy->name_space}};
  if (clusterwide) scope = {kNamespaceLabel, Requirement::Operator::exists, {}};
  policy->subject.requirements.push_back(std::move(scope));
  std::sort(policy->subject.requirements.begin(), policy->subject.requirements.end());
  document_.policies.push_back(std::move(policy));
}

void DocumentReader::read_cilium_rules(const Node& list, Direction direction, bool deny, const std::string& path,
                                       Policy& policy) {
  size_t index = 0;
  yaml_.list(list, [&](const Node& item) {
    // A direction with rules denies by default, even where a rule is empty.
    (direction == Direction::ingress ? policy.ingress : policy.egress) = true;
    Rule start;
    start.direction = direction;
    start.deny = deny;
    start.path = path + "[" + std::to_string(index++) + "]";
    start.place = place(item);
    read_cilium_rule(item, start, policy);
  });
}

void DocumentReader::read_cilium_rule(const Node& node, const Rule& start, Policy& policy) {
  const PeerKeys keys = peer_keys(start.direction);
  std::vector<YamlReader::Key> known = {ignored(keys.endpoints), ignored(keys.entities), ignored(keys.cidr),
                                        ignored(keys.cidr_set), ignored("toPorts")};
  add_refused(start.direction, start.deny, known);
  yaml_.mapping(node, known);
  if (!node.IsMap()) return;
  const Node ports = find(node, "toPorts");
  const bool has_ports = !absent(ports) && !(ports.IsSequence() && ports.size() == 0);
  const Peers peers = read_cilium_peers(node, start, policy, has_ports);
  const bool names_peers = peers.any || !peers.selectors.empty() || !peers.cidrs.empty();
  if (!has_ports) {
    if (!names_peers) return;
    Rule rule = start;
    rule.peers = peers;
    return add_rule(policy, std::move(rule));
  }
  size_t index = 0;
  yaml_.list(ports, [&](const Node& item) {
    Rule rule = start;
    rule.peers = peers;
    rule.path += ".toPorts[" + std::to_string(index++) + "]";
    rule.place = place(item);
    read_cilium_ports(item, rule);
    add_rule(policy, std::move(rule));
  });
}

Peers DocumentReader::read_cilium_peers(const Node& node, const Rule& start, const Policy& policy, bool has_ports) {
  const PeerKeys keys = peer_keys(start.direction);
  Peers peers;
  const char* given = nullptr;
  for (const char* key : {keys.endpoints, keys.entities, keys.cidr, keys.cidr_set}) {
    const Node list = find(node, key);
    if (absent(list)) continue;
    if (given != nullptr) {
      yaml_.problem(list, std::string(given) + " and " + key + " in one rule are not supported", kOnlyOnePeerHint);
    }
    given = key;
    yaml_.list(list, [&](const Node& item) {
      if (key == keys.endpoints) {
        peers.selectors.push_back(endpoint_selector(item, policy));
      } else if (key == keys.entities) {
        read_entity(item, peers);
      } else if (key == keys.cidr) {
        read_cidr_block(item, Node(YAML::NodeType::Undefined), peers.cidrs);
      } else {
        yaml_.mapping(item, {ignored("cidr"), ignored("except"),
                             unsupported("cidrGroupRef", "write the networks of the group here"),
                             unsupported("cidrGroupSelector", "write the networks of the groups here")});
        const Node cidr = find(item, "cidr");
        if (item.IsMap() && absent(cidr)) yaml_.problem(item, "cidr is missing", "add cidr: 10.0.0.0/8");
        if (!absent(cidr)) read_cidr_block(cidr, find(item, "except"), peers.cidrs);
      }
    });
  }
  // Ports without peers are open to everybody; a list of peers that is there and empty selects nobody.
  if (given == nullptr && has_ports) peers.any = true;
  return peers;
}

void DocumentReader::read_entity(const Node& node, Peers& peers) {
  using Operator = Requirement::Operator;
  const auto name = yaml_.scalar(node);
  if (!name) return;
  const Selector host{{{"reserved:host", Operator::exists, {}}}};
  const Selector workloads{{{kNamespaceLabel, Operator::exists, {}}}};
  if (*name == "all") {
    peers.any = true;
  } else if (*name == "host") {
    peers.selectors.push_back(host);
  } else if (*name == "world") {
    peers.selectors.push_back({{{"reserved:world", Operator::exists, {}}}});
  } else if (*name == "cluster") {
    peers.selectors.push_back(host);
    peers.selectors.push_back(workloads);
  } else {
    for (const char* known : {"init", "health", "unmanaged", "remote-node", "kube-apiserver", "ingress", "none",
                              "world-ipv4", "world-ipv6"}) {
      if (*name == known) {
        return yaml_.problem(node, "the entity " + in_quotes(*name) + " is not supported",
                             "write its addresses into fromCIDR or toCIDR, or remove it");
      }
    }
    yaml_.problem(node, in_quotes(*name) + " is not an entity", "the entities are all, host, world and cluster");
  }
}

Selector DocumentReader::endpoint_selector(const Node& node, const Policy& policy) {
  Selector selector = read_selector(node, KeyStyle::cilium);
  bool has_namespace = false;
  for (const Requirement& requirement : selector.requirements) {
    if (requirement.key.starts_with(kReservedPrefix)) return selector;
    has_namespace |= requirement.key == kNamespaceLabel;
    has_namespace |= !policy.name_space.empty() && requirement.key.starts_with(kNamespaceLabelsPrefix);
  }
  if (!has_namespace) {
    Requirement scope{kNamespaceLabel, Requirement::Operator::in, {policy.name_space}};
    if (policy.name_space.empty()) scope = {kNamespaceLabel, Requirement::Operator::exists, {}};
    selector.requirements.push_back(std::move(scope));
    std::sort(selector.requirements.begin(), selector.requirements.end());
  }
  return selector;
}

void DocumentReader::read_cilium_ports(const Node& node, Rule& rule) {
  rule.any_port = false;
  std::vector<YamlReader::Key> keys = {
      {"ports", [&](const Node& list) { yaml_.list(list, [&](const Node& item) { read_cilium_port(item, rule); }); }}};
  if (!rule.deny) {
    keys.push_back({"rules", [&](const Node& rules) { read_request_rules(rules, rule); }});
    keys.push_back(unsupported("serverNames", "Shunt does not look into TLS: remove it"));
    keys.push_back(unsupported("terminatingTLS", "Shunt does not terminate TLS for others: remove it"));
    keys.push_back(unsupported("originatingTLS", "Shunt does not originate TLS for others: remove it"));
    keys.push_back(unsupported("listener", "there is no Envoy listener here: remove it"));
  } else {
    keys.push_back(unsupported("rules", "deny rules reach up to ports: allow the requests that are wanted instead"));
  }
  yaml_.mapping(node, keys);
  const Node ports = find(node, "ports");
  if (node.IsMap() && (absent(ports) || (ports.IsSequence() && ports.size() == 0))) {
    yaml_.problem(node, "toPorts without ports", "add ports: [{port: \"80\", protocol: TCP}]");
  }
}

void DocumentReader::read_cilium_port(const Node& node, Rule& rule) {
  std::string protocol = "ANY";
  std::optional<uint16_t> last;
  yaml_.mapping(node,
                {ignored("port"),
                 {"endPort", [&](const Node& value) { last = read_port_number(value); }},
                 {"protocol", [&](const Node& value) {
                    std::vector<std::pair<std::string, std::string>> names;
                    for (const char* name : {"TCP", "UDP", "SCTP", "ANY", "ICMP", "ICMPv6", "tcp", "udp", "any"}) {
                      names.emplace_back(name, name);
                    }
                    yaml_.choice<std::string>(protocol, value, names);
                  }}});
  if (!node.IsMap()) return;
  const Node port = find(node, "port");
  if (absent(port)) return yaml_.problem(node, "port is missing", "write a number in quotes, or the name of a port");
  const auto text = yaml_.scalar(port);
  if (!text) return;
  if (protocol == "tcp" || protocol == "any") protocol = protocol == "tcp" ? "TCP" : "ANY";
  if (rule.protocol != Protocol::tcp && protocol != "TCP") {
    return yaml_.problem(node, "rules for requests need protocol: TCP", "write protocol: TCP");
  }
  if (protocol != "TCP" && protocol != "ANY") {
    return note(node, "a rule for " + protocol + " has no effect: Shunt governs TCP",
                "keep something else in front of " + protocol);
  }
  if (*text != "0") return add_port(port, *text, last, rule.ports);
  if (last) return yaml_.problem(node, "endPort with port 0", "write the first port of the range");
  rule.ports.push_back({0, 0, {}});
}

void DocumentReader::read_request_rules(const Node& node, Rule& rule) {
  yaml_.mapping(node, {{"http",
                        [&](const Node& list) {
                          rule.protocol = Protocol::http;
                          rule.http = read_http_rules(list);
                          if (rule.http.empty()) {
                            yaml_.problem(list, "http without rules", "write '- {}' for every request, or remove it");
                          }
                        }},
                       unsupported("dns", "Shunt does not read DNS: remove rules, and the port stays open"),
                       unsupported("kafka", "Shunt does not read Kafka: remove rules, and the port stays open"),
                       ignored("l7proto"),
                       ignored("l7")});
  const Node protocol = find(node, "l7proto");
  const Node list = find(node, "l7");
  if (absent(protocol)) {
    if (!absent(list)) yaml_.problem(list, "l7 without l7proto", "add l7proto: redis");
    return;
  }
  const auto name = yaml_.scalar(protocol);
  if (!name) return;
  if (rule.protocol == Protocol::http)
    return yaml_.problem(protocol, "http and l7proto in one rule", "one port speaks one protocol: remove one of them");
  if (*name != "redis") {
    return yaml_.problem(protocol, "the l7proto " + in_quotes(*name) + " is not supported",
                         "write http rules, or l7proto: redis");
  }
  rule.protocol = Protocol::resp;
  if (!absent(list)) yaml_.list(list, [&](const Node& item) { rule.redis.push_back(read_redis_rule(item)); });
  if (rule.redis.empty())
    yaml_.problem(protocol, "l7proto without rules", "add l7: with '- {}' for every command, or remove it");
}

// As the table of the parser and the names of modules have them.
void DocumentReader::read_redis_command(const Node& node, RedisRule& rule) {
  const auto text = yaml_.scalar(node);
  if (!text) return;
  const auto in_names = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
  };
  if (text->empty() || text->size() > kRedisCommandBytesMax || !std::all_of(text->begin(), text->end(), in_names)) {
    return yaml_.problem(
        node, in_quotes(*text) + " is not the name of one Redis command",
        "write GET; subcommands and patterns are not told apart, and a rule without command is for all");
  }
  rule.command = lower_case(*text);
}

void DocumentReader::read_redis_key(const Node& node, RedisRule& rule) {
  auto text = yaml_.scalar(node);
  if (!text) return;
  if (text->size() > kExpressionBytesMax) return yaml_.problem(node, "the key is too long");
  rule.key_is_prefix = text->ends_with('*');
  if (rule.key_is_prefix) text->pop_back();
  if (text->find_first_of("*?[\\") != std::string::npos) {
    return yaml_.problem(node, "of patterns only a '*' at the end of a key is supported",
                         "write the key, or 'PREFIX*'; keys with * ? [ or \\ cannot be named");
  }
  rule.key = std::move(*text);
}

RedisRule DocumentReader::read_redis_rule(const Node& node) {
  RedisRule rule;
  rule.place = place(node);
  yaml_.mapping(node, {{"command", [&](const Node& value) { read_redis_command(value, rule); }},
                       {"key", [&](const Node& value) { read_redis_key(value, rule); }},
                       unsupported("cmd", "write command"),
                       unsupported("keys", "write one rule with key: for each"),
                       unsupported("channel", "channels are not told apart: write command: SUBSCRIBE or PUBLISH alone"),
                       unsupported("args", "only command and key are looked at")});
  if (rule.key && !rule.command.empty() && !l7::resp_has_keys(rule.command)) {
    yaml_.problem(find(node, "key"), "the keys of " + in_quotes(rule.command) + " are not known",
                  "a rule for it can have the command alone, and allows it with all keys");
  }
  return rule;
}

void DocumentReader::read_expression(const Node& node, std::string& target) {
  const auto text = yaml_.scalar(node);
  if (!text) return;
  if (text->size() > kExpressionBytesMax) {
    return yaml_.problem(node, "an expression of more than " + std::to_string(kExpressionBytesMax) + " bytes",
                         "write a shorter one, or several rules");
  }
  const auto syntax = check_regex(*text);
  if (!syntax) return yaml_.problem(node, in_quotes(*text) + ": " + syntax.error().message, syntax.error().remedy);
  target = *text;
}

std::vector<HttpRule> DocumentReader::read_http_rules(const Node& list) {
  std::vector<HttpRule> rules;
  yaml_.list(list, [&](const Node& item) { rules.push_back(read_http_rule(item)); });
  return rules;
}

HttpRule DocumentReader::read_http_rule(const Node& node) {
  HttpRule rule;
  rule.place = place(node);
  yaml_.mapping(
      node,
      {{"method", [&](const Node& value) { read_expression(value, rule.method); }},
       {"path", [&](const Node& value) { read_expression(value, rule.path); }},
       {"host", [&](const Node& value) { read_expression(value, rule.host); }},
       {"headers", [&](const Node& list) { yaml_.list(list, [&](const Node& item) { read_header(item, rule); }); }},
       {"headerMatches",
        [&](const Node& list) { yaml_.list(list, [&](const Node& item) { read_header_match(item, rule); }); }}});
  std::sort(rule.headers.begin(), rule.headers.end());
  rule.headers.erase(std::unique(rule.headers.begin(), rule.headers.end()), rule.headers.end());
  return rule;
}

std::optional<HeaderCondition> DocumentReader::header_condition(const Node& node, const std::string& written,
                                                                std::optional<std::string> value) {
  const std::string name = lower_case(written);
  const auto problem = [&](const std::string& what, const std::string& remedy) {
    yaml_.problem(node, what, remedy);
    return std::nullopt;
  };
  if (name == ":path" || name == ":method" || name == ":authority" || name == "host")
    return problem(in_quotes(name) + " is not matched as a header", "use path:, method: or host: of the rule");
  if (!is_token(name)) return problem(in_quotes(name) + " is not the name of a header", "");
  if (value && (value->front() == ' ' || value->back() == ' ' ||
                std::any_of(value->begin(), value->end(), is_control_character))) {
    return problem("no header has the value " + in_quotes(*value),
                   "values neither begin nor end with a space, and have no control characters");
  }
  if (value && value->size() > kExpressionBytesMax) return problem("the value of the header is too long", "");
  return HeaderCondition{name, std::move(value)};
}

void DocumentReader::add_header(const Node& node, const std::string& name, std::optional<std::string> value,
                                HttpRule& rule) {
  if (auto condition = header_condition(node, name, std::move(value))) rule.headers.push_back(std::move(*condition));
}

// What frames a message or concerns one connection alone is nobody's to write.
void DocumentReader::add_rewrite(const Node& node, const std::string& name, std::optional<std::string> value,
                                 HeaderRewrite::Action action, HttpRule& rule) {
  const bool writes = action != HeaderRewrite::Action::log;
  std::string folded = name;
  std::replace(folded.begin(), folded.end(), '_', '-');
  const l7::Known known = l7::known_field(folded);
  if (writes && known != l7::Known::other && known != l7::Known::host) {
    return yaml_.problem(node, in_quotes(name) + " says where a request ends, or concerns one connection alone",
                         "it cannot be written here; choose another header");
  }
  if (writes && !value) {
    return yaml_.problem(node, "a header that is written on a mismatch needs a value", "add value: TEXT");
  }
  auto condition = header_condition(node, name, std::move(value));
  if (condition) rule.rewrites.push_back({std::move(*condition), action, name});
}

void DocumentReader::read_header(const Node& node, HttpRule& rule) {
  if (node.IsMap()) {
    return yaml_.problem(node, "a header condition is one text", "write it in quotes: 'X-Name: value'");
  }
  const auto text = yaml_.scalar(node);
  if (!text) return;
  const size_t space = text->find(' ');
  std::string name = text->substr(0, space);
  if (space == std::string::npos) {
    if (name.ends_with(':')) {
      return yaml_.problem(node, in_quotes(*text) + " has a colon and no value",
                           "write 'Name: value', or the name alone");
    }
    return add_header(node, name, std::nullopt, rule);
  }
  while (name.ends_with(':')) name.pop_back();
  std::string value = text->substr(space + 1);
  if (value.empty())
    return yaml_.problem(node, in_quotes(*text) + " has no value", "write the name alone for any value");
  add_header(node, name, std::move(value), rule);
}

void DocumentReader::read_header_match(const Node& node, HttpRule& rule) {
  using Action = HeaderRewrite::Action;
  std::string name;
  std::optional<std::string> value;
  std::optional<Action> action;
  const auto read_mismatch = [&](const Node& item) {
    yaml_.choice<std::optional<Action>>(
        action, item,
        {{"LOG", Action::log}, {"ADD", Action::add}, {"REPLACE", Action::replace}, {"DELETE", Action::remove}});
  };
  yaml_.mapping(node, {{"name", [&](const Node& item) { name = yaml_.scalar(item).value_or(""); }},
                       {"value",
                        [&](const Node& item) {
                          value = yaml_.scalar(item);
                          if (value && value->empty()) value.reset();
                        }},
                       {"mismatch", read_mismatch},
                       unsupported("secret", "write the value, or remove the condition")});
  if (!node.IsMap()) return;
  if (name.empty()) return yaml_.problem(node, "a header condition needs a name", "add name: HEADER");
  action ? add_rewrite(node, name, std::move(value), *action, rule) : add_header(node, name, std::move(value), rule);
}

}  // namespace shunt::policy
