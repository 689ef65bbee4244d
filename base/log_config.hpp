// The section `log` of a configuration.
#pragma once

#include <base/log.hpp>
#include <base/yaml_reader.hpp>

namespace shunt {

inline void read_log_format(YamlReader& reader, const YAML::Node& node, LogFormat& format) {
  reader.choice<LogFormat>(format, node, log_format_choices());
}

inline void read_log_settings(YamlReader& reader, const YAML::Node& section, LogSettings& log) {
  using Node = YAML::Node;
  reader.mapping(
      section,
      {{"format", [&](const Node& node) { read_log_format(reader, node, log.format); }},
       {"level", [&](const Node& node) { reader.choice<LogLevel>(log.level, node, log_level_choices()); }},
       {"target", [&](const Node& node) { reader.choice<LogTarget>(log.target, node, log_target_choices()); }}});
}

}  // namespace shunt
