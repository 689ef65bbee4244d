#include <gtest/gtest.h>
#include <sys/wait.h>

#include <control/metrics.hpp>
#include <cstdio>

namespace shunt {
namespace {

Snapshot snapshot_with(uint64_t closed_bytes, uint64_t open_bytes) {
  Snapshot snapshot;
  snapshot.counters.counters[SH_C_FAST_BYTES] = closed_bytes;
  snapshot.counters.reasons[SH_R_ONE_SHOT] = 3;
  Row row{};
  row.raw.sock.fast_bytes = open_bytes;
  row.raw.sock.state = SH_STATE_FAST;
  snapshot.rows = std::make_shared<const std::vector<Row>>(std::vector<Row>{row});
  ProfileRow profile;
  profile.value = {};
  profile.value.kind = SH_PROFILE_BULK;
  snapshot.profiles = {profile};
  snapshot.status.generations = {1};
  return snapshot;
}

double value_of(const std::string& text, const std::string& series) {
  const size_t at = text.find("\n" + series + " ");
  return at == std::string::npos ? -1 : std::stod(text.substr(at + series.size() + 2));
}

TEST(Metrics, OpenSocketsAreAdded) {
  MetricsSource source;
  const std::string text = metrics_text(source.collect(snapshot_with(100, 7), {}));
  EXPECT_EQ(value_of(text, "shunt_redirected_bytes_total"), 107);
  EXPECT_EQ(value_of(text, "shunt_fallbacks_total{reason=\"one-shot\"}"), 3);
  EXPECT_EQ(value_of(text, "shunt_profiles{kind=\"bulk\"}"), 1);
  EXPECT_EQ(value_of(text, "shunt_socket_states{state=\"fast\"}"), 1);
}

TEST(Metrics, SumsNeverGoDown) {
  MetricsSource source;
  const auto bytes = [&](const Snapshot& snapshot) {
    return value_of(metrics_text(source.collect(snapshot, {})), "shunt_redirected_bytes_total");
  };
  EXPECT_EQ(bytes(snapshot_with(100, 7)), 107);
  // The socket closed after the counters were read.
  EXPECT_EQ(bytes(snapshot_with(100, 0)), 107);
  EXPECT_EQ(bytes(snapshot_with(107, 0)), 107);
  EXPECT_EQ(bytes(snapshot_with(110, 0)), 110);
  // The generation went away with its counters.
  Snapshot other = snapshot_with(5, 0);
  other.status.generations = {2};
  EXPECT_EQ(bytes(other), 110);
  other.counters.counters[SH_C_FAST_BYTES] = 8;
  EXPECT_EQ(bytes(other), 113);
}

TEST(Metrics, EveryCounterAndReasonHasASeries) {
  MetricsSource source;
  const std::string text = metrics_text(source.collect(Snapshot{}, {}));
#define SHUNT_EXPECT_COUNTER(id, name, help) EXPECT_EQ(value_of(text, "shunt_" name "_total"), 0) << name;
  SH_COUNTERS(SHUNT_EXPECT_COUNTER)
#undef SHUNT_EXPECT_COUNTER
  for (uint32_t reason = 1; reason < SH_REASON_COUNT; reason++) {
    EXPECT_EQ(value_of(text, std::string("shunt_fallbacks_total{reason=\"") + reason_name(reason) + "\"}"), 0);
  }
}

TEST(Metrics, PromtoolHasNothingToSay) {
  MetricsSource source;
  const std::string text = metrics_text(source.collect(snapshot_with(1, 1), {}));
  FILE* promtool = popen("promtool check metrics 2>&1", "w");
  ASSERT_NE(promtool, nullptr);
  fwrite(text.data(), 1, text.size(), promtool);
  EXPECT_EQ(WEXITSTATUS(pclose(promtool)), 0) << text;
}

}  // namespace
}  // namespace shunt
