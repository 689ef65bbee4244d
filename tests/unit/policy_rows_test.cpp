// Rows for the kernel against the tables that they were made of.
#include <arpa/inet.h>

#include <map>
#include <policy/rows.hpp>
#include <tests/support/policy_walk.hpp>
#include <tuple>

namespace shunt::test {
namespace {

// Rows as maps would hold them: the sets one after the other.
class RowSource : public PolicySource {
 public:
  explicit RowSource(const PolicyRows& rows) : rows_(rows) {
    for (const auto& [key, value] : rows.subjects) subjects_[{key.identity, key.direction}] = value;
    for (const auto& [key, value] : rows.entries) entries_[{key.table, key.peer, key.port}] = value;
    EXPECT_EQ(subjects_.size(), rows.subjects.size());
    EXPECT_EQ(entries_.size(), rows.entries.size());
    for (const PolicyRows::Set& set : rows.sets) {
      sets_.push_back(*set.set);
      cells_.resize(PolicyRows::first_cell(cells_.size(), set));
      sets_.back().first_cell = static_cast<sh_u32>(cells_.size());
      sets_.back().first_result = static_cast<sh_u32>(results_.size());
      cells_.insert(cells_.end(), set.cells.begin(), set.cells.end());
      results_.insert(results_.end(), set.results.begin(), set.results.end());
    }
    EXPECT_EQ(cells_.size(), rows.cells());
    blocks_.resize((cells_.size() + SH_POLICY_BLOCK_CELLS - 1) / SH_POLICY_BLOCK_CELLS);
    for (size_t i = 0; i < cells_.size(); i++)
      blocks_[i / SH_POLICY_BLOCK_CELLS].cells[i % SH_POLICY_BLOCK_CELLS] = cells_[i];
  }
  sh_u8 half() const override { return 0; }
  bool subject(const sh_policy_subject_key& key, sh_policy_subject& value) const override {
    const auto found = subjects_.find({key.identity, key.direction});
    if (found != subjects_.end()) value = found->second;
    return found != subjects_.end();
  }
  bool entry(const sh_policy_key& key, sh_policy_entry& value) const override {
    const auto found = entries_.find({key.table, key.peer, key.port});
    if (found != entries_.end()) value = found->second;
    return found != entries_.end();
  }
  sh_u16 first_port(sh_u16 port) const override { return rows_.first_port[port]; }
  bool judged(sh_u16 port) const override { return rows_.judged[port]; }
  sh_policy_set set(sh_u32 number) const override { return sets_.at(number - 1); }
  const struct sh_policy_block* block(sh_u32 number) const override {
    return number < blocks_.size() ? &blocks_[number] : nullptr;
  }
  sh_policy_result result(sh_u32 index) const override { return results_.at(index); }

  // As a trie does: the longest prefix, over all 128 bits.
  sh_u32 identity_of(const Address& address) const override {
    sh_u32 identity = SH_IDENTITY_WORLD;
    sh_u32 longest = 0;
    for (const auto& [key, value] : rows_.cidrs) {
      EXPECT_EQ(key.half, 0);
      EXPECT_GE(key.prefix_bits, 32u);
      bool inside = true;
      for (sh_u32 bit = 0; bit + 32 < key.prefix_bits; bit++)
        inside &= ((key.addr[bit / 8] ^ address[bit / 8]) >> (7 - bit % 8) & 1) == 0;
      if (!inside || key.prefix_bits < longest) continue;
      longest = key.prefix_bits;
      identity = value;
    }
    return identity;
  }

 private:
  const PolicyRows& rows_;
  std::map<std::pair<sh_u32, int>, sh_policy_subject> subjects_;
  std::map<std::tuple<sh_u32, sh_u32, sh_u16>, sh_policy_entry> entries_;
  std::vector<sh_policy_set> sets_;
  std::vector<sh_u16> cells_;
  std::vector<struct sh_policy_block> blocks_;
  std::vector<sh_policy_result> results_;
};

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
