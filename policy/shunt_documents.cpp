// shunt.dev/v1 Workload and Service: what a cluster would know of its pods and services, for a host without one.
#include <algorithm>
#include <policy/document_reader.hpp>

namespace shunt::policy {
namespace {

Result<std::string> parse_cgroup(const std::string& text) {
  const bool dots = ("/" + text + "/").find("/../") != std::string::npos;
  if (text.size() < 2 || text.front() != '/' || dots || text.find('\0') != std::string::npos) {
    return invalid(in_quotes(text) + " is not a cgroup",
                   "write its path below the cgroup mount: /system.slice/api.service");
  }
  return text.back() == '/' ? text.substr(0, text.size() - 1) : text;
}

Result<std::string> parse_unit(const std::string& text) {
  const bool right = (text.ends_with(".service") || text.ends_with(".scope")) && text.find('/') == std::string::npos;
  if (!right) return invalid(in_quotes(text) + " is not a unit", "write NAME.service or NAME.scope");
  return text;
}

Result<std::string> parse_slice(const std::string& text) {
  if (!text.ends_with(".slice") || text.find('/') != std::string::npos) {
    return invalid(in_quotes(text) + " is not a slice", "write NAME.slice");
  }
  return text;
}

Result<std::string> parse_container_id(const std::string& text) {
  const bool right = text.size() >= 12 && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
                       return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                     });
  if (!right) return invalid(in_quotes(text) + " is not the id of a container", "write 12 to 64 hexadecimal digits");
  return text;
}

Result<std::string> parse_network_namespace(const std::string& text) {
  if (text.empty() || text.find('\0') != std::string::npos ||
      (text.front() != '/' && text.find('/') != std::string::npos)) {
    return invalid(in_quotes(text) + " is not a network namespace", "write a name as of ip-netns, or an absolute path");
  }
  return text.front() == '/' ? text : "/run/netns/" + text;
}

}  // namespace

void DocumentReader::read_workload(const Node& node) {
  const Metadata metadata = read_metadata(node, true);
  title(node, "Workload", metadata);
  Workload workload{metadata.name_space, metadata.name, metadata.labels, {}, {}};
  WorkloadMatch& match = workload.match;
  const auto number = [](const std::string& text) { return parse_number(text, 0, UINT32_MAX - 1); };
  const auto read_match = [&](const Node& section) {
    yaml_.mapping(
        section, {{"cgroup", [&](const Node& value) { yaml_.set(match.cgroup, value, parse_cgroup); }},
                  {"unit", [&](const Node& value) { yaml_.set(match.unit, value, parse_unit); }},
                  {"slice", [&](const Node& value) { yaml_.set(match.unit, value, parse_slice); }},
                  {"containerId", [&](const Node& value) { yaml_.set(match.container_id, value, parse_container_id); }},
                  {"uid",
                   [&](const Node& value) {
                     if (const auto uid = yaml_.value(value, number)) match.uid = static_cast<uint32_t>(*uid);
                   }},
                  {"networkNamespace",
                   [&](const Node& value) { yaml_.set(match.network_namespace, value, parse_network_namespace); }}});
    const int places = !absent(find(section, "cgroup")) + !absent(find(section, "unit")) +
                       !absent(find(section, "slice")) + !absent(find(section, "containerId"));
    if (places > 1) {
      yaml_.problem(section, "cgroup, unit, slice and containerId name the same thing in different ways", "keep one");
    }
    if (section.IsMap() && section.size() == 0) {
      yaml_.problem(section, "a workload needs processes",
                    "add unit, cgroup, slice, containerId, uid or networkNamespace");
    }
  };
  const auto read_spiffe = [&](const Node& value) {
    if (auto id = yaml_.value(value, parse_workload_id)) workload.spiffe = std::move(*id);
  };
  const auto read_spec = [&](const Node& spec) {
    yaml_.mapping(spec, {{"match", read_match}, {"spiffe", read_spiffe}});
  };
  yaml_.mapping(node, top_keys({{"spec", read_spec}}));
  const Node spec = find(node, "spec");
  if (absent(spec) || (absent(find(spec, "match")) && absent(find(spec, "spiffe")))) {
    yaml_.problem(node, "spec.match is missing",
                  "say which processes it is: match: {unit: api.service}; or, on other hosts, spiffe: "
                  "spiffe://TRUST-DOMAIN/PATH");
  }
  for (const auto& entry : metadata.labels) {
    if (entry.first == kNamespaceLabel || entry.first.starts_with(kNamespaceLabelsPrefix)) {
      yaml_.problem(find(find(node, "metadata"), "labels"), "the label " + in_quotes(entry.first) + " is Shunt's own",
                    "write metadata.namespace, or a Namespace document");
    }
  }
  document_.workloads.push_back(std::move(workload));
}

void DocumentReader::read_service(const Node& node) {
  const Metadata metadata = read_metadata(node, true);
  title(node, "Service", metadata);
  Service service;
  service.name_space = metadata.name_space;
  service.name = metadata.name;
  const auto read_address = [&](const Node& item) {
    const auto text = yaml_.scalar(item);
    const auto address = text ? parse_address(*text) : std::nullopt;
    if (text && !address) yaml_.problem(item, in_quotes(*text) + " is not an address", "write 10.0.0.1 or fd00::1");
    if (address) service.addresses.push_back(*address);
  };
  const auto read_port = [&](const Node& item) {
    ServicePort port;
    port.place = place(item);
    std::vector<PortSpec> names;
    yaml_.mapping(
        item, {{"name",
                [&](const Node& value) {
                  if (const auto text = yaml_.scalar(value)) add_port(value, *text, std::nullopt, names);
                }},
               {"port", [&](const Node& value) { port.port = read_port_number(value).value_or(0); }},
               {"targetPort", [&](const Node& value) { port.target_port = read_port_number(value).value_or(0); }},
               {"protocol", [&](const Node& value) {
                  yaml_.choice<Protocol>(port.protocol, value,
                                         {{"tcp", Protocol::tcp}, {"http", Protocol::http}, {"resp", Protocol::resp}});
                }}});
    if (item.IsMap() && absent(find(item, "port"))) yaml_.problem(item, "port is missing", "add port: 80");
    if (!names.empty()) port.name = names.front().name;
    if (!names.empty() && port.name.empty()) yaml_.problem(find(item, "name"), "a name of a port has a letter");
    if (port.target_port == 0) port.target_port = port.port;
    service.ports.push_back(port);
  };
  const auto read_spec = [&](const Node& spec) {
    yaml_.mapping(
        spec, {{"selector", [&](const Node& value) { service.workloads = read_selector(value, KeyStyle::kubernetes); }},
               {"addresses", [&](const Node& list) { yaml_.list(list, read_address); }},
               {"ports", [&](const Node& list) { yaml_.list(list, read_port); }}});
    if (!spec.IsMap()) return;
    if (absent(find(spec, "selector"))) {
      yaml_.problem(spec, "selector is missing",
                    "say which workloads stand behind: selector: {matchLabels: {app: api}}");
    }
    if (service.ports.empty()) yaml_.problem(spec, "a service needs ports", "add ports: [{port: 80, protocol: http}]");
  };
  yaml_.mapping(node, top_keys({{"spec", read_spec}}));
  if (absent(find(node, "spec"))) yaml_.problem(node, "spec is missing", "add selector and ports");
  service.workloads.requirements.push_back({kNamespaceLabel, Requirement::Operator::in, {service.name_space}});
  std::sort(service.workloads.requirements.begin(), service.workloads.requirements.end());
  document_.services.push_back(std::move(service));
}

}  // namespace shunt::policy
