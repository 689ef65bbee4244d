#include <gtest/gtest.h>

#include <bench/stats.hpp>
#include <cmath>
#include <random>

namespace shunt::bench {
namespace {

TEST(Median, IsTheMiddleOrTheMeanOfTheTwoMiddleValues) {
  EXPECT_EQ(median({}), 0);
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 2, 3}), 2.5);
}

TEST(Binomial, MatchesHandComputedSums) {
  EXPECT_DOUBLE_EQ(binomial_half_below(6, 0), 0);
  EXPECT_NEAR(binomial_half_below(6, 1), 1.0 / 64, 1e-12);
  EXPECT_NEAR(binomial_half_below(6, 2), 7.0 / 64, 1e-12);
  EXPECT_NEAR(binomial_half_below(9, 10), 1, 1e-12);
}

TEST(MedianInterval, UsesTheTabulatedOrderStatistics) {
  // n -> k of the standard table for 95 %: 6 -> 1, 9 -> 2, 15 -> 4, 20 -> 6.
  for (auto [n, k] : {std::pair{6, 1}, {9, 2}, {15, 4}, {20, 6}}) {
    std::vector<double> values;
    for (int i = 1; i <= n; i++) values.push_back(i);
    Interval interval = median_interval(values);
    EXPECT_EQ(interval.low, k) << n;
    EXPECT_EQ(interval.high, n + 1 - k) << n;
    EXPECT_GE(interval.coverage, 0.95) << n;
  }
}

TEST(MedianInterval, SaysHowLittleFewValuesAreWorth) {
  Interval interval = median_interval({1, 2, 3});
  EXPECT_EQ(interval.low, 1);
  EXPECT_EQ(interval.high, 3);
  EXPECT_NEAR(interval.coverage, 0.75, 1e-12);
  EXPECT_EQ(median_interval({5}).coverage, 0);
  EXPECT_EQ(median_interval({}).count, 0u);
}

TEST(MedianInterval, CoversTheTrueMedianAsOftenAsItClaims) {
  std::mt19937_64 random(7);
  std::lognormal_distribution<double> skewed(0, 1);  // true median 1
  int covered = 0;
  const int kTrials = 4000;
  for (int trial = 0; trial < kTrials; trial++) {
    std::vector<double> values(11);
    for (double& value : values) value = skewed(random);
    Interval interval = median_interval(values);
    covered += interval.low <= 1 && 1 <= interval.high;
  }
  // Eleven values: k = 2, coverage 0.9883. Four standard errors are 0.007.
  EXPECT_NEAR(covered / double(kTrials), 1 - 2 * binomial_half_below(11, 2), 0.007);
}

TEST(PairedRatios, LeavesOutRoundsWithAMissingSide) {
  EXPECT_EQ(paired_ratios({2, 0, 9}, {1, 4, 3}), (std::vector<double>{2, 3}));
  EXPECT_EQ(paired_ratios({2, 3}, {1}), (std::vector<double>{2}));
}

TEST(PairedRatios, CancelsDriftThatAllVariantsShare) {
  std::vector<double> plain, fast;
  for (double drift : {1.0, 0.5, 2.0, 0.1}) {
    plain.push_back(100 * drift);
    fast.push_back(150 * drift);
  }
  for (double ratio : paired_ratios(fast, plain)) EXPECT_DOUBLE_EQ(ratio, 1.5);
}

TEST(LatencyHistogram, QuantilesAreWithinHalfAPercent) {
  static LatencyHistogram histogram;
  histogram.clear();
  for (uint64_t ns = 1; ns <= 100000; ns++) histogram.add(ns);
  for (double quantile : {0.001, 0.5, 0.99, 0.999, 1.0}) {
    EXPECT_NEAR(histogram.quantile_ns(quantile), quantile * 100000, quantile * 100000 * 0.005) << quantile;
  }
  EXPECT_EQ(histogram.total(), 100000u);
}

TEST(LatencyHistogram, BucketsRiseWithoutGapAndTheLastTakesTheRest) {
  unsigned previous = 0;
  for (uint64_t ns = 1; ns < (1u << 20); ns++) {
    unsigned bucket = LatencyHistogram::bucket(ns);
    ASSERT_LE(bucket - previous, 1u) << ns;
    previous = bucket;
  }
  EXPECT_EQ(LatencyHistogram::bucket(~uint64_t(0)), LatencyHistogram::kBuckets - 1);
}

TEST(LatencyHistogram, EmptyHasNoQuantile) {
  static LatencyHistogram histogram;
  EXPECT_EQ(histogram.quantile_ns(0.5), 0);
}

}  // namespace
}  // namespace shunt::bench
