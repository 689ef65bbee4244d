// The daemon from its start to its end, with an engine without a kernel behind it.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>

#include <control/client.hpp>
#include <control/daemon.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <tests/support/policy_row_source.hpp>
#include <tests/unit/fake_engine.hpp>
#include <thread>

namespace shunt {
namespace {

namespace fs = std::filesystem;

class DaemonTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "the daemon needs root";
    char name[] = "/tmp/shunt-daemon-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    FakeKernel& kernel = fake_kernel();
    kernel.status = {};
    kernel.status.generations = {1};
    kernel.probe = {};
    kernel.probe.usable = true;
    kernel.open_error.reset();
    kernel.apply_error.reset();
    kernel.applied.clear();
    kernel.drained = {};
    kernel.policy = {};
    kernel.policy_error.reset();
    kernel.policies_put = 0;
    kernel.end = {};
    kernel.no_end.reset();
    for (const char* name : {"policy", "state"}) fs::create_directory(folder_ / name);
    configure("");
  }
  void TearDown() override {
    stop();
    if (!folder_.empty()) fs::remove_all(folder_);
  }

  void configure(const std::string& more) {
    std::ofstream(folder_ / "shunt.yaml")
        << "control: {socket: " << socket() << "}\nlog: {level: error, target: stderr}\n"
        << "paths: {state: " << folder_.string() << "/state}\n"
        << (more.find("metrics") == std::string::npos ? "metrics: {listen: ''}\n" : "") << more
        << (more.find("policy") == std::string::npos ? "policy: {directory: " + (folder_ / "policy").string() + "}\n"
                                                     : "");
  }
  // One workload, whose GET requests to PATH are allowed.
  void write_policy(const std::string& path) {
    std::ofstream(folder_ / "policy/web.yaml")
        << "apiVersion: shunt.dev/v1\nkind: Workload\nmetadata: {name: web, labels: {app: web}}\n"
        << "spec: {match: {unit: web.service}}\n---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n"
        << "metadata: {name: p}\nspec:\n  endpointSelector: {matchLabels: {app: web}}\n"
        << "  ingress: [{toPorts: [{ports: [{port: '80'}], rules: {http: [{method: GET, path: " << path << "}]}}]}]\n";
  }
  // Of 40,000 rules: about a second of work.
  void write_slow_policy() {
    write_policy("/v1");
    std::ofstream file(folder_ / "policy/web.yaml", std::ios::app);
    for (int i = 0; i < 800; i++) {
      file
          << "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p" << i
          << "}\nspec:\n  endpointSelector: {matchLabels: {app: web}}\n  ingress:\n  - toPorts:\n    - ports: [{port: '"
          << 1000 + i << "'}]\n      rules:\n        http:\n";
      for (int k = 0; k < 50; k++) file << "        - {path: '/" << i << "/" << k << "/[a-z]+'}\n";
    }
  }
  std::string socket() const { return folder_ / "run/shunt.sock"; }

  std::optional<StartFailure> start() {
    daemon_ = std::make_unique<Daemon>(DaemonOptions{folder_ / "shunt.yaml", true});
    auto failure = daemon_->start();
    if (!failure) thread_ = std::thread([this] { EXPECT_TRUE(daemon_->run()); });
    return failure;
  }
  void stop() {
    if (thread_.joinable()) {
      // The signals are blocked in this process and read by the daemon's loop.
      kill(getpid(), SIGTERM);
      thread_.join();
    }
    daemon_.reset();
  }
  Reply ask(const Request& request, const std::function<bool(const Json&)>& on_line = {}) {
    auto client = ControlClient::connect(socket());
    if (!client) return {ExitCode::not_running, {}, client.error()};
    return client->request(request, on_line);
  }

  fs::path folder_;
  std::unique_ptr<Daemon> daemon_;
  std::thread thread_;
};

TEST_F(DaemonTest, StartsAttachesAndLeavesTheKernelSideRunning) {
  ASSERT_FALSE(start());
  const Reply reply = ask({.command = Command::status});
  ASSERT_EQ(reply.exit, ExitCode::ok) << reply.error.to_string();
  EXPECT_EQ(reply.data["mode"], "on");
  EXPECT_EQ(reply.data["daemon"]["pid"], getpid());
  stop();
  EXPECT_TRUE(fake_kernel().status.attached);
}

