// The checker on plain TCP, broken on purpose, and on the shortcut.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <netinet/tcp.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <sstream>
#include <thread>

#include "socket/rounds.hpp"
#include "socket/traffic.hpp"
#include "support/accelerated.hpp"

namespace shunt::test {
namespace {

TrafficConfig small(uint64_t seed) {
  TrafficConfig config;
  config.connections = 1500;
  config.at_once = 200;
  config.seed = seed;
  return config;
}

std::string text(const TrafficReport& report) {
  return fmt::format("{} errors, {} stalled\n{}", report.errors, report.stalled, fmt::join(report.messages, "\n"));
}

TEST(Checker, PlainTcpHasNoErrors) {
  const TrafficReport report = run_traffic(small(1));
  EXPECT_EQ(report.errors, 0u) << text(report);
  EXPECT_EQ(report.connections, 1500u);
  EXPECT_EQ(report.early_wakeups, 0u);
}

size_t messages_with(const TrafficReport& report, const std::string& text) {
  return static_cast<size_t>(std::count_if(report.messages.begin(), report.messages.end(),
                                           [&](const auto& m) { return m.find(text) != std::string::npos; }));
}

class CheckerBroken : public testing::TestWithParam<Fault> {};

TEST_P(CheckerBroken, IsNoticed) {
  TrafficConfig config = small(2);
  config.connections = 300;
  config.stall_limit = std::chrono::milliseconds(2000);
  config.fault = GetParam();
  const TrafficReport report = run_traffic(config);
  EXPECT_GT(report.errors, 10u);
  if (GetParam() == Fault::stall || GetParam() == Fault::vanish || GetParam() == Fault::deaf) {
    EXPECT_GT(report.stalled, 10u);
  }
  if (GetParam() == Fault::deaf) {
    EXPECT_GT(messages_with(report, "not woken"), 3u) << text(report);
  }
}

INSTANTIATE_TEST_SUITE_P(Faults, CheckerBroken,
                         testing::Values(Fault::drop, Fault::swap, Fault::flip, Fault::stall, Fault::truncate,
                                         Fault::vanish, Fault::deaf));

TEST(Checker, AMissedWakeUpOfABlockingReaderIsNoticed) {
  TrafficConfig config = small(3);
  config.connections = 400;
  config.blocking_share = 2;
  config.stall_limit = std::chrono::milliseconds(2000);
  config.fault = Fault::deaf;
  const TrafficReport report = run_traffic(config);
  EXPECT_GT(messages_with(report, "in blocking calls, not woken"), 0u) << text(report);
}

// ---- who does not look cannot see a stall ----

constexpr auto kShortLimit = std::chrono::milliseconds(2000);
constexpr auto kStarved = std::chrono::milliseconds(5000);

TrafficConfig starved(uint64_t seed) {
  TrafficConfig config = small(seed);
  config.stall_limit = kShortLimit;
  return config;
}

void expect_starved_only(const TrafficReport& report) {
  EXPECT_EQ(report.errors, 0u) << text(report);
  EXPECT_EQ(report.connections, 1500u);
  EXPECT_GT(report.longest_round_seconds, std::chrono::duration<double>(kShortLimit).count());
}

TEST(Checker, AThreadThatSleepsIsReportedAndIsNoStall) {
  TrafficConfig config = starved(4);
  config.sleep_once = kStarved;
  expect_starved_only(run_traffic(config));
}

// Stops a process of this one's for some time, once there is traffic.
class StoppedForAWhile {
 public:
  ~StoppedForAWhile() { go_on(); }
  void look(const TrafficProgress& progress) {
    if (!pid_ && progress.connections > 300) {
      std::istringstream(read_text("/proc/self/task/" + std::to_string(getpid()) + "/children")) >> pid_;
      stopped_at_ = std::chrono::steady_clock::now();
      require(pid_ > 0 && kill(pid_, SIGSTOP) == 0, "stop a process of the checker");
    } else if (std::chrono::steady_clock::now() - stopped_at_ > kStarved) {
      go_on();
    }
  }
  bool has_gone_on() const { return went_on_; }

 private:
  void go_on() {
    if (pid_ > 0 && !went_on_) kill(pid_, SIGCONT);
    went_on_ = pid_ > 0;
  }

