#include <algorithm>
#include <base/nearest.hpp>
#include <policy/document_reader.hpp>
#include <set>

namespace shunt::policy {
namespace {

constexpr size_t kLabelKeyMax = 317;  // a DNS subdomain of 253, a slash, a name of 63
constexpr size_t kLabelValueMax = 63;
constexpr size_t kNameMax = 253;

bool is_label_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
}

bool is_label_key(const std::string& key) {
  return !key.empty() && key.size() <= kLabelKeyMax && std::count(key.begin(), key.end(), '/') <= 1 &&
         std::all_of(key.begin(), key.end(), [](char c) { return is_label_character(c) || c == '/'; });
}

}  // namespace

YamlReader::Key ignored(const char* name) {
  return {name, [](const Node&) {}};
}

YamlReader::Key unsupported(const char* name, const char* hint) {
  return {name, [](const Node&) {}, hint};
}

Result<std::string> parse_name(const std::string& text) {
  const bool right = !text.empty() && text.size() <= kNameMax && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
  });
  if (!right) {
    return invalid(in_quotes(text) + " is not a name", "write at most 253 of lower case letters, digits, '-' and '.'");
  }
  return text;
}

Node DocumentReader::find(const Node& map, const char* key) {
  if (map.IsMap()) {
    for (const auto& entry : map) {
      if (entry.first.IsScalar() && entry.first.Scalar() == key) return entry.second;
    }
  }
  return Node(YAML::NodeType::Undefined);
}

void DocumentReader::note(const Node& node, std::string message, std::string remedy) {
  const Place at = place(node);
  document_.notes.push_back({yaml_.file(), at.line, at.column, std::move(message), std::move(remedy)});
}

void DocumentReader::title(const Node& node, const std::string& kind, const Metadata& metadata) {
  const std::string name = metadata.name_space.empty() ? metadata.name : metadata.name_space + "/" + metadata.name;
  if (!metadata.name.empty()) document_.titles.emplace_back(kind + " " + name, place(node));
}

std::vector<YamlReader::Key> DocumentReader::top_keys(std::vector<YamlReader::Key> more) const {
  for (const char* name : {"apiVersion", "kind", "metadata", "status"}) more.push_back(ignored(name));
  return more;
}

void DocumentReader::read(const Node& node) {
  if (!node.IsMap()) return yaml_.problem(node, "a document must be a mapping", "it begins with apiVersion and kind");
  const Node api = find(node, "apiVersion");
  const Node kind = find(node, "kind");
  if (absent(api) || absent(kind) || !api.IsScalar() || !kind.IsScalar()) {
    return yaml_.problem(node, "a document needs apiVersion and kind",
                         "for example cilium.io/v2 and CiliumNetworkPolicy");
  }
  using Read = void (*)(DocumentReader&, const Node&);
  static const std::vector<std::pair<std::string, Read>> kKinds = {
      {"networking.k8s.io/v1 NetworkPolicy", [](DocumentReader& r, const Node& n) { r.read_network_policy(n); }},
      {"cilium.io/v2 CiliumNetworkPolicy", [](DocumentReader& r, const Node& n) { r.read_cilium_policy(n, false); }},
      {"cilium.io/v2 CiliumClusterwideNetworkPolicy",
       [](DocumentReader& r, const Node& n) { r.read_cilium_policy(n, true); }},
      {"v1 Namespace", [](DocumentReader& r, const Node& n) { r.read_namespace(n); }},
      {"v1 List", [](DocumentReader& r, const Node& n) { r.read_list(n); }},
      {"shunt.dev/v1 Workload", [](DocumentReader& r, const Node& n) { r.read_workload(n); }},
      {"shunt.dev/v1 Service", [](DocumentReader& r, const Node& n) { r.read_service(n); }},
  };
  const std::string wanted = api.Scalar() + " " + kind.Scalar();
  for (const auto& [name, read_kind] : kKinds) {
    if (name == wanted) return read_kind(*this, node);
  }
  if (wanted == "v1 Pod" || wanted == "v1 Service" || wanted.ends_with(" Deployment")) {
    return yaml_.problem(
        kind, in_quotes(wanted) + " is not supported",
        wanted == "v1 Service" ? "write a Service of shunt.dev/v1" : "write a Workload of shunt.dev/v1");
  }
  std::vector<std::string> names;
  for (const auto& entry : kKinds) names.push_back(entry.first);
  const auto meant = nearest(wanted, names);
  yaml_.problem(kind, in_quotes(wanted) + " is not supported",
                meant ? "did you mean '" + *meant + "'?"
                      : "supported are NetworkPolicy, CiliumNetworkPolicy, "
                        "CiliumClusterwideNetworkPolicy, Namespace, Workload and Service");
}