TEST_F(DaemonTest, OnlyOneRuns) {
  ASSERT_FALSE(start());
  Daemon second(DaemonOptions{folder_ / "shunt.yaml", true});
  const auto failure = second.start();
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->error.code, EBUSY);
}

TEST_F(DaemonTest, SaysWhyItCannotStart) {
  fake_kernel().probe.usable = false;
  fake_kernel().probe.items.push_back(
      {.name = "btf", .verdict = ProbeVerdict::fatal, .found = "no BTF", .remedy = "boot another kernel"});
  auto failure = start();
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->exit, ExitCode::kernel_unusable);
  EXPECT_NE(failure->error.message.find("btf: no BTF"), std::string::npos);
  EXPECT_EQ(failure->error.remedy, "boot another kernel");
  configure("nonsense: 1\n");
  failure = start();
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->exit, ExitCode::usage);
}

TEST_F(DaemonTest, ABadNewFileLeavesTheOldInForce) {
  ASSERT_FALSE(start());
  configure("spill: {messages: 77}\n");
  EXPECT_EQ(ask({.command = Command::reload}).exit, ExitCode::ok);
  EXPECT_EQ(fake_kernel().applied.back().spill_messages, 77u);
  configure("spill: {messages: none}\n");
  const Reply failed = ask({.command = Command::reload});
  EXPECT_EQ(failed.exit, ExitCode::usage);
  EXPECT_NE(failed.error.message.find("shunt.yaml:5:19"), std::string::npos) << failed.error.message;
  EXPECT_EQ(fake_kernel().applied.back().spill_messages, 77u);
  EXPECT_NE(ask({.command = Command::status}).data["daemon"]["config_error"], "");
  fake_kernel().apply_error = Error{ENOSPC, "a map is full", ""};
  configure("spill: {messages: 78}\n");
  EXPECT_EQ(ask({.command = Command::reload}).exit, ExitCode::error);
  EXPECT_EQ(fake_kernel().applied.back().spill_messages, 77u);
}

TEST_F(DaemonTest, SighupReloads) {
  ASSERT_FALSE(start());
  configure("spill: {messages: 55}\n");
  kill(getpid(), SIGHUP);
  const auto spill_messages = [] {
    const std::lock_guard guard(fake_kernel().lock);
    return fake_kernel().applied.back().spill_messages;
  };
  for (int i = 0; i < 100 && spill_messages() != 55; i++) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(spill_messages(), 55u);
}

