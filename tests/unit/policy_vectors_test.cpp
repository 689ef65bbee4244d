// The documents of tests/vectors/policy, each with the decisions that it must lead to: FROM TO:PORT [METHOD PATH [HOST
// or -] [HEADER | HEADER…] or redis COMMAND [KEY…]] => VERDICT [REASON].
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <policy/explain.hpp>
#include <sstream>

namespace shunt::policy {
namespace {

const std::filesystem::path kVectors = std::filesystem::path(SHUNT_SOURCE_ROOT) / "tests/vectors/policy";

Question parse_question(const std::string& text) {
  std::istringstream words(text);
  Question question;
  words >> question.from >> question.to;
  HttpRequest request;
  request.path.clear();
  if (const size_t redis = text.find(" redis "); redis != std::string::npos) {
    std::istringstream arguments(text.substr(redis + 7));
    RedisCommand command;
    arguments >> command.name;
    for (std::string key; arguments >> key;) command.keys.push_back(key);
    question.command = command;
    return question;
  }
  if (words >> request.method >> request.path) {
    if (words >> request.host && request.host == "-") request.host.clear();
    std::string headers;
    std::getline(words, headers);
    std::istringstream list(headers);
    for (std::string header; std::getline(list, header, '|');) {
      const size_t begin = header.find_first_not_of(' ');
      const size_t colon = header.find(": ");
      const size_t end = header.find_last_not_of(' ') + 1;
      if (colon != std::string::npos) {
        request.headers.emplace_back(header.substr(begin, colon - begin), header.substr(colon + 2, end - colon - 2));
      }
    }
    question.request = request;
  }
  return question;
}

// The verdict, and the reason of the direction that decided.
std::string decided(const Answer& answer) {
  const auto json = nlohmann::json::parse(render_json(answer));
  const std::string verdict = json.at("verdict");
  std::string reason = json.at("ingress").at("reason");
  if (json.at("egress").at("verdict") == verdict && reason == "not-enforced") reason = json.at("egress").at("reason");
  if (json.at("ingress").at("verdict") != verdict) reason = json.at("egress").at("reason");
  return verdict + " " + reason;
}

class PolicyVectors : public testing::TestWithParam<std::string> {};

TEST_P(PolicyVectors, DecideAsWritten) {
  Loader loader;
  const Loaded loaded = loader.load_files({kVectors / (GetParam() + ".yaml")});
  for (const Problem& problem : loaded.problems) ADD_FAILURE() << problem.to_string();
  ASSERT_TRUE(loaded.ok());
  Compiler compiler;
  const Tables tables = compiler.compile(loaded.model);
  std::ifstream expectations(kVectors / (GetParam() + ".expect"));
  size_t asked = 0;
  for (std::string line; std::getline(expectations, line);) {
    const size_t arrow = line.find(" => ");
    ASSERT_NE(arrow, std::string::npos) << line;
    const auto answer = explain(loaded.model, tables, parse_question(line.substr(0, arrow)));
    ASSERT_TRUE(answer) << line << ": " << answer.error().to_string();
    const std::string expected = line.substr(arrow + 4);
    EXPECT_EQ(decided(*answer).substr(0, expected.size()), expected) << line << "\n" << render_text(*answer);
    asked++;
  }
  EXPECT_GT(asked, 0u);
}

std::vector<std::string> vectors() {
  std::vector<std::string> names;
  for (const auto& file : std::filesystem::directory_iterator(kVectors)) {
    if (file.path().extension() == ".yaml") names.push_back(file.path().stem());
  }
  return names;
}

INSTANTIATE_TEST_SUITE_P(All, PolicyVectors, testing::ValuesIn(vectors()), [](const auto& info) { return info.param; });

TEST(PolicyExplain, NamesTheRuleWithItsLine) {
  Loader loader;
  const Loaded loaded = loader.load_files({kVectors / "starwars_l7.yaml"});
  Compiler compiler;
  const Tables tables = compiler.compile(loaded.model);
  const auto answer = explain(loaded.model, tables, parse_question("tiefighter deathstar:80 POST /v1/request-landing"));
  ASSERT_TRUE(answer);
  ASSERT_EQ(answer->ingress.rules.size(), 1u);
  EXPECT_NE(answer->ingress.rules[0].find("CiliumNetworkPolicy default/rule1 spec.ingress[0].toPorts[0].rules.http[0]"),
            std::string::npos);
  EXPECT_NE(answer->ingress.rules[0].find("starwars_l7.yaml:21)"), std::string::npos) << answer->ingress.rules[0];
}

TEST(PolicyExplain, SaysWhichNameIsNotKnown) {
  Compiler compiler;
  const Model model;
  const Tables tables = compiler.compile(model);
  EXPECT_NE(explain(model, tables, {"nobody", "host:80", {}}).error().message.find("nobody"), std::string::npos);
  EXPECT_NE(explain(model, tables, {"host", "host", {}}).error().message.find("port"), std::string::npos);
  EXPECT_NE(explain(model, tables, {"host", "host:99999", {}}).error().message.find("99999"), std::string::npos);
}

}  // namespace
}  // namespace shunt::policy
