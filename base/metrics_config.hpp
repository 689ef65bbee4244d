// The section `metrics` of a configuration.
#pragma once

#include <base/values.hpp>
#include <base/yaml_reader.hpp>
#include <string>

namespace shunt {

// Where to listen: ADDRESS:PORT, or "" for no metrics; and, of programs that see requests, whether these are told under
// Istio's names.
inline void read_metrics_settings(YamlReader& reader, const YAML::Node& section, std::string& listen,
                                  bool* istio = nullptr) {
  const auto parse = [](const std::string& text) -> Result<std::string> {
    if (text.empty()) return text;
    const auto address = parse_listen_address(text);
    if (!address) return unexpected(address.error());
    return text;
  };
  const auto set_listen = [&](const YAML::Node& node) { reader.set(listen, node, parse); };
  if (istio == nullptr) return reader.mapping(section, {{"listen", set_listen}});
  reader.mapping(section, {{"listen", set_listen},
                           {"istio", [&](const YAML::Node& node) { reader.set(*istio, node, parse_bool); }}});
}

}  // namespace shunt
