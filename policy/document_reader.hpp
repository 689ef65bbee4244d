// What the kinds of documents share: labels, selectors, networks, ports.
#pragma once

#include <base/parse.hpp>
#include <base/yaml_reader.hpp>
#include <policy/documents.hpp>
#include <string>
#include <vector>

namespace shunt::policy {

using Node = YAML::Node;

struct Metadata {
  std::string name;
  std::string name_space;
  Labels labels;
};

// Whose labels a selector speaks of decides how its keys are spelled.
enum class KeyStyle {
  kubernetes,  // plain keys
  cilium       // a source may stand before the key: k8s:, any:, reserved:
};

class DocumentReader {
 public:
  DocumentReader(YamlReader& yaml, Document& document) : yaml_(yaml), document_(document) {}

  // A document, or an item of a list.
  void read(const Node& node);

  std::vector<HttpRule> read_http_rules(const Node& list);

 private:
  void read_network_policy(const Node& node);
  void read_cilium_policy(const Node& node, bool clusterwide);
  void read_namespace(const Node& node);
  void read_workload(const Node& node);
  void read_service(const Node& node);
  void read_list(const Node& node);

  // kubernetes_documents.cpp
  void read_network_rule(const Node& node, Direction direction, const std::string& path, Policy& policy);
  void read_network_peer(const Node& node, const std::string& name_space, Peers& peers);
  void read_ip_block(const Node& node, std::vector<CidrBlock>& cidrs);
  void read_network_port(const Node& node, std::vector<PortSpec>& ports);

  // cilium_documents.cpp
  void read_cilium_spec(const Node& node, const Metadata& metadata, const std::string& path, bool clusterwide);
  void read_cilium_rules(const Node& list, Direction direction, bool deny, const std::string& path, Policy& policy);
  void read_cilium_rule(const Node& node, const Rule& start, Policy& policy);
  Peers read_cilium_peers(const Node& node, const Rule& start, const Policy& policy, bool has_ports);
  void read_entity(const Node& node, Peers& peers);
  Selector endpoint_selector(const Node& node, const Policy& policy);
  void read_cilium_ports(const Node& node, Rule& rule);
  void read_cilium_port(const Node& node, Rule& rule);
  void read_request_rules(const Node& node, Rule& rule);
  RedisRule read_redis_rule(const Node& node);
  void read_redis_command(const Node& node, RedisRule& rule);
  void read_redis_key(const Node& node, RedisRule& rule);
  HttpRule read_http_rule(const Node& node);
  void read_header(const Node& node, HttpRule& rule);
  void read_header_match(const Node& node, HttpRule& rule);
  std::optional<HeaderCondition> header_condition(const Node& node, const std::string& written,
                                                  std::optional<std::string> value);
  void add_header(const Node& node, const std::string& name, std::optional<std::string> value, HttpRule& rule);
  void add_rewrite(const Node& node, const std::string& name, std::optional<std::string> value,
                   HeaderRewrite::Action action, HttpRule& rule);
  void read_expression(const Node& node, std::string& target);

  // Shared.
  Metadata read_metadata(const Node& node, bool namespaced);
  void read_labels(const Node& node, Labels& labels);
  Selector read_selector(const Node& node, KeyStyle style, const std::string& key_prefix = {});
  void read_requirement(const Node& node, KeyStyle style, const std::string& key_prefix, Selector& selector);
  std::optional<std::string> label_key(const Node& node, KeyStyle style);
  std::optional<std::string> label_value(const Node& node);
  void read_cidr_block(const Node& cidr, const Node& except, std::vector<CidrBlock>& cidrs);
  std::optional<uint16_t> read_port_number(const Node& node);
  void add_port(const Node& node, const std::string& text, const std::optional<uint16_t>& last,
                std::vector<PortSpec>& ports);
  void add_rule(Policy& policy, Rule rule);

  static bool absent(const Node& node) { return !node.IsDefined() || node.IsNull(); }
  // The value of a key, undefined where there is none.
  static Node find(const Node& map, const char* key);
  Place place(const Node& node) const { return Place{node.Mark().line + 1, node.Mark().column + 1}; }
  void note(const Node& node, std::string message, std::string remedy = {});
  void title(const Node& node, const std::string& kind, const Metadata& metadata);
  // Keys of every document that say nothing about policy, and those of `more`.
  std::vector<YamlReader::Key> top_keys(std::vector<YamlReader::Key> more) const;

  YamlReader& yaml_;
  Document& document_;
};

YamlReader::Key ignored(const char* name);  // a key without a meaning for policy, such as annotations
YamlReader::Key unsupported(const char* name, const char* hint);

// A name of a document: a DNS subdomain of at most 253 characters.
Result<std::string> parse_name(const std::string& text);

}  // namespace shunt::policy
