// Rows for the kernel against the tables that they were made of.
#include <arpa/inet.h>

#include <map>
#include <policy/rows.hpp>
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

}  // namespace
}  // namespace shunt::test
