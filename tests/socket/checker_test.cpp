// The checker on plain TCP, broken on purpose, and on the shortcut.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <netinet/tcp.h>

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

class CheckerBroken : public testing::TestWithParam<Fault> {};

TEST_P(CheckerBroken, IsNoticed) {
  TrafficConfig config = small(2);
  config.connections = 300;
  config.stall_limit = std::chrono::milliseconds(2000);
  config.fault = GetParam();
  const TrafficReport report = run_traffic(config);
  EXPECT_GT(report.errors, 10u);
  if (GetParam() == Fault::stall) {
    EXPECT_GT(report.stalled, 10u);
  }
}

INSTANTIATE_TEST_SUITE_P(Faults, CheckerBroken,
                         testing::Values(Fault::drop, Fault::swap, Fault::flip, Fault::stall, Fault::truncate));

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