// One reload serves all that ask while another runs: it may have read what they changed already.
TEST_F(DaemonTest, AnswersWhileItCompilesAndReadsAgainWhatChangedMeanwhile) {
  ASSERT_FALSE(start());
  write_slow_policy();
  Reply replies[3];
  std::atomic<bool> ended = false;
  std::thread first([&] {
    replies[0] = ask({.command = Command::reload});
    ended = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  write_policy("/v1");
  std::thread second([&] { replies[1] = ask({.command = Command::reload}); });
  std::thread third([&] { replies[2] = ask({.command = Command::reload}); });
  for (int i = 0; i < 10; i++) EXPECT_EQ(ask({.command = Command::status}).exit, ExitCode::ok);
  EXPECT_FALSE(ended) << "compiled before anybody could ask";
  EXPECT_EQ(fake_kernel().policies_put, 0u);
  for (std::thread* client : {&first, &second, &third}) client->join();
  for (const Reply& reply : replies) EXPECT_EQ(reply.exit, ExitCode::ok) << reply.error.to_string();
  EXPECT_EQ(fake_kernel().policies_put, 2u);
  EXPECT_EQ(ask({.command = Command::policy}).data["rules"].size(), 1u);
}

TEST_F(DaemonTest, EndsWhileItCompiles) {
  ASSERT_FALSE(start());
  write_slow_policy();
  std::thread client([&] { EXPECT_NE(ask({.command = Command::reload}).exit, ExitCode::ok); });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  stop();
  client.join();
}

TEST_F(DaemonTest, OffWhileItCompilesWins) {
  write_policy("/v1");
  ASSERT_FALSE(start());
  write_slow_policy();
  std::thread client([&] { ask({.command = Command::reload}); });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  ask({.command = Command::off}, [](const Json&) { return true; });
  client.join();
  EXPECT_EQ(fake_kernel().policies_put, 1u);
  EXPECT_EQ(ask({.command = Command::on}).exit, ExitCode::ok);
  EXPECT_EQ(fake_kernel().policies_put, 2u);
}

TEST_F(DaemonTest, OffDrainsWithProgressAndStaysOffOverARestart) {
  ASSERT_FALSE(start());
  std::vector<uint64_t> progress;
  const Reply reply = ask({.command = Command::off}, [&](const Json& line) {
    progress.push_back(line["remaining"]);
    return true;
  });
  ASSERT_EQ(reply.exit, ExitCode::ok) << reply.error.to_string();
  EXPECT_FALSE(progress.empty());
  EXPECT_EQ(reply.data["sockets_kept"], 0);
  stop();
  ASSERT_FALSE(start());
  EXPECT_EQ(ask({.command = Command::status}).data["mode"], "off");
  EXPECT_EQ(ask({.command = Command::on}).data["mode"], "on");
  stop();
  ASSERT_FALSE(start());
  EXPECT_EQ(ask({.command = Command::status}).data["mode"], "on");
}

TEST_F(DaemonTest, AnswersWhileItDrains) {
  ASSERT_FALSE(start());
  int asked = 0;
  ask({.command = Command::off}, [&](const Json&) {
    EXPECT_EQ(ask({.command = Command::status}).exit, ExitCode::ok);
    EXPECT_EQ(ask({.command = Command::reload}).exit, ExitCode::error);
    asked++;
    return true;
  });
  EXPECT_GT(asked, 0);
}

TEST_F(DaemonTest, EventsReachMonitorsAndProcessesAreInspected) {
  ASSERT_FALSE(start());
  sh_event event{};
  event.kind = SH_EV_VERIFY;
  event.tgid = 42;
  fake_kernel().events = {event, event};
  auto client = ControlClient::connect(socket());
  ASSERT_TRUE(client);
  int events = 0;
  std::thread trigger([] {
    while (!fake_kernel().events_wanted) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    fake_engine_has_events();
  });
  client->request({.command = Command::monitor}, [&](const Json& line) {
    EXPECT_EQ(line["event"], "verify");
    return ++events < 2;
  });
  trigger.join();
  EXPECT_EQ(events, 2);
  stop();
  EXPECT_EQ(fake_kernel().verified, std::vector<uint32_t>{42});
}

TEST_F(DaemonTest, APolicyIsInForceFromTheStartAndFollowsItsFolder) {
  write_policy("/v1");
  ASSERT_FALSE(start());
  EXPECT_EQ(fake_kernel().policies_put, 1u);
  const Json policy = ask({.command = Command::policy}).data;
  EXPECT_EQ(policy["generation"], 1);
  EXPECT_EQ(policy["policies"], 1);
  EXPECT_EQ(policy["places"][0]["workload"], "default/web");
  EXPECT_EQ(policy["places"][0]["identity_name"], "default/web");
  EXPECT_EQ(ask({.command = Command::status}).data["policy"]["generation"], 1);
  write_policy("/v2");
  EXPECT_EQ(ask({.command = Command::reload}).exit, ExitCode::ok);
  EXPECT_EQ(fake_kernel().policy.generation, 2u);
  fs::remove(folder_ / "policy/web.yaml");
  EXPECT_EQ(ask({.command = Command::reload}).exit, ExitCode::ok);
  EXPECT_EQ(fake_kernel().policy.generation, 0u);
}

TEST_F(DaemonTest, BadDocumentsLeaveTheOldPolicyInForce) {
  write_policy("/v1");
  ASSERT_FALSE(start());
  std::ofstream(folder_ / "policy/web.yaml") << "apiVersion: v1\nkind: Nonsense\n";
  const Reply failed = ask({.command = Command::reload});
  EXPECT_EQ(failed.exit, ExitCode::usage);
  EXPECT_NE(failed.error.message.find("policy/web.yaml:2:"), std::string::npos) << failed.error.message;
  EXPECT_EQ(fake_kernel().policy.generation, 1u);
  const Json daemon = ask({.command = Command::status}).data["daemon"];
  EXPECT_NE(daemon["config_error"].get<std::string>().find("policy/web.yaml:2:"), std::string::npos);
  write_policy("/v2");
  fake_kernel().policy_error = Error{E2BIG, "the policy has too much of everything", "raise policy.blocks"};
  EXPECT_EQ(ask({.command = Command::reload}).exit, ExitCode::error);
  EXPECT_EQ(fake_kernel().policies_put, 1u);
  EXPECT_EQ(ask({.command = Command::policy}).data["policies"], 1);
  EXPECT_NE(ask({.command = Command::status}).data["daemon"]["policy_error"], "");
}

// An earlier daemon's policy goes on; where none is in force, a daemon that runs would pass for protection.
TEST_F(DaemonTest, BadDocumentsAtTheStart) {
  std::ofstream(folder_ / "policy/web.yaml") << "apiVersion: v1\nkind: Nonsense\n";
  const auto failure = start();
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->exit, ExitCode::usage);
  EXPECT_NE(failure->error.message.find("web.yaml:2:"), std::string::npos) << failure->error.message;
  fake_kernel().policy.generation = 7;
  ASSERT_FALSE(start());
  EXPECT_EQ(fake_kernel().policies_put, 0u);
  EXPECT_EQ(fake_kernel().policy.generation, 7u);
  EXPECT_NE(ask({.command = Command::policy}).data["error"], "");
}

TEST_F(DaemonTest, APolicyEndsWithOffAndComesBackWithOn) {
  write_policy("/v1");
  ASSERT_FALSE(start());
  ask({.command = Command::off}, [](const Json&) { return true; });
  EXPECT_EQ(fake_kernel().policy.generation, 0u);
  EXPECT_EQ(ask({.command = Command::reload}).exit, ExitCode::ok);
  EXPECT_EQ(fake_kernel().policies_put, 1u);
  EXPECT_EQ(ask({.command = Command::on}).exit, ExitCode::ok);
  EXPECT_EQ(fake_kernel().policies_put, 2u);
}

// The rows that the daemon handed over, as the kernel would answer.
class FakeTables : public PolicyTables {
 public:
  uint32_t generation() const override { return fake_kernel().policy.generation; }
  sh_u32 identity_of_end(const PolicyEnd& end) const override {
    return end.uid == 7 ? fake_kernel().policy.workloads[0].identity : sh_u32{SH_IDENTITY_HOST};
  }
  sh_policy_existing existing() const override { return SH_POLICY_EXISTING_RESET; }
  sh_u8 half() const override { return rows_.half(); }
  bool subject(const sh_policy_subject_key& key, sh_policy_subject& value) const override {
    return rows_.subject(key, value);
  }
  bool entry(const sh_policy_key& key, sh_policy_entry& value) const override {
    const bool found = rows_.entry(key, value);
    if (found) value.origin = value.origin << 1 | (generation() & 1);
    return found;
  }
  sh_u16 first_port(sh_u16 port) const override { return rows_.first_port(port); }
  bool judged(sh_u16 port) const override { return rows_.judged(port); }
  bool set(sh_u32 number, sh_policy_set& value) const override { return rows_.set(number, value); }
  const struct sh_policy_block* block(sh_u32 number) const override { return rows_.block(number); }
  sh_policy_result result(sh_u32 index) const override { return rows_.result(index); }
  sh_u32 identity_of(const Address& address) const override { return rows_.identity_of(address); }

 private:
  test::RowSource rows_{fake_kernel().policy_rows};
};

TEST_F(DaemonTest, AtBootTheDocumentsThatWereInForceLastAreTheReserve) {
  const auto load = [&] { return Daemon(DaemonOptions{folder_ / "shunt.yaml", true, true}).start(); };
  write_policy("/v1");
  ASSERT_FALSE(load());
  EXPECT_EQ(fake_kernel().policies_put, 1u);
  EXPECT_TRUE(fake_kernel().status.attached);
  EXPECT_FALSE(fs::exists(socket())) << "nothing is served";
  std::ofstream(folder_ / "policy/web.yaml") << "apiVersion: v1\nkind: Nonsense\n";
  fake_kernel().policy = {};
  ASSERT_FALSE(load());
  EXPECT_EQ(fake_kernel().policies_put, 2u);
  fake_kernel().policy = {};
  ASSERT_TRUE(start()) << "the daemon itself does not start with them";
  stop();
  EXPECT_FALSE(load());
  fs::remove(folder_ / "policy/web.yaml");
  ASSERT_FALSE(load());
  EXPECT_FALSE(fs::exists(folder_ / "state/policy")) << "there is no policy any more";
  std::ofstream(folder_ / "policy/web.yaml") << "kind: Nonsense\n";
  const auto failure = load();
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->exit, ExitCode::usage);
}

