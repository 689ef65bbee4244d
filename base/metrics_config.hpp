// The section `metrics` of a configuration.
#pragma once

#include <base/values.hpp>
#include <base/yaml_reader.hpp>
#include <string>

namespace shunt {

// Where to listen: ADDRESS:PORT, or "" for no metrics.
inline void read_metrics_settings(YamlReader& reader, const YAML::Node& section, std::string& listen) {
  const auto parse = [](const std::string& text) -> Result<std::string> {
    if (text.empty()) return text;
    const auto address = parse_listen_address(text);
    if (!address) return unexpected(address.error());
    return text;
  };
  reader.mapping(section, {{"listen", [&](const YAML::Node& node) { reader.set(listen, node, parse); }}});
}

}  // namespace shunt
