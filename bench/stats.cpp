#include <algorithm>
#include <bench/stats.hpp>
#include <bit>
#include <cmath>

namespace shunt::bench {

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  size_t middle = values.size() / 2;
  return values.size() % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double binomial_half_below(size_t n, size_t k) {
  double below = 0;
  for (size_t i = 0; i < k && i <= n; i++) {
    double log_choose = std::lgamma(double(n) + 1) - std::lgamma(double(i) + 1) - std::lgamma(double(n - i) + 1);
    below += std::exp(log_choose - double(n) * std::log(2.0));
  }
  return below;
}

Interval median_interval(std::vector<double> values, double level) {
  Interval interval;
  interval.count = values.size();
  if (values.empty()) return interval;
  std::sort(values.begin(), values.end());
  size_t n = values.size();
  size_t k = 1;
  while (k + 1 <= (n + 1) / 2 && 1 - 2 * binomial_half_below(n, k + 1) >= level) k++;
  interval.median = median(values);
  interval.low = values[k - 1];
  interval.high = values[n - k];
  interval.coverage = std::max(0.0, 1 - 2 * binomial_half_below(n, k));
  return interval;
}

std::vector<double> paired_ratios(const std::vector<double>& numerator, const std::vector<double>& denominator) {
  std::vector<double> ratios;
  for (size_t i = 0; i < std::min(numerator.size(), denominator.size()); i++) {
    if (numerator[i] > 0 && denominator[i] > 0) ratios.push_back(numerator[i] / denominator[i]);
  }
  return ratios;
}

void LatencyHistogram::clear() {
  total_ = 0;
  std::fill(std::begin(counts_), std::end(counts_), 0);
}

unsigned LatencyHistogram::bucket(uint64_t latency_ns) {
  constexpr uint64_t kLinear = 1u << kSubBits;
  if (latency_ns < kLinear) return unsigned(latency_ns);
  unsigned shift = unsigned(std::bit_width(latency_ns)) - 1 - kSubBits;
  uint64_t index = (shift + 1) * kLinear + ((latency_ns >> shift) - kLinear);
  return unsigned(std::min<uint64_t>(index, kBuckets - 1));
}

double LatencyHistogram::bucket_middle_ns(unsigned bucket) {
  constexpr unsigned kLinear = 1u << kSubBits;
  if (bucket < kLinear) return bucket;
  unsigned shift = bucket / kLinear - 1;
  uint64_t first = uint64_t(kLinear + bucket % kLinear) << shift;
  return double(first) + double(uint64_t(1) << shift) / 2;
}

double LatencyHistogram::quantile_ns(double quantile) const {
  if (total_ == 0) return 0;
  uint64_t wanted = std::max<uint64_t>(1, uint64_t(std::ceil(quantile * double(total_))));
  uint64_t seen = 0;
  for (unsigned i = 0; i < kBuckets; i++) {
    seen += counts_[i];
    if (seen >= wanted) return bucket_middle_ns(i);
  }
  return bucket_middle_ns(kBuckets - 1);
}

}  // namespace shunt::bench
