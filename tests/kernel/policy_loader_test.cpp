// Policies in the real maps: read back and asked, switched, refused; workloads found; programs attached and gone.
#include <bpf/bpf.h>
#include <poll.h>
#include <sys/stat.h>

#include <filesystem>
#include <policy/rows.hpp>
#include <sockops/pins.hpp>
#include <sockops/policy_loader.hpp>
#include <sockops/policy_tables.hpp>
#include <support/policy_agrees.hpp>

#include "support/accelerated.hpp"

namespace shunt::test {
namespace {

// The maps of the newest generation.
class MapSource {
 public:
  explicit MapSource(const Paths& paths) : paths_(paths), tables_(read_policy_tables(finder())) {
    const auto head = read_policy_head(map("sh_pol_heads"));
    EXPECT_TRUE(head);
    if (head) head_ = *head;
  }
  const PolicyTables& tables() const { return *tables_; }
  const sh_policy_head& head() const { return head_; }
  sh_u32 workload(uint64_t cgroup, uint32_t netns = 0, uint32_t uid = SH_POLICY_UID_ANY) const {
    sh_u32 identity = 0;
    find("sh_pol_workload", sh_policy_workload_key{cgroup, netns, uid, half(), 0}, identity);
    return identity;
  }
  // Of the half in force: subjects, entries, networks and sets.
  size_t rows() const {
    const auto of_half = [this](const auto& key) { return key.half == half(); };
    return keys<sh_policy_subject_key>("sh_pol_subjects", of_half) + keys<sh_policy_cidr_key>("sh_pol_cidrs", of_half) +
           keys<sh_policy_key>("sh_pol_entries", [&](const auto& key) { return (key.table & 1) == half(); }) +
           keys<sh_u32>("sh_pol_sets", [&](sh_u32 number) { return (number & 1) == half(); });
  }
  std::optional<struct sh_policy_path> path(const std::string& name) const {
    sh_policy_path_key key = {};
    struct sh_policy_path value = {};
    memcpy(key.path, name.data(), name.size());
    key.half = half();
    return find("sh_pol_paths", key, value) ? std::optional(value) : std::nullopt;
  }

 private:
  using Maps = std::map<std::string, UniqueFd>;

  sh_u8 half() const { return head_.generation & 1; }
  int map(const std::string& name) const { return finder()(name); }
  MapFinder finder() const {
    return [paths = paths_, maps = maps_](const std::string& name) {
      UniqueFd& fd = (*maps)[name];
      if (!fd) {
        auto opened = open_map(paths, generations(paths).back(), name);
        EXPECT_TRUE(opened) << name;
        if (opened) fd = std::move(*opened);
      }
      return fd.get();
    };
  }
  template <typename K, typename Wanted>
  size_t keys(const char* name, Wanted wanted) const {
    size_t count = 0;
    K key = {}, next = {};
    for (int more = bpf_map_get_next_key(map(name), nullptr, &next); more == 0;
         more = bpf_map_get_next_key(map(name), &key, &next)) {
      key = next;
      count += wanted(key);
    }
    return count;
  }
  template <typename K, typename V>
  bool find(const char* name, const K& key, V& value) const {
    return bpf_map_lookup_elem(map(name), &key, &value) == 0;
  }