void DocumentReader::read_list(const Node& node) {
  yaml_.mapping(node, top_keys({{"items", [this](const Node& items) {
                                   yaml_.list(items, [this](const Node& item) {
                                     const bool nested =
                                         find(item, "kind").IsDefined() && find(item, "items").IsDefined();
                                     nested ? yaml_.problem(item, "a list within a list") : read(item);
                                   });
                                 }}}));
}

Metadata DocumentReader::read_metadata(const Node& node, bool namespaced) {
  Metadata metadata;
  const Node section = find(node, "metadata");
  std::vector<YamlReader::Key> keys = {
      {"name", [&](const Node& value) { yaml_.set(metadata.name, value, parse_name); }},
      {"labels", [&](const Node& value) { read_labels(value, metadata.labels); }}};
  if (namespaced) {
    keys.push_back({"namespace", [&](const Node& value) { yaml_.set(metadata.name_space, value, parse_name); }});
  } else {
    keys.push_back(unsupported("namespace", "this kind has no namespace: remove it"));
  }
  for (const char* name : {"annotations", "uid", "resourceVersion", "generation", "creationTimestamp", "generateName",
                           "managedFields", "ownerReferences", "finalizers", "selfLink"}) {
    keys.push_back(ignored(name));
  }
  const bool named = !absent(section) && !absent(find(section, "name"));
  if (!absent(section)) yaml_.mapping(section, keys);
  if (!named) yaml_.problem(absent(section) ? node : section, "metadata.name is missing", "give the document a name");
  if (namespaced && metadata.name_space.empty()) metadata.name_space = "default";
  return metadata;
}

std::optional<std::string> DocumentReader::label_key(const Node& node, KeyStyle style) {
  std::optional<std::string> key = yaml_.scalar(node);
  if (!key) return std::nullopt;
  if (style == KeyStyle::cilium) {
    for (const char* source : {"k8s:", "any:"}) {
      if (key->starts_with(source)) {
        key->erase(0, 4);
        break;
      }
    }
    if (key->starts_with(kReservedPrefix)) {
      if (*key == "reserved:host" || *key == "reserved:world") return key;
      yaml_.problem(node, in_quotes(*key) + " is not supported",
                    "on a host there are reserved:host and reserved:world");
      return std::nullopt;
    }
    const size_t colon = key->find(':');
    if (colon != std::string::npos) {
      yaml_.problem(node, "labels of the source " + in_quotes(key->substr(0, colon)) + " are not supported",
                    "write the key alone, or with k8s: or any: before it");
      return std::nullopt;
    }
  }
  if (is_label_key(*key)) return key;
  yaml_.problem(node, in_quotes(*key) + " is not a key of a label", "write letters, digits, '-', '_', '.' and one '/'");
  return std::nullopt;
}

std::optional<std::string> DocumentReader::label_value(const Node& node) {
  if (node.IsNull() || (node.IsScalar() && node.Scalar().empty())) return std::string();
  const auto value = yaml_.scalar(node);
  if (!value) return std::nullopt;
  if (value->size() <= kLabelValueMax && std::all_of(value->begin(), value->end(), is_label_character)) return value;
  yaml_.problem(node, in_quotes(*value) + " is not a value of a label",
                "write at most 63 letters, digits, '-', '_', '.'");
  return std::nullopt;
}

void DocumentReader::read_labels(const Node& node, Labels& labels) {
  if (absent(node)) return;
  if (!node.IsMap()) return yaml_.problem(node, "expected labels", "write one 'key: value' a line");
  for (const auto& entry : node) {
    const auto key = label_key(entry.first, KeyStyle::kubernetes);
    const auto value = label_value(entry.second);
    if (key && value && !labels.emplace(*key, *value).second) {
      yaml_.problem(entry.first, "the label " + in_quotes(*key) + " stands here twice", "remove one of the two");
    }
  }
}

Selector DocumentReader::read_selector(const Node& node, KeyStyle style, const std::string& key_prefix) {
  Selector selector;
  const auto match_labels = [&](const Node& labels) {
    if (absent(labels)) return;
    if (!labels.IsMap()) return yaml_.problem(labels, "expected labels", "write one 'key: value' a line");
    std::set<std::string> seen;
    for (const auto& entry : labels) {
      const auto key = label_key(entry.first, style);
      const auto value = label_value(entry.second);
      if (!key || !value) continue;
      if (!seen.insert(*key).second) {
        yaml_.problem(entry.first, "the label " + in_quotes(*key) + " stands here twice", "remove one of the two");
      }
      selector.requirements.push_back({key_prefix + *key, Requirement::Operator::in, {*value}});
    }
  };
  yaml_.mapping(node, {{"matchLabels", match_labels}, {"matchExpressions", [&](const Node& list) {
                                                         yaml_.list(list, [&](const Node& item) {
                                                           read_requirement(item, style, key_prefix, selector);
                                                         });
                                                       }}});
  std::sort(selector.requirements.begin(), selector.requirements.end());
  return selector;
}