TEST_F(DaemonTest, LiveConnectionsThatAPolicyForbidsEnd) {
  fake_kernel().tables = [] { return std::make_unique<FakeTables>(); };
  sh_live live = {};
  live.role = SH_LIVE_SERVER;
  live.state = SH_POLICED_FORBIDDEN;
  live.cookie = 4711;
  write_policy("/v1");
  ASSERT_FALSE(start());
  {
    const std::lock_guard guard(fake_kernel().lock);
    live.generation = fake_kernel().policy.generation + 1;
    fake_kernel().live = {live};
    fake_kernel().ended.clear();
  }
  write_policy("/v2");
  EXPECT_EQ(ask({.command = Command::reload}).exit, ExitCode::ok);
  const auto any_ended = [] {
    const std::lock_guard guard(fake_kernel().lock);
    return !fake_kernel().ended.empty();
  };
  for (int i = 0; i < 500 && !any_ended(); i++) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  stop();
  // The fake's connection stays: a further sweep ends it once more.
  ASSERT_FALSE(fake_kernel().ended.empty());
  for (const sh_event& ended : fake_kernel().ended) EXPECT_EQ(ended.cookie, 4711u);
  fake_kernel().live.clear();
}

TEST_F(DaemonTest, ATraceAsksTheTablesInForce) {
  write_policy("/v1");
  ASSERT_FALSE(start());
  fake_kernel().tables = [] { return std::make_unique<FakeTables>(); };
  const auto trace = [&](const std::string& from, const std::string& to,
                         std::optional<policy::HttpRequest> request = {}) {
    return ask({.command = Command::trace, .trace = {from, to, std::move(request)}});
  };
  const std::string rule = "(" + (folder_ / "policy/web.yaml").string() + ":11)";
  Json answer = trace("world", "web:80", policy::HttpRequest{.path = "/v1"}).data;
  EXPECT_EQ(answer["verdict"], "allowed") << answer;
  EXPECT_EQ(answer["by"], "kernel");
  EXPECT_EQ(answer["ingress"]["entry"]["port"], 80);
  EXPECT_EQ(answer["ingress"]["entry"]["peer"], "any");
  EXPECT_NE(answer["ingress"]["rules"].dump().find(rule), std::string::npos) << answer;
  EXPECT_EQ(answer["egress"]["reason"], "not-enforced");
  EXPECT_EQ(trace("10.1.2.3", "web:80", policy::HttpRequest{.path = "/v2"}).data["ingress"]["reason"],
            "no-matching-rule");
  EXPECT_EQ(trace("4711", "web:81").data["verdict"], "denied");
  EXPECT_EQ(trace("4711", "web:80").data["verdict"], "allowed-by-request");
  answer = trace("host", "web:80", policy::HttpRequest{.path = "/v1//x"}).data;
  EXPECT_EQ(answer["verdict"], "punted") << answer;
  EXPECT_EQ(answer["by"], "proxy");
  policy::HttpRequest chunked{
      .method = "POST", .path = "/v1", .host = "web", .headers = {{"Transfer-Encoding", "chunked"}}};
  EXPECT_EQ(trace("host", "web:80", chunked).data["verdict"], "punted");
  EXPECT_EQ(trace("host", "web:80", policy::HttpRequest{.method = "PUT", .path = "/v1"}).data["verdict"], "denied");
  // Documents that are not in force are not asked.
  write_policy("/v2");
  EXPECT_EQ(trace("world", "web:80", policy::HttpRequest{.path = "/v1"}).data["verdict"], "allowed");
  fake_kernel().end.uid = 7;
  fake_kernel().end.tgid = 4711;
  answer = trace("127.0.0.1:4000", "127.0.0.1:80").data;
  EXPECT_EQ(answer["from"]["name"], "default/web") << answer;
  EXPECT_EQ(answer["from"]["local"], "127.0.0.1:4000");
  EXPECT_EQ(answer["port"], 80);
  EXPECT_EQ(trace("/any", "web.service:80").data["to"]["pid"], 4711);
  EXPECT_EQ(trace("nobody", "web:80").exit, ExitCode::usage);
  EXPECT_EQ(trace("host", "web").exit, ExitCode::usage);
  EXPECT_EQ(trace("99999999999", "web:80").exit, ExitCode::usage);
  EXPECT_EQ(trace("default/web.service", "web:80").error.message, "'default/web.service' is not known");
  fake_kernel().no_end = Error{EINVAL, "there is no process 4711", ""};
  EXPECT_EQ(trace("4711", "web:80").exit, ExitCode::usage);
  fake_kernel().policy.generation = 0;
  EXPECT_EQ(trace("host", "web:80").error.message, "no policy is in force");
}