  Paths paths_;
  std::shared_ptr<Maps> maps_ = std::make_shared<Maps>();
  sh_policy_head head_ = {};
  std::unique_ptr<PolicyTables> tables_;
};

const char* const kPolicyMaps[] = {"sh_pol_workload", "sh_pol_paths",   "sh_pol_subjects",
                                   "sh_pol_cidrs",    "sh_pol_entries", "sh_pol_sets"};

// Documents, compiled; kept as long as their rows are used.
struct Compiled {
  explicit Compiled(const std::string& text, policy::Compiler& compiler) {
    policy::Loader loader;
    loaded = loader.load({{"test.yaml", text}});
    for (const Problem& problem : loaded.problems) ADD_FAILURE() << problem.to_string() << "\n" << text;
    tables = compiler.compile(loaded.model);
    rows = policy::rows_of(loaded.model, tables);
  }
  Compiled(const Compiled&) = delete;
  policy::Loaded loaded;
  policy::Tables tables;
  PolicyRows rows;
};

Settings small_settings(uint32_t blocks) {
  Settings settings = plain_settings();
  settings.policy_blocks = blocks;
  return settings;
}

class PolicyLoading : public ::testing::Test {
 protected:
  // The random workloads are units: below the test's own cgroup instead, so that nothing of the host is governed.
  std::string here(std::string text) const {
    for (size_t at = text.find("unit: "); at != std::string::npos; at = text.find("unit: ", at))
      text.replace(at, strlen("unit: "), "cgroup: " + shortcut_.cgroup().name() + "/");
    return text;
  }
  std::string below(const std::string& name) const { return shortcut_.cgroup().path() + "/" + name; }
  std::string workload(const std::string& name, const std::string& match) const {
    return "---\napiVersion: shunt.dev/v1\nkind: Workload\nmetadata: {name: " + name + ", labels: {app: " + name +
           "}}\nspec: {match: {" + match + "}}\n";
  }
  std::string policy(const std::string& app, const std::string& path) const {
    return "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: " + app +
           "}\nspec:\n  endpointSelector: {matchLabels: {app: " + app +
           "}}\n  ingress: [{toPorts: [{ports: [{port: '80'}], rules: {http: [{path: '" + path + "'}]}}]}]\n";
  }
  Result<void> put(const Compiled& compiled) {
    return shortcut_.engine().set_policy(&compiled.rows, SH_POLICY_EXISTING_GRACE);
  }
  void must_put(const Compiled& compiled) {
    const auto done = put(compiled);
    ASSERT_TRUE(done) << done.error().to_string();
  }
  // As a daemon does it.
  void must_settle() {
    pollfd settled = {shortcut_.engine().policy_settled_fd(), POLLIN, 0};
    uint64_t count = 0;
    ASSERT_EQ(poll(&settled, 1, 10'000), 1) << "nobody says that the policy before is not read any more";
    ASSERT_EQ(read(settled.fd, &count, sizeof(count)), static_cast<ssize_t>(sizeof(count)));
    ASSERT_TRUE(shortcut_.engine().refresh_policy());
  }
  MapSource source() const { return MapSource(shortcut_.paths()); }
  size_t rows_in_maps() {
    size_t count = 0;
    for (const char* map : kPolicyMaps) count += shortcut_.entries(map);
    return count;
  }
  size_t rows_of(const Compiled& compiled) const {
    const PolicyRows& rows = compiled.rows;
    return rows.subjects.size() + rows.entries.size() + rows.cidrs.size() + rows.sets.size();
  }
  uint32_t attached(bpf_attach_type type) const { return programs_attached(shortcut_.cgroup(), type); }
  size_t links() const {
    size_t count = 0;
    for (const auto& name : list_dir(links_dir(shortcut_.paths()))) count += !name.starts_with("ops-");
    return count;
  }

  Accelerated shortcut_{small_settings(64)};
  policy::Compiler compiler_;
};

TEST_F(PolicyLoading, TheMapsAnswerAsTheTables) {
  size_t verdicts[4] = {};
  for (uint32_t seed = 0; seed < 60; seed++) {
    policy::Random random(seed);
    const Compiled compiled(here(policy::documents(random)), compiler_);
    must_put(compiled);
    const MapSource maps = source();
    EXPECT_EQ(maps.head().generation, seed + 1);
    EXPECT_EQ(maps.rows(), rows_of(compiled)) << "seed " << seed;
    EXPECT_EQ(maps.head().requests, compiled.rows.requests);
    EXPECT_EQ(maps.head().existing, SH_POLICY_EXISTING_GRACE);
    ASSERT_TRUE(agrees(maps.tables(), compiled.loaded.model, compiled.tables, random, 30, verdicts)) << "seed " << seed;
  }
  for (const size_t count : verdicts) EXPECT_GT(count, 0u);
}

// Of a policy that was replaced nothing is left, and the next one's answers are never mixed with it.
TEST_F(PolicyLoading, AHundredSwitches) {
  const std::string people = workload("a", "cgroup: " + shortcut_.cgroup().name() + "/a");
  const Compiled one(people + policy("a", "/one/.*"), compiler_);
  const Compiled other(people + policy("a", "/other/.*") + policy("a-not", "/x"), compiler_);
  const Compiled third(people + policy("a", "/third/.*") + policy("a-not", "/x"), compiler_);
  const Compiled* const policies[] = {&one, &other, &third};
  policy::HttpRequest request;
  for (int i = 1; i <= 100; i++) {
    must_put(*policies[i % 3]);
    const MapSource maps = source();
    ASSERT_EQ(maps.head().generation, static_cast<uint32_t>(i));
    const Compiled& now = *policies[i % 3];
    ASSERT_EQ(maps.rows(), rows_of(now)) << i;
    const char* const paths[] = {"/one/x", "/other/x", "/third/x"};
    for (int path = 0; path < 3; path++) {
      const sh_policy_verdict verdict = path == i % 3 ? SH_POLICY_ALLOW : SH_POLICY_DENY;
      request.path = paths[path];
      const uint32_t a = one.rows.workloads[0].identity;
      ASSERT_EQ(walk(maps.tables(), SH_POLICY_INGRESS, a, SH_IDENTITY_HOST, 80, &request).verdict, verdict)
          << i << request.path;
    }
  }
  ASSERT_TRUE(shortcut_.engine().set_policy(nullptr, SH_POLICY_EXISTING_RESET));
  EXPECT_EQ(source().head().generation, 0u);
  EXPECT_EQ(rows_in_maps(), 0u);
  must_put(one);
  EXPECT_EQ(source().head().generation, 101u);  // a number is never given twice: sockets remember it
}

// As the kernel side does for a request that rule `rule` of the entry decided.
void count(const Accelerated& shortcut, uint32_t origin, uint32_t rule, uint64_t hits) {
  auto map = open_map(shortcut.paths(), generations(shortcut.paths()).back(), "sh_pol_hits");
  ASSERT_TRUE(map);
  const uint32_t number = origin + (rule == SH_POLICY_NO_RULE ? 0 : 2 * (rule + 1));
  sh_policy_hit hit = {};
  ASSERT_EQ(bpf_map_lookup_elem(map->get(), &number, &hit), 0);
  EXPECT_NE(hit.rule, 0u) << "nothing is counted at " << number;
  hit.hits += hits;
  ASSERT_EQ(bpf_map_update_elem(map->get(), &number, &hit, BPF_ANY), 0);
}

// A rule is found again by what it says, whatever its number and whoever compiled it; one that changed begins anew.
TEST_F(PolicyLoading, CountersOfUnchangedRulesGoOn) {
  const std::string people = workload("a", "cgroup: " + shortcut_.cgroup().name() + "/a");
  const auto origin_in_force = [&](const Compiled& compiled) {
    return policy::ask(source().tables(), SH_POLICY_INGRESS, compiled.rows.workloads[0].identity, SH_IDENTITY_HOST, 80)
        .entry.origin;
  };
  const auto hits = [&](const Compiled& compiled, uint32_t rule) {
    const uint32_t first = origin_in_force(compiled) >> 1;
    return shortcut_.engine().policy_hits().at(rule == SH_POLICY_NO_RULE ? first : first + 1 + rule);
  };
  const std::string kept = policy("a", "/kept");
  const std::string with_other = policy("b", "/other"), changed = policy("b", "/changed");
  const auto on_a = [](std::string text) { return text.replace(text.rfind("app: b"), 6, "app: a"); };
  const Compiled one(people + on_a(with_other) + kept, compiler_);
  must_put(one);
  count(shortcut_, origin_in_force(one), 0, 30);
  count(shortcut_, origin_in_force(one), 1, 7);
  count(shortcut_, origin_in_force(one), SH_POLICY_NO_RULE, 5);
  policy::Compiler another;  // as after a restart
  const Compiled two(people + kept + on_a(changed), another);
  must_put(two);
  EXPECT_EQ(hits(two, 0), 7u);
  EXPECT_EQ(hits(two, 1), 0u);
  EXPECT_EQ(hits(two, SH_POLICY_NO_RULE), 5u);
  // Over `one`, whose sets have the same numbers; then again, before anybody has looked.
  for (int i = 0; i < 3; i++) must_put(two);
  EXPECT_EQ(hits(two, 0), 7u);
  policy::HttpRequest request;
  for (const auto& [path, verdict] : {std::pair("/other", SH_POLICY_DENY), std::pair("/changed", SH_POLICY_ALLOW)}) {
    request.path = path;
    const uint32_t a = two.rows.workloads[0].identity;
    EXPECT_EQ(walk(source().tables(), SH_POLICY_INGRESS, a, SH_IDENTITY_HOST, 80, &request).verdict, verdict) << path;
  }
  must_put(one);
  EXPECT_EQ(hits(one, 0), 0u);
  EXPECT_EQ(hits(one, 1), 7u);
}

TEST_F(PolicyLoading, WhatDoesNotFitLeavesTheOldInForce) {
  const std::string people = workload("a", "cgroup: " + shortcut_.cgroup().name() + "/a");
  const Compiled fits(people + policy("a", "/fits"), compiler_);
  must_put(fits);
  const size_t rows = rows_in_maps();
  std::string large = people;
  for (int i = 0; i < 30; i++) {
    const std::string number = std::to_string(i);
    std::string one = policy("a", "/" + number + "/[a-w]{1,200}x[0-9]{1,200}-" + number);
    one.replace(one.find("name: a"), 7, "name: a" + number);
    large += one;
  }
  const Compiled too_large(large, compiler_);
  ASSERT_GT(too_large.rows.cells(), size_t{32} * SH_POLICY_BLOCK_CELLS);
  const auto refused = put(too_large);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, E2BIG);
  EXPECT_NE(refused.error().remedy.find("policy.blocks"), std::string::npos) << refused.error().to_string();
  EXPECT_EQ(source().head().generation, 1u);
  EXPECT_EQ(rows_in_maps(), rows);
  policy::HttpRequest request;
  request.path = "/fits";
  EXPECT_EQ(walk(source().tables(), SH_POLICY_INGRESS, fits.rows.workloads[0].identity, SH_IDENTITY_HOST, 80, &request)
                .verdict,
            SH_POLICY_ALLOW);
}

// Three sets fill the half; of them the middle one stays, and what comes fits on neither side of it.
TEST_F(PolicyLoading, WhatFindsNoPlaceBetweenOthersIsPlacedAnewWithThem) {
  const std::string people = workload("a", "cgroup: " + shortcut_.cgroup().name() + "/a");
  const auto rules = [&](const std::string& name, const std::string& port, int count) {
    std::string one = policy("a", "/" + name + "/0/[a-w]{1,200}x");
    one.replace(one.find("name: a"), 7, "name: " + name);
    one.replace(one.find("'80'"), 4, "'" + port + "'");
    for (int i = 1; i < count; i++)
      one.insert(one.rfind("]}}]}]"), ", {path: '/" + name + "/" + std::to_string(i) + "/[a-w]{1,200}x'}");
    return one;
  };
  const auto blocks = [](const Compiled& compiled) { return compiled.rows.cells() / SH_POLICY_BLOCK_CELLS; };
  int count = 1;
  while (blocks(Compiled(people + rules("k", "80", count), compiler_)) < 9) count++;
  const std::string middle = rules("middle", "81", count);
  const Compiled full(people + rules("first", "80", count) + middle + rules("third", "82", count), compiler_);
  const Compiled small(people + policy("a", "/"), compiler_);
  const Compiled large(people + middle + rules("large", "80", 2 * count - 1), compiler_);
  ASSERT_LE(blocks(full), 31u);
  ASSERT_LE(blocks(large), 31u);
  ASSERT_GT(blocks(large) - blocks(full) / 3, 31 - 2 * (blocks(full) / 3)) << "it fits behind the middle one";
  policy::HttpRequest request;
  request.path = "/middle/0/ax";
  for (const Compiled* compiled : {&full, &small, &large}) must_put(*compiled);
  const uint32_t a = large.rows.workloads[0].identity;
  const MapSource maps = source();
  EXPECT_EQ(maps.rows(), rows_of(large));
  EXPECT_EQ(walk(maps.tables(), SH_POLICY_INGRESS, a, SH_IDENTITY_HOST, 81, &request).verdict, SH_POLICY_ALLOW);
  request.path = "/large/1/ax";
  EXPECT_EQ(walk(maps.tables(), SH_POLICY_INGRESS, a, SH_IDENTITY_HOST, 80, &request).verdict, SH_POLICY_ALLOW);
  request.path = "/first/1/ax";
  EXPECT_EQ(walk(maps.tables(), SH_POLICY_INGRESS, a, SH_IDENTITY_HOST, 80, &request).verdict, SH_POLICY_DENY);
}

TEST_F(PolicyLoading, TwoWorkloadsOfTheSameProcessesAreRefused) {
  const std::string match = "cgroup: " + shortcut_.cgroup().name() + "/a";
  mkdir(below("a").c_str(), 0755);
  const Compiled fits(workload("a", match) + policy("a", "/x"), compiler_);
  must_put(fits);
  const Compiled twice(workload("a", match) + workload("b", match) + policy("a", "/x"), compiler_);
  const auto refused = put(twice);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("default/a and default/b"), std::string::npos) << refused.error().message;
  EXPECT_EQ(source().head().generation, 1u);
}

TEST_F(PolicyLoading, RemoteWorkloadsAreInTheirHalfAloneAndNoTwoHaveOneId) {
  const auto remote = [](const std::string& name, const std::string& id) {
    return "---\napiVersion: shunt.dev/v1\nkind: Workload\nmetadata: {name: " + name + ", labels: {app: " + name +
           "}}\nspec: {spiffe: spiffe://mesh.example/" + id + "}\n";
  };
  const Compiled fits(remote("a", "a") + remote("b", "b") + policy("a", "/x"), compiler_);
  must_put(fits);
  EXPECT_EQ(shortcut_.entries("sh_pol_remotes"), 2u);
  EXPECT_EQ(shortcut_.entries("sh_pol_workload"), 0u) << "every process became a workload of another host";
  must_put(Compiled(remote("a", "a") + policy("a", "/x"), compiler_));
  must_settle();
  EXPECT_EQ(shortcut_.entries("sh_pol_remotes"), 1u);
  const auto refused = put(Compiled(remote("a", "a") + remote("b", "a") + policy("a", "/x"), compiler_));
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("default/a and default/b are both"), std::string::npos)
      << refused.error().message;
  EXPECT_EQ(source().head().generation, 2u);
}

// Whoever asked for a policy does not wait for the programs that still read the one before.
TEST_F(PolicyLoading, ThePolicyBeforeStaysUntilNobodyReadsIt) {
  const std::string name = shortcut_.cgroup().name();
  const Compiled first(workload("a", "cgroup: " + name + "/a") + policy("a", "/first/0"), compiler_);
  const Compiled second(workload("b", "cgroup: " + name + "/b") + policy("b", "/second/0"), compiler_);
  must_put(first);
  must_settle();
  must_put(second);
  EXPECT_EQ(source().head().generation, 2u);
  EXPECT_EQ(source().rows(), rows_of(second));
  EXPECT_EQ(shortcut_.entries("sh_pol_paths"), 2u) << "a program may be asking for the workload of the first";
  must_settle();
  EXPECT_EQ(shortcut_.entries("sh_pol_paths"), 1u);
  EXPECT_EQ(source().rows(), rows_of(second));
  // One behind the other, without that anybody looked.
  for (const Compiled* compiled : {&first, &second, &first}) must_put(*compiled);
  EXPECT_EQ(source().rows(), rows_of(first));
  must_settle();
  EXPECT_EQ(shortcut_.entries("sh_pol_paths"), 1u);
}

TEST_F(PolicyLoading, WorkloadsAreFoundWhenTheyComeAndComeBack) {
  const std::string name = shortcut_.cgroup().name();
  const std::string id = "0123456789abcdef";
  const std::string netns_file = TempDir() / "none";
  const Compiled compiled(workload("api", "cgroup: " + name + "/api, uid: 7") + workload("box", "containerId: " + id) +
                              workload("u", "uid: 4242") + workload("n", "networkNamespace: " + netns_file) +
                              policy("api", "/x"),
                          compiler_);
  const auto identity = [&](size_t i) { return compiled.rows.workloads[i].identity; };
  // Detached: a workload that is no cgroup would be governed at the root of the host.
  ASSERT_TRUE(shortcut_.engine().detach(std::chrono::seconds(5)));
  must_put(compiled);
  EXPECT_EQ(source().workload(0, 0, 4242), identity(2));
  ASSERT_TRUE(source().path(name + "/api"));
  EXPECT_EQ(source().path(name + "/api")->identity, identity(0));
  EXPECT_EQ(source().path(name + "/api")->uid, 7u);
  auto report = shortcut_.engine().policy();
  ASSERT_EQ(report.workloads.size(), 4u);
  for (const size_t missing : {0, 1, 3}) EXPECT_FALSE(report.workloads[missing].found()) << missing;
  EXPECT_TRUE(report.workloads[2].found());
  EXPECT_NE(report.workloads[3].note.find(netns_file), std::string::npos);
  const uint32_t by = source().head().by[source().tables().half()];
  EXPECT_EQ(by, 1U << SH_POLICY_BY_UID);

  struct stat info = {};
  uint64_t first = 0;
  for (int round = 0; round < 3; round++) {
    require(mkdir(below("api").c_str(), 0755) == 0, "make a cgroup");
    require(stat(below("api").c_str(), &info) == 0, "look at it");
    ASSERT_TRUE(shortcut_.engine().refresh_policy());
    EXPECT_EQ(source().workload(info.st_ino, 0, 7), identity(0)) << round;
    if (round == 0) first = info.st_ino;
    rmdir(below("api").c_str());
  }
  ASSERT_TRUE(shortcut_.engine().refresh_policy());
  EXPECT_EQ(source().workload(first, 0, 7), 0u);  // ids of cgroups that are gone do not gather
  EXPECT_EQ(shortcut_.entries("sh_pol_workload"), 1u);

  require(mkdir(below("docker-" + id + ".scope").c_str(), 0755) == 0, "make a cgroup");
  require(stat(below("docker-" + id + ".scope").c_str(), &info) == 0, "look at it");
  EXPECT_TRUE(eventually([&] {
    EXPECT_TRUE(shortcut_.engine().refresh_policy());
    return source().workload(info.st_ino) == identity(1);
  }));
  EXPECT_FALSE(source().path(name + "/docker-" + id + ".scope"));
  rmdir(below("docker-" + id + ".scope").c_str());
}

// Whoever owns a folder may give those in it any name.
TEST_F(PolicyLoading, FoldersOfOthersAreNotSearched) {
  const std::string id = "fedcba9876543210";
  require(mkdir(below("theirs").c_str(), 0755) == 0 && chown(below("theirs").c_str(), 4242, 4242) == 0, "delegate");
  require(mkdir((below("theirs") + "/" + id).c_str(), 0755) == 0, "make a cgroup");
  const Compiled compiled(workload("box", "containerId: " + id) + policy("box", "/x"), compiler_);
  must_put(compiled);
  EXPECT_FALSE(shortcut_.engine().policy().workloads[0].found());
  require(chown(below("theirs").c_str(), 0, 0) == 0, "take it back");
  must_put(compiled);
  EXPECT_TRUE(shortcut_.engine().policy().workloads[0].found());
}

TEST_F(PolicyLoading, ProgramsAreAttachedWhereTheyAreNeededAndNothingIsLeft) {
  const std::string name = shortcut_.cgroup().name();
  const auto expect = [&](uint32_t connect, uint32_t gate, size_t pinned) {
    EXPECT_EQ(attached(BPF_CGROUP_INET4_CONNECT), connect);
    EXPECT_EQ(attached(BPF_CGROUP_INET6_CONNECT), connect);
    EXPECT_EQ(attached(BPF_CGROUP_INET_INGRESS), gate);
    EXPECT_EQ(attached(BPF_CGROUP_INET_EGRESS), gate);
    EXPECT_EQ(links(), pinned);
  };
  expect(0, 0, 0);
  require(mkdir(below("in").c_str(), 0755) == 0, "make a cgroup");
  const Compiled outer(
      workload("a", "cgroup: " + name + "/a") + workload("b", "cgroup: " + name + "/in/b") + policy("a", "/x"),
      compiler_);
  must_put(outer);
  expect(1, 1, 5);  // the folder above covers the one below
  const Compiled inner(workload("b", "cgroup: " + name + "/in/b") + policy("b", "/x"), compiler_);
  must_put(inner);
  must_settle();
  expect(1, 0, 5);  // on "in" alone
  must_put(outer);
  must_settle();
  expect(1, 1, 5);

  shortcut_.destroy_engine();  // what a crash of the daemon leaves
  expect(1, 1, 5);
  EXPECT_EQ(source().head().generation, 3u);
  shortcut_.open_engine();
  expect(1, 1, 5);
  EXPECT_EQ(source().head().generation, 3u);
  EXPECT_EQ(shortcut_.engine().policy().generation, 3u);
  must_put(inner);
  EXPECT_EQ(source().head().generation, 4u);
  must_settle();
  expect(1, 0, 5);

  const auto drained = shortcut_.engine().detach(std::chrono::seconds(5));
  ASSERT_TRUE(drained) << drained.error().to_string();
  expect(0, 0, 0);
  EXPECT_EQ(source().head().generation, 0u);
  EXPECT_EQ(rows_in_maps(), 0u);
  must_put(outer);  // as 'shunt on' does: before it attaches
  expect(0, 0, 0);
  ASSERT_TRUE(shortcut_.engine().attach());
  expect(1, 1, 5);
  EXPECT_EQ(source().head().generation, 5u);
  ASSERT_TRUE(shortcut_.engine().set_policy(nullptr, SH_POLICY_EXISTING_RESET));
  expect(0, 0, 0);
}

TEST_F(PolicyLoading, MapsGrowWithTheSettingAndNeverShrink) {
  const auto size = [&] {
    bpf_map_info info = {};
    uint32_t bytes = sizeof(info);
    const auto map = open_map(shortcut_.paths(), generations(shortcut_.paths()).back(), "sh_pol_blocks");
    EXPECT_TRUE(map);
    EXPECT_EQ(bpf_obj_get_info_by_fd(map->get(), &info, &bytes), 0);
    return info.max_entries;
  };
  EXPECT_EQ(size(), 64u);
  const uint32_t generation = generations(shortcut_.paths()).back().number;
  for (const auto& [blocks, expected] : {std::pair(32U, 64U), std::pair(128U, 128U)}) {
    shortcut_.apply(small_settings(blocks));
    shortcut_.destroy_engine();
    shortcut_.open_engine();
    EXPECT_EQ(size(), expected);
  }
  EXPECT_EQ(generations(shortcut_.paths()).back().number, generation + 1);
}

}  // namespace
}  // namespace shunt::test
