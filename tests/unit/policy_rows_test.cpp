// Rows for the kernel against the tables that they were made of.
#include <arpa/inet.h>

#include <algorithm>
#include <base/number_ranges.hpp>
#include <cstring>
#include <map>
#include <policy/rows.hpp>
#include <set>
#include <tests/support/policy_agrees.hpp>
#include <tests/support/policy_row_source.hpp>
#include <tuple>

namespace shunt::test {
namespace {

policy::Loaded load(const std::string& text) {
  policy::Loader loader;
  policy::Loaded loaded = loader.load({{"test.yaml", text}});
  for (const Problem& problem : loaded.problems) ADD_FAILURE() << problem.to_string();
  return loaded;
}

TEST(PolicyRows, SayWhatTheTablesSay) {
  size_t verdicts[4] = {};
  policy::Compiler compiler;  // one for all, so that what it keeps is flattened too
  for (uint32_t seed = 0; seed < 1'000; seed++) {
    policy::Random random(seed);
    const std::string text = policy::documents(random);
    const policy::Loaded loaded = load(text);
    const policy::Tables tables = compiler.compile(loaded.model);
    const PolicyRows rows = policy::rows_of(loaded.model, tables);
    const RowSource source(rows);
    ASSERT_TRUE(agrees(source, loaded.model, tables, random, 12, verdicts)) << "seed " << seed << "\n" << text;
  }
  for (const size_t count : verdicts) EXPECT_GT(count, 50u);
}

const char* const kJudged = R"(
apiVersion: shunt.dev/v1
kind: Workload
metadata: {name: web, labels: {app: web}}
spec: {match: {unit: web.service, uid: 7}}
---
apiVersion: shunt.dev/v1
kind: Service
metadata: {name: web}
spec: {selector: {matchLabels: {app: web}}, ports: [{name: http, port: 80, targetPort: 8080}, {name: raw, port: 90}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - toPorts: [{ports: [{port: '90'}]}]
  - toPorts: [{ports: [{port: 'PORT'}], rules: {http: [{path: /x}]}}]
)";

PolicyRows judged_rows(const std::string& port, policy::Tables& tables, policy::Loaded& loaded) {
  std::string text = kJudged;
  text.replace(text.find("PORT"), 4, port);
  loaded = load(text);
  policy::Compiler compiler;
  tables = compiler.compile(loaded.model);
  return policy::rows_of(loaded.model, tables);
}

TEST(PolicyRows, JudgeThePortOfTheWorkloadAndThatOfItsService) {
  policy::Tables tables;
  policy::Loaded loaded;
  const PolicyRows rows = judged_rows("8080", tables, loaded);
  EXPECT_TRUE(rows.requests);
  for (size_t port = 0; port < rows.judged.size(); port++)
    EXPECT_EQ(rows.judged[port], port == 8080 || port == 80) << port;
}

TEST(PolicyRows, JudgeEveryPortWhereARuleMeansAll) {
  policy::Tables tables;
  policy::Loaded loaded;
  const PolicyRows rows = judged_rows("0", tables, loaded);
  for (const uint16_t port : {1, 22, 80, 8080, 65535}) EXPECT_TRUE(rows.judged[port]) << port;
}

TEST(PolicyRows, NumberFromOneAndNameTheWorkloads) {
  policy::Tables tables;
  policy::Loaded loaded;
  const PolicyRows rows = judged_rows("8080", tables, loaded);
  ASSERT_EQ(rows.subjects.size(), 1u);
  EXPECT_EQ(rows.subjects[0].second.table, 1u);
  EXPECT_EQ(rows.sets.size(), 1u);
  ASSERT_EQ(rows.workloads.size(), 1u);
  EXPECT_EQ(rows.workloads[0].title, "default/web");
  EXPECT_EQ(rows.workloads[0].unit, "web.service");
  EXPECT_EQ(rows.workloads[0].uid, 7u);
  EXPECT_EQ(rows.workloads[0].identity, rows.subjects[0].first.identity);
}

TEST(PolicyRows, AWorkloadOfOtherHostsIsNoProcessOfThisOne) {
  const policy::Loaded loaded = load(
      "apiVersion: shunt.dev/v1\nkind: Workload\nmetadata: {name: far, labels: {app: far}}\n"
      "spec: {spiffe: spiffe://mesh.example/far}\n---\napiVersion: shunt.dev/v1\nkind: Workload\n"
      "metadata: {name: both, labels: {app: both}}\nspec: {match: {uid: 7}, spiffe: spiffe://mesh.example/both}\n");
  policy::Compiler compiler;
  const PolicyRows rows = policy::rows_of(loaded.model, compiler.compile(loaded.model));
  ASSERT_EQ(rows.workloads.size(), 2u);
  EXPECT_FALSE(rows.workloads[0].is_here());
  EXPECT_TRUE(rows.workloads[1].is_here());
  EXPECT_NE(rows.workloads[0].identity, rows.workloads[1].identity);
  // The first bytes of its SHA-256, as sha256sum says.
  const auto* bytes = reinterpret_cast<const unsigned char*>(&rows.workloads[0].remote);
  const std::vector<unsigned char> wanted{0xc6, 0x49, 0xee, 0x03, 0x0f, 0xb1, 0xb3, 0x1f,
                                          0x26, 0x1f, 0x14, 0xaa, 0xb5, 0xd9, 0x4a, 0xf2};
  EXPECT_EQ(std::vector<unsigned char>(bytes, bytes + sizeof(sh_remote)), wanted);
}

// Two workloads with a policy each; the paths are those of the second one's rules.
std::string two_policies(const std::vector<std::string>& paths) {
  std::string text;
  for (const std::string name : {"a", "b"}) {
    text += "---\napiVersion: shunt.dev/v1\nkind: Workload\nmetadata: {name: " + name + ", labels: {app: " + name +
            "}}\nspec: {match: {unit: " + name +
            ".service}}\n---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: " + name +
            "}\nspec:\n  endpointSelector: {matchLabels: {app: " + name +
            "}}\n  ingress: [{toPorts: [{ports: [{port: '80'}], rules: {http: [";
    for (const std::string& path : name == "a" ? std::vector<std::string>{"/a"} : paths)
      text += "{path: '" + path + "'},";
    text += "]}}]}]\n";
  }
  return text;
}

TEST(PolicyRows, WhatDidNotChangeKeepsItsNumbers) {
  policy::Loader loader;
  policy::Compiler compiler;
  const auto compile = [&](const std::vector<std::string>& paths) {
    const policy::Loaded loaded = loader.load({{"test.yaml", two_policies(paths)}});
    EXPECT_TRUE(loaded.ok());
    auto tables = std::make_shared<policy::Tables>(compiler.compile(loaded.model));
    return std::pair(tables, policy::rows_of(loaded.model, *tables));
  };
  const auto entry_of = [](const PolicyRows& rows, size_t subject) {
    const auto found = std::find_if(rows.entries.begin(), rows.entries.end(), [&](const auto& item) {
      return item.first.table == rows.subjects[subject].second.table && item.second.verdict == SH_POLICY_RULES;
    });
    return *found;
  };
  const auto first = compile({"/b"});
  const auto same = [](const auto& a, const auto& b) {
    return memcmp(&a.first, &b.first, sizeof(a.first)) == 0 && memcmp(&a.second, &b.second, sizeof(a.second)) == 0;
  };
  for (size_t i = 0; i < 50; i++) {
    std::vector<std::string> paths;
    for (size_t k = 0; k <= i % 7; k++) paths.push_back("/" + std::to_string(i) + "-" + std::to_string(k));
    const auto next = compile(paths);
    ASSERT_TRUE(same(entry_of(next.second, 0), entry_of(first.second, 0))) << i;
    EXPECT_FALSE(same(entry_of(next.second, 1), entry_of(first.second, 1))) << i;
    EXPECT_EQ(next.second.sets[0].set, first.second.sets[0].set);
    std::set<uint32_t> counters;
    size_t count = 0;
    for (const PolicyRows::Counted& entry : next.second.counted)
      for (size_t k = 0; k < entry.keys.size(); k++, count++) counters.insert(entry.origin + static_cast<uint32_t>(k));
    EXPECT_EQ(counters.size(), count) << "two count in one place";
    EXPECT_LT(*counters.rbegin(), 30u) << "numbers do not come back";
  }
}

// And what it still knows of the others it knows rightly.
TEST(PolicyRows, TheCompilerForgetsRulesThatAreGone) {
  policy::Loader loader;
  policy::Compiler compiler;
  size_t most = 0;
  for (size_t i = 0; i < 600; i++) {
    std::vector<std::string> paths = {"/kept"};
    for (size_t k = 0; k < 10; k++) paths.push_back("/" + std::to_string(i) + "-" + std::to_string(k));
    const policy::Loaded loaded = loader.load({{"test.yaml", two_policies(paths)}});
    const policy::Tables tables = compiler.compile(loaded.model);
    most = std::max(most, compiler.remembered());
    for (const auto& [path, verdict] : {std::pair(paths[0], SH_POLICY_ALLOW), std::pair(paths[10], SH_POLICY_ALLOW),
                                        std::pair(std::string("/0-5"), i == 0 ? SH_POLICY_ALLOW : SH_POLICY_DENY)}) {
      const auto answer = policy::explain(loaded.model, tables, {"host", "b:80", policy::HttpRequest{.path = path}});
      ASSERT_TRUE(answer);
      ASSERT_EQ(answer->verdict, verdict) << i << path;
    }
  }
  EXPECT_GT(most, 900u);
  EXPECT_LT(most, 2'200u);
}

TEST(NumberRanges, AreGivenAgainWhenTheyCameBack) {
  NumberRanges numbers(1, 20);
  EXPECT_EQ(numbers.take(3), 1u);
  EXPECT_EQ(numbers.take(8, 8), 8u);
  EXPECT_EQ(numbers.take(4), 4u);
  EXPECT_EQ(numbers.take(5), std::nullopt);
  EXPECT_EQ(numbers.take(4), 16u);
  numbers.give_back(1, 3);
  numbers.give_back(8, 8);
  EXPECT_EQ(numbers.take(8), 8u);
  numbers.give_back(8, 8);
  numbers.give_back(4, 4);
  EXPECT_EQ(numbers.take(15), 1u);
  EXPECT_EQ(numbers.take(1), std::nullopt);
}

}  // namespace
}  // namespace shunt::test
