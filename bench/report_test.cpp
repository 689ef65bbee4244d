#include <gtest/gtest.h>

#include <bench/accept.hpp>
#include <bench/document.hpp>
#include <bench/report.hpp>

namespace shunt::bench {
namespace {

Sample sample(double value, double p50_us = 0) {
  Sample made;
  made.value = value;
  made.p50_us = p50_us;
  made.p99_us = p50_us * 2;
  return made;
}

// `factor` times plain in each of nine rounds, which drift by themselves.
Series series(const std::string& name, const std::string& variant, double factor) {
  Series made = {name, "ping-pong", "round trips/s", 1, 64, {"plain", variant, "unix"}, {}};
  for (int round = 1; round <= 9; round++) {
    made.samples["plain"].push_back(sample(1000.0 * round, 10));
    made.samples[variant].push_back(sample(factor * 1000.0 * round + round % 3, 10 / factor));
    made.samples["unix"].push_back(sample(1300.0 * round, 10 / 1.3));
  }
  return made;
}

const Json& variant_of(const Json& document, const std::string& variant) {
  return document.at("cells").at(0).at("variants").at(variant);
}

TEST(Document, MarksWhatLosesAndWhatWins) {
  Plan plan;
  Json losing = make_document(plan, 9, {series("ping-pong/64B/1cpu", "shortcut", 0.8)});
  EXPECT_EQ(variant_of(losing, "shortcut").at("mark"), "slower");
  EXPECT_NEAR(variant_of(losing, "shortcut").at("ratio").at("median").get<double>(), 0.8, 0.01);
  EXPECT_EQ(variant_of(losing, "unix").at("mark"), "faster");
  std::string text = terminal_report(losing);
  EXPECT_NE(text.find("▼"), std::string::npos);
  EXPECT_NE(text.find("0.80 ["), std::string::npos);
}

TEST(Document, AFailedRunCountsInNoRatioAndIsNamed) {
  Plan plan;
  Series broken = series("ping-pong/64B/1cpu", "shortcut", 1.5);
  broken.samples["shortcut"][4] = Sample{};
  broken.samples["shortcut"][4].error = "integrity: message 7 is not the one that was sent";
  Json document = make_document(plan, 9, {broken});
  EXPECT_EQ(variant_of(document, "shortcut").at("ratio").at("rounds"), 8);
  ASSERT_EQ(failures(document).size(), 1u);
  EXPECT_EQ(failures(document)[0], "ping-pong/64B/1cpu shortcut: integrity: message 7 is not the one that was sent");
  EXPECT_NE(terminal_report(document).find("FAILED"), std::string::npos);
}

TEST(Document, LatencyRatiosAreHigherWhenBetter) {
  Plan plan;
  Json document = make_document(plan, 9, {series("ping-pong/64B/1cpu", "shortcut", 1.5)});
  Interval ratio = ratio_of(document, "ping-pong/64B/1cpu", "shortcut", "unix", "p50_us");
  EXPECT_NEAR(ratio.median, 1.5 / 1.3, 1e-9);
  EXPECT_EQ(ratio_of(document, "no such cell", "shortcut", "plain").count, 0u);
}

TEST(Bars, HoldWhenTheIntervalReachesThemAndNotWhenNothingWasMeasured) {
  Plan plan;
  Json document = make_document(
      plan, 9, {series("ping-pong/64B/1cpu", "shortcut", 1.5), series("ping-pong/1KiB/1cpu", "shortcut", 1.2)});
  EXPECT_FALSE(judge_bars(&document));
  auto verdict = [&](const std::string& cell) {
    for (const Json& bar : document.at("bars")) {
      if (bar.at("cell") == cell) return bar.at("verdict").get<std::string>();
    }
    return std::string("no bar");
  };
  EXPECT_EQ(verdict("ping-pong/64B/1cpu"), "holds");
  EXPECT_EQ(verdict("ping-pong/1KiB/1cpu"), "FALLS SHORT");
  EXPECT_EQ(verdict("ping-pong/16KiB/1cpu"), "not measured");
}

TEST(Bars, AreNotDecidedByFewRounds) {
  Plan plan;
  Series few = series("ping-pong/64B/1cpu", "shortcut", 2.0);
  for (auto& [variant, samples] : few.samples) samples.resize(5);
  Json document = make_document(plan, 5, {few});
  EXPECT_FALSE(judge_bars(&document));
  EXPECT_EQ(document.at("bars").at(0).at("verdict"), "TOO FEW ROUNDS");
  EXPECT_EQ(variant_of(document, "shortcut").at("mark"), "undecided");
}

TEST(Comparison, NamesWhatChangedBeyondTheIntervals) {
  Plan plan;
  Json before = make_document(plan, 9, {series("ping-pong/64B/1cpu", "shortcut", 1.5)});
  Json after = make_document(plan, 9, {series("ping-pong/64B/1cpu", "shortcut", 1.3)});
  Json comparison = compare_documents(before, after);
  EXPECT_EQ(comparison.at("cells").at(0).at("variants").at("shortcut").at("mark"), "worse");
  EXPECT_EQ(comparison.at("cells").at(0).at("variants").at("unix").at("mark"), "same");
  EXPECT_NE(terminal_comparison(comparison).find("worse"), std::string::npos);
}

TEST(Html, IsOnePageThatLoadsNothing) {
  Plan plan;
  Json document = make_document(plan, 9, {series("<script>alert(1)</script>", "shortcut", 1.5)});
  std::string page = html_report(document);
  EXPECT_NE(page.find("<svg"), std::string::npos);
  for (const char* loads : {"<script", "<link", "src=", "http://", "https://", "@import", "url("}) {
    EXPECT_EQ(page.find(loads), std::string::npos) << loads;
  }
}

TEST(RateText, ScalesAndKeepsTheUnit) {
  EXPECT_EQ(rate_text(2.5e9, "B/s"), "2.5 GB/s");
  EXPECT_EQ(rate_text(73640, "round trips/s"), "73.6 k/s");
  EXPECT_EQ(rate_text(12, "calls/s"), "12 /s");
}

}  // namespace
}  // namespace shunt::bench