  pid_t pid_ = 0;
  bool went_on_ = false;
  std::chrono::steady_clock::time_point stopped_at_;
};

TEST(Checker, AStoppedProcessIsReportedAndIsNoStall) {
  TrafficConfig config = starved(5);
  StoppedForAWhile stopped;
  config.on_progress = [&](const TrafficProgress& progress) { stopped.look(progress); };
  expect_starved_only(run_traffic(config));
  EXPECT_TRUE(stopped.has_gone_on());
}

TEST(Checker, AStallBesideASleepingThreadIsNoticed) {
  TrafficConfig config = starved(6);
  config.connections = 300;
  config.sleep_once = kStarved;
  config.fault = Fault::deaf;
  const TrafficReport report = run_traffic(config);
  EXPECT_GT(report.stalled, 10u);
  EXPECT_GT(messages_with(report, "not woken"), 0u) << text(report);
  EXPECT_GT(report.longest_round_seconds, std::chrono::duration<double>(kShortLimit).count());
}

TEST(Checker, AThreadThatNeverLooksAgainIsAnError) {
  TrafficConfig config = starved(7);
  config.stall_limit = std::chrono::milliseconds(300);
  config.sleep_once = 2 * Rounds::kStuckLimits * config.stall_limit;
  const TrafficReport report = run_traffic(config);
  EXPECT_EQ(messages_with(report, "hangs"), 1u) << text(report);
}

TEST(Rounds, TheClockStopsForTheSlowestOnly) {
  constexpr auto kLimit = std::chrono::milliseconds(1000);
  constexpr auto kStep = kLimit / Rounds::kPerStall;
  Rounds rounds{};
  rounds.begin(kLimit);
  RoundsMember quick(rounds);
  {
    RoundsMember slow(rounds);
    slow.turn();
    for (int i = 0; i < 10; ++i) EXPECT_FALSE(quick.turn());
    const auto begin = rounds.now();
    EXPECT_LE(begin, 2 * kStep);
    std::this_thread::sleep_for(50 * kStep);
    for (int i = 0; i < 100; ++i) EXPECT_FALSE(quick.turn());
    EXPECT_LE(rounds.now() - begin, kStep) << "it waits for the slow one";
    slow.turn();
    quick.turn();
    EXPECT_LE(rounds.now() - begin, 2 * kStep) << "the wait counts as one round";
    EXPECT_GE(rounds.longest(), 50 * kStep);
  }
  const auto alone = rounds.now();
  for (int i = 0; i < 10; ++i) {
    std::this_thread::sleep_for(2 * kStep);
    quick.turn();
  }
  EXPECT_EQ(rounds.now() - alone, 10 * kStep) << "who has left is not waited for";
  EXPECT_FALSE(rounds.stuck());
}

class CheckerAccelerated : public testing::TestWithParam<uint64_t> {};

// Sockets that a process may still hold. A closed one may wait in LAST_ACK for its retransmission timer: the other end
// was closed with unread redirected bytes and has sent FIN instead of RST.
std::vector<Row> owned_rows(Accelerated& shortcut) {
  std::vector<Row> rows = shortcut.rows();
  std::erase_if(rows, [](const Row& row) {
    return row.raw.tail.tcp_state != TCP_ESTABLISHED && row.raw.tail.tcp_state != TCP_CLOSE_WAIT &&
           row.raw.tail.in_map == 0;
  });
  return rows;
}

void expect_exact(const TrafficConfig& config, Settings settings) {
  Accelerated shortcut(std::move(settings));
  TrafficReport report;
  {
    const InCgroup inside(shortcut.cgroup());
    report = run_traffic(config);
  }
  EXPECT_EQ(report.errors, 0u) << text(report);
  EXPECT_EQ(report.connections, config.connections);
  // Reset and killed connections may be gone before they are paired; the others are not.
  EXPECT_GT(shortcut.counter(SH_C_PAIRS), config.connections * 8 / 10);
  EXPECT_TRUE(eventually([&] { return owned_rows(shortcut).empty(); })) << describe(owned_rows(shortcut));
  EXPECT_GT(shortcut.counter(SH_C_FAST_BYTES), report.bytes / 100);
  fmt::print("{} MB, {} MB redirected, {} spills, {} latches\n", report.bytes / 1000000,
             shortcut.counter(SH_C_FAST_BYTES) / 1000000, shortcut.counter(SH_C_SPILLS),
             shortcut.counter(SH_C_LATCHES));
}

// For the acceptance: takes minutes.
TEST(CheckerAcceptance, DISABLED_HundredThousandConnections) {
  TrafficConfig config;
  config.connections = 100000;
  config.at_once = 1000;
  config.seed = 2026;
  expect_exact(config, plain_settings());
}

TEST_P(CheckerAccelerated, EveryByteArrives) { expect_exact(small(GetParam()), plain_settings()); }

// Limits so low that nearly every stream changes its way many times.
TEST_P(CheckerAccelerated, EveryByteArrivesThroughManySpills) {
  Settings settings = plain_settings();
  settings.spill_bytes = 4096;
  settings.spill_messages = 3;
  expect_exact(small(GetParam() + 100), settings);
}

TEST_P(CheckerAccelerated, EveryByteArrivesWithTheShippedBehaviour) {
  Settings settings = plain_settings();
  settings.profile = true;
  settings.firewall_interval = std::chrono::milliseconds(20);
  Accelerated shortcut(settings);
  const InCgroup inside(shortcut.cgroup());
  const TrafficReport report = run_traffic(small(GetParam() + 200));
  EXPECT_EQ(report.errors, 0u) << text(report);
}

INSTANTIATE_TEST_SUITE_P(Seeds, CheckerAccelerated, testing::Values(11, 12));

}  // namespace
}  // namespace shunt::test
