// Reads YAML nodes into values and keeps what is wrong with file, line, column and remedy. It goes on after a problem,
// so that one run shows them all.
#pragma once

#include <yaml-cpp/yaml.h>

#include <base/result.hpp>
#include <control/config.hpp>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace shunt {

class YamlReader {
 public:
  struct Key {
    const char* name;
    std::function<void(const YAML::Node&)> read;
  };

  explicit YamlReader(std::vector<ConfigProblem>& problems) : problems_(problems) {}

  // Parses one file and hands its only document to `read`, unless it is empty.
  void document(const ConfigSource& source, const std::function<void(const YAML::Node&)>& read);

  void mapping(const YAML::Node& node, const std::vector<Key>& keys);
  void list(const YAML::Node& node, const std::function<void(const YAML::Node&)>& item);
  std::optional<std::string> scalar(const YAML::Node& node);

  // A scalar through a parser that returns Result<T>.
  template <typename Parser>
  auto value(const YAML::Node& node, Parser parse) -> std::optional<std::decay_t<decltype(*parse(std::string()))>> {
    const auto text = scalar(node);
    if (!text) return std::nullopt;
    auto result = parse(*text);
    if (result) return std::move(*result);
    problem(node, result.error().message, result.error().remedy);
    return std::nullopt;
  }

  // Sets `target` if the value is right.
  template <typename T, typename Parser>
  void set(T& target, const YAML::Node& node, Parser parse) {
    if (const auto result = value(node, parse)) target = static_cast<T>(*result);
  }

  // One of the named choices.
  template <typename T>
  void choice(T& target, const YAML::Node& node, const std::vector<std::pair<std::string, T>>& choices) {
    const auto text = scalar(node);
    if (!text) return;
    std::vector<std::string> names;
    for (const auto& [name, item] : choices) {
      if (name == *text) {
        target = item;
        return;
      }
      names.push_back(name);
    }
    bad_choice(node, *text, names);
  }

  void problem(const YAML::Node& node, std::string message, std::string remedy = {});

 private:
  void bad_choice(const YAML::Node& node, const std::string& text, const std::vector<std::string>& names);
  void problem_at(const YAML::Mark& mark, std::string message, std::string remedy);

  std::vector<ConfigProblem>& problems_;
  std::string file_;
};

}  // namespace shunt