void DocumentReader::read_requirement(const Node& node, KeyStyle style, const std::string& key_prefix,
                                      Selector& selector) {
  using Operator = Requirement::Operator;
  Requirement requirement;
  yaml_.mapping(node, {{"key",
                        [&](const Node& value) {
                          if (const auto key = label_key(value, style)) requirement.key = key_prefix + *key;
                        }},
                       {"operator",
                        [&](const Node& value) {
                          yaml_.choice<Operator>(requirement.op, value,
                                                 {{"In", Operator::in},
                                                  {"NotIn", Operator::not_in},
                                                  {"Exists", Operator::exists},
                                                  {"DoesNotExist", Operator::does_not_exist}});
                        }},
                       {"values", [&](const Node& list) {
                          yaml_.list(list, [&](const Node& item) {
                            if (const auto value = label_value(item)) requirement.values.push_back(*value);
                          });
                        }}});
  if (!node.IsMap()) return yaml_.problem(node, "expected key, operator and values");
  if (absent(find(node, "key"))) return yaml_.problem(node, "a requirement needs a key", "add key: LABEL");
  if (absent(find(node, "operator"))) {
    return yaml_.problem(node, "a requirement needs an operator", "add operator: In, NotIn, Exists or DoesNotExist");
  }
  const bool takes_values = requirement.op == Operator::in || requirement.op == Operator::not_in;
  if (takes_values != !requirement.values.empty()) {
    return yaml_.problem(node, takes_values ? "In and NotIn need values" : "Exists and DoesNotExist take no values",
                         takes_values ? "add values: [VALUE]" : "remove values");
  }
  std::sort(requirement.values.begin(), requirement.values.end());
  selector.requirements.push_back(std::move(requirement));
}

void DocumentReader::read_cidr_block(const Node& cidr, const Node& except, std::vector<CidrBlock>& cidrs) {
  const auto network = yaml_.value(cidr, [](const std::string& text) { return parse_cidr(text); });
  if (!network) return;
  CidrBlock block{*network, {}};
  if (!absent(except)) {
    yaml_.list(except, [&](const Node& item) {
      const auto part = yaml_.value(item, [](const std::string& text) { return parse_cidr(text); });
      if (part && !contains(block.cidr, *part)) {
        yaml_.problem(item, format_cidr(*part) + " is not a part of " + format_cidr(block.cidr),
                      "except may only name parts of its own block");
      } else if (part) {
        block.except.push_back(*part);
      }
    });
  }
  cidrs.push_back(std::move(block));
}

std::optional<uint16_t> DocumentReader::read_port_number(const Node& node) {
  const auto number = yaml_.value(node, [](const std::string& text) { return parse_number(text, 1, 65535); });
  return number ? std::optional(static_cast<uint16_t>(*number)) : std::nullopt;
}

void DocumentReader::add_port(const Node& node, const std::string& text, const std::optional<uint16_t>& last,
                              std::vector<PortSpec>& ports) {
  const bool numeric =
      !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (numeric) {
    const auto number = parse_number(text, 1, 65535);
    if (!number) return yaml_.problem(node, number.error().message, "write a port from 1 to 65535");
    const auto first = static_cast<uint16_t>(*number);
    if (last && *last < first) return yaml_.problem(node, "endPort is lower than port", "write the lower port first");
    return ports.push_back({first, last.value_or(first), {}});
  }
  // RFC 6335, 5.1: at most 15 letters, digits and hyphens, with a letter among them.
  const bool named = !text.empty() && text.size() <= 15 && std::all_of(text.begin(), text.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '-';
  });
  if (!named) return yaml_.problem(node, in_quotes(text) + " is not a port", "write a number, or the name of a port");
  if (last) return yaml_.problem(node, "endPort needs a port that is a number", "write the number of the first port");
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  ports.push_back({0, 0, lower});
}

void DocumentReader::add_rule(Policy& policy, Rule rule) {
  document_.request_rules += rule.http.size() + rule.redis.size();
  policy.rules.push_back(std::move(rule));
}

}  // namespace shunt::policy
