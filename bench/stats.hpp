// The statistics of the harness: medians, distribution-free intervals of paired ratios, and latency histograms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace shunt::bench {

// The median: the middle value, or the mean of the two middle ones. 0 for no values.
double median(std::vector<double> values);

struct Interval {
  double median = 0;
  double low = 0;
  double high = 0;
  double coverage = 0;  // the probability that [low, high] contains the true median; 0: no values
  size_t count = 0;
};

// The interval of the median by order statistics, which assumes nothing about the distribution: with n independent
// values sorted x(1) … x(n), the true median lies in [x(k), x(n+1-k)] with probability 1 - 2 * P(Binomial(n, 1/2) < k).
// k is the largest that keeps the probability at `level` or above. Fewer than six values cannot reach 95 %: then k = 1
// (minimum and maximum), and `coverage` says what that is worth.
Interval median_interval(std::vector<double> values, double level = 0.95);

// P(Binomial(n, 1/2) < k).
double binomial_half_below(size_t n, size_t k);

// Values of one round belong together: numerator[i] / denominator[i]. A round with a missing (<= 0) side is left out.
std::vector<double> paired_ratios(const std::vector<double>& numerator, const std::vector<double>& denominator);

// Latencies in nanoseconds, log-linear: each power of two is cut in 256, so a quantile is right within 0.4 %. A plain
// array, so that it can live in memory shared between processes.
class LatencyHistogram {
 public:
  static constexpr unsigned kSubBits = 8;
  static constexpr unsigned kBuckets = (1u << kSubBits) * 33;  // up to 2^40 ns, then the last bucket

  void add(uint64_t latency_ns) {
    counts_[bucket(latency_ns)]++;
    total_++;
  }
  void clear();
  uint64_t total() const { return total_; }
  // The smallest latency that `quantile` (0 … 1) of all are not above, in nanoseconds; 0 when empty.
  double quantile_ns(double quantile) const;

  static unsigned bucket(uint64_t latency_ns);
  static double bucket_middle_ns(unsigned bucket);

 private:
  uint64_t total_ = 0;
  uint32_t counts_[kBuckets] = {};
};

}  // namespace shunt::bench
