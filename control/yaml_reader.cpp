#include <yaml-cpp/eventhandler.h>

#include <algorithm>
#include <base/printable.hpp>
#include <control/values.hpp>
#include <control/yaml_reader.hpp>
#include <set>
#include <sstream>

namespace shunt {
namespace {

constexpr size_t kProblemsMax = 50;  // one broken file must not fill a terminal or a reply

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// Where the second document of a text begins. YAML::LoadAll() does not end on some broken texts (0.7.0): it sees empty
// documents for ever after a bracket too many.
class SecondDocument : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark& mark) override { start = mark; }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}

  YAML::Mark start;
};

std::optional<YAML::Mark> second_document(const std::string& text) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  SecondDocument events;
  if (!parser.HandleNextDocument(events) || !parser.HandleNextDocument(events)) return std::nullopt;
  return events.start;
}

}  // namespace

void YamlReader::document(const ConfigSource& source, const std::function<void(const YAML::Node&)>& read) {
  file_ = source.name;
  try {
    const YAML::Node document = YAML::Load(source.text);
    if (const auto second = second_document(source.text)) {
      problem_at(*second, "a second YAML document", "keep one document, or use conf.d");
    }
    if (document.IsDefined() && !document.IsNull()) read(document);
  } catch (const YAML::Exception& error) {
    problem_at(error.mark, "not valid YAML: " + error.msg, {});
  } catch (const std::exception& error) {
    problem_at(YAML::Mark::null_mark(), std::string("not valid YAML: ") + error.what(), {});
  }
}

void YamlReader::mapping(const YAML::Node& node, const std::vector<Key>& keys) {
  std::vector<std::string> names;
  for (const Key& key : keys) names.emplace_back(key.name);
  if (node.IsNull()) return;
  if (!node.IsMap()) {
    problem(node, "expected a section with keys", "the keys here are " + joined(names));
    return;
  }
  std::set<std::string> seen;
  for (const auto& entry : node) {
    if (!entry.first.IsScalar()) {
      problem(entry.first, "a key must be one word", "the keys here are " + joined(names));
      continue;
    }
    const std::string& name = entry.first.Scalar();
    const auto key =
        std::find_if(keys.begin(), keys.end(), [&](const Key& candidate) { return name == candidate.name; });
    if (key == keys.end()) {
      const auto meant = nearest(name, names);
      problem(entry.first, "unknown key " + in_quotes(name),
              meant ? "did you mean '" + *meant + "'?" : "the keys here are " + joined(names));
    } else if (!seen.insert(name).second) {
      problem(entry.first, "the key " + in_quotes(name) + " stands here twice", "remove one of the two");
    } else {
      key->read(entry.second);
    }
  }
}

void YamlReader::list(const YAML::Node& node, const std::function<void(const YAML::Node&)>& item) {
  if (node.IsNull()) return;
  if (!node.IsSequence()) {
    problem(node, "expected a list", "write [one, two], or one item a line after '- '");
    return;
  }
  for (const auto& entry : node) item(entry);
}

std::optional<std::string> YamlReader::scalar(const YAML::Node& node) {
  if (node.IsScalar()) return node.Scalar();
  problem(node, node.IsNull() ? "a value is missing" : "expected one value",
          node.IsNull() ? "write a value, or remove the key" : "");
  return std::nullopt;
}

void YamlReader::bad_choice(const YAML::Node& node, const std::string& text, const std::vector<std::string>& names) {
  const auto meant = nearest(text, names);
  problem(node, in_quotes(text) + " is not one of " + joined(names), meant ? "did you mean '" + *meant + "'?" : "");
}

void YamlReader::problem(const YAML::Node& node, std::string message, std::string remedy) {
  problem_at(node.Mark(), std::move(message), std::move(remedy));
}

void YamlReader::problem_at(const YAML::Mark& mark, std::string message, std::string remedy) {
  if (problems_.size() == kProblemsMax)
    problems_.push_back({file_, 0, 0, "more problems follow", "repair these first"});
  if (problems_.size() > kProblemsMax) return;
  problems_.push_back(
      {file_, mark.line + 1, mark.column + 1, printable(std::move(message)), printable(std::move(remedy))});
}

}  // namespace shunt
