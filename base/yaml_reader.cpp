#include <yaml-cpp/eventhandler.h>

#include <algorithm>
#include <base/nearest.hpp>
#include <base/printable.hpp>
#include <base/yaml_reader.hpp>
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

// Where the second document of a text begins, and the first anchor or alias. YAML::LoadAll() does not end on some
// broken texts (0.7.0): it sees empty documents for ever after a bracket too many.
class Outline : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ == 1) second = mark;
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { note(mark, anchor); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { note(mark, 1); }
  void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor, const std::string&) override {
    note(mark, anchor);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    note(mark, anchor);
  }
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    note(mark, anchor);
  }
  void OnMapEnd() override {}

  std::optional<YAML::Mark> second;
  std::optional<YAML::Mark> anchor;

 private:
  void note(const YAML::Mark& mark, YAML::anchor_t number) {
    if (number != 0 && !anchor) anchor = mark;
  }

  int documents_ = 0;
};

Outline outline(const std::string& text) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  Outline events;
  if (parser.HandleNextDocument(events)) parser.HandleNextDocument(events);
  return events;
}

}  // namespace

void YamlReader::document(const TextSource& source, const std::function<void(const YAML::Node&)>& read) {
  lines_before_ = 0;
  parse(source, true, read);
}

void YamlReader::part(const TextSource& source, int lines_before, const std::function<void(const YAML::Node&)>& read) {
  lines_before_ = lines_before;
  parse(source, false, read);
}

void YamlReader::parse(const TextSource& source, bool allow_anchors,
                       const std::function<void(const YAML::Node&)>& read) {
  file_ = source.name;
  try {
    const Outline found = outline(source.text);
    if (found.second) problem_at(*found.second, "a second YAML document", "keep one document, or use conf.d");
    if (found.anchor && !allow_anchors) {
      return problem_at(*found.anchor, "anchors and aliases are not supported", "write the text out where it is used");
    }
    const YAML::Node document = YAML::Load(source.text);
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
    } else if (key->unsupported != nullptr) {
      problem(entry.first, in_quotes(name) + " is not supported", key->unsupported);
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
  found_++;
  if (problems_.size() == kProblemsMax)
    problems_.push_back({file_, 0, 0, "more problems follow", "repair these first"});
  if (problems_.size() > kProblemsMax) return;
  problems_.push_back({file_, mark.is_null() ? 0 : lines_before_ + mark.line + 1, mark.column + 1,
                       printable(std::move(message)), printable(std::move(remedy))});
}

}  // namespace shunt
