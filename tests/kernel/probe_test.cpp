// The self-test of the kernel, on this kernel: usable, consistent, and with nothing left behind.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <sockops/kernel_faults.hpp>

#include "support/accelerated.hpp"

namespace shunt::test {
namespace {

size_t cgroups() {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(Cgroup::mount_point())) count += entry.is_directory();
  return count;
}

size_t descriptors() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

TEST(Probe, KernelFaultsAreToldByTheVersion) {
  struct Case {
    const char* release;
    const char* version;
    bool mended;
  };
  constexpr const char* kOther = "#1 SMP PREEMPT_DYNAMIC";
  const Case cases[] = {{"6.18.45", kOther, true},
                        {"6.18.44-fc-v782", kOther, false},
                        {"6.1.0-44-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.183-1 (2026-09-02)", true},
                        {"6.1.0-43-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.182-1 (2026-08-01)", false},
                        {"6.12.200", kOther, true},
                        {"6.13.200", kOther, false},  // of a line that was not mended
                        {"7.1.8", kOther, false},
                        {"7.2-rc7", kOther, true},
                        {"10.0.1", kOther, true},
                        {"6.8.0-64-generic", "#67-Ubuntu SMP", false},
                        {"", "", false}};
  for (const Case& one : cases) {
    const Finding finding = check_kernel_faults(one.release, one.version);
    EXPECT_EQ(finding.verdict == ProbeVerdict::ok, one.mended) << one.release << " " << one.version;
    EXPECT_EQ(finding.meaning.empty(), one.mended) << one.release;
  }
}

TEST(Probe, SaysWhatItFound) {
  const ProbeReport& report = host_probe();
  std::set<std::string> names;
  for (const ProbeItem& item : report.items) {
    fmt::print("{:28} {:8} {} {}\n", item.name, probe_verdict_name(item.verdict), item.found, item.meaning);
    EXPECT_TRUE(names.insert(item.name).second) << item.name << " is there twice";
    EXPECT_FALSE(item.found.empty()) << item.name;
    if (item.verdict == ProbeVerdict::quirk) {
      EXPECT_FALSE(item.meaning.empty()) << item.name;
    }
    if (item.verdict == ProbeVerdict::fatal) {
      EXPECT_FALSE(item.remedy.empty()) << item.name;
    }
  }
  EXPECT_GT(report.items.size(), 5u);
}

TEST(Probe, IsUsableExactlyWithoutFatalItems) {
  const ProbeReport& report = host_probe();
  const bool fatal = std::any_of(report.items.begin(), report.items.end(),
                                 [](const ProbeItem& item) { return item.verdict == ProbeVerdict::fatal; });
  EXPECT_EQ(report.usable, !fatal);
  EXPECT_TRUE(report.usable) << "these tests run where the shortcut does";
  EXPECT_TRUE(report.fionread_redirected);
}

// In a guest with the module, a map must have been seen to refuse such a socket.
TEST(Probe, KernelTlsIsKeptOutOfMaps) {
  const auto& items = host_probe().items;
  const auto item =
      std::find_if(items.begin(), items.end(), [](const ProbeItem& one) { return one.name == "ktls-outside-maps"; });
  ASSERT_NE(item, items.end());
  const bool loaded = read_text("/proc/sys/net/ipv4/tcp_available_ulp").find("tls") != std::string::npos;
  EXPECT_EQ(item->verdict, ProbeVerdict::ok) << item->found;
  EXPECT_EQ(item->found.substr(0, 15), loaded ? "a map refuses a" : "no kTLS is load") << item->found;
}

TEST(Probe, GivesTheSameAnswerTwiceAndLeavesNothing) {
  const ProbeReport& first = host_probe();
  const size_t groups = cgroups(), fds = descriptors();
  const ProbeReport second = probe_kernel(Cgroup::mount_point());
  EXPECT_EQ(cgroups(), groups);
  EXPECT_EQ(descriptors(), fds);
  EXPECT_EQ(second.usable, first.usable);
  EXPECT_EQ(second.verdict_works, first.verdict_works);
  EXPECT_EQ(second.fionread_redirected, first.fionread_redirected);
  EXPECT_EQ(second.fionread_tcp, first.fionread_tcp);
  EXPECT_EQ(second.fionread_verdict, first.fionread_verdict);
  EXPECT_EQ(second.rmem_charged, first.rmem_charged);
}

// The report's word on FIONREAD, against a connection of our own.
TEST(Probe, FionreadIsAsTheReportSays) {
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  const Connection connection = connect_pair();
  ASSERT_TRUE(shortcut.make_fast(connection));
  send_all(connection.client.get(), std::string(123, 'f'));
  ASSERT_TRUE(wait_readable(connection.server.get(), std::chrono::seconds(1)));
  EXPECT_EQ(readable_bytes(connection.server.get()) == 123, host_probe().fionread_redirected);
}

}  // namespace
}  // namespace shunt::test
