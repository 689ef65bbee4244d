#include <gtest/gtest.h>

#include <algorithm>
#include <control/config.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace shunt {
namespace {

ConfigOutcome parse(const std::string& text) { return parse_config({{"shunt.yaml", text}}); }

// The only problem of a text, as it is shown.
std::string problem_of(const std::string& text) {
  const ConfigOutcome outcome = parse(text);
  EXPECT_EQ(outcome.problems.size(), 1u) << text;
  return outcome.problems.empty() ? "" : outcome.problems[0].to_string();
}

TEST(Config, EmptyFileMeansTheDefaults) {
  for (const char* text : {"", "\n", "# nothing\n", "---\n", "log:\n"}) {
    const ConfigOutcome outcome = parse(text);
    EXPECT_TRUE(outcome.ok()) << text;
    EXPECT_EQ(outcome.config.daemon.metrics_listen, "127.0.0.1:9615");
    EXPECT_EQ(outcome.config.settings.receivers.size(), shipped_receivers().size());
    EXPECT_EQ(outcome.config.settings.selection.ports.exclude.size(), default_selection().ports.exclude.size());
  }
}

TEST(Config, ReadsEveryKey) {
  const ConfigOutcome outcome = parse(R"(
log: {format: json, level: debug, target: stderr}
control: {socket: /run/other/s.sock}
metrics: {listen: ""}
proxy: {user: somebody}
paths: {bpffs: /bpf, pins: /bpf/p, cgroup_root: /cg/, state: /s}
selection:
  defaults: false
  cgroups: {include: [/system.slice], exclude: [/system.slice/a.service/]}
  ports: {include: [80, 8000-8100], exclude: ["22"]}
  cidrs: {include: [127.0.0.0/8, "::1"], exclude: [10.0.0.1]}
  programs: {include: [nginx], exclude: [a-program-with-a-name-longer-than-the-kernel-keeps]}
  users: {include: [root, 33], exclude: []}
receivers:
  shipped: false
  add: [one, {name: two, fionread: true, verify: yes}, three]
  remove: [three]
spill: {bytes: 128KiB, messages: 100}
firewall: {interval: 250ms}
profile: {enabled: no, sample: 32, one_shot_turns: 1, one_way_messages: 2, bulk_bytes: 1MiB}
drain: {deadline: 1m}
policy: {directory: /p/, existing: grace, blocks: 4096, results: 1000}
gateway: {config: /g/gateway.yaml, cgroups: [/system.slice/apps.slice]}
)");
  for (const ConfigProblem& problem : outcome.problems) ADD_FAILURE() << problem.to_string();
  const auto& [settings, daemon, policy, gateway, paths, files] = outcome.config;
  EXPECT_EQ(daemon.log.format, LogFormat::json);
  EXPECT_EQ(daemon.log.level, LogLevel::debug);
  EXPECT_EQ(daemon.log.target, LogTarget::stderr_stream);
  EXPECT_EQ(daemon.socket, "/run/other/s.sock");
  EXPECT_EQ(daemon.metrics_listen, "");
  EXPECT_EQ(daemon.proxy_user, "somebody");
  EXPECT_EQ(daemon.drain_deadline, std::chrono::minutes(1));
  EXPECT_EQ(policy.directory, "/p");
  EXPECT_TRUE(policy.directory_named);
  EXPECT_EQ(policy.existing, SH_POLICY_EXISTING_GRACE);
  EXPECT_EQ(settings.policy_blocks, 4096u);
  EXPECT_EQ(settings.policy_results, 1000u);
  EXPECT_EQ(gateway.config, "/g/gateway.yaml");
  EXPECT_EQ(gateway.cgroups, std::vector<std::string>{"/system.slice/apps.slice"});
  EXPECT_EQ(paths.bpffs, "/bpf");
  EXPECT_EQ(paths.pin_dir, "/bpf/p");
  EXPECT_EQ(paths.cgroup_root, "/cg");
  EXPECT_EQ(daemon.kept_policy(), "/s/policy");
  const Selection& selection = settings.selection;
  EXPECT_EQ(selection.cgroups.include, std::vector<std::string>{"/system.slice"});
  EXPECT_EQ(selection.cgroups.exclude, std::vector<std::string>{"/system.slice/a.service"});
  ASSERT_EQ(selection.ports.include.size(), 2u);
  EXPECT_EQ(selection.ports.include[1].last, 8100);
  ASSERT_EQ(selection.cidrs.include.size(), 2u);
  EXPECT_EQ(selection.cidrs.include[0].prefix_bits, 104);
  EXPECT_EQ(selection.cidrs.exclude[0].prefix_bits, 128);
  EXPECT_EQ(selection.programs.exclude[0].size(), 31u);
  EXPECT_EQ(selection.users.include, (std::vector<uint32_t>{0, 33}));
  ASSERT_EQ(settings.receivers.size(), 2u);
  EXPECT_EQ(settings.receivers[1].name, "two");
  EXPECT_TRUE(settings.receivers[1].uses_fionread && settings.receivers[1].verify);
  EXPECT_EQ(settings.spill_bytes, 128u * 1024);
  EXPECT_EQ(settings.spill_messages, 100u);
  EXPECT_EQ(settings.firewall_interval, std::chrono::milliseconds(250));
  EXPECT_FALSE(settings.profile);
  EXPECT_EQ(settings.profile_sample, 32u);
  EXPECT_EQ(settings.bulk_bytes, 1u << 20);
}

TEST(Config, SaysWhereAndWhatToDo) {
  EXPECT_EQ(problem_of("spil:\n  bytes: 1\n"), "shunt.yaml:1:1: unknown key 'spil' (did you mean 'spill'?)");
  EXPECT_EQ(problem_of("log:\n  levle: info\n"), "shunt.yaml:2:3: unknown key 'levle' (did you mean 'level'?)");
  EXPECT_EQ(problem_of("log:\n  level: warn\n"), "shunt.yaml:2:10: 'warn' is not one of debug, info, warning, error");
  EXPECT_EQ(problem_of("selection:\n  cidrs:\n    exclude: [10.0.0.1/8]\n"),
            "shunt.yaml:3:15: '10.0.0.1/8' has bits set after its prefix (write 10.0.0.0/8)");
  EXPECT_EQ(problem_of("profile: {sample: 100}\n"), "shunt.yaml:1:19: '100' is not a power of two (write 128)");
  EXPECT_EQ(problem_of("receivers: {add: [/usr/sbin/nginx]}\n"),
            "shunt.yaml:1:19: programs are named by the base name of their executable (write nginx)");
}

TEST(Config, RefusesWhatItWouldOtherwiseIgnore) {
  EXPECT_NE(problem_of("gateway: {cgroups: [/a]}\n").find("which gateway"), std::string::npos);
  EXPECT_NE(problem_of("selection: {cgroups: {include: [/a]}}\ngateway: {config: /g, cgroups: [/ab]}\n")
                .find("/ab is not within selection.cgroups"),
            std::string::npos);
  EXPECT_NE(problem_of("log: {level: info, level: debug}\n").find("stands here twice"), std::string::npos);
  EXPECT_NE(problem_of("log: {}\n---\nlog: {}\n").find("second YAML document"), std::string::npos);
  EXPECT_NE(problem_of("log: [a]\n").find("expected a section"), std::string::npos);
  EXPECT_NE(problem_of("selection: {ports: {include: 80}}\n").find("expected a list"), std::string::npos);
  EXPECT_NE(problem_of("drain: {deadline: }\n").find("a value is missing"), std::string::npos);
  EXPECT_NE(problem_of("receivers: {add: [{verify: true}]}\n").find("needs a name"), std::string::npos);
  EXPECT_NE(problem_of("? [a, b]\n: c\n").find("a key must be one word"), std::string::npos);
  EXPECT_NE(problem_of("log: {level: \"info\n").find("not valid YAML"), std::string::npos);
}

TEST(Config, AProblemIsOneLine) {
  const std::string problem = problem_of("receivers: {add: [\"a/b\\nlevel=error\"]}\n");
  EXPECT_EQ(problem.find('\n'), std::string::npos) << problem;
}

TEST(Config, ShowsAllProblemsUpToALimit) {
  EXPECT_EQ(parse("spill: {bytes: x, messages: 0}\nfirewall: {interval: 1ms}\n").problems.size(), 3u);
  std::string text = "selection: {ports: {include: [";
  for (int i = 0; i < 1000; i++) text += "x,";
  EXPECT_EQ(parse(text + "]}}\n").problems.size(), 51u);
}

TEST(Config, SurvivesNestingAndAliases) {
  EXPECT_FALSE(parse(std::string(100'000, '[')).ok());
  EXPECT_FALSE(parse(std::string(100'000, '{')).ok());
  std::string bomb = "a: &a [x]\n";
  for (char name = 'b'; name < 'z'; name++)
    bomb += std::string(1, name) + ": &" + name + " [*" + static_cast<char>(name - 1) + ", *" +
            static_cast<char>(name - 1) + "]\n";
  EXPECT_FALSE(parse(bomb).ok());
  EXPECT_FALSE(parse("log: &a [*a]\n").ok());
  EXPECT_FALSE(parse("\t\t, cgroup_root: /cg/}\nx:\n  y: z").ok());
  EXPECT_FALSE(parse("log: {}\n]\n").ok());
}

TEST(Config, LaterFilesWinAndListsGrow) {
  const ConfigOutcome outcome =
      parse_config({{"a", "metrics: {listen: '127.0.0.1:1'}\nselection: {defaults: no, ports: {exclude: [1, 2]}}\n"},
                    {"b", "metrics: {listen: '127.0.0.1:2'}\nselection: {ports: {exclude: [2, 3]}}\n"}});
  ASSERT_TRUE(outcome.ok());
  EXPECT_EQ(outcome.config.daemon.metrics_listen, "127.0.0.1:2");
  const auto& ports = outcome.config.settings.selection.ports.exclude;
  ASSERT_EQ(ports.size(), 3u);
  EXPECT_EQ(ports[2].first, 3);
}

class ConfigFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/shunt-config-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    std::filesystem::create_directory(folder_ / "conf.d");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void write(const char* name, const std::string& text) { std::ofstream(folder_ / name) << text; }
  ConfigOutcome load(bool required = true) { return load_config(folder_ / "shunt.yaml", required); }

  std::filesystem::path folder_;
};

TEST_F(ConfigFolder, ReadsDropInsInOrderOfTheirNames) {
  write("shunt.yaml", "profile: {sample: 2}\n");
  write("conf.d/20.yaml", "profile: {sample: 8}\n");
  write("conf.d/10.yaml", "profile: {sample: 4}\nlog: {level: error}\n");
  write("conf.d/.hidden.yaml", "nonsense: 1\n");
  write("conf.d/old.yaml.dpkg-old", "nonsense: 1\n");
  const ConfigOutcome outcome = load();
  ASSERT_TRUE(outcome.ok());
  EXPECT_EQ(outcome.config.settings.profile_sample, 8u);
  EXPECT_EQ(outcome.config.daemon.log.level, LogLevel::error);
  EXPECT_EQ(outcome.config.files.size(), 3u);
}

TEST_F(ConfigFolder, NamesTheFileThatIsWrong) {
  write("shunt.yaml", "log: {}\n");
  write("conf.d/x.yaml", "\n\nfoo: 1\n");
  const ConfigOutcome outcome = load();
  ASSERT_EQ(outcome.problems.size(), 1u);
  EXPECT_EQ(outcome.problems[0].file, folder_ / "conf.d/x.yaml");
  EXPECT_EQ(outcome.problems[0].line, 3);
}

TEST_F(ConfigFolder, RefusesAnEndingThatWouldNotBeRead) {
  write("conf.d/x.yml", "log: {}\n");
  EXPECT_EQ(load(false).problems.size(), 1u);
}

TEST_F(ConfigFolder, AMissingFileIsAnErrorOnlyIfNamed) {
  EXPECT_TRUE(load(false).ok());
  EXPECT_FALSE(load(true).ok());
}

TEST_F(ConfigFolder, RefusesFoldersAndHugeFiles) {
  std::filesystem::create_directory(folder_ / "shunt.yaml");
  EXPECT_FALSE(load().ok());
  std::filesystem::remove(folder_ / "shunt.yaml");
  write("shunt.yaml", std::string((1 << 20) + 1, '#'));
  EXPECT_FALSE(load().ok());
}

TEST(Config, TheShippedFileIsTheDefaults) {
  const ConfigOutcome shipped = load_config(SHUNT_SOURCE_ROOT "/packaging/config/shunt.yaml", true);
  for (const ConfigProblem& problem : shipped.problems) ADD_FAILURE() << problem.to_string();
  const Config defaults = default_config();
  EXPECT_EQ(shipped.config.daemon.socket, defaults.daemon.socket);
  EXPECT_EQ(shipped.config.settings.receivers.size(), defaults.settings.receivers.size());
}

// Every setting that stands in a comment of the shipped file is right, and says what the default is.
TEST(Config, TheShippedFileShowsTheDefaults) {
  std::ifstream file(SHUNT_SOURCE_ROOT "/packaging/config/shunt.yaml");
  std::string text;
  int settings = 0;
  for (std::string line; std::getline(file, line);) {
    // Settings are written as "#key: value", words as "# words".
    const size_t hash = line.find_first_not_of(' ');
    if (hash != std::string::npos && line[hash] == '#' && hash + 1 < line.size() && line[hash + 1] != ' ') {
      line.erase(hash, 1);
      settings++;
    }
    text += line + "\n";
  }
  EXPECT_GT(settings, 25);
  const ConfigOutcome shown = parse(text);
  for (const ConfigProblem& problem : shown.problems) ADD_FAILURE() << problem.to_string();
  const Config defaults = default_config();
  EXPECT_EQ(shown.config.daemon.metrics_listen, defaults.daemon.metrics_listen);
  EXPECT_EQ(shown.config.daemon.drain_deadline, defaults.daemon.drain_deadline);
  EXPECT_EQ(shown.config.settings.spill_bytes, defaults.settings.spill_bytes);
  EXPECT_EQ(shown.config.settings.spill_messages, defaults.settings.spill_messages);
  EXPECT_EQ(shown.config.settings.firewall_interval, defaults.settings.firewall_interval);
  EXPECT_EQ(shown.config.settings.profile_sample, defaults.settings.profile_sample);
  EXPECT_EQ(shown.config.settings.one_shot_turns, defaults.settings.one_shot_turns);
  EXPECT_EQ(shown.config.settings.one_way_messages, defaults.settings.one_way_messages);
  EXPECT_EQ(shown.config.settings.bulk_bytes, defaults.settings.bulk_bytes);
}

}  // namespace
}  // namespace shunt
