// Documents that are edited: what is made of the document before is what a reader makes of the text.
#include <gtest/gtest.h>

#include <policy/document_reader.hpp>
#include <policy/edited_document.hpp>
#include <sstream>
#include <tests/support/policy_random.hpp>

namespace shunt::policy {
namespace {

std::optional<Document> read(const std::string& text) {
  Document document;
  std::vector<Problem> problems;
  YamlReader yaml(problems);
  DocumentReader reader(yaml, document);
  yaml.part({"file", text}, 0, [&](const YAML::Node& node) { reader.read(node); });
  return problems.empty() ? std::optional(document) : std::nullopt;
}

// All that a document says about requests, and where.
std::string words(const Document& document) {
  std::ostringstream out;
  const auto at = [&](const Place& place) { out << " @" << place.line << ':' << place.column << '\n'; };
  for (const auto& policy : document.policies) {
    out << policy->title() << ' ' << policy->ingress << policy->egress << '\n';
    for (const Rule& rule : policy->rules) {
      out << rule.path << ' ' << rule.ports.size() << ' ' << static_cast<int>(rule.protocol);
      at(rule.place);
      for (const HttpRule& http : rule.http) {
        out << http.method << '|' << http.path << '|' << http.host;
        for (const HeaderCondition& header : http.headers)
          out << '|' << header.name << '=' << header.value.value_or("?");
        for (const HeaderRewrite& rewrite : http.rewrites)
          out << '|' << static_cast<int>(rewrite.action) << rewrite.written << '='
              << rewrite.wanted.value.value_or("?");
        at(http.place);
      }
      for (const RedisRule& redis : rule.redis) {
        out << redis.command;
        at(redis.place);
      }
    }
  }
  for (const auto& [title, place] : document.titles) {
    out << title;
    at(place);
  }
  for (const Problem& note : document.notes) out << note.to_string() << '\n';
  out << document.request_rules;
  return out.str();
}

// With rules in two lists, in flow and in block style, and things behind them.
std::vector<std::string> lines_of_document() {
  std::vector<std::string> lines = {
      "apiVersion: cilium.io/v2",
      "kind: CiliumNetworkPolicy",
      "metadata:",
      "  annotations: {note: 'begins - {path: /x}'}",
      "  name: p",
      "spec:",
      "  endpointSelector: {matchLabels: {app: a}}",
      "  ingress:",
      "  - fromEndpoints: [{matchLabels: {app: b}}]",
      "    toPorts:",
      "    - ports: [{port: '80'}]",
      "      rules:",
      "        http:",
  };
  for (int i = 0; i < 8; i++)
    lines.push_back("        - {method: GET, path: '/api/items" + std::to_string(i) + "/[a-z0-9]+'}");
  for (const char* line :
       {"    - ports: [{port: '81', protocol: TCP}, {port: '82', protocol: UDP}]", "      rules:", "        http:",
        "        - method: GET", "          path: /one", "        - method: POST", "          path: '/two'",
        "          headers:", "          - 'X-A: 1'", "        - {path: /three}", "  egress:", "  - toEndpoints: [{}]"})
    lines.emplace_back(line);
  return lines;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + '\n';
  return text;
}

// Some of them are right, some are not, and some change what the lines behind them mean.
std::string random_line(Random& random) {
  const std::string indent(8 + (random.one_in(6) ? random.below(4) : 0), ' ');
  return indent + random.of({"- {method: GET, path: '/other'}",
                             "- {path: \"/a\"}",
                             "- path: /b",
                             "- method: POST",
                             "  path: /c",
                             "  host: h",
                             "- {}",
                             "-",
                             "- |",
                             "- 'open",
                             "- {path: '/open",
                             "- \"x\": y",
                             "- [path, /d]",
                             "# remark",
                             "- {path: /e} # remark",
                             "",
                             "- {path: /f, path: /g}",
                             "- &a {path: /h}",
                             "- *a",
                             "- {path: '/(/'}",
                             "- path: |",
                             "    /i",
                             "- path: >-",
                             "  path: 'two",
                             "    lines'",
                             "- ? path",
                             "http:",
                             "- !!map {path: /j}",
                             "\t- {}",
                             "- {path: /k,",
                             "   method: GET}",
                             "- path: /l # x",
                             "...",
                             "- headers: ['X-B: yes']"});
}

TEST(PolicyEditedDocument, IsWhatAReaderReads) {
  size_t made = 0, read_alone = 0;
  for (uint32_t seed = 1; seed <= 4000; seed++) {
    Random random(seed);
    std::vector<std::string> lines = lines_of_document();
    const std::string before = joined(lines);
    for (uint32_t edits = 1 + random.below(3); edits > 0; edits--) {
      const size_t at = random.one_in(4) ? random.below(static_cast<uint32_t>(lines.size())) : 13 + random.below(19);
      const auto place = lines.begin() + static_cast<ptrdiff_t>(std::min(at, lines.size() - 1));
      if (random.one_in(3)) {
        lines.insert(place, random_line(random));
      } else if (random.one_in(3)) {
        lines.erase(place);
      } else {
        *place = random_line(random);
      }
    }
    const std::string text = joined(lines);
    const auto edited = edited_document(before, *read(before), text);
    const auto wanted = read(text);
    read_alone += wanted ? 1 : 0;
    if (!edited) continue;
    made++;
    ASSERT_TRUE(wanted) << "seed " << seed << '\n' << text;
    ASSERT_EQ(words(*edited), words(*wanted)) << "seed " << seed << '\n' << text;
  }
  EXPECT_GT(made, read_alone / 2) << "of " << read_alone;
}

std::string with(std::vector<std::string> lines, size_t at, const std::string& line) {
  lines.at(at) = line;
  return joined(lines);
}

// What costs little must go on costing little.
TEST(PolicyEditedDocument, IsMadeForOneRuleThatChangesComesOrGoes) {
  const std::vector<std::string> lines = lines_of_document();
  const std::string before = joined(lines);
  const Document document = *read(before);
  std::vector<std::string> longer = lines, shorter = lines;
  longer.insert(longer.begin() + 21, "        - {path: /last}");
  shorter.erase(shorter.begin() + 15);
  for (const std::string& text :
       {with(lines, 13, "        - {path: /first}"), with(lines, 20, "        - {path: /last}"),
        with(lines, 25, "          path: /other"), joined(longer), joined(shorter)}) {
    const auto edited = edited_document(before, document, text);
    ASSERT_TRUE(edited) << text;
    EXPECT_EQ(words(*edited), words(*read(text)));
  }
}

TEST(PolicyEditedDocument, LeavesToAReaderWhatReachesFurther) {
  const std::vector<std::string> lines = lines_of_document();
  const std::string before = joined(lines);
  const Document document = *read(before);
  for (const char* line :
       {"        - path: 'open", "        - {path: /open", "        - path: \"open", "        - |"}) {
    std::vector<std::string> changed = lines;
    changed[19] = "        - {path: /a}";
    changed[20] = line;
    EXPECT_FALSE(edited_document(before, document, joined(changed))) << line;
  }
}

TEST(PolicyEditedDocument, OtherPoliciesOfItStayWhatTheyAre) {
  const std::string list = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspecs:\n";
  const auto spec = [](const std::string& path) {
    return "- endpointSelector: {}\n  ingress:\n  - toPorts:\n    - ports: [{port: '80'}]\n      rules:\n        "
           "http:\n"
           "        - {path: " +
           path + "}\n";
  };
  const std::string before = list + spec("/a") + spec("/b"), now = list + spec("/a") + spec("/c");
  const Document document = *read(before);
  const auto edited = edited_document(before, document, now);
  ASSERT_TRUE(edited);
  EXPECT_EQ(edited->policies[0], document.policies[0]);
  EXPECT_NE(edited->policies[1], document.policies[1]);
  EXPECT_EQ(document.policies[1]->rules[0].http[0].path, "/b");
  EXPECT_EQ(words(*edited), words(*read(now)));
}

}  // namespace
}  // namespace shunt::policy
