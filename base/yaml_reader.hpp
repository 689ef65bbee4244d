// Reads YAML nodes into values and keeps what is wrong with file, line, column and remedy. It goes on after a problem,
// so that one run shows them all.
#pragma once

#include <yaml-cpp/yaml.h>

#include <base/problem.hpp>
#include <base/result.hpp>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace shunt {

struct TextSource {
  std::string name;
  std::string text;
};

class YamlReader {
 public:
  struct Key {
    const char* name;
    std::function<void(const YAML::Node&)> read;
    const char* unsupported = nullptr;  // a key that is known and refused: what to do instead
  };

  explicit YamlReader(std::vector<Problem>& problems) : problems_(problems) {}

  // Parses one file and hands its only document to `read`, unless it is empty.
  void document(const TextSource& source, const std::function<void(const YAML::Node&)>& read);

  // Parses one of several documents of a file; `lines_before` stand before it there. Anchors and aliases are problems:
  // a few lines of them can stand for more nodes than any memory holds.
  void part(const TextSource& source, int lines_before, const std::function<void(const YAML::Node&)>& read);

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
  const std::string& file() const { return file_; }
  size_t problems_found() const { return found_; }  // with those that are not kept any more

 private:
  void parse(const TextSource& source, bool allow_anchors, const std::function<void(const YAML::Node&)>& read);
  void bad_choice(const YAML::Node& node, const std::string& text, const std::vector<std::string>& names);
  void problem_at(const YAML::Mark& mark, std::string message, std::string remedy);

  std::vector<Problem>& problems_;
  std::string file_;
  int lines_before_ = 0;
  size_t found_ = 0;
};

}  // namespace shunt
