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
    configure("");
  }
  void TearDown() override {
    stop();
    if (!folder_.empty()) fs::remove_all(folder_);
  }

  void configure(const std::string& more) {
    std::ofstream(folder_ / "shunt.yaml")
        << "control: {socket: " << socket() << "}\nlog: {level: error, target: stderr}\n"
        << (more.find("metrics") == std::string::npos ? "metrics: {listen: ''}\n" : "") << more;
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
  EXPECT_NE(failed.error.message.find("shunt.yaml:4:19"), std::string::npos) << failed.error.message;
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
  for (int i = 0; i < 100 && fake_kernel().applied.back().spill_messages != 55; i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(fake_kernel().applied.back().spill_messages, 55u);
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