TEST_F(DaemonTest, APolicyShowsHowOftenItsRulesDecided) {
  write_policy("/v1");
  ASSERT_FALSE(start());
  fake_kernel().hits = {0, 100, 7, 42};  // the second entry names the set; see below
  const Json policy = ask({.command = Command::policy}).data;
  ASSERT_EQ(policy["rules"].size(), 1u) << policy.dump();
  EXPECT_EQ(policy["rules"][0]["hits"], 42);
  EXPECT_NE(policy["rules"][0]["rule"].get<std::string>().find("web.yaml:11"), std::string::npos) << policy.dump();
  EXPECT_EQ(policy["hits_of_no_rule"], 7);
  fake_kernel().hits.clear();  // there is no room to count
  EXPECT_EQ(ask({.command = Command::policy}).data["rules"][0]["hits"], 0);
}

TEST_F(DaemonTest, EventsOfAPolicySayWhoWhyAndByWhichRule) {
  write_policy("/v1");
  ASSERT_FALSE(start());
  sh_event event{};
  event.kind = SH_EV_REQUEST_DENIED;
  event.identity = SH_IDENTITY_WORLD;
  event.peer_identity = fake_kernel().policy.workloads[0].identity;
  event.l7_reason = SH_POLICY_R_NO_REQUEST;
  event.l7_origin = 2 << 1 | 1;  // of the entry that names the set: entries are numbered as they are made
  event.l7_rule = SH_POLICY_NO_RULE;
  sh_event punted = event;
  punted.kind = SH_EV_REQUEST_PUNTED;
  punted.l7_reason = SH_L7_WHY_SPLIT;
  sh_event unknown = event;
  unknown.kind = SH_EV_FORBIDDEN;
  unknown.l7_reason = 99'999;
  unknown.l7_origin = 99'999;
  fake_kernel().events = {event, punted, unknown};
  auto client = ControlClient::connect(socket());
  ASSERT_TRUE(client);
  std::thread trigger([] {
    while (!fake_kernel().events_wanted) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    fake_engine_has_events();
  });
  std::vector<Json> lines;
  client->request({.command = Command::monitor}, [&](const Json& line) {
    lines.push_back(line);
    return lines.size() < 3;
  });
  trigger.join();
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0]["event"], "denied");
  EXPECT_EQ(lines[0]["verdict"], "denied");
  EXPECT_EQ(lines[0]["policy_reason"], "no-matching-rule");
  EXPECT_EQ(lines[0]["client"], "world");
  EXPECT_EQ(lines[0]["server"], "default/web");
  const std::string file = (folder_ / "policy/web.yaml").string();
  ASSERT_EQ(lines[0]["rules"].size(), 1u) << lines[0].dump();
  EXPECT_EQ(lines[0]["rules"][0],
            "CiliumNetworkPolicy default/p spec.ingress[0].toPorts[0].rules.http[0] (" + file + ":11)");
  EXPECT_EQ(lines[1]["event"], "punted");
  EXPECT_EQ(lines[1]["policy_reason"], "split");
  EXPECT_EQ(lines[2]["event"], "forbidden");
  EXPECT_EQ(lines[2]["policy_reason"], "?");
  EXPECT_TRUE(lines[2]["rules"].empty());
}

TEST_F(DaemonTest, MetricsAreServedAndMayMove) {
  configure("metrics: {listen: '127.0.0.1:19615'}\n");
  ASSERT_FALSE(start());
  const auto fetch = [](int port) {
    const std::string command = "curl -s http://127.0.0.1:" + std::to_string(port) + "/metrics | grep -c ^shunt_";
    FILE* curl = popen(command.c_str(), "r");
    char text[16] = {};
    EXPECT_NE(fgets(text, sizeof(text), curl), nullptr);
    pclose(curl);
    return atoi(text);
  };
  EXPECT_GT(fetch(19615), 50);
  configure("metrics: {listen: '127.0.0.1:19616'}\n");
  EXPECT_EQ(ask({.command = Command::reload}).exit, ExitCode::ok);
  EXPECT_EQ(fetch(19615), 0);
  EXPECT_GT(fetch(19616), 50);
}

}  // namespace
}  // namespace shunt
